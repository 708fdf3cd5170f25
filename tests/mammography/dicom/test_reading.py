"""Decoding DICOM files, displaying them as the header says, and refusing them in one line."""

import hashlib
import importlib.util
import logging
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import ENCODINGS, encoding, make, mammograms, manifest_rows
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from efficientnet.mammography.dicom import ImageError, read_image, read_pixels
from efficientnet.mammography.dicom.decoding import INSTALL_CODECS
from efficientnet.mammography.dicom.grayscale import apply_window

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
def write(tmp_path):
    def write_file(pixels, syntax=ExplicitVRLittleEndian, **elements) -> Path:
        path = tmp_path / "image.dcm"
        make(np.asarray(pixels), syntax, **elements).save_as(path, enforce_file_format=True)
        return path

    return write_file


def ramp(bits: int, signed: bool = False) -> np.ndarray:
    """Every 1/4096 of the range of stored values, as (64, 64) or smaller."""
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.linspace(low, low + 2**bits - 1, min(2**bits, 4096)).round().astype(dtype)
    return values.reshape(-1, 16)


def lut(entries: list[int], first: int = 0, bits: int = 16, vr: str = "US", order: str = "<", signed=False) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries) % 65536, first, bits])
    packed = np.asarray(entries, "u1" if vr == "OB" else f"{order}u2").tobytes()
    item.add_new("LUTData", "US" if vr == "US" else "OW", list(entries) if vr == "US" else packed)
    return item


def one_line_error(path: Path, read=read_pixels) -> str:
    with pytest.raises(ImageError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert len(message) < len(str(path)) + 500
    return message


# Decoding


@pytest.mark.skipif(not manifest_rows(), reason="DICOM_ENCODINGS names no folder of files")
@pytest.mark.parametrize("row", manifest_rows(), ids=lambda row: row["file"])
def test_stored_values_are_those_of_the_manifest(row):
    if row["decode"] != "ok":
        one_line_error(ENCODINGS / row["file"])
        return
    pixels = read_pixels(ENCODINGS / row["file"])
    assert pixels.dtype == np.dtype(row["dtype"])
    assert "x".join(map(str, pixels.shape)) == row["shape"]
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == row["sha256"]


@pytest.mark.parametrize("path", sorted(PYDICOM_FILES.glob("*.dcm")), ids=lambda path: path.name)
def test_pydicoms_own_files_are_read_alike_or_refused_in_one_line(path, capfd, recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = pydicom.dcmread(path, force=True).pixel_array
        except Exception:
            expected = None
    recwarn.clear()
    capfd.readouterr()
    if expected is None:
        one_line_error(path)
    else:
        np.testing.assert_array_equal(read_pixels(path), expected)
        assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_the_real_mammograms_are_read_exactly_and_shown_bright_on_black():
    paths = mammograms()
    assert len(paths) == 8
    for path in paths:
        pixels, image = read_pixels(path), read_image(path)
        np.testing.assert_array_equal(pixels, pydicom.dcmread(path).pixel_array)
        assert image.shape == pixels.shape
        assert image.dtype == np.float32
        assert image.min() == 0
        assert image.max() == 1
        assert np.median(image) < 0.01  # most of a film is background
        order = np.argsort(pixels[::50, ::50], axis=None)
        assert (np.diff(image[::50, ::50].reshape(-1)[order]) >= 0).all()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_every_bit_depth_sign_and_byte_order_shows_the_same_picture(tmp_path, bits, signed, syntax):
    pixels = ramp(bits, signed)
    middle, path = float(pixels.astype(float).mean()), tmp_path / "image.dcm"
    elements = {"BitsStored": bits, "WindowCenter": middle, "WindowWidth": 2**bits, "VOILUTFunction": "LINEAR_EXACT"}
    if syntax == RLELossless:
        dataset = make(pixels, **elements)
        dataset.compress(RLELossless)
    else:
        dataset = make(pixels, syntax, **elements)
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_pixels(path), pixels)
    expected = np.clip((pixels - middle) / 2**bits + 0.5, 0, 1)
    np.testing.assert_allclose(read_image(path), expected, atol=1e-6)


def test_bits_above_the_stored_ones_are_ignored(write):
    pixels = ramp(12)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    clean = read_image(write(pixels, BitsStored=12, **window))
    with_overlay = read_image(write(pixels | np.uint16(0x5000), BitsStored=12, **window))
    np.testing.assert_array_equal(with_overlay, clean)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_data_set_without_preamble_and_file_meta_is_read(tmp_path, syntax):
    pixels, path = ramp(12), tmp_path / "image.dcm"
    dataset = Dataset(make(pixels, syntax, BitsStored=12))
    implicit, little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    dataset.save_as(path, implicit_vr=implicit, little_endian=little_endian, enforce_file_format=False)
    assert b"DICM" not in path.read_bytes()[:200]
    np.testing.assert_array_equal(read_pixels(path), pixels)


def test_a_deflated_file_is_read(write):
    np.testing.assert_array_equal(read_pixels(write(ramp(12), DeflatedExplicitVRLittleEndian)), ramp(12))


# The pipeline of PS3.3 C.11


def linear(x: float, c: float, w: float) -> float:
    """PS3.3 C.11.2.1.2.1, to the letter, for an output from 0 to 1."""
    if x <= c - 0.5 - (w - 1) / 2:
        return 0.0
    if x > c - 0.5 + (w - 1) / 2:
        return 1.0
    return (x - (c - 0.5)) / (w - 1) + 0.5


def linear_exact(x: float, c: float, w: float) -> float:
    """PS3.3 C.11.2.1.3.2."""
    if x <= c - w / 2:
        return 0.0
    if x > c + w / 2:
        return 1.0
    return (x - c) / w + 0.5


def sigmoid(x: float, c: float, w: float) -> float:
    """PS3.3 C.11.2.1.3.1."""
    return 1 / (1 + np.exp(-4 * (x - c) / w))


FUNCTIONS = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid, None: linear}


