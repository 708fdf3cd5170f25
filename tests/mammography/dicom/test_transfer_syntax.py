"""Files that declare the wrong transfer syntax are decoded by the signature of their data, or refused as such."""

import numpy as np
import pydicom
import pytest
from dicom_files import NATIVE, encoding, make, write
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from efficientnet.mammography.dicom import ImageError, read_pixels, read_shown_image
from efficientnet.mammography.dicom.codestream import possible_syntaxes
from efficientnet.mammography.dicom.headers import look_at

LITTLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
COMPRESSED = (RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLossless, JPEGLosslessSV1)
DECLARED = (*NATIVE, *COMPRESSED, JPEG2000, JPEGLSNearLossless, JPEGBaseline8Bit, JPEGExtended12Bit, HTJ2KLossless)
# Two names for one kind of codestream, and for one kind of data without compression.
ALIKE = [{JPEG2000, JPEG2000Lossless}, {JPEGLossless, JPEGLosslessSV1}, {JPEGLSLossless, JPEGLSNearLossless}]
ALIKE += [set(LITTLE)]


def ramp(bits: int = 12) -> np.ndarray:
    return np.linspace(0, 2**bits - 1, 64 * 48).astype(np.uint16).reshape(64, 48)


def declare(path, syntax):
    """Writes another transfer syntax into a file, and leaves everything else as it is."""
    content = path.read_bytes()
    at = content.index(b"\x02\x00\x10\x00UI")
    old = int.from_bytes(content[at + 6 : at + 8], "little")
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    length = int.from_bytes(content[140:144], "little") + len(new) - old
    meta = content[:140] + length.to_bytes(4, "little") + content[144 : at + 6]
    path.write_bytes(meta + len(new).to_bytes(2, "little") + new + content[at + 8 + old :])


@pytest.mark.parametrize("declared", DECLARED, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("true", [*NATIVE, *COMPRESSED], ids=lambda syntax: syntax.name)
def test_a_wrong_transfer_syntax_is_corrected_or_named(tmp_path, true, declared):
    path = tmp_path / "image.dcm"
    write(path, ramp(), 12, true, "MONOCHROME2")
    expected = read_shown_image(path)
    declare(path, declared)
    # Neither another byte order nor deflation can be told before the header is read.
    if true != declared and not {true, declared}.isdisjoint({ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}):
        with pytest.raises(ImageError, match="declares the wrong transfer syntax") as caught:
            read_pixels(path)
        assert declared in str(caught.value) and "download" not in str(caught.value)
        return
    np.testing.assert_array_equal(read_pixels(path), ramp())
    image, header = read_shown_image(path), look_at(path)
    np.testing.assert_array_equal(image.brightness, expected.brightness)
    assert header.notes == image.notes
    assert header.refused is None
    if true == declared or {true, declared} in ALIKE:
        assert image.notes == ()
        assert header.transfer_syntax == declared
    else:
        (note,) = image.notes
        assert note.startswith(f"declared as {declared.name}, decoded as ")
        assert UID(header.transfer_syntax).name in note


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1], ids=lambda syntax: syntax.name)
def test_a_codestream_without_encapsulation_is_decoded(tmp_path, syntax):
    path = tmp_path / "image.dcm"
    write(path, ramp(), 12, syntax, "MONOCHROME2")
    dataset = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.add_new("PixelData", "OW", frame + b"\0" * (len(frame) % 2))
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_pixels(path), ramp())
    assert look_at(path).notes == read_shown_image(path).notes != ()


def test_pixels_without_compression_in_a_fragment_are_read(tmp_path):
    dataset = make(ramp(), BitsStored=12)
    dataset.PixelData = encapsulate([dataset.PixelData])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_pixels(tmp_path / "image.dcm"), ramp())


@pytest.mark.parametrize("encapsulated", [False, True])
def test_data_of_no_known_kind_is_refused_with_the_declared_syntax(tmp_path, encapsulated):
    path, noise = tmp_path / "image.dcm", np.random.default_rng(0).bytes(1000)
    dataset = make(ramp(), BitsStored=12)
    dataset.PixelData = encapsulate([noise]) if encapsulated else noise
    dataset["PixelData"].is_undefined_length = encapsulated
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless if encapsulated else ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    declare(path, ExplicitVRLittleEndian if encapsulated else JPEG2000Lossless)
    with pytest.raises(ImageError, match=r"declares the wrong transfer syntax.*export the file again"):
        read_pixels(path)
    assert "wrong transfer syntax" in look_at(path).refused


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff\xe0", b"\xff\x4f\xff\x51", b"\xfe\xff\x00\xe0", bytes([1, 0, 0, 0, 64])]
)
def test_pixels_of_the_right_length_are_pixels_whatever_they_begin_with(tmp_path, start):
    pixels = ramp(16)
    content = bytearray(pixels.tobytes())
    content[: len(start)] = start
    pixels = np.frombuffer(bytes(content), "<u2").reshape(pixels.shape)
    make(pixels).save_as(tmp_path / "image.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_pixels(tmp_path / "image.dcm"), pixels)


@pytest.mark.parametrize("kind", ["J2KR", "JPLL", "RLE"])
def test_the_signatures_of_other_programs_are_known(kind):
    dataset = pydicom.dcmread(encoding(f"dicom-test-files__RG3_{kind}.dcm"))
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    assert dataset.file_meta.TransferSyntaxUID in possible_syntaxes(frame)
