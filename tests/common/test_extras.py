"""Optional packages: imported when needed, and one line where they are missing."""

import math
import sys

import pytest

from efficientnet.common import command_line
from efficientnet.common.extras import MissingExtra, require


def test_an_installed_package_is_imported():
    assert require("math", "codecs", "counting") is math


def test_a_missing_package_is_one_line_that_names_it_and_what_needs_it():
    with pytest.raises(MissingExtra) as caught:
        require("no_such_package.part", "safetensors", "reading a.safetensors")
    assert str(caught.value).startswith("reading a.safetensors needs the package no_such_package: pip install")
    assert "[safetensors]" in str(caught.value) and "\n" not in str(caught.value)


def test_a_package_that_misses_another_one_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        require("broken_package", "safetensors", "reading")
    assert not isinstance(caught.value, MissingExtra)


def test_commands_end_with_the_line_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    main = command_line.command("command")(lambda argv: require("safetensors", "safetensors", "reading"))
    assert main([]) == 1
    assert capsys.readouterr().err.startswith("command: error: reading needs the package safetensors")
