"""scaling.py against the paper: Equation 3, Table 1, Table 2 and the rounding rules of the released code."""

import math
from dataclasses import replace

import pytest

from efficientnet.scaling import (
    B0,
    LITE0,
    LITE_VARIANTS,
    VARIANTS,
    Coefficients,
    Stage,
    compound_coefficients,
    fit_phi,
    flops_growth,
    get_variant,
    implied_phi,
    mnasnet_objective,
    round_channels,
    round_layers,
    scale,
    scaled_image_size,
)


def test_equation_3():
    coefficients = compound_coefficients(3, 1.2, 1.1, 1.15)
    assert coefficients.depth == pytest.approx(1.2**3)
    assert coefficients.width == pytest.approx(1.1**3)
    assert coefficients.resolution == pytest.approx(1.15**3)
    assert (coefficients.phi, coefficients.alpha, coefficients.beta, coefficients.gamma) == (3, 1.2, 1.1, 1.15)


def test_phi_zero_is_the_baseline():
    coefficients = compound_coefficients(0)
    assert scale(B0, coefficients) == B0.stages
    assert scaled_image_size(B0, coefficients) == 224


def test_the_papers_constraint_comes_to_1_920():
    assert flops_growth(1.2, 1.1, 1.15) == pytest.approx(1.920, abs=5e-4)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ((-0.1,), "phi"),
        ((math.nan,), "phi"),
        ((math.inf,), "phi"),
        ((1, 0.99), "alpha"),
        ((1, 1.2, 0.5), "beta"),
        ((1, 1.2, 1.1, math.nan), "gamma"),
        ((1e6,), "large"),
    ],
)
def test_violated_bounds_are_named(values, word):
    with pytest.raises(ValueError, match=word):
        compound_coefficients(*values)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf])
def test_factors_are_positive_numbers(bad):
    with pytest.raises(ValueError, match="width"):
        Coefficients(width=bad)


def test_table_1():
    rows = [(s.label, s.stride, s.in_channels, s.out_channels, s.layers) for s in B0.stages]
    assert rows == [
        ("Conv3x3", 2, 3, 32, 1),
        ("MBConv1, k3x3", 1, 32, 16, 1),
        ("MBConv6, k3x3", 2, 16, 24, 2),
        ("MBConv6, k5x5", 2, 24, 40, 2),
        ("MBConv6, k3x3", 2, 40, 80, 3),
        ("MBConv6, k5x5", 1, 80, 112, 3),
        ("MBConv6, k5x5", 2, 112, 192, 4),
        ("MBConv6, k3x3", 1, 192, 320, 1),
        ("Conv1x1 & Pool & FC", 1, 320, 1280, 1),
    ]


def test_a_label_says_what_a_stage_leaves_out():
    stage = B0.stages[3]
    assert replace(stage, skip=False).label == "MBConv6, k5x5, no skip"
    assert LITE0.stages[3].label == "MBConv6, k5x5, no SE"
    assert replace(stage, squeeze_ratio=0, skip=False).label == "MBConv6, k5x5, no SE, no skip"
    plain = replace(stage, operator="plain", expansion=1, squeeze_ratio=0)
    assert (plain.label, replace(plain, skip=False).label) == ("Conv5x5", "Conv5x5, no skip")
    assert replace(B0.stages[-1], skip=False).label == B0.stages[-1].label  # which has none in any case


def test_plain_convolutions_scale_like_any_block():
    plain = replace(B0.stages[3], operator="plain", expansion=1, skip=False)
    baseline = replace(B0, stages=(*B0.stages[:3], plain, *B0.stages[4:]))
    scaled = scale(baseline, Coefficients(depth=2, width=1.5))[3]
    assert scaled == replace(plain, in_channels=40, out_channels=64, layers=4)


def test_at_width_1_channels_are_the_baselines_own():
    """Also where they are no multiple of 8, as those of a baseline from a file may be."""
    stem, first, *others = B0.stages
    own = replace(B0, stages=(replace(stem, out_channels=12), replace(first, in_channels=12), *others))
    assert scale(own, Coefficients(depth=1)) == own.stages
    assert scale(own, Coefficients(width=2))[0].out_channels == 24


def test_channels_round_to_the_nearest_multiple_of_8_and_never_lose_a_tenth():
    for tenths in range(10, 40_000, 7):
        channels = tenths / 10
        rounded = round_channels(channels)
        assert rounded % 8 == 0 and rounded >= 8
        assert rounded >= 0.9 * channels
        assert abs(rounded - channels) <= 8
    assert [round_channels(c) for c in (1, 11.9, 12, 35.2, 83.9, 84)] == [8, 16, 16, 32, 80, 88]
    assert round_channels(18.9) == 24  # nearest is 16, which would lose more than 10 %


