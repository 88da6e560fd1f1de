"""Label Studio's JSON export, which unlike its other exports keeps readers and tasks that nobody finished."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np

from cxr_mmdet.annotations.coverage import coverage_frame
from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat, annotation_files, read_head
from cxr_mmdet.annotations.sources.geometry import points_extent
from cxr_mmdet.annotations.sources.tool_records import (
    NO_BOX,
    PARTIAL_KEYS,
    SPLITS,
    Record,
    boxes_in_fractions,
    classes_of,
    in_pixels,
    left_out,
    mask_extent,
    numbers_of,
    partial_coverage,
    read_xml,
    refuse_twins,
    source_of_records,
    turned_ellipse,
    turned_extent,
)
from cxr_mmdet.annotations.table import ONE_READER, SIZE_COLUMNS, class_names, is_region
from cxr_mmdet.errors import DicomError, TableError
from cxr_mmdet.files import write_json
from cxr_mmdet.structures.coco import NEARLY_ALL, read_json
from cxr_mmdet.structures.labels import NO_FINDING, is_no_finding
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

CONFIG_NAME = "label_config.xml"
"""Labelling interface beside the tasks; it gives the classes their order, and Label Studio's import asks for it."""

ROUNDING = 1.0
"""Per cent by which a region may leave its image; more is another unit."""

PERCENT_DECIMALS = 10
"""Of the per cent written: a millionth of a pixel is kept on any image."""

_HEAD = re.compile(r"\s*\[\s*\{")
_KEYS = ('"completed_by"', '"was_cancelled"', '"annotation_id"', '"file_upload"', '"result"')
_TASK_KEYS = ('"annotations"', '"data"')
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
_SHAPES = (("points",), ("radiusX", "radiusY"), ("rle",), ("x", "y", "width", "height"))


def recognise(place: Path) -> Path | None:
    """Return the first JSON list that holds the keys of Label Studio's tasks."""
    for path in annotation_files(place, [".json"]):
        head = read_head(path)
        if _HEAD.match(head) and (any(key in head for key in _KEYS) or all(key in head for key in _TASK_KEYS)):
            return path
    return None


def read(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of submitted annotations; polygons, ellipses and brush strokes become their extent.

    Raises:
        TableError: not an export of tasks, or values that are no per cent of their image.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise TableError(f"{path}: is no list of Label Studio's tasks; export the project as JSON.")
    if any("annotations" not in task for task in tasks):
        raise TableError(
            f"{path}: has tasks without annotations, as JSON-MIN has, which does not say what was skipped; export the "
            "project as JSON."
        )
    notes: list[str] = []
    image_ids, references = _images(tasks, path)
    records: list[Record] = []
    unread, skipped, others = [], Counter[str](), Counter[str]()
    percents: list[tuple[Any, list[float]]] = []
    split, images = {}, {}
    for number, (task, image_id, reference) in enumerate(zip(tasks, image_ids, references, strict=True), start=1):
        place = task.get("id", number)
        image = options.images.find(reference) or options.images.find(image_id)
        if image is not None:
            images[image_id] = image
        side = SPLITS.get(str(task["data"].get("split", "")).lower())
        if side:
            split[image_id] = side
        readings = _readings(task, f"{path}, task {place}", skipped)
        if not readings:
            unread.append(image_id)
        for reader, result in readings.items():
            found = list(_marks(result, f"{path}, task {place}", image, options, others, percents))
            records += [Record(image_id, name, place, box, reader, region, size) for name, box, region, size in found]
            records += [] if found else [Record(image_id, NO_FINDING, place, reader=reader)]
    _refuse_fractions(percents, path)
    if +skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted((+skipped).items()))
        notes.append(f"annotations that do not count in {path.name}: {kinds}.")
    source = source_of_records(
        path,
        records,
        options,
        classes=_configured_classes(path),
        unit="task",
        notes=(*notes, *left_out(others, path)),
        split=split or None,
        images=images or None,
        unread=tuple(unread),
    )
    return replace(source, coverage=_coverage(tasks, image_ids, source.rows))


