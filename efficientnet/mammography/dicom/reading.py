"""One DICOM file -> one normalised image.

A mammogram on disk is a matrix of stored integers and a header that says how to display them. This module reads the
file and decodes its pixels, with pydicom and the decoders that it finds installed; grayscale.py interprets the header.
"""

from __future__ import annotations

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

# The largest mammograms have 30 million. A file may claim any number, and a decoder would allocate the memory.
MOST_PIXELS = 10**8

INSTALL_CODECS = 'pip install -e ".[codecs]"'

MOST_HALVINGS = 5  # of JPEG 2000's resolution: the number of wavelet levels that encoders usually write

NO_MEMORY = "it needs more memory than there is for one file; if it is sound, give it more"

PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
WITH_END_MARKER = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}
MOST_AFTER_END = 64  # bytes, not counting zeros
END_OF_IMAGE = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000: never part of their entropy-coded data


class ImageError(UserError):
    """A file that cannot be used as an image: one line with the path, the reason, and what to do about it."""


def read_header(path: str | os.PathLike[str]) -> FileDataset:
    """The elements before the pixel data, which is not read; a missing transfer syntax is filled in.

    Raises ImageError if the file is missing, not DICOM, or not an image.
    """
    with image_errors(path):
        return read_dataset(path, header_only=True)


def read_shown_image(
    path: str | os.PathLike[str], window: int = 0, smallest: tuple[int, int] | None = None
) -> ShownImage:
    """The pixels of a DICOM file, and the brightness of each value.

    `window` selects a look-up table or window of the file, or the last one if there are fewer, since the machines of
    one data set offer different numbers of them. A file without any usable window is stretched between
    STRETCH_PERCENTILES of its pixels, without padding. An image with a single value is all zeros.

    With `smallest`, JPEG 2000 is decoded at its lowest resolution that has at least so many rows and columns.

    Raises ImageError if the file is missing or not DICOM; if it has no pixel data, or damaged or incomplete data; if
    the installed packages cannot decode its transfer syntax; and if it is not a single grayscale projection: several
    frames, colours, or a Modality other than MG, DX or CR (the element may be absent).
    """
    if window < 0:
        raise ValueError(f"window is the index of a window in the file and cannot be negative; it is {window}")
    with image_errors(path):
        dataset = read_dataset(path)
        if reason := reason_to_refuse(dataset):
            raise image_error(path, reason)
        halvings = 0 if smallest is None else possible_halvings(dataset, smallest)
        pixels = decode_reduced(dataset, path, halvings) if halvings else decode(dataset, path)
        if pixels.ndim != 2:  # more frames are in the file than its header says
            raise image_error(path, f"it holds {len(pixels)} frames; give single images")
        if pixels.dtype.kind not in "iu" or dataset.BitsStored > 16:
            raise image_error(
                path, "its pixels are not integers of at most 16 bits; export the image at 16 bits or less"
            )
        return shown_image(pixels, dataset, window)


@contextlib.contextmanager
def image_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every failure into an ImageError, and silence pydicom's warnings about defects that it tolerates.

    pydicom converts an element on first access, so a damaged one may fail anywhere, in many ways.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ImageError:
            raise
        except MemoryError:
            raise image_error(path, NO_MEMORY) from None
        except Exception as error:
            raise image_error(path, f"its header cannot be understood ({error}); export the file again") from error


def image_error(path: str | os.PathLike[str], reason: str) -> ImageError:
    return ImageError(f"{os.fspath(path)}: {' '.join(reason.split())}")


def read_dataset(path: str | os.PathLike[str], header_only: bool = False) -> FileDataset:
    """The header and the encoded pixel data; a missing transfer syntax is filled in with pydicom's guess."""
    try:
        if os.path.getsize(path) == 0:
            raise image_error(path, "the file is empty; copy or download it again")
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=header_only)
        except InvalidDicomError:
            # Data sets without preamble and file meta group are common in old archives, but so are renamed text files.
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=header_only)
            if "Rows" not in dataset or not (header_only or "PixelData" in dataset):
                raise image_error(path, "this is not a DICOM file; remove it or name the right folder") from None
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError:
        raise image_error(path, "there is no such file; check the path") from None
    except OSError as error:
        raise image_error(path, f"it cannot be opened ({error.strerror or error}); check the path") from error
    except Exception as error:
        raise image_error(path, f"it is damaged or not DICOM ({error}); copy or download it again") from error
    if not any(element in dataset for element in (["Rows"] if header_only else PIXEL_ELEMENTS)):
        raise image_error(path, reason_without_pixels(path))
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = guess_transfer_syntax(dataset, path)
    return dataset


