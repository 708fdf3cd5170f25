"""Score images with one checkpoint or an ensemble: predictions, metrics, submission.

    python evaluate.py --checkpoint runs/b3-1/best.pt                           its own held-out patients
    python evaluate.py --checkpoint runs/b3-*/best.pt --data RSNA               an ensemble of folds, scored out of fold
    python evaluate.py --checkpoint best.pt --data RSNA --split test --submission submission.csv

The preprocessing that each model was trained with comes from its checkpoint.
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from efficientnet.common.command_line import Parser, command, leave, number, output_file, output_folder, program_name
from efficientnet.common.cpu import keep_freed_memory
from efficientnet.common.errors import UserError
from efficientnet.common.files import write_bytes
from efficientnet.common.options import group_of
from efficientnet.mammography.task import Screening
from efficientnet.training.ensemble import load_member, predict_mean
from efficientnet.training.failures import explained_failures
from efficientnet.training.task import Task

PROGRAM = program_name("evaluate.py")
OUTPUTS = ("output", "json", "submission")
METRICS = Path("metrics.json")  # in --output


def parse_arguments(argv: Sequence[str] | None, task: type[Task]) -> argparse.Namespace:
    usage = "%(prog)s --checkpoint FILE [FILE ...] [options]"
    parser = Parser(prog=PROGRAM, usage=usage, description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", required=True, metavar="FILE", help="best.pt of one or more runs"
    )
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
        "--no-optimize", action="store_true", help="score with the network as it was trained, without the fast path"
    )
    scoring.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    arguments = parser.parse_args(argv)
    named = [path.resolve() for name, path in vars(arguments).items() if name in OUTPUTS and path is not None]
    if len(set(named)) < len(named):
        parser.error(f"--{', --'.join(OUTPUTS)}: two of them name the same file")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device; omit the flag")
    return arguments


def evaluate(arguments: argparse.Namespace, task: type[Task]) -> None:
    to_terminal = str(arguments.json) == "-"
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    optimize = not arguments.no_optimize
    members = [
        load_member(path, task, device, arguments.precision, optimize) for path in dict.fromkeys(arguments.checkpoint)
    ]
    if device.type == "cpu":
        keep_freed_memory()
    evaluation = task.evaluation({member.path: member.content for member in members}, arguments)
    say = (lambda text: print(text, file=sys.stderr)) if to_terminal else print
    way = "fast path (--no-optimize turns it off)" if optimize else "network as trained"
    count = f"{len(members)} checkpoint{'' if len(members) == 1 else 's'}"
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
    report = evaluation.report(probabilities, failures)
    result = {"checkpoints": [str(member.path) for member in members], **report.values, "unreadable": failures}

    say(f"\n{report.text}")
    if failures:
        say(f"\n{len(failures)} images could not be read; the first:")
        say("\n".join(f"  {line}" for line in failures[:5]))
    text = json.dumps(result, indent=2) + "\n"
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
    if report.problem is not None:
        raise UserError(report.problem)


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
def main(argv: Sequence[str] | None = None, task: type[Task] = Screening) -> None:
    arguments = parse_arguments(argv, task)
    with explained_failures(less_memory="lower --batch-size"):
        evaluate(arguments, task)


if __name__ == "__main__":
    leave(main())
