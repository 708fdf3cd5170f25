"""Train an EfficientNet on mammograms: one plain loop, on one process or many.

    python train.py --variant b0                                  the embedded phantoms, one process
    torchrun --nproc_per_node=2 train.py --variant b3             the same on two
    torchrun --nproc_per_node=2 train.py --variant b3 --data RSNA --image-size 1024 512 --batch-size 4
    python train.py --data RSNA --dry-run                         what would be trained
    torchrun --nproc_per_node=2 train.py --resume runs/b3-1       go on after an interruption

Read `train` from top to bottom: data, model, optimizer, autocast, step, average, validation, checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from efficientnet import create_model
from efficientnet.command_line import CommandError, run
from efficientnet.mammography.dataset import MammogramDataset, collate
from efficientnet.mammography.report import model_card
from efficientnet.mammography.scoring import BreastScores, score_breasts, sigmoid, write_predictions
from efficientnet.mammography.table import TableError
from efficientnet.plan import Data, Plan, load_data, make_parser, make_plan, print_plan
from efficientnet.training.augment import augment_draw
from efficientnet.training.checkpoint import CheckpointError, atomic_file, save_checkpoint, write_json
from efficientnet.training.distributed import Process, start, stop
from efficientnet.training.ema import ExponentialMovingAverage
from efficientnet.training.loop import autocast, default_workers, predict, recalibrate_batch_norm, take_step, to_device
from efficientnet.training.loss import masked_binary_cross_entropy, prior_shift, start_classifier_at
from efficientnet.training.optim import learning_rate_at, parameter_groups
from efficientnet.training.run import append_metrics, choose_folder, mark_launch, truncate_metrics
from efficientnet.training.sampler import BalancedSampler

# In fewer updates than this, moving averages of batch-norm statistics at the paper's momentum of 0.01, and their
# average in turn, still hold much of where they began.  Such a run measures them anew before each validation.
SHORT_RUN = 3000


def train(plan: Plan, arguments: argparse.Namespace, process: Process) -> None:
    recipe, device = plan.recipe, process.device

    # Data.  Each rank takes every W-th draw of a global batch; validation images are dealt out, none of them twice.
    data = load_data(plan, process)
    if arguments.strict and data.without_file:
        raise CommandError(f"{data.without_file} rows of {data.root / 'train.csv'} have no image file")
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
        "worker_init_fn": leave_interrupts_to_parent,
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
    architecture = {
        "name_or_stages": plan.variant,
        "num_classes": labels.shape[1],
        "in_channels": plan.settings.in_channels,
        "dropout": recipe.dropout,
        "stochastic_depth": recipe.stochastic_depth,
        "batch_norm_momentum": recipe.batch_norm_momentum,
    }
    torch.manual_seed(recipe.seed)
    model = create_model(**architecture, checkpoint_activations=recipe.checkpoint_activations)
    start_classifier_at(model.classifier, [sampler.share, *np.nan_to_num(mean_labels(labels[:, 1:]))])
    if recipe.sync_batch_norm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device, memory_format=torch.channels_last)
    average = ExponentialMovingAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    evaluated = average.average if average else model
    ddp = model
    if process.backend is not None:
        device_ids = [device.index] if device.type == "cuda" else None
        ddp = DistributedDataParallel(model, device_ids, gradient_as_bucket_view=True)

    # Optimizer and precision.
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=peak_rate, fused=True)
    precision = recipe.precision or ("fp16" if device.type == "cuda" else "fp32")
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
            f"{workers} loader processes each",
        }
        print_plan(plan, data, sampler, model, process, details)
    if arguments.dry_run:
        return

    # Run folder, and where a resumed run stands.
    output = Path(process.broadcast(str(open_folder(plan)) if process.is_main else None))
    first_epoch, update, best = 0, 0, None
    if plan.checkpoint is not None:
        state = plan.checkpoint["training"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and scaler.is_enabled():  # a run may go on at another machine's default precision
            scaler.load_state_dict(state["scaler"])
        if average:
            average.load_state_dict({"average": plan.checkpoint["weights"], "updates": state["average_updates"]})
        first_epoch, update, best = plan.checkpoint["epoch"], state["update"], state["best"]
    if process.is_main:
        print(f"output      {output}" + f", resumed after epoch {first_epoch}" * (first_epoch > 0) + "\n", flush=True)

    explain_interrupts(output)
    unreadable: set[str] = set()
    for epoch in range(first_epoch, recipe.epochs):
        started = time.monotonic()
        sampler.epoch = epoch
        # Dropout and stochastic depth: other numbers on each rank, the same ones when the epoch is run again.
        torch.manual_seed(((recipe.seed * 1_000_003 + epoch) * 65_537 + process.rank) % 2**63)
        ddp.train()
        loss_sum, skipped = torch.zeros((), device=device), 0
        progress = tqdm(
            desc=f"epoch {epoch + 1}/{recipe.epochs}",
            total=sampler.updates,
            unit=" updates",
            disable=not (process.is_main and sys.stderr.isatty()),
            leave=False,
        )
        for step, batch in enumerate(train_loader):
            if batch.failures and arguments.strict:
                raise CommandError(batch.failures[0])
            unreadable.update(batch.failures)
            images = to_device(batch.images, device)  # (N, C, H, W)
            targets = batch.targets.to(device, non_blocking=True)  # (N, T)
            last_pass = (step + 1) % recipe.accumulate == 0
            # Ranks exchange gradients once an update, with its last backward pass.
            with contextlib.nullcontext() if last_pass or ddp is model else ddp.no_sync():
                with autocast(device, precision):
                    logits = ddp(images)  # (N, T)
                loss = masked_binary_cross_entropy(logits, targets, recipe.auxiliary_weight, recipe.label_smoothing)
                scaler.scale(loss / recipe.accumulate).backward()
            loss_sum += loss.detach()
            if not last_pass:
                continue
            rate = learning_rate_at(update, updates, warmup, peak_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            if take_step(optimizer, scaler, model.parameters(), recipe.clip):
                update += 1
                if average:
                    average.update(model)
            else:  # an overflowed update moves neither the weights nor the schedule nor the average
                skipped += 1
            if not progress.disable:
                speed = sampler.global_batch * (step + 1) / recipe.accumulate / (time.monotonic() - started)
                shown = f"loss {loss.item():.3f}, rate {rate:.1e}, {speed:.1f} images/s"
                progress.set_postfix_str(shown, refresh=False)
                progress.update()
        progress.close()
        trained = time.monotonic() - started
        if update == 0 and not scaler.is_enabled():  # fp16's scaler may need more updates to find its scale
            raise CommandError("not one update of the first epoch had finite gradients: lower --learning-rate")

        # Validation of the averaged weights.  Batch-norm statistics differ between ranks after every step: rank 0's.
        process.broadcast_buffers(model)
        process.broadcast_buffers(evaluated)
        if updates < SHORT_RUN:
            images = torch.cat([batch.images for batch in calibration_loader])
            recalibrate_batch_norm(evaluated, images, device, precision)
            process.average_buffers(evaluated)
        scores, values, failures = validate(evaluated, validation_loader, data, process, precision, shift, plan)
        losses = process.gather(loss_sum.item() / len(train_loader))
        if failures and arguments.strict:
            raise CommandError(failures[0])
        unreadable.update(failures, *process.gather(sorted(unreadable)))
        values = {
            "epoch": epoch + 1,
            "step": update,
            "learning_rate": rate,
            "train_loss": sum(losses) / len(losses),
            **values,
            "skipped_updates": skipped,
            "unreadable_images": len(unreadable),
            "seconds": round(time.monotonic() - started, 3),
            "images_per_second": round(sampler.updates * sampler.global_batch / trained, 3),
        }

        # Checkpoint: `last` to go on from, `best` to use.
        score = values[recipe.select]
        score = float("-inf") if score is None else -score if recipe.select == "val_loss" else score
        improved = best is None or score > best
        best = score if improved else best
        if process.is_main:
            content = {
                "architecture": architecture,
                "weights": evaluated.state_dict(),
                "targets": list(data.train.target_names),
                "preprocessing": data.preprocessing.to_dict(),
                "logit_shift": shift,
                "prior": sampler.natural_share,
                "threshold": values["threshold"],
                "training_patients": list(data.train.patients),
                "plan": plan.to_dict(),
                "epoch": epoch + 1,
                "metrics": values,
            }
            training = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "average_updates": average.updates if average else 0,
                "update": update,
                "best": best,
            }
            if improved:
                save_checkpoint(output / "best.pt", content)
                with atomic_file(output / "predictions.csv", "w") as file:
                    write_predictions(file, scores, data.train.target_names, data.fold_of)
                with atomic_file(output / "MODEL_CARD.md", "w") as file:
                    file.write(
                        model_card(plan.to_dict(), data.train, data.validation, values, scores.metrics(intervals=True))
                    )
            append_metrics(output, values)
            save_checkpoint(output / "last.pt", {**content, "training": training})
            print_epoch(values, recipe.epochs, improved)
        process.barrier()

    if process.is_main:
        print_end(plan, output, sorted(unreadable))


def validate(
    model: torch.nn.Module,
    loader: DataLoader,
    data: Data,
    process: Process,
    precision: str,
    shift: float,
    plan: Plan,
) -> tuple[BreastScores, dict[str, Any], list[str]]:
    """Scores of the held-out breasts, metrics, and what could not be read; complete on every rank."""
    indices, parts, failures = [], [np.zeros((0, len(data.train.target_names)), np.float32)], []
    model.eval()
    for batch in loader:
        indices += [batch.indices[place] for place in batch.readable]
        parts.append(predict(model, batch.images, process.device, precision)[batch.readable])
        failures += batch.failures
    gathered = process.gather((indices, np.concatenate(parts), failures))
    indices = [index for part in gathered for index in part[0]]
    logits = np.concatenate([part[1] for part in gathered])
    failures = [line for part in gathered for line in part[2]]
    if not indices:
        raise CommandError(f"not one validation image could be read; the first: {failures[0]}")
    if not np.isfinite(logits).all():
        raise CommandError(
            "the model's outputs are no longer finite: lower --learning-rate, or use --precision bf16 or fp32; "
            "last.pt keeps the epoch before"
        )
    logits[:, 0] -= shift
    loss = masked_binary_cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(data.validation.labels[indices]), plan.recipe.auxiliary_weight
    )
    scores = score_breasts(data.validation, indices, sigmoid(logits))
    metrics = scores.metrics()
    names = ("pf1", "pf1_best", "threshold", "auc", "average_precision")
    return scores, {"val_loss": loss.item(), **{name: metrics[name] for name in names}}, failures


def random_rows(rows: int, count: int, seed: int, process: Process) -> list[int]:
    """This rank's `count` of the rows, other ones on each rank while there are enough, the same for the same seed."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(rows)
    return order[process.rank :: process.world_size][:count].tolist()


