"""`prepare --check`: what a data folder holds, and how its table, its files and their headers disagree."""

import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from commands import ROOT, assert_one_line_error, python, run
from dicom_files import NATIVE, make
from pydicom.pixels import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
)
from tiny_data import write_tiny_data
from tiny_runs import SMALL

from efficientnet.common.errors import UserError
from efficientnet.mammography.dicom.headers import Header, check_decoders, has_problems, report
from efficientnet.mammography.prepare.check import SAMPLE, shared_images

PREPARE = "efficientnet.mammography.prepare"
LIMITS = {"workers": 1, "seconds": 60, "memory": 4}


def some_images(data: Path, count: int) -> list[Path]:
    return sorted(data.glob("train_images/*/*.dcm"))[:count]


def check(data: Path, *arguments: object, code: int = 0) -> list[str]:
    """The lines of --check, each with single spaces."""
    process = run(PREPARE, "--data", data, "--check", "--workers", 1, *arguments)
    assert process.returncode == code and process.stderr == "", process.stdout + process.stderr
    return [" ".join(line.split()) for line in process.stdout.splitlines()]


def again_as_another_patient(data: Path, patient: str, other: str) -> list[tuple[Path, Path]]:
    """Give the images of a patient to a second one, too; the files of both."""
    table, pairs = data / "train.csv", []
    for line in table.read_text().splitlines():
        fields = line.split(",")
        place = fields.index(patient) if patient in fields else None
        if place is None:
            continue
        image = next((data / "train_images" / patient).glob(f"{fields[place + 1]}.*"))
        fields[place : place + 2] = other, f"9{image.stem}"
        copy = data / "train_images" / other / f"9{image.name}"
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(image, copy)
        with table.open("a") as file:
            file.write(",".join(fields) + "\n")
        pairs.append((image, copy))
    return pairs


def test_check_counts_what_is_there_and_what_is_not(raw, tmp_path):
    first, second, stranger = some_images(raw, 3)
    first.unlink()
    second.write_bytes(b"text")
    shutil.copyfile(stranger, stranger.parent / "77.dcm")
    dataset = pydicom.dcmread(stranger)
    dataset.Modality = "CT"
    dataset.save_as(stranger)
    before = sorted(raw.rglob("*"))
    process = run(PREPARE, "--data", raw, "--check", "--workers", 2)
    assert process.returncode == 1 and process.stderr == ""
    lines = [" ".join(line.split()) for line in process.stdout.splitlines()]
    assert "train.csv 80 images of 20 patients" in lines and "test.csv 16 images of 4 patients" in lines
    assert f"without a file 1 first: {first.parent.name}/{first.stem}" in lines
    assert f"files without row 1 first: {stranger.parent / '77.dcm'}" in lines
    assert "transfer syntax 94 Explicit VR Little Endian (1.2.840.10008.1.2.1)" in lines
    assert any(line.startswith(f"unreadable 1 first: {second}: this is not a DICOM file") for line in lines)
    assert any(line.startswith(f"refused 1 first: {stranger}: its modality is CT") for line in lines)
    for words in ("photometric", "bits", "rows x columns 94 200 x 160", "window", "machine"):
        assert any(line.startswith(words) for line in lines)
    assert any("SIGMOID (3)" in line for line in lines)
    assert sorted(raw.rglob("*")) == before


def test_check_names_five_of_what_does_not_match_also_one_folder_deeper(raw):
    (raw / "train_images").rename(raw / "pictures")
    (raw / "train_images").mkdir()
    (raw / "pictures").rename(raw / "train_images" / "of_512")
    images = sorted(raw.glob("train_images/of_512/*/*.dcm"))
    for image in images[:7]:
        image.rename(image.with_stem(f"{image.stem}-other"))
    process = run(PREPARE, "--data", raw, "--check")
    lines = [" ".join(line.split()) for line in process.stdout.splitlines()]
    for name, expected in (
        ("without a file", {f"{image.parent.name}/{image.stem}" for image in images[:7]}),
        ("files without row", {str(image.with_stem(f"{image.stem}-other")) for image in images[:7]}),
    ):
        place = next(place for place, line in enumerate(lines) if line.startswith(f"{name} 7 first: "))
        named = [line.split()[-1] for line in lines[place : place + 6]]
        assert len(set(named[:5]) & expected) == 5 and named[5] not in expected


