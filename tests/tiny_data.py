"""A data folder that is small and easily learned, for tests of the commands: bright discs are cancers."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_tiny_data(root: Path, patients: int = 12, size: int = 48, folder: str = "train", labels: bool = True) -> Path:
    """`patients` with two images of each breast as 8-bit PNG; every third has cancer in her left breast."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    lines = []
    for patient in range(100, 100 + patients):
        for side in "LR":
            positive = patient % 3 == 0 and side == "L"
            for view in ("CC", "MLO"):
                picture = 0.4 * (((x / 0.8) ** 2 + ((y - 0.5) / 0.45) ** 2) < 1)
                picture = picture + 0.03 * generator.standard_normal((size, size)) * (picture > 0)
                if positive:
                    top, left = generator.uniform(0.35, 0.65), generator.uniform(0.2, 0.5)
                    picture[(y - top) ** 2 + (x - left) ** 2 < 0.1**2] = 0.95
                image = f"{patient}{'LR'.index(side)}{('CC', 'MLO').index(view)}"
                path = root / f"{folder}_images" / str(patient) / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(picture if side == "L" else picture[:, ::-1], 0, 1) * 255
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                label = f",{int(positive)},{int(positive)}" if labels else f",{patient}_{side}"
                lines.append(f"{patient},{image},{side},{view}{label}")
    header = "patient_id,image_id,laterality,view," + ("cancer,biopsy" if labels else "prediction_id")
    (root / f"{folder}.csv").write_text("\n".join([header, *lines]) + "\n")
    return root
