"""Readers' tables of every supported format as one table of rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.table import (
    ONE_READER,
    READER_COLUMN,
    REGION_COLUMN,
    REQUIRED_COLUMNS,
    SIZE_COLUMNS,
    Checker,
    check_rows,
    read_csv,
    read_table,
)
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, xywh_to_xyxy
from cxr_mmdet.structures.coco import read_ground_truth
from cxr_mmdet.structures.labels import LABELS_22, NO_FINDING, is_no_finding

if TYPE_CHECKING:
    from collections.abc import Mapping


REGION_KEYS = (REGION_COLUMN, "ignore")

READER_KEYS = (READER_COLUMN, "reader")


def read_coco_table(path: Path, *, group_column: str | None = None, notes: list[str] | None = None) -> pd.DataFrame:
    """Return the rows of :func:`cxr_mmdet.annotations.table.read_table`; ``line`` counts the annotations from 1.

    Columns ``table_height`` and ``table_width`` hold the size of each image by its entry, NaN where that has none.

    An image is named by its ``image_id``, else by its ``file_name`` without folder and suffix. An annotation's reader
    is its ``rad_id`` or ``reader``; where none has either, one reader, R1, drew all. An image without an annotation by
    a reader was read by them and has no finding, unless its ``readers`` list says who read it. Boxes with ``votes``, as
    in a prepared folder, are a consensus: none of the listed readers drew them, so they are R1's and the lists are not
    looked at.

    Annotations with ``iscrowd`` or ``ignore`` 1 are regions to ignore.

    Args:
        path: a COCO annotation file with boxes in pixels of the radiographs.
        group_column: the key of an image entry that names its group.
        notes: what a user should know of the file is appended.

    Raises:
        TableError: two images have one name, an annotation lacks what others have, or rows contradict each other.
        DatasetError: not a COCO file.
    """
    coco = read_ground_truth(path)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    image_ids = _image_ids(coco["images"], path)
    readers = _readers(coco["annotations"], path)
    everybody = sorted(set(readers)) or [ONE_READER]
    fused = any("votes" in annotation for annotation in coco["annotations"])
    boxes_xyxy = xywh_to_xyxy([annotation["bbox"] for annotation in coco["annotations"]]).tolist()
    drawn: dict[Any, set[str]] = defaultdict(set)
    records = []
    for place, (annotation, reader, box) in enumerate(zip(coco["annotations"], readers, boxes_xyxy, strict=True), 1):
        drawn[annotation["image_id"]].add(reader)
        records.append(
            (
                image_ids[annotation["image_id"]],
                names[annotation["category_id"]],
                *box,
                reader,
                place,
                _is_region(annotation, path),
            )
        )
    for place, image in enumerate(coco["images"], start=1):
        for reader in everybody if fused else image.get("readers", everybody):
            if reader not in drawn[image["id"]]:
                records.append((image_ids[image["id"]], NO_FINDING, *[np.nan] * 4, reader, place, 0))
    raw = pd.DataFrame(records, columns=[*REQUIRED_COLUMNS, READER_COLUMN, "place", REGION_COLUMN])
    if raw.empty:
        raise TableError(f"{path}: holds no image; expected radiographs and their boxes.")
    # Classes keep the file's order, which `--labels auto` takes up.
    order = {name: number for number, name in enumerate(dict.fromkeys([*names.values(), NO_FINDING]))}
    raw["class_id"] = raw["class_name"].map(order)
    if group_column:
        raw["group"] = raw["image_id"].map(_groups(coco["images"], image_ids, group_column, path))
    check = Checker(path, raw["place"].to_numpy(), unit="annotation", notes=notes)
    rows = check_rows(raw, check, group_column="group" if group_column else None)
    sizes_hw = {image_ids[image["id"]]: (image.get("height"), image.get("width")) for image in coco["images"]}
    sizes = pd.DataFrame([sizes_hw[name] for name in rows["image_id"]], columns=SIZE_COLUMNS, index=rows.index)
    return rows.assign(**sizes.apply(pd.to_numeric, errors="coerce"))


def _image_ids(images: list[dict[str, Any]], path: Path) -> dict[int, str]:
    image_ids = {}
    for image in images:
        name = image.get("image_id", image.get("file_name"))
        if not isinstance(name, str) or not name.strip():
            raise TableError(
                f"{path}, image {image['id']}: has neither image_id nor file_name; expected its file's name."
            )
        image_ids[image["id"]] = name if "image_id" in image else Path(name.replace("\\", "/")).stem
    name, count = max(Counter(image_ids.values()).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise TableError(f"{path}: {count} images are named {name!r}; expected each radiograph once.")
    return image_ids


def _readers(annotations: list[dict[str, Any]], path: Path) -> list[str]:
    readers = [next((annotation[key] for key in READER_KEYS if key in annotation), None) for annotation in annotations]
    if not any(reader is not None for reader in readers):
        return [ONE_READER] * len(readers)
    for annotation, reader in zip(annotations, readers, strict=True):
        if not isinstance(reader, str):
            raise TableError(
                f"{path}, annotation with id {annotation['id']}: its reader is {reader!r}; expected rad_id to name the "
                "reader, as other annotations do."
            )
    return [str(reader) for reader in readers]


def _is_region(annotation: dict[str, Any], path: Path) -> int:
    """Return 1 for a region that is neither hit nor false alarm: COCO's ``iscrowd``, which pycocotools also ignores."""
    flags = [annotation.get(key, 0) for key in REGION_KEYS]
    if any(flag not in (0, 1) for flag in flags):
        raise TableError(
            f"{path}, annotation with id {annotation['id']}: has {' and '.join(REGION_KEYS)} {flags[0]!r} and "
            f"{flags[1]!r}; expected 0 or 1."
        )
    return int(any(flags))


def _groups(images: list[dict[str, Any]], image_ids: Mapping[int, str], key: str, path: Path) -> dict[str, str]:
    for image in images:
        if not image.get(key):
            raise TableError(f"{path}, image {image['id']}: has no {key}; expected each image's group there.")
    return {image_ids[image["id"]]: str(image[key]) for image in images}


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
                f"{len(odd)} findings have {what}, the first is {first['class_name']} by {first['reader']} on image "
                f"{first['image_id']}; the boxes decide."
            )
    return sentences


def _flags(column: pd.Series, check: Checker) -> pd.Series:
    text = column.fillna("").str.strip()
    numbers = pd.to_numeric(text, errors="coerce")
    check.refuse((text != "") & ~numbers.isin([0, 1]), lambda i: f"{column.name} is {text[i]!r}, expected 0 or 1.")
    return numbers == 1


TABLE_NAME = "train.csv"

RELEASE_NAMES = ("annotations/annotations_train.csv", "annotations_train.csv")
"""Where the VinDr-CXR release keeps its training table, seen from its root."""


@dataclass(frozen=True)
class ReadersTable:
    """What readers said, from one source.

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
        notes.insert(0, f"{added} readings stand in {labels_path.name} only: these readers drew no box.")
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
