"""One DICOM file -> one normalised image.

A mammogram on disk is a matrix of stored integers and a header that says how to display them. This module reads the
file, decoding.py decodes its pixels, and grayscale.py interprets its header.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    BreastProjectionXRayImageStorageForProcessing,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from efficientnet.mammography.dicom.decoding import (
    SIGNATURE,
    ImageError,
    correct_transfer_syntax,
    decode,
    decode_reduced,
    found_syntax,
    image_error,
    reason_of_wrong_syntax,
)
from efficientnet.mammography.dicom.elements import text, whole_number
from efficientnet.mammography.dicom.grayscale import ShownImage, shown_image

# Modalities with pixels that are not projection radiographs (PS3.3 C.7.3.1.1.1). Exported mammograms may have any of
# the others, such as RG, OT and SC, or no modality.
OTHER_MODALITIES = {
    *("CT", "MR", "NM", "PT", "ST", "US", "BDUS", "IVUS", "OCT", "IVOCT", "XA", "RF", "TG", "DG", "LS", "LEN"),
    *("ES", "XC", "GM", "SM", "OP", "OPT", "OPM", "OPTENF", "OPV", "OSS", "SEG", "RTDOSE", "RTIMAGE", "RTSTRUCT"),
}

FOR_PROCESSING = {
    BreastProjectionXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForProcessing,
}

# The largest mammograms have 30 million pixels. A file may claim more, and a decoder would allocate memory for them.
MOST_PIXELS = 10**8

RAW = "raw detector image (FOR PROCESSING)"
NO_MEMORY = "it needs more memory than is available for one file; if the file is sound, allow more (prepare: --memory)"

UNDEFINED_LENGTH = 0xFFFFFFFF  # PS3.5 7.1
LITTLE_ENDIAN_GROUP = b"\x08\0"  # group 0008, nearly always the first after the file meta group
META_START = 144  # preamble, DICM, and the element that holds the length of the rest of the group (PS3.10 7.1)
PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_header(path: str | os.PathLike[str]) -> tuple[FileDataset, UID | None]:
    """Read the elements before the pixel data, and find the transfer syntax of its first bytes (see `found_syntax`).

    Raises ImageError if the file is missing, not DICOM, or not an image.
    """
    with image_errors(path):
        header, start = read_dataset(path, header_only=True)
        return header, syntax_of_element(header, start)


def read_image(path: str | os.PathLike[str], window: int = 0, raw: bool = False) -> NDArray[np.float32]:
    """The picture at full resolution: float32 (H, W) in [0, 1], tissue bright. See `read_shown_image`."""
    image = read_shown_image(path, window, raw=raw)
    return image.brightness[image.values]


def read_pixels(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The stored values of any kind of image: BitsStored bits each, without anything in the bits around them.

    Raises ImageError.
    """
    with image_errors(path):
        dataset, _ = read_dataset(path)
        correct_transfer_syntax(dataset, path)
        return decode(dataset, path)[0]


def read_shown_image(
    path: str | os.PathLike[str], window: int = 0, smallest: tuple[int, int] | None = None, raw: bool = False
) -> ShownImage:
    """The pixels of a DICOM file, and the brightness of each value.

    `window` is the index of a look-up table or window in the file. If the file has fewer, the last one is used, since
    the machines of one data set offer different numbers of them. Without a usable window, brightness is stretched
    between STRETCH_PERCENTILES of the pixels, leaving out padding. An image with a single value is all zeros.

    With `smallest`, (rows, columns), JPEG 2000 is decoded at its lowest resolution that is no smaller, if that gives
    the same picture.

    Raises ImageError if the file is missing or not DICOM; if it has no pixel data, or damaged or incomplete data; if
    the installed packages cannot decode its transfer syntax; and if it is not a single grayscale projection (several
    frames, colour, or a Modality such as CT). Raw detector images (FOR PROCESSING) are refused unless `raw`.
    """
    if window < 0:
        raise ValueError(f"window is the index of a window in the file and cannot be negative; it is {window}")
    with image_errors(path):
        dataset, _ = read_dataset(path)
        notes = correct_transfer_syntax(dataset, path)
        if reason := reason_to_refuse(dataset, raw):
            raise image_error(path, reason)
        if is_raw(dataset):
            notes += (RAW,)
        pixels = None if smallest is None else decode_reduced(dataset, path, smallest)
        if pixels is not None:
            image = shown_image(pixels, dataset, window)
            if not image.bright_padding:
                return replace(image, notes=notes + image.notes)
        pixels, more = decode(dataset, path)
        if pixels.ndim != 2:  # the file has more frames than its header says
            raise image_error(path, f"it holds {len(pixels)} frames; provide single images")
        if pixels.dtype.kind not in "iu" or dataset.BitsStored > 16:
            raise image_error(
                path, "its pixels are not integers of at most 16 bits; export the image at 16 bits or less"
            )
        image = shown_image(pixels, dataset, window)
        return replace(image, notes=notes + more + image.notes)


@contextlib.contextmanager
def image_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every failure into an ImageError, and silence pydicom's warnings about defects that it tolerates.

    pydicom converts an element on first access, so a damaged element may fail anywhere, with any exception.
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


