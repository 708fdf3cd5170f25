"""Several runs of train.py at a time, each in a process of its own."""

import functools

import pytest
from tiny_photographs import write_photographs
from tiny_runs import SMALL

from efficientnet.common.errors import UserError
from efficientnet.training.runs import Machine, Run, train_runs

MACHINE = Machine(2, 1)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    data = write_photographs(tmp_path_factory.mktemp("photographs") / "photographs", train=4, validation=2)
    tiny = (*SMALL, "--image-size", 32, "--batch-size", 6, "--epochs", 1, "--workers", 0, "--data", data)
    return tuple(map(str, tiny))


def in_turn(runs):
    return functools.partial(next, iter(runs), None)


def test_runs_are_trained_once_and_a_failure_is_named_and_stops_the_others(flags, tmp_path):
    good = Run("good", tmp_path / "good", flags)
    ((run, metrics),) = train_runs(in_turn([good]), MACHINE)
    assert run == good and metrics == good.result() and metrics["epoch"] == 1 and "top1" in metrics
    assert "run folder" in good.log.read_text() or str(good.folder) in good.log.read_text()
    time = (good.folder / "last.pt").stat().st_mtime_ns

    bad = Run("bad, seed 1", tmp_path / "bad", (*flags, "--fold", "3"))
    endless = Run("endless", tmp_path / "endless", (*flags, "--epochs", "100000"))
    found = []
    with pytest.raises(UserError, match=r"bad, seed 1: .*--fold.*exit code 1.*bad\.log"):
        for run, _ in train_runs(in_turn([good, endless, bad]), MACHINE):
            found.append(run)
    assert found == [good] and (good.folder / "last.pt").stat().st_mtime_ns == time
    assert endless.result() is None
    assert "everything is saved" in endless.log.read_text() or not (endless.folder / "metrics.jsonl").exists()


def test_no_more_runs_start_while_there_is_none_to_start(flags, tmp_path):
    """A search proposes its next network only when another one has ended."""
    runs = [Run(f"{number}", tmp_path / f"{number}", flags) for number in range(2)]
    ended, waiting = [], list(runs)

    def next_run():
        return waiting.pop(0) if waiting and len(ended) == 2 - len(waiting) else None

    for run, _ in train_runs(next_run, MACHINE):
        ended.append(run)
    assert ended == runs
