"""Exported files give what the network gives, for any batch and size, and say how to use them."""

import json

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, run
from tiny_runs import SMALL

from efficientnet import create_model
from efficientnet.training.checkpoint import load_checkpoint, serialise, write_checkpoint

SIZES = [(1, 64, 131), (3, 97, 64), (2, 96, 96), (1, 33, 97), (3, 33, 33)]
# Too small for a program of torch.export, whose guards do not allow one pixel in the last stages.
SMALLEST = [(1, 32, 32), (3, 32, 64), (1, 64, 32)]


@pytest.fixture(scope="module")
def checkpoints(tiny_data, tmp_path_factory):
    """Of a trained network, and of others of its first stages, whose export as written takes no minutes."""
    folder = tmp_path_factory.mktemp("export") / "run"
    process = run(
        *("train.py", *SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--data", tiny_data),
        *("--output", folder, "--positive-share", 0.4),
    )
    assert process.returncode == 0, process.stderr
    content = load_checkpoint(folder / "best.pt")
    stages = content["architecture"]["name_or_stages"]
    few = [*stages[:3], stages[-1] | {"in_channels": stages[2]["out_channels"]}]
    paths = {}
    for name, own in (
        ("whole", {"name_or_stages": stages}),
        ("short", {"name_or_stages": few}),
        ("gem", {"name_or_stages": few, "pooling": "gem"}),
        ("max", {"name_or_stages": few, "pooling": "max"}),
        ("joint", {"name_or_stages": few, "joint_views": True}),
    ):
        architecture = content["architecture"] | own
        model = create_model(**architecture | {"batch_norm_momentum": 1.0})
        if name == "whole":
            model.load_state_dict(content["weights"])
        # With the statistics of noise, since noise is what it is compared on: with others its values would explode.
        with torch.no_grad():
            model.train()(torch.from_numpy(random_images(4, 96, 96)))
        paths[name] = folder / f"{name}.pt"
        write_checkpoint(
            paths[name], serialise(content | {"architecture": architecture, "weights": model.state_dict()})
        )
    return paths


def expected(checkpoint, images):
    """Logits of the network of the checkpoint, corrected back to the prior."""
    content = load_checkpoint(checkpoint)
    model = create_model(**content["architecture"]).eval()
    model.load_state_dict(content["weights"])
    with torch.no_grad():
        logits = model(torch.from_numpy(images)).numpy()
    logits[:, 0] -= content["logit_shift"]
    return logits


def random_images(count, height, width):
    return np.random.default_rng(0).standard_normal((count, 1, height, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("whole", ()),
        ("short", ("--no-fold",)),
        ("gem", ()),
        *(pytest.param("max", options, marks=pytest.mark.nightly) for options in ((), ("--no-fold",))),
        *(pytest.param(name, ("--no-fold",), marks=pytest.mark.nightly) for name in ("whole", "gem")),
    ],
)
def test_onnxruntime_gives_the_networks_logits_at_any_batch_and_size(checkpoints, tmp_path, name, options):
    checkpoint = checkpoints[name]
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, program = tmp_path / "b0.onnx", tmp_path / "b0.pt2"
    process = run(*("efficientnet.export", "--checkpoint", checkpoint, "--onnx", path, "--program", program, *options))
    assert process.returncode == 0, process.stderr
    session = onnxruntime.InferenceSession(path)
    extra = {"metadata.json": ""}
    loaded = torch.export.load(program, extra_files=extra).module()
    for size in SIZES + SMALLEST:
        images = random_images(*size)
        logits = expected(checkpoint, images)
        scale = np.abs(logits).max()
        (found,) = session.run(["logits"], {"images": images})
        assert np.abs(found - logits).max() < 1e-4 * scale
        if size in SIZES:
            assert np.abs(loaded(torch.from_numpy(images)).detach().numpy() - logits).max() < 1e-4 * scale
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["architecture"] == "b0 with depth 0.5, width 0.2"
    assert json.loads(extra["metadata.json"]) == properties
    content = load_checkpoint(checkpoint)
    assert json.loads(properties["preprocessing"]) == content["preprocessing"]
    assert json.loads(properties["targets"]) == content["targets"]
    assert [head["name"] for head in json.loads(properties["heads"])] == content["targets"]


@pytest.mark.parametrize(("name", "options"), [("short", ()), ("short", ("--no-fold",)), ("gem", ())])
def test_features_are_what_the_classifier_would_see(checkpoints, tmp_path, name, options):
    path, program = tmp_path / "b0.onnx", tmp_path / "b0.pt2"
    files = ("--program", program) if options else ("--program", program, "--onnx", path)
    process = run("efficientnet.export", "--checkpoint", checkpoints[name], "--features", *files, *options)
    assert process.returncode == 0, process.stderr
    content = load_checkpoint(checkpoints[name])
    body = {name: tensor for name, tensor in content["weights"].items() if not name.startswith("classifier.")}
    model = create_model(**content["architecture"] | {"num_classes": 0}).eval()
    model.load_state_dict(body)
    assert f"features (N, {model.num_features}), pooled" in process.stdout
    extra = {"metadata.json": ""}
    loaded = torch.export.load(program, extra_files=extra).module()
    for size in SIZES:
        images = random_images(*size)
        with torch.no_grad():
            features = model(torch.from_numpy(images)).numpy()
        assert features.shape == (size[0], model.num_features)
        assert (
            np.abs(loaded(torch.from_numpy(images)).detach().numpy() - features).max() < 1e-4 * np.abs(features).max()
        )
    assert {"architecture", "preprocessing"} <= json.loads(extra["metadata.json"]).keys()
    assert not {"threshold", "prior", "targets"} & json.loads(extra["metadata.json"]).keys()


@pytest.mark.parametrize("options", [(), ("--features",)])
def test_a_network_for_all_views_together_is_refused_in_one_line(checkpoints, tmp_path, options):
    path = tmp_path / "a.onnx"
    process = run("efficientnet.export", "--checkpoint", checkpoints["joint"], "--onnx", path, *options)
    assert_one_line_error(process, 1, "joint.pt", "cannot be exported", "--views mean")
    assert not path.exists()


def test_what_is_missing_is_said_in_one_line(tmp_path):
    process = run("efficientnet.export", "--checkpoint", tmp_path / "none.pt", "--onnx", tmp_path / "a.onnx")
    assert_one_line_error(process, 1, "none.pt", "no such file")
    assert_one_line_error(run("efficientnet.export", "--checkpoint", "x.pt"), 2, "--onnx")
