"""The crop loses at most a stated share of the breast, whatever else is on the mammogram."""

import numpy as np
import pytest
from drawn_breasts import cells, draw
from PIL import Image, ImageDraw

from efficientnet.mammography.phantom.image import phantom_image
from efficientnet.mammography.phantom.patient import IMAGES, Parameters, phantom_patients, random_generator
from efficientnet.mammography.preprocessing import breast_box

MOST_CUT = 0.02  # of the breast's pixels
HEIGHT, WIDTH = 1200, 960


def stamp(image: np.ndarray, value: float, box: tuple[float, float, float, float], angle: float = 0.0) -> None:
    """A rectangle in parts of height and width (top, bottom, left, right), turned by degrees, drawn over the image."""
    height, width = image.shape
    mask = Image.new("L", (width, height))
    top, bottom, left, right = box
    rectangle = (left * width, top * height, right * width, bottom * height)
    ImageDraw.Draw(mask).rectangle(rectangle, fill=255)
    image[np.asarray(mask.rotate(angle, center=(width / 2, height / 2))) > 0] = value


def tilted_film(image: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    """Scanned at an angle: the film's bright surround comes in as wedges."""
    height, width = image.shape
    film = Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=1.0)
    return np.asarray(film) + 0.01 * np.random.default_rng(seed).random((height, width), np.float32)


def turned(mask: np.ndarray, degrees: float) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).rotate(degrees)) > 127


def cut_share(image: np.ndarray, breast: np.ndarray) -> float:
    return 1 - breast[cells(breast_box(np.clip(image, 0, 1).astype(np.float32)))].sum() / breast.sum()


def box_share(image: np.ndarray) -> float:
    top, bottom, left, right = breast_box(np.clip(image, 0, 1).astype(np.float32))
    return (bottom - top) * (right - left) / image.size


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("degrees", [-3, -1.5, -0.7, 0.7, 1.5, 3])
def test_tilted_film_edges(side, degrees):
    image, breast, _ = draw(HEIGHT, WIDTH, side=side, half_height=0.33, depth=0.5, label=True, noise=0.01)
    image, breast = tilted_film(image, degrees, 0), turned(breast, degrees)
    assert cut_share(image, breast) <= MOST_CUT
    assert box_share(image) < 0.6


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [0.05, 0.2, 0.35])
@pytest.mark.parametrize("where", ["opposite", "above", "below"])
def test_padding_at_the_maximum_value(side, width, where):
    image, breast, _ = draw(HEIGHT, WIDTH, side=side, half_height=0.3, depth=0.45)
    free = {"opposite": (0, 1, 1 - width, 1), "above": (0, width / 2, 0, 1), "below": (1 - width / 2, 1, 0, 1)}[where]
    if side == "right":
        free = (free[0], free[1], 1 - free[3], 1 - free[2])
    stamp(image, 1.0, free)
    assert cut_share(image, breast) <= MOST_CUT


@pytest.mark.parametrize("seed", range(8))
def test_implants(seed):
    generator = np.random.default_rng(seed)
    image, breast, _ = draw(HEIGHT, WIDTH, half_height=0.33, depth=0.55, label=True, seed=seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    size = generator.uniform(0.15, 0.24) * HEIGHT
    implant = ((y - HEIGHT / 2) ** 2 + (x - 0.1 * WIDTH) ** 2 < size**2) & breast
    image[implant] = 1.0
    assert cut_share(image, breast) <= MOST_CUT
    assert box_share(image) < 0.6


@pytest.mark.parametrize("half_height, depth", [(0.08, 0.1), (0.1, 0.12), (0.15, 0.1), (0.5, 0.95), (0.9, 0.99)])
def test_very_small_and_very_large_breasts(half_height, depth):
    image, breast, label = draw(HEIGHT, WIDTH, half_height=half_height, depth=depth, label=depth < 0.5)
    assert cut_share(image, breast) <= MOST_CUT
    assert not label[cells(breast_box(image))].any()


@pytest.mark.parametrize("seed", range(12))
def test_labels_at_any_angle_and_a_frame(seed):
    generator = np.random.default_rng(seed)
    frame = generator.choice([0, 0.01, 0.025])
    image, breast, _ = draw(HEIGHT, WIDTH, half_height=0.3, depth=0.45, frame=frame, noise=0.01, seed=seed)
    left = generator.uniform(0.6, 0.75)
    stamp(image, 1.0, (0.08, 0.13, left, left + 0.18), generator.uniform(-20, 20))
    stamp(image, 0.7, (0.85, 0.9, 0.8, 0.88))
    assert cut_share(image, breast) <= MOST_CUT
    assert box_share(image) < 0.5


def test_the_phantoms_lose_next_to_nothing():
    lost = []
    for patient in phantom_patients(Parameters(30, 5)):
        for laterality, view in IMAGES:
            generator = random_generator(5, patient.split, patient.index, f"{laterality} {view}")
            lesion = patient.breasts["LR".index(laterality)].lesion
            drawn = phantom_image(patient.anatomy, laterality, view, lesion, generator, (320, 256))
            lost.append(cut_share(drawn.image, drawn.breast))
    assert max(lost) <= MOST_CUT and np.mean(lost) < 0.002
