"""The lesions of a phantom: two kinds of cancer and two kinds of benign look-alike.

They differ in form, following the descriptors of the BI-RADS atlas (5th edition, 2013): an irregular, spiculated mass
or a cluster of fine pleomorphic microcalcifications is suspicious; an oval, circumscribed mass and coarse or vascular
calcifications are benign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Kind = Literal["spiculated mass", "microcalcifications", "circumscribed mass", "coarse calcifications"]

MALIGNANT: tuple[Kind, ...] = ("spiculated mass", "microcalcifications")
BENIGN: tuple[Kind, ...] = ("circumscribed mass", "coarse calcifications")


@dataclass(frozen=True)
class Lesion:
    """One lesion, the same in both views of the breast. Lengths are in picture heights."""

    kind: Kind
    depth: float  # behind the nipple: 0 at the nipple, 1 at the chest wall
    offset_cc: float  # sideways from the breast's axis, in units of its half length: -1 to 1
    offset_mlo: float
    diameter: float  # of the core of a mass, or of the area of a cluster
    contrast: float  # brightness above the surrounding tissue


class Drawing(NamedTuple):
    """The grid that a lesion is drawn on; each field is float32 (rows, columns)."""

    tissue: Field  # brightness; modified in place
    core: Field  # 1 within the lesion; modified in place
    x: Field
    y: Field


def draw_lesion(drawing: Drawing, lesion: Lesion, centre: tuple[float, float], generator: np.random.Generator) -> None:
    """Add the lesion to the tissue and its extent to the core. `centre` is (x, y) in picture heights."""
    draw = {
        "spiculated mass": spiculated_mass,
        "microcalcifications": microcalcifications,
        "circumscribed mass": circumscribed_mass,
        "coarse calcifications": coarse_calcifications,
    }[lesion.kind]
    patch = patch_around(drawing, centre, 1.6 * lesion.diameter)
    brightness, core = draw(patch, lesion, generator)
    drawing.tissue[patch.window] += np.float32(lesion.contrast) * brightness
    np.maximum(drawing.core[patch.window], core, out=drawing.core[patch.window])


class Patch(NamedTuple):
    """The part of the grid around a lesion, with the distance of each cell from its centre, to the right and down."""

    right: Field
    down: Field
    cell: float  # height of a row of the grid
    window: tuple[slice, slice]


def patch_around(drawing: Drawing, centre: tuple[float, float], reach: float) -> Patch:
    cell = float(drawing.y[1, 0] - drawing.y[0, 0])
    reach = max(reach, 10 * cell)
    columns, rows = (slice(max(0, int((c - reach) / cell)), max(1, int((c + reach) / cell) + 1)) for c in centre)
    right, down = drawing.x[rows, columns] - np.float32(centre[0]), drawing.y[rows, columns] - np.float32(centre[1])
    return Patch(right, down, cell, (rows, columns))


# Each of these functions returns the brightness to add per unit of contrast, and the extent of the lesion in [0, 1].


def spiculated_mass(patch: Patch, lesion: Lesion, generator: np.random.Generator) -> tuple[Field, Field]:
    """An irregular bright core with radiating, tapering spicules."""
    core_radius = lesion.diameter / 2
    radius, angle = np.hypot(patch.right, patch.down), np.arctan2(patch.down, patch.right)
    border = np.full_like(radius, core_radius)
    for lobes in range(2, 8):
        border += 0.2 / lobes * core_radius * np.cos(lobes * angle + np.float32(generator.uniform(0, 2 * np.pi)))
    core = soft_step(border - radius, 2 * patch.cell + 0.25 * core_radius)
    spicules = np.zeros_like(radius)
    count = int(generator.integers(16, 25))
    for place in range(count):
        direction = 2 * np.pi * (place + generator.uniform(-0.4, 0.4)) / count
        length, bend = generator.uniform(0.7, 2.1) * core_radius, generator.uniform(-0.2, 0.2) / core_radius
        cosine, sine = np.float32(np.cos(direction)), np.float32(np.sin(direction))
        ahead = patch.right * cosine + patch.down * sine
        aside = patch.down * cosine - patch.right * sine - np.float32(bend) * ahead * ahead
        taper = np.clip(1 - (ahead - 0.8 * core_radius) / length, 0, 1) * (ahead > 0)
        width = (0.5 * patch.cell + 0.08 * core_radius) * (0.4 + 0.6 * taper)
        np.maximum(spicules, taper * np.exp(-((aside / width) ** 2)), out=spicules)
    return np.maximum(core * (1.1 - 0.25 * radius / core_radius), 0.7 * spicules), core


def microcalcifications(patch: Patch, lesion: Lesion, generator: np.random.Generator) -> tuple[Field, Field]:
    """A cluster of bright specks of varying size and brightness on a faint haze."""
    reach = lesion.diameter / 2
    count = int(generator.integers(14, 24))
    distance, angle = reach * np.sqrt(generator.uniform(0, 0.8, count)), generator.uniform(0, 2 * np.pi, count)
    widths, heights = patch.cell * generator.uniform(1.1, 1.9, count), generator.uniform(0.7, 1.5, count)
    specks = draw_specks(patch, distance * np.cos(angle), distance * np.sin(angle), widths, heights)
    radius = np.hypot(patch.right, patch.down)
    return specks + 0.3 * np.exp(-((radius / np.float32(reach)) ** 2)), soft_step(reach - radius, patch.cell)


def circumscribed_mass(patch: Patch, lesion: Lesion, generator: np.random.Generator) -> tuple[Field, Field]:
    """An oval with an even, sharp border, like a cyst or a fibroadenoma."""
    turn, flatness = generator.uniform(0, np.pi), generator.uniform(0.7, 1.0)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along, across = patch.right * cosine + patch.down * sine, patch.down * cosine - patch.right * sine
    radius = np.hypot(along, across / np.float32(flatness))
    core = soft_step(lesion.diameter / 2 - radius, 1.5 * patch.cell)
    return core, core


def coarse_calcifications(patch: Patch, lesion: Lesion, generator: np.random.Generator) -> tuple[Field, Field]:
    """One or two large grains, or the broken parallel lines of a calcified artery."""
    if generator.uniform() < 0.5:
        count = int(generator.integers(1, 3))
        right, down = generator.uniform(-0.5, 0.5, (2, count)) * lesion.diameter
        widths, heights = patch.cell * generator.uniform(2.2, 3.2, count), np.ones(count)
    else:
        count = int(generator.integers(9, 13))
        along = np.linspace(-1, 1, count) * lesion.diameter
        aside = np.where(np.arange(count) % 2, 1.5, -1.5) * patch.cell + 0.25 * along**2 / lesion.diameter
        turn = generator.uniform(0, 2 * np.pi)
        right, down = along * np.cos(turn) - aside * np.sin(turn), along * np.sin(turn) + aside * np.cos(turn)
        widths, heights = np.full(count, 1.6 * patch.cell), generator.uniform(0.3, 0.6, count)
    specks = draw_specks(patch, right, down, widths, heights)
    return specks, soft_step(specks - 0.2, 0.05)


def draw_specks(
    patch: Patch,
    right: NDArray[np.float64],
    down: NDArray[np.float64],
    widths: NDArray[np.float64],
    heights: NDArray[np.float64],
) -> Field:
    """Draw k grains as flat-topped bells; where they overlap, the highest counts. All arrays have shape (k,)."""
    picture = np.zeros_like(patch.right)
    for grain in np.stack([right, down, widths, heights], axis=1).astype(np.float32):
        squared = ((patch.right - grain[0]) ** 2 + (patch.down - grain[1]) ** 2) / grain[2] ** 2
        np.maximum(picture, grain[3] * np.exp(-squared * np.sqrt(squared)), out=picture)
    return picture


def soft_step(inside: Field, softness: float) -> Field:
    """A smooth step from 0 outside to 1 inside, about as wide as `softness`."""
    return 1 / (1 + np.exp(np.clip(np.float32(-4 / softness) * inside, -30, 30)))
