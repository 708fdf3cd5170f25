"""One DICOM file -> one normalised image.

A mammogram on disk is a matrix of stored integers and a header that says how they are meant to be seen. Here the file
is read and its pixels are decoded, by pydicom and the decoders that it finds installed; how they are seen, grayscale.py
says.
"""

import contextlib
import io
import math
import os
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from efficientnet.common.errors import UserError
from efficientnet.mammography.dicom.codestream import frame_sizes, wavelet_levels
from efficientnet.mammography.dicom.grayscale import ShownImage, numbers, shown_image

# Mammography, digital and computed radiography: the modalities in which a projection of the breast is stored.
MODALITIES = ("MG", "DX", "CR")

# The largest mammograms have 30 million. A file may claim any number, and a decoder would ask for the memory.
MOST_PIXELS = 10**8

INSTALL_CODECS = 'pip install -e ".[codecs]"'

MOST_HALVINGS = 5  # of the resolution of JPEG 2000: as many levels of wavelets as encoders usually write

NO_MEMORY = "it needs more memory than there is for one file; if it is sound, give it more"

_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_MARKED_END = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}
_MOST_AFTER_END = 64  # bytes, zeros not counted
_END_OF_IMAGE = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000: never part of their entropy-coded data


class ImageError(UserError):
    """A file that cannot be used as an image: one line with the path, the reason, and what to do about it."""


