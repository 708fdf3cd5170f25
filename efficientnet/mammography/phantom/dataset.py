"""The embedded data set: synthetic mammograms as real DICOM files in the layout of the RSNA competition.

    python -m efficientnet.mammography.phantom --output runs/phantoms --patients 150

With it, the tests and users without the competition's data run the whole pipeline in minutes. The phantoms are drawn
(see `phantom_image`), not acquired, and are far easier than mammograms. Half of the patients have cancer, compared to
4.1 % of the patients and 2.1 % of the breasts in screening (RSNA 2022), and the cancers are conspicuous enough to be
learned in five minutes from random weights. No result on phantoms says anything about mammograms.

Each patient is a function of the seed and the patient's index, so N patients are the first N of N + 1, for any number
of processes. A complete folder has phantom.json. Until then it has phantom.incomplete and is written again.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from efficientnet.common.errors import UserError
from efficientnet.common.files import atomic_file, remove_unfinished, write_bytes, write_json
from efficientnet.mammography.phantom.dicom import dicom_file
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

VERSION = 1  # increase it when the same parameters give different files
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
    """Write the set into the folder `output`, unless it is already complete, and return the folder.

    See `Parameters` for the meaning and range of the values. The set is written by `workers` spawned processes, or by
    this one if `workers` is 1. `progress` shows a bar. Raises ValueError for values out of range, and UserError if the
    folder holds anything else or a set with other parameters, or cannot be written.
    """
    parameters = Parameters(patients, seed, tuple(size), cancer_rate, conspicuity, test_patients)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    output = Path(output)
    try:
        if not is_complete(output, parameters):
            mark_incomplete(output, parameters)
            write(output, parameters, workers, progress)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{error.filename or output}: cannot be written ({reason}); choose another folder") from None
    except BrokenProcessPool:
        raise UserError(
            f"{output}: a process that wrote it was killed, perhaps for lack of memory; use fewer workers"
        ) from None
    return output


def is_complete(output: Path, parameters: Parameters) -> bool:
    """Whether the folder holds the complete set. Raises UserError if it holds another set or anything else."""
    if not output.exists():
        return False
    if not output.is_dir():
        raise UserError(f"{output}: is a file; choose another name for the folder")
    if (output / "phantom.json").exists():
        there = read_json(output / "phantom.json")
        if there is None:
            raise UserError(f"{output / 'phantom.json'}: is damaged; delete the folder, or choose another one")
        wanted = as_json(parameters)
        different = [
            f"{name} {there.get(name)}, not {wanted[name]}" for name in wanted if there.get(name) != wanted[name]
        ]
        if different:
            reason = "; ".join(different)
            raise UserError(
                f"{output}: holds phantoms with other parameters ({reason}); choose another folder or delete this one"
            )
        return True
    # A second process may be writing: it creates the marker before any file that is not hidden, and renames it last.
    strange = any(not path.name.startswith(".") for path in output.iterdir())
    if strange and not (output / "phantom.incomplete").exists():
        if (output / "phantom.json").exists():
            return is_complete(output, parameters)
        raise UserError(f"{output}: is not empty and holds no phantoms; choose an empty or new folder")
    return False


def mark_incomplete(output: Path, parameters: Parameters) -> None:
    """Mark the folder as incomplete, and remove what an interrupted run left behind."""
    marker = output / "phantom.incomplete"
    if marker.exists() and read_json(marker) != as_json(parameters):
        for name in CONTENTS:
            path = output / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    write_json(marker, as_json(parameters))
    remove_unfinished(output)


def write(output: Path, parameters: Parameters, workers: int, progress: bool) -> None:
    patients = phantom_patients(parameters)
    with tqdm(total=len(patients), desc="phantoms", unit=" patients", disable=not progress, leave=False) as bar:
        if min(workers, len(patients)) == 1:
            for patient in patients:
                write_patient(output, parameters, patient)
                bar.update()
        else:
            for _ in in_processes(output, parameters, patients, min(workers, len(patients))):
                bar.update()
    training = [patient for patient in patients if patient.split == "train"]
    write_csv(output / "train.csv", TRAIN_COLUMNS, (row for patient in training for row in table_rows(patient)))
    if parameters.test_patients:
        rows = [row for patient in patients if patient.split == "test" for row in table_rows(patient)]
        write_csv(output / "test.csv", TEST_COLUMNS, rows)
        breasts = {row["prediction_id"]: row for row in rows}.values()
        write_csv(output / "test_truth.csv", ("prediction_id", "cancer"), breasts)
    try:
        os.replace(output / "phantom.incomplete", output / "phantom.json")
    except FileNotFoundError:
        if not is_complete(output, parameters):  # otherwise another process was faster
            raise


def write_patient(output: Path, parameters: Parameters, patient: Patient) -> None:
    for image_id, (laterality, view) in zip(patient.image_ids, IMAGES, strict=True):
        generator = random_generator(parameters.seed, patient.split, patient.index, f"{laterality} {view}")
        lesion = patient.breasts["LR".index(laterality)].lesion
        image = phantom_image(patient.anatomy, laterality, view, lesion, generator, parameters.size).image
        study = f"phantom {VERSION}/{parameters.seed}/{patient.split}"
        content = dicom_file(image, patient.machine, patient.patient_id, image_id, laterality, study)
        write_bytes(output / f"{patient.split}_images" / str(patient.patient_id) / f"{image_id}.dcm", content)


def in_processes(output: Path, parameters: Parameters, patients: Sequence[Patient], workers: int) -> Iterator[None]:
    """Write the patients in several processes, and yield after each."""
    context = multiprocessing.get_context("spawn")  # forking a process with threads, such as torch's, may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=prepare_process)
    try:
        for done in as_completed([pool.submit(write_patient, output, parameters, patient) for patient in patients]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_process() -> None:
    """Leave Ctrl-C to the parent process, and exit when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with atomic_file(path, "w") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def as_json(parameters: Parameters) -> dict[str, Any]:
    return {"version": VERSION, **asdict(parameters), "size": list(parameters.size)}


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
