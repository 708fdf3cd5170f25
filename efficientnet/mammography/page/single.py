"""One image file, for `evaluate.py --image`: what the network says about it, and where it found evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from efficientnet.common.errors import UserError
from efficientnet.common.isolated import Failure
from efficientnet.mammography.dicom.headers import Header, look_at
from efficientnet.mammography.loss import lower_first
from efficientnet.mammography.page.breasts import Shown, activation, read_shown
from efficientnet.mammography.page.document import NOT_A_DEVICE, probability_text
from efficientnet.mammography.page.heatmap import heatmap_png
from efficientnet.mammography.targets import Target, output_probabilities, output_slices
from efficientnet.mammography.trained import Trained
from efficientnet.model import EfficientNet


def score_image(
    path: Path, trained: Trained, model: EfficientNet, device: torch.device
) -> tuple[dict[str, Any], str, bytes]:
    """Values for JSON, the text on one image, and its heatmap as a PNG file. Raises ImageError for an unreadable file.

    trained: of the checkpoint, with the preprocessing by which this file is to be read.  model: its network, in
    evaluation mode, not on the fast path.

    A header may name the side (ImageLaterality). It only decides if the picture itself does not show on which side the
    chest wall is.
    """
    settings = trained.preprocessing
    header = look_at(path, settings.accept_raw)
    if isinstance(header, Failure):  # the cause is found again
        header = None
    side = header.laterality if header and header.laterality in ("L", "R") else None
    shown = read_shown(path, settings, side)
    logits, heat = activation(model, [shown.picture], settings, device)
    if not np.isfinite(logits).all():
        raise UserError(f"{path}: the network's outputs are not finite; use another checkpoint")
    outputs = output_probabilities(lower_first(logits, trained.logit_shift), trained.heads)[0]
    places = output_slices(trained.heads)
    values = {
        target.name: target_value(target, outputs[place]) for target, place in zip(trained.heads, places, strict=True)
    }
    text = image_text(path, header, shown, trained, outputs)
    if not heat.any():
        text += "\nNo region raises the probability, so a heatmap has no colour."
    return values, text, heatmap_png(shown.picture, heat[0])


def image_text(
    path: Path,
    header: Header | None,
    shown: Shown,
    trained: Trained,
    outputs: NDArray[np.float64],
) -> str:
    """What was read and what the network says about it, one line for each.

    outputs (O,): see `targets.output_probabilities`; not calibrated, and compared with the threshold as they are.
    """
    height, width = shown.image.values.shape
    size = f"{height} x {width}"
    if header and header.rows_columns != size:  # see `Preprocessing.reduce_jpeg2000`
        size = f"{header.rows_columns}, decoded at {size}"
    kind = f", {header.photometric_interpretation}" if header else ""
    window = f", window {header.window}" if header and header.window != "-" else ""
    lines = [("file", str(path)), ("image", f"{size}{kind}{window}")]
    if shown.box is None:
        lines.append(("crop", "none: a prepared picture"))
    else:
        top, bottom, left, right = shown.box
        lines.append(("crop", f"rows {top} to {bottom}, columns {left} to {right}"))
    lines += [("note", note) for note in shown.image.notes]
    first = float(outputs[0])
    for target, place in zip(trained.heads, output_slices(trained.heads), strict=True):
        lines.append((target.name, target_text(target, outputs[place])))
        if place.start == 0 and trained.calibration is not None:
            calibrated = float(trained.calibration(first))
            lines.append(("calibrated", f"probability {probability_text(calibrated)} of {target.name}"))
    threshold = trained.threshold
    if threshold is None:
        lines.append(("threshold", "the checkpoint has none"))
    else:
        call = "would not be called" if first < threshold else "would be called"
        lines.append(("threshold", f"{probability_text(threshold)}: a breast of this probability {call}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join([*(f"{name:<{width}}  {text}" for name, text in lines), "", NOT_A_DEVICE])


def target_value(target: Target, outputs: NDArray[np.float64]) -> float | dict[str, float]:
    """A probability, one for each category, or a number in the table's unit."""
    if target.kind == "category":
        return dict(zip(target.values, outputs.tolist(), strict=True))
    return target.mean + target.std * float(outputs[0]) if target.kind == "number" else float(outputs[0])


def target_text(target: Target, outputs: NDArray[np.float64]) -> str:
    if target.kind == "number":
        return f"about {target_value(target, outputs):.4g}"
    if target.kind == "binary":
        return f"probability {probability_text(float(outputs[0]))}"
    order = np.argsort(-outputs, kind="stable")
    return ", ".join(f"{target.values[place]} {probability_text(float(outputs[place]))}" for place in order)
