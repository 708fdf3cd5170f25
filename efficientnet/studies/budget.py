"""How runs share this machine, and what of a study fits into some hours on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from efficientnet.common.cpu import usable_cores
from efficientnet.common.errors import UserError
from efficientnet.studies.design import SCALED_BASELINES, Design
from efficientnet.studies.networks import SIZES, small_baseline
from efficientnet.studies.speed import measured_seconds
from efficientnet.training.runs import Machine

ENOUGH_EPOCHS = 5  # for which time is left before a larger baseline is taken
FEWEST_IMAGES = 10  # of a class
START_SECONDS = 10.0  # of a run: imports, listing the images, recalibrating batch norm
VALIDATION_COST = 1 / 3  # the time of an image in validation, as a share of that in training


def machine_for(jobs: int | None, flags: Callable[[], Sequence[str]]) -> Machine:
    """One run on each GPU; without GPUs, up to 8 runs on a share of the cores each, or one on all, measured.

    jobs: runs at a time, if given.  flags: returns those of train.py for the network to measure.
    """
    cores, gpus = usable_cores(), visible_gpus()
    if jobs is not None or gpus or cores == 1:
        jobs = jobs or len(gpus) or 1
        return Machine(jobs, max(1, cores // jobs), gpus)
    threads = -(-cores // 8)
    apart, together = Machine(cores // threads, threads), Machine(1, cores)
    (slower,), (faster,) = (measured_seconds([flags()], each) for each in (apart, together))
    return apart if slower / apart.jobs < faster else together


def loader_flags(machine: Machine) -> tuple[str, ...]:
    """On a GPU, a run has its share of the cores for loading; on a CPU it loads by itself, or it would take others'."""
    return ("--workers", str(min(8, machine.threads) if machine.gpus else 0))


def visible_gpus() -> tuple[str, ...]:
    chosen, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return tuple(chosen.split(",")[:count] if chosen else map(str, range(count)))


def possible_designs(design: Design) -> list[Design]:
    """The design with each of the `SIZES`, from the cheapest on, at which its baselines can be scaled as it asks.

    Raises UserError if a baseline cannot be at any size.
    """
    possible = []
    for full in SCALED_BASELINES[design.study]:
        sizes, problem = [], ""
        for size in SIZES:
            try:
                design.networks_of(small_baseline(full, *size))
                sizes.append(size)
            except ValueError as error:
                problem = str(error)
        if not sizes:
            raise UserError(f"{problem}: choose another --growth")
        possible.append(sizes)
    places = range(max(map(len, possible)))
    return [replace(design, sizes=tuple(sizes[min(place, len(sizes) - 1)] for sizes in possible)) for place in places]


def fit(
    designs: Sequence[Design], jobs: int, epochs: int | None, measure: Callable[[Design], list[float]]
) -> tuple[Design, tuple[float, ...]]:
    """Choose one of the designs and its epochs so that its runs, `jobs` at a time, take about `budget_hours`.

    It is the last one, in their order, that leaves time for `ENOUGH_EPOCHS`, or for the epochs that are given; else the
    first. If there is no time for one epoch, or for those given, it trains on fewer images of each class.
    measure: returns the seconds of a training image for each network.
    Returns the design, and the seconds of one run of each network. Raises UserError if nothing fits.
    """
    best: tuple[Design, tuple[float, ...]] | None = None
    for design in designs:
        try:
            data, seconds = design.data, measure(design)
        except UserError:  # such as too little memory for a larger one
            if best is None:
                raise
            break
        room = 3600 * design.budget_hours * jobs / design.seeds - START_SECONDS * len(seconds)
        images = max(0.0, room) / sum(seconds)  # that a run of each network has time for
        an_epoch = design.train_images + VALIDATION_COST * data.validation
        if best is not None and images < (epochs or ENOUGH_EPOCHS) * an_epoch:
            break
        chosen = replace(design, epochs=epochs or max(1, int(images / an_epoch)))
        if images < chosen.epochs * an_epoch:
            few = int((images / chosen.epochs - VALIDATION_COST * data.validation) / data.classes)
            if few < FEWEST_IMAGES or design.images_per_class is not None:
                needed = design.seeds * sum(seconds_of_runs(chosen, seconds)) / jobs / 3600
                raise UserError(
                    f"{design.budget_hours:g} hours are too few: the smallest networks take about {needed:.2g}; raise "
                    "--budget-hours, or lower --seeds, --epochs or --images-per-class"
                )
            chosen = replace(chosen, images_per_class=few)
        best = chosen, tuple(seconds_of_runs(chosen, seconds))
        if chosen.images_per_class != design.images_per_class:  # a larger one has even less time
            break
    return best


def seconds_of_runs(design: Design, seconds: Sequence[float]) -> list[float]:
    """The time of one run of each network.  seconds: of a training image, for each."""
    return [run_seconds(design.epochs, design.train_images, design.data.validation, each) for each in seconds]


def run_seconds(epochs: int, images: int, validation: float, of_an_image: float) -> float:
    """The time of a run.  images, validation: numbers of them.  of_an_image: seconds of a training image."""
    return START_SECONDS + epochs * (images + VALIDATION_COST * validation) * of_an_image
