"""The picture of a phantom: a synthetic mammogram and its ground truth, drawn with numpy and Pillow.

From back to front, it consists of the outline of a compressed breast and its thickness, fat, fibroglandular tissue with
the texture of real parenchyma (power falls as about f^-3: Burgess et al., Medical Physics 28(4), 2001), ligaments, skin
and nipple, the pectoral muscle in oblique views, a lesion, quantum noise, and a marker of side and view.

Lengths are in picture heights; x points right from the chest wall, y down. Every breast is drawn as a left one, and a
right one is mirrored. Tissue is drawn on GRID_ROWS rows, then enlarged, so the anatomy is the same at every size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from efficientnet.mammography.phantom.lesion import Drawing, Lesion, draw_lesion

Laterality = Literal["L", "R"]
View = Literal["CC", "MLO"]
Field = NDArray[np.float32]  # (rows, columns) of the grid

DEFAULT_SIZE = (640, 512)  # height, width: enough for a cropped breast at an input size of 300

GRID_ROWS = 320
OUTLINE_ROWS = 80  # the distance to the skin is smooth, so a quarter of the grid's rows is enough
OUTLINE_POINTS = 120
WALL = 0.15  # share of the breast's round outline that lies beyond the edge of the picture

NIPPLE_RADIUS = 0.016

FAT = 0.27  # brightness of fat at full thickness
MUSCLE = 0.22  # brightness that the pectoral muscle adds
SKIN = 0.04
NOISE = 0.014  # standard deviation at brightness 1; grows with the square root of brightness, like quantum noise
BRIGHTEST = 0.97  # of tissue; white is reserved for the marker
# Fibroglandular tissue by BI-RADS density: brightness above fat, and how far it fills the breast.
GLAND = {"A": (0.14, -0.35), "B": (0.20, -0.10), "C": (0.25, 0.15), "D": (0.30, 0.40)}


@dataclass(frozen=True)
class Anatomy:
    """The properties that all four views of a patient share."""

    density: Literal["A", "B", "C", "D"]
    projection: float  # from the chest wall to the nipple
    half_length: float  # half of the breast's extent along the chest wall, in CC
    pointedness: float  # of the outline: 0.8 is round, 1.2 conical


class PhantomImage(NamedTuple):
    """A picture, float32 (H, W) in [0, 1] with tissue bright, and two masks, bool (H, W).

    The lesion mask is the core of a mass, the area of a cluster, or the coarse grains; it is empty without a lesion.
    """

    image: NDArray[np.float32]
    lesion: NDArray[np.bool_]
    breast: NDArray[np.bool_]


class Projection(NamedTuple):
    """The positions of the parts of a breast in one view."""

    reach: float  # from the chest wall to the nipple, in this picture
    half_length: float  # half of the extent along the chest wall, in this picture
    outline: NDArray[np.float32]  # (points, 2): x, y of the skin from top to bottom
    nipple: tuple[float, float]
    axis: tuple[float, float]  # unit vector from the nipple into the breast
    muscle: tuple[float, float] | None  # where the muscle's edge meets the picture's top and the chest wall


def phantom_image(
    anatomy: Anatomy,
    laterality: Laterality,
    view: View,
    lesion: Lesion | None,
    generator: np.random.Generator,
    size: tuple[int, int] = DEFAULT_SIZE,
) -> PhantomImage:
    """Draw one view of one breast at `size` (height, width). The same generator state gives the same picture."""
    height, width = size
    columns = max(1, round(GRID_ROWS * width / height))
    projection = project(anatomy, view, width / height, generator)
    x, y = coordinates((GRID_ROWS, columns))
    depth = depth_below_skin(projection, (GRID_ROWS, columns), x, y)
    tissue = draw_tissue(anatomy, projection, x, y, depth, generator)
    core = np.zeros_like(tissue)
    if lesion is not None:
        draw_lesion(Drawing(tissue, core, x, y), lesion, lesion_centre(lesion, view, projection, depth), generator)
    tissue *= np.clip(depth * GRID_ROWS + 0.5, 0, 1)  # the edge of the skin, as wide as one row
    image = np.clip(enlarge(tissue, size), 0, BRIGHTEST)
    breast, core = repeat(depth > 0, size), repeat((core > 0.5) & (depth > 0), size)
    noise = generator.standard_normal(size, dtype=np.float32)
    image += NOISE * np.sqrt(image + np.float32(0.02)) * noise
    if laterality == "R":
        image, breast, core = image[:, ::-1], breast[:, ::-1], core[:, ::-1]
    image = with_marker(np.clip(image, 0, 1), laterality, view)
    return PhantomImage(image, core, breast)


def project(anatomy: Anatomy, view: View, aspect: float, generator: np.random.Generator) -> Projection:
    """Lay out the breast in one view; its position varies a little from picture to picture."""
    reach = anatomy.projection * min(1.0, aspect / 0.8) * generator.uniform(0.96, 1.04)
    half = anatomy.half_length * generator.uniform(0.97, 1.03)
    if view == "CC":
        middle = 0.5 + generator.uniform(-0.04, 0.04)
        angle = np.linspace(-np.pi / 2, np.pi / 2, OUTLINE_POINTS)
        x, y = np.cos(angle) ** anatomy.pointedness, np.sin(angle)
        # The chest wall cuts through the round outline, which meets it at a slant.
        outline = np.stack([reach * (x - WALL) / (1 - WALL), middle + half * y], axis=1)
        return Projection(reach, half, outline.astype(np.float32), (reach, middle), (-1.0, 0.0), None)
    level = generator.uniform(0.58, 0.66)  # y of the nipple
    muscle_top = min(generator.uniform(0.22, 0.34), 0.6 * reach)
    armpit = muscle_top + generator.uniform(0.05, 0.1)  # where the outline meets the top of the picture
    down = np.linspace(0, 1, OUTLINE_POINTS // 2, endpoint=False)
    upper = armpit + (reach - armpit) * np.sin(np.pi / 2 * down) ** 1.7
    angle = np.linspace(0, np.pi / 2, OUTLINE_POINTS // 2)
    lower = reach * (np.cos(angle) ** (0.9 * anatomy.pointedness) - WALL) / (1 - WALL)
    rows = np.concatenate([level * down, level + 0.75 * half * np.sin(angle)])
    outline = np.stack([np.concatenate([upper, lower]), rows], axis=1).astype(np.float32)
    tilt = generator.uniform(0.25, 0.5)
    axis = (-float(np.cos(tilt)), -float(np.sin(tilt)))
    muscle = (muscle_top, generator.uniform(0.42, 0.62))
    return Projection(reach, half, outline, (reach, level), axis, muscle)


def depth_below_skin(projection: Projection, grid: tuple[int, int], x: Field, y: Field) -> Field:
    """Distance to the skin, negative in the surrounding air; (rows, columns)."""
    coarse_x, coarse_y = coordinates((OUTLINE_ROWS, max(1, round(OUTLINE_ROWS * grid[1] / grid[0]))))
    outline_x, outline_y = projection.outline.T
    nearest = ((coarse_x[..., None] - outline_x) ** 2 + (coarse_y[..., None] - outline_y) ** 2).argmin(axis=-1)
    along_x, along_y = np.gradient(outline_x), np.gradient(outline_y)
    length = np.hypot(along_x, along_y)
    inward_x, inward_y = -along_y / length, along_x / length
    # Distance to the tangent at the nearest point, not to the point, so that the outline is smooth between points.
    depth = (coarse_x - outline_x[nearest]) * inward_x[nearest] + (coarse_y - outline_y[nearest]) * inward_y[nearest]
    nipple_x, nipple_y = projection.nipple
    nipple = NIPPLE_RADIUS - np.hypot(x - np.float32(nipple_x), y - np.float32(nipple_y))
    return np.maximum(enlarge(depth, grid), nipple)


def draw_tissue(
    anatomy: Anatomy, projection: Projection, x: Field, y: Field, depth: Field, generator: np.random.Generator
) -> Field:
    """Brightness of a breast without a lesion, (rows, columns) of the grid."""
    # A compressed breast has an even thickness except at its rim, which is round like half a circle.
    rim = np.clip(1 - depth / 0.16, 0, 1)
    thickness = np.sqrt(1 - rim**2)
    broad = random_texture(generator, depth.shape, exponent=3.0)
    # Septa and ligaments are thin, branching lines where a smooth field changes sign, at two scales.
    septa = sum(random_lines(generator, broad, lowest) for lowest in (6, 14))
    brightness, fill = GLAND[anatomy.density]
    gland = gland_share(projection, fill, x, y, depth, broad)
    tissue = thickness * (FAT + 0.015 * broad + 0.05 * septa)
    tissue += gland * np.float32(brightness) * np.clip(0.65 + 0.25 * broad + 0.3 * septa, 0.1, 1.5)
    tissue += SKIN * np.exp(-(((depth - 0.006) / 0.005) ** 2))
    if projection.muscle is not None:
        tissue += draw_muscle(projection.muscle, x, y, septa, tissue)
    return tissue


def gland_share(projection: Projection, fill: float, x: Field, y: Field, depth: Field, broad: Field) -> Field:
    """Share of fibroglandular tissue in [0, 1]: a cone that opens from the nipple, with a ragged edge."""
    inward, sideways = along_axis(projection, x, y)
    inward /= np.float32(projection.reach)
    sideways /= np.float32(projection.half_length)
    distance = np.sqrt(((inward - 0.42) / 0.5) ** 2 + (sideways / (0.25 + 0.6 * np.clip(inward, 0, 1))) ** 2)
    share = logistic((1 + fill - distance + 0.35 * broad) / 0.12)
    return share * np.clip((depth - 0.02) / 0.05, 0, 1)  # fat lies between gland and skin


def draw_muscle(muscle: tuple[float, float], x: Field, y: Field, septa: Field, tissue: Field) -> Field:
    """The brightness that the pectoral muscle adds: a slightly convex triangle between the top and the chest wall."""
    top, bottom = map(np.float32, muscle)
    inside = (1 - x / top - y / bottom) / np.hypot(1 / top, 1 / bottom)  # distance to its edge
    inside += 0.03 * np.sin(np.pi * np.clip(y / bottom, 0, 1))
    share = logistic(inside / 0.008)
    return share * (FAT + MUSCLE + np.clip(inside, 0, 0.2) + 0.02 * septa - tissue)


def along_axis(projection: Projection, x: Field, y: Field) -> tuple[Field, Field]:
    """Distance from the nipple along the axis into the breast, and across the axis."""
    (nipple_x, nipple_y), (axis_x, axis_y) = projection.nipple, projection.axis
    right, down = x - np.float32(nipple_x), y - np.float32(nipple_y)
    axis_x, axis_y = np.float32(axis_x), np.float32(axis_y)
    return right * axis_x + down * axis_y, down * axis_x - right * axis_y


def lesion_centre(lesion: Lesion, view: View, projection: Projection, depth: Field) -> tuple[float, float]:
    """x and y of the lesion's centre, from its depth behind the nipple and its offset in this view.

    A lesion that would leave the breast or lie on the muscle moves towards the middle of the gland as far as needed.
    """
    (nipple_x, nipple_y), (axis_x, axis_y) = projection.nipple, projection.axis
    offset = lesion.offset_cc if view == "CC" else lesion.offset_mlo
    wanted = (lesion.depth * projection.reach, offset * projection.half_length)
    anchor = (0.42 * projection.reach, 0.0)
    radius = lesion.diameter / 2
    for step in np.linspace(0, 1, 12):
        inward, sideways = ((1 - step) * start + step * end for start, end in zip(wanted, anchor, strict=True))
        place = nipple_x + inward * axis_x - sideways * axis_y, nipple_y + inward * axis_y + sideways * axis_x
        row = int(np.clip(place[1] * GRID_ROWS, 0, depth.shape[0] - 1))
        column = int(np.clip(place[0] * GRID_ROWS, 0, depth.shape[1] - 1))
        clear_of_muscle = projection.muscle is None or (
            place[0] / projection.muscle[0] + place[1] / projection.muscle[1] > 1 + 3 * radius
        )
        if depth[row, column] > radius + 0.03 and place[0] > radius and clear_of_muscle:
            break
    return place


def random_texture(
    generator: np.random.Generator, shape: tuple[int, int], exponent: float, lowest: float = 1, stretch: float = 1
) -> Field:
    """A random field of mean 0 and variance 1, with power ~ f^-exponent above `lowest` periods per picture height.

    Its structures are `stretch` times as long in x, from chest wall to nipple, as in y.
    """
    amplitude = spectrum(shape, exponent, lowest, stretch)
    white = generator.standard_normal((2, *amplitude.shape), dtype=np.float32)
    field = np.fft.irfft2((white[0] + 1j * white[1]) * amplitude, s=shape).astype(np.float32)
    return (field - field.mean()) / field.std()


@lru_cache(maxsize=8)
def spectrum(shape: tuple[int, int], exponent: float, lowest: float, stretch: float) -> Field:
    rows, columns = shape
    frequency = np.hypot(np.fft.fftfreq(rows, 1 / rows)[:, None], stretch * np.fft.rfftfreq(columns, 1 / rows)[None])
    return (np.maximum(frequency, lowest) ** (-exponent / 2) * (frequency > 0)).astype(np.float32)


def random_lines(generator: np.random.Generator, broad: Field, lowest: float) -> Field:
    """Thin curved lines of brightness up to 1; their strength follows `broad`, shifted by half a picture."""
    field = random_texture(generator, broad.shape, exponent=5.0, lowest=lowest, stretch=1.5)
    return np.exp(-((field / 0.15) ** 2)) * np.clip(0.5 + 0.5 * np.roll(broad, broad.shape[0] // 2, axis=0), 0, 1)


def logistic(x: Field) -> Field:
    """The logistic function."""
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


@lru_cache(maxsize=4)
def coordinates(shape: tuple[int, int]) -> tuple[Field, Field]:
    """x and y of the cell centres in picture heights; each (rows, columns)."""
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    return (x + 0.5) / rows, (y + 0.5) / rows


def enlarge(field: Field, size: tuple[int, int]) -> Field:
    """Resize to `size` (height, width), bicubic."""
    enlarged = Image.fromarray(np.ascontiguousarray(field, np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.array(enlarged)


def repeat(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize to `size` (height, width), nearest neighbour."""
    rows, columns = (np.arange(n) * cells // n for n, cells in zip(size, mask.shape, strict=True))
    return mask[rows[:, None], columns]


def with_marker(image: Field, laterality: Laterality, view: View) -> Field:
    """Write the marker, such as "L CC", into the upper corner away from the chest wall."""
    height, width = image.shape
    marker = draw_marker(f"{laterality} {view}", max(7, height // 28))
    rows, columns = marker.shape
    margin = height // 40
    left = margin if laterality == "R" else width - margin - columns
    if left < 0:
        return image
    image = np.ascontiguousarray(image)
    corner = image[margin : margin + rows, left : left + columns]
    np.maximum(corner, marker[:, : corner.shape[1]], out=corner)
    return image


@lru_cache(maxsize=8)
def draw_marker(text: str, height: int) -> Field:
    """The text in white on black, `height` pixels high."""
    font = ImageFont.load_default()
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    canvas = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(canvas).text((-left, -top), text, fill=255, font=font)
    canvas = canvas.resize((round(canvas.width * height / canvas.height), height), Image.Resampling.BICUBIC)
    return np.minimum(1, np.asarray(canvas, np.float32) / 150)  # not 255: resizing dims the thin strokes of the font
