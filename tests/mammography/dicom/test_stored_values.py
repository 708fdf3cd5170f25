"""A stored value is BitsStored bits below HighBit, in every encoding; what lies around them is masked or refused."""

import io

import numpy as np
import pydicom
import pytest
from dicom_files import make, write
from PIL import Image
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from efficientnet.mammography.dicom import ImageError, read_pixels, read_shown_image
from efficientnet.mammography.dicom.codestream import precision
from efficientnet.mammography.dicom.decoding import decode_words
from efficientnet.mammography.dicom.stored_values import stored_values

COMPRESSED = (RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1)
SHAPE = (96, 80)


def image(signed: bool) -> np.ndarray:
    """All 12-bit values in a smooth slope with a little noise."""
    slope = np.linspace(0, 4095, SHAPE[0] * SHAPE[1]) + np.random.default_rng(0).normal(0, 20, SHAPE[0] * SHAPE[1])
    return slope.clip(0, 4095).astype(np.int64).reshape(SHAPE) - 2048 * signed


def words(values: np.ndarray, high: int, extend: bool, planes: bool) -> np.ndarray:
    """12-bit values below bit `high` of 16, perhaps with the sign extended, and an overlay in a bit that is free."""
    placed = values << (high - 11)
    placed = (placed if extend else placed & (2 ** (high + 1) - 1)) & 0xFFFF
    if planes:
        placed[20:40, 30:50] ^= 0x8000 if high < 15 else 0x0001
    return placed.astype(np.uint16)


def written(path, content, syntax, signed, **elements):
    write(path, content.view(np.int16) if signed else content, 16, syntax, "MONOCHROME2")
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("high", [11, 12, 15])
@pytest.mark.parametrize(("signed", "extend"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, *COMPRESSED], ids=lambda s: s.name)
def test_the_same_values_in_every_encoding(tmp_path, syntax, signed, extend, high, planes):
    values = image(signed)
    content = words(values, high, extend, planes)
    path = written(tmp_path / "image.dcm", content, syntax, signed, BitsStored=12, HighBit=high)
    found = read_pixels(path)
    np.testing.assert_array_equal(found, values)
    assert found.dtype.kind == "iu"[not signed]
    for smallest in (None, (24, 20)):
        shown = read_shown_image(path, smallest=smallest)
        assert bool(shown.notes) == planes
        np.testing.assert_array_equal(shown.values.astype(int) - 2**15 * signed, values)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
def test_every_decoder_that_is_installed_gives_the_same_words(tmp_path, syntax, signed, monkeypatch):
    content = words(image(signed), 15, False, True)
    path = written(tmp_path / "image.dcm", content, syntax, signed, BitsStored=12, HighBit=15)
    dataset = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    if syntax != RLELossless:
        assert precision(frame) == (16, signed and syntax == JPEG2000Lossless)
    decoder = get_decoder(syntax)
    for plugin in list(decoder.available_plugins):
        monkeypatch.setattr(decoder, "_available", {plugin: decoder._available[plugin]})
        found, width = decode_words(dataset, b"" if syntax == RLELossless else frame)
        monkeypatch.undo()
        assert width == 16
        np.testing.assert_array_equal(found.view(np.uint16), content, plugin)


@pytest.mark.parametrize("signed", [False, True])
def test_a_codestream_of_no_more_bits_than_high_bit_holds_the_values_alone(tmp_path, signed):
    pytest.importorskip("openjpeg")
    values = image(signed)
    dataset = make(values.astype(np.int16 if signed else np.uint16), BitsStored=12)
    dataset.compress(JPEG2000Lossless)
    dataset.HighBit = 15
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_pixels(tmp_path / "image.dcm"), values)


@pytest.mark.parametrize("stated", [0, 1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless])
def test_a_codestream_of_the_other_sign_is_read_alike_by_all_decoders(tmp_path, syntax, stated, monkeypatch):
    """The same twelve bits, whatever sign the codestream gives them."""
    values = image(signed=True)
    dataset = make(values.astype(np.int16), BitsStored=12)
    if syntax == JPEG2000Lossless:
        pytest.importorskip("openjpeg")
        dataset.compress(JPEG2000Lossless)
    dataset.PixelRepresentation = stated
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    decoder = get_decoder(syntax)
    for plugin in [*decoder.available_plugins] if syntax == JPEG2000Lossless else [None]:
        if plugin:
            monkeypatch.setattr(decoder, "_available", {plugin: decoder._available[plugin]})
        if stated or plugin:
            np.testing.assert_array_equal(read_pixels(tmp_path / "image.dcm"), values if stated else values % 4096)
        monkeypatch.undo()


