"""Decode, window, crop and resize every image once, into a data folder that train.py and evaluate.py read quickly.

    python -m efficientnet.mammography.prepare --data RSNA --check
    python -m efficientnet.mammography.prepare --data RSNA --output CACHE --image-size 1024 512
    python train.py --data CACHE

All headers are read first; --check stops after that. The command may be interrupted at any time: run it again to
continue, and complete pictures are kept. A file that cannot be prepared does not stop the others: it is listed in
CACHE/failures.csv, and the exit code is 1. The input folder is never changed.
"""

from __future__ import annotations

import argparse
import csv
import random
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efficientnet.common.command_line import Parser, command, leave, number, output_file, output_folder, program_name
from efficientnet.common.cpu import usable_cores
from efficientnet.common.errors import UserError
from efficientnet.common.files import atomic_file, remove_unfinished, write_bytes
from efficientnet.common.isolated import Failure
from efficientnet.common.options import add_options, given_options
from efficientnet.mammography.dicom.headers import Header, count_lines, has_problems
from efficientnet.mammography.image_files import data_folder
from efficientnet.mammography.layouts import converted_table
from efficientnet.mammography.prepare.benchmark import benchmark
from efficientnet.mammography.prepare.check import (
    TableFiles,
    check_lines,
    look_at_all,
    progress_bar,
    read_splits,
    survey_of,
)
from efficientnet.mammography.prepare.contact_sheet import contact_sheet
from efficientnet.mammography.prepare.folder import check_settings, read_description, write_description
from efficientnet.mammography.prepare.pictures import Job, count_notes, prepare
from efficientnet.mammography.preprocessing import MOST_BITS, Preprocessing
from efficientnet.mammography.settings import PICTURE_OPTIONS, ScreeningSettings

PROGRAM = program_name("python -m efficientnet.mammography.prepare")


def find_jobs(splits: list[TableFiles], output: Path) -> list[Job]:
    """A job for each row that has a file, in the order of the tables."""
    return [
        Job(file, output / split.folder / row.patient_id / f"{row.image_id}.png", row.laterality)
        for split in splits
        for row, file in split.images
    ]


def open_output(output: Path, data: Path, settings: Preprocessing) -> None:
    """Create the folder, or check that this run can continue in it. Raises UserError if it holds anything else."""
    if read_description(data) is not None:
        raise UserError(f"{data}: is a prepared folder itself; --data must be the folder with the original images")
    strange = output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir())
    if check_settings(output, settings) is None and strange:
        raise UserError(f"{output}: is not empty and holds no prepared images; choose an empty or new folder")
    output.mkdir(parents=True, exist_ok=True)


