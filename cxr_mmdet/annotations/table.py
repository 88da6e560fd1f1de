"""The readers' table: rows checked one by one, and classes renamed or merged."""

from __future__ import annotations

import gzip
import warnings
import zlib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr_mmdet.errors import TableError, UsageError, counted
from cxr_mmdet.files import atomic_path, plain_cell, spreadsheet_cell
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.coco import NEARLY_ALL
from cxr_mmdet.structures.labels import NO_FINDING, is_no_finding, spelling_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray


TEXT_COLUMNS = ["image_id", "class_name"]

REQUIRED_COLUMNS = [*TEXT_COLUMNS, *XYXY_COLUMNS]

SUFFIXES = (".csv", ".csv.gz", ".csv.zip", ".csv.bz2", ".csv.xz")

READER_COLUMN = "rad_id"
READER_SPELLINGS = (READER_COLUMN, "rad_ID")
"""Also as VinDr-PCXR spells it."""

ONE_READER = "R1"
"""Name of the reader of a table that names none."""

ROW_COLUMNS = ["image_id", "class_name", "class_id", "reader", *XYXY_COLUMNS, "line"]
"""The columns of validated rows; docs/annotations.md describes them."""

REGION_COLUMN = "iscrowd"
"""True in rows whose box is a region to ignore, neither a finding nor its absence; only where there are any."""

PATIENT_COLUMNS = ("patient", "patient_id", "Patient ID", "PatientID", "patientId")
"""Columns of a table, or keys of a COCO image, that name the patient; the first that is there."""

SIZE_COLUMNS = ["table_height", "table_width"]
"""Optional columns: size of the image that the boxes were drawn on."""

MISSING_NUMBERS = ["", "NA", "N/A", "NaN", "nan", "null", "None"]

NO_BOX = (0.0, 0.0, 1.0, 1.0)
"""Placeholder that the competition writes instead of an empty box."""


def read_table(path: str | Path, *, group_column: str | None = None, notes: list[str] | None = None) -> pd.DataFrame:
    """Return the validated rows of a readers' table in VinBigData's format.

    Expected columns: image_id, class_name, class_id, rad_id, x_min, y_min, x_max, y_max, in any order, further ones
    are ignored; comma-separated UTF-8 with or without byte order mark, LF or CRLF, plain or compressed as its suffix
    says. Without ``class_id`` the classes are numbered in alphabetical order; without ``rad_id`` one reader, R1, read
    everything. Rows of "No finding", also spelled "Normal", "no_finding" and the like, have an empty box, or
    0, 0, 1, 1 or 0, 0, 0, 0 or -1, -1, -1, -1, as many tables write it.
    A box whose ``iscrowd`` is 1 is a region to ignore. Names of classes that differ in case or blanks alone are one
    class, under the most frequent of them.

    Args:
        path: the file.
        group_column: a further column that names each image's group, filled in every row; returned as ``group``. By
            default the patient's, where there is one of ``PATIENT_COLUMNS``; then empty cells are unknown patients.
        notes: what a user should know of the table is appended.

    Returns:
        One row for each row of the file, in its order, with a fresh index: image_id, class_name, reader (str),
        class_id (int), x_min, y_min, x_max, y_max (float, absolute pixels, NaN for "No finding"), line (int, the
        1-based line in the file); iscrowd (bool) where there are regions to ignore.

    Raises:
        TableError: the file cannot be read as such a table or contradicts itself.
    """
    path = Path(path)
    raw = read_csv(path, text=[group_column] if group_column else PATIENT_COLUMNS)
    missing = [column for column in REQUIRED_COLUMNS if column not in raw]
    if missing:
        raise TableError(_missing_columns(path, missing, list(raw.columns)))
    if group_column and group_column not in raw:
        raise TableError(
            f"{path}, line 1: no column {group_column}, found {', '.join(raw.columns)}; name one by --group-by."
        )
    # Blank lines are read as empty rows so that every row knows its line.
    lines = np.arange(2, len(raw) + 2)
    filled = ~raw.isna().all(axis=1).to_numpy()
    raw = raw[filled].reset_index(drop=True)
    if raw.empty:
        raise TableError(f"{path}: holds a header but no row; expected one row per box, or 'No finding'.")
    column = group_column or next((name for name in PATIENT_COLUMNS if name in raw), None)
    return check_rows(
        raw, Checker(path, lines[filled], notes=notes), group_column=column, group_required=group_column is not None
    )


