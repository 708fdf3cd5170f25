"""The breasts that a reader should look at, and the pictures that the network had of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficientnet.inference.activation import class_activation
from efficientnet.mammography.crops import centre
from efficientnet.mammography.dataset import to_tensor
from efficientnet.mammography.dicom.grayscale import ShownImage
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.page.content import FALSE_POSITIVES, MISSED, TRUE_POSITIVES, Case, View
from efficientnet.mammography.page.heatmap import as_levels
from efficientnet.mammography.picture import check_content, open_image, preprocess_file
from efficientnet.mammography.prepare.contact_sheet import without_crop
from efficientnet.mammography.preprocessing import Box, Image, Preprocessing, breast_box, preprocess
from efficientnet.mammography.table import Breast, Table
from efficientnet.model import EfficientNet, JointViews


def breasts_that_matter(
    labels: NDArray[Any], probabilities: NDArray[Any], threshold: float | None, count: int = 4
) -> dict[str, list[int]]:
    """For each of `content.KINDS`, the indices of at most `count` of B breasts, the most extreme first.

    labels (B,): 0 or 1, NaN where unknown.  threshold: of calls `probability >= threshold`; None or NaN calls nothing
    and misses nothing. The strongest have the highest probabilities, the most clearly missed the lowest.
    """
    labels, probabilities = np.asarray(labels, float), np.asarray(probabilities, float)
    limit = np.nan if threshold is None else threshold
    called, missed = probabilities >= limit, probabilities < limit
    chosen = {
        TRUE_POSITIVES: (called & (labels == 1), -probabilities),
        FALSE_POSITIVES: (called & (labels == 0), -probabilities),
        MISSED: (missed & (labels == 1), probabilities),
    }
    found = {}
    for kind, (members, order) in chosen.items():
        places = np.flatnonzero(members)
        found[kind] = places[np.argsort(order[places], kind="stable")][:count].tolist()
    return found


class Shown(NamedTuple):
    """An image file as it was read.

    picture: what the network reads, before normalisation.  box: the crop in pixels of `image`; None for a prepared
    picture, which was cropped before.
    """

    image: ShownImage
    picture: Image
    box: Box | None


def read_shown(path: Path, settings: Preprocessing, laterality: str | None = None) -> Shown:
    """Read an image file once. Raises ImageError as `picture.read_picture` does."""
    image, key = open_image(path, settings)
    if key is None:
        picture = preprocess_file(path, image, settings, laterality)
        height, width = image.values.shape
        return Shown(image, centre(picture, settings), breast_box(image) if settings.crop else (0, height, 0, width))
    if key != settings.key:
        raise ImageError(f"{path}: was prepared with other settings ({key}, not {settings.key}); prepare it again")
    check_content(path, image.values)
    return Shown(image, centre(image.values, settings), None)


def activation(
    model: EfficientNet, pictures: Sequence[Image], settings: Preprocessing, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and class activations (V, H, W) of the V pictures of a breast.

    Logits are (V, O), or (1, O) of a network that reads all pictures of a breast at once.
    """
    images: Tensor = torch.stack([to_tensor(picture, settings) for picture in pictures]).to(device)
    logits, maps = class_activation(model, images[None] if isinstance(model, JointViews) else images, output=0)
    logits, maps = (values.detach().float().cpu().numpy() for values in (logits, maps))
    return logits, maps.reshape(len(pictures), *maps.shape[-2:])


def case_of(
    breast: Breast,
    table: Table,
    files: Sequence[Path | None],
    model: EfficientNet,
    settings: Preprocessing,
    device: torch.device,
    probability: float,
    most: int = 4,
) -> Case:
    """The case of a breast with its first `most` images, each of which is read once.

    files: of the table's rows.  model: in evaluation mode, not on the fast path.
    An image that cannot be read is a note in its place.
    """
    views: dict[int, View] = {}
    read: dict[int, Shown] = {}
    for row in breast.rows[:most]:
        name, path = table.rows[row].image_id, files[row]
        try:
            if path is None:
                raise ImageError("no image file")
            read[row] = read_shown(path, settings, table.rows[row].laterality)
        except ImageError as error:
            views[row] = View(name, note=str(error).removeprefix(f"{path}: "))
    if read:
        pictures = [shown.picture for shown in read.values()]
        _, maps = activation(model, pictures, settings, device)
        for (row, shown), heat in zip(read.items(), maps, strict=True):
            views[row] = view_of(table.rows[row].image_id, shown, heat, settings)
    ordered = [views[row] for row in breast.rows[:most]]
    return Case(breast.prediction_id, int(breast.label), probability, ordered)


def view_of(name: str, shown: Shown, heat: NDArray[Any], settings: Preprocessing) -> View:
    if shown.box is None:
        return View(name, shown.picture, heat)
    height, width = shown.image.values.shape
    whole = as_levels(preprocess(shown.image, without_crop((height, width), settings)))
    top, bottom, left, right = shown.box
    box = (top / height, bottom / height, left / width, right / width)
    return View(name, shown.picture, heat, whole, box, ", ".join(shown.image.notes))
