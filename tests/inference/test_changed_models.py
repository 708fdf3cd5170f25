"""However a network was changed, the fast path computes what it computes in evaluation, or refuses it by name."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from efficientnet import B0, RESNET_50, Coefficients, create_model, scale
from efficientnet.inference import optimize_for_inference
from efficientnet.inference.onednn import onednn_fuses
from efficientnet.model import EfficientNet
from efficientnet.training.fast_cpu import accelerate_training

WAYS = [False] + [True] * onednn_fuses(torch.float32)
# Precisions, each without and, where this PyTorch and CPU can do it, with fused convolutions.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISE_WAYS = [(name, fused) for name, dtype in PRECISIONS.items() for fused in [False] + [True] * onednn_fuses(dtype)]
SMALL = scale(B0, Coefficients(depth=0.5, width=0.25))


def network(stages=SMALL, alter=None):
    """A network that was altered and then saw some images, without which values would grow and lose digits."""
    torch.manual_seed(0)
    model = create_model(stages, num_classes=3, batch_norm_momentum=1.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    with torch.no_grad():
        if alter is not None:
            alter(model)
        model.train()(torch.randn(4, 3, 96, 64))
    return model.eval()


def replace(model, kind, make):
    """Each module of the kind by what `make` makes of it."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, make(child))


def assert_same(model):
    """In both layouts and for several sizes, by public and by fused operators."""
    for fused in WAYS:
        fast = optimize_for_inference(model, fused=fused)
        with torch.no_grad():
            for size in ((64, 96), (97, 66)):
                images = torch.randn(2, 3, *size)
                expected = copy.deepcopy(model).double()(images.double()).float()
                own_error = float((model(images) - expected).abs().max())
                tolerance = max(1e-5 * float(expected.abs().max()), 10 * own_error)
                for layout in (torch.contiguous_format, torch.channels_last):
                    for _ in range(2):  # weights go into blocks at the third input of a shape
                        found = fast(images.to(memory_format=layout))
                    assert (found - expected).abs().max() <= tolerance, (fused, size, layout)
                    assert not found.requires_grad
    return fast


class FrozenBatchNorm(nn.Module):
    """As detection models have it: buffers, and an eps of its own."""

    def __init__(self, norm):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x):
        factor = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * factor[:, None, None] + (self.bias - self.running_mean * factor)[:, None, None]


class ScaledConvolution(nn.Conv2d):
    """A subclass with the same parameters and another function."""

    def forward(self, x):
        return 2 * super().forward(x)


class Attention(nn.Module):
    """Reads its input by `view`, which a tensor in channels_last refuses."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        x = self.block(x.view(x.shape))
        return x * x.contiguous().view(*x.shape[:2], -1).softmax(2).view(x.shape)


class Corner(nn.Module):
    """A pooling that depends on the order of the pixels."""

    def forward(self, x):
        return x.view(*x.shape[:2], -1)[..., 0]


class Quantised(nn.Module):
    """A linear layer of 8-bit weights."""

    def __init__(self, linear):
        super().__init__()
        self.step = float(linear.weight.abs().max()) / 127
        self.register_buffer("weight", (linear.weight.detach() / self.step).round().to(torch.int8))

    def forward(self, x):
        return x @ self.weight.T.to(x.dtype) * self.step


class Marked(torch.Tensor):
    """A tensor subclass with operators of its own."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        result = super().__torch_function__(function, types, arguments, options or {})
        return result * 2 if function is torch.nn.functional.conv2d else result


def put(path, **values):
    """A change that sets attributes of the module at the path."""

    def alter(model):
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return alter


def wrap(path, make):
    """A change that puts what `make` makes of the module at the path in its place."""
    return lambda model: model.set_submodule(path, make(model.get_submodule(path)))


def with_bias(conv):
    conv.bias = nn.Parameter(torch.randn(conv.out_channels))
    return conv


def fused_by_torch(layer):
    layer.eval()
    layer.conv, layer.norm = torch.nn.utils.fuse_conv_bn_eval(layer.conv, layer.norm), nn.Identity()
    return layer


def marked(conv):
    conv.weight = nn.Parameter(conv.weight.detach().as_subclass(Marked))
    return conv


def symmetric(layer):
    layer.pads_itself, layer.conv.padding = False, (1, 1)
    return layer


def parametrized(conv):
    return parametrize.register_parametrization(conv, "weight", nn.Tanh())


def halved_by_a_hook(layer):
    layer.register_forward_hook(lambda module, inputs, output: output * 0.5)
    return layer


