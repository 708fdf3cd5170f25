"""Score images with one checkpoint, an ensemble or published weights: predictions, metrics, submission.

    python evaluate.py --checkpoint runs/b3-1                       its own held-out patients or images
    python evaluate.py --checkpoint runs/b3-1 runs/b3-2             an ensemble, such as of folds, scored out of fold
    python evaluate.py --checkpoint runs/b3-1 --data RSNA --split test --submission submission.csv
    python evaluate.py --checkpoint runs/b3-1 --report report       a page with curves and heat maps
    python evaluate.py --checkpoint runs/b3-1 --image file.dcm --heatmap heatmap.png
    python evaluate.py --compare runs/b3-1 runs/b4-1                which is better, and how sure is it
    python evaluate.py --weights timm:tf_efficientnet_b0.aa_in1k --data IMAGENET     published weights: top-1, top-5

A checkpoint is a file or a run folder, whose best.pt is taken; of a folder of --fold all, the best.pt of every fold.
The preprocessing that each model was trained with comes from its checkpoint. --help shows the flags for mammograms, and
those for image folders after a --checkpoint of them or --weights NAME.
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from efficientnet.common.command_line import Parser, command, leave, number, output_file, output_folder, program_name
from efficientnet.common.cpu import keep_freed_memory
from efficientnet.common.errors import UserError
from efficientnet.common.files import write_bytes
from efficientnet.common.options import group_of
from efficientnet.common.text import counted
from efficientnet.inference.engines import ENGINES, OF_ONNX, check_engine
from efficientnet.tasks import task_of_evaluation
from efficientnet.training.ensemble import (
    Member,
    find_checkpoints,
    load_content,
    load_member,
    load_published,
    load_soup,
    predict_mean,
)
from efficientnet.training.failures import explained_failures
from efficientnet.training.task import Evaluation, Report, Task

PROGRAM = program_name("evaluate.py")
OUTPUTS = ("output", "json", "submission", "heatmap", "report")
# Flags that do nothing together with these.
CLASHES = {
    "compare": ("soup", "submission", "threshold", "report"),
    "weights": ("soup",),
    "no_optimize": ("engine",),
    "image": ("engine", "soup", "submission", "threshold", "report", "data", "split", "columns", "flip", "strict"),
}
METRICS = Path("metrics.json")  # in --output


def parse_arguments(argv: Sequence[str] | None, task: type[Task]) -> argparse.Namespace:
    usage = (
        "%(prog)s --checkpoint PATH [PATH ...] [options]\n       %(prog)s --compare A B [options]\n"
        "       %(prog)s --weights FILE|NAME --data DIR [options]"
    )
    parser = Parser(prog=PROGRAM, usage=usage, description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--checkpoint", type=Path, nargs="+", metavar="PATH", help="checkpoints or run folders; several are an ensemble"
    )
    what.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="two checkpoints, run folders or predictions.csv files: the difference of every metric, on the patients "
        "or images that both held out",
    )
    what.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="published weights for ImageNet's classes, as for train.py: a file, a URL, lite0 to lite2, or timm:NAME",
    )
    parser.add_argument("--source", metavar="LIBRARY", help="the library of --weights (default: recognised)")
    task.add_evaluation_arguments(parser)
    output = group_of(parser, "output")
    output.add_argument("--output", type=output_folder, metavar="DIR", help="folder for predictions and metrics.json")
    output.add_argument(
        "--json",
        type=lambda text: Path(text) if text == "-" else output_file(text),
        metavar="FILE",
        help="write the metrics as JSON; - prints them on stdout, and all else on stderr",
    )
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--soup",
        action="store_true",
        help="average the weights of the checkpoints into one network, instead of their probabilities",
    )
    scoring.add_argument("--flip", action="store_true", help="average each image with its mirror image")
    scoring.add_argument(
        "--batch-size", type=number(int, 1), default=8, metavar="N", help="images in one forward pass (default: 8)"
    )
    scoring.add_argument(
        "--workers", type=number(int, 0), metavar="N", help="image-loading processes (default: one per core, at most 8)"
    )
    scoring.add_argument("--device", choices=["cuda", "cpu"], help="device (default: cuda if there is one)")
    scoring.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="autocast type (default: fp32)"
    )
    scoring.add_argument(
        "--engine",
        choices=ENGINES,
        help="what runs the fast path (default: torch); onnxruntime and openvino keep an ONNX file beside a checkpoint",
    )
    scoring.add_argument(
        "--no-optimize", action="store_true", help="score with the network as it was trained, without the fast path"
    )
    scoring.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    arguments = parser.parse_args(argv)
    named = [path.resolve() for name, path in vars(arguments).items() if name in OUTPUTS and path is not None]
    if len(set(named)) < len(named):
        parser.error(f"--{', --'.join(OUTPUTS)}: two of them name the same file")
    inputs = [*(arguments.checkpoint or ()), *(arguments.compare or ()), getattr(arguments, "image", None)]
    if set(named) & {path.resolve() for path in inputs if path is not None}:
        parser.error("an output has the name of an input; choose another")
    for mode, others in CLASHES.items():
        given = ", ".join(f"--{name}" for name in others if getattr(arguments, name, None))
        if getattr(arguments, mode, None) and given:
            omitted = "them" if "," in given else "it"
            parser.error(f"--{mode.replace('_', '-')} cannot be combined with {given}; omit {omitted}")
    if getattr(arguments, "heatmap", None) and not arguments.image:
        parser.error("--heatmap needs --image")
    if getattr(arguments, "image", None) and arguments.compare:
        parser.error("--image needs --checkpoint")
    if arguments.source and not arguments.weights:
        parser.error("--source needs --weights")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device; omit the flag")
    if arguments.engine:
        try:
            check_engine(arguments.engine, arguments.precision, device_of(arguments).type)
        except ValueError as error:
            parser.error(f"--engine {error}")
    return arguments


def device_of(arguments: argparse.Namespace) -> torch.device:
    usable = torch.cuda.is_available() and arguments.engine not in OF_ONNX
    return torch.device(arguments.device or ("cuda" if usable else "cpu"))


class Scored(NamedTuple):
    """Mean probabilities (N, O) over the members for what the evaluation scores, and a line for each failure."""

    members: Sequence[Member]
    evaluation: Evaluation
    probabilities: np.ndarray
    failures: Sequence[str]


def score(paths: Sequence[Path], arguments: argparse.Namespace, task: type[Task], say: Callable[[str], None]) -> Scored:
    """Load the checkpoints, find out what they may score, and score it.  say: prints a line about that.

    paths: of --checkpoint or --compare; none for --weights.
    """
    device, found = device_of(arguments), find_checkpoints(paths)
    engine = None if arguments.no_optimize else arguments.engine or "torch"
    if arguments.weights:
        members = [load_published(arguments.weights, arguments.source, task, device, arguments.precision, engine)]
        contents = {member.path: member.content for member in members}
    elif arguments.soup:
        contents = {path: load_content(path, task, summary) for path, summary in found.items()}
        members = [load_soup(contents, device, arguments.precision, engine)]
    else:
        members = [
            load_member(path, task, device, arguments.precision, engine, summary) for path, summary in found.items()
        ]
        contents = {member.path: member.content for member in members}
    if device.type == "cpu":
        keep_freed_memory()
    evaluation = task.evaluation(contents, arguments)
    way = f"fast path by {engine} (--no-optimize turns it off)" if engine else "network as trained"
    count = f"{len(found)} checkpoint{'' if len(found) == 1 else 's'}" if found else f"{members[0].name} of --weights"
    count += " averaged into one" if arguments.soup else ""
    say(f"{evaluation.description}; {count}, {device.type}, {arguments.precision}, {way}")
    for text in evaluation.warnings:
        say(f"warning: {text}")
    probabilities, failures = predict_mean(
        members,
        evaluation,
        device,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        precision=arguments.precision,
        flip=arguments.flip,
        strict=arguments.strict,
    )
    return Scored(members, evaluation, probabilities, failures)


def evaluate(arguments: argparse.Namespace, task: type[Task], say: Callable[[str], None]) -> Report:
    """Score --checkpoint or --weights."""
    members, evaluation, probabilities, failures = score(arguments.checkpoint or (), arguments, task, say)
    report = evaluation.report(probabilities, failures)
    say(f"\n{report.text}")
    say_failures(failures, say)
    folder = getattr(arguments, "report", None)
    if folder is not None and report.problem is None and "threshold" not in report.values:
        report = replace(report, problem="--report: no labelled breast could be scored, so there is no page")
    if folder is not None and "threshold" in report.values:
        title = ", ".join(dict.fromkeys(member.name for member in members))
        networks = [member.model for member in members]
        page = evaluation.page(probabilities, report.values, networks, title, device_of(arguments))
        files = {(folder / name).absolute(): data for name, data in page.items()}
        report = replace(report, files={**report.files, **files})
    paths = find_checkpoints(arguments.checkpoint) if arguments.soup else [member.path for member in members]
    return replace(report, values={"checkpoints": [*map(str, paths)], **report.values, "unreadable": failures})


def score_image(arguments: argparse.Namespace, task: type[Task], say: Callable[[str], None]) -> Report:
    """Score --image."""
    if arguments.weights:
        member = load_published(arguments.weights, arguments.source, task, device_of(arguments), engine=None)
    else:
        path, *others = find_checkpoints(arguments.checkpoint)
        if others:
            raise UserError(f"--image takes one checkpoint, not {1 + len(others)}; name one of them, such as {path}")
        member = load_member(path, task, device_of(arguments), engine=None)
    report = task.score_one_image(member.path, member.content, member.model, arguments)
    say(report.text)
    return report


def compare(arguments: argparse.Namespace, task: type[Task], say: Callable[[str], None]) -> Report:
    """Compare the two models of --compare."""
    files = []
    for path in arguments.compare:
        if path.suffix == ".csv":
            files.append(read_file(path))
            continue
        _, evaluation, probabilities, failures = score([path], arguments, task, say)
        say_failures(failures, say)
        files.append(evaluation.predictions(probabilities))
    report = task.comparison([str(path) for path in arguments.compare], files)
    say(f"\n{report.text}")
    return report


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def say_failures(failures: Sequence[str], say: Callable[[str], None]) -> None:
    if failures:
        say(f"\n{counted(len(failures), 'image')} could not be read; the first:")
        say("\n".join(f"  {line}" for line in failures[:5]))


def write_report(report: Report, arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Write the files of --output, --json and those that the report names itself. Raises UserError."""
    to_terminal = str(arguments.json) == "-"
    text = json.dumps(report.values, indent=2) + "\n"
    if to_terminal:
        print(text, end="")
    output = arguments.output
    if output is None:
        files = [(path, data) for path, data in report.files.items() if path.is_absolute()]
    else:
        files = [(output / path, data) for path, data in (report.files | {METRICS: text.encode()}).items()]
    if arguments.json is not None and not to_terminal:
        files.append((arguments.json, text.encode()))
    write_all(files)
    if files:
        say(f"\nwritten: {', '.join(listed([path for path, _ in files]))}")
    if report.problem is not None:
        raise UserError(report.problem)


