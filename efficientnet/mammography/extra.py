"""Further data folders to train on, each with train.csv or in a published layout (see `layouts`).

Their patients are never held out, and their labels are those of the main table's targets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from efficientnet.mammography.image_files import data_folder, find_images, name_hint
from efficientnet.mammography.layouts import find_table
from efficientnet.mammography.table import Table, TableError, read_table
from efficientnet.mammography.table_columns import present_columns
from efficientnet.mammography.targets import Target

OF_ONE_DATA_SET = ("site_id", "machine_id")  # whose codes mean something else in another


@dataclass(frozen=True)
class Extra:
    """One further data folder: the rows that have an image file, and these files.

    In `table`, patient_id and prediction_id begin with the name and a colon, so that no other folder has them.
    """

    name: str
    root: Path
    table: Table
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


def read_extra(
    folders: Sequence[Path], targets: Sequence[Target], columns: Mapping[str, str] | None = None
) -> list[Extra]:
    """Read further data folders, with labels for the targets of the main table.

    A label is NaN if the folder does not know it, if its text is not among the target's categories, and for site_id and
    machine_id. Names in `columns` (see `read_table`) apply to the folders whose tables have them. Raises TableError for
    a bad folder or table, and for a folder without any image.
    """
    paths = [data_folder(Path(folder)) for folder in folders]
    if repeated := [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]:
        raise TableError(f"--extra-data: {repeated[0]} is given twice")
    counts = Counter(path.resolve().name for path in paths)
    extras = []
    for place, root in enumerate(paths, 1):
        name = root.resolve().name
        name = name if len(counts) == len(paths) else f"{place}-{name}"
        extras.append(read_folder(root, name, targets, columns or {}))
    return extras


def read_folder(root: Path, name: str, targets: Sequence[Target], columns: Mapping[str, str]) -> Extra:
    source = find_table(root, {ours: theirs for ours, theirs in columns.items() if ours != "layout"})
    table = read_table(source.path, targets, present_columns(source.path, source.columns), labels="optional")
    files = find_images(table, root)
    if not any(files):
        hint = name_hint(table, files, root, "train_images")
        raise TableError(f"{root}: no images found for the rows of {table.path.name}; {hint}")
    known = [target.name not in OF_ONE_DATA_SET for target in targets]
    rows = tuple(
        replace(
            row,
            patient_id=f"{name}:{row.patient_id}",
            prediction_id=f"{name}:{row.prediction_id}",
            targets=tuple(label if use else math.nan for label, use in zip(row.targets, known, strict=True)),
        )
        for row, file in zip(table.rows, files, strict=True)
        if file is not None
    )
    # That it lacks labels of auxiliary targets is to be expected.
    auxiliary = [f"no column for the target {target.name!r}" for target in targets[1:]]
    warnings = [text for text in table.warnings if not any(part in text for part in auxiliary)]
    if all(math.isnan(row.targets[0]) for row in rows):
        raise TableError(f"{source.path}: has no label of {targets[0].name}; use --columns to name the column")
    if missing := files.count(None):
        warnings.append(f"{root}: {missing} rows of {table.path.name} have no image file and are left out")
    return Extra(name, root, replace(table, rows=rows), tuple(filter(None, files)), tuple(warnings))


def joined(main: Table, extras: Sequence[Extra]) -> Table:
    """The rows of the main table, then those of each extra folder, in order, as one table to train on."""
    return replace(main, rows=(*main.rows, *(row for extra in extras for row in extra.table.rows)))