# Layers that are not the body's, and layers that the fast path knows all the same.
AS_BUILT = {
    "none": lambda model: None,
    "another known activation": lambda model: replace(model, nn.SiLU, lambda _: nn.ReLU(inplace=True)),
    "activations in place": lambda model: replace(model, nn.SiLU, lambda _: nn.SiLU(inplace=True)),
    "another eps": put("body.3.1.project.norm", eps=0.1),
    "layers for training": accelerate_training,
    "a mark": put("body.1.0", note="mine"),
    "no classifier": put("", classifier=nn.Identity()),
    "MLP": wrap("classifier", lambda _: nn.Sequential(nn.Dropout(0.5), nn.Linear(320, 8), nn.GELU(), nn.Linear(8, 2))),
    "quantised": wrap("classifier", Quantised),
    "a norm for dropout": put("", dropout=nn.LayerNorm(320)),
}
CHANGES = {
    "unknown activation": lambda model: replace(model, nn.SiLU, lambda _: nn.Hardswish()),
    "activation with a parameter": lambda model: replace(model, nn.SiLU, lambda _: nn.PReLU()),
    "an activation more": put("body.3.1.project", act=nn.ReLU()),
    "an activation less": put("stem", act=nn.Identity()),
    "group norm": lambda model: replace(model, nn.BatchNorm2d, lambda norm: nn.GroupNorm(1, norm.num_features)),
    "frozen norm": lambda model: replace(model, nn.BatchNorm2d, FrozenBatchNorm),
    "norm of each batch": put("stem.norm", track_running_stats=False, running_mean=None, running_var=None),
    "norm without factors": put("head", norm=nn.BatchNorm2d(320, affine=False)),
    "stem with a bias": wrap("stem.conv", with_bias),
    "bias in a block": wrap("body.1.0.depthwise.conv", with_bias),
    "fused by torch": wrap("head", fused_by_torch),
    "no squeeze-excitation": put("body.1.0", gate=nn.Identity()),
    "wrapped block": wrap("body.2.0", Attention),
    "a block more": lambda model: model.body[2].append(nn.Sequential(nn.InstanceNorm2d(16))),
    "another pooling": put("", pooling=Corner()),
    "a hook on the pooling": wrap("pooling", halved_by_a_hook),
    "another head": put("", head=nn.Conv2d(80, 320, 3, padding=1)),
    "subclass": put("stem", conv=ScaledConvolution(3, 8, 3, 2)),
    "parametrization": wrap("head.conv", parametrized),
    "weight norm": wrap("head.conv", parametrizations.weight_norm),
    "pruned": wrap("body.1.0.project.conv", lambda conv: prune.random_unstructured(conv, "weight", 0.5)),
    "hook": wrap("body.1.0.gate", halved_by_a_hook),
    "stride": put("body.1.0.depthwise.conv", stride=(1, 1)),
    "dilation": put("body.1.0.depthwise.conv", dilation=(2, 2), padding=(2, 2)),
    "reflection": put("body.3.1.depthwise.conv", padding_mode="reflect"),
    "padding": wrap("stem", symmetric),
    "a residual less": put("body.3.1", has_residual=False),
}


