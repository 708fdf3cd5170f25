"""Small data folders in the published layouts of VinDr-Mammo and CBIS-DDSM."""

import csv
from pathlib import Path

import numpy as np
from dicom_files import make
from PIL import Image

VINDR_HEADER = (
    *("study_id", "series_id", "image_id", "laterality", "view_position", "height", "width", "breast_birads"),
    *("breast_density", "split"),
)
CBIS_HEADER = (
    *("patient_id", "{density}", "left or right breast", "image view", "abnormality id", "abnormality type"),
    *("{kind} {first}", "{kind} {second}", "assessment", "pathology", "subtlety", "image file path"),
    *("cropped image file path", "ROI mask file path"),
)


def write_dicom(path: Path, value: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    make(film(value).astype(np.uint16) << 4, BitsStored=12).save_as(path, enforce_file_format=True)


def write_png(path: Path, value: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film(value)).save(path)


def film(value: int) -> np.ndarray:
    pixels = np.zeros((40, 32), np.uint8)
    pixels[5:35, :20] = np.linspace(value / 2, value, 20)
    return pixels


def write_table(path: Path, header, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_vindr(root: Path, breasts=(("s1", "L", 1), ("s1", "R", 5), ("s2", "L", 2), ("s2", "R", 4))) -> Path:
    """Breasts of (study, side, BI-RADS), with a CC and an MLO image each."""
    rows = []
    for study, side, birads in breasts:
        for view in ("CC", "MLO"):
            image = f"{study}{side}{view}".lower()
            rows.append(
                [study, f"series-{study}", image, side, view, 40, 32, f"BI-RADS {birads}", "DENSITY C", "training"]
            )
            write_dicom(root / "images" / study / f"{image}.dicom")
    write_table(root / "breast-level_annotations.csv", VINDR_HEADER, rows)
    return root


def cbis_row(image: str, pathology: str, number: int = 1, assessment: int = 4, density: int = 2) -> list:
    """One abnormality of an image such as Mass-Training_P_00001_LEFT_CC."""
    _, p, patient, side, view = image.split("_")
    path, crop = f"{image}/1.3.6.1.4.1.9590.1/1.3.6.1.4.1.9590.2", f"{image}_{number}/1.3.6/1.3.7"
    return [
        *(f"{p}_{patient}", density, side, view, number, "mass", "OVAL", "ILL_DEFINED", assessment, pathology, 4),
        *(
            f"{path}/000000.dcm",
            f"{crop}/000000.dcm\n",
            f"{crop}/000001.dcm",
        ),
    ]


def write_cbis(root: Path, table: str, rows) -> Path:
    """One of the tables, such as mass_train."""
    kind, part = table.split("_")
    words = {
        "mass": {"density": "breast_density", "kind": "mass", "first": "shape", "second": "margins"},
        "calc": {"density": "breast density", "kind": "calc", "first": "type", "second": "distribution"},
    }[kind]
    header = [name.format(**words) for name in CBIS_HEADER]
    return write_table(root / f"{kind}_case_description_{part}_set.csv", header, rows)
