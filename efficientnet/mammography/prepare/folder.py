"""A prepared data folder: pictures made from another data folder, and the settings they were made with.

train.csv, test.csv                             copies from that folder
train_images/<patient_id>/<image_id>.png        prepared pictures (see picture.py); test_images/ likewise
prepared.json                                   settings, their key, whether the folder is complete; notes on sources
failures.csv                                    path, reason and transfer_syntax of each file without a picture
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from efficientnet.common.errors import UserError
from efficientnet.common.files import write_json
from efficientnet.mammography.preprocessing import PICTURE_SETTINGS, SOURCE_SETTINGS, VERSION, Preprocessing

DESCRIPTION = "prepared.json"


def write_description(
    root: Path, settings: Preprocessing, complete: bool, notes: Mapping[str, int] | None = None
) -> None:
    """Write prepared.json. `notes` counts what was wrong with the sources and how they were read."""
    values = settings.to_dict()
    picture, source = ({name: values[name] for name in names} for names in (PICTURE_SETTINGS, SOURCE_SETTINGS))
    description = {"version": VERSION, "key": settings.key, "settings": picture, "complete": complete}
    write_json(root / DESCRIPTION, description | {"source": source, "notes": dict(notes or {})})


def read_description(root: Path) -> dict[str, Any] | None:
    """The content of prepared.json; None for a folder without it. Raises UserError if it is damaged."""
    try:
        description = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
        if set(description["settings"]) == set(PICTURE_SETTINGS) and {"version", "key", "complete"} <= set(description):
            source = description.setdefault("source", {})  # older versions stored no source settings
            settings = Preprocessing(**description["settings"], **source)
            if description["key"] == settings.key or description["version"] != VERSION:
                return description
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"{root / DESCRIPTION}: is damaged or from another version; delete {root} and prepare it again")


def prepared_settings(root: Path) -> dict[str, Any]:
    """The settings that a prepared folder was made with, by name; an empty dict for any other folder."""
    description = read_description(root)
    settings = {} if description is None else description["settings"] | description["source"]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def check_settings(
    root: Path, settings: Preprocessing, names: Collection[str] = PICTURE_SETTINGS
) -> dict[str, Any] | None:
    """`read_description`; raises UserError if the version or a setting in `names` differs from `settings`."""
    description = read_description(root)
    if description is None:
        return None
    different = differences(description, settings, names)
    if not different and description["version"] == VERSION:
        return description
    reason = different or f"version {description['version']} of the preprocessing, not {VERSION}"
    raise UserError(f"{root}: was prepared with {reason}; pass the folder that it was made from, or prepare another")


def otherwise_read(root: Path, settings: Preprocessing) -> str | None:
    """One line if the folder was prepared with other SOURCE_SETTINGS than these; None otherwise."""
    description = read_description(root)
    different = description and differences(description, settings, SOURCE_SETTINGS)
    return f"{root} was prepared again since training, with {different}" if different else None


def differences(description: Mapping[str, Any], settings: Preprocessing, names: Collection[str]) -> str:
    """The settings in `names` that differ in a prepared folder, as text; a setting that it lacks is not compared."""
    wanted, there = settings.to_dict(), description["settings"] | description["source"]
    return "; ".join(
        f"{name} {there[name]} instead of {wanted[name]}"
        for name in names
        if there.get(name, wanted[name]) != wanted[name]
    )


def check_prepared(root: Path, settings: Preprocessing, names: Collection[str] = PICTURE_SETTINGS) -> None:
    """Raise UserError if the folder was prepared with other settings than these, or preparing it is not finished."""
    description = check_settings(root, settings, names)
    if description is not None and not description["complete"]:
        raise UserError(f"{root}: is incomplete; run the same prepare command again to finish it")
