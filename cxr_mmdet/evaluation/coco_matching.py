"""COCO's greedy matching at its ten IoUs, kept so that average precision can be counted under any weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.counting import as_weights, segment_sums
from cxr_mmdet.evaluation.tables import first_of_runs, share_of_detection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.counting import Weights
    from cxr_mmdet.evaluation.tables import DetectionTable, Indices, Pairs, TruthTable

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
"""Precision is sampled at these; both grids are pycocotools', to the last bit."""
MAX_DETECTIONS = 100
"""COCO looks at so many detections of one class on one image."""


@dataclass(frozen=True)
class CocoMatches:
    """One class's detections in COCO's rank, and what became of each at each IoU.

    Attributes:
        name: the class.
        hits: (10, N) bool.
        ignored: (10, N) bool: on a crowd box, neither right nor wrong.
        image_index: (N,), counting in the ground truth's images.
        positives: (images,), how many boxes each image holds, without crowd boxes.
    """

    name: str
    hits: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    image_index: Indices
    positives: Indices


def match_coco(truth: TruthTable, found: DetectionTable, pairs: Pairs) -> tuple[CocoMatches, ...]:
    """Return one entry a category in file order, by pycocotools' rule over all sizes of boxes.

    Args:
        truth: the ground truth.
        found: the detections; equal scores rank by image id, then by their order in the table.
        pairs: the overlapping ones of one class.
    """
    capped = _capped(truth, found)
    hits, ignored = _greedy(truth, found, pairs, capped)
    rank_of_image = np.argsort(np.argsort(truth.image_ids))
    kept = np.flatnonzero(capped >= 0)
    kept = kept[np.lexsort((rank_of_image[found.image_index[kept]], -found.scores[kept], found.category_index[kept]))]
    ends = np.searchsorted(found.category_index[kept], np.arange(len(truth.names) + 1))
    matches = []
    for label, name in enumerate(truth.names):
        rows = kept[ends[label] : ends[label + 1]]
        own = (truth.category_index == label) & ~truth.crowd
        matches.append(
            CocoMatches(
                name=name,
                hits=hits[:, rows],
                ignored=ignored[:, rows],
                image_index=found.image_index[rows],
                positives=np.bincount(truth.image_index[own], minlength=len(truth.image_ids)),
            )
        )
    return tuple(matches)


def coco_average_precision(matches: CocoMatches, weights: Weights | None = None) -> NDArray[np.float64]:
    """Return (10, R) average precisions, one row an IoU, NaN where no box is to be found.

    Args:
        matches: one class's detections.
        weights: how often each image counts, (images,) or (R, images); once each by default.
    """
    per_image: NDArray[Any] = np.ascontiguousarray(as_weights(weights, len(matches.positives)).T)
    positives = (matches.positives @ per_image).astype(np.float64)
    points = np.flatnonzero(matches.hits.any(axis=0))
    before = int(points[-1]) + 1 if len(points) else 0
    found = np.cumsum(segment_sums(per_image, matches.image_index[:before], points), axis=0, dtype=np.float64)
    ap = np.full((len(matches.hits), per_image.shape[1]), np.nan)
    for threshold, (hits, ignored) in enumerate(zip(matches.hits, matches.ignored, strict=True)):
        own = hits[points]
        counted = found[own] - _ignored_until(per_image, matches.image_index, ignored, points[own])
        own_hits = np.cumsum(per_image[matches.image_index[points[own]]], axis=0, dtype=np.float64)
        ap[threshold] = _sampled_area(own_hits, counted, positives)
    ap[:, positives == 0] = np.nan
    return ap


def _capped(truth: TruthTable, found: DetectionTable) -> Indices:
    """Return (N,) each detection's rank among those of its image and class; -1 beyond COCO's cap."""
    keys = found.image_index * len(truth.names) + found.category_index
    order = np.lexsort((-found.scores, keys))
    starts = first_of_runs(keys[order])
    lengths = np.diff(np.append(starts, len(order)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return np.where(rank < MAX_DETECTIONS, rank, -1)


def _greedy(
    truth: TruthTable, found: DetectionTable, pairs: Pairs, rank: Indices
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (10, N) what is hit and what is ignored: by rank, each detection takes the best box that is left.

    All images take their turn at once. A box that counts goes before a crowd box, and of equal IoUs the last one wins.
    """
    overlap = np.where(truth.crowd[pairs.truth], share_of_detection(truth, found, pairs), pairs.iou)
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
    """Return (points, R) the weight of what is ignored up to each point."""
    places = np.flatnonzero(ignored)
    sums = np.zeros((len(places) + 1, per_image.shape[1]))
    np.cumsum(per_image[image_index[places]], axis=0, out=sums[1:])
    return sums[np.searchsorted(places, points)]


def _sampled_area(
    hits: NDArray[np.float64], found: NDArray[np.float64], positives: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (R,) the mean of precision at COCO's 101 recalls, from cumulated (points, R) counts at the hits."""
    precision = np.divide(hits, found, out=np.zeros_like(found), where=found > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = np.divide(hits, positives, out=np.zeros_like(hits), where=positives > 0)
    reached = np.searchsorted(RECALLS, recall, side="right")
    return (np.diff(reached, axis=0, prepend=0) * envelope).sum(axis=0) / len(RECALLS)