def test_check_tells_which_decoder_will_be_used_and_that_12_bits_need_another_than_pillow(tmp_path, monkeypatch):
    def header(syntax, bits):
        return Header(syntax, "MONOCHROME2", f"{bits} of 16", "8 x 8", "none", "-", bits_stored=bits)

    headers = {Path("a"): header(JPEGExtended12Bit, 8), Path("b"): header(JPEGExtended12Bit, 12)}
    decoder = get_decoder(JPEGExtended12Bit)
    monkeypatch.setattr(decoder, "_available", {"pillow": None})
    text = report(headers)
    name = "JPEG Extended (Process 2 and 4)"
    assert f"1  {name}: pillow, installed" in text and f"1  {name}: none installed" in text
    assert "no decoder" in text and "pip install" in text
    assert has_problems(headers)
    monkeypatch.setattr(decoder, "_available", {"pillow": None, "pylibjpeg": None})
    assert f"2  {name}: pylibjpeg, installed" in report(headers) and not has_problems(headers)


def test_a_decoder_that_one_file_lacks_is_missed_before_the_training(raw, monkeypatch):
    """Also where its codec is missing on one rank alone, and for a raw image that is accepted."""
    path = some_images(raw, 9)[-1]
    dataset = pydicom.dcmread(path)
    dataset.compress(JPEG2000Lossless)
    dataset.PresentationIntentType = "FOR PROCESSING"
    dataset.save_as(path)
    files = sorted((raw / "train_images").rglob("*.dcm"))
    dry_run = ("train.py", "--data", raw, *SMALL, "--image-size", 64, "--workers", 0, "--dry-run", "--accept-raw")
    assert run(*dry_run).returncode == 0
    monkeypatch.setattr(get_decoder(JPEG2000Lossless), "_available", {})
    assert_one_line_error(run(*dry_run), 1, "some of the files cannot be read", "JPEG 2000", "pip install")
    found = []
    with pytest.raises(UserError, match="JPEG 2000"):
        check_decoders(files, lambda own: found.append(own) or [{}, own])
    with pytest.raises(UserError, match="JPEG 2000"):
        check_decoders([], lambda own: [own, *found])


def test_check_passes_a_sound_folder(phantoms):
    process = run(PREPARE, "--data", phantoms, "--check")
    assert process.returncode == 0, process.stdout + process.stderr


def test_check_fails_where_rows_have_no_file_and_says_why(tmp_path):
    data = write_tiny_data(tmp_path / "data", 3)
    table = (data / "train.csv").read_text().replace(",L,", ".png,L,").replace("view", "age").replace(",CC,", ",old,")
    (data / "train.csv").write_text(table)
    process = run(PREPARE, "--data", data / "train.csv", "--check")
    assert process.returncode == 1 and process.stderr == ""
    lines = [" ".join(line.split()) for line in process.stdout.splitlines()]
    assert "without a file 6 first: 100/10000.png" in lines
    path = data / "train_images" / "100" / "10000.png"
    assert f"hint: 100/10000.png nearly matches {path}, but image_id must not include the suffix: 10000" in lines
    assert any(line.startswith(f"warning: {data / 'train.csv'}, line 2, column 'age': 'old'") for line in lines)


def test_columns_that_the_table_does_not_have_are_refused(tmp_path):
    data = write_tiny_data(tmp_path / "data", 3)
    write_tiny_data(data, 2, folder="test", labels=False)
    assert run(PREPARE, "--data", data, "--check", "--columns", "cancer=biopsy").returncode == 0
    process = run(PREPARE, "--data", data, "--check", "--columns", "cancer=malign")
    assert_one_line_error(process, 1, "no column 'malign'", "patient_id, image_id, laterality, view, cancer, biopsy")


