"""Tables, verdicts and plots of made-up results."""

import contextlib
import csv
import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from efficientnet.common.extras import MissingExtra
from efficientnet.studies.design import FIG8, STEP1, TABLE3, Data, Design
from efficientnet.studies.networks import COMPOUND
from efficientnet.studies.results import Trained, plot_png, results_csv, results_text

CIFAR = Data("/cifar", (5000,) * 10, 10_000)
DESIGNS = {
    FIG8: Design(FIG8, CIFAR, sizes=((0.35, 48),)),
    STEP1: Design(STEP1, CIFAR, sizes=((0.35, 48),), candidates=4),
    TABLE3: Design(TABLE3, CIFAR, sizes=((0.35, 48), (0.35, 48))),
}


def results(design, ahead, spread, seeds=3):
    """Top-1 of .4 with noise of this spread; compound scaling and the paper's choice are ahead by so much."""
    generator = np.random.default_rng(1)
    return [
        Trained(network, seed, 0.4 + ahead * network.is_papers + spread * generator.normal())
        for seed in range(seeds)
        for network in design.networks()
    ]


@pytest.mark.parametrize("study", DESIGNS)
def test_a_clear_lead_is_called_so_and_a_small_one_is_not(study):
    design = DESIGNS[study]
    clear = results_text(design, results(design, 0.1, 0.001))
    assert "is better than" in clear and "spread of the seeds" not in clear and "worse" not in clear
    assert "is worse than" in results_text(design, results(design, -0.1, 0.001))
    unclear = results_text(design, results(design, 0.001, 0.02))
    assert "within the spread of the seeds" in unclear and "is not distinguishable from" in unclear
    assert "better than" not in unclear and "worse than" not in unclear
    alone = results_text(design, results(design, 0.1, 0.001, seeds=1))
    assert "with one seed" in alone and "So " not in alone


def test_a_run_that_diverged_is_shown_and_not_tested():
    design = DESIGNS[FIG8]
    trained = results(design, 0.1, 0.001)
    deep = next(number for number, each in enumerate(trained) if each.network.way == "depth")
    trained[deep] = replace(trained[deep], top1=float("nan"))
    lines = results_text(design, trained).splitlines()
    assert "diverged" in next(line for line in lines if line.startswith("depth "))
    assert any("- depth" in line and "no test: a run diverged" in line for line in lines)
    assert "better than width and resolution" in lines[-1]
    with contextlib.suppress(MissingExtra):
        assert plot_png(design, trained)


def test_every_network_has_a_line_with_its_true_cost_beside_the_target():
    design = DESIGNS[FIG8]
    text = results_text(design, results(design, 0.01, 0.01))
    for network in design.networks():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{network.way} ") and "+-" in line)
        assert f"{network.counts.multiply_adds / 1e6:.2f} M" in line and network.flags in line
        assert network.way == "baseline" or f"{network.target / 1e6:.2f} M" in line


def test_step_1_is_ranked():
    design = DESIGNS[STEP1]
    lines = results_text(design, results(design, 0.1, 0.001)).splitlines()
    ranked = [line for line in lines if "+-" in line and ", " in line[:15]]
    assert ranked[0].startswith("1.2, 1.1, 1.15")
    assert [float(line.split("+-")[0].split()[-1]) for line in ranked] == sorted(
        (float(line.split("+-")[0].split()[-1]) for line in ranked), reverse=True
    )


def test_the_csv_has_every_run():
    design = DESIGNS[FIG8]
    trained = results(design, 0.01, 0.01)
    rows = list(csv.DictReader(io.StringIO(results_csv(trained).decode())))
    assert len(rows) == len(trained) == 15
    assert [float(row["top1"]) for row in rows] == pytest.approx([each.top1 for each in trained], abs=1e-6)
    assert {row["network"] for row in rows} >= {"baseline", COMPOUND}


@pytest.mark.parametrize("study", DESIGNS)
def test_the_plot_is_a_picture(study):
    try:
        data = plot_png(DESIGNS[study], results(DESIGNS[study], 0.01, 0.01))
    except MissingExtra as error:
        pytest.skip(str(error))
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert min(picture.size) > 300 and len(np.unique(np.asarray(picture.convert("L")))) > 50