def write(source: Source, out: Path) -> dict[str, str]:
    """Write tasks.json and the labelling interface, and return where the images belong."""
    rows, split = source.rows, source.split or {}
    boxes = np.round(100 * boxes_in_fractions(rows), PERCENT_DECIMALS)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {image_id: {} for image_id in rows["image_id"]}
    columns = (rows[name] for name in ("image_id", "reader", "class_name", *SIZE_COLUMNS))
    for image_id, reader, class_name, height, width, (x_min, y_min, x_max, y_max), region in zip(
        *columns, boxes.tolist(), is_region(rows), strict=True
    ):
        result = results[image_id].setdefault(reader, [])
        if class_name != NO_FINDING:
            value = {"x": x_min, "y": y_min, "width": x_max - x_min, "height": y_max - y_min, "rotation": 0}
            result.append(
                {
                    "id": f"{image_id}-{len(result)}",
                    "type": "rectanglelabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": int(width),
                    "original_height": int(height),
                    "image_rotation": 0,
                    "value": {**value, "rectanglelabels": [class_name]},
                    **({"meta": {"iscrowd": 1}} if region else {}),
                }
            )
    tasks = [
        {
            "id": number,
            "data": {
                "image": f"/data/local-files/?d={quote(f'images/{image_id}.png')}",
                **({"split": split[image_id]} if image_id in split else {}),
                **partial_coverage(source, image_id),
            },
            "annotations": [
                {"completed_by": {"email": reader}, "was_cancelled": False, "result": result}
                for reader, result in results.get(image_id, {}).items()
            ],
        }
        for number, image_id in enumerate([*results, *source.unread], start=1)
    ]
    write_json(out / "tasks.json", tasks, indent=1)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in classes_of(source):
        ElementTree.SubElement(labels, "Label", value=name)
    ElementTree.indent(view)
    ElementTree.ElementTree(view).write(out / CONFIG_NAME, encoding="utf-8")
    return {image_id: f"images/{image_id}.png" for image_id in (*results, *source.unread)}


def _images(tasks: Sequence[Mapping[str, Any]], path: Path) -> tuple[list[str], list[str]]:
    """Return the id of each task's image, and the path that it is named by."""
    references = [_reference(task, f"{path}, task {task.get('id', number)}") for number, task in enumerate(tasks, 1)]
    names = [PurePosixPath(reference).name for reference in references]
    # The server puts eight hexadecimal digits before the name of a file that is uploaded.
    plain = [
        image_id_of(name[uploaded.end() :] if "upload" in reference and (uploaded := _UPLOADED.match(name)) else name)
        for name, reference in zip(names, references, strict=True)
    ]
    counts = Counter(plain)
    image_ids = [short if counts[short] == 1 else image_id_of(name) for short, name in zip(plain, names, strict=True)]
    refuse_twins(
        zip(image_ids, (task.get("id", number) for number, task in enumerate(tasks, 1)), strict=True), path, "task"
    )
    return image_ids, references


def _reference(task: Mapping[str, Any], where: str) -> str:
    data = task.get("data")
    if not isinstance(data, dict):
        raise TableError(f"{where}: has no data; expected the image's address there.")
    candidates = [
        value for value in (data.get("image"), *data.values(), task.get("file_upload")) if isinstance(value, str)
    ]
    paths = [_path_in(value) for value in candidates]
    found = next((path for path in paths if image_id_of(path) != PurePosixPath(path).name), None) or next(
        iter(paths), ""
    )
    if not PurePosixPath(found).name:
        raise TableError(f"{where}: names no image; expected its address in data, such as upload/1/0123abcd-name.png.")
    return found


def _path_in(address: str) -> str:
    """Return the path of an address: of an upload, of local files (``?d=…``), of a bucket, or a plain path."""
    if "?" in address or "://" in address:
        parts = urlsplit(address)
        address = next(iter(parse_qs(parts.query).get("d", [])), parts.path)
    return unquote(address).replace("\\", "/")


