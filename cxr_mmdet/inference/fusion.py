"""Several looks at one radiograph, by several models or views → one set of findings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.boxes import as_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class FusionMethod(str, Enum):
    """How detections of one finding become one.

    The box is their mean, weighted by score and by their model's weight. ``wbf`` (weighted boxes fusion) scores it by
    the weighted mean score times the share of the models behind it; ``p_sum`` by the sum of the weighted scores over
    the sum of the models' weights. Several detections of one model count on; a score is at most 1.
    """

    wbf = "wbf"
    p_sum = "p_sum"


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes (N, 4) in absolute pixels, labels (N,) and scores (N,) in 0…1 of one radiograph.

    ``p_abnormal`` is what an abnormality gate says of it; None without a gate.
    """

    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    p_abnormal: float | None = None

    @classmethod
    def empty(cls) -> Detections:
        """Return no detections."""
        return cls(as_boxes([]), np.empty(0, dtype=np.int64), np.empty(0))


def fuse(
    detections: Sequence[Detections],
    *,
    method: FusionMethod = FusionMethod.wbf,
    iou_threshold: float = 0.5,
    weights: Sequence[float] | None = None,
) -> Detections:
    """Return the detections of one radiograph by several models as one set, the best score first.

    Args:
        detections: one entry a model, all with the same labels; those without a detection count as well.
        method: how.
        iou_threshold: a detection joins the fused box it overlaps most above this.
        weights: of the models, above 0; equal by default.
    """
    from cxr_mmdet.annotations.consensus import cluster_boxes

    model_weights = np.ones(len(detections)) if weights is None else np.asarray(weights, dtype=np.float64)
    boxes = np.concatenate([as_boxes(entry.boxes_xyxy) for entry in detections])
    labels = np.concatenate([entry.labels for entry in detections])
    own_weights = np.repeat(model_weights, [len(entry.scores) for entry in detections])
    scores = np.concatenate([entry.scores for entry in detections]) * own_weights
    usable = scores > 0
    boxes, labels, scores = boxes[usable], labels[usable], scores[usable]
    if not len(boxes):
        return Detections.empty()
    order = np.lexsort((*(-column for column in boxes.T[::-1]), -scores, labels))
    boxes, labels, scores = boxes[order], labels[order], scores[order]
    _, groups = np.unique(labels, return_inverse=True)
    clusters = cluster_boxes(boxes, scores, groups.reshape(-1), iou_threshold, fuse=True)
    count = int(clusters.max()) + 1
    sums = np.bincount(clusters, scores, minlength=count)
    members = np.bincount(clusters, minlength=count)
    fused = np.stack([np.bincount(clusters, scores * side, minlength=count) / sums for side in boxes.T], axis=1)
    total = model_weights.sum()
    if method is FusionMethod.p_sum:
        fused_scores = sums / total
    else:
        # ensemble-boxes' "avg": the mean weighted score, times boxes (at most models) over the sum of the weights.
        fused_scores = sums / members * np.minimum(members, len(detections)) / total
    # Several boxes of one model count several times, so that either sum can pass 1 (ZFTurbo/Weighted-Boxes-Fusion #40).
    fused_scores = np.minimum(fused_scores, 1)
    _, founders = np.unique(clusters, return_index=True)
    best = np.argsort(-fused_scores, kind="stable")
    return Detections(fused[best], labels[founders][best], fused_scores[best])


def mean_p_abnormal(probabilities: Sequence[float | None], weights: Sequence[float] | None = None) -> float | None:
    """Return the weighted mean of what gates say of one radiograph; None where none of the models has a gate.

    Args:
        probabilities: one entry a model or view, None for those without a gate.
        weights: of the models, above 0; equal by default.
    """
    pairs = zip(probabilities, [1.0] * len(probabilities) if weights is None else weights, strict=True)
    known = [(p_abnormal, weight) for p_abnormal, weight in pairs if p_abnormal is not None]
    if not known:
        return None
    return sum(p_abnormal * weight for p_abnormal, weight in known) / sum(weight for _, weight in known)
