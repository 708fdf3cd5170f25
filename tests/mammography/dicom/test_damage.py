"""Damaged or contradictory pixel data is refused in one line, whatever a decoder would make of it."""

import io

import numpy as np
import pydicom
import pytest
from dicom_files import make, write
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from efficientnet.mammography.dicom import ImageError, read_image, read_pixels, read_shown_image
from efficientnet.mammography.dicom.codestream import empty_packets, hole
from efficientnet.mammography.dicom.headers import look_at

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
COMPRESSED = (JPEG2000Lossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1, RLELossless)


def noise(shape=(160, 120)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096, shape).astype(np.uint16)


def frame_of(path) -> bytes:
    return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


def with_frame(path, frame: bytes) -> None:
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([frame])
    dataset.save_as(path)


def refusal(path, read=read_pixels) -> str:
    with pytest.raises(ImageError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Codestreams


@pytest.mark.parametrize("smallest", [None, (40, 30)])
@pytest.mark.parametrize("length", [512, 4096])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda syntax: syntax.name)
def test_a_hole_in_a_codestream_is_refused_with_its_length(tmp_path, syntax, length, smallest):
    path = tmp_path / "image.dcm"
    write(path, noise(), 12, syntax, "MONOCHROME2")
    frame = frame_of(path)
    assert hole(frame) == 0
    with_frame(path, frame[:8999] + b"\1" + bytes(length) + b"\1" + frame[9001 + length :])
    message = refusal(path, lambda path: read_shown_image(path, smallest=smallest))
    assert f"a hole of {length:,} zero bytes" in message
    assert "copy or download it again" in message


@pytest.mark.parametrize("background", [0, 4095, None])
@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.name)
def test_a_constant_background_is_no_hole(tmp_path, syntax, background):
    pixels = np.zeros((600, 400), np.uint16)
    if background is not None:
        pixels[:] = background
        pixels[200:400, :200] = noise((200, 200))
    path = tmp_path / "image.dcm"
    write(path, pixels, 12, syntax, "MONOCHROME2")
    np.testing.assert_array_equal(read_pixels(path), pixels)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda syntax: syntax.name)
def test_padding_before_and_after_the_end_marker_is_no_hole(tmp_path, syntax):
    path = tmp_path / "image.dcm"
    write(path, noise(), 12, syntax, "MONOCHROME2")
    frame = frame_of(path)
    end = frame.rindex(b"\xff\xd9")
    assert hole(frame + bytes(5000)) == 0
    assert hole(frame[:end] + bytes(5000) + frame[end:]) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"quality_layers": [*range(200, 0, -2)]},
        {"precinct_size": (64, 64)},
        {"precinct_size": (32, 32), "codeblock_size": (32, 32), "quality_layers": [80, 40, 20, 10, 5, 2]},
        {"tile_size": (256, 256), "quality_layers": [80, 40, 20, 10, 5, 2], "progression": "RPCL"},
        {"precinct_size": (64, 64), "quality_layers": [80, 40, 20, 10, 5, 2], "progression": "PCRL"},
    ],
    ids=str,
)
def test_the_empty_packets_of_jpeg_2000_are_no_hole(options):
    """Each may be a zero byte: a black part has as many in a row as it has layers, resolutions and precincts."""
    picture, pixels = io.BytesIO(), np.zeros((1600, 1200), np.uint8)
    pixels[900:, :400] = noise((700, 400)) >> 4
    Image.fromarray(pixels).save(picture, "JPEG2000", no_jp2=True, irreversible=False, **options)
    frame = picture.getvalue()
    assert hole(frame) == 0
    packets, middle = empty_packets(frame), frame.rindex(b"\xff\xd9") - 60_000
    assert packets >= len(options.get("quality_layers", [0])) * 6
    for size, is_hole in ((packets, False), (packets + 512, True)):
        assert bool(hole(frame[:middle] + bytes(size) + frame[middle + size :])) == is_hole


