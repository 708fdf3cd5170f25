"""The search space: which networks it has, that each is there once, and that mutations stay inside."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientnet.baselines.stages import BASELINES
from efficientnet.complexity import complexity
from efficientnet.model import EfficientNet
from efficientnet.scaling import B0, LITE0, Baseline, Coefficients, Stage, scale
from efficientnet.studies.space import ATTRIBUTES, SearchSpace, write

SMALL = Baseline("small", scale(B0, Coefficients(depth=0.5, width=0.25)), 32, "small")
TWO_STAGES = Baseline(
    "two",
    (
        Stage("conv", 3, 2, 1, 3, 8, 1),
        Stage("mbconv", 3, 1, 1, 8, 8, 1),
        Stage("mbconv", 5, 2, 6, 8, 16, 1),
        Stage("head", 1, 1, 1, 16, 64, 1),
    ),
    32,
    "two",
)


def drawn(space, count, seed=0):
    """Random networks, and a walk of mutations from each."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        encoding = space.random(generator)
        yield encoding
        for _ in range(5):
            encoding = space.mutate(encoding, generator)
            yield encoding


def walk(space, steps):
    generator = np.random.default_rng(1)
    encoding = space.encode(space.baseline)
    for _ in range(steps):
        encoding = space.mutate(encoding, generator)
        yield encoding


@pytest.mark.parametrize("baseline", [B0, LITE0, SMALL, TWO_STAGES], ids=lambda baseline: baseline.name)
def test_the_baseline_is_in_the_space(baseline):
    space = SearchSpace(baseline, most=1)
    built = space.build(space.encode(baseline), "again")
    assert (built.stages, built.image_size, built.name) == (baseline.stages, baseline.image_size, "again")


def test_a_network_of_the_space_can_be_the_next_baseline():
    for encoding in drawn(SearchSpace(SMALL), 3):
        found = SearchSpace(SMALL).build(encoding, "found")
        assert SearchSpace(found).encode(found) == encoding


def test_choices_of_a_stage_of_b0():
    """Of 80 channels and 3 layers: factors 0.75, 1 and 1.25; one layer less and more."""
    choices = SearchSpace(B0).choices[3]
    assert {choice.out_channels for choice in choices} == {64, 80, 104}  # 60 would round to 64, 100 to 104
    assert {choice.layers for choice in choices} == {2, 3, 4}
    assert {(c.operator, c.expansion, c.squeeze_ratio) for c in choices} == {
        *itertools.product(["mbconv"], (1, 3, 6), (0.25, 0)),
        ("plain", 1, 0),
    }
    assert len(set(choices)) == len(choices) == (6 + 1) * 2 * 2 * 3 * 3


@pytest.mark.parametrize("baseline", [B0, SMALL], ids=lambda baseline: baseline.name)
def test_networks_are_chains_of_stages_within_the_limit(baseline):
    space = SearchSpace(baseline, most=1.5)
    for encoding in drawn(space, 40):
        stages = space.build(encoding, "found").stages
        for before, after in itertools.pairwise(stages):
            assert before.out_channels == after.in_channels
        assert stages[0] == baseline.stages[0]
        assert [stage.stride for stage in stages] == [stage.stride for stage in baseline.stages]
        assert stages[-1] == replace(baseline.stages[-1], in_channels=stages[-2].out_channels)
        most = 1.5 * complexity(baseline.stages, baseline.image_size).multiply_adds
        assert complexity(stages, baseline.image_size).multiply_adds <= most


def test_draws_and_mutations_reach_every_value():
    space = SearchSpace(SMALL, most=4)
    for encodings in (drawn(space, 100), walk(space, 2000)):
        seen = [set(column) for column in zip(*encodings, strict=True)]
        for found, choices in zip(seen, space.choices, strict=True):
            for name in ATTRIBUTES:
                assert {getattr(choice, name) for choice in found} == {getattr(choice, name) for choice in choices}


