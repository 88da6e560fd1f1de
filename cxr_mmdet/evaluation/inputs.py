"""Ground truth and detections of an evaluation, read from files or taken as they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.errors import counted
from cxr_mmdet.evaluation.image_level import p_abnormal_path, read_p_abnormal
from cxr_mmdet.evaluation.submission import read_submission
from cxr_mmdet.structures.coco import (
    check_coco,
    check_detections,
    findings_of,
    hints_on_boxes,
    notes_on_detections,
    read_coco,
    read_detections,
)
from cxr_mmdet.structures.coverage import Coverage, coverage_of, is_partly_labelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.structures.coco import CocoDict, Detection

    PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class EvaluationInputs:
    """Validated inputs of an evaluation.

    Attributes:
        ground_truth: COCO dict.
        detections: COCO results, in the order of their file.
        p_abnormal: (images,) probability that each image is abnormal, in the order of the ground truth's images; None
            where no file gives it.
        ground_truth_path: file of the ground truth; None for a dict.
        detections_path: file of the detections; None for a list.
        notes: sentences about input that is legal but odd.
    """

    ground_truth: CocoDict
    detections: Sequence[Detection]
    p_abnormal: NDArray[np.float64] | None = None
    ground_truth_path: Path | None = None
    detections_path: Path | None = None
    notes: tuple[str, ...] = ()

    def find_images(self) -> Path | None:
        """Return the prepared folder's images if the ground truth lies in such a folder and all are there."""
        if self.ground_truth_path is None:
            return None
        folder = self.ground_truth_path.resolve().parent.parent / "images"
        names = [image.get("file_name") for image in self.ground_truth["images"]]
        return folder if all(isinstance(name, str) and (folder / name).is_file() for name in names) else None

    def find_configs(self) -> tuple[tuple[str, str], ...]:
        """Return name and text of the configs that mmengine left beside the detections."""
        if self.detections_path is None:
            return ()
        folder = self.detections_path.resolve().parent
        configs = [(path.name, path.read_text(encoding="utf-8", errors="replace")) for path in folder.glob("*.py")]
        # Other scripts may lie there too.
        return tuple((f"{folder.name}/{name}", text) for name, text in sorted(configs) if "test_evaluator = " in text)


def read_inputs(
    ground_truth: CocoDict | PathLike,
    detections: Sequence[Detection] | PathLike,
    p_abnormal: NDArray[np.float64] | PathLike | None = None,
) -> EvaluationInputs:
    """Return validated inputs.

    Args:
        ground_truth: COCO annotation file of any project, or its content.
        detections: COCO results file, ``submission.csv`` of the VinBigData competition, or COCO results.
        p_abnormal: (images,) probabilities in the order of the ground truth's images, or a file that
            :func:`~cxr_mmdet.evaluation.image_level.read_p_abnormal` reads. By default the file that a detector with a
            gate leaves beside its detections, then the submission's own "No finding".

    Raises:
        DatasetError: a file cannot be read, or the inputs contradict each other.
    """
    truth_path = Path(ground_truth) if isinstance(ground_truth, (str, os.PathLike)) else None
    if truth_path is not None:
        truth = read_coco(truth_path, strict=False)
    else:
        assert not isinstance(ground_truth, (str, os.PathLike)), "no path"
        truth = ground_truth
        check_coco(truth, "ground truth", strict=False)
    hints = [*_coverage_note(truth), *hints_on_boxes(truth, findings_of(truth), "boxes")]
    notes = _named(truth_path or "ground truth", hints)
    if isinstance(p_abnormal, (str, os.PathLike)):
        p_abnormal = read_p_abnormal(Path(p_abnormal), truth)
    if not isinstance(detections, (str, os.PathLike)):
        check_detections(detections, truth)
        notes += _named("detections", notes_on_detections(truth, detections))
        return EvaluationInputs(truth, detections, p_abnormal, truth_path, notes=notes)
    path = Path(detections)
    if p_abnormal is None and p_abnormal_path(path).is_file():
        p_abnormal = read_p_abnormal(p_abnormal_path(path), truth)
    if path.suffix.lower() != ".csv":
        entries = read_detections(path, truth)
    else:
        submission = read_submission(path, truth)
        entries = submission.detections
        if submission.clipped:
            clipped = counted(submission.clipped, "box")
            notes += _named(path, [f"{clipped} left the image by up to a pixel and were clipped."])
        if p_abnormal is None and submission.p_no_finding:
            p_abnormal = np.array([1 - submission.p_no_finding.get(image["id"], 0.0) for image in truth["images"]])
    notes += _named(path, notes_on_detections(truth, entries))
    return EvaluationInputs(truth, entries, p_abnormal, truth_path, path, notes)


def _coverage_note(ground_truth: CocoDict) -> list[str]:
    """Return a sentence on classes that were not looked for on every image, if there are any."""
    if not is_partly_labelled(ground_truth):
        return []
    images = (coverage_of(ground_truth) == Coverage.EXHAUSTIVE).sum(axis=0).tolist()
    total = len(ground_truth["images"])
    partly = [
        f"{category['name']} on {count:,}"
        for category, count in zip(ground_truth["categories"], images, strict=True)
        if count < total
    ]
    return [
        f"of {counted(total, 'image')}, some were not looked through for every class ({', '.join(partly)}); a "
        "detection does not count where nobody looked for its class."
    ]


def _named(source: Path | str, notes: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{source}: {note}" for note in notes)
