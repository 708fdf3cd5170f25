"""Images of a listing -> tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from efficientnet.imagefolder.augment import auto_augment, rand_augment
from efficientnet.imagefolder.listing import Names
from efficientnet.imagefolder.pictures import Box, PictureError, read_centre_crop, read_training_crop
from efficientnet.imagefolder.settings import CROP_PADDING, PADDED
from efficientnet.training.cropping import random_crop_box
from efficientnet.training.sampler import Draw
from efficientnet.training.task import Item

UNKNOWN = -1  # the label of an image without a class
IGNORED = -100  # the target of a blank image; `torch.nn.functional.cross_entropy` skips it
REPLACEMENTS = 20  # images of the same class that are tried in place of an unreadable one


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input, apart from augmentation.

    image_size: (height, width).  mean, std: per channel, of pixels in [0, 1].
    crop_fraction: side of the centre crop as a share of the short side; "padded" is size / (size + 32).
    interpolation: "bicubic" or "bilinear", both antialiased.
    """

    image_size: tuple[int, int]
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_fraction: float | str
    interpolation: str

    @property
    def mode(self) -> str:
        """Pillow's mode of the images."""
        return "RGB" if self.in_channels == 3 else "L"

    @property
    def fraction(self) -> float:
        side = min(self.image_size)
        return side / (side + CROP_PADDING) if self.crop_fraction == PADDED else self.crop_fraction

    @property
    def resampling(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def tensor(self, picture: Image.Image) -> Tensor:
        """The normalised tensor, float32 (C, H, W), of a picture of the image size."""
        pixels = torch.from_numpy(np.array(picture)).reshape(*self.image_size, self.in_channels).permute(2, 0, 1)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels.contiguous().float() / 255 - mean) / std

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Inverse of `to_dict`. Raises TypeError for values that are missing or unknown."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclass(frozen=True)
class Augmentation:
    """Random variations of training images, determined by (seed, epoch, position) alone. See `ImageFolderSettings`."""

    seed: int
    crop_scale: tuple[float, float]
    flip: bool
    auto_augment: str
    magnitude: float

    def read(self, path: Path, draw: Draw, preprocessing: Preprocessing) -> Image.Image:
        """A random resized crop, mirrored half of the time, then varied by the policy. Raises PictureError."""
        generator = draw.generator(self.seed)
        choose = partial(crop_box, generator=generator, scale=self.crop_scale)
        size, resampling = preprocessing.image_size, preprocessing.resampling
        picture = read_training_crop(path, preprocessing.mode, size, choose, resampling)
        if self.flip and generator.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.auto_augment == "autoaugment":
            return auto_augment(picture, generator)
        if self.auto_augment == "randaugment":
            return rand_augment(picture, generator, magnitude=self.magnitude)
        return picture


def crop_box(height: int, width: int, generator: np.random.Generator, scale: tuple[float, float]) -> Box:
    """`random_crop_box` as (left, top, right, bottom)."""
    top, left, rows, columns = random_crop_box(height, width, generator, scale)
    return left, top, left + columns, top + rows


@dataclass(frozen=True)
class Images:
    """N images below `root`: their paths relative to it, and their labels int64 (N,), UNKNOWN without a class."""

    root: Path
    names: Names
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        return self.root / self.names[index]

    def name_below(self, data: Path, index: int) -> str:
        """The path relative to the data folder, which contains `root` or is it, with "/" between folders."""
        return (self.root.relative_to(data) / self.names[index]).as_posix()


class FolderDataset(Dataset):
    """One `Item` per image; its target () is its label, or IGNORED if it is unreadable or has none.

    A key is an index or, with `augmentation`, a `Draw`.
    replace_broken: in training, replace an unreadable image by the next readable one of its class.
    """

    def __init__(
        self,
        images: Images,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        replace_broken: bool = False,
    ) -> None:
        self.images, self.preprocessing = images, preprocessing
        self.augmentation, self.replace_broken = augmentation, replace_broken

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | Draw) -> Item:
        wanted = key.index if isinstance(key, Draw) else key
        failures: list[str] = []
        for attempt, index in enumerate(self.candidates(wanted)):
            try:
                picture = self.read(index, key._replace(stream=attempt) if isinstance(key, Draw) else None)
            except PictureError as error:
                failures.append(str(error))
                continue
            label = int(self.images.labels[index])
            target = torch.tensor(IGNORED if label == UNKNOWN else label)
            return Item(self.preprocessing.tensor(picture), target, index, self.images.names[index], failures)
        settings = self.preprocessing
        blank = torch.zeros(settings.in_channels, *settings.image_size)
        return Item(blank, torch.tensor(IGNORED), wanted, self.images.names[wanted], failures, readable=False)

    def read(self, index: int, draw: Draw | None) -> Image.Image:
        """A picture of the image size: a random variation for a draw, else the centre.  Raises PictureError."""
        path, settings = self.images.path(index), self.preprocessing
        if self.augmentation is not None and draw is not None:
            return self.augmentation.read(path, draw, settings)
        return read_centre_crop(path, settings.mode, settings.image_size, settings.fraction, settings.resampling)

    def candidates(self, index: int) -> Iterator[int]:
        """Yield the index itself and, with `replace_broken`, some others of its class."""
        yield index
        if self.replace_broken:
            same = np.flatnonzero(self.images.labels == self.images.labels[index])
            place = int(np.searchsorted(same, index))
            for step in range(1, min(1 + REPLACEMENTS, same.size)):
                yield int(same[(place + step) % same.size])
