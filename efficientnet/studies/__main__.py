"""The paper's experiments at desk scale, on a folder of images: each trains its networks and compares them.

python -m efficientnet.studies fig8 --data CIFAR --budget-hours 2   one dimension against all at the same cost, Figure 8
python -m efficientnet.studies step1 --data CIFAR                   alpha, beta and gamma, STEP 1 of section 4
python -m efficientnet.studies table3 --data CIFAR                  fig8 for MobileNetV2 and ResNet
python -m efficientnet.studies search --data CIFAR                  a baseline by evolution, and at random
python -m efficientnet.studies fig8 --data CIFAR --dry-run          the networks and the time they take

Small baselines take the place of the paper's, chosen to fit the budget. A study that was stopped or killed continues
when the same command is given again. README.md beside this file has what they found on CIFAR-10.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from efficientnet.baselines.files import write_baseline
from efficientnet.common.command_line import Parser, command, leave, number, output_folder, program_name
from efficientnet.common.extras import MissingExtra
from efficientnet.common.files import write_bytes
from efficientnet.common.text import counted
from efficientnet.scaling import SMALLEST_IMAGE
from efficientnet.studies.budget import fit, machine_for, possible_designs
from efficientnet.studies.design import FIG8, RECIPE, SCALED_BASELINES, STEP1, TABLE3, Data, Design
from efficientnet.studies.networks import SIZES
from efficientnet.studies.results import Row, plot_png, results_text, table
from efficientnet.studies.search import EVOLUTION, SHORT_IMAGES, Search, Settings
from efficientnet.studies.search_results import search_png, search_text
from efficientnet.studies.speed import measured_seconds
from efficientnet.studies.study import Study, duration
from efficientnet.training.folder import RunFolder
from efficientnet.training.runs import Machine

PROGRAM = program_name("python -m efficientnet.studies")
SEARCH = "search"
HELP = {
    FIG8: "a small B0, scaled by depth, width, resolution or all of them to the same multiply-adds",
    STEP1: "a small B0, scaled by several alpha, beta, gamma to the same multiply-adds",
    TABLE3: "fig8 for a small MobileNetV2 and a small ResNet-50",
    SEARCH: "a baseline in MnasNet's search space around a small B0, by regularised evolution and at random",
}


def make_parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="study", metavar="STUDY", required=True, parser_class=Parser)
    whole, positive = number(int, 1), number(float, above=0)
    for name, text in HELP.items():
        about = {"description": f"{text[0].upper()}{text[1:]}.", "help": text, "usage": "%(prog)s [options]"}
        one = commands.add_parser(name, prog=f"{PROGRAM} {name}", **about)
        one.add_argument("--data", type=Path, metavar="DIR", help="image folder: train/ and val/ or test/, or classes")
        place = f"folder of the study (default: runs/{name})"
        one.add_argument("--output", type=output_folder, metavar="DIR", help=place)
        what = "time to fit the work to (default: 2)"
        one.add_argument("--budget-hours", type=positive, metavar="H", help=what)
        one.add_argument("--seeds", type=whole, metavar="N", help="runs of each compared network (default: 3)")
        of = "short training" if name == SEARCH else "run"
        fits = "1" if name == SEARCH else "what fits"
        one.add_argument("--epochs", type=whole, metavar="N", help=f"epochs of each {of} (default: {fits})")
        fits = f"about {SHORT_IMAGES:,} in all" if name == SEARCH else "all, or what fits"
        one.add_argument(
            "--images-per-class", type=whole, metavar="N", help=f"images of each class for each {of} (default: {fits})"
        )
        one.add_argument(
            "--size",
            nargs=2,
            type=positive,
            metavar=("WIDTH", "PIXELS"),
            help="width and image size of the small baseline (default: "
            + (f"{SIZES[0][0]:g} {SIZES[0][1]})" if name == SEARCH else "what fits)"),
        )
        if name == STEP1:
            one.add_argument("--candidates", type=number(int, 2), metavar="N", help="candidates to train (default: 8)")
        elif name == SEARCH:
            one.add_argument(
                "--networks", type=whole, metavar="N", help="networks of the evolution (default: what fits)"
            )
            one.add_argument("--population", type=number(int, 2), metavar="N", help="living networks (default: 16)")
            one.add_argument(
                "--sample", type=whole, metavar="N", help="living networks of which the best is mutated (default: 5)"
            )
            one.add_argument(
                "--final-epochs", type=whole, metavar="N", help="epochs of the best networks (default: what fits)"
            )
            one.add_argument("--seed", type=number(int, 0), metavar="N", help="seed of the search (default: 0)")
        else:
            one.add_argument(
                "--growth",
                nargs="+",
                type=number(float, above=1),
                metavar="N",
                help="multiply-adds of the scaled networks, in the baseline's, roughly (default: 4)",
            )
        one.add_argument("--jobs", type=whole, metavar="N", help="runs at a time (default: what is faster)")
        one.add_argument("--dry-run", action="store_true", help="print what would be trained and the time, and stop")
    return parser


# Fields of a design or of a search's settings whose flag has another name, and those that may grow later.
FLAGS = {"growths": "growth", "sizes": "size"}
MAY_GROW = ("seeds", "networks")


def asked(arguments: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of a `Design` or of a search's `Settings` whose flags are given. ValueError for a size of no image."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    if "growth" in given:
        given["growths"] = tuple(sorted(set(given["growth"])))
    if "size" in given:
        width, pixels = given["size"]
        if pixels != int(pixels) or pixels < SMALLEST_IMAGE:
            raise ValueError(f"--size: {pixels:g} pixels: give a whole number of at least {SMALLEST_IMAGE}")
        given["size"] = (width, int(pixels))
        given["sizes"] = (given["size"],) * len(SCALED_BASELINES.get(arguments.study, ()))
    return {item.name: given[item.name] for item in fields(kind) if item.name in given and item.name != "data"}


def continued(folder: Path, begun: Any, arguments: argparse.Namespace) -> Any:
    """The design or the settings that were begun in the folder, with data that have moved, and with more seeds.

    Raises ValueError if the flags contradict them, or if the data have changed.
    """
    data = Data.of(arguments.data or Path(begun.data.path))
    if replace(data, path=begun.data.path) != begun.data:
        raise ValueError(f"{folder} was begun with {begun.data}; {data.path} differs: choose another --output")
    given = asked(arguments, type(begun))
    for name, value in given.items():
        before = getattr(begun, name)
        if value != before and not (name in MAY_GROW and value > before):
            raise ValueError(
                f"--{FLAGS.get(name, name).replace('_', '-')}: {folder} was begun with {before}, not {value}; omit the "
                "flag, or choose another --output"
            )
    return replace(begun, **given, data=data)


def check_free(folder: Path) -> None:
    """Raise ValueError for a folder in which a new study cannot begin, such as that of a study of another kind."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} already contains other files: choose another --output")