def test_what_the_strictest_decoder_of_jpeg_ls_refuses_is_damaged(tmp_path):
    """Another decoder returns garbage for it."""
    path, rows = tmp_path / "image.dcm", np.arange(160)[:, None]
    write(path, (noise() // 20 + 1000 + 10 * rows).astype(np.uint16), 12, JPEGLSLossless, "MONOCHROME2")
    frame = frame_of(path)
    for damaged in (
        frame[:9000] + bytes([frame[9000] ^ 0x55]) + frame[9001:],
        frame[:9000] + frame[9400:],
        frame[: len(frame) * 6 // 10] + b"\xff\xd9",
    ):
        with_frame(path, damaged)
        message = refusal(path)
        assert "is damaged" in message and "NoneType" not in message


# Pixel data without compression


@pytest.mark.parametrize(
    "elements", [{"Columns": 64}, {"Rows": 48}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}]
)
@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_more_bytes_than_the_header_needs_are_refused(tmp_path, syntax, elements):
    path = tmp_path / "image.dcm"
    make(np.zeros((96, 80), np.uint16), syntax, **elements).save_as(path, enforce_file_format=True)
    needed = {"Columns": 96 * 64 * 2, "Rows": 48 * 80 * 2, "BitsAllocated": 96 * 80}[next(iter(elements))]
    assert f"has 15,360 bytes, but its header implies {needed:,}" in refusal(path)
    assert f"has 15,360 bytes, but its header implies {needed:,}" in refusal(path, read_image)


def test_two_frames_that_the_header_does_not_count_are_refused(tmp_path):
    make(np.concatenate([noise(), noise()]), Rows=160).save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert "has 76,800 bytes, but its header implies 38,400" in refusal(tmp_path / "image.dcm", read_image)


@pytest.mark.parametrize("surplus, accepted", [(1, 1), (2, 1), (100, 1), (512, 1), (514, 0), (4096, 0), (b"ab", 0)])
def test_padding_with_a_few_zeros_is_accepted(tmp_path, surplus, accepted):
    dataset, path = make(noise()), tmp_path / "image.dcm"
    dataset["PixelData"].value += bytes(surplus)
    dataset.save_as(path, enforce_file_format=True)
    if accepted:
        np.testing.assert_array_equal(read_pixels(path), noise())
    else:
        assert "bytes, but its header implies" in refusal(path)


def test_an_odd_number_of_pixels_is_padded(tmp_path):
    pixels = (noise() >> 4).astype(np.uint8)[:95, :79]
    make(pixels).save_as(tmp_path / "image.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_pixels(tmp_path / "image.dcm"), pixels)


# Headers


def icon() -> Dataset:
    item = make(np.zeros((8, 8), np.uint8))
    return Dataset({element.tag: element for element in item})


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_an_icon_is_no_pixel_data(tmp_path, syntax):
    path, dataset = tmp_path / "image.dcm", make(noise(), syntax, IconImageSequence=[icon()])
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_pixels(path), noise())
    if syntax != DeflatedExplicitVRLittleEndian:
        path.write_bytes(path.read_bytes()[:-100])
        assert "its pixel data is cut off; copy" in refusal(path) or "less than expected" in refusal(path)
    del dataset.PixelData
    dataset.save_as(path, enforce_file_format=True)
    assert "holds no pixel data" in refusal(path)
    if syntax != DeflatedExplicitVRLittleEndian:
        assert "holds no pixel data" in look_at(path).reason


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_the_photometric_interpretation_is_compared_in_upper_case(tmp_path):
    for name in ("MONOCHROME1", "MONOCHROME2"):
        make(noise(), PhotometricInterpretation=name).save_as(tmp_path / "upper.dcm", enforce_file_format=True)
        lower = make(noise(), PhotometricInterpretation=name.lower())
        lower.save_as(tmp_path / "lower.dcm", enforce_file_format=True)
        np.testing.assert_array_equal(read_pixels(tmp_path / "lower.dcm"), noise())
        np.testing.assert_array_equal(read_image(tmp_path / "lower.dcm"), read_image(tmp_path / "upper.dcm"))
        assert look_at(tmp_path / "lower.dcm").refused is None


def test_several_samples_are_named_as_such(tmp_path):
    dataset = make(np.repeat(noise(), 3, axis=1), Columns=120, SamplesPerPixel=3, PlanarConfiguration=0)
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert "3 samples per pixel" in refusal(tmp_path / "image.dcm", read_image)
    make(noise(), PhotometricInterpretation="PALETTE COLOR").save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert "not grayscale but PALETTE COLOR" in refusal(tmp_path / "image.dcm", read_image)
