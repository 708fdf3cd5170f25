"""`train.py` as people run it: one process and torchrun, the run folder, resume, interruption, errors."""

import csv
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, python, ranks, run, running, torchrun
from PIL import Image
from tiny_data import write_tiny_data
from tiny_runs import SMALL

from efficientnet.common.cpu import has_bf16_units, usable_cores
from efficientnet.create import create_model

FAST = [*SMALL, "--image-size", 32, "--batch-size", 4, "--learning-rate", 1e-3, "--warmup-epochs", 0.5, "--workers", 0]


@pytest.fixture(scope="session")
def finished(tiny_data, tmp_path_factory):
    """A run of two epochs."""
    output = tmp_path_factory.mktemp("runs") / "run"
    process = run("train.py", *FAST, "--data", tiny_data, "--epochs", 2, "--output", output)
    assert process.returncode == 0, process.stderr
    return output, process


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(path):
    return torch.load(path, weights_only=True)["weights"]


def assert_same_weights(a, b):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_cpu_trains_in_bf16_where_it_has_units_for_it(finished):
    _, process = finished
    if torch.cuda.is_available():
        pytest.skip("CUDA has fp16 as its default")
    assert f" x cpu, one process, {'bf16' if has_bf16_units() else 'fp32'}, " in process.stdout


@pytest.mark.nightly
@pytest.mark.skipif(not has_bf16_units(), reason="this CPU has no units for bf16: it trains in fp32, and bf16 is slow")
def test_bf16_learns_from_the_phantoms_what_fp32_learns(tmp_path):
    """A small demo in both: the same loss and score, but for noise, and both above the best constant prediction."""
    last = {}
    for precision in ("fp32", "bf16"):
        process = python(
            *("train.py", "--variant", "b0", "--image-size", 160, "--epochs", 2, "--device", "cpu", "--seed", 0),
            *("--precision", precision, "--output", tmp_path / precision),
            timeout=1800,
            environment={"OMP_NUM_THREADS": str(usable_cores())},
        )
        assert process.returncode == 0, process.stderr
        last[precision] = lines(tmp_path / precision)[-1]
    print(last)
    assert last["bf16"]["train_loss"] != last["fp32"]["train_loss"]
    assert last["bf16"]["train_loss"] == pytest.approx(last["fp32"]["train_loss"], rel=0.25)
    assert last["bf16"]["auc"] == pytest.approx(last["fp32"]["auc"], abs=0.05)
    assert last["bf16"]["pf1"] == pytest.approx(last["fp32"]["pf1"], abs=0.15)
    assert min(metrics["pf1"] for metrics in last.values()) > 0.4


def test_the_run_folder_holds_what_it_should(finished):
    output, process = finished
    assert {path.name for path in output.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "last.pt",
        "last.pt.sha256",
        "best.pt",
        "best.pt.sha256",
        "checkpoints",
        "predictions.csv",
        "MODEL_CARD.md",
        "curves.png",
        ".lock",
    }
    config = json.loads((output / "config.json").read_text())
    assert config["architecture"] == {"name": "b0 with depth 0.5, width 0.2", "image_size": 224}
    for text in (str(output), "evaluate.py --checkpoint", "Probabilistic F1", "EfficientNet-B0 with depth 0.5"):
        assert text in process.stdout
    assert process.stderr == ""  # no progress bar where nobody watches


def test_metrics_hold_the_contract(finished):
    for number, line in enumerate(lines(finished[0]), start=1):
        assert line["epoch"] == number
        wanted = "epoch step learning_rate train_loss val_loss pf1 pf1_best threshold auc average_precision seconds"
        assert set(wanted.split()) | {"images_per_second"} <= set(line)


def test_predictions_hold_each_held_out_breast_once(finished):
    with open(finished[0] / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("patient_id", "laterality", "prediction_id", "fold"),
        *("cancer", "cancer_probability", "biopsy", "biopsy_probability"),
    ]
    ids = [row["prediction_id"] for row in rows]
    assert len(ids) == len(set(ids)) == 6  # a fourth of twelve patients, two breasts each
    assert {row["fold"] for row in rows} == {"0"}


