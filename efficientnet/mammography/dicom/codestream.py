"""Size and wavelet levels of a compressed frame, read from its first markers without decoding it.

A decoder trusts the codestream, not the DICOM header around it, and allocates the memory that the codestream claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

START_OF_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC and SIZ of JPEG 2000 (ISO/IEC 15444-1, A.4.1 and A.5.1)
SIZE, CODING, CODING_OF_COMPONENT, START_OF_TILE = 0x51, 0x52, 0x53, 0x90
# Start of frame in JPEG (ISO/IEC 10918-1, table B.1) and JPEG-LS; C4, C8 and CC are not frames.
START_OF_FRAME = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA
MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)  # decoders skip bytes between segments
WITHOUT_SEGMENT = {0x00, 0x01, *range(0xD0, 0xD9)}


def frame_sizes(frame: bytes) -> list[tuple[int, int, int]]:
    """(rows, columns, components) of a JPEG, JPEG-LS or JPEG 2000 frame, from every place that states them."""
    sizes = []
    if frame[:2] == b"\xff\xd8":
        for marker, content in segments(frame, 2):
            if marker in START_OF_FRAME:
                sizes.append((number(content[1:3]), number(content[3:5]), number(content[5:6])))
        return sizes
    start = frame.find(START_OF_CODESTREAM)
    header = frame.find(b"ihdr", 0, max(start, 0))  # of the JP2 file format, which some writers put around it
    if header > 0:
        box = frame[header + 4 : header + 14]
        sizes.append((number(box[:4]), number(box[4:8]), number(box[8:10])))
    if start >= 0:
        marker, size = next(segments(frame, start + 2), (0, b""))
        right, bottom, left, top = (number(size[place : place + 4]) for place in (2, 6, 10, 14))
        sizes.append((bottom - top, right - left, number(size[34:36])))
    return sizes


def wavelet_levels(frame: bytes) -> int:
    """How often a JPEG 2000 frame can be halved, by the COD and COC segments of its main header; 0 without any."""
    start, levels, wide = frame.find(START_OF_CODESTREAM), [], False
    for marker, content in segments(frame, start + 2) if start >= 0 else ():
        if marker == SIZE:
            wide = number(content[34:36]) > 256  # so many components that their indices take two bytes
        elif marker == CODING:
            levels.append(number(content[5:6]))
        elif marker == CODING_OF_COMPONENT:
            levels.append(number(content[2 + wide : 3 + wide]))
    return min(levels, default=0)


def segments(frame: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """The second byte of each marker from `place` on and the content of its segment, up to the entropy-coded data."""
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
