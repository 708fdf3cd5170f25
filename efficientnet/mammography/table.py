"""The table of a screening data set: train.csv or test.csv -> typed rows and breasts.

Patient, side and view come from the table, since the DICOM headers of the competition contain almost none of them. Only
patient_id, image_id, laterality and the targets are required, under these names or those of a column mapping. All
errors in a table are reported here, with file, line and column.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from efficientnet.mammography.layouts import table_records
from efficientnet.mammography.table_columns import (
    FIELDS,
    IDENTIFIERS,
    Cell,
    check_mapping,
    find_cells,
    read_by_column,
    read_header,
)
from efficientnet.mammography.table_text import TableError, align
from efficientnet.mammography.targets import KINDS, Kind, Target


@dataclass(frozen=True, slots=True)
class Row:
    """One image. Identifiers are text, as in the file; missing values are None (NaN in targets)."""

    patient_id: str
    image_id: str
    laterality: Literal["L", "R"]
    view: str | None
    site_id: str | None
    machine_id: str | None
    age: float | None  # years
    targets: tuple[float, ...]  # labels, NaN where missing, in the order of the table's targets
    prediction_id: str  # names the breast in a submission
    implant: float | None = None  # 0.0 or 1.0
    density: str | None = None


@dataclass(frozen=True, slots=True)
class Breast:
    """One breast, the unit that the competition scores. `rows` are indices into the table's rows."""

    prediction_id: str
    patient_id: str
    laterality: Literal["L", "R"]
    rows: tuple[int, ...]
    label: float  # maximum of the first target over the images that have it; NaN if none has


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of images, breasts and patients."""

    images: int
    breasts: int
    patients: int


@dataclass(frozen=True)
class Table:
    """The rows of one file in its order, with N images and T targets. The first target is scored, and binary.

    layout: the published layout of the data folder (see `layouts`); None for RSNA's.
    """

    rows: tuple[Row, ...]
    targets: tuple[Target, ...]
    path: Path
    warnings: tuple[str, ...] = ()
    layout: str | None = None

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(target.name for target in self.targets)

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """The distinct patient_ids, in order of first appearance."""
        return tuple(dict.fromkeys(row.patient_id for row in self.rows))

    @cached_property
    def breasts(self) -> tuple[Breast, ...]:
        """The breasts, in order of first appearance."""
        members: dict[str, list[int]] = {}
        for place, row in enumerate(self.rows):
            members.setdefault(row.prediction_id, []).append(place)
        breasts = []
        for prediction_id, places in members.items():
            first = self.rows[places[0]]
            labels = [self.rows[place].targets[0] for place in places]
            label = max((label for label in labels if not math.isnan(label)), default=math.nan)
            breasts.append(Breast(prediction_id, first.patient_id, first.laterality, tuple(places), label))
        return tuple(breasts)

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        """Labels (N, T), NaN where missing. All callers share the array: copy it before changing it."""
        targets = [row.targets for row in self.rows]
        return np.array(targets, dtype=np.float32).reshape(len(self.rows), len(self.targets))

    @cached_property
    def breast_labels(self) -> NDArray[np.float32]:
        """Labels (B, T) of the breasts: of the labels of its images, the greatest if binary, otherwise the first."""
        labels = np.full((len(self.breasts), len(self.targets)), np.nan, dtype=np.float32)
        for place, breast in enumerate(self.breasts):
            for column, target in enumerate(self.targets):
                known = [label for row in breast.rows if not math.isnan(label := self.rows[row].targets[column])]
                if known:
                    labels[place, column] = max(known) if target.kind == "binary" else known[0]
        return labels

    @property
    def counts(self) -> Counts:
        """The numbers of images, breasts and patients."""
        return Counts(len(self.rows), len(self.breasts), len(self.patients))

    @property
    def positive_counts(self) -> Counts:
        """The numbers of images, breasts and patients that have the first target (usually cancer)."""
        positive = [breast for breast in self.breasts if breast.label == 1]
        images = sum(row.targets[0] == 1 for row in self.rows)
        return Counts(images, len(positive), len({breast.patient_id for breast in positive}))

    def of_patients(self, patients: Collection[str]) -> Table:
        """The table with only the rows of these patients, such as the patients of one fold."""
        wanted = frozenset(patients)
        return replace(self, rows=tuple(row for row in self.rows if row.patient_id in wanted))


def read_table(
    path: str | Path,
    targets: Sequence[str | Target] = ("cancer",),
    columns: Mapping[str, str] | None = None,
    labels: Literal["required", "optional", "none"] = "required",
) -> Table:
    """Read and check a table: UTF-8 text with a header, separated by comma, semicolon, tab or bar.

    targets  columns to learn; the first is scored and must hold 0/1. Kind, categories and mean of one that is given by
             name come from `targets.KINDS` and this table; those of a `Target` are kept, and other texts are missing
    columns  {our name: the file's name}, where they differ; or {"layout": name} for a published layout
    labels   "required": every target has a column and every row a first target (others may be missing);
             "optional": missing values and whole missing columns are NaN; "none": targets are not read, all are NaN,
             and `columns` may name labels that the file does not have, as in test.csv

    An unreadable value in an optional column, or of a target that is not binary, counts as missing, with a warning.
    Raises TableError for a file that is incomplete or ambiguous, and ValueError for invalid arguments.
    """
    if labels not in ("required", "optional", "none"):
        raise ValueError(f"labels must be 'required', 'optional' or 'none', not {labels!r}")
    kinds = target_kinds(targets)
    path, columns = Path(path), dict(columns or {})
    check_mapping(columns, kinds)
    records = table_records(path, columns)
    layout = columns.pop("layout", None)
    header = read_header(path, records)
    cells = find_cells(path, header, kinds, columns, labels)
    lines, fields = [], []
    for line, record in records:
        lines.append(line)
        fields.append([text.strip() for text in align(path, line, record, len(header.names))])
    if not fields:
        raise TableError(f"{path}: the table has a header but no rows.")
    cells = [cell if cell.parse else read_by_column(path, cell, fields) for cell in cells]
    unread: dict[str, dict[int, str]] = {}
    parsed = [parse_record(path, line, record, cells, unread) for line, record in zip(lines, fields, strict=True)]
    columns_of_targets = [*zip(*parsed, strict=True)][len(FIELDS) :]
    known = [
        Target.of_column(target, kinds[target], column) if isinstance(target, str) else target
        for target, column in zip(targets, columns_of_targets, strict=True)
    ]
    for target in known:
        if labels != "none" and not target.outputs:
            raise TableError(f"{path}: the target {target.name!r} has no known value; omit it from --targets.")
    label_columns = [target.labels(column) for target, column in zip(known, columns_of_targets, strict=True)]
    rows = [make_row(values, targets) for values, *targets in zip(parsed, *label_columns, strict=True)]
    check_images(path, rows, lines)
    check_prediction_ids(path, rows, lines)
    table = Table(tuple(rows), tuple(known), path, layout=layout)
    absent = [c.name for c in cells[len(FIELDS) :] if c.place == len(header.names) and labels != "none"]
    warnings = [f"{path}: no column for the target {name!r}; all of its labels are missing." for name in absent]
    for texts in unread.values():
        warnings.append(f"{next(iter(texts.values()))}; {len(texts)} of {len(rows)} values count as missing.")
    return replace(table, warnings=(*warnings, *alike_patients(table), *disagreements(table, lines)))


def target_kinds(targets: Sequence[str | Target]) -> dict[str, Kind]:
    """The kind of each target by name. Raises ValueError if they cannot be the targets of a table."""
    if isinstance(targets, str):
        raise ValueError(f"targets must be one or more different column names, not {targets!r}")
    named = [Target(target, KINDS.get(target, "binary")) if isinstance(target, str) else target for target in targets]
    kinds = {target.name: target.kind for target in named}
    if not targets or len(kinds) < len(targets):
        names = [target.name for target in named]
        raise ValueError(f"targets must be one or more different column names, not {names!r}")
    if taken := set(IDENTIFIERS) & set(kinds):
        raise ValueError(f"{', '.join(sorted(taken))}: reserved for other fields, so not usable as targets")
    scored, kind = next(iter(kinds.items()))
    if kind != "binary":
        raise ValueError(f"{scored}: cannot be scored, since it is not a 0/1 column; the first target must be one")
    return kinds


def parse_record(
    path: Path, line: int, record: list[str], cells: list[Cell], unread: dict[str, dict[int, str]]
) -> list[Any]:
    """The values of the cells of one record. `unread` collects texts that count as missing: name -> line -> message."""
    values = []
    for cell in cells:
        text = record[cell.place]
        try:
            values.append(cell.parse(text))
        except ValueError as error:
            wrong = f"{path}, line {line}, column {cell.column!r}: {text!r} {error}"
            if not cell.is_optional:
                raise TableError(f"{wrong}.") from None
            unread.setdefault(cell.name, {})[line] = wrong
            values.append(None)
    return values


def make_row(values: list[Any], targets: Sequence[float]) -> Row:
    """A row of the values of its FIELDS, in their order, and its labels."""
    patient_id, image_id, side, view, site_id, machine_id, age, implant, density, breast, *_ = values
    breast = breast or f"{patient_id}_{side}"
    return Row(patient_id, image_id, side, view, site_id, machine_id, age, tuple(targets), breast, implant, density)


def check_images(path: Path, rows: list[Row], lines: list[int]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for row, line in zip(rows, lines, strict=True):
        earlier = seen.setdefault((row.patient_id, row.image_id), line)
        if earlier != line:
            raise TableError(
                f"{path}, line {line}: image {row.image_id!r} of patient {row.patient_id!r} is already in line "
                f"{earlier}; keep one of them."
            )


def check_prediction_ids(path: Path, rows: list[Row], lines: list[int]) -> None:
    """Require one prediction_id per breast and one breast per prediction_id, since the score is per breast."""
    known: dict[str | tuple[str, str], tuple[Any, int]] = {}
    for row, line in zip(rows, lines, strict=True):
        breast = (row.patient_id, row.laterality)
        for key, value in ((breast, row.prediction_id), (row.prediction_id, breast)):
            other, earlier = known.setdefault(key, (value, line))
            if other != value:
                raise TableError(
                    f"{path}, line {line}: prediction_id {row.prediction_id!r} for patient {row.patient_id!r}, side "
                    f"{row.laterality}, conflicts with line {earlier}; each breast needs a single prediction_id of its "
                    "own."
                )


def alike_patients(table: Table) -> list[str]:
    """Warnings about identifiers that differ only in case or only in leading zeros: probably the same patients."""
    warnings, same = [], {"upper and lower case": str.casefold, "leading zeros": lambda name: name.lstrip("0")}
    for difference, common in same.items():
        spellings: dict[str, list[str]] = {}
        for patient in table.patients:
            spellings.setdefault(common(patient), []).append(patient)
        if alike := [names for names in spellings.values() if len(names) > 1]:
            warnings.append(
                f"{table.path}: {len(alike)} patients have several spellings that differ only in {difference} "
                f"(first: {', '.join(alike[0])}); each spelling counts as a different patient."
            )
    return warnings


def disagreements(table: Table, lines: list[int]) -> list[str]:
    """One warning for all breasts whose images disagree on the scored target."""
    target = [row.targets[0] for row in table.rows]
    mixed = [breast for breast in table.breasts if {0.0, 1.0} <= {target[place] for place in breast.rows}]
    if not mixed:
        return []
    if table.layout:  # whose lines may be in several files
        places = "images " + ", ".join(table.rows[place].image_id for place in mixed[0].rows)
    else:
        places = "lines " + ", ".join(str(lines[place]) for place in mixed[0].rows)
    return [
        f"{table.path}: the images of {len(mixed)} breasts have different labels for {table.target_names[0]!r} "
        f"(first: {mixed[0].prediction_id}, {places}); such breasts count as positive."
    ]
