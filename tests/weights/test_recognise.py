"""A network is found under any prefix, beside other tensors, without its head; no other network is taken for it."""

from pathlib import Path

import pytest
import torch
from commands import assert_one_line_error, run

from efficientnet import create_model
from efficientnet.weights import WeightsError
from efficientnet.weights.conventions import CONVENTIONS, published_name
from efficientnet.weights.load import export_state_dict, read_weights
from efficientnet.weights.names import find_names
from efficientnet.weights.recognise import find_network

HEAD = ("classifier.weight", "classifier.bias")
FILE = Path("weights.pth")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return create_model("b0", num_classes=3)


@pytest.fixture(scope="module", params=["timm", "torchvision", "transformers", "mmpretrain", "lukemelas", "ours"])
def exported(request, model):
    """A library, and the model's tensors under its names."""
    return request.param, export_state_dict(model, request.param, any_convention=True)


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(state, folder, source=None, **options):
    torch.save(state, folder / "weights.pth")
    return create_model(weights=folder / "weights.pth", source=source, **options)


def assert_same_tensors(found, model, but=()):
    theirs = model.state_dict()
    for name, tensor in found.state_dict().items():
        assert name in but or torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("prefix", ["", "module.", "net.backbone.", "encoder.", "student.", "_orig_mod.module.model."])
def test_any_prefix_is_left_out_but_a_librarys_own_is_none(exported, prefix):
    library, state = exported
    network = find_network(FILE, under(prefix, state))
    assert (network.names.library, network.prefix, network.ignored) == (library, prefix, ())
    own = network.names.prefix
    assert {name.removeprefix(own) for name in state} == network.tensors.keys()


def test_the_prefix_is_in_the_report(model, tmp_path):
    found = loaded(under("net.backbone.", model.state_dict()), tmp_path)
    assert_same_tensors(found, model)
    assert found.load_report.prefix == "net.backbone."
    assert found.load_report.text().endswith("\n360 tensors loaded, without the prefix net.backbone.")


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_modules_around_single_blocks_are_left_out(model, tmp_path, wrapper):
    state = {name.replace("body.1.0.", f"body.1.0.{wrapper}."): tensor for name, tensor in model.state_dict().items()}
    assert_same_tensors(loaded(state, tmp_path), model)


@pytest.mark.parametrize("name", ["criterion.pos_weight", "loss_fn.weight", "n_averaged", "total_ops", "total_params"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_tensors_of_losses_and_profilers_are_ignored_and_named(exported, prefix, name):
    network = find_network(FILE, {**under(prefix, exported[1]), name: torch.ones(1)})
    assert (network.ignored, len(network.tensors)) == ((name,), 360)


def test_a_profilers_buffers_of_every_module_are_counted(model, tmp_path):
    state = export_state_dict(model, "timm", any_convention=True)
    buffers = {f"{name.rpartition('.')[0]}.total_ops": torch.zeros(1) for name in state}
    found = loaded({**state, **buffers}, tmp_path, "timm")
    assert_same_tensors(found, model)
    assert f"and {len(buffers) - 3} more ignored" in found.load_report.text()


def without_head(library, state):
    head = [find_names(library, "mbconv").outer(name) for name in HEAD]
    return {name: tensor for name, tensor in state.items() if name not in head}


OWN_HEAD = {"fc.weight": torch.ones(2, 1280), "fc.bias": torch.ones(2)}


@pytest.mark.parametrize("prefix", ["", "net.encoder."])
@pytest.mark.parametrize("own", [{}, OWN_HEAD], ids=["none", "own"])
def test_a_body_without_the_librarys_head_is_found(exported, own, prefix):
    library, state = exported
    network = find_network(FILE, {**under(prefix, without_head(library, state)), **own})
    assert (network.names.library, network.prefix, network.ignored) == (library, prefix, tuple(own))
    assert len(network.tensors) == 358


@pytest.mark.parametrize("own", [{}, OWN_HEAD], ids=["none", "own"])
@pytest.mark.parametrize(("given", "classes"), [(None, 1000), (5, 5)])
def test_without_the_librarys_head_the_body_is_loaded_and_said(model, own, given, classes, tmp_path):
    state = {**without_head("torchvision", export_state_dict(model, "torchvision", any_convention=True)), **own}
    torch.manual_seed(7)
    found = loaded(state, tmp_path, num_classes=given)
    torch.manual_seed(7)
    assert torch.equal(found.classifier.weight, create_model("b0", num_classes=classes).classifier.weight)
    assert_same_tensors(found, model, but=HEAD)
    assert (found.load_report.fresh, found.load_report.ignored) == (HEAD, tuple(own))
    assert "classifier.weight, classifier.bias left fresh" in found.load_report.text()


def test_a_head_of_two_layers_is_left_out_whole(model, tmp_path):
    """torchvision's name of the classifier would otherwise be taken for the first of the two."""
    state = without_head("torchvision", export_state_dict(model, "torchvision", any_convention=True))
    own = {"classifier.1.weight": torch.ones(9, 1280), "classifier.1.bias": torch.ones(9)}
    own |= {"classifier.4.weight": torch.ones(2, 9), "classifier.4.bias": torch.ones(2)}
    report = loaded({**state, **own}, tmp_path).load_report
    assert report.fresh == HEAD and report.ignored == tuple(own)


def test_features_without_the_last_convolution_are_loaded(model, tmp_path):
    """As timm's features_only models are saved."""
    state = export_state_dict(model, "timm", any_convention=True)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(("conv_head", "bn2", "classifier"))}
    found = loaded(state, tmp_path, "timm")
    assert found.provenance.variant == "b0" and len(found.load_report.loaded) == 352
    assert {name.partition(".")[0] for name in found.load_report.fresh} == {"head", "classifier"}


def test_without_classes_the_files_classifier_is_ignored(model, tmp_path):
    found = loaded(model.state_dict(), tmp_path, num_classes=0)
    assert found.load_report.ignored == HEAD and found.load_report.fresh == ()
    assert found.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1280)


