"""How fast train.py would train some networks here: `python -m efficientnet.studies.speed JSON` prints a JSON list.

JSON is a list of lists of train.py's flags. The result has the seconds per training image of each.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from efficientnet.common.command_line import command, leave
from efficientnet.common.errors import UserError
from efficientnet.common.text import last_line
from efficientnet.tasks import task_of_training
from efficientnet.training.distributed import start
from efficientnet.training.learner import Learner
from efficientnet.training.loaders import Loaders
from efficientnet.training.plan import make_parser, make_plan
from efficientnet.training.progress import Progress
from efficientnet.training.runs import Machine

WARM_UP, UPDATES, SECONDS = 2, 3, 1.0  # uncounted updates, the least number of counted ones, and their least time


def measured_seconds(flags: Sequence[Sequence[str]], machine: Machine) -> list[float]:
    """Seconds per training image of each network, on average over as many processes as the machine runs at a time.

    flags: of train.py, for each network.  Raises UserError.
    """
    worker = [sys.executable, "-m", "efficientnet.studies.speed", json.dumps([list(each) for each in flags])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    root = Path(__file__).parents[2]  # where the package is, in a clone that is not installed
    environments = map(machine.environment, range(machine.jobs))
    processes = [subprocess.Popen(worker, env=environment, cwd=root, **pipes) for environment in environments]
    printed = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, printed, strict=True):
        if process.returncode:
            raise UserError(f"measuring the speed: {last_line(errors)}")
    results = [json.loads(output) for output, _ in printed]
    return [sum(seconds) / machine.jobs for seconds in zip(*results, strict=True)]


def seconds_per_image(flags: Sequence[str]) -> float:
    """Train a few batches as train.py does, with the same reading of the images, and return the mean time."""
    task = task_of_training(flags)
    plan = make_plan(make_parser("", task).parse_args(flags), task)
    process = start(None, None)
    plan.task.load(process, False, None, None, None)
    loaders = Loaders(plan.task, plan.recipe, process, 0, strict=False)
    learner = Learner(plan, process)
    learner.train(0)
    started, images = 0.0, 0
    endless = itertools.chain.from_iterable(loaders.updates(Progress(epoch)) for epoch in itertools.count())
    for number, passes in enumerate(endless):
        if number == WARM_UP:
            started, images = time.perf_counter(), 0
        for batch, _ in passes:
            pixels, targets = learner.to_device(batch)
            with learner.autocast():
                loss = plan.task.loss(learner.ddp(pixels), targets)
            learner.scaler.scale(loss).backward()
            images += len(batch.images)
        learner.step(plan.recipe.learning_rate)
        loss.item()  # waits for the device
        seconds = time.perf_counter() - started
        if number + 1 >= WARM_UP + UPDATES and seconds > SECONDS:
            return seconds / images
    raise AssertionError("the updates are endless")


@command("studies.speed")
def main(argv: Sequence[str] | None = None) -> None:
    (text,) = sys.argv[1:] if argv is None else argv
    print(json.dumps([seconds_per_image(flags) for flags in json.loads(text)]))


if __name__ == "__main__":
    leave(main())
