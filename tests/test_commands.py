"""Each command as people start it: a process of its own, from another folder, that ends with the right exit code."""

import contextlib
import io
import os
import shutil
import sys
import threading

import pytest
import torch
from commands import ROOT, assert_one_line_error, launch, run
from tiny_runs import RECIPE, SMALL

import evaluate
import scale
import train
from efficientnet.common.command_line import command


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


def called(main, arguments, output):
    """The exit code of a command whose standard output is this stream."""
    with contextlib.redirect_stdout(output):
        return main([str(argument) for argument in arguments])


@contextlib.contextmanager
def without_reader():
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:
        yield output


def test_a_reader_that_leaves_ends_neither_a_long_work_nor_a_listing(tiny_data, tmp_path, capsys):
    arguments = (*RECIPE, "--data", tiny_data, "--output", tmp_path / "r", "--workers", 0)
    with without_reader() as output:
        assert called(train.main, arguments, output) == 0
    assert torch.load(tmp_path / "r" / "last.pt", weights_only=True)["epoch"] == 3
    arguments = ("--checkpoint", tmp_path / "r" / "best.pt", "--output", tmp_path / "e", "--workers", 0)
    with without_reader() as output:
        assert called(evaluate.main, arguments, output) == 0
    assert (tmp_path / "e" / "metrics.json").exists()
    with without_reader() as output:
        assert called(scale.main, ("--table",), output) == 0
    assert capsys.readouterr().err == ""


def test_a_connection_of_its_own_that_breaks_is_a_failure_of_a_command(capsys):
    @command("x.py")
    def main(argv):
        raise BrokenPipeError(32, "Broken pipe")

    assert main([]) == 1
    assert "x.py: error: " in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a disk that is always full")
def test_output_that_found_no_place_is_told_at_the_end(capsys):
    with open("/dev/full", "w") as output:
        assert called(scale.main, ("--table",), output) == 1
    assert capsys.readouterr().err == "scale.py: error: cannot write output: No space left on device\n"


class Notebook(io.TextIOBase):
    """ipykernel's standard output has no `reconfigure`."""

    def write(self, text):
        return len(text)


def test_it_trains_in_a_thread_of_a_notebook(tiny_data, tmp_path, capsys):
    arguments = (*RECIPE, "--epochs", 1, "--data", tiny_data, "--output", tmp_path / "r", "--workers", 1)
    codes = []
    thread = threading.Thread(target=lambda: codes.append(called(train.main, arguments, Notebook())))
    thread.start()
    thread.join()
    assert codes == [0], capsys.readouterr().err


def test_a_failure_in_a_thread_is_one_line_too(tiny_data, tmp_path, capsys):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    for file in (data / "train_images").rglob("*.png"):
        file.write_bytes(b"broken")
    arguments = (*RECIPE, "--strict", "--data", data, "--output", tmp_path / "r", "--workers", 1)
    thread = threading.Thread(target=lambda: called(train.main, arguments, Notebook()))
    thread.start()
    thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: error: ") and ".png" in line


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_was_closed_before_the_start_is_not_missed(name, monkeypatch):
    monkeypatch.setattr(sys, name, None)
    assert scale.main(["--table"]) == 0
    assert scale.main(["--phi", "-1"]) == 2


def test_names_that_the_output_cannot_encode_are_written_as_escapes(tiny_data, tmp_path):
    """The bytes of a file's name need not be UTF-8, and the encoding of the output may be ASCII."""
    data = tmp_path / os.fsdecode(b"M\xfcnchen ") / "\u00e4"
    try:
        shutil.copytree(tiny_data, data)
    except OSError:
        pytest.skip("this system has names in UTF-8 only")
    next((data / "train_images").rglob("*.png")).write_bytes(b"broken")
    folder = tmp_path / "\u00e4"
    trained = (*RECIPE, "--epochs", 1, "--data", data, "--output", folder, "--workers", 0)
    evaluated = ("--checkpoint", folder / "best.pt", "--output", folder / "e", "--workers", 0)
    for main, arguments in ((train.main, trained), (evaluate.main, evaluated)):
        output = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
        assert called(main, arguments, output) == 0
        assert "M\\udcfcnchen" in output.buffer.getvalue().decode()
    assert b"M\xfcnchen" in (folder / "unreadable.txt").read_bytes()
