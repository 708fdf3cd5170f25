"""The model card of a checkpoint, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from efficientnet.architecture import Architecture
from efficientnet.mammography.figures import as_markdown, score_line
from efficientnet.mammography.table import Table
from efficientnet.training.card import architecture_section, recipe_section


def model_card(
    plan: dict[str, Any],
    architecture: Architecture,
    train: Table,
    validation: Table,
    epoch: int,
    metrics: dict[str, Any],
    extras: Sequence[Table] = (),
) -> str:
    """Return the Markdown model card of a checkpoint: the model, its data, its scores, its limits.

    plan: the run's config.json.  epoch: counted from 1.  metrics: `figures.figures` of the validation breasts, or
    `BreastScores.metrics(intervals=True)`.  extras: further tables that were trained on.
    """
    settings = plan["settings"]
    recipe = plan["recipe"] | {
        name: settings[name] for name in ("augmentation", "views", "loss", "auxiliary_weight", "prior_correction")
    }
    phantom = plan["data"] is None
    if phantom:
        limits = "The phantoms are drawn, not acquired: no result here applies to mammograms."
    else:
        limits = "The figures apply only to patients and machines like those of the validation set."
    one_per_breast = "One probability per breast, the mean over its images."
    if settings.get("views") == "joint":
        one_per_breast = "One probability per breast, from all its images together."
    size, channels = tuple(settings["image_size"]), settings["in_channels"]
    outputs = sum(target.outputs for target in train.targets)
    further = "".join(f"\n{count_row(f'further training: {table.path}', table)}" for table in extras)
    return f"""# {architecture.title} for breast cancer on mammograms

{score_line(metrics)}

{architecture_section(architecture, size, outputs, channels)}
## Data
{"Synthetic phantoms of this project, no real mammograms." if phantom else plan["data"]}
Patients were split into {settings["folds"]} folds; fold {settings["fold"]} was held out.

| | patients | breasts | images | breasts with {train.target_names[0]} |
|---|---|---|---|---|
{count_row("training", train)}{further}
{count_row("validation", validation)}

Targets: {", ".join(train.target_names)}. Input: {" x ".join(map(str, size))} pixels, \
{channels} channel(s), crop to the breast {"on" if settings["crop"] else "off"}.

## Validation
Epoch {epoch} of {recipe["epochs"]}, chosen by {settings["select"]} on these same breasts, so all figures are
slightly optimistic. {one_per_breast}

{as_markdown(metrics)}

{recipe_section(recipe)}
## Limits
Not a medical device, and not tested as one: not for diagnosis, triage or any decision about a person.
{limits}
These weights are subject to the terms of the data that they were trained on.
"""


def count_row(name: str, table: Table) -> str:
    every, positive = table.counts, table.positive_counts
    return f"| {name} | {every.patients} | {every.breasts} | {every.images} | {positive.breasts} |"
