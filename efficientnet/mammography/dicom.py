"""One DICOM file -> one normalised image.

A mammogram on disk is a matrix of stored integers and a header that says how they are meant to be seen. The way from
one to the other is the grayscale pipeline of DICOM PS3.3 C.11: modality transformation (C.11.1, to the units of the
machine), values of interest (C.11.2, a window or look-up table, to brightness), polarity (MONOCHROME1 is shown
inverted). Each step maps a value to a value and looks at no neighbour, so the chain is worked out once, in double
precision, on the 2^16 possible stored values, and the image is a single look-up in that table.
"""

import math
import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

# Mammography, digital and computed radiography: the modalities in which a projection of the breast is stored.
MODALITIES = ("MG", "DX", "CR")

# The pixels of a file without a window are stretched from the first percentile (black) to the second (white). The upper
# one leaves out dust and scratches, a thousandth of the picture, but not a cluster of calcifications and not a label.
STRETCH_PERCENTILES = (0.5, 99.9)

INSTALL_CODECS = 'pip install "efficientnet-reference[codecs]"'

_STORED_VALUES = 2**16
_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_MARKED_END = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}
_END_OF_IMAGE = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000: never part of their entropy-coded data


class ImageError(Exception):
    """A file that cannot be used as an image: one line with the path, the reason, and what to do about it."""


