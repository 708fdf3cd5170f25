"""Padding is black in the picture, even where its value lies within the window."""

import numpy as np
import pytest
from dicom_files import make

from efficientnet.mammography.dicom.grayscale import shown_image
from efficientnet.mammography.preprocessing import Preprocessing, preprocess


@pytest.mark.parametrize(
    ("padding", "tissue", "elements"),
    [
        (0, 900, {"WindowCenter": 500, "WindowWidth": 2000, "PixelPaddingValue": 0}),
        (
            65535,
            30000,
            {
                "PhotometricInterpretation": "MONOCHROME1",
                "WindowCenter": 40000,
                "WindowWidth": 60000,
                "VOILUTFunction": "LINEAR_EXACT",
                "PixelPaddingValue": 65535,
            },
        ),
        (400, 3000, {"WindowCenter": 2000, "WindowWidth": 4000, "PixelPaddingValue": 0, "PixelPaddingRangeLimit": 500}),
    ],
    ids=["lowest", "highest", "range"],
)
def test_padding_within_the_window_is_black_in_the_picture(padding, tissue, elements):
    pixels = np.full((64, 64), padding, np.uint16)
    pixels[:, :32] = tissue + np.arange(32) * 8
    picture = preprocess(shown_image(pixels, make(pixels, **elements), 0), Preprocessing((64, 64), crop=False))
    assert (picture[:, 40:] == 0).all() and (picture[:, :30] > 0.3).all()
