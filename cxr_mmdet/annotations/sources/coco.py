"""COCO files: one, or a given pair of a training and a validation file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cxr_mmdet.annotations.coco import coco_coverage, coco_rows
from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat, annotation_files, read_head
from cxr_mmdet.structures.coco import read_coco

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = re.compile(r'\s*\{\s*"(info|licenses?|type|categories|images|annotations)"\s*:')


def recognise(place: Path) -> Path | None:
    """Return the first JSON file that begins as COCO files do."""
    return next((path for path in annotation_files(place, [".json"]) if _HEAD.match(read_head(path, 200))), None)


def read(path: Path, options: ReadOptions) -> Source:
    """Return the annotations of a COCO file.

    Raises:
        TableError: two images have one name, an annotation lacks what others have, or rows contradict each other.
        DatasetError: not a COCO file.
    """
    notes: list[str] = []
    coco = read_coco(path, strict=False)
    rows = coco_rows(coco, path, group_column=options.group_column, notes=notes)
    return Source(
        path,
        rows,
        unit="annotation",
        notes=tuple(notes),
        coverage=coco_coverage(coco, path),
        classes=tuple(category["name"] for category in coco["categories"]),
    )


FORMAT = SourceFormat(
    name="coco",
    title="COCO file",
    recognise=recognise,
    read=read,
    coverage_rule="All classes were looked for, except where an image's neg_category_ids says which ones.",
    looks_for="a .json file with images, annotations and categories",
)