def data_of(arguments: argparse.Namespace) -> Data:
    if arguments.data is None:
        raise ValueError("--data is missing: the folder of images")
    return Data.of(arguments.data)


def begin(arguments: argparse.Namespace, folder: Path) -> tuple[Study, Machine]:
    """Decide what the study compares, so that it fits the budget. Raises ValueError for sizes that do not work."""
    design = Design(data=data_of(arguments), **asked(arguments, Design))
    if design.sizes:
        design.networks()
    designs = [design] if design.sizes else possible_designs(design)
    with tempfile.TemporaryDirectory() as scratch:
        machine = machine_of(Study(Path(scratch), designs[0], ()), arguments.jobs)

        def measure(design: Design) -> list[float]:
            study = Study(Path(scratch), design, ())
            study.write_baselines()
            return measured_seconds([study.flags(network) for network in study.networks], machine)

        return Study(folder, *fit(designs, machine.jobs, arguments.epochs, measure)), machine


def machine_of(study: Study, jobs: int | None) -> Machine:
    """How this machine trains the networks of the study fastest, judged by its first one."""
    study.write_baselines()
    return machine_for(jobs, lambda: study.flags(study.networks[0]))


def description(study: Study, machine: Machine) -> str:
    """What the study compares, and how long it takes."""
    design, seconds = study.design, study.design.seeds * sum(study.seconds) / machine.jobs
    rows = table([Row(network, []) for network in study.networks])
    runs = design.seeds * len(study.networks)
    what = f"{counted(runs, 'run')} ({counted(len(study.networks), 'network')}, {counted(design.seeds, 'seed')})"
    return "\n".join(
        [
            f"data     {design.data}",
            f"recipe   {counted(design.epochs, 'epoch')} of {design.train_images:,} images; {' '.join(RECIPE)}",
            f"time     {what}, {machine}: about {duration(seconds)}",
            "",
            *rows,
        ]
    )


def plan_study(arguments: argparse.Namespace, folder: Path) -> Callable[[], None]:
    """Begin or continue fig8, step1 or table3: print it, and return what trains it.

    Raises ValueError for flags that do not fit.
    """
    study = Study.read(folder)
    if study is None:
        check_free(folder)
        study, machine = begin(arguments, folder)
    else:
        study = replace(study, design=continued(folder, study.design, arguments))
        machine = machine_of(study, arguments.jobs)
    print(f"{description(study, machine)}\n", flush=True)

    def train() -> None:
        study.write()
        with RunFolder(folder).lock():
            trained = study.train(machine)
            report(folder, results_text(study.design, trained), lambda: plot_png(study.design, trained))

    return train


def plan_search(arguments: argparse.Namespace, folder: Path) -> Callable[[], None]:
    """The same for a search."""
    begun = Search.read(folder)
    if begun is None:
        check_free(folder)
        search = Search(folder, Settings(data=data_of(arguments), **asked(arguments, Settings)))
    else:
        search = replace(begun, settings=continued(folder, begun.settings, arguments))
    search.check()
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "start.json"
        write_baseline(start, search.space.baseline)
        machine = machine_for(arguments.jobs, lambda: search.flags(start))
        (second,) = measured_seconds([search.flags(start)], machine)
    if begun is None:
        search = search.fitted(machine, second)
    print(f"{search.description(machine, second)}\n", flush=True)

    def train() -> None:
        search.begin()
        with RunFolder(folder).lock():
            scored = search.train(machine)
            rows = search.train_finalists(scored, machine, second)
            report(folder, search_text(search, scored, rows), lambda: search_png(search, scored))
        print(f"next     {program_name('python scale.py')} --baseline {shlex.quote(str(search.file(EVOLUTION)))}")

    return train


def report(folder: Path, text: str, plot: Callable[[], bytes]) -> None:
    """Print and write results.txt, and draw results.png where matplotlib is installed."""
    write_bytes(folder / "results.txt", f"{text}\n".encode())
    print(f"\n{text}\n")
    try:
        write_bytes(folder / "results.png", plot())
    except MissingExtra as error:
        print(error)
    print(f"results  {folder}")


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    folder = (arguments.output or Path("runs") / arguments.study).resolve()
    try:
        train = (plan_search if arguments.study == SEARCH else plan_study)(arguments, folder)
    except ValueError as error:
        parser.error(str(error))
    if not arguments.dry_run:
        train()


if __name__ == "__main__":
    leave(main())
