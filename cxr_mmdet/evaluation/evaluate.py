"""All numbers of a detector on a data set, and the one schema of ``metrics.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.bootstrap import LEVEL, RESAMPLES, Interval
from cxr_mmdet.evaluation.ceiling import find_ceiling
from cxr_mmdet.evaluation.coco import CocoScores, run_coco, score_coco
from cxr_mmdet.evaluation.error_analysis import Calibration, Confusion, ErrorKind, calibrate, confusion, split_errors
from cxr_mmdet.evaluation.froc import pool, threshold_for_false_positives
from cxr_mmdet.evaluation.headline import (
    HEADLINE,
    PER_CLASS,
    MatchedDetections,
    intervals,
    match_all,
    of_class,
    point_values,
    resampled_values,
)
from cxr_mmdet.evaluation.inputs import EvaluationInputs, read_inputs
from cxr_mmdet.evaluation.voc import COMPETITION_IOU, ThresholdScores, scores_at_threshold, voc_scores
from cxr_mmdet.files import write_json
from cxr_mmdet.structures.enums import HitCriterion
from cxr_mmdet.structures.scores import printed_threshold

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.ceiling import HumanCeiling
    from cxr_mmdet.evaluation.voc import VocScores
    from cxr_mmdet.structures.coco import CocoDict, Detection

SCHEMA_VERSION = 2
METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"

OPERATING_RATE = 1.0
"""False positives per image at the default operating threshold."""


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult:
    """Numbers of a detector on a data set.

    Attributes:
        inputs: the ground truth and the detections.
        coco: COCO's average precision and recall.
        matched: the detections and what they hit, for curves and images.
        values: every headline number, by the names in :data:`~cxr_mmdet.evaluation.headline.HEADLINE`, and every
            class's own (``of_class("voc_ap_40", 3)``), each with its interval.
        voc: average precision of PASCAL VOC 2010 at the IoU of hits.
        class_scores: precision, recall and F1 of each class at the operating threshold, in label order.
        overall_scores: the same over all findings: the counts of the classes add up.
        resamples: bootstrap resamples behind the intervals; 0 for none.
        seed: seed of the resamples.
        confusion: which classes are taken for which, at the operating threshold.
        errors: count and cost of each of TIDE's error types; empty where no class has a box.
        calibration: scores against precision, all classes together.
        class_calibration: the same of each class.
        ceiling: the readers' own scores, if known.
    """

    inputs: EvaluationInputs
    coco: CocoScores
    matched: MatchedDetections
    values: Mapping[str, Interval]
    voc: VocScores
    class_scores: tuple[ThresholdScores, ...]
    overall_scores: ThresholdScores
    resamples: int
    seed: int
    confusion: Confusion
    errors: tuple[ErrorKind, ...]
    calibration: Calibration
    class_calibration: tuple[Calibration, ...]
    ceiling: HumanCeiling | None

    def __repr__(self) -> str:
        from cxr_mmdet.evaluation.terminal import describe

        return f"EvaluationResult({describe(self)})"

    @property
    def score_threshold(self) -> float | None:
        """The operating threshold; None where the detector has none, and then no detection counts as shown."""
        return self.confusion.score_threshold

    @property
    def printed_threshold(self) -> str | None:
        """The operating threshold rounded so that it selects the same detections; None where there is none."""
        if self.score_threshold is None:
            return None
        return printed_threshold(self.score_threshold, self.matched.detections.scores)

    def summary(self) -> str:
        """Return the tables that ``evaluate run`` prints, as plain text of 80 columns."""
        from cxr_mmdet.evaluation.terminal import summarise

        return summarise(self)

    def write(
        self,
        folder: str | os.PathLike[str],
        *,
        images: Path | None = None,
        title: str = "Detector report",
        against_readers: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``metrics.json`` and ``report.html`` into a folder, replacing earlier ones.

        Args:
            folder: created if it is missing.
            images: folder of the images that the report shows; by default ``images/`` of the prepared folder that
                holds the ground truth, if there is one.
            title: heading of the page.
            against_readers: scores against single readers for the page, the content of ``against_readers.json``.

        Raises:
            DatasetError: an image is missing or cannot be decoded; then nothing is written.
        """
        from cxr_mmdet.evaluation.report import write_report

        image_dir = images or self.inputs.find_images()
        page = Path(folder) / REPORT_FILE
        write_report(page, self, image_dir=image_dir, title=title, against_readers=against_readers)
        write_json(Path(folder) / METRICS_FILE, self.to_metrics(), indent=2)

    def to_metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``, described in docs/evaluation.md; undefined scores are None."""
        metrics = {"schema_version": SCHEMA_VERSION} | self.coco.to_metrics()
        metrics |= {name: self.values[name].value for name in HEADLINE}
        metrics["intervals"] = {
            "groups": len(np.unique(self.matched.groups)),
            "level": LEVEL,
            "resamples": self.resamples,
            "seed": self.seed,
            "values": {name: _ends(self.values[name]) for name in HEADLINE},
        }
        images = self.matched.truth.exhaustive.sum(axis=0).tolist()
        for label, entry in enumerate(metrics["per_class"]):
            entry["images"] = images[label]
            own = {name: self.values[of_class(name, label)] for name in PER_CLASS}
            entry |= {name: interval.value for name, interval in own.items()}
            entry["intervals"] = {name: _ends(interval) for name, interval in own.items()}
            entry["ece"] = self.class_calibration[label].ece
        metrics["p_abnormal"] = "highest score" if self.inputs.p_abnormal is None else "given"
        metrics["froc_criterion"] = self.matched.criterion.value
        metrics["operating_point"] = {
            "score_threshold": self.score_threshold,
            "iou_threshold": self.voc.iou_threshold,
            "voc_mean_ap": self.voc.mean_ap,
            **self.overall_scores.to_json(),
            "per_class": [
                {"voc_ap": voc.ap, **scores.to_json()}
                for voc, scores in zip(self.voc.per_class, self.class_scores, strict=True)
            ],
        }
        metrics["confusion"] = self.confusion.to_json()
        metrics["errors"] = {kind.name: {"count": kind.count, "cost": kind.cost} for kind in self.errors}
        metrics["calibration"] = self.calibration.to_json()
        metrics["human_ceiling"] = self._ceiling_to_json()
        return metrics

    def _ceiling_to_json(self) -> dict[str, Any] | None:
        if self.ceiling is None:
            return None
        reached = {name: self.ceiling.reached(name, self.values[name].value) for name in self.ceiling.values}
        return self.ceiling.to_json() | {"reached": reached}


def evaluate(
    ground_truth: CocoDict | str | os.PathLike[str],
    detections: Sequence[Detection] | str | os.PathLike[str],
    *,
    p_abnormal: NDArray[np.float64] | str | os.PathLike[str] | None = None,
    criterion: HitCriterion | str = HitCriterion.IOU,
    iou_threshold: float = COMPETITION_IOU,
    score_threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    manifest: Path | None = None,
) -> EvaluationResult:
    """Score detections against ground truth.

    Args:
        ground_truth: COCO annotation file, or its content.
        detections: COCO results file of any detector, a ``submission.csv`` of the VinBigData competition, or COCO
            results; none is legal and scores 0.
        p_abnormal: probability that each image is abnormal: (images,) in the order of the ground truth's images, or a
            CSV or JSON file. By default what a gate left beside the detections, else each image's highest score.
        criterion: rule for hits on the FROC curve.
        iou_threshold: IoU that a hit exceeds on the FROC curve and in precision, recall, confusion and calibration.
            COCO's numbers and the competition's mAP@.4 keep their own.
        score_threshold: operating threshold of precision, recall, F1, confusion and images. By default the lowest
            score that hits a box and keeps the FROC curve at one false positive per image or fewer; a detector without
            such a score has no operating threshold.
        resamples: bootstrap resamples behind the intervals; 0 leaves the intervals out.
        seed: seed of the resamples.
        manifest: ``manifest.json`` with the readers' own scores; by default that of the prepared folder that holds the
            ground truth file.

    Raises:
        DatasetError: a file cannot be read, or the inputs contradict each other.

    Example:
        >>> truth = {
        ...     "images": [{"id": 1}, {"id": 2}],
        ...     "categories": [{"id": 1, "name": "Cardiomegaly"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 30]}],
        ... }
        >>> detections = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 24], "score": 0.9}]
        >>> result = evaluate(truth, detections, resamples=0)
        >>> result.values["mean_ap_50"].value, result.overall_scores.f1
        (1.0, 1.0)
        >>> print(result)
        EvaluationResult(2 images, 1 box, 1 detection: mAP@[.5:.95] 0.700, mAP@.5 1.000, mAP@.4 (VOC 2010) 1.000)
    """
    inputs = read_inputs(ground_truth, detections, p_abnormal)
    if manifest is not None and inputs.ground_truth_path is None:
        raise ValueError("manifest needs ground_truth to be a file, whose name tells label set and split")
    ceiling = None
    if inputs.ground_truth_path is not None:
        ceiling = find_ceiling(inputs.ground_truth_path.resolve(), inputs.ground_truth, manifest)
    return evaluate_inputs(
        inputs,
        criterion=HitCriterion(criterion),
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        resamples=resamples,
        seed=seed,
        ceiling=ceiling,
    )


def evaluate_inputs(
    inputs: EvaluationInputs,
    *,
    criterion: HitCriterion = HitCriterion.IOU,
    iou_threshold: float = COMPETITION_IOU,
    score_threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    ceiling: HumanCeiling | None = None,
) -> EvaluationResult:
    """Score inputs that are validated already; arguments as for :func:`evaluate`."""
    matched = match_all(
        inputs.ground_truth,
        inputs.detections,
        p_abnormal=inputs.p_abnormal,
        criterion=criterion,
        iou_threshold=iou_threshold,
    )
    samples = resampled_values(matched, resamples=resamples, seed=seed) if resamples else {}
    if score_threshold is None:
        score_threshold = threshold_for_false_positives(matched.pooled, OPERATING_RATE).score
    coco = score_coco(matched.truth, matched.detections, run_coco(matched.truth, matched.detections))
    pooled = pool(matched.hits)
    return EvaluationResult(
        inputs=inputs,
        coco=coco,
        matched=matched,
        values=intervals(point_values(matched) | _coco_values(coco), samples, matched.groups),
        voc=voc_scores(matched.hits, iou_threshold),
        class_scores=tuple(scores_at_threshold(entry, score_threshold) for entry in matched.hits),
        overall_scores=scores_at_threshold(pooled, score_threshold),
        resamples=resamples,
        seed=seed,
        confusion=confusion(
            matched.truth, matched.detections, score_threshold=score_threshold, iou_threshold=iou_threshold
        ),
        errors=split_errors(matched.truth, matched.detections),
        calibration=calibrate(pooled),
        class_calibration=tuple(calibrate(entry) for entry in matched.hits),
        ceiling=ceiling,
    )


def _coco_values(coco: CocoScores) -> dict[str, float | None]:
    """Return hotcoco's own numbers, which ours equal but for the last bit."""
    values: dict[str, float | None] = {name: getattr(coco, name) for name in ("mean_ap", "mean_ap_50", "mean_ap_75")}
    for label, scores in enumerate(coco.per_class):
        values |= {of_class(name, label): getattr(scores, name) for name in ("ap", "ap_50")}
    return values


def _ends(interval: Interval) -> dict[str, float | None]:
    return {"low": interval.low, "high": interval.high}
