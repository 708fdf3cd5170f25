"""Options: dataclass <-> command line <-> JSON."""

import json
from dataclasses import fields

import pytest

from efficientnet.common.command_line import Parser
from efficientnet.common.options import add_options, from_json, given_options, to_json
from efficientnet.mammography.settings import RANDOM_START, RECIPES, ScreeningSettings
from efficientnet.training.recipe import Recipe


def parsed(*arguments, kind=Recipe):
    parser = Parser(prog="test")
    add_options(parser, kind)
    return given_options(parser.parse_args(list(arguments)), kind)


def test_only_what_is_given_is_there():
    assert parsed() == {}
    given = parsed("--learning-rate", "0.5", "--no-freeze-batch-norm", "--precision", "bf16")
    assert given == {"learning_rate": 0.5, "freeze_batch_norm": False, "precision": "bf16"}


def test_a_size_is_a_square_or_height_and_width(capsys):
    assert parsed("--image-size", "64", kind=ScreeningSettings) == {"image_size": (64, 64)}
    assert parsed("--image-size", "64", "32", kind=ScreeningSettings) == {"image_size": (64, 32)}
    with pytest.raises(SystemExit):
        parsed("--image-size", "64", "32", "48", kind=ScreeningSettings)
    assert "one or two numbers, not 3" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [Recipe, ScreeningSettings])
def test_every_field_is_a_flag_with_help(kind):
    parser = Parser(prog="test")
    add_options(parser, kind, {"epochs": 77})
    text = parser.format_help()
    for item in fields(kind):
        assert "--" + item.name.replace("_", "-") in text
    assert kind is not Recipe or "(default: 77)" in text


def test_json_comes_back():
    recipe = Recipe(seed=3, precision="fp16", dropout=0.25)
    settings = ScreeningSettings((300, 200), targets=("cancer",), columns={"cancer": "malignant"}, mean=0.5, std=0.25)
    for options in (recipe, settings):
        assert from_json(type(options), json.loads(json.dumps(to_json(options)))) == options


@pytest.mark.parametrize(
    ("values", "named"),
    [({"momentous": 1}, "momentous"), ({"epochs": 0}, "epochs"), ({"epochs": "7"}, "epochs"), ({"clip": []}, "clip")],
)
def test_what_no_flag_could_have_given_is_named(values, named):
    with pytest.raises(ValueError, match=named):
        from_json(Recipe, values)


def test_missing_settings_are_named():
    with pytest.raises(ValueError, match="image_size"):
        from_json(ScreeningSettings, {})


def test_the_stated_values_are_fields():
    known = {item.name for kind in (Recipe, ScreeningSettings) for item in fields(kind)}
    assert known >= set(RANDOM_START).union(*RECIPES.values())


@pytest.mark.parametrize(
    "flag", ["--learning-rate=0", "--epochs=0", "--clip=-1", "--dropout=1", "--seed=-1", "--precision=x"]
)
def test_values_out_of_range_are_usage_errors(flag, capsys):
    with pytest.raises(SystemExit) as caught:
        parsed(flag)
    assert caught.value.code == 2
    assert flag.partition("=")[0] in capsys.readouterr().err
