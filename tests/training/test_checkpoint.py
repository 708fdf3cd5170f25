"""Checkpoints come back as they were, and nothing in one is executed."""

import os
import pickle

import pytest
import torch

from efficientnet.training.checkpoint import CheckpointError, load_checkpoint, serialise, write_checkpoint


def test_a_checkpoint_comes_back(tmp_path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, serialise({"weights": {"w": torch.arange(3)}, "names": ["x"], "value": 1.5, "none": None}))
    content = load_checkpoint(path)
    assert torch.equal(content["weights"]["w"], torch.arange(3))
    assert (content["names"], content["value"], content["none"]) == (["x"], 1.5, None)
    assert torch.load(path, weights_only=True)["value"] == 1.5


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_every_unusable_file_is_one_line_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / "whole.pt"
    write_checkpoint(whole, serialise({"weights": {"w": torch.randn(1000)}}))
    (tmp_path / "short.pt").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "folder.pt").mkdir()
    torch.save({"other": 1}, tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"format": "x", "evil": Malicious()}, tmp_path / "evil.pt")
    with open(tmp_path / "pickle.pt", "wb") as file:
        pickle.dump(Malicious(), file)
    names = ["short", "empty", "text", "folder", "foreign", "list", "evil", "pickle", "absent"]
    for name in names:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(tmp_path / f"{name}.pt")
        assert f"{name}.pt" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
