"""Several readers' boxes → one set of boxes for each image, with the votes behind each.

Weighted boxes fusion (Solovyev et al., https://arxiv.org/abs/1910.13302) and non-maximum suppression as the package
``ensemble-boxes`` defines them, for all images at once: step j looks at the j-th box of every image and class
together. Boxes stay in pixels, for intersection over union does not change when an axis is scaled.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr_mmdet.boxes import XYXY_COLUMNS, iou
from cxr_mmdet.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Fusion(str, Enum):
    """How readers' boxes become one set."""

    WBF = "wbf"
    NMS = "nms"
    NONE = "none"


REFERENCE_IOU_THRESHOLD = 0.4
REFERENCE_SKIP_THRESHOLD = 0.21
"""The reference project's settings; the second skips nothing, for every reader's box has score 1."""


def fuse_readers(
    rows: pd.DataFrame,
    *,
    method: Fusion | str = Fusion.WBF,
    iou_threshold: float = REFERENCE_IOU_THRESHOLD,
    skip_threshold: float = REFERENCE_SKIP_THRESHOLD,
) -> pd.DataFrame:
    """Return the consensus of the readers, the same whatever the order of the rows and the names of the readers.

    Boxes of one image and class are taken by descending score, equal scores by descending coordinates. WBF: a box
    joins the fused box it overlaps most, when that is above the threshold, and moves it to the weighted mean; else it
    founds a new one. NMS: a box that overlaps an earlier kept one is dropped, and its reader votes for that one.

    Args:
        rows: readers' rows as :func:`cxr_mmdet.annotations.table.read_table` gives them; a column ``score`` in (0, 1]
            weighs the boxes, without it each counts 1.
        method: how overlapping boxes become one; ``none`` keeps all.
        iou_threshold: intersection over union above which two boxes are one finding.
        skip_threshold: boxes with a lower score are left out.

    Returns:
        Sorted by image, class and box: image_id, class_name, x_min, y_min, x_max, y_max, score (WBF: mean score times
        the share of the image's readers behind the box, at most 1; else the box's own), votes (number of distinct
        readers) and readers (tuple of their names, sorted).
    """
    scores = rows["score"] if "score" in rows else pd.Series(1.0, index=rows.index)
    found = rows[(rows["class_name"] != NO_FINDING) & (scores >= skip_threshold)]
    found = found.assign(score=scores[found.index], n_readers=_readers_per_image(rows)[found.index])
    keys = ["image_id", "class_name"]
    # Ties end with the reader, so that the tuples of readers are the only thing a renaming can change.
    found = found.sort_values([*keys, "score", *XYXY_COLUMNS, "reader"], ascending=[True, True, *[False] * 6])
    groups = np.asarray(found.groupby(keys, sort=False).ngroup(), dtype=np.int64)
    boxes, box_scores = found[XYXY_COLUMNS].to_numpy(np.float64), found["score"].to_numpy(np.float64)
    fuse = Fusion(method) is Fusion.WBF
    if Fusion(method) is Fusion.NONE:
        return _fused_rows(found, np.arange(len(found)), fuse=fuse)
    return _fused_rows(found, cluster_boxes(boxes, box_scores, groups, iou_threshold, fuse=fuse), fuse=fuse)


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
    _, clusters = np.unique(np.stack([groups, local], axis=1), axis=0, return_inverse=True)
    return clusters.reshape(-1)


def _readers_per_image(rows: pd.DataFrame) -> pd.Series:
    """Return for each row how many readers looked at its image, with or without a finding."""
    return rows.groupby("image_id", sort=False)["reader"].transform("nunique")


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


def _fused_rows(found: pd.DataFrame, clusters: NDArray[np.integer], *, fuse: bool) -> pd.DataFrame:
    by_cluster = found.groupby(clusters, sort=True)
    fused = by_cluster[["image_id", "class_name", *XYXY_COLUMNS, "score"]].first()
    if fuse:
        members = by_cluster.size()
        weighted = found[XYXY_COLUMNS].mul(found["score"], axis=0).groupby(clusters).sum()
        fused[XYXY_COLUMNS] = weighted.div(by_cluster["score"].sum(), axis=0)
        readers = by_cluster["n_readers"].first()
        fused["score"] = by_cluster["score"].mean() * np.minimum(members, readers) / readers
    fused["votes"] = by_cluster["reader"].nunique()
    fused["readers"] = by_cluster["reader"].unique().map(lambda names: tuple(sorted(names)))
    return fused.sort_values(["image_id", "class_name", *XYXY_COLUMNS]).reset_index(drop=True)
