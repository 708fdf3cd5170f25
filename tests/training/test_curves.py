"""Training curves of any task."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from efficientnet.common.extras import MissingExtra
from efficientnet.training import curves
from efficientnet.training.curves import curves_png, panels

EPOCH = {"epoch": 1, "step": 10, "learning_rate": 1e-3, "train_loss": 0.5, "val_loss": 0.6, "seconds": 3.0}


def epochs(count: int, **scores) -> list[dict]:
    return [
        EPOCH | {"epoch": number + 1, **{name: of(number) for name, of in scores.items()}} for number in range(count)
    ]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_numbers_are_sorted_by_scale_and_bookkeeping_is_left_out():
    history = epochs(
        2, pf1=lambda _: 0.5, percent=lambda n: 40.0 + n, threshold=lambda _: 0.1, waiting_share=lambda _: 0
    )
    assert {panel.title: list(panel.lines) for panel in panels([history])} == {
        "loss": ["train_loss", "val_loss"],
        "scores": ["pf1"],
        "other scores": ["percent"],
        "learning rate": ["learning_rate"],
    }


def test_values_that_are_missing_or_not_finite_are_skipped():
    values = [None, 0.25, math.nan, 0.75, math.inf, "text"]
    (panel,) = [panel for panel in panels([epochs(6, auc=values.__getitem__)]) if panel.title == "scores"]
    assert panel.lines == {"auc": [([2, 4], [0.25, 0.75])]}


def test_a_name_without_a_value_has_no_line():
    history = epochs(3, auc=lambda _: None)
    assert [panel.title for panel in panels([history])] == ["loss", "learning rate"]


def test_runs_share_a_panel_and_may_have_different_names_and_lengths():
    one, other = epochs(2, auc=lambda _: 0.5), epochs(3)
    found = {panel.title: panel.lines for panel in panels([one, other])}
    assert found["loss"]["val_loss"] == [([1, 2], [0.6, 0.6]), ([1, 2, 3], [0.6, 0.6, 0.6])]
    assert found["scores"] == {"auc": [([1, 2], [0.5, 0.5])]}


@pytest.mark.parametrize("count", [1, 300])
def test_any_number_of_epochs_can_be_drawn(count):
    png = curves_png(epochs(count, auc=lambda number: number / count))
    height, width, _ = pixels(png).shape
    assert (height, width) == (320, 1200)
    assert len(np.unique(pixels(png).reshape(-1, 3), axis=0)) > 10


def test_the_values_alone_are_what_is_drawn():
    history = [{"epoch": number, "auc": 0.5} for number in range(3)]
    assert curves_png(history) == curves_png([epoch | {"seconds": 9.0} for epoch in history])
    assert curves_png(history) != curves_png([epoch | {"auc": 0.1 * epoch["epoch"]} for epoch in history])


@pytest.mark.parametrize("history", [[], [{"epoch": 1, "step": 3}]])
def test_without_values_there_is_no_picture(history):
    assert curves_png(history) is None


def test_without_matplotlib_there_is_no_picture(monkeypatch):
    def missing(*arguments):
        raise MissingExtra("not installed")

    monkeypatch.setattr(curves, "require", missing)
    assert curves_png(epochs(2)) is None