def test_training_and_validation_patients_are_apart(finished):
    checkpoint = torch.load(finished[0] / "best.pt", weights_only=True)
    with open(finished[0] / "predictions.csv", newline="") as file:
        held_out = {row["patient_id"] for row in csv.DictReader(file)}
    assert held_out and not held_out & set(checkpoint["training_patients"])
    assert len(held_out) + len(checkpoint["training_patients"]) == 12


def test_one_seed_decides_the_run(finished, tiny_data, tmp_path):
    for name, seed, same in (("a", 0, True), ("b", 1, False)):
        arguments = ("--data", tiny_data, "--epochs", 2, "--output", tmp_path / name, "--seed", seed, "--workers", 1)
        assert run("train.py", *FAST, *arguments).returncode == 0
        if same:
            assert_same_weights(finished[0] / "last.pt", tmp_path / name / "last.pt")
        else:
            with pytest.raises(AssertionError):
                assert_same_weights(finished[0] / "last.pt", tmp_path / name / "last.pt")


def test_evaluation_statistics_fit_the_weights_of_a_short_run(tiny_data, tmp_path):
    """Predictions with running statistics agree with those that normalise by the batch."""
    from torch.utils.data import DataLoader

    from efficientnet import create_model
    from efficientnet.mammography.dataset import MammogramDataset
    from efficientnet.mammography.image_files import find_images
    from efficientnet.mammography.preprocessing import Preprocessing
    from efficientnet.mammography.table import read_table
    from efficientnet.training.task import collate

    process = run(
        "train.py",
        *FAST,
        "--image-size",
        96,
        "--data",
        tiny_data,
        "--epochs",
        2,
        "--output",
        tmp_path / "r",
        "--learning-rate",
        1e-4,
    )
    assert process.returncode == 0, process.stderr
    checkpoint = torch.load(tmp_path / "r" / "last.pt", weights_only=True)
    table = read_table(tiny_data / "train.csv", tuple(checkpoint["targets"]))
    files = find_images(table, tiny_data)
    dataset = MammogramDataset(table, files, Preprocessing.from_dict(checkpoint["preprocessing"]))
    batch = next(iter(DataLoader(dataset, len(files), collate_fn=collate)))
    model = create_model(**checkpoint["architecture"])
    model.load_state_dict(checkpoint["weights"])
    with torch.no_grad():
        running = model.eval()(batch.images)[:, 0]
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train()
        by_batch = model(batch.images)[:, 0]
    assert (running - by_batch).abs().median() < 0.3
    assert torch.corrcoef(torch.stack([running, by_batch]))[0, 1] > 0.8


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains_on_the_cpu(tiny_data, tmp_path, precision):
    process = run(
        "train.py", *FAST, "--data", tiny_data, "--epochs", 1, "--output", tmp_path / "r", "--precision", precision
    )
    assert process.returncode == 0, process.stderr
    line = lines(tmp_path / "r")[0]
    assert line["step"] + line["skipped_updates"] == 9
    if precision == "fp16":
        assert torch.load(tmp_path / "r" / "last.pt", weights_only=True)["training"]["scaler"]["scale"] > 0


def test_fp16_begins_with_updates_that_overflow_and_goes_on(tiny_data, tmp_path):
    """One update an epoch: the scaler's first scale is too high for it, which is no reason to give up."""
    process = run(
        *("train.py", *FAST, "--data", tiny_data, "--epochs", 2, "--output", tmp_path / "r", "--precision", "fp16"),
        *("--batch-size", 36, "--seed", 1_234_567_890),
    )
    assert process.returncode == 0, process.stderr
    assert len(lines(tmp_path / "r")) == 2


def test_a_diverged_run_ends_in_one_line(tiny_data, tmp_path):
    process = run(
        *("train.py", *FAST, "--data", tiny_data, "--epochs", 3, "--output", tmp_path / "r", "--clip", 0),
        *("--learning-rate", 1e30, "--warmup-epochs", 0),
    )
    assert_one_line_error(process, 1, "finite", "--learning-rate")


