"""The benchmark measures ours with and without peers, and its failures are one line."""

import importlib.util
import itertools
import json
import re
import sys
from types import ModuleType

import pytest
import torch
from commands import assert_one_line_error, python, run
from tiny_photographs import write_photographs
from tiny_runs import SMALL

from efficientnet.benchmark import compare as benchmark
from efficientnet.benchmark import scaling as benchmark_scaling
from efficientnet.benchmark import worker as benchmark_worker
from efficientnet.benchmark.compare import Contestant, counts_of, installed_peers, row, run_task, table, worth_measuring
from efficientnet.benchmark.reading import measure_reading
from efficientnet.benchmark.worker import FAST, PEERS, PLAIN, Task, measure, seconds_of, training_step
from efficientnet.common.errors import UserError

QUICK = ("efficientnet.benchmark", "--batch-size", 2, "--image-size", 32, "--rounds", 1, "--seconds", 0.05)
MACHINE = {"fp32": 50.0, "bf16": 100.0, "memory": 10.0}


def test_without_peers_the_network_as_written_is_the_reference(tmp_path):
    process = run(*QUICK, "--peers", "", "--engines", "", "--json", tmp_path / "speed.json")
    assert process.returncode == 0, process.stderr
    assert re.search(r"torch \S+; ceilings: matrix product fp32 \d+, bf16 \d+ billion multiply-adds", process.stdout)
    result = json.loads((tmp_path / "speed.json").read_text())
    labels = [entry["label"] for entry in result["rows"]]
    precisions = worth_measuring(result["task"]["device"], result["machine"])
    assert labels == [*(f"ours, fast path, {precision}" for precision in precisions), "ours, as written, fp32"]
    assert result["reference"] == labels[-1]
    for entry in result["rows"]:
        assert entry["seconds"] > 0 and entry["peak_memory_mebibytes"] > 50
        assert entry["images_per_second"] == pytest.approx(2 / entry["seconds"])
        ratio = f"{result['rows'][-1]['seconds'] / entry['seconds']:.2f}"
        assert re.search(rf"^{re.escape(entry['label'])} .* {ratio} ", process.stdout, re.MULTILINE), process.stdout


INSTALLED = [peer for peer in PEERS if importlib.util.find_spec(peer)]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("library", INSTALLED)
def test_every_installed_peer_can_be_measured(library, train):
    task = Task(library, batch_size=2, image_size=32, train=train, seconds=0.001)
    assert len(measure(task)["seconds"]) >= 3


def test_a_peer_that_is_installed_is_the_reference_instead(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: name == "timm")
    monkeypatch.setattr(benchmark.importlib.metadata, "version", lambda name: "1.2")

    def result_of(task):
        return (
            MACHINE if task.library == "machine" else {"seconds": [0.2 if task.library == "timm" else 0.1], "peak": 9}
        )

    monkeypatch.setattr(benchmark, "run_task", result_of)
    process = run(*QUICK, "--engines", "", "--json", tmp_path / "speed.json")
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "speed.json").read_text())["reference"] == "timm 1.2, fp32"
    assert len(re.findall(r"^ours, .* 2\.00 ", process.stdout, re.MULTILINE)) == 3


def test_engines_are_beside_the_fast_path(monkeypatch, tmp_path):
    tasks = []

    def result_of(task):
        if task.library == "machine":
            return MACHINE
        tasks.append(task)
        return {"seconds": [0.1], "peak": 100.0}

    monkeypatch.setattr(benchmark, "run_task", result_of)
    monkeypatch.setattr(benchmark, "has_bf16", lambda openvino: True)
    for package in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    process = run(*QUICK, "--engines", "compile,onnxruntime,openvino", "--peers", "")
    assert process.returncode == 0, process.stderr
    labels = re.findall(r"^ours, (.*?) +1", process.stdout, re.MULTILINE)
    assert labels == [
        *("fast path, fp32", "fast path, bf16", "compile, fp32", "compile, bf16"),
        *("onnxruntime, fp32", "openvino, fp32", "openvino, bf16", "as written, fp32"),
    ]
    assert len({task.folder for task in tasks}) == 1 and tasks[0].folder is not None


def test_bf16_is_measured_where_the_processor_is_fast_at_it():
    assert worth_measuring("cpu", MACHINE) == ("fp32", "bf16")
    assert worth_measuring("cpu", MACHINE | {"bf16": 0.3}) == ("fp32",)
    assert worth_measuring("cuda", MACHINE) == ("fp32", "fp16")


