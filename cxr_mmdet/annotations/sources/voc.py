"""Pascal VOC: one XML file per image, as the devkit, labelImg, CVAT and Roboflow write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat, annotation_files, read_head
from cxr_mmdet.annotations.sources.tool_records import (
    SPLITS,
    Record,
    images_beside,
    numbers_of,
    read_lines,
    read_xml,
    refuse_twins,
    source_of_records,
)
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = re.compile(r"^\s*(<\?xml[^>]*>)?\s*<annotation\b")


def recognise(place: Path) -> Path | None:
    """Return the folder that holds VOC's XML files, in one folder or in one per side of a split; or one file."""
    found = next((path for path in annotation_files(place, [".xml"]) if _HEAD.match(read_head(path, 1000))), None)
    return place if found is not None else None


def read(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of all files in and below a folder.

    Corners are the first and last pixel that belong to an object, counted from 1, so that a box begins one pixel
    earlier in continuous coordinates. A tree in which a corner is 0 or between pixels counts from 0 instead. An object
    that is ``difficult`` becomes a region to ignore: the devkit's evaluation counts it neither as found nor as missed.

    Raises:
        TableError: a file is not of this format, or two are of images of one name.
    """
    notes: list[str] = []
    files = [file for file in annotation_files(path, [".xml"]) if _HEAD.match(read_head(file, 1000))]
    root = path if path.is_dir() else path.parent
    places = [file.relative_to(root).as_posix() for file in files]
    refuse_twins(((file.stem, place) for file, place in zip(files, places, strict=True)), path, "file")
    records: list[Record] = []
    images, split = {}, _listed_sides(root)
    for file, place in zip(files, places, strict=True):
        tree = read_xml(file)
        size_hw = tuple(
            numbers_of([tree.findtext(f"size/{side}") or 0 for side in ("height", "width")], str(file), "size")
        )
        image = options.images.find(file.with_suffix("").relative_to(root).as_posix()) or options.images.find(file.stem)
        image = image or options.images.find(tree.findtext("filename") or file.stem)
        images[file.stem] = image
        if side := next(
            (SPLITS[part.lower()] for part in file.relative_to(root).parts[:-1] if part.lower() in SPLITS), None
        ):
            split[file.stem] = side
        empty = Record(file.stem, NO_FINDING, place, size_hw=size_hw)  # type: ignore[arg-type]
        found = []
        for thing in tree.findall("object"):
            name = (thing.findtext("name") or "").strip()
            sides = [thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            if None in sides:
                raise TableError(f"{file}: {name!r} lacks a side of its bndbox; expected xmin, ymin, xmax and ymax.")
            box = numbers_of(sides, str(file), f"the box of {name!r}")
            found.append(empty._replace(class_name=name, box_xyxy=box, is_region=thing.findtext("difficult") == "1"))
        records += found or [empty]
    corners = np.array([record.box_xyxy for record in records])
    corners = corners[~np.isnan(corners).any(axis=1)]
    if (corners % 1 != 0).any() or (corners == 0).any():
        notes.append(f"corners in {path.name} are 0 or between pixels, so they are taken as counted from 0.")
    else:
        records = [
            each._replace(box_xyxy=[each.box_xyxy[0] - 1, each.box_xyxy[1] - 1, *each.box_xyxy[2:]]) for each in records
        ]
    return source_of_records(
        path,
        records,
        options,
        unit="file",
        notes=notes,
        split=split or None,
        images=images_beside(options.images, images),
    )


def _listed_sides(root: Path) -> dict[str, str]:
    """Return image id → side by the devkit's ImageSets/Main/train.txt and val.txt, and test.txt where there is one."""
    lists = root / "ImageSets" / "Main"
    found: dict[str, str] = {}
    for name, side in SPLITS.items():
        if (lists / f"{name}.txt").is_file():
            for line in filter(None, read_lines(lists / f"{name}.txt")):
                image_id = image_id_of(line.split()[0])
                if found.setdefault(image_id, side) != side:
                    raise TableError(
                        f"{lists}: image {image_id} is in {found[image_id]}.txt and in {name}.txt; remove one."
                    )
    return found


FORMAT = SourceFormat(
    name="voc",
    title="Pascal VOC folder",
    recognise=recognise,
    read=read,
    coverage_rule="A file without an object is a reading of all classes that found nothing; an image without a file "
    "was read by nobody.",
    looks_for="a folder of .xml files with <annotation>",
)
