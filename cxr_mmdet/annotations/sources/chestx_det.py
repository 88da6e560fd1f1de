"""ChestX-Det10 and ChestX-Det: a JSON list of images, each with its findings and their boxes side by side."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat
from cxr_mmdet.annotations.sources.rows import find_json, is_box, json_row, read_json, source_of
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = (
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "Diffuse Nodule",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Fracture",
    "Mass",
    "Nodule",
    "Pleural Thickening",
    "Pneumothorax",
)
"""Classes of ChestX-Det."""
ONLY_13 = frozenset({"Cardiomegaly", "Diffuse Nodule", "Pleural Thickening"})
"""Classes that ChestX-Det10 lacks."""


def read(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of every image; its polygons lie within them and are not needed.

    Raises:
        TableError: an image has no name, or other numbers of findings and boxes.
    """
    records = []
    entries = read_json(path, list, "list of images with file_name, syms and boxes")
    for place, entry in enumerate(entries, start=1):
        where = f"{path}, image {place}"
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise TableError(f"{where}: has no file_name; expected file_name, syms and boxes.")
        names, boxes = entry.get("syms"), entry.get("boxes")
        if not isinstance(names, list) or not isinstance(boxes, list) or len(names) != len(boxes):
            raise TableError(
                f"{where}: its syms {names!r} and boxes {boxes!r} differ in number; expected one box each."
            )
        for box in boxes:
            if not is_box(box):
                raise TableError(f"{where}: has the box {box!r}; expected [x_min, y_min, x_max, y_max] in pixels.")
        image_id = image_id_of(entry["file_name"])
        records += [json_row(image_id, place, str(name), box) for name, box in zip(names, boxes, strict=True)]
        if not boxes:
            records.append(json_row(image_id, place))
    # ChestX-Det10 has no polygons.
    classes = tuple(name for name in CLASSES if "polygons" in entries[0] or name not in ONLY_13)
    return replace(source_of(path, records, options, classes=CLASSES, unit="image"), classes=classes)


FORMAT = SourceFormat(
    name="chestx-det",
    title="ChestX-Det or ChestX-Det10",
    recognise=partial(find_json, pattern=r'^\s*\[\s*\{[^{}]*"(syms|boxes)"\s*:'),
    read=read,
    coverage_rule="Three radiologists looked for all classes on every image of the file; empty lists are a normal "
    "chest.",
    looks_for="train.json, a list of images with file_name, syms and boxes",
)