@pytest.mark.parametrize("centre, width", [(2048, 4096), (2047.5, 4095), (900, 1), (900, 2), (1500.25, 333.5)])
@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_windows_follow_the_formulas_of_the_standard_and_pydicom(write, function, centre, width):
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = write(pixels, BitsStored=12, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    image = read_image(path)
    with np.errstate(over="ignore"):
        literal = [FUNCTIONS[function](float(x), centre, width) for x in range(4096)]
        np.testing.assert_allclose(image.reshape(-1), literal, atol=1e-6)
        if width > 1 or function == "LINEAR_EXACT":
            reference = apply_voi_lut(pixels, pydicom.dcmread(path)) / 4095
            np.testing.assert_allclose(image, reference, atol=1e-6)


@pytest.mark.parametrize("slope, intercept", [(1, -1024), (0.25, 10), (-2, 500), (1.5, 0)])
def test_the_window_applies_to_rescaled_values(write, slope, intercept):
    pixels = ramp(12, signed=True)
    elements = {"RescaleSlope": slope, "RescaleIntercept": intercept, "WindowCenter": 100, "WindowWidth": 900}
    path = write(pixels, BitsStored=12, **elements)
    expected = [linear(float(x) * slope + intercept, 100, 900) for x in pixels.reshape(-1)]
    np.testing.assert_allclose(read_image(path).reshape(-1), expected, atol=1e-6)


def test_an_unknown_or_empty_function_counts_as_linear():
    values = np.arange(100.0)
    for function in ("", "linear ", "CUBIC"):
        np.testing.assert_array_equal(apply_window(values, 50, 20, function), apply_window(values, 50, 20))


def test_monochrome1_is_inverted_after_the_window(write):
    elements = {"BitsStored": 12, "WindowCenter": 1000, "WindowWidth": 700}
    bright = read_image(write(ramp(12), **elements))
    dark = read_image(write(ramp(12), PhotometricInterpretation="MONOCHROME1", **elements))
    np.testing.assert_allclose(dark, 1 - bright, atol=1e-6)
    shaped = write(
        ramp(12), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", **elements
    )  # says the same twice, and is inverted once
    np.testing.assert_array_equal(read_image(shaped), dark)


def test_monochrome1_without_a_window_is_inverted_too(write):
    image = read_image(write(ramp(12), BitsStored=12, PhotometricInterpretation="MONOCHROME1"))
    assert image.reshape(-1)[0] == 1
    assert image.reshape(-1)[-1] == 0


def test_the_index_chooses_the_window_and_the_last_one_stands_for_all_beyond(write):
    path = write(ramp(12), BitsStored=12, WindowCenter=[500, 1500, 2500], WindowWidth=[400, 800, 1200])
    for index, (centre, width) in enumerate([(500, 400), (1500, 800), (2500, 1200), (2500, 1200)]):
        expected = [linear(float(x), centre, width) for x in ramp(12).reshape(-1)]
        np.testing.assert_allclose(read_image(path, index).reshape(-1), expected, atol=1e-6)
    with pytest.raises(ValueError, match="-1"):
        read_image(path, -1)


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_voi_lut_goes_before_the_window_and_holds_its_ends(write, vr, bits, syntax):
    entries = [int(value) for value in np.linspace(0, 1, 1000) ** 2 * (2**bits - 1)]
    item = lut(entries, first=500, bits=bits, vr=vr, order=">" if syntax == ExplicitVRBigEndian else "<")
    path = write(ramp(12), syntax, BitsStored=12, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    index = np.clip(ramp(12).astype(int) - 500, 0, 999)
    image = read_image(path)
    np.testing.assert_allclose(image, np.array(entries)[index] / (2**bits - 1), atol=1e-6)
    reference = apply_voi_lut(ramp(12), pydicom.dcmread(path)) / (2**bits - 1)
    np.testing.assert_allclose(image, reference, atol=1e-6)


def test_the_index_chooses_among_voi_luts_and_the_last_one_stands_for_all_beyond(write):
    up, down = lut([0, 65535], first=2000), lut([65535, 0], first=2000)
    path = write(ramp(12), BitsStored=12, VOILUTSequence=[up, down], WindowCenter=1, WindowWidth=2)
    for index, expected in enumerate([ramp(12) > 2000, ramp(12) <= 2000, ramp(12) <= 2000]):
        np.testing.assert_array_equal(read_image(path, index), expected)


def test_a_lut_of_65536_entries_and_one_of_packed_bytes_are_read(write):
    full = lut(list(range(65535, -1, -1)), bits=16, vr="OW")
    np.testing.assert_allclose(read_image(write(ramp(16), VOILUTSequence=[full])), 1 - ramp(16) / 65535, atol=1e-6)
    packed = lut(list(range(256)), bits=8, vr="OB")
    np.testing.assert_allclose(read_image(write(ramp(8), VOILUTSequence=[packed])), ramp(8) / 255, atol=1e-6)


def test_a_modality_lut_goes_before_the_window(write):
    entries = [int(value) for value in np.sqrt(np.linspace(0, 1, 4096)) * 4095]
    item = lut(entries, first=-2048, bits=16, signed=True)
    item.ModalityLUTType = "US"
    pixels = ramp(12, signed=True)
    path = write(pixels, BitsStored=12, ModalityLUTSequence=[item], WindowCenter=2000, WindowWidth=1000)
    values = np.array(entries)[pixels.astype(int) + 2048]
    np.testing.assert_array_equal(values, apply_modality_lut(pixels, pydicom.dcmread(path)))
    expected = [linear(float(value), 2000, 1000) for value in values.reshape(-1)]
    np.testing.assert_allclose(read_image(path).reshape(-1), expected, atol=1e-6)


@pytest.mark.parametrize("name, apply", [("mlut_18", apply_modality_lut), ("vlut_04", apply_voi_lut)])
def test_the_tables_of_real_files_agree_with_pydicom(tmp_path, name, apply):
    dataset = pydicom.dcmread(encoding(f"pydicom-data__{name}.dcm"))
    dataset.Modality = "MG"
    dataset.save_as(tmp_path / "image.dcm")
    image = read_image(tmp_path / "image.dcm")
    reference = apply(dataset.pixel_array, dataset).astype(float)
    order = np.argsort(reference, axis=None)
    assert (np.diff(image.reshape(-1)[order]) >= 0).all()
    if name == "vlut_04":
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        np.testing.assert_allclose(image, reference / (2**bits - 1), atol=1e-6)


def test_padding_is_background_whatever_the_window_says(write):
    pixels = np.full((8, 8), 1000, np.uint16)
    pixels[:, :4] = 0
    pixels[0, 7] = 3000
    elements = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 2000, "WindowWidth": 4000}
    assert read_image(write(pixels, **elements))[0, 0] == 1
    image = read_image(write(pixels, PixelPaddingValue=0, **elements))
    assert (image[:, :4] == 0).all()
    assert (image[:, 4:] > 0.2).all()
    ranged = read_image(write(pixels, PixelPaddingValue=0, PixelPaddingRangeLimit=1000, **elements))
    assert np.count_nonzero(ranged) == 1
    reverse = read_image(write(pixels, PixelPaddingValue=1000, PixelPaddingRangeLimit=0, **elements))
    np.testing.assert_array_equal(reverse, ranged)


def test_padding_of_signed_pixels_is_found_even_if_the_header_writes_it_unsigned(tmp_path):
    pixels = ramp(12, signed=True)
    pixels[0] = -2000
    for vr, value in (("SS", -2000), ("US", 65536 - 2000)):
        dataset = make(pixels, BitsStored=16, WindowCenter=0, WindowWidth=8000)
        dataset.add_new("PixelPaddingValue", vr, value)
        dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
        image = read_image(tmp_path / "image.dcm")
        assert (image[0] == 0).all()
        assert (image[1:] > 0.2).mean() > 0.99


def test_padding_does_not_weigh_in_the_stretch(write):
    pixels = np.full((100, 100), 65535, np.uint16)
    pixels[:, 50:] = np.linspace(1000, 2000, 50).astype(np.uint16)
    image = read_image(write(pixels, PixelPaddingValue=65535))
    assert (image[:, :50] == 0).all()
    np.testing.assert_allclose(image[0, 50:], np.linspace(0, 1, 50), atol=0.03)


def test_a_stripped_header_of_the_first_site_is_shown_right(write):
    """16 bits, MONOCHROME1, SIGMOID, four window pairs, padding equal to the largest pixel, no modality, no view."""
    pixels = np.linspace(20000, 50000, 4096).astype(np.uint16).reshape(64, 64)
    pixels[:, 40:] = 65535
    path = write(
        pixels,
        Modality=None,
        PhotometricInterpretation="MONOCHROME1",
        VOILUTFunction="SIGMOID",
        WindowCenter=[33000, 30000, 36000, 32000],
        WindowWidth=[9000, 8000, 7000, 20000],
        PixelPaddingValue=65535,
    )
    for index, (centre, width) in enumerate([(33000, 9000), (30000, 8000), (36000, 7000), (32000, 20000)]):
        image = read_image(path, window=index)
        expected = [1 - sigmoid(float(x), centre, width) for x in pixels[:, :40].reshape(-1)]
        np.testing.assert_allclose(image[:, :40].reshape(-1), expected, atol=1e-6)
        assert (image[:, 40:] == 0).all()


def test_a_stripped_header_of_the_second_site_is_shown_right(write):
    path = write(ramp(12), BitsStored=12, Modality=None, WindowCenter=2048, WindowWidth=4096, PixelPaddingValue=0)
    np.testing.assert_allclose(read_image(path), ramp(12) / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": 0.5},
        {"WindowCenter": 2000, "WindowWidth": -5, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2000, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 2000},
        {"WindowWidth": 2000},
        {"WindowCenter": "", "WindowWidth": ""},
        {"VOILUTSequence": [Dataset()]},
        {"VOILUTSequence": []},
    ],
    ids=str,
)
def test_a_file_without_a_usable_window_is_stretched(write, elements):
    image = read_image(write(ramp(12), BitsStored=12, **elements))
    np.testing.assert_array_equal(image, read_image(write(ramp(12), BitsStored=12)))
    assert image.min() == 0
    assert image.max() == 1
    assert abs(image.mean() - 0.5) < 0.01


