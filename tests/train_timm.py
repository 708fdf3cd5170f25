"""train.py with timm's EfficientNet-Lite0 in place of this project's, and nothing else changed.

    torchrun --nproc_per_node=2 tests/train_timm.py --data CIFAR --variant lite0 --image-size 64

For the comparison in efficientnet/imagefolder/README.md. evaluate.py refuses its checkpoints, which hold timm's names.
"""

import sys
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train
from efficientnet import create_model
from efficientnet.training import learner, validation


class TimmModel(nn.Module):
    """timm's network with the attributes that the trainer reads of ours."""

    def __init__(self, **architecture: Any) -> None:
        super().__init__()
        ours = create_model(**architecture)
        self.stages, self.convention, self.pooling = ours.stages, ours.convention, ours.pooling
        self.num_classes, self.in_channels, self.load_report = ours.num_classes, ours.in_channels, None
        self.stem, self.body, self.head = nn.Identity(), [], nn.Identity()  # stages to freeze: none here
        self.network = timm.create_model(
            "tf_efficientnet_lite0",
            num_classes=ours.num_classes,
            in_chans=ours.in_channels,
            drop_rate=architecture["dropout"],
            drop_path_rate=0.2 if architecture["stochastic_depth"] is None else architecture["stochastic_depth"],
            bn_eps=ours.convention.batch_norm_eps,
            bn_momentum=ours.convention.batch_norm_momentum,
        )
        assert sum(p.numel() for p in self.network.parameters()) == sum(p.numel() for p in ours.parameters())

    @property
    def classifier(self) -> nn.Module:
        return self.network.classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def create_timm_model(weights: None = None, source: None = None, **architecture: Any) -> TimmModel:
    assert weights is None and source is None, "timm starts from random weights here"
    architecture.pop("checkpoint_activations", None)
    return TimmModel(**architecture)


if __name__ == "__main__":
    learner.create_model = create_timm_model
    validation.optimize_for_inference = lambda model: model
    sys.exit(train.main())