def test_every_option_of_the_recipe_runs_together(tiny_data, tmp_path):
    process = run(
        *("train.py", *SMALL, "--data", tiny_data, "--output", tmp_path / "r", "--epochs", 1, "--batch-size", 2),
        *("--accumulate", 2, "--image-size", 40, 32, "--in-channels", 3, "--targets", "cancer", "--folds", 3),
        *("--fold", 2, "--no-crop", "--side", "as-is", "--dropout", 0.1, "--stochastic-depth", 0.1, "--clip", 0),
        *("--label-smoothing", 0.05, "--positive-share", 0.5, "--ema-decay", 0, "--augmentation", 0, "--select", "auc"),
        *("--checkpoint-activations", "--batch-norm-momentum", 0.2, "--seed", 3, "--no-prior-correction"),
    )
    assert process.returncode == 0, process.stderr
    checkpoint = torch.load(tmp_path / "r" / "best.pt", weights_only=True)
    assert checkpoint["architecture"]["in_channels"] == 3
    assert checkpoint["preprocessing"]["image_size"] == [40, 32]
    assert checkpoint["logit_shift"] == 0 and checkpoint["targets"] == ["cancer"]


def test_oversampling_is_corrected_and_said(tiny_data, tmp_path):
    process = run(
        "train.py", *FAST, "--data", tiny_data, "--epochs", 1, "--output", tmp_path / "r", "--positive-share", 0.5
    )
    assert "from 50.0 % to 16.7 % positives" in process.stdout
    assert torch.load(tmp_path / "r" / "best.pt", weights_only=True)["logit_shift"] == pytest.approx(1.609, abs=1e-3)


def test_two_ranks_train_validate_and_leave_the_same_folder(tiny_data, tmp_path):
    arguments = ("--data", tiny_data, "--epochs", 2, "--output", tmp_path / "r", "--accumulate", 2)
    process = ranks(2, "train.py", *FAST, *arguments)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("epoch 1/2") == 1  # rank 0 alone speaks
    assert len(lines(tmp_path / "r")) == 2
    with open(tmp_path / "r" / "predictions.csv", newline="") as file:
        ids = [row["prediction_id"] for row in csv.DictReader(file)]
    assert len(ids) == len(set(ids)) == 6


