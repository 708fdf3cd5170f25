"""The networks of the studies: their costs match, and they are what train.py builds from their flags."""

import argparse
import math

import pytest

from efficientnet.architecture import add_arguments, chosen_architecture, chosen_way
from efficientnet.baselines.files import write_baseline
from efficientnet.baselines.stages import MOBILENET_V2, RESNET_50
from efficientnet.complexity import complexity
from efficientnet.scaling import B0, scale
from efficientnet.studies.networks import (
    COMPOUND,
    LEAST_PHI,
    LEEWAY,
    SIZES,
    WAYS,
    matched_networks,
    small_baseline,
    step1_networks,
    unscaled_network,
)

FULL = (B0, MOBILENET_V2, RESNET_50)


def possible(full, growth):
    """The sizes at which the baseline can be scaled so."""
    for size in SIZES[:4]:
        try:
            yield size, matched_networks(small_baseline(full, *size), growth, 10)
        except ValueError as error:
            assert full.title in str(error)


@pytest.mark.parametrize(("full", "growth"), [(B0, 4), (MOBILENET_V2, 4), (RESNET_50, 4), (B0, 3)])
def test_costs_match_within_5_per_cent(full, growth):
    found = dict(possible(full, growth))
    assert len(found) >= 2
    for size, networks in found.items():
        assert [network.way for network in networks] == list(WAYS)
        unscaled = unscaled_network(small_baseline(full, *size), 10).counts.multiply_adds
        for network in networks:
            assert network.counts.multiply_adds == pytest.approx(network.target, rel=0.05)
            assert abs(math.log(network.target / unscaled / growth)) <= math.log(1 + LEEWAY)
            assert network.growth == growth
        phi = networks[-1].coefficients.phi
        assert networks[-1].way == COMPOUND and phi >= LEAST_PHI * math.log2(networks[-1].target / unscaled) * 0.9


def test_one_dimension_alone_changes_nothing_else():
    baseline = small_baseline(B0, *SIZES[0])
    depth, width, resolution, compound = matched_networks(baseline, 4, 10)
    plain = unscaled_network(baseline, 10)
    assert depth.layers > plain.layers == width.layers == resolution.layers < compound.layers
    assert resolution.image_size > plain.image_size == depth.image_size == width.image_size < compound.image_size
    assert resolution.counts.parameters == plain.counts.parameters < compound.counts.parameters


def test_flags_and_file_build_the_network(tmp_path):
    for full in FULL:
        (size, networks), *_ = possible(full, 4)
        file = tmp_path / f"{full.name}-small.json"
        write_baseline(file, small_baseline(full, *size))
        for network in networks:
            parser = argparse.ArgumentParser()
            add_arguments(parser, "")
            arguments = parser.parse_args(["--baseline", str(file), *network.flags.split()])
            built = chosen_architecture(arguments, chosen_way(arguments))
            assert built.stages == scale(network.baseline, network.coefficients)
            assert built.image_size == network.image_size
            assert complexity(built.stages, built.image_size, 10) == network.counts


@pytest.mark.parametrize("size", SIZES[:2])
def test_candidates_of_step_1(size):
    networks = step1_networks(small_baseline(B0, *size), 6, 10)
    assert networks[0].is_papers and not any(network.is_papers for network in networks[1:])
    assert len(networks) == len({(network.layers, network.counts, network.image_size) for network in networks}) == 6
    for network in networks:
        assert network.counts.multiply_adds == pytest.approx(network.target, rel=0.05)


def test_a_growth_that_rounding_forbids_is_refused():
    with pytest.raises(ValueError, match="too little"):
        matched_networks(small_baseline(B0, 0.25, 32), 1.01, 10)
