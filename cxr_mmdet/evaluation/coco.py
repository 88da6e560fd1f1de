"""COCO's average precision by hotcoco, and its matches for resampling."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import hotcoco
import numpy as np

from cxr_mmdet.evaluation.matching import DetectionTable, TruthTable, first_of_runs, share_of_detection
from cxr_mmdet.evaluation.voc import as_weights, segment_sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.matching import Indices, Pairs
    from cxr_mmdet.evaluation.voc import Weights
    from cxr_mmdet.structures.coco import CocoDict, Detection


# Axes of COCO's arrays: precision[iou, recall, class, area, cap], recall[iou, class, area, cap].
AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}

IOU_50, IOU_75 = 0, 5
"""Indices in COCO's ten IoUs."""


@dataclass(frozen=True)
class ClassScores:
    """One class's scores, 0…1; ``None`` where the ground truth holds no box of the class.

    ``ap`` averages over IoU 0.50:0.05:0.95 as ``ar_100`` does, which is the recall at the largest cap on detections.
    ``ground_truth_boxes`` leaves crowd boxes out; ``detections`` counts all detections, before any cap.
    """

    name: str
    ap: float | None
    ap_50: float | None
    ap_75: float | None
    ar_100: float | None
    ground_truth_boxes: int
    detections: int


@dataclass(frozen=True)
class CocoScores:
    """COCO's scores, 0…1, over all classes that have boxes; ``None`` where no class has any.

    ``mean_ap`` is mAP@[.5:.95]. ``mean_ar`` maps the cap on detections per image and class to the average recall.
    Small is an area under 32², large over 96² pixels of the prepared image. ``per_class`` follows the order of the
    ground truth's categories.
    """

    mean_ap: float | None
    mean_ap_50: float | None
    mean_ap_75: float | None
    mean_ap_small: float | None
    mean_ap_medium: float | None
    mean_ap_large: float | None
    mean_ar: Mapping[int, float | None]
    mean_ar_small: float | None
    mean_ar_medium: float | None
    mean_ar_large: float | None
    per_class: tuple[ClassScores, ...]
    images: int
    ground_truth_boxes: int
    detections: int

    def to_metrics(self) -> dict[str, Any]:
        """Return COCO's part of ``metrics.json``; every score is 0…1 or null where it is undefined.

        Keys: ``mean_ap`` (mAP@[.5:.95]), ``mean_ap_50``, ``mean_ap_75``, ``mean_ap_small``,
        ``mean_ap_medium``, ``mean_ap_large``; ``mean_ar_1``, ``mean_ar_10``, ``mean_ar_100`` (the number is the cap on
        detections per image and class), ``mean_ar_small``, ``mean_ar_medium``, ``mean_ar_large``; the counts
        ``images``, ``ground_truth_boxes``, ``detections``; ``per_class``, a list in label order of ``name``, ``ap``,
        ``ap_50``, ``ap_75``, ``ar_100``, ``ground_truth_boxes``, ``detections``.
        """
        metrics: dict[str, Any] = dict(vars(self))
        metrics |= {f"mean_ar_{cap}": value for cap, value in metrics.pop("mean_ar").items()}
        metrics["per_class"] = [dict(vars(scores)) for scores in self.per_class]
        return metrics


def evaluate_coco(
    ground_truth: CocoDict,
    detections: Sequence[Detection],
    max_detections: tuple[int, int, int] = (1, 10, 100),
) -> CocoScores:
    """Return the scores of ``detections``, equal to those of pycocotools.

    All images of the ground truth count, also those without boxes and those without detections. An empty list
    of detections is legal and scores 0 for every class with boxes. Nothing is printed and no argument is changed.

    Args:
        ground_truth: COCO dict; ``area`` and ``iscrowd`` may be missing from annotations.
        detections: COCO results; equal scores rank in the order of the list.
        max_detections: rising caps on detections per image and class; precision is taken at the last.

    Raises:
        DatasetError: a detection names an image or a category that the ground truth lacks.
    """
    truth, table = TruthTable.of(ground_truth), DetectionTable.of(ground_truth, detections)
    return score_coco(truth, table, run_coco(truth, table, max_detections), max_detections)


