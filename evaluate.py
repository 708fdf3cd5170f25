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
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from efficientnet import create_model
from efficientnet.command_line import CommandError, Parser, number, run
from efficientnet.mammography.dataset import MammogramDataset, collate, find_images
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.report import metric_texts, score_line
from efficientnet.mammography.scoring import (
    BreastScores,
    score_breasts,
    sigmoid,
    write_predictions,
    write_submission,
)
from efficientnet.mammography.settings import DEMO_PATIENTS, columns, phantom_folder
from efficientnet.mammography.table import Table, TableError, available_targets, read_table
from efficientnet.training.checkpoint import CheckpointError, atomic_file, load_checkpoint, write_json
from efficientnet.training.distributed import keep_freed_memory
from efficientnet.training.loop import predict


@dataclass(frozen=True)
class Member:
    """One checkpoint: its network, and what it needs and knows."""

    path: Path
    model: torch.nn.Module
    preprocessing: Preprocessing
    targets: tuple[str, ...]
    logit_shift: float
    prior: float
    threshold: float | None
    training_patients: frozenset[str]
    data: str | None  # what it was trained on; None: the embedded phantoms
    seed: int
    columns: dict[str, str]


def parse_arguments() -> argparse.Namespace:
    parser = Parser(prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device here; leave the flag out")
    return arguments


def load_member(path: Path, device: torch.device) -> Member:
    """Raises CheckpointError."""
    checkpoint = load_checkpoint(path)
    try:
        model = create_model(**checkpoint["architecture"])
        model.load_state_dict(checkpoint["weights"])
        return Member(
            path,
            model.to(device, memory_format=torch.channels_last).eval(),
            Preprocessing.from_dict(checkpoint["preprocessing"]),
            tuple(checkpoint["targets"]),
            checkpoint["logit_shift"],
            checkpoint["prior"],
            checkpoint["threshold"],
            frozenset(checkpoint["training_patients"]),
            checkpoint["plan"]["data"],
            checkpoint["plan"]["recipe"]["seed"],
            checkpoint["plan"]["settings"]["columns"] or {},
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: does not fit this version of the project ({reason})") from None


def read_split(arguments: argparse.Namespace, members: list[Member]) -> tuple[str, Path, Table, np.ndarray, bool]:
    """The split's name, the data folder, its table, and which member may score which row: bool (members, rows).

    Last, whether the members' thresholds were tuned on other patients than these.  Raises TableError.
    """
    first = members[0]
    root = arguments.data or (Path(first.data) if first.data else phantom_folder(DEMO_PATIENTS, first.seed))
    if not root.is_dir():
        raise TableError(f"{root}: no such folder; --data names the folder with train.csv or test.csv")
    split = arguments.split or ("validation" if (root / "train.csv").exists() else "test")
    path = root / ("test.csv" if split == "test" else "train.csv")
    mapping = first.columns if arguments.columns is None else arguments.columns
    # A test table has no labels as a rule, so that a target with another name in train.csv is not asked for there.
    renamed = {name for name in mapping if name in first.targets}
    unlabelled = split == "test" and renamed and not renamed & set(available_targets(path, mapping))
    table = read_table(path, first.targets, mapping, labels="none" if unlabelled else "optional")
    if split != "validation":
        fresh = split == "test" or not any(member.training_patients & set(table.patients) for member in members)
        return split, root, table, np.ones((len(members), len(table.rows)), dtype=bool), fresh
    held_out = {p for p in table.patients if any(p not in member.training_patients for member in members)}
    if not held_out:
        raise TableError(f"{path}: every patient in it was trained on; --split all scores them nevertheless")
    strangers = [str(member.path) for member in members if not member.training_patients & set(table.patients)]
    if strangers and len(members) > len(strangers):
        raise TableError(
            f"{', '.join(strangers)}: trained on no patient of {path}, so that it would score those whom the others "
            "trained on; leave it out, or use --split all"
        )
    table = table.of_patients(held_out)
    allowed = [[row.patient_id not in member.training_patients for row in table.rows] for member in members]
    return split, root, table, np.array(allowed), len(strangers) == len(members)


def predict_images(
    arguments: argparse.Namespace,
    members: list[Member],
    root: Path,
    folder: str,
    table: Table,
    allowed: np.ndarray,
    device: torch.device,
) -> tuple[np.ndarray, list[str]]:
    """Probabilities (rows, targets), the mean over the members that may score a row, nan where unreadable; failures.

    Members with the same preprocessing share one pass over the images.
    """
    files = find_images(table, root, folder)
    total = np.zeros((len(table.rows), len(table.target_names)))
    votes = np.zeros((len(table.rows), 1))
    failures: dict[str, None] = {}
    groups: dict[Preprocessing, list[int]] = defaultdict(list)
    for place, member in enumerate(members):
        groups[member.preprocessing].append(place)
    workers = arguments.workers
    if workers is None:
        workers = 0 if device.type == "cpu" else 4
    progress = tqdm(total=int(allowed.sum()), unit=" images", disable=not sys.stderr.isatty(), leave=False)
    for preprocessing, places in groups.items():
        dataset = MammogramDataset(table, files, preprocessing)
        wanted = np.flatnonzero(allowed[places].any(axis=0)).tolist()
        loader = DataLoader(
            dataset,
            arguments.batch_size,
            sampler=wanted,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
        )
        for batch in loader:
            if batch.failures and arguments.strict:
                raise CommandError(batch.failures[0])
            failures.update(dict.fromkeys(batch.failures))
            for place in places:
                mine = [i for i in batch.readable if allowed[place, batch.indices[i]]]
                if mine:
                    member, rows = members[place], [batch.indices[i] for i in mine]
                    logits = predict(member.model, batch.images[mine], device, arguments.precision, arguments.flip)
                    logits[:, 0] -= member.logit_shift
                    finite = np.isfinite(logits).all(axis=1)
                    rows = np.array(rows)
                    total[rows[finite]] += sigmoid(logits[finite])
                    votes[rows[finite]] += 1
                    failures.update(
                        (f"{files[row]}: the outputs of {member.path} are not finite", None) for row in rows[~finite]
                    )
            progress.update(int(allowed[places][:, batch.indices].sum()))
    progress.close()
    with np.errstate(invalid="ignore"):
        return total / np.where(votes > 0, votes, np.nan), list(failures)


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
    if device.type == "cpu":
        keep_freed_memory()
    members = [load_member(path, device) for path in arguments.checkpoint]
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
    split, root, table, allowed, fresh = read_split(arguments, members)
    say = (lambda text: print(text, file=sys.stderr)) if str(arguments.json) == "-" else print
    counts = table.counts
    say(
        f"{split} of {root}: {counts.patients} patients, {counts.breasts} breasts, {counts.images} images; "
        f"{len(members)} checkpoint{'s' * (len(members) > 1)}, {device.type}, {arguments.precision}"
    )
    for text in table.warnings if split != "test" else ():  # a test table has no labels to warn of
        say(f"warning: {text}")
    trained_on = set(table.patients) & frozenset.union(*(member.training_patients for member in members))
    if split == "all" and trained_on:
        say(f"warning: {len(trained_on)} of these patients were trained on; their scores say nothing about new ones")

    folder = "test_images" if split == "test" else "train_images"
    probabilities, failures = predict_images(arguments, members, root, folder, table, allowed, device)
    readable = np.flatnonzero(~np.isnan(probabilities[:, 0]))
    if readable.size == 0 and arguments.submission is None:
        raise CommandError(f"not one image could be scored; the first: {failures[0]}")
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


def main() -> None:
    arguments = parse_arguments()
    try:
        evaluate(arguments)
    except (CheckpointError, TableError) as error:
        raise CommandError(error) from None
    except torch.OutOfMemoryError:
        raise CommandError(f"out of GPU memory at --batch-size {arguments.batch_size}: lower it") from None


if __name__ == "__main__":
    run("evaluate.py", main)
