"""COCO files: one, a given pair of a training and a validation file, or one in each folder of a split."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.coco import DECIMALS, coco_coverage, coco_normal, coco_rows
from cxr_mmdet.annotations.coverage import coverage_frame
from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat, annotation_files, read_head
from cxr_mmdet.annotations.sources.tool_records import SPLITS, classes_of
from cxr_mmdet.annotations.table import READER_COLUMN, REGION_COLUMN, SIZE_COLUMNS, is_region
from cxr_mmdet.errors import TableError
from cxr_mmdet.files import write_json
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, area, xyxy_to_xywh
from cxr_mmdet.structures.coco import read_coco
from cxr_mmdet.structures.coverage import NEG_KEY, NORMAL_KEY, Coverage, coverage_keys
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = re.compile(r'\s*\{\s*("(info|type)"\s*:|"(licenses?|categories|images|annotations)"\s*:\s*\[)')

_SIDES = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])")


def recognise(place: Path) -> Path | None:
    """Return the folder, where it holds one COCO file for each side of a split; else the first COCO file."""
    files = _files(place)
    return place if _split_files(place) else next(iter(files), None)


def read(path: Path, options: ReadOptions) -> Source:
    """Return the annotations of a COCO file, or of one for each side of a split.

    Raises:
        TableError: two images have one name, an annotation lacks what others have, or rows contradict each other.
        DatasetError: not a COCO file.
    """
    if not path.is_dir():
        return _read_file(path, options)
    files = _split_files(path)
    if others := [file.relative_to(path).as_posix() for file in _files(path) if file not in files]:
        named = " and ".join(file.relative_to(path).as_posix() for file in files)
        left_out = ", ".join([*others[:2], *(["…"] if len(others) > 2 else [])])
        options.notes.append(
            f"{path.name}: {named} are read, {left_out} are not; to read a pair of another name, copy it to a folder "
            "of its own."
        )
    sides = {str(_side(file, path)): _read_file(file, options) for file in files}
    split: dict[str, str] = {}
    for side, source in sides.items():
        for image_id in dict.fromkeys([*source.rows["image_id"], *source.unread]):
            if split.setdefault(image_id, side) != side:
                raise TableError(
                    f"{source.path}: image {image_id} is in {sides[split[image_id]].path.name} of the other side too; "
                    "expected each image on one side."
                )
    sources = list(sides.values())
    classes = list(dict.fromkeys(name for source in sources for name in source.classes))
    rows = pd.concat([source.rows for source in sources], ignore_index=True)
    rows["class_id"] = rows["class_name"].map({name: number for number, name in enumerate([*classes, NO_FINDING])})
    if REGION_COLUMN in rows:
        rows[REGION_COLUMN] = rows[REGION_COLUMN].eq(True)
    coverage = None
    if any(source.coverage is not None or source.classes != tuple(classes) for source in sources):
        # What a file does not have among its categories was not looked for.
        frames = [
            coverage_frame(list(source.rows["image_id"].unique()), source.classes)
            if source.coverage is None
            else source.coverage
            for source in sources
        ]
        coverage = pd.concat(frames).reindex(columns=classes).fillna(Coverage.UNKNOWN).astype(np.int8)
    return Source(
        path,
        rows,
        unit="annotation",
        notes=tuple(dict.fromkeys(note for source in sources for note in source.notes)),
        coverage=coverage,
        normal=_union(sources),
        classes=tuple(classes),
        split=split,
        unread=tuple(name for source in sources for name in source.unread),
    )


def write(source: Source, out: Path) -> dict[str, str]:
    """Write one file, or one for each side of a split, and return where the images belong."""
    rows, split, names = source.rows, source.split or {}, classes_of(source)
    category_ids = np.arange(1, len(names) + 1)
    patients: dict[str, str] = {}
    if "group" in rows:  # named after their first image, for the images come without Patient ID
        named = rows[rows["group"].notna()]
        patients = dict(zip(named["image_id"], named.groupby("group")["image_id"].transform("first"), strict=True))
    for side in sorted({split.get(image_id, "") for image_id in rows["image_id"]}):
        images, annotations = [], []
        own = [group for group in rows.groupby("image_id", sort=False) if split.get(str(group[0]), "") == side]
        for number, (image_id, group) in enumerate(own, start=1):
            height, width = (int(value) for value in group[SIZE_COLUMNS].iloc[0])
            found = group[group["class_name"] != NO_FINDING]
            categories = [names.index(name) + 1 for name in found["class_name"]]
            regions = is_region(found).astype(int).tolist()
            boxes = found[XYXY_COLUMNS].to_numpy(np.float64)
            sides = (
                categories,
                np.round(xyxy_to_xywh(boxes), DECIMALS).tolist(),
                area(boxes).tolist(),
                regions,
                found["reader"],
            )
            keys = ("category_id", "bbox", "area", REGION_COLUMN, READER_COLUMN)
            annotations += [
                {"image_id": number, **dict(zip(keys, each, strict=True))} for each in zip(*sides, strict=True)
            ]
            entry: dict[str, Any] = {"height": height, "width": width, "readers": group["reader"].unique().tolist()}
            if patient := patients.get(str(image_id)):
                entry["group"] = patient
            if source.coverage is not None and image_id in source.coverage.index:
                present = np.isin(
                    category_ids, [id_ for id_, region in zip(categories, regions, strict=True) if not region]
                )
                level = source.coverage.reindex(columns=names).loc[image_id].to_numpy(np.int8, copy=True)
                level[present & (level == Coverage.UNKNOWN)] = Coverage.NOT_EXHAUSTIVE
                entry |= coverage_keys(level, present, category_ids)
            is_doubtful = source.normal is not None and image_id not in source.normal and is_region(found).all()
            if is_doubtful and NEG_KEY not in entry:
                entry[NORMAL_KEY] = False
            images.append({"id": number, "file_name": f"{image_id}.png", "image_id": image_id, **entry})
        # Nobody read these.
        unread = [image_id for image_id in source.unread if split.get(image_id, "") == side]
        images += [
            {"id": number, "file_name": f"{image_id}.png", "image_id": image_id, "readers": []}
            for number, image_id in enumerate(unread, start=len(images) + 1)
        ]
        coco = {
            "images": images,
            "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        }
        write_json(out / "annotations" / f"instances_{side or 'default'}.json", coco)
    return {image_id: f"images/{image_id}.png" for image_id in (*rows["image_id"].unique(), *source.unread)}


def _union(sources: list[Source]) -> frozenset[str] | None:
    """Return the normal images of all files; of a file that does not tell them, those without a box or key."""
    if all(source.normal is None for source in sources):
        return None
    return frozenset().union(*(_normal_of(source) if source.normal is None else source.normal for source in sources))


def _normal_of(source: Source) -> set[str]:
    rows = source.rows
    abnormal = set(rows.loc[(rows["class_name"] != NO_FINDING) & ~is_region(rows), "image_id"])
    if source.coverage is not None:
        abnormal |= set(source.coverage.index[(source.coverage < Coverage.EXHAUSTIVE).any(axis=1)])
    return set(rows["image_id"]) - abnormal


def _files(place: Path) -> list[Path]:
    return [path for path in annotation_files(place, [".json"]) if _HEAD.match(read_head(path, 200))]


def _split_files(place: Path) -> list[Path]:
    """Return one COCO file for each side of a split, which are named alike but for the side; empty where none are.

    Where all files of a folder are one for each side, their names need not be alike. A prepared folder holds a pair for
    each label set and fold: the first is taken.
    """
    files = _files(place)
    alike: dict[str, list[Path]] = {}
    for file in files:
        name = file.relative_to(place).as_posix() if place in file.parents else file.name
        alike.setdefault(_SIDES.sub("", name.lower()), []).append(file)
    for group in (files, *alike.values()):
        sides = [_side(file, place) for file in group]
        if len(group) > 1 and all(sides) and len(set(sides)) == len(sides):
            return group
    return []


def _side(path: Path, root: Path) -> str | None:
    """Return the side of a split that a file's name says, else its folders: train of instances_train2017.json."""
    relative = path.relative_to(root) if root in path.parents else path
    words = [word for part in reversed(relative.parts) for word in re.split(r"[^a-z]+", part.lower())]
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _read_file(path: Path, options: ReadOptions) -> Source:
    notes: list[str] = []
    coco = read_coco(path, strict=False)
    rows = coco_rows(coco, path, group_column=options.group_column, notes=notes)
    used = {annotation["category_id"] for annotation in coco["annotations"]}
    # Roboflow lists the name of the project as a category above the others.
    above = {category.get("supercategory") for category in coco["categories"]}
    classes = [each["name"] for each in coco["categories"] if each["id"] in used or each["name"] not in above]
    coverage = coco_coverage(coco, path)
    nobody = [image for image in coco["images"] if image.get("readers") == []]
    unread = [image.get("image_id") or image_id_of(image["file_name"]) for image in nobody]
    return Source(
        path,
        rows,
        unit="annotation",
        notes=tuple(notes),
        coverage=coverage if coverage is None else coverage[classes],
        normal=coco_normal(coco, path),
        classes=tuple(classes),
        unread=tuple(name for name in unread if name not in set(rows["image_id"])),
    )


FORMAT = SourceFormat(
    name="coco",
    title="COCO file",
    recognise=recognise,
    read=read,
    write=write,
    keeps=frozenset({"readers", "patients", "regions", "coverage", "split", "normal"}),
    coverage_rule="All classes were looked for, except where an image's neg_category_ids says which; an image with "
    "an empty list `readers` was read by nobody.",
    looks_for="a .json file with images, annotations and categories",
)
