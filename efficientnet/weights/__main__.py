"""Show the content of a file of weights, or write its weights under another library's names.

python -m efficientnet.weights info tf_efficientnet_b3_ns-9d44bf68.pth
python -m efficientnet.weights convert tf_efficientnet_b3_ns-9d44bf68.pth b3.safetensors
python -m efficientnet.weights convert runs/b3-1/best.pt b3.pth --to lukemelas
python -m efficientnet.weights info torchvision --variant b3
python -m efficientnet.weights convert timm:efficientnet_b3.ra2_in1k b3.pt
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficientnet.common.command_line import Parser, command, leave, output_file, program_name
from efficientnet.common.errors import UserError
from efficientnet.create import create_model
from efficientnet.weights.conventions import CONVENTIONS
from efficientnet.weights.files import WEIGHT_SUFFIXES
from efficientnet.weights.load import first_three, inspect_weights, save_weights
from efficientnet.weights.names import OURS
from efficientnet.weights.recognise import TIMM_FAMILIES, UnknownFamily
from efficientnet.weights.variants import ARCHITECTURES, nearest_architecture

PROGRAM = program_name("python -m efficientnet.weights")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="info|convert")
    information = commands.add_parser("info", help="show a file's content and conventions")
    conversion = commands.add_parser("convert", help="write a file's weights for another library")
    libraries = {"choices": list(CONVENTIONS), "metavar": "LIBRARY"}
    known = ", ".join(CONVENTIONS)
    kinds = (
        ".pth, .pt, .bin or .safetensors, its https: URL, lite0 to lite2 (an installed package), torchvision (with "
        "--variant), or a name such as timm:efficientnet_b3.ra2_in1k; see efficientnet/weights/published.py for names"
    )
    for added, metavar in ((information, "FILE"), (conversion, "IN")):
        added.add_argument("file", metavar=metavar, help=kinds)
        added.add_argument("--source", help=f"library it comes from, one of {known} (default: recognised)", **libraries)
        added.add_argument(
            "--variant",
            choices=list(ARCHITECTURES),
            metavar="NAME",
            help="expected variant (an error if it differs); selects the network for torchvision",
        )
        for name in ("mean", "std"):
            text = f"{name} of the training pixels in [0, 1], one value or one per channel (default: recognised)"
            added.add_argument(f"--{name}", type=float, nargs="+", metavar="X", help=text)
    conversion.add_argument("out", type=output_file, metavar="OUT", help=".pth, .pt, .bin or .safetensors")
    conversion.add_argument(
        "--to", default=OURS.library, help="write names of this library (default: ours)", **libraries
    )
    conversion.add_argument(
        "--any-convention",
        action="store_true",
        help="convert even if that library's padding or batch-norm eps differs",
    )
    arguments = parser.parse_args(argv)
    if arguments.command == "convert":
        out = arguments.out
        if out.suffix not in WEIGHT_SUFFIXES:
            parser.error(f"{out}: OUT must end in one of {', '.join(WEIGHT_SUFFIXES)}")
        if out.resolve() == Path(arguments.file).resolve():
            parser.error(f"{out}: OUT must differ from IN")
    if (arguments.mean is None) != (arguments.std is None):
        parser.error("--mean and --std belong together: give both or none")
    return arguments


def show(arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    """Print what `info` finds. A file that may be from either of timm's families gets a line for each."""
    question = None
    try:
        readings = [inspect_weights(arguments.file, variant=arguments.variant, **given)]
    except UnknownFamily as unknown:
        question = unknown
        readings = [inspect_weights(arguments.file, **{**given, "source": family}) for family in TIMM_FAMILIES]
    weights = readings[0]
    for reading in readings:
        print(reading.provenance.text())
    classes = "no classifier" if weights.num_classes is None else f"{weights.num_classes} classes"
    print(f"{len(weights.tensors)} tensors, {weights.in_channels} input channels, {classes}")
    if weights.architecture is None:
        nearest, problems = nearest_architecture(weights.names, weights.tensors)
        print(f"nearest: {nearest}; {first_three(problems)}" if nearest else "nearest: none (most tensors differ)")
    if weights.network.prefix:
        print(f"prefix: {weights.network.prefix}")
    if weights.network.ignored:
        print(f"ignored: {first_three(weights.network.ignored, ', ')}")
    if question:
        print(question)
    variant = weights.provenance.variant or "no known variant"
    if arguments.variant not in (None, variant):
        raise UserError(f"{weights.path}: is {variant}, not {arguments.variant}")
    weights.check_finite()


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    given = {name: getattr(arguments, name) for name in ("source", "mean", "std")}
    try:
        if arguments.command == "info":
            show(arguments, given)
            return
        model = create_model(arguments.variant, weights=arguments.file, **given)
        save_weights(arguments.out, model, arguments.to, arguments.any_convention)
    except ValueError as error:
        raise UserError(error) from None
    print(f"{model.load_report.text()}\nwrote {arguments.out} (names: {arguments.to})")
    if arguments.to != OURS.library:
        print("note: it records no mean and std; pass them when you load it, if they are not that library's own")


if __name__ == "__main__":
    leave(main())
