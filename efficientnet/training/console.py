"""Console output of a run: the opening summary, a progress bar, a line for each epoch, and the end."""

from __future__ import annotations

import shlex
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from efficientnet.common.command_line import program_name
from efficientnet.common.text import counted, plural
from efficientnet.complexity import complexity
from efficientnet.model import JointViews
from efficientnet.training.distributed import Process
from efficientnet.training.learner import Learner
from efficientnet.training.loaders import Loaders
from efficientnet.training.plan import Plan, flag_text
from efficientnet.training.progress import Progress
from efficientnet.training.schedule import Schedule

# AdamW's usual rates are some thousandths at most, and the peak grows linearly with the images of an update.
HIGH_RATE = 0.01


def print_plan(plan: Plan, loaders: Loaders, learner: Learner, schedule: Schedule, process: Process) -> None:
    """Print the summary that --dry-run shows and every run begins with."""
    recipe, settings, model, sampler = plan.recipe, plan.task.settings, learner.model, loaders.sampler
    size, channels = settings.image_size, settings.in_channels
    counts = complexity(model.stages, size, model.num_classes, channels)
    unit, scale = ("G", 1e9) if counts.multiply_adds >= 1e7 else ("M", 1e6)
    lines = [
        *plan.task.description(),
        ("input", f"{size[0]}x{size[1]} pixels, {channels} channel{plural(channels)}"),
        (
            "model",
            f"{plan.architecture.title}, {counts.parameters:,} parameters, "
            f"{counts.multiply_adds / scale:.2f} {unit} multiply-adds per image",
        ),
    ]
    if learner.load_report is not None:
        lines.append(("weights", learner.load_report.text().replace("\n", "\n" + 12 * " ")))
    if recipe.optimizer == "adamw" and schedule.peak > HIGH_RATE:
        lines.append(
            (
                "warning",
                f"a learning rate of {schedule.peak:.2g} is high for AdamW; it grows with the images per update",
            )
        )
    if plan.warning:
        lines.append(("warning", plan.warning))
    frozen = []
    if recipe.freeze_until:
        first = "the first" if recipe.freeze_until == 1 else f"the first {recipe.freeze_until}"
        frozen.append(f"{first} of {len(model.stages)} stages")
    if recipe.freeze_batch_norm:
        frozen.append("batch-norm statistics in every layer")
    if learner.freeze_epochs:
        first = "epoch" if learner.freeze_epochs == 1 else f"{learner.freeze_epochs} epochs"
        frozen.append(f"pretrained layers for the first {first}")
    elif recipe.freeze_epochs and learner.pretrained:
        frozen.append("no pretrained layers at first, since --weights filled every layer")
    if frozen:
        lines.append(("frozen", "; ".join(frozen)))
    if recipe.pretrained_rate != 1:
        lines.append(("pretrained", f"layers learn at {recipe.pretrained_rate:g} times the learning rate"))
    is_stepped = recipe.schedule == "exponential"
    decay = f", times {recipe.decay_rate:g} every {recipe.decay_epochs:g} epochs" if is_stepped else ""
    lines += [
        ("recipe", plan.recipe_name),
        (
            "batches",
            f"{sampler.global_batch} images per update ({recipe.batch_size} x {counted(process.world_size, 'rank')} x "
            f"{recipe.accumulate} pass{'' if recipe.accumulate == 1 else 'es'})",
        ),
        (
            "updates",
            f"{schedule.updates} = {counted(recipe.epochs, 'epoch')} of {sampler.updates}; learning rate "
            f"{schedule.peak:.2e} ({recipe.learning_rate:g} x {sampler.global_batch} / 16) "
            f"after {schedule.warmup} of warm-up{decay}",
        ),
        (
            "machine",
            f"{process.world_size} x {process.device.type}, {process.backend or 'one process'}, {learner.precision}, "
            f"{loaders.workers} loader process{'' if loaders.workers == 1 else 'es'} per rank",
        ),
        ("memory", f"about {memory_estimate(learner, counts.activations):.1f} GiB per rank (fp32 estimate)"),
    ]
    print("\n".join(f"{name:<11} {text}" for name, text in lines), flush=True)


def print_settings(plan: Plan) -> None:
    """Print every value of the recipe and of the task's settings as flags, for --dry-run."""
    flags = []
    for options in (plan.recipe, plan.task.settings):
        for item in fields(options):
            value, flag = getattr(options, item.name), item.name.replace("_", "-")
            if isinstance(value, bool):
                flags.append(f"--{flag}" if value else f"--no-{flag}")
            elif value is not None:
                flags.append(f"--{flag} {flag_text(value, item)}")
    text = f"{'settings':<11} {'  '.join(flags)}"
    print(textwrap.fill(text, 110, subsequent_indent=12 * " ", break_on_hyphens=False))


