"""Size, precision and encoding of a compressed frame, read from its first markers without decoding it.

A decoder trusts the codestream, not the DICOM header around it, and allocates the memory that the codestream claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

START_OF_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC and SIZ of JPEG 2000 (ISO/IEC 15444-1, A.4.1 and A.5.1)
START_OF_JP2 = b"\0\0\0\x0cjP  "  # JP2, the file format some writers wrap it in (ISO/IEC 15444-1, I.5.1)
HIGH_THROUGHPUT = 0x4000  # in Rsiz (ISO/IEC 15444-15, A.2)
SIZE, CODING, CODING_OF_COMPONENT, START_OF_TILE = 0x51, 0x52, 0x53, 0x90
# Start of frame in JPEG (ISO/IEC 10918-1, table B.1) and JPEG-LS; C4, C8 and CC are not frames.
START_OF_FRAME = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA
MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)  # decoders skip bytes between segments
END_OF_IMAGE = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000: never part of their entropy-coded data
MOST_ZEROS = 400  # bytes in a row; intact JPEG 2000 and JPEG-LS data has at most 11, besides empty packets
WITHOUT_SEGMENT = {0x00, 0x01, *range(0xD0, 0xD9)}

# The transfer syntaxes that may declare each kind of JPEG frame.
JPEG_SYNTAXES = {
    0xC0: (JPEGBaseline8Bit, JPEGExtended12Bit),
    0xC1: (JPEGExtended12Bit,),
    0xC3: (JPEGLossless, JPEGLosslessSV1),
    0xF7: (JPEGLSLossless, JPEGLSNearLossless),
}


def frame_sizes(frame: bytes) -> list[tuple[int, int, int]]:
    """(rows, columns, components) of a JPEG, JPEG-LS or JPEG 2000 frame, from every place that states them."""
    sizes = [(number(content[1:3]), number(content[3:5]), number(content[5:6])) for _, content in jpeg_frames(frame)]
    if frame[:2] == b"\xff\xd8":
        return sizes
    start = frame.find(START_OF_CODESTREAM)
    header = frame.find(b"ihdr", 0, max(start, 0))  # the image header box of JP2
    if header > 0:
        box = frame[header + 4 : header + 14]
        sizes.append((number(box[:4]), number(box[4:8]), number(box[8:10])))
    if start >= 0:
        size = size_segment(frame)
        right, bottom, left, top = (number(size[place : place + 4]) for place in (2, 6, 10, 14))
        sizes.append((bottom - top, right - left, number(size[34:36])))
    return sizes


def precision(frame: bytes) -> tuple[int, bool]:
    """Bits per sample of a JPEG, JPEG-LS or JPEG 2000 frame, and whether they are signed; (0, False) for others."""
    for _, content in jpeg_frames(frame):
        return number(content[:1]), False
    depth = number(size_segment(frame)[36:37])  # Ssiz
    return ((depth & 0x7F) + 1, depth >= 0x80) if size_segment(frame) else (0, False)


def possible_syntaxes(frame: bytes) -> tuple[UID, ...]:
    """The transfer syntaxes that a frame's first bytes allow; none if they match no known encoding."""
    for marker, _ in jpeg_frames(frame):
        return JPEG_SYNTAXES.get(marker, ())
    if frame.startswith((START_OF_CODESTREAM, START_OF_JP2)):
        if number(size_segment(frame)[:2]) & HIGH_THROUGHPUT:
            return HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL
        return JPEG2000, JPEG2000Lossless
    # The header of an RLE frame (PS3.5 G.5): the number of segments and the offset of each.
    numbers = [int.from_bytes(frame[place : place + 4], "little") for place in range(0, 64, 4)]
    starts = numbers[1 : numbers[0] + 1]
    is_rle = (
        1 <= numbers[0] <= 15
        and starts[0] == 64
        and starts == sorted(set(starts))
        and not any(numbers[numbers[0] + 1 :])
    )
    return (RLELossless,) if is_rle else ()


def wavelet_levels(frame: bytes) -> int:
    """How many times a JPEG 2000 frame can be halved: the least that its COD and COC segments allow; 0 without any."""
    start, levels, wide = frame.find(START_OF_CODESTREAM), [], False
    for marker, content in segments(frame, start + 2) if start >= 0 else ():
        if marker == SIZE:
            wide = number(content[34:36]) > 256  # with more components, an index takes two bytes
        elif marker == CODING:
            levels.append(number(content[5:6]))
        elif marker == CODING_OF_COMPONENT:
            levels.append(number(content[2 + wide : 3 + wide]))
    return min(levels, default=0)


def hole(frame: bytes) -> int:
    """The length of a run of zeros that no encoder writes, in a JPEG 2000 or JPEG-LS frame; 0 if it has none.

    An interrupted download may leave such a run. A run up to a marker or the end of the frame is padding.
    """
    is_jpeg, run = frame[:2] == b"\xff\xd8", bytes(min(MOST_ZEROS + empty_packets(frame), len(frame)))
    start_of_data = bytes([0xFF, START_OF_SCAN if is_jpeg else START_OF_TILE])
    place = max(frame.find(start_of_data), 0)
    while (place := frame.find(run, place)) >= 0:
        length = len(frame) - place - len(frame[place:].lstrip(b"\0"))
        place += length
        if frame[place : place + 2] not in (b"", END_OF_IMAGE, start_of_data):
            return length
    return 0


def empty_packets(frame: bytes) -> int:
    """Upper bound on consecutive empty packets, of one zero byte each, in a JPEG 2000 frame; 0 for other frames.

    A tile has one packet per layer, component, resolution and precinct (ISO/IEC 15444-1, A.6.1 and B.6 to B.10).
    """
    size, start = size_segment(frame), frame.find(START_OF_CODESTREAM)
    for marker, content in segments(frame, start + 2) if size else ():
        if marker == CODING:
            layers, levels = number(content[2:4]), number(content[5:6])
            exponents = content[10:] or b"\xff" * (levels + 1)  # log2 of precinct sides, from the lowest resolution
            width, height = (
                min(number(size[side : side + 4]), number(size[tile : tile + 4])) for side, tile in ((2, 18), (6, 22))
            )
            precincts = sum(
                (2 + (width >> levels - level + (sides & 15))) * (2 + (height >> levels - level + (sides >> 4)))
                for level, sides in enumerate(exponents[: levels + 1])
            )
            return layers * number(size[34:36]) * precincts
    return 0


def jpeg_frames(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and content of each start-of-frame segment of JPEG and JPEG-LS; nothing for other frames."""
    if frame[:2] == b"\xff\xd8":
        yield from ((marker, content) for marker, content in segments(frame, 2) if marker in START_OF_FRAME)


def size_segment(frame: bytes) -> bytes:
    """The content of the SIZ segment of JPEG 2000 (ISO/IEC 15444-1, A.5.1), from Rsiz on; empty for other frames."""
    start = frame.find(START_OF_CODESTREAM)
    return next(segments(frame, start + 2), (0, b""))[1] if start >= 0 else b""


def segments(frame: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """Yield the second byte of each marker from `place` on, and its segment's content, up to the entropy-coded data."""
    while found := MARKER.search(frame, place):
        marker, place = found[1][0], found.end()
        if marker in WITHOUT_SEGMENT:
            continue
        length = number(frame[place : place + 2])
        if marker in (START_OF_SCAN, START_OF_TILE) or length < 2:
            return
        yield marker, frame[place + 2 : place + length]
        place += length


def number(content: bytes) -> int:
    return int.from_bytes(content, "big")