@pytest.mark.parametrize("name", ["global_pool.p", "attention.weight", "blocks.2.0.attention.weight"])
def test_a_network_with_more_in_it_is_refused(model, name, tmp_path):
    state = export_state_dict(model, "timm", any_convention=True)
    with pytest.raises(WeightsError, match=name.removesuffix(".weight")):
        loaded({**state, name: torch.ones(1)}, tmp_path, "timm")


@pytest.mark.parametrize("prefixes", [("student.", "teacher."), ("model1.", "model2."), ("", "teacher.")])
def test_several_networks_are_named(exported, prefixes):
    shown = " and ".join(prefix or "no prefix" for prefix in prefixes)
    with pytest.raises(WeightsError, match=f"several networks, with names under {shown}; save the tensors of one"):
        find_network(FILE, {**under(prefixes[0], exported[1]), **under(prefixes[1], exported[1])})


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"features.0.0.weight": 0, "features.1.0.block.0.0.weight": 0}, r"features.1.0.block.3.0 is missing"),
        ({"conv_stem.weight": 0, "blocks.0.0.conv.weight": 0, "blocks.0.0.bn1.weight": 0}, r"blocks.0.0.conv\)"),
        ({"conv1.weight": 0, "layer1.0.conv1.weight": 0, "layer1.0.conv2.weight": 0}, "layer1.0.conv3 is missing"),
    ],
    ids=["torchvision's EfficientNetV2", "timm's EfficientNetV2", "ResNet-18"],
)
def test_networks_of_other_blocks_are_refused_without_advice_that_cannot_help(state, words):
    with pytest.raises(WeightsError, match=words) as caught:
        find_network(FILE, dict.fromkeys(state, torch.zeros(4, 4, 3, 3)))
    assert "unsupported block type" in str(caught.value) and "source" not in str(caught.value)


# Families

TAG = "tf_efficientnet_b0.ns_jft_in1k"


