"""Rows of a table and a folder of images -> tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from efficientnet.mammography.dicom import ImageError, read_image
from efficientnet.mammography.preprocessing import Preprocessing, preprocess, to_tensor
from efficientnet.mammography.table import Table

# In the order of preference where an image exists in several forms.
SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")

Transform = Callable[[np.ndarray, Any], np.ndarray]


def find_images(table: Table, root: Path, folder: str = "train_images") -> list[Path | None]:
    """The file of each row of the table, None where there is none.

    Looked for in `root/folder` where that exists, else in `root`, as `<patient_id>/<image_id>.<suffix>` or flat as
    `<image_id>.<suffix>`, with suffix dcm, dicom, png, jpg or jpeg.  Each folder is listed once.
    """
    base = root / folder if (root / folder).is_dir() else root
    best: dict[tuple[str, str], tuple[int, str]] = {}  # (patient or "", image) -> (preference, path)

    def note(entry: os.DirEntry, patient: str) -> None:
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() in SUFFIXES:
            candidate = (SUFFIXES.index(suffix.lower()), entry.path)
            best[patient, stem] = min(candidate, best.get((patient, stem), candidate))

    patients = set(table.patients)
    with os.scandir(base) as entries:
        for entry in entries:
            if entry.name in patients and entry.is_dir():
                with os.scandir(entry.path) as images:
                    for image in images:
                        note(image, entry.name)
            else:
                note(entry, "")
    files = []
    for row in table.rows:
        found = best.get((row.patient_id, row.image_id)) or best.get(("", row.image_id))
        files.append(Path(found[1]) if found else None)
    return files


def read_any_image(path: Path, window: int = 0) -> np.ndarray:
    """One image file as float32 (H, W) in [0, 1], tissue bright.  Raises ImageError in one line.

    DICOM goes through `dicom.read_image`.  PNG and JPEG (the competition's community copies, or a prepared folder)
    are taken as already windowed with tissue bright: 8 bits over 255, 16 bits over 65535, colour as its luminance.
    """
    if path.suffix.lower() in (".dcm", ".dicom"):
        return read_image(path, window)
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16-bit PNG
                return np.asarray(image, dtype=np.float32) / np.float32(65535)
            return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error}); replace it or take it out") from None


@dataclass(frozen=True)
class Batch:
    """What the network gets: images (N, C, H, W), targets (N, T) with nan for missing, and their rows in the table.

    failures has a line for each image that could not be read.  readable: the places in the batch that hold a picture;
    the others are blank.
    """

    images: Tensor
    targets: Tensor
    indices: list[int]
    failures: list[str]
    readable: list[int]

    def pin_memory(self) -> Batch:
        """What a loader with pin_memory=True calls: page-locked copies, which go to a GPU in the background."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


class MammogramDataset(Dataset):
    """Item `key` is row `key.index` (or row `key`, an int) of the table: picture, targets, and what went wrong.

    transform(picture, key): a variation of the preprocessed picture for training.
    replace_broken: an unreadable image is replaced by the next readable one with the same first label (in training);
        otherwise it comes back blank and marked.
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

    def __getitem__(self, key: Any) -> tuple[Tensor, Tensor, int, list[str], bool]:
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
            image = to_tensor(picture, self.preprocessing)
            return image, torch.from_numpy(self.labels[index].copy()), index, failures, False
        height, width = self.preprocessing.image_size
        image = to_tensor(np.zeros((height, width), np.float32), self.preprocessing)
        return image, torch.full((self.labels.shape[1],), torch.nan), wanted, failures, True

    def candidates(self, index: int) -> Iterator[int]:
        """The row itself; then, in training, up to 20 that may stand in for it."""
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
        return preprocess(
            read_any_image(path, self.preprocessing.window), self.preprocessing, laterality=row.laterality
        )


def collate(items: Sequence[tuple[Tensor, Tensor, int, list[str], bool]]) -> Batch:
    images, targets, indices, failures, blank = zip(*items, strict=True)
    return Batch(
        torch.stack(images),
        torch.stack(targets),
        list(indices),
        [line for lines in failures for line in lines],
        [place for place, is_blank in enumerate(blank) if not is_blank],
    )
