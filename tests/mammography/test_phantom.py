"""The embedded data set: headers, tables and pictures, and that the same parameters give the same bytes."""

import csv
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from commands import assert_one_line_error, python, run
from pydicom.pixels import apply_voi_lut
from sklearn.metrics import roc_auc_score

from efficientnet.common.errors import UserError
from efficientnet.common.files import UNFINISHED
from efficientnet.mammography.dicom import read_image
from efficientnet.mammography.phantom.dataset import write_phantom_dataset
from efficientnet.mammography.phantom.dicom import MACHINES, dicom_file
from efficientnet.mammography.phantom.image import Anatomy, phantom_image
from efficientnet.mammography.phantom.lesion import BENIGN, MALIGNANT, Drawing, Lesion, draw_lesion
from efficientnet.mammography.phantom.patient import (
    IMAGES,
    Parameters,
    phantom_patient,
    phantom_patients,
    random_generator,
    table_rows,
)
from efficientnet.mammography.preprocessing import Preprocessing, preprocess
from efficientnet.mammography.table import read_table
from efficientnet.mammography.table_columns import RSNA_TARGETS

SMALL = (160, 128)
PHANTOM = "efficientnet.mammography.phantom"
COMMAND = [sys.executable, "-m", PHANTOM]
LABELS = ("cancer", "biopsy", "invasive", "BIRADS", "difficult_negative_case")


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 patients and 5 of a test set, small pictures."""
    return write_phantom_dataset(tmp_path_factory.mktemp("phantoms") / "set", 24, size=SMALL, test_patients=5)


@pytest.fixture(scope="module")
def files(dataset: Path) -> list[tuple[dict[str, str], pydicom.Dataset]]:
    """Each row of train.csv with its file."""
    rows = read_csv(dataset / "train.csv")
    return [(row, pydicom.dcmread(dataset / f"train_images/{row['patient_id']}/{row['image_id']}.dcm")) for row in rows]


def test_the_columns_are_those_of_the_competition(dataset):
    train = "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id"
    test = "site_id,patient_id,image_id,laterality,view,age,implant,machine_id,prediction_id"
    assert (dataset / "train.csv").read_text().splitlines()[0] == train + ",difficult_negative_case"
    assert (dataset / "test.csv").read_text().splitlines()[0] == test
    assert (dataset / "test_truth.csv").read_text().splitlines()[0] == "prediction_id,cancer"


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_row_has_its_file_and_every_file_its_row(dataset, split):
    rows = read_csv(dataset / f"{split}.csv")
    named = {f"{row['patient_id']}/{row['image_id']}.dcm" for row in rows}
    folder = dataset / f"{split}_images"
    assert named == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert len(named) == len(rows) == 4 * {"train": 24, "test": 5}[split]


def test_each_patient_has_both_views_of_both_breasts(dataset):
    views: dict[str, list] = {}
    for row in read_csv(dataset / "train.csv"):
        views.setdefault(row["patient_id"], []).append((row["laterality"], row["view"]))
    assert all(sorted(seen) == sorted(IMAGES) for seen in views.values())


def test_the_table_of_the_project_reads_it_without_a_warning(dataset):
    table = read_table(dataset / "train.csv", RSNA_TARGETS)
    assert not table.warnings
    assert (table.counts.images, table.counts.breasts, table.counts.patients) == (96, 48, 24)
    assert 10 <= table.positive_counts.patients <= 14
    assert read_table(dataset / "test.csv", labels="none").counts.breasts == 10


def test_test_truth_has_one_row_for_each_breast_of_the_test_table(dataset):
    truth = read_csv(dataset / "test_truth.csv")
    assert [row["prediction_id"] for row in truth] == list(
        dict.fromkeys(row["prediction_id"] for row in read_csv(dataset / "test.csv"))
    )
    assert {row["cancer"] for row in truth} == {"0", "1"}


def test_identifiers_are_distinct_over_both_splits():
    patients = phantom_patients(Parameters(1500, test_patients=1500))
    assert len({patient.patient_id for patient in patients}) == 3000
    assert len({image for patient in patients for image in patient.image_ids}) == 12000


def many_rows() -> list[dict]:
    return [row for index in range(600) for row in table_rows(phantom_patient(index))]


def test_labels_agree_within_a_breast_and_with_each_other():
    labels: dict[str, set] = {}
    for row in many_rows():
        labels.setdefault(row["prediction_id"], set()).add(tuple(row[name] for name in LABELS))
    assert all(len(different) == 1 for different in labels.values())
    for cancer, biopsy, invasive, birads, difficult in (next(iter(different)) for different in labels.values()):
        assert not cancer or (biopsy, difficult) == (1, 0)
        assert not invasive or cancer
        assert birads in (None, 0, 1, 2) and (birads in (None, 0) or not cancer)


def test_values_are_missing_where_the_competition_misses_them():
    rows = many_rows()
    assert all((row["density"] is None) == (row["site_id"] == 2) for row in rows)
    assert {row["density"] for row in rows if row["site_id"] == 1} == set("ABCD")
    assert 0.4 < sum(row["BIRADS"] is None for row in rows) / len(rows) < 0.6
    assert 0 < sum(row["age"] is None for row in rows) / len(rows) < 0.05


def test_the_shares_of_cancers_and_look_alikes_are_as_documented():
    patients = [phantom_patient(index) for index in range(600)]
    breasts = [breast for patient in patients for breast in patient.breasts]
    with_cancer = [patient for patient in patients if any(breast.cancer for breast in patient.breasts)]
    benign = [breast for breast in breasts if breast.lesion is not None and not breast.cancer]
    assert abs(len(with_cancer) / 600 - 0.5) < 0.01
    assert 0 < sum(all(breast.cancer for breast in patient.breasts) for patient in patients) < 25
    assert len(benign) < 0.15 * sum(not breast.cancer for breast in breasts)
    assert {breast.lesion.kind for breast in benign} == set(BENIGN)
    assert {breast.lesion.kind for breast in breasts if breast.cancer} == set(MALIGNANT)
    assert {(breast.difficult_negative_case, breast.biopsy) for breast in benign} == {(0, 0), (1, 0), (1, 1)}


def test_the_machine_does_not_tell_who_has_cancer():
    machines = Counter((p.machine, any(b.cancer for b in p.breasts)) for p in map(phantom_patient, range(600)))
    for machine in MACHINES:
        assert 0.4 < machines[machine, True] / (machines[machine, True] + machines[machine, False]) < 0.6


@pytest.mark.parametrize("rate", [0, 0.04, 1])
def test_the_cancer_rate_is_the_share_of_patients(rate):
    patients = [phantom_patient(index, cancer_rate=rate) for index in range(500)]
    assert abs(sum(any(breast.cancer for breast in patient.breasts) for patient in patients) - 500 * rate) <= 3


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_processes(tmp_path):
    sets = [
        contents(write_phantom_dataset(tmp_path / str(workers), 5, 3, SMALL, workers=workers, test_patients=1))
        for workers in (1, 2)
    ]
    assert sets[0] == sets[1]
    other = contents(write_phantom_dataset(tmp_path / "other seed", 5, 4, SMALL))
    assert not {name for name in other if name.endswith(".dcm")} & set(sets[0])


def test_fewer_patients_are_the_first_of_more(dataset, tmp_path):
    fewer = contents(write_phantom_dataset(tmp_path / "fewer", 3, size=SMALL))
    more = contents(dataset)
    images = [name for name in fewer if name.endswith(".dcm")]
    assert len(images) == 12 and all(fewer[name] == more[name] for name in images)
    assert more["train.csv"].startswith(fewer["train.csv"])


def test_conspicuity_changes_the_lesion_of_a_cancer_and_nothing_else():
    for index in range(40):
        plain, hard = phantom_patient(index), phantom_patient(index, conspicuity=0.5)
        assert (plain.anatomy, plain.machine, plain.age) == (hard.anatomy, hard.machine, hard.age)
        for before, after in zip(plain.breasts, hard.breasts, strict=True):
            if before.cancer:
                assert after.lesion.contrast == pytest.approx(before.lesion.contrast / 2)
                assert after.lesion.diameter == pytest.approx(before.lesion.diameter / 2)
            else:
                assert after == before


def test_headers_hold_what_the_competition_left_in_them(files):
    for row, header in files:
        assert header.PatientID == row["patient_id"]
        assert str(header.InstanceNumber) == row["image_id"]
        assert header.ImageLaterality == row["laterality"]
        assert "Modality" not in header and "ViewPosition" not in header
        assert not [element for element in header if element.VR in ("DA", "TM", "DT")]
        assert header.pixel_array.shape == SMALL and header.pixel_array.dtype == np.uint16


def test_uids_are_valid_and_distinct(files):
    uids = [header.SOPInstanceUID for _, header in files]
    assert len(set(uids)) == len(uids) and all(uid.is_valid and len(uid) <= 64 for uid in uids)
    assert len({header.StudyInstanceUID for _, header in files}) == 24


def test_a_small_set_has_every_kind_of_file(files):
    kinds = {
        (h.PhotometricInterpretation, h.BitsStored, h.get("VOILUTFunction"), multiplicity(h, "WindowCenter"))
        for _, h in files
    }
    assert kinds == {
        ("MONOCHROME1", 16, "SIGMOID", 3),
        ("MONOCHROME1", 16, "LINEAR_EXACT", 2),
        ("MONOCHROME2", 12, "LINEAR", 1),
        ("MONOCHROME2", 12, None, 0),
    }


def multiplicity(header: pydicom.Dataset, keyword: str) -> int:
    return header[keyword].VM if keyword in header else 0


def test_padding_is_the_blackest_value_of_the_file(files):
    for _, header in files:
        pixels = header.pixel_array
        black = pixels.max() if header.PhotometricInterpretation == "MONOCHROME1" else pixels.min()
        assert header.PixelPaddingValue == black
        assert (pixels == black).mean() > 0.1
        assert pixels.max() < 2**header.BitsStored


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"machine {machine.machine_id}")
def test_window_and_polarity_of_every_machine_lead_back_to_the_picture(machine, tmp_path):
    image = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    (tmp_path / "1.dcm").write_bytes(dicom_file(image, machine, 1, 1, "L", "test"))
    header = pydicom.dcmread(tmp_path / "1.dcm")
    largest = 2**machine.bits - 1
    shown = apply_voi_lut(header.pixel_array, header) / largest
    if machine.photometric_interpretation == "MONOCHROME1":
        shown = 1 - shown
    tolerance = 0.011 if machine.voi_lut_function == "SIGMOID" else 0.002
    assert np.abs(shown - image).max() < tolerance
    if machine.voi_lut_function:
        assert np.abs(read_image(tmp_path / "1.dcm") - image).max() < tolerance


def test_all_files_look_alike_to_the_reader_of_the_project(dataset, files):
    for row, _ in files:
        image = read_image(dataset / f"train_images/{row['patient_id']}/{row['image_id']}.dcm")
        wall = image[:, :8] if row["laterality"] == "L" else image[:, -8:]
        air = image[-8:, 48:] if row["laterality"] == "L" else image[-8:, :-48]
        assert np.median(air) < 0.02 < 0.2 < np.median(wall[60:100])


def random_case(index: int):
    patient = phantom_patient(index)
    laterality, view = IMAGES[index % 4]
    lesion = patient.breasts["LR".index(laterality)].lesion
    return patient.anatomy, laterality, view, lesion, random_generator(0, "train", index, f"{laterality} {view}")


@pytest.mark.parametrize("size", [(640, 512), (300, 300), (256, 128), (701, 397)])
def test_pictures_have_the_size_asked_for_and_stay_in_range(size):
    for index in range(8):
        picture = phantom_image(*random_case(index), size)
        assert picture.image.shape == picture.lesion.shape == picture.breast.shape == size
        assert picture.image.dtype == np.float32 and picture.breast.dtype == picture.lesion.dtype == bool
        assert picture.image.min() >= 0 and picture.image.max() <= 1


def test_the_breast_is_a_large_part_of_the_picture_at_its_chest_wall():
    for index in range(60):
        _, laterality, *_ = case = random_case(index)
        image, _, breast = phantom_image(*case, SMALL)
        assert 0.1 < breast.mean() < 0.7
        wall = breast[:, 0 if laterality == "L" else -1]
        assert wall.mean() > 0.4 and not breast[:, -1 if laterality == "L" else 0].any()
        assert image[breast].mean() > 0.15 + image[~breast].mean()


@pytest.mark.parametrize("aspect", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("kind", [*MALIGNANT, *BENIGN])
def test_lesions_are_drawn_within_the_breast_and_are_brighter_than_their_surroundings(kind, aspect):
    for index in range(12):
        anatomy, laterality, view, _, generator = random_case(index)
        place = np.random.default_rng([index, 99])
        lesion = Lesion(kind, place.uniform(0.1, 0.95), *place.uniform(-0.9, 0.9, 2), diameter=0.1, contrast=0.3)
        image, mask, breast = phantom_image(anatomy, laterality, view, lesion, generator, (320, int(320 * aspect)))
        assert mask.any() and not (mask & ~breast).any()
        rows, columns = np.nonzero(mask)
        around = np.zeros_like(mask)
        around[max(0, rows.min() - 12) : rows.max() + 13, max(0, columns.min() - 12) : columns.max() + 13] = True
        around &= breast & ~mask
        assert np.percentile(image[mask], 90) > np.median(image[around]) + 0.05


def test_a_breast_without_lesion_has_an_empty_mask():
    anatomy, laterality, view, _, generator = random_case(1)
    assert not phantom_image(anatomy, laterality, view, None, generator, SMALL).lesion.any()


@pytest.mark.parametrize("kind", MALIGNANT)
def test_a_cancer_of_no_conspicuity_is_invisible(kind):
    patient = next(
        breast
        for index in range(100)
        for breast in phantom_patient(index, conspicuity=0).breasts
        if breast.cancer and breast.lesion.kind == kind
    )
    y, x = (np.mgrid[:100, :100] / 100).astype(np.float32)
    drawing = Drawing(np.zeros((100, 100), np.float32), np.zeros((100, 100), np.float32), x, y)
    draw_lesion(drawing, patient.lesion, (0.5, 0.5), np.random.default_rng(0))
    assert not drawing.tissue.any()


def test_the_marker_is_away_from_the_chest_wall():
    anatomy = Anatomy("B", projection=0.45, half_length=0.35, pointedness=1.0)
    for laterality, view in IMAGES:
        image, _, breast = phantom_image(anatomy, laterality, view, None, np.random.default_rng(0))
        rows, columns = np.nonzero((image > 0.6) & ~breast)
        assert rows.size > 50 and rows.max() < 0.1 * image.shape[0]
        assert (columns > 256).all() if laterality == "L" else (columns < 256).all()


def test_the_anatomy_is_the_same_at_every_size():
    small, large = (phantom_image(*random_case(5), size).image for size in ((320, 256), (640, 512)))
    reduced = large.reshape(320, 2, 256, 2).mean(axis=(1, 3))
    assert np.abs(reduced[60:] - small[60:]).mean() < 0.01  # the marker is above


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian filter, sigma in pixels, for a square picture with a black border."""
    frequency = np.hypot(np.fft.fftfreq(len(picture))[:, None], np.fft.rfftfreq(len(picture)))
    return np.fft.irfft2(np.fft.rfft2(picture) * np.exp(-2 * (np.pi * sigma * frequency) ** 2), s=picture.shape)


