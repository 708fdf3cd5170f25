"""Rows of a table and a folder of images -> tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from efficientnet.mammography.crops import centre
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import read_picture
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.table import Table
from efficientnet.training.sampler import Draw
from efficientnet.training.task import Item

Transform = Callable[[np.ndarray, Any], np.ndarray]


class MammogramDataset(Dataset):
    """One `Item` per row of a table; its target (T,) is nan where a label is missing.

    A key is the index of a row, or a `Draw` that holds the index.
    transform(picture, key): a variation of the preprocessed picture, for training.
    replace_broken: in training, replace an unreadable image by the next readable one with the same first label;
        otherwise the item is blank, with readable=False.
    readings: the settings with which each row's file is read, where they differ in `SOURCE_SETTINGS`, as those of
        several data folders may; None reads all with `preprocessing`.
    """

    def __init__(
        self,
        table: Table,
        files: Sequence[Path | None],
        preprocessing: Preprocessing,
        transform: Transform | None = None,
        replace_broken: bool = False,
        readings: Sequence[Preprocessing] | None = None,
    ) -> None:
        self.table, self.files, self.preprocessing = table, list(files), preprocessing
        self.transform, self.replace_broken = transform, replace_broken
        self.readings = None if readings is None else list(readings)
        self.labels = table.labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> Item:
        wanted = key if isinstance(key, int) else key.index
        failures: list[str] = []
        for index in candidates(self.labels, wanted, self.replace_broken):
            image = self.read(index, key, failures)
            if image is not None:
                return Item(image, label(self.labels, index), index, self.table.rows[index].image_id, failures)
        missing = torch.full((self.labels.shape[1],), torch.nan)
        return Item(self.blank(), missing, wanted, self.table.rows[wanted].image_id, failures, readable=False)

    def read(self, index: int, key: Any, failures: list[str]) -> Tensor | None:
        """The image (C, H, W) of a row, varied for this key; None, with a line in `failures`, if it is unreadable."""
        try:
            picture = self.picture(index)
        except ImageError as error:
            failures.append(str(error))
            return None
        picture = self.transform(picture, key) if self.transform else centre(picture, self.preprocessing)
        return to_tensor(picture, self.preprocessing)

    def blank(self) -> Tensor:
        """An image (C, H, W) without a breast."""
        size = self.preprocessing.input_size or self.preprocessing.image_size
        return to_tensor(np.zeros(size, np.float32), self.preprocessing)

    def picture(self, index: int) -> np.ndarray:
        """The preprocessed picture of a row, float32 (height, width) in [0, 1].  Raises ImageError."""
        path, row = self.files[index], self.table.rows[index]
        if path is None:
            raise ImageError(f"{row.patient_id}/{row.image_id}: no image file for this row of {self.table.path.name}")
        reading = self.preprocessing if self.readings is None else self.readings[index]
        return read_picture(path, reading, row.laterality)


class BreastDataset(Dataset):
    """One `Item` per breast of a table: images (V, C, H, W), of which absent ones are nan, and a target (T,).

    With an int as key, an item has all images of the breast. With a `Draw`, V is `views`: that many are chosen at
    random, of different views if the breast has them, and each is varied with random numbers of its own. The draw and
    the seed alone determine the result.

    Unreadable images are left out. A breast without a readable image is replaced or blank, as in `MammogramDataset`.
    """

    def __init__(self, images: MammogramDataset, views: int = 2, seed: int = 0) -> None:
        self.images, self.views, self.seed = images, views, seed
        self.breasts, self.labels = images.table.breasts, images.table.breast_labels

    def __len__(self) -> int:
        return len(self.breasts)

    def __getitem__(self, key: int | Draw) -> Item:
        wanted = key.index if isinstance(key, Draw) else key
        failures: list[str] = []
        for index in candidates(self.labels, wanted, self.images.replace_broken):
            images = self.read(index, key, failures)
            if images:
                target, readable = label(self.labels, index), True
                break
        else:
            index, images = wanted, [self.images.blank()]
            target, readable = torch.full((self.labels.shape[1],), torch.nan), False
        if isinstance(key, Draw):
            images += [torch.full_like(images[0], torch.nan)] * (self.views - len(images))
        name = self.breasts[index].prediction_id
        return Item(torch.stack(images), target, index, name, failures, readable)

    def read(self, index: int, key: int | Draw, failures: list[str]) -> list[Tensor]:
        """The readable images of a breast in the table's order, or the first `views` in that of the draw."""
        images: list[Tensor] = []
        for row in self.drawn(index, key) if isinstance(key, Draw) else self.breasts[index].rows:
            if len(images) < self.views or not isinstance(key, Draw):
                # The draw's stream 0 gives the order.
                its_key = key._replace(stream=1 + len(images)) if isinstance(key, Draw) else key
                image = self.images.read(row, its_key, failures)
                images += [] if image is None else [image]
        return images

    def drawn(self, index: int, draw: Draw) -> list[int]:
        """The rows of a breast in a random order: first one of each view, then a second one of each, and so on."""
        rows, earlier = self.images.table.rows, Counter()

        def turn(row: int) -> int:
            earlier[rows[row].view] += 1
            return earlier[rows[row].view]

        return sorted(draw.generator(self.seed).permutation(self.breasts[index].rows).tolist(), key=turn)


def candidates(labels: np.ndarray, index: int, replace_broken: bool) -> Iterator[int]:
    """Yield the place itself and, with `replace_broken`, up to 20 others with the same first label (N, T)."""
    yield index
    if replace_broken:
        first = labels[:, 0]
        same = np.flatnonzero(np.isnan(first) if np.isnan(first[index]) else first == first[index])
        place = int(np.searchsorted(same, index))
        for step in range(1, min(21, same.size)):
            yield int(same[(place + step) % same.size])


def label(labels: np.ndarray, index: int) -> Tensor:
    """The labels (T,) of one place, as a copy."""
    return torch.from_numpy(labels[index].copy())


def to_tensor(picture: np.ndarray, settings: Preprocessing) -> Tensor:
    """Normalise a picture (H, W) to (x - mean) / std and repeat it over the channels: float32 (C, H, W)."""
    normalised = (np.asarray(picture, np.float32) - settings.mean) / settings.std
    return torch.from_numpy(normalised)[None].repeat(settings.in_channels, 1, 1)
