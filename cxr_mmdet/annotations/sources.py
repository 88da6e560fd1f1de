"""Where readers' boxes come from: VinBigData's table, the VinDr-CXR release's files, or COCO → one kind of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_mmdet.annotations.coco_table import read_coco_table
from cxr_mmdet.annotations.image_labels import (
    add_readings_without_boxes,
    disagreements_with_boxes,
    read_image_labels,
)
from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.errors import TableError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

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
        image_labels: as :func:`cxr_mmdet.annotations.image_labels.read_image_labels` gives them, when there are any.
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
