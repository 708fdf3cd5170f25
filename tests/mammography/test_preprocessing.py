"""From an image to the network's input: the breast is found whole, turned one way, and resized."""

import json
from dataclasses import replace

import numpy as np
import pytest
from dicom_files import mammograms
from drawn_breasts import cells, draw

from efficientnet.mammography.dicom import read_image
from efficientnet.mammography.preprocessing import (
    SOURCE_SETTINGS,
    Preprocessing,
    as_shown,
    breast_box,
    chest_wall_side,
    connected_parts,
    preprocess,
    reduce,
)

SETTINGS = Preprocessing((256, 128))


def crop(image: np.ndarray) -> np.ndarray:
    return image[cells(breast_box(image))]


def chest_wall(image: np.ndarray) -> str | None:
    return chest_wall_side(reduce(as_shown(crop(image))))


@pytest.mark.parametrize("seed", range(40))
def test_the_box_holds_the_breast_and_not_the_label(seed):
    rng = np.random.default_rng(seed)
    image, breast, label = draw(
        height=int(rng.integers(300, 1600)),
        width=int(rng.integers(300, 1300)),
        side=str(rng.choice(["left", "right"])),
        centre=rng.uniform(0.45, 0.6),
        half_height=rng.uniform(0.15, 0.32),
        depth=rng.uniform(0.2, 0.7),
        background=rng.choice([0, 0.05, 0.25]),
        noise=rng.choice([0, 0.01, 0.03]),
        frame=rng.choice([0, 0.01, 0.025]),
        label=True,
        seed=seed,
    )
    box = breast_box(image)
    assert breast[cells(box)].sum() >= 0.995 * breast.sum()
    assert not label[cells(box)].any()
    height, width = box[1] - box[0], box[3] - box[2]
    occupied = np.flatnonzero(breast.any(axis=1)).size, np.flatnonzero(breast.any(axis=0)).size
    assert height <= occupied[0] + 0.05 * image.shape[0]
    assert width <= occupied[1] + 0.05 * image.shape[1]


@pytest.mark.parametrize("depth", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("half_height", [0.3, 0.5, 0.8])
def test_a_breast_that_is_cut_by_the_edges_stays_whole(depth, half_height):
    image, breast, _ = draw(half_height=half_height, depth=depth)
    assert breast[cells(breast_box(image))].sum() >= 0.995 * breast.sum()


def test_a_faint_nipple_is_kept():
    image, breast, _ = draw(depth=0.5)
    nipple = np.zeros_like(breast)
    nipple[490:515, 380:430] = True
    image[nipple & ~breast] = 0.02
    assert (nipple[cells(breast_box(image))].sum()) == nipple.sum()


def test_the_glow_of_the_films_edge_above_and_below_the_breast_is_cut_off():
    image, breast, _ = draw(half_height=0.25)
    image[:, :40] = np.maximum(image[:, :40], np.linspace(0.15, 0.02, 40, dtype=np.float32))
    top, bottom, _, right = breast_box(image)
    assert 200 < top < 270
    assert 730 < bottom < 800
    assert breast[top:bottom, :right].sum() >= 0.99 * breast.sum()


def test_a_mottled_background_is_not_taken_for_tissue():
    image, _, _ = draw(height=380, width=300, background=0.25)
    expected = breast_box(image)
    for seed in range(10):
        mottle = np.random.default_rng(seed).normal(0, 0.02, (38, 30)).repeat(10, 0).repeat(10, 1)
        box = breast_box(np.clip(image + mottle, 0, 1).astype(np.float32))
        np.testing.assert_allclose(box, expected, atol=20)  # two blotches


def test_a_breast_on_a_side_goes_before_a_larger_thing_in_the_middle():
    image, breast, _ = draw(centre=0.7, half_height=0.2, depth=0.4)
    image[50:400, 300:700] = 0.9
    assert image[50:400, 300:700].size > 1.2 * breast.sum()
    top, bottom, left, _ = breast_box(image)
    assert top > 400
    assert left == 0
    assert breast[top:bottom].sum() >= 0.995 * breast.sum()


def test_a_scratch_does_not_tie_a_label_to_the_breast():
    image, _, label = draw(label=True)
    image[80:500, 700:702] = 0.8  # from the label downwards
    image[500:502, 350:702] = 0.8  # and into the breast
    assert not label[cells(breast_box(image))].any()


def test_a_bright_bar_along_the_top_is_not_in_the_box_of_a_breast_that_reaches_it():
    image, breast, _ = draw(centre=0.2, half_height=0.5)
    image[:20] = 1
    top, bottom, _, right = breast_box(image)
    assert 20 <= top < 30
    assert breast[top:bottom, :right].sum() >= 0.95 * breast.sum()


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_an_empty_picture_is_left_whole(value):
    image = np.full((300, 200), value, np.float32)
    assert breast_box(image) == (0, 300, 0, 200)
    assert preprocess(image, SETTINGS).shape == (256, 128)


def test_a_picture_with_nothing_but_specks_is_left_whole():
    image = np.zeros((1000, 800), np.float32)
    image[500:520, 300:320] = 1
    image[::97, ::89] = 1
    assert breast_box(image) == (0, 1000, 0, 800)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (33, 4000), (4000, 33)])