def write_failures(output: Path, failures: dict[Path, str], headers: dict[Path, Header | Failure]) -> None:
    with atomic_file(output / "failures.csv", "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "reason", "transfer_syntax"])
        for path, reason in failures.items():
            header = headers[path]
            writer.writerow([path, reason, header.transfer_syntax if isinstance(header, Header) else ""])


def copy_tables(splits: list[TableFiles], output: Path) -> None:
    """Copy the tables that differ. Labels may have changed even if all pictures are up to date.

    A table in a published layout is converted to RSNA's.
    """
    for split in splits:
        path, layout = split.table.path, split.table.layout
        content = path.read_bytes() if layout is None else converted_table(path, layout)
        copy = output / f"{split.name}.csv"
        if not copy.exists() or copy.read_bytes() != content:
            write_bytes(copy, content)


def summary(
    output: Path, images: int, failures: dict[Path, str], notes: Mapping[str, int], settings: Preprocessing
) -> str:
    lines = [f"{output}: {images - len(failures):,} of {images:,} images are prepared (key {settings.key})"]
    if failures:
        path, reason = next(iter(failures.items()))
        lines.append(f"{len(failures):,} failed (see {output / 'failures.csv'}); the first: {path}: {reason}")
    lines += count_lines("note", Counter(notes).elements())
    if len(failures) < images:
        start = program_name("python evaluate.py") + " --checkpoint RUN/best.pt"
        if (output / "train.csv").exists():
            start = program_name("python train.py")
        lines.append(f"next: {start} --data {shlex.quote(str(output))}")
    return "\n".join(lines)


def write_preview(
    path: Path, splits: list[TableFiles], settings: Preprocessing, count: int, seed: int, limits: dict[str, Any]
) -> None:
    images = [(file, row.laterality) for split in splits for row, file in split.images]
    if not images:
        raise UserError("no row of the tables has an image file")
    chosen = random.Random(seed).sample(images, min(count, len(images)))
    page = contact_sheet(chosen, settings, limits)
    with atomic_file(path) as file:
        page.save(file, "PNG")
    print(f"{path}: {len(chosen)} of {len(images):,} images, each with its crop box and its prepared picture")


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The arguments, and the picture settings among them by name."""
    usage = "%(prog)s --data DIR (--check | --image-size N --output CACHE) [options]"
    parser = Parser(prog=PROGRAM, usage=usage, description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with train.csv or test.csv")
    parser.add_argument("--output", type=output_folder, metavar="CACHE", help="new folder, or one to continue")
    parser.add_argument("--check", action="store_true", help="only read the headers and report")
    parser.add_argument(
        "--preview", type=output_file, metavar="FILE.png", help="only draw some images before and after"
    )
    parser.add_argument(
        "--preview-images", type=number(int, 1), default=12, metavar="N", help="images of --preview (default: 12)"
    )
    parser.add_argument(
        "--seed",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="seed that picks the images of --preview (default: 0)",
    )
    parser.add_argument("--benchmark", action="store_true", help="only measure how long some files take")
    add_options(parser, ScreeningSettings, names=PICTURE_OPTIONS)
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--workers", type=number(int, 1), default=usable_cores(), metavar="N", help="processes (default: one per core)"
    )
    machine.add_argument(
        "--timeout",
        type=number(float, above=0),
        default=120,
        metavar="SECONDS",
        help="limit for one file (default: 120)",
    )
    machine.add_argument(
        "--memory", type=number(float, above=0), default=4, metavar="GIB", help="limit for one file (default: 4)"
    )
    arguments = parser.parse_args(argv)
    given = given_options(arguments, ScreeningSettings)
    given.pop("columns", None)
    if arguments.check:
        return arguments, {"image_size": (32, 32)} | given  # no picture is made
    if "image_size" not in given or not (arguments.output or arguments.preview or arguments.benchmark):
        parser.error("--image-size and --output (or --preview, or --benchmark) are required, except with --check")
    if arguments.preview is not None:
        if arguments.preview.suffix.lower() != ".png":
            parser.error(f"--preview {arguments.preview}: give it a name that ends in .png")
        if arguments.preview.resolve().is_relative_to(arguments.data.resolve()):
            parser.error(f"--preview {arguments.preview}: is inside --data, which is never written to")
    return arguments, given


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    arguments, given = parse_arguments(argv)
    limits = {"workers": arguments.workers, "seconds": arguments.timeout, "memory": arguments.memory}
    data, output = data_folder(arguments.data, ("train.csv", "test.csv")), arguments.output
    splits = read_splits(data, getattr(arguments, "columns", None))
    every_file = [file for split in splits for _, file in split.images]
    survey = survey_of(every_file, limits)
    settings = Preprocessing(**{"bits": survey.bits or MOST_BITS} | given)
    pictures = [f"{name:<24}  {text}" for name, text in survey.lines(settings)]
    if arguments.check:
        headers = look_at_all(every_file, settings.accept_raw, limits)
        print("\n".join([*check_lines(splits, data, headers, limits), *pictures]))
        without_file = any(None in split.files for split in splits)
        return int(has_problems(headers) or bool(survey.unreadable) or without_file)

    if arguments.benchmark:
        print(benchmark(look_at_all(every_file, settings.accept_raw, limits), settings, limits))
        return 0
    if arguments.preview is not None:
        write_preview(arguments.preview, splits, settings, arguments.preview_images, arguments.seed, limits)
        return 0

    if not every_file:
        raise UserError(f"{data}: no row of the tables has an image file; --check shows what is there")
    open_output(output, data, settings)
    jobs = find_jobs(splits, output)
    to_do = [job for job in jobs if not job.is_done(settings)]
    failures: dict[Path, str] = {}
    if to_do:
        remove_unfinished(output)
        write_description(output, settings, complete=False)
    copy_tables(splits, output)
    if to_do:
        headers = look_at_all([job.source for job in to_do], settings.accept_raw, limits)
        print("\n".join([*check_lines(splits, data, headers, limits), *pictures]), flush=True)
        try:
            with progress_bar(len(jobs), "prepare", len(jobs) - len(to_do)) as bar:
                for job, reason in prepare(to_do, bar, settings, limits):
                    failures[job.source] = reason
                    bar.set_postfix_str(f"{len(failures)} failed", refresh=False)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("run the same command again to continue") from None
        finally:
            write_failures(output, failures, headers)
    notes = count_notes(jobs, failures)
    if to_do:
        write_description(output, settings, complete=True, notes=notes)
    print(summary(output, len(jobs), failures, notes, settings))
    return int(bool(failures))


if __name__ == "__main__":
    leave(main())
