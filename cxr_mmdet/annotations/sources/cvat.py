"""CVAT for images 1.1: one XML file per job or task, whose assignee is the reader; images may lie beside it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat, annotation_files, read_head
from cxr_mmdet.annotations.sources.geometry import points_extent
from cxr_mmdet.annotations.sources.tool_records import (
    SPLITS,
    Record,
    classes_of,
    images_beside,
    left_out,
    mask_extent,
    numbers_of,
    read_xml,
    refuse_twins,
    source_of_records,
    turned_ellipse,
    turned_extent,
)
from cxr_mmdet.annotations.table import ONE_READER, SIZE_COLUMNS, is_region
from cxr_mmdet.errors import TableError
from cxr_mmdet.files import atomic_path
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.labels import NO_FINDING, is_no_finding
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IGNORED = frozenset({"ignore", "ignored", "ignore region", "iscrowd", "is_crowd"})
"""Labels, and attributes that are set, of regions to ignore; in lower case."""

_REGION_ATTRIBUTE = {
    "name": "iscrowd",
    "mutable": "False",
    "input_type": "checkbox",
    "default_value": "false",
    "values": "false",
}
_HEAD = re.compile(r"\s*<(?:[^{]*<)?annotations>")


def recognise(place: Path) -> Path | None:
    """Return CVAT's file, or ``place`` itself where it holds several, one per job."""
    found = _files(place)
    return found[0] if len(found) == 1 else place if found else None


