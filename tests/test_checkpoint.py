"""Files are whole or not there, and nothing in a checkpoint is executed."""

import os
import pickle

import pytest
import torch

from efficientnet.training.checkpoint import CheckpointError, atomic_file, load_checkpoint, save_checkpoint, write_json


def test_a_checkpoint_comes_back(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"weights": {"w": torch.arange(3)}, "names": ["x"], "value": 1.5, "none": None})
    content = load_checkpoint(path)
    assert torch.equal(content["weights"]["w"], torch.arange(3))
    assert (content["names"], content["value"], content["none"]) == (["x"], 1.5, None)
    assert torch.load(path, weights_only=True)["value"] == 1.5


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_file_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_file(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all"


def test_permissions_follow_the_umask(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_file(path) as file:
        file.write(b"x")
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    assert path.stat().st_mode == plain.stat().st_mode


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_every_unusable_file_is_one_line_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / "whole.pt"
    save_checkpoint(whole, {"weights": {"w": torch.randn(1000)}})
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
