"""Rows of one source, from the cells or JSON entries of its format, and what was looked for on its images."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.coverage import coverage_frame
from cxr_mmdet.annotations.sources.base import Source, annotation_files, csv_header, open_text, read_head
from cxr_mmdet.annotations.table import (
    READER_COLUMN,
    REGION_COLUMN,
    REQUIRED_COLUMNS,
    SIZE_COLUMNS,
    SUFFIXES,
    Checker,
    check_rows,
    read_csv,
)
from cxr_mmdet.errors import TableError, counted
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import UNZIP_ERRORS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from cxr_mmdet.annotations.sources.base import ReadOptions
    from cxr_mmdet.structures.coverage import Coverage

NO_BOX = (np.nan,) * 4


def find_csv(place: Path, header: Collection[str]) -> Path | None:
    """Return the CSV file with these columns, in any order and case; of several, one for training."""
    wanted = {name.lower() for name in header}
    return _training(
        path for path in annotation_files(place, SUFFIXES) if wanted <= {name.lower() for name in csv_header(path)}
    )


def find_json(place: Path, pattern: str) -> Path | None:
    """Return the JSON file whose beginning holds a regular expression; of several, one for training."""
    return _training(path for path in annotation_files(place, [".json"]) if re.search(pattern, read_head(path)))


def _training(paths: Iterable[Path]) -> Path | None:
    return min(paths, key=lambda path: "train" not in path.name.lower(), default=None)


def read_cells(path: Path, header: Sequence[str] = ()) -> tuple[pd.DataFrame, Checker]:
    """Return the cells of a CSV file as text without blanks around them, without empty rows, and their checker.

    Args:
        path: the file.
        header: columns that it must have, in any case; they are spelled like this in the result.

    Raises:
        TableError: it is no CSV file, or lacks a column.
    """
    cells = read_csv(path, text=None).fillna("")
    spelled = {name.lower(): name for name in header}
    cells = cells.rename(columns=lambda name: spelled.get(name.lower(), name))
    missing = [name for name in header if name not in cells]
    if missing:
        raise TableError(f"{path}, line 1: no column {', '.join(missing)}, found {', '.join(cells.columns)}.")
    cells = cells.apply(lambda column: column.str.strip())
    cells["line"] = np.arange(2, len(cells) + 2)
    cells = cells[(cells.drop(columns="line") != "").any(axis=1)].reset_index(drop=True)
    return cells, Checker(path, cells["line"].to_numpy())


def read_json(path: Path, kind: type, expected: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        TableError: it is damaged, or its outermost value is of another kind.
    """
    try:
        with open_text(path) as file:
            content = json.load(file)
    except (*UNZIP_ERRORS, json.JSONDecodeError) as error:
        raise TableError(f"{path}: is not JSON ({error}); expected {expected}.") from None
    if not isinstance(content, kind) or not content:
        raise TableError(f"{path}: holds no {expected}.")
    return content


def numbers(
    cells: pd.DataFrame, columns: Sequence[str], check: Checker, where: pd.Series | bool = True
) -> pd.DataFrame:
    """Return columns as numbers, NaN in rows outside ``where``.

    Raises:
        TableError: a cell within ``where`` is not a finite number.
    """
    values = cells[list(columns)].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    for column in columns:
        check.refuse(
            where & ~np.isfinite(values[column]),
            lambda i, column=column: f"{column} is {cells[column][i]!r}, expected a number.",  # type: ignore[misc]
        )
    return values if where is True else values.where(pd.Series(where), axis=0)


def source_of(
    path: Path,
    records: pd.DataFrame | Iterable[dict[str, Any]],
    options: ReadOptions,
    *,
    classes: Sequence[str] = (),
    unit: str = "line",
    notes: Iterable[str] = (),
) -> Source:
    """Return the source of raw rows; exact repetitions are left out with a note, for the set was shipped with them.

    Args:
        path: the annotation file.
        records: image_id, class_name, x_min, y_min, x_max, y_max, line; optionally rad_id, iscrowd, table_height,
            table_width, group (the patient or study); further columns may name the group.
        options: as the format's reader got them.
        classes: the classes of the set in its own order; others follow by name and are noted.
        unit: what ``line`` counts.
        notes: what a user should know.
    """
    raw = pd.DataFrame(records)
    if raw.empty:
        raise TableError(f"{path}: holds no image; expected radiographs and their boxes.")
    said = list(notes)
    repeated = raw.duplicated([name for name in (*REQUIRED_COLUMNS, READER_COLUMN, REGION_COLUMN) if name in raw])
    if repeated.any():
        first = raw["line"][repeated.to_numpy().argmax()]
        said.append(f"{counted(int(repeated.sum()), 'repeated row')} left out, the first is {unit} {first}.")
    raw = raw[~repeated].reset_index(drop=True)
    named = sorted(set(raw["class_name"]) - {*classes, NO_FINDING})
    if classes and named:
        said.append(f"not among the classes of this set: {', '.join(named)}; they are kept as they are.")
    order = {name: number for number, name in enumerate([*classes, *named, NO_FINDING])}
    raw["class_id"] = raw["class_name"].map(order)
    check = Checker(path, raw["line"].to_numpy(), unit, said)
    group = options.group_column if options.group_column in raw else "group"
    rows = check_rows(raw, check, group_column=group if group in raw else None)
    sizes = {name: raw[name].to_numpy(np.float64) for name in SIZE_COLUMNS if name in raw}
    return Source(path, rows.assign(**sizes), unit=unit, notes=tuple(said), unread_is_known=True)


def found_only(source: Source, coverage: Coverage) -> Source:
    """Return a source of whose images nothing is known but the classes that have boxes.

    Args:
        source: validated rows.
        coverage: knowledge of those classes.
    """
    boxes = source.rows[source.rows["class_name"] != NO_FINDING]
    present = pd.crosstab(boxes["image_id"], boxes["class_name"]) > 0
    images = pd.Index(source.rows["image_id"].unique(), name="image_id")
    present = present.reindex(images, fill_value=False)
    return replace(source, coverage=present.astype(np.int8) * np.int8(coverage), normal=frozenset())


def looked_for(source: Source, classes: Sequence[str], normal: Collection[str] = ()) -> Source:
    """Return a source whose images were all read for a few classes alone.

    Args:
        source: validated rows.
        classes: what was looked for.
        normal: images that are known to hold nothing else either.
    """
    coverage = coverage_frame(source.rows["image_id"].unique().tolist(), classes)
    return replace(source, coverage=coverage, normal=frozenset(normal))


def box_columns(boxes_xyxy: Any) -> dict[str, Any]:
    """Return (N, 4) boxes as the four columns of a frame of rows."""
    return dict(zip(XYXY_COLUMNS, np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4).T, strict=True))


def json_row(
    image_id: str,
    line: int,
    class_name: str = NO_FINDING,
    box: Sequence[float] = NO_BOX,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return one row of a JSON file, with further columns."""
    sides = dict(zip(XYXY_COLUMNS, box, strict=True))
    return {"image_id": image_id, "class_name": class_name, **sides, "line": line, **more}


def is_box(box: Any) -> bool:
    """Return whether a value of a JSON file is four finite numbers."""
    return (
        isinstance(box, list)
        and len(box) == len(XYXY_COLUMNS)
        and all(isinstance(side, (int, float)) and np.isfinite(side) for side in box)
    )
