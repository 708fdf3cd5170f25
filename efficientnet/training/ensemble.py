"""Trained checkpoints as the members of an ensemble, and their mean prediction."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from efficientnet.architecture import recorded_architecture
from efficientnet.common.cpu import usable_cores
from efficientnet.common.errors import UserError
from efficientnet.create import create_model
from efficientnet.inference import optimize_for_inference
from efficientnet.inference.prediction import predict
from efficientnet.model import EfficientNet
from efficientnet.training.checkpoint import CheckpointError, check_task, load_checkpoint, misfit
from efficientnet.training.folds import fold_folders
from efficientnet.training.loaders import loader_options, timed
from efficientnet.training.task import Evaluation, Task

BEST, SUMMARY = "best.pt", "summary.json"
TRAINING_RATES = ("dropout", "stochastic_depth")


@dataclass(frozen=True)
class Member:
    """One checkpoint: its network and the rest of its content.

    name: of the architecture.  model: the network as trained.  fast: the same on the fast path, if requested.
    """

    path: Path
    name: str
    content: dict[str, Any]
    model: EfficientNet
    fast: nn.Module | None

    def predict(self, images: Tensor, device: torch.device, precision: str = "fp32", flip: bool = False) -> np.ndarray:
        """Logits (N, O) of images (N, C, H, W)."""
        if self.fast is None:
            return predict(self.model, images, device, precision, flip)
        logits = predict(self.fast, images, device, flip=flip)
        if precision != "fp32" and not np.isfinite(logits).all():
            return predict(self.model, images, device, flip=flip)
        return logits


def find_checkpoints(paths: Sequence[Path]) -> dict[Path, dict[str, Any] | None]:
    """The checkpoint files of --checkpoint, each with summary.json of its folder of all folds, or None.

    A path is a file, a run folder, which means its best.pt, or a folder of `--fold all`, which means best.pt of every
    fold. Raises CheckpointError for a folder that is neither or that lacks a fold.
    """
    found: dict[Path, dict[str, Any] | None] = {}
    for path in paths:
        runs = fold_folders(path) if path.is_dir() else []
        if missing := [run.name for run in runs if not (run / BEST).exists()]:
            raise CheckpointError(
                f"{path}: has no {', '.join(f'{name}/{BEST}' for name in missing)} yet; resume the run, "
                "or name the files of the other folds"
            )
        if path.is_dir() and not runs and not (path / BEST).exists():
            raise CheckpointError(f"{path}: is a folder without {BEST}, so not a run that has finished an epoch")
        summary = read_summary(path / SUMMARY) if runs else None
        files = [run / BEST for run in runs] or [path / BEST if path.is_dir() else path]
        found |= dict.fromkeys(files, summary)
    return found


def read_summary(path: Path) -> dict[str, Any] | None:
    """The content of summary.json; None if it is not there yet. Raises CheckpointError if it is damaged."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: content.get(name) for name in ("threshold", "calibration")}
    except (OSError, ValueError, AttributeError) as error:
        raise misfit(path, error) from None


