"""YOLO trees: label files beside images, and data.yaml (or a list of classes) as Ultralytics reads them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet.annotations.sources.base import (
    ImageFinder,
    ReadOptions,
    Source,
    SourceFormat,
    annotation_files,
    read_head,
)
from cxr_mmdet.annotations.sources.geometry import points_extent
from cxr_mmdet.annotations.sources.tool_records import (
    SPLITS,
    Record,
    boxes_in_fractions,
    classes_of,
    in_pixels,
    numbers_of,
    read_lines,
    refuse_twins,
    source_of_records,
)
from cxr_mmdet.annotations.table import is_region
from cxr_mmdet.errors import DicomError, TableError, counted
from cxr_mmdet.structures.labels import NO_FINDING, is_no_finding
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

YAML = (".yaml", ".yml")
CLASS_LISTS = ("classes.txt", "obj.names")
"""Lists of classes without data.yaml: of labelImg and Label Studio, and of Darknet and CVAT."""

_KEY = re.compile(r"^(names|nc|train|val)\s*:", re.MULTILINE)
_LABEL = re.compile(r"\d+( [\d.]+){4,}\s")
_ROUNDING = 0.01
"""Fraction by which a coordinate may leave 0…1, as for Ultralytics."""


def recognise(place: Path) -> Path | None:
    """Return the data.yaml of a tree, else its list of classes."""
    for path in annotation_files(place, YAML, depth=1):
        if len(set(_KEY.findall(read_head(path)))) >= 2:
            return path
    lists = [path for path in annotation_files(place, CLASS_LISTS, depth=1) if path.name in CLASS_LISTS]
    labels = (path for path in annotation_files(lists[0].parent, (".txt",)) if path not in lists) if lists else ()
    return lists[0] if any(_LABEL.match(read_head(path, 200)) for path in labels) else None


def read(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of a tree; what was drawn as a polygon becomes its extent.

    Raises:
        TableError: classes are missing, or a label file holds something else than fractions of its image.
    """
    notes: list[str] = []
    config = _read_config(path) if path.suffix.lower() in YAML else {"names": [n for n in read_lines(path) if n]}
    names = _class_names(config, path)
    split, listed = _sides(config, path, options.images, notes)
    root = path.parent
    refuse_twins(((image_id_of(image), _shown(image, root)) for image in listed), root, "image")
    by_id = {image_id_of(image): image for image in listed}
    records: list[Record] = []
    unread, unknown_size, used = [], [], set()
    for image_id, image in by_id.items():
        labels = _label_file(image)
        if labels is None:
            unread.append(image_id)
            continue
        used.add(labels)
        try:
            size_hw = options.images.size_hw(image)
        except DicomError as error:
            unknown_size.append(str(error))
            continue
        found = list(_boxes(labels, names, size_hw, has_keypoints="kpt_shape" in config))
        place = _shown(labels, root)
        records += [
            Record(image_id, name, f"{place}, line {line}", box, size_hw=size_hw) for line, name, box in found
        ] or [Record(image_id, NO_FINDING, place, size_hw=size_hw)]
    orphans = {file for folder in {each.parent for each in used} for file in folder.glob("*.txt")} - used
    orphans = {file for file in orphans if file.name not in (*CLASS_LISTS, *(f"{side}.txt" for side in SPLITS))}
    if orphans:
        notes.append(
            f"{counted(len(orphans), 'label file')} without an image left out, such as {_shown(min(orphans), root)}."
        )
    if unknown_size:
        notes.append(f"the labels of {counted(len(unknown_size), 'image')} left out, such as of {unknown_size[0]}.")
    return source_of_records(
        path,
        records,
        options,
        classes=names,
        unit="label file",
        notes=notes,
        split=split,
        # The radiographs themselves where the tree belongs to some, else its own images.
        images={name: options.images.find(name) or image for name, image in by_id.items()} or None,
        unread=tuple(unread),
    )


