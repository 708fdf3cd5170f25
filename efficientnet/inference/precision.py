"""Number formats of a network: fp32, bf16, fp16."""

from __future__ import annotations

import contextlib

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """`torch.autocast` at "bf16" or "fp16"; at "fp32" it does nothing."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")
