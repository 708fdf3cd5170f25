"""Baselines in JSON files, as `scale.py --json` prints them: for --baseline FILE. No torch here."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from efficientnet.baselines.stages import BASELINES
from efficientnet.common.files import write_json
from efficientnet.scaling import BLOCKS, KEEP_CHANNELS, LITE_VARIANTS, SMALLEST_IMAGE, VARIANTS, Baseline, Stage

LARGEST_FILE = 1_000_000  # bytes
STAGE_FIELDS = tuple(item.name for item in fields(Stage))


def baseline_to_dict(baseline: Baseline) -> dict[str, Any]:
    """The content of a file: {title, image_size, stages: [{operator, kernel_size, ...}, ...]}."""
    stages = [asdict(stage) for stage in baseline.stages]
    return {"title": baseline.title, "image_size": baseline.image_size, "stages": stages}


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write the baseline atomically. `read_baseline` names it after the file."""
    write_json(path, baseline_to_dict(baseline))


def read_baseline(path: Path) -> Baseline:
    """The baseline in a JSON file with `image_size` and `stages`; its name is that of the file.

    Anything else in the file is ignored, except a `title`. Raises ValueError, in one line, for a file that cannot be
    read and for stages that do not make a network.
    """
    name = re.sub(r"[^\w.-]", "-", path.stem)
    if name.lower() in BASELINES | VARIANTS | LITE_VARIANTS:
        raise ValueError(f"{path}: {name} is the name of a known architecture; rename the file")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("has more than a megabyte")
        content = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(
            Stage(**{name: each[name] for name in STAGE_FIELDS if name in each}) for each in content["stages"]
        )
        size, title = content["image_size"], content.get("title", path.stem)
        if type(size) is not int or size < SMALLEST_IMAGE:
            raise ValueError(f"image_size must be a whole number of at least {SMALLEST_IMAGE} pixels, not {size!r}")
        if not isinstance(title, str) or not title.isprintable():
            raise ValueError("title must be one line of text")
        check_chain(stages)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except LookupError as error:
        raise ValueError(f"{path}: no {error}; it must be as scale.py --json prints an architecture") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}; it must be as scale.py --json prints an architecture") from None
    return Baseline(name, stages, size, title, str(path))


def check_chain(stages: tuple[Stage, ...]) -> None:
    """Raise ValueError unless the stages are a stem, blocks and a head whose channels fit each other."""
    if len(stages) < 3 or stages[0].operator != "conv" or stages[-1].operator not in ("head", "classifier"):
        raise ValueError("its stages must be a conv stem, at least one stage of blocks, and a head")
    for place, (before, stage) in enumerate(itertools.pairwise(stages), start=2):
        if stage.in_channels != before.out_channels:
            raise ValueError(
                f"stage {place} takes {stage.in_channels} channels, but stage {place - 1} has {before.out_channels}"
            )
        if stage.operator in KEEP_CHANNELS and stage.in_channels != stage.out_channels:
            raise ValueError(f"stage {place}, {stage.operator}, cannot change its channels")
        if place < len(stages) and stage.operator not in (*BLOCKS, "max_pool"):
            raise ValueError(f"stage {place} cannot be {stage.operator!r}, which stands first or last")
