"""Optional packages, imported at first use. A missing package is reported in one line."""

from __future__ import annotations

import importlib
from types import ModuleType

from efficientnet.common.errors import UserError


class MissingExtra(UserError, ImportError):
    """An optional package is not installed; str() is one line that says what needs it and how to install it."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import and return `module`, which the optional dependency group `extra` of pyproject.toml installs.

    purpose: what needs the package, as the start of the error message, such as "reading a.safetensors".
    Raises MissingExtra if the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        clone = f'pip install -e ".[{extra}]" in a clone'
        raise MissingExtra(f"{purpose} needs the package {package}: pip install {package}, or {clone}") from None
