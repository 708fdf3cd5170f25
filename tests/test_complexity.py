"""complexity.py against the published figures and against the live model."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from efficientnet import (
    B0,
    VARIANTS,
    complexity,
    compound_coefficients,
    create_model,
    get_variant,
    scale,
    stage_complexities,
)

PARAMETERS = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
    "b8": 87_413_142,
    "l2": 480_309_308,
    "lite0": 4_652_008,
    "lite1": 5_416_680,
    "lite2": 6_092_072,
    "lite3": 8_197_096,
    "lite4": 13_006_568,
}
GIGA_MULTIPLY_ADDS = {
    "b0": 0.386,
    "b1": 0.687,
    "b2": 0.994,
    "b3": 1.827,
    "b4": 4.394,
    "b5": 10.266,
    "b6": 19.068,
    "b7": 37.746,
}


WITH_PLAIN = tuple(
    replace(stage, operator="plain", expansion=1, layers=2, skip=False) if place in (2, 4) else stage
    for place, stage in enumerate(B0.stages)
)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_the_released_variants_are_exact(name):
    variant = get_variant(name)
    assert complexity(variant.stages, variant.image_size).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", GIGA_MULTIPLY_ADDS)
def test_multiply_adds_of_the_released_variants(name):
    counts = complexity(VARIANTS[name].stages, VARIANTS[name].image_size)
    assert counts.multiply_adds / 1e9 == pytest.approx(GIGA_MULTIPLY_ADDS[name], abs=5e-4)


@pytest.mark.parametrize(
    ("phi", "millions", "giga"), [(1, 9.11, 0.99), (2, 12.26, 1.81), (3, 16.35, 3.25), (7, 68.74, 39.66)]
)
def test_architectures_of_equation_3(phi, millions, giga):
    coefficients = compound_coefficients(phi)
    counts = complexity(scale(B0, coefficients), int(224 * coefficients.resolution + 0.5))
    assert counts.parameters / 1e6 == pytest.approx(millions, abs=5e-3)
    assert counts.multiply_adds / 1e9 == pytest.approx(giga, abs=5e-3)


@pytest.mark.parametrize(
    ("name", "size", "classes", "channels"),
    [
        ("b0", (224, 224), 1000, 3),
        ("b0", (97, 64), 4, 1),
        ("b1", (33, 130), 7, 5),
        ("b3", (64, 96), 2, 1),
        ("lite1", (65, 96), 3, 3),
        (WITH_PLAIN, (65, 96), 3, 3),
    ],
)
def test_analytic_counts_equal_the_live_model(name, size, classes, channels):
    model = create_model(name, classes, channels).eval()
    counts = complexity(model.stages, size, classes, channels)
    assert counts.parameters == sum(p.numel() for p in model.parameters())

    activations = 0

    def count(module, inputs, output):
        nonlocal activations
        activations += output.numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, channels, *size))
    assert counter.get_total_flops() == 2 * counts.multiply_adds
    assert activations == counts.activations


def test_stages_add_up_and_each_equals_its_module():
    model = create_model("b2", 10)
    rows = stage_complexities(model.stages, 260, 10)
    modules = [model.stem, *model.body, torch.nn.ModuleList([model.head, model.classifier])]
    for row, module in zip(rows, modules, strict=True):
        assert row.counts.parameters == sum(p.numel() for p in module.parameters())
    assert [row.input_resolution for row in rows][:4] == [(260, 260), (130, 130), (130, 130), (65, 65)]
