"""Pooling over pixels: mean, generalised mean, maximum. In the network, in files of weights, and traced."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from efficientnet import B0, Coefficients, create_model, scale
from efficientnet.layers import Pooling, generalised_mean
from efficientnet.training.checkpoint import serialise, write_checkpoint
from efficientnet.weights.load import export_state_dict, save_weights
from efficientnet.weights.names import find_names
from efficientnet.weights.variants import compare

SMALL = scale(B0, Coefficients(depth=0.5, width=0.2))
FEW = (*SMALL[:2], replace(SMALL[-1], in_channels=SMALL[1].out_channels))
KINDS = ("mean", "gem", "max")


def network(pooling="mean", stages=SMALL, **options):
    torch.manual_seed(0)
    return create_model(stages, 3, 1, pooling=pooling, **options).eval()


def features(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 7.5])
def test_the_generalised_mean_is_its_formula(exponent):
    x = features(2, 5, 4, 6)
    exact = x.double().clamp(min=1e-6).pow(exponent).mean((2, 3)).pow(1 / exponent)
    torch.testing.assert_close(generalised_mean(x, torch.tensor([exponent])), exact.float())


def test_the_generalised_mean_is_the_mean_at_1_and_the_maximum_far_up():
    x = features(2, 5, 4, 6).abs() + 0.1
    torch.testing.assert_close(generalised_mean(x, torch.ones(1)), x.mean((2, 3)))
    torch.testing.assert_close(generalised_mean(x, torch.tensor([1e4])), x.amax((2, 3)), rtol=1e-3, atol=0)


def test_the_gradients_of_the_generalised_mean_are_exact():
    x, exponent = (features(2, 3, 3, 2).double().abs() + 0.1).requires_grad_(), torch.tensor([2.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(generalised_mean, (x, exponent.requires_grad_()))


@pytest.mark.parametrize("value", [0.0, -0.3, 1e-4, 6e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_power_overflows_and_no_gradient_is_nan(value, dtype):
    x = torch.full((1, 2, 3, 3), value, dtype=dtype, requires_grad=True)
    exponent = torch.tensor([12.0], requires_grad=True)
    found = generalised_mean(x, exponent)
    found.float().sum().backward()
    assert found.dtype == dtype and x.grad.isfinite().all() and exponent.grad.isfinite().all()
    torch.testing.assert_close(found.float(), x[..., 0, 0].detach().float().clamp(min=1e-6), rtol=1e-2, atol=1e-7)


def test_the_generalised_mean_is_computed_in_fp32_under_autocast():
    x, pooling = features(2, 4, 9, 9).bfloat16(), Pooling("gem")
    with torch.autocast("cpu", torch.bfloat16):
        found = pooling(x)
    assert found.dtype == torch.bfloat16 and torch.equal(found, pooling(x.float()).bfloat16())


def test_an_unknown_pooling_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="mean, gem, max, not 'median'"):
        create_model(SMALL, pooling="median")


def test_mean_pooling_is_the_network_of_the_paper():
    """Without another tensor, and with the same bits as the mean over the pixels."""
    model, images = network(), features(2, 1, 65, 48)
    assert not [name for name in model.state_dict() if "pooling" in name]
    with torch.no_grad():
        assert torch.equal(model(images), model.classifier(model.forward_features(images).mean((2, 3))))


def test_the_initial_weights_do_not_depend_on_the_pooling_or_on_joint_views():
    plain = network().state_dict()
    for other in (network("gem"), network("max"), network(joint_views=True), network("gem", joint_views=True)):
        state = other.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in plain.items())
    assert network("gem").state_dict().keys() - plain.keys() == {"pooling.exponent"}
    assert network("gem").pooling.exponent.item() == 3


@pytest.mark.parametrize("pooling", KINDS)
def test_every_pooling_trains(pooling):
    model = network(pooling).train()
    model(features(2, 1, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert pooling != "gem" or model.pooling.exponent.grad.abs() > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pooling", KINDS)
@pytest.mark.parametrize("way", ["jit", "fx", pytest.param("compile", marks=pytest.mark.nightly), "export"])
def test_every_pooling_is_traced_for_any_size(pooling, way):
    model, example = network(pooling, FEW), features(2, 1, 97, 66)
    if way == "jit":
        traced = torch.jit.trace(model, example)
    elif way == "fx":
        traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    elif way == "compile":
        traced = torch.compile(model, backend="aot_eager")
    else:
        sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
        traced = torch.export.export(model, (example,), dynamic_shapes=(sizes,)).module()
    with torch.no_grad():
        for size in ((2, 1, 97, 66), (3, 1, 64, 49)):
            torch.testing.assert_close(traced(features(*size)), model(features(*size)))


def random_exponent(model, value=4.5):
    with torch.no_grad():
        model.pooling.exponent.fill_(value)
    return model


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_weights_of_other_libraries_leave_the_exponent_as_initialised(tmp_path, library):
    torch.manual_seed(0)
    theirs = create_model("b0", 3)
    save_weights(tmp_path / "weights.pt", theirs, library, any_convention=True)
    model = create_model(weights=tmp_path / "weights.pt", source=library, pooling="gem", joint_views=True)
    assert set(model.load_report.fresh) == {
        *("pooling.exponent", "attention.content.weight", "attention.gate.weight", "attention.score.weight")
    }
    assert "pooling.exponent, attention.content.weight" in model.load_report.text()
    assert model.pooling.exponent.item() == 3 and torch.equal(model.head.conv.weight, theirs.head.conv.weight)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("options", [{"pooling": "gem"}, {"pooling": "max"}, {"pooling": "gem", "joint_views": True}])
def test_saved_weights_come_back_with_their_pooling(tmp_path, options, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model = network(**options)
    if options["pooling"] == "gem":
        random_exponent(model)
    save_weights(tmp_path / f"weights{suffix}", model)
    again = create_model(weights=tmp_path / f"weights{suffix}")
    assert type(again) is type(model) and again.pooling.kind == options["pooling"] and not again.load_report.fresh
    assert again.stages == model.stages and again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_weights_with_gem_are_a_known_variant_and_also_start_a_network_without_it(tmp_path):
    model = network("gem", "b0", joint_views=True)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    plain = create_model(weights=tmp_path / "weights.pt", pooling="mean", joint_views=False)
    assert plain.provenance.variant == "b0"
    assert plain.pooling.kind == "mean" and not plain.load_report.fresh
    assert "pooling.exponent" in plain.load_report.ignored
    assert torch.equal(plain.classifier.weight, model.classifier.weight)


def test_a_training_checkpoint_rebuilds_its_network_and_an_older_one_has_the_mean(tmp_path):
    model = random_exponent(network("gem"))
    architecture = {"name_or_stages": [vars(stage) for stage in SMALL], "num_classes": 3, "in_channels": 1}
    content = {"format": "efficientnet-reference 1", "variant": "small", "weights": model.state_dict()}
    for extra, kind, exponent in (({"pooling": "gem", "joint_views": False}, "gem", 4.5), ({}, "mean", None)):
        path = tmp_path / f"{kind}.pt"
        write_checkpoint(path, serialise(content | {"architecture": architecture | extra}))
        again = create_model(weights=path)
        assert again.pooling.kind == kind
        assert exponent is None or again.pooling.exponent.item() == exponent
    create_model(**architecture, pooling="gem").load_state_dict(model.state_dict())


def test_another_library_has_no_gem_and_no_attention():
    for options, words in (({"pooling": "gem"}, "no gem pooling"), ({"joint_views": True}, "no attention over views")):
        with pytest.raises(ValueError, match=f"lukemelas has {words}"):
            export_state_dict(create_model("b0", 3, **options), "lukemelas", any_convention=True)


@pytest.mark.parametrize(("library", "problems"), [("lukemelas", ["attention.x is unknown"]), ("ours", [])])
def test_only_in_a_file_of_this_project_is_an_attention_known(library, problems):
    names, model = find_names(library, "mbconv"), network()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = export_state_dict(model, library, any_convention=True) | {"attention.x": torch.zeros(2, 2)}
    assert compare(names, model.stages, shapes, tensors) == problems


def test_each_channel_is_pooled_by_itself():
    assert repr(Pooling("gem")) == "Pooling(gem)"
    one, both = Pooling("gem"), features(1, 2, 5, 5)
    assert math.isclose(one(both[:, :1]).item(), one(both)[0, 0].item(), rel_tol=1e-6)
    assert isinstance(one.exponent, nn.Parameter) and one.exponent.dim() == 1
