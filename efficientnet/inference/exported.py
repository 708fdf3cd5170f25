"""Export of a network for other programs: PyTorch's exported program, and ONNX."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from efficientnet.common.extras import require

INPUT = "images"
SMALLEST = 33  # height and width that the guards of a program allow
WRITERS = ("onnx", "onnxscript")  # packages that write ONNX


def exported(network: nn.Module, channels: int) -> ExportedProgram:
    """Export a network that takes images (N, channels, H, W), for any N, and any H and W from SMALLEST.

    The example has a size that every padding changes. It has two images, since the exporter treats a size of 1
    as a constant. The strides reduce 32 pixels to 1, so a program's guards refuse 32 as well. ONNX has no guards.
    """
    example = torch.zeros(2, channels, 97, 66, device=next(network.parameters()).device)
    sizes = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    with torch.no_grad():
        return torch.export.export(network.eval(), (example,), dynamic_shapes=(sizes,))


def to_onnx(program: ExportedProgram, output: str) -> Any:
    """The program as an `onnx.ModelProto`; its output has this name. Raises MissingExtra without `WRITERS`."""
    require("onnx", "export", "writing ONNX")
    require("onnxscript", "export", "writing ONNX")
    return torch.onnx.export(
        program, dynamo=True, input_names=[INPUT], output_names=[output], verbose=False, optimize=True
    ).model_proto
