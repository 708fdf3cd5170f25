"""Metrics of a trained checkpoint on the fast path and at lower precision, on its held-out patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from efficientnet.common.cpu import keep_freed_memory
from efficientnet.common.errors import UserError
from efficientnet.mammography.evaluation import ScreeningEvaluation
from efficientnet.mammography.task import Screening
from efficientnet.mammography.trained import Trained
from efficientnet.training.ensemble import load_member, predict_mean

METRICS = ("pf1", "pf1_best", "auc", "average_precision")


def compare_precisions(path: Path, data: Path | None, device: torch.device) -> tuple[str, dict[str, Any]]:
    """Compare the network as trained with the fast path in each precision; return the text and its values for --json.

    Raises UserError for a checkpoint or data that cannot be used.
    """
    if device.type == "cpu":
        keep_freed_memory()
    ways = [("as trained, fp32", "fp32", False)]
    ways += [(f"fast path, {name}", name, True) for name in ("fp32", "fp16" if device.type == "cuda" else "bf16")]
    rows: list[dict[str, Any]] = []
    members = [load_member(path, Screening, device, precision, optimize) for _, precision, optimize in ways]
    evaluation = ScreeningEvaluation([Trained.from_checkpoint(path, members[0].content)], data)
    table, reference = evaluation.table, None
    for (label, precision, _), member in zip(ways, members, strict=True):
        probabilities, _ = predict_mean([member], evaluation, device, precision=precision)
        if np.isnan(probabilities[:, 0]).all() or np.isnan(table.labels[:, 0]).all():
            raise UserError(f"{evaluation.root}: comparing metrics needs images with labels")
        reference = probabilities if reference is None else reference
        metrics = evaluation.breast_scores(probabilities).metrics()
        rows.append(
            {"label": label, "precision": precision}
            | {name: metrics[name] for name in METRICS}
            | {"largest_change": float(np.nanmax(np.abs(probabilities - reference)[:, 0]))}
        )
    heading = f"{path}: {evaluation.description}"
    lines = [f"{'':<20}{'pF1':>9}{'best F1':>9}{'AUC':>9}{'AP':>9}{'largest change of a probability':>34}"]
    for entry in rows:
        shown = "".join(f"{'-' if entry[name] is None else format(entry[name], '.5f'):>9}" for name in METRICS)
        lines.append(f"{entry['label']:<20}{shown}{entry['largest_change']:>34.1e}")
    return "\n".join([heading, "", *lines]), {"checkpoint": str(path), "data": str(evaluation.root), "rows": rows}
