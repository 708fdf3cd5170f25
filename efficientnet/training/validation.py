"""Validation of a run, split among its ranks."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader

from efficientnet.common.errors import UserError
from efficientnet.inference import optimize_for_inference
from efficientnet.inference.prediction import predict
from efficientnet.training.distributed import Process
from efficientnet.training.signals import Stopped, StopRequest
from efficientnet.training.task import Metrics, Task


def validate(
    model: torch.nn.Module, loader: DataLoader, task: Task, process: Process, precision: str, request: StopRequest
) -> tuple[Metrics, list[str]]:
    """Metrics of the whole validation set, and a line for each image that could not be read, on every rank.

    loader: this rank's part.  Raises Stopped on every rank if one of them gets a signal meanwhile, and UserError if no
    image could be read or the model's outputs are not finite.
    """
    indices, parts, failures = [], [np.zeros((0, task.num_outputs), np.float32)], []
    model.eval()
    if process.device.type == "cpu":  # as in evaluate.py: exact on a CPU and faster than autocast
        model, precision = optimize_for_inference(model), "fp32"
    batches = iter(loader)
    for _ in range(process.maximum(len(loader))[0]):
        stop = process.maximum(request.signal)[0]
        if stop:
            raise Stopped(stop)
        batch = next(batches, None)
        if batch is None:  # another rank has one more batch
            continue
        indices += [batch.indices[place] for place in batch.readable]
        parts.append(predict(model, batch.images, process.device, precision)[batch.readable])
        failures += batch.failures
    gathered = process.gather((indices, np.concatenate(parts), failures))
    indices = [index for part in gathered for index in part[0]]
    logits = np.concatenate([part[1] for part in gathered])
    failures = [line for part in gathered for line in part[2]]
    if not indices:
        raise UserError(f"no validation image could be read; the first error: {failures[0]}")
    if not np.isfinite(logits).all():
        raise UserError(
            "the model's outputs are no longer finite: lower --learning-rate, or use --precision bf16 or fp32; "
            "last.pt still holds the last saved state"
        )
    return task.evaluate(logits, indices), failures
