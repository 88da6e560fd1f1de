"""Object-CXR: foreign objects as rectangles, ellipses and polygons in one cell per image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat
from cxr_mmdet.annotations.sources.geometry import points_extent
from cxr_mmdet.annotations.sources.rows import NO_BOX, box_columns, find_csv, looked_for, read_cells, source_of
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from pathlib import Path

    from cxr_mmdet.structures.detections import Box

HEADER = ("image_name", "annotation")
FOREIGN_OBJECT = "Foreign object"
RECTANGLE, ELLIPSE, POLYGON = "0", "1", "2"


def read(path: Path, options: ReadOptions) -> Source:
    """Return a box around each object.

    Raises:
        TableError: a shape is of an unknown kind or lacks a coordinate.
    """
    cells, check = read_cells(path, HEADER)
    drawn = [_boxes(text) for text in cells["annotation"]]
    check.refuse(
        [boxes is None for boxes in drawn],  # type: ignore[arg-type]
        lambda i: (
            f"annotation is {cells['annotation'][i]!r}; expected '0 x1 y1 x2 y2' (rectangle), '1 x1 y1 x2 y2' "
            "(ellipse) or '2 x1 y1 … xn yn' (polygon), with semicolons between several, or nothing."
        ),
    )
    raw = cells.assign(image_id=cells["image_name"].map(image_id_of))
    raw["box"] = pd.Series([boxes or [NO_BOX] for boxes in drawn])
    raw = raw.explode("box").reset_index(drop=True)
    raw["class_name"] = [NO_FINDING if box is NO_BOX else FOREIGN_OBJECT for box in raw["box"]]
    raw = raw.assign(**box_columns(raw["box"].tolist()))
    return looked_for(source_of(path, raw, options, classes=[FOREIGN_OBJECT]), [FOREIGN_OBJECT])


def _boxes(text: str) -> list[Box] | None:
    """Return the boxes of a cell; None where it cannot be read."""
    boxes = []
    for shape in filter(str.strip, text.split(";")):
        kind, *words = shape.split()
        try:
            sides = [float(word) for word in words]
        except ValueError:
            return None
        is_whole = len(sides) == 4 if kind in (RECTANGLE, ELLIPSE) else len(sides) >= 6 and len(sides) % 2 == 0
        if kind not in (RECTANGLE, ELLIPSE, POLYGON) or not is_whole:
            return None
        boxes.append(points_extent(sides))
    return boxes


FORMAT = SourceFormat(
    name="object-cxr",
    title="Object-CXR",
    recognise=partial(find_csv, header=HEADER),
    read=read,
    coverage_rule="Every image with a row was read for foreign objects alone; an empty cell is their absence, not a "
    "normal chest.",
    looks_for=f"train.csv with {', '.join(HEADER)}",
)
