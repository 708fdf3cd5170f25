"""Baselines in JSON files, and the commands that take them."""

import json
import shlex
from dataclasses import replace

import pytest
from commands import assert_one_line_error, run
from tiny_photographs import write_photographs
from tiny_runs import SMALL

from efficientnet import B0, BASELINES, create_model
from efficientnet.architecture import add_arguments, chosen_architecture, chosen_way
from efficientnet.baselines.files import read_baseline, write_baseline
from efficientnet.common.command_line import Parser


@pytest.fixture
def mine(tmp_path):
    """What scale.py prints for a small network, in a file."""
    printed = run("scale.py", *SMALL, "--json").stdout
    (tmp_path / "my net.json").write_text(printed)
    return tmp_path / "my net.json"


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
def test_a_written_baseline_reads_back(baseline, tmp_path):
    write_baseline(tmp_path / "copy.json", baseline)
    found = read_baseline(tmp_path / "copy.json")
    assert (found.stages, found.image_size, found.title) == (baseline.stages, baseline.image_size, baseline.title)
    assert (found.name, found.file) == ("copy", str(tmp_path / "copy.json"))


def test_scale_prints_and_reads_the_same_file(mine):
    again = json.loads(run("scale.py", "--baseline", mine, "--json").stdout)
    first = json.loads(mine.read_text())
    assert again["stages"] == first["stages"] and again["multiply_adds"] == first["multiply_adds"]
    scaled = run("scale.py", "--baseline", mine, "--phi", 2)
    assert scaled.returncode == 0 and scaled.stdout.startswith("my net at phi 2\n")
    flags = next(line for line in scaled.stdout.splitlines() if line.startswith("to train it")).partition("train.py ")[
        2
    ]
    assert shlex.split(flags) == ["--baseline", str(mine), "--phi", "2"]


@pytest.mark.parametrize("flags", [(), ("--phi", 1.5, "--gamma", 1.2), ("--depth", 2.25, "--resolution", 1 / 3)])
def test_the_flags_of_an_architecture_give_it_again(flags, mine):
    def architecture(words):
        parser = Parser()
        add_arguments(parser, "")
        arguments = parser.parse_args([str(word) for word in words])
        return chosen_architecture(arguments, chosen_way(arguments))

    first = architecture(("--baseline", mine, *flags))
    assert architecture(shlex.split(first.flags)) == first
    assert first.slug.startswith("my-net") and first.title.startswith("my net")


def test_searches_and_budgets_take_it_and_the_plot_and_tables_do_not(mine, tmp_path):
    whole = json.loads(run("scale.py", "--baseline", mine, "--json").stdout)
    most = 3 * whole["multiply_adds"]
    found = json.loads(run("scale.py", "--baseline", mine, "--budget", most, "--json").stdout)
    assert whole["multiply_adds"] < found["multiply_adds"] <= most
    rows = json.loads(run("scale.py", "--baseline", mine, "--search", "--step", 0.2, "--json").stdout)["rows"]
    assert rows and all(row["name"].startswith("my-net at phi 1") for row in rows)
    assert_one_line_error(run("scale.py", "--baseline", mine, "--table"), 2, "does not apply to --table")
    pytest.importorskip("matplotlib")
    refused = run("scale.py", "--baseline", mine, "--plot", tmp_path / "x.png")
    assert_one_line_error(refused, 2, "none for", str(mine), "b0, mobilenet_v1")
    assert not (tmp_path / "x.png").exists()


def test_stages_of_a_search_are_printed_as_what_they_are(tmp_path):
    plain = {"operator": "plain", "expansion": 1, "squeeze_ratio": 0}
    changes = {1: {"skip": False, "squeeze_ratio": 0}, 2: plain, 3: {**plain, "skip": False}}
    stages = tuple(replace(stage, **changes.get(place, {})) for place, stage in enumerate(B0.stages))
    write_baseline(tmp_path / "found.json", replace(B0, stages=stages, title="Found"))
    lines = run("scale.py", "--baseline", tmp_path / "found.json").stdout.splitlines()
    assert lines[0] == "Found at phi 0"
    rows = [line for line in lines if line[:5].strip().isdigit()]
    for row, label in zip(rows[1:4], ("MBConv1, k3x3, no SE, no skip", "Conv3x3", "Conv5x5, no skip"), strict=True):
        assert row[7:].startswith(f"{label}  ")
    assert len({len(row) for row in rows}) == 1
    assert read_baseline(tmp_path / "found.json").stages == stages