def reason_without_pixels(path: str | os.PathLike[str]) -> str:
    """Tell truncated files from others: pydicom drops truncated pixel data, but its tag is still in the file."""
    content = Path(path).read_bytes()
    if b"\xe0\x7f\x10\x00" in content or b"\x7f\xe0\x00\x10" in content:
        return "its pixel data is cut off; copy or download it again"
    return "it holds no pixel data (it is no image, or is cut off before it); remove it or download it again"


def guess_transfer_syntax(dataset: FileDataset, path: str | os.PathLike[str]) -> UID:
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise image_error(path, "its pixel data is compressed, but the header does not say how; export the file again")
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def reason_to_refuse(header: Dataset) -> str | None:
    """Why an image is not a single grayscale projection, and what to do about it; None if it is one."""
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


def decode(dataset: FileDataset, path: str | os.PathLike[str]) -> NDArray[Any]:
    syntax = dataset.file_meta.TransferSyntaxUID
    if reason := reason_not_decoded(syntax):
        raise image_error(path, reason)
    check_end(dataset, path)
    try:
        check_claims(dataset, path)
        return dataset.pixel_array
    except (ImageError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the panic of a decoder in Rust is not an Exception
        # With Pillow alone, the file may be sound but of a kind that it cannot read, such as 12-bit JPEG.
        missing = any("libjpeg" in sentence for sentence in get_decoder(syntax).missing_dependencies)
        advice = "copy or download it again" + (f", or run: {INSTALL_CODECS}" if missing else "")
        cause = textwrap.shorten(str(error), 240, placeholder=" ...")
        raise image_error(path, f"its pixel data ({syntax.name}) is damaged: {cause}; {advice}") from error


def check_end(dataset: FileDataset, path: str | os.PathLike[str]) -> None:
    """Reject incomplete data, of which some decoders silently return the upper part."""
    if dataset.file_meta.TransferSyntaxUID not in WITH_END_MARKER:
        return
    data = dataset.get("PixelData") or b""
    end = data.rfind(END_OF_IMAGE)
    if end < 0 or len(data[end:].rstrip(b"\0")) > MOST_AFTER_END:  # writers pad with any number of zeros
        raise image_error(path, "its pixel data is cut off (no end-of-image marker); copy or download it again")


def check_claims(dataset: FileDataset, path: str | os.PathLike[str]) -> None:
    """Reject a codestream whose size differs from the header: a decoder would allocate the memory that it claims."""
    if dataset.file_meta.TransferSyntaxUID not in WITH_END_MARKER:
        return
    names = ("Rows", "Columns", "SamplesPerPixel")
    expected = tuple(int(next(iter(numbers(dataset, name)), 1)) for name in names)
    frames = int(next(iter(numbers(dataset, "NumberOfFrames")), 1)) or 1
    for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
        sizes = frame_sizes(frame)
        if sizes == [] or any(size != expected for size in sizes):
            claimed = " and ".join(" x ".join(map(str, size)) for size in sizes) or "no size"
            header = " x ".join(map(str, expected))
            raise image_error(
                path, f"its pixel data is damaged: it claims {claimed}, its header {header}; download it again"
            )


def possible_halvings(dataset: Dataset, smallest: tuple[int, int]) -> int:
    """How often the resolution may be halved; 0 for anything but JPEG 2000 with unsigned pixels."""
    if dataset.file_meta.TransferSyntaxUID not in (JPEG2000, JPEG2000Lossless) or dataset.get("PixelRepresentation"):
        return 0
    ratio = min((dataset.get("Rows") or 0) / smallest[0], (dataset.get("Columns") or 0) / smallest[1])
    return min(MOST_HALVINGS, math.floor(math.log2(ratio))) if ratio >= 1 else 0


def decode_reduced(dataset: FileDataset, path: str | os.PathLike[str], halvings: int) -> NDArray[np.uint16]:
    """The pixels of a JPEG 2000 image without its finest wavelets: each side 2^halvings times smaller, rounded up.

    This calls Pillow's decoder directly, because pydicom only decodes at full resolution.
    """
    check_end(dataset, path)
    try:
        check_claims(dataset, path)
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        halvings = min(halvings, wavelet_levels(frame))
        with Image.open(io.BytesIO(frame)) as image:
            image.reduce = halvings
            pixels = np.asarray(image)
        if pixels.dtype == np.uint8:
            return pixels
        return pixels.astype(np.uint16) >> (16 - get_j2k_parameters(frame)["precision"])  # Pillow scales to 16 bits
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise image_error(path, f"its pixel data is damaged: {error}; copy or download it again") from error


def reason_not_decoded(syntax: UID, bits_stored: int = 8) -> str | None:
    """Why files in a transfer syntax cannot be decoded, and what to do about it; None if they can."""
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