def listed(paths: Sequence[Path]) -> Iterator[str]:
    """The paths for a person: of a folder with many files only the first."""
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    for group in by_folder.values():
        yield from [f"{group[0]} and {len(group) - 1} more there"] if len(group) > 4 else map(str, group)


def write_all(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write every file that can be written, then raise UserError if any could not."""
    failures, written = [], set()
    for path, data in files:
        try:
            if path.resolve() in written:
                raise OSError(errno.EEXIST, "another output has this name")
            write_bytes(path, data)
            written.add(path.resolve())
        except OSError as error:
            failures.append(f"{path} ({error.strerror})")
    if failures:
        raise UserError(f"could not write {', '.join(failures)}; the other files were written")


@command(PROGRAM)
def main(argv: Sequence[str] | None = None, task: type[Task] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    task = task or task_of_evaluation(argv)
    arguments = parse_arguments(argv, task)
    # With --json -, stdout is for the JSON alone.
    say = partial(print, file=sys.stderr if str(arguments.json) == "-" else sys.stdout)
    with explained_failures(less_memory="lower --batch-size"):
        mode = compare if arguments.compare else score_image if getattr(arguments, "image", None) else evaluate
        report = mode(arguments, task, say)
        write_report(report, arguments, say)


if __name__ == "__main__":
    leave(main())
