"""AutoAugment and RandAugment: each operation against its formula in NumPy, then the two policies."""

import itertools
import random
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from efficientnet.imagefolder import augment
from efficientnet.imagefolder.augment import AUTO_AUGMENT, RAND_AUGMENT, auto_augment, rand_augment

MODES = ("RGB", "L")
SIZES = ((32, 20), (33, 21), (64, 64))
LEVELS = range(11)
PLUS, MINUS = (SimpleNamespace(random=lambda value=value: value) for value in (0.0, 0.9))  # generators of one sign


def noise(mode, size=(33, 21), seed=0, low=0, high=256):
    shape = (size[1], size[0], *([3] if mode == "RGB" else []))
    return Image.fromarray(np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8))


def every_value(mode="L"):
    """An image of 16 x 16 in which each value occurs once per channel."""
    return Image.merge(mode, [Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))] * len(mode))


def array(image):
    """(H, W, C), int64."""
    return np.asarray(image).astype(int).reshape(image.height, image.width, -1)


def blended(degenerate, image, level):
    """The two integers, mostly equal, that truncation may give in single precision, clipped."""
    factor = 0.1 + 0.18 * level
    exact = np.clip(degenerate + factor * (array(image) - degenerate), 0, 255)
    return np.floor(exact - 1e-4).clip(0), np.floor(exact + 1e-4).clip(0, 255)


def assert_blended(operation, degenerate, image, level):
    lowest, highest = blended(degenerate, image, level)
    result = array(operation(image, level, None))
    assert (lowest <= result).all() and (result <= highest).all()


def assert_resampled(result, image, column, row):
    """Pixel (x, y) of the result is that of the image nearest to (column, row); of two at equal distance, either."""
    padded = np.pad(array(image), ((1, 1), (1, 1), (0, 0)), constant_values=128)
    agrees = np.zeros((image.height, image.width), bool)
    for offset in itertools.product((0.499, 0.501), repeat=2):
        x, y = (np.floor(place + part).astype(int) for place, part in zip((column, row), offset, strict=True))
        x, y = x.clip(-1, image.width) + 1, y.clip(-1, image.height) + 1
        agrees |= (padded[y, x] == array(result)).all(-1)
    assert agrees.all()


# Operations on values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("low", "high"), [(0, 256), (60, 180), (100, 102), (7, 8)])
def test_auto_contrast_stretches_each_channel(mode, low, high):
    image = noise(mode, low=low, high=high)
    values = array(image)
    darkest, brightest = values.min((0, 1)), values.max((0, 1))
    scale = 255 / np.maximum(brightest - darkest, 1)
    stretched = (values * scale - darkest * scale).astype(int) if high - low > 1 else values
    assert (array(augment.auto_contrast(image, 5, None)) == stretched).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("low", "high"), [(0, 256), (60, 180), (100, 102), (7, 8)])
