"""Export a trained checkpoint to a file that other programs run: ONNX, or PyTorch's own exported program.

    python -m efficientnet.export --checkpoint runs/b3-1/best.pt --onnx b3.onnx
    python -m efficientnet.export --checkpoint runs/b3-1/best.pt --program b3.pt2
    python -m efficientnet.export --checkpoint runs/b3-1/best.pt --onnx b3.onnx --features

The input is "images", float32 (N, C, H, W), preprocessed and normalised as its metadata describe. N is free; H and W
are at least 32 in ONNX and 33 in a program. The output is "logits", float32 (N, O), whose metadata say what they mean:
the targets of mammograms, or the classes of image folders. With --features it is "features", float32 (N, F): the last
layer pooled over the pixels, which is the input of the classifier.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from efficientnet.common.command_line import Parser, command, leave, output_file, program_name
from efficientnet.common.errors import UserError
from efficientnet.common.files import atomic_file, write_bytes
from efficientnet.inference.exported import INPUT, exported, to_onnx
from efficientnet.inference.fast_path import optimize_for_inference
from efficientnet.model import JointViews
from efficientnet.tasks import task_of_checkpoint
from efficientnet.training.ensemble import find_checkpoints, load_member
from efficientnet.training.task import Exported

PROGRAM = program_name("python -m efficientnet.export")
LOGITS, FEATURES = "logits", "features"


def metadata(name: str, content: Exported, output: str) -> dict[str, str]:
    """Everything that a user of the file needs besides the network, as text or JSON.  name: the architecture's."""
    values = {"architecture": name, **content.values, **(content.of_logits if output == LOGITS else {})}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def write_onnx(program: ExportedProgram, path: Path, properties: dict[str, str], output: str) -> None:
    """Write an ONNX file. Raises MissingExtra without the packages onnx and onnxscript."""
    model = to_onnx(program, output)
    for name, value in properties.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    write_bytes(path, model.SerializeToString())


def write_program(program: ExportedProgram, path: Path, properties: dict[str, str]) -> None:
    """Write the program and its properties. `torch.export.load(path, extra_files={"metadata.json": ""})` reads both."""
    with atomic_file(path) as file:
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(properties)})


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a run folder, or its best.pt")
    parser.add_argument(
        "--onnx", type=output_file, metavar="FILE.onnx", help="write ONNX (packages onnx and onnxscript)"
    )
    parser.add_argument("--program", type=output_file, metavar="FILE.pt2", help="write a torch.export program")
    parser.add_argument("--features", action="store_true", help="output pooled features instead of logits")
    parser.add_argument("--no-fold", action="store_true", help="export the network as trained, without the fast path")
    arguments = parser.parse_args(argv)
    if arguments.onnx is None and arguments.program is None:
        parser.error("choose an output: --onnx FILE, --program FILE, or both")
    return arguments


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    path, *folds = find_checkpoints([arguments.checkpoint])
    if folds:
        raise UserError(f"{arguments.checkpoint}: has a checkpoint for each fold; name one, such as {path}")
    task = task_of_checkpoint(path)
    member = load_member(path, task, torch.device("cpu"), engine=None)
    if isinstance(member.model, JointViews):
        raise UserError(
            f"{member.path}: scores all views of a breast together, which cannot be exported; "
            "export a checkpoint that was trained with --views mean"
        )
    # For images of any size, proofs about strides take minutes in channels_last layout, and seconds in contiguous.
    network = member.model.to(memory_format=torch.contiguous_format)
    output, columns = LOGITS, network.num_classes
    if arguments.features:
        output, columns = FEATURES, network.num_features
        network.classifier = nn.Identity()
    network = network if arguments.no_fold else optimize_for_inference(network, fused=False)
    content = task.exported(member.path, member.content, network)
    program = exported(network if arguments.features else content.network, member.model.in_channels)
    properties = metadata(member.name, content, output)
    for path, write in ((arguments.onnx, partial(write_onnx, output=output)), (arguments.program, write_program)):
        if path is not None:
            write(program, path, properties)
            print(
                f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {INPUT} (N, {member.model.in_channels}, H, W) -> "
                f"{output} (N, {columns}), {'pooled' if arguments.features else content.outputs}"
            )


if __name__ == "__main__":
    leave(main())