def write(source: Source, out: Path) -> dict[str, str]:
    """Write data.yaml and label files, and return where the images belong."""
    import yaml

    names, split = classes_of(source), source.split or {}
    folders = {side: f"images/{side}" for side in ("train", "val", "test") if side in split.values()}
    # Ultralytics asks for both sides; images of one folder have no split.
    both = {side: folders.get(side, "images/train") for side in ("train", "val")}
    config = {"path": ".", **both, **folders, "names": dict(enumerate(names))}
    (out / "data.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    lines: dict[str, list[str]] = {image_id: [] for image_id in source.rows["image_id"]}
    rows = source.rows[(source.rows["class_name"] != NO_FINDING) & ~is_region(source.rows)]
    for image_id, name, (x_min, y_min, x_max, y_max) in zip(
        rows["image_id"], rows["class_name"], boxes_in_fractions(rows).tolist(), strict=True
    ):
        box = ((x_min + x_max) / 2, (y_min + y_max) / 2, x_max - x_min, y_max - y_min)
        lines[image_id].append(" ".join([str(names.index(name)), *(f"{value:.12g}" for value in box)]))
    for image_id, own in lines.items():
        path = out / "labels" / split.get(image_id, "train") / f"{image_id}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in own), encoding="utf-8")
    return {image_id: f"images/{split.get(image_id, 'train')}/{image_id}.png" for image_id in (*lines, *source.unread)}


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load("\n".join(path.read_text(encoding="utf-8-sig").splitlines()))
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: is not UTF-8 text ({error.reason}); save it in UTF-8.") from None
    except yaml.YAMLError as error:
        raise TableError(f"{path}: is not YAML ({' '.join(str(error).split())}); correct it.") from None
    if not isinstance(config, dict):
        raise TableError(f"{path}: holds no keys; expected train, val and names.")
    return config


def _class_names(config: Mapping[str, Any], path: Path) -> list[str]:
    names = config.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise TableError(f"{path}: names has the keys {list(names)}; expected 0 to {len(names) - 1}, each once.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise TableError(
            f"{path}: names no classes; add `names:` with one name per class, in the order of their numbers."
        )
    names = [str(name).strip() for name in names]
    twice = [name for name, count in Counter(names).items() if count > 1 or not name]
    if twice:
        raise TableError(f"{path}: names holds {twice[0]!r} more than once; expected each class under its own name.")
    if config.get("nc", len(names)) != len(names):
        raise TableError(f"{path}: nc is {config['nc']}, but names holds {len(names)} classes; correct one of them.")
    return names


def _sides(
    config: Mapping[str, Any], path: Path, images: ImageFinder, notes: list[str]
) -> tuple[dict[str, str] | None, list[Path]]:
    """Return image id → side where the tree has a split of its own, and all images."""
    sides: dict[str, list[Path]] = {}
    for key, entry in config.items():
        if key in SPLITS and entry:
            found = list(_images_of(entry, config, path, images, key, notes))
            if found or SPLITS[key] != "test":
                sides[SPLITS[key]] = list(dict.fromkeys(found))
    if not sides:
        return None, list(images.files)
    listed = list(dict.fromkeys(image for side in sides.values() for image in side))
    shared = set(sides.get("train", ())) & {p for side in ("val", "test") for p in sides.get(side, ())}
    if len(sides) == 1 or (shared and set(sides.get("train", ())) == set(listed)):
        return None, listed
    if shared:
        raise TableError(
            f"{path}: {counted(len(shared), 'image')} both in train and in val or test, such as "
            f"{_shown(min(shared), path.parent)}; expected each image on one side."
        )
    return {image_id_of(image): side for side in sides for image in sides[side]}, listed


def _images_of(
    entry: Any, config: Mapping[str, Any], path: Path, images: ImageFinder, key: str, notes: list[str]
) -> Iterator[Path]:
    """Yield the images of a folder, of a list in a text file, or of several of these."""
    for each in entry if isinstance(entry, list) else [entry]:
        place = _resolve(str(each).replace("\\", "/"), str(config.get("path") or ".").replace("\\", "/"), path.parent)
        if place is None:
            if SPLITS[key] == "test":  # Roboflow names it whether or not there is one
                continue
            raise TableError(
                f"{path}: {key} is {each!r}, which does not exist; expected a folder of images or a list of them, "
                f"relative to {path.parent}."
            )
        if place.is_dir():
            inside = ImageFinder(place) if images.root not in (place, *place.parents) else images
            yield from (image for image in inside.files if place in image.parents)
            continue
        found = [(line, images.find(line)) for line in read_lines(place) if line]
        yield from (image for _, image in found if image is not None)
        lost = [line for line, image in found if image is None]
        if lost:
            notes.append(f"{counted(len(lost), 'image')} in {place.name} not found, such as {lost[0]}.")


def _resolve(entry: str, base: str, folder: Path) -> Path | None:
    # Exports name ../train/images although train lies beside data.yaml, and a path of the machine they were made on.
    bases = dict.fromkeys((folder / base, folder))
    places = [root / name for name in dict.fromkeys((entry.removeprefix("../"), entry)) for root in bases]
    found = next((place for place in places if place.exists()), None)
    return found and Path(found.resolve() if ".." in found.parts else found)


def _label_file(image: Path) -> Path | None:
    """Return the label file of an image: under ``labels`` in place of the last ``images``, or beside it."""
    name = f"{image.stem}.txt"
    parts = image.parent.parts
    places = [image.with_name(name)]
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :], name))
    return next((place for place in places if place.is_file()), None)


