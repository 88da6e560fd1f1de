"""Several readers' boxes → one set of boxes for each image, with the votes behind each.

Weighted boxes fusion (Solovyev et al., https://arxiv.org/abs/1910.13302) and non-maximum suppression as the package
``ensemble-boxes`` defines them, for all images at once: step j looks at the j-th box of every image and class
together. Boxes stay in pixels, for intersection over union does not change when an axis is scaled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.table import REGION_COLUMN, is_region, without_regions
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, iou
from cxr_mmdet.structures.enums import ReaderFusion
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


REFERENCE_IOU_THRESHOLD = 0.4
MAJORITY = 2
"""Of VinBigData's three readers of an image."""
REFERENCE_SKIP_THRESHOLD = 0.21
"""The reference project's settings; the second skips nothing, for every reader's box has score 1."""


def fuse_readers(
    rows: pd.DataFrame,
    *,
    method: ReaderFusion | str = ReaderFusion.WBF,
    iou_threshold: float = REFERENCE_IOU_THRESHOLD,
    skip_threshold: float = REFERENCE_SKIP_THRESHOLD,
    min_votes: int = MAJORITY,
) -> pd.DataFrame:
    """Return the consensus of the readers, the same whatever the order of the rows and the names of the readers.

    Boxes of one image and class are taken by descending score, equal scores by descending coordinates. WBF: a box
    joins the fused box it overlaps most, when that is above the threshold, and moves it to the weighted mean; else it
    founds a new one. NMS: a box that overlaps an earlier kept one is dropped, and its reader votes for that one. Vote:
    as WBF, but only boxes that enough readers stand behind are kept. Readers: see
    :func:`cxr_mmdet.annotations.reader_consensus.fuse_by_readers`, which the other arguments do not change.

    Args:
        rows: readers' rows as :func:`cxr_mmdet.annotations.table.read_table` gives them; a column ``score`` in (0, 1]
            weighs the boxes, without it each counts 1.
        method: how overlapping boxes become one; ``none`` keeps all.
        iou_threshold: intersection over union above which two boxes are one finding.
        skip_threshold: boxes with a lower score are left out.
        min_votes: how many distinct readers a box needs; ``vote`` alone looks at it. An image that fewer readers read
            keeps none.

    Returns:
        Sorted by image, class and box: image_id, class_name, x_min, y_min, x_max, y_max, score (WBF: mean score times
        the share of the image's readers behind the box, at most 1; else the box's own), votes (number of distinct
        readers) and readers (tuple of their names, sorted). Regions to ignore come through as they are, with True in a
        column iscrowd, which is there only where they are.
    """
    if ReaderFusion(method) is ReaderFusion.READERS:
        from cxr_mmdet.annotations.reader_consensus import fuse_by_readers  # it is built on this file

        return fuse_by_readers(rows)[0]
    region = is_region(rows)
    if region.any():
        boxes = fuse_readers(
            without_regions(rows),
            method=method,
            iou_threshold=iou_threshold,
            skip_threshold=skip_threshold,
            min_votes=min_votes,
        )
        return with_regions(boxes, rows[region])
    scores = rows["score"].to_numpy(np.float64) if "score" in rows else np.ones(len(rows))
    kept = np.flatnonzero((rows["class_name"] != NO_FINDING).to_numpy() & (scores >= skip_threshold))
    readings = _Readings.of(rows, scores).take(kept)
    readings = readings.take(readings.canonical_order())
    fuse = ReaderFusion(method) in (ReaderFusion.WBF, ReaderFusion.VOTE)
    if ReaderFusion(method) is ReaderFusion.NONE:
        return _fuse_clusters(readings, np.arange(len(kept)), fuse=fuse)
    clusters = cluster_boxes(readings.boxes_xyxy, readings.scores, readings.groups(), iou_threshold, fuse=fuse)
    fused = _fuse_clusters(readings, clusters, fuse=fuse)
    if ReaderFusion(method) is not ReaderFusion.VOTE:
        return fused
    return fused[fused["votes"] >= min_votes].reset_index(drop=True)


