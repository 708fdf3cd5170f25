"""Every engine computes the network's own function, and an exported file is used again only if it fits."""

import shutil
import sys
from dataclasses import replace

import pytest
import torch
import torch._inductor
from networks import assert_as_exact, difference, randomised
from torch import nn

from efficientnet import B0, Coefficients, create_model, scale
from efficientnet.common.errors import UserError
from efficientnet.inference import optimize_for_inference
from efficientnet.inference.engines import ENGINES, OF_ONNX, has_bf16
from efficientnet.scaling import LITE0

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
# Even at every stage, odd at some, odd at all; not square; and the smallest.
SHAPES = [(2, 64, 64), (1, 97, 66), (3, 75, 100), (2, 33, 129), (1, 32, 32)]
SMALL = scale(B0, Coefficients(depth=0.3, width=0.25))
FEW = (*B0.stages[:3], replace(B0.stages[-1], in_channels=24, out_channels=64))
ONE_BLOCK = (*B0.stages[:2], replace(B0.stages[-1], in_channels=16, out_channels=64))


@pytest.fixture(params=OF_ONNX)
def engine(request):
    for package in ("onnx", "onnxscript", request.param):
        pytest.importorskip(package)
    return request.param


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """PyTorch's compiler, with a cache of its own, and without child processes that would outlive the test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with torch._inductor.config.patch(compile_threads=1):
        yield


def network(stages=SMALL, **options):
    torch.manual_seed(0)
    return randomised(create_model(stages, num_classes=5, in_channels=1, **options))


@pytest.mark.parametrize(
    ("stages", "options"),
    [
        pytest.param(SMALL, {}, id="b0"),
        pytest.param(scale(LITE0, Coefficients(depth=0.5, width=0.25)), {"padding": "symmetric"}, id="lite0"),
        pytest.param(SMALL, {"pooling": "gem"}, id="gem", marks=pytest.mark.nightly),
    ],
)
def test_logits_are_the_networks_own_for_any_batch_and_size(engine, stages, options):
    model = network(stages, **options)
    fast = optimize_for_inference(model, engine=engine)
    for shape in SHAPES:
        assert_as_exact(fast, model, torch.randn(shape[0], 1, *shape[1:]))


def test_views_of_a_breast_and_changed_layers(engine):
    model = network(FEW, joint_views=True)
    model.body[1][0].expand.act = nn.ELU()
    model.eval()
    fast = optimize_for_inference(model, engine=engine)
    assert fast.kept == ("body.1.0",)
    with pytest.raises(TypeError, match="make a new one"):
        fast.load_state_dict(fast.state_dict())
    views = torch.randn(3, 2, 1, 64, 65)
    views[0, 1] = torch.nan
    with torch.no_grad():
        torch.testing.assert_close(fast(views), model(views), atol=1e-4, rtol=1e-4)


def test_a_file_is_used_again_if_it_fits(engine, tmp_path, monkeypatch, capfd):
    checkpoint, images = tmp_path / "best.pt", torch.randn(2, 1, 64, 64)
    for name in ("best.onnx", "best.pt", "last.0123456789abcdef.onnx"):
        (tmp_path / name).write_bytes(b"mine")
    model = network(FEW)
    first = optimize_for_inference(model, engine=engine, checkpoint=checkpoint)(images)
    (written,) = tmp_path.glob("best.????????????????.onnx")
    with monkeypatch.context() as patch:
        patch.setattr("efficientnet.inference.engines.to_onnx", None)
        again = optimize_for_inference(model, engine=engine, checkpoint=checkpoint)(images)
    assert torch.equal(again, first)
    written.write_bytes(written.read_bytes()[:-1000])
    assert torch.equal(optimize_for_inference(model, engine=engine, checkpoint=checkpoint)(images), first)
    with torch.no_grad():
        model.body[0][0].project.conv.weight.mul_(2)
    other = optimize_for_inference(model, engine=engine, checkpoint=checkpoint)
    assert_as_exact(other, model, images)
    (new,) = tmp_path.glob("best.????????????????.onnx")
    assert new != written and len([*tmp_path.iterdir()]) == 4
    assert capfd.readouterr().err.count(f"making the network for the engine {engine}, to be kept as {tmp_path}") == 3
    unwritable = tmp_path / "best.pt" / "best.pt"
    assert_as_exact(optimize_for_inference(model, engine=engine, checkpoint=unwritable), model, images)
    assert "warning" in capfd.readouterr().err


@needs_compiler
def test_compiled_code_is_kept_in_the_cache(compiler, tmp_path, monkeypatch):
    model = network(ONE_BLOCK)
    fast = optimize_for_inference(model, engine="compile")
    for shape in SHAPES:
        assert_as_exact(fast, model, torch.randn(shape[0], 1, *shape[1:]).to(memory_format=torch.channels_last))
    monkeypatch.setattr("efficientnet.inference.engines.compile_network", None)
    images = torch.randn(2, 1, 64, 65)
    assert torch.equal(optimize_for_inference(model, engine="compile")(images), fast(images))
    (kept,) = tmp_path.rglob("*.pt2")
    kept.write_bytes(b"damaged")
    with pytest.raises(TypeError):  # it compiles again
        optimize_for_inference(model, engine="compile")


@needs_compiler
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("stages", "precision", "pooling"),
    [("b0", "fp32", "mean"), (SMALL, "fp32", "gem"), (SMALL, "fp32", "max"), (SMALL, "bf16", "mean")],
    ids=["b0", "gem", "max", "bf16"],
)
def test_compiled_logits_are_the_networks_own(stages, precision, pooling, compiler):
    model = network(stages, pooling=pooling)
    fast = optimize_for_inference(model, precision, engine="compile")
    for shape in SHAPES:
        images = torch.randn(shape[0], 1, *shape[1:])
        if precision == "fp32":
            assert_as_exact(fast, model, images)
        else:
            assert difference(fast(images), optimize_for_inference(model, precision)(images)) < 0.05


def test_without_a_compiler(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiler"))
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(UserError, match=r"the engine compile failed; it needs .* a C\+\+ compiler"):
        optimize_for_inference(network(ONE_BLOCK), engine="compile")
    assert not [*tmp_path.rglob("*.pt2")]


def test_a_missing_package_is_named_at_once(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, engine, None)
    monkeypatch.setattr("efficientnet.inference.engines.to_onnx", None)
    with pytest.raises(UserError, match=f"the engine {engine} needs the package {engine}: pip install"):
        optimize_for_inference(network(FEW), engine=engine)


def test_what_an_engine_lacks_is_refused():
    for options, message in (
        ({"engine": "tflite"}, f"engine must be one of {', '.join(ENGINES)}"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "onnxruntime has no bf16: choose fp32"),
        ({"engine": "openvino", "precision": "fp16"}, "openvino has no fp16: choose fp32 or bf16"),
    ):
        with pytest.raises(ValueError, match=message):
            optimize_for_inference(network(FEW), **options)


def test_openvino_in_bf16_where_the_processor_has_it():
    openvino, model = pytest.importorskip("openvino"), network()
    if not has_bf16(openvino):
        with pytest.raises(UserError, match="no bf16 units"):
            optimize_for_inference(model, "bf16", engine="openvino")
        return
    images = torch.randn(2, 1, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        by_autocast = model(images).float()
    with torch.no_grad():
        expected = model(images)
    fast = optimize_for_inference(model, "bf16", engine="openvino")
    assert difference(fast(images), expected) < 0.05 + 2 * difference(by_autocast, expected)