def test_check_names_the_decoder_that_is_missing(raw, tmp_path):
    """In processes in which no decoder beyond Pillow can be imported."""
    path = some_images(raw, 1)[0]
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8" + bytes(100) + b"\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.save_as(path)
    for name in ("gdcm", "pylibjpeg"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    process = python("-m", PREPARE, "--data", raw, "--check", environment={"PYTHONPATH": path})
    assert process.returncode == 1
    line = next(line for line in process.stdout.splitlines() if line.startswith("no decoder"))
    assert line.split()[2] == "1" and "1.2.840.10008.1.2.4.70" in line and "pip install python-gdcm" in line


def test_check_names_the_images_that_two_patients_have_under_other_headers(raw):
    images = some_images(raw, 1)
    pairs = again_as_another_patient(raw, images[0].parent.name, "another")
    for place, (_, copy) in enumerate(pairs):
        dataset = pydicom.dcmread(copy)
        dataset.PatientID, dataset.StudyDescription = "another", "anonymised again" * place
        dataset.save_as(copy)
    shutil.copyfile(pairs[1][0], pairs[0][0])  # of one patient
    shutil.copyfile(pairs[1][1], pairs[0][1])
    lines = check(raw)
    place = next(place for place, line in enumerate(lines) if line.startswith("equal images"))
    assert lines[place] == f"equal images 3 first: {pairs[0][0]} and {pairs[0][1]}"
    assert lines[place + 3].startswith("hint: ") and "patient_id" in lines[place + 3]


def test_check_and_prepare_name_equal_pictures_of_two_patients(tmp_path):
    data = write_tiny_data(tmp_path / "data", 3)
    assert not any(line.startswith("equal") for line in check(data))
    first, _ = again_as_another_patient(data, "101", "501")[0]
    expected = f"equal images 4 first: {first} and {data / 'train_images' / '501' / f'9{first.name}'}"
    assert expected in check(data)
    process = run(PREPARE, "--data", data, "--output", tmp_path / "cache", "--image-size", 32)
    assert expected in [" ".join(line.split()) for line in process.stdout.splitlines()]


def test_equal_images_are_found_by_their_pixels_alone(tmp_path):
    """In every syntax without compression, of one size, with equal backgrounds, and with equal middles."""
    pixels = np.zeros((400, 256), np.uint16)
    pixels[180:220, :100] = np.random.default_rng(0).integers(1, 4096, (40, 100))
    middle, edge = pixels.copy(), pixels.copy()
    middle[200, 50] += 1
    edge[0, 0] += 1
    assert pixels.nbytes > 2 * SAMPLE

    def shared(patients: dict[Path, str]) -> list[tuple[Path, Path]]:
        return shared_images(patients, LIMITS)

    patients = {}
    for patient, (values, syntax) in enumerate(
        [(values, syntax) for values in (pixels, middle, edge) for syntax in (*NATIVE, ImplicitVRLittleEndian)]
    ):
        path = tmp_path / f"{patient}.dcm"
        make(values, syntax, BitsStored=12, PatientID=str(patient)).save_as(path, enforce_file_format=True)
        patients[path] = str(patient)
    paths = list(patients)
    # Explicit and implicit VR, little endian, of each of the three; big endian differs, deflated has another header.
    assert set(shared(patients)) == {(paths[place], paths[place + 1]) for place in (0, 5, 10)}
    copy = tmp_path / "copy.dcm"
    shutil.copyfile(paths[NATIVE.index(DeflatedExplicitVRLittleEndian)], copy)
    assert len(shared(patients | {copy: "copy"})) == 4
    assert shared(dict.fromkeys(patients, "one")) == []


def test_check_names_files_whose_header_says_the_other_side(tmp_path):
    y, x = np.mgrid[:64, :48]
    pixels = (2000 * ((x / 30) ** 2 + ((y - 32) / 25) ** 2 < 1) + y).astype(np.uint16)
    sides = {  # in the table; in the header, of the image and of the series
        "agrees": ("L", "L", None),
        "agrees-by-series": ("R", None, "R"),
        "image-before-series": ("L", "L", "R"),
        "both": ("L", "B", None),
        "unknown": ("R", None, None),
        "other": ("L", "R", None),
        "other-by-series": ("R", None, "L"),
    }
    (tmp_path / "train_images").mkdir()
    for place, (name, (_, image, series)) in enumerate(sides.items()):
        dataset = make(pixels + np.uint16(place), BitsStored=12, ImageLaterality=image, Laterality=series)
        dataset.save_as(tmp_path / "train_images" / f"{name}.dcm", enforce_file_format=True)
    rows = [f"{name},{name},{side},0" for name, (side, _, _) in sides.items()]
    (tmp_path / "train.csv").write_text("\n".join(["patient_id,image_id,laterality,cancer", *rows]) + "\n")
    lines = check(tmp_path)
    place = next(place for place, line in enumerate(lines) if line.startswith("laterality"))
    folder = tmp_path / "train_images"
    assert lines[place] == f"laterality 2 first: {folder / 'other.dcm'}: R in its header, L in train.csv"
    assert lines[place + 1] == f"{folder / 'other-by-series.dcm'}: L in its header, R in train.csv"