def read_pixels(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The stored values of a DICOM file, exactly as pydicom's `pixel_array` has them, in the file's byte order.

    The bits above BitsStored are not part of the values. The shape is (rows, columns), with the frames before it and
    the colours after it if the file has several.

    Raises ImageError if the file is missing or not DICOM; holds no pixel data, or damaged or incomplete data; or is
    in a transfer syntax that the installed packages, or no package, can decode.
    """
    with _reading(path):
        return _decode(_read_dataset(path), path)


def read_header(path: str | os.PathLike[str]) -> FileDataset:
    """The elements before the pixel data, which stays unread; a missing transfer syntax is filled in.

    Raises ImageError if the file is missing, not DICOM or no image.
    """
    with _reading(path):
        return _read_dataset(path, header_only=True)


def read_image(path: str | os.PathLike[str], window: int = 0) -> NDArray[np.float32]:
    """The picture in a DICOM file: float32 (rows, columns) in [0, 1], tissue bright, padding exactly 0.

    See `read_shown_image`, which leaves the last step to the caller.
    """
    image = read_shown_image(path, window)
    return image.brightness[image.values]


def read_shown_image(
    path: str | os.PathLike[str], window: int = 0, smallest: tuple[int, int] | None = None
) -> ShownImage:
    """The pixels of a DICOM file with the brightness that they are shown with.

    `window` chooses among the look-up tables or windows of the file; beyond the last one, the last is taken, since
    the machines of one data set offer different numbers of them. A file without any usable window is stretched
    between STRETCH_PERCENTILES of its pixels, padding left out. An image of one single value is all zeros.

    With `smallest`, JPEG 2000 is decoded at the lowest of its resolutions that has at least so many rows and columns.

    Raises ImageError for everything that `read_pixels` raises it for, and for a file that is no single grayscale
    projection: several frames, colours, or a Modality other than MG, DX or CR (an absent one is normal).
    """
    if window < 0:
        raise ValueError(f"window is the index of a window in the file and cannot be negative; it is {window}")
    with _reading(path):
        dataset = _read_dataset(path)
        if reason := reason_to_refuse(dataset):
            raise _error(path, reason)
        halvings = 0 if smallest is None else _halvings(dataset, smallest)
        pixels = _decode_reduced(dataset, path, halvings) if halvings else _decode(dataset, path)
        if pixels.ndim != 2:  # more frames are in the file than its header says
            raise _error(path, f"it holds {len(pixels)} frames; give single images")
        if pixels.dtype.kind not in "iu" or dataset.BitsStored > 16:
            raise _error(path, "its pixels are not integers of at most 16 bits; export the image at 16 bits or less")
        return shown_image(pixels, dataset, window)


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Without pydicom's remarks on defects that it reads past; what it fails at is an ImageError.

    pydicom converts an element when it is asked for, so that a damaged one fails anywhere, in many ways.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ImageError:
            raise
        except MemoryError:
            raise _error(path, NO_MEMORY) from None
        except Exception as error:
            raise _error(path, f"its header cannot be understood ({error}); export the file again") from error


def _error(path: str | os.PathLike[str], reason: str) -> ImageError:
    return ImageError(f"{os.fspath(path)}: {' '.join(reason.split())}")


def _read_dataset(path: str | os.PathLike[str], header_only: bool = False) -> FileDataset:
    """The header and the encoded pixel data; a missing transfer syntax is filled in as pydicom guessed it."""
    try:
        if os.path.getsize(path) == 0:
            raise _error(path, "the file is empty; copy or download it again")
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=header_only)
        except InvalidDicomError:
            # A data set without its preamble and file meta group is common in old archives, and so is a renamed text.
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=header_only)
            if "Rows" not in dataset or not (header_only or "PixelData" in dataset):
                raise _error(path, "this is not a DICOM file; remove it or name the right folder") from None
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError:
        raise _error(path, "there is no such file; check the path") from None
    except OSError as error:
        raise _error(path, f"it cannot be opened ({error.strerror or error}); check the path") from error
    except Exception as error:
        raise _error(path, f"it is damaged or not DICOM ({error}); copy or download it again") from error
    if not any(element in dataset for element in (["Rows"] if header_only else _PIXEL_ELEMENTS)):
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


def reason_to_refuse(header: Dataset) -> str | None:
    """Why an image is no single grayscale projection, and what to do about it; None if it is one."""
    frames = next(iter(numbers(header, "NumberOfFrames")), 1)
    if frames > 1:
        return f"it holds {frames:.0f} frames; give single images (for tomosynthesis, the 2D view)"
    pixels = math.prod(int(next(iter(numbers(header, side)), 0)) for side in ("Rows", "Columns"))
    if pixels > MOST_PIXELS:
        return f"its header says {pixels:,} pixels, which no mammogram has; copy or download it again"
    interpretation = header.get("PhotometricInterpretation", "")
    if (header.get("SamplesPerPixel") or 1) != 1 or interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        return f"it is not grayscale but {interpretation or 'unspecified'}; give the original image"
    modality = header.get("Modality")
    if modality and modality not in MODALITIES:
        return f"its modality is {modality}, not one of {', '.join(MODALITIES)}; remove the file"
    return None


def _decode(dataset: FileDataset, path: str | os.PathLike[str]) -> NDArray[Any]:
    syntax = dataset.file_meta.TransferSyntaxUID
    if reason := reason_not_decoded(syntax):
        raise _error(path, reason)
    _check_end(dataset, path)
    try:
        _check_claims(dataset, path)
        return dataset.pixel_array
    except (ImageError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a decoder in Rust panics with an exception that is no Exception
        # Whoever has only Pillow may be looking at a sound file of a kind, such as 12-bit JPEG, that it cannot read.
        missing = any("libjpeg" in sentence for sentence in get_decoder(syntax).missing_dependencies)
        advice = "copy or download it again" + (f", or run: {INSTALL_CODECS}" if missing else "")
        cause = textwrap.shorten(str(error), 240, placeholder=" ...")
        raise _error(path, f"its pixel data ({syntax.name}) is damaged: {cause}; {advice}") from error


def _check_end(dataset: FileDataset, path: str | os.PathLike[str]) -> None:
    """Some decoders return the upper part of an incomplete picture without a word."""
    if dataset.file_meta.TransferSyntaxUID not in _MARKED_END:
        return
    data = dataset.get("PixelData") or b""
    end = data.rfind(_END_OF_IMAGE)
    if end < 0 or len(data[end:].rstrip(b"\0")) > _MOST_AFTER_END:  # zeros fill up whatever a writer liked
        raise _error(path, "its pixel data is cut off (no end-of-image marker); copy or download it again")


def _check_claims(dataset: FileDataset, path: str | os.PathLike[str]) -> None:
    """Decoders ask for the memory that the codestream claims, whatever the header says."""
    if dataset.file_meta.TransferSyntaxUID not in _MARKED_END:
        return
    names = ("Rows", "Columns", "SamplesPerPixel")
    expected = tuple(int(next(iter(numbers(dataset, name)), 1)) for name in names)
    frames = int(next(iter(numbers(dataset, "NumberOfFrames")), 1)) or 1
    for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
        sizes = frame_sizes(frame)
        if sizes == [] or any(size != expected for size in sizes):
            claimed = " and ".join(" x ".join(map(str, size)) for size in sizes) or "no size"
            header = " x ".join(map(str, expected))
            raise _error(
                path, f"its pixel data is damaged: it claims {claimed}, its header {header}; download it again"
            )


def _halvings(dataset: Dataset, smallest: tuple[int, int]) -> int:
    """How often the resolution of the pixels may be halved; 0 for what is not JPEG 2000 of unsigned pixels."""
    if dataset.file_meta.TransferSyntaxUID not in (JPEG2000, JPEG2000Lossless) or dataset.get("PixelRepresentation"):
        return 0
    ratio = min((dataset.get("Rows") or 0) / smallest[0], (dataset.get("Columns") or 0) / smallest[1])
    return min(MOST_HALVINGS, math.floor(math.log2(ratio))) if ratio >= 1 else 0


def _decode_reduced(dataset: FileDataset, path: str | os.PathLike[str], halvings: int) -> NDArray[np.uint16]:
    """The pixels of a JPEG 2000 image without its finest wavelets: each side 2^halvings times smaller, rounded up.

    pydicom's interface decodes whole images only, so that this is Pillow's decoder itself.
    """
    _check_end(dataset, path)
    try:
        _check_claims(dataset, path)
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        halvings = min(halvings, wavelet_levels(frame))
        with Image.open(io.BytesIO(frame)) as image:
            image.reduce = halvings
            pixels = np.asarray(image)
        if pixels.dtype == np.uint8:
            return pixels
        return pixels.astype(np.uint16) >> (16 - get_j2k_parameters(frame)["precision"])  # Pillow fills up to 16 bits
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise _error(path, f"its pixel data is damaged: {error}; copy or download it again") from error


def reason_not_decoded(syntax: UID, bits_stored: int = 8) -> str | None:
    """Why files in a transfer syntax cannot be decoded, and what to do about it; None if they can be."""
    name = f"{syntax.name if syntax.name != syntax else 'unknown to pydicom'} ({syntax})"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        return f"no package decodes its transfer syntax, {name}; convert it to JPEG 2000 Lossless"
    if syntax == JPEGExtended12Bit and bits_stored != 8 and "pylibjpeg" not in decoder.available_plugins:
        return f"no decoder for {name} with more than 8 bits is installed; run: {INSTALL_CODECS}"
    if decoder.is_available:
        return None
    with_gdcm = any("gdcm" in sentence for sentence in decoder.missing_dependencies)
    packages = "python-gdcm" if with_gdcm else "pylibjpeg pylibjpeg-openjpeg"
    return (
        f"no decoder is installed for its transfer syntax, {name}; run: pip install {packages} "
        f"(or, for all of them, {INSTALL_CODECS})"
    )