def test_odd_shapes_are_prepared(shape):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    for picture in (image, np.zeros_like(image)):
        top, bottom, left, right = breast_box(picture)
        assert 0 <= top < bottom <= shape[0]
        assert 0 <= left < right <= shape[1]
        assert preprocess(picture, SETTINGS).shape == (256, 128)


def test_cropping_a_cropped_picture_takes_little_more():
    for seed in range(10):
        image, _, _ = draw(half_height=0.2 + 0.02 * seed, depth=0.3 + 0.05 * seed, noise=0.01, seed=seed)
        once = crop(image)
        twice = crop(once)
        assert twice.size > 0.93 * once.size


def test_connected_parts_are_those_of_a_flood_fill():
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    for density in (0.0, 0.2, 0.5, 0.6, 0.7, 0.95, 1.0):
        mask = rng.random((60, 45)) < density
        labels, areas = connected_parts(mask)
        expected, count = ndimage.label(mask)
        assert areas.size == count
        assert areas.sum() == mask.sum()
        pairs = set(zip(labels.reshape(-1).tolist(), expected.reshape(-1).tolist(), strict=True))
        assert len(pairs) == count + (not mask.all())
        assert all(areas[part] == (labels == part).sum() for part in range(count))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_chest_wall_is_where_more_of_the_breast_is(side):
    for seed in range(10):
        image, _, _ = draw(side=side, depth=0.2 + 0.06 * seed, noise=0.01, background=0.02 * seed, seed=seed)
        assert chest_wall(image) == side


def test_a_mirrored_file_gives_the_same_picture():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        height, width = (int(length) for length in rng.integers(400, 1500, 2))
        image, _, _ = draw(height, width, noise=0.01, label=True, frame=0.01, seed=seed)
        mirrored = np.ascontiguousarray(image[:, ::-1])
        for side in ("left", "right"):
            settings = replace(SETTINGS, side=side)
            np.testing.assert_allclose(preprocess(mirrored, settings), preprocess(image, settings), atol=1e-5)
        as_is = replace(SETTINGS, side="as-is")
        np.testing.assert_allclose(preprocess(mirrored, as_is), preprocess(image, as_is)[:, ::-1], atol=1e-5)


def test_left_and_right_are_mirror_pictures():
    image, _, _ = draw(side="right")
    left, right = (preprocess(image, replace(SETTINGS, side=side)) for side in ("left", "right"))
    np.testing.assert_array_equal(left, right[:, ::-1])
    assert left[:, 0].mean() > 0.2
    assert left[:, -1].mean() < 0.05


def test_laterality_decides_only_where_the_picture_cannot_tell():
    even = np.zeros((400, 400), np.float32)
    even[50:350, 100:300] = np.linspace(0.3, 0.9, 200)
    as_left, as_right = (preprocess(even, SETTINGS, laterality) for laterality in ("L", "R"))
    assert as_left[128, 10] < as_left[128, 80]
    assert as_right[128, 10] > as_right[128, 80]
    np.testing.assert_array_equal(preprocess(even, SETTINGS), as_left)
    breast, _, _ = draw(side="right")
    np.testing.assert_array_equal(preprocess(breast, SETTINGS, "L"), preprocess(breast, SETTINGS, "R"))


def whole(image: np.ndarray, size: tuple[int, int], side: str = "left") -> np.ndarray:
    """The picture without a crop."""
    return preprocess(image, Preprocessing(size, crop=False, side=side))


def test_the_aspect_is_kept_and_the_padding_is_opposite_to_the_chest_wall():
    image = np.ones((100, 20), np.float32)
    picture = whole(image, (50, 50))
    np.testing.assert_allclose(picture[:, :10], 1)
    assert not picture[:, 10:].any()
    np.testing.assert_array_equal(whole(image, (50, 50), "right"), picture[:, ::-1])
    wide = whole(np.ones((20, 100), np.float32), (50, 50))
    np.testing.assert_allclose(wide[20:30], 1)
    assert not wide[:20].any()
    assert not wide[30:].any()