def test_the_stretch_leaves_a_few_extreme_pixels_out(write):
    pixels = np.tile(np.linspace(100, 200, 100).astype(np.uint16), (100, 1))
    expected = read_image(write(pixels))
    pixels[0, :5] = 65000
    np.testing.assert_allclose(read_image(write(pixels))[1:], expected[1:], atol=0.02)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_at_the_maximum_that_no_header_declares_does_not_darken_the_rest(write, photometric):
    pixels = np.tile(np.linspace(1000, 3000, 100).astype(np.uint16), (100, 1))
    expected = read_image(write(pixels, PhotometricInterpretation=photometric))
    padded = np.hstack([pixels, np.full((100, 40), 65535, np.uint16)])
    image = read_image(write(padded, PhotometricInterpretation=photometric))
    np.testing.assert_allclose(image[:, :100], expected, atol=1e-6)
    assert (image[:, 100:] == (photometric == "MONOCHROME2")).all()


def test_an_image_that_is_nearly_one_value_still_shows_what_is_not(write):
    pixels = np.zeros((100, 100), np.uint16)
    pixels[3, 4] = 7
    image = read_image(write(pixels))
    assert image[3, 4] == 1
    assert image.sum() == 1


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 5, "WindowWidth": 4},
        {"PixelPaddingValue": 77},
        {"PixelPaddingValue": 77, "PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleSlope": 0, "RescaleIntercept": 3},
    ],
    ids=str,
)
def test_a_constant_image_is_all_zeros(write, elements):
    image = read_image(write(np.full((9, 7), 77, np.int16), **elements))
    assert image.dtype == np.float32
    assert image.shape == (9, 7)
    assert not image.any()