@pytest.mark.nightly
def test_the_first_of_the_installed_peers_is_the_reference(tmp_path):
    peers = INSTALLED
    if not peers:
        pytest.skip("no peer is installed")
    process = run(*QUICK, "--peers", ",".join(peers), "--train", "--json", tmp_path / "speed.json")
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "speed.json").read_text())
    theirs = result["rows"][-len(peers) :]
    assert [entry["library"] for entry in theirs] == peers and result["reference"] == theirs[0]["label"]
    assert re.search(rf"^{peers[0]} \S+, fp32 .* 1\.00 ", process.stdout, re.MULTILINE), process.stdout
    assert "b0, training step, 2 images of 32 pixels" in process.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--peers", "keras"), 2, ("--peers keras", "torchvision, timm, efficientnet_pytorch")),
        (("--variant", "mobilenet_v1", "--peers", "timm"), 2, ("--peers timm", "does not have mobilenet_v1")),
        (("--train", "--scaling"), 2, ("--train and --scaling cannot be combined",)),
        (("--train", "--engines", "compile"), 2, ("--engines is for predictions",)),
        (("--engines", "tflite"), 2, ("--engines tflite", "compile, onnxruntime, openvino")),
        (("--scaling", "--variant", "b1"), 2, ("--variant cannot be combined with --scaling",)),
        (
            ("--checkpoint", "best.pt", "--rounds", 2, "--engines", "compile"),
            2,
            ("--engines, --rounds cannot be combined with --checkpoint",),
        ),
        (("--variant", "b8", "--peers", "torchvision"), 2, ("--peers torchvision", "does not have b8")),
        (("--data", "somewhere"), 2, ("--data needs --checkpoint or --train",)),
        (("--checkpoint", "nowhere.pt"), 1, ("nowhere.pt",)),
        (("--rounds", "0"), 2, ("--rounds",)),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(arguments, code, words):
    assert_one_line_error(run("efficientnet.benchmark", *arguments), code, *words)


def test_help_does_not_import_the_mammography_task():
    code = "import efficientnet.benchmark.__main__, sys; assert 'efficientnet.mammography' not in sys.modules"
    process = python("-c", code)
    assert process.returncode == 0, process.stderr


def test_a_peer_that_is_not_installed_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    assert installed_peers(None, "b0") == []
    with pytest.raises(UserError, match=r"timm.*pip install timm"):
        installed_peers(["timm"], "b0")


def test_a_measurement_that_fails_is_told_by_its_own_last_line():
    with pytest.raises(UserError, match=r"as written, fp32: ValueError.*32 pixels"):
        run_task(Task("efficientnet", image_size=1, batch_size=1, seconds=0.01))


def test_one_that_fails_does_not_take_the_others_figures_with_it(monkeypatch, tmp_path):
    def result_of(task):
        if task.library == "machine":
            return MACHINE
        if task.precision == "bf16":
            raise UserError("efficientnet b0, fast path, bf16: RuntimeError: no")
        return {"seconds": [0.1], "peak": 100.0}

    monkeypatch.setattr(benchmark, "run_task", result_of)
    arguments = ("--peers", "", "--engines", "", "--device", "cpu", "--rounds", 2, "--json", tmp_path / "all.json")
    process = run("efficientnet.benchmark", *arguments)
    assert_one_line_error(process, 1, "bf16: RuntimeError: no")
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert [entry["label"] for entry in rows] == ["ours, fast path, fp32", "ours, as written, fp32"]
    assert "ours, as written, fp32" in process.stdout


def test_a_row_is_of_medians_and_its_shares_of_the_machine():
    entry = Contestant("ours", Task("efficientnet", batch_size=4, path=FAST, precision="bf16", train=True))
    results = [{"seconds": times, "peak": peak} for times, peak in (([9, 1, 1], 5), ([2, 2, 2], 7), ([8, 4, 4], 9))]
    found = row(entry, results, MACHINE)
    assert (found["seconds"], found["spread"], found["peak_memory_mebibytes"]) == (2, 0.75, 7)
    assert found["images_per_second"] == 2
    assert found["peak_share"] == pytest.approx(3 * 4 * counts_of("b0", 224).multiply_adds / 2 / 100e9)
    line = table([found], {"seconds": 5.0}).splitlines()[1]
    assert line.split()[:5] == ["ours", "2000.0", "2.00", "+-75", "%"] and " 2.50 " in line


def test_calls_are_timed_after_two_that_warm_up_until_they_are_three_and_last_long_enough(monkeypatch):
    now, durations = 0.0, iter([50, 40, 1, 2, 3, 4, 5, 50, 40, 7, 8, 9, 10])

    def call():
        nonlocal now
        now += next(durations)

    monkeypatch.setattr(benchmark_worker.time, "perf_counter", lambda: now)
    assert seconds_of(call, at_least=14) == [1, 2, 3, 4, 5]
    assert seconds_of(call, at_least=0) == [7, 8, 9]


