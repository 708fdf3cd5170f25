"""Encoded pixel data -> stored values, with the decoders that pydicom finds installed.

Where the two disagree, the codestream decides the encoding and the bits, and the header decides the sign.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from efficientnet.common.errors import UserError
from efficientnet.mammography.dicom.codestream import (
    END_OF_IMAGE,
    frame_sizes,
    hole,
    possible_syntaxes,
    precision,
    wavelet_levels,
)
from efficientnet.mammography.dicom.elements import numbers, text, whole_number
from efficientnet.mammography.dicom.stored_values import embedded_planes, stored_values, without_overshoot

INSTALL_CODECS = 'pip install -e ".[codecs]"'

MOST_HALVINGS = 5  # of a JPEG 2000 image: encoders usually write this many wavelet levels

WITH_END_MARKER = {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes}
WITHOUT_LONG_ZEROS = {JPEG2000, JPEG2000Lossless, *JPEGLSTransferSyntaxes}  # see `hole`
CHARLS = ("gdcm", "pyjpegls")  # reject damaged JPEG-LS, for which pylibjpeg returns garbage
LOSSY = {HTJ2K, JPEG2000, JPEGExtended12Bit, JPEGLSNearLossless}  # any of these may also be lossless
MOST_AFTER_END = 64  # bytes after the end marker, not counting trailing zeros
MOST_PADDING = 512  # zero bytes after uncompressed pixels: fewer than a row or column of a mammogram has
ITEM = b"\xfe\xff\x00\xe0"  # starts the offset table of encapsulated pixel data and each fragment (PS3.5 A.4)
SIGNATURE = 2**12  # bytes that nearly always suffice to recognise the encoding of a codestream


class ImageError(UserError):
    """A file that cannot be used as an image: one line with the path, the reason, and what to do about it."""


def image_error(path: str | os.PathLike[str], reason: str) -> ImageError:
    return ImageError(f"{os.fspath(path)}: {' '.join(reason.split())}")


def found_syntax(header: Dataset, start: bytes, length: int | None) -> UID | None:
    """The transfer syntax that pixel data is in, from its first bytes and its length (None if undefined).

    The declared one if the bytes allow it. Bytes of no known encoding are uncompressed if their length fits, otherwise
    as declared. None if the data is encapsulated and the declared syntax is not, or the reverse.
    """
    declared = header.file_meta.TransferSyntaxUID
    is_known = declared.is_valid and declared.is_transfer_syntax
    is_native = is_known and not declared.is_encapsulated
    sides = [whole_number(header, side, 1) for side in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")]
    raw = math.prod(sides) * whole_number(header, "BitsAllocated", 0) // 8
    if is_native and length in (raw, raw + 1):
        return declared
    encapsulated = start.startswith(ITEM)
    if encapsulated:
        first = 8 + int.from_bytes(start[4:8], "little")  # after the offset table
        start, length = start[first + 8 :], int.from_bytes(start[first + 4 : first + 8], "little")
    if possible := possible_syntaxes(start):
        return declared if declared in possible else possible[0]
    if not is_known:
        return declared
    if length in (raw, raw + 1):
        return ExplicitVRLittleEndian
    return None if encapsulated == is_native else declared


def correct_transfer_syntax(dataset: FileDataset, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Set the transfer syntax to that of the pixel data; return a note if another one was declared."""
    data, declared = dataset.get("PixelData"), dataset.file_meta.TransferSyntaxUID
    if not isinstance(data, bytes):
        return ()
    found = found_syntax(dataset, data[: 16 * SIGNATURE], len(data))
    if found is None:
        raise image_error(path, reason_of_wrong_syntax(declared))
    if found == declared:
        return ()
    if data.startswith(ITEM) and not found.is_encapsulated:
        dataset.PixelData = next(generate_frames(data, number_of_frames=1))
    elif found.is_encapsulated and not data.startswith(ITEM):
        dataset.PixelData = encapsulate([data])
    dataset.file_meta.TransferSyntaxUID = found
    return (note_on_wrong_syntax(declared, found),)


def reason_of_wrong_syntax(declared: UID, found: str = "its pixel data has another encoding") -> str:
    return (
        f"its header declares the wrong transfer syntax, {declared.name} ({declared}): {found}; export the file again"
    )


