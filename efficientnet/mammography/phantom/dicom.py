"""A phantom's picture as a DICOM file with a header like those of the RSNA competition.

As in the competition, headers hold little: PatientID, ImageLaterality and InstanceNumber (the image_id), but no
Modality, no ViewPosition and no dates. Machines differ in polarity, bits and window, to expose a reader that ignores
any of them: with window and polarity applied, every file shows bright tissue on a dark background.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

SIGMOID_LIMIT = 0.01  # the sigmoid never reaches 0 or 1: brightness keeps this distance from both


@dataclass(frozen=True)
class Machine:
    """How one machine stores its images. The first window of `centres` and `widths` is the intended one."""

    site_id: int
    machine_id: int
    photometric_interpretation: Literal["MONOCHROME1", "MONOCHROME2"]
    bits: int  # stored, of 16 allocated
    voi_lut_function: Literal["SIGMOID", "LINEAR", "LINEAR_EXACT"] | None  # None: no window in the header
    centres: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()

    def store(self, image: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Brightness in [0, 1] to stored values: the inverse of this machine's window and polarity."""
        shown = 1 - image if self.photometric_interpretation == "MONOCHROME1" else image
        if self.voi_lut_function == "SIGMOID":  # PS3.3 C.11.2.1.3.1, solved for the stored value
            shown = np.clip(shown, SIGMOID_LIMIT, 1 - SIGMOID_LIMIT)
            stored = self.centres[0] + self.widths[0] / 4 * np.log(shown / (1 - shown))
        elif self.voi_lut_function == "LINEAR_EXACT":  # C.11.2.1.3.2
            stored = self.centres[0] + self.widths[0] * (shown - 0.5)
        elif self.voi_lut_function == "LINEAR":  # C.11.2.1.2.1
            stored = self.centres[0] - 0.5 + (self.widths[0] - 1) * (shown - 0.5)
        else:
            stored = shown * (2**self.bits - 1)
        return np.clip(np.rint(stored), 0, 2**self.bits - 1).astype(np.uint16)

    @property
    def padding(self) -> int:
        """The stored value of black: the largest one of a MONOCHROME1 image, 0 for the MONOCHROME2 machines here."""
        return int(self.store(np.zeros((1, 1), np.float32))[0, 0])


# The first machine of each site imitates the competition's files; the second adds other kinds of header.
MACHINES = (
    Machine(1, 49, "MONOCHROME1", 16, "SIGMOID", (32000, 33500, 30500), (24000, 19000, 30000)),
    Machine(1, 93, "MONOCHROME1", 16, "LINEAR_EXACT", (30000, 28000), (50000, 42000)),
    Machine(2, 48, "MONOCHROME2", 12, "LINEAR", (2048,), (4096,)),
    Machine(2, 29, "MONOCHROME2", 12, None),
)
MACHINE_SHARES = (0.375, 0.125, 0.375, 0.125)
EXPLANATIONS = ("NORMAL", "HARDER", "SOFTER")


def dicom_file(
    image: NDArray[np.float32], machine: Machine, patient_id: int, image_id: int, laterality: str, study: str
) -> bytes:
    """One image, (H, W) in [0, 1], as a DICOM file. UIDs derive from the ids and `study`, the name of the set."""
    dataset = Dataset()
    dataset.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    dataset.SOPInstanceUID = derived_uid(study, "image", image_id)
    dataset.StudyInstanceUID = derived_uid(study, "patient", patient_id)
    dataset.SeriesInstanceUID = derived_uid(study, "series", patient_id)
    dataset.PatientID = str(patient_id)
    dataset.InstanceNumber = image_id
    dataset.ImageLaterality = laterality
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = machine.photometric_interpretation
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, machine.bits, machine.bits - 1
    dataset.PixelRepresentation = 0
    dataset.add_new("PixelPaddingValue", "US", machine.padding)
    if machine.voi_lut_function is not None:
        dataset.WindowCenter, dataset.WindowWidth = list(machine.centres), list(machine.widths)
        dataset.WindowCenterWidthExplanation = list(EXPLANATIONS[: len(machine.centres)])
        dataset.VOILUTFunction = machine.voi_lut_function
    dataset.add_new("PixelData", "OW", machine.store(image).astype("<u2", copy=False).tobytes())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def derived_uid(*parts: object) -> str:
    """A UID by PS3.5 B.2: 2.25 and a 128-bit number in decimal, which needs no registered root."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
