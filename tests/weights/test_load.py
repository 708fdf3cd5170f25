"""Files of weights: recognised, loaded whole or not at all, adapted, written, and never executed."""

from dataclasses import replace

import pytest
import torch
from commands import assert_one_line_error, run

from efficientnet import B0, MOBILENET_V2, RESNET_50, Coefficients, create_model, scale
from efficientnet.layers import Convention
from efficientnet.training.checkpoint import serialise, write_checkpoint
from efficientnet.weights.conventions import CONVENTIONS
from efficientnet.weights.load import WeightsError, export_state_dict, read_weights, save_weights

SMALL = scale(B0, Coefficients(depth=0.5, width=0.25))
LIBRARIES = [library for library in CONVENTIONS if library != "ours"]


@torch.no_grad()
def random_model(architecture="b0", library="ours", **options):
    """Every tensor is random, statistics and counters too. The convention is the library's."""
    torch.manual_seed(0)
    convention = CONVENTIONS[library]
    model = create_model(
        architecture,
        padding=convention.padding,
        batch_norm_eps=convention.batch_norm_eps,
        batch_norm_momentum=convention.batch_norm_momentum,
        **options,
    )
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.random_(1, 1000)
        elif "norm" in name:
            tensor.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def plain():
    """A B0 with the authors' convention; tests do not change it."""
    return random_model()


def assert_same_tensors(model, other, but=()):
    theirs = other.state_dict()
    for name, tensor in model.state_dict().items():
        assert name in but or torch.equal(tensor, theirs[name]), name


