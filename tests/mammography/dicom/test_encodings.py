"""One image in every encoding that installed programs can write: the pixels and the picture are always the same."""

import io

import numpy as np
import pydicom
import pytest
from dicom_files import NATIVE, encoding, make, write
from PIL import Image
from pydicom.pixels import get_decoder
from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from efficientnet.mammography.dicom import ImageError, read_image, read_pixels, read_shown_image
from efficientnet.mammography.dicom.codestream import frame_sizes, wavelet_levels
from efficientnet.mammography.picture import read_picture
from efficientnet.mammography.preprocessing import Preprocessing

WRITTEN_BY_GDCM = (JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)


def breast(bits: int, seed: int = 0) -> np.ndarray:
    """A noisy half disc on a smooth ground, with the lowest and the highest value in it; odd sides."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:211, :143]
    disc = (y - 105) ** 2 + x**2 < 90**2
    pixels = disc * (0.5 + 0.3 * np.sin(x / 17)) + 0.05 + 0.02 * generator.standard_normal(disc.shape)
    pixels = np.clip(pixels * (2**bits - 1), 0, 2**bits - 1).astype(np.uint16)
    pixels[0, 0], pixels[-1, -1] = 0, 2**bits - 1
    return pixels


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("syntax", [*NATIVE, *WRITTEN_BY_GDCM], ids=lambda syntax: syntax.name)
def test_the_pixels_and_the_picture_are_the_same_in_every_encoding(tmp_path, syntax, bits, photometric):
    pixels, path = breast(bits), tmp_path / "image.dcm"
    write(path, pixels, bits, syntax, photometric)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_pixels(path), pixels)
    write(tmp_path / "plain.dcm", pixels, bits, ExplicitVRLittleEndian, photometric)
    np.testing.assert_array_equal(read_image(path), read_image(tmp_path / "plain.dcm"))


@pytest.mark.parametrize("syntax", WRITTEN_BY_GDCM, ids=lambda syntax: syntax.name)
def test_every_decoder_that_is_installed_gives_the_same(tmp_path, syntax):
    pixels, path = breast(14), tmp_path / "image.dcm"
    write(path, pixels, 14, syntax, "MONOCHROME2")
    for plugin in get_decoder(syntax).available_plugins:
        found, _ = get_decoder(syntax).as_array(pydicom.dcmread(path), decoding_plugin=plugin)
        np.testing.assert_array_equal(found, pixels, plugin)


def change_frame(path, change):
    """Rewrites a file with another codestream."""
    dataset = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = pydicom.encaps.encapsulate([change(frame)])
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("syntax", "marker", "place", "width"),
    [
        (JPEG2000Lossless, b"\xff\x51", 6, 4),  # Xsiz, Ysiz
        (JPEGLossless, b"\xff\xc3", 5, 2),  # Y, X
        (JPEGLosslessSV1, b"\xff\xc3", 5, 2),
        (JPEGLSLossless, b"\xff\xf7", 5, 2),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("smallest", [None, (40, 32)])
def test_a_codestream_of_another_size_than_its_header_is_refused_before_it_is_decoded(
    tmp_path, syntax, marker, place, width, smallest
):
    path = tmp_path / "image.dcm"
    write(path, breast(12), 12, syntax, "MONOCHROME2")

    def claim_40000(frame):
        at = frame.index(marker) + place
        assert frame_sizes(frame) == [(211, 143, 1)]
        return frame[:at] + (40_000).to_bytes(width, "big") * 2 + frame[at + 2 * width :]

    change_frame(path, claim_40000)
    with pytest.raises(ImageError, match=r"40000 x 40000.*211 x 143"):
        read_shown_image(path, smallest=smallest)


@pytest.mark.parametrize("smallest", [None, (40, 32)])
def test_jpeg_2000_in_its_own_file_format_is_held_to_both_sizes(tmp_path, smallest):
    picture, path = io.BytesIO(), tmp_path / "image.dcm"
    Image.fromarray(breast(8).astype(np.uint8)).save(picture, "JPEG2000")  # lossless, with the boxes of JP2
    dataset = make(breast(8).astype(np.uint8))
    dataset.PixelData = pydicom.encaps.encapsulate([picture.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_pixels(path), breast(8))
    change_frame(path, lambda frame: frame.replace(b"ihdr" + (211).to_bytes(4, "big"), b"ihdr\0\0\x9c\x40"))
    with pytest.raises(ImageError, match=r"40000 x 143.*211 x 143"):
        read_shown_image(path, smallest=smallest)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=lambda syntax: syntax.name)
def test_any_number_of_zeros_may_follow_the_end_of_the_image(tmp_path, syntax):
    path = tmp_path / "image.dcm"
    write(path, breast(12), 12, syntax, "MONOCHROME2")
    change_frame(path, lambda frame: frame + bytes(1000))
    np.testing.assert_array_equal(read_pixels(path), breast(12))
    change_frame(path, lambda frame: frame[: len(frame) // 2] + bytes(1000))
    with pytest.raises(ImageError, match=r"cut off|damaged"):
        read_pixels(path)


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_a_resolution_is_halved_no_more_often_than_the_file_has_levels_for(tmp_path, levels):
    picture, path = io.BytesIO(), tmp_path / "image.dcm"
    pixels = np.kron(breast(8), np.ones((4, 4))).astype(np.uint8)  # 844 x 572
    Image.fromarray(pixels).save(picture, "JPEG2000", num_resolutions=levels + 1, no_jp2=True)
    assert wavelet_levels(picture.getvalue()) == levels
    dataset = make(pixels)
    dataset.PixelData = pydicom.encaps.encapsulate([picture.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(path, enforce_file_format=True)
    rows = read_shown_image(path, smallest=(50, 32)).values.shape[0]
    assert rows == -(-844 // 2 ** min(levels, 4))


@pytest.mark.parametrize("name", ["CT1", "MR1", "RG3"])
def test_the_same_image_of_other_programs_in_three_encodings_is_the_same(name):
    lossless, *others = (
        read_pixels(encoding(f"dicom-test-files__{name}_{kind}.dcm")) for kind in ("JPLL", "J2KR", "RLE")
    )
    for other in others:
        np.testing.assert_array_equal(other, lossless)


def test_high_throughput_jpeg_2000_is_read_where_its_package_is_installed():
    if not get_decoder(HTJ2KLossless).is_available:
        pytest.skip("pylibjpeg-openjpeg is not installed")
    from pydicom.data import get_testdata_file

    for name in ("HTJ2K_08_RGB.dcm", "HTJ2KLossless_08_RGB.dcm"):
        path = get_testdata_file(name, download=False)
        if path is None:
            pytest.skip("pydicom has fetched no such file yet")
        assert read_pixels(path).ndim == 3


def test_overlays_are_not_drawn_into_the_picture(tmp_path):
    """PS3.3 C.9: planes of their own, in 60xx; and, as retired, in bits of the pixels above those stored."""
    pixels = breast(12)
    plain = make(pixels, BitsStored=12)
    plain.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    drawn = make(pixels | np.uint16(0x8000), BitsStored=12)
    drawn.add_new((0x6000, 0x0010), "US", pixels.shape[0])
    drawn.add_new((0x6000, 0x0011), "US", pixels.shape[1])
    drawn.add_new((0x6000, 0x0040), "CS", "G")
    drawn.add_new((0x6000, 0x0050), "SS", [1, 1])
    drawn.add_new((0x6000, 0x0100), "US", 1)
    drawn.add_new((0x6000, 0x0102), "US", 0)
    drawn.add_new((0x6000, 0x3000), "OW", bytes([255]) * (-(-pixels.size // 16) * 2))
    drawn.save_as(tmp_path / "drawn.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_image(tmp_path / "drawn.dcm"), read_image(tmp_path / "plain.dcm"))


def compress(source, target, **elements):
    """As JPEG 2000 with a precision of BitsStored; then the elements are set."""
    pytest.importorskip("openjpeg")
    dataset = pydicom.dcmread(source)
    dataset.compress(JPEG2000Lossless)
    for keyword, value in elements.items():
        if keyword == "PixelPaddingValue":
            dataset.add_new(keyword, "US", value)  # pydicom leaves it undecided between US and SS
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(target, enforce_file_format=True)
    return target


def test_jpeg_2000_at_a_lower_resolution_is_nearly_the_same_picture(tmp_path):
    pixels = np.kron(breast(12), np.ones((4, 4), np.uint16))  # 844 x 572
    write(tmp_path / "plain.dcm", pixels, 12, ExplicitVRLittleEndian, "MONOCHROME1")
    compress(tmp_path / "plain.dcm", tmp_path / "j2k.dcm")
    assert read_shown_image(tmp_path / "j2k.dcm", smallest=(300, 200)).values.shape == (422, 286)
    assert read_shown_image(tmp_path / "j2k.dcm", smallest=(600, 200)).values.shape == pixels.shape
    assert read_shown_image(tmp_path / "plain.dcm", smallest=(300, 200)).values.shape == pixels.shape
    settings = Preprocessing((128, 64), crop=False, reduce_jpeg2000=True)
    reduced, whole = (read_picture(tmp_path / name, settings) for name in ("j2k.dcm", "plain.dcm"))
    assert 0 < np.abs(reduced - whole).mean() < 0.01
    assert settings.key != Preprocessing((128, 64), crop=False).key


BRIGHT = {"PixelPaddingValue": 4095}
DARK = {"PixelPaddingValue": 0}


@pytest.mark.parametrize(
    ("signed", "bits", "padding", "elements", "is_reduced"),
    [
        (False, 12, None, {}, True),
        (False, 12, 0, DARK, True),
        (False, 12, 4095, DARK | BRIGHT | {"PhotometricInterpretation": "MONOCHROME1"}, True),
        (False, 12, 4095, BRIGHT, False),
        (False, 12, 0, DARK | {"PhotometricInterpretation": "MONOCHROME1"}, False),
        (True, 12, None, {}, False),
        (True, 12, None, {"PixelRepresentation": 0}, False),
        (False, 16, None, {"BitsStored": 12, "HighBit": 11}, False),
        (False, 16, None, {"BitsStored": 12, "HighBit": 15}, False),
    ],
)
def test_jpeg_2000_is_reduced_where_that_gives_the_same_picture(tmp_path, signed, bits, padding, elements, is_reduced):
    pixels = np.kron(breast(12), np.ones((4, 4), np.uint16)).clip(100, 3900)  # 844 x 572
    if padding is not None:
        pixels[:, -150:] = padding
    pixels = (pixels.astype(np.int32) << (4 if elements.get("HighBit") == 15 else 0)) - 2048 * signed
    kept = {"WindowCenter": 2048 - 2048 * signed, "WindowWidth": 4096}
    make(pixels.astype(np.int16 if signed else np.uint16), BitsStored=bits, **kept).save_as(
        tmp_path / "plain.dcm", enforce_file_format=True
    )
    path = compress(tmp_path / "plain.dcm", tmp_path / "j2k.dcm", **elements)
    assert (read_shown_image(path, smallest=(300, 200)).values.shape == (422, 286)) == is_reduced
    reduced, whole = (
        read_picture(path, Preprocessing((128, 64), crop=False, reduce_jpeg2000=reduce)) for reduce in (True, False)
    )
    assert np.abs(reduced - whole).mean() < 0.01
    assert (np.abs(reduced - whole) > 0.3).mean() < 0.002
