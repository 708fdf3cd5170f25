"""The parts of a model card, in Markdown, that do not depend on the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efficientnet.architecture import Architecture
from efficientnet.complexity import complexity


def architecture_section(architecture: Architecture, size: tuple[int, int], outputs: int, channels: int) -> str:
    """Parameters, multiply-adds and stages.  size: (height, width) of the input."""
    counts = complexity(architecture.stages, size, outputs, channels)
    rows = "\n".join(
        f"| {stage.label} | {stage.stride} | {stage.out_channels} | {stage.layers} |" for stage in architecture.stages
    )
    return f"""## Architecture
{counts.parameters:,} parameters, {counts.multiply_adds:,} multiply-adds per image.

| operator | stride | channels | layers |
|---|---|---|---|
{rows}
"""


def recipe_section(recipe: Mapping[str, Any]) -> str:
    return f"""## Recipe
{", ".join(f"{name} {value}" for name, value in recipe.items() if value is not None)}
"""
