"""The architecture flags are the same for scale.py and train.py, and a checkpoint keeps the architecture."""

import random
import re
import shutil

import pytest
import torch
from commands import assert_one_line_error, run
from tiny_runs import SMALL, assert_same_run

from efficientnet import B0, BASELINES, Coefficients, complexity, compound_coefficients, create_model, scale
from efficientnet.architecture import Architecture, add_arguments, chosen_architecture, chosen_way, derive
from efficientnet.common.command_line import Parser
from efficientnet.mammography.task import Screening
from efficientnet.scaling import Stage
from efficientnet.training.learner import build_model
from efficientnet.training.plan import make_parser, make_plan
from efficientnet.weights.load import WeightsError, read_weights, save_weights

FAST = ["--image-size", 32, "--batch-size", 4, "--epochs", 1, "--workers", 0]


def architecture(flags: str) -> Architecture:
    parser = Parser()
    add_arguments(parser, "")
    arguments = parser.parse_args(flags.split())
    return chosen_architecture(arguments, chosen_way(arguments))


@pytest.mark.parametrize(
    ("flags", "title", "slug", "expected"),
    [
        ("--variant efficientnet-b3", "EfficientNet-B3", "b3", scale(B0, Coefficients(1.4, 1.2))),
        ("--variant lite1", "EfficientNet-Lite1", "lite1", None),
        ("--phi 1.5", "EfficientNet-B0 at phi 1.5", "b0-phi1.5", scale(B0, compound_coefficients(1.5))),
        (
            *("--phi 2 --alpha 1.1 --gamma 1.2", "EfficientNet-B0 at phi 2 with alpha 1.1, gamma 1.2"),
            *("b0-phi2-alpha1.1-gamma1.2", scale(B0, compound_coefficients(2, 1.1, 1.1, 1.2))),
        ),
        (
            *("--width 0.25 --depth 0.5", "EfficientNet-B0 with depth 0.5, width 0.25", "b0-depth0.5-width0.25"),
            scale(B0, Coefficients(0.5, 0.25)),
        ),
        (
            *("--baseline ResNet-50 --phi 1", "ResNet-50 at phi 1", "resnet50-phi1"),
            scale(BASELINES["resnet50"], compound_coefficients(1)),
        ),
        ("--baseline mobilenet_v2", "MobileNetV2 at phi 0", "mobilenet_v2", BASELINES["mobilenet_v2"].stages),
    ],
)
def test_every_way_to_name_one(flags, title, slug, expected):
    found = architecture(flags)
    assert (found.title, found.slug) == (title, slug)
    assert expected is None or found.stages == expected


def test_the_flags_that_it_gives_back_give_it_again_to_the_last_digit():
    generator = random.Random(0)
    for _ in range(200):
        baseline = generator.choice(list(BASELINES.values()))
        if generator.random() < 0.5:
            bases = [generator.choice((usual, 1 + generator.random())) for usual in (1.2, 1.1, 1.15)]
            coefficients = compound_coefficients(generator.choice((0, 1, 3 * generator.random())), *bases)
        else:
            coefficients = Coefficients(*(generator.choice((1, 0.3 + generator.random())) for _ in range(3)))
        found = derive(baseline, coefficients)
        again = architecture(found.flags)
        assert (again.stages, again.image_size) == (found.stages, found.image_size), found.flags
    assert {architecture(f"--variant {name}").flags for name in ("b3", "lite2")} == {"--variant b3", "--variant lite2"}


