"""A file is complete or absent, and what killed writers leave is removed."""

import os
import time

import pytest

from efficientnet.common.files import UNFINISHED, atomic_file, remove_unfinished, write_json


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


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("\u4e73" * 85)
    write_json(path, 1)
    assert os.listdir(tmp_path) == [path.name]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    with pytest.raises(OSError) as caught, atomic_file(path):
        pass
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["a"]


def test_temporary_files_are_removed_an_hour_after_their_writer_was_killed(tmp_path):
    (tmp_path / "deeper").mkdir()
    left = [folder / f".a.json.{word}{UNFINISHED}" for folder in (tmp_path, tmp_path / "deeper") for word in "xy"]
    for path, age in zip(left, (0, 2, 0, 2), strict=True):
        path.touch()
        os.utime(path, (time.time() - 3600 * age,) * 2)
    remove_unfinished(tmp_path)
    assert [path.exists() for path in left] == [True, False, True, False]
