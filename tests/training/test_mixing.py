"""Mixup and CutMix."""

import functools
import math

import pytest
import torch
from torch.nn import functional as F

from efficientnet.mammography.loss import screening_loss
from efficientnet.mammography.targets import Target
from efficientnet.training.mixing import mix, random_box


def images_of_their_number(*shape):
    """Every pixel of image n is n."""
    images = torch.arange(float(shape[0])).reshape(-1, *[1] * (len(shape) - 1))
    return images.expand(shape).contiguous()


def test_without_mixing_nothing_is_drawn_and_nothing_changes():
    before, images, targets = torch.get_rng_state(), torch.randn(2, 1, 8, 8, generator=torch.Generator()), torch.ones(2)
    mixed = mix(images, 0, 0)
    assert mixed.images is images and torch.equal(torch.get_rng_state(), before)
    assert mixed.loss(lambda logits, labels: (logits - labels).sum(), 3 * targets, targets).item() == 4


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0), (0, 1.0), (0.4, 1.0)])
def test_the_seed_of_torchs_generator_decides_everything(mixup, cutmix):
    def mixed(seed):
        torch.manual_seed(seed)
        return mix(images_of_their_number(6, 1, 16, 16), mixup, cutmix)

    first, again, other = mixed(1), mixed(1), mixed(2)
    assert torch.equal(first.images, again.images) and torch.equal(first.partners, again.partners)
    assert first.share == again.share != other.share


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_of_mixup_has_the_moments_of_its_beta_distribution(alpha):
    torch.manual_seed(0)
    images = torch.zeros(1, 1, 1, 1)
    shares = torch.tensor([mix(images, alpha, 0).share for _ in range(3000)])
    assert shares.min() >= 0 and shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_mixup_adds_the_images_by_their_shares():
    torch.manual_seed(0)
    images = torch.randn(8, 3, 5, 7).to(memory_format=torch.channels_last)
    mixed = mix(images, 1.0, 0)
    for place, partner in enumerate(mixed.partners.tolist()):
        expected = mixed.share * images[place] + (1 - mixed.share) * images[partner]
        assert torch.allclose(mixed.images[place], expected)
    assert sorted(mixed.partners.tolist()) == list(range(8)) and mixed.images.stride() == images.stride()


def test_the_share_of_cutmix_is_the_area_that_the_image_keeps():
    for seed in range(30):
        torch.manual_seed(seed)
        images = images_of_their_number(4, 2, 12, 20).to(memory_format=torch.channels_last)
        mixed = mix(images, 0, 1.0)
        assert mixed.images.stride() == images.stride()
        assert torch.equal(images, images_of_their_number(4, 2, 12, 20))  # the batch itself is untouched
        for place, partner in enumerate(mixed.partners.tolist()):
            own = mixed.images[place] == place
            assert (own | (mixed.images[place] == partner)).all()
            if partner != place:
                assert own.float().mean().item() == pytest.approx(mixed.share)
                rows, columns = (~own[0]).any(1).nonzero(), (~own[0]).any(0).nonzero()
                box = 0 if not len(rows) else (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
                assert box == (~own[0]).sum()  # one rectangle


def test_an_uncut_box_has_the_area_and_the_proportions_of_its_share():
    torch.manual_seed(0)
    boxes = [random_box(100, 200, 0.75) for _ in range(500)]
    sizes = {(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in boxes}
    assert max(sizes) == (50, 100)  # a quarter of the area
    assert len(sizes) > 10 and all(0 <= rows.start <= rows.stop <= 100 for rows, _ in boxes)
    assert all(part.start == part.stop for part in random_box(9, 9, 1.0))  # empty


def test_with_both_each_batch_takes_one_at_even_odds():
    torch.manual_seed(0)
    batches = [mix(images_of_their_number(2, 1, 8, 8), 1.0, 1.0) for _ in range(600)]
    cut = [set(mixed.images.unique().tolist()) <= {0, 1} for mixed in batches if mixed.partners.tolist() == [1, 0]]
    assert len(cut) > 200 and sum(cut) / len(cut) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0), (0, 1.0)])
def test_only_breasts_with_the_same_views_are_mixed(mixup, cutmix):
    views = [3, 2, 3, 2, 1, 3, 2, 1]  # of each breast
    images = images_of_their_number(8, 3, 1, 6, 6).clone()
    for place, number in enumerate(views):
        images[place, number:] = math.nan
    pairs = 0
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = mix(images, mixup, cutmix)
        assert torch.equal(mixed.images.isnan(), images.isnan())
        for place, partner in enumerate(mixed.partners.tolist()):
            assert views[place] == views[partner]
            means = mixed.images[place, : views[place]].mean((1, 2, 3))
            expected = mixed.share * place + (1 - mixed.share) * partner
            assert means.tolist() == pytest.approx([expected] * views[place], abs=1e-5)
            pairs += place != partner
    assert pairs > 20


def test_the_binary_cross_entropy_of_a_mixed_batch_is_that_of_the_mixed_labels():
    torch.manual_seed(0)
    mixed = mix(torch.randn(6, 1, 4, 4), 1.0, 0)
    logits, targets = torch.randn(6, 1), torch.tensor([1.0, 0, 0, 1, 0, 1])[:, None]
    found = mixed.loss(functools.partial(screening_loss, targets=(Target("cancer"),)), logits, targets)
    labels = mixed.share * targets + (1 - mixed.share) * targets[mixed.partners]
    assert torch.allclose(found, F.binary_cross_entropy_with_logits(logits, labels))


def test_any_loss_will_do_and_a_label_that_one_image_lacks_still_counts():
    torch.manual_seed(3)
    mixed = mix(torch.randn(2, 1, 4, 4), 1.0, 0)
    assert mixed.partners.tolist() == [1, 0]
    logits, share = torch.randn(2, 5), mixed.share
    found = mixed.loss(F.cross_entropy, logits, torch.tensor([4, 2]))
    own, others = (F.cross_entropy(logits, torch.tensor(labels)) for labels in ([4, 2], [2, 4]))
    assert found.item() == pytest.approx(share * own.item() + (1 - share) * others.item())

    logits = torch.tensor([[2.0], [-1.0]], requires_grad=True)
    loss = functools.partial(screening_loss, targets=(Target("cancer"),))
    mixed.loss(loss, logits, torch.tensor([[1.0], [math.nan]])).backward()
    residual = logits.detach().sigmoid() - 1
    assert torch.allclose(logits.grad, torch.tensor([[share], [1 - share]]) * residual)
