"""Quality with partial labels: one prepared folder filed as hospitals that looked for different classes each.

Contestants train equally many iterations in all: on the hospitals' union with unknown classes left out, on the union
with unknown taken for absent, as one detector per hospital whose detections are united, and on full labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.folds import write_part
from cxr_mmdet.structures.coco import read_coco
from cxr_mmdet.structures.coverage import Coverage, coverage_keys

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

PLAN = "partial:"
HOSPITALS = 3


def plan_partial(contestant: str, data: Path, out: Path, *, labels: str = "14") -> tuple[Path, list[str]]:
    """Return the folder of the hospitals and the contestants that ``partial:RECIPE`` stands for."""
    root = out / "hospitals"
    file_as_hospitals(data, root, labels=labels)
    recipe, *switches = contestant.removeprefix(PLAN).split("+")
    names = ",".join(f"hospital{number}" for number in range(1, HOSPITALS + 1))
    plans = ["@partial", "@partial+unknown_as_absent", f"@{names}", "@full"]
    return root, ["+".join([f"{recipe}{plan}", *switches]) for plan in plans]


def file_as_hospitals(data: Path, out: Path, *, labels: str = "14", seed: int = 0) -> None:
    """Write a prepared folder in which each patient was read by one hospital, for its own classes alone.

    Label sets: ``partial``, all hospitals' images with the boxes and the coverage of each; ``hospital1`` and so on, one
    hospital's images and classes; ``full``, the labels as they were. Validation keeps all labels; of ``hospital1``
    those of its classes.

    Args:
        data: a prepared folder; its images are linked to.
        out: gets the files.
        labels: the label set that is filed.
        seed: of the division of patients.
    """
    train, val = (read_coco(data / "annotations" / f"{split}_{labels}.json") for split in ("train", "val"))
    ids = np.array([category["id"] for category in train["categories"]])
    looked_for = [set(ids[number::HOSPITALS].tolist()) for number in range(HOSPITALS)]
    patients = np.random.default_rng(seed).permutation(sorted({image["group"] for image in train["images"]}))
    hospital_of = {patient: place % HOSPITALS for place, patient in enumerate(patients.tolist())}
    of_image = {image["id"]: hospital_of[image["group"]] for image in train["images"]}

    kept = [each for each in train["annotations"] if each["category_id"] in looked_for[of_image[each["image_id"]]]]
    images = []
    for image in train["images"]:
        covered = np.isin(ids, list(looked_for[of_image[image["id"]]]))
        present = np.isin(ids, [each["category_id"] for each in kept if each["image_id"] == image["id"]])
        coverage = np.where(covered, Coverage.EXHAUSTIVE, Coverage.UNKNOWN).astype(np.int8)
        images.append(image | coverage_keys(coverage, present, ids))

    files = {"train_partial": train | {"images": images, "annotations": kept}, "train_full": train}
    files |= {"val_partial": val, "val_full": val}
    for number, classes in enumerate(looked_for, start=1):
        own = {image_id for image_id, hospital in of_image.items() if hospital == number - 1}
        files[f"train_hospital{number}"] = _part(train, classes, own)
        files[f"val_hospital{number}"] = _part(val, classes, {image["id"] for image in val["images"]})
    write_part(data, out, {f"{name}.json": coco for name, coco in files.items()})


def unite(
    truths: Sequence[dict[str, Any]], found: Sequence[list[dict[str, Any]]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return COCO files of the same images and different classes, and detections of each, as one."""
    joined: dict[str, Any] = truths[0] | {"annotations": [], "categories": []}
    detections = []
    for truth, own in zip(truths, found, strict=True):
        offset = len(joined["categories"])
        for each in truth["annotations"]:
            moved = {"id": len(joined["annotations"]) + 1, "category_id": each["category_id"] + offset}
            joined["annotations"].append(each | moved)
        joined["categories"] += [each | {"id": each["id"] + offset} for each in truth["categories"]]
        detections += [each | {"category_id": each["category_id"] + offset} for each in own]
    return joined, detections


def _part(coco: dict[str, Any], classes: Collection[int], images: Collection[int]) -> dict[str, Any]:
    """Return some classes, numbered from 1, of some images."""
    categories = [category for category in coco["categories"] if category["id"] in classes]
    number_of = {category["id"]: number for number, category in enumerate(categories, start=1)}
    return coco | {
        "images": [image for image in coco["images"] if image["id"] in images],
        "categories": [category | {"id": number_of[category["id"]]} for category in categories],
        "annotations": [
            each | {"category_id": number_of[each["category_id"]]}
            for each in coco["annotations"]
            if each["category_id"] in classes and each["image_id"] in images
        ],
    }
