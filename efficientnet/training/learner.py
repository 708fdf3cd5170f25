"""The trainable state: model, moving average, optimizer and gradient scaler."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from efficientnet.common.cpu import has_bf16_units
from efficientnet.common.errors import UserError
from efficientnet.create import create_model
from efficientnet.inference.precision import autocast
from efficientnet.inference.prediction import to_device
from efficientnet.layers import initialise
from efficientnet.model import EfficientNet
from efficientnet.training.batch_norm import batch_norms, freeze, recalibrate_batch_norm, train_mode
from efficientnet.training.distributed import Process
from efficientnet.training.ema import ExponentialMovingAverage
from efficientnet.training.fast_cpu import accelerate_training
from efficientnet.training.plan import Plan
from efficientnet.training.rmsprop import RMSProp
from efficientnet.training.task import Batch, alike

# In a run with fewer updates, the moving averages of batch norm (at the paper's momentum of 0.01) and their EMA still
# contain much of their initial values. Such a run recalibrates the statistics before each validation.
SHORT_RUN = 3000


class Learner:
    """The network on this rank's device, with everything that updates its weights.

    model: the plain network.  ddp: the same under DistributedDataParallel, from the first `train` on, or `model` itself
    on a single process.
    average: the moving average of the weights, if the recipe uses one.
    architecture: the arguments of `create_model` that rebuild the network.  pretrained: names of the tensors that
    --weights filled. Checkpoints store both.
    freeze_epochs: number of first epochs in which only the other parameters learn; 0 if there are no others.
    """

    def __init__(self, plan: Plan, process: Process) -> None:
        recipe = plan.recipe
        self.recipe, self.process, self.device = recipe, process, process.device
        self.precision = recipe.precision or default_precision(process)
        model, self.architecture, self.pretrained = build_model(plan)
        self.load_report = model.load_report
        if recipe.sync_batch_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if self.device.type == "cpu":
            accelerate_training(model, self.precision)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        freeze(first_stages(model, recipe.freeze_until))
        self.average = ExponentialMovingAverage(model, recipe.ema_decay) if recipe.ema_decay else None
        self.ddp: nn.Module = model
        learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.filled = [parameter for name, parameter in learning.items() if name in self.pretrained]
        self.freeze_epochs = recipe.freeze_epochs if 0 < len(self.filled) < len(learning) else 0
        self.frozen_stages = recipe.freeze_until
        as_released = recipe.optimizer == "rmsprop"
        groups = parameter_groups(model, recipe.weight_decay, self.pretrained, recipe.pretrained_rate, as_released)
        self.optimizer = (
            RMSProp(groups, recipe.learning_rate)
            if as_released
            else torch.optim.AdamW(groups, recipe.learning_rate, fused=True)
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @property
    def evaluated(self) -> nn.Module:
        """The network to validate and to save: the average if there is one, else `model`."""
        return self.average.average if self.average else self.model

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def train(self, epoch: int) -> None:
        """Set everything that learns in this epoch, counted from 0, to training mode, and freeze the rest.

        Must be called on every rank, before the epoch's first update or, in a resumed run, the next one.
        """
        only_fresh = epoch < self.freeze_epochs
        for parameter in self.filled:
            parameter.requires_grad_(not only_fresh)
        # Only pooling, attention and classifier can be fresh, so that all stages are frozen.
        self.frozen_stages = len(self.model.stages) if only_fresh else self.recipe.freeze_until
        if self.process.backend is not None and (self.ddp is self.model or epoch == self.freeze_epochs):
            self.distribute()
        train_mode(self.ddp, first_stages(self.model, self.frozen_stages), self.recipe.freeze_batch_norm)

    def distribute(self) -> None:
        """Wrap the model in DDP, which will exchange the gradients of the parameters that are not frozen now."""
        self.ddp = self.model  # the end of an earlier DDP, which takes its hooks off the parameters
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        self.ddp = DistributedDataParallel(self.model, device_ids, gradient_as_bucket_view=True)
        self.settle_buckets()

    def to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's images (N, C, H, W) and targets (N, ...) on this rank's device."""
        return to_device(batch.images, self.device), batch.targets.to(self.device, non_blocking=True)

    def autocast(self) -> contextlib.AbstractContextManager:
        return autocast(self.device, self.precision)

    def synchronise_if(self, last_pass: bool) -> contextlib.AbstractContextManager:
        """A context in which the ranks exchange gradients only in the last backward pass of an update."""
        return contextlib.nullcontext() if last_pass or self.ddp is self.model else self.ddp.no_sync()

    def step(self, learning_rate: float, loss_is_finite: bool = True) -> bool:
        """`take_step`, then update the average. Returns whether the weights moved."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate_factor"]
        moved = take_step(self.optimizer, self.scaler, self.model.parameters(), self.recipe.clip, loss_is_finite)
        if moved and self.average:
            self.average.update(self.model)
        return moved

    def settle_buckets(self) -> None:
        """Fix DDP's order of summation with a backward pass over blank images that has no other effect.

        After its first backward pass, DDP regroups the gradients into the buckets that ranks exchange. With three or
        more ranks, a sum depends on its place in a bucket. A run and its continuation each have a first pass, so they
        would differ in the last bits. Therefore both begin with this pass. The order does not depend on the image size.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.ddp.train()
        blank = to_device(torch.zeros(2, self.model.in_channels, 64, 64), self.device)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), self.autocast():
            self.ddp(blank).float().mean().backward()
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)

    def settle_batch_norm(self, images: Iterable[Tensor], updates: int) -> None:
        """Give all ranks the same batch-norm statistics; in a short run, recalibrate those that are not frozen.

        Each rank's own batches change its statistics, so all ranks take rank 0's.
        images: batches (N, C, H, W) to recalibrate on.  updates: of the whole run.
        """
        self.process.broadcast_buffers(self.model)
        self.process.broadcast_buffers(self.evaluated)
        all_frozen = self.recipe.freeze_batch_norm or self.frozen_stages == len(self.model.stages)
        if updates < SHORT_RUN and not all_frozen:
            precision = "fp32" if self.device.type == "cpu" else self.precision
            kept = first_stages(self.evaluated, self.frozen_stages)
            recalibrate_batch_norm(
                self.evaluated, torch.cat(alike(list(images), dimensions=5)), self.device, precision, kept
            )
            self.process.average_buffers(self.evaluated)

    def state_dict(self) -> dict[str, Any]:
        """Everything except the weights of `evaluated`, which are at the top level of a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average_updates": self.average.updates if self.average else 0,
            "precision": self.precision,
        }

    def load_state_dict(self, state: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Load `state_dict()` and the weights of `evaluated`. Raises PyTorch's errors on a mismatch."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():  # the default precision may differ on the machine that resumes
            self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.average.load_state_dict(weights)
            self.average.updates = state["average_updates"]


def build_model(plan: Plan) -> tuple[EfficientNet, dict[str, Any], list[str]]:
    """The model, the arguments of `create_model` that rebuild it, and the names of its pretrained tensors.

    The seed gives every rank the same initial weights. A resumed run takes everything from its checkpoint and no longer
    needs the file of --weights.
    """
    recipe = plan.recipe
    torch.manual_seed(recipe.seed)
    common = {"checkpoint_activations": recipe.checkpoint_activations}
    if plan.checkpoint is not None:
        architecture = plan.checkpoint["architecture"]
        if architecture["num_classes"] != plan.task.num_outputs:
            raise UserError(
                f"{plan.output}: the run has {architecture['num_classes']} outputs but the data now give "
                f"{plan.task.num_outputs}; use the data that it was trained on"
            )
        return create_model(**architecture, **common), architecture, plan.checkpoint["pretrained"]
    architecture = {
        "name_or_stages": [asdict(stage) for stage in plan.architecture.stages],
        "num_classes": plan.task.num_outputs,
        "in_channels": plan.task.settings.in_channels,
        "dropout": plan.architecture.dropout if recipe.dropout is None else recipe.dropout,
        "stochastic_depth": recipe.stochastic_depth,
        "padding": recipe.padding,
        "batch_norm_eps": recipe.batch_norm_eps,
        "batch_norm_momentum": recipe.batch_norm_momentum,
        "pooling": recipe.pooling,
        **plan.task.network,
    }
    model = create_model(**architecture, **common, weights=plan.weights, source=plan.source)
    convention = model.convention
    architecture |= {"padding": convention.padding, "batch_norm_eps": convention.batch_norm_eps}
    architecture["pooling"] = model.pooling.kind
    report = model.load_report
    if report and "classifier.weight" in report.loaded and not plan.task.keeps_classifier(plan.pretrained):
        model.classifier.apply(initialise)
        report = model.load_report = report.without_classifier()
    pretrained = [*report.loaded, *report.adapted] if report else []
    if "classifier.weight" not in pretrained:
        plan.task.start_classifier(model.classifier)
    return model, architecture, pretrained


def default_precision(process: Process) -> str:
    """fp16 on CUDA; bf16 if the CPU of every rank has bf16 units (see `fast_cpu`); otherwise fp32."""
    if process.device.type == "cuda":
        return "fp16"
    return "fp32" if process.maximum(not has_bf16_units())[0] else "bf16"


def first_stages(model: EfficientNet, count: int) -> list[nn.Module]:
    """The modules of the first `count` stages, in the order of Table 1."""
    return [model.stem, *model.body, model.head][:count]


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    pretrained: Collection[str] = (),
    pretrained_rate: float = 1.0,
    decay_biases: bool = False,
) -> list[dict[str, Any]]:
    """Optimizer groups: weights with decay; norms and biases (one dimension) without.

    Decay pulls towards zero. That is not a sensible prior for a norm's scale, and it does not regularise a bias.
    pretrained: names of the parameters that learn at `pretrained_rate` times the learning rate. They form groups of
    their own. Each group stores its factor as "rate_factor", and `Learner.step` applies it.
    decay_biases: decay the biases outside norms too, as the released code does.
    """
    of_norms = {id(parameter) for norm in batch_norms(model) for parameter in norm.parameters()}

    def decays(name: str, parameter: nn.Parameter) -> bool:
        is_bias = name.endswith(".bias") and id(parameter) not in of_norms
        return parameter.dim() > 1 or (decay_biases and is_bias)

    groups = []
    for factor, chosen in ((1.0, False), (pretrained_rate, True)):
        named = [(name, parameter) for name, parameter in model.named_parameters() if (name in pretrained) == chosen]
        for decay, decayed in ((weight_decay, True), (0.0, False)):
            members = [p for name, p in named if p.requires_grad and decays(name, p) == decayed]
            if members:
                groups.append({"params": members, "weight_decay": decay, "rate_factor": factor})
    return groups


def take_step(
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: Iterable[nn.Parameter],
    clip: float,
    loss_is_finite: bool = True,
) -> bool:
    """Unscale the gradients, clip them, step, and clear them. Returns whether the parameters moved.

    Gradients are clipped after unscaling, or the limit would apply to the scaled ones. If the loss or a gradient is not
    finite, no parameter moves, and the scaler, if enabled, lowers its scale.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
    finite = loss_is_finite and bool(norm.isfinite())
    if finite:
        scaler.step(optimizer)
    if loss_is_finite or not scaler.is_enabled():
        scaler.update()
    else:  # the scaler checks only the gradients; if these are finite, update() could raise the scale
        scaler.update(scaler.get_scale() * scaler.get_backoff_factor())
    optimizer.zero_grad(set_to_none=True)
    return finite