@pytest.mark.parametrize(
    ("path", "library"),
    [
        (f"models--timm--{TAG}/snapshots/0a1b/model.safetensors", "timm_tf"),
        (f"efficientnet_b0_project/hub/models--timm--{TAG}/snapshots/0a1b/pytorch_model.bin", "timm_tf"),
        (f"efficientnet_b0.ra_in1k/{TAG}/model.safetensors", "timm_tf"),
        (f"{TAG}/efficientnet_b0_ra-3dd342df.pth", "timm"),
        ("tf_efficientnet_b0.pth", "timm_tf"),
        ("tf_efficientnet_b3_ns-9d44bf68.pth.tar", "timm_tf"),
        ("efficientnet_b4_ra2_320-7eb33cd5.pth", "timm"),
        ("efficientnet_b0_project/model.safetensors", None),
        ("rsna-efficientnet_b3/weights/model.safetensors", None),
        ("efficientnet_b0/model.safetensors", None),
        (f"models--me--{TAG}-finetuned/model.safetensors", None),
        (f"{TAG}/weights.pth", None),
        ("efficientnet_b3_fold0.pth", None),
        ("efficientnet_b3-20240131.pth", None),
        ("rsna-efficientnet_b3.pth", None),
        ("efficientnet_b0_gn.pth", None),
        ("efficientnet_b0_g8_gn.pth", None),
    ],
)
def test_only_the_innermost_published_name_tells_timms_family(model, path, library, tmp_path):
    path = tmp_path / path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(export_state_dict(model, "timm", any_convention=True), path)
    if library is None:
        with pytest.raises(WeightsError, match=r'source "timm" or "timm_tf" \(--source\)'):
            read_weights(path)
    else:
        provenance = read_weights(path).provenance
        assert (provenance.library, provenance.convention) == (library, CONVENTIONS[library])
    assert read_weights(path, "timm").provenance.library == "timm"
    assert bool(published_name(path)) == (library is not None)


@pytest.mark.parametrize("path", ["efficientnet_blur_b0.pth", "models--me--efficientnet_blur_b0/model.safetensors"])
@pytest.mark.parametrize("source", [None, "timm", "timm_tf"])
def test_a_model_that_also_blurs_is_refused_by_its_name(model, path, source, tmp_path):
    path = tmp_path / path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(export_state_dict(model, "timm", any_convention=True), path)
    with pytest.raises(WeightsError, match="efficientnet_blur_b0 is b0 with blur layers"):
        read_weights(path, source)


# Values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_and_named(model, value, dtype, tmp_path):
    state = {name: tensor.to(dtype, copy=True) for name, tensor in model.state_dict().items()}
    for name in ("stem.conv.weight", "head.norm.running_var"):
        state[name].flatten()[-1] = value
    with pytest.raises(WeightsError, match=r"NaN or infinity in stem\.conv\.weight and 1 more"):
        loaded(state, tmp_path)


# The command


def test_info_shows_both_readings_of_a_renamed_file_of_timm(model, tmp_path):
    torch.save(export_state_dict(model, "timm_tf", any_convention=True), tmp_path / "model_best.pth")
    process = run("efficientnet.weights", "info", tmp_path / "model_best.pth")
    lines = process.stdout.splitlines()
    assert process.returncode == 0 and len(lines) == 4, process.stderr
    assert "b0 (timm), symmetric padding" in lines[0] and "b0 (timm_tf), same padding" in lines[1]
    assert lines[2] == "360 tensors, 3 input channels, 3 classes" and lines[3].endswith("(--source)")
    assert (
        len(run("efficientnet.weights", "info", tmp_path / "model_best.pth", "--source", "timm").stdout.splitlines())
        == 2
    )


def test_info_shows_prefix_and_ignored_tensors_and_fails_if_values_are_not_finite(model, tmp_path):
    state = {f"net.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save({**state, "criterion.pos_weight": torch.ones(1)}, tmp_path / "net.pt")
    process = run("efficientnet.weights", "info", tmp_path / "net.pt")
    assert process.stdout.endswith("\nprefix: net.\nignored: criterion.pos_weight\n") and process.returncode == 0
    state["net.stem.conv.weight"][0] = float("nan")
    torch.save(state, tmp_path / "net.pt")
    process = run("efficientnet.weights", "info", tmp_path / "net.pt")
    assert "360 tensors, 3 input channels, 3 classes\nprefix: net.\n" in process.stdout
    assert_one_line_error(process, 1, "contains NaN or infinity in stem.conv.weight; use an earlier checkpoint")
    assert_one_line_error(
        run("efficientnet.weights", "convert", tmp_path / "net.pt", tmp_path / "out.pt"), 1, "NaN or infinity"
    )
