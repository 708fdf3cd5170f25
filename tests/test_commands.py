"""Each command as people start it: a process of its own, from another folder, that ends with the right exit code."""

import sys

import pytest
from commands import ROOT, assert_one_line_error, launch, run
from tiny_runs import SMALL


@pytest.fixture(scope="module")
def checkpoint(tiny_data, tmp_path_factory):
    output = tmp_path_factory.mktemp("commands") / "run"
    arguments = ("--image-size", 32, "--batch-size", 4, "--epochs", 1, "--data", tiny_data, "--output", output)
    assert run("train.py", *SMALL, *arguments).returncode == 0
    return output / "best.pt"


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("scale.py", ("--phi", 3), "16,350,296"),
        ("evaluate.py", ("--checkpoint", "CHECKPOINT"), "Probabilistic F1"),
        ("efficientnet.weights", ("info", "CHECKPOINT"), "b0 with depth 0.5, width 0.2 (ours)"),
        ("efficientnet.export", ("--help",), "--onnx FILE.onnx"),
        ("efficientnet.benchmark", ("--checkpoint", "CHECKPOINT"), "fast path, fp32"),
        ("efficientnet.mammography.prepare", ("--data", "DATA", "--check"), "48 images of 12 patients"),
        ("efficientnet.mammography.phantom", ("--output", "set", "--patients", 1, "--size", 160, 128), "written"),
    ],
)
def test_it_works_from_anywhere(command, arguments, words, checkpoint, tiny_data, tmp_path):
    named = {"CHECKPOINT": checkpoint, "DATA": tiny_data}
    start = [str(ROOT / command)] if command.endswith(".py") else ["-m", command]
    process = launch([sys.executable, *start, *(str(named.get(a, a)) for a in arguments)], 120, folder=tmp_path)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    assert words in " ".join(process.stdout.split())


def test_usage_errors_and_failures_have_exit_codes_of_their_own(tmp_path):
    (tmp_path / "file").touch()
    plot = ["scale.py", "--plot", str(tmp_path / "file" / "x.png")]
    absent = ["-m", "efficientnet.weights", "info", str(tmp_path / "absent.pth")]
    for arguments, code, word in (
        (["scale.py", "--phi", "-1"], 2, "phi"),
        (plot, 2, str(tmp_path / "file")),
        (absent, 1, "absent.pth"),
    ):
        assert_one_line_error(launch([sys.executable, *arguments], 60), code, word)