def _boxes(
    path: Path, names: Sequence[str], size_hw: tuple[int, int], *, has_keypoints: bool
) -> Iterator[tuple[int, str, Sequence[float]]]:
    """Yield line, class and box in pixels of each line of a label file."""
    for line, text in enumerate(read_lines(path), start=1):
        cells = text.split()
        if not cells:
            continue
        where = f"{path}, line {line}"
        if has_keypoints and len(cells) > 5:
            cells = cells[:5]
        if len(cells) != 5 and (len(cells) < 7 or len(cells) % 2 == 0):
            why = "a box with a score, as predictions have" if len(cells) == 6 else counted(len(cells), "number")
            raise TableError(
                f"{where}: holds {why}; expected class x_center y_center width height, or class and a polygon's points."
            )
        number, *values = numbers_of(cells, where, "the line")
        if number not in range(len(names)):
            raise TableError(
                f"{where}: class {cells[0]} is not among the {counted(len(names), 'name')} of the tree; expected 0 to "
                f"{len(names) - 1}."
            )
        name = names[int(number)]
        if is_no_finding(name):  # a class needs a box in this format, whatever it is
            yield line, NO_FINDING, (float("nan"),) * 4
            continue
        beyond = [value for value in values if not -_ROUNDING <= value <= 1 + _ROUNDING]
        if beyond:
            raise TableError(
                f"{where}: {beyond[0]:g} is no fraction of the image; expected 0…1, so divide x by its width and y "
                "by its height."
            )
        if len(values) == 4:
            x, y, width, height = values
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        else:
            box = list(points_extent(values))
        yield line, name, in_pixels(box, size_hw)


def _shown(path: Path, root: Path) -> str:
    return (path.relative_to(root) if root in path.parents else path).as_posix()


FORMAT = SourceFormat(
    name="yolo",
    title="YOLO tree",
    recognise=recognise,
    read=read,
    write=write,
    keeps=frozenset({"split"}),
    coverage_rule="An empty label file is a reading of all classes that found nothing; a missing one says that nobody "
    "read the image, although YOLO trains on it as background.",
    looks_for="data.yaml with names, train and val (or classes.txt), and label files under labels/",
)
