"""A page of images before and after preparing: ten seconds suffice to see whether crop and window are right."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from efficientnet.common.isolated import Failure, run_isolated
from efficientnet.mammography.dicom.headers import Header, look_at
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import open_image, preprocess_file
from efficientnet.mammography.preprocessing import Preprocessing, breast_box, preprocess

# In pixels: a picture, the two lines below it, the space within a pair and between pairs, and letters.
HEIGHT, CAPTION, WITHIN, GAP, LETTERS = 320, 40, 3, 24, 14
COLUMNS = 4  # pairs
INK, BOX, TROUBLE, GRAY = (230, 230, 230), (255, 200, 0), (255, 90, 90), (40, 40, 40)


def contact_sheet(images: Sequence[tuple[Path, str]], settings: Preprocessing, limits: dict[str, Any]) -> Image.Image:
    """A page with a pair of pictures for each image. `images` holds the (file, laterality) of each.

    On the left is the whole image with its window applied and the crop box drawn; on the right is the picture that a
    network reads. If an image cannot be read within `limits` (those of `run_isolated`), the reason is shown instead.
    """
    drawn = dict(run_isolated(partial(draw_cell, settings=settings), images, **limits))
    cells = [
        draw_reason(image[0], drawn[image].reason) if isinstance(drawn[image], Failure) else drawn[image]
        for image in images
    ]
    width, height = max(cell.width for cell in cells), cells[0].height
    columns = min(COLUMNS, len(cells))
    page = Image.new("RGB", (columns * (width + GAP) + GAP, -(-len(cells) // columns) * (height + GAP) + GAP), GRAY)
    for place, cell in enumerate(cells):
        row, column = divmod(place, columns)
        page.paste(cell, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    return page


def draw_reason(path: Path, reason: str) -> Image.Image:
    cell = Image.new("RGB", (HEIGHT, HEIGHT + CAPTION), GRAY)
    lines = textwrap.wrap(f"{path.parent.name}/{path.name}: {reason}", 40)
    write(cell, (6, 6), "\n".join(lines), TROUBLE)
    return cell


def draw_cell(file: tuple[Path, str], settings: Preprocessing) -> Image.Image | Failure:
    path, laterality = file
    name = f"{path.parent.name}/{path.stem}, {laterality}"
    try:
        image, _ = open_image(path, settings)
        picture = preprocess_file(path, image, settings, laterality)
    except ImageError as error:
        return Failure(str(error).removeprefix(f"{path}: "))
    height, width = image.values.shape
    scale = HEIGHT / height
    whole = as_image(preprocess(image, without_crop(image.values.shape, settings)))
    if settings.crop:
        top, bottom, left, right = (end * scale for end in breast_box(image))
        ImageDraw.Draw(whole).rectangle((left, top, right - 1, bottom - 1), outline=BOX, width=2)
    after = as_image(picture).resize((round(HEIGHT * picture.shape[1] / picture.shape[0]), HEIGHT))
    cell = Image.new("RGB", (whole.width + WITHIN + after.width, HEIGHT + CAPTION), GRAY)
    cell.paste(whole, (0, 0))
    cell.paste(after, (whole.width + WITHIN, 0))
    header = look_at(path)
    shown = f"{header.photometric_interpretation}, window {header.window}" if isinstance(header, Header) else ""
    write(cell, (0, HEIGHT + 3), f"{name}, {height} x {width}\n{shown}", INK)
    return cell


def write(cell: Image.Image, where: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
    ImageDraw.Draw(cell).text(where, text, color, font=ImageFont.load_default(LETTERS), spacing=3)


def without_crop(shape: tuple[int, int], settings: Preprocessing) -> Preprocessing:
    """Settings that show the whole image, HEIGHT pixels high and not mirrored."""
    width = max(32, round(HEIGHT * shape[1] / shape[0]))
    return Preprocessing((HEIGHT, width), crop=False, side="as-is", window=settings.window)


def as_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(picture * 255).astype(np.uint8)).convert("RGB")
