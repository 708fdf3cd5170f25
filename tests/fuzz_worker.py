"""Run by test_fuzz.py in a separate process: `main` reads mutants of good files of one kind.

Prints as JSON how many were read, how many were refused, and a line for each that failed in any other way. Memory is
limited to half a GiB above the start (on Linux), and each mutant to ten seconds.
"""

import contextlib
import copy
import importlib.util
import io
import json
import random
import signal
import tempfile
import traceback
import warnings
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from dicom_files import make, write
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from tiny_data import write_tiny_data

from efficientnet import B0
from efficientnet.common.errors import UserError
from efficientnet.common.isolated import limit_memory
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import read_picture
from efficientnet.mammography.prepare.folder import (
    DESCRIPTION,
    check_prepared,
    prepared_settings,
    write_description,
)
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.settings import ScreeningSettings
from efficientnet.mammography.table import TableError, read_table
from efficientnet.mammography.table_columns import default_targets
from efficientnet.mammography.task import Screening
from efficientnet.training.checkpoint import (
    CheckpointError,
    checksum_path,
    load_checkpoint,
    serialise,
    write_checkpoint,
)
from efficientnet.training.plan import resumed_plan

INTERESTING = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\0",
    b"\x80",
    b",",
    b'"',
    b"\n",
    b"../",
)


LATE: list[bool] = []  # whether the time for the present mutant has run out


