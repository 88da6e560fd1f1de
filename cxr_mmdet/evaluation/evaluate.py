"""Everything there is to say about a detector on a data set, and the one schema of ``metrics.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.bootstrap import LEVEL, RESAMPLES, Interval
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
from cxr_mmdet.evaluation.voc import COMPETITION_IOU
from cxr_mmdet.structures.enums import HitCriterion
from cxr_mmdet.structures.scores import printed_threshold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.ceiling import HumanCeiling
    from cxr_mmdet.structures.coco import CocoDict, Detection

SCHEMA_VERSION = 2

OPERATING_RATE = 1.0
"""False positives per image at which single detections are looked at, unless a threshold is given."""


@dataclass(frozen=True)
class Account:
    """A detector's account.

    Attributes:
        coco: COCO's numbers.
        matched: the detections and what they hit.
        values: every headline number and every class's with its interval, named as in ``headline``.
        resamples: how many the intervals rest on; 0 for none.
        seed: of the resamples.
        confusion: which classes are taken for which, at the operating threshold.
        errors: what each kind of error costs; empty where no class has a box.
        calibration: scores against precision, all classes as one.
        class_calibration: the same, class by class.
        ceiling: how well readers do, if known.
        given_p_abnormal: whether the images' probabilities came from elsewhere than the detections.
    """

    coco: CocoScores
    matched: MatchedDetections
    values: Mapping[str, Interval]
    resamples: int
    seed: int
    confusion: Confusion
    errors: tuple[ErrorKind, ...]
    calibration: Calibration
    class_calibration: tuple[Calibration, ...]
    ceiling: HumanCeiling | None
    given_p_abnormal: bool

    @property
    def score_threshold(self) -> float | None:
        """The operating threshold: what the confusion matrix and the pictures cut at; None: nothing is shown there."""
        return self.confusion.score_threshold

    @property
    def printed_threshold(self) -> str | None:
        """The operating threshold for people, who find the same detections by it; None where there is none."""
        if self.score_threshold is None:
            return None
        return printed_threshold(self.score_threshold, self.matched.found.scores)

    def to_metrics(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds: scores 0…1, undefined is null. docs/evaluation.md describes the keys."""
        metrics = {"schema_version": SCHEMA_VERSION} | self.coco.to_metrics()
        metrics |= {name: self.values[name].value for name in HEADLINE}
        metrics["intervals"] = {
            "groups": len(np.unique(self.matched.groups)),
            "level": LEVEL,
            "resamples": self.resamples,
            "seed": self.seed,
            "values": {name: _ends(self.values[name]) for name in HEADLINE},
        }
        for label, entry in enumerate(metrics["per_class"]):
            own = {name: self.values[of_class(name, label)] for name in PER_CLASS}
            entry |= {name: interval.value for name, interval in own.items()}
            entry["intervals"] = {name: _ends(interval) for name, interval in own.items()}
            entry["ece"] = self.class_calibration[label].ece
        metrics["p_abnormal"] = "given" if self.given_p_abnormal else "highest score"
        metrics["froc_criterion"] = self.matched.criterion.value
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


def take_account(
    ground_truth: CocoDict,
    detections: Sequence[Detection],
    *,
    p_abnormal: NDArray[np.float64] | None = None,
    criterion: HitCriterion = HitCriterion.IOU,
    score_threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    ceiling: HumanCeiling | None = None,
) -> Account:
    """Return the account of ``detections``.

    Args:
        ground_truth: COCO dict, checked.
        detections: COCO results, checked; none is legal and scores 0.
        p_abnormal: (images,) a classifier's, in file order; by default the highest score of an image.
        criterion: when a detection counts on the FROC curve.
        score_threshold: what the confusion matrix and pictures cut at; by default the lowest at which a box is found
            and the FROC curve stays at no more than one false positive per image. Where there is none it stays
            undefined, and no detection is shown.
        resamples: how many the intervals rest on; 0 leaves them out.
        seed: of the resamples.
        ceiling: the readers' own numbers.

    Raises:
        DatasetError: a detection names an image or a category that the ground truth lacks.
    """
    matched = match_all(ground_truth, detections, p_abnormal=p_abnormal, criterion=criterion)
    samples = resampled_values(matched, resamples=resamples, seed=seed) if resamples else {}
    if score_threshold is None:
        score_threshold = threshold_for_false_positives(matched.pooled, OPERATING_RATE).score
    coco = score_coco(matched.truth, matched.found, run_coco(matched.truth, matched.found))
    return Account(
        coco=coco,
        matched=matched,
        values=intervals(point_values(matched) | _coco_values(coco), samples, matched.groups),
        resamples=resamples,
        seed=seed,
        confusion=confusion(
            matched.truth, matched.found, score_threshold=score_threshold, iou_threshold=COMPETITION_IOU
        ),
        errors=split_errors(matched.truth, matched.found),
        calibration=calibrate(pool(matched.voc)),
        class_calibration=tuple(calibrate(entry) for entry in matched.voc),
        ceiling=ceiling,
        given_p_abnormal=p_abnormal is not None,
    )


def _coco_values(coco: CocoScores) -> dict[str, float | None]:
    """Return the numbers that COCO's own code gives: ours agree but for the last bit."""
    values: dict[str, float | None] = {name: getattr(coco, name) for name in ("mean_ap", "mean_ap_50", "mean_ap_75")}
    for label, scores in enumerate(coco.per_class):
        values |= {of_class(name, label): getattr(scores, name) for name in ("ap", "ap_50")}
    return values


def _ends(interval: Interval) -> dict[str, float | None]:
    return {"low": interval.low, "high": interval.high}
