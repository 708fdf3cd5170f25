"""One image file -> the picture that a network reads, and the PNG file in which `prepare` stores it.

A prepared picture is an 8-bit gray PNG. Its header records the settings and the source that it was made from, so that
it is never cropped twice, never used with other settings, and recognised when an interrupted `prepare` is resumed.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from efficientnet.mammography import preprocessing
from efficientnet.mammography.dicom.grayscale import ShownImage
from efficientnet.mammography.dicom.reading import ImageError, read_shown_image
from efficientnet.mammography.image_files import is_dicom
from efficientnet.mammography.preprocessing import Preprocessing, fit, pad, reduce
from efficientnet.mammography.raster import SETTINGS_KEY, brightness, has_bright_background, read_raster

# JPEG 2000 is decoded to at least this many times the picture's rows and columns: a crop keeps about half of them.
REDUCED_TO = 2

SOURCE_KEY, NOTES_KEY = "Prepared-From", "Notes"  # beside SETTINGS_KEY
END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"


def read_picture(path: Path, settings: Preprocessing, laterality: str | None = None) -> preprocessing.Image:
    """The preprocessed picture of an image file: float32 `settings.image_size` in [0, 1].

    A prepared picture is returned unchanged. Raises ImageError if the file cannot be read, was prepared with other
    settings, or shows nothing.
    """
    return read_noted_picture(path, settings, laterality)[0]


def read_noted_picture(
    path: Path, settings: Preprocessing, laterality: str | None = None
) -> tuple[preprocessing.Image, tuple[str, ...]]:
    """`read_picture`, and notes on what was wrong with the file and how it was read, a few words for each kind."""
    image, key = open_image(path, settings)
    if key is None:
        return preprocess_file(path, image, settings, laterality), image.notes
    if key != settings.key:
        raise ImageError(f"{path}: was prepared with other settings ({key}, not {settings.key}); prepare it again")
    check_content(path, image.values)
    return image.values, image.notes


def open_image(path: Path, settings: Preprocessing) -> tuple[ShownImage, str | None]:
    """Read an image file of any format, and the key of its settings if it is a prepared picture. Raises ImageError.

    PNG, JPEG and TIFF files (community copies of the competition's data, or a prepared folder) are assumed to be
    windowed, with bright tissue. With `settings.invert_bright`, a picture with a bright background is inverted.
    """
    if is_dicom(path):
        smallest = tuple(REDUCED_TO * side for side in settings.image_size) if settings.reduce_jpeg2000 else None
        return read_shown_image(path, settings.window, smallest, raw=settings.accept_raw), None
    raster = read_raster(path)
    image = ShownImage(brightness(raster, settings.bits, path))
    if raster.key is None and settings.invert_bright and has_bright_background(reduce(image)):
        image = ShownImage(1 - image.values, notes=("bright background inverted",))
    return image, raster.key


def preprocess_file(
    path: Path, image: ShownImage, settings: Preprocessing, laterality: str | None
) -> preprocessing.Image:
    """`preprocess` the image of a file. Raises ImageError if the picture shows nothing."""
    content, chest_wall = fit(image, settings, laterality)
    check_content(path, content)
    return pad(content, chest_wall, settings.image_size)


def check_content(path: Path, content: preprocessing.Image) -> None:
    """Raise ImageError if all pixels round to the same 8-bit level, since nothing can be learned from the picture."""
    if np.rint(255 * content.min()) == np.rint(255 * content.max()):
        raise ImageError(
            f"{path}: is blank: all pixels have the same value after preprocessing; replace or remove the file"
        )


def encode_picture(
    picture: preprocessing.Image, settings: Preprocessing, source: str, notes: Sequence[str] = ()
) -> bytes:
    """Encode a picture in [0, 1] as an 8-bit PNG. The background stays 0, and no pixel is off by more than 1/510.

    That error is a hundredth of the standard deviation by which the network's input is divided. Measured on films at
    1024x512 (one core of a Zen 3; milliseconds to write, milliseconds to read, KiB):

        8-bit PNG, run lengths    9    4.5   110        16-bit PNG, run lengths   21    8    570
        8-bit PNG, level 6       57    5     125        16-bit PNG, level 1       36    7    600
        8-bit array              0.3   0.3   512        16-bit array             0.3   0.3  1024

    Augmentation takes four times as long as reading a PNG. After the first epoch, 54,706 PNGs stay in the page cache:
    they take 6 GB, while arrays would take 28 or 56 GB.
    """
    information = PngImagePlugin.PngInfo()
    information.add_text(SETTINGS_KEY, settings.key)
    information.add_text(SOURCE_KEY, source)
    if notes:
        information.add_text(NOTES_KEY, "\n".join(notes))
    file = io.BytesIO()
    levels = np.rint(picture * np.float32(255)).astype(np.uint8)
    Image.fromarray(levels).save(file, "PNG", compress_type=zlib.Z_RLE, compress_level=1, pnginfo=information)
    return file.getvalue()


def is_prepared(path: Path, settings: Preprocessing, source: str) -> bool:
    """Whether the file is a complete picture that was prepared with these settings from this source.

    Only the beginning and the end are checked, which takes seconds for 54,706 files. `atomic_file` guarantees the rest:
    the content is on disk before the file gets its name.
    """
    expected = b"".join(
        chunk(b"tEXt", name.encode() + b"\0" + text.encode())
        for name, text in ((SETTINGS_KEY, settings.key), (SOURCE_KEY, source))
    )
    try:
        with open(path, "rb") as file:
            beginning = file.read(4096)  # a file name has up to 255 characters, each escaped to ten at most
            file.seek(-len(END_OF_PNG), io.SEEK_END)
            return expected in beginning and file.read() == END_OF_PNG
    except OSError:  # also if the file is shorter than END_OF_PNG
        return False


def prepared_notes(path: Path) -> list[str]:
    """The notes on the file that a prepared picture was made from."""
    with Image.open(path) as image:
        return image.info.get(NOTES_KEY, "").splitlines()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file: length, kind, content, checksum."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