def test_random_headers_never_leave_the_unit_range(write):
    rng = np.random.default_rng(0)
    for _ in range(40):
        bits, signed = int(rng.choice([8, 10, 12, 14, 16])), bool(rng.integers(2))
        elements = {
            "BitsStored": bits,
            "PhotometricInterpretation": str(rng.choice(["MONOCHROME1", "MONOCHROME2"])),
            "WindowCenter": float(rng.integers(-70000, 70000)),
            "WindowWidth": float(rng.choice([1, 2, 1e-3, 100, 5000, 65536])),
            "VOILUTFunction": str(rng.choice(["LINEAR", "LINEAR_EXACT", "SIGMOID"])),
            "RescaleSlope": float(rng.choice([1, -1, 0.1, 0, 100])),
            "RescaleIntercept": float(rng.integers(-5000, 5000)),
        }
        image = read_image(write(rng.permutation(ramp(bits, signed)), **elements))
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 1


# What is refused


def test_what_is_not_there_or_not_dicom_is_named_in_one_line(tmp_path):
    assert "no such file" in one_line_error(tmp_path / "missing.dcm")
    assert "directory" in one_line_error(tmp_path)
    (tmp_path / "empty.dcm").touch()
    assert "empty" in one_line_error(tmp_path / "empty.dcm")
    for content in (b"patient_id,cancer\n1,0\n" * 100, b"x", bytes(5000), np.random.default_rng(0).bytes(5000)):
        (tmp_path / "text.dcm").write_bytes(content)
        assert "not a DICOM file" in one_line_error(tmp_path / "text.dcm")