def test_resizing_is_antialiased():
    picture = whole(np.random.default_rng(0).random((640, 640)).astype(np.float32), (64, 64))
    assert abs(picture.mean() - 0.5) < 0.01
    assert picture.std() < 0.04  # a tenth of that of the pixels, 0.29, for a hundred of them; unfiltered it is 0.14


def test_enlarging_a_small_picture_stays_in_range():
    picture = whole(np.random.default_rng(0).random((40, 30)).astype(np.float32), (256, 128))
    assert picture.shape == (256, 128)
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_the_image_that_was_given_is_not_changed():
    image, _, _ = draw(frame=0.02)
    before = image.copy()
    preprocess(image, SETTINGS)
    np.testing.assert_array_equal(image, before)
    image.setflags(write=False)  # as Pillow's arrays are
    preprocess(image, SETTINGS)
    preprocess(image.astype(np.float64), SETTINGS)


def test_without_cropping_the_whole_picture_is_kept():
    image, _, _ = draw(height=512, width=256, depth=0.3, label=True)
    picture = preprocess(image, replace(SETTINGS, crop=False))
    assert picture[256 // 20 + 3, 128 - 128 // 5 + 6] == 1  # the label


def test_settings_survive_json():
    settings = Preprocessing((1024, 512), 3, False, "right", 2, 0.2, 0.3)
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert hash(Preprocessing.from_dict(settings.to_dict())) == hash(settings)


def test_checkpoints_from_before_the_last_setting_are_read():
    settings = SETTINGS.to_dict()
    del settings["reduce_jpeg2000"]
    assert Preprocessing.from_dict(settings) == SETTINGS
    for name in SOURCE_SETTINGS:
        del settings[name]
    assert Preprocessing.from_dict(settings) == SETTINGS


def test_missing_and_unknown_settings_are_named():
    settings = SETTINGS.to_dict()
    del settings["crop"], settings["std"]
    settings["colour"] = 1
    with pytest.raises(ValueError, match=r"crop.*std.*colour"):
        Preprocessing.from_dict(settings)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"image_size": (31, 64)}, "31"),
        ({"image_size": (64,)}, "image size"),
        ({"image_size": (64, 64, 3)}, "image size"),
        ({"image_size": (64.5, 64)}, "64.5"),
        ({"in_channels": 0}, "in_channels"),
        ({"side": "up"}, "as-is"),
        ({"window": -1}, "window"),
        ({"bits": 17}, "bits"),
        ({"std": 0.0}, "std"),
        ({"std": float("nan")}, "std"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        Preprocessing(**({"image_size": (64, 64)} | change))


# Where the breast is, by eye, in parts of the height and width: its top, its bottom, its depth from the chest wall.
BY_EYE = {
    "1-130": (0.17, 0.88, 0.545),
    "1-131": (0.0, 0.89, 0.51),
    "1-132": (0.22, 0.885, 0.47),
    "1-133": (0.0, 0.83, 0.525),
    "1-280": (0.14, 0.905, 0.605),
    "1-281": (0.0, 0.865, 0.64),
    "1-282": (0.12, 0.895, 0.56),
    "1-283": (0.0, 0.915, 0.61),
}


def test_the_breasts_of_the_real_films_are_found():
    for path in mammograms():
        image = read_image(path)
        top, bottom, left, right = breast_box(image)
        wall = "right" if path.stem in ("1-132", "1-133", "1-282", "1-283") else "left"
        assert chest_wall(image) == wall, path.stem
        expected_top, expected_bottom, expected_depth = BY_EYE[path.stem]
        height, width = image.shape
        depth = (right if wall == "left" else width - left) / width
        assert abs(top / height - expected_top) < 0.04, path.stem
        assert abs(bottom / height - expected_bottom) < 0.08, path.stem
        assert abs(depth - expected_depth) < 0.04, path.stem
        assert (left == 0) if wall == "left" else (right == width), path.stem
        picture = preprocess(image, Preprocessing((1024, 512)))
        mirrored = preprocess(np.ascontiguousarray(image[:, ::-1]), Preprocessing((1024, 512)))
        np.testing.assert_allclose(picture, mirrored, atol=1e-3)
        assert picture[:, :64].mean() > 3 * picture[:, -64:].mean(), path.stem