def test_it_is_trained_scaled_resumed_evaluated_and_loaded(mine, tmp_path):
    data, output = write_photographs(tmp_path / "photos"), tmp_path / "run"
    arguments = ("--baseline", mine, "--width", 1.5, "--data", data, "--image-size", 32, "--batch-size", 8)
    common = (*arguments, "--workers", 0, "--output", output, "--resume", "auto")
    for epochs in (1, 2):
        process = run("train.py", *common, "--epochs", epochs)
        assert process.returncode == 0, process.stderr
    expected = json.loads(run("scale.py", "--baseline", mine, "--width", 1.5, "--json").stdout)["stages"]
    model = create_model(output)
    assert [stage.out_channels for stage in model.stages] == [stage["out_channels"] for stage in expected]
    score = run("evaluate.py", "--checkpoint", output / "best.pt", "--data", data)
    assert score.returncode == 0 and "12 images" in score.stdout, score.stderr
    refused = run("train.py", "--baseline", mine, "--data", data, "--output", output, "--resume", "auto")
    assert_one_line_error(refused, 2, f"--baseline '{mine}'", "must keep its architecture")


def bad_files():
    good = {"image_size": 224, "stages": [vars(stage) for stage in B0.stages]}
    stages = good["stages"]

    def changed(place, **changes):
        return {**good, "stages": [{**stage, **changes} if stage is stages[place] else stage for stage in stages]}

    yield "not JSON", "[1", "Expecting"
    yield "not text", "\ud800", "decode"
    yield "nested deeply", "[" * 100_000, "recursion"
    yield "a megabyte", " " * 1_000_001, "more than a megabyte"
    yield "a list", [], "scale.py --json"
    yield "stages that are no list", {**good, "stages": {"conv": 1}}, "'stages'"
    yield "stages that are words", {**good, "stages": ["operator"]}, "stage 1 must have operator, kernel_size"
    yield "no size", {"stages": stages}, "'image_size'"
    yield "too small", {**good, "image_size": 16}, "at least 32"
    yield "too large", {**good, "image_size": 10**400}, "at most 1,000,000"
    yield "beyond a float", changed(8, out_channels=10**400), "stage 9 has a number above"
    yield "too deep", changed(3, layers=10**6), "at most 10,000 layers"
    yield "an even kernel", changed(2, kernel_size=4), "stage 3 must have an odd kernel_size"
    yield "a stride of 3", changed(2, stride=3), "a stride of 1 or 2"
    yield "two stems", changed(0, layers=2), "stage 1, conv, must have 1 layer"
    yield "a bottleneck without channels", changed(1, operator="bottleneck", expansion=64), "expansion above"
    yield "a head without a residual", changed(8, skip=False), "not for head"
    yield "no blocks", {**good, "stages": [stages[0], {**stages[-1], "in_channels": 32}]}, "one stage of blocks"
    yield "no head", {**good, "stages": stages[:-1]}, "a head"
    yield (
        "channels that do not fit",
        {**good, "stages": [stages[0], stages[2], stages[-1]]},
        "stage 2 takes 16 channels",
    )
    yield (
        "a stem within",
        {**good, "stages": [stages[0], {**stages[0], "in_channels": 32}, *stages[1:]]},
        "cannot be 'conv'",
    )
    yield "an operator that does not exist", {**good, "stages": [{**stages[0], "operator": "x"}]}, "'x'"
    yield "a skip that is no answer", {**good, "stages": [{**stages[0], "skip": 1}]}, "skip must be true or false"
    yield "a title of two lines", {**good, "title": "a\nb"}, "one line"
    yield "an empty title", {**good, "title": " "}, "one line"


@pytest.mark.parametrize(("content", "word"), [case[1:] for case in bad_files()], ids=[case[0] for case in bad_files()])
def test_damaged_files_are_refused_in_one_line(content, word, tmp_path):
    path = tmp_path / "mine.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_one_line_error(run("scale.py", "--baseline", path), 2, str(path), word)


def test_missing_files_and_known_names_are_refused(tmp_path):
    assert_one_line_error(run("scale.py", "--baseline", tmp_path / "no.json"), 2, "no.json", "No such file")
    for name in ("b3.json", "EfficientNet-B0.json", "ResNet-50.json", "lite0.JSON"):
        write_baseline(tmp_path / name, B0)
        assert_one_line_error(run("train.py", "--baseline", tmp_path / name), 2, name, "rename the file")
