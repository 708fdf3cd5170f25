"""The studies from end to end, on tiny images: trained, killed, resumed and reported."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
from commands import ROOT, assert_one_line_error, python, run
from tiny_photographs import write_photographs

from efficientnet.baselines.files import read_baseline
from efficientnet.scaling import mnasnet_objective
from efficientnet.studies.evolution import ready
from efficientnet.studies.search import EVOLUTION, RANDOM, Search

STUDIES = ("-m", "efficientnet.studies")
SMALL = ("--size", "0.35", "48", "--seeds", "1", "--jobs", "2")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs") / "photographs", train=10, validation=4)


def killed_at(beginning, *arguments):
    """Start the command and kill it, with SIGKILL, when it prints a line that begins so."""
    process = subprocess.Popen(
        [sys.executable, *STUDIES, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    if not any(line.startswith(beginning) for line in process.stdout):
        pytest.fail(process.stderr.read())
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, runs outlive a killed study and hold their folders")
def test_a_study_is_killed_resumed_and_reported(photographs, tmp_path):
    output = tmp_path / "study"
    arguments = ("step1", "--data", photographs, "--output", output, "--candidates", "2", "--epochs", "1", *SMALL)
    killed_at("[1/3]", *arguments)
    finished = {path: path.stat().st_mtime_ns for path in output.glob("runs/*/best.pt")}
    assert finished and not (output / "results.txt").exists()
    process = python(*STUDIES, *map(str, arguments), timeout=300)
    assert process.returncode == 0, process.stderr
    assert "finished already" in process.stdout
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    rows = list(csv.DictReader((output / "results.csv").open()))
    assert [row["network"] for row in rows[:2]] == ["baseline", "1.2, 1.1, 1.15"] and len(rows) == 3
    for row in rows:
        (found,) = output.glob(f"runs/{row['baseline']}-{row['network'].replace(', ', '-')}*-0/metrics.jsonl")
        assert json.loads(found.read_text())["top1"] == pytest.approx(float(row["top1"]), abs=1e-6)
    text = (output / "results.txt").read_text()
    assert text.strip() in process.stdout and "the paper's choice - " in text
    assert (output / "results.png").stat().st_size > 1000

    again = run("efficientnet.studies", *arguments, "--dry-run")
    assert "3 runs (3 networks, 1 seed), 2 runs at a time, 1 thread each" in again.stdout
    refused = run("efficientnet.studies", *arguments, "--epochs", 3)
    assert_one_line_error(refused, 2, "--epochs", "begun with 1, not 3", "--output")
    other = run("efficientnet.studies", "search", *arguments[1:5], *SMALL)
    assert_one_line_error(other, 2, "already contains other files")


@pytest.mark.nightly  # test_search.py has a sample, with trainings that are made up
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, runs outlive a killed search and hold their folders")
def test_a_search_is_killed_and_goes_on_as_if_it_had_not_been(photographs, tmp_path):
    """Every network of the history is the one that the search proposes after those before it."""
    output = tmp_path / "search"
    arguments = ("search", "--data", photographs, "--output", output, *SMALL, "--networks", 6, "--population", 4)
    arguments = (*arguments, "--sample", 1, "--final-epochs", 1)
    killed_at("[3/6]", *arguments)
    search = Search.read(output)
    before = search.history()
    assert 2 <= len(before) <= 5
    process = python(*STUDIES, *map(str, arguments), timeout=300)
    assert process.returncode == 0, process.stderr

    history = search.history()
    assert all(each in history for each in before)
    evolved = {each.member.number: each.member for each in history if each.search == EVOLUTION}
    assert sorted(evolved) == list(range(6))

    def propose(earlier, number):
        return search.propose(EVOLUTION, earlier, number)

    for number, member in evolved.items():
        finished = {earlier: evolved[earlier] for earlier in range(number)}
        assert ready(propose, finished, (), search.settings.lag, 6)[number] == member.encoding
    for each in history:
        cost = search.space.multiply_adds(search.space.build(each.member.encoding, ""))
        assert cost == each.multiply_adds
        assert each.member.score == pytest.approx(mnasnet_objective(each.top1, cost, search.target))
    spent = {name: sum(each.multiply_adds for each in history if each.search == name) for name in (EVOLUTION, RANDOM)}
    last = max(each.multiply_adds for each in history if each.search == RANDOM)
    assert spent[EVOLUTION] <= spent[RANDOM] < spent[EVOLUTION] + last
    assert not (output / "networks").exists()

    best = max(evolved.values(), key=lambda member: member.score)
    assert read_baseline(output / "found.json").stages == search.space.build(best.encoding, "").stages
    scaled = run("scale.py", "--baseline", output / "found.json", "--phi", 1)
    assert scaled.returncode == 0 and "to train it: " in scaled.stdout
    assert "objective, evolution - random" in process.stdout and (output / "results.png").stat().st_size > 1000


@pytest.mark.nightly
def test_a_dry_run_writes_nothing(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process = run("efficientnet.studies", "fig8", "--data", photographs, *SMALL, "--dry-run", "--growth", 3)
    assert process.returncode == 0, process.stderr
    assert "5 runs (5 networks, 1 seed), 2 runs at a time, 1 thread each" in process.stdout
    assert "compound" in process.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fig8"], 2, ["--data is missing"]),
        (["search"], 2, ["--data is missing"]),
        (["fig8", "--data", "nowhere"], 1, ["nowhere"]),
        (["fig9"], 2, ["fig9"]),
        (["search", "--data", "DATA", "--population", 4, "--sample", 9], 2, ["--sample 9", "population of 4"]),
        (["search", "--data", "WHOLE"], 2, ["a search needs a train/ folder"]),
        (["fig8", "--data", "DATA", "--size", 0.5, 48.5], 2, ["--size", "whole number"]),
        (["fig8", "--data", "DATA", "--growth", 4, "--size", 0.25, 64], 2, ["4 times"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(arguments, code, words, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"DATA": photographs, "WHOLE": photographs / "train"}
    arguments = [places.get(argument, argument) for argument in arguments]
    assert_one_line_error(run("efficientnet.studies", *arguments), code, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "{}", '{"design": {}, "seconds": []}'])
def test_a_damaged_study_is_refused(content, tmp_path):
    (tmp_path / "study.json").write_text(content)
    assert_one_line_error(run("efficientnet.studies", "fig8", "--output", tmp_path), 1, "study.json: damaged")
    (tmp_path / "search.json").write_text(content)
    assert_one_line_error(run("efficientnet.studies", "search", "--output", tmp_path), 1, "search.json: damaged")
