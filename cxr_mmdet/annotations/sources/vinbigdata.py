"""VinBigData's table, and the VinDr-CXR release with labels of whole images beside its boxes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat, annotation_files, csv_header
from cxr_mmdet.annotations.table import (
    ONE_READER,
    PATIENT_COLUMNS,
    READER_COLUMN,
    REGION_COLUMN,
    REQUIRED_COLUMNS,
    SUFFIXES,
    TEXT_COLUMNS,
    Checker,
    read_csv,
    read_table,
    write_frame,
)
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
    or nothing (0) in each cell: findings with boxes, diagnoses of the whole image, and "No finding".

    Raises:
        TableError: the file is no such table, a cell is neither 0 nor 1, a reading occurs twice, or one reader says
            "No finding" and something else of an image.
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

    "No finding" here means that no box was drawn; the reader may have named a diagnosis of the whole image.
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
    # VinDr-PCXR labels whole images with diseases and draws findings, which say nothing of each other.
    drawn = rows.loc[rows["class_name"].isin(names), [*KEYS, "class_name"]].drop_duplicates()
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

COLUMNS = frozenset({*REQUIRED_COLUMNS, READER_COLUMN})


def recognise(place: Path) -> Path | None:
    """Return a table with at least ``image_id`` and half of VinBigData's columns; a folder's ``train.csv`` first."""
    if place.is_file():
        return place if _is_table(place) else None
    named = (place / name for name in (TABLE_NAME, *RELEASE_NAMES))
    return next((path for path in (*named, *annotation_files(place, SUFFIXES, depth=0)) if _is_table(path)), None)


def _is_table(path: Path) -> bool:
    # Also where another separator makes it one cell: the reader then says so.
    names = set(re.split(r"[;,|\t]", ",".join(csv_header(path)))) if path.is_file() else set()
    return "image_id" in names and len(names & COLUMNS) >= len(COLUMNS) // 2


def read(path: Path, options: ReadOptions) -> Source:
    """Return the rows of a table, completed by the image-level labels beside it.

    A table ``annotations_….csv`` is completed by the ``image_labels_….csv`` beside it, where the VinDr-CXR release
    keeps labels of whole images.

    Raises:
        TableError: the table, or the image-level labels, cannot be read or contradict themselves.
    """
    notes: list[str] = []
    rows = read_table(path, group_column=options.group_column, notes=notes)
    labels_path = path.with_name(path.name.replace("annotations_", "image_labels_", 1))
    if labels_path == path or not labels_path.is_file():
        return Source(path, rows, notes=tuple(notes))
    image_labels = read_image_labels(labels_path)
    notes += disagreements_with_boxes(rows, image_labels)
    rows, added = add_readings_without_boxes(rows, image_labels)
    if added:
        notes.insert(0, f"{counted(added, 'reading without a box', 'readings without a box')} from {labels_path.name}.")
    if "group" in rows:
        rows["group"] = rows["group"].fillna(rows.groupby("image_id")["group"].transform("first"))
        lost = rows["group"].isna()
        if lost.any() and options.group_column:
            raise TableError(
                f"{labels_path}, line {rows.loc[lost, 'line'].iloc[0]}: {path.name} has no row of this image, so "
                f"{options.group_column} is unknown; choose another --group-by."
            )
    return Source(path, rows, image_labels=image_labels, notes=tuple(notes))


def write(source: Source, out: Path) -> dict[str, str]:
    """Write train.csv, and return where the images belong."""
    columns = [*TEXT_COLUMNS, "class_id", READER_COLUMN, *XYXY_COLUMNS, REGION_COLUMN, PATIENT_COLUMNS[0]]
    rows = source.rows.rename(columns={"reader": READER_COLUMN, "group": PATIENT_COLUMNS[0]})
    rows = rows[[name for name in columns if name in rows]]
    if REGION_COLUMN in rows:
        rows = rows.astype({REGION_COLUMN: int})
    write_frame(out / TABLE_NAME, rows)
    return {image_id: f"train/{image_id}" for image_id in (*rows["image_id"].unique(), *source.unread)}


FORMAT = SourceFormat(
    name="vinbigdata",
    title="VinBigData or VinDr-CXR table",
    recognise=recognise,
    read=read,
    write=write,
    keeps=frozenset({"readers", "patients", "regions", "originals"}),
    coverage_rule="Every reading is of all classes: a reader without a box of a class did not find it.",
    looks_for=f"{TABLE_NAME} or {RELEASE_NAMES[0]} with {', '.join(REQUIRED_COLUMNS)}",
)
