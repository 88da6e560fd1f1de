"""Readers' tables of every supported format as one table of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.coco import read_coco_table
from cxr_mmdet.annotations.table import ONE_READER, READER_COLUMN, Checker, read_csv, read_table
from cxr_mmdet.errors import TableError, counted
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.labels import LABELS_22, NO_FINDING, is_no_finding

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["image_id", "reader"]

SPELLINGS = {"Other disease": "Other diseases", "Nodule/Mass ": "Nodule/Mass"}
"""The release's test file spells a column otherwise than its training file."""


def read_image_labels(path: Path) -> pd.DataFrame:
    """Return one row for each reading of a radiograph: image_id, reader, line, then one bool column a label.

    Expected columns: image_id, rad_id (without it one reader, R1, read everything), and any number of labels with 0, 1
    or nothing (0) in each cell: findings with boxes, diagnoses of the whole picture, and "No finding".

    Raises:
        TableError: the file is no such table, a cell is neither 0 nor 1, a reading occurs twice, or one reader says
            "No finding" and something else of a picture.
    """
    raw = read_csv(path, text=None).rename(columns=SPELLINGS)
    raw = raw.rename(columns=lambda name: NO_FINDING if is_no_finding(name) else name)
    if "image_id" not in raw or len(raw.columns) < 2:
        raise TableError(f"{path}, line 1: expected image_id, rad_id and labels, found {', '.join(raw.columns)}.")
    lines = np.arange(2, len(raw) + 2)
    filled = ~(raw.isna() | (raw == "")).all(axis=1).to_numpy()
    raw = raw[filled].reset_index(drop=True)
    check = Checker(path, lines[filled])
    if READER_COLUMN not in raw:
        raw.insert(1, READER_COLUMN, ONE_READER)
    rows = raw[["image_id", READER_COLUMN]].astype("string").fillna("").set_axis(KEYS, axis=1)
    for column in KEYS:
        check.refuse(rows[column] == "", f"{column} is empty; expected a name in every row.")
    labels = {name: _flags(raw[name], check) for name in raw.columns if name not in ("image_id", READER_COLUMN)}
    check.refuse(rows.duplicated(), "repeats an earlier reading (same image and reader); remove one of them.")
    table = pd.concat([rows.astype(object), pd.Series(check.places, name="line"), pd.DataFrame(labels)], axis=1)
    if NO_FINDING in labels:
        others = [name for name in labels if name != NO_FINDING]
        check.refuse(
            table[NO_FINDING] & table[others].any(axis=1),
            lambda i: (
                f"reader {table['reader'][i]} says '{NO_FINDING}' and {', '.join(n for n in others if table[n][i])} of "
                f"image {table['image_id'][i]}; correct one of them."
            ),
        )
    return table


def label_names(image_labels: pd.DataFrame) -> list[str]:
    """Return the labels of such a frame, without "No finding", in the file's order."""
    return [name for name in image_labels.columns if name not in (*KEYS, "line", NO_FINDING)]


