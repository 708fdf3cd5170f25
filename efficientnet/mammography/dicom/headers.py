"""Read all headers up front, to find out what the files are and whether this machine can decode them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import config
from pydicom.dataset import FileDataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from efficientnet.common.errors import UserError
from efficientnet.common.isolated import Failure
from efficientnet.mammography.dicom.decoding import (
    ImageError,
    note_on_wrong_syntax,
    reason_not_decodable,
    reason_not_decoded,
    reason_of_wrong_syntax,
)
from efficientnet.mammography.dicom.elements import text, whole_number
from efficientnet.mammography.dicom.grayscale import header_notes
from efficientnet.mammography.dicom.reading import RAW, image_errors, is_raw, read_header, reason_to_refuse
from efficientnet.mammography.image_files import is_dicom
from efficientnet.mammography.raster import opened, spread
from efficientnet.mammography.raster import reason_to_refuse as reason_to_refuse_raster

MOST_LINES = 8  # for each property; the remaining values share one more line
MOST_FIRST = 5  # files or rows listed by name
LOOKED_AT = 256  # files sampled from a folder
TRANSFER_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI.\x00([\d.]+)", re.DOTALL)
# The order in which pydicom tries the installed packages.
ORDER_OF_DECODERS = ("gdcm", "pylibjpeg", "pyjpegls", "pillow", "pydicom")


@dataclass(frozen=True)
class Header:
    """The properties that decide how a file is decoded and displayed, as text to be counted."""

    transfer_syntax: str  # a UID, or the format of a file that is not DICOM, such as PNG
    photometric_interpretation: str
    bits: str
    rows_columns: str
    window: str
    machine: str
    refused: str | None = None  # the reason, if the file cannot be used
    bits_stored: int = 8
    modality: str = ""  # empty for a file that is not DICOM
    notes: tuple[str, ...] = ()  # what is wrong with the file and how it is read anyway
    laterality: str = ""  # of the image (PS3.3 C.8.11.2) or its series (C.7.3.1): L, R, or whatever the file holds


def look_at(path: Path, raw: bool = False) -> Header | Failure:
    """Read one file's header and the first bytes of its pixel data. `raw` accepts FOR PROCESSING images."""
    try:
        if is_dicom(path):
            with image_errors(path):
                return describe(*read_header(path), raw)
        with opened(path) as image:
            size = f"{image.height} x {image.width}"
            return Header(image.format, image.mode, "-", size, "-", "-", reason_to_refuse_raster(image))
    except (ImageError, OSError) as error:
        return Failure(str(error).removeprefix(f"{path}: "))


def describe(header: FileDataset, found: UID | None, raw: bool = False) -> Header:
    """The properties of a header; `found` is the transfer syntax of the pixel data itself."""
    declared, refused, notes = header.file_meta.TransferSyntaxUID, reason_to_refuse(header, raw), ()
    if found is None:
        refused = refused or reason_of_wrong_syntax(declared)
    else:
        refused = refused or reason_not_decodable(found)
        notes += (note_on_wrong_syntax(declared, found),) if found != declared else ()
    if refused is None:
        notes += ((RAW,) if is_raw(header) else ()) + header_notes(header)
    sign = "signed" if header.get("PixelRepresentation") else "unsigned"
    windows = header["WindowCenter"].VM if "WindowCenter" in header else 0
    if header.get("VOILUTSequence"):
        window = f"table ({len(header.VOILUTSequence)})"
    else:
        window = f"{header.get('VOILUTFunction') or 'LINEAR'} ({windows})" if windows else "none"
    return Header(
        str(found or declared),
        str(header.get("PhotometricInterpretation") or "-"),
        f"{header.get('BitsStored', '?')} of {header.get('BitsAllocated', '?')}, {sign}",
        f"{header.get('Rows', '?')} x {header.get('Columns', '?')}",
        window,
        str(header.get("ManufacturerModelName") or "-"),
        refused,
        whole_number(header, "BitsStored", 8),
        text(header, "Modality") or "-",
        notes,
        text(header, "ImageLaterality") or text(header, "Laterality"),
    )


def report(headers: Mapping[Path, Header | Failure]) -> str:
    """A printable report: the number of files of each kind, and what prevents decoding them."""
    seen = [header for header in headers.values() if isinstance(header, Header)]
    unreadable = {path: header.reason for path, header in headers.items() if isinstance(header, Failure)}
    refused = {
        path: header.refused for path, header in headers.items() if isinstance(header, Header) and header.refused
    }
    lines = [
        *count_lines("transfer syntax", (syntax_name(header.transfer_syntax) for header in seen)),
        *count_lines("photometric", (header.photometric_interpretation for header in seen)),
        *count_lines("bits", (header.bits for header in seen)),
        *count_lines("rows x columns", (header.rows_columns for header in seen)),
        *count_lines("window", (header.window for header in seen)),
        *count_lines("machine", (header.machine for header in seen)),
        *count_lines("modality", (header.modality for header in seen if header.modality)),
        *count_lines("note", (note for header in seen for note in header.notes)),
    ]
    for name, files in (("unreadable", unreadable), ("refused", refused)):
        lines += first_lines(name, [f"{path}: {reason}" for path, reason in files.items()])
    lines += count_lines("decoder", decoders(seen))
    lines += [f"{'no decoder':<17}{count:>7,}  {reason}" for reason, count in missing_decoders(seen).items()]
    return "\n".join(lines)