def mean_labels(labels: np.ndarray) -> np.ndarray:
    """The share of positives of each column among the labels that are there; nan where none is."""
    present = ~np.isnan(labels)
    return np.nansum(labels, axis=0) / np.where(present.any(0), present.sum(0), np.nan)


def open_folder(plan: Plan) -> Path:
    """The run folder with its config.json; on resume, with the metrics of later epochs taken back."""
    if plan.checkpoint is not None:
        truncate_metrics(plan.output, plan.checkpoint["epoch"])
        return plan.output
    output = plan.output or choose_folder(plan.variant)
    output.mkdir(parents=True, exist_ok=True)
    mark_launch(output)
    write_json(output / "config.json", plan.to_dict())
    return output


def print_epoch(values: dict[str, Any], epochs: int, improved: bool) -> None:
    shown = {name: "-" if values[name] is None else f"{values[name]:.3f}" for name in values if name != "epoch"}
    print(
        f"epoch {values['epoch']}/{epochs}  loss {shown['train_loss']} train {shown['val_loss']} validation  "
        f"pF1 {shown['pf1']}  best-threshold F1 {shown['pf1_best']} at {shown['threshold']}  AUC {shown['auc']}  "
        f"AP {shown['average_precision']}  {values['seconds']:.0f} s, {values['images_per_second']:.1f} images/s"
        + ("  best" if improved else ""),
        flush=True,
    )


