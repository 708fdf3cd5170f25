"""The ablation's arithmetic, and its runs with a budget of seconds."""

import pytest
from commands import run
from tiny_runs import SMALL

from efficientnet.mammography.ablation import __main__ as ablation


def test_the_table_pairs_the_seeds():
    line = {"auc": 0.9, "pf1": 0.5, "pf1_best": 0.8, "pf1_calibrated": 0.6}
    results = {
        ablation.BASE: [line, {**line, "auc": 0.7}],
        "max pooling": [{**line, "auc": 0.95}, {**line, "auc": 0.75}],
    }
    rows = ablation.table(results).splitlines()
    assert "0.800" in rows[1] and "+0.050 (+0.05 to +0.05)" in rows[2]
    assert len({len(row) for row in rows}) == 1


@pytest.mark.nightly
def test_runs_are_trained_once_and_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = (*map(str, SMALL), "--recipe", "demo", "--batch-size", "30", "--epochs", "1", "--workers", "0")
    monkeypatch.setattr(ablation, "BUDGET", tiny)
    monkeypatch.setattr(ablation, "SIZE", ("--image-size", "32"))
    monkeypatch.setattr(ablation, "DEMO_PATIENTS", 12)
    arguments = ("--output", "ablation", "--seeds", 1, "--only", "max pooling", "soft-F1 loss")
    before = None
    for _ in range(2):
        process = run("efficientnet.mammography.ablation", *arguments)
        assert process.returncode == 0, process.stderr
        assert [line.split("  ")[0] for line in process.stdout.splitlines()[2:]] == [
            *("unchanged", "max pooling", "soft-F1 loss")
        ]
        times = sorted(path.stat().st_mtime_ns for path in (tmp_path / "ablation").glob("*/last.pt"))
        assert len(times) == 3 and times == (before or times)
        before = times
