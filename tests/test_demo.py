"""The first command of the README keeps its promise: held-out phantoms scored above every constant."""

import re
import subprocess
import sys

import pytest
from commands import ROOT


# The gate runs one epoch of the first seed; the others are the README's table, with the breasts with cancer of each.
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("seed", "cancers", "more"),
    [(0, 25, ["--epochs", "1"]), (0, 25, []), (1, 26, []), (2, 27, [])],
    ids=["one epoch", "seed 0", "seed 1", "seed 2"],
)
def test_the_demo_beats_the_best_constant_prediction(tmp_path, seed, cancers, more):
    """Three to six minutes on two cores, half of it for one epoch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.run(
        [*command, str(ROOT / "train.py"), "--variant", "b3", "--seed", str(seed), *more],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2400,
    )
    assert process.returncode == 0, process.stderr
    found = re.search(
        rf"Probabilistic F1 (\S+) \(95 % interval (\S+) to (\S+)\) on 100 held-out breasts, {cancers} with cancer; "
        r"the best constant prediction gets (\S+)\.\n",
        process.stdout,
    )
    assert found, process.stdout
    pf1, low, high, constant = map(float, found.groups())
    assert constant == pytest.approx(2 * cancers / (100 + cancers), abs=1e-3)
    assert constant < low < pf1 < high
    assert "run folder  runs/b3-1" in process.stdout and "evaluate.py --checkpoint runs/b3-1/best.pt" in process.stdout
    assert (tmp_path / "runs" / "b3-1" / "best.pt").exists()
