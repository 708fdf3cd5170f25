"""What a header says that cannot be used counts as absent, with a note that the header alone gives as well."""

import itertools
import warnings

import numpy as np
import pytest
from dicom_files import make
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
)

from efficientnet.mammography.dicom import ImageError, read_image, read_shown_image
from efficientnet.mammography.dicom.headers import Header, has_problems, look_at, report

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
WINDOW = {"WindowCenter": 1000, "WindowWidth": 400}
UNUSABLE = "unusable VOI LUT or window, the next one used"
STRETCHED = "no usable VOI LUT or window, brightness stretched"
WIPED_OUT = "rescale values ignored, which would erase the image"


@pytest.fixture
def write(tmp_path):
    count = itertools.count()

    def write_file(pixels=RAMP, syntax=ExplicitVRLittleEndian, **elements):
        path, bits = tmp_path / f"{next(count)}.dcm", elements.pop("BitsStored", 12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(np.asarray(pixels), syntax, BitsStored=bits, **elements).save_as(path, enforce_file_format=True)
        return path

    return write_file


def lut(entries, first=0, bits=16, vr="US", data="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", vr, [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", data, entries if data == "OW" else [int(entry) for entry in entries])
    return item


def notes_of(path) -> tuple[str, ...]:
    """The notes of the image, which are those of the header."""
    notes, header = read_shown_image(path).notes, look_at(path)
    assert header.notes == notes
    assert header.refused is None
    return notes


def check(path, like, *notes):
    np.testing.assert_allclose(read_image(path), like, atol=1e-3)
    assert notes_of(path) == notes


# Look-up tables


@pytest.mark.parametrize(
    ("bits", "top", "needed"),
    [
        *[(12, 4095, 12), (16, 65535, 16), (16, 40000, 16), (16, 20000, 16), (11, 2047, 11), (12, 3000, 12)],
        *[(16, 4095, 12), (16, 1023, 10), (14, 4095, 12), (8, 4095, 12), (10, 4095, 12), (12, 65535, 16), (0, 255, 8)],
    ],
)
def test_a_voi_lut_is_scaled_by_what_its_entries_need(write, bits, top, needed):
    share = np.linspace(0, 1, 4096) ** 0.8
    path = write(VOILUTSequence=[lut(np.round(share * top), bits=bits)])
    notes = () if bits == needed else (f"VOI LUT of {needed} bits, {bits} by its descriptor",)
    check(path, (np.round(share * top) / (2**needed - 1)).reshape(RAMP.shape), *notes)


@pytest.mark.parametrize(
    ("pixels", "first", "vr", "written"),
    [
        (RAMP, 0, "US", 0),
        (RAMP.astype(np.int16) - 2048, -2048, "SS", -2048),
        (RAMP.astype(np.int16) - 2048, -2048, "US", 2**16 - 2048),
        (RAMP + np.uint16(40000), 40000, "US", 40000),
        (RAMP + np.uint16(40000), 40000, "SS", 40000 - 2**16),
    ],
)
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_the_first_value_of_a_table_is_read_with_the_sign_that_fits(write, sequence, pixels, first, vr, written):
    bits = 16 if pixels.max() > 4095 else 12
    item = lut(range(4096), written, 12, vr)
    item.ModalityLUTType = "US"
    path = write(pixels, BitsStored=bits, **{sequence: [item], "WindowCenter": 2048, "WindowWidth": 4096})
    notes = () if written == first else ("first value of a look-up table read with the opposite sign",)
    check(path, RAMP / 4095, *notes)


@pytest.mark.parametrize("bits", [8, 16])
def test_entries_of_one_byte_are_found_by_their_number(write, bits):
    item = lut(np.arange(256, dtype=np.uint8).tobytes(), bits=bits, data="OW")
    notes = () if bits == 8 else ("VOI LUT of 8 bits, 16 by its descriptor",)
    check(write(RAMP % 256, BitsStored=8, VOILUTSequence=[item]), (RAMP % 256) / 255, *notes)


def unusable_items() -> dict[str, Dataset]:
    without_data, without_descriptor, short = Dataset(), lut(range(4096)), lut(range(4096))
    without_data.add_new("LUTDescriptor", "US", [4096, 0, 12])
    del without_descriptor.LUTDescriptor
    short.add_new("LUTDescriptor", "US", [4096, 0])
    empty = lut(range(4096))
    empty.add_new("LUTData", "OW", b"")
    explained = Dataset()
    explained.LUTExplanation = "NORMAL"
    return {
        "nothing": explained,
        "no data": without_data,
        "empty data": empty,
        "no descriptor": without_descriptor,
        "a short descriptor": short,
        "all entries alike": lut([7] * 4096),
        "all entries 0": lut([0] * 4096),
        "far from the values": lut(range(4096), first=20000),
    }


@pytest.mark.parametrize("name", unusable_items())
def test_a_table_that_cannot_be_used_makes_way(write, name):
    item, narrow = unusable_items()[name], read_image(write(**WINDOW))
    check(write(VOILUTSequence=[item], **WINDOW), narrow, UNUSABLE)
    check(write(VOILUTSequence=[item, lut(range(4096), bits=12)], **WINDOW), RAMP / 4095, UNUSABLE)
    check(write(VOILUTSequence=[item]), read_image(write()), STRETCHED)


# Windows


@pytest.mark.parametrize(
    ("centre", "width", "notes"),
    [
        ([0, 1000], [0, 400], (UNUSABLE,)),
        ([0, 1000], [-5, 400], (UNUSABLE,)),
        (["nan", 1000], [400, 400], (UNUSABLE,)),
        (["inf", 1000], [400, 400], (UNUSABLE,)),
        ([1000, 1000], ["nan", 400], (UNUSABLE,)),
        (["", 1000], [400, 400], (UNUSABLE,)),
        ([90000, 1000], [400, 400], (UNUSABLE,)),  # far above all values
        ([1000, 2000], [400], ()),
        ([1000, 2000], [400, 0], ()),
    ],
    ids=str,
)
def test_the_next_usable_window_is_taken(write, centre, width, notes):
    check(write(WindowCenter=centre, WindowWidth=width), read_image(write(**WINDOW)), *notes)


def test_a_chosen_window_that_cannot_be_used_makes_way_for_the_nearest(write):
    path = write(WindowCenter=[1000, 2000, 0], WindowWidth=[400, 900, 0])
    second = read_image(write(WindowCenter=2000, WindowWidth=900))
    np.testing.assert_array_equal(read_image(path, window=2), second)
    np.testing.assert_array_equal(read_image(path, window=9), second)
    assert read_shown_image(path, window=2).notes == (UNUSABLE,)
    assert read_shown_image(path, window=1).notes == ()


@pytest.mark.parametrize("centre, width", [([0, 0], [0, -1]), (1000, None), (None, 400), ("nan", "nan"), (90000, 10)])
def test_without_a_usable_window_the_image_is_stretched(write, centre, width):
    check(write(WindowCenter=centre, WindowWidth=width), read_image(write()), STRETCHED)


def test_an_unknown_function_is_noted(write):
    check(write(VOILUTFunction="CUBIC", **WINDOW), read_image(write(**WINDOW)), "VOILUTFunction CUBIC read as LINEAR")


# Rescale


@pytest.mark.parametrize(
    ("slope", "intercept", "notes"),
    [
        (0, 0, ("RescaleSlope 0 ignored",)),
        ("nan", 0, ("RescaleSlope nan ignored",)),
        (1, "inf", ("RescaleIntercept inf ignored",)),
        (1e-9, 0, (WIPED_OUT,)),
        (1e300, 0, (WIPED_OUT,)),
        (1, 1e9, (WIPED_OUT,)),
        (1, -1e30, (WIPED_OUT,)),
        (1, 0, ()),
    ],
)
def test_rescale_values_that_wipe_out_the_image_count_as_absent(write, slope, intercept, notes):
    rescale = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    check(write(**rescale, **WINDOW), read_image(write(**WINDOW)), *notes)
    np.testing.assert_allclose(read_image(write(**rescale)), read_image(write()), atol=1e-3)


def test_a_sound_rescale_is_kept_even_if_the_pixels_are_all_outside_the_window(write):
    dark = RAMP % 50
    path = write(dark, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    assert not read_image(path).any()
    assert notes_of(path) == ()


# Polarity


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        *[("MONOCHROME1", None, True), ("MONOCHROME1", "INVERSE", True), ("MONOCHROME1", "IDENTITY", True)],
        *[("MONOCHROME2", None, False), ("MONOCHROME2", "IDENTITY", False), ("MONOCHROME2", "INVERSE", True)],
    ],
)
def test_an_image_is_inverted_once(write, photometric, shape, inverted):
    path = write(PhotometricInterpretation=photometric, PresentationLUTShape=shape, **WINDOW)
    plain = read_image(write(**WINDOW))
    np.testing.assert_allclose(read_image(path), 1 - plain if inverted else plain, atol=1e-6)
    noted = photometric == "MONOCHROME2" and shape == "INVERSE"
    assert (notes_of(path) != ()) == noted


# What is refused


@pytest.mark.parametrize(
    "elements",
    [
        {"PresentationIntentType": "FOR PROCESSING"},
        {"SOPClassUID": DigitalMammographyXRayImageStorageForProcessing},
        {"SOPClassUID": DigitalXRayImageStorageForProcessing},
    ],
)
def test_raw_detector_images_are_refused_unless_accepted(write, elements):
    path = write(**elements)
    with pytest.raises(ImageError, match=r"FOR PROCESSING.*--accept-raw"):
        read_image(path)
    assert "--accept-raw" in look_at(path).refused
    assert has_problems({path: look_at(path)})
    np.testing.assert_array_equal(read_image(path, raw=True), read_image(write()))
    accepted = look_at(path, raw=True)
    assert accepted.refused is None
    assert accepted.notes == read_shown_image(path, raw=True).notes == ("raw detector image (FOR PROCESSING)",)


@pytest.mark.parametrize("modality", ["MG", "DX", "CR", "RG", "OT", "SC", "XX", "mg", None, ""])
def test_modalities_under_which_mammograms_are_exported_are_shown(write, modality):
    assert read_image(write(Modality=modality)).max() == 1


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "PT", "NM", "XA", "RF", "ct"])
def test_other_modalities_are_refused_by_name(write, modality):
    with pytest.raises(ImageError, match=f"modality is {modality.upper()}, not a projection radiograph"):
        read_image(write(Modality=modality))


# What `prepare --check` prints


def test_the_report_counts_notes_and_modalities(write):
    sound = Header("1.2.840.10008.1.2.1", "MONOCHROME2", "12 of 16", "64 x 64", "none", "-")
    slope = look_at(write(RescaleSlope=0, Modality="SC"))
    refused = look_at(write(Modality="CT"))
    text = report({0: sound, 1: slope, 2: slope, 3: refused})
    assert "note                   2  RescaleSlope 0 ignored" in text
    assert "modality               2  SC" in text
    assert "                       1  CT" in text
    assert "refused                1  first: 3: its modality is CT" in text
    assert "note " not in report({0: sound})
