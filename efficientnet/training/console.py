"""What a run of train.py prints: the page that it begins with, a line for each epoch, and the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efficientnet.complexity import complexity
from efficientnet.model import EfficientNet
from efficientnet.training.distributed import Process
from efficientnet.training.plan import Data, Plan
from efficientnet.training.sampler import BalancedSampler


def print_plan(
    plan: Plan, data: Data, sampler: BalancedSampler, model: EfficientNet, process: Process, details: dict[str, str]
) -> None:
    """The page that --dry-run shows and every run begins with; `details` are further lines."""
    recipe, size = plan.recipe, plan.settings.image_size
    counts = complexity(model.stages, size, model.num_classes)
    lines = [("data", f"{data.root}{' (embedded phantoms, no real mammograms)' if plan.data is None else ''}")]
    for name, table in (("training", data.train), ("validation", data.validation)):
        every, positive = table.counts, table.positive_counts
        text = (
            f"{every.patients} patients, {every.breasts} breasts, {every.images} images; {table.target_names[0]}: "
            f"{positive.patients}, {positive.breasts}, {positive.images} ({100 * positive.images / every.images:.1f} %)"
        )
        lines.append((name, text))
    if data.without_file:
        lines.append(("warning", f"{data.without_file} rows of the table have no image file and are left out"))
    lines += [("warning", text) for text in data.train.warnings]
    lines.append(("targets", ", ".join(data.train.target_names)))
    lines.append(("input", f"{size[0]}x{size[1]} pixels, {model.in_channels} channel{'s' * (model.in_channels > 1)}"))
    used = data.preprocessing
    lines.append(("normalised", f"mean {used.mean:.4g}, std {used.std:.4g} of pixels in [0, 1]"))
    unit, scale = ("G", 1e9) if counts.multiply_adds >= 1e7 else ("M", 1e6)
    described = (
        f"{plan.architecture.title}, {counts.parameters:,} parameters, "
        f"{counts.multiply_adds / scale:.2f} {unit} multiply-adds an image"
    )
    lines.append(("model", described))
    batches = (
        f"{sampler.global_batch} images an update ({recipe.batch_size} x {process.world_size} ranks x "
        f"{recipe.accumulate} passes), {100 * sampler.share:.1f} % positive"
    )
    lines.append(("batches", batches))
    first = "the first" if recipe.freeze_until == 1 else f"the first {recipe.freeze_until}"
    frozen = [f"{first} of {len(model.stages)} stages"] * (recipe.freeze_until > 0)
    frozen += ["batch-norm statistics in every layer"] * recipe.freeze_batch_norm
    if frozen:
        lines.append(("frozen", "; ".join(frozen)))
    if recipe.pretrained_rate != 1:
        lines.append(("pretrained", f"layers learn at {recipe.pretrained_rate:g} of the learning rate"))
    lines += details.items()
    lines.append(("memory", f"about {memory_estimate(plan, model, counts.activations):.1f} GiB a rank (fp32 estimate)"))
    print("\n".join(f"{name:<11} {text}" for name, text in lines), flush=True)


def memory_estimate(plan: Plan, model: EfficientNet, activations: int) -> float:
    """GiB of one rank in fp32: weights, gradients, AdamW's two moments and the average; and what backward needs.

    For backward, 3.3 tensors are kept for each output element of a convolution (measured on B0 and B3 with autograd's
    saved-tensor hooks); with activation checkpointing the peak was two fifths of that (B3 at 300 pixels, batch 8).
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    kept = 3.3 * activations * plan.recipe.batch_size * (0.4 if plan.recipe.checkpoint_activations else 1)
    return 4 * (5 * weights + kept) / 2**30


def epoch_text(values: dict[str, Any], epochs: int, improved: bool) -> str:
    shown = {name: "-" if values[name] is None else f"{values[name]:.3f}" for name in values if name != "epoch"}
    return (
        f"epoch {values['epoch']}/{epochs}  loss {shown['train_loss']} train {shown['val_loss']} validation  "
        f"pF1 {shown['pf1']}  best-threshold F1 {shown['pf1_best']} at {shown['threshold']}  AUC {shown['auc']}  "
        f"AP {shown['average_precision']}  {values['seconds']:.0f} s, {values['images_per_second']:.1f} images/s, "
        f"{100 * values['waiting_share']:.0f} % waiting for data" + ("  best" if improved else "")
    )


def print_end(plan: Plan, output: Path, history: list[dict[str, Any]]) -> None:
    skipped = sum(values["skipped_updates"] for values in history)
    if skipped:
        print(f"\n{skipped} updates were left out, because their loss or gradients were not finite")
    unreadable = history[-1]["unreadable_images"]
    if unreadable:
        listed = (output / "unreadable.txt").read_text(encoding="utf-8").splitlines()
        print(f"\n{unreadable} images could not be read and were replaced or left out; unreadable.txt lists them:")
        print("\n".join(f"  {line}" for line in listed[:5]))
    card = output / "MODEL_CARD.md"
    if not card.exists():
        print(f"\nno epoch after the checkpoint was better than the best before it, which is not in {output}")
        return
    lines = card.read_text(encoding="utf-8").splitlines()
    summary = next(line for line in lines if line.startswith("Probabilistic F1"))
    data = "" if plan.data is None else f" --data {plan.data}"
    print(f"\n{summary}\n\nrun folder  {output}\nnext        python evaluate.py --checkpoint {output}/best.pt{data}")