def test_a_name_out_of_a_file_names_no_folder_outside_runs():
    assert Architecture("../../b0 at phi 1", B0.stages, None).slug == "....b0-phi1"


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
def test_small_factors_leave_every_stage_a_layer_and_eight_channels(baseline):
    for depth in (0.001, 0.1, 0.5, 0.99):
        for width in (0.001, 0.05, 0.25, 0.7):
            stages = scale(baseline, Coefficients(depth, width))
            assert all(stage.out_channels >= 8 and stage.out_channels % 8 == 0 for stage in stages)
            assert all(stage.layers >= 1 for stage in stages)
            assert all(stage.layers <= whole.layers for stage, whole in zip(stages, baseline.stages, strict=True))
    model = create_model(scale(baseline, Coefficients(0.001, 0.001)), 2, 1).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"operator": "magic"}, "operator"),
        ({"activation": None}, "activation"),
        ({"out_channels": 0}, "out_channels"),
        ({"in_channels": True}, "in_channels"),
        ({"stride": 1.0}, "stride"),
        ({"layers": 10**9}, "layers"),
        ({"squeeze_ratio": float("nan")}, "squeeze_ratio"),
        ({"skip": 1}, "skip must be true or false"),
        ({"fixed_width": "false"}, "fixed_width must be true or false"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        Stage(**{**vars(B0.stages[1]), **changes})


# ---- train.py ----


@pytest.mark.parametrize(
    ("flags", "stages", "size"),
    [
        ("--phi 0.5", scale(B0, compound_coefficients(0.5)), (240, 240)),
        ("--width 0.25 --depth 0.5 --resolution 0.5", scale(B0, Coefficients(0.5, 0.25, 0.5)), (112, 112)),
        ("--baseline resnet50 --width 0.25", scale(BASELINES["resnet50"], Coefficients(width=0.25)), (224, 224)),
        ("--baseline mobilenet_v2", BASELINES["mobilenet_v2"].stages, (224, 224)),
        ("--variant b1", "b1", (1024, 512)),
        ("--variant b2 --image-size 64 48", "b2", (64, 48)),
    ],
)
def test_train_py_and_create_model_agree(flags, stages, size):
    """On stages, initial weights, image size and drop rates."""
    plan = make_plan(make_parser("", Screening).parse_args([*flags.split(), "--data", "somewhere"]), Screening)
    plan.task.num_outputs, plan.task.start_classifier = 4, lambda classifier: None  # without reading any data
    trained, stored, _ = build_model(plan)
    torch.manual_seed(plan.recipe.seed)
    mine = create_model(stages, 4, 1)
    assert trained.stages == mine.stages and plan.task.settings.image_size == size
    for model in (trained, create_model(**stored)):
        assert str(model) == str(mine)  # with all rates
    for (name, tensor), (_, other) in zip(mine.state_dict().items(), trained.state_dict().items(), strict=True):
        assert torch.equal(tensor, other), name


@pytest.mark.parametrize(
    "arguments",
    [
        ["--variant", "b12"],
        ["--variant", "b3", "--phi", 2],
        ["--phi", -1],
        ["--phi", 60],
        ["--phi", 1, "--width", 2],
        ["--width", 0],
        ["--depth", "deep"],
        ["--resolution", 0.1],
        ["--variant", "b1", "--alpha", 1.3],
        ["--width", 0.5, "--gamma", 1.1],
        ["--baseline", "vgg16"],
        ["--baseline", "missing.json"],
        ["--baseline", "mine.txt"],
        ["--variant", "b0", "--baseline", "resnet50"],
    ],
)
def test_train_py_and_scale_py_refuse_the_same_in_the_same_words(arguments, tiny_data):
    by_scale, by_train = run("scale.py", *arguments), run("train.py", "--data", tiny_data, *arguments)
    assert_one_line_error(by_train, 2, "error")
    assert by_train.stderr.replace("train.py", "scale.py") == by_scale.stderr


def test_the_phi_of_a_budget_is_trained_within_the_budget(tiny_data):
    text = run("scale.py", "--budget", "1.5G").stdout
    flags = re.search(r"python train.py (.*)", text)[1].split()
    plan = make_plan(make_parser("", Screening).parse_args([*flags, "--data", str(tiny_data)]), Screening)
    counts = complexity(plan.architecture.stages, plan.task.settings.image_size)
    assert 0.98 * 1.5e9 < counts.multiply_adds <= 1.5e9 and f"{counts.multiply_adds:,}" in text
    dry = run("train.py", "--data", tiny_data, "--dry-run", *flags)
    assert f"EfficientNet-B0 at phi {flags[-1]}, " in dry.stdout and "280x280" in dry.stdout


def test_far_from_the_constraint_is_a_warning_of_the_plan(tiny_data):
    arguments = ("--data", tiny_data, "--dry-run", "--image-size", 32, "--phi", 0.1)
    assert "warning     alpha * beta^2 * gamma^2 = 3.267" in run("train.py", *arguments, "--gamma", 1.5).stdout
    assert "warning" not in run("train.py", *arguments).stdout


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "b0"])
def test_another_baseline_trains_and_is_evaluated(name, tiny_data, tmp_path):
    process = run(
        *("train.py", "--baseline", name, *SMALL, *FAST, "--data", tiny_data, "--output", tmp_path / "r"),
    )
    assert process.returncode == 0, process.stderr
    assert f"{BASELINES[name].title} with depth 0.5, width 0.2" in process.stdout
    score = run("evaluate.py", "--checkpoint", tmp_path / "r" / "best.pt", "--data", tiny_data)
    assert score.returncode == 0 and "12 images" in score.stdout, score.stderr


