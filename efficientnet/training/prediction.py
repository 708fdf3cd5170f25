"""The held-out breasts of a run: what the model says of them, and how good that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from efficientnet.common.errors import UserError
from efficientnet.inference.fast_path import optimize_for_inference
from efficientnet.mammography.scoring import BreastScores, score_breasts, sigmoid
from efficientnet.training.distributed import Process
from efficientnet.training.loop import predict
from efficientnet.training.loss import masked_binary_cross_entropy
from efficientnet.training.plan import Data
from efficientnet.training.signals import StopRequest


def validate(
    model: torch.nn.Module,
    loader: DataLoader,
    data: Data,
    process: Process,
    precision: str,
    shift: float,
    auxiliary_weight: float,
    request: StopRequest,
) -> tuple[BreastScores, dict[str, Any], list[str]] | int:
    """Scores of the held-out breasts, metrics, and what could not be read; complete on every rank.

    Where a rank is asked to stop meanwhile, the number of the signal instead. `shift` comes off the first target's
    logits; the metrics are those of metrics.jsonl.  Raises UserError where no image could be read, and where the
    model's outputs are not finite.
    """
    indices, parts, failures = [], [np.zeros((0, len(data.train.target_names)), np.float32)], []
    model.eval()
    if process.device.type == "cpu":  # as evaluate.py predicts, which is exact there and faster than autocast
        model, precision = optimize_for_inference(model), "fp32"
    batches = iter(loader)
    for _ in range(process.maximum(len(loader))[0]):
        stop_signal = process.maximum(request.signal)[0]
        if stop_signal:
            return stop_signal
        batch = next(batches, None)
        if batch is None:  # another rank has one more
            continue
        indices += [batch.indices[place] for place in batch.readable]
        parts.append(predict(model, batch.images, process.device, precision)[batch.readable])
        failures += batch.failures
    gathered = process.gather((indices, np.concatenate(parts), failures))
    indices = [index for part in gathered for index in part[0]]
    logits = np.concatenate([part[1] for part in gathered])
    failures = [line for part in gathered for line in part[2]]
    if not indices:
        raise UserError(f"not one validation image could be read; the first: {failures[0]}")
    if not np.isfinite(logits).all():
        raise UserError(
            "the model's outputs are no longer finite: lower --learning-rate, or use --precision bf16 or fp32; "
            "last.pt keeps the epoch before"
        )
    logits[:, 0] -= shift
    loss = masked_binary_cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(data.validation.labels[indices]), auxiliary_weight
    )
    scores = score_breasts(data.validation, indices, sigmoid(logits))
    metrics = scores.metrics()
    names = ("pf1", "pf1_best", "threshold", "auc", "average_precision")
    return scores, {"val_loss": loss.item(), **{name: metrics[name] for name in names}}, failures
