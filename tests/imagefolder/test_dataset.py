"""Images to tensors and targets: normalisation, unreadable files, draws, and the loss."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_photographs import write_classes
from torch.nn import functional as F

from efficientnet import create_model
from efficientnet.imagefolder.dataset import IGNORED, Augmentation, FolderDataset, Images, Preprocessing
from efficientnet.imagefolder.listing import class_folders, list_images
from efficientnet.imagefolder.settings import RECIPES, ImageFolderSettings
from efficientnet.imagefolder.task import ImageFolder, of_channels
from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import Draw

IMAGENET = Preprocessing((32, 48), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "bicubic")


@pytest.fixture
def images(tmp_path):
    """Three classes of four images, of which blue/1.jpg is broken."""
    root = write_classes(tmp_path / "photographs", 4)
    (root / "blue" / "1.jpg").write_bytes(b"broken")
    listing = list_images(root)
    return Images(root, listing.names, class_folders(listing)[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_normalised_by_channel(channels):
    mean, std = (0.1, 0.2, 0.3)[:channels], (0.5, 0.6, 0.7)[:channels]
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, channels), dtype=np.uint8)
    settings = Preprocessing((32, 48), channels, mean, std, 0.875, "bicubic")
    tensor = settings.tensor(Image.fromarray(pixels.squeeze()))
    wanted = ((pixels / 255 - mean) / std).transpose(2, 0, 1)
    assert tensor.shape == (channels, 32, 48) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    np.testing.assert_allclose(tensor.numpy(), wanted, atol=1e-6)
    assert Preprocessing.from_dict(settings.to_dict()) == settings


def test_the_padded_crop_is_that_of_the_older_releases():
    values = {**IMAGENET.to_dict(), "image_size": [224, 224], "crop_fraction": "padded"}
    assert Preprocessing.from_dict(values).fraction == pytest.approx(0.875)
    assert Preprocessing.from_dict({**values, "image_size": [300, 380]}).fraction == 300 / 332


def test_a_broken_image_is_blank_in_evaluation_and_another_of_its_class_in_training(images):
    place = list(images.names).index("blue/1.jpg")
    item = FolderDataset(images, IMAGENET)[place]
    assert not item.readable and item.target == IGNORED and not item.image.any() and item.image.shape == (3, 32, 48)
    assert len(item.failures) == 1 and "blue/1.jpg" in item.failures[0]
    item = FolderDataset(images, IMAGENET, replace_broken=True)[place]
    assert item.readable and item.target == 0 and images.names[item.index] == "blue/2.jpg" and len(item.failures) == 1
    for path in (images.root / "blue").iterdir():
        path.write_bytes(b"")
    item = FolderDataset(images, IMAGENET, replace_broken=True)[place]
    assert not item.readable and len(item.failures) == 4


@pytest.mark.parametrize("policy", ["none", "autoaugment", "randaugment"])
def test_a_draw_decides_its_variation_and_nothing_else_does(images, policy):
    augmentation = Augmentation(0, (0.3, 1.0), True, policy, 7.0)
    dataset = FolderDataset(images, IMAGENET, augmentation, replace_broken=True)
    draws = [Draw(place, epoch, 12 * epoch + place) for epoch in (0, 1) for place in range(12)]
    first = [dataset[draw].image for draw in draws]
    again = [dataset[draw].image for draw in reversed(draws)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[:12], first[12:], strict=True))
    other = FolderDataset(images, IMAGENET, Augmentation(1, (0.3, 1.0), True, policy, 7.0), replace_broken=True)
    assert not torch.equal(other[draws[0]].image, first[0])


def test_half_of_the_images_are_mirrored_unless_turned_off(images):
    right = Image.fromarray(np.tile(np.linspace(0, 255, 48, dtype=np.uint8), (32, 1)))
    right.convert("RGB").save(images.root / "blue" / "0.png")
    for flip, least, most in ((True, 60, 140), (False, 200, 200)):
        dataset = FolderDataset(images, IMAGENET, Augmentation(0, (0.9, 1.0), flip, "none", 0.0))
        draws = (dataset[Draw(0, 0, position)].image for position in range(200))
        assert least <= sum(bool(image[0, 16, -1] > image[0, 16, 0]) for image in draws) <= most


def task(**values):
    settings = ImageFolderSettings(image_size=(32, 32), **values)
    return ImageFolder("somewhere", settings, Recipe(label_smoothing=0.1))


def test_the_loss_is_smoothed_cross_entropy_over_the_images_with_a_target():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, IGNORED, 4, IGNORED, 2])
    shares = torch.full((6, 5), 0.1 / 5)
    kept = targets != IGNORED
    shares[kept, targets[kept]] += 0.9
    wanted = -(shares * logits.log_softmax(1)).sum(1)[kept].mean()
    assert task().loss(logits, targets).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert task().loss(logits, torch.full((6,), IGNORED)) == 0
    assert task().loss(logits.half(), targets).dtype == torch.float32
    plain = F.cross_entropy(logits[kept], targets[kept], label_smoothing=0.1)
    assert task().loss(logits, targets).item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_new_classifier_of_few_classes_starts_at_chance():
    for classes, starts_at_zero in ((10, True), (1000, False)):
        classifier = create_model("lite0", num_classes=classes).classifier
        task().start_classifier(classifier)
        assert bool((classifier.weight == 0).all()) == starts_at_zero and (classifier.bias == 0).all()


def test_means_fit_the_channels():
    assert of_channels("mean", (0.5,), 3) == (0.5, 0.5, 0.5)
    assert of_channels("mean", (0.2, 0.3, 0.4), 1) == (pytest.approx(0.3),)
    with pytest.raises(ValueError, match="--mean: 2 values for 3 channels"):
        of_channels("mean", (0.2, 0.3), 3)


def test_the_papers_recipe_is_the_papers():
    """Section 5.2 and the released code."""
    recipe = RECIPES["paper"]
    assert math.isclose(recipe["learning_rate"] * 4096 / 16, 0.256)
    assert (recipe["optimizer"], recipe["schedule"]) == ("rmsprop", "exponential")
    assert [recipe[name] for name in ("decay_rate", "decay_epochs", "warmup_epochs")] == [0.97, 2.4, 5]
    assert [recipe[name] for name in ("weight_decay", "ema_decay", "label_smoothing")] == [1e-5, 0.9999, 0.1]
    defaults = ImageFolderSettings(image_size=(224, 224))
    assert (defaults.crop_fraction, defaults.interpolation, defaults.crop_scale, defaults.flip) == (
        *(0.875, "bicubic", (0.08, 1.0), True),
    )
    assert Recipe().batch_norm_momentum == 0.01 and Recipe().dropout is None and Recipe().stochastic_depth is None
