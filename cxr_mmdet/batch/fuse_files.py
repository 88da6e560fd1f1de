"""Fusion of several models' detection files into one; classes are matched by name."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.evaluation.image_level import image_name, p_abnormal_path, read_p_abnormal
from cxr_mmdet.inference.fusion import check_weights, fuse_findings, mean_p_abnormal
from cxr_mmdet.structures.boxes import as_boxes, scale, xywh_to_xyxy
from cxr_mmdet.structures.coco import detections_from_arrays, read_coco, read_detections
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.enums import DetectionFusion
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cxr_mmdet.structures.coco import CocoDict, Detection


def fuse_files(
    files: Sequence[Path],
    annotations: Sequence[Path],
    *,
    method: DetectionFusion = DetectionFusion.WBF,
    iou_threshold: float = 0.5,
    weights: Sequence[float] | None = None,
    notes: list[str] | None = None,
) -> list[Detection]:
    """Return the fused detections, numbered as the first annotation file numbers images and classes.

    Args:
        files: COCO results, one per model.
        annotations: the COCO file that each results file belongs to, or one for all. Images are matched by file name
            and scaled to the first file's size, classes by name.
        method: see :class:`DetectionFusion`.
        iou_threshold: overlap above which detections of two models are fused.
        weights: weights of the models, above 0; equal by default.
        notes: where to append what a user should know although nothing is refused.

    Raises:
        DatasetError: a file that cannot be read, images or classes that do not match.
        UsageError: not one weight per model.
    """
    check_weights(weights, len(files))
    paths = _for_each(files, annotations)
    truths = {path: read_coco(path, strict=False) for path in dict.fromkeys(paths)}
    first = truths[paths[0]]
    images = _by_name(first, paths[0])
    notes = [] if notes is None else notes
    found = [_of_file(file, truths[path], path, images, first, notes) for file, path in zip(files, paths, strict=True)]
    class_names = [category["name"] for category in first["categories"]]
    category_ids = np.array([category["id"] for category in first["categories"]])
    fused: list[Detection] = []
    for image_id in sorted({image["id"] for image in first["images"]}):
        of_image = [entry[image_id] for entry in found]
        one = fuse_findings(of_image, class_names, method=method, iou_threshold=iou_threshold, weights=weights)
        fused += detections_from_arrays(image_id, one.boxes_xyxy, one.scores, category_ids[one.labels])
    return fused


def fuse_p_abnormal(
    files: Sequence[Path], annotations: Sequence[Path], *, weights: Sequence[float] | None = None
) -> dict[str, float] | None:
    """Return image id → mean p_abnormal of the gates of several files; None where no file has gate output beside it.

    Arguments and errors are :func:`fuse_files`'s. Models without a gate are passed over.
    """
    paths = _for_each(files, annotations)
    first = read_coco(paths[0], strict=False)
    by_file: list[dict[str, float] | None] = []
    for file, path in zip(files, paths, strict=True):
        beside, truth = p_abnormal_path(file), read_coco(path, strict=False)
        known = beside.is_file()
        names = list(_by_name(truth, path))
        by_file.append(dict(zip(names, read_p_abnormal(beside, truth).tolist(), strict=True)) if known else None)
    if not any(by_file):
        return None
    fused: dict[str, float] = {}
    for name, image in _by_name(first, paths[0]).items():
        together = mean_p_abnormal([entry[name] if entry else None for entry in by_file], weights)
        assert together is not None, "one of the files has it"
        fused[image_name(image)] = together
    return fused


def _for_each(files: Sequence[Path], annotations: Sequence[Path]) -> list[Path]:
    """Return the annotation file of each results file."""
    return list(annotations) * len(files) if len(annotations) == 1 else list(annotations)


def _by_name(truth: CocoDict, path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for image in truth["images"]:
        if not isinstance(image.get("file_name"), str):
            raise DatasetError(f"{path}: an image has no file_name, by which files are matched.")
        other = found.setdefault(image_id_of(image["file_name"]), image)
        if other is not image:
            raise DatasetError(
                f"{path}: {other['file_name']} and {image['file_name']} have one name without folder and suffix, by "
                "which images are matched; rename one."
            )
    return found


def _of_file(
    file: Path,
    truth: CocoDict,
    path: Path,
    images: Mapping[str, dict[str, Any]],
    first: CocoDict,
    notes: list[str],
) -> dict[int, Findings]:
    """Return the findings of each image of the first annotation file, with this file's own classes."""
    names = [category["name"] for category in truth["categories"]]
    known = {category["name"] for category in first["categories"]}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DatasetError(
            f"{path}: has the class {unknown[0]!r}, which the first annotation file lacks; name the one with all "
            "classes first."
        )
    label_of = {category["id"]: label for label, category in enumerate(truth["categories"])}
    entries: dict[int, list[Detection]] = defaultdict(list)
    without_extent = 0
    for entry in read_detections(file, truth):
        if min(entry["bbox"][2:]) == 0:
            without_extent += 1
        else:
            entries[entry["image_id"]].append(entry)
    if without_extent:
        notes.append(f"{file}: left out {counted(without_extent, 'detection')} without width or height.")
    own = _by_name(truth, path)
    missing = [name for name in images if name not in own]
    if missing:
        raise DatasetError(
            f"{path}: lacks {counted(len(missing), 'image')} of the first annotation file, such as {missing[0]}."
        )
    found: dict[int, Findings] = {}
    for name, image in images.items():
        mine = own[name]
        of_image = entries[mine["id"]]
        boxes = xywh_to_xyxy(as_boxes([entry["bbox"] for entry in of_image]))
        height, width = int(image["height"]), int(image["width"])
        boxes = scale(boxes, width / mine["width"], height / mine["height"])
        labels = np.array([label_of[entry["category_id"]] for entry in of_image], dtype=np.int64)
        scores = np.array([entry["score"] for entry in of_image], dtype=np.float64)
        detections = Detections(boxes, labels, scores, tuple(names))
        found[image["id"]] = Findings.of(detections, size_hw=(height, width), model_id=str(file))
    return found
