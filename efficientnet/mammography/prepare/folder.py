"""A prepared data folder: the pictures of another folder, and the settings that they were made with.

train.csv, test.csv                             copies from the other folder
train_images/<patient_id>/<image_id>.png        prepared pictures (see picture.py); test_images/ likewise
prepared.json                                   settings, their key, and whether the folder is complete
failures.csv                                    path, reason and transfer_syntax of each file without a picture
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from efficientnet.common.errors import UserError
from efficientnet.common.files import write_json
from efficientnet.mammography.preprocessing import PICTURE_SETTINGS, VERSION, Preprocessing

DESCRIPTION = "prepared.json"


def write_description(root: Path, settings: Preprocessing, complete: bool) -> None:
    picture = {name: settings.to_dict()[name] for name in PICTURE_SETTINGS}
    description = {"version": VERSION, "key": settings.key, "settings": picture, "complete": complete}
    write_json(root / DESCRIPTION, description)


def read_description(root: Path) -> dict[str, Any] | None:
    """The content of prepared.json; None for a folder without it. Raises UserError if it is damaged."""
    try:
        description = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
        if set(description["settings"]) == set(PICTURE_SETTINGS) and {"version", "key", "complete"} <= set(description):
            settings = Preprocessing(**description["settings"])
            if description["key"] == settings.key or description["version"] != VERSION:
                return description
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{root / DESCRIPTION}: is damaged or of another version; delete {root} and prepare it again")


def prepared_settings(root: Path) -> dict[str, Any]:
    """The settings that a prepared folder was made with, by name; an empty dict for any other folder."""
    description = read_description(root)
    settings = {} if description is None else description["settings"]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def check_settings(root: Path, settings: Preprocessing) -> None:
    """Raise UserError if the folder was prepared with settings other than these."""
    description = read_description(root)
    if description is None or description["key"] == settings.key:
        return
    wanted, there = settings.to_dict(), description["settings"]
    different = [f"{name} {there[name]}, not {wanted[name]}" for name in there if there[name] != wanted[name]]
    reason = "; ".join(different) or f"version {description['version']} of the preprocessing, not {VERSION}"
    raise UserError(f"{root}: was prepared with {reason}; name the folder that it was made from, or prepare another")


def check_prepared(root: Path, settings: Preprocessing) -> None:
    """Raise UserError if the folder was prepared with settings other than these, or not to the end."""
    check_settings(root, settings)
    description = read_description(root)
    if description is not None and not description["complete"]:
        raise UserError(f"{root}: is not finished; give the same prepare command again, and it goes on")
