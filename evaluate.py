"""Score mammograms with one checkpoint or an ensemble: per image, per breast, metrics, submission.

    python evaluate.py --checkpoint runs/b3-1/best.pt                               its own held-out patients
    python evaluate.py --checkpoint runs/b3-*/best.pt --data RSNA                   folds together, out of fold
    python evaluate.py --checkpoint best.pt --data RSNA --split test --submission submission.csv

The preprocessing that each model was trained with comes from its checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from efficientnet.common.command_line import Parser, command, leave, number
from efficientnet.common.cpu import keep_freed_memory
from efficientnet.common.errors import UserError
from efficientnet.common.files import atomic_file, write_json
from efficientnet.mammography.evaluation import find_split_images, load_member, predict_images, read_split
from efficientnet.mammography.prepare.folder import check_prepared
from efficientnet.mammography.report import metric_texts, score_line
from efficientnet.mammography.scoring import (
    BreastScores,
    score_breasts,
    write_predictions,
    write_submission,
)
from efficientnet.mammography.settings import columns
from efficientnet.mammography.table import Table, TableError
from efficientnet.training.checkpoint import CheckpointError

PROGRAM = "evaluate.py"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", required=True, metavar="FILE", help="best.pt of one or more runs"
    )
    parser.add_argument("--data", type=Path, help="folder with train.csv or test.csv (default: the checkpoint's own)")
    parser.add_argument(
        "--split",
        choices=["validation", "test", "all"],
        help="validation: patients of train.csv that the checkpoint did not train on (default where there is a "
        "train.csv); test: test.csv and test_images/; all: everybody in train.csv",
    )
    parser.add_argument("--output", type=Path, help="folder for images.csv, predictions.csv and metrics.json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics there; - is the terminal")
    parser.add_argument("--submission", type=Path, metavar="FILE", help="write prediction_id,cancer, a row a breast")
    parser.add_argument("--flip", action="store_true", help="average each image with its mirror image")
    parser.add_argument("--aggregate", choices=["mean", "max"], default="mean", help="images to breast (default mean)")
    parser.add_argument("--columns", type=columns, metavar="OURS=THEIRS,...", help="default: the checkpoint's")
    parser.add_argument("--batch-size", type=number(int, 1), default=8, metavar="N", help="default 8")
    parser.add_argument("--workers", type=number(int, 0), metavar="N", help="processes that read images")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="default fp32")
    parser.add_argument(
        "--no-optimize", action="store_true", help="leave out the fast path, to compare: the network as it was trained"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device here; leave the flag out")
    return arguments


def write_images(file: Any, table: Table, probabilities: np.ndarray) -> None:
    """One line an image that could be read: patient_id, image_id, laterality, then each target's probability."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["patient_id", "image_id", "laterality", *(f"{n}_probability" for n in table.target_names)])
    for row, values in zip(table.rows, probabilities, strict=True):
        if not np.isnan(values[0]):
            writer.writerow([row.patient_id, row.image_id, row.laterality, *(f"{value:.7g}" for value in values)])


def write_outputs(
    arguments: argparse.Namespace,
    table: Table,
    probabilities: np.ndarray,
    scores: BreastScores,
    result: dict[str, Any],
    prior: float,
) -> None:
    if arguments.output is not None:
        with atomic_file(arguments.output / "images.csv", "w") as file:
            write_images(file, table, probabilities)
        with atomic_file(arguments.output / "predictions.csv", "w") as file:
            write_predictions(file, scores, table.target_names)
        write_json(arguments.output / "metrics.json", result)
    if arguments.submission is not None:
        with atomic_file(arguments.submission, "w") as file:
            write_submission(file, table, scores, prior)
    if arguments.json is not None and str(arguments.json) != "-":
        write_json(arguments.json, result)


def evaluate(arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    optimize = not arguments.no_optimize
    members = [load_member(path, device, arguments.precision, optimize) for path in arguments.checkpoint]
    if device.type == "cpu":
        keep_freed_memory()
    for member in members[1:]:
        if member.targets != members[0].targets:
            raise CheckpointError(
                f"{member.path}: predicts {', '.join(member.targets)}, but {members[0].path} predicts "
                f"{', '.join(members[0].targets)}; an ensemble needs the same targets"
            )
    if len({member.data is None for member in members}) > 1:
        raise CheckpointError(
            "some of these checkpoints were trained on the embedded phantoms and some on other data: name those of one"
        )
    split, root, table, allowed, fresh = read_split(members, arguments.data, arguments.split, arguments.columns)
    for member in members:
        check_prepared(root, member.preprocessing)
    say = (lambda text: print(text, file=sys.stderr)) if str(arguments.json) == "-" else print
    counts = table.counts
    say(
        f"{split} of {root}: {counts.patients} patients, {counts.breasts} breasts, {counts.images} images; "
        f"{len(members)} checkpoint{'s' * (len(members) > 1)}, {device.type}, {arguments.precision}, "
        + ("fast path (--no-optimize compares)" if optimize else "network as it was trained")
    )
    for text in table.warnings if split != "test" else ():  # a test table has no labels to warn of
        say(f"warning: {text}")
    trained_on = set(table.patients) & frozenset.union(*(member.training_patients for member in members))
    if split == "all" and trained_on:
        say(f"warning: {len(trained_on)} of these patients were trained on; their scores say nothing about new ones")

    probabilities, failures = predict_images(
        members,
        table,
        find_split_images(split, root, table),
        allowed,
        device,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        precision=arguments.precision,
        flip=arguments.flip,
        strict=arguments.strict,
    )
    readable = np.flatnonzero(~np.isnan(probabilities[:, 0]))
    if readable.size == 0 and arguments.submission is None:
        raise UserError(f"not one image could be scored; the first: {failures[0]}")
    scores = score_breasts(table, readable, probabilities[readable], arguments.aggregate)
    prior = float(np.mean([member.prior for member in members]))
    result: dict[str, Any] = {
        "checkpoints": [str(member.path) for member in members],
        "data": str(root),
        "split": split,
        "patients": counts.patients,
        "breasts": counts.breasts,
        "images": counts.images,
        "unreadable_images": counts.images - readable.size,
        "unscored_breasts": len(scores.unscored),
        "unreadable": failures,
    }
    labelled = bool((~np.isnan(scores.labels[:, 0])).any())
    if labelled:
        thresholds = [member.threshold for member in members if fresh and member.threshold is not None]
        metrics = scores.metrics(float(np.mean(thresholds)) if thresholds else None, intervals=True)
        result |= metrics
    write_outputs(arguments, table, probabilities, scores, result, prior)

    if labelled:
        say(f"\n{score_line(metrics)}\n")
        say("\n".join(f"{name:<32} {text}" for name, text in metric_texts(metrics).items()))
    else:
        say("the table has no labels, so there are no metrics")
    if failures:
        say(f"\n{len(failures)} images could not be read; the first:")
        say("\n".join(f"  {line}" for line in failures[:5]))
    if arguments.submission is not None:
        say(
            f"\n{arguments.submission}: {counts.breasts} breasts"
            + f", {len(scores.unscored)} of them without a readable image at the prior of {prior:.4f}"
            * bool(scores.unscored)
        )
    if str(arguments.json) == "-":
        print(json.dumps(result, indent=2))


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    try:
        evaluate(arguments)
    except (CheckpointError, TableError) as error:
        raise UserError(error) from None
    except torch.OutOfMemoryError:
        raise UserError(f"out of GPU memory at --batch-size {arguments.batch_size}: lower it") from None


if __name__ == "__main__":
    leave(main())
