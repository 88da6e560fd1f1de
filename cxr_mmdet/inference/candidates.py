"""A network's candidates on one radiograph, kept so that thresholds act at once without running it again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.errors import UsageError
from cxr_mmdet.inference.backends import base
from cxr_mmdet.inference.decoding import apply_nms
from cxr_mmdet.inference.predictor import Thresholds, in_source_pixels
from cxr_mmdet.structures.detections import Findings
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.inference.model import LoadedModel
    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.inference.preprocessing import ModelInput
    from cxr_mmdet.structures.detections import Detections

FLOOR = 0.01
"""Lowest score that is kept: below it lie half of a network's anchors, and findings too unlikely to be looked at."""


@dataclass(frozen=True, eq=False)
class StoredCandidates:
    """Detections that reach a floor, before NMS.

    Attributes:
        detections: the candidates, in pixels of the model's input.
        model: the model that produced them.
        model_input: the mapping back to the radiograph, without the image's data.
        warnings: oddities of the radiograph's file.
        floor: the score that all candidates reach.
    """

    detections: Detections = field(repr=False)
    model: LoadedModel = field(repr=False)
    model_input: ModelInput = field(repr=False)
    warnings: tuple[str, ...]
    floor: float

    @property
    def nbytes(self) -> int:
        """Memory that the candidates take."""
        found = self.detections
        return found.boxes_xyxy.nbytes + found.labels.nbytes + found.scores.nbytes

    def findings(self, thresholds: Thresholds) -> Findings:
        """Return what :meth:`Predictor.predict` returns for these thresholds, to the last bit.

        Raises:
            UsageError: a threshold outside 0…1 or below the floor, for a class that the model does not have, or an NMS
                IoU for a model without adjustable NMS.
        """
        model, spec = self.model, self.model.spec
        thresholds.check(model.class_names)
        limits = thresholds.of_classes(model.class_names, max(spec.score_threshold, self.floor))
        if limits.min(initial=1) < np.float32(self.floor):
            raise UsageError(f"the score threshold is {limits.min():g}, expected {self.floor:g} or more.")
        keep = reaches(self.detections.scores, limits[self.detections.labels])
        best = apply_nms(spec, self.detections[keep], spec.resolve_nms_iou(thresholds.nms_iou))
        return Findings.of(
            in_source_pixels(self.model_input, best, model.class_names),
            size_hw=self.model_input.source_size_hw,
            model_id=model.model_id,
            warnings=self.warnings,
        )


def find_candidates(predictor: Predictor, radiograph: Radiograph, *, floor: float = FLOOR) -> StoredCandidates:
    """Return the candidates of one run of the network."""
    model = predictor.model
    entry = model.preprocessing(radiograph.pixels, radiograph.pixel_aspect, size_hw=radiograph.size_hw)
    limits = Thresholds(score=floor).of_classes(model.class_names, floor)
    (found,) = base.find_candidates(model.backend, model.spec, entry.batch, [entry.size_hw], limits)
    slim = replace(entry, batch=np.empty((0, 0, 0, 0), dtype=np.float32))
    return StoredCandidates(found, model, slim, radiograph.warnings, floor)