def add_readings_without_boxes(rows: pd.DataFrame, image_labels: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the readers' rows with a "No finding" row for each reading that drew no box, and how many were added.

    "No finding" here means that no box was drawn; the reader may have named a diagnosis of the whole picture.
    """
    known = pd.MultiIndex.from_frame(rows[KEYS])
    missing = image_labels[~pd.MultiIndex.from_frame(image_labels[KEYS]).isin(known)]
    ids = rows.loc[rows["class_name"] == NO_FINDING, "class_id"]
    number = int(ids.iloc[0]) if len(ids) else int(rows["class_id"].max()) + 1
    added = missing[[*KEYS, "line"]].assign(
        class_name=NO_FINDING, class_id=number, **dict.fromkeys(XYXY_COLUMNS, np.nan)
    )
    return pd.concat([rows, added[[c for c in rows.columns if c in added]]], ignore_index=True), len(added)


def disagreements_with_boxes(rows: pd.DataFrame, image_labels: pd.DataFrame) -> list[str]:
    """Return a sentence for each way in which a reader's boxes and image-level labels differ; empty when none does."""
    names = [name for name in label_names(image_labels) if name in LABELS_22 or name in set(rows["class_name"])]
    said = image_labels.melt(id_vars=KEYS, value_vars=names, var_name="class_name", value_name="said")
    said = said[said["said"].astype(bool)].drop(columns="said")
    drawn = rows.loc[rows["class_name"] != NO_FINDING, [*KEYS, "class_name"]].drop_duplicates()
    both = drawn.merge(said, how="outer", on=[*KEYS, "class_name"], indicator=True).sort_values([*KEYS, "class_name"])
    sentences = []
    for side, what in (
        ("left_only", "a box but no image-level label"),
        ("right_only", "an image-level label but no box"),
    ):
        odd = both[both["_merge"] == side]
        if len(odd):
            first = odd.iloc[0]
            sentences.append(
                f"{counted(len(odd), 'finding has', 'findings have')} {what}, the first is {first['class_name']} by "
                f"{first['reader']} on image {first['image_id']}; the boxes decide."
            )
    return sentences


def _flags(column: pd.Series, check: Checker) -> pd.Series:
    text = column.fillna("").str.strip()
    numbers = pd.to_numeric(text, errors="coerce")
    check.refuse((text != "") & ~numbers.isin([0, 1]), lambda i: f"{column.name} is {text[i]!r}, expected 0 or 1.")
    return numbers == 1


TABLE_NAME = "train.csv"

RELEASE_NAMES = ("annotations/annotations_train.csv", "annotations_train.csv")
"""Paths of the training table in the VinDr-CXR release, relative to its root or to its annotations folder."""


@dataclass(frozen=True)
class ReadersTable:
    """Readers' annotations from one source.

    Attributes:
        path: the table.
        rows: as :func:`cxr_mmdet.annotations.table.read_table` gives them; with ``group`` where asked for.
        unit: what ``rows.line`` counts in that file.
        image_labels: as :func:`cxr_mmdet.annotations.sources.read_image_labels` gives them, when there are any.
        notes: what a user should know.
    """

    path: Path
    rows: pd.DataFrame
    unit: str = "line"
    image_labels: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()


def find_table(src: Path) -> Path:
    """Return the readers' table of a folder: its ``train.csv``, else that of a VinDr-CXR release.

    Raises:
        TableError: there is none.
    """
    for name in (TABLE_NAME, *RELEASE_NAMES):
        if (src / name).is_file():
            return src / name
    raise TableError(
        f"{src / TABLE_NAME}: no such file, and no {RELEASE_NAMES[0]} beside it; expected the readers' table. Put it "
        "there, or name the file itself (build --table FILE)."
    )


def read_source(path: Path, *, group_column: str | None = None) -> ReadersTable:
    """Return the validated rows of a table, whatever its format.

    A ``.json`` file is COCO; anything else is a CSV table. A table ``annotations_….csv`` is completed by the
    ``image_labels_….csv`` beside it, where the VinDr-CXR release keeps labels of whole pictures.

    Raises:
        TableError: the table, or the image-level labels, cannot be read or contradict themselves.
        DatasetError: a ``.json`` file is not COCO.
    """
    notes: list[str] = []
    if path.suffix == ".json":
        rows = read_coco_table(path, group_column=group_column, notes=notes)
        return _noted(ReadersTable(path, rows, unit="annotation", notes=tuple(notes)))
    rows = read_table(path, group_column=group_column, notes=notes)
    labels_path = path.with_name(path.name.replace("annotations_", "image_labels_", 1))
    if labels_path == path or not labels_path.is_file():
        return _noted(ReadersTable(path, rows, notes=tuple(notes)))
    image_labels = read_image_labels(labels_path)
    notes += disagreements_with_boxes(rows, image_labels)
    rows, added = add_readings_without_boxes(rows, image_labels)
    if added:
        notes.insert(0, f"{counted(added, 'reading without a box', 'readings without a box')} from {labels_path.name}.")
    if group_column:
        rows["group"] = rows["group"].fillna(rows.groupby("image_id")["group"].transform("first"))
        lost = rows["group"].isna()
        if lost.any():
            raise TableError(
                f"{labels_path}, line {rows.loc[lost, 'line'].iloc[0]}: {path.name} has no row of this image, so "
                f"{group_column} is unknown; choose another --group-by."
            )
    return _noted(ReadersTable(path, rows, image_labels=image_labels, notes=tuple(notes)))


def _noted(table: ReadersTable) -> ReadersTable:
    readers = table.rows["reader"].unique()
    if len(readers) > 1:
        return table
    note = (
        f"all boxes of {table.path.name} are of one reader, {readers[0]}: there is no agreement and no human ceiling."
    )
    return ReadersTable(table.path, table.rows, table.unit, table.image_labels, (*table.notes, note))