def note_on_wrong_syntax(declared: UID, found: UID) -> str:
    return f"declared as {declared.name}, decoded as {found.name}"


def decode(dataset: FileDataset, path: str | os.PathLike[str]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The stored values, as in pydicom's `pixel_array` but reduced to the bits of BitsStored and HighBit; and notes."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if reason := reason_not_decoded(syntax):
        raise image_error(path, reason)
    check_end(dataset, path)
    check_length(dataset, path)
    try:
        frame = check_claims(dataset, path)
        if dataset.SamplesPerPixel != 1 or dataset.BitsAllocated == 1 or "PixelData" not in dataset:
            return dataset.pixel_array, ()
        words, width = decode_words(dataset, frame)
        signed, notes = bool(dataset.PixelRepresentation), ()
        if syntax in JPEG2000TransferSyntaxes and precision(frame)[1] != signed:  # others store no sign
            notes += ("JPEG 2000 sign differs from PixelRepresentation, which was used",)
        elif syntax in LOSSY:
            words = without_overshoot(words, dataset.BitsStored, signed)
        high = whole_number(dataset, "HighBit", 0)
    except (ImageError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in a Rust decoder is not an Exception
        # Pillow alone cannot read some intact files, such as 12-bit JPEG.
        missing = any("libjpeg" in sentence for sentence in get_decoder(syntax).missing_dependencies)
        advice = "copy or download it again" + (f", or run: {INSTALL_CODECS}" if missing else "")
        cause = str(error).replace("'NoneType' object has no attribute 'encode'", "refused")  # gdcm's message
        cause = textwrap.shorten(cause, 240, placeholder=" ...")
        raise image_error(path, f"its pixel data ({syntax.name}) is damaged: {cause}; {advice}") from error
    try:
        values, more = stored_values(words, width, dataset.BitsStored, high, signed, embedded_planes(dataset))
    except ValueError as error:
        raise image_error(path, f"its pixels contradict its header: {error}; export the file again") from None
    return values, notes + more


def decode_words(dataset: FileDataset, frame: bytes) -> tuple[NDArray[Any], int]:
    """The words that the pixels are stored in, not yet interpreted, and the number of bits in a word.

    Words have the sign of the codestream, because decoders differ in how they convert it. If CharLS is installed, it
    alone decodes JPEG-LS of 8 bits or more, all of which it supports.
    """
    syntax, stored, allocated = dataset.file_meta.TransferSyntaxUID, dataset.BitsStored, dataset.BitsAllocated
    bits, signed = precision(frame)
    options: dict[str, Any] = {"pixel_representation": int(signed), "correct_unused_bits": False}
    options |= {"apply_j2k_sign_correction": False, "apply_jls_sign_correction": False}
    if bits:
        options["bits_stored"] = min(max(bits, stored), allocated)  # some decoders truncate their output to this
    options["photometric_interpretation"] = text(dataset, "PhotometricInterpretation")
    decoder, strict = get_decoder(syntax), CHARLS if syntax in JPEGLSTransferSyntaxes and bits >= 8 else ()
    plugin = next((name for name in strict if name in decoder.available_plugins), "")  # empty: any that succeeds
    words, _ = decoder.as_array(dataset, decoding_plugin=plugin, **options)
    return words, min(bits or allocated, 8 * words.dtype.itemsize)


def check_end(dataset: FileDataset, path: str | os.PathLike[str]) -> None:
    """Reject truncated data: some decoders silently return only the upper part of the picture."""
    if dataset.file_meta.TransferSyntaxUID not in WITH_END_MARKER:
        return
    data = dataset.get("PixelData") or b""
    end = data.rfind(END_OF_IMAGE)
    if end < 0 or len(data[end:].rstrip(b"\0")) > MOST_AFTER_END:  # writers pad with any number of zeros
        raise image_error(path, "its pixel data is cut off (no end-of-image marker); copy or download it again")


def check_length(dataset: FileDataset, path: str | os.PathLike[str]) -> None:
    """Reject uncompressed data longer than the header needs: the picture has another size and would be read sheared.

    A few zeros at its end are padding.
    """
    data = dataset.get("PixelData")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated or not isinstance(data, bytes):
        return
    counts = {name: whole_number(dataset, name, 0) for name in ("Rows", "Columns", "BitsAllocated")}
    several = (whole_number(dataset, name, 1) or 1 for name in ("SamplesPerPixel", "NumberOfFrames"))
    needed = -(-math.prod([*counts.values(), *several]) // 8)
    if needed > 0 and (len(data) - needed > MOST_PADDING or data[needed + needed % 2 :].strip(b"\0")):
        header = f"{needed:,} ({', '.join(f'{name} {count}' for name, count in counts.items())})"
        raise image_error(
            path, f"its pixel data has {len(data):,} bytes, but its header implies {header}; export the file again"
        )


def check_claims(dataset: FileDataset, path: str | os.PathLike[str]) -> bytes:
    """Check all frames and return the first; empty if the encoding states no size of its own.

    Rejects a codestream that claims another size than the header, since a decoder would allocate memory for it. Rejects
    a codestream with a hole, since decoders fill it with garbage.
    """
    if (syntax := dataset.file_meta.TransferSyntaxUID) not in WITH_END_MARKER:
        return b""
    names = ("Rows", "Columns", "SamplesPerPixel")
    expected = tuple(int(next(iter(numbers(dataset, name)), 1)) for name in names)
    first, frames = b"", whole_number(dataset, "NumberOfFrames", 1) or 1
    for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
        first = first or frame
        sizes = frame_sizes(frame)
        if sizes == [] or any(size != expected for size in sizes):
            claimed = " and ".join(" x ".join(map(str, size)) for size in sizes) or "no size"
            header = " x ".join(map(str, expected))
            reason = f"the codestream claims {claimed}, but the header says {header}"
            raise image_error(path, f"its pixel data is damaged: {reason}; download it again")
        if syntax in WITHOUT_LONG_ZEROS and (zeros := hole(frame)):
            raise image_error(
                path, f"its pixel data is damaged: it has a hole of {zeros:,} zero bytes; copy or download it again"
            )
    return first


def decode_reduced(
    dataset: FileDataset, path: str | os.PathLike[str], smallest: tuple[int, int]
) -> NDArray[np.uint16] | None:
    """Decode a JPEG 2000 image without its finest wavelet levels: each side is 2^n times smaller, rounded up.

    None if that saves nothing or would give another picture than full decoding: reduced pixels are averages of stored
    values only if these are unsigned and fill the words of the codestream. This calls Pillow's decoder directly,
    because pydicom only decodes at full resolution.
    """
    if dataset.file_meta.TransferSyntaxUID not in (JPEG2000, JPEG2000Lossless) or dataset.get("PixelRepresentation"):
        return None
    ratio = min((dataset.get("Rows") or 0) / smallest[0], (dataset.get("Columns") or 0) / smallest[1])
    if ratio < 2:
        return None
    check_end(dataset, path)
    try:
        frame = check_claims(dataset, path)
        bits, signed = precision(frame)
        halvings = min(MOST_HALVINGS, math.floor(math.log2(ratio)), wavelet_levels(frame))
        if signed or bits > dataset.BitsStored or not halvings:
            return None
        with Image.open(io.BytesIO(frame)) as image:
            image.reduce = halvings
            pixels = np.asarray(image)
        return pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16) >> (16 - bits)  # Pillow scales to 16
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise image_error(path, f"its pixel data is damaged: {error}; copy or download it again") from error


def reason_not_decodable(syntax: UID) -> str | None:
    """The reason that no package decodes a transfer syntax, and what to do about it; None if one does."""
    try:
        get_decoder(syntax)
    except NotImplementedError:
        return f"no package decodes its transfer syntax, {name_of(syntax)}; convert it to JPEG 2000 Lossless"
    return None


def name_of(syntax: UID) -> str:
    return f"{syntax.name if syntax.name != syntax else 'unknown to pydicom'} ({syntax})"


def reason_not_decoded(syntax: UID, bits_stored: int = 8) -> str | None:
    """The reason that this machine cannot decode a transfer syntax, and what to do about it; None if it can."""
    if reason := reason_not_decodable(syntax):
        return reason
    decoder, name = get_decoder(syntax), name_of(syntax)
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