def test_the_default_folder_is_named_after_what_was_asked_with_the_next_free_number(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("train.py", *FAST, "--data", tiny_data, "--epochs", 1).returncode == 0
    assert [path.name for path in sorted((tmp_path / "runs").iterdir())] == [
        "b0-depth0.5-width0.2-1",
        "b0-depth0.5-width0.2-2",
    ]


def test_a_killed_run_resumes_and_ends_as_if_undisturbed(tiny_data, tmp_path):
    arguments = (*FAST, "--data", tiny_data, "--epochs", 4, "--output")
    assert run("train.py", *arguments, tmp_path / "straight").returncode == 0
    with running("train.py", *arguments, tmp_path / "killed") as process:
        process.wait_for("epoch 1/")
        process.processes[0].kill()
    resumed = run("train.py", "--resume", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after epoch" in resumed.stdout
    for name in ("last.pt", "best.pt"):
        assert_same_weights(tmp_path / "straight" / name, tmp_path / "killed" / name)
    assert (tmp_path / "straight" / "predictions.csv").read_text() == (
        tmp_path / "killed" / "predictions.csv"
    ).read_text()
    assert [line["epoch"] for line in lines(tmp_path / "killed")] == [1, 2, 3, 4]
    again = run("train.py", "--resume", "auto", "--output", tmp_path / "killed")
    assert again.returncode == 0 and [line["epoch"] for line in lines(tmp_path / "killed")] == [1, 2, 3, 4]


def test_an_interrupted_run_ends_in_one_line_with_its_checkpoint(tiny_data, tmp_path):
    arguments = (*FAST, "--data", tiny_data, "--epochs", 200, "--output", tmp_path / "r", "--workers", 1)
    with running("train.py", *arguments) as process:
        process.wait_for("epoch 1/")
        time.sleep(0.2)
        os.kill(process.processes[0].pid, signal.SIGINT)
        ended = process.wait(timeout=60)
    assert_one_line_error(ended, 130, "--resume")
    torch.load(tmp_path / "r" / "last.pt", weights_only=True)


def test_dry_run_prints_the_plan_and_writes_nothing(tiny_data, tmp_path):
    process = run("train.py", *FAST, "--data", tiny_data, "--output", tmp_path / "r", "--dry-run")
    assert process.returncode == 0, process.stderr
    for text in (
        "9 patients, 18 breasts, 36 images",
        "130,012 parameters",
        "updates",
        "memory",
        "cancer, biopsy, view (2 categories)",
    ):
        assert text in process.stdout
    assert not (tmp_path / "r").exists()


@pytest.fixture
def damaged(tiny_data, tmp_path):
    """The same tiny_data with one image cut short and one missing, and a table with other names."""
    copy = shutil.copytree(tiny_data, tmp_path / "damaged")
    files = sorted((copy / "train_images").rglob("*.png"))
    files[0].write_bytes(files[0].read_bytes()[:60])
    files[1].unlink()
    table = (copy / "train.csv").read_text().replace("cancer", "malignant", 1).replace("laterality", "side", 1)
    (copy / "train.csv").write_text(table)
    return copy, files[0]


def test_broken_images_are_named_and_counted_and_do_not_end_the_run(damaged, tmp_path):
    folder, broken = damaged
    mapping = ["--columns", "cancer=malignant,laterality=side"]
    process = run("train.py", *FAST, "--data", folder, *mapping, "--epochs", 1, "--output", tmp_path / "r")
    assert process.returncode == 0, process.stderr
    assert "1 image could not be read" in process.stdout and broken.name in process.stdout
    assert "1 rows of the table" in process.stdout
    strict = run("train.py", *FAST, "--data", folder, *mapping, "--epochs", 1, "--output", tmp_path / "s", "--strict")
    assert_one_line_error(strict, 1, "train.py: error:")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--variant", "b12"], 2, ["b12", "b0, b1"]),
        (["--epochs", 0], 2, ["--epochs", "at least 1"]),
        (["--learning-rate", "nan"], 2, ["--learning-rate"]),
        (["--image-size", 16], 2, ["--image-size", "at least 32"]),
        (["--image-size", 64, 64, 64], 2, ["one or two"]),
        (["--fold", 4], 2, ["--fold 4", "0 to 3"]),
        (["--columns", "cancer"], 2, ["--columns"]),
        (["--columns", "cancer=malign"], 1, ["no column 'malign'", "laterality, view, cancer, biopsy"]),
        (["--columns", "BIRADS=birads"], 1, ["no column 'birads'", "train.csv, line 1"]),
        (["--device", "cuda"], 2, ["CUDA"]),
        (["--backend", "nccl"], 2, ["nccl"]),
        (["--sync-batch-norm"], 2, ["--sync-batch-norm"]),
        (["--resume", "auto"], 2, ["--output"]),
        (["--resume", "absent.pt"], 1, ["absent.pt", "no such file"]),
        (["--targets", "nothing"], 1, ["nothing", "train.csv"]),
        (["--folds", 40], 1, ["40 patients", "has 12"]),
        (["--nonsense"], 2, ["--nonsense"]),
        (["--targets", "cancer,cancer"], 1, ["--targets cancer,cancer", "different"]),
        (["--image-size", 32, "--batch-size", 1], 2, ["two images"]),
    ],
)
def test_bad_input_is_a_line_or_two(tiny_data, arguments, code, words):
    if torch.cuda.is_available() and {"cuda", "nccl", "--sync-batch-norm"} & set(map(str, arguments)):
        pytest.skip("this machine has CUDA")
    assert_one_line_error(run("train.py", "--data", tiny_data, *arguments), code, *words)


