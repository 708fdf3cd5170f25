"""Measure the speed of this EfficientNet beside other libraries.

    python -m efficientnet.benchmark                                    B0, 16 images of 224 pixels, prediction
    python -m efficientnet.benchmark --variant b3 --batch-size 8 --train
    python -m efficientnet.benchmark --batch-size 1 --peers torchvision --engines onnxruntime
    python -m efficientnet.benchmark --train --image-size 128 --data PHOTOS     and how fast train.py reads the folder
    python -m efficientnet.benchmark --scaling                          where time does not follow multiply-adds
    python -m efficientnet.benchmark --checkpoint runs/b3-1/best.pt     the effect of a lower precision on the metrics

Every measurement runs in a fresh process, and the libraries take turns over several rounds, so that a machine that
slows down slows all of them. Peers run with their defaults, in fp32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from efficientnet.baselines.stages import BASELINES, get_architecture
from efficientnet.benchmark.compare import (
    OURS,
    ceilings,
    check_engines,
    check_peers,
    compare,
    installed_engines,
    installed_peers,
    machine_text,
    processor,
)
from efficientnet.benchmark.scaling import compare_costs
from efficientnet.benchmark.worker import PEERS, Task
from efficientnet.common.command_line import Parser, command, leave, number, output_file, program_name
from efficientnet.common.errors import UserError
from efficientnet.common.files import write_json
from efficientnet.inference.engines import ENGINES
from efficientnet.scaling import SMALLEST_IMAGE, VARIANTS

PROGRAM = program_name("python -m efficientnet.benchmark")
ROUNDS, SECONDS = 5, 3.0
# Flags that --scaling and --checkpoint exclude, because they decide these values themselves.
DECIDED_BY = {
    "--scaling": ("variant", "image_size", "peers", "engines"),
    "--checkpoint": ("variant", "batch_size", "image_size", "peers", "engines", "rounds", "seconds", "threads"),
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog=PROGRAM, usage="%(prog)s [options]", description=__doc__)
    names = [*VARIANTS, *(name for name in BASELINES if name not in VARIANTS)]
    what = parser.add_argument_group("what is measured")
    what.add_argument("--variant", choices=names, metavar="NAME", help=f"{', '.join(names)} (default: b0)")
    what.add_argument(
        "--batch-size", type=number(int, 1), metavar="N", help="images at once (default: 16; 4 with --scaling)"
    )
    what.add_argument(
        "--image-size",
        type=number(int, SMALLEST_IMAGE),
        metavar="N",
        help="pixels a side (default: the variant's own)",
    )
    what.add_argument("--train", action="store_true", help="a training step instead of a prediction")
    what.add_argument(
        "--peers", metavar="NAME,...", help=f"some of {', '.join(PEERS)}; '': none (default: those installed)"
    )
    what.add_argument(
        "--engines",
        metavar="NAME,...",
        help=f"some of {', '.join(ENGINES[1:])}, which adds minutes; '': none (default: onnxruntime and openvino, if "
        "installed)",
    )
    what.add_argument("--scaling", action="store_true", help="B0 to B7 and ResNet-50: time beside multiply-adds")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="metrics of a checkpoint in each precision")
    what.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="data folder: for --checkpoint (default: that of its training); with --train, also measure how fast it is "
        "read",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--rounds", type=number(int, 1), metavar="N", help=f"processes of each library (default: {ROUNDS})"
    )
    how.add_argument(
        "--seconds", type=number(float, above=0), metavar="S", help=f"seconds of each process (default: {SECONDS:g})"
    )
    how.add_argument("--threads", type=number(int, 1), metavar="N", help="PyTorch's threads (default: its choice)")
    how.add_argument("--device", choices=["cuda", "cpu"], help="device (default: cuda if there is one)")
    how.add_argument("--json", type=output_file, metavar="FILE", help="also write all figures as JSON")
    arguments = parser.parse_args(argv)
    try:
        arguments.peers = check_peers(arguments.peers, arguments.variant or "b0")
        arguments.engines = check_engines(arguments.engines, arguments.train)
    except ValueError as error:
        parser.error(str(error))
    chosen = [f"--{name}" for name in ("train", "scaling", "checkpoint") if getattr(arguments, name)]
    if len(chosen) > 1:
        parser.error(f"{' and '.join(chosen)} cannot be combined")
    if arguments.data is not None and not (arguments.checkpoint or arguments.train):
        parser.error("--data needs --checkpoint or --train")
    for mode in chosen:
        given = [name for name in DECIDED_BY.get(mode, ()) if getattr(arguments, name) not in (None, False)]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            parser.error(f"{flags} cannot be combined with {mode}, which makes its own choice")
    return arguments


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device; omit the flag")
    if arguments.checkpoint is not None:
        from efficientnet.benchmark.checkpoint import compare_precisions  # the other modes need no tasks

        text, result = compare_precisions(arguments.checkpoint, arguments.data, torch.device(device))
    else:
        variant = arguments.variant or "b0"
        task = Task(
            OURS,
            variant,
            arguments.batch_size or (4 if arguments.scaling else 16),
            arguments.image_size or get_architecture(variant).image_size,
            arguments.train,
            device=device,
            seconds=arguments.seconds or SECONDS,
            threads=arguments.threads,
        )
        peers = [] if arguments.scaling else installed_peers(arguments.peers, variant)
        engines = [] if arguments.train or arguments.scaling else installed_engines(arguments.engines, device)
        rounds = arguments.rounds or ROUNDS
        machine = ceilings(task)
        print(machine_text(machine, device, arguments.threads or torch.get_num_threads()), flush=True)
        if arguments.scaling:
            text, result = compare_costs(task, rounds, machine)
        else:
            text, result = compare(task, peers, engines, rounds, machine)
        if arguments.data is not None:
            from efficientnet.benchmark.reading import measure_reading

            line, reading = measure_reading(
                arguments.data, variant, task.image_size, task.batch_size, task.seconds, device
            )
            text, result = f"{text}\n\n{line}", result | reading
        result = {"machine": machine, "processor": processor(), "torch": torch.__version__, **result}
    print(text)
    if arguments.json is not None:
        write_json(arguments.json, result)
    if result.get("failures"):
        raise UserError("; ".join(result["failures"]))


if __name__ == "__main__":
    leave(main())
