"""Each library's padding and batch-norm settings, and the images that its models expect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from efficientnet.architecture import named_architecture
from efficientnet.layers import AUTHORS, Convention
from efficientnet.scaling import LITE_VARIANTS
from efficientnet.weights.published import PUBLISHED

# transformers passes TensorFlow's momentum of 0.99 on to PyTorch, where momentum means the opposite. Its models are
# otherwise the authors', so their momentum is used here.
CONVENTIONS = {
    "torchvision": Convention("symmetric", 1e-5, 0.1),
    "timm": Convention("symmetric", 1e-5, 0.1),
    "timm_tf": Convention("same", 1e-3, 0.1),
    "lukemelas": AUTHORS,
    "transformers": AUTHORS,
    "mmpretrain": Convention("same", 1e-3, 0.1),
    "ours": AUTHORS,
}
WITHOUT_LITE = ("torchvision", "transformers", "mmpretrain")
TORCHVISION_B5_TO_B7 = Convention("symmetric", 1e-3, 0.01)  # converted from lukemelas' weights

# Mean and standard deviation per channel, for pixels in [0, 1].
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MINUS_ONE_TO_ONE = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
LITE = (127 / 255,) * 3, (128 / 255,) * 3


class EvaluationInput(NamedTuple):
    """The input with which a published accuracy was measured.

    image_size: pixels of its square.  crop_fraction: side of the centre crop as a share of the short side.
    """

    image_size: int
    crop_fraction: float
    interpolation: str = "bicubic"


# Where they differ from the authors' (see `evaluation_input`). Source: the weights enums of torchvision, by variant or
# by file, and the configurations of timm, by the beginning of the file's or folder's name. timm squashes the images of
# efficientnet_b5.sw_in12k_ft_in1k to a square; here it is cropped.
TORCHVISION_INPUTS = {
    "b1": EvaluationInput(240, 240 / 256),
    "b2": EvaluationInput(288, 1.0),
    "b3": EvaluationInput(300, 300 / 320),
    "b4": EvaluationInput(380, 380 / 384),
    "b5": EvaluationInput(456, 1.0),
    "b6": EvaluationInput(528, 1.0),
    "b7": EvaluationInput(600, 1.0),
    "mobilenet_v2": EvaluationInput(224, 224 / 256, "bilinear"),
    "resnet50": EvaluationInput(224, 224 / 256, "bilinear"),
    "efficientnet_b1-c27df63c": EvaluationInput(240, 240 / 255, "bilinear"),
    "mobilenet_v2-7ebf99e0": EvaluationInput(224, 224 / 232, "bilinear"),
    "resnet50-11ad3fa6": EvaluationInput(224, 224 / 232, "bilinear"),
}
TIMM_INPUTS = {
    "efficientnet_b0.ra4_": EvaluationInput(256, 1.0),
    "efficientnet_b1.ra4_": EvaluationInput(288, 1.0),
    "efficientnet_b1.ft_": EvaluationInput(256, 1.0),
    "efficientnet_b1-533bc792": EvaluationInput(256, 1.0),
    "efficientnet_b2.ra_": EvaluationInput(288, 1.0),
    "efficientnet_b2_ra-": EvaluationInput(288, 1.0),
    "efficientnet_b3.ra2_": EvaluationInput(320, 1.0),
    "efficientnet_b3_ra2-": EvaluationInput(320, 1.0),
    "efficientnet_b4.ra2_": EvaluationInput(384, 1.0),
    "efficientnet_b4_ra2_": EvaluationInput(384, 1.0),
    "efficientnet_b5.sw_in12k_ft_": EvaluationInput(448, 1.0),
    "efficientnet_b5.sw_in12k": EvaluationInput(416, 0.95),
    "tf_efficientnet_lite3": EvaluationInput(300, 300 / 332, "bilinear"),
    "tf_efficientnet_lite4": EvaluationInput(380, 0.92, "bilinear"),
}
L2_AT_475 = re.compile(r"[-_]475(?:px)?(?:[-_.]|$)")  # in the names of timm and mmpretrain; the other L2 takes 800

# The names of published models contain family and variant, and mark AdvProp's and timm's ra4 models, which were trained
# on pixels in [-1, 1]. A recipe, a hash (but not a date), or timm's tag with the data may follow. Anything else, like
# _fold0, marks a user's own file. Hugging Face's files have fixed names; their folder has the name of the model.
MODEL = r"(?:adv-|tf_)?efficientnet[-_](?:b\d|l2|lite\d)"
TAG = r"\.(?:\w+_)?in\d+k(?:_\w+)?"
PUBLISHED_FILE = re.compile(rf"{MODEL}(?:(?:_(?:aa|ap|ns|ra2?))?(?:_\d{{3}})?|.*-(?!20\d{{6}})[0-9a-f]{{8}}|{TAG})")
PUBLISHED_FOLDER = re.compile(rf"{MODEL}{TAG}|efficientnet-b\d")
# timm's models with blur layers, which have no tensors: only the names distinguish them from B0 and ResNet-50.
BLURRING = re.compile(r"efficientnet_blur|resnet(?:aa|blur)\d")
ENDINGS = re.compile(r"(?:\.(?:pth|pt|bin|safetensors|tar))+$")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
MINUS_ONE_TO_ONE_NAME = re.compile(r"^adv-|advprop|[._]ap(?:[-_.]|$)|\.ra4_")


def published_name(path: Path) -> str:
    """The name of a published model, such as "tf_efficientnet_b0_ap-f262efe1", or "".

    It is the name of the file or, for Hugging Face's fixed file names, of the innermost folder with a published name.
    """
    names, pattern = [ENDINGS.sub("", path.name)], PUBLISHED_FILE
    if path.name in HUB_FILES:
        names, pattern = [folder.name.rpartition("--")[2] for folder in path.parents], PUBLISHED_FOLDER
    return next((name for name in names if pattern.fullmatch(name) or BLURRING.search(name)), "")


def convention_of(library: str, variant: str | None) -> Convention:
    """The convention that the library uses for the variant."""
    if library == "torchvision" and variant in ("b5", "b6", "b7"):
        return TORCHVISION_B5_TO_B7
    return CONVENTIONS[library]


def normalisation(library: str, variant: str | None, path: Path) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """The mean and standard deviation used in training, and whether they are known (True) or assumed."""
    published, lite = published_name(path), variant in LITE_VARIANTS
    if library == "torchvision":
        return *IMAGENET, True
    if library == "lukemelas" and lite:
        return *LITE, True
    if (library == "timm_tf" and lite) or MINUS_ONE_TO_ONE_NAME.search(published):
        return *MINUS_ONE_TO_ONE, True
    return *IMAGENET, bool(published)


def evaluation_input(library: str, variant: str | None, path: Path) -> tuple[EvaluationInput | None, bool]:
    """The input with which the published accuracy was measured, and whether it is known (True) or assumed.

    It is None for an unknown variant. The authors take the variant's size and, in older releases of their code, a
    centre crop of size / (size + 32), as does mmpretrain. transformers resizes the whole image to the size, but its
    weights are the authors', by way of Keras, and it publishes no accuracy of its own, so the authors' input is used.
    """
    if variant is None:
        return None, False
    name = published_name(path)
    size = 475 if variant == "l2" and L2_AT_475.search(name) else named_architecture(variant).image_size
    authors = EvaluationInput(size, size / (size + 32))
    if library == "torchvision":  # timm's ResNet-50 has the same tensors and other inputs, so the file's name decides
        found = TORCHVISION_INPUTS.get(ENDINGS.sub("", path.name)) or TORCHVISION_INPUTS.get(variant, authors)
        return found, path.name in PUBLISHED.values()
    if library in ("timm", "timm_tf"):
        found = next((found for start, found in TIMM_INPUTS.items() if name.startswith(start)), authors)
        without_recipe = library == "timm" and re.fullmatch(MODEL, name)
        return found, bool(name) and not without_recipe
    return authors, bool(name)
