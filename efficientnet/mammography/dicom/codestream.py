"""What a compressed frame says of itself, read from its first markers without decoding it.

A decoder believes the codestream and not the DICOM header around it, and asks for the memory that it claims.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC and SIZ of JPEG 2000 (ISO/IEC 15444-1, A.4.1 and A.5.1)
_SIZE, _CODING, _CODING_OF_COMPONENT, _START_OF_TILE = 0x51, 0x52, 0x53, 0x90
# Start of frame of JPEG (ISO/IEC 10918-1, table B.1) and of JPEG-LS; C4, C8 and CC are no frames.
_START_OF_FRAME = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)  # decoders pass over what lies between segments
_WITHOUT_SEGMENT = {0x00, 0x01, *range(0xD0, 0xD9)}


def frame_sizes(frame: bytes) -> list[tuple[int, int, int]]:
    """(rows, columns, components) by a frame of JPEG, JPEG-LS or JPEG 2000: what each place says that says it."""
    sizes = []
    if frame[:2] == b"\xff\xd8":
        for marker, content in _segments(frame, 2):
            if marker in _START_OF_FRAME:
                sizes.append((_number(content[1:3]), _number(content[3:5]), _number(content[5:6])))
        return sizes
    start = frame.find(_START_OF_CODESTREAM)
    header = frame.find(b"ihdr", 0, max(start, 0))  # of the file format JP2, which some put around it
    if header > 0:
        box = frame[header + 4 : header + 14]
        sizes.append((_number(box[:4]), _number(box[4:8]), _number(box[8:10])))
    if start >= 0:
        marker, size = next(_segments(frame, start + 2), (0, b""))
        right, bottom, left, top = (_number(size[place : place + 4]) for place in (2, 6, 10, 14))
        sizes.append((bottom - top, right - left, _number(size[34:36])))
    return sizes


def wavelet_levels(frame: bytes) -> int:
    """How often JPEG 2000's resolution can be halved, by every COD and COC of its main header; 0 if none says."""
    start, levels, wide = frame.find(_START_OF_CODESTREAM), [], False
    for marker, content in _segments(frame, start + 2) if start >= 0 else ():
        if marker == _SIZE:
            wide = _number(content[34:36]) > 256  # components, whose numbers then take two bytes
        elif marker == _CODING:
            levels.append(_number(content[5:6]))
        elif marker == _CODING_OF_COMPONENT:
            levels.append(_number(content[2 + wide : 3 + wide]))
    return min(levels, default=0)


def _segments(frame: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """The second byte of each marker from `place` on, and what its segment holds, up to the entropy-coded data."""
    while found := _MARKER.search(frame, place):
        marker, place = found[1][0], found.end()
        if marker in _WITHOUT_SEGMENT:
            continue
        length = _number(frame[place : place + 2])
        if marker in (_START_OF_SCAN, _START_OF_TILE) or length < 2:
            return
        yield marker, frame[place + 2 : place + length]
        place += length


def _number(content: bytes) -> int:
    return int.from_bytes(content, "big")
