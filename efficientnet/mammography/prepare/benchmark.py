"""Measure decoding and the other steps of preparing on files of a data folder. The codec should take the most time."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pydicom
from pydicom.pixels import get_decoder

from efficientnet.common.isolated import Failure, run_isolated
from efficientnet.mammography.dicom.decoding import correct_transfer_syntax
from efficientnet.mammography.dicom.grayscale import shown_image
from efficientnet.mammography.dicom.headers import Header, syntax_name
from efficientnet.mammography.dicom.reading import read_shown_image
from efficientnet.mammography.picture import encode_picture, read_picture
from efficientnet.mammography.preprocessing import Preprocessing, preprocess

FILES, ROUNDS = 3, 5  # files per transfer syntax, rounds per file; the median of all is reported


def benchmark(headers: Mapping[Path, Header | Failure], settings: Preprocessing, limits: dict[str, Any]) -> str:
    """A table of the milliseconds per image on one core, for each transfer syntax:

    decode      by the codec alone, from memory
    preprocess  from the pixels to the picture
    write       from the picture to the content of its file
    all         from the file to the content of the prepared file
    share       decode / all

    The syntaxes are measured one after another in a separate process. `limits` are those of `run_isolated`, but with
    one worker, and with `seconds` for each file and round.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, header in headers.items():
        if isinstance(header, Header) and header.refused is None and "." in header.transfer_syntax:
            groups[header.transfer_syntax].append(path)
    limits = limits | {"workers": 1, "seconds": limits["seconds"] * FILES * ROUNDS}
    chosen = [tuple(paths[:FILES]) for paths in groups.values()]
    measured = dict(run_isolated(partial(measure, settings=settings), chosen, **limits))
    lines = [f"{'decode':>9}{'preprocess':>12}{'write':>8}{'all':>8}{'share':>8}  transfer syntax"]
    for syntax, paths in zip(groups, chosen, strict=True):
        name, result = syntax_name(syntax), measured[paths]
        if isinstance(result, Failure):
            times = f"{'-':>9}{'-':>12}{'-':>8}{'-':>8}{'-':>8}"
            name = f"{name}: {result.reason}"
        else:
            decode, prepare, write, total = result
            times = f"{decode:9.1f}{prepare:12.1f}{write:8.1f}{total:8.1f}{decode / total:8.2f}"
        lines.append(f"{times}  {name}")
    return "\n".join(lines)


def measure(paths: Sequence[Path], settings: Preprocessing) -> list[float]:
    """Milliseconds of CPU time for decoding, preprocessing, writing and all: the median over files and rounds.

    The steps alternate within a round, so that a busy machine slows them equally. Raises ImageError.
    """
    rounds = []
    for path in paths:
        read_shown_image(path, settings.window, raw=settings.accept_raw)  # raises ImageError for a bad file
        dataset = pydicom.dcmread(path)
        correct_transfer_syntax(dataset, path)
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
        for _ in range(ROUNDS):
            marks = [time.process_time()]
            pixels, _ = decoder.as_array(dataset)
            marks.append(time.process_time())
            picture = preprocess(shown_image(pixels, dataset, settings.window), settings)
            marks.append(time.process_time())
            encode_picture(picture, settings, path.name)
            marks.append(time.process_time())
            encode_picture(read_picture(path, settings), settings, path.name)
            marks.append(time.process_time())
            rounds.append([1000 * (after - before) for before, after in pairwise(marks)])
    return [statistics.median(values) for values in zip(*rounds, strict=True)]
