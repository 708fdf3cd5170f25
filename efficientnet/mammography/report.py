"""The model card, and metrics as text."""

from __future__ import annotations

from typing import Any

from efficientnet.architecture import Architecture
from efficientnet.complexity import complexity
from efficientnet.mammography.table import Table


def model_card(
    plan: dict[str, Any],
    architecture: Architecture,
    train: Table,
    validation: Table,
    epoch: int,
    metrics: dict[str, Any],
) -> str:
    """Return the Markdown model card of a checkpoint: the model, its data, its scores, its limits.

    plan: the run's config.json.  epoch: counted from 1.  metrics: `BreastScores.metrics(intervals=True)` of the
    validation breasts.
    """
    settings = plan["settings"]
    recipe = plan["recipe"] | {name: settings[name] for name in ("auxiliary_weight", "prior_correction")}
    phantom = plan["data"] is None
    if phantom:
        limits = "The phantoms are drawn, not acquired: no result here applies to mammograms."
    else:
        limits = "The figures apply only to patients and machines like those of the validation set."
    size, channels = tuple(settings["image_size"]), settings["in_channels"]
    counts = complexity(architecture.stages, size, len(train.target_names), channels)
    rows = "\n".join(f"| {name} | {text} |" for name, text in metric_texts(metrics).items())
    return f"""# {architecture.title} for breast cancer on mammograms

{score_line(metrics)}

## Architecture
{counts.parameters:,} parameters, {counts.multiply_adds:,} multiply-adds per image.

| operator | stride | channels | layers |
|---|---|---|---|
{stage_rows(architecture)}

## Data
{"Synthetic phantoms of this project, no real mammograms." if phantom else plan["data"]}
Patients were split into {settings["folds"]} folds; fold {settings["fold"]} was held out.

| | patients | breasts | images | breasts with {train.target_names[0]} |
|---|---|---|---|---|
{count_row("training", train)}
{count_row("validation", validation)}

Targets: {", ".join(train.target_names)}. Input: {" x ".join(map(str, size))} pixels, \
{channels} channel(s), crop to the breast {"on" if settings["crop"] else "off"}.

## Validation
Epoch {epoch} of {recipe["epochs"]}, chosen by {settings["select"]} on these same breasts, so all figures are
slightly optimistic. One probability per breast, the mean over its images. Intervals: 95 %, bootstrap over patients.

| metric | value |
|---|---|
{rows}

## Recipe
{", ".join(f"{name} {value}" for name, value in recipe.items() if value is not None)}

## Limits
Not a medical device, and not tested as one: not for diagnosis, triage or any decision about a person.
{limits}
These weights are subject to the terms of the data that they were trained on.
"""


def score_line(metrics: dict[str, Any], what: str = "held-out breasts") -> str:
    """One line with pF1, its interval, and the pF1 of the best constant prediction."""
    low, high = metrics["pf1_interval"]
    return (
        f"Probabilistic F1 {metrics['pf1']:.3f} (95 % interval {low:.3f} to {high:.3f}) on {metrics['count']} {what}, "
        f"{metrics['positives']} with cancer; the best constant prediction gets {metrics['pf1_all_ones']:.3f}."
    )


def stage_rows(architecture: Architecture) -> str:
    return "\n".join(
        f"| {stage.label} | {stage.stride} | {stage.out_channels} | {stage.layers} |" for stage in architecture.stages
    )


def count_row(name: str, table: Table) -> str:
    every, positive = table.counts, table.positive_counts
    return f"| {name} | {every.patients} | {every.breasts} | {every.images} | {positive.breasts} |"


def metric_texts(metrics: dict[str, Any]) -> dict[str, str]:
    """Format each metric for display: an interval as "low to high", an undefined value as "-"."""
    return {name: value_text(value) for name, value in metrics.items()}


def value_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(value_text(end) for end in value)
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
