"""Rows of a table and a folder of images -> tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import read_picture
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.table import Table
from efficientnet.training.task import Item

Transform = Callable[[np.ndarray, Any], np.ndarray]


class MammogramDataset(Dataset):
    """One `Item` per row of a table; its target (T,) is nan where a label is missing.

    A key is the index of a row, or a `Draw` that holds the index.
    transform(picture, key): a variation of the preprocessed picture, for training.
    replace_broken: in training, replace an unreadable image by the next readable one with the same first label;
        otherwise the item is blank, with readable=False.
    """

    def __init__(
        self,
        table: Table,
        files: Sequence[Path | None],
        preprocessing: Preprocessing,
        transform: Transform | None = None,
        replace_broken: bool = False,
    ) -> None:
        self.table, self.files, self.preprocessing = table, list(files), preprocessing
        self.transform, self.replace_broken = transform, replace_broken
        self.labels = table.labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> Item:
        wanted = key if isinstance(key, int) else key.index
        failures: list[str] = []
        for index in self.candidates(wanted):
            try:
                picture = self.picture(index)
            except ImageError as error:
                failures.append(str(error))
                continue
            if self.transform is not None:
                picture = self.transform(picture, key)
            target = torch.from_numpy(self.labels[index].copy())
            image_id = self.table.rows[index].image_id
            return Item(to_tensor(picture, self.preprocessing), target, index, image_id, failures)
        blank = to_tensor(np.zeros(self.preprocessing.image_size, np.float32), self.preprocessing)
        missing = torch.full((self.labels.shape[1],), torch.nan)
        return Item(blank, missing, wanted, self.table.rows[wanted].image_id, failures, readable=False)

    def candidates(self, index: int) -> Iterator[int]:
        """Yield the row itself and, with `replace_broken`, up to 20 rows that may replace it."""
        yield index
        if self.replace_broken:
            same = np.flatnonzero(self.labels[:, 0] == self.labels[index, 0])
            place = int(np.searchsorted(same, index))
            for step in range(1, min(21, same.size)):
                yield int(same[(place + step) % same.size])

    def picture(self, index: int) -> np.ndarray:
        """The preprocessed picture of a row, float32 (height, width) in [0, 1].  Raises ImageError."""
        path, row = self.files[index], self.table.rows[index]
        if path is None:
            raise ImageError(f"{row.patient_id}/{row.image_id}: no image file for this row of {self.table.path.name}")
        return read_picture(path, self.preprocessing, row.laterality)


def to_tensor(picture: np.ndarray, settings: Preprocessing) -> Tensor:
    """Normalise a picture (H, W) to (x - mean) / std and repeat it over the channels: float32 (C, H, W)."""
    normalised = (np.asarray(picture, np.float32) - settings.mean) / settings.std
    return torch.from_numpy(normalised)[None].repeat(settings.in_channels, 1, 1)
