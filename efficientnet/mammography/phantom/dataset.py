"""The embedded data set: synthetic mammograms as real DICOM files in the layout of the RSNA competition.

    python -m efficientnet.mammography.phantom --output runs/phantoms --patients 150

It lets someone without the competition's data walk the whole path in minutes, and the tests too. The phantoms are drawn
(see phantom_image), not acquired, and far easier than mammograms: half of the patients have cancer, where screening has
4.1 % of the patients and 2.1 % of the breasts (RSNA 2022), and the cancers are conspicuous, so that a five-minute run
from random weights has something to learn from. Nothing measured on them says anything about mammograms.

Each patient is a function of the seed and her index alone: N patients are the first N of N + 1, however many processes
write them. A folder is complete when it has phantom.json; until then it has phantom.incomplete and is written again.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from efficientnet.common.errors import UserError
from efficientnet.mammography.phantom.dicom import dicom_file, write_over
from efficientnet.mammography.phantom.image import DEFAULT_SIZE, phantom_image
from efficientnet.mammography.phantom.patient import (
    CANCER_RATE,
    IMAGES,
    Parameters,
    Patient,
    phantom_patients,
    random_generator,
    table_rows,
)

PROGRAM = "python -m efficientnet.mammography.phantom"
VERSION = 1  # of what is drawn and written for the same parameters; raise it with every change of that
TRAIN_COLUMNS = (
    *("site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "biopsy", "invasive", "BIRADS"),
    *("implant", "density", "machine_id", "difficult_negative_case"),
)
TEST_COLUMNS = (*TRAIN_COLUMNS[:6], "implant", "machine_id", "prediction_id")
CONTENTS = ("train.csv", "train_images", "test.csv", "test_images", "test_truth.csv")


def write_phantom_dataset(
    output: str | Path,
    patients: int,
    seed: int = 0,
    size: tuple[int, int] = DEFAULT_SIZE,
    cancer_rate: float = CANCER_RATE,
    conspicuity: float = 1.0,
    workers: int = 1,
    progress: bool = False,
    test_patients: int = 0,
) -> Path:
    """Write the set into the folder `output`, unless it is there already, and return the folder.

    See `Parameters` for what the values mean and may be. `workers` processes write it, started by spawn; with 1 it is
    written in this one. `progress` shows a bar. Raises ValueError for values that make no set, and UserError if the
    folder holds anything else, or a set of other parameters, or cannot be written.
    """
    parameters = Parameters(patients, seed, tuple(size), cancer_rate, conspicuity, test_patients)
    if workers < 1:
        raise ValueError(f"workers is at least 1; it is {workers}")
    output = Path(output)
    try:
        if not is_complete(output, parameters):
            _start(output, parameters)
            _write(output, parameters, workers, progress)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{error.filename or output}: cannot be written ({reason}); choose another folder") from None
    except BrokenProcessPool:
        raise UserError(
            f"{output}: a process that wrote it was ended, perhaps for lack of memory; use fewer workers"
        ) from None
    return output


def is_complete(output: Path, parameters: Parameters) -> bool:
    """Whether the folder has the whole set. Raises UserError if it has another one or something else."""
    if not output.exists():
        return False
    if not output.is_dir():
        raise UserError(f"{output}: is a file; choose another name for the folder")
    if (output / "phantom.json").exists():
        there = _read_json(output / "phantom.json")
        if there is None:
            raise UserError(f"{output / 'phantom.json'}: is damaged; delete the folder, or choose another one")
        wanted = _as_json(parameters)
        different = [
            f"{name} {there.get(name)}, not {wanted[name]}" for name in wanted if there.get(name) != wanted[name]
        ]
        if different:
            reason = "; ".join(different)
            raise UserError(f"{output}: holds phantoms of {reason}; choose another folder, or delete this one")
        return True
    if not (output / "phantom.incomplete").exists() and any(output.iterdir()):
        raise UserError(f"{output}: is not empty and holds no phantoms; choose an empty or new folder")
    return False


def _start(output: Path, parameters: Parameters) -> None:
    """Mark the folder as incomplete, and clear away what an interrupted run with other parameters left there."""
    marker = output / "phantom.incomplete"
    if marker.exists() and _read_json(marker) != _as_json(parameters):
        for name in CONTENTS:
            path = output / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    write_over(marker, (json.dumps(_as_json(parameters), indent=2) + "\n").encode())


def _write(output: Path, parameters: Parameters, workers: int, progress: bool) -> None:
    patients = phantom_patients(parameters)
    with tqdm(total=len(patients), desc="phantoms", unit=" patients", disable=not progress, leave=False) as bar:
        if min(workers, len(patients)) == 1:
            for patient in patients:
                _write_patient(output, parameters, patient)
                bar.update()
        else:
            for _ in _in_processes(output, parameters, patients, min(workers, len(patients))):
                bar.update()
    training = [patient for patient in patients if patient.split == "train"]
    _write_csv(output / "train.csv", TRAIN_COLUMNS, (row for patient in training for row in table_rows(patient)))
    if parameters.test_patients:
        rows = [row for patient in patients if patient.split == "test" for row in table_rows(patient)]
        _write_csv(output / "test.csv", TEST_COLUMNS, rows)
        breasts = {row["prediction_id"]: row for row in rows}.values()
        _write_csv(output / "test_truth.csv", ("prediction_id", "cancer"), breasts)
    try:
        os.replace(output / "phantom.incomplete", output / "phantom.json")
    except FileNotFoundError:
        if not is_complete(output, parameters):  # else another process, started at the same time, was faster
            raise


def _write_patient(output: Path, parameters: Parameters, patient: Patient) -> None:
    for image_id, (laterality, view) in zip(patient.image_ids, IMAGES, strict=True):
        generator = random_generator(parameters.seed, patient.split, patient.index, f"{laterality} {view}")
        lesion = patient.breasts["LR".index(laterality)].lesion
        image = phantom_image(patient.anatomy, laterality, view, lesion, generator, parameters.size).image
        study = f"phantom {VERSION}/{parameters.seed}/{patient.split}"
        content = dicom_file(image, patient.machine, patient.patient_id, image_id, laterality, study)
        write_over(output / f"{patient.split}_images" / str(patient.patient_id) / f"{image_id}.dcm", content)


def _in_processes(output: Path, parameters: Parameters, patients: Sequence[Patient], workers: int) -> Iterable[None]:
    """Something for each patient written, as they come."""
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads, such as torch's, may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_process)
    try:
        for done in as_completed([pool.submit(_write_patient, output, parameters, patient) for patient in patients]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    """Ctrl-C is the parent's to handle, and no process outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_over(path, text.getvalue().encode())


def _as_json(parameters: Parameters) -> dict[str, Any]:
    return {"version": VERSION, **asdict(parameters), "size": list(parameters.size)}


def _read_json(path: Path) -> dict[str, Any] | None:
    """None for anything but a JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
