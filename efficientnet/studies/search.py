"""The search for a baseline in its folder: evolution, random search at the same cost, and what the best are worth.

FOLDER/search.json      the settings, decided when the search began
FOLDER/history.jsonl    a line for each network that was trained; with the settings, the whole state of the search
FOLDER/networks/        the baselines and run folders of the networks in training
FOLDER/found.json       the best network of the evolution, for --baseline of train.py and scale.py; random.json: of the
                        random search; start.json: the baseline that the space surrounds
FOLDER/final/           their runs with several seeds, scored on images that the search has not seen
FOLDER/results.txt      the table; results.png: the plot
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet.baselines.files import write_baseline
from efficientnet.common.errors import UserError
from efficientnet.common.files import atomic_file, write_json
from efficientnet.common.text import counted
from efficientnet.complexity import complexity
from efficientnet.imagefolder.run_data import TRAIN, find_parts
from efficientnet.scaling import B0, Baseline, Coefficients, mnasnet_objective
from efficientnet.studies.budget import FEWEST_IMAGES, START_SECONDS, VALIDATION_COST, loader_flags, run_seconds
from efficientnet.studies.design import RECIPE, Data, recipe_flags, usual_precision
from efficientnet.studies.evolution import Member, propose_at_random, propose_by_evolution, ready
from efficientnet.studies.networks import SIZES, Network, small_baseline
from efficientnet.studies.results import Row
from efficientnet.studies.space import Encoding, SearchSpace, write
from efficientnet.studies.study import duration, train_seeds, undamaged
from efficientnet.training.runs import Machine, Run, train_runs

EVOLUTION, RANDOM, START = "evolution", "random", "start"
FILES = {EVOLUTION: "found", RANDOM: "random", START: "start"}
SHORT_IMAGES = 5000  # that a short training reads, about, and as many of the others to score it
FINAL_SHARE = 0.3  # of the budget, for the long trainings


@dataclass(frozen=True)
class Settings:
    """What determines a search.

    size: width and image size of the small B0 that the space surrounds.
    networks: that the evolution trains.  population, sample: see `propose_by_evolution`.  lag: see `ready`.
    epochs, images_per_class: of the short trainings; None trains on all images.
    final_epochs, final_images_per_class, seeds: of the long ones.
    0 networks and final_epochs stand for what fits the budget; see `Search.fitted`.
    """

    data: Data
    budget_hours: float = 2.0
    size: tuple[float, int] = SIZES[0]
    networks: int = 0
    population: int = 16
    sample: int = 5
    lag: int = 2
    seed: int = 0
    epochs: int = 1
    images_per_class: int | None = None
    final_epochs: int = 0
    final_images_per_class: int | None = None
    seeds: int = 3
    precision: str = field(default_factory=usual_precision)


@dataclass(frozen=True)
class Scored:
    """A network of one of the searches.  top1: after its short training, 0 if that diverged."""

    search: str
    member: Member
    top1: float
    multiply_adds: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "search": self.search,
            "number": self.member.number,
            "objective": self.member.score,
            "top1": self.top1,
            "multiply_adds": self.multiply_adds,
            "stages": write(self.member.encoding),
        }


@dataclass(frozen=True)
class Search:
    """A search in a folder."""

    folder: Path
    settings: Settings

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace(small_baseline(B0, *self.settings.size), classes=self.settings.data.classes)

    @cached_property
    def target(self) -> int:
        """The multiply-adds T of the objective: those of the baseline."""
        return self.space.multiply_adds(self.space.baseline)

    @cached_property
    def mean_cost(self) -> float:
        """The mean multiply-adds of some random networks, in those of the baseline."""
        generator = np.random.default_rng(0)
        networks = [self.space.build(self.space.random(generator), "") for _ in range(200)]
        return sum(map(self.space.multiply_adds, networks)) / len(networks) / self.target

    @classmethod
    def read(cls, folder: Path) -> Search | None:
        """The search that was begun in the folder; None if there is none. Raises UserError for damaged settings."""
        path = folder / "search.json"
        if not path.exists():
            return None
        with undamaged(path):
            values = json.loads(path.read_text(encoding="utf-8"))
            width, size = values["size"]
            return cls(folder, Settings(**{**values, "data": Data.from_dict(values["data"]), "size": (width, size)}))

    def check(self) -> None:
        """Raise ValueError for settings with which the search could not go on."""
        settings = self.settings
        if TRAIN not in find_parts(Path(settings.data.path)):
            raise ValueError(
                f"--data {settings.data.path}: a search needs a train/ folder, of which it holds out a part, and val/ "
                "or test/, which it must not see"
            )
        if settings.sample > settings.population:
            raise ValueError(f"--sample {settings.sample} of a population of {settings.population}: sample fewer")

    def begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "search.json", asdict(self.settings))

    def history(self) -> list[Scored]:
        """The networks that were trained. Raises UserError for a damaged file."""
        path = self.folder / "history.jsonl"
        found = []
        with undamaged(path):
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
                values = json.loads(line)
                member = Member(values["number"], self.space.read(values["stages"]), values["objective"])
                found.append(Scored(values["search"], member, values["top1"], values["multiply_adds"]))
        return found

    def flags(self, baseline: Path) -> tuple[str, ...]:
        """Of train.py, for a short training: on the training images alone, some of which are held out."""
        settings = self.settings
        return (
            *("--data", str(find_parts(Path(settings.data.path))[TRAIN]), "--folds", str(self.folds)),
            *("--baseline", str(baseline), "--seed", str(settings.seed)),
            *recipe_flags(settings.epochs, settings.images_per_class, settings.precision),
        )

    @property
    def folds(self) -> int:
        """Of the training images; one is held out to score the networks of the search."""
        return max(5, self.settings.data.train // SHORT_IMAGES)

    def seconds(self, of_an_image: float) -> tuple[float, float]:
        """Of a short and of a long training.  of_an_image: seconds of a training image."""
        data, settings = self.settings.data, self.settings
        few, many = data.first(settings.images_per_class), data.first(settings.final_images_per_class)
        return (
            run_seconds(settings.epochs, few, data.train / self.folds, self.mean_cost * of_an_image),
            run_seconds(settings.final_epochs, many, data.validation, of_an_image),
        )

    def hours(self, machine: Machine, of_an_image: float) -> float:
        """Of the whole search, of which the random one shares the first networks with the evolution."""
        short, long = self.seconds(of_an_image)
        settings = self.settings
        trained = settings.networks + max(0, settings.networks - settings.population)
        return (trained * short + len(FILES) * settings.seeds * long) / machine.jobs / 3600

    def fitted(self, machine: Machine, of_an_image: float) -> Search:
        """The search with what is not given chosen to fit the budget. Raises UserError if it is too small."""
        data, settings = self.settings.data, self.settings
        most = settings.population - settings.sample + 1  # see `propose_by_evolution`
        settings = replace(settings, lag=min(2 * machine.jobs, most))
        if settings.images_per_class is None and data.train > SHORT_IMAGES:
            settings = replace(settings, images_per_class=-(-SHORT_IMAGES // data.classes))
        room = 3600 * settings.budget_hours * machine.jobs
        if not settings.final_epochs:
            each = FINAL_SHARE * room / (len(FILES) * settings.seeds) - START_SECONDS
            images, an_epoch = each / of_an_image, data.train + VALIDATION_COST * data.validation
            settings = replace(settings, final_epochs=max(1, int(images / an_epoch)))
            if images < an_epoch:
                few = int((images - VALIDATION_COST * data.validation) / data.classes)
                settings = replace(settings, final_images_per_class=max(FEWEST_IMAGES, few))
        if not settings.networks:
            short, long = replace(self, settings=settings).seconds(of_an_image)
            fit = int(((room - len(FILES) * settings.seeds * long) / short + settings.population) / 2)
            if fit < 2 * settings.population:
                raise UserError(
                    f"{settings.budget_hours:g} hours are too few for a search of two populations of "
                    f"{settings.population}: raise --budget-hours, or give --networks"
                )
            settings = replace(settings, networks=fit)
        return replace(self, settings=settings)

    def description(self, machine: Machine, of_an_image: float) -> str:
        """The space, what is trained in it, and how long it takes."""
        settings, space = self.settings, self.space
        few, many = (settings.data.first(n) for n in (settings.images_per_class, settings.final_images_per_class))
        lines = {
            "data": str(settings.data),
            "space": f"{space.size:.1e} networks around {space.baseline.title}, without regard to cost",
            "target": f"T: its {self.target / 1e6:.2f} M multiply-adds; networks above twice that are left out",
            "search": f"{settings.networks} networks by evolution (population {settings.population}, sample "
            f"{settings.sample}), then random ones of the same total multiply-adds",
            "short": f"{counted(settings.epochs, 'epoch')} of {few:,} training images, scored on "
            f"{settings.data.train // self.folds:,} others",
            "long": f"{len(FILES)} networks, {counted(settings.seeds, 'seed')}, "
            f"{counted(settings.final_epochs, 'epoch')} of {many:,}",
            "recipe": " ".join(RECIPE),
            "time": f"{machine}: about {duration(3600 * self.hours(machine, of_an_image))}",
        }
        return "\n".join(f"{name:<8} {text}" for name, text in lines.items())

    def propose(self, search: str, history: Sequence[Member], number: int) -> Encoding:
        settings = self.settings
        if search == RANDOM:
            return propose_at_random(self.space, history, number, settings.seed)
        sizes = (settings.population, settings.sample)
        return propose_by_evolution(self.space, history, number, settings.seed, *sizes)

    def train(self, machine: Machine) -> list[Scored]:
        """Train the networks that are not in the history yet: first the evolution's, then the random search's.

        Raises UserError if a run fails for another reason than a loss that is not finite.
        """
        scored = {(each.search, each.member.number): each for each in self.history()}
        settings = self.settings
        finished = {number: each.member for (search, number), each in scored.items() if search == EVOLUTION}
        propose = partial(self.propose, EVOLUTION)
        total = settings.networks

        def next_evolved(running: Collection[int]) -> tuple[int, Encoding] | None:
            return next(iter(ready(propose, finished, running, settings.lag, total).items()), None)

        for each in self.train_networks(EVOLUTION, next_evolved, list(finished.values()), total, machine):
            scored[EVOLUTION, each.member.number] = each
            finished[each.member.number] = each.member
            self.write_history(scored)
        random = self.random_networks(sum(scored[EVOLUTION, number].multiply_adds for number in range(total)))
        for number in range(min(settings.population, len(random))):  # the same networks, trained in the same way
            scored[RANDOM, number] = replace(scored[EVOLUTION, number], search=RANDOM)
        left = {number: encoding for number, encoding in enumerate(random) if (RANDOM, number) not in scored}

        def next_random(running: Collection[int]) -> tuple[int, Encoding] | None:
            return next(((number, encoding) for number, encoding in left.items() if number not in running), None)

        begun = [each.member for (search, _), each in scored.items() if search == RANDOM]
        for each in self.train_networks(RANDOM, next_random, begun, len(random), machine):
            scored[RANDOM, each.member.number] = each
            del left[each.member.number]
            self.write_history(scored)
        shutil.rmtree(self.folder / "networks", ignore_errors=True)  # what a killed search has left
        return [scored[key] for key in sorted(scored)]

    def random_networks(self, cost: int) -> list[Encoding]:
        """The networks of a random search that has spent as many multiply-adds as the evolution, or a little more."""
        members: list[Member] = []
        while cost > 0:
            number = len(members)
            encoding = self.propose(RANDOM, members, number)
            members.append(Member(number, encoding, 0.0))
            cost -= self.space.multiply_adds(self.space.build(encoding, RANDOM))
        return [member.encoding for member in members]

    def train_networks(
        self,
        search: str,
        next_network: Callable[[Collection[int]], tuple[int, Encoding] | None],
        begun: Sequence[Member],
        total: int,
        machine: Machine,
    ) -> Iterator[Scored]:
        """Train networks of one search and yield each as it ends, with its score; prints it.

        next_network: returns the next one's number and encoding, given the numbers in training, or None.
        begun: the networks that were trained before, of `total`.
        """
        training: dict[Run, tuple[int, Encoding, Baseline]] = {}
        began, done, best = time.monotonic(), 0, max((member.score for member in begun), default=0.0)

        def next_run() -> Run | None:
            found = next_network([number for number, _, _ in training.values()])
            if found is None:
                return None
            number, encoding = found
            name = f"{search}-{number:04}"
            baseline = self.space.build(encoding, name)
            place = self.folder / "networks" / name
            write_baseline(place.with_suffix(".json"), baseline)
            run = Run(
                f"{search}, network {number}", place, (*self.flags(place.with_suffix(".json")), *loader_flags(machine))
            )
            training[run] = number, encoding, baseline
            return run

        for run, metrics in train_runs(next_run, machine):
            number, encoding, baseline = training.pop(run)
            cost, top1 = self.space.multiply_adds(baseline), 0.0 if metrics is None else metrics["top1"]
            scored = Scored(search, Member(number, encoding, mnasnet_objective(top1, cost, self.target)), top1, cost)
            yield scored
            done, best = done + 1, max(best, scored.member.score)
            number = len(begun) + done
            left = duration((time.monotonic() - began) / done * (total - number))
            print(
                f"[{number:>{len(str(total))}}/{total}] {run.name:<24} top-1 {100 * top1:4.1f} %, {cost / 1e6:5.2f} M, "
                f"objective {100 * scored.member.score:4.1f}, best {100 * best:4.1f}; "
                + (f"about {left} left of the {search}" if number < total else "done"),
                flush=True,
            )
            shutil.rmtree(run.folder, ignore_errors=True)
            for file in (run.log, run.folder.with_suffix(".json")):
                file.unlink(missing_ok=True)

    def write_history(self, scored: Mapping[tuple[str, int], Scored]) -> None:
        with atomic_file(self.folder / "history.jsonl", "w") as file:
            file.writelines(json.dumps(scored[key].to_dict()) + "\n" for key in sorted(scored))

    def best(self, scored: Sequence[Scored], search: str) -> Scored:
        return max((each for each in scored if each.search == search), key=lambda each: each.member.score)

    def file(self, name: str) -> Path:
        """Of a finalist."""
        return self.folder / f"{FILES[name]}.json"

    def train_finalists(self, scored: Sequence[Scored], machine: Machine, of_an_image: float) -> list[Row]:
        """Train the baseline and the best network of each search for longer, with several seeds."""
        settings = self.settings
        long = recipe_flags(settings.final_epochs, settings.final_images_per_class, settings.precision)
        networks, slugs = {START: self.space.baseline}, {START: START}
        for search in (RANDOM, EVOLUTION):
            member = self.best(scored, search).member
            slugs[search] = f"{search}-{member.number:04}"
            title = f"{self.space.baseline.title}, changed by {search} search"
            networks[search] = replace(self.space.build(member.encoding, search), title=title)
        plan, seconds = {}, self.seconds(of_an_image)[1]
        for name, baseline in networks.items():
            write_baseline(self.file(name), baseline)
            flags = ("--data", settings.data.path, "--baseline", str(self.file(name)), *long)
            plan[slugs[name]] = flags, seconds
        top1 = {}
        for slug, seed, share in train_seeds(plan, settings.seeds, self.folder / "final", machine):
            top1[slug, seed] = 100 * share
        rows = []
        for name, baseline in networks.items():
            counts = complexity(baseline.stages, baseline.image_size, settings.data.classes)
            network = Network(name, baseline, Coefficients(), counts, target=self.target)
            rows.append(Row(network, [top1[slugs[name], seed] for seed in range(settings.seeds)]))
        return rows
