"""One image file -> the picture that a network reads, and the PNG file in which `prepare` stores such a picture.

A prepared picture is an 8-bit gray PNG. Its header names the settings and the source that it was made from, so that it
is never cropped again, never used with other settings, and recognised when the work is resumed.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from efficientnet.mammography import preprocessing
from efficientnet.mammography.dicom.grayscale import ShownImage
from efficientnet.mammography.dicom.reading import ImageError, read_shown_image
from efficientnet.mammography.image_files import DICOM_SUFFIXES
from efficientnet.mammography.preprocessing import Preprocessing, preprocess

# JPEG 2000 is reduced to no less than so many times the picture's rows and columns: a crop leaves about half of them.
REDUCED_TO = 2

SETTINGS_KEY, SOURCE_KEY = "Prepared-By", "Prepared-From"
END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"


def read_picture(path: Path, settings: Preprocessing, laterality: str | None = None) -> preprocessing.Image:
    """The preprocessed picture of an image file: float32 `settings.image_size` in [0, 1].

    A prepared picture is used as it is. Raises ImageError, also for a picture prepared with other settings.
    """
    image, key = open_image(path, settings)
    if key is None:
        return preprocess(image, settings, laterality)
    if key != settings.key:
        raise ImageError(f"{path}: was prepared with other settings ({key}, not {settings.key}); prepare it again")
    return image.values


def open_image(path: Path, settings: Preprocessing) -> tuple[ShownImage, str | None]:
    """An image file of any kind, and the key of the settings if it is a prepared one. Raises ImageError."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        smallest = tuple(REDUCED_TO * side for side in settings.image_size) if settings.reduce_jpeg2000 else None
        return read_shown_image(path, settings.window, smallest), None
    brightness, key = read_raster(path)
    return ShownImage(brightness), key


def read_raster(path: Path) -> tuple[preprocessing.Image, str | None]:
    """A PNG or JPEG as float32 (H, W) in [0, 1], and the key of the settings if it is a prepared picture.

    Pictures in these formats (community copies of the competition's data, or a prepared folder) count as windowed, with
    tissue bright: 8 bits are divided by 255, 16 bits by 65535, and colour is reduced to luminance. Raises ImageError.
    """
    try:
        with Image.open(path) as image:
            key = image.info.get(SETTINGS_KEY)
            if image.mode.startswith("I"):  # 16-bit PNG
                return np.asarray(image, dtype=np.float32) / np.float32(65535), key
            return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255), key
    except MemoryError:  # usually a damaged file
        raise ImageError(f"{path}: cannot be read as an image (it claims more memory than there is)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error}); replace it or take it out") from None


def encode_picture(picture: preprocessing.Image, settings: Preprocessing, source: str) -> bytes:
    """A picture in [0, 1] as an 8-bit PNG: the background stays 0 and no pixel is off by more than 1/510.

    That is a hundredth of the standard deviation by which the network's input is divided. Measured on films at
    1024x512 (one core of a Zen 3; milliseconds to write and to read, KiB):

        8-bit PNG, run lengths    9    4.5   110        16-bit PNG, run lengths   21    8    570
        8-bit PNG, level 6       57    5     125        16-bit PNG, level 1       36    7    600
        8-bit array              0.3   0.3   512        16-bit array             0.3   0.3  1024

    Augmentation takes four times as long as reading a PNG, and 54,706 of them (6 GB instead of 28 or 56) stay in the
    machine's memory after the first epoch.
    """
    information = PngImagePlugin.PngInfo()
    information.add_text(SETTINGS_KEY, settings.key)
    information.add_text(SOURCE_KEY, source)
    file = io.BytesIO()
    levels = np.rint(picture * np.float32(255)).astype(np.uint8)
    Image.fromarray(levels).save(file, "PNG", compress_type=zlib.Z_RLE, compress_level=1, pnginfo=information)
    return file.getvalue()


def is_prepared(path: Path, settings: Preprocessing, source: str) -> bool:
    """Whether the file is a complete prepared picture with these settings and from this source.

    Only the beginning and the end are checked, which takes seconds for 54,706 files. `atomic_file` guarantees the rest:
    the content is on disk before the file gets its name.
    """
    expected = b"".join(
        chunk(b"tEXt", name.encode() + b"\0" + text.encode())
        for name, text in ((SETTINGS_KEY, settings.key), (SOURCE_KEY, source))
    )
    try:
        with open(path, "rb") as file:
            beginning = file.read(4096)  # a name may have 255 letters, and an escaped letter ten
            file.seek(-len(END_OF_PNG), io.SEEK_END)
            return expected in beginning and file.read() == END_OF_PNG
    except OSError:  # also if the file is shorter than END_OF_PNG
        return False


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file: length, kind, content, checksum."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
