"""Headline numbers with their intervals: detections are matched once, then counted under many weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.evaluation.bootstrap import RESAMPLES, Interval, bootstrap, group_index, percentile_interval
from cxr_mmdet.evaluation.coco import IOU_50, IOU_75, IOU_THRESHOLDS, CocoMatches, coco_average_precision, match_coco
from cxr_mmdet.evaluation.froc import RATES, pool, sensitivities
from cxr_mmdet.evaluation.image_level import ImageScores, no_finding_matches, roc_auc, score_images
from cxr_mmdet.evaluation.matching import (
    ClassMatches,
    DetectionTable,
    Pairs,
    TruthTable,
    match_tables,
    overlapping_pairs,
)
from cxr_mmdet.evaluation.voc import COMPETITION_IOU, average_precision, mean_defined
from cxr_mmdet.structures.enums import HitCriterion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.voc import Weights
    from cxr_mmdet.structures.coco import CocoDict, Detection


def sensitivity_name(rate: float) -> str:
    """Return the name of the sensitivity at ``rate`` false positives per image, as ``sensitivity_at_0.125``."""
    return f"sensitivity_at_{rate:g}"


HEADLINE = (
    "mean_ap",
    "mean_ap_50",
    "mean_ap_75",
    "voc_mean_ap_40",
    "voc_mean_ap_40_with_no_finding",
    *(sensitivity_name(rate) for rate in RATES),
    "mean_sensitivity",
    "image_auc",
)
"""Names of the numbers over all classes; :func:`of_class` names those of one."""

PER_CLASS = ("ap", "ap_50", "voc_ap_40", *(sensitivity_name(rate) for rate in RATES))


def of_class(name: str, label: int) -> str:
    """Return the name of a number of class ``label``, such as ``voc_ap_40/3``."""
    return f"{name}/{label}"


@dataclass(frozen=True)
class MatchedDetections:
    """Detections of a data set, matched by every rule that a number needs.

    Attributes:
        truth: the ground truth.
        detections: the detections.
        pairs: the overlapping ones of one class.
        groups: (images,) group of each image; groups are drawn as a whole when resampling.
        voc: at the competition's IoU above 0.4, one entry per class.
        hits: at ``iou_threshold``, one entry per class.
        coco: at COCO's ten IoUs, one entry per class.
        froc: by the FROC curve's criterion, one entry per class.
        pooled: the same, all classes as one.
        images: scores of whole images.
        no_finding: the competition's class for normal images.
        criterion: the FROC curve's.
        iou_threshold: IoU that a hit exceeds, in ``hits`` and, by the criterion ``iou``, in ``froc``.
    """

    truth: TruthTable
    detections: DetectionTable
    pairs: Pairs
    groups: NDArray[np.int64]
    voc: tuple[ClassMatches, ...]
    hits: tuple[ClassMatches, ...]
    coco: tuple[CocoMatches, ...]
    froc: tuple[ClassMatches, ...]
    pooled: ClassMatches
    images: ImageScores
    no_finding: ClassMatches
    criterion: HitCriterion
    iou_threshold: float


def match_all(
    ground_truth: CocoDict,
    detections: Sequence[Detection],
    *,
    p_abnormal: NDArray[np.float64] | None = None,
    criterion: HitCriterion = HitCriterion.IOU,
    iou_threshold: float = COMPETITION_IOU,
) -> MatchedDetections:
    """Return the detections matched by every rule.

    Args:
        ground_truth: COCO dict, checked.
        detections: COCO results, checked.
        p_abnormal: (images,) from a classifier, in file order; by default each image's highest score.
        criterion: rule for hits on the FROC curve.
        iou_threshold: IoU that a hit exceeds; the competition's metric and COCO's keep their own.

    Raises:
        DatasetError: a detection names an image or a category that the ground truth lacks.
    """
    truth, table = TruthTable.of(ground_truth), DetectionTable.of(ground_truth, detections)
    pairs = overlapping_pairs(truth, table)
    voc = match_tables(truth, table, pairs, iou_threshold=COMPETITION_IOU)
    hits = voc if iou_threshold == COMPETITION_IOU else match_tables(truth, table, pairs, iou_threshold=iou_threshold)
    froc = hits if criterion is HitCriterion.IOU else match_tables(truth, table, pairs, criterion=criterion)
    images = score_images(truth, table, p_abnormal)
    return MatchedDetections(
        truth=truth,
        detections=table,
        pairs=pairs,
        groups=group_index(ground_truth),
        voc=voc,
        hits=hits,
        coco=match_coco(truth, table, pairs),
        froc=froc,
        pooled=pool(froc),
        images=images,
        no_finding=no_finding_matches(images),
        criterion=criterion,
        iou_threshold=iou_threshold,
    )


def statistics(matched: MatchedDetections, weights: Weights) -> dict[str, NDArray[np.float64]]:
    """Return (R,) values of every headline number and every class's, NaN where undefined.

    A mean over classes covers, in each resample, the classes that have boxes in it.

    Args:
        matched: the detections.
        weights: (R, images) weight of each image.
    """
    rows = len(weights)
    classes = len(matched.voc)
    voc = np.reshape([average_precision(entry, weights) for entry in matched.voc], (classes, rows))
    coco = np.reshape(
        [coco_average_precision(entry, weights) for entry in matched.coco], (classes, len(IOU_THRESHOLDS), rows)
    )
    froc = np.reshape([sensitivities(entry, weights) for entry in matched.froc], (classes, len(RATES), rows))
    pooled = sensitivities(matched.pooled, weights)
    no_finding = average_precision(matched.no_finding, weights)
    values = {
        "mean_ap": mean_defined(coco.mean(axis=1)),
        "mean_ap_50": mean_defined(coco[:, IOU_50]),
        "mean_ap_75": mean_defined(coco[:, IOU_75]),
        "voc_mean_ap_40": mean_defined(voc),
        "voc_mean_ap_40_with_no_finding": mean_defined(np.vstack([voc, no_finding])),
        **{sensitivity_name(rate): pooled[place] for place, rate in enumerate(RATES)},
        "mean_sensitivity": pooled.mean(axis=0),
        "image_auc": roc_auc(matched.images, weights),
    }
    for label in range(classes):
        of_label = [coco[label].mean(axis=0), coco[label, IOU_50], voc[label], *froc[label]]
        values |= {of_class(name, label): own for name, own in zip(PER_CLASS, of_label, strict=True)}
    return values


def point_values(matched: MatchedDetections) -> dict[str, float | None]:
    """Return every number of :func:`statistics` with each image counting once; ``None`` where undefined."""
    values = statistics(matched, np.ones((1, len(matched.truth.image_ids)), np.int32))
    return {name: None if np.isnan(value[0]) else float(value[0]) for name, value in values.items()}


def resampled_values(
    matched: MatchedDetections, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Return (resamples,) values of every number, over draws of groups of images with replacement."""
    return bootstrap(lambda weights: statistics(matched, weights), matched.groups, resamples=resamples, seed=seed)


def intervals(
    values: Mapping[str, float | None], samples: Mapping[str, NDArray[np.float64]], groups: NDArray[np.int64]
) -> dict[str, Interval]:
    """Return every number with its 95 % interval.

    Args:
        values: from :func:`point_values`.
        samples: from :func:`resampled_values`; a number without samples gets no interval.
        groups: (images,) group of each image.
    """
    count = len(np.unique(groups))
    nothing = np.zeros(0)
    return {
        name: percentile_interval(value, samples.get(name, nothing), groups=count) for name, value in values.items()
    }
