"""What a file of weights holds, and its weights under another library's names.

python -m efficientnet.weights info tf_efficientnet_b3_ns-9d44bf68.pth
python -m efficientnet.weights convert tf_efficientnet_b3_ns-9d44bf68.pth b3.safetensors
python -m efficientnet.weights convert runs/b3-1/best.pt b3.pth --to lukemelas
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from efficientnet.common.command_line import Parser, command, leave
from efficientnet.common.errors import UserError
from efficientnet.create import create_model
from efficientnet.weights.conventions import CONVENTIONS
from efficientnet.weights.files import WEIGHT_SUFFIXES
from efficientnet.weights.load import first_three, read_weights, save_weights
from efficientnet.weights.names import OURS
from efficientnet.weights.variants import ARCHITECTURES

PROGRAM = "efficientnet.weights"


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="info|convert")
    raw, libraries = argparse.RawDescriptionHelpFormatter, {"choices": list(CONVENTIONS), "metavar": "LIBRARY"}
    known = f"one of {', '.join(CONVENTIONS)}"
    information = commands.add_parser("info", formatter_class=raw, help="what a file holds, and its conventions")
    conversion = commands.add_parser("convert", formatter_class=raw, help="write a file's weights for another library")
    for parsed, name in ((information, "FILE"), (conversion, "IN")):
        parsed.add_argument("file", metavar=name, help=".pth, .pt, .bin or .safetensors, or lite0, lite1, lite2")
        parsed.add_argument("--source", help=f"where it is from, {known} (default: recognised)", **libraries)
        for name in ("mean", "std"):
            parsed.add_argument(
                f"--{name}",
                type=float,
                nargs="+",
                metavar="X",
                help=f"{name} of pixels in [0, 1] that it was trained with, one or one a channel (default: recognised)",
            )
    conversion.add_argument("out", type=Path, metavar="OUT", help=".pth, .pt, .bin or .safetensors")
    conversion.add_argument("--to", default=OURS.library, help="whose names it gets (default: ours)", **libraries)
    conversion.add_argument("--variant", choices=list(ARCHITECTURES), metavar="NAME", help="fail where it is another")
    conversion.add_argument("--any-convention", action="store_true", help="even if that library would pad otherwise")
    arguments = parser.parse_args(argv)
    if arguments.command == "convert":
        out = arguments.out
        if out.suffix not in WEIGHT_SUFFIXES:
            parser.error(f"{out}: OUT ends in {', '.join(WEIGHT_SUFFIXES)}")
        if not out.parent.is_dir():
            parser.error(f"{out}: there is no folder {out.parent}")
        if out.resolve() == Path(arguments.file).resolve():
            parser.error(f"{out}: OUT is IN; give it another name")
    if (arguments.mean is None) != (arguments.std is None):
        parser.error("--mean and --std belong together: give both or none")
    given = {name: getattr(arguments, name) for name in ("source", "mean", "std")}
    try:
        if arguments.command == "info":
            weights = read_weights(arguments.file, **given)
            classes = "no classifier" if weights.num_classes is None else f"{weights.num_classes} classes"
            print(weights.provenance.text())
            print(f"{len(weights.tensors)} tensors, {weights.in_channels} input channels, {classes}")
            if weights.architecture is None:
                closest, problems = weights.nearest()
                print(
                    f"nearest: {closest}; {first_three(problems)}" if closest else "nearest: none, most tensors differ"
                )
            return
        model = create_model(arguments.variant, weights=arguments.file, **given)
        save_weights(arguments.out, model, arguments.to, arguments.any_convention)
    except ValueError as error:
        raise UserError(error) from None
    print(f"{model.load_report.text()}\n{arguments.out} written with the names of: {arguments.to}")


if __name__ == "__main__":
    leave(main())
