"""A study in its folder, which is continued like one run of train.py.

FOLDER/study.json        the design, decided when the study began
FOLDER/b0-small.json     a small baseline, for --baseline of train.py and scale.py
FOLDER/runs/             the run folders, with a log beside each
FOLDER/results.csv       a line for each finished run
FOLDER/results.txt       the table; results.png: the plot
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
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
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            values = {**content["design"], "data": Data.from_dict(content["design"]["data"])}
            values["growths"] = tuple(values["growths"])
            values["sizes"] = tuple((width, size) for width, size in values["sizes"])
            study = cls(folder, Design(**values), tuple(content["seconds"]))
            recorded = content["networks"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path}: damaged ({error}); restore it, or choose another --output") from None
        if recorded != study.network_flags:
            raise UserError(f"{folder}: was begun with other networks by another version; choose another --output")
        return study

    @property
    def network_flags(self) -> dict[str, str]:
        return {network.slug: network.flags for network in self.networks}

    def flags(self, network: Network, machine: Machine) -> tuple[str, ...]:
        """Of train.py, without the seed."""
        return (*self.design.flags(network, self.folder), *loader_flags(machine))

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
        estimates: dict[Run, float] = {}
        known: dict[Run, tuple[Network, int]] = {}
        for seed in range(self.design.seeds):  # so that a study that is not finished has compared all networks
            for network, seconds in zip(self.networks, self.seconds, strict=True):
                flags = (*self.flags(network, machine), "--seed", str(seed))
                run = Run(f"{network.slug}, seed {seed}", self.folder / "runs" / f"{network.slug}-{seed}", flags)
                known[run], estimates[run] = (network, seed), seconds
        results = {}
        for run, top1 in train_with_progress(estimates, machine):
            results[run] = Trained(*known[run], top1)
            in_order = [results[run] for run in known if run in results]
            write_bytes(self.folder / "results.csv", results_csv(in_order))
        return in_order


def train_with_progress(estimates: Mapping[Run, float], machine: Machine) -> Iterator[tuple[Run, float]]:
    """Train the runs and yield each with its top-1, nan if it diverged, as it ends. Prints that, and the time left.

    estimates: the seconds that each may take.  Raises UserError if a run fails.
    """
    before = {run for run in estimates if run.result() is not None or run.diverged}
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