@pytest.mark.parametrize("size", [(33, 21), (230, 100)])
def test_equalize_flattens_the_histogram_of_each_channel(mode, low, high, size):
    image = noise(mode, size, low=low, high=high)
    expected = array(image).copy()
    for channel in np.moveaxis(expected, -1, 0):
        step = (channel < channel.max()).sum() // 255
        if step:
            darker = np.searchsorted(np.sort(channel, None), channel)
            channel[:] = np.minimum((darker + step // 2) // step, 255)
    assert (array(augment.equalize(image, 5, None)) == expected).all()


@pytest.mark.parametrize("mode", MODES)
def test_invert_subtracts_from_255(mode):
    image = noise(mode)
    assert (array(augment.invert(image, 5, None)) == 255 - array(image)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", LEVELS)
def test_posterize_keeps_the_highest_bits_and_at_least_one(mode, level):
    image = every_value(mode)
    step = 2 ** (8 - max(1, 4 * level // 10))
    assert (array(augment.posterize(image, level, None)) == array(image) // step * step).all()


@pytest.mark.parametrize("level", [12.5, 17, 20, 21, 28, 30])
def test_posterize_above_level_10_overflows_as_in_the_released_code(level):
    bits = int(level * 0.4)
    step = 2 ** (8 - bits) if bits <= 8 else 128
    image = every_value()
    assert (array(augment.posterize(image, level, None)) == array(image) // step * step).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", LEVELS)
def test_solarize_inverts_from_the_threshold_up(mode, level):
    image = every_value(mode)
    x, threshold = array(image), 256 * level // 10 % 256
    assert (array(augment.solarize(image, level, None)) == np.where(x < threshold, x, 255 - x)).all()


def test_solarize_inverts_everything_at_level_10_and_at_level_0():
    image = every_value()
    for level in (0, 10):
        assert (array(augment.solarize(image, level, None)) == 255 - array(image)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [*LEVELS, 28])
def test_solarize_add_brightens_the_dark_half(mode, level):
    image = every_value(mode)
    x = array(image)
    assert (
        array(augment.solarize_add(image, level, None)) == np.where(x < 128, (x + 11 * level).clip(0, 255), x)
    ).all()


@pytest.mark.parametrize("level", [*LEVELS, 28])
def test_color_blends_with_the_image_in_shades_of_grey(level):
    image = noise("RGB")
    luma = (array(image) @ [19595, 38470, 7471] + 32768) // 65536  # .299, .587, .114
    assert_blended(augment.color, luma[..., None], image, level)


@pytest.mark.parametrize("level", LEVELS)
def test_color_leaves_a_grey_image_as_it_is(level):
    image = noise("L")
    assert augment.color(image, level, None).tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("size", "grey"), [((120, 100), 46), ((224, 224), 196), ((256, 256), 255), ((300, 300), 255)])
@pytest.mark.parametrize("level", [0, 3, 7, 10])
def test_contrast_blends_with_the_grey_of_the_released_code(mode, size, grey, level):
    assert_blended(augment.contrast, grey, noise(mode, size), level)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [*LEVELS, 28])
def test_brightness_blends_with_black(mode, level):
    assert_blended(augment.brightness, 0, noise(mode), level)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [*LEVELS, 28])
def test_sharpness_blends_with_a_smoothed_image_inside_the_border(mode, level):
    image = noise(mode)
    x = array(image)
    smooth = x.copy()
    neighbours = [x[i : image.height - 2 + i, j : image.width - 2 + j] for i in range(3) for j in range(3)]
    smooth[1:-1, 1:-1] = (2 * (sum(neighbours) + 4 * x[1:-1, 1:-1]) + 13) // 26  # a 13th, rounded
    assert_blended(augment.sharpness, smooth, image, level)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", [augment.color, augment.contrast, augment.brightness, augment.sharpness])
def test_an_enhancement_at_level_5_is_the_identity(mode, operation):
    image = noise(mode)
    assert operation(image, 5, None).tobytes() == image.tobytes()


# Geometric operations


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", LEVELS)
def test_geometric_operations_take_the_nearest_pixel_and_fill_with_grey(mode, size, sign, level):
    image, generator = noise(mode, size), PLUS if sign == 1 else MINUS
    y, x = np.mgrid[: size[1], : size[0]].astype(float)
    shear, translation = sign * 0.03 * level, sign * 10 * level * min(size) / 224
    angle, middle_x, middle_y = sign * np.deg2rad(3 * level), (size[0] - 1) / 2, (size[1] - 1) / 2
    right, down = x - middle_x, y - middle_y
    expected = {
        augment.rotate: (
            middle_x + np.cos(angle) * right - np.sin(angle) * down,
            middle_y + np.sin(angle) * right + np.cos(angle) * down,
        ),
        augment.shear_x: (x + shear * y, y),
        augment.shear_y: (x, y + shear * x),
        augment.translate_x: (x + translation, y),
        augment.translate_y: (x, y + translation),
        partial(augment.translate_y, at_10=250): (x, y + 2.5 * translation),
    }
    for operation, (column, row) in expected.items():
        assert_resampled(operation(image, level, generator), image, column, row)


@pytest.mark.parametrize("mode", MODES)
def test_geometric_operations_at_level_0_are_the_identity(mode):
    image = noise(mode)
    geometric = (augment.rotate, augment.shear_x, augment.shear_y, augment.translate_x, augment.translate_y)
    for operation, generator in itertools.product(geometric, (PLUS, MINUS)):
        assert operation(image, 0, generator).tobytes() == image.tobytes()


@pytest.mark.parametrize("operation", RAND_AUGMENT)
def test_only_geometric_operations_draw_a_direction_and_both_are_equally_likely(operation):
    image = noise("RGB", (24, 24))
    results = Counter(operation(image, 8, np.random.default_rng(seed)).tobytes() for seed in range(400))
    if operation.__name__.split("_")[0] in ("rotate", "shear", "translate"):
        assert len(results) == 2 and min(results.values()) > 150  # 5 standard deviations
    elif operation is not augment.cutout:
        assert len(results) == 1


@pytest.mark.parametrize(("side", "pixels"), [(112, 50), (224, 100), (300, 100)])
def test_distances_are_those_of_the_released_code_and_shrink_below_224_pixels(side, pixels):
    image = Image.new("L", (side, side))
    assert (array(augment.translate_x(image, 10, PLUS)) == 128).all((0, 2)).sum() == pixels
    assert (array(augment.translate_y(image, 10, MINUS)) == 128).all((1, 2)).sum() == pixels
    seeds = map(np.random.default_rng, range(20))
    assert max((array(augment.cutout(image, 10, seed)) == 128).sum() for seed in seeds) == (0.8 * pixels) ** 2


@pytest.mark.parametrize(("mode", "level", "pad"), [("RGB", 10, 2), ("L", 10, 2), ("RGB", 9, 1), ("L", 4, 0)])
def test_cutout_fills_a_square_around_any_pixel(mode, level, pad):
    width, height = 16, 12
    image, generator = noise(mode, (width, height), high=128), np.random.default_rng(0)
    results = (array(augment.cutout(image, level, generator)) for _ in range(2000))
    squares = {(result == 128).all(-1).tobytes() for result in results}
    expected = np.zeros((height, width, height, width), bool)
    for x, y in itertools.product(range(width), range(height)):
        expected[y, x, max(0, y - pad) : y + pad, max(0, x - pad) : x + pad] = True
    assert squares == {square.tobytes() for row in expected for square in row}


@pytest.mark.parametrize("operation", RAND_AUGMENT)
@pytest.mark.parametrize("level", [0, 2, 5, 10, 28])
def test_a_grey_image_is_treated_like_a_coloured_one_of_equal_channels(operation, level):
    image = noise("L")
    grey = operation(image, level, np.random.default_rng(3))
    coloured = operation(Image.merge("RGB", [image] * 3), level, np.random.default_rng(3))
    assert all(band.tobytes() == grey.tobytes() for band in coloured.split())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("operation", RAND_AUGMENT)
def test_an_operation_keeps_size_and_mode_and_does_not_modify_its_input(mode, size, operation):
    image = noise(mode, size)
    before = image.tobytes()
    for level, seed in itertools.product((0, 5, 10, 30), range(3)):
        result = operation(image, level, np.random.default_rng(seed))
        assert (result.mode, result.size) == (mode, size)
    assert image.tobytes() == before


# The policies


def name(operation):
    return getattr(operation, "func", operation).__name__


def test_auto_augment_has_25_sub_policies_of_two_operations():
    assert len(AUTO_AUGMENT) == 25 and {len(sub_policy) for sub_policy in AUTO_AUGMENT} == {2}
    steps = list(itertools.chain(*AUTO_AUGMENT))
    assert {probability for _, probability, _ in steps} == {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}
    assert {level for _, _, level in steps} == set(LEVELS)
    assert Counter(name(operation) for operation, _, _ in steps) == {
        "equalize": 12,
        "color": 9,
        "solarize": 8,
        "rotate": 7,
        "shear_y": 4,
        "shear_x": 2,
        "solarize_add": 2,
        "posterize": 2,
        "auto_contrast": 2,
        "invert": 1,
        "translate_y": 1,
    }


@pytest.mark.parametrize(
    ("index", "first", "second"),
    [
        (0, ("equalize", 0.8, 1), ("shear_y", 0.8, 4)),
        (4, ("solarize", 0.4, 2), ("solarize", 0.6, 2)),
        (9, ("invert", 0.4, 9), ("rotate", 0.6, 0)),
        (12, ("posterize", 0.4, 6), ("auto_contrast", 0.4, 7)),
        (15, ("rotate", 1.0, 7), ("translate_y", 0.8, 9)),
        (16, ("shear_x", 0.0, 0), ("solarize", 0.8, 4)),
        (22, ("posterize", 0.8, 2), ("solarize", 0.6, 10)),
        (24, ("color", 0.8, 6), ("rotate", 0.4, 5)),
    ],
)
def test_a_sub_policy_is_that_of_the_released_code(index, first, second):
    assert tuple((name(operation), *rest) for operation, *rest in AUTO_AUGMENT[index]) == (first, second)


@pytest.mark.parametrize("side", [32, 224, 225])
def test_the_one_translation_of_auto_augment_empties_images_of_up_to_225_pixels(side):
    operation, _, level = AUTO_AUGMENT[15][1]
    assert operation(Image.new("L", (side, side)), level, PLUS).getextrema() == (128, 128)
    assert operation(Image.new("L", (300, 300)), level, PLUS).getextrema() == (0, 128)


def test_rand_augment_chooses_from_sixteen_operations():
    assert len(set(RAND_AUGMENT)) == len(RAND_AUGMENT) == 16
    assert {name(operation) for steps in AUTO_AUGMENT for operation, _, _ in steps} < set(map(name, RAND_AUGMENT))


def recorder(calls, label):
    def record(image, level, generator):
        calls.append((label, level))
        return image

    return record


def test_auto_augment_applies_each_operation_as_often_as_its_probability_says(monkeypatch):
    calls, draws, image, generator = [], 20_000, noise("L"), np.random.default_rng(0)
    recording = [
        [(recorder(calls, (i, j)), probability, level) for j, (_, probability, level) in enumerate(sub_policy)]
        for i, sub_policy in enumerate(AUTO_AUGMENT)
    ]
    monkeypatch.setattr(augment, "AUTO_AUGMENT", recording)
    for _ in range(draws):
        auto_augment(image, generator)
    counts = Counter(calls)
    for i, sub_policy in enumerate(AUTO_AUGMENT):
        for j, (_, probability, level) in enumerate(sub_policy):
            share = probability / 25
            tolerance = 4.5 * np.sqrt(draws * share * (1 - share))
            assert abs(counts.pop(((i, j), level), 0) - draws * share) <= tolerance
    assert not counts
    followed = [(a, b) for (a, _), (b, _) in itertools.pairwise(calls) if b == (15, 1)]
    assert {a for a, _ in followed} == {(15, 0)}  # in order, and after an operation of probability 1


@pytest.mark.parametrize(("probability", "applied"), [(0.0, 0), (1.0, 500)])
def test_an_operation_of_probability_0_is_never_applied_and_of_1_always(monkeypatch, probability, applied):
    calls, generator = [], np.random.default_rng(0)
    monkeypatch.setattr(augment, "AUTO_AUGMENT", [[(recorder(calls, 0), probability, 1)]])
    for _ in range(500):
        auto_augment(noise("L"), generator)
    assert len(calls) == applied


def test_rand_augment_applies_as_many_operations_as_layers_with_equal_odds(monkeypatch):
    calls, draws, image, generator = [], 4000, noise("L"), np.random.default_rng(0)
    monkeypatch.setattr(augment, "RAND_AUGMENT", [recorder(calls, label) for label in range(16)])
    for _ in range(draws):
        rand_augment(image, generator)
    assert len(calls) == 2 * draws and {level for _, level in calls} == {10}
    counts = Counter(label for label, _ in calls)
    assert all(abs(counts[label] - draws / 8) < 4.5 * np.sqrt(draws / 8) for label in range(16))
    calls.clear()
    rand_augment(image, generator, layers=3, magnitude=7)
    assert [level for _, level in calls] == [7, 7, 7]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", [auto_augment, rand_augment])
def test_the_generator_alone_decides_the_result(mode, policy):
    image = noise(mode)

    def results(seed):
        generator = np.random.default_rng(seed)
        return [policy(image, generator).tobytes() for _ in range(20)]

    random.seed(0)
    np.random.seed(0)
    states = random.getstate(), np.random.get_state()[1].tobytes()
    first = results(1)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == states
    np.random.seed(1)
    assert results(1) == first != results(2)
    assert len(set(first)) > 8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("policy", [auto_augment, rand_augment])
def test_a_policy_keeps_size_and_mode(mode, size, policy):
    image, generator = noise(mode, size), np.random.default_rng(0)
    results = [policy(image, generator) for _ in range(150)]
    assert {(result.mode, result.size) for result in results} == {(mode, size)}