def check_rows(
    raw: pd.DataFrame, check: Checker, *, group_column: str | None = None, group_required: bool = True
) -> pd.DataFrame:
    """Return the rows that :func:`read_table` describes, from a frame with the columns of such a file.

    Args:
        raw: cells as they were read.
        check: refuses rows by their place.
        group_column: the column of ``raw`` that becomes ``group``.
        group_required: refuse empty cells of it; else they are NaN.

    Raises:
        TableError: a row is wrong, or contradicts another.
    """
    rows = _text(raw, check)
    spelled = rows["class_name"]
    rows["class_name"] = _one_spelling(spelled, check.notes)
    boxes = pd.DataFrame({column: _numbers(raw[column], check) for column in XYXY_COLUMNS})
    rows["class_id"] = _class_ids(raw, rows["class_name"], spelled, check)
    boxes = _empty_no_finding(rows, spelled, boxes, check)
    _check_boxes(rows, boxes, check)
    rows = pd.concat([rows, boxes], axis=1)
    rows["line"] = check.places
    regions = _regions(raw, check)
    if regions.any():
        check.refuse(regions & boxes.isna().any(axis=1).to_numpy(), f"{REGION_COLUMN} is 1, but there is no box.")
        rows[REGION_COLUMN] = regions.to_numpy()
    _check_contradictions(rows, check)
    rows = rows[[*ROW_COLUMNS, *([REGION_COLUMN] if REGION_COLUMN in rows else [])]]
    if group_column is None:
        return rows
    return rows.assign(group=_groups(raw[group_column], rows["image_id"], check, required=group_required))


def class_names(rows: pd.DataFrame) -> tuple[str, ...]:
    """Return the classes of a validated table without "No finding", by class id."""
    classes = rows.loc[rows["class_name"] != NO_FINDING, ["class_id", "class_name"]].drop_duplicates()
    return tuple(classes.sort_values("class_id")["class_name"])


def is_region(rows: pd.DataFrame) -> pd.Series:
    """Return which rows are regions to ignore."""
    return rows[REGION_COLUMN].astype(bool) if REGION_COLUMN in rows else pd.Series(False, index=rows.index)


