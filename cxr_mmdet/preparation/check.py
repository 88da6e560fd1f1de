"""Everything that is wrong with a prepared folder, at once."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import cv2

from cxr_mmdet.errors import CxrError, DatasetError, counted
from cxr_mmdet.preparation.annotate import ANNOTATIONS
from cxr_mmdet.preparation.folder import IMAGES, describe_split
from cxr_mmdet.preparation.label_sets import count_split
from cxr_mmdet.preparation.prepared import PreparedFolder, read_manifest
from cxr_mmdet.structures.coco import problems_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPLITS = ("train", "val")


def check_folder(folder: Path) -> list[str]:
    """Return a sentence for each problem; empty when the folder can be trained on.

    Looked at: manifest, readers' boxes, every COCO file, the images they name (there, grey, 8 bit, of the size
    given), images that nobody names, images or groups on both sides, near-identical images on both sides, classes
    that differ between files, and counts that differ from the manifest's.
    """
    try:
        manifest = read_manifest(folder)
    except DatasetError as error:
        return [str(error)]
    problems: list[str] = []
    prepared: PreparedFolder | None = None
    try:
        prepared = PreparedFolder.load(folder)
    except CxrError as error:
        problems.append(str(error))
    else:
        missing = sorted(set(prepared.rows["image_id"]).difference(prepared.images))
        if missing:
            problems.append(
                f"{counted(len(missing), 'image has', 'images have')} readers but no image file, such as {missing[0]}."
            )
    named: dict[str, tuple[int, int]] = {}
    for name, entry in sorted(manifest["label_sets"].items()):
        for part in _parts(folder):
            files = {split: part / f"{split}_{name}.json" for split in SPLITS}
            cocos = {split: _read(path, problems) for split, path in files.items()}
            for split, coco in cocos.items():
                if coco is None:
                    continue
                where = str(files[split].relative_to(folder))
                problems += [f"{where}: {problem}." for problem in problems_of(coco)]
                problems += _label_problems(where, coco, entry)
                if part == folder / ANNOTATIONS:
                    problems += _count_problems(where, coco, entry.get(split))
                named |= {image["file_name"]: (image["height"], image["width"]) for image in _images(coco)}
            where = str((part / f"…_{name}.json").relative_to(folder))
            problems += _leaks(where, cocos["train"], cocos["val"], manifest)
    # Images with none of the labels are dropped where that was asked for, and where none is known; their files stay.
    all_are_named = not manifest["parameters"].get("drop_normals") and (
        prepared is None or prepared.facts.coverage is None
    )
    problems += _image_problems(folder / IMAGES, named, all_are_named=all_are_named)
    return problems


def _parts(folder: Path) -> list[Path]:
    """Return the folder of the COCO files, and those of folds."""
    return [folder / ANNOTATIONS, *sorted(path for path in (folder / ANNOTATIONS).glob("fold*") if path.is_dir())]


def _read(path: Path, problems: list[str]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.parent.name}/{path.name}: no such file, but the manifest names its label set.")
    except (OSError, ValueError) as error:
        problems.append(f"{path.parent.name}/{path.name}: is not JSON ({error}).")
    return None


def _images(coco: Any) -> list[dict[str, Any]]:
    """Return the image entries that say enough to be checked."""
    images = coco.get("images") if isinstance(coco, dict) else None
    keys = ("file_name", "height", "width", "image_id", "group")
    return [image for image in images or [] if isinstance(image, dict) and all(key in image for key in keys)]


def _label_problems(where: str, coco: Any, entry: dict[str, Any]) -> Iterator[str]:
    categories = coco.get("categories") if isinstance(coco, dict) else None
    names = [category.get("name") for category in categories or [] if isinstance(category, dict)]
    if names != entry["labels"]:
        yield f"{where}: its classes are {', '.join(map(str, names))}, but the manifest's {', '.join(entry['labels'])}."


def _count_problems(where: str, coco: Any, expected: dict[str, Any] | None) -> Iterator[str]:
    if expected is None or any(True for _ in problems_of(coco)):
        return
    counts = describe_split(count_split(coco), partial=True)
    for key in ("images", "boxes"):
        if counts[key] != expected[key]:
            yield f"{where}: holds {counts[key]} {key}, but the manifest counts {expected[key]}."
    for name, entry in expected["by_class"].items():
        unknown = counts["by_class"].get(name, entry).get("unknown", 0)
        if unknown != entry.get("unknown", 0):
            yield (
                f"{where}: {name} is unknown on {counted(unknown, 'image')}, but the manifest counts "
                f"{entry.get('unknown', 0)}."
            )


def _leaks(where: str, train: Any, val: Any, manifest: dict[str, Any]) -> Iterator[str]:
    sides: dict[str, dict[str, set[str]]] = {"image": defaultdict(set), "group": defaultdict(set)}
    for split, coco in (("train", train), ("val", val)):
        for image in _images(coco):
            sides["image"][str(image["image_id"])].add(split)
            sides["group"][str(image["group"])].add(split)
    for kind, found in sides.items():
        both = sorted(name for name, where_is in found.items() if len(where_is) > 1)
        if both:
            yield f"{where}: {counted(len(both), f'{kind} stands', f'{kind}s stand')} on both sides, such as {both[0]}."
    if manifest["parameters"].get("allow_duplicates"):
        return
    side = sides["image"]
    for pair in manifest.get("near_identical", []):
        first, second = side.get(pair["first"], set()), side.get(pair["second"], set())
        if first and second and first != second:
            yield f"{where}: {pair['first']} and {pair['second']} are near-identical and stand on different sides."


def _image_problems(folder: Path, named: dict[str, tuple[int, int]], *, all_are_named: bool) -> Iterator[str]:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for name in sorted(named.keys() - there):
        yield f"{folder.name}/{name}: no such file, but a COCO file names it."
    for name in sorted(there & named.keys()):
        # Unchanged, so that a colour image shows as one.
        pixels = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            yield f"{folder.name}/{name}: cannot be decoded."
        elif pixels.ndim != 2 or pixels.dtype.itemsize != 1:
            yield f"{folder.name}/{name}: is {pixels.dtype} of shape {pixels.shape}, expected 8-bit grey."
        elif pixels.shape != named[name]:
            size, said = (f"{width} x {height}" for height, width in (pixels.shape, named[name]))
            yield f"{folder.name}/{name}: is {size}, but its COCO entry says {said}."
    strange = sorted(name for name in there - named.keys() if not name.startswith("."))
    if strange and all_are_named:
        yield f"{folder.name}: {counted(len(strange), 'image')} that no COCO file names, such as {strange[0]}."
