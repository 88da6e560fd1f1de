"""COCO files as readers' rows, and the COCO files of a prepared folder from rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.table import (
    ONE_READER,
    PATIENT_COLUMNS,
    READER_COLUMN,
    REGION_COLUMN,
    REQUIRED_COLUMNS,
    SIZE_COLUMNS,
    Checker,
    check_rows,
    is_region,
)
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, xywh_to_xyxy, xyxy_to_xywh
from cxr_mmdet.structures.coco import check_coco, findings_of, read_coco
from cxr_mmdet.structures.coverage import NEG_KEY, NORMAL_KEY, coverage_keys, coverage_of, is_partly_labelled
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

DECIMALS = 4
"""Coordinates are rounded to this many decimals of a pixel: same input, same bytes on every platform."""
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
        group_column: the key of an image entry that names its group. By default its patient's, where there is one of
            ``PATIENT_COLUMNS``, else ``group``, as prepared folders have it.
        notes: what a user should know of the file is appended.

    Raises:
        TableError: two images have one name, an annotation lacks what others have, or rows contradict each other.
        DatasetError: not a COCO file.
    """
    return coco_rows(read_coco(path, strict=False), path, group_column=group_column, notes=notes)


def coco_rows(
    coco: Mapping[str, Any], path: Path, *, group_column: str | None = None, notes: list[str] | None = None
) -> pd.DataFrame:
    """Return the rows of :func:`read_coco_table` from the content of the file ``path``."""
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
    groups = _groups(coco["images"], image_ids, group_column, path)
    if groups:
        raw["group"] = raw["image_id"].map(groups)
    check = Checker(path, raw["place"].to_numpy(), unit="annotation", notes=notes)
    rows = check_rows(raw, check, group_column="group" if groups else None, group_required=group_column is not None)
    sizes_hw = {image_ids[image["id"]]: (image.get("height"), image.get("width")) for image in coco["images"]}
    sizes = pd.DataFrame([sizes_hw[name] for name in rows["image_id"]], columns=SIZE_COLUMNS, index=rows.index)
    return rows.assign(**sizes.apply(pd.to_numeric, errors="coerce"))


def coco_coverage(coco: Mapping[str, Any], path: Path) -> pd.DataFrame | None:
    """Return image id → the coverage of each class of a COCO file; None where every class was looked for."""
    if not is_partly_labelled(coco):
        return None
    index = pd.Index(_image_ids(coco["images"], path).values(), name="image_id")
    return pd.DataFrame(coverage_of(coco), index=index, columns=[each["name"] for each in coco["categories"]])


def coco_normal(coco: Mapping[str, Any], path: Path) -> frozenset[str] | None:
    """Return the images that are normal chests; None where the file does not tell them from others without a box."""
    if not any(NORMAL_KEY in image for image in coco["images"]):
        return None
    with_box = {annotation["image_id"] for annotation in findings_of(coco)}
    ids = _image_ids(coco["images"], path)
    images = (image for image in coco["images"] if image["id"] not in with_box and image.get(NORMAL_KEY, True))
    return frozenset(ids[image["id"]] for image in images if NEG_KEY not in image)


def _image_ids(images: list[dict[str, Any]], path: Path) -> dict[int, str]:
    image_ids = {}
    for image in images:
        name = image.get("image_id", image.get("file_name"))
        if not isinstance(name, str) or not name.strip():
            raise TableError(
                f"{path}, image {image['id']}: has neither image_id nor file_name; expected its file's name."
            )
        image_ids[image["id"]] = name if "image_id" in image else image_id_of(name)
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


def _groups(images: list[dict[str, Any]], image_ids: Mapping[int, str], key: str | None, path: Path) -> dict[str, str]:
    """Return image id → group under ``key``, which every image must have; without a key, the named patients."""
    if key is None:
        key = next((name for name in (*PATIENT_COLUMNS, "group") if any(image.get(name) for image in images)), "")
        return {image_ids[image["id"]]: str(image[key]) for image in images if image.get(key)}
    for image in images:
        if not image.get(key):
            raise TableError(f"{path}, image {image['id']}: has no {key}; expected each image's group there.")
    return {image_ids[image["id"]]: str(image[key]) for image in images}


@dataclass(frozen=True)
class CocoImage:
    """A prepared radiograph as the COCO file lists it.

    Attributes:
        image_id: the readers' table's name of it.
        file_name: relative to the folder of images.
        group: what must not stand on both sides of a split: the patient, else the image itself.
        readers: everybody who read it, also those who drew nothing; None where that is not known.
        normal: False where an image without a box is not known to be normal although every class was looked for.
    """

    image_id: str
    file_name: str
    width: int
    height: int
    group: str
    original_width: int
    original_height: int
    readers: tuple[str, ...] | None = None
    normal: bool = True