def _readings(task: Mapping[str, Any], where: str, skipped: Counter[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the result of each reader who submitted one, the last where there are several."""
    found: dict[str, list[dict[str, Any]]] = {}
    skipped["predictions of models"] += len(task.get("predictions") or ())
    for annotation in sorted(
        task["annotations"], key=lambda each: str(each.get("updated_at") or each.get("created_at"))
    ):
        if annotation.get("was_cancelled"):
            skipped["skipped by the reader"] += 1
            continue
        result = annotation.get("result")
        if not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
            raise TableError(f"{where}: an annotation has no list `result`; export the project as JSON.")
        by = annotation.get("completed_by")
        if isinstance(by, dict):
            by = by.get("email") or by.get("username") or by.get("id")
        reader = ONE_READER if by is None else str(by)
        skipped["replaced by a later one of the same reader"] += reader in found
        found[reader] = result
    return found


def _marks(
    result: Sequence[Mapping[str, Any]],
    where: str,
    image: Path | None,
    options: ReadOptions,
    others: Counter[str],
    percents: list[tuple[Any, list[float]]],
) -> Iterator[tuple[str, Sequence[float], bool, tuple[float, float]]]:
    """Yield class, box in pixels, whether it is a region to ignore, and the image's size of each labelled region."""
    labelled = {item.get("id") for item in result if _labels(item)}
    for item in result:
        value, labels = item.get("value") or {}, _labels(item)
        shape = next((keys for keys in _SHAPES if all(key in value for key in keys)), None)
        if shape is None:
            if item.get("type") == "choices" and any(is_no_finding(str(name)) for name in value.get("choices", ())):
                yield NO_FINDING, NO_BOX, False, (0, 0)
            else:
                others[f"{item.get('type')}, which is no region"] += 1
            continue
        if not labels:
            others["region without a label"] += item.get("id") not in labelled
            continue
        if item.get("image_rotation"):
            raise TableError(
                f"{where}: its image was turned by {item['image_rotation']}°; turn it back in Label Studio."
            )
        size_hw = _size_hw(item, where, image, options)
        box = _extent_of(value, shape, size_hw, where, percents)
        if box is None:
            others["empty brush stroke"] += 1
            continue
        is_ignored = bool((item.get("meta") or {}).get("iscrowd"))
        yield from ((str(name), box, is_ignored, size_hw) for name in labels)


def _labels(item: Mapping[str, Any]) -> list[Any]:
    """Return the labels of a region; a Rectangle with separate Labels has them in an item of type ``labels``."""
    labels = (item.get("value") or {}).get(item.get("type"))
    return labels if isinstance(labels, list) and str(item.get("type")).endswith("labels") else []


def _size_hw(item: Mapping[str, Any], where: str, image: Path | None, options: ReadOptions) -> tuple[float, float]:
    stated = item.get("original_height"), item.get("original_width")
    if all(isinstance(side, int | float) and side > 0 for side in stated):
        return stated[0], stated[1]  # type: ignore[return-value]
    try:
        if image is not None:
            return options.images.size_hw(image)
    except DicomError:
        pass
    raise TableError(
        f"{where}: a region has neither original_width and original_height nor an image here, so its per cent are of "
        "an unknown size; add the image."
    )


def _extent_of(
    value: Mapping[str, Any],
    shape: tuple[str, ...],
    size_hw: tuple[float, float],
    where: str,
    percents: list[tuple[Any, list[float]]],
) -> list[float] | None:
    """Return the box around a region in pixels, from per cent of the image; None for a brush that painted nothing."""
    height, width = size_hw
    if shape == ("rle",):
        mask = _brush(value["rle"], (int(height), int(width)), where)
        return mask_extent(mask)
    scale = np.array([width, height]) / 100
    numbers = [value[key] for key in shape] if shape != ("points",) else [n for point in value["points"] for n in point]
    numbers = numbers_of(numbers, where, "a region")
    turn = float(value.get("rotation") or 0)
    if shape == ("radiusX", "radiusY"):
        centre = numbers_of([value.get("x"), value.get("y")], where, "an ellipse")
        box = turned_ellipse(centre * scale, numbers * scale, turn)
    elif shape == ("points",):
        box = list(points_extent(np.reshape(numbers, (-1, 2)) * scale))
    else:
        percents.append((where, numbers))
        corner, far = np.array(numbers[:2]) * scale, (np.array(numbers[:2]) + numbers[2:]) * scale
        box = turned_extent([*corner.tolist(), *far.tolist()], turn, corner)
    if max(numbers) > 100 + ROUNDING or (turn == 0 and max(box[2] / width, box[3] / height) > 1 + ROUNDING / 100):
        shown = ", ".join(f"{number:g}" for number in numbers[:4])
        raise TableError(
            f"{where}: a region at {shown} goes beyond 100 % of its image; expected per cent of original_width and "
            "original_height, not pixels."
        )
    return in_pixels(np.array(box) / [width, height, width, height], size_hw)


def _brush(rle: Sequence[int], size_hw: tuple[int, int], where: str) -> np.ndarray:
    """Return the mask of a brush stroke, shape (H, W), from runs of bits as Label Studio packs RGBA images.

    The head holds the number of values (32 bits), the bits of a value less one (5) and of four kinds of lengths less
    one (4 each). A run begins with a bit that tells repeats from literals, the kind (2) and its length less one.
    """
    bits = np.unpackbits(np.array(rle, dtype=np.uint8)).tolist()
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise TableError(f"{where}: a brush stroke is cut off; export the project again.")
        return int("".join(map(str, bits[place - count : place])), 2)

    total, word = take(32), take(5) + 1
    if total != size_hw[0] * size_hw[1] * 4:
        raise TableError(
            f"{where}: a brush stroke is of {total // 4:,} pixels, its image is {size_hw[1]} x {size_hw[0]}."
        )
    kinds = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    lengths: list[int] = []
    filled = 0
    while filled < total:
        repeats = take(1)
        length = take(kinds[take(2)]) + 1
        filled += length
        values += [take(word) for _ in range(1 if repeats else length)]
        lengths += [length] if repeats else [1] * length
    return np.repeat(np.array(values, dtype=np.uint8), lengths)[:total].reshape(*size_hw, 4)[..., 3] > 0


def _refuse_fractions(percents: Sequence[tuple[str, Sequence[float]]], path: Path) -> None:
    """Refuse rectangles that nearly all lie within the first per cent: they are fractions."""
    tiny = [where for where, numbers in percents if max(numbers) <= 1]
    if tiny and len(tiny) >= NEARLY_ALL * len(percents):
        raise TableError(f"{tiny[0]}: its regions look normalised to 0…1, expected per cent; multiply them by 100.")


def _configured_classes(path: Path) -> list[str]:
    config = path.with_name(CONFIG_NAME)
    return [str(label.get("value")) for label in read_xml(config).iter("Label")] if config.is_file() else []


def _coverage(tasks: Sequence[Mapping[str, Any]], image_ids: Sequence[str], rows: pd.DataFrame) -> pd.DataFrame | None:
    """Return what tasks that :func:`write` made say of classes that nobody looked for."""
    stated = {
        (image_id, name): kind
        for image_id, task in zip(image_ids, tasks, strict=True)
        for key, kind in PARTIAL_KEYS.items()
        for name in task["data"].get(key) or ()
    }
    if not stated:
        return None
    columns = dict.fromkeys([*class_names(rows), *(name for _, name in stated)])
    coverage = coverage_frame(rows["image_id"].unique().tolist(), list(columns))
    for (image_id, name), kind in stated.items():
        if image_id in coverage.index:
            coverage.loc[image_id, name] = kind
    return coverage


FORMAT = SourceFormat(
    name="labelstudio",
    title="Label Studio export",
    recognise=recognise,
    read=read,
    write=write,
    keeps=frozenset({"readers", "regions", "coverage", "split"}),
    coverage_rule="A submitted annotation is a reading of all labels, also where its result is empty; a task "
    "without one, or whose annotations were all skipped, was read by nobody.",
    looks_for="a .json list of tasks with annotations, beside the uploaded images",
)
