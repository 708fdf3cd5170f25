"""EfficientNet from scratch in plain PyTorch. Importing the package does not import torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from efficientnet.baselines.stages import BASELINES, MOBILENET_V1, MOBILENET_V2, RESNET_50, get_baseline
from efficientnet.complexity import complexity, stage_complexities
from efficientnet.scaling import (
    B0,
    LITE_VARIANTS,
    VARIANTS,
    Baseline,
    Coefficients,
    Stage,
    compound_coefficients,
    get_variant,
    scale,
)

if TYPE_CHECKING:
    from efficientnet.create import create_model, list_models
    from efficientnet.layers import Convention, MBConv, SqueezeExcitation, StochasticDepth
    from efficientnet.model import EfficientNet

__version__ = "0.1.0"

__all__ = [
    "B0",
    "BASELINES",
    "LITE_VARIANTS",
    "MOBILENET_V1",
    "MOBILENET_V2",
    "RESNET_50",
    "VARIANTS",
    "Baseline",
    "Coefficients",
    "Convention",
    "EfficientNet",
    "MBConv",
    "SqueezeExcitation",
    "Stage",
    "StochasticDepth",
    "complexity",
    "compound_coefficients",
    "create_model",
    "get_baseline",
    "get_variant",
    "list_models",
    "scale",
    "stage_complexities",
]

# Names that need torch, and their modules. They are imported on first use (PEP 562), so scale.py never imports torch.
LAZY = {
    "Convention": "layers",
    "MBConv": "layers",
    "SqueezeExcitation": "layers",
    "StochasticDepth": "layers",
    "EfficientNet": "model",
    "create_model": "create",
    "list_models": "create",
}


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(importlib.import_module(f"efficientnet.{LAZY[name]}"), name)
    raise AttributeError(f"module 'efficientnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
