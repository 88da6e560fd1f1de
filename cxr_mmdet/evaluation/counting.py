"""Hits and false positives along the scores, for many weightings of the images at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.evaluation.tables import first_of_runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.matching import ClassMatches
    from cxr_mmdet.evaluation.tables import Indices

    Weights = NDArray[np.number]
    Counts = NDArray[np.float64]

ELEMENTS_AT_ONCE = 4_000_000
"""How many weights are looked up at a time: 32 MB of float64."""


@dataclass(frozen=True)
class OperatingPoints:
    """What is found down to certain scores, for each weighting.

    Only scores at which something is hit are kept: between them precision falls and nothing else changes. Detections of
    one score enter together, since no threshold tells them apart.

    Attributes:
        scores: (P,), falling.
        hits: (P, R) weighted hits with at least that score.
        false_positives: (P, R) weighted other detections with at least that score.
        positives: (R,) weighted ground truth boxes.
        images: (R,) weighted images.
    """

    scores: NDArray[np.float64]
    hits: Counts
    false_positives: Counts
    positives: Counts
    images: Counts


def operating_points(
    matches: ClassMatches, weights: Weights, *, count_duplicates: bool = True, rank_ties: bool = False
) -> OperatingPoints:
    """Return the counts of ``matches`` where image i counts ``weights[r, i]`` times.

    Args:
        matches: a class's detections.
        weights: (R, images), at least 0: multiplicities in a resample, or ones.
        count_duplicates: whether a second detection of a box is a false positive (average precision) or nothing (FROC).
        rank_ties: let equal scores enter one after the other, in the order of the list, as COCO does.
    """
    per_image = np.ascontiguousarray(weights.T)
    counted = np.ones(len(matches.hits), bool) if count_duplicates else ~matches.duplicates
    hits, scores, image_index = matches.hits[counted], matches.scores[counted], matches.image_index[counted]
    ends = np.arange(len(scores)) if rank_ties else _ends_of_ties(scores)
    points = np.unique(ends[hits])
    counted_before = int(points[-1]) + 1 if len(points) else 0
    all_sums = segment_sums(per_image, image_index[:counted_before], points)
    hit_ends = np.searchsorted(ends[hits], points, side="right") - 1
    hit_sums = segment_sums(per_image, image_index[hits], hit_ends)
    cumulated_hits = np.cumsum(hit_sums, axis=0, dtype=np.float64)
    return OperatingPoints(
        scores=scores[points],
        hits=cumulated_hits,
        false_positives=np.cumsum(all_sums, axis=0, dtype=np.float64) - cumulated_hits,
        positives=(matches.positives @ per_image).astype(np.float64),
        images=per_image.sum(axis=0, dtype=np.float64),
    )


def as_weights(weights: Weights | None, images: int) -> Weights:
    """Return ``weights`` as (R, images): ones in one row where there are none, one row where it is (images,)."""
    return np.ones((1, images)) if weights is None else np.atleast_2d(weights)


def _ends_of_ties(falling: NDArray[np.float64]) -> Indices:
    """Return for each entry the place of the last entry of the same value."""
    starts = first_of_runs(falling)
    lengths = np.diff(np.append(starts, len(falling)))
    return np.repeat(starts + lengths - 1, lengths)


def segment_sums(per_image: NDArray[Any], image_index: Indices, last: Indices) -> NDArray[Any]:
    """Return (P, R) sums of the rows of ``per_image`` that ``image_index`` names, in segments that end at ``last``."""
    sums = np.zeros((len(last), per_image.shape[1]), per_image.dtype)
    rows_at_once = max(1, ELEMENTS_AT_ONCE // max(1, per_image.shape[1]))
    starts = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    for begin in range(0, len(image_index), rows_at_once):
        block = image_index[begin : begin + rows_at_once]
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        end = int(np.searchsorted(starts, begin + len(block), side="left"))
        cuts = np.maximum(starts[first:end] - begin, 0)
        sums[first:end] += np.add.reduceat(per_image[block], cuts, axis=0, dtype=per_image.dtype)
    return sums
