"""`evaluate.py --report`, `--image` and `--heatmap`."""

import json
import re

import numpy as np
import pytest
from commands import assert_one_line_error, run
from PIL import Image
from tiny_runs import SMALL

from efficientnet.mammography.evaluation import ScreeningEvaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data):
    """Two folds of the tiny data."""
    folder = tmp_path_factory.mktemp("report") / "all"
    process = run(
        *("train.py", *SMALL, "--image-size", 48, "--batch-size", 4, "--epochs", 1, "--data", tiny_data),
        *("--output", folder, "--folds", 2, "--fold", "all", "--workers", 0),
    )
    assert process.returncode == 0, process.stderr
    return folder


@pytest.mark.parametrize("more", [(), ("--soup", "--split", "all")])
def test_a_page_of_all_folds(trained, tiny_data, tmp_path, more):
    process = run("evaluate.py", "--checkpoint", trained, "--report", tmp_path / "page", "--workers", 0, *more)
    assert process.returncode == 0, process.stderr
    assert f"{tmp_path / 'page' / 'report.html'} and" in process.stdout
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Phantoms" not in page and "held-out" not in page.split("<body")[0]
    for name in ("roc.png", "precision-recall.png", "thresholds.png", "calibration.png"):
        assert Image.open(tmp_path / "page" / name).size[0] > 300
    assert not re.search(r"(src|href)=.https?:", page)
    if more:  # its warnings stand on the page
        assert "were trained on" in page


def test_the_fold_that_held_a_patient_out_shows_her(trained, tiny_data, tmp_path, monkeypatch):
    """Each breast is read with the network of the fold that did not train on her."""
    used = {}

    def spy(title, scores, values, table, files, reader, device, **more):
        used.update({breast.prediction_id: reader(breast).model for breast in scores.breasts})
        raise KeyboardInterrupt

    monkeypatch.setattr("efficientnet.mammography.evaluation.report_data", spy)
    assert run("evaluate.py", "--checkpoint", trained, "--report", tmp_path / "page").returncode == 130
    with open(trained / "predictions.csv") as file:
        fold_of = {line.split(",")[2]: line.split(",")[3] for line in file.readlines()[1:]}
    models = {fold: {id(used[name]) for name in used if fold_of[name] == fold} for fold in ("0", "1")}
    assert len(models["0"]) == len(models["1"]) == 1 and models["0"] != models["1"]
    assert not (tmp_path / "page").exists()


def test_a_table_without_labels_has_no_page(trained, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(ScreeningEvaluation, "dataset", lambda *_: pytest.fail("scored first"))
    (tmp_path / "test_images").symlink_to(tiny_data / "train_images")
    text = (tiny_data / "train.csv").read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join(",".join(line.split(",")[:4]) for line in text))
    process = run("evaluate.py", "--checkpoint", trained, "--data", tmp_path, "--report", tmp_path / "page")
    assert_one_line_error(process, 1, "--report", "no labels")


def test_one_image_has_text_json_and_heatmap(trained, tiny_data, tmp_path):
    image = next((tiny_data / "train_images").rglob("*.png"))
    arguments = ("--checkpoint", trained / "fold0", "--image", image, "--heatmap", tmp_path / "h.png")
    process = run("evaluate.py", *arguments, "--json", tmp_path / "one.json")
    assert process.returncode == 0, process.stderr
    assert "cancer" in process.stdout and "Not a medical device" in process.stdout
    found = json.loads((tmp_path / "one.json").read_text())
    assert 0 < found["cancer"] < 1 and sum(found["view"].values()) == pytest.approx(1)
    assert np.asarray(Image.open(tmp_path / "h.png")).shape == (48, 48, 3)
    every = tmp_path / "every"
    run("evaluate.py", "--checkpoint", trained / "fold0", "--split", "all", "--output", every, "--no-optimize")
    row = next(line for line in (every / "images.csv").read_text().splitlines() if f",{image.stem}," in line)
    assert float(row.split(",")[3]) == pytest.approx(found["cancer"], abs=1e-5)


def test_bad_use_of_one_image_ends_in_a_line(trained, tiny_data, tmp_path):
    checkpoint = ("evaluate.py", "--checkpoint", trained / "fold0")
    assert_one_line_error(run(*checkpoint, "--heatmap", tmp_path / "h.png"), 2, "--heatmap needs --image")
    (tmp_path / "x.png").write_bytes(b"nothing")
    process = run(*checkpoint, "--image", tmp_path / "x.png", "--heatmap", tmp_path / "h.png")
    assert_one_line_error(process, 1, "x.png")
    assert_one_line_error(run(*checkpoint, "--image", tmp_path / "none.png"), 1, "none.png")
    several = run("evaluate.py", "--checkpoint", trained, "--image", tmp_path / "x.png")
    assert_one_line_error(several, 1, "--image takes one checkpoint")
    assert not (tmp_path / "h.png").exists()