def mutate(data: bytes, generator: random.Random) -> bytes:
    """One to four changes: bits and bytes flipped, values at the limits, parts cut, doubled, moved or taken out."""
    content = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        # Headers are short, and most of what can go wrong is in them.
        end = len(content) if generator.random() < 0.5 else min(len(content), 2000)
        place, length = generator.randrange(end or 1), generator.choice([1, 2, 4, 16, 256])
        kind = generator.randrange(7)
        if not content:
            break
        if kind == 0:
            content[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            content[place] = generator.randrange(256)
        elif kind == 2:
            value = generator.choice(INTERESTING)
            content[place : place + len(value)] = value
        elif kind == 3:
            del content[place:]
        elif kind == 4:
            del content[place : place + length]
        elif kind == 5:
            content[place:place] = content[place : place + length]
        else:
            other = generator.randrange(len(content))
            content[place : place + length] = content[other : other + length]
    return bytes(content)


def mutate_values(value, generator: random.Random):
    """A copy of nested dicts and lists in which one value is of another kind, or one entry is gone."""
    value = copy.deepcopy(value)
    inner = value
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = generator.choice(keys)
        if isinstance(inner[key], dict | list) and inner[key] and generator.random() < 0.8:
            inner = inner[key]
            continue
        if generator.random() < 0.3:
            del inner[key]
        else:
            strange = [None, -1, 10**30, float("nan"), "x", "", [], {}, [1, 2, 3], True, torch.zeros(0)]
            inner[key] = generator.choice(strange)
        return value


def dicom_files() -> list[bytes]:
    """In each encoding that can be written with what is installed: gdcm and Pillow for the compressed ones."""
    pixels = (np.add.outer(np.arange(40), np.arange(30)) * 20).astype(np.uint16)
    files = []
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless):
        dataset = make(
            pixels, ExplicitVRLittleEndian if syntax == RLELossless else syntax, WindowCenter=600, WindowWidth=900
        )
        if syntax == RLELossless:
            dataset.compress(RLELossless)
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    picture = io.BytesIO()
    Image.fromarray((pixels // 8).astype(np.uint8)).save(picture, "JPEG2000", num_resolutions=3)
    dataset = make((pixels // 8).astype(np.uint8))
    dataset.PixelData = encapsulate([picture.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    files.append(buffer.getvalue())
    if importlib.util.find_spec("gdcm"):
        path = Path(tempfile.mkdtemp()) / "image.dcm"
        for syntax in (JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless):
            write(path, pixels, 14, syntax, "MONOCHROME2")
            files.append(path.read_bytes())
    return files


def picture_files() -> list[bytes]:
    pixels = np.add.outer(np.arange(40), np.arange(30))
    files = []
    for form, array in (
        ("PNG", pixels.astype(np.uint8)),
        ("PNG", (pixels * 300).astype(np.uint16)),
        ("JPEG", pixels.astype(np.uint8)),
    ):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, form)
        files.append(buffer.getvalue())
    return files


def check_picture(path: Path) -> None:
    # Every other one at a lower resolution, where its encoding has any.
    settings = Preprocessing((40, 32), reduce_jpeg2000=path.stat().st_size % 2 == 0)
    picture = read_picture(path, settings)
    assert picture.shape == (40, 32) and picture.dtype == np.float32 and np.isfinite(picture).all(), picture.shape
    assert picture.min() >= 0 and picture.max() <= 1


def check_table(path: Path) -> None:
    table = read_table(path, default_targets(path))
    assert table.labels.shape == (len(table.rows), len(table.target_names))
    for row in table.rows:  # nothing that leads out of the folder of images
        assert (path.parent / row.patient_id / row.image_id).resolve().is_relative_to(path.parent.resolve())


def checkpoint() -> dict:
    """As train.py makes it, but for the size of the network."""
    plan = {
        "architecture": {"name": "b0 at phi 0.5", "image_size": 240},
        "data": "somewhere",
        "weights": None,
        "source": None,
        "settings": {"image_size": [32, 32], "in_channels": 1, "targets": None, "columns": None, "folds": 4, "fold": 0}
        | {"crop": True, "side": "left", "window": 0},
        "recipe": {"seed": 0, "epochs": 2, "batch_size": 2, "learning_rate": 1e-3},
    }
    return {
        "weights": {"w": torch.randn(20, 20)},
        "architecture": {"name_or_stages": [asdict(stage) for stage in B0.stages]},
        "plan": plan,
        "targets": ["cancer"],
        "epoch": 1,
        "training": {"update": 3},
    }


def check_plan(path: Path) -> None:
    content = load_checkpoint(path)
    resumed_plan(
        Namespace(output=None, data=None, weights=None, source=None, recipe=None), Screening, {}, None, path, content
    )


def description_files() -> list[bytes]:
    folder, files = Path(tempfile.mkdtemp()), []
    for settings in (Preprocessing((40, 32)), Preprocessing((64, 48), crop=False, side="as-is", window=2)):
        write_description(folder, settings, complete=True)
        files.append((folder / DESCRIPTION).read_bytes())
    return files


def check_description(path: Path) -> None:
    """Whatever is read is a description that a run can be planned by."""
    settings = Preprocessing(**prepared_settings(path.parent))
    ScreeningSettings(**prepared_settings(path.parent))
    check_prepared(path.parent, settings)


# The name of the file, the good ones, how it is read, and how it is refused.
KINDS = {
    "dicom": ("mutant.dcm", dicom_files, check_picture, ImageError),
    "picture": ("mutant.png", picture_files, check_picture, ImageError),
    "table": (
        "mutant.csv",
        lambda: [(write_tiny_data(Path(tempfile.mkdtemp()), 4) / "train.csv").read_bytes()],
        check_table,
        TableError,
    ),
    "prepared folder": (DESCRIPTION, description_files, check_description, UserError),
    "checkpoint": ("mutant.pt", None, load_checkpoint, CheckpointError),
    "checkpoint with its checksum": ("mutant.pt", None, load_checkpoint, CheckpointError),
    "plan": ("mutant.pt", None, check_plan, CheckpointError),
}


def main(kind: str, count: int, seed: int) -> None:
    signal.signal(signal.SIGALRM, too_slow)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stderr(io.StringIO()):
        outcome = read_mutants(kind, count, seed)
    print(json.dumps(outcome))


def read_mutants(kind: str, count: int, seed: int) -> dict:
    generator = random.Random(seed)
    name, originals, check, refusal = KINDS[kind]
    path = Path(tempfile.mkdtemp()) / name
    if originals is None:
        write_checkpoint(path, serialise(checkpoint()))
        checksum = checksum_path(path)
        if kind != "checkpoint with its checksum":
            checksum.unlink()
        files = [path.read_bytes()]
    else:
        files = originals()
    for data in files:  # the originals are good
        path.write_bytes(data)
        check(path)
    limit_memory(0.5)
    outcome = {"read": 0, "refused": 0, "wrong": []}
    for number in range(count):
        if kind == "plan":
            torch.save(mutate_values(load_content(files[0]), generator), path)
        else:
            path.write_bytes(mutate(generator.choice(files), generator))
        LATE.clear()
        signal.alarm(10)
        try:
            check(path)
            outcome["read"] += 1
        except refusal as error:
            assert "\n" not in str(error).strip() or kind == "table", error
            outcome["refused"] += 1
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcome["wrong"].append(
                f"mutant {number}: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"[:400]
            )
        signal.alarm(0)
        outcome["wrong"] += [f"mutant {number}: took longer than ten seconds" for _ in LATE]
    return outcome


def load_content(data: bytes) -> dict:
    return torch.load(io.BytesIO(data), weights_only=True)


def too_slow(*_):
    LATE.append(True)  # what is raised here may be taken for an error of the file
    raise TimeoutError
