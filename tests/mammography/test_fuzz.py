"""Thousands of damaged files of every kind: each is read or refused in one line, within limits of time and memory.

No command reads config.json back; what it says is in the checkpoint, whose plan is fuzzed here.
"""

import json
import struct
import zlib

import fuzz_worker
import numpy as np
import pytest
from commands import ROOT, Processes, python, run
from dicom_files import make

from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import read_picture
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.table import TableError, read_table


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "kind", ["dicom", "picture", "table", "prepared folder", "checkpoint", "checkpoint with its checksum", "plan"]
)
def test_mutants_are_read_or_refused_in_one_line(kind, count, tmp_path):
    with Processes(tmp_path, fuzz_worker.main, [(kind, count, 0)]) as reader:
        process = reader.wait(timeout=600)
    assert process.returncode == 0, process.stderr or process.stdout  # the reader itself died
    outcome = json.loads(process.stdout)
    assert not outcome["wrong"], "\n".join(outcome["wrong"][:20])
    assert outcome["read"] + outcome["refused"] == count and outcome["refused"] > 0


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


CLAIMS = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import read_picture
from efficientnet.mammography.preprocessing import Preprocessing
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_picture(Path(sys.argv[2]), Preprocessing((40, 32)))
except ImageError as error:
    print(f"refused: {error}")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["dcm", "png"])
def test_a_header_that_claims_60000_pixels_a_side_does_not_allocate_them(tmp_path, kind):
    path = tmp_path / f"vast.{kind}"
    if kind == "dcm":
        make(np.zeros((8, 8), np.uint16), Rows=60_000, Columns=60_000).save_as(path, enforce_file_format=True)
    else:
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
        picture = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + picture)
    with pytest.raises(ImageError, match=r"vast\."):
        read_picture(path, Preprocessing((40, 32)))
    process = python("-c", CLAIMS, ROOT, path)
    refusal, megabytes = process.stdout.splitlines()
    assert refusal.startswith("refused:") and int(megabytes) < 100


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "a/../../b", "C:\\x", "100/../../x"])
@pytest.mark.parametrize("column", ["patient_id", "image_id"])
def test_a_table_cannot_name_a_file_outside_the_data_folder(tmp_path, name, column):
    values = {"patient_id": "1", "image_id": "2"} | {column: name}
    (tmp_path / "train.csv").write_text(
        f"patient_id,image_id,laterality,cancer\n{values['patient_id']},{values['image_id']},L,0\n"
    )
    with pytest.raises(TableError, match="line 2"):
        read_table(tmp_path / "train.csv", ("cancer",))


def test_a_damaged_config_json_is_in_nobodys_way(tmp_path):
    """Nothing reads it back, so that a run neither stops at it nor goes wrong by it."""
    (tmp_path / "config.json").write_bytes(b"\xff{not json")
    process = run("train.py", "--resume", tmp_path)
    assert process.returncode == 1 and "last.pt: no such file" in process.stderr
