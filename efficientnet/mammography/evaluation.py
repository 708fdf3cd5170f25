"""Trained checkpoints as the members of an ensemble: what each needs and knows, and what they predict for a table.

Like evaluate.py, which this serves, it stands above the rooms and knows all three.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from efficientnet import create_model
from efficientnet.architecture import recorded_architecture
from efficientnet.common.cpu import usable_cores
from efficientnet.common.errors import UserError
from efficientnet.inference.fast_path import optimize_for_inference
from efficientnet.mammography.dataset import MammogramDataset, collate
from efficientnet.mammography.image_files import find_images
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.scoring import sigmoid
from efficientnet.mammography.settings import DEMO_PATIENTS, phantom_folder
from efficientnet.mammography.table import Table, TableError, available_targets, read_table
from efficientnet.model import EfficientNet
from efficientnet.training.checkpoint import CheckpointError, load_checkpoint
from efficientnet.training.loop import predict, timed


@dataclass(frozen=True)
class Member:
    """One checkpoint: its network, and what it needs and knows.

    fast: the network by the fast path, if that is wanted.
    """

    path: Path
    name: str  # of the architecture
    model: EfficientNet | None  # None where the fast path, in fp32, needs nothing to fall back on
    fast: nn.Module | None
    preprocessing: Preprocessing
    targets: tuple[str, ...]
    logit_shift: float
    prior: float
    threshold: float | None
    training_patients: frozenset[str]
    data: str | None  # what it was trained on; None: the embedded phantoms
    seed: int
    columns: dict[str, str]

    def predict(self, images: Tensor, device: torch.device, precision: str = "fp32", flip: bool = False) -> np.ndarray:
        """Logits (N, T) of images (N, C, H, W), corrected back to the prior."""
        if self.fast is None:
            logits = predict(self.model, images, device, precision, flip)
        else:
            logits = predict(self.fast, images, device, flip=flip)
            if precision != "fp32" and not np.isfinite(logits).all():
                logits = predict(self.model, images, device, flip=flip)
        logits[:, 0] -= self.logit_shift
        return logits


def load_member(path: Path, device: torch.device, precision: str = "fp32", optimize: bool = True) -> Member:
    """precision: of the fast path.  Raises CheckpointError."""
    checkpoint = load_checkpoint(path)
    try:
        model = create_model(**checkpoint["architecture"])
        model.load_state_dict(checkpoint["weights"])
        model = model.to(device, memory_format=torch.channels_last).eval()
        return Member(
            path,
            recorded_architecture(checkpoint).name,
            None if optimize and precision == "fp32" else model,
            optimize_for_inference(model, precision) if optimize else None,
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


def read_split(
    members: Sequence[Member], data: Path | None, split: str | None, columns: dict[str, str] | None
) -> tuple[str, Path, Table, np.ndarray, bool]:
    """The split's name, the data folder, its table, and which member may score which row: bool (members, rows).

    Last, whether the members' thresholds were tuned on other patients than these.  None for data, split and columns
    is what the first checkpoint was trained with, and its held-out patients.  Raises TableError.
    """
    first = members[0]
    root = data or (Path(first.data) if first.data else phantom_folder(DEMO_PATIENTS, first.seed))
    if not root.is_dir():
        raise TableError(f"{root}: no such folder; --data names the folder with train.csv or test.csv")
    split = split or ("validation" if (root / "train.csv").exists() else "test")
    path = root / ("test.csv" if split == "test" else "train.csv")
    mapping = first.columns if columns is None else columns
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


def find_split_images(split: str, root: Path, table: Table) -> list[Path | None]:
    """`find_images` of the table of a split, as `read_split` gives them."""
    return find_images(table, root, "test_images" if split == "test" else "train_images")


def default_workers() -> int:
    """Processes that read images ahead while the model computes.

    Decoding a DICOM file costs several times what a B0 does on it, and only processes decode side by side.
    """
    return min(8, usable_cores())


def predict_images(
    members: Sequence[Member],
    table: Table,
    files: Sequence[Path | None],
    allowed: np.ndarray,
    device: torch.device,
    *,
    batch_size: int = 8,
    workers: int | None = None,
    precision: str = "fp32",
    flip: bool = False,
    strict: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Probabilities (rows, targets), the mean over the members that may score a row, nan where unreadable; failures.

    allowed: bool (members, rows), which member may score which row of the table.  Members with the same preprocessing
    share one pass over the images.  Raises UserError for an unreadable image where `strict`.
    """
    total = np.zeros((len(table.rows), len(table.target_names)))
    votes = np.zeros((len(table.rows), 1))
    failures: dict[str, None] = {}
    groups: dict[Preprocessing, list[int]] = defaultdict(list)
    for place, member in enumerate(members):
        groups[member.preprocessing].append(place)
    progress = tqdm(total=int(allowed.sum()), unit=" images", disable=not sys.stderr.isatty(), leave=False)
    started, waited = time.monotonic(), 0.0
    for preprocessing, places in groups.items():
        wanted = np.flatnonzero(allowed[places].any(axis=0)).tolist()
        loader = DataLoader(
            MammogramDataset(table, files, preprocessing),
            batch_size,
            sampler=wanted,
            num_workers=default_workers() if workers is None else workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
        )
        for batch, seconds in timed(loader):
            waited += seconds
            if batch.failures and strict:
                raise UserError(batch.failures[0])
            failures.update(dict.fromkeys(batch.failures))
            for place in places:
                mine = [i for i in batch.readable if allowed[place, batch.indices[i]]]
                if mine:
                    member, rows = members[place], np.array([batch.indices[i] for i in mine])
                    logits = member.predict(batch.images[mine], device, precision, flip)
                    finite = np.isfinite(logits).all(axis=1)
                    total[rows[finite]] += sigmoid(logits[finite])
                    votes[rows[finite]] += 1
                    failures.update(
                        (f"{files[row]}: the outputs of {member.path} are not finite", None) for row in rows[~finite]
                    )
            share = 100 * waited / (time.monotonic() - started)
            progress.set_postfix_str(f"{share:.0f} % waiting for data", refresh=False)
            progress.update(int(allowed[places][:, batch.indices].sum()))
    progress.close()
    with np.errstate(invalid="ignore"):
        return total / np.where(votes > 0, votes, np.nan), list(failures)
