"""What `efficientnet.export` writes of a screening checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efficientnet.mammography.trained import Trained
from efficientnet.training.task import Exported


class Corrected(nn.Module):
    """The network, with the first target's logit shifted back to the prior, as evaluate.py does."""

    def __init__(self, network: nn.Module, outputs: int, logit_shift: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shift", torch.tensor([logit_shift] + [0.0] * (outputs - 1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) - self.shift


def exported(path: Path, content: Mapping[str, Any], network: nn.Module) -> Exported:
    """The corrected network, and everything that its user needs to know."""
    trained = Trained.from_checkpoint(path, content)
    values = {"preprocessing": trained.preprocessing.to_dict(), "not_a_medical_device": "for research only"}
    of_logits = {
        "targets": list(trained.targets),
        "heads": [target.to_dict() for target in trained.heads],
        "prior": trained.prior,
        "threshold": trained.threshold,
        "image_to_breast": "mean of the probabilities of a breast's images",
        "probability": "sigmoid(logits)",
        "other_kinds": "category: softmax over its values; number: logits * std + mean",
        "calibration": trained.calibration and asdict(trained.calibration),
        "calibrated": "sigmoid(slope * logit(probability of a breast) + bias)",
    }
    outputs = sum(target.outputs for target in trained.heads)
    return Exported(Corrected(network, outputs, trained.logit_shift), ", ".join(trained.targets), values, of_logits)
