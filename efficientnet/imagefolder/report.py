"""MODEL_CARD.md, the summary of all folds, and the comparison of two models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet.architecture import Architecture
from efficientnet.common.errors import UserError
from efficientnet.imagefolder.scoring import (
    SAMPLES,
    TOP,
    Prediction,
    Scores,
    as_text,
    percent,
    predictions_csv,
    read_predictions,
    score_line,
)
from efficientnet.metrics.bootstrap import interval
from efficientnet.training.card import architecture_section, recipe_section
from efficientnet.training.task import Report

PREDICTIONS, SUMMARY = "predictions.csv", "summary.json"


def model_card(
    plan: Mapping[str, Any],
    architecture: Architecture,
    classes: Sequence[str],
    data: Sequence[tuple[str, str]],
    epoch: int,
    figures: dict[str, Any],
) -> str:
    """The Markdown model card of a checkpoint.

    plan: the run's config.json.  data: lines (name, text) on the images.  epoch: counted from 1.
    figures: `Scores.figures` of the validation images.
    """
    settings, recipe = plan["settings"], plan["recipe"]
    size, channels = tuple(settings["image_size"]), settings["in_channels"]
    augmentation = {name: settings[name] for name in ("crop_scale", "flip", "auto_augment", "magnitude")}
    shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    rows = "\n".join(f"| {name} | {text} |" for name, text in data)
    start = f"Weights to start from: {plan['weights']}." if plan["weights"] else "Trained from random weights."
    return f"""# {architecture.title} for {len(classes):,} classes

{score_line(figures)}

{architecture_section(architecture, size, len(classes), channels)}
## Data
| | |
|---|---|
{rows}

Classes: {shown}. Input: {" x ".join(map(str, size))} pixels, {channels} channel(s), centre crop \
{settings["crop_fraction"]}, {settings["interpolation"]}.

## Validation
Epoch {epoch} of {recipe["epochs"]}, chosen by {settings["select"]} on these same images, so all figures are slightly
optimistic.

```
{as_text(figures)}
```

{recipe_section({"recipe": plan["recipe_name"], **recipe, **augmentation})}
## Limits
{start} The figures apply only to images like those of the validation set.
These weights are subject to the terms of the data that they were trained on.
"""


def figures_of(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """`Scores.figures` of labelled predictions, in which a rank beyond the listed classes is unknown."""
    classes = sorted({name for each in predictions for name in (each.label, *each.classes)})
    place = {name: label for label, name in enumerate(classes)}
    labels = np.array([place[each.label] for each in predictions])
    predicted = np.array([place[each.classes[0]] for each in predictions])
    return Scores(classes, labels, predicted, np.array([rank_of(each) for each in predictions])).figures()


def rank_of(prediction: Prediction) -> int:
    """How many of the listed classes are before the true one."""
    classes = list(prediction.classes)
    return classes.index(prediction.label) if prediction.label in classes else len(classes)


def summarise_folds(runs: Sequence[Path]) -> tuple[str, dict[str, bytes]]:
    """A text for the terminal, and the files of the folder: predictions.csv and summary.json, all out of fold.

    Raises UserError if a run has no predictions.csv, or if two runs have scored the same image.
    """
    found: dict[str, Prediction] = {}
    for run in runs:
        path = run / PREDICTIONS
        try:
            rows = read_predictions(str(path), path.read_bytes())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); resume the run that writes it") from None
        if common := rows.keys() & found.keys():
            raise UserError(
                f"{path}: {min(common)} was held out by another fold too, so the folder has changed between the folds; "
                "start them anew"
            )
        found |= rows
    predictions = list(found.values())
    figures = figures_of(predictions)
    text = f"{score_line(figures)}, each out of fold\n\n{as_text(figures)}"
    summary = json.dumps({"folds": len(runs), **figures}, indent=2) + "\n"
    return text, {PREDICTIONS: predictions_csv(predictions), SUMMARY: summary.encode()}


def compare_predictions(names: Sequence[str], files: Sequence[bytes]) -> Report:
    """Compare models A and B on the labelled images that both have scored, by a paired bootstrap.

    names: of A and B.  files: their predictions.csv. Raises UserError for a file that is no such table, for different
    labels of an image, and if the two have no labelled image in common.
    """
    first, second = (read_predictions(name, file) for name, file in zip(names, files, strict=True))
    common = [file for file, each in first.items() if file in second and each.label]
    for file in common:
        if first[file].label != second[file].label:
            raise UserError(f"{names[0]} and {names[1]}: the class of {file} differs; use the same data")
    if not common:
        raise UserError(f"{names[0]} and {names[1]}: no labelled image was scored by both")
    ranks = [np.array([rank_of(each[file]) for file in common]) for each in (first, second)]
    values: dict[str, Any] = {"compared": list(names), "count": len(common), "metrics": {}}
    lines = [f"A  {names[0]}", f"B  {names[1]}", "", f"{len(common):,} images scored by both", ""]
    lines.append(f"{'':<7}{'A':>8}{'B':>8}{'B - A':>8}   {'95 % interval':<18}  B is better in")
    few = max(len(each.classes) for each in first.values()) < TOP
    for name, count in (("top1", 1), ("top5", TOP))[: 1 if few else 2]:
        a, b = (rank < count for rank in ranks)
        drawn = drawn_differences(int((b & ~a).sum()), int((a & ~b).sum()), len(common))
        low, high = interval(drawn)
        better = float(((drawn > 0) + 0.5 * (drawn == 0)).mean())
        values["metrics"][name] = {
            "first": float(a.mean()),
            "second": float(b.mean()),
            "difference": float(b.mean() - a.mean()),
            "difference_interval": [low, high],
            "second_is_better": better,
        }
        ends = f"{100 * low:+.2f} to {100 * high:+.2f}"
        lines.append(
            f"top-{count}  {percent(a.mean()):>8}{percent(b.mean()):>8}{100 * (b.mean() - a.mean()):>+8.2f}   "
            f"{ends:<18}  {100 * better:.1f} %"
        )
    lines += ["", "Percent; paired bootstrap over images, in which a tie is one half."]
    return Report(values, "\n".join(lines))


def drawn_differences(better: int, worse: int, count: int) -> np.ndarray:
    """Differences of a share in bootstrap draws of `count` images, of which some became better and some worse.

    The numbers of each kind in a draw with replacement are multinomial, as in `scoring.share_interval`.
    """
    shares = np.array([better, worse, count - better - worse]) / count
    drawn = np.random.default_rng(0).multinomial(count, shares, SAMPLES)
    return (drawn[:, 0] - drawn[:, 1]) / count
