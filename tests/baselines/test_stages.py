"""The other baselines of Table 3: published counts, the same scaling rule, and blocks that build and train."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientnet import Coefficients, complexity, compound_coefficients, create_model, scale, stage_complexities
from efficientnet.baselines.layers import Bottleneck, MaxPool
from efficientnet.baselines.stages import BASELINES, MOBILENET_V1, MOBILENET_V2, RESNET_50, get_baseline
from efficientnet.layers import Convention

# MobileNetV2 and ResNet-50: exactly torchvision's. MobileNetV1: the paper says 4.2 M and 569 M multiply-adds.
PUBLISHED = {"mobilenet_v1": (4_231_976, 0.569), "mobilenet_v2": (3_504_872, 0.301), "resnet50": (25_557_032, 4.089)}
OTHERS = list(PUBLISHED)


@pytest.mark.parametrize("name", OTHERS)
def test_published_counts(name):
    baseline = BASELINES[name]
    counts = complexity(baseline.stages, baseline.image_size)
    assert counts.parameters == PUBLISHED[name][0]
    assert counts.multiply_adds / 1e9 == pytest.approx(PUBLISHED[name][1], abs=5e-4)
    assert sum(p.numel() for p in create_model(baseline.stages).parameters()) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", BASELINES)
def test_phi_zero_is_the_baseline_and_each_stage_takes_what_the_one_before_gives(name):
    baseline = BASELINES[name]
    assert scale(baseline, compound_coefficients(0)) == baseline.stages
    for coefficients in (Coefficients(), Coefficients(depth=1.7, width=1.37), compound_coefficients(3)):
        stages = scale(baseline, coefficients)
        for before, after in itertools.pairwise(stages):
            assert after.in_channels == before.out_channels
        assert all(stage.out_channels % 8 == 0 for stage in stages)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [(64, 64), (97, 66)])
def test_analytic_counts_equal_the_live_scaled_model(name, padding, size):
    stages = scale(BASELINES[name], Coefficients(depth=1.3, width=0.6))
    model = create_model(stages, 7, 2, padding=padding).eval()
    counts = complexity(stages, size, 7, 2)
    assert counts.parameters == sum(p.numel() for p in model.parameters())
    activations = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: activations.append(output.numel()))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert model(torch.randn(1, 2, *size)).shape == (1, 7)
    assert counter.get_total_flops() == 2 * counts.multiply_adds
    assert sum(activations) == counts.activations


@pytest.mark.parametrize("name", OTHERS)
def test_stage_rows_equal_their_modules(name):
    stages = BASELINES[name].stages
    model = create_model(stages, 10)
    modules = [model.stem, *model.body, torch.nn.ModuleList([model.head, model.classifier])]
    for row, module in zip(stage_complexities(stages, 224, 10), modules, strict=True):
        assert row.counts.parameters == sum(p.numel() for p in module.parameters()), row.stage.label


@pytest.mark.parametrize("name", OTHERS)
def test_a_scaled_baseline_trains(name):
    """A short step against the gradient lowers the loss by the amount that the gradient predicts."""
    torch.manual_seed(0)
    model = create_model(scale(BASELINES[name], Coefficients(depth=1.2, width=0.25)), 3, 1, dropout=0.0).double()
    x, labels = torch.randn(8, 1, 64, 64, dtype=torch.float64), torch.arange(8) % 3
    before = torch.nn.functional.cross_entropy(model(x), labels)
    before.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    promised = 1e-4 * before.item()
    length = promised / sum(gradient.square().sum().item() for gradient in gradients)
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            assert gradient.any()
            parameter -= length * gradient
        after = torch.nn.functional.cross_entropy(model(x), labels)
    assert before.item() - after.item() == pytest.approx(promised, rel=0.1)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenet_v1", [64, 128, 256, 512, 1024]),
        ("mobilenet_v2", [16, 24, 32, 96, 320]),
        ("resnet50", [64, 256, 512, 1024, 2048]),
    ],
)
def test_feature_maps_are_the_five_reductions(name, channels):
    model = create_model(BASELINES[name].stages).eval()
    with torch.no_grad():
        maps = model.feature_maps(torch.randn(1, 3, 96, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(c, 96 >> i, 64 >> i) for i, c in enumerate(channels, start=1)]


def test_the_published_operators():
    kinds = {name: {stage.operator for stage in BASELINES[name].stages[1:-1]} for name in OTHERS}
    assert kinds == {
        "mobilenet_v1": {"separable"},
        "mobilenet_v2": {"inverted_residual"},
        "resnet50": {"max_pool", "bottleneck"},
    }
    assert [sum(stage.layers for stage in baseline.stages[1:-1]) for baseline in (MOBILENET_V1, MOBILENET_V2)] == [
        13,
        17,
    ]
    inverted = create_model(MOBILENET_V2.stages).body[1][1]
    assert isinstance(inverted.gate, torch.nn.Identity) and isinstance(inverted.project.act, torch.nn.Identity)
    assert isinstance(inverted.depthwise.act, torch.nn.ReLU6)


def test_only_released_efficientnets_drop_paths_by_default():
    assert create_model(RESNET_50.stages).body[-1][-1].stochastic_depth.rate == 0
    assert create_model(RESNET_50.stages, stochastic_depth=0.2).body[-1][-1].stochastic_depth.rate > 0


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
def test_padding_of_the_pool_never_wins(size):
    x = -torch.rand(2, 3, *size) - 1
    for padding in ("same", "symmetric"):
        pooled = MaxPool(3, 2, Convention(padding=padding))(x)
        assert pooled.shape[2:] == (-(-size[0] // 2), -(-size[1] // 2)) and pooled.max() <= -1


def test_a_strided_shortcut_takes_the_even_positions_under_both_paddings():
    """A 1x1 kernel needs no padding under either convention."""
    x = torch.randn(1, 4, 8, 7)
    for padding in ("same", "symmetric"):
        shortcut = Bottleneck(4, 8, 3, 2, convention=Convention(padding=padding)).shortcut.eval()
        expected = torch.nn.functional.conv2d(x[:, :, ::2, ::2], shortcut.conv.weight)
        assert torch.allclose(shortcut.conv(x), expected, atol=1e-6)
        assert torch.allclose(shortcut(x), shortcut.norm(expected), atol=1e-6)


def test_create_model_knows_the_same_names_and_lists_them_all():
    assert create_model("MobileNet-V2").stages == MOBILENET_V2.stages
    assert create_model("ResNet-50").stages == RESNET_50.stages
    with pytest.raises(ValueError, match=r"'mobilenet_v3'.* b0, .* lite0, .* mobilenet_v1, mobilenet_v2, resnet50"):
        create_model("mobilenet_v3")


def test_names_are_forgiving_and_unknown_ones_list_the_known():
    assert get_baseline("MobileNetV2") is get_baseline("mobilenet-v2") is MOBILENET_V2
    assert get_baseline("ResNet-50") is RESNET_50 and get_baseline("efficientnet_b0") is BASELINES["b0"]
    with pytest.raises(ValueError, match="b0, mobilenet_v1, mobilenet_v2, resnet50"):
        get_baseline("vgg16")
