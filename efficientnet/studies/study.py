"""A study in its folder, which is continued like one run of train.py.

FOLDER/study.json        the design, decided when the study began
FOLDER/b0-small.json     a small baseline, for --baseline of train.py and scale.py
FOLDER/runs/             the run folders, with a log beside each
FOLDER/results.csv       a line for each finished run
FOLDER/results.txt       the table; results.png: the plot
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from efficientnet.baselines.files import write_baseline
from efficientnet.common.errors import UserError
from efficientnet.common.files import write_bytes, write_json
from efficientnet.common.text import counted
from efficientnet.studies.budget import loader_flags
from efficientnet.studies.design import Data, Design
from efficientnet.studies.networks import Network
from efficientnet.studies.results import Trained, results_csv
from efficientnet.training.runs import Machine, Run, train_runs


@contextlib.contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Raise UserError if the block finds that the file does not hold what a study wrote into it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); restore it, or choose another --output") from None


@dataclass(frozen=True)
class Study:
    """A design in a folder.  seconds: of one run of each network, as estimated when the study began."""

    folder: Path
    design: Design
    seconds: tuple[float, ...]

    @classmethod
    def read(cls, folder: Path) -> Study | None:
        """The study that was begun in the folder; None if there is none. Raises UserError for a damaged study.json."""
        path = folder / "study.json"
        if not path.exists():
            return None
        with undamaged(path):
            content = json.loads(path.read_text(encoding="utf-8"))
            values = {**content["design"], "data": Data.from_dict(content["design"]["data"])}
            values["growths"] = tuple(values["growths"])
            values["sizes"] = tuple((width, size) for width, size in values["sizes"])
            study = cls(folder, Design(**values), tuple(content["seconds"]))
            recorded = content["networks"]
        if recorded != study.network_flags:
            raise UserError(f"{folder}: was begun with other networks by another version; choose another --output")
        return study

    @property
    def network_flags(self) -> dict[str, str]:
        return {network.slug: network.flags for network in self.networks}

    def flags(self, network: Network) -> tuple[str, ...]:
        """Of train.py, without seed and machine."""
        return self.design.flags(network, self.folder)

    def write_baselines(self) -> None:
        """Write the files that the flags of the runs name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for baseline in self.design.baselines():
            write_baseline(self.folder / f"{baseline.name}.json", baseline)

    def write(self) -> None:
        """Write study.json, with which the study has begun."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"design": asdict(self.design), "seconds": self.seconds, "networks": self.network_flags}
        write_json(self.folder / "study.json", content)
        self.write_baselines()

    @cached_property
    def networks(self) -> list[Network]:
        return self.design.networks()

    def train(self, machine: Machine) -> list[Trained]:
        """Train what is not trained yet, and return all runs.  Prints each run as it ends, and the time left."""
        by_slug = {network.slug: network for network in self.networks}
        plan = {
            slug: (self.flags(network), seconds)
            for (slug, network), seconds in zip(by_slug.items(), self.seconds, strict=True)
        }
        results: dict[tuple[str, int], Trained] = {}
        for slug, seed, top1 in train_seeds(plan, self.design.seeds, self.folder / "runs", machine):
            results[slug, seed] = Trained(by_slug[slug], seed, top1)
            in_order = [results[key] for key in seeds_of(plan, self.design.seeds) if key in results]
            write_bytes(self.folder / "results.csv", results_csv(in_order))
        return in_order


def seeds_of(names: Iterable[str], seeds: int) -> list[tuple[str, int]]:
    """Each name with each seed. All names have the first seed first, so that they can be compared early."""
    return [(name, seed) for seed in range(seeds) for name in names]


def train_seeds(
    plan: Mapping[str, tuple[Sequence[str], float]], seeds: int, folder: Path, machine: Machine
) -> Iterator[tuple[str, int, float]]:
    """Train each network with each seed, and yield its name, the seed and its top-1, nan if it diverged, as it ends.

    plan: flags of train.py and the seconds of a run, by the name of the network.  folder: of the run folders.
    Raises UserError if a run fails.
    """
    known = {}
    for name, seed in seeds_of(plan, seeds):
        flags = (*plan[name][0], *loader_flags(machine), "--seed", str(seed))
        known[Run(f"{name}, seed {seed}", folder / f"{name}-{seed}", flags)] = name, seed
    estimates = {run: plan[name][1] for run, (name, _) in known.items()}
    for run, top1 in train_with_progress(estimates, machine):
        yield *known[run], top1


def train_with_progress(estimates: Mapping[Run, float], machine: Machine) -> Iterator[tuple[Run, float]]:
    """Train the runs and yield each with its top-1, nan if it diverged, as it ends. Prints that, and the time left.

    estimates: the seconds that each may take.  Raises UserError if a run fails.
    """
    before = {run for run in estimates if run.has_ended}
    if before:
        print(f"{len(before)} of {counted(len(estimates), 'run', 'are')} finished already", flush=True)
    waiting, took, done = iter(estimates), 0.0, set()
    with tqdm(total=sum(estimates.values()), disable=None, bar_format="{percentage:3.0f}%|{bar}| {desc}") as bar:
        for run, metrics in train_runs(lambda: next(waiting, None), machine):
            done.add(run)
            bar.update(estimates[run])
            if run not in before:
                took += estimates[run] if metrics is None else metrics["epoch"] * metrics["seconds"]
                pace = took / sum(estimates[each] for each in done - before)
                seconds = pace * sum(estimates[each] for each in estimates.keys() - done) / machine.jobs
                left = f"about {duration(seconds)} left" if len(done) < len(estimates) else "done"
                found = f"diverged (see {run.log})" if metrics is None else f"top-1 {100 * metrics['top1']:.1f} %"
                number = f"[{len(done):>{len(str(len(estimates)))}}/{len(estimates)}]"
                bar.write(f"{number} {run.name + ': ' + found:<50} {left}", sys.stdout)
                bar.set_description_str(left)
            yield run, math.nan if metrics is None else metrics["top1"]


def duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"