def test_a_dicom_file_without_pixels_is_named(tmp_path):
    path = Path(get_testdata_file("rtplan.dcm", download=False))
    assert "no pixel data" in one_line_error(path)
    assert "no pixel data" in one_line_error(path, read_image)


def cut_positions(size: int) -> list[int]:
    return [1, 100, 131, 200, 400, *(size * i // 12 for i in range(1, 12)), size - 100, size - 20]


@pytest.mark.parametrize("name", ["CT1_J2KR", "CT1_JPLL", "CT1_RLE"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, name, capfd):
    content = encoding(f"dicom-test-files__{name}.dcm").read_bytes()
    content = content.split(b"\xfc\xff\xfc\xff")[0]  # one of the files has an element of padding after the pixels
    for size in cut_positions(len(content)):
        (tmp_path / "cut.dcm").write_bytes(content[:size])
        one_line_error(tmp_path / "cut.dcm")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_an_embedded_file_cut_off_anywhere_is_refused(tmp_path, syntax):
    dataset = make(np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16), BitsStored=12)
    if syntax == RLELossless:
        dataset.compress(syntax)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "whole.dcm", enforce_file_format=True)
    content = (tmp_path / "whole.dcm").read_bytes()
    for size in cut_positions(len(content)):
        (tmp_path / "cut.dcm").write_bytes(content[:size])
        one_line_error(tmp_path / "cut.dcm")


@pytest.mark.parametrize("name", ["CT1_J2KR", "CT1_JPLL", "CT1_RLE"])
def test_a_codestream_that_ends_early_in_a_whole_file_is_refused(tmp_path, name):
    dataset = pydicom.dcmread(encoding(f"dicom-test-files__{name}.dcm"))
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    for part in (0.2, 0.6, 0.95):
        dataset.PixelData = pydicom.encaps.encapsulate([frame[: int(len(frame) * part)]])
        dataset.save_as(tmp_path / "cut.dcm")
        message = one_line_error(tmp_path / "cut.dcm")
        assert "cut off" in message or "damaged" in message


def test_cut_off_pixels_are_told_from_absent_ones(tmp_path):
    content = encoding("dicom-test-files__CT1_J2KR.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[: len(content) // 2])
    assert "cut off" in one_line_error(tmp_path / "cut.dcm")
    truncated = Path(get_testdata_file("MR_truncated.dcm", download=False))
    assert "8130 vs 8192 bytes" in one_line_error(truncated)


def test_several_frames_are_refused_with_their_number(tmp_path):
    path = encoding("dicom-utils__jpeg2k_3d.dcm")
    assert read_pixels(path).shape == (4, 128, 128)
    assert "4 frames" in one_line_error(path, read_image)


def test_frames_that_the_header_does_not_count_are_refused(tmp_path):
    dataset = pydicom.dcmread(encoding("dicom-utils__jpeg2k_3d.dcm"))
    dataset.NumberOfFrames = 1
    dataset.save_as(tmp_path / "image.dcm")
    if read_pixels(tmp_path / "image.dcm").ndim == 3:
        assert "4 frames" in one_line_error(tmp_path / "image.dcm", read_image)


@pytest.mark.parametrize("name", ["examples_rgb_color.dcm", "examples_palette.dcm", "SC_rgb_rle.dcm"])
def test_colour_is_refused(name):
    assert "grayscale" in one_line_error(Path(get_testdata_file(name, download=False)), read_image)


@pytest.mark.parametrize(
    "modality, accepted", [("MG", 1), ("DX", 1), ("CR", 1), (None, 1), ("", 1), ("CT", 0), ("US", 0)]
)
def test_only_modalities_that_hold_mammograms_are_shown(write, modality, accepted):
    path = write(ramp(12), BitsStored=12, Modality=modality)
    if accepted:
        assert read_image(path).max() == 1
    else:
        assert modality in one_line_error(path, read_image)
        assert read_pixels(path).shape == ramp(12).shape


def test_pixels_of_more_than_16_bits_are_refused(tmp_path):
    pixels = np.arange(64, dtype=np.uint32).reshape(8, 8)
    make(pixels).save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert "16 bits" in one_line_error(tmp_path / "image.dcm", read_image)
    make(pixels, BitsStored=10).save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert read_image(tmp_path / "image.dcm").max() == 1


def relabel(path: Path, syntax: str, **elements) -> Path:
    """A file that says it is in `syntax`; its pixel data is one fragment that nothing should be asked to decode."""
    dataset = make(ramp(12), BitsStored=12, **elements)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 100 + b"\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return path


@pytest.fixture
def without_plugins(monkeypatch):
    """pydicom's registry as it is where the named plugins are not installed."""

    def hide(syntax, *names):
        decoder = get_decoder(syntax)
        for name in names:
            module = importlib.import_module(f"pydicom.pixels.decoders.{name}")
            available = {key: value for key, value in decoder._available.items() if key != name}
            missing = decoder._unavailable | {name: module.DECODER_DEPENDENCIES[syntax]}
            monkeypatch.setattr(decoder, "_available", available)
            monkeypatch.setattr(decoder, "_unavailable", missing)

    return hide


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_a_decoder_that_is_not_installed_is_named_with_the_command_that_installs_it(tmp_path, syntax, without_plugins):
    without_plugins(syntax, "gdcm", "pylibjpeg")
    message = one_line_error(relabel(tmp_path / "image.dcm", syntax))
    assert syntax.name in message
    assert str(syntax) in message
    assert "pip install python-gdcm" in message
    assert INSTALL_CODECS in message
    assert "damaged" not in message


def test_high_throughput_jpeg_2000_asks_for_its_own_package(tmp_path, without_plugins):
    without_plugins(HTJ2KLossless, "pylibjpeg")
    message = one_line_error(relabel(tmp_path / "image.dcm", HTJ2KLossless))
    assert "pip install pylibjpeg pylibjpeg-openjpeg" in message


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.94", "1.2.3.4"])
def test_a_transfer_syntax_that_nothing_decodes_is_told_from_a_missing_decoder(tmp_path, syntax):
    message = one_line_error(relabel(tmp_path / "image.dcm", syntax))
    assert "no package decodes" in message
    assert syntax in message
    assert "pip install" not in message


def test_damaged_data_is_told_from_a_missing_decoder(tmp_path):
    message = one_line_error(relabel(tmp_path / "image.dcm", JPEGLSLossless))
    assert "damaged" in message
    assert "pip install" not in message


def test_12_bit_jpeg_with_pillow_alone_points_to_the_codecs(without_plugins):
    path = Path(get_testdata_file("JPGExtended.dcm", download=False))
    assert read_pixels(path).shape == (1024, 256)
    without_plugins(JPEGExtended12Bit, "gdcm", "pylibjpeg")
    assert INSTALL_CODECS in one_line_error(path)


def test_the_core_packages_read_jpeg_2000_and_ask_for_codecs_for_jpeg_lossless():
    """In a fresh process in which the packages of the extra cannot be imported."""
    program = (
        "import sys, hashlib; sys.path[:0] = sys.argv[3:]\n"
        "for name in ('gdcm', '_gdcm', 'pylibjpeg', 'libjpeg', 'openjpeg', 'rle'): sys.modules[name] = None\n"
        "from efficientnet.mammography.dicom import ImageError, read_pixels\n"
        "print(hashlib.sha256(read_pixels(sys.argv[1]).tobytes()).hexdigest())\n"
        "try: read_pixels(sys.argv[2])\n"
        "except ImageError as error: print(error)\n"
    )
    j2k, lossless = (encoding(f"dicom-test-files__RG3_{name}.dcm") for name in ("J2KR", "JPLL"))
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program, j2k, lossless, root, root / "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    digest, message = done.stdout.splitlines()
    assert digest == hashlib.sha256(read_pixels(j2k).tobytes()).hexdigest()
    assert "JPEG Lossless" in message
    assert "1.2.840.10008.1.2.4.70" in message
    assert INSTALL_CODECS in message
    assert not done.stderr


def test_compressed_pixels_without_a_transfer_syntax_are_refused(tmp_path):
    path = tmp_path / "image.dcm"
    dataset = pydicom.dcmread(relabel(path, JPEGLSLossless), force=True)
    del dataset.file_meta.TransferSyntaxUID
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    assert "does not say how" in one_line_error(path)


def test_a_header_element_that_is_no_number_is_taken_as_absent(tmp_path):
    dataset = make(ramp(12), BitsStored=12, WindowCenter=2000, WindowWidth=12)
    path = tmp_path / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(b"2000", b"20ab"))
    np.testing.assert_allclose(read_image(path), read_image_without_window(tmp_path), atol=1e-6)


def test_a_window_that_the_header_holds_as_text_is_read(tmp_path):
    dataset = make(ramp(12), BitsStored=12)
    dataset.add_new("WindowCenter", "LO", "2048")
    dataset.add_new("WindowWidth", "LO", "4096")
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    np.testing.assert_allclose(read_image(tmp_path / "image.dcm"), ramp(12) / 4095, atol=1e-6)


def read_image_without_window(folder: Path) -> np.ndarray:
    make(ramp(12), BitsStored=12).save_as(folder / "plain.dcm", enforce_file_format=True)
    return read_image(folder / "plain.dcm")


def test_an_error_travels_between_processes(tmp_path):
    with pytest.raises(ImageError) as caught:
        read_pixels(tmp_path / "missing.dcm")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_ordinary_defects_are_not_mentioned_on_the_terminal(write, capfd, recwarn):
    path = write(ramp(12), BitsStored=12, WindowCenter=2000, WindowWidth=12)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"MG", b"ct") + b"\0" * 3)
    message = one_line_error(path, read_image)
    assert "CT" in message
    path.write_bytes(content + b"\0" * 3)
    read_image(path)
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("pydicom").handlers  # a NullHandler, so that its log goes where the user sends it
