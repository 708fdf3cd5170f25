"""From scored breasts and their networks to the data of a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from efficientnet.mammography.figures import sections
from efficientnet.mammography.page.breasts import breasts_that_matter, case_of
from efficientnet.mammography.page.content import ReportData, headline
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.scoring import BreastScores
from efficientnet.mammography.table import Breast, Table
from efficientnet.model import EfficientNet
from efficientnet.training.curves import History


class Reader(NamedTuple):
    """A network, not on the fast path, and its preprocessing of the files."""

    model: EfficientNet
    settings: Preprocessing


def report_data(
    title: str,
    scores: BreastScores,
    values: Mapping[str, Any],
    table: Table,
    files: Sequence[Path | None],
    reader: Callable[[Breast], Reader],
    device: torch.device,
    *,
    calibrated: NDArray[Any] | None = None,
    histories: Sequence[History] = (),
    remarks: Sequence[str] = (),
    limits: Sequence[str] = (),
) -> ReportData:
    """The page of the labelled breasts of a table. Reads the images of those that are shown.

    values: of `figures.figures`.  files: of the table's rows.  reader: of a network that may score a breast.
    calibrated: probabilities of the labelled breasts.
    """
    known = scores.labelled
    labels, probabilities = known.labels[:, 0], known.probabilities[:, 0]
    threshold = values.get("given_threshold")
    if threshold is None:
        threshold = values["threshold"]
    cases = {}
    for kind, places in breasts_that_matter(labels, probabilities, threshold).items():
        chosen = [(known.breasts[place], float(probabilities[place])) for place in places]
        cases[kind] = [case_of(breast, table, files, *reader(breast), device, value) for breast, value in chosen]
    return ReportData(
        title,
        labels,
        probabilities,
        threshold,
        calibrated,
        table.target_names[0],
        headline(values),
        list(sections(values)),
        histories,
        cases,
        remarks,
        limits,
    )


def read_history(run: Path) -> History:
    """The epochs in metrics.jsonl of a run folder; none if there is no such file, or it cannot be read."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        epochs = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []
    return [epoch for epoch in epochs if isinstance(epoch, dict)]
