"""The search in its folder, with made-up trainings: its history, kills, random search at equal cost, and its report."""

import io
import itertools
import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from efficientnet.baselines.files import read_baseline
from efficientnet.common.errors import UserError
from efficientnet.common.extras import MissingExtra
from efficientnet.studies import search as module
from efficientnet.studies import study
from efficientnet.studies.design import Data
from efficientnet.studies.search import EVOLUTION, RANDOM, Search, Settings
from efficientnet.studies.search_results import search_png, search_text
from efficientnet.training.runs import Machine

MACHINE = Machine(2, 1)
SETTINGS = Settings(
    Data("/photographs", (100,) * 3, 100),
    networks=20,
    population=8,
    sample=3,
    lag=4,
    final_epochs=1,
    images_per_class=50,
)


class Killed(BaseException):
    """Like a kill, this is caught by nothing."""


def made_up_trainings(monkeypatch, end_after=None, seed=0):
    """Let trainings end at once, in random order of those in flight, and kill the search after so many of them."""
    order, count = np.random.default_rng(seed), itertools.count(1)

    def train_runs(next_run, machine):
        running = []
        while True:
            while len(running) < machine.jobs and (run := next_run()) is not None:
                running.append(run)
            if not running:
                return
            run = running.pop(order.integers(len(running)))
            stages = read_baseline(run.folder.with_suffix(".json")).stages
            top1 = 0.3 + sum(0.02 * stage.skip + 0.01 * (stage.kernel_size == 5) for stage in stages)
            yield run, None if stages[1].operator == "plain" and not stages[1].skip else {"top1": top1}
            if next(count) == end_after:
                raise Killed

    monkeypatch.setattr(module, "train_runs", train_runs)
    monkeypatch.setattr(module, "find_parts", lambda root: {module.TRAIN: root / "train"})


def history_of(folder, monkeypatch, kills=(), seed=0):
    """The bytes of history.jsonl at the end, after kills at these numbers of trainings."""
    search = Search(folder, SETTINGS)
    search.begin()
    for kill in kills:
        made_up_trainings(monkeypatch, kill, seed)
        with pytest.raises(Killed):
            Search.read(folder).train(MACHINE)
    made_up_trainings(monkeypatch, seed=seed + 1)
    found = Search.read(folder).train(MACHINE)
    assert found == Search.read(folder).history()
    return (folder / "history.jsonl").read_bytes()


def test_killed_and_resumed_it_has_the_same_history(tmp_path, monkeypatch):
    whole = history_of(tmp_path / "whole", monkeypatch)
    for number, kills in enumerate([(1,), (7,), (19,), (20,), (25,), (3, 4, 5, 6)]):
        assert history_of(tmp_path / f"{number}", monkeypatch, kills, seed=10 * number) == whole, kills


def test_random_search_has_the_same_cost_and_the_same_first_networks(tmp_path, monkeypatch):
    history_of(tmp_path, monkeypatch)
    history = Search.read(tmp_path).history()
    evolved, random = ([each for each in history if each.search == name] for name in (EVOLUTION, RANDOM))
    assert [each.member.number for each in evolved] == list(range(20))
    assert [each.member.number for each in random] == list(range(len(random)))
    assert [each.member for each in random[:8]] == [each.member for each in evolved[:8]]
    spent = [sum(each.multiply_adds for each in each_search) for each_search in (evolved, random)]
    assert spent[0] <= spent[1] < spent[0] + random[-1].multiply_adds
    assert max(each.member.score for each in evolved) >= max(each.member.score for each in evolved[:8])
    assert any(each.top1 == 0 == each.member.score for each in history)  # a training that diverged


def test_its_report(tmp_path, monkeypatch):
    history_of(tmp_path, monkeypatch)
    search = Search.read(tmp_path)
    scored = search.history()

    def train_with_progress(estimates, machine):
        for number, run in enumerate(estimates):
            yield run, 0.4 + 0.2 * ("evolution" in run.name) + 0.001 * number % 0.004

    monkeypatch.setattr(study, "train_with_progress", train_with_progress)
    rows = search.train_finalists(scored, MACHINE, 0.01)
    text = search_text(search, scored, rows)
    assert "20 networks" in text and "better than random and start" in text
    best = max((each for each in scored if each.search == EVOLUTION), key=lambda each: each.member.score)
    stages = search.space.build(best.member.encoding, "").stages
    assert read_baseline(tmp_path / "found.json").stages == stages == rows[-1].network.baseline.stages
    try:
        with PIL.Image.open(io.BytesIO(search_png(search, scored))) as picture:
            assert min(picture.size) > 300
    except MissingExtra as error:
        pytest.skip(str(error))


def test_a_damaged_history_is_refused(tmp_path, monkeypatch):
    history_of(tmp_path, monkeypatch)
    search, path = Search.read(tmp_path), tmp_path / "history.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    for damage in ("{", "[]", json.dumps({**line, "objective": float("nan")}), json.dumps({**line, "stages": []})):
        path.write_text(damage)
        with pytest.raises(UserError, match=r"history\.jsonl: damaged"):
            search.history()


@pytest.mark.parametrize("hours", [1, 3, 10])
def test_it_fits_the_budget(hours, tmp_path):
    cifar = Settings(Data("/cifar", (5000,) * 10, 10_000), budget_hours=hours)
    search = Search(tmp_path, cifar).fitted(MACHINE, 0.004)
    assert 0.6 * hours < search.hours(MACHINE, 0.004) <= 1.05 * hours
    assert search.settings.images_per_class == 500 and search.settings.lag == 4 and search.folds == 10
    given = replace(cifar, networks=50, final_epochs=2)
    kept = Search(tmp_path, given).fitted(MACHINE, 0.004).settings
    assert (kept.networks, kept.final_epochs) == (50, 2)
    with pytest.raises(UserError, match="--budget-hours"):
        Search(tmp_path, replace(cifar, budget_hours=0.01)).fitted(MACHINE, 0.004)