def read(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of one file, or of all files in a folder; polygons, ellipses and masks become their extent.

    Raises:
        TableError: not such files, or two of them are of one reader and one image.
    """
    records: list[Record] = []
    classes: dict[str, None] = {}
    others, split = Counter[str](), {}
    files: dict[str, Path | None] = {}
    names: dict[str, str] = {}
    read_in: dict[tuple[str, str], str] = {}
    for file in _files(path):
        root = read_xml(file)
        if root.find("track") is not None:
            raise TableError(f"{file}: is CVAT for video, which radiographs are not; export as CVAT for images 1.1.")
        classes |= dict.fromkeys(_texts(root, "meta/*/labels/label/name"))
        readers = _assignees(root)
        images = root.findall("image")
        refuse_twins(((image_id_of(image.get("name", "")), image.get("name")) for image in images), file, "image")
        for image in images:
            name = image.get("name", "")
            image_id = image_id_of(name)
            if not image_id:
                raise TableError(f"{file}: an image has no name; expected the name of its file.")
            if names.setdefault(image_id, name) != name:
                refuse_twins([(image_id, names[image_id]), (image_id, name)], file, "image")
            reader = readers.get(image.get("task_id", ""), readers[""])
            earlier = read_in.setdefault((image_id, reader), file.name)
            if earlier != file.name:
                raise TableError(
                    f"{file}: image {name} by reader {reader} stands in {earlier} too; expected one reading of an "
                    "image by a reader, so assign the jobs to their readers in CVAT, or remove one file."
                )
            files[image_id] = options.images.find(name)
            if side := SPLITS.get(image.get("subset", "").lower()):
                split[image_id] = side
            place = name if file == path else f"{name} of {file.name}"
            records += _records(image, Record(image_id, NO_FINDING, place, reader=reader), file, classes, others)
    return source_of_records(
        path,
        records,
        options,
        classes=[name for name in classes if name.lower() not in IGNORED],
        unit="image",
        notes=left_out(others, path),
        split=split or None,
        images=images_beside(options.images, files),
    )


def write(source: Source, out: Path) -> dict[str, str]:
    """Write annotations.xml, one per reader where there are several, and return where images belong."""
    readers = source.rows["reader"].unique().tolist()
    split = source.split or {}
    for number, reader in enumerate(readers, start=1):
        own = source.rows[source.rows["reader"] == reader]
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
        ElementTree.SubElement(ElementTree.SubElement(task, "assignee"), "username").text = reader
        labels = ElementTree.SubElement(task, "labels")
        for name in classes_of(source):
            label = ElementTree.SubElement(labels, "label")
            ElementTree.SubElement(label, "name").text = name
            if is_region(source.rows).any():
                attribute = ElementTree.SubElement(ElementTree.SubElement(label, "attributes"), "attribute")
                for key, text in _REGION_ATTRIBUTE.items():
                    ElementTree.SubElement(attribute, key).text = text
        for index, (image_id, rows) in enumerate(own.groupby("image_id", sort=False)):
            height, width = (int(value) for value in rows[SIZE_COLUMNS].iloc[0])
            image = ElementTree.SubElement(
                root, "image", id=str(index), name=f"{image_id}.png", width=str(width), height=str(height)
            )
            if image_id in split:
                image.set("subset", split[str(image_id)])
            for row, region in zip(rows.itertuples(index=False), is_region(rows), strict=True):
                if row.class_name == NO_FINDING:
                    continue
                corners = (repr(float(getattr(row, column))) for column in XYXY_COLUMNS)
                box = ElementTree.SubElement(image, "box", label=row.class_name, source="manual", occluded="0")
                box.attrib |= dict(zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True)) | {"z_order": "0"}
                if region:
                    ElementTree.SubElement(box, "attribute", name="iscrowd").text = "true"
        ElementTree.indent(root)
        name = "annotations.xml" if len(readers) == 1 else f"annotations_{number}.xml"
        with atomic_path(out / name) as temporary:
            ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)
    return {image_id: f"images/{image_id}.png" for image_id in (*source.rows["image_id"].unique(), *source.unread)}


def _files(place: Path) -> list[Path]:
    return [path for path in annotation_files(place, [".xml"]) if _HEAD.match(read_head(path, 2000))]


def _texts(root: ElementTree.Element, where: str) -> list[str]:
    return [element.text.strip() for element in root.findall(where) if element.text and element.text.strip()]


def _assignees(root: ElementTree.Element) -> dict[str, str]:
    """Return the reader by task id, and under an empty id that of the whole file."""
    found = {"": next(iter(_texts(root, "meta/*/assignee/username")), ONE_READER)}
    for task in root.findall("meta/project/tasks/task"):
        found[task.findtext("id", "").strip()] = next(iter(_texts(task, "assignee/username")), ONE_READER)
    return found


def _records(
    image: ElementTree.Element, empty: Record, file: Path, classes: dict[str, None], others: Counter[str]
) -> list[Record]:
    """Return the records of one image element; ``empty`` says that it holds nothing."""
    where = f"{file}, image {image.get('name')}"
    height, width = numbers_of([image.get("height", 0), image.get("width", 0)], where, "its size")
    records = []
    for shape in image:
        label = (shape.get("label") or "").strip()
        if shape.get("outside") == "1":
            continue
        if shape.tag == "tag" and is_no_finding(label):
            records.append(empty)
            continue
        box = _box(shape, where)
        if box is None:
            others[shape.tag if shape.tag != "tag" else f"tag {label}"] += 1
            continue
        set_attributes = {
            each.get("name", "").lower()
            for each in shape.findall("attribute")
            if (each.text or "").lower() in ("true", "1")
        }
        named = label.lower() in IGNORED
        # A region of no class is ignored for each.
        for name in (
            [each for each in classes if each.lower() not in IGNORED and not is_no_finding(each)] if named else [label]
        ):
            is_ignored = named or bool(set_attributes & IGNORED)
            records.append(empty._replace(class_name=name, box_xyxy=box, is_region=is_ignored, size_hw=(height, width)))
    return records or [empty._replace(size_hw=(height, width))]


def _box(shape: ElementTree.Element, where: str) -> Sequence[float] | None:
    """Return the box around a shape; None for what is no region."""

    def numbers(*keys: str) -> list[float]:
        return numbers_of([shape.get(key) for key in keys], where, f"a {shape.tag}")

    turn = float(shape.get("rotation") or 0)
    if shape.tag == "box":
        box = numbers("xtl", "ytl", "xbr", "ybr")
        return turned_extent(box, turn, [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    if shape.tag in ("polygon", "polyline"):
        return points_extent(numbers_of(re.split("[,;]", shape.get("points", "")), where, f"a {shape.tag}"))
    if shape.tag == "ellipse":
        return turned_ellipse(numbers("cx", "cy"), numbers("rx", "ry"), turn)
    if shape.tag == "mask":
        left, top, width, height = numbers("left", "top", "width", "height")
        runs = [int(run) for run in numbers_of(shape.get("rle", "").split(","), where, "a mask")]
        # Runs alternate between background, which comes first, and the mask.
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        if len(flat) != width * height:
            raise TableError(f"{where}: a mask has {len(flat)} pixels, expected {width:g} x {height:g}.")
        inner = mask_extent(flat.reshape(int(height), int(width)))
        return inner and [inner[0] + left, inner[1] + top, inner[2] + left, inner[3] + top]
    return None


FORMAT = SourceFormat(
    name="cvat",
    title="CVAT for images 1.1",
    recognise=recognise,
    read=read,
    write=write,
    keeps=frozenset({"readers", "regions", "split"}),
    coverage_rule="An image element is a reading of all labels, also an empty one (the file does not tell a frame that "
    "nobody opened, so export finished jobs); an image without one, such as a deleted frame, was read by nobody.",
    looks_for="an .xml file with <annotations> and <image> elements",
)