def run_coco(
    truth: TruthTable, detections: DetectionTable, max_detections: tuple[int, int, int] = (1, 10, 100)
) -> hotcoco.COCOeval | None:
    """Return hotcoco's evaluation of the boxes, with image and category ids from 1; None without images or classes.

    Args:
        truth: the ground truth.
        detections: the detections.
        max_detections: rising caps on detections per image and class.
    """
    if not len(truth.image_ids) or not truth.names:
        return None
    # Image ids in the order of the file's ids: COCO ranks equal scores by them.
    image_number = np.argsort(np.argsort(truth.image_ids)) + 1
    coco = hotcoco.COCO.from_arrays(
        [{"id": number} for number in range(1, len(image_number) + 1)],
        [{"id": number, "name": name} for number, name in enumerate(truth.names, 1)],
        image_number[truth.image_index],
        truth.category_index + 1,
        truth.boxes_xywh,
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
    )
    columns = (
        image_number[detections.image_index],
        detections.boxes_xywh,
        detections.scores,
        detections.category_index + 1,
    )
    evaluation = hotcoco.COCOeval(coco, coco.load_res(np.column_stack(columns)), "bbox")
    evaluation.params.max_dets = list(max_detections)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def score_coco(
    truth: TruthTable,
    detections: DetectionTable,
    evaluation: hotcoco.COCOeval | None,
    max_detections: tuple[int, int, int] = (1, 10, 100),
) -> CocoScores:
    """Return the scores that :func:`run_coco`'s evaluation holds."""
    shape = (10, 101, len(truth.names), len(AREAS), len(max_detections))
    precision, recall = _curves(evaluation, shape)
    classes = len(truth.names)
    box_counts = np.bincount(truth.category_index[~truth.crowd], minlength=classes).tolist()
    found_counts = np.bincount(detections.category_index, minlength=classes).tolist()
    per_class = tuple(
        _class_scores(
            name,
            precision[:, :, label, AREAS["all"], -1],
            recall[:, label, AREAS["all"], -1],
            box_counts[label],
            found_counts[label],
        )
        for label, name in enumerate(truth.names)
    )
    all_areas = precision[..., AREAS["all"], -1]
    return CocoScores(
        mean_ap=_mean(all_areas),
        mean_ap_50=_mean(all_areas[IOU_50]),
        mean_ap_75=_mean(all_areas[IOU_75]),
        mean_ap_small=_mean(precision[..., AREAS["small"], -1]),
        mean_ap_medium=_mean(precision[..., AREAS["medium"], -1]),
        mean_ap_large=_mean(precision[..., AREAS["large"], -1]),
        mean_ar={cap: _mean(recall[..., AREAS["all"], column]) for column, cap in enumerate(max_detections)},
        mean_ar_small=_mean(recall[..., AREAS["small"], -1]),
        mean_ar_medium=_mean(recall[..., AREAS["medium"], -1]),
        mean_ar_large=_mean(recall[..., AREAS["large"], -1]),
        per_class=per_class,
        images=len(truth.image_ids),
        ground_truth_boxes=sum(box_counts),
        detections=len(detections.scores),
    )