def with_regions(boxes: pd.DataFrame, regions: pd.DataFrame) -> pd.DataFrame:
    """Return the consensus and the regions to ignore, each once, whoever marked it."""
    keys = ["image_id", "class_name", *XYXY_COLUMNS]
    marked_by = [(*key, tuple(sorted(set(own["reader"])))) for key, own in regions.groupby(keys)]
    marked = pd.DataFrame(marked_by, columns=[*keys, "readers"])
    marked = marked.assign(score=1.0, votes=marked["readers"].map(len).astype(np.int64), **{REGION_COLUMN: True})
    if "corner_spread" in boxes:
        marked["corner_spread"] = None
    both = pd.concat([boxes.assign(**{REGION_COLUMN: False}), marked[[*boxes.columns, REGION_COLUMN]]])
    return both.sort_values(keys, kind="stable", ignore_index=True)


def cluster_boxes(
    boxes_xyxy: NDArray[np.float64],
    scores: NDArray[np.float64],
    groups: NDArray[np.int64],
    iou_threshold: float,
    *,
    fuse: bool,
) -> NDArray[np.int64]:
    """Return which boxes are one finding: (N,) numbers from 0, by group and then by founding box.

    Args:
        boxes_xyxy: (N, 4), in the order in which a group's boxes are looked at.
        scores: (N,) weights above 0.
        groups: (N,) numbers from 0 without gaps; boxes of different groups never meet.
        iou_threshold: a box joins a cluster above this overlap with it.
        fuse: True: a cluster is the weighted mean of its boxes, and a box joins the one it overlaps most (WBF).
            False: a cluster is its founding box, and a box joins the first one it overlaps (NMS).
    """
    local = np.zeros(len(groups), dtype=np.int64)
    for positions in _padded_groups(groups):
        filled = positions >= 0
        found = _cluster_padded(boxes_xyxy[positions], scores[positions], filled.sum(axis=1), iou_threshold, fuse=fuse)
        local[positions[filled]] = found[filled]
    clusters_per_group = np.zeros(groups.max(initial=-1) + 1, dtype=np.int64)
    np.maximum.at(clusters_per_group, groups, local + 1)
    return (np.cumsum(clusters_per_group) - clusters_per_group)[groups] + local


@dataclass(frozen=True)
class _Readings:
    """Readers' boxes as arrays of one length; names are numbers into sorted arrays of names, for strings are slow.

    ``n_readers`` says for each box how many readers looked at its image, with or without a finding.
    """

    image_names: NDArray[np.object_]
    class_names: NDArray[np.object_]
    reader_names: NDArray[np.object_]
    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    readers: NDArray[np.int64]
    n_readers: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, rows: pd.DataFrame, scores: NDArray[np.float64]) -> _Readings:
        """Return all rows, also those without a finding."""
        images, image_names = pd.factorize(rows["image_id"], sort=True)
        classes, class_names = pd.factorize(rows["class_name"], sort=True)
        readers, reader_names = pd.factorize(rows["reader"], sort=True)
        seen = np.unique(images * len(reader_names) + readers) // max(len(reader_names), 1)
        return cls(
            image_names=np.asarray(image_names, dtype=object),
            class_names=np.asarray(class_names, dtype=object),
            reader_names=np.asarray(reader_names, dtype=object),
            images=images,
            classes=classes,
            readers=readers,
            n_readers=np.bincount(seen, minlength=len(image_names))[images],
            boxes_xyxy=rows[XYXY_COLUMNS].to_numpy(np.float64),
            scores=scores,
        )

    def take(self, positions: NDArray[np.int64]) -> _Readings:
        """Return the readings at these positions."""
        names = ("images", "classes", "readers", "n_readers", "boxes_xyxy", "scores")
        return replace(self, **{name: getattr(self, name)[positions] for name in names})

    def canonical_order(self) -> NDArray[np.int64]:
        """Return the order in which boxes are looked at; only boxes alike in all numbers are left to their order."""
        descending = [-column for column in self.boxes_xyxy.T[::-1]]
        return np.lexsort((*descending, -self.scores, self.classes, self.images))

    def groups(self) -> NDArray[np.int64]:
        """Return the number of each box's image and class, from 0 without gaps."""
        _, groups = np.unique(self.images * len(self.class_names) + self.classes, return_inverse=True)
        return groups.reshape(-1)


