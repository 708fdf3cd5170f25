"""Packages that only some functions need.  They are imported at first use, and a missing one is told in one line."""

from __future__ import annotations

import importlib
from types import ModuleType

from efficientnet.common.errors import UserError


class MissingExtra(UserError, ImportError):
    """A package of an extra is not installed; str() is one line that says what needs it and how to get it."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports `module`, which the extra of that name in pyproject.toml brings.

    purpose: what needs it, as the beginning of a sentence, such as "reading a.safetensors".
    Raises MissingExtra where the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        clone = f'pip install -e ".[{extra}]" in a clone'
        raise MissingExtra(f"{purpose} needs the package {package}: pip install {package}, or {clone}") from None