def print_end(plan: Plan, output: Path, unreadable: list[str]) -> None:
    if unreadable:
        print(f"\n{len(unreadable)} images could not be read and were replaced or left out; the first:")
        print("\n".join(f"  {line}" for line in unreadable[:5]))
    card = (output / "MODEL_CARD.md").read_text(encoding="utf-8")
    summary = next(line for line in card.splitlines() if line.startswith("Probabilistic F1"))
    data = "" if plan.data is None else f" --data {plan.data}"
    print(f"\n{summary}\n\nrun folder  {output}\nnext        python evaluate.py --checkpoint {output}/best.pt{data}")


def explain_interrupts(output: Path) -> None:
    """From here on Ctrl-C says what is kept and how to go on."""

    def interrupt(*_: Any) -> None:
        kept = f"{output / 'last.pt'} keeps the finished epochs: go on with --resume {output}"
        raise KeyboardInterrupt(kept if (output / "last.pt").exists() else "no epoch was finished")

    signal.signal(signal.SIGINT, interrupt)


def leave_interrupts_to_parent(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the loaders end with the process that they serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)
    parser = make_parser(__doc__)
    arguments = parser.parse_args()
    try:
        plan = make_plan(arguments)
        process = start(arguments.device, arguments.backend)
        if plan.recipe.sync_batch_norm and process.device.type != "cuda":
            raise ValueError("--sync-batch-norm works on CUDA only; leave it out")
    except ValueError as error:
        parser.error(str(error))
    except CheckpointError as error:
        raise CommandError(error) from None
    try:
        train(plan, arguments, process)
    except TableError as error:
        raise CommandError(error) from None
    except torch.OutOfMemoryError:
        size = "x".join(map(str, plan.settings.image_size))
        raise CommandError(
            f"out of GPU memory with {plan.recipe.batch_size} images of {size} a rank: lower --batch-size (and raise "
            "--accumulate by as much), add --checkpoint-activations, or lower --image-size"
        ) from None
    stop(process)  # not after a failure: see command_line.leave


if __name__ == "__main__":
    run("train.py", main)
