"""The recipe: dataclass <-> command line <-> JSON."""

import json
from dataclasses import fields

import pytest

from efficientnet.common.command_line import Parser
from efficientnet.mammography.settings import DEMO_RECIPE, RECIPE, DataSettings
from efficientnet.mammography.settings import from_dict as data_from_dict
from efficientnet.training.recipe import Recipe, add_arguments, from_dict, given_values


def parsed(*arguments):
    parser = Parser(prog="test")
    add_arguments(parser, Recipe())
    return given_values(parser.parse_args(list(arguments)))


def test_only_what_is_given_is_there():
    assert parsed() == {}
    given = parsed("--learning-rate", "0.5", "--no-prior-correction", "--precision", "bf16")
    assert given == {"learning_rate": 0.5, "prior_correction": False, "precision": "bf16"}


def test_every_field_is_a_flag_with_help():
    parser = Parser(prog="test")
    add_arguments(parser, Recipe())
    text = parser.format_help()
    for item in fields(Recipe):
        assert "--" + item.name.replace("_", "-") in text


def test_json_comes_back():
    recipe = Recipe(seed=3, precision="fp16", dropout=0.25)
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    settings = DataSettings((300, 200), targets=("cancer",), columns={"cancer": "malignant"})
    assert data_from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match="momentous"):
        from_dict({"momentous": 1})


def test_the_stated_values_are_fields():
    Recipe(**RECIPE)
    Recipe(**DEMO_RECIPE)


@pytest.mark.parametrize(
    "flag", ["--learning-rate=0", "--epochs=0", "--clip=-1", "--dropout=1", "--seed=-1", "--select=x"]
)
def test_values_out_of_range_are_usage_errors(flag, capsys):
    with pytest.raises(SystemExit) as caught:
        parsed(flag)
    assert caught.value.code == 2
    assert flag.partition("=")[0] in capsys.readouterr().err
