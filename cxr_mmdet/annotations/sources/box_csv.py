"""CSV of boxes as VoTT and users of torchvision and TensorFlow write it: a file name, a class and two corners."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat, annotation_files, csv_header
from cxr_mmdet.annotations.sources.rows import read_cells, source_of
from cxr_mmdet.annotations.sources.tool_records import images_beside, refuse_twins
from cxr_mmdet.annotations.table import SIZE_COLUMNS, SUFFIXES
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {
    **dict.fromkeys(("filename", "image", "file", "image_path"), "image_id"),
    **dict.fromkeys(("class", "label"), "class_name"),
    **dict(zip(("xmin", "ymin", "xmax", "ymax"), XYXY_COLUMNS, strict=True)),
    "height": SIZE_COLUMNS[0],
    "width": SIZE_COLUMNS[1],
}
"""Columns as these tables call them, and as validated rows do."""


def recognise(place: Path) -> Path | None:
    """Return the first CSV file with such columns."""
    for path in annotation_files(place, SUFFIXES):
        known = [NAMES.get(name.lower()) for name in csv_header(path)]
        if {"image_id", "class_name", *XYXY_COLUMNS} <= set(known):
            return path
    return None


def read(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of a table; a row without class and corners says that its image holds nothing.

    Raises:
        TableError: a row is wrong, or two folders hold images of one name.
    """
    cells, check = read_cells(path)
    cells = cells.rename(columns=lambda name: NAMES.get(name.lower(), name))
    names = cells["image_id"]
    check.refuse(names == "", "filename is empty; expected the image's file in every row.")
    ids = names.map(image_id_of)
    refuse_twins(dict.fromkeys(zip(ids, names, strict=True)), path, "file")
    empty = (cells[["class_name", *XYXY_COLUMNS]] == "").all(axis=1)
    cells = cells.assign(image_id=ids, class_name=cells["class_name"].mask(empty, NO_FINDING))
    cells[XYXY_COLUMNS] = cells[XYXY_COLUMNS].replace("", pd.NA)
    if set(SIZE_COLUMNS) <= set(cells):
        sizes = cells[SIZE_COLUMNS].apply(pd.to_numeric, errors="coerce")
        cells[SIZE_COLUMNS] = sizes.where(sizes > 0)
    else:
        cells = cells.drop(columns=SIZE_COLUMNS, errors="ignore")
    found = {image_id: options.images.find(name) for image_id, name in zip(ids, names, strict=True)}
    return replace(source_of(path, cells, options), images=images_beside(options.images, found))


FORMAT = SourceFormat(
    name="csv",
    title="CSV of file names, classes and corners",
    recognise=recognise,
    read=read,
    coverage_rule="An image with a row was read for all classes; one without a row is unknown, for such tables mostly "
    "list images with boxes alone.",
    looks_for="a .csv with filename, class, xmin, ymin, xmax, ymax",
)