def _curves(
    evaluation: hotcoco.COCOeval | None, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return COCO's precision (10, 101, classes, 4, 3) and recall (10, classes, 4, 3); -1 where undefined."""
    recall_shape = (shape[0], *shape[2:])
    if evaluation is None:
        return np.full(shape, -1.0), np.full(recall_shape, -1.0)
    arrays = evaluation.eval
    assert arrays is not None, "accumulate fills it"
    precision = np.reshape(arrays["precision"], shape)
    # COCO divides by the count plus an epsilon, which changes a count of 1: a perfect score must be 1, not 1 - 2e-16.
    precision = np.where(precision == 1 / (1 + np.spacing(1)), 1.0, precision)
    return precision, np.reshape(arrays["recall"], recall_shape)


def _class_scores(
    name: str,
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
    ground_truth_boxes: int,
    detections: int,
) -> ClassScores:
    return ClassScores(
        name=name,
        ap=_mean(precision),
        ap_50=_mean(precision[IOU_50]),
        ap_75=_mean(precision[IOU_75]),
        ar_100=_mean(recall),
        ground_truth_boxes=ground_truth_boxes,
        detections=detections,
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of the defined values, as COCO does; ``None`` where none is defined."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

RECALLS = np.linspace(0, 1, 101)
"""Precision is sampled at these; both grids are pycocotools', to the last bit."""

MAX_DETECTIONS = 100
"""Detections per image and class that COCO counts."""


@dataclass(frozen=True)
class CocoMatches:
    """Detections of one class in COCO's rank, and whether each hits at each IoU.

    Attributes:
        name: the class.
        hits: (10, N) bool.
        ignored: (10, N) bool: in a crowd region, neither a hit nor a false positive.
        image_index: (N,), counting in the ground truth's images.
        positives: (images,), number of boxes per image, without crowd regions.
    """

    name: str
    hits: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    image_index: Indices
    positives: Indices


def match_coco(truth: TruthTable, detections: DetectionTable, pairs: Pairs) -> tuple[CocoMatches, ...]:
    """Return one entry per category in file order, by pycocotools' rule for boxes of all sizes.

    Args:
        truth: the ground truth.
        detections: the detections; equal scores rank by image id, then by their order in the table.
        pairs: overlapping pairs of one class.
    """
    capped = _capped(truth, detections)
    hits, ignored = _greedy(truth, detections, pairs, capped)
    rank_of_image = np.argsort(np.argsort(truth.image_ids))
    kept = np.flatnonzero(capped >= 0)
    kept = kept[
        np.lexsort(
            (rank_of_image[detections.image_index[kept]], -detections.scores[kept], detections.category_index[kept])
        )
    ]
    ends = np.searchsorted(detections.category_index[kept], np.arange(len(truth.names) + 1))
    matches = []
    for label, name in enumerate(truth.names):
        rows = kept[ends[label] : ends[label + 1]]
        own = (truth.category_index == label) & ~truth.crowd
        matches.append(
            CocoMatches(
                name=name,
                hits=hits[:, rows],
                ignored=ignored[:, rows],
                image_index=detections.image_index[rows],
                positives=np.bincount(truth.image_index[own], minlength=len(truth.image_ids)),
            )
        )
    return tuple(matches)


def coco_average_precision(matches: CocoMatches, weights: Weights | None = None) -> NDArray[np.float64]:
    """Return (10, R) average precisions, one row per IoU, NaN where there is no box.

    Args:
        matches: one class's detections.
        weights: weight of each image, (images,) or (R, images); 1 by default.
    """
    per_image: NDArray[Any] = np.ascontiguousarray(as_weights(weights, len(matches.positives)).T)
    positives = (matches.positives @ per_image).astype(np.float64)
    points = np.flatnonzero(matches.hits.any(axis=0))
    before = int(points[-1]) + 1 if len(points) else 0
    counts = np.cumsum(segment_sums(per_image, matches.image_index[:before], points), axis=0, dtype=np.float64)
    ap = np.full((len(matches.hits), per_image.shape[1]), np.nan)
    for threshold, (hits, ignored) in enumerate(zip(matches.hits, matches.ignored, strict=True)):
        own = hits[points]
        counted = counts[own] - _ignored_until(per_image, matches.image_index, ignored, points[own])
        own_hits = np.cumsum(per_image[matches.image_index[points[own]]], axis=0, dtype=np.float64)
        ap[threshold] = _sampled_area(own_hits, counted, positives)
    ap[:, positives == 0] = np.nan
    return ap


def _capped(truth: TruthTable, detections: DetectionTable) -> Indices:
    """Return (N,) each detection's rank among those of its image and class; -1 beyond COCO's cap."""
    keys = detections.image_index * len(truth.names) + detections.category_index
    order = np.lexsort((-detections.scores, keys))
    starts = first_of_runs(keys[order])
    lengths = np.diff(np.append(starts, len(order)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return np.where(rank < MAX_DETECTIONS, rank, -1)


def _greedy(
    truth: TruthTable, detections: DetectionTable, pairs: Pairs, rank: Indices
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (10, N) hits and ignored detections: by rank, each detection takes the best box that is still free.

    All images are processed together. A box that counts precedes a crowd region; of equal IoUs the last one wins.
    """
    overlap = np.where(truth.crowd[pairs.truth], share_of_detection(truth, detections, pairs), pairs.iou)
    near = np.flatnonzero((overlap >= IOU_THRESHOLDS[0]) & (rank[pairs.found] >= 0))
    detection, box, overlap = pairs.found[near], pairs.truth[near], overlap[near]
    crowd = truth.crowd[box]
    order = np.lexsort((box, overlap, ~crowd, detection, rank[detection]))
    detection, box, overlap, crowd = detection[order], box[order], overlap[order], crowd[order]
    enough = overlap >= IOU_THRESHOLDS[:, None]
    taken = np.zeros((len(IOU_THRESHOLDS), len(truth.crowd)), bool)
    hits = np.zeros((len(IOU_THRESHOLDS), len(rank)), bool)
    ignored = np.zeros_like(hits)
    turns = np.append(first_of_runs(rank[detection]), len(detection))
    for start, end in pairwise(turns.tolist()):
        turn = slice(start, end)
        free = enough[:, turn] & (~taken[:, box[turn]] | crowd[turn])
        starts = first_of_runs(detection[turn])
        best = np.maximum.reduceat(np.where(free, np.arange(start, end), -1), starts, axis=1)
        threshold, place = np.nonzero(best >= 0)
        chosen = best[threshold, place]
        on_crowd = crowd[chosen]
        hits[threshold[~on_crowd], detection[chosen[~on_crowd]]] = True
        ignored[threshold[on_crowd], detection[chosen[on_crowd]]] = True
        taken[threshold, box[chosen]] = True
    return hits, ignored


def _ignored_until(
    per_image: NDArray[Any], image_index: Indices, ignored: NDArray[np.bool_], points: Indices
) -> NDArray[np.float64]:
    """Return (points, R) the weight of the ignored detections up to each point."""
    places = np.flatnonzero(ignored)
    sums = np.zeros((len(places) + 1, per_image.shape[1]))
    np.cumsum(per_image[image_index[places]], axis=0, out=sums[1:])
    return sums[np.searchsorted(places, points)]


def _sampled_area(
    hits: NDArray[np.float64], counted: NDArray[np.float64], positives: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (R,) the mean of precision at COCO's 101 recalls, from cumulated (points, R) counts at the hits."""
    precision = np.divide(hits, counted, out=np.zeros_like(counted), where=counted > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = np.divide(hits, positives, out=np.zeros_like(hits), where=positives > 0)
    reached = np.searchsorted(RECALLS, recall, side="right")
    return (np.diff(reached, axis=0, prepend=0) * envelope).sum(axis=0) / len(RECALLS)
