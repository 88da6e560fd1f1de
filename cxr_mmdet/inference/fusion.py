"""Fusion of the detections that several models or views give for one radiograph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.errors import UsageError, counted
from cxr_mmdet.structures.boxes import as_boxes
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.enums import DetectionFusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.inference.predictor import Augmentation, Predictor, Thresholds


def fuse(
    detections: Sequence[Detections],
    *,
    method: DetectionFusion = DetectionFusion.WBF,
    iou_threshold: float = 0.5,
    weights: Sequence[float] | None = None,
) -> Detections:
    """Return the detections of one radiograph by several models as one set, the highest score first.

    Args:
        detections: one entry per model, all with the same labels; entries without a detection count as well.
        method: the rule.
        iou_threshold: a detection joins the fused box that it overlaps most, above this overlap.
        weights: weights of the models, above 0; equal by default.
    """
    from cxr_mmdet.annotations.consensus import cluster_boxes

    model_weights = np.ones(len(detections)) if weights is None else np.asarray(weights, dtype=np.float64)
    names, p_abnormal = detections[0].class_names, mean_p_abnormal([each.p_abnormal for each in detections], weights)
    everything = Detections.concatenate(detections)
    scores = everything.scores * np.repeat(model_weights, [len(each) for each in detections])
    usable = scores > 0
    boxes, labels, scores = as_boxes(everything.boxes_xyxy)[usable], everything.labels[usable], scores[usable]
    if not len(boxes):
        return Detections(boxes, labels, scores, names, p_abnormal)
    order = np.lexsort((*(-column for column in boxes.T[::-1]), -scores, labels))
    boxes, labels, scores = boxes[order], labels[order], scores[order]
    _, groups = np.unique(labels, return_inverse=True)
    clusters = cluster_boxes(boxes, scores, groups.reshape(-1), iou_threshold, fuse=True)
    count = int(clusters.max()) + 1
    sums = np.bincount(clusters, scores, minlength=count)
    members = np.bincount(clusters, minlength=count)
    fused = np.stack([np.bincount(clusters, scores * side, minlength=count) / sums for side in boxes.T], axis=1)
    total = model_weights.sum()
    if method is DetectionFusion.P_SUM:
        fused_scores = sums / total
    else:
        # ensemble-boxes' "avg": the mean weighted score, times boxes (at most models) over the sum of the weights.
        fused_scores = sums / members * np.minimum(members, len(detections)) / total
    # Several boxes of one model count several times, so that either sum can pass 1 (ZFTurbo/Weighted-Boxes-Fusion #40).
    fused_scores = np.minimum(fused_scores, 1)
    _, founders = np.unique(clusters, return_index=True)
    best = np.argsort(-fused_scores, kind="stable")
    return Detections(fused[best], labels[founders][best], fused_scores[best], names, p_abnormal)


def mean_p_abnormal(probabilities: Sequence[float | None], weights: Sequence[float] | None = None) -> float | None:
    """Return the weighted mean of the gates' p_abnormal of one radiograph; None where no model has a gate.

    Args:
        probabilities: one entry per model or view, None for those without a gate.
        weights: weights of the models, above 0; equal by default.
    """
    pairs = zip(probabilities, [1.0] * len(probabilities) if weights is None else weights, strict=True)
    known = [(p_abnormal, weight) for p_abnormal, weight in pairs if p_abnormal is not None]
    if not known:
        return None
    return sum(p_abnormal * weight for p_abnormal, weight in known) / sum(weight for _, weight in known)


class Ensemble:
    """A predictor that fuses the findings of its members.

    Args:
        members: at least one; a class that only some members know is fused among those.
        method: see :class:`DetectionFusion`.
        iou_threshold: overlap above which detections of two members are fused.
        weights: weights of the members, above 0; equal by default.

    Raises:
        UsageError: no member, or not one weight per member.
    """

    def __init__(
        self,
        members: Sequence[Predictor],
        *,
        method: DetectionFusion = DetectionFusion.WBF,
        iou_threshold: float = 0.5,
        weights: Sequence[float] | None = None,
    ) -> None:
        if not members:
            raise UsageError("an ensemble needs at least one model.")
        check_weights(weights, len(members))
        self.members = tuple(members)
        self.method = method
        self.iou_threshold = iou_threshold
        self.weights = None if weights is None else tuple(weights)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The members' classes, in the order of the first that has each."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.class_names))

    @property
    def model_id(self) -> str:
        """Name of the ensemble: its members and the rule of fusion."""
        weights = "" if self.weights is None else ":" + ",".join(f"{weight:g}" for weight in self.weights)
        names = "+".join(member.model_id for member in self.members)
        return f"{self.method.value}@{self.iou_threshold:g}{weights}({names})"

    def check(self, thresholds: Thresholds) -> None:
        """Raise unless the thresholds make sense for every member.

        Raises:
            UsageError: see :meth:`Thresholds.check`, or an NMS IoU for a member without adjustable NMS.
        """
        thresholds.check(self.class_names)
        for member in self.members:
            member.model.spec.resolve_nms_iou(thresholds.nms_iou)

    @property
    def score_threshold(self) -> float:
        """Lowest of the members' own score thresholds, which applies unless another is asked for."""
        return min(member.score_threshold for member in self.members)

    @property
    def has_gate(self) -> bool:
        """Whether any member has an abnormality gate; p_abnormal is the mean of those that have one."""
        return any(member.has_gate for member in self.members)

    @property
    def min_short_edge(self) -> int | None:
        """Largest of the members' own; None where any of them must see every pixel."""
        edges = [member.min_short_edge for member in self.members]
        return None if None in edges else max(edge for edge in edges if edge)

    @property
    def workers(self) -> int:
        """Number of threads that keep the members busy."""
        return max(member.workers for member in self.members)

    def predict_radiographs(
        self, radiographs: Sequence[Radiograph], thresholds: Thresholds, augmentation: Augmentation | None = None
    ) -> list[Findings]:
        """Return the fused findings of each radiograph; thresholds apply after fusion, each member's own before."""
        self.check(thresholds)
        by_member = [
            member.predict_radiographs(radiographs, _before_fusion(member, thresholds), augmentation)
            for member in self.members
        ]
        return [self._fuse(found, thresholds) for found in zip(*by_member, strict=True)]

    def _fuse(self, found: Sequence[Findings], thresholds: Thresholds) -> Findings:
        names = self.class_names
        fused = fuse_findings(found, names, method=self.method, iou_threshold=self.iou_threshold, weights=self.weights)
        gated = [each.p_abnormal if member.has_gate else None for each, member in zip(found, self.members, strict=True)]
        fused = replace(fused, p_abnormal=mean_p_abnormal(gated, self.weights))
        first = found[0]
        findings = Findings.of(fused, size_hw=first.size_hw, model_id=self.model_id, warnings=first.warnings)
        score = self.score_threshold if thresholds.score is None else thresholds.score
        limits = dict.fromkeys(names, score) | dict(thresholds.per_class or {})
        return findings.filter(limits)


