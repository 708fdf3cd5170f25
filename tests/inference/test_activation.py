"""Class-activation maps: CAM is the logit spread over the pixels, and Grad-CAM generalises it."""

import math

import pytest
import torch
from torch import nn

from efficientnet import B0, MOBILENET_V2, Coefficients, create_model, scale
from efficientnet.inference.activation import as_heat, cam, class_activation, grad_cam
from efficientnet.training.batch_norm import recalibrate_batch_norm

SMALL = scale(B0, Coefficients(depth=0.5, width=0.2))


def network(stages=SMALL, **options):
    """A network whose statistics are those of noise, and whose classifier is not at its start."""
    torch.manual_seed(0)
    model = create_model(stages, 3, 1, **options)
    recalibrate_batch_norm(model, images(8), torch.device("cpu"), "fp32")
    nn.init.normal_(model.classifier.bias)
    return model.eval()


def images(*leading, size=(96, 80)):
    return torch.randn(*leading, 1, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("output", [0, 2])
def test_the_mean_of_cam_and_the_bias_are_the_logit(output):
    model = network()
    with torch.no_grad():
        features = model.forward_features(images(3))
        found = cam(features, model.classifier, output)
        assert found.shape == (3, 3, 3)
        logits = found.mean((1, 2)) + model.classifier.bias[output]
        torch.testing.assert_close(logits, model(images(3))[:, output])
        torch.testing.assert_close(class_activation(model, images(3), output)[0], model(images(3)))


@pytest.mark.parametrize("stages", [SMALL, scale(MOBILENET_V2, Coefficients(depth=0.5, width=0.25))])
@pytest.mark.parametrize("output", [0, 1])
def test_grad_cam_of_the_head_is_cam_divided_by_the_number_of_pixels(stages, output):
    model = network(stages)
    logits, found = grad_cam(model, images(2), output, "head")
    with torch.no_grad():
        expected = cam(model.forward_features(images(2)), model.classifier, output)
        torch.testing.assert_close(logits, model(images(2)))
    torch.testing.assert_close(found * expected[0].numel(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        class_activation(model, images(2), output)[1],
        class_activation(model, images(2), output, "head")[1],
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("pooling", ["mean", "gem", "max"])
@pytest.mark.parametrize("layer", [None, "head", "stem", "body.3", "body.1.0", "body.1.0.depthwise"])
def test_maps_have_the_images_size_and_a_maximum_of_1(pooling, layer):
    logits, maps = class_activation(network(pooling=pooling), images(2, size=(97, 66)), 1, layer)
    assert logits.shape == (2, 3) and maps.shape == (2, 97, 66) and maps.dtype == torch.float32
    assert not logits.requires_grad and not maps.requires_grad
    assert maps.min() >= 0
    largest = maps.amax((1, 2))
    torch.testing.assert_close(largest, torch.where(largest > 0, 1.0, 0.0))
    assert largest.max() > 0


def test_with_maximum_pooling_only_the_largest_pixels_have_gradients():
    """The map is the sum over channels of (weight / number of pixels) times the features, as one pixel has them all."""
    model = network(pooling="max")
    _, found = grad_cam(model, images(2), 0, "head")
    with torch.no_grad():
        expected = cam(model.forward_features(images(2)), model.classifier, 0) / 9
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_bright_spot_is_found():
    """The output is made to rise with the features of the corner with the spot."""
    model = network()
    spot = torch.zeros(1, 1, 96, 96)
    spot[..., 64:80, 16:32] = 3
    with torch.no_grad():
        features = model.forward_features(spot) - model.forward_features(torch.zeros_like(spot))
        model.classifier.weight[0] = features[0, :, 2, 0]
    _, maps = class_activation(model, spot)
    row, column = divmod(int(maps[0].argmax()), 96)
    assert row >= 48 > column


def test_as_heat_keeps_zero_and_negative_maps_at_zero():
    maps = torch.stack([torch.zeros(2, 2), -torch.ones(2, 2), torch.tensor([[0.0, 4.0], [-1.0, 2.0]])])
    found = as_heat(maps, (2, 2))
    assert torch.equal(found, torch.stack([maps[0], maps[0], torch.tensor([[0.0, 1.0], [0.0, 0.5]])]))
    assert as_heat(maps, (5, 7)).shape == (3, 5, 7) and not found.isnan().any()


def test_the_model_is_left_as_it_was():
    model = network(dropout=0.5).train()
    model.stem.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    for layer in (None, "body.2"):
        first, again = (class_activation(model, images(2), 0, layer) for _ in range(2))
        assert all(map(torch.equal, first, again))
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules()) and torch.is_grad_enabled()


def test_only_the_layers_above_keep_a_graph():
    model, kept = network(), []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        grad_cam(model, images(2), 0, "head")
    assert 0 < sum(kept) < 10 * model.num_features


def test_a_breasts_maps_are_those_of_its_views():
    model = network(joint_views=True)
    nn.init.normal_(model.attention.score.weight, std=5)
    breasts = images(2, 3)
    breasts[0, 1] = breasts[1, :2] = math.nan
    logits, maps = class_activation(model, breasts, 1)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(breasts))
    assert maps.shape == (2, 3, 96, 80) and maps.isfinite().all()
    absent = breasts[:, :, 0, 0, 0].isnan()
    assert (maps[absent] == 0).all()
    largest = maps[~absent].amax((1, 2))
    torch.testing.assert_close(largest, torch.where(largest > 0, 1.0, 0.0))
    # The only view of a breast has the weight 1, so its map is that of the plain network with the same weights.
    plain = create_model(SMALL, 3, 1).eval()
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "attention" not in name})
    alone = breasts[1:, 2]
    torch.testing.assert_close(maps[1:, 2], class_activation(plain, alone, 1)[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(maps[1:, 2], class_activation(model, alone, 1)[1], rtol=1e-3, atol=1e-4)
    logits, maps = class_activation(model, breasts[:1, 1:2], 1)  # no view at all
    assert maps.shape == (1, 1, 96, 80) and (maps == 0).all() and logits.isfinite().all()


@pytest.mark.parametrize(
    ("output", "layer", "words"),
    [(3, None, "from 0 to 2, not 3"), (-1, None, "from 0"), (0, "bod", "no layer 'bod'"), (0, "pooling", "no pixels")],
)
def test_an_unknown_output_or_layer_is_refused(output, layer, words):
    model = network()
    with pytest.raises(ValueError, match=words):
        class_activation(model, images(1), output, layer)
    assert not any(module._forward_hooks for module in model.modules())