def without_regions(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without regions to ignore; who marked nothing else on an image drew no box there."""
    region = is_region(rows)
    if not region.any():
        return rows
    readings = rows.groupby(["image_id", "reader"], sort=False).ngroup()
    only_regions = region & ~readings.isin(readings[~region]) & ~readings.duplicated()
    kept = rows[~region | only_regions].drop(columns=REGION_COLUMN)
    empty = only_regions[kept.index].to_numpy()
    kept.loc[empty, "class_name"] = NO_FINDING
    kept.loc[empty, XYXY_COLUMNS] = np.nan
    if "class_id" in rows:
        ids = rows.loc[rows["class_name"] == NO_FINDING, "class_id"]
        kept.loc[empty, "class_id"] = int(ids.iloc[0]) if len(ids) else int(rows["class_id"].max()) + 1
    return kept.reset_index(drop=True)


class Checker:
    """Turns a mask of bad rows into the error that names the first one's place and counts the others.

    Args:
        path: the file.
        places: (N,) where each row stands in it.
        unit: what places count: lines, or the annotations of a COCO file.
        notes: where to append what a user should know although nothing is refused.
    """

    def __init__(
        self, path: Path, places: NDArray[np.int64], unit: str = "line", notes: list[str] | None = None
    ) -> None:
        self.path = path
        self.places = places
        self.unit = unit
        self.notes = [] if notes is None else notes

    def refuse(self, bad: pd.Series | NDArray[np.bool_], message: str | Callable[[int], str]) -> None:
        """Raise when any row is bad; ``message`` says what is wrong, a function says it of the row at a position."""
        positions = np.flatnonzero(np.asarray(bad, dtype=bool))
        if not len(positions):
            return
        first = int(positions[0])
        others = f" (and {len(positions) - 1} more)" if len(positions) > 1 else ""
        said = message if isinstance(message, str) else message(first)
        raise TableError(f"{self.path}, {self.unit} {self.places[first]}{others}: {said}")


def read_csv(path: Path, *, text: Sequence[str] | None = ()) -> pd.DataFrame:
    """Return the cells of a comma-separated file; blank lines are empty rows, and names are never taken for numbers.

    Args:
        path: the file.
        text: further columns to leave as they are written; None: all.

    Raises:
        TableError: there is no such file, or it is not such a table.
    """
    # "NA" or "None" may be somebody's name, so only the numbers have words for missing.
    names = (*TEXT_COLUMNS, *READER_SPELLINGS, *(text or ()))
    missing = dict.fromkeys(["class_id", *XYXY_COLUMNS, REGION_COLUMN], MISSING_NUMBERS) | {
        column: [""] for column in names
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                dtype=str if text is None else dict.fromkeys(names, str),
                encoding="utf-8-sig",
                index_col=False,
                keep_default_na=False,
                low_memory=False,
                na_values=missing,
                skip_blank_lines=False,
            )
    except FileNotFoundError:
        raise TableError(f"{path}: no such file; expected the readers' table.") from None
    except (IsADirectoryError, PermissionError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise TableError(f"{path}: cannot be read ({error}); expected the readers' table, a CSV file.") from None
    except pd.errors.EmptyDataError:
        raise TableError(f"{path}: is empty; expected a header with {', '.join(REQUIRED_COLUMNS)}.") from None
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: is not UTF-8 text ({error.reason}); save it as CSV in UTF-8.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip().rstrip(".")
        raise TableError(f"{path}: rows and header do not match ({reason}); quote names that hold commas.") from None
    for column in frame.columns[[pd.api.types.is_string_dtype(kind) for kind in frame.dtypes]]:
        quoted = frame[column].str.startswith("'", na=False)
        if quoted.any():
            frame.loc[quoted, column] = frame.loc[quoted, column].map(plain_cell)
    frame = frame.rename(columns=lambda name: str(name).strip())
    return frame.rename(columns=dict.fromkeys(READER_SPELLINGS, READER_COLUMN))


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table for people as CSV, atomically; :func:`read_csv` gives its texts back."""
    text = [column for column in frame.columns if not pd.api.types.is_numeric_dtype(frame[column])]
    cells = frame.assign(**{column: frame[column].map(spreadsheet_cell) for column in text})
    with atomic_path(path) as temporary:
        cells.to_csv(temporary, index=False, lineterminator="\n")


def _missing_columns(path: Path, missing: list[str], found: list[str]) -> str:
    if len(found) == 1:
        separator = next((s for s in (";", "\t", "|") if s in found[0]), None)
        if separator:
            return f"{path}: columns are separated by {separator!r}, expected commas; save the table with commas."
    return f"{path}, line 1: no column {', '.join(missing)}, found {', '.join(found)}; expected VinBigData's columns."


def _text(raw: pd.DataFrame, check: Checker) -> pd.DataFrame:
    columns = [*TEXT_COLUMNS, READER_COLUMN]
    if READER_COLUMN not in raw:
        raw = raw.assign(**{READER_COLUMN: ONE_READER})
    text = {column: raw[column].fillna("").str.strip() for column in columns}
    for column, values in text.items():
        check.refuse(values == "", f"{column} is empty; expected a name in every row.")
    # The id becomes the name of a file.
    image_ids = text["image_id"]
    check.refuse(
        image_ids.str.contains(r"[/\\\x00]", regex=True) | image_ids.isin([".", ".."]),
        lambda i: f"image_id {image_ids[i]!r} cannot name a file; expected no slash and no path.",
    )
    return pd.DataFrame({"image_id": image_ids, "class_name": text["class_name"], "reader": text[READER_COLUMN]})


def _numbers(column: pd.Series, check: Checker) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        numbers = column.astype(np.float64)
    else:
        text = column.astype("string")
        parsed = pd.to_numeric(text, errors="coerce").astype("Float64")
        numbers = pd.Series(parsed.to_numpy(np.float64, na_value=np.nan), name=column.name)
        check.refuse(
            text.notna() & numbers.isna(), lambda i: f"{column.name} is {text[i]!r}, expected a number or nothing."
        )
    check.refuse(np.isinf(numbers), lambda i: f"{column.name} is {numbers[i]}, expected a finite number or nothing.")
    return numbers


def _one_spelling(names: pd.Series, notes: list[str]) -> pd.Series:
    """Return the names with those that mean the same spelled alike, and note which did not."""
    counts = sorted(names.value_counts().items(), key=lambda pair: (-pair[1], str(pair[0])))
    chosen: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for name, count in counts:
        spelling = NO_FINDING if is_no_finding(str(name)) else chosen.setdefault(spelling_key(str(name)), str(name))
        if spelling != name:
            renamed[str(name)] = spelling
            notes.append(
                f"{counted(count, 'row')} of class {name!r} {'is' if count == 1 else 'are'} taken as {spelling!r}."
            )
    return names.replace(renamed) if renamed else names


def _class_ids(raw: pd.DataFrame, names: pd.Series, spelled: pd.Series, check: Checker) -> pd.Series:
    if "class_id" not in raw:
        order = [*sorted(set(names) - {NO_FINDING}), NO_FINDING]
        return names.map({name: number for number, name in enumerate(order)}).astype(np.int64)
    numbers = _numbers(raw["class_id"], check)
    check.refuse(
        numbers.isna() | (numbers < 0) | (numbers % 1 != 0),
        lambda i: f"class_id is {raw['class_id'][i]}, expected a whole number from 0.",
    )
    ids = numbers.astype(np.int64)
    # Another spelling of a class may have come with another id.
    first = ids.groupby([names, spelled != names]).first().groupby(level=0).first()
    ids = ids.mask(spelled != names, names.map(first))
    _check_class_ids(names, ids, check)
    return ids


def _check_class_ids(names: pd.Series, ids: pd.Series, check: Checker) -> None:
    """Refuse a class with two ids or an id with two classes; the rarer pair is the slip whose line is named."""
    counts = pd.DataFrame({"name": names, "id": ids}).value_counts(sort=False).reset_index()
    name_of: dict[int, str] = {}
    id_of: dict[str, int] = {}
    counts = counts.sort_values("count", ascending=False, kind="stable")
    for name, number in zip(counts["name"], counts["id"], strict=True):
        if name not in id_of and number not in name_of:
            id_of[name], name_of[number] = number, name
    check.refuse(
        names.map(id_of) != ids,
        lambda i: (
            f"class_id {ids[i]} contradicts class_name {names[i]!r}; elsewhere "
            + (f"{names[i]!r} has id {id_of[names[i]]}" if names[i] in id_of else f"{ids[i]} is {name_of[ids[i]]!r}")
            + "."
        ),
    )


def _regions(raw: pd.DataFrame, check: Checker) -> pd.Series:
    if REGION_COLUMN not in raw:
        return pd.Series(False, index=raw.index)
    flags = _numbers(raw[REGION_COLUMN], check).fillna(0)
    check.refuse(~flags.isin([0, 1]), lambda i: f"{REGION_COLUMN} is {raw[REGION_COLUMN][i]}, expected 0 or 1.")
    return flags == 1


def _empty_no_finding(rows: pd.DataFrame, spelled: pd.Series, boxes: pd.DataFrame, check: Checker) -> pd.DataFrame:
    normal = rows["class_name"] == NO_FINDING
    values = boxes.to_numpy(np.float64)
    placeholder = np.any([(values == box).all(axis=1) for box in (NO_BOX, (0,) * 4, (-1,) * 4)], axis=0)
    check.refuse(
        normal & boxes.notna().any(axis=1) & ~placeholder,
        lambda i: f"'{spelled[i]}' has the box {_show(boxes, i)}, expected no box; name the finding or empty the box.",
    )
    return boxes.mask(normal)


def _check_boxes(rows: pd.DataFrame, boxes: pd.DataFrame, check: Checker) -> None:
    finding = rows["class_name"] != NO_FINDING
    check.refuse(
        finding & boxes.isna().any(axis=1),
        lambda i: (
            f"{rows['class_name'][i]!r} lacks {', '.join(c for c in XYXY_COLUMNS if np.isnan(boxes[c][i]))}; "
            "expected four coordinates."
        ),
    )
    drawn = boxes.to_numpy()
    within_one = finding.to_numpy() & ((drawn >= 0) & (drawn <= 1)).all(axis=1)
    if (drawn[within_one] % 1 != 0).any() and within_one.sum() >= NEARLY_ALL * finding.sum():
        check.refuse(
            within_one,
            lambda i: (
                f"the box {_show(boxes, i)} looks normalised to 0…1, expected pixels of the radiograph; multiply x by "
                "its width and y by its height."
            ),
        )
    _check_extent(boxes["x_min"], boxes["x_max"], check)
    _check_extent(boxes["y_min"], boxes["y_max"], check)


def _check_extent(low: pd.Series, high: pd.Series, check: Checker) -> None:
    check.refuse(
        high <= low,
        lambda i: f"{high.name} {high[i]:g} is not beyond {low.name} {low[i]:g}; correct or remove the row.",
    )


def _check_contradictions(rows: pd.DataFrame, check: Checker) -> None:
    check.refuse(
        rows.duplicated([*rows.columns.drop("line")]),
        "repeats an earlier row (same image, class, reader and box); remove one of them.",
    )
    readings = rows.groupby(["image_id", "reader"], sort=False).ngroup()
    normal = rows["class_name"] == NO_FINDING
    check.refuse(
        normal & readings.isin(readings[~normal & ~is_region(rows)]),
        lambda i: (
            f"reader {rows['reader'][i]} says '{NO_FINDING}' and draws a box on image {rows['image_id'][i]}; "
            "remove one of them."
        ),
    )


def _groups(column: pd.Series, image_ids: pd.Series, check: Checker, *, required: bool) -> pd.Series:
    """Return each row's group; all rows of an image must name the same one, or may name none unless it is required."""
    groups = column.astype("string").str.strip().fillna("")
    if required:
        check.refuse(groups == "", f"{column.name} is empty; expected each image's group in every row.")
    else:
        known = groups.where(groups != "").groupby(image_ids, sort=False).transform("first")
        groups = groups.where(groups != "", known.fillna(""))
    first = groups.groupby(image_ids, sort=False).transform("first")
    check.refuse(
        groups != first,
        lambda i: f"{column.name} is {groups[i]!r}, but an earlier row puts image {image_ids[i]} in {first[i]!r}.",
    )
    return groups.astype(object).where(groups != "", np.nan)


def _show(boxes: pd.DataFrame, position: int) -> str:
    return ", ".join("" if np.isnan(value) else f"{value:g}" for value in boxes.iloc[position])


def merge_classes(rows: pd.DataFrame, label_map: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the rows under the names of the labels; classes that no label stands for keep theirs.

    Args:
        rows: validated readers' rows.
        label_map: each label with the classes it stands for, as
            :func:`cxr_mmdet.structures.labels.resolve_label_map` gives it.

    Raises:
        UsageError: a label has the name of a class in the table that it does not stand for.
    """
    label_of = {name: label for label, classes in label_map.items() for name in classes}
    for name in class_names(rows):
        if name in label_map and label_of.get(name) != name:
            raise UsageError(
                f"label {name}: the table has a class of this name that the label does not hold; add it to the "
                "brackets, or give the label another name."
            )
    renamed = {name: label for name, label in label_of.items() if name != label}
    return rows.assign(class_name=rows["class_name"].replace(renamed)) if renamed else rows


def unknown_classes(rows: pd.DataFrame, label_map: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Return the classes of the label set that the table lacks, each with the class it may have meant, if any.

    Args:
        rows: validated readers' rows, before their classes are merged.
        label_map: each label with the classes it stands for.
    """
    known = class_names(rows)
    named = [name for classes in label_map.values() for name in classes]
    others = [name for name in known if name not in named]
    close = {name: get_close_matches(name, others, n=1) for name in named if name not in known}
    return {name: matches[0] if matches else None for name, matches in close.items()}