def a_few_images(root, patients, positives=()):
    """A folder with one image of each of so many patients."""
    (root / "train_images").mkdir(parents=True)
    lines = ["patient_id,image_id,laterality,cancer"]
    for patient in range(patients):
        pixels = np.random.default_rng(patient).integers(0, 255, (80, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train_images" / f"{patient}.png")
        lines.append(f"{patient},{patient},L,{int(patient in positives)}")
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return root


SHORT = (*SMALL, "--batch-size", 2, "--epochs", 1, "--folds", 2, "--workers", 0)


def test_one_image_to_train_on_is_enough_where_batch_norm_can_use_it(tmp_path):
    data = a_few_images(tmp_path / "data", 2, positives=[0, 1])
    arguments = ("--data", data, *SHORT, "--output", tmp_path / "r")
    process = run("train.py", *arguments, "--image-size", 32)
    assert_one_line_error(process, 1, "only one training image", "at 32x32")
    assert run("train.py", *arguments, "--image-size", 64).returncode == 0


def test_ranks_with_fewer_than_two_images_each_train_and_agree(tmp_path):
    data = a_few_images(tmp_path / "data", 6, positives=[0, 1, 2])
    process = ranks(2, "train.py", "--data", data, *SHORT, "--output", tmp_path / "r", "--image-size", 32)
    assert process.returncode == 0, process.stderr
    assert "pF1" in process.stdout


def test_without_a_positive_to_learn_from_there_is_a_warning_and_no_threshold(tmp_path):
    data = a_few_images(tmp_path / "data", 4, positives=[0])
    # Fold 0 gets the only positive.
    arguments = ("--data", data, *SHORT, "--image-size", 64, "--output", tmp_path / "r")
    process = run("train.py", *arguments)
    assert process.returncode == 0, process.stderr
    assert "warning     no training image is positive for cancer: nothing can be learned about it" in process.stdout
    assert lines(tmp_path / "r")[0]["threshold"] is None and " at -" in process.stdout


def test_a_column_of_positives_alone_is_said(tmp_path):
    data = a_few_images(tmp_path / "data", 4, positives=range(4))
    process = run("train.py", "--data", data, *SHORT, "--image-size", 64, "--dry-run")
    assert "warning     every training image is positive for cancer" in process.stdout


def test_a_fold_without_a_positive_is_said_and_the_loss_decides(tmp_path):
    data = a_few_images(tmp_path / "data", 4, positives=[0])
    arguments = ("--data", data, *SHORT, "--image-size", 64, "--output", tmp_path / "r", "--fold", 1, "--epochs", 3)
    process = run("train.py", *arguments)
    assert process.returncode == 0, process.stderr
    assert "warning     no held-out breast has cancer: the epoch with the lowest validation loss" in process.stdout
    losses = [line["val_loss"] for line in lines(tmp_path / "r")]
    best = torch.load(tmp_path / "r" / "best.pt", weights_only=True)
    assert best["epoch"] == 1 + losses.index(min(losses))


def test_what_is_to_go_to_timms_plain_models_is_trained_as_they_are(tiny_data, tmp_path):
    flags = ("--padding", "symmetric", "--batch-norm-eps", "1e-5")
    run_folder = tmp_path / "r"
    process = run("train.py", *FAST, *flags, "--data", tiny_data, "--epochs", 1, "--output", run_folder)
    assert process.returncode == 0, process.stderr
    model = create_model(weights=run_folder / "best.pt")
    assert (model.convention.padding, model.convention.batch_norm_eps) == ("symmetric", 1e-5)
    out = ("--to", "timm")
    assert run("efficientnet.weights", "convert", run_folder / "best.pt", tmp_path / "timm.pth", *out).returncode == 0


def test_a_folder_without_a_table_or_without_images_is_said(tmp_path):
    assert_one_line_error(run("train.py", "--data", tmp_path), 1, "train.csv")
    tiny_data = write_tiny_data(tmp_path / "d")
    shutil.rmtree(tiny_data / "train_images")
    assert_one_line_error(run("train.py", "--data", tiny_data), 1, "train_images/<patient_id>/<image_id>")


def test_a_run_folder_is_not_overwritten_and_a_resumed_run_keeps_its_settings(finished, tiny_data):
    output, _ = finished
    before = (output / "last.pt").read_bytes()
    assert_one_line_error(run("train.py", *FAST, "--data", tiny_data, "--output", output), 2, "already contains a run")
    process = run("train.py", "--resume", output, "--learning-rate", 0.5)
    assert_one_line_error(process, 2, "--learning-rate 0.5", "0.001")
    assert_one_line_error(run("train.py", "--resume", output / "best.pt"), 1, "last.pt")
    assert (output / "last.pt").read_bytes() == before


@pytest.mark.parametrize("launch", [ranks, pytest.param(torchrun, marks=pytest.mark.nightly)])
def test_rank_0_alone_speaks(launch, tmp_path):
    process = launch(2, "train.py", "--data", tmp_path / "absent")
    assert process.returncode == 1
    assert process.stderr.count("train.py: error:") == 1
    assert os.listdir(tmp_path) == []


def test_a_usage_error_waits_on_the_other_ranks_of_a_machine(monkeypatch):
    """Or torchrun, which ends all when one has failed, would end rank 0 before it has spoken."""
    waited = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(time, "sleep", waited.append)
    process = run("train.py", "--epochs", 0)
    assert (process.returncode, process.stderr, waited) == (2, "", [10])