@pytest.mark.parametrize("change", [*AS_BUILT, *CHANGES])
def test_a_changed_network_keeps_its_function(change):
    model = network(alter=(AS_BUILT | CHANGES)[change])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert bool(assert_same(model).kept) == (change in CHANGES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("change", ["none", "no classifier", "MLP", "quantised", "group norm", "frozen norm", "pruned"])
@pytest.mark.parametrize(("precision", "fused"), PRECISE_WAYS)
def test_the_fast_path_shares_no_memory_with_its_model(change, precision, fused):
    images = torch.randn(2, 3, 64, 96)
    for layout in (torch.contiguous_format, torch.channels_last):
        model = network(alter=(AS_BUILT | CHANGES)[change]).to(memory_format=layout)
        fast = optimize_for_inference(model, precision, fused=fused)
        assert not storages(fast) & storages(model)
        expected = fast(images)
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.zero_()
        assert torch.equal(fast(images), expected)


def storages(model):
    """Addresses of the memory of all weights, also of those that are no parameters."""
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


def test_a_loaded_state_dict_is_copied_and_converted():
    model, fused = network(), onednn_fuses(torch.bfloat16)
    source = optimize_for_inference(model, fused=fused)
    target = optimize_for_inference(network(), "bf16", fused=fused)
    expected = optimize_for_inference(model, "bf16", fused=fused)(torch.ones(1, 3, 64, 64))
    target.load_state_dict(source.state_dict())
    assert not storages(source) & storages(target)
    torch.testing.assert_close(target(torch.ones(1, 3, 64, 64)), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("precision", "fused"), PRECISE_WAYS)
@pytest.mark.parametrize("change", ["none", "wrapped block", "no classifier"])
def test_a_fast_path_is_neither_converted_nor_moved(change, precision, fused):
    fast = optimize_for_inference(network(alter=(AS_BUILT | CHANGES)[change]), precision, fused=fused)
    images = torch.randn(1, 3, 64, 64)
    expected = fast(images)
    for convert in (
        *(nn.Module.double, nn.Module.half, lambda model: model.to("meta")),
        nn.Module.bfloat16 if precision == "fp32" else nn.Module.float,
    ):
        with pytest.raises(
            TypeError, match=rf"for {precision} on cpu.*optimize_for_inference\(model.to\(device\), prec"
        ):
            convert(fast)
        assert torch.equal(fast(images), expected)
    for same in (nn.Module.cpu, nn.Module.share_memory, lambda model: model.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(same(fast)(images), expected, rtol=1e-3, atol=1e-3)


def test_synchronised_norms_are_the_same_in_evaluation():
    assert not assert_same(nn.SyncBatchNorm.convert_sync_batchnorm(network()).eval()).kept


def test_padding_of_every_layer_is_right_beside_a_changed_one():
    """A changed layer keeps the whole network from being mirrored, so the strided layers pad by themselves."""
    stages = scale(RESNET_50, Coefficients(depth=0.5, width=0.25))  # with a maximum and strided 1x1 convolutions
    fast = assert_same(network(stages, alter=put("stem", act=nn.Hardswish())))
    assert fast.kept == ("stem",) and not fast.mirrored


def test_a_network_in_training_is_taken_in_evaluation():
    model = network(alter=AS_BUILT["MLP"]).train()
    fast = optimize_for_inference(model)
    images = torch.randn(1, 3, 64, 64)
    assert model.classifier[0].training and torch.equal(fast(images), fast(images))
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model.eval()(images), rtol=1e-4, atol=1e-4)


class Softmax(EfficientNet):
    def forward(self, x):
        return super().forward(x).softmax(1)


def subclass(model):
    model.__class__ = Softmax


def patch(module):
    module.forward = functools.partial(type(module).forward, module)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (nn.DataParallel, "DataParallel"),
        (optimize_for_inference, "InferenceModel"),
        (nn.Sequential, "Sequential"),
        (subclass, "Softmax"),
        (patch, r"the network \(EfficientNet\) overrides forward on the instance"),
        (put("", stage_outputs=None), "overrides stage_outputs on the instance"),
        (lambda model: patch(model.body[1][0].gate), r"body.1.0.gate \(SqueezeExcitation\) overrides forward"),
        (lambda model: model.register_forward_hook(print) and None, "hooks"),
        (lambda model: model.dropout.train() and None, r"dropout \(Dropout\) is in training mode.* model.eval\(\)"),
        (lambda model: model.stem.norm.train() and None, r"stem.norm \(BatchNorm2d\) is in training"),
        (put("", classifier=nn.Dropout()), r"classifier \(Dropout\) is in training"),
        (wrap("body.1.0.project.conv", marked), r"body.1.0 \(MBConv\) cannot be copied: .*deepcopy"),
    ],
)
def test_what_a_copy_cannot_compute_is_refused_by_name(alter, words):
    model = network()
    model = alter(model) or model
    with pytest.raises(TypeError, match=words):
        optimize_for_inference(model)


@pytest.mark.parametrize("fused", WAYS)
def test_no_output_claims_a_gradient(fused):
    fast = optimize_for_inference(network(), fused=fused)
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    for output in (fast(images), fast.forward_features(images), *fast.feature_maps(images)):
        assert not output.requires_grad
        with pytest.raises(RuntimeError, match="does not require grad"):
            output.sum().backward()


def test_a_classifier_may_have_several_outputs():
    class Heads(nn.ModuleDict):
        def forward(self, x):
            return {name: head(x) for name, head in self.items()}

    model = network(alter=put("", classifier=Heads({"cancer": nn.Linear(320, 1), "density": nn.Linear(320, 4)})))
    images = torch.randn(2, 3, 64, 64)
    for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.2)):
        found = optimize_for_inference(model, precision)(images)
        for name, logits in model(images).items():
            torch.testing.assert_close(found[name], logits.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("change", ["none", "group norm", "quantised", "no classifier"])
def test_what_is_kept_works_in_bf16_and_is_near(change):
    model = network(alter=(AS_BUILT | CHANGES)[change])
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found, expected = optimize_for_inference(model, "bf16")(images), model(images)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