def _padded_groups(groups: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield (G, K) positions of the boxes of groups of similar size, largest group first, filled up with -1.

    A batch holds the groups with more than K / 2 and at most K boxes, so that one crowded image costs no memory
    elsewhere.
    """
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    low = 0
    while low < sizes.max(initial=0):
        high = max(1, 2 * low)
        members = np.flatnonzero((sizes > low) & (sizes <= high))
        members = members[np.argsort(-sizes[members], kind="stable")]
        if len(members):
            columns = np.arange(sizes[members[0]])
            taken = np.minimum(starts[members, None] + columns, len(order) - 1)
            yield np.where(columns < sizes[members, None], order[taken], -1)
        low = high


def _cluster_padded(
    boxes_xyxy: NDArray[np.float64],
    scores: NDArray[np.float64],
    sizes: NDArray[np.int64],
    iou_threshold: float,
    *,
    fuse: bool,
) -> NDArray[np.int64]:
    """Return the (G, K) cluster numbers within each group of a padded batch.

    Args:
        boxes_xyxy: (G, K, 4).
        scores: (G, K).
        sizes: (G,) how many boxes of each group are real, in descending order.
        iou_threshold: see :func:`cluster_boxes`.
        fuse: see :func:`cluster_boxes`.
    """
    n_groups, width = scores.shape
    clusters = np.full((n_groups, width), -1)
    weighted = np.zeros((n_groups, width, 4))
    weights = np.zeros((n_groups, width))
    count = np.zeros(n_groups, dtype=np.int64)
    for step in range(width):
        active = np.arange(np.count_nonzero(sizes > step))
        box, score = boxes_xyxy[active, step], scores[active, step]
        # After `step` boxes a group has at most `step` clusters.
        fused = weighted[active, :step] / np.maximum(weights[active, :step, None], np.finfo(float).tiny)
        overlaps = iou(fused, box[:, None])
        candidates = overlaps if fuse else overlaps > iou_threshold
        target = count[active].copy()
        if step:
            best = candidates.argmax(axis=1)
            joins = overlaps[active, best] > iou_threshold
            target[joins] = best[joins]
        founds = target == count[active]
        clusters[active, step] = target
        count[active] += founds
        moved = active if fuse else active[founds]
        weighted[moved, target[moved]] += score[moved, None] * box[moved]
        weights[moved, target[moved]] += score[moved]
    return clusters


def _fuse_clusters(readings: _Readings, clusters: NDArray[np.integer], *, fuse: bool) -> pd.DataFrame:
    """Return a row for each cluster, sorted: the weighted mean of its boxes, or its founding box."""
    _, founders, members = np.unique(clusters, return_index=True, return_counts=True)
    founding = readings.take(founders)
    boxes, scores = founding.boxes_xyxy, founding.scores
    if fuse:
        weights = np.bincount(clusters, readings.scores)
        sums = [
            np.bincount(clusters, readings.scores * side, minlength=len(founders)) for side in readings.boxes_xyxy.T
        ]
        boxes = np.stack(sums, axis=1) / weights[:, None]
        # The mean score, times the share of the image's readers behind it.
        scores = weights / members * np.minimum(members, founding.n_readers) / founding.n_readers
    readers = _readers_of_clusters(readings, clusters)
    order = np.lexsort((*boxes.T[::-1], founding.classes, founding.images))
    return pd.DataFrame(
        {
            "image_id": founding.image_names[founding.images[order]],
            "class_name": founding.class_names[founding.classes[order]],
            **dict(zip(XYXY_COLUMNS, boxes[order].T, strict=True)),
            "score": scores[order],
            "votes": np.array([len(names) for names in readers], dtype=np.int64)[order],
            "readers": pd.Series(readers, dtype=object).to_numpy()[order],
        }
    )


def _readers_of_clusters(readings: _Readings, clusters: NDArray[np.integer]) -> list[tuple[str, ...]]:
    """Return the sorted names of the distinct readers of each cluster."""
    pairs = np.unique(clusters * len(readings.reader_names) + readings.readers)
    owners, readers = np.divmod(pairs, max(len(readings.reader_names), 1))
    ends = np.cumsum(np.bincount(owners)).tolist()
    names = readings.reader_names[readers].tolist()
    return [tuple(names[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
