"""Features of a candidate box that are known before a further reader looks, for the regressions on readers' boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.annotations.consensus import REFERENCE_IOU_THRESHOLD
from cxr_mmdet.annotations.marks import boxes_as_truth
from cxr_mmdet.annotations.reader_regression import Blocks
from cxr_mmdet.evaluation.matching import DetectionTable, Pairs, TruthTable, overlapping_pairs
from cxr_mmdet.structures.boxes import area, intersection, xyxy_to_xywh

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.annotations.marks import Candidates, Flags, Floats, Indices, Marks
    from cxr_mmdet.annotations.readers import Reliability

ALTERNATIVE_FEATURES = (
    "log_width", "log_height", "aspect", "x_px", "y_px", "x", "y", "several", "marks", "all_marks",
    "all_marks_of_missing", "other_by_missing_iou", "other_by_marking_iou", "same_by_missing_inside",
)  # fmt: skip
BY_MARKING_READER, BY_MISSING_READER, *NEIGHBOURS = range(6)
"""Places of the linear blocks: who marked, who did not; which classes both found, anywhere and overlapping."""


def describe(marks: Marks, candidates: Candidates, reliability: Reliability, shares: Floats, unit: float) -> Blocks:
    """Return what is known of candidates without the hidden reader."""
    images, classes, boxes = candidates.images, candidates.classes, candidates.boxes_xyxy
    n_images, n_readers = marks.looked.shape
    marked, missed = candidates.marked, candidates.missed
    lengths = candidates.sizes[:, :2] / unit
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, extents = _corner_of_all(marks), np.maximum(extents_of(marks), 1.0)
    place = (centres - low[images]) / extents[images]
    drawn = np.zeros((n_images, n_readers, len(marks.labels)), dtype=np.int16)
    np.add.at(drawn, (marks.images, marks.drawn_by, marks.classes), 1)
    of_class, of_all = drawn[images, :, classes], drawn.sum(axis=2)[images]
    overlaps = _Neighbours.of(candidates, marks.labels)
    seen, unseen = reliability.evidence(candidates)
    votes = marked.sum(axis=1)
    smooth = {
        "log_width": np.log(lengths[:, 0]),
        "log_height": np.log(lengths[:, 1]),
        "log_area": np.log(lengths.prod(axis=1)),
        "aspect": np.log(lengths[:, 0] / lengths[:, 1]),
        "x_px": centres[:, 0] / unit,
        "y_px": centres[:, 1] / unit,
        "x": place[:, 0],
        "y": place[:, 1],
        "width": candidates.sizes[:, 0] / extents[images, 0],
        "height": candidates.sizes[:, 1] / extents[images, 1],
        "all_width": extents[images, 0] / unit,
        "all_height": extents[images, 1] / unit,
        "spread": np.log1p(10 * candidates.spread.mean(axis=1)),
        "share": votes / marks.looked[images].sum(axis=1),
        "several": (votes > 1).astype(np.float64),
        "repeated": np.minimum(candidates.n_marks - votes, 2).astype(np.float64),
        "seen": np.clip(seen, -6, 6),
        "unseen": np.clip(unseen, -6, 0),
        **overlaps.features,
        "marks": np.log1p(_mean(of_class, marked)),
        "marks_of_missing": np.log1p(_mean(of_class, missed)),
        "all_marks": np.log1p(_mean(of_all, marked)),
        "all_marks_of_missing": np.log1p(_mean(of_all, missed)),
        "missing_empty": ((of_all == 0) & missed).sum(axis=1).astype(np.float64),
    }
    present = (drawn > 0)[images]
    company = [
        np.einsum("kr,krc->kc", who, present, dtype=np.float32).astype(np.float64)
        / np.maximum(who.sum(axis=1), 1)[:, None]
        for who in (marked, missed)
    ]
    who = [_known(flags, shares) for flags in (marked, missed)]
    return Blocks(smooth, (*who, *company, overlaps.by_missing, overlaps.by_marking))


@dataclass(frozen=True)
class _Neighbours:
    """Candidates that overlap others of their image: features, and by class of the neighbour (K, classes)."""

    features: Mapping[str, Floats]
    by_missing: Floats
    by_marking: Floats

    @classmethod
    def of(cls, candidates: Candidates, labels: Sequence[str]) -> _Neighbours:
        boxes, count = candidates.boxes_xyxy, len(candidates.images)
        pairs = _pairs_of_candidates(candidates, labels)
        found, other = pairs.found, pairs.truth
        shared = intersection(boxes[found], boxes[other])
        areas = area(boxes)
        inside = shared / np.maximum(np.minimum(areas[found], areas[other]), 1e-9)
        same = candidates.classes[found] == candidates.classes[other]
        missing = (candidates.marked[other] & candidates.missed[found]).any(axis=1)
        marking = (candidates.marked[other] & candidates.marked[found]).any(axis=1)
        features = {}
        for name, chosen in (
            ("same_by_missing", same & missing),
            ("same_by_marking", same & ~missing),
            ("other_by_missing", ~same & missing),
            ("other_by_marking", ~same & marking),
        ):
            for kind, values in (("iou", pairs.iou), ("inside", inside)):
                features[f"{name}_{kind}"] = largest = np.zeros(count)
                np.maximum.at(largest, found[chosen], values[chosen])
        tables = []
        for chosen in (~same & missing, ~same & marking):
            table = np.zeros((count, len(labels)))
            np.maximum.at(table, (found[chosen], candidates.classes[other[chosen]]), pairs.iou[chosen])
            tables.append(table)
        return cls(features, *tables)


def as_other_class(blocks: Blocks, candidates: Candidates, odds: Floats, place: Indices, n_labels: int) -> Blocks:
    """Return what is known of candidates as members of another class: their own class and score as well."""
    own = np.zeros((len(place), n_labels))
    own[np.arange(len(place)), candidates.classes[place]] = 4.0
    smooth = {name: blocks.smooth[name][place] for name in ALTERNATIVE_FEATURES}
    linear = (blocks.linear[number][place] for number in NEIGHBOURS)
    return Blocks({**smooth, "odds": odds[place]}, (own, *linear))


def other_classes(candidates: Candidates, related: Flags, labels: Sequence[str]) -> tuple[Indices, Indices]:
    """Return candidates and other classes for them, where no candidate of that class lies already."""
    taken = np.zeros((len(candidates.images), len(related)), dtype=bool)
    pairs = _pairs_of_candidates(candidates, labels)
    near = pairs.iou > REFERENCE_IOU_THRESHOLD
    taken[pairs.found[near], candidates.classes[pairs.truth[near]]] = True
    place, classes = np.nonzero(related[candidates.classes] & ~taken)
    return place, classes


def take(blocks: Blocks, chosen: Any) -> Blocks:
    """Return what is known of the chosen candidates, by mask or by places."""
    return Blocks(
        {name: values[chosen] for name, values in blocks.smooth.items()},
        tuple(columns[chosen] for columns in blocks.linear),
    )


def _known(flags: Flags, shares: Floats) -> Floats:
    """Return (K, known readers) who did something; an unknown reader counts as the mean of the known."""
    n_known = len(shares)
    return flags[:, :n_known] + flags[:, n_known:].sum(axis=1)[:, None] * shares


def _mean(values: NDArray[Any], chosen: Flags) -> Floats:
    return np.asarray((values * chosen).sum(axis=1) / np.maximum(chosen.sum(axis=1), 1))


def _corner_of_all(marks: Marks) -> Floats:
    low = np.full((len(marks.looked), 2), np.inf)
    np.minimum.at(low, marks.images, marks.boxes_xyxy[:, :2])
    return low


def extents_of(marks: Marks) -> Floats:
    """Return (images, 2) width and height around all marks of each image; 0 without any."""
    high = np.full((len(marks.looked), 2), -np.inf)
    np.maximum.at(high, marks.images, marks.boxes_xyxy[:, 2:])
    return np.maximum(np.nan_to_num(high - _corner_of_all(marks), neginf=0.0), 0.0)


def pairs_with(candidates: Candidates, boxes_xyxy: Floats, truth: TruthTable, *, same_class: bool = True) -> Pairs:
    """Return the overlapping pairs of candidates, at these corners, and boxes of their images."""
    scores = np.ones(len(candidates.classes))
    found = DetectionTable(candidates.images, candidates.classes, xyxy_to_xywh(boxes_xyxy), scores)
    return overlapping_pairs(truth, found, same_class=same_class)


def _pairs_of_candidates(candidates: Candidates, labels: Sequence[str]) -> Pairs:
    """Return the overlapping pairs of different candidates of one image, whatever their class."""
    boxes, n_images = candidates.boxes_xyxy, int(candidates.images.max(initial=-1)) + 1
    truth = boxes_as_truth(candidates.images, candidates.classes, boxes, n_images, labels)
    pairs = pairs_with(candidates, boxes, truth, same_class=False)
    different = pairs.found != pairs.truth
    return Pairs(pairs.found[different], pairs.truth[different], pairs.iou[different])