def decoders(headers: Sequence[Header]) -> list[str]:
    """For each compressed file: the name of its encoding, and the installed package that will decode it."""
    names = {}
    for header in headers:
        uid, kind = as_uid(header.transfer_syntax), (header.transfer_syntax, header.bits_stored)
        if kind not in names and uid.is_valid and uid.is_transfer_syntax and uid.is_encapsulated:
            installed = None
            if reason_not_decoded(uid, header.bits_stored) is None:
                available = get_decoder(uid).available_plugins
                installed = next((name for name in ORDER_OF_DECODERS if name in available), available[0])
            names[kind] = f"{uid.name}: {f'{installed}, installed' if installed else 'none installed'}"
    kinds = ((header.transfer_syntax, header.bits_stored) for header in headers)
    return [names[kind] for kind in kinds if kind in names]


def has_problems(headers: Mapping[Path, Header | Failure]) -> bool:
    """Whether any file is unreadable, refused or needs a decoder that is not installed."""
    seen = [header for header in headers.values() if isinstance(header, Header) and header.refused is None]
    return len(seen) < len(headers) or bool(missing_decoders(seen))


def check_decoders(files: Iterable[Path], gather: Callable[[Any], list[Any]] = lambda own: [own]) -> None:
    """Raise UserError early if some of the files need a decoder that is not installed.

    Reads the declared transfer syntax of each file, many at once since the disk may be remote, and one header for each
    syntax. `gather` collects a value from all ranks, if each looks at its own files.
    """
    with ThreadPoolExecutor(16) as threads:
        paths = [path for path in files if is_dicom(path)]
        syntaxes = list(zip(paths, threads.map(declared_syntax, paths), strict=True))
    firsts = [look_at(path, raw=True) for path in {syntax: path for path, syntax in reversed(syntaxes)}.values()]
    own = missing_decoders(header for header in firsts if isinstance(header, Header) and header.refused is None)
    reasons = sorted({reason for part in gather(own) for reason in part})
    if reasons:
        raise UserError(f"some of the files cannot be read: {reasons[0]}")


def refused_in_sample(files: Iterable[Path | None], raw: bool = False) -> list[str]:
    """One line if headers rule out some DICOM files of a sample, else none. `raw` accepts FOR PROCESSING images."""
    found = spread(sorted({file for file in files if file is not None and is_dicom(file)}), LOOKED_AT)
    headers = {path: look_at(path, raw) for path in found}
    refused = [
        f"{path}: {header.reason if isinstance(header, Failure) else header.refused}"
        for path, header in headers.items()
        if isinstance(header, Failure) or header.refused
    ]
    return (
        [f"{len(refused)} of {len(found)} sampled DICOM files cannot be used; first: {refused[0]}"] if refused else []
    )


def declared_syntax(path: Path) -> str:
    """The transfer syntax that a DICOM file declares, or "" if it declares none or cannot be read.

    In every file, the elements before this one are short and in Explicit VR Little Endian (PS3.10 7.1).
    """
    try:
        with open(path, "rb") as file:
            found = TRANSFER_SYNTAX.search(file.read(1024))
    except OSError:  # reported later, when the whole file is read
        return ""
    return found[1].decode() if found else ""


def count_lines(name: str, values: Iterable[str]) -> list[str]:
    """One line for each of the most frequent values, and one line for all others."""
    counts = Counter(values).most_common()
    lines = [f"{count:>7,}  {value}" for value, count in counts[:MOST_LINES]]
    if rest := counts[MOST_LINES:]:
        lines.append(f"{sum(count for _, count in rest):>7,}  {len(rest)} others")
    return [f"{name if place == 0 else '':<17}{line}" for place, line in enumerate(lines)]


def first_lines(name: str, items: Sequence[str]) -> list[str]:
    """The number of items, and a line for each of the first few."""
    lines = [f"{len(items):>7,}  first: {items[0]}"] if items else []
    lines += [f"{'':>7}         {item}" for item in items[1:MOST_FIRST]]
    return [f"{name if place == 0 else '':<17}{line}" for place, line in enumerate(lines)]


def syntax_name(transfer_syntax: str) -> str:
    """The standard's name for a transfer syntax and its UID, or the format of a file that is not DICOM."""
    uid = as_uid(transfer_syntax)
    return f"{uid.name} ({uid})" if uid.name != uid else transfer_syntax


def missing_decoders(headers: Iterable[Header]) -> dict[str, int]:
    """The number of files for each reason that they cannot be decoded here; a reason includes the install command."""
    reasons: Counter[str] = Counter()
    for (syntax, bits), count in Counter((header.transfer_syntax, header.bits_stored) for header in headers).items():
        reason = reason_not_decoded(as_uid(syntax), bits) if as_uid(syntax).is_valid else None
        if reason is not None:
            reasons[reason] += count
    return dict(reasons)


def as_uid(text: str) -> UID:
    """A pydicom UID, without a warning if the text is not one."""
    return UID(text, validation_mode=config.IGNORE)