@pytest.mark.parametrize("path", [PLAIN, FAST])
def test_a_training_step_trains(path):
    torch.manual_seed(0)
    task = Task("efficientnet", batch_size=2, image_size=32, train=True, path=path, precision="fp32")
    built = {}
    original = torch.optim.SGD

    class Recording(original):
        def __init__(self, parameters, *arguments, **options):
            built["parameters"] = list(parameters)
            super().__init__(built["parameters"], *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "SGD", Recording)
        step = training_step(task)
    before = [parameter.detach().clone() for parameter in built["parameters"]]
    step(torch.randn(2, 3, 32, 32))
    moved = [not torch.equal(old, new) for old, new in zip(before, built["parameters"], strict=True)]
    assert sum(moved) > 0.9 * len(moved)


def test_the_machine_is_measured_in_the_same_units_as_the_rows(monkeypatch):
    """On a clock by which every call takes a second: billions of multiply-adds, gigabytes read and written."""
    monkeypatch.setattr(benchmark_worker.time, "perf_counter", itertools.count().__next__)
    monkeypatch.setattr(benchmark_worker, "keep_freed_memory", lambda: None)  # not for the other tests
    product, traffic = 1024**3 / 1e9, 2 * 4 * 2**26 / 1e9
    assert measure(Task("machine", seconds=0.01)) == {"fp32": product, "bf16": product, "memory": traffic}


def test_costs_stand_beside_the_multiply_adds_that_complexity_counts(monkeypatch):
    monkeypatch.setattr(benchmark_scaling, "FAMILY", ("b0",))
    monkeypatch.setattr(benchmark_scaling, "SIZES", (64,))
    monkeypatch.setattr(benchmark_scaling, "OTHERS", ("resnet50",))
    monkeypatch.setattr(
        benchmark, "run_task", lambda task: {"seconds": [2.0 if task.path == PLAIN else 1.0], "peak": 9}
    )
    text, result = benchmark_scaling.compare_costs(Task("efficientnet", batch_size=1, seconds=0.05), 1, MACHINE)
    assert [(entry["variant"], entry["image_size"]) for entry in result["rows"]] == [
        *(("b0", 224), ("b0", 64), ("resnet50", 224))
    ]
    for entry in result["rows"]:
        assert entry["multiply_adds"] == counts_of(entry["variant"], entry["image_size"]).multiply_adds
        assert list(entry["seconds_an_image"].values()) == [2.0, 1.0]
    lines = text.splitlines()
    assert re.match(r"b0 +224 +0\.39 +6\.\d +\d+ ", lines[4]) and lines[6].startswith("resnet50 ")
    assert "A ResNet-50 does" in text


@pytest.mark.parametrize(("count", "words"), [(12, "augmented, 32 pixels"), (4, "too few images to measure")])
def test_reading_a_folder_of_images_is_measured_as_train_reads_it(tmp_path, count, words):
    data = write_photographs(tmp_path / "photos", count, 2)
    text, result = measure_reading(data, "b0", 32, 2, 0.2, "cpu")
    assert words in text and str(data) in text
    assert not result if count == 4 else result["reading"]["images_per_second"] > 0


def test_the_metrics_of_a_checkpoint_are_those_of_evaluate_in_each_precision(tiny_data, tmp_path):
    process = run(
        *("train.py", *SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--data", tiny_data),
        *("--output", tmp_path / "run"),
    )
    assert process.returncode == 0, process.stderr
    checkpoint = tmp_path / "run" / "best.pt"
    process = run("efficientnet.benchmark", "--checkpoint", checkpoint, "--json", tmp_path / "change.json")
    assert process.returncode == 0, process.stderr
    rows = json.loads((tmp_path / "change.json").read_text())["rows"]
    lower = "fp16" if torch.cuda.is_available() else "bf16"
    assert [entry["label"] for entry in rows] == ["as trained, fp32", "fast path, fp32", f"fast path, {lower}"]
    assert rows[0]["largest_change"] == 0 and rows[1]["largest_change"] < 1e-4
    assert rows[2]["largest_change"] > rows[1]["largest_change"]
    process = run("evaluate.py", "--checkpoint", checkpoint, "--no-optimize", "--json", tmp_path / "evaluated.json")
    assert process.returncode == 0, process.stderr
    evaluated = json.loads((tmp_path / "evaluated.json").read_text())
    assert rows[0]["pf1"] == pytest.approx(evaluated["pf1"], abs=1e-6)