def build_coco(
    images: Iterable[CocoImage], boxes: pd.DataFrame, labels: Sequence[str], coverage: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return the COCO file of these images, validated; ids run from 1, whatever the order of the input.

    Args:
        images: all images of the split, also those without a box.
        boxes: image_id, class_name, x_min, y_min, x_max, y_max in prepared-image pixels, votes and, where known, the
            readers behind each box, confidence (written as ``score``), corner_spread and iscrowd, True for regions to
            ignore. Rows of other images or of classes outside ``labels`` are left out; boxes are clipped to the image.
        labels: the class names; their order is the categories' order.
        coverage: image id → one column per label, values of :class:`cxr_mmdet.structures.coverage.Coverage`; images
            that it lacks, or all images without it, were looked through for every class.

    Raises:
        DatasetError: the result is not a file to train on, for instance since a box lies outside its image.
    """
    ordered = sorted(images, key=lambda image: image.image_id)
    annotations = _annotation_entries(ordered, boxes, labels)
    entries: list[dict[str, Any]] = [{"id": number, **vars(image)} for number, image in enumerate(ordered, start=1)]
    with_box = {annotation["image_id"] for annotation in annotations if not annotation["iscrowd"]}
    for entry in entries:
        normal, readers = entry.pop("normal"), entry.pop("readers")
        if readers is not None:
            entry["readers"] = list(readers)
        if not normal and entry["id"] not in with_box:
            entry[NORMAL_KEY] = False
    if coverage is not None:
        _add_coverage(entries, annotations, coverage[list(labels)])
    coco = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(labels, start=1)],
    }
    check_coco(coco)
    return coco


def _add_coverage(
    images: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], coverage: pd.DataFrame
) -> None:
    """State in the entries of images which classes were looked for."""
    category_ids = np.arange(1, len(coverage.columns) + 1)
    present = np.zeros((len(images), len(category_ids)), dtype=bool)
    for annotation in annotations:
        if not annotation["iscrowd"]:
            present[annotation["image_id"] - 1, annotation["category_id"] - 1] = True
    levels = dict(zip(coverage.index, coverage.to_numpy(), strict=True))
    for image, holds in zip(images, present, strict=True):
        if image["image_id"] in levels:
            image |= coverage_keys(levels[image["image_id"]], holds, category_ids)


def _annotation_entries(
    images: Sequence[CocoImage], boxes: pd.DataFrame, labels: Sequence[str]
) -> list[dict[str, Any]]:
    number_of = {image.image_id: number for number, image in enumerate(images)}
    category_of = {name: number for number, name in enumerate(labels, start=1)}
    kept = boxes[boxes["class_name"].isin(labels) & boxes["image_id"].isin(number_of)]
    kept = kept.assign(image=kept["image_id"].map(number_of), category=kept["class_name"].map(category_of))
    kept = kept.sort_values(["image", "category", *XYXY_COLUMNS], kind="stable")
    sizes_whwh = np.array([(image.width, image.height) * 2 for image in images]).reshape(-1, 4)
    clipped = np.clip(kept[XYXY_COLUMNS].to_numpy(np.float64), 0, sizes_whwh[kept["image"].to_numpy(np.int64)])
    likely = np.maximum(np.round(kept.get("confidence", pd.Series(dtype=float)), DECIMALS), 10.0**-DECIMALS)
    scores = [{"score": value} for value in likely.tolist()] or [{}] * len(kept)
    spreads = [
        {} if spread is None else {"corner_spread": np.round(spread, DECIMALS).tolist()}
        for spread in kept.get("corner_spread", [None] * len(kept))
    ]
    readers = [{"readers": list(names)} for names in kept["readers"]] if "readers" in kept else [{}] * len(kept)
    regions = is_region(kept).astype(int).tolist()
    return [
        {
            "id": number,
            "image_id": image + 1,
            "category_id": category,
            "bbox": bbox_xywh,
            "area": round(bbox_xywh[2] * bbox_xywh[3], DECIMALS),
            "iscrowd": region,
            "votes": votes,
            **score,
            **spread,
            **names,
        }
        for number, (image, category, votes, region, bbox_xywh, score, spread, names) in enumerate(
            zip(
                kept["image"].tolist(),
                kept["category"].tolist(),
                kept["votes"].tolist(),
                regions,
                np.round(xyxy_to_xywh(clipped), DECIMALS).tolist(),
                scores,
                spreads,
                readers,
                strict=True,
            ),
            start=1,
        )
    ]