# Recognised and loaded


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_out_under_any_librarys_names_and_back(library, suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model = random_model(library=library)
    save_weights(tmp_path / f"weights{suffix}", model, library)
    again = create_model(weights=tmp_path / f"weights{suffix}", source=library)
    assert_same_tensors(model, again)
    assert (again.provenance.library, again.provenance.variant) == (library, "b0")
    assert again.provenance.convention == again.convention == model.convention
    assert again.load_report.fresh == again.load_report.adapted == ()


@pytest.mark.parametrize("baseline", [MOBILENET_V2, RESNET_50], ids=lambda baseline: baseline.name)
def test_other_baselines_under_torchvisions_names(baseline, tmp_path):
    model = random_model(baseline.stages, "torchvision")
    save_weights(tmp_path / "weights.pth", model, "torchvision")
    for again in (
        create_model(weights=tmp_path / "weights.pth"),
        create_model(baseline.name, weights=tmp_path / "weights.pth"),
    ):
        assert_same_tensors(model, again)
        assert again.provenance.variant == baseline.name


def test_an_architecture_of_ones_own(tmp_path):
    stages = scale(B0, Coefficients(depth=0.5, width=0.4))
    model = random_model(stages, num_classes=3)
    save_weights(tmp_path / "own.pt", model)
    assert_same_tensors(model, create_model(stages, weights=tmp_path / "own.pt"))
    assert_same_tensors(model, create_model(weights=tmp_path / "own.pt"))  # which says what it is
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    with pytest.raises(WeightsError, match="known variant"):
        create_model(weights=tmp_path / "bare.pt")


def broken(state):
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def test_our_own_bare_state_dict(plain, tmp_path):
    torch.save(plain.state_dict(), tmp_path / "weights.pt")
    model = create_model("b0", weights=tmp_path / "weights.pt")
    assert_same_tensors(plain, model)
    assert model.provenance.library == "ours" and not model.provenance.normalisation_known


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_our_own_file_keeps_convention_and_normalisation(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    save_weights(tmp_path / "tf_efficientnet_b0_ap.pth", random_model(library="timm_tf"), "timm_tf")
    first = create_model(weights=tmp_path / "tf_efficientnet_b0_ap.pth")
    save_weights(tmp_path / f"ours{suffix}", first)
    second = create_model(weights=tmp_path / f"ours{suffix}")
    assert_same_tensors(first, second)
    assert second.convention == first.convention == CONVENTIONS["timm_tf"]
    assert second.provenance.normalisation_known
    assert (second.provenance.mean, second.provenance.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_checkpoint_of_train_py_gives_the_weights_that_evaluate_py_takes(tmp_path):
    model = random_model(num_classes=2, in_channels=1)
    architecture = {"name_or_stages": "b0", "num_classes": 2, "in_channels": 1, "batch_norm_momentum": 0.1}
    content = {
        "architecture": architecture,
        "weights": model.state_dict(),
        "preprocessing": {"mean": 0.4, "std": 0.2},
        "training": {"model": broken(model.state_dict())},
    }
    write_checkpoint(tmp_path / "last.pt", serialise(content))
    again = create_model(weights=tmp_path / "last.pt")
    assert_same_tensors(model, again)
    assert (again.num_classes, again.in_channels) == (2, 1)
    assert again.convention == Convention(batch_norm_momentum=0.1)
    assert (again.provenance.mean, again.provenance.std) == ((0.4,), (0.2,))


def test_half_precision_becomes_single(plain, tmp_path):
    torch.save(
        {name: t.half() if t.is_floating_point() else t for name, t in plain.state_dict().items()}, tmp_path / "h.pt"
    )
    model = create_model(weights=tmp_path / "h.pt")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.allclose(model.classifier.weight, plain.classifier.weight, atol=1e-3)


# Conventions


def test_what_the_caller_says_of_the_convention_wins(tmp_path):
    save_weights(tmp_path / "weights.pth", random_model(library="torchvision"), "torchvision")
    model = create_model(weights=tmp_path / "weights.pth", padding="same", batch_norm_momentum=0.02)
    assert model.convention == Convention("same", 1e-5, 0.02)
    assert model.stem.norm.eps == 1e-5 and model.stem.pads_itself
    assert model.provenance.convention == CONVENTIONS["torchvision"]


@pytest.mark.parametrize(
    ("library", "file", "mean", "known"),
    [
        ("torchvision", "anything.pth", 0.485, True),
        ("timm", "efficientnet_b0.pth", 0.485, True),
        ("timm", "efficientnet_b0.ra4_e3600_r224_in1k.pth", 0.5, True),
        ("timm_tf", "tf_efficientnet_b0_ap-f262efe1.pth", 0.5, True),
        ("timm_tf", "weights.pth", 0.485, False),
        ("lukemelas", "efficientnet-b0-355c32eb.pth", 0.485, True),
        ("lukemelas", "adv-efficientnet-b0-b64d5a18.pth", 0.5, True),
        ("mmpretrain", "efficientnet-b0_3rdparty_8xb32-aa_in1k_20220119-8d939117.pth", 0.485, True),
        ("mmpretrain", "efficientnet-b0_3rdparty_8xb32-aa-advprop_in1k_20220119-26434485.pth", 0.5, True),
        ("transformers", "pytorch_model.bin", 0.485, False),
    ],
)
def test_normalisation_follows_the_name_and_says_where_it_is_assumed(plain, library, file, mean, known, tmp_path):
    torch.save(export_state_dict(plain, library, any_convention=True), tmp_path / file)
    provenance = read_weights(tmp_path / file, library).provenance
    assert (provenance.mean[0], provenance.normalisation_known) == (mean, known)
    assert ("(assumed)" in provenance.text()) != known


def test_what_the_caller_says_of_the_normalisation_is_known_and_goes_on(plain, tmp_path):
    """A renamed AdvProp file: its name no longer tells the normalisation."""
    torch.save(export_state_dict(plain, "timm_tf"), tmp_path / "renamed.pth")
    assert not read_weights(tmp_path / "renamed.pth", "timm_tf").provenance.normalisation_known
    model = create_model(weights=tmp_path / "renamed.pth", source="timm_tf", mean=0.5, std=(0.5, 0.5, 0.5))
    save_weights(tmp_path / "ours.pt", model)
    for provenance in (model.provenance, read_weights(tmp_path / "ours.pt").provenance):
        assert (provenance.mean, provenance.std) == ((0.5,) * 3, (0.5,) * 3) and provenance.normalisation_known
    provenance = read_weights(tmp_path / "ours.pt", mean=[0.1, 0.2, 0.3], std=0.4).provenance
    assert (provenance.mean, provenance.std) == ((0.1, 0.2, 0.3), (0.4,) * 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": 0.5}, "mean and std belong together"),
        ({"mean": (0.5, 0.5), "std": 0.5}, "mean has 2 values, the weights have 3 input channels"),
        ({"mean": 0.5, "std": 0}, "std must be above 0"),
        ({"mean": float("nan"), "std": 1}, "mean must be finite"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(plain, given, words, tmp_path):
    save_weights(tmp_path / "b0.pt", plain)
    with pytest.raises(ValueError, match=words):
        create_model(weights=tmp_path / "b0.pt", **given)


@pytest.mark.parametrize("given", [{"source": "timm"}, {"mean": 0.5, "std": 0.5}])
def test_what_is_said_of_weights_needs_weights(given):
    with pytest.raises(ValueError, match="weights"):
        create_model("b0", **given)


@pytest.mark.parametrize("library", ["torchvision", "transformers", "mmpretrain"])
def test_a_library_without_lite_gets_none(library):
    convention = CONVENTIONS[library]
    model = create_model("lite0", padding=convention.padding, batch_norm_eps=convention.batch_norm_eps)
    with pytest.raises(ValueError, match=f"{library}.*Lite") as caught:
        export_state_dict(model, library, any_convention=True)
    assert "timm, timm_tf, lukemelas" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("changes", [{"skip": False}, {"operator": "plain", "expansion": 1, "squeeze_ratio": 0}])
def test_no_library_has_plain_convolutions_or_blocks_without_a_residual(library, changes, tmp_path):
    stages = [replace(stage, **changes) if place == 3 else stage for place, stage in enumerate(SMALL)]
    model = random_model(stages, library)
    with pytest.raises(ValueError, match=f"{library} has no plain convolutions"):
        export_state_dict(model, library)
    save_weights(tmp_path / "ours.pt", model)
    again = create_model(tmp_path / "ours.pt")
    assert again.stages == model.stages
    assert_same_tensors(model, again)


def test_export_refuses_a_library_that_would_compute_something_else(plain):
    with pytest.raises(ValueError, match=r"padding.*--any-convention"):
        export_state_dict(plain, "torchvision")
    with pytest.raises(ValueError, match="batch_norm_eps"):
        export_state_dict(create_model("b0", padding="symmetric"), "timm")
    export_state_dict(plain, "torchvision", any_convention=True)
    with pytest.raises(ValueError, match="known ones"):
        export_state_dict(plain, "keras")


# Transfer


def test_another_number_of_classes_leaves_the_classifier_fresh_and_says_so(plain, tmp_path):
    save_weights(tmp_path / "weights.pt", plain)
    torch.manual_seed(5)
    model = create_model("b0", 2, weights=tmp_path / "weights.pt")
    torch.manual_seed(5)
    fresh = create_model("b0", 2)
    assert torch.equal(model.classifier.weight, fresh.classifier.weight)
    assert model.load_report.fresh == ("classifier.weight", "classifier.bias")
    assert_same_tensors(model, plain, but=model.load_report.fresh)
    lines = model.load_report.text().splitlines()
    assert len(lines) == 2 and "classifier.weight, classifier.bias left fresh" in lines[1]


@torch.no_grad()
def test_a_gray_image_gives_the_logits_of_its_three_channel_copy(plain, tmp_path):
    save_weights(tmp_path / "weights.pt", plain)
    gray = torch.randn(2, 1, 64, 47)
    expected = plain(gray.expand(-1, 3, -1, -1))
    for channels in (1, 4):
        model = create_model("b0", in_channels=channels, weights=tmp_path / "weights.pt").eval()
        assert torch.allclose(model(gray.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-5)
        assert model.load_report.adapted == ("stem.conv.weight",)
        assert "stem.conv.weight adapted" in model.load_report.text()


@torch.no_grad()
def test_a_gray_models_weights_take_the_mean_of_three_channels(tmp_path):
    gray = random_model(in_channels=1)
    save_weights(tmp_path / "weights.pt", gray)
    images = torch.randn(2, 3, 64, 64)
    model = create_model("b0", in_channels=3, weights=tmp_path / "weights.pt").eval()
    assert torch.allclose(model(images), gray(images.mean(1, keepdim=True)), rtol=1e-4, atol=1e-5)


def test_without_a_wish_the_model_is_that_of_the_file(tmp_path):
    save_weights(tmp_path / "weights.pt", random_model("b0", num_classes=5, in_channels=2))
    model = create_model(weights=tmp_path / "weights.pt")
    assert (model.num_classes, model.in_channels, model.load_report.fresh) == (5, 2, ())
    with pytest.raises(ValueError, match="pass a name"):
        create_model()


# Files that cannot be used


def test_the_message_names_the_variant_and_the_first_tensors(plain, tmp_path):
    torch.save(export_state_dict(plain, "lukemelas"), tmp_path / "weights.pth")
    with pytest.raises(WeightsError) as caught:
        create_model("b1", weights=tmp_path / "weights.pth")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and "does not match b1; it looks like b0 (lukemelas)" in lines[0]
    assert "_blocks.1._depthwise_conv.weight is (96, 1, 3, 3), not (16, 1, 3, 3)" in lines[1] or "missing" in lines[1]


def without(state, *names):
    return {name: tensor for name, tensor in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: without(s, "_blocks.3._bn1.bias"), "_blocks.3._bn1.bias is missing"),
        (lambda s: without(s, "_fc.bias"), "_fc.bias is missing"),
        (lambda s: without(s, "_conv_stem.weight"), "_conv_stem.weight is missing"),
        (lambda s: {**s, "_blocks.99._bn1.bias": torch.zeros(3)}, "_blocks.99._bn1.bias is unknown"),
        (
            lambda s: {**s, "_conv_head.weight": torch.zeros(9, 320, 1, 1)},
            r"is \(9, 320, 1, 1\), not \(1280, 320, 1, 1\)",
        ),
        (lambda s: {**s, "_fc.weight": s["_fc.weight"].to(torch.int8)}, "torch.int8"),
        (lambda s: {**s, "_fc.bias": torch.zeros(5)}, "_fc.bias and its weight have different numbers"),
        (lambda s: {**s, "_conv_stem.weight": torch.zeros(5)}, r"_conv_stem.weight is \(5,\), not \(32, 3, 3, 3\)"),
    ],
)
@pytest.mark.parametrize("name", ["b0", None])
def test_one_wrong_tensor_is_named_and_nothing_is_loaded(plain, change, words, name, tmp_path):
    torch.save(change(export_state_dict(plain, "lukemelas")), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=words) as caught:
        create_model(name, weights=tmp_path / "weights.pth")
    assert "it looks like b0 (lukemelas)" in str(caught.value) and len(str(caught.value).splitlines()) == 2
    model = create_model("b0")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "weights.pth").load_into(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.provenance is None


def test_a_source_that_is_not_the_files_and_unknown_names_are_refused(plain, tmp_path):
    torch.save(export_state_dict(plain, "lukemelas"), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"lukemelas.*torchvision"):
        read_weights(tmp_path / "weights.pth", "torchvision")
    torch.save({"stem.0.weight": torch.zeros(3)}, tmp_path / "stranger.pth")
    with pytest.raises(WeightsError, match=r"stem\.0\.weight"):
        read_weights(tmp_path / "stranger.pth")
    with pytest.raises(WeightsError, match="unknown source 'keras'"):
        read_weights(tmp_path / "weights.pth", "keras")


# The command


def weights_command(*arguments):
    return run("efficientnet.weights", *arguments)


def test_convert_and_info(tmp_path):
    model = random_model(library="timm_tf", num_classes=7)
    save_weights(tmp_path / "tf_efficientnet_b0.pth", model, "timm_tf")
    process = weights_command("convert", tmp_path / "tf_efficientnet_b0.pth", tmp_path / "b0.pt", "--variant", "b0")
    assert process.returncode == 0 and "360 tensors loaded" in process.stdout, process.stderr
    process = weights_command("info", tmp_path / "b0.pt")
    assert "b0 (ours), same padding, batch-norm eps 0.001 and momentum 0.1" in process.stdout
    assert "360 tensors, 3 input channels, 7 classes" in process.stdout
    assert_same_tensors(model, create_model(weights=tmp_path / "b0.pt"))


def test_the_commands_errors_are_lines(plain, tmp_path):
    save_weights(tmp_path / "b0.pt", plain)
    arguments = ("convert", tmp_path / "b0.pt", tmp_path / "out.pt")
    assert_one_line_error(weights_command(*arguments, "--variant", "b2"), 1, "b0.pt: does not match b2")
    assert_one_line_error(weights_command(*arguments, "--to", "keras"), 2, "invalid choice: 'keras'")
    state = without(export_state_dict(plain, "lukemelas"), "_blocks.3._bn1.bias", "_fc.bias")
    torch.save(state, tmp_path / "holes.pth")
    process = weights_command("info", tmp_path / "holes.pth")
    assert process.returncode == 0, process.stderr
    for words in ("no known variant (lukemelas)", "nearest: b0", "_blocks.3._bn1.bias is missing; _fc.bias is missing"):
        assert words in process.stdout
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ("info absent.pt", 1, "absent.pt"),
        ("convert b0.pt out.pt --to torchvision", 1, "padding"),
        ("convert b0.pt out.pt --mean .5", 2, "--std"),
        ("convert b0.pt out.pt --mean .5 .5 --std .5", 1, "mean has 2 values"),
        ("convert b0.pt b0.pt/out.pt", 2, "is not a folder"),
        ("convert b0.pt ./b0.pt", 2, "b0.pt"),
        ("convert b0.pt out.onnx", 2, ".safetensors"),
        ("convert b0.pt out.pt --variant b77", 2, "b77"),
    ],
)
def test_failures_and_wrong_usage(plain, arguments, code, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_weights(tmp_path / "b0.pt", plain)
    assert_one_line_error(weights_command(*arguments.split()), code, word)
    assert [path.name for path in tmp_path.iterdir()] == ["b0.pt"]


def test_convert_records_the_normalisation_that_it_is_told(plain, tmp_path):
    torch.save(export_state_dict(plain, "timm_tf"), tmp_path / "renamed.pth")
    flags = ("--source", "timm_tf", "--mean", 0.5, "--std", 0.5, 0.5, 0.25)
    process = weights_command("convert", tmp_path / "renamed.pth", tmp_path / "b0.pt", *flags)
    assert process.returncode == 0, process.stderr
    info = weights_command("info", tmp_path / "b0.pt").stdout
    assert "mean 0.5, std 0.5 0.5 0.25\n" in info
    assert "mean 0.1, std 0.2\n" in weights_command("info", tmp_path / "b0.pt", "--mean", 0.1, "--std", 0.2).stdout


def test_info_fails_if_the_variant_is_another(plain, tmp_path):
    save_weights(tmp_path / "b0.pt", plain)
    assert weights_command("info", tmp_path / "b0.pt", "--variant", "b0").returncode == 0
    assert_one_line_error(weights_command("info", tmp_path / "b0.pt", "--variant", "b1"), 1, "is b0, not b1")
    assert_one_line_error(weights_command("info"), 2, "(see python -m efficientnet.weights info --help)")