def read_dataset(path: str | os.PathLike[str], header_only: bool = False) -> tuple[FileDataset, bytes]:
    """Read a file, or its header and the next bytes if `header_only`; a missing transfer syntax is guessed."""
    try:
        with open(path, "rb") as file:
            if os.path.getsize(path) == 0:
                raise image_error(path, "the file is empty; copy or download it again")
            try:
                dataset = pydicom.dcmread(file, stop_before_pixels=header_only)
            except InvalidDicomError:
                # Old archives often hold data sets without preamble and file meta group, but also text files.
                file.seek(0)
                dataset = pydicom.dcmread(file, force=True, stop_before_pixels=header_only)
                if "Rows" not in dataset or not (header_only or "PixelData" in dataset):
                    raise image_error(path, "this is not a DICOM file; remove it or pass the right folder") from None
            start = file.read(SIGNATURE) if header_only else b""
    except (ImageError, MemoryError):
        raise
    except FileNotFoundError:
        raise image_error(path, "there is no such file; check the path") from None
    except OSError as error:
        raise image_error(path, f"it cannot be opened ({error.strerror or error}); check the path") from error
    except Exception as error:
        reason = reason_of_other_encoding(path) or f"it is damaged or not DICOM ({error}); copy or download it again"
        raise image_error(path, reason) from error
    if header_only:  # pydicom inflates a deflated data set as a whole, so nothing is left to read
        is_deflated = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
        has_pixels = "Rows" in dataset and (start or is_deflated)
    else:
        has_pixels = any(element in dataset for element in PIXEL_ELEMENTS)
    if not has_pixels:
        raise image_error(path, reason_of_other_encoding(path) or reason_without_pixels(path))
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = guess_transfer_syntax(dataset, path)
    return dataset, start


def syntax_of_element(header: FileDataset, start: bytes) -> UID | None:
    """`found_syntax` by the first bytes of PixelData; the declared one if they belong to another element."""
    order: Literal["little", "big"] = "little" if header.original_encoding[1] else "big"
    tag = b"".join(half.to_bytes(2, order) for half in (0x7FE0, 0x0010))
    if not start.startswith(tag):
        return header.file_meta.TransferSyntaxUID
    value = value_place(start)
    length = int.from_bytes(start[value - 4 : value], order)
    return found_syntax(header, start[value:], None if length == UNDEFINED_LENGTH else length)


def value_place(start: bytes) -> int:
    """The offset of PixelData's value in its element: after the tag, the VR if any, and the length (PS3.5 7.1).

    The bytes decide, not the declared encoding, since pydicom also reads files that declare the wrong one.
    """
    return 12 if start[4:6] in (b"OB", b"OW", b"UN") else 8


def reason_of_other_encoding(path: str | os.PathLike[str]) -> str | None:
    """The reason if an unreadable data set has another byte order or deflation than declared; None otherwise."""
    try:
        meta = read_file_meta_info(path)
        declared = UID(meta.TransferSyntaxUID)
        with open(path, "rb") as file:
            file.seek(META_START + meta.FileMetaInformationGroupLength)
            start = file.read(SIGNATURE)
    except Exception:
        return None
    expected = {DeflatedExplicitVRLittleEndian: "deflated", ExplicitVRBigEndian: "big endian"}
    with contextlib.suppress(zlib.error):
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(start)
        start = b"deflated" if inflated.startswith(LITTLE_ENDIAN_GROUP) else start
    groups = {LITTLE_ENDIAN_GROUP: "little endian", LITTLE_ENDIAN_GROUP[::-1]: "big endian", b"de": "deflated"}
    found = groups.get(start[:2])
    if found in (None, expected.get(declared, "little endian")):
        return None
    return reason_of_wrong_syntax(declared, f"the file is {found}")


def reason_without_pixels(path: str | os.PathLike[str]) -> str:
    """Tell truncated files from others: pydicom drops truncated pixel data, but the tag remains in the file."""
    with open(path, "rb") as file:
        pydicom.dcmread(file, force=True, stop_before_pixels=True)
        is_cut_off = file.read(1) != b""
    if is_cut_off:
        return "its pixel data is cut off; copy or download it again"
    return "it holds no pixel data (it is not an image, or is cut off before it); remove it or download it again"


def guess_transfer_syntax(dataset: FileDataset, path: str | os.PathLike[str]) -> UID:
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise image_error(path, "its pixel data is compressed, but the header does not say how; export the file again")
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def reason_to_refuse(header: Dataset, raw: bool = False) -> str | None:
    """The reason that an image is not a single grayscale projection for display, and what to do; None if it is one.

    `raw` accepts detector images that are not processed for display.
    """
    frames = whole_number(header, "NumberOfFrames", 1)
    if frames > 1:
        return f"it holds {frames} frames; provide single images (for tomosynthesis, the 2D view)"
    pixels = math.prod(whole_number(header, side, 0) for side in ("Rows", "Columns"))
    if pixels > MOST_PIXELS:
        return f"its header claims {pixels:,} pixels, more than any mammogram has; copy or download it again"
    if (samples := whole_number(header, "SamplesPerPixel", 1)) > 1:
        return f"it is not grayscale but has {samples} samples per pixel; provide the original image"
    if (interpretation := text(header, "PhotometricInterpretation")) not in ("MONOCHROME1", "MONOCHROME2"):
        return f"it is not grayscale but {interpretation or 'unspecified'}; provide the original image"
    if (modality := text(header, "Modality")) in OTHER_MODALITIES:
        return f"its modality is {modality}, not a projection radiograph; remove the file and its row"
    if is_raw(header) and not raw:
        return (
            "it is raw detector data (FOR PROCESSING), which is not meant to be displayed; "
            "provide the image FOR PRESENTATION, or use --accept-raw"
        )
    return None


def is_raw(header: Dataset) -> bool:
    """Whether the pixels are as the detector gave them, not yet processed for display (PS3.3 C.8.11.1)."""
    return text(header, "PresentationIntentType") == "FOR PROCESSING" or text(header, "SOPClassUID") in FOR_PROCESSING
