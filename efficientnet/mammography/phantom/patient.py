"""The patients of a phantom set: labels, anatomy and lesions, each a function of the seed and the patient's index.

Where a comment gives RSNA's number, shares and labels follow the competition's train.csv.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from efficientnet.mammography.phantom.dicom import MACHINE_SHARES, MACHINES, Machine
from efficientnet.mammography.phantom.image import DEFAULT_SIZE, Anatomy
from efficientnet.mammography.phantom.lesion import BENIGN, MALIGNANT, Kind, Lesion

Split = Literal["train", "test"]

IMAGES = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))  # of a patient, in this order
STREAMS = ("set", "patient", "L", "R", *(f"{laterality} {view}" for laterality, view in IMAGES))

CANCER_RATE = 0.5
BOTH_SIDES = 0.03  # of the patients with cancer
LOOK_ALIKES = 0.12  # of the breasts without cancer
INVASIVE = 0.7  # of the cancers (RSNA: 818 of 1,158 images)
SMALLEST = 0.1  # least factor by which conspicuity scales the diameter, which cannot be 0 (the contrast can)
# Diameter (least, most) as a share of the breast's longer side, and contrast (least, most) in brightness.
LESIONS: dict[Kind, tuple[tuple[float, float], tuple[float, float]]] = {
    "spiculated mass": ((0.12, 0.17), (0.26, 0.34)),
    "microcalcifications": ((0.14, 0.19), (0.36, 0.44)),
    "circumscribed mass": ((0.06, 0.10), (0.10, 0.15)),
    "coarse calcifications": ((0.08, 0.11), (0.18, 0.24)),
}

# Identifiers are distinct because n -> n^e mod p is one-to-one for a prime p and an e coprime to p - 1.
PATIENT_PRIME, PATIENT_EXPONENT = 65_537, 3
IMAGE_PRIME, IMAGE_EXPONENT = 2**31 - 1, 5
MOST_PATIENTS = PATIENT_PRIME // 2  # in each split
# Multiples of these, modulo 1, fill the unit square evenly (Roberts' R2 sequence), so that every machine has its share
# of cancers even in a small set.
SPREAD = (0.7548776662466927, 0.5698402909980532)


@dataclass(frozen=True)
class Parameters:
    """The parameters that determine every byte of a phantom set. Raises ValueError for values out of range."""

    patients: int
    seed: int = 0
    size: tuple[int, int] = DEFAULT_SIZE  # height, width
    cancer_rate: float = CANCER_RATE  # share of the patients
    conspicuity: float = 1.0  # factor on contrast and diameter of the cancers: 0.5 is hard, 0 invisible
    test_patients: int = 0

    def __post_init__(self) -> None:
        height, width = self.size
        if not 128 <= height <= 8192 or not height <= 2 * width <= 2 * height:
            raise ValueError(
                "size must be height and width in pixels, the height from 128 to 8192 and the width from half the "
                f"height to the height, not {height} {width}"
            )
        for name, least, most in (
            ("patients", 1, MOST_PATIENTS),
            ("test_patients", 0, MOST_PATIENTS),
            ("seed", 0, 2**63),
            ("cancer_rate", 0, 1),
            ("conspicuity", 0, 2),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from {least} to {most}, not {getattr(self, name)}")


@dataclass(frozen=True)
class PhantomBreast:
    """One breast and its labels, which all its images share."""

    laterality: Literal["L", "R"]
    lesion: Lesion | None
    cancer: int
    biopsy: int
    invasive: int
    birads: int | None
    difficult_negative_case: int


@dataclass(frozen=True)
class Patient:
    """A patient: everything that is fixed before a picture is drawn."""

    split: Split
    index: int
    patient_id: int
    image_ids: tuple[int, int, int, int]  # in the order of IMAGES
    age: int | None
    machine: Machine
    anatomy: Anatomy
    breasts: tuple[PhantomBreast, PhantomBreast]  # left, right


def phantom_patient(
    index: int, seed: int = 0, split: Split = "train", cancer_rate: float = CANCER_RATE, conspicuity: float = 1.0
) -> Patient:
    """The patient with this index, from 0. `cancer_rate` and `conspicuity` change what they name and nothing else."""
    phases = random_generator(seed, split, 0, "set").random(2)
    place = [(phase + (index + 1) * step) % 1 for phase, step in zip(phases, SPREAD, strict=True)]
    machine = MACHINES[min(int(np.searchsorted(np.cumsum(MACHINE_SHARES), place[1], "right")), len(MACHINES) - 1)]
    generator = random_generator(seed, split, index, "patient")
    half_length = generator.uniform(0.30, 0.42)
    anatomy = Anatomy(
        density=str(generator.choice(list("ABCD"), p=(0.11, 0.43, 0.40, 0.06))),  # roughly as in screening
        projection=half_length * generator.uniform(1.1, 1.55),
        half_length=half_length,
        pointedness=generator.uniform(0.8, 1.2),
    )
    side, both = generator.integers(2), generator.uniform() < BOTH_SIDES
    has_cancer = place[0] < cancer_rate
    breasts = tuple(
        phantom_breast(
            laterality,
            has_cancer and (both or side == number),
            anatomy,
            conspicuity,
            random_generator(seed, split, index, laterality),
        )
        for number, laterality in enumerate("LR")
    )
    age = int(np.clip(generator.normal(58, 10), 26, 89))
    return Patient(
        split=split,
        index=index,
        patient_id=scattered_identifier(2 * index + (split == "test"), seed, PATIENT_PRIME, PATIENT_EXPONENT),
        image_ids=tuple(
            scattered_identifier(4 * (2 * index + (split == "test")) + image, seed, IMAGE_PRIME, IMAGE_EXPONENT)
            for image in range(4)
        ),
        age=None if generator.uniform() < 0.01 else age,
        machine=machine,
        anatomy=anatomy,
        breasts=breasts,
    )


def phantom_breast(
    laterality: str, cancer: bool, anatomy: Anatomy, conspicuity: float, generator: np.random.Generator
) -> PhantomBreast:
    draws = generator.uniform(size=5)
    kinds = MALIGNANT if cancer else BENIGN if draws[0] < LOOK_ALIKES else ()
    lesion = None
    if kinds:
        kind = kinds[int(generator.integers(len(kinds)))]
        diameter, contrast = (generator.uniform(*limits) for limits in LESIONS[kind])
        lesion = Lesion(
            kind=kind,
            depth=generator.uniform(0.3, 0.7),
            offset_cc=generator.uniform(-0.5, 0.5),
            offset_mlo=generator.uniform(-0.5, 0.5),
            diameter=2 * anatomy.half_length * diameter * (max(conspicuity, SMALLEST) if cancer else 1),
            contrast=contrast * (conspicuity if cancer else 1),
        )
    difficult = lesion is not None and not cancer and draws[1] < 0.6
    birads = 0 if cancer or difficult else 2 if lesion else 1  # 0: recalled, 1: negative, 2: benign
    return PhantomBreast(
        laterality=laterality,
        lesion=lesion,
        cancer=int(cancer),
        biopsy=int(cancer or (difficult and draws[2] < 0.5)),
        invasive=int(cancer and draws[3] < INVASIVE),
        birads=birads if draws[4] < 0.5 else None,
        difficult_negative_case=int(difficult),
    )


def random_generator(seed: int, split: Split, index: int, stream: str) -> np.random.Generator:
    """A random generator that is independent for each purpose (`stream`, one of STREAMS)."""
    return np.random.default_rng([seed, split == "test", index, STREAMS.index(stream) + 1])


def scattered_identifier(order: int, seed: int, prime: int, exponent: int) -> int:
    """A number below the prime that looks random; distinct for every `order` below the prime."""
    return pow((27_644_437 * (order + 1) + 7919 * seed) % prime, exponent, prime)


def phantom_patients(parameters: Parameters) -> list[Patient]:
    """All patients of a set, test patients last."""
    splits: tuple[tuple[Split, int], ...] = (("train", parameters.patients), ("test", parameters.test_patients))
    return [
        phantom_patient(index, parameters.seed, split, parameters.cancer_rate, parameters.conspicuity)
        for split, count in splits
        for index in range(count)
    ]


def table_rows(patient: Patient) -> Iterator[dict[str, Any]]:
    """The four rows of a patient, with the columns of both tables; None is written as an empty cell."""
    for image_id, (laterality, view) in zip(patient.image_ids, IMAGES, strict=True):
        breast = patient.breasts["LR".index(laterality)]
        yield {
            "site_id": patient.machine.site_id,
            "patient_id": patient.patient_id,
            "image_id": image_id,
            "laterality": laterality,
            "view": view,
            "age": patient.age,
            "cancer": breast.cancer,
            "biopsy": breast.biopsy,
            "invasive": breast.invasive,
            "BIRADS": breast.birads,
            "implant": 0,
            "density": patient.anatomy.density if patient.machine.site_id == 1 else None,
            "machine_id": patient.machine.machine_id,
            "difficult_negative_case": breast.difficult_negative_case,
            "prediction_id": f"{patient.patient_id}_{laterality}",
        }