def suspicion(image: np.ndarray) -> tuple[float, float]:
    """Two differences of Gaussians, at their most conspicuous place: crowded specks, and a blob as large as a mass."""
    picture = np.zeros((384, 384))
    picture[:300, :300] = preprocess(image, Preprocessing((300, 300)))
    tissue = (picture > 0.12).astype(float)
    weight = {sigma: np.maximum(blur(tissue, sigma), 1e-3) for sigma in (1, 2, 5, 8, 24)}
    smooth = {sigma: blur(picture * tissue, sigma) / weight[sigma] for sigma in weight}
    specks = blur(np.clip(smooth[1] - smooth[2] - 0.01, 0, None), 8) * (weight[5] > 0.95)
    mass = (smooth[8] - smooth[24]) * (weight[5] > 0.6) * (weight[2] > 0.9)
    return float(specks.max()), float(mass.max())


def test_a_simple_filter_at_300_pixels_finds_the_cancers(tmp_path):
    root = write_phantom_dataset(tmp_path / "set", 12, seed=1)
    rows = read_csv(root / "train.csv")
    cancer = np.array([row["cancer"] == "1" for row in rows])
    values = np.array(
        [suspicion(read_image(root / f"train_images/{row['patient_id']}/{row['image_id']}.dcm")) for row in rows]
    )
    normal = values[~cancer]
    score = ((values - normal.mean(axis=0)) / normal.std(axis=0)).max(axis=1)
    assert roc_auc_score(cancer, score) > 0.95


