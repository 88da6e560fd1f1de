"""TBX11K: COCO files whose images lie in folders that say what is known of them."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from cxr_mmdet.annotations.coco import read_coco_table
from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat, annotation_files, read_head
from cxr_mmdet.annotations.sources.rows import looked_for, read_json
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

HEALTHY, READ = "health", frozenset({"health", "sick", "tb"})
"""Folders of healthy chests, and of all that were read for tuberculosis; ``extra`` and ``test`` were not."""

_IMAGE = re.compile(r'"file_name"\s*:\s*"(?:health|sick|tb|extra)/')


def recognise(place: Path) -> Path | None:
    """Return the COCO file of the set that holds most: training and validation, with images without tuberculosis."""
    paths = [path for path in annotation_files(place, [".json"]) if _IMAGE.search(read_head(path))]
    return min(
        paths,
        key=lambda path: ("only_tb" in path.name, "trainval" not in path.name, "train" not in path.name),
        default=None,
    )


def read(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of a COCO file of the set, without the images that nobody read.

    Raises:
        TableError: rows contradict each other.
        DatasetError: not a COCO file.
    """
    notes: list[str] = []
    rows = read_coco_table(path, group_column=options.group_column, notes=notes)
    content = read_json(path, dict, "COCO file")
    folder_of = _folders(content)
    folders = rows["image_id"].map(folder_of)
    unread = (rows["class_name"] == NO_FINDING) & ~folders.isin(READ)
    names = tuple(rows.loc[unread, "image_id"])
    rows = rows[~unread].reset_index(drop=True)
    healthy = set(rows.loc[folders[~unread].to_numpy() == HEALTHY, "image_id"])
    classes = [category["name"] for category in content["categories"]]
    val_path = path.with_name(path.name.replace("trainval", "val"))
    split = None
    if val_path != path and val_path.is_file():
        val = _folders(read_json(val_path, dict, "COCO file"))
        split = {name: "val" if name in val else "train" for name in rows["image_id"].unique()}
    source = Source(path, rows, "annotation", notes=tuple(notes), split=split, unread=names, unread_is_known=True)
    return looked_for(source, classes, healthy)


def _folders(coco: dict[str, Any]) -> dict[str, str]:
    """Return image id → the first folder of its path."""
    names = [image["file_name"] for image in coco.get("images", [])]
    return {image_id_of(name): PurePosixPath(name).parts[0] for name in names}


FORMAT = SourceFormat(
    name="tbx11k",
    title="TBX11K",
    recognise=recognise,
    read=read,
    coverage_rule="Images in health, sick and tb were read for tuberculosis, with or without a box; only those in "
    "health are normal chests, and those of the extra sets without a box are unknown.",
    looks_for="a COCO file with images in health/, sick/ and tb/",
)
