"""Train an EfficientNet on mammograms: one plain loop, on one process or many.

    python train.py --variant b0                                  the embedded phantoms, one process
    python train.py --phi 1.5                                     what scale.py derives, by the same flags
    torchrun --nproc_per_node=2 train.py --variant b3             the same on two
    torchrun --nproc_per_node=2 train.py --variant b3 --data RSNA --image-size 1024 512 --batch-size 4
    python train.py --data RSNA --dry-run                         what would be trained
    torchrun --nproc_per_node=2 train.py --resume runs/b3-1       go on after an interruption

Read `train` from top to bottom: data, model, optimizer, autocast, step, average, validation, checkpoint.

A run that was stopped or killed, and resumed, ends with the bits of one that was left alone: each update is a function
of the state that a checkpoint holds and of (seed, epoch, position, rank).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from efficientnet import create_model
from efficientnet.architecture import constraint_warning
from efficientnet.common.command_line import command, leave
from efficientnet.common.cpu import has_bf16_units
from efficientnet.common.errors import UserError
from efficientnet.common.files import write_json
from efficientnet.inference.precision import autocast
from efficientnet.mammography.augment import augment_draw
from efficientnet.mammography.dataset import MammogramDataset, collate
from efficientnet.mammography.report import model_card
from efficientnet.mammography.scoring import write_predictions
from efficientnet.mammography.table import TableError
from efficientnet.model import EfficientNet
from efficientnet.training.checkpoint import CheckpointError, serialise
from efficientnet.training.console import epoch_text, print_end, print_plan
from efficientnet.training.distributed import Process, start, stop
from efficientnet.training.ema import ExponentialMovingAverage
from efficientnet.training.failures import explain_failure, killed_loaders_told_once
from efficientnet.training.fast_cpu import accelerate_training
from efficientnet.training.folder import (
    choose_folder,
    is_stopped,
    launch_name,
    lock,
    mark_launch,
    mark_stopped,
    metrics_text,
    own_folder,
    remove_leftovers,
    restarted,
    unmark_stopped,
)
from efficientnet.training.freeze import freeze, train_mode
from efficientnet.training.loop import (
    default_workers,
    recalibrate_batch_norm,
    seed_update,
    settle_buckets,
    take_step,
    timed,
    to_device,
)
from efficientnet.training.loss import masked_binary_cross_entropy, prior_shift, start_classifier_at
from efficientnet.training.plan import Plan, load_data, make_parser, make_plan
from efficientnet.training.prediction import validate
from efficientnet.training.progress import Progress
from efficientnet.training.sampler import BalancedSampler
from efficientnet.training.schedule import learning_rate_at, parameter_groups, set_learning_rate
from efficientnet.training.signals import StopRequest, exit_code, leave_signals_to_parent
from efficientnet.training.store import CheckpointWriter
from efficientnet.weights.load import WeightsError

# In fewer updates than this, moving averages of batch-norm statistics at the paper's momentum of 0.01, and their
# average in turn, still hold much of where they began.  Such a run measures them anew before each validation.
SHORT_RUN = 3000
# So many updates in a row without a finite loss and gradients, and the run gives up.  fp16's scaler halves its scale of
# 65,536 at each of them; after 20 it is far below what could still overflow for want of a smaller one.
PATIENCE = 20


def train(
    plan: Plan,
    arguments: argparse.Namespace,
    process: Process,
    request: StopRequest,
    held: contextlib.ExitStack,
) -> int:
    """The exit code: 0, or another one where `request` stopped the run.  `held` keeps the run folder's lock."""
    recipe, device = plan.recipe, process.device

    # Data.  Each rank takes every W-th draw of a global batch; validation images are dealt out, none of them twice.
    data = load_data(plan, process)
    if arguments.strict and data.without_file:
        raise UserError(f"{data.without_file} rows of {data.root / 'train.csv'} have no image file")
    labels = data.train.labels
    sampler = BalancedSampler(
        labels[:, 0] == 1,
        recipe.positive_share,
        recipe.batch_size,
        recipe.accumulate,
        process.rank,
        process.world_size,
        recipe.seed,
    )
    augmentation = partial(augment_draw, seed=recipe.seed, strength=recipe.augmentation)
    train_set = MammogramDataset(data.train, data.train_files, data.preprocessing, augmentation, replace_broken=True)
    validation_set = MammogramDataset(data.validation, data.validation_files, data.preprocessing)
    workers = default_workers(process) if arguments.workers is None else arguments.workers
    loading: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": collate,
        "pin_memory": device.type == "cuda",
        "worker_init_fn": leave_signals_to_parent,
        "generator": torch.Generator(),  # or loaders would draw from the numbers of dropout
    }
    train_loader = DataLoader(train_set, batch_sampler=sampler, persistent_workers=workers > 0, **loading)
    # Images as validation will see them, not balanced and not augmented, for the batch-norm statistics of a short run.
    # Without gradients, eight times the training batch takes about the same memory.
    calibration_set = MammogramDataset(data.train, data.train_files, data.preprocessing, replace_broken=True)
    calibration_part = random_rows(len(calibration_set), min(64, max(32, 8 * recipe.batch_size)), recipe.seed, process)
    calibration_loader = DataLoader(calibration_set, recipe.batch_size, sampler=calibration_part, **loading)
    my_part = range(process.rank, len(validation_set), process.world_size)
    validation_loader = DataLoader(validation_set, recipe.batch_size, sampler=my_part, **loading)

    # Model.  The same weights on every rank: the seed makes them, DDP keeps them.
    updates = sampler.updates * recipe.epochs
    warmup = min(round(recipe.warmup_epochs * sampler.updates), updates // 2)
    peak_rate = recipe.learning_rate * sampler.global_batch / 16
    torch.manual_seed(recipe.seed)
    model, architecture, pretrained = build_model(plan, labels.shape[1])
    if "classifier.weight" not in pretrained:
        start_classifier_at(model.classifier, [sampler.share, *np.nan_to_num(mean_labels(labels[:, 1:]))])
    if recipe.sync_batch_norm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    precision = recipe.precision or default_precision(process)
    if device.type == "cpu" and precision == "bf16":
        accelerate_training(model)
    model = model.to(device, memory_format=torch.channels_last)
    frozen = first_stages(model, recipe.freeze_until)
    freeze(frozen)
    average = ExponentialMovingAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    evaluated = average.average if average else model
    ddp = model
    if process.backend is not None:
        device_ids = [device.index] if device.type == "cuda" else None
        ddp = DistributedDataParallel(model, device_ids, gradient_as_bucket_view=True)

    # Optimizer, and the scaler that fp16 needs.
    groups = parameter_groups(model, recipe.weight_decay, pretrained, recipe.pretrained_rate)
    optimizer = torch.optim.AdamW(groups, lr=peak_rate, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    # Positives drawn more often raise the odds of every prediction by one factor, which comes off again.
    shift = prior_shift(sampler.share, sampler.natural_share) if recipe.prior_correction else 0.0

    if process.is_main:
        prior = f"{100 * sampler.share:.1f} % of positives back to {100 * sampler.natural_share:.1f} %"
        details = {
            "updates": f"{updates} = {recipe.epochs} epochs of {sampler.updates}; learning rate {peak_rate:.2e} after "
            f"{warmup} of warm-up",
            "prior": f"{data.train.target_names[0]}'s logits lowered by {shift:.3f}, from {prior}"
            if shift
            else "predictions as learned",
            "machine": f"{process.world_size} x {device.type}, {process.backend or 'one process'}, {precision}, "
            f"{workers} loader process{'es' * (workers != 1)} each",
        }
        warning = constraint_warning(arguments)
        if warning:
            details = {"warning": warning, **details}
        if model.load_report is not None:
            details = {"weights": model.load_report.text().replace("\n", "\n" + 12 * " "), **details}
        print_plan(plan, data, sampler, model, process, details)
    if arguments.dry_run:
        return 0

    # Run folder, and where a resumed run stands.
    output = Path(process.broadcast(str(open_folder(plan, held)) if process.is_main else None))
    if ddp is not model:
        shape = (recipe.batch_size, plan.settings.in_channels, *plan.settings.image_size)
        settle_buckets(ddp, shape, device, precision)
    progress = Progress()
    if plan.checkpoint is not None:
        progress = restore(plan, sampler, model, average, optimizer, scaler, process)
    positions = process.gather((progress.epoch, progress.position))
    if len(set(positions)) > 1:
        raise UserError(
            f"the ranks found different checkpoints (epoch, update): {', '.join(map(str, positions))}; do all machines "
            "see the same run folder?  Give --output and --resume auto on each"
        )
    if process.is_main:
        resumed = f", resumed after epoch {progress.epoch}, update {progress.position}"
        print(f"output      {output}" + resumed * (plan.checkpoint is not None), flush=True)
        before = plan.checkpoint["training"].get("precision", precision) if plan.checkpoint else precision
        if before != precision:  # what a machine trains in is its own default
            print(f"precision   {precision} on this machine; so far it was {before}")
        print(flush=True)
    writer = CheckpointWriter(output, arguments.checkpoint_every, arguments.keep_checkpoints)

    def state() -> dict[str, Any]:
        """The content of a checkpoint at this moment, between two updates.  Every rank takes part."""
        metrics = progress.history[-1] if progress.history else {}
        return {
            "architecture": architecture,
            "pretrained": pretrained,
            "weights": evaluated.state_dict(),
            "targets": list(data.train.target_names),
            "preprocessing": data.preprocessing.to_dict(),
            "logit_shift": shift,
            "prior": sampler.natural_share,
            "threshold": metrics.get("threshold"),
            "training_patients": list(data.train.patients),
            "plan": plan.to_dict(),
            "epoch": progress.epoch,
            "metrics": metrics,
            "training": {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "average_updates": average.updates if average else 0,
                "global_batch": sampler.global_batch,
                "precision": precision,
                "progress": progress.to_dict(process),
            },
        }

    request.listen()
    while progress.epoch < recipe.epochs:
        started = time.monotonic() - progress.seconds
        sampler.epoch, sampler.start = progress.epoch, progress.position
        train_mode(ddp, frozen, recipe.freeze_batch_norm)
        bar = tqdm(
            desc=f"epoch {progress.epoch + 1}/{recipe.epochs}",
            initial=progress.position,
            total=sampler.updates,
            unit=" updates",
            disable=not (process.is_main and sys.stderr.isatty()),
            leave=False,
        )
        for step, (batch, waited) in enumerate(timed(train_loader)):
            progress.waited += waited
            if step % recipe.accumulate == 0:
                # Dropout and stochastic depth: other numbers on each rank, the same ones when the update is done again.
                seed_update(recipe.seed, progress.epoch, progress.position, process.rank)
                loss_of_update, images_of_update = torch.zeros((), device=device), []
            if batch.failures and arguments.strict:
                raise UserError(batch.failures[0])
            progress.unreadable.update(batch.failures)
            images_of_update += [data.train.rows[index].image_id for index in batch.indices]
            images = to_device(batch.images, device)  # (N, C, H, W)
            targets = batch.targets.to(device, non_blocking=True)  # (N, T)
            last_pass = (step + 1) % recipe.accumulate == 0
            # Ranks exchange gradients once an update, with its last backward pass.
            with contextlib.nullcontext() if last_pass or ddp is model else ddp.no_sync():
                with autocast(device, precision):
                    logits = ddp(images)  # (N, T)
                loss = masked_binary_cross_entropy(logits, targets, recipe.auxiliary_weight, recipe.label_smoothing)
                loss = loss / recipe.accumulate
                scaler.scale(loss).backward()
            loss_of_update += loss.detach()
            if not last_pass:
                continue
            set_learning_rate(optimizer, learning_rate_at(progress.update, updates, warmup, peak_rate))
            # One small message in which the ranks agree: whether a loss is broken, whether to stop, whether to save.
            mean_loss = loss_of_update.item()
            number = progress.epoch * sampler.updates + progress.position + 1
            broken, stop_signal, save = process.maximum(
                not math.isfinite(mean_loss), request.signal, process.is_main and writer.due(number)
            )
            if take_step(optimizer, scaler, model.parameters(), recipe.clip, loss_is_finite=not broken):
                progress.update += 1
                progress.loss_sum += mean_loss
                progress.suspects = []
                if average:
                    average.update(model)
            else:  # moves neither the weights nor the schedule nor the average
                progress.skipped += 1
                progress.suspects.append(images_of_update)
                if len(progress.suspects) == PATIENCE:
                    raise give_up(progress, output, process)
            progress.position += 1
            if save or stop_signal:
                progress.seconds = time.monotonic() - started
                content = state()
                if process.is_main:
                    writer.save(number, serialise(content))
            if stop_signal:
                bar.close()
                return leave_early(stop_signal, progress, writer, process)
            if not bar.disable:
                speed = sampler.global_batch * progress.position / (time.monotonic() - started)
                rate = optimizer.param_groups[0]["lr"]
                waiting = f"{100 * progress.waited / (time.monotonic() - started):.0f} % waiting for data"
                text = f"loss {mean_loss:.3f}, rate {rate:.1e}, {speed:.1f} images/s, {waiting}"
                bar.set_postfix_str(text, refresh=False)
                bar.update()
        bar.close()
        progress.seconds = time.monotonic() - started
        if progress.update == 0 and not scaler.is_enabled():  # fp16's scaler may need more updates to find its scale
            raise UserError("not one update of the first epoch had finite gradients: lower --learning-rate")

        # Validation of the averaged weights.  Batch-norm statistics differ between ranks after every step: rank 0's.
        writer.wait()  # loader processes are forked here, which no thread should be writing in
        process.broadcast_buffers(model)
        process.broadcast_buffers(evaluated)
        if updates < SHORT_RUN and not recipe.freeze_batch_norm:
            images = torch.cat([batch.images for batch in calibration_loader])
            kept = first_stages(evaluated, recipe.freeze_until)
            recalibrate_batch_norm(evaluated, images, device, "fp32" if device.type == "cpu" else precision, kept)
            process.average_buffers(evaluated)
        validated = validate(
            evaluated, validation_loader, data, process, precision, shift, recipe.auxiliary_weight, request
        )
        if isinstance(validated, int):
            content = state()
            if process.is_main:
                writer.save((progress.epoch + 1) * sampler.updates, serialise(content))
            return leave_early(validated, progress, writer, process)
        scores, values, failures = validated
        if failures and arguments.strict:
            raise UserError(failures[0])
        progress.unreadable.update(failures)
        gathered = process.gather((progress.loss_sum, sorted(progress.unreadable)))
        unreadable = sorted({line for _, lines in gathered for line in lines})
        taken = (sampler.updates - progress.skipped) * process.world_size
        values = {
            "epoch": progress.epoch + 1,
            "step": progress.update,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "train_loss": sum(loss_sum for loss_sum, _ in gathered) / taken if taken else math.nan,
            **values,
            "skipped_updates": progress.skipped,
            "unreadable_images": len(unreadable),
            "seconds": round(time.monotonic() - started, 3),
            "images_per_second": round(sampler.updates * sampler.global_batch / progress.seconds, 3),
            "waiting_share": round(progress.waited / progress.seconds, 4),  # rank 0's, for data
        }

        # Checkpoint: `last` to go on from, `best` to use.
        score = values[recipe.select]
        score = float("-inf") if score is None else -score if recipe.select == "val_loss" else score
        improved = progress.best is None or score > progress.best
        progress.best = score if improved else progress.best
        progress.history.append(values)
        progress.begin_epoch()
        content = state()
        if process.is_main:
            files = {"metrics.jsonl": metrics_text(progress.history).encode()}
            if unreadable:
                files["unreadable.txt"] = "".join(f"{line}\n" for line in unreadable).encode()
            if improved:
                metrics = scores.metrics(intervals=True)
                card = model_card(plan.to_dict(), plan.architecture, data.train, data.validation, values, metrics)
                predictions = io.StringIO()
                write_predictions(predictions, scores, data.train.target_names, data.fold_of)
                files["best.pt"] = serialise({name: content[name] for name in content if name != "training"})
                files["predictions.csv"] = predictions.getvalue().encode()
                files["MODEL_CARD.md"] = card.encode()
            number = progress.epoch * sampler.updates
            writer.save(number, serialise(content), files, say=epoch_text(values, recipe.epochs, improved))

    writer.wait()
    if writer.error:
        raise UserError(f"the run is finished, but {output} could not be written: {writer.error.strerror}")
    process.barrier()
    if process.is_main:
        print_end(plan, output, progress.history)
    return 0


def restore(
    plan: Plan,
    sampler: BalancedSampler,
    model: torch.nn.Module,
    average: ExponentialMovingAverage | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    process: Process,
) -> Progress:
    """Puts everything into the state of the plan's checkpoint; returns where it stands.  Raises CheckpointError."""
    try:
        state = plan.checkpoint["training"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and scaler.is_enabled():  # a run may go on at another machine's default precision
            scaler.load_state_dict(state["scaler"])
        if average:
            average.load_state_dict({"average": plan.checkpoint["weights"], "updates": state["average_updates"]})
        progress = Progress.from_dict(state["progress"], process)
        global_batch = state["global_batch"]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{plan.output}: its checkpoint does not fit this version of the project ({reason})"
        ) from None
    if global_batch != sampler.global_batch:
        raise UserError(
            f"the run has {global_batch} images an update, but {process.world_size} ranks x --batch-size "
            f"{sampler.batch_size} x --accumulate {sampler.accumulate} make {sampler.global_batch}: make them agree"
        )
    return progress


def give_up(progress: Progress, output: Path, process: Process) -> UserError:
    """After too many broken updates in a row; their images go into the run folder."""
    suspects = [list(chain(*parts)) for parts in zip(*process.gather(progress.suspects), strict=True)]
    if process.is_main:
        write_json(output / "not_finite.json", suspects)
    return UserError(
        f"{PATIENCE} updates in a row had a loss or gradients that are not finite: lower --learning-rate, or use "
        f"--precision bf16 or fp32.  {output / 'not_finite.json'} lists the images of each"
    )


def leave_early(stop_signal: int, progress: Progress, writer: CheckpointWriter, process: Process) -> int:
    """The end of a run that a signal stopped, once its state is on the disk; returns the exit code."""
    name, output = signal.Signals(stop_signal).name, writer.folder
    writer.wait()
    if writer.error:
        raise UserError(f"stopped by {name}, but {output} could not be written: {writer.error.strerror}")
    launches = process.gather(launch_name())
    if process.is_main:
        where = f"stopped by {name} after epoch {progress.epoch}, update {progress.position}"
        mark_stopped(output, where, launches)
        print(f"train.py: {where}: all of it is saved, go on with --resume {output}", file=sys.stderr, flush=True)
    process.barrier()  # torchrun ends the others when the first rank leaves
    return exit_code(stop_signal)


def build_model(plan: Plan, num_classes: int) -> tuple[EfficientNet, dict[str, Any], list[str]]:
    """The model, the arguments of `create_model` that make such a one again, and the names of its pretrained tensors.

    A resumed run takes these from its checkpoint, and needs the file of --weights no longer.
    """
    recipe, common = plan.recipe, {"checkpoint_activations": plan.recipe.checkpoint_activations}
    if plan.checkpoint is not None:
        architecture = plan.checkpoint["architecture"]
        return create_model(**architecture, **common), architecture, plan.checkpoint["pretrained"]
    architecture = {
        "name_or_stages": [asdict(stage) for stage in plan.architecture.stages],
        "num_classes": num_classes,
        "in_channels": plan.settings.in_channels,
        "dropout": plan.architecture.dropout if recipe.dropout is None else recipe.dropout,
        "stochastic_depth": recipe.stochastic_depth,
        "batch_norm_momentum": recipe.batch_norm_momentum,
    }
    model = create_model(**architecture, **common, weights=plan.weights, source=plan.source)
    architecture |= {"padding": model.convention.padding, "batch_norm_eps": model.convention.batch_norm_eps}
    report = model.load_report
    return model, architecture, [*report.loaded, *report.adapted] if report else []


def default_precision(process: Process) -> str:
    """fp16 on CUDA; bf16 where the CPU of every rank has units for it (`fast_training`), otherwise fp32."""
    if process.device.type == "cuda":
        return "fp16"
    return "fp32" if process.maximum(not has_bf16_units())[0] else "bf16"


def first_stages(model: EfficientNet, count: int) -> list[torch.nn.Module]:
    """The modules of the first `count` stages, in the order of Table 1."""
    return [model.stem, *model.body, model.head][:count]


def random_rows(rows: int, count: int, seed: int, process: Process) -> list[int]:
    """This rank's `count` of the rows, other ones on each rank while there are enough, the same for the same seed."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(rows)
    return order[process.rank :: process.world_size][:count].tolist()


def mean_labels(labels: np.ndarray) -> np.ndarray:
    """The share of positives of each column among the labels that are there; nan where none is."""
    present = ~np.isnan(labels)
    return np.nansum(labels, axis=0) / np.where(present.any(0), present.sum(0), np.nan)


def open_folder(plan: Plan, held: contextlib.ExitStack) -> Path:
    """The run folder, locked, with its config.json; on resume, without the lines of later epochs in metrics.jsonl."""
    output = plan.output or choose_folder(plan.architecture.slug)
    output.mkdir(parents=True, exist_ok=True)
    held.enter_context(lock(output))
    remove_leftovers(output)
    unmark_stopped(output)
    mark_launch(output)
    if plan.checkpoint is None:
        write_json(output / "config.json", plan.to_dict())
    return output


def explained(error: Exception, arguments: argparse.Namespace) -> Exception:
    """What to raise in place of a failure of the machinery; a mistake of ours stays what it is."""
    text = explain_failure(error, arguments.timeout)
    return error if text is None else UserError(text)


@command("train.py")
def main(argv: Sequence[str] | None = None) -> int:
    sys.stdout.reconfigure(line_buffering=True)
    parser = make_parser(__doc__)
    arguments = parser.parse_args(argv)
    try:
        folder = own_folder(arguments.output) or arguments.output
        if restarted() and folder is not None and is_stopped(folder):
            print(f"train.py: {folder} was stopped on request, so it is not started again", file=sys.stderr)
            return 0
        plan = make_plan(arguments)
        process = start(arguments.device, arguments.backend, arguments.timeout)
        if plan.recipe.sync_batch_norm and process.device.type != "cuda":
            raise ValueError("--sync-batch-norm works on CUDA only; leave it out")
    except (CheckpointError, WeightsError) as error:
        raise UserError(error) from None
    except ValueError as error:
        parser.error(str(error))
    except RuntimeError as error:
        raise explained(error, arguments) from None
    try:
        with StopRequest() as request, killed_loaders_told_once(), contextlib.ExitStack() as held:
            code = train(plan, arguments, process, request, held)
    except (TableError, CheckpointError, UserError, WeightsError) as error:
        raise UserError(error) from None
    except torch.OutOfMemoryError:
        size = "x".join(map(str, plan.settings.image_size))
        raise UserError(
            f"out of GPU memory with {plan.recipe.batch_size} images of {size} a rank: lower --batch-size (and raise "
            "--accumulate by as much), add --checkpoint-activations, or lower --image-size"
        ) from None
    except (RuntimeError, MemoryError) as error:
        raise explained(error, arguments) from None
    stop(process)  # not after a failure: see command_line.leave
    return code


if __name__ == "__main__":
    leave(main())
