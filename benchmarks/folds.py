"""Parts of a prepared folder that a benchmark trains and scores on: folds of patients, and shares of the labels."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_mmdet.annotations.split import order_of_groups, stratified_folds
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.preparation.folder import MANIFEST_NAME
from cxr_mmdet.preparation.near_duplicates import NearDuplicates
from cxr_mmdet.preparation.splitting import join_near_duplicates
from cxr_mmdet.structures.coco import read_coco, read_json, write_coco

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Part:
    """Training and validation images of one training.

    Attributes:
        data_root: a prepared folder.
        fold: number of the fold that validates, from 1; 0 for the folder's own split.
        label_share: share of the training patients that are kept.
    """

    data_root: Path
    fold: int = 0
    label_share: float = 1.0

    @property
    def folder(self) -> str:
        """Folder of its trainings within the contestant's, such as ``fold_2/share_0.3``; empty for the whole data."""
        names = [f"fold_{self.fold}"] * bool(self.fold) + [f"share_{self.label_share:g}"] * (self.label_share < 1)
        return "/".join(names)


def parts_of(
    data: Path, out: Path, *, folds: int | None, fold_seed: int = 0, only: Iterable[int] = (), label_share: float = 1.0
) -> list[Part]:
    """Return the parts of a prepared folder, written to ``out`` as prepared folders that link to its images.

    Args:
        data: a prepared folder.
        out: gets a folder per part.
        folds: how many; None keeps the folder's own split.
        fold_seed: of the folds and of the patients that a share keeps.
        only: the folds to return, from 1; all by default.
        label_share: share of the training patients to keep, of those with and of those without boxes alike. A smaller
            share is part of a larger one.

    Raises:
        UsageError: a fold that does not exist is asked for, or a part's folder holds something else.
        DatasetError: the folder has no training or no validation images.
    """
    numbers = list(range(1, folds + 1)) if folds else [0]
    chosen = sorted(set(only)) or numbers
    if not set(chosen) <= set(numbers):
        expected = f"numbers from 1 to {folds}" if folds else "--folds K beside it"
        raise UsageError(f"--fold-only {chosen[-1] if folds else chosen[0]}: no such fold; expected {expected}.")
    parts = [Part(data, fold, label_share) for fold in chosen]
    return [part if not part.folder else _written(part, out / part.folder, folds, fold_seed) for part in parts]


def _written(part: Part, root: Path, folds: int | None, seed: int) -> Part:
    files = {path: path.with_name(path.name.replace("train_", "val_", 1)) for path in _train_files(part.data_root)}
    for path in files.values():
        if not path.is_file():
            raise DatasetError(f"{part.data_root}: has no {path.name}; expected a folder split by prepare_data.")
    splits = {path.name: [read_coco(file) for file in (path, val)] for path, val in files.items()}
    if folds:
        wholes = {name: _joined(*split) for name, split in splits.items()}
        val_ids = _fold(wholes.values(), _near_duplicates(part.data_root), folds, seed, part.fold)
        splits = {
            name: [
                _of_images(whole, [image for image in whole["images"] if (image["image_id"] in val_ids) == validates])
                for validates in (False, True)
            ]
            for name, whole in wholes.items()
        }
    written: dict[str, dict[str, Any]] = {}
    for path, val in files.items():
        train_coco, val_coco = splits[path.name]
        written |= {path.name: _share(train_coco, part.label_share, seed), val.name: val_coco}
    write_part(part.data_root, root, written)
    return Part(root, part.fold, part.label_share)


def write_part(data: Path, root: Path, files: Mapping[str, dict[str, Any]]) -> None:
    """Write a prepared folder that links to the images of ``data``; one that is there already must be the same.

    Args:
        data: a prepared folder.
        root: the folder to write. Trainings of another process may read it, so nothing in it is changed.
        files: COCO files by name.

    Raises:
        UsageError: it holds other images or annotations.
    """
    folder, link, target = root / "annotations", root / "images", (data / "images").resolve()
    known = {path.name: path for path in folder.glob("*.json")}
    same = known.keys() <= files.keys() and all(read_json(path) == files[name] for name, path in known.items())
    if not same or (link.is_symlink() and link.readlink() != target):
        raise UsageError(
            f"{root}: holds other data, folds or label sets than asked for, and a training may be reading it; name "
            "another folder by --out, or remove this one if none does."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(target)
    for name in files.keys() - known.keys():
        write_coco(folder / name, files[name])


def _train_files(data: Path) -> list[Path]:
    files = sorted(data.glob("annotations/train_*.json"))
    if not files:
        raise DatasetError(f"{data}: has no annotations/train_<labels>.json; expected a prepared folder.")
    return files


def _group(image: dict[str, Any]) -> str:
    return str(image.get("group", image["image_id"]))


def _near_duplicates(data: Path) -> list[NearDuplicates]:
    """Return the near-identical images that preparation found, unless it was told to let them stand on both sides."""
    path = data / MANIFEST_NAME
    manifest = read_json(path) if path.is_file() else {}
    if manifest.get("parameters", {}).get("allow_duplicates"):
        return []
    return [NearDuplicates(pair["first"], pair["second"], 0) for pair in manifest.get("near_identical", ())]


def _fold(
    wholes: Iterable[dict[str, Any]], near_duplicates: Iterable[NearDuplicates], folds: int, seed: int, fold: int
) -> frozenset[str]:
    """Return the images that a fold validates on: patients are whole in all label sets, near-identical images too."""
    labels: dict[str, set[str]] = {}
    group_of: dict[str, str] = {}
    for place, coco in enumerate(wholes):
        names = {image["id"]: image["image_id"] for image in coco["images"]}
        group_of |= {image["image_id"]: _group(image) for image in coco["images"]}
        if place == 0:  # their classes overlap, and one set spreads them
            for box in coco["annotations"]:
                labels.setdefault(names[box["image_id"]], set()).add(str(box["category_id"]))
    pairs = [pair for pair in near_duplicates if pair.first in group_of and pair.second in group_of]
    return stratified_folds(join_near_duplicates(group_of, pairs), labels, folds, seed)[fold - 1]


def _share(coco: dict[str, Any], share: float, seed: int) -> dict[str, Any]:
    """Return the images of a share of the patients, of those with and without boxes alike."""
    boxed = {box["image_id"] for box in coco["annotations"]}
    with_boxes = {_group(image) for image in coco["images"] if image["id"] in boxed}
    without = {_group(image) for image in coco["images"]} - with_boxes
    kept = {
        group for side in (with_boxes, without) for group in order_of_groups(side, seed)[: math.ceil(share * len(side))]
    }
    return _of_images(coco, [image for image in coco["images"] if _group(image) in kept])


def _joined(train: dict[str, Any], val: dict[str, Any]) -> dict[str, Any]:
    """Return both files' images and boxes, numbered anew, in the order of the images' names."""
    parts = [(image["image_id"], image, side) for side in (train, val) for image in side["images"]]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    boxes: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for side in (train, val):
        for box in side["annotations"]:
            boxes.setdefault((id(side), box["image_id"]), []).append(box)
    for number, (_, image, side) in enumerate(sorted(parts, key=lambda part: part[0]), start=1):
        images.append(image | {"id": number})
        for box in boxes.get((id(side), image["id"]), ()):
            annotations.append(box | {"id": len(annotations) + 1, "image_id": number})
    return train | {"images": images, "annotations": annotations}


def _of_images(coco: dict[str, Any], images: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = {image["id"] for image in images}
    return coco | {
        "images": images,
        "annotations": [box for box in coco["annotations"] if box["image_id"] in numbers],
    }
