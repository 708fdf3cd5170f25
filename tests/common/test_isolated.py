"""Processes that may die: an input that kills its process fails alone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from isolated_functions import act

from efficientnet.common import isolated
from efficientnet.common.errors import UserError
from efficientnet.common.isolated import Failure, run_isolated

HERE = Path(__file__).parents[1]


def outcome(deeds: list[str], workers: int = 2, seconds: float = 20, memory: float = 1) -> dict[str, object]:
    return dict(run_isolated(act, deeds, workers, seconds, memory))


def test_a_process_that_dies_or_hangs_costs_its_input_and_no_other(capfd):
    deaths = ["crash", "exit 3", "killed", "sleep 60", "raise not a number", "memory 3000", "say something"]
    squares = [f"square {number}" for number in range(40)]
    found = outcome([*squares[:20], *deaths, *squares[20:]], seconds=4)
    assert {deed: found[deed] for deed in squares} == {deed: int(deed.split()[1]) ** 2 for deed in squares}
    for deed, words in {
        "crash": "native code (SIGSEGV)",
        "exit 3": "exit code 3",
        "killed": "memory ran out",
        "sleep 60": "longer than 4 seconds",
        "raise not a number": "ValueError: not a number",
    }.items():
        assert words in found[deed].reason, found[deed]
    if sys.platform == "linux":
        assert "1 GiB" in found["memory 3000"].reason
    assert capfd.readouterr() == ("", "")  # not even from native code


def test_a_process_is_used_again_and_no_more_are_started_than_there_are_inputs():
    assert len(set(dict(enumerate(r for _, r in run_isolated(act, ["pid"] * 8, 1, 20, 1))).values())) == 1
    assert outcome(["square 3"], workers=50) == {"square 3": 9}
    assert outcome([]) == {}


def test_inputs_are_taken_when_a_process_is_free():
    taken = []

    def inputs():
        for number in range(10):
            taken.append(number)
            yield f"square {number}"

    for done, _ in enumerate(run_isolated(act, inputs(), 2, 20, 1), start=1):
        assert len(taken) <= done + 2


def test_all_processes_end_with_the_iterator():
    results = run_isolated(act, ["pid", *["sleep 60"] * 2], 1, 100, 1)
    _, pid = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_all_processes_end_when_theirs_is_killed(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); sys.path.insert(0, {str(HERE.parent)!r})\n"
        "from isolated_functions import act\nfrom efficientnet.common.isolated import run_isolated\n"
        "if __name__ == '__main__':\n"
        "    for _, pid in run_isolated(act, ['pid', 'pid', 'sleep 2', 'sleep 2'], 2, 100, 1): print(pid, flush=True)\n"
    )
    (tmp_path / "program.py").write_text(program)
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True)
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    parent.stdout.close()


class CannotBeLoaded:
    def __reduce__(self):
        return exec, ("raise SystemExit(9)",)

    def __call__(self, deed):
        raise AssertionError


def test_processes_that_cannot_start_are_told_and_not_tried_forever():
    with pytest.raises(UserError, match=r"could not start.*exit code"):
        list(run_isolated(CannotBeLoaded(), ["square 1"], 1, 5, 1))


def test_a_failure_is_no_result():
    assert outcome(["raise x"]) == {"raise x": Failure("ValueError: x")}


def test_a_process_that_is_slow_to_start_is_not_blamed_on_its_input(monkeypatch):
    monkeypatch.setattr(isolated, "START_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"could not start.*0\.01 seconds"):
        list(run_isolated(act, ["square 1"], 1, 50, 1))
