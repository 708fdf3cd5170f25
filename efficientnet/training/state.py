"""Conversion between the state of a run and the content of a checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from efficientnet.common.errors import UserError
from efficientnet.training.checkpoint import misfit
from efficientnet.training.distributed import Process
from efficientnet.training.learner import Learner
from efficientnet.training.loaders import Loaders
from efficientnet.training.plan import Plan
from efficientnet.training.progress import Progress


def checkpoint_of(
    plan: Plan, learner: Learner, loaders: Loaders, progress: Progress, process: Process
) -> dict[str, Any]:
    """The content of a checkpoint at this moment, between two updates. Must be called on every rank.

    Besides the task's state: "weights" are the ones to use, and "training" holds what only a resumed run needs.
    """
    return {
        "task": plan.task.name,
        **plan.task.state(),
        "architecture": learner.architecture,
        "pretrained": learner.pretrained,
        "weights": learner.evaluated.state_dict(),
        "plan": plan.to_dict(),
        "epoch": progress.epoch,
        "metrics": progress.history[-1] if progress.history else {},
        "training": {
            **learner.state_dict(),
            "global_batch": loaders.sampler.global_batch,
            "progress": progress.to_dict(process),
        },
    }


def restore(plan: Plan, learner: Learner, loaders: Loaders, process: Process) -> Progress:
    """Restore the state from the plan's checkpoint, if there is one, and return the run's progress.

    Raises CheckpointError if the checkpoint does not fit, and UserError if the number of images an update differs or
    the ranks found different checkpoints.
    """
    progress = Progress()
    if plan.checkpoint is not None:
        try:
            state = plan.checkpoint["training"]
            learner.load_state_dict(state, plan.checkpoint["weights"])
            progress = Progress.from_dict(state["progress"], process)
            global_batch = state["global_batch"]
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise misfit(f"{plan.output}: its checkpoint", error) from None
        sampler = loaders.sampler
        if global_batch != sampler.global_batch:
            raise UserError(
                f"the run uses {global_batch} images per update, but {process.world_size} ranks x --batch-size "
                f"{sampler.batch_size} x --accumulate {sampler.accumulate} = {sampler.global_batch}; adjust them to "
                "match"
            )
    positions = process.gather((progress.epoch, progress.position))
    if len(set(positions)) > 1:
        raise UserError(
            f"the ranks found different checkpoints (epoch, update): {', '.join(map(str, positions))}; check that "
            "all machines see the same run folder, and pass --output and --resume auto on each"
        )
    return progress