def memory_estimate(learner: Learner, activations: int) -> float:
    """GiB of one rank in fp32: weights, gradients, the optimizer's two moments, the average, and saved activations.

    The backward pass needs 3.3 saved values for each output element of a convolution (measured on B0 and B3 with
    autograd's saved-tensor hooks). With activation checkpointing, the peak was two fifths of that (B3 at 300 pixels,
    batch 8).
    """
    weights = sum(parameter.numel() for parameter in learner.model.parameters())
    kept = 3.3 * activations * learner.recipe.batch_size * (2 if isinstance(learner.model, JointViews) else 1)
    if learner.recipe.checkpoint_activations:
        kept *= 0.4
    return 4 * (5 * weights + kept) / 2**30


def print_start(folder: Path, plan: Plan, progress: Progress, learner: Learner, schedule: Schedule) -> None:
    """Print the run folder, and where a resumed run continues."""
    text = f"output      {folder}"
    if plan.checkpoint is not None:
        text += f", resumed after epoch {progress.epoch}, update {progress.position}"
        before = plan.checkpoint["training"].get("precision", learner.precision)
        if before != learner.precision:  # the default depends on the machine
            text += f"\nprecision   {learner.precision} on this machine; so far it was {before}"
        epochs, planned = plan.recipe.epochs, plan.checkpoint["plan"]["recipe"]["epochs"]
        if epochs != planned:
            rate = schedule.rate(progress.update)
            text += f"\nschedule    for {epochs} epochs instead of {planned}: the learning rate is now {rate:.2e}"
    print(f"{text}\n", flush=True)


class UpdateBar:
    """A progress bar over the updates of an epoch, shown by rank 0 if stderr is a terminal."""

    def __init__(self, progress: Progress, loaders: Loaders, epochs: int, process: Process) -> None:
        self.images = loaders.sampler.global_batch
        self.bar = tqdm(
            desc=f"epoch {progress.epoch + 1}/{epochs}",
            initial=progress.position,
            total=loaders.sampler.updates,
            unit="update",
            disable=not (process.is_main and sys.stderr.isatty()),
            leave=False,
        )

    def __enter__(self) -> UpdateBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def show(self, progress: Progress, loss: float, rate: float) -> None:
        if not self.bar.disable:
            speed = self.images * progress.position / progress.seconds
            waiting = 100 * progress.waited / progress.seconds
            text = f"loss {loss:.3f}, {speed:.1f} images/s, {waiting:.0f} % waiting"  # 80 columns have room for no more
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update()


def epoch_text(values: dict[str, Any], metrics_text: str, epochs: int, improved: bool) -> str:
    text = (
        f"epoch {values['epoch']}/{epochs}  loss {values['train_loss']:.3f} train  {metrics_text}  "
        f"{values['seconds']:.0f} s, {values['images_per_second']:.1f} images/s, "
        f"{100 * values['waiting_share']:.0f} % waiting for data"
    )
    if values["unreadable_images"]:
        text += f", {counted(values['unreadable_images'], 'image')} unreadable so far"
    return f"{text}  best" if improved else text


def print_end(plan: Plan, folder: Path, progress: Progress) -> None:
    """Print what was skipped, the best result, and the next command."""
    skipped = sum(values["skipped_updates"] for values in progress.history)
    if skipped:
        print(f"\n{skipped} updates were skipped because their loss or gradients were not finite")
    unreadable = progress.history[-1]["unreadable_images"]
    if unreadable:
        listed = (folder / "unreadable.txt").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        what = counted(unreadable, "image")
        print(f"\n{what} could not be read; unreadable.txt lists all:")
        print("\n".join(f"  {line}" for line in listed[:5]))
    if not (folder / "best.pt").exists():
        print(f"\nno epoch since the checkpoint improved on the earlier best, and {folder} has no best.pt")
        return
    data = "" if plan.task.data is None else f" --data {shlex.quote(str(plan.task.data))}"
    if progress.summary:  # checkpoints of older versions do not have it
        print(f"\n{progress.summary}")
    print(f"\nrun folder  {folder}")
    print(f"next        {program_name('python evaluate.py')} --checkpoint {shlex.quote(str(folder / 'best.pt'))}{data}")