def test_size_counts_each_network_once():
    """Against all combinations, told apart by what they build: a skip counts only where a layer can have one."""

    def network(stage):
        residual = any(stride == 1 and channels == stage.out_channels for channels, stride in stage.block_inputs())
        return replace(stage, skip=stage.skip and residual)

    space = SearchSpace(TWO_STAGES)
    combinations = list(itertools.product(*space.choices))
    built = {tuple(map(network, space.build(encoding, "").stages)) for encoding in combinations}
    assert space.size == len(built) < len(combinations)
    canonical = [encoding for encoding in combinations if not any(space.idle_stages(encoding))]
    assert len(canonical) == len(built)
    assert SearchSpace(TWO_STAGES, most=1).size == space.size


def test_size_is_exact_for_b0():
    assert SearchSpace(B0).size == 5_164_081_064_755_200


def test_a_mutation_changes_one_thing():
    space = SearchSpace(SMALL)
    generator = np.random.default_rng(0)
    for _ in range(100):
        before = space.random(generator)
        after = space.mutate(before, generator)
        assert space.read(write(after)) == after
        changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
        assert len(changed) == 1
        names = {name for name in ATTRIBUTES if getattr(changed[0][0], name) != getattr(changed[0][1], name)}
        assert len(names) == 1 or "operator" in names <= {"operator", "expansion", "squeeze_ratio"}


def test_draws_depend_on_the_generator_alone():
    space = SearchSpace(SMALL)
    assert list(drawn(space, 5)) == list(drawn(SearchSpace(SMALL), 5)) != list(drawn(space, 5, seed=1))


def test_json_round_trip():
    space = SearchSpace(SMALL)
    for encoding in drawn(space, 20):
        for sort_keys in (False, True):
            assert space.read(json.loads(json.dumps(write(encoding), sort_keys=sort_keys))) == encoding


def changed(**values):
    """The two-stage baseline as JSON, with other values in the second stage."""
    rows = write(SearchSpace(TWO_STAGES).encode(TWO_STAGES))
    return [rows[0], rows[1] | values]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "list of 2 stages"),
        ({}, "list of 2 stages"),
        (changed()[:1], "list of 2 stages"),
        ([changed()[0], None], "stage 2"),
        ([[], changed()[1]], "stage 1"),
        (changed(operator="conv"), "stage 2"),
        (changed(operator="plain"), "stage 2"),  # with an expansion and squeeze-excitation
        (changed(kernel_size=4), "stage 2"),
        (changed(expansion=6.0), "stage 2"),
        (changed(layers=True), "stage 2"),
        (changed(layers=3), "stage 2"),
        (changed(out_channels=8), "stage 2"),
        (changed(stride=2), "stage 2"),
        (changed(skip=False), "stage 2 is without a skip"),
    ],
)
def test_bad_json_is_refused_in_one_line(bad, words):
    with pytest.raises(ValueError, match=words) as caught:
        SearchSpace(TWO_STAGES).read(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "baseline",
    [
        BASELINES["resnet50"],
        replace(B0, stages=B0.stages[:-1]),
        replace(B0, stages=(*B0.stages[:3], replace(B0.stages[3], kernel_size=7), *B0.stages[4:])),
    ],
)
def test_other_baselines_are_refused(baseline):
    with pytest.raises(ValueError, match=r"conv stem|is not a choice"):
        SearchSpace(baseline)


def test_another_stem_is_not_in_the_space():
    with pytest.raises(ValueError, match="not in the search space of b0"):
        SearchSpace(B0).encode(replace(B0, stages=(replace(B0.stages[0], kernel_size=5), *B0.stages[1:])))


def cost(choice):
    return choice.layers, choice.expansion, choice.operator == "plain", choice.kernel_size, choice.squeeze_ratio


def test_limits_that_leave_no_network_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        SearchSpace(B0, most=0.99)
    space = SearchSpace(SMALL)
    least = [min(choices, key=cost) for choices in space.choices]
    smallest = SearchSpace(space.build(tuple(least), "smallest"), most=1)
    with pytest.raises(ValueError, match="raise most"):
        smallest.random(np.random.default_rng(0))


def test_a_network_of_the_space_runs():
    space = SearchSpace(SMALL)
    encoding = next(encoding for encoding in drawn(space, 20) if {c.operator for c in encoding} == {"mbconv", "plain"})
    found = space.build(encoding, "found")
    model = EfficientNet(found.stages, num_classes=10).eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert output.shape == (2, 10) and output.isfinite().all()
    assert sum(p.numel() for p in model.parameters()) == complexity(found.stages, 32, num_classes=10).parameters