# ---- checkpoints ----


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    output = tmp_path_factory.mktemp("own") / "run"
    process = run("train.py", *SMALL, *FAST, "--data", tiny_data, "--output", output)
    assert process.returncode == 0, process.stderr
    return output


def test_the_checkpoint_holds_the_stages_themselves(finished):
    content = torch.load(finished / "best.pt", weights_only=True)
    expected = scale(B0, Coefficients(0.5, 0.2))
    assert tuple(Stage(**stage) for stage in content["architecture"]["name_or_stages"]) == expected
    for model in (
        create_model(**content["architecture"]),
        create_model(finished / "best.pt"),
        create_model(str(finished / "best.pt")),
        create_model(weights=finished / "best.pt"),
    ):
        assert (model.stages[1:], model.num_classes, model.in_channels) == (expected[1:], 4, 1)
    trained = create_model(finished / "best.pt").state_dict()
    assert all(torch.equal(trained[name], tensor) for name, tensor in content["weights"].items())
    with pytest.raises(ValueError, match="twice"):
        create_model(finished / "best.pt", weights="b0.pth")


def test_model_card_and_weights_command_say_what_it_is(finished):
    card = (finished / "MODEL_CARD.md").read_text()
    assert card.startswith("# EfficientNet-B0 with depth 0.5, width 0.2 for") and "130,012 parameters" in card
    assert "| MBConv6, k5x5 | 2 | 40 | 2 |" in card
    information = run("efficientnet.weights", "info", finished / "best.pt").stdout
    assert "b0 with depth 0.5, width 0.2 (ours)" in information and "nearest" not in information


def test_a_checkpoint_that_names_its_variant_is_still_understood(finished, tiny_data, tmp_path):
    content = torch.load(finished / "best.pt", weights_only=True)
    model = create_model("b0", 2, 1)
    del content["plan"]["architecture"], content["heads"]
    content["targets"] = content["targets"][:2]
    content |= {"architecture": {"name_or_stages": "b0", "num_classes": 2, "in_channels": 1}}
    torch.save(content | {"weights": model.state_dict()}, tmp_path / "old.pt")
    assert run("evaluate.py", "--checkpoint", tmp_path / "old.pt", "--data", tiny_data).returncode == 0
    assert create_model(tmp_path / "old.pt").stages[1:] == B0.stages[1:]


def test_weights_of_ones_own_architecture_go_out_and_come_back(finished, tiny_data, tmp_path):
    own = tmp_path / "own.pt"
    assert run("efficientnet.weights", "convert", finished / "best.pt", own).returncode == 0
    assert read_weights(own).provenance.variant == "b0 with depth 0.5, width 0.2"
    for weights, more in ((finished / "best.pt", []), (own, ["--image-size", 32])):
        process = run("train.py", "--data", tiny_data, "--weights", weights, *more, "--dry-run")
        assert process.returncode == 0, process.stderr
        assert "model       EfficientNet-B0 with depth 0.5, width 0.2, 130,012 parameters" in process.stdout
    recorded_none = ("--recipe", "demo", "--data", tiny_data, "--weights", own)
    assert_one_line_error(run("train.py", *recorded_none), 2, "own.pt", "--image-size")
    process = run("train.py", "--data", tiny_data, "--weights", own, "--variant", "b0")
    assert_one_line_error(process, 1, "does not match b0")
    save_weights(tmp_path / "plain.pt", create_model(scale(B0, Coefficients(width=0.5)), 3))
    assert create_model(tmp_path / "plain.pt").num_classes == 3
    content = torch.load(own, weights_only=True)
    content["architecture"]["name_or_stages"][2]["layers"] = "many"
    torch.save(content, own)
    with pytest.raises(WeightsError, match=r"own\.pt.* damaged .*layers"):
        create_model(own)


def test_a_resumed_run_keeps_its_architecture(finished, tiny_data, tmp_path):
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    for flags in (["--variant", "b0"], ["--phi", 1], ["--width", 0.2]):
        process = run("train.py", "--resume", finished, *flags)
        assert_one_line_error(process, 2, " ".join(map(str, flags)), "b0 with depth 0.5, width 0.2", "must keep its")
    assert {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()} == before
    copy = shutil.copytree(finished, tmp_path / "copy")
    assert run("train.py", "--resume", copy, *SMALL).returncode == 0  # the same flags again are no contradiction
    assert_same_run(finished, copy)
