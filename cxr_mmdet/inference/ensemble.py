"""Several predictors that act as one: their findings fused, whatever their architectures and label orders."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.errors import UsageError
from cxr_mmdet.inference.findings import Findings
from cxr_mmdet.inference.fusion import Detections, FusionMethod, fuse, mean_p_abnormal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.inference.predictor import Augmentation, Predictor, Thresholds


class Ensemble:
    """Fuses what its members find.

    Args:
        members: at least one; a class that only some of them know is fused among those.
        method: see :class:`FusionMethod`.
        iou_threshold: overlap above which two members mean the same finding.
        weights: of the members, above 0; equal by default.

    Raises:
        UsageError: no member, or weights that do not fit.
    """

    def __init__(
        self,
        members: Sequence[Predictor],
        *,
        method: FusionMethod = FusionMethod.wbf,
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
        """Names the members and how they are fused."""
        weights = "" if self.weights is None else ":" + ",".join(f"{weight:g}" for weight in self.weights)
        names = "+".join(member.model_id for member in self.members)
        return f"{self.method.value}@{self.iou_threshold:g}{weights}({names})"

    def check(self, thresholds: Thresholds) -> None:
        """Raise unless the thresholds make sense for every member.

        Raises:
            UsageError: see :meth:`Thresholds.check`, or an NMS IoU where a member does not suppress.
        """
        thresholds.check(self.class_names)
        for member in self.members:
            member.model.spec.overlap(thresholds.nms_iou)

    @property
    def has_gate(self) -> bool:
        """Whether any member has a head of its own for ``p_abnormal``; those that have answer for all."""
        return any(member.has_gate for member in self.members)

    def predict_radiographs(
        self, radiographs: Sequence[Radiograph], thresholds: Thresholds, augmentation: Augmentation | None = None
    ) -> list[Findings]:
        """Return the fused findings of each radiograph; score thresholds act after fusion, each member's own before."""
        self.check(thresholds)
        by_member = [
            member.predict_radiographs(radiographs, _before_fusion(member, thresholds), augmentation)
            for member in self.members
        ]
        return [self._fuse(found, thresholds) for found in zip(*by_member, strict=True)]

    def _fuse(self, found: Sequence[Findings], thresholds: Thresholds) -> Findings:
        names = self.class_names
        fused = fuse_findings(found, names, method=self.method, iou_threshold=self.iou_threshold, weights=self.weights)
        first = found[0]
        findings = Findings.of(
            fused.boxes_xyxy,
            fused.labels,
            fused.scores,
            class_names=names,
            size_hw=first.size_hw,
            model_id=self.model_id,
            warnings=first.warnings,
            p_abnormal=mean_p_abnormal(
                [
                    entry.p_abnormal if member.has_gate else None
                    for entry, member in zip(found, self.members, strict=True)
                ],
                self.weights,
            ),
        )
        own = min(member.model.spec.score_threshold for member in self.members)
        score = own if thresholds.score is None else thresholds.score
        limits = dict.fromkeys(names, score) | dict(thresholds.per_class or {})
        return findings.at_least(limits)


def _before_fusion(member: Predictor, thresholds: Thresholds) -> Thresholds:
    """Return a member's own score threshold, or the lowest one asked for, should that be lower."""
    lowest = thresholds.lowest
    if lowest is not None and lowest > member.model.spec.score_threshold:
        lowest = None
    return replace(thresholds, score=lowest, per_class=None)


def check_weights(weights: Sequence[float] | None, count: int) -> None:
    """Raise unless there is one weight above 0 for each member.

    Raises:
        UsageError: see above.
    """
    if weights is not None and (len(weights) != count or min(weights) <= 0):
        raise UsageError(f"{len(weights)} weights for {count} models: each model needs one, above 0.")


def fuse_findings(
    found: Sequence[Findings],
    class_names: Sequence[str],
    *,
    method: FusionMethod,
    iou_threshold: float,
    weights: Sequence[float] | None = None,
) -> Detections:
    """Return several models' findings of one radiograph as one set, labelled by ``class_names``.

    A class that some models do not know is scored among those that do, so that their ignorance does not lower it.
    """
    places = {name: label for label, name in enumerate(class_names)}
    model_weights = [1.0] * len(found) if weights is None else list(weights)
    groups: dict[tuple[int, ...], list[int]] = {}
    for name, label in places.items():
        knowing = tuple(index for index, entry in enumerate(found) if name in entry.class_names)
        groups.setdefault(knowing, []).append(label)
    parts = []
    for knowing, labels in groups.items():
        detections = [_select(found[index], places, labels) for index in knowing]
        own = [model_weights[index] for index in knowing]
        parts.append(fuse(detections, method=method, iou_threshold=iou_threshold, weights=own))
    return Detections(
        np.concatenate([part.boxes_xyxy for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def _select(found: Findings, places: dict[str, int], labels: Sequence[int]) -> Detections:
    own = np.array([places[name] for name in found.class_names], dtype=np.int64)[found.labels]
    kept = np.isin(own, labels)
    return Detections(found.boxes_xyxy[kept], own[kept], found.scores[kept])