def test_layers_round_up():
    assert [round_layers(n, 1.1) for n in (1, 2, 3, 4)] == [2, 3, 4, 5]
    assert round_layers(4, 1.0) == 4


def test_image_size_is_the_nearest_integer_and_not_a_multiple_of_8():
    sizes = [scaled_image_size(B0, compound_coefficients(phi)) for phi in (1, 2, 3, 7)]
    assert sizes == [258, 296, 341, 596]


def test_stem_and_head_scale_in_width_but_not_in_depth():
    stages = scale(B0, Coefficients(depth=3.1, width=2.0))
    assert (stages[0].out_channels, stages[0].layers) == (64, 1)
    assert (stages[-1].out_channels, stages[-1].layers) == (2560, 1)
    assert stages[0].in_channels == 3


def test_each_stage_takes_what_the_one_before_gives():
    for variant in VARIANTS.values():
        for before, after in zip(variant.stages, variant.stages[1:], strict=False):
            assert after.in_channels == before.out_channels


def test_variants_give_back_their_image_size_and_blocks():
    blocks = {"b0": 16, "b1": 23, "b2": 23, "b3": 26, "b4": 32, "b5": 39, "b6": 45, "b7": 55}
    for name, count in blocks.items():
        variant = VARIANTS[name]
        assert scaled_image_size(B0, variant.coefficients) == variant.image_size
        assert sum(stage.layers for stage in variant.stages if stage.operator == "mbconv") == count


def test_lite_keeps_stem_and_head_width_and_the_depth_of_its_first_and_last_stage():
    for number, variant in enumerate(LITE_VARIANTS.values()):
        lite, plain = variant.stages, VARIANTS[f"b{number}"].stages
        assert {(stage.squeeze_ratio, stage.activation) for stage in lite} == {(0, "relu6")}
        assert (lite[0].out_channels, lite[-1].out_channels) == (32, 1280)
        assert [stage.out_channels for stage in lite[1:-1]] == [stage.out_channels for stage in plain[1:-1]]
        assert [stage.layers for stage in lite[2:-2]] == [stage.layers for stage in plain[2:-2]]
        assert lite[1].layers == lite[-2].layers == 1
        assert scaled_image_size(variant.baseline, variant.coefficients) == variant.image_size


def test_released_coefficients_do_not_follow_equation_3():
    expected = {
        "b0": (0, 0, 0),
        "b1": (0.52, 0, 0.49),
        "b2": (1.0, 1.0, 1.07),
        "b3": (1.85, 1.91, 2.09),
        "b4": (3.22, 3.53, 3.78),
        "b5": (4.32, 4.93, 5.09),
        "b6": (5.24, 6.17, 6.14),
        "b7": (6.21, 7.27, 7.05),
    }
    for name, phis in expected.items():
        assert implied_phi(VARIANTS[name].coefficients) == pytest.approx(phis, abs=0.005)


def test_implied_phi_inverts_equation_3():
    for phi in (0.5, 1, 2.7, 7):
        assert implied_phi(compound_coefficients(phi)) == pytest.approx((phi, phi, phi))


def test_fitted_phi_is_the_least_squares_solution():
    for variant in VARIANTS.values():
        best = fit_phi(variant.coefficients)

        def distance(phi, factors=variant.coefficients):
            eq3 = compound_coefficients(max(phi, 0.0))
            pairs = ((factors.depth, eq3.depth), (factors.width, eq3.width), (factors.resolution, eq3.resolution))
            return sum(math.log(a / b) ** 2 for a, b in pairs)

        assert all(distance(best) <= distance(best + step) for step in (-0.01, 0.01) if best + step >= 0)
    assert fit_phi(compound_coefficients(2.5)) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="all 1"):
        fit_phi(Coefficients(), 1, 1, 1)


def test_the_objective_of_the_baselines_search():
    assert mnasnet_objective(0.77, 400e6) == pytest.approx(0.77)
    assert mnasnet_objective(1.0, 800e6) == pytest.approx(2**-0.07) == pytest.approx(0.953, abs=1e-3)
    assert mnasnet_objective(1.0, 200e6) == pytest.approx(1.050, abs=1e-3)
    with pytest.raises(ValueError, match="positive"):
        mnasnet_objective(0.5, 0)


def test_variant_names_are_forgiving_and_unknown_ones_list_the_known():
    assert get_variant("EfficientNet-B3") is get_variant("b3")
    assert get_variant("efficientnet-lite2") is LITE_VARIANTS["lite2"]
    with pytest.raises(ValueError, match="b0, b1"):
        get_variant("b9")


def test_absurd_depth_is_refused():
    with pytest.raises(ValueError, match="layers"):
        scale(B0, Coefficients(depth=1e6))


def test_a_stage_knows_the_inputs_of_its_layers():
    assert Stage("mbconv", 3, 2, 6, 16, 24, 3).block_inputs() == [(16, 2), (24, 1), (24, 1)]
