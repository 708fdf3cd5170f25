"""A second task for train.py and evaluate.py: squares of three colours, one label each, softmax."""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from efficientnet.common.command_line import number
from efficientnet.common.options import Size, add_options, option
from efficientnet.training.task import Datasets, Item, Metrics, Report

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Settings:
    image_size: tuple[int, int] = option(number(int, 32), "pixels", (64, 64), nargs="+", action=Size)
    in_channels: int = option(number(int, 3, 3), "colours", 3)
    squares: int = option(number(int, 6), "how many to train on", 48)
    noise: float = option(number(float, 0), "of the training images", 0.0)


class Squares(Dataset):
    """Square `index` has colour index % 3; square 7 cannot be read. noise: of its pixels, by the sampler's draw."""

    def __init__(self, count: int, size: tuple[int, int], noise: float = 0.0) -> None:
        self.count, self.size, self.noise = count, size, noise

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: Any) -> Item:
        index = key if isinstance(key, int) else key.index
        image = torch.zeros(3, *self.size)
        image[index % 3, 8:24, 8:24] = 1
        if self.noise:
            image += self.noise * torch.from_numpy(key.generator(0).standard_normal(image.shape, np.float32))
        if index == 7:
            return Item(image, torch.tensor(-100), index, "square-7", ["square 7 cannot be read"], readable=False)
        return Item(image, torch.tensor(index % 3), index, f"square-{index}")


class ColouredSquares:
    name = "coloured squares"
    Settings = Settings
    recipes: ClassVar = {"squares": {"batch_size": 4, "epochs": 2, "learning_rate": 0.02, "ema_decay": 0.5}}
    num_outputs = len(COLOURS)
    network: ClassVar = {}
    default_recipes = "squares"

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        add_options(parser.add_argument_group("squares"), Settings)

    @staticmethod
    def default_recipe(data: Path | None, pretrained: bool) -> str:
        return "squares"

    @staticmethod
    def defaults(data: Path | None, provenance: Any, recipe: str) -> dict[str, Any]:
        return {"noise": 0.1}

    def __init__(self, data: Path | None, settings: Settings, recipe: Any) -> None:
        self.data, self.settings, self.recipe = data, settings, recipe

    def load(self, process: Any, strict: bool, checkpoint: Any, pretrained: Any, folder: Any) -> None:
        assert checkpoint is None or (folder / "squares.txt").read_text() == str(self.settings.squares)
        self.positives = np.arange(self.settings.squares) % 3 == 0 if self.recipe.positive_share else None

    def description(self) -> list[tuple[str, str]]:
        return [("data", f"{self.settings.squares} squares")]

    def records(self) -> dict[str, bytes]:
        return {"squares.txt": str(self.settings.squares).encode()}

    def datasets(self) -> Datasets:
        count, size = self.settings.squares, self.settings.image_size
        return Datasets(Squares(count, size, self.settings.noise), Squares(count, size), Squares(9, size))

    def keeps_classifier(self, recorded: Mapping[str, Any]) -> bool:
        return recorded.get("classes") == list(COLOURS)

    def start_classifier(self, classifier: torch.nn.Linear) -> None:
        torch.nn.init.zeros_(classifier.weight)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.recipe.label_smoothing)

    def evaluate(self, logits: np.ndarray, indices: Sequence[int]) -> Metrics:
        labels = np.asarray(indices) % 3
        loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
        accuracy = float((logits.argmax(1) == labels).mean())
        return Metrics({"val_loss": loss, "accuracy": accuracy}, f"accuracy {accuracy:.2f}", -loss)

    def files(self, metrics: Metrics, checkpoint: Mapping[str, Any]) -> dict[str, bytes]:
        return {"predictions.csv": f"accuracy\n{metrics.values['accuracy']}\n".encode()}

    def state(self) -> dict[str, Any]:
        return {"classes": list(COLOURS)}

    @staticmethod
    def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--squares", type=number(int, 1), default=9)

    @staticmethod
    def evaluation(checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace) -> "SquaresEvaluation":
        return SquaresEvaluation(list(checkpoints.values()), arguments.squares)


class SquaresEvaluation:
    warnings = ()

    def __init__(self, checkpoints: Sequence[Mapping[str, Any]], count: int) -> None:
        assert all(content["classes"] == list(COLOURS) for content in checkpoints)
        self.description = f"{count} squares"
        self.allowed = np.ones((len(checkpoints), count), dtype=bool)
        self.sizes = [tuple(content["plan"]["settings"]["image_size"]) for content in checkpoints]

    def input_key(self, member: int) -> tuple[int, int]:
        return self.sizes[member]

    def dataset(self, member: int) -> Dataset:
        return Squares(self.allowed.shape[1], self.sizes[member])

    def probabilities(self, member: int, logits: np.ndarray) -> np.ndarray:
        return torch.from_numpy(logits).softmax(1).numpy()

    def report(self, probabilities: np.ndarray, failures: Sequence[str]) -> Report:
        file = io.StringIO()
        csv.writer(file).writerows(probabilities)
        seen = np.flatnonzero(~np.isnan(probabilities[:, 0]))
        accuracy = float((probabilities[seen].argmax(1) == seen % 3).mean())
        files = {Path("squares.csv"): file.getvalue().encode()}
        return Report({"accuracy": accuracy}, f"accuracy {accuracy:.2f}", files)
