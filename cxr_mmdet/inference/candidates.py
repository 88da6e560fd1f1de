"""Everything a network saw on one radiograph, kept so that thresholds act at once, without running it again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.errors import UsageError
from cxr_mmdet.inference.backends.base import candidates, leave_best
from cxr_mmdet.inference.findings import Findings
from cxr_mmdet.inference.predictor import Thresholds, in_source_pixels
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.inference.decoding import Boxes
    from cxr_mmdet.inference.model import LoadedModel
    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.inference.preprocessing import ModelInput

FLOOR = 0.01
"""Nothing below is kept: half a network's anchors would be, and nobody looks at findings that unlikely."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The boxes that reach a floor before suppression.

    Attributes:
        found: in pixels of the model's input.
        model: whose they are.
        model_input: the way back to the radiograph; without the pictures' data.
        warnings: what was odd about the radiograph.
        floor: the score that all of them reach.
    """

    found: Boxes = field(repr=False)
    model: LoadedModel = field(repr=False)
    model_input: ModelInput = field(repr=False)
    warnings: tuple[str, ...]
    floor: float

    @property
    def nbytes(self) -> int:
        """Memory that the boxes take."""
        return self.found.boxes_xyxy.nbytes + self.found.labels.nbytes + self.found.scores.nbytes

    def findings(self, thresholds: Thresholds) -> Findings:
        """Return what :meth:`Predictor.predict` finds with these thresholds, to the last bit.

        Raises:
            UsageError: a threshold outside 0…1 or below the floor, for a class that the model does not have, or for
                suppression that it does not do.
        """
        model, spec = self.model, self.model.spec
        thresholds.check(model.class_names)
        limits = thresholds.of_classes(model.class_names, max(spec.score_threshold, self.floor))
        if limits.min(initial=1) < np.float32(self.floor):
            raise UsageError(f"the score threshold is {limits.min():g}, expected {self.floor:g} or more.")
        kept = np.flatnonzero(reaches(self.found.scores, limits[self.found.labels]))
        nms_iou = spec.overlap(thresholds.nms_iou)
        best = in_source_pixels(self.model_input, leave_best(spec, self.found.take(kept), nms_iou), model.class_names)
        return Findings.of(
            best.boxes_xyxy,
            best.labels,
            best.scores,
            class_names=model.class_names,
            size_hw=self.model_input.source_size_hw,
            model_id=model.model_id,
            warnings=self.warnings,
            p_abnormal=best.p_abnormal,
        )


def find_candidates(predictor: Predictor, radiograph: Radiograph, *, floor: float = FLOOR) -> Candidates:
    """Run the network once."""
    model = predictor.model
    entry = model.preprocessing(radiograph.pixels, radiograph.pixel_aspect)
    limits = Thresholds(score=floor).of_classes(model.class_names, floor)
    (found,) = candidates(model.backend, model.spec, entry.batch, [entry.size_hw], limits)
    slim = replace(entry, batch=np.empty((0, 0, 0, 0), dtype=np.float32))
    return Candidates(found, model, slim, radiograph.warnings, floor)