def load_content(path: Path, task: type[Task], summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of a checkpoint, without what only a resumed run needs, and with `summary`, if there is one.

    Raises CheckpointError, also if the task differs.
    """
    content = load_checkpoint(path)
    check_task(path, content, task.name)
    content.pop("training", None)  # only in last.pt; several times the size of the weights
    return content if summary is None else content | {"summary": summary}


def load_member(
    path: Path,
    task: type[Task],
    device: torch.device,
    precision: str = "fp32",
    engine: str | None = "torch",
    summary: Mapping[str, Any] | None = None,
) -> Member:
    """Load a checkpoint, with the fast path in `precision` on an engine, or none.

    Raises CheckpointError, also if the task differs. The engine's file is kept beside the checkpoint.
    """
    return of_content(path, load_content(path, task, summary), device, precision, engine, keep=True)


def load_published(
    name: str,
    source: str | None,
    task: type[Task],
    device: torch.device,
    precision: str = "fp32",
    engine: str | None = "torch",
) -> Member:
    """The weights of --weights, with the fast path in `precision`, as a checkpoint of the task.  Raises UserError."""
    model = create_model(weights=name, source=source)
    content = {"task": task.name, "architecture": {"num_classes": model.num_classes}, **task.published(model)}
    return as_member(Path(name), model.provenance.variant, content, model, device, precision, engine)


def load_soup(
    contents: Mapping[Path, dict[str, Any]], device: torch.device, precision: str = "fp32", engine: str | None = "torch"
) -> Member:
    """One network whose weights and batch-norm statistics are the means of those of all checkpoints.

    contents: of `load_content`, whose weights are taken out. Raises CheckpointError if the architectures differ.
    Source: Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time".
    """
    (first, content), *others = contents.items()
    mean = content["weights"]
    dtypes = {name: tensor.dtype for name, tensor in mean.items()}
    mean = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in mean.items()}
    for path, other in others:
        if network_of(other) != network_of(content) or shapes(other["weights"]) != shapes(mean):
            raise CheckpointError(f"{path}: another architecture than {first}; --soup needs the same one")
        for name, tensor in other.pop("weights").items():
            if tensor.is_floating_point():
                mean[name] += tensor.double()
    content["weights"] = {
        name: (tensor / len(contents) if tensor.is_floating_point() else tensor).to(dtypes[name])
        for name, tensor in mean.items()
    }
    return of_content(first, content, device, precision, engine)


def network_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `create_model`, without the rates that matter only in training."""
    return {name: value for name, value in content["architecture"].items() if name not in TRAINING_RATES}


def shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def of_content(
    path: Path,
    content: dict[str, Any],
    device: torch.device,
    precision: str,
    engine: str | None,
    keep: bool = False,
) -> Member:
    try:
        model = create_model(**content["architecture"])
        model.load_state_dict(content.pop("weights"))
        name = recorded_architecture(content).name
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise misfit(path, error) from None
    return as_member(path, name, content, model, device, precision, engine, keep)


def as_member(
    path: Path,
    name: str,
    content: dict[str, Any],
    model: EfficientNet,
    device: torch.device,
    precision: str,
    engine: str | None,
    keep: bool = False,
) -> Member:
    model = model.to(device, memory_format=torch.channels_last).eval()
    fast = engine and optimize_for_inference(model, precision, engine=engine, checkpoint=path if keep else None)
    return Member(path, name, content, model, fast)


def predict_mean(
    members: Sequence[Member],
    evaluation: Evaluation,
    device: torch.device,
    *,
    batch_size: int = 8,
    workers: int | None = None,
    precision: str = "fp32",
    flip: bool = False,
    strict: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Return mean probabilities (N, O) over the members that may score an image, and a line for each failure.

    Images that no member could score are nan. Members with the same input share one pass over the images.
    workers: processes that read images; by default one per core, at most 8. Decoding an image can take several times as
    long as a B0 takes to process it.  strict: raise UserError for an image that cannot be read.
    """
    allowed = evaluation.allowed
    total = np.zeros((allowed.shape[1], members[0].content["architecture"]["num_classes"]))
    votes = np.zeros((allowed.shape[1], 1))
    failures: dict[str, None] = {}
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place in range(len(members)):
        groups[evaluation.input_key(place)].append(place)
    progress = tqdm(total=int(allowed.sum()), unit=" images", disable=not sys.stderr.isatty(), leave=False)
    started, waited = time.monotonic(), 0.0
    for places in groups.values():
        loader = DataLoader(
            evaluation.dataset(places[0]),
            batch_size,
            sampler=np.flatnonzero(allowed[places].any(axis=0)).tolist(),
            **loader_options(min(8, usable_cores()) if workers is None else workers, device),
        )
        for batch, seconds in timed(loader):
            waited += seconds
            if batch.failures and strict:
                raise UserError(batch.failures[0])
            failures.update(dict.fromkeys(batch.failures))
            for place in places:
                mine = [i for i in batch.readable if allowed[place, batch.indices[i]]]
                if not mine:
                    continue
                logits = members[place].predict(batch.images[mine], device, precision, flip)
                finite = np.isfinite(logits).all(axis=1)
                rows = np.array([batch.indices[i] for i in mine])
                total[rows[finite]] += evaluation.probabilities(place, logits[finite])
                votes[rows[finite]] += 1
                for i in np.flatnonzero(~finite):
                    failures[f"{batch.names[mine[i]]}: non-finite outputs from {members[place].path}"] = None
            share = 100 * waited / (time.monotonic() - started)
            progress.set_postfix_str(f"{share:.0f} % waiting for data", refresh=False)
            progress.update(int(allowed[places][:, batch.indices].sum()))
    progress.close()
    with np.errstate(invalid="ignore"):
        return np.divide(total, np.where(votes > 0, votes, np.nan), out=total), list(failures)
