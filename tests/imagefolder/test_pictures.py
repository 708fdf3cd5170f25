"""Image files of every kind -> the right pixels, and damaged ones -> one line."""

import logging
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, features

from efficientnet.imagefolder import pictures
from efficientnet.imagefolder.pictures import PictureError, centre_box, read_centre_crop, read_training_crop

pytestmark = pytest.mark.filterwarnings("error")

HEIGHT, WIDTH = 24, 32


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A random picture without sharp edges, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(30, 226, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


COLOUR = smooth(HEIGHT, WIDTH)
GREY = np.asarray(Image.fromarray(COLOUR).convert("L"))
ALPHA = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))


def whole(height, width):
    return 0, 0, width, height


def read(path, mode="RGB", size=None) -> np.ndarray:
    """All of a file, which training and evaluation show alike."""
    size = size or (HEIGHT, WIDTH)
    picture = read_centre_crop(path, mode, size, 1.0)
    assert picture.mode == mode and picture.size == size[::-1]
    trained = read_training_crop(path, mode, size, whole)
    np.testing.assert_allclose(np.asarray(trained, int), np.asarray(picture, int), atol=1)
    return np.asarray(picture, dtype=int)


def refusal(path) -> str:
    with pytest.raises(PictureError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def close(found, expected, tolerance=0) -> None:
    np.testing.assert_allclose(found, np.asarray(expected, int), atol=tolerance)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png(path, values: np.ndarray, colour_type: int, *chunks: bytes) -> None:
    """A PNG of 16 bits: colour type 0 is grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + end)


def write_tiff(path, values: np.ndarray, bits: int, white_is_zero: bool = False) -> None:
    """An uncompressed grey TIFF of 12 or 16 bits."""
    height, width = values.shape
    if bits == 12:
        flags = (values[..., None] >> np.arange(11, -1, -1)) & 1
        data = np.packbits(flags.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    else:
        data = values.astype("<u2").tobytes()
    photometric = 0 if white_is_zero else 1
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))])
    directory = struct.pack("<H", len(tags) + 1) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    return data


# Format, options, and the largest difference of a pixel.
EXACT = {
    "png": ("PNG", {}, 0),
    "bmp": ("BMP", {}, 0),
    "ppm": ("PPM", {}, 0),
    "tif": ("TIFF", {}, 0),
    "tif-lzw": ("TIFF", {"compression": "tiff_lzw"}, 0),
    "tif-deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
    "webp-lossless": ("WEBP", {"lossless": True}, 0),
    "jp2": ("JPEG2000", {}, 0),
}
LOSSY = {
    "jpg": ("JPEG", {"quality": 95}, 16),
    "jpg-progressive": ("JPEG", {"quality": 95, "progressive": True}, 16),
    "jpg-rgb": ("JPEG", {"quality": 95, "keep_rgb": True}, 16),
    "tif-jpeg": ("TIFF", {"compression": "jpeg", "quality": 95}, 16),
    "webp": ("WEBP", {"quality": 95}, 16),
    "avif": ("AVIF", {"quality": 95}, 16),
}
KINDS = EXACT | LOSSY
ALL_KINDS = KINDS | {"gif": ("GIF", {}, 0)}
# The pixels that a format can hold.
MODES = {
    "PNG": ("RGB", "L", "1", "P", "RGBA", "LA", "I;16"),
    "TIFF": ("RGB", "L", "1", "P", "RGBA", "LA", "I;16", "CMYK"),
    "JPEG": ("RGB", "L", "CMYK"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "L", "1", "P"),
    "PPM": ("RGB", "L", "1"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("RGB", "L", "RGBA", "LA", "I;16"),
}


def write(path, kind: str, array=COLOUR, **options) -> None:
    save(path, kind, Image.fromarray(array), **options)


def save(path, kind: str, picture: Image.Image, **options) -> None:
    file_format, more, _ = ALL_KINDS[kind]
    for name, feature in (("WEBP", "webp"), ("AVIF", "avif"), ("JPEG2000", "jpg_2000")):
        if file_format == name and feature not in features.get_supported():
            pytest.skip(f"Pillow has no {name} here")
    picture.save(path, file_format, **more, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_colour_is_read_in_colour_and_in_grey(tmp_path, kind):
    path = tmp_path / "picture.jpg"  # whatever its name
    write(path, kind)
    close(read(path), COLOUR, KINDS[kind][2])
    close(read(path, "L"), GREY, KINDS[kind][2])


@pytest.mark.parametrize("kind", KINDS)
def test_grey_is_read_in_colour_and_in_grey(tmp_path, kind):
    write(tmp_path / "a", kind, GREY)
    close(read(tmp_path / "a"), np.stack([GREY] * 3, axis=-1), KINDS[kind][2])
    close(read(tmp_path / "a", "L"), GREY, KINDS[kind][2])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM"])
def test_one_bit_is_black_and_white(tmp_path, file_format):
    Image.fromarray(GREY > 128).save(tmp_path / "a", file_format)
    close(read(tmp_path / "a", "L"), (GREY > 128) * 255)
    close(read(tmp_path / "a")[..., 1], (GREY > 128) * 255)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "GIF"])
def test_a_palette_becomes_its_colours(tmp_path, file_format):
    picture = Image.fromarray(COLOUR).quantize(64)
    picture.save(tmp_path / "a", file_format)
    close(read(tmp_path / "a"), picture.convert("RGB"))
    close(read(tmp_path / "a", "L"), picture.convert("L"))


@pytest.mark.parametrize("mode, file_format", [("RGBA", "PNG"), ("RGBA", "TIFF"), ("LA", "PNG"), ("LA", "TIFF")])
def test_transparency_shows_white(tmp_path, mode, file_format):
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.putalpha(Image.fromarray(ALPHA))
    picture.save(tmp_path / "a", file_format)
    below = (COLOUR if mode == "RGBA" else np.stack([GREY] * 3, axis=-1)).astype(float)
    share = ALPHA[..., None] / 255
    close(read(tmp_path / "a"), (below * share + 255 * (1 - share)).round(), 1)
    close(read(tmp_path / "a", "L"), (GREY * share[..., 0] + 255 * (1 - share[..., 0])).round(), 1)


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour_shows_white(tmp_path, file_format):
    picture = Image.fromarray(COLOUR).quantize(64)
    picture.save(tmp_path / "a", file_format, transparency=5)
    is_transparent = np.asarray(picture) == 5
    assert is_transparent.any()
    close(read(tmp_path / "a"), np.where(is_transparent[..., None], 255, picture.convert("RGB")))


def test_a_palette_with_opacities_shows_white(tmp_path):
    picture = Image.fromarray(COLOUR).quantize(64)
    opacities = np.linspace(0, 255, 64).astype(np.uint8)
    picture.save(tmp_path / "a", "PNG", transparency=opacities.tobytes())
    share = opacities[np.asarray(picture)][..., None] / 255
    close(read(tmp_path / "a"), (np.asarray(picture.convert("RGB")) * share + 255 * (1 - share)).round(), 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_a_transparent_value_shows_white(tmp_path, mode):
    array = {"L": GREY, "RGB": COLOUR, "1": GREY > 128}[mode]
    key = {"L": int(GREY[3, 3]), "RGB": tuple(map(int, COLOUR[3, 3])), "1": 0}[mode]
    Image.fromarray(array).save(tmp_path / "a", "PNG", transparency=key)
    is_key = np.equal(array, key).all(-1) if mode == "RGB" else np.equal(array, key)
    shown = np.asarray(Image.fromarray(array).convert("RGB"))
    close(read(tmp_path / "a"), np.where(is_key[..., None], 255, shown))


@pytest.mark.parametrize("mode, file_format", [("P", "PNG"), ("1", "PNG"), ("CMYK", "TIFF"), ("RGBA", "PNG")])
def test_colours_are_interpolated_and_not_palettes_or_inks(tmp_path, mode, file_format):
    picture = Image.fromarray(COLOUR).convert(mode)
    picture.save(tmp_path / "a", file_format)
    expected = picture.convert("RGB").resize((20, 15), Image.Resampling.BICUBIC)
    close(read(tmp_path / "a", size=(15, 20)), expected, 1)


def test_printing_colours_are_converted(tmp_path):
    for name, options in (("JPEG", {"quality": 98}), ("TIFF", {})):
        Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "a", name, **options)
        close(read(tmp_path / "a"), COLOUR, 12 if name == "JPEG" else 0)
        close(read(tmp_path / "a", "L"), GREY, 12 if name == "JPEG" else 1)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path, file_format):
    values = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    if file_format == "PPM":  # older versions of Pillow do not write it
        (tmp_path / "a").write_bytes(f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / "a", file_format)
    close(read(tmp_path / "a", "L"), (values / 257).round())
    close(read(tmp_path / "a")[..., 2], (values / 257).round())


def test_sixteen_bits_of_grey_in_either_byte_order_and_in_32_bits_are_scaled_to_eight(tmp_path):
    values = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.int32).reshape(HEIGHT, WIDTH)
    for mode, dtype in (("I;16B", ">u2"), ("I", "i4")):
        Image.frombytes(mode, (WIDTH, HEIGHT), values.astype(dtype).tobytes()).save(tmp_path / "a", "TIFF")
        with Image.open(tmp_path / "a") as image:
            assert image.mode == mode
        close(read(tmp_path / "a", "L"), (values / 257).round())


def test_twelve_bits_are_scaled_to_eight(tmp_path):
    values = np.linspace(0, 4095, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    write_tiff(tmp_path / "a", values, 12)
    close(read(tmp_path / "a", "L"), (values / 4095 * 255).round())


def test_sixteen_bits_with_white_at_zero_are_inverted(tmp_path):
    values = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    write_tiff(tmp_path / "a", values, 16, white_is_zero=True)
    close(read(tmp_path / "a", "L"), ((65535 - values) / 257).round())


def test_sixteen_bits_with_transparency_show_white(tmp_path):
    values = GREY.astype(np.uint16) * 257
    key = int(values[3, 3])
    write_png(tmp_path / "a", values, 0, chunk(b"tRNS", struct.pack(">H", key)))
    close(read(tmp_path / "a", "L"), np.where(values == key, 255, GREY))
    write_png(tmp_path / "a", np.stack([values, ALPHA.astype(np.uint16) * 257], axis=-1), 4)
    close(read(tmp_path / "a", "L"), (GREY * (ALPHA / 255) + 255 * (1 - ALPHA / 255)).round(), 1)


def test_sixteen_bits_of_colour_are_read(tmp_path):
    values = COLOUR.astype(np.uint16) * 257
    write_png(tmp_path / "a", values, 2)
    close(read(tmp_path / "a"), COLOUR)
    alpha = ALPHA.astype(np.uint16)[..., None] * 257
    write_png(tmp_path / "a", np.concatenate([values, alpha], axis=-1), 6)
    close(read(tmp_path / "a"), (COLOUR * (alpha / 65535) + 255 * (1 - alpha / 65535)).round(), 1)


def test_values_that_are_not_brightness_are_refused(tmp_path):
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "a", "TIFF")
    assert "floating-point" in refusal(tmp_path / "a")
    for low, high in ((-1, 5), (0, 65536)):
        values = np.full((HEIGHT, WIDTH), low, np.int32)
        values[0, 0] = high
        Image.fromarray(values).save(tmp_path / "a", "TIFF")
        assert f"has values from {low} to {high}" in refusal(tmp_path / "a")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "tif-lzw", "webp-lossless"])
def test_pictures_are_turned_upright(tmp_path, kind, orientation):
    upright = Image.fromarray(COLOUR)
    # Pillow's own inverses: ROTATE_90 and ROTATE_270 swap, and the others are their own.
    turn = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(
        orientation, pictures.TURNS.get(orientation)
    )
    stored = upright if turn is None else upright.transpose(turn)
    write(tmp_path / "a", kind, np.asarray(stored), exif=exif(orientation))
    asked = []
    size, box = (12, 10), (3.0, 5.0, 23.0, 21.0)

    def choose_box(height, width):
        asked.append((height, width))
        return box

    crop = read_training_crop(tmp_path / "a", "RGB", size, choose_box)
    assert asked == [(HEIGHT, WIDTH)]
    close(np.asarray(crop), upright.resize(size[::-1], Image.Resampling.BICUBIC, box), max(1, KINDS[kind][2]))
    close(read(tmp_path / "a"), upright, KINDS[kind][2])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_counts_as_upright(tmp_path, orientation):
    write(tmp_path / "a", "png", exif=exif(orientation))
    close(read(tmp_path / "a"), COLOUR)


def test_damaged_exif_data_count_as_upright(tmp_path):
    write(tmp_path / "a", "jpg")
    undamaged = read(tmp_path / "a")
    for data in (b"Exif\0\0", b"Exif\0\0nothing of the kind", b"Exif\0\0II*\0\xff\xff\xff\x7f", exif(6).tobytes()[:20]):
        write(tmp_path / "a", "jpg", exif=data)
        close(read(tmp_path / "a"), undamaged)
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n4\nno hexadecimal digits")
    write(tmp_path / "a", "png", pnginfo=text)
    close(read(tmp_path / "a"), COLOUR)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_read(tmp_path, file_format):
    first, second = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    if file_format == "GIF":
        first, second = first.quantize(64), second.quantize(64)
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 95} if file_format == "MPO" else {}
    first.save(tmp_path / "a", file_format, save_all=True, append_images=[second], **options)
    with Image.open(tmp_path / "a") as image:
        assert image.n_frames == 2
    close(read(tmp_path / "a"), first.convert("RGB"), 16 if file_format == "MPO" else 0)


def test_colour_profiles_are_ignored_at_any_size(tmp_path):
    write(tmp_path / "a", "jpg", icc_profile=os.urandom(300_000))
    write(tmp_path / "b", "jpg")
    close(read(tmp_path / "a"), read(tmp_path / "b"))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_truncated_file_is_refused_or_lacks_nothing(tmp_path, kind, monkeypatch):
    """Never is part of a picture shown, even if another package asks Pillow for it."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    write(tmp_path / "whole", kind)
    expected, data = read(tmp_path / "whole"), (tmp_path / "whole").read_bytes()
    lengths = {*range(0, len(data), max(1, len(data) // 100)), *range(max(0, len(data) - 30), len(data))}
    refused = 0
    for length in sorted(lengths):
        (tmp_path / "a").write_bytes(data[:length])
        for read_crop in (
            lambda: read(tmp_path / "a"),
            lambda: read_training_crop(tmp_path / "a", "RGB", (2, 2), whole),
        ):
            try:
                picture = read_crop()
            except PictureError as error:
                refused += 1
                assert "\n" not in str(error)
            else:
                assert np.shape(picture) == (HEIGHT, WIDTH, 3) or picture.size == (2, 2)
                close(read(tmp_path / "a"), expected)
    assert refused >= len(lengths)


def test_a_jpeg_2000_file_cut_before_its_first_tile_is_refused(tmp_path):
    write(tmp_path / "a", "jp2")
    data = (tmp_path / "a").read_bytes()
    start = data.index(b"\xff\x90")  # of the tile
    for length in range(start, start + 20):
        (tmp_path / "a").write_bytes(data[:length])
        refusal(tmp_path / "a")


@pytest.mark.parametrize("kind, mode", [(kind, mode) for kind in ALL_KINDS for mode in MODES[ALL_KINDS[kind][0]]])
def test_a_damaged_file_gives_a_picture_or_one_line(tmp_path, kind, mode):
    picture = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(COLOUR).convert(mode)
    if kind == "tif-jpeg" and mode not in ("RGB", "L", "CMYK"):
        kind = "tif"
    save(tmp_path / "whole", kind, picture, exif=exif(6))
    data, random = (tmp_path / "whole").read_bytes(), np.random.default_rng(0)
    for attempt in range(25):
        damaged = bytearray(data)
        reach = len(data) if attempt % 2 else min(len(data), 100)  # the header is damaged more often
        for place in random.integers(0, reach, random.integers(1, 5)):
            damaged[place] = random.integers(256)
        (tmp_path / "a").write_bytes(damaged)
        for wanted in ("RGB", "L"):
            try:
                crops = (
                    read_training_crop(tmp_path / "a", wanted, (7, 5), lambda h, w: (w * 0.1, h * 0.2, w * 0.9, h)),
                    read_centre_crop(tmp_path / "a", wanted, (7, 5), 0.875),
                )
            except PictureError as error:
                text = str(error)
                assert "\n" not in text and text.startswith(f"{tmp_path / 'a'}: ") and not text.endswith(": ")
            else:
                assert all(crop.mode == wanted and crop.size == (5, 7) for crop in crops)


def test_what_is_no_picture_is_refused_in_one_line(tmp_path):
    assert refusal(tmp_path / "missing.jpg") == "No such file or directory"
    assert refusal(tmp_path)
    contents = {
        b"": "is empty",
        b"a text\nof two lines\n": "unknown format",
        bytes(10_000): "unknown format",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "unknown format",
        b"\xff\xd8\xff": "unknown format",
        b"P6 3 3 255\n": "not enough|truncated",
    }
    for content, expected in contents.items():
        (tmp_path / "a.jpg").write_bytes(content)
        assert any(each in refusal(tmp_path / "a.jpg") for each in expected.split("|"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    write(tmp_path / "a.png", "png")
    (tmp_path / "a.png").chmod(0)
    assert "Permission denied" in refusal(tmp_path / "a.png")


def test_an_enormous_picture_is_refused_without_decoding_it(tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    assert refusal(tmp_path / "a.png") == "has more than 179 million pixels"


def test_a_large_picture_gives_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH - 1)
    write(tmp_path / "a.png", "png")
    close(read(tmp_path / "a.png"), COLOUR)
    with pytest.raises(Image.DecompressionBombWarning), warnings.catch_warnings():
        warnings.simplefilter("error")
        Image.open(tmp_path / "a.png")


@pytest.mark.parametrize(
    "error, reason",
    [
        (MemoryError(), "claims more memory than is available"),
        (EOFError(), "EOFError"),
        (SyntaxError("broken\n  file"), "broken file"),
        (struct.error("unpack"), "unpack"),
        (KeyError(5), "5"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_every_error_of_pillow_is_one_line(tmp_path, monkeypatch, error, reason):
    write(tmp_path / "a.png", "png")

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(Image.Image, "resize", fail)
    assert refusal(tmp_path / "a.png") == reason


def test_an_error_of_the_caller_is_not_one_of_the_file(tmp_path):
    write(tmp_path / "a.png", "png")
    with pytest.raises(ZeroDivisionError):
        read_training_crop(tmp_path / "a.png", "RGB", (8, 8), lambda height, width: (0, 0, width, height // 0))


def test_nothing_is_printed_about_files_that_pillow_logs_or_warns_about(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of pytest
    for kind in ("png", "jpg"):
        write(tmp_path / "a", kind, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\xff\x7f")
        read(tmp_path / "a")
    write_tiff(tmp_path / "a", GREY.astype(np.uint16), 16)
    data = bytearray((tmp_path / "a").read_bytes())
    place = data.index(struct.pack("<HHI", 277, 4, 1))  # samples per pixel, of which Pillow logs 7
    data[place + 8] = 7
    (tmp_path / "a").write_bytes(data)
    refusal(tmp_path / "a")
    assert capfd.readouterr() == ("", "")


def decoded_sizes(monkeypatch) -> list[tuple[int, int]]:
    """Receives (width, height) of every picture that is resized."""
    sizes, real = [], Image.Image.resize

    def resize(self, *arguments, **options):
        self.load()
        sizes.append(self.size)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", resize)
    return sizes


@pytest.mark.parametrize(
    "side, scale",
    [(40, 8), (41, 4), (80, 4), (81, 2), (160, 2), (161, 1), (320, 1), (500, 1)],
)
def test_a_training_crop_decodes_no_more_of_a_jpeg_than_it_needs(tmp_path, monkeypatch, side, scale):
    write(tmp_path / "a", "jpg", smooth(403, 605))
    sizes = decoded_sizes(monkeypatch)
    read_training_crop(tmp_path / "a", "RGB", (side, side // 2), lambda height, width: (100, 50, 420, 370))
    assert sizes == [(-(-605 // scale), -(-403 // scale))]


def test_both_directions_count_and_other_formats_are_decoded_whole(tmp_path, monkeypatch):
    write(tmp_path / "a.jpg", "jpg", smooth(400, 600))
    write(tmp_path / "a.png", "png", smooth(400, 600))
    sizes = decoded_sizes(monkeypatch)
    read_training_crop(tmp_path / "a.jpg", "RGB", (50, 300), whole)
    read_training_crop(tmp_path / "a.jpg", "RGB", (200, 50), whole)
    read_training_crop(tmp_path / "a.jpg", "RGB", (50, 50), lambda height, width: (0, 0, 600, 101))
    crop = read_training_crop(tmp_path / "a.png", "RGB", (50, 50), whole)
    read_centre_crop(tmp_path / "a.jpg", "RGB", (50, 50), 1.0)
    assert sizes == [(300, 200), (300, 200), (300, 200), (600, 400), (600, 400)]
    close(np.asarray(crop), Image.fromarray(smooth(400, 600)).resize((50, 50), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_reduced_decode_shows_the_same_as_a_full_one(tmp_path, mode, orientation, scale):
    """Also of a picture whose sides are not multiples of 8, mirrored or turned."""
    write(tmp_path / "a", "jpg", smooth(403, 605), exif=exif(orientation))

    def choose_box(height, width):
        return width * 0.2 + 1, height * 0.1 + 3, width - 2, height * 0.9

    height, width = (403, 605) if orientation < 5 else (605, 403)
    left, top, right, bottom = choose_box(height, width)
    size = (int((bottom - top) / scale), int((right - left) / scale))
    reduced = np.asarray(read_training_crop(tmp_path / "a", mode, size, choose_box), int)
    full = pictures.read_crop(tmp_path / "a", mode, size, choose_box, Image.Resampling.BICUBIC, reduce=False)
    difference = np.abs(reduced - np.asarray(full, int))
    assert difference.mean() < 0.6 and difference.max() <= 6


def test_a_crop_at_full_size_is_cut_exactly(tmp_path):
    write(tmp_path / "a.png", "png")
    crop = read_training_crop(tmp_path / "a.png", "RGB", (10, 12), lambda height, width: (4, 3, 16, 13))
    close(np.asarray(crop), COLOUR[3:13, 4:16])


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_crops_are_resized_as_asked(tmp_path, resample):
    write(tmp_path / "a.png", "png")
    box = (4, 3, 16, 13)
    expected = Image.fromarray(COLOUR).resize((6, 7), resample, box)
    close(np.asarray(read_training_crop(tmp_path / "a.png", "RGB", (7, 6), lambda h, w: box, resample)), expected)
    expected = Image.fromarray(COLOUR).resize((6, 6), resample, (4, 0, 28, 24))
    close(np.asarray(read_centre_crop(tmp_path / "a.png", "RGB", (6, 6), 1.0, resample)), expected)


def test_the_centre_box_has_the_proportions_of_the_input_and_its_share_of_the_sides():
    assert centre_box(300, 400, (224, 224), 1.0) == (50, 0, 350, 300)
    assert centre_box(400, 300, (224, 224), 0.5) == (75, 125, 225, 275)
    assert centre_box(100, 400, (50, 100), 1.0) == (100, 0, 300, 100)
    assert centre_box(256, 256, (224, 224), 0.875) == (16, 16, 240, 240)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (37, 501)])
def test_centre_boxes_lie_in_pictures_of_any_shape(tmp_path, shape):
    write(tmp_path / "a.png", "png", smooth(*shape))
    for size in ((224, 224), (7, 300), (33, 11)):
        for fraction in (0.05, 0.875, 1.0):
            left, top, right, bottom = centre_box(*shape, size, fraction)
            assert 0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]
            assert read_centre_crop(tmp_path / "a.png", "RGB", size, fraction).size == size[::-1]


@pytest.mark.parametrize("shape, tolerance", [((320, 480), 1), ((480, 320), 1), ((375, 500), 5)])
def test_the_centre_crop_is_that_of_resizing_the_short_side_and_cutting(tmp_path, shape, tolerance):
    """In the last, torchvision rounds the long side and the place of the crop to pixels."""
    transforms = pytest.importorskip("torchvision.transforms")
    write(tmp_path / "a.png", "png", smooth(*shape))
    resize = transforms.Resize(256, transforms.InterpolationMode.BICUBIC)
    expected = transforms.CenterCrop(224)(resize(Image.fromarray(smooth(*shape))))
    found = read_centre_crop(tmp_path / "a.png", "RGB", (224, 224), 224 / 256)
    difference = np.abs(np.asarray(found, int) - np.asarray(expected, int))
    assert difference.max() <= tolerance and difference.mean() < tolerance / 2