def read_pixels(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The stored values of a DICOM file, exactly as pydicom's `pixel_array` has them, in the file's byte order.

    The bits above BitsStored are not part of the values. The shape is (rows, columns), with the frames before it and
    the colours after it if the file has several.

    Raises ImageError if the file is missing or not DICOM; holds no pixel data, or damaged or incomplete data; or is
    in a transfer syntax that the installed packages, or no package, can decode.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's remarks on defects that it reads past
        return _decode(_read_dataset(path), path)


def read_image(path: str | os.PathLike[str], window: int = 0) -> NDArray[np.float32]:
    """The picture in a DICOM file: float32 (rows, columns) in [0, 1], tissue bright, padding exactly 0.

    `window` chooses among the look-up tables or windows of the file; beyond the last one, the last is taken, since
    the machines of one data set offer different numbers of them. A file without any usable window is stretched
    between STRETCH_PERCENTILES of its pixels, padding left out. An image of one single value is all zeros.

    Raises ImageError for everything that `read_pixels` raises it for, and for a file that is no single grayscale
    projection: several frames, colours, or a Modality other than MG, DX or CR (an absent one is normal).
    """
    if window < 0:
        raise ValueError(f"window is the index of a window in the file and cannot be negative; it is {window}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _read_dataset(path)
        _refuse_other_images(dataset, path)
        pixels = _decode(dataset, path)
        if pixels.ndim != 2:  # more frames are in the file than its header says
            raise _error(path, f"it holds {len(pixels)} frames; give single images")
        if pixels.dtype.kind not in "iu" or dataset.BitsStored > 16:
            raise _error(path, "its pixels are not integers of at most 16 bits; export the image at 16 bits or less")
        try:
            return _to_brightness(pixels, dataset, window)
        except Exception as error:
            raise _error(path, f"its header cannot be understood ({error}); export the file again") from error


def _error(path: str | os.PathLike[str], reason: str) -> ImageError:
    return ImageError(f"{os.fspath(path)}: {' '.join(reason.split())}")


def _read_dataset(path: str | os.PathLike[str]) -> FileDataset:
    """The header and the encoded pixel data; a missing transfer syntax is filled in as pydicom guessed it."""
    try:
        if os.path.getsize(path) == 0:
            raise _error(path, "the file is empty; copy or download it again")
        try:
            dataset = pydicom.dcmread(path)
        except InvalidDicomError:
            # A data set without its preamble and file meta group is common in old archives, and so is a renamed text.
            dataset = pydicom.dcmread(path, force=True)
            if "PixelData" not in dataset or "Rows" not in dataset:
                raise _error(path, "this is not a DICOM file; remove it or name the right folder") from None
    except ImageError:
        raise
    except FileNotFoundError:
        raise _error(path, "there is no such file; check the path") from None
    except OSError as error:
        raise _error(path, f"it cannot be opened ({error.strerror or error}); check the path") from error
    except Exception as error:
        raise _error(path, f"it is damaged or not DICOM ({error}); copy or download it again") from error
    if not any(element in dataset for element in _PIXEL_ELEMENTS):
        raise _error(path, _reason_without_pixels(path))
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _guess_transfer_syntax(dataset, path)
    return dataset


def _reason_without_pixels(path: str | os.PathLike[str]) -> str:
    """pydicom drops encapsulated pixel data that the end of the file interrupts; its tag is still in the file."""
    content = Path(path).read_bytes()
    if b"\xe0\x7f\x10\x00" in content or b"\x7f\xe0\x00\x10" in content:
        return "its pixel data is cut off; copy or download it again"
    return "it holds no pixel data (it is no image, or is cut off before it); remove it or download it again"


def _guess_transfer_syntax(dataset: FileDataset, path: str | os.PathLike[str]) -> UID:
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise _error(path, "its pixel data is compressed, but the header does not say how; export the file again")
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _refuse_other_images(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    frames = next(iter(_numbers(dataset, "NumberOfFrames")), 1)
    if frames > 1:
        raise _error(path, f"it holds {frames:.0f} frames; give single images (for tomosynthesis, the 2D view)")
    interpretation = dataset.get("PhotometricInterpretation", "")
    if (dataset.get("SamplesPerPixel") or 1) != 1 or interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise _error(path, f"it is not grayscale but {interpretation or 'unspecified'}; give the original image")
    modality = dataset.get("Modality")
    if modality and modality not in MODALITIES:
        raise _error(path, f"its modality is {modality}, not one of {', '.join(MODALITIES)}; remove the file")


def _decode(dataset: FileDataset, path: str | os.PathLike[str]) -> NDArray[Any]:
    syntax = dataset.file_meta.TransferSyntaxUID
    name = syntax.name if syntax.name != syntax else "unknown to pydicom"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        reason = f"no package decodes its transfer syntax, {name} ({syntax}); convert it to JPEG 2000 Lossless"
        raise _error(path, reason) from None
    install = _install_command(decoder.missing_dependencies)
    if not decoder.is_available:
        reason = f"no decoder is installed for its transfer syntax, {name} ({syntax}); run: {install}"
        raise _error(path, reason)
    # Some decoders return the upper part of an incomplete picture without a word.
    if syntax in _MARKED_END and _END_OF_IMAGE not in dataset.get("PixelData", b"")[-64:]:
        raise _error(path, "its pixel data is cut off (no end-of-image marker); copy or download it again")
    try:
        return dataset.pixel_array
    except Exception as error:
        # Whoever has only Pillow may be looking at a sound file of a kind, such as 12-bit JPEG, that it cannot read.
        advice = "copy or download it again" + (f", or run: {install}" if install == INSTALL_CODECS else "")
        cause = textwrap.shorten(str(error), 240, placeholder=" ...")
        raise _error(path, f"its pixel data ({name}) is damaged: {cause}; {advice}") from error


def _install_command(missing_dependencies: Sequence[str]) -> str:
    """What brings a decoder, given pydicom's sentences of what is missing, such as "gdcm - requires gdcm>=3.0.10"."""
    if any("gdcm" in sentence or "pylibjpeg-libjpeg" in sentence for sentence in missing_dependencies):
        return INSTALL_CODECS
    return "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-rle"


def _to_brightness(pixels: NDArray[Any], dataset: Dataset, window: int) -> NDArray[np.float32]:
    """Stored integers of any sign and byte order, (H, W), to float32 (H, W) in [0, 1]."""
    index = pixels.astype(np.uint16, copy=False)  # a signed value v becomes v modulo 2^16
    if index.min() == index.max():
        return np.zeros(pixels.shape, np.float32)
    stored = np.arange(_STORED_VALUES, dtype=np.uint16)
    if pixels.dtype.kind == "i":
        stored = stored.view(np.int16)
    padding = _is_padding(stored, dataset)
    values = _modality_transformation(stored, dataset)
    brightness = _values_of_interest(values, dataset, window)
    if brightness is None:
        counts = np.bincount(index.reshape(-1), minlength=_STORED_VALUES)
        brightness = _stretch(values, np.where(padding, 0, counts))
    # The photometric interpretation decides alone: a PresentationLUTShape of INVERSE says the same again (PS3.3
    # C.8.11.3.1 pairs it with MONOCHROME1), and inverting for both would undo it.
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        brightness = 1 - brightness
    brightness[padding] = 0
    return brightness.astype(np.float32)[index]


def _is_padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Which stored values are PixelPaddingValue or between it and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2).

    Both have the sign of the pixels, though headers are written in which they do not.
    """
    value, limit = _numbers(dataset, "PixelPaddingValue"), _numbers(dataset, "PixelPaddingRangeLimit")
    if not value:
        return np.zeros(stored.shape, bool)
    limits = [stored[int(end[0]) % _STORED_VALUES] for end in (value, limit) if end]
    return (stored >= min(limits)) & (stored <= max(limits))


def _modality_transformation(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.float64]:
    """PS3.3 C.11.1: a look-up table if there is one, otherwise slope and intercept."""
    for item in dataset.get("ModalityLUTSequence") or ():
        table, first, _ = _lookup_table(item, dataset)
        if table.size:
            return _look_up(stored.astype(np.float64), table, first)
    slope = next(iter(_numbers(dataset, "RescaleSlope")), 1.0)
    intercept = next(iter(_numbers(dataset, "RescaleIntercept")), 0.0)
    return stored * slope + intercept


def _values_of_interest(values: NDArray[np.float64], dataset: Dataset, window: int) -> NDArray[np.float64] | None:
    """PS3.3 C.11.2: brightness in [0, 1] of the values, or None where the file has no usable window.

    A VOI LUT Sequence goes before windows, as in pydicom: a machine that writes both means the curve.
    """
    tables = [_lookup_table(item, dataset) for item in dataset.get("VOILUTSequence") or ()]
    if tables:
        table, first, bits = tables[min(window, len(tables) - 1)]
        return np.clip(_look_up(values, table, first) / (2**bits - 1), 0, 1) if table.size else None
    pairs = list(zip(_numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False))
    if not pairs:
        return None
    centre, width = pairs[min(window, len(pairs) - 1)]
    return apply_window(values, centre, width, dataset.get("VOILUTFunction") or "LINEAR")


def apply_window(
    values: NDArray[np.float64], centre: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64] | None:
    """The VOI LUT functions of PS3.3 C.11.2.1.2 and C.11.2.1.3, from values of any range to [0, 1].

    A function of another name counts as LINEAR. None if the standard forbids the width: below 1 for LINEAR, 0 or
    below otherwise.
    """
    function = function.strip().upper()
    if function == "SIGMOID":
        if width <= 0:
            return None
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))  # exp(710) is infinite
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1) if width > 0 else None
    if width < 1:
        return None
    if width == 1:  # the slope between black and white has no length
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _stretch(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Black and white at STRETCH_PERCENTILES of an image that has each value `counts` times."""
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    if order.size == 0:
        return np.zeros_like(values)
    share = np.cumsum(counts[order]) / counts.sum()
    low, high = values[order[np.searchsorted(share, np.array(STRETCH_PERCENTILES) / 100)]]
    if low == high:  # nearly the whole image is one value: show whatever is not
        low, high = values[order[0]], values[order[-1]]
    if low == high:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)


def _lookup_table(item: Dataset, dataset: Dataset) -> tuple[NDArray[np.float64], int, int]:
    """The entries, the first value mapped and the bits of an entry of a LUT sequence item (PS3.3 C.11.1.1, C.11.2.1.1).

    The table is empty if the item lacks its descriptor or data.
    """
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or data is None or len(descriptor) != 3:
        return np.empty(0), 0, 16
    entries, first, bits = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
    if isinstance(data, bytes):
        little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
        # Entries of 8 bits are packed two to a word, the first in the lower byte.
        kind = "u1" if bits <= 8 and len(data) < 2 * entries else "<u2" if little_endian else ">u2"
        data = np.frombuffer(data, kind, count=len(data) // np.dtype(kind).itemsize)
    table = np.atleast_1d(np.asarray(data, np.uint16))
    if bits <= 8 and table.size < entries:
        table = table.astype("<u2").view(np.uint8)
    return table[:entries].astype(np.float64), first, bits


def _look_up(values: NDArray[np.float64], table: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    """Values before the first one mapped get the first entry, values after the last one the last entry."""
    return table[np.clip(np.floor(values) - first, 0, table.size - 1).astype(np.int64)]


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    """The finite values of a numeric element; empty if it is absent, empty or not a number."""
    try:
        value = dataset.get(keyword)
        values = [] if value is None else value if isinstance(value, MultiValue) else [value]
        return [float(number) for number in values if math.isfinite(float(number))]
    except (TypeError, ValueError):
        return []