def test_a_complete_set_is_left_alone(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert write_phantom_dataset(dataset, 24, size=SMALL, test_patients=5) == dataset
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


@pytest.mark.parametrize(
    "changed", [{"patients": 25}, {"seed": 1}, {"size": (256, 256)}, {"cancer_rate": 0.1}, {"conspicuity": 0.5}]
)
def test_a_set_of_other_parameters_is_refused_by_name(dataset, changed):
    wanted = {"patients": 24, "size": SMALL, "test_patients": 5, **changed}
    with pytest.raises(UserError, match=next(iter(changed))) as error:
        write_phantom_dataset(dataset, **wanted)
    assert "\n" not in str(error.value) and str(dataset) in str(error.value)


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years")
    with pytest.raises(UserError, match="not empty"):
        write_phantom_dataset(tmp_path, 1, size=SMALL)
    assert contents(tmp_path) == {"thesis.txt": b"ten years"}
    with pytest.raises(UserError, match="is a file"):
        write_phantom_dataset(tmp_path / "thesis.txt", 1, size=SMALL)


def test_an_interrupted_run_is_done_again(tmp_path, monkeypatch):
    whole = contents(write_phantom_dataset(tmp_path / "whole", 3, size=SMALL))
    drawn = 0

    def draw_five(*arguments) -> bytes:
        nonlocal drawn
        drawn += 1
        if drawn > 5:
            raise KeyboardInterrupt
        return dicom_file(*arguments)

    monkeypatch.setattr("efficientnet.mammography.phantom.dataset.dicom_file", draw_five)
    for folder in ("same", "other"):
        drawn = 0
        with pytest.raises(KeyboardInterrupt):
            write_phantom_dataset(tmp_path / folder, 3, seed=int(folder == "other"), size=SMALL)
        assert not (tmp_path / folder / "phantom.json").exists()
    monkeypatch.undo()
    for folder in ("same", "other"):  # begun with the same parameters, and with other ones
        assert contents(write_phantom_dataset(tmp_path / folder, 3, size=SMALL)) == whole


def test_a_killed_command_is_done_again(tmp_path):
    whole = contents(write_phantom_dataset(tmp_path / "whole", 12))
    killed = tmp_path / "killed"
    root = Path(__file__).resolve().parents[2]
    arguments = ["--output", str(killed), "--patients", "12", "--workers", "2"]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(killed.glob("train_images/*/*.dcm")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()  # until its workers, which have the same output, have ended too
    assert not (killed / "phantom.json").exists()
    (killed / "train_images" / f".half.dcm.0123{UNFINISHED}").touch()
    for path in killed.rglob(f".*{UNFINISHED}"):
        os.utime(path, (time.time() - 4000,) * 2)
    assert contents(write_phantom_dataset(killed, 12)) == whole


def test_two_commands_at_once_write_one_set(tmp_path):
    arguments = ["--output", str(tmp_path / "set"), "--patients", "2", "--size", "160", "128", "--workers", "1"]
    root = Path(__file__).resolve().parents[2]
    both = [subprocess.Popen([*COMMAND, *arguments], cwd=root, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert contents(tmp_path / "set") == contents(write_phantom_dataset(tmp_path / "whole", 2, size=SMALL))


def test_the_command_says_what_it_wrote_and_then_that_it_is_there(tmp_path):
    command = (PHANTOM, "--output", tmp_path / "set", "--patients", 3, "--size", 160, 128)
    first, second = (run(*command, "--test-patients", 1, "--workers", 1) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert len(first.stdout.splitlines()) == len(second.stdout.splitlines()) == 1
    for word in (str(tmp_path / "set"), "DICOM images 12, patients 3, breasts 6,", "DICOM images 4, patients 1,"):
        assert word in first.stdout
    assert "nothing written" in second.stdout and "nothing written" not in first.stdout
    assert not first.stderr and not second.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--patients", "0"], "--patients"),
        (["--patients", "many"], "--patients"),
        (["--cancer-rate", "1.5"], "--cancer-rate"),
        (["--cancer-rate", "nan"], "--cancer-rate"),
        (["--conspicuity", "-1"], "--conspicuity"),
        (["--workers", "0"], "--workers"),
        (["--seed", "-1"], "--seed"),
        (["--size", "32", "32"], "size"),
        (["--size", "640", "1280"], "size"),
        (["--test-patients", "-3"], "--test-patients"),
    ],
)
def test_a_bad_value_ends_the_command_with_one_line(tmp_path, arguments, word):
    process = run(PHANTOM, "--output", tmp_path / "set", *arguments)
    assert_one_line_error(process, 2, word)
    assert not (tmp_path / "set").exists()


def test_a_refusal_ends_the_command_with_one_line(dataset, tmp_path):
    (tmp_path / "something").touch()
    assert_one_line_error(run(PHANTOM, "--output", tmp_path), 1, str(tmp_path), "not empty")
    assert_one_line_error(run(PHANTOM, "--output", dataset), 1, str(dataset), "patients 24")


def test_values_that_make_no_set_are_refused():
    for wrong in ({"patients": 0}, {"size": (100, 80)}, {"size": (640, 200)}, {"cancer_rate": 2.0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Parameters(**{"patients": 3, **wrong})


def test_importing_it_does_not_import_torch():
    code = "import sys, efficientnet.mammography.phantom.dataset; sys.exit('torch' in sys.modules)"
    assert python("-c", code).returncode == 0
