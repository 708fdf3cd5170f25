"""Baselines in JSON files, as `scale.py --json` prints them: for --baseline FILE. No torch here."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from efficientnet.baselines.stages import get_architecture
from efficientnet.common.files import write_json
from efficientnet.scaling import BLOCKS, CAN_SKIP, KEEP_CHANNELS, SMALLEST_IMAGE, Baseline, Stage

LARGEST_FILE = 1_000_000  # bytes
# Larger numbers in a file are damage, not architectures.
LARGEST_NUMBER = 1_000_000
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
    read, for stages that do not make a network, and for the name of a known architecture.
    """
    name = re.sub(r"[^\w.-]", "-", path.stem)
    if is_known(name):
        raise ValueError(f"{path}: {name} is the name of a known architecture; rename the file")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("has more than a megabyte")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("stages"), list):
            raise ValueError("has no list 'stages'")
        stages = tuple(read_stage(place, record) for place, record in enumerate(content["stages"], start=1))
        size, title = content.get("image_size"), content.get("title", path.stem)
        if type(size) is not int or not SMALLEST_IMAGE <= size <= LARGEST_NUMBER:
            raise ValueError(f"'image_size' must be at least {SMALLEST_IMAGE} and at most {LARGEST_NUMBER:,} pixels")
        if not isinstance(title, str) or not title.strip() or not title.isprintable():
            raise ValueError("'title' must be one line of text")
        check_chain(stages)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; it must be as scale.py --json prints an architecture") from None
    return Baseline(name, stages, size, title, str(path))


def is_known(name: str) -> bool:
    """Whether `create_model` and the commands would take the name for a released variant or a baseline of the paper."""
    try:
        get_architecture(name)
    except ValueError:
        return False
    return True


def read_stage(place: int, record: Any) -> Stage:
    """The stage in a record of the file. Raises ValueError for one that `EfficientNet` cannot build as it says."""
    try:
        stage = Stage(**{name: record[name] for name in STAGE_FIELDS if name in record})
    except TypeError:
        raise ValueError(f"stage {place} must have {', '.join(STAGE_FIELDS[:7])}") from None
    except ValueError as error:
        raise ValueError(f"stage {place}: {error}") from None
    if max(stage.kernel_size, stage.expansion, stage.in_channels, stage.out_channels) > LARGEST_NUMBER:
        raise ValueError(f"stage {place} has a number above {LARGEST_NUMBER:,}")
    if stage.kernel_size % 2 == 0 or stage.stride > 2:  # see `layers.same_padding`
        raise ValueError(f"stage {place} must have an odd kernel_size and a stride of 1 or 2")
    if stage.layers > 1 and stage.operator not in BLOCKS:
        raise ValueError(f"stage {place}, {stage.operator}, must have 1 layer, not {stage.layers}")
    if not stage.skip and stage.operator not in CAN_SKIP:
        raise ValueError(f"stage {place}: skip can be false for {', '.join(CAN_SKIP)}, not for {stage.operator}")
    if stage.operator == "bottleneck" and stage.expansion > stage.out_channels:
        raise ValueError(f"stage {place} has an expansion above its out_channels")
    return stage


def check_chain(stages: tuple[Stage, ...]) -> None:
    """Raise ValueError unless the stages are a stem, blocks and a head whose channels fit each other."""
    stem, *body, head = [stage.operator for stage in stages] if len(stages) > 1 else ["", ""]
    if stem != "conv" or head not in ("head", "classifier") or not {*body} & {*BLOCKS}:
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