def wide(kind: str) -> np.ndarray:
    slope = np.linspace(0, 1, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    if kind == "16 bits":
        return slope * 65535
    if kind == "14 bits of noise":
        return np.random.default_rng(0).integers(0, 2**14, SHAPE)
    if kind == "a few bright pixels beyond":
        return slope**4 * 4400
    return np.where(slope > 0.9, 4096 + slope * 300, 3800 + slope * 200)  # a bright label on tissue


@pytest.mark.parametrize("kind", ["16 bits", "14 bits of noise", "a few bright pixels beyond", "a label"])
@pytest.mark.parametrize("high", [11, 15])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless], ids=lambda s: s.name)
def test_values_that_need_more_bits_are_refused_in_one_line(tmp_path, syntax, high, kind):
    path = written(tmp_path / "image.dcm", wide(kind).astype(np.uint16), syntax, False, BitsStored=12, HighBit=high)
    with pytest.raises(ImageError, match=r"contradict its header.*more bits than the 12 that BitsStored declares") as e:
        read_pixels(path)
    assert "\n" not in str(e.value)
    with pytest.raises(ImageError, match="BitsStored"):
        read_shown_image(path, smallest=(24, 20))


@pytest.mark.parametrize("overshoot", [0, 1, 100, 300])
def test_what_lossy_compression_adds_at_the_end_of_the_range_is_limited_to_it(tmp_path, overshoot):
    picture, values = io.BytesIO(), image(False)
    values[-20:-10, 10:20] = 4095 + overshoot
    Image.fromarray(values.astype(np.uint16)).save(picture, "JPEG2000", no_jp2=True)
    dataset = make(values.astype(np.uint16), BitsStored=12)
    dataset.PixelData = pydicom.encaps.encapsulate([picture.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    if overshoot == 300:
        with pytest.raises(ImageError, match="BitsStored"):
            read_pixels(tmp_path / "image.dcm")
    else:
        np.testing.assert_array_equal(read_pixels(tmp_path / "image.dcm"), values.clip(0, 4095))


@pytest.mark.parametrize("values", [[-3000, 3000], [-2049, 0], [0, 2048]])
def test_signed_values_beyond_their_bits_are_refused(values):
    pixels = np.linspace(*values, SHAPE[0] * SHAPE[1]).astype(np.int16).reshape(SHAPE)
    with pytest.raises(ValueError, match="BitsStored"):
        stored_values(pixels, 16, 12, 11, True)


def test_a_high_bit_that_the_values_contradict_is_not_believed(tmp_path):
    values = image(False)
    path = written(
        tmp_path / "image.dcm", values.astype(np.uint16), ExplicitVRLittleEndian, False, BitsStored=12, HighBit=15
    )
    np.testing.assert_array_equal(read_pixels(path), values)
    assert read_shown_image(path).notes == ("HighBit 15 read as 11",)


def test_a_plane_that_the_header_declares_is_masked_however_large_it_is(tmp_path):
    values = image(False)
    content = values.astype(np.uint16)
    content[:, :60] |= 0x2000
    elements = {"BitsStored": 12, "HighBit": 11}
    path = written(tmp_path / "image.dcm", content, ExplicitVRLittleEndian, False, **elements)
    with pytest.raises(ImageError, match="BitsStored"):
        read_pixels(path)
    dataset = pydicom.dcmread(path)
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", 13)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_pixels(path), values)


def test_ordinary_values_are_not_copied():
    pixels = image(False).astype(np.uint16)
    for width, stored, high in ((16, 12, 11), (16, 16, 15), (12, 12, 15)):
        found, notes = stored_values(pixels, width, stored, high, False)
        assert np.shares_memory(found, pixels) and notes == ()
