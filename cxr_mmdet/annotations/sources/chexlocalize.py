"""CheXlocalize: regions of findings as polygons, or as masks in COCO's run-length encoding."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat
from cxr_mmdet.annotations.sources.geometry import coco_rle_boxes, points_extent
from cxr_mmdet.annotations.sources.rows import find_json, found_only, json_row, read_json, source_of
from cxr_mmdet.annotations.table import SIZE_COLUMNS
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.coverage import Coverage

if TYPE_CHECKING:
    from pathlib import Path

    from cxr_mmdet.structures.detections import Box

SIZE_KEY = "img_size"
CLASSES = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Airspace Opacity",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)


def read(path: Path, options: ReadOptions) -> Source:
    """Return a box around each polygon, or around each connected part of a mask.

    Raises:
        TableError: an image has no size, or a region is neither polygons nor a mask.
    """
    records, unread = [], []
    # The id is made of the last three parts of the image's path.
    images = {"_".join(file.with_suffix("").parts[-3:]): file for file in options.images.files}
    for place, (image_id, entry) in enumerate(read_json(path, dict, "object of images and their regions").items(), 1):
        if not isinstance(entry, dict):
            raise TableError(f"{path}, image {place}: holds {entry!r}, expected the regions of {image_id}.")
        found = []
        for name, regions in entry.items():
            if name == SIZE_KEY:
                continue
            try:
                size, boxes = _boxes(regions, entry.get(SIZE_KEY))
            except (KeyError, OverflowError, TypeError, ValueError):
                raise TableError(
                    f"{path}, image {place}: the regions of {name!r} on {image_id} cannot be read; expected polygons "
                    f"[[[x, y], …], …] and {SIZE_KEY} [height, width], or a mask with size and counts."
                ) from None
            more = dict(zip(SIZE_COLUMNS, size, strict=True)) | {"group": image_id.split("_")[0]}
            found += [json_row(image_id, place, name, box, more) for box in boxes]
        records += found
        if not found:
            unread.append(image_id)
    source = source_of(path, records, options, classes=CLASSES, unit="image")
    return replace(
        found_only(source, Coverage.EXHAUSTIVE),
        unread=tuple(unread),
        images=images,
        patient_pattern=r"(?:^|/)(patient\d+)[/_]",
    )


def _boxes(regions: Any, size: Any) -> tuple[tuple[int, int], list[Box]]:
    if isinstance(regions, dict):
        height, width = regions["size"]
        return (int(height), int(width)), coco_rle_boxes((int(height), int(width)), regions["counts"])
    height, width = size
    return (int(height), int(width)), [points_extent(polygon) for polygon in regions]


FORMAT = SourceFormat(
    name="chexlocalize",
    title="CheXlocalize",
    recognise=partial(
        find_json,
        pattern=rf'^\s*\{{\s*"[^"]+"\s*:\s*\{{[^{{}}]*("{SIZE_KEY}"|"({"|".join(map(re.escape, CLASSES))})"\s*:)',
    ),
    read=read,
    coverage_rule="A class is known on the images on which it has a region, all of which are drawn; on all others it "
    "is unknown, because regions were drawn only of what the labels of the image already said.",
    looks_for="gt_annotations_….json or gt_segmentations_….json, images with their regions",
)