def _before_fusion(member: Predictor, thresholds: Thresholds) -> Thresholds:
    """Return a member's own score threshold, or the lowest one asked for where that is lower."""
    lowest = thresholds.lowest
    if lowest is not None and lowest > member.score_threshold:
        lowest = None
    return replace(thresholds, score=lowest, per_class=None)


def check_weights(weights: Sequence[float] | None, count: int) -> None:
    """Raise unless there is one weight above 0 for each member.

    Raises:
        UsageError: see above.
    """
    if weights is not None and (len(weights) != count or min(weights) <= 0):
        raise UsageError(
            f"{counted(len(weights), 'weight')} for {counted(count, 'model')}: each model needs one, above 0."
        )


def fuse_findings(
    found: Sequence[Findings],
    class_names: Sequence[str],
    *,
    method: DetectionFusion,
    iou_threshold: float,
    weights: Sequence[float] | None = None,
) -> Detections:
    """Return several models' findings of one radiograph as one set, labelled by ``class_names``.

    A class that some models do not know is scored among those that do, so that their ignorance does not lower it.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    model_weights = [1.0] * len(found) if weights is None else list(weights)
    groups: dict[tuple[int, ...], list[int]] = {}
    for name, label in label_of.items():
        knowing = tuple(index for index, entry in enumerate(found) if name in entry.class_names)
        groups.setdefault(knowing, []).append(label)
    parts = []
    for knowing, labels in groups.items():
        detections = [_select(found[index], label_of, labels) for index in knowing]
        own = [model_weights[index] for index in knowing]
        parts.append(fuse(detections, method=method, iou_threshold=iou_threshold, weights=own))
    return Detections.concatenate(parts, class_names)


def _select(found: Findings, label_of: dict[str, int], labels: Sequence[int]) -> Detections:
    """Return the detections of some classes, relabelled."""
    own = np.array([label_of[name] for name in found.class_names], dtype=np.int64)[found.labels]
    return Detections(found.boxes_xyxy, own, found.scores)[np.isin(own, labels)]
