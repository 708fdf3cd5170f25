"""Train an EfficientNet: one plain loop, on one process or many.

    python train.py --variant b0                                  the embedded phantoms, one process
    python train.py --phi 1.5                                     any architecture of scale.py, by the same flags
    torchrun --nproc_per_node=2 train.py --variant b3             two processes
    torchrun --nproc_per_node=2 train.py --variant b3 --data RSNA --image-size 1024 512 --batch-size 4
    python train.py --data RSNA --dry-run                         what would be trained
    torchrun --nproc_per_node=2 train.py --variant b3 --data RSNA --fold all     every fold, and a threshold from all
    torchrun --nproc_per_node=2 train.py --resume runs/b3-1       continue after an interruption
    python train.py --data PHOTOS --weights lite0                 a folder for each class, from pretrained weights

Read `train` from top to bottom: data, model, forward, loss, backward, step, average, validation, checkpoint. A
`training.task.Task` supplies the data.

A run that was stopped or killed, and resumed, is bit-identical to an uninterrupted one: each update is a function of
the state in a checkpoint and of (seed, epoch, position, rank).
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from efficientnet.common.command_line import command, leave, program_name, world_size
from efficientnet.common.errors import UserError
from efficientnet.common.files import write_bytes
from efficientnet.tasks import task_of_training
from efficientnet.training import console
from efficientnet.training.distributed import Process, start
from efficientnet.training.failures import explained_failures
from efficientnet.training.folder import RunFolder
from efficientnet.training.folds import config_of, fold_folders, parse_arguments, plan_of_fold, resumable
from efficientnet.training.learner import Learner
from efficientnet.training.loaders import Loaders
from efficientnet.training.mixing import mix
from efficientnet.training.plan import Plan, make_parser, make_plan
from efficientnet.training.progress import Progress
from efficientnet.training.schedule import Schedule
from efficientnet.training.signals import Stopped, StopRequest
from efficientnet.training.state import checkpoint_of, restore
from efficientnet.training.store import CheckpointStore
from efficientnet.training.task import Task
from efficientnet.training.validation import validate

PROGRAM = program_name("train.py")

# Give up after this many updates in a row with a non-finite loss or gradient. fp16's scaler halves its scale of 65,536
# at each of them. After 20 the scale is 1/16, and a still smaller one would not help.
PATIENCE = 20


def train(plan: Plan, arguments: argparse.Namespace, process: Process, request: StopRequest) -> None:
    """Train one run to its end. If `request` stops it, save the whole state and raise Stopped on every rank."""
    task, device = plan.task, process.device

    # Data. Each of W ranks takes every W-th image of a global batch.
    task.load(process, arguments.strict, plan.checkpoint, plan.pretrained, plan.output)
    loaders = Loaders(task, plan.recipe, process, arguments.workers, arguments.strict)
    recipe = task.recipe = plan.recipe.fitted(loaders.sampler.updates)

    # The model, its moving average, the optimizer and fp16's gradient scaler. All ranks start from the same seed.
    learner = Learner(plan, process)
    schedule = Schedule.of(recipe, loaders.sampler)
    if process.is_main:
        console.print_plan(plan, loaders, learner, schedule, process)
    if arguments.dry_run:
        if process.is_main:
            console.print_settings(plan)
        return

    with RunFolder.open(plan.output, plan.architecture.slug, plan.to_dict(), process, task.records) as folder:
        progress = restore(plan, learner, loaders, process)
        if process.is_main:
            console.print_start(folder.path, plan, progress, learner, schedule)
        store = CheckpointStore(folder.path, arguments.checkpoint_every, arguments.keep_checkpoints, process.is_main)

        def state() -> dict[str, Any]:
            """The content of a checkpoint at this moment. Every rank must call it."""
            return checkpoint_of(plan, learner, loaders, progress, process)

        request.listen()
        try:
            while progress.epoch < recipe.epochs:
                started = time.monotonic() - progress.seconds
                learner.train(progress.epoch)
                with console.UpdateBar(progress, loaders, recipe.epochs, process) as bar:
                    for passes in loaders.updates(progress):
                        progress.seed_update(recipe.seed, process.rank)  # dropout and stochastic depth
                        loss_of_update, images_of_update = torch.zeros((), device=device), []
                        for batch, is_last in passes:
                            images, targets = learner.to_device(batch)  # (N, C, H, W), (N, ...)
                            mixed = mix(images, recipe.mixup, recipe.cutmix)
                            with learner.synchronise_if(is_last):
                                with learner.autocast():
                                    logits = learner.ddp(mixed.images)  # (N, T)
                                loss = mixed.loss(task.loss, logits, targets) / recipe.accumulate
                                learner.scaler.scale(loss).backward()
                            loss_of_update += loss.detach()
                            images_of_update += batch.names

                        # One small all-reduce: is any loss not finite, is any rank asked to stop, is a save due?
                        mean_loss = loss_of_update.item()
                        broken, signal, save = process.maximum(
                            not math.isfinite(mean_loss), request.signal, store.due(loaders.number(progress) + 1)
                        )
                        rate = schedule.rate(progress.update)
                        moved = learner.step(rate, loss_is_finite=not broken)  # unscale, clip, step, average
                        progress.record(moved, mean_loss, images_of_update)
                        progress.seconds = time.monotonic() - started
                        if len(progress.suspects) == PATIENCE:
                            raise folder.not_finite(progress.suspects, process)
                        if signal:
                            raise Stopped(signal)
                        if save:
                            store.save(loaders.number(progress), state())
                        bar.show(progress, mean_loss, rate)
                if progress.update == 0 and not learner.scaler.is_enabled():  # fp16 may still be lowering its scale
                    raise folder.not_finite(progress.suspects, process)

                # Validate the averaged weights. This forks loader processes, so no thread may be writing at the time.
                store.wait()
                learner.settle_batch_norm((batch.images for batch in loaders.calibration), schedule.updates)
                metrics, failures = validate(
                    learner.evaluated, loaders.validation, task, process, learner.precision, request
                )
                if failures and arguments.strict:
                    raise UserError(failures[0])

                # Checkpoint: last.pt to resume from, best.pt to use.
                images = loaders.sampler.updates * loaders.sampler.global_batch
                seconds = time.monotonic() - started
                end = progress.end_epoch(metrics, failures, learner.learning_rate, images, seconds, process)
                content = state()
                files = folder.logs(progress.history, end.unreadable)
                if end.improved and process.is_main:
                    files |= task.files(metrics, content)
                say = console.epoch_text(end.values, metrics.text, recipe.epochs, end.improved)
                store.save(loaders.number(progress), content, files, best=end.improved, say=say)
            store.close("the run finished")
        except Stopped as stopped:
            store.save(loaders.number(progress), state())
            stop(stopped, progress, store, folder, process)
            raise
        process.barrier()
        if process.is_main:
            folder.draw_curves(progress.history)
            console.print_end(plan, folder.path, progress)


def stop(stopped: Stopped, progress: Progress, store: CheckpointStore, folder: RunFolder, process: Process) -> None:
    """Wait until the last save is on disk, mark the folder as stopped, and print where the run stopped."""
    store.close(f"stopped by {stopped.name}")
    where = f"stopped by {stopped.name} after epoch {progress.epoch}, update {progress.position}"
    folder.mark_stopped(where, process)
    if process.is_main:
        path = shlex.quote(str(resumable(folder.path)))
        print(f"{PROGRAM}: {where}: everything is saved, continue with --resume {path}", file=sys.stderr, flush=True)
    process.barrier()  # torchrun ends the other ranks when the first one leaves


def train_folds(plan: Plan, arguments: argparse.Namespace, process: Process, request: StopRequest) -> None:
    """Train the runs of all folds that are not finished, one after the other, then collect what they held out."""
    kind = type(plan.task)
    if arguments.dry_run:
        train(plan_of_fold(0, arguments, kind, plan.output), arguments, process, request)
        return
    if plan.output is not None:
        for fold, run in enumerate(fold_folders(plan.output)):  # refuses other flags before they are recorded
            plan_of_fold(fold, arguments, kind, run)
    with RunFolder.open(plan.output, plan.architecture.slug, config_of(plan, arguments.argv), process) as folder:
        runs = process.broadcast(fold_folders(folder.path))
        try:
            for fold, run in enumerate(runs):
                one = plan_of_fold(fold, arguments, kind, run)
                if one.is_finished:
                    continue
                if process.is_main:
                    print(f"\nfold {fold} of {len(runs)}\n", flush=True)
                train(one, arguments, process, request)
        except Stopped as stopped:
            folder.mark_stopped(f"stopped by {stopped.name}", process)
            raise
        if process.is_main:
            text, files = kind.summarise_folds(runs)
            for name, data in files.items():
                write_bytes(folder.path / name, data)
            print(f"\n{text}\n\nrun folder  {folder.path}")
            print(f"next        {program_name('python evaluate.py')} --checkpoint {shlex.quote(str(folder.path))}")
        process.barrier()


@command(PROGRAM)
def main(argv: Sequence[str] | None = None, task: type[Task] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    task = task or task_of_training(argv)
    parser = make_parser(__doc__, task)
    arguments = parse_arguments(parser, argv)
    folder = RunFolder.stopped_before_restart(arguments.output)
    if folder is not None:
        print(f"{PROGRAM}: {folder.path} was stopped on request and is not started again", file=sys.stderr)
        return 0
    code = 0
    with explained_failures(arguments.timeout if world_size() > 1 else None):
        try:
            plan = make_plan(arguments, task)
            process = start(arguments.device, arguments.backend, arguments.timeout)
            if plan.recipe.sync_batch_norm and process.device.type != "cuda":
                raise ValueError("--sync-batch-norm works on CUDA only; omit it")
        except UserError:
            raise
        except ValueError as error:
            parser.error(str(error))
        with StopRequest() as request:
            try:
                (train_folds if plan.is_of_all_folds else train)(plan, arguments, process, request)
            except Stopped as stopped:
                code = stopped.exit_code
    process.leave()  # not after a failure: see command_line.leave
    return code


if __name__ == "__main__":
    leave(main())
