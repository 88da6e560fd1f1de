"""Random mirroring of pictures whose classes have sides: what was left becomes right, in the label as well."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from cxr_mmdet import boxes
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.labels import mirrored_labels

CLASSES_KEY = "classes"
"""Where ``CxrDataset`` leaves the names of the labels."""


@TRANSFORMS.register_module()
class RandomMirror(BaseTransform):
    """Mirror a picture left to right, and give each box the class of the other side: "Left lung" for "Right lung".

    For organs, whose outline is learned from both sides then. Not for findings: a mirrored heart lies on the right. A
    model trained with it also reads mirrored pictures, as ``tools/predict.py --tta-flip`` shows it.

    Args:
        probability: of mirroring, 0…1.

    Raises:
        ConfigError: another probability, or a dataset that does not name its classes.
    """

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f"RandomMirror's probability is {probability:g}; give one in 0…1.")
        self.probability = probability

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``img``, ``gt_bboxes`` and ``gt_bboxes_labels``."""
        # The global generator, which draws are seeded by.
        if np.random.random() >= self.probability:  # noqa: NPY002
            return results
        width = results["img"].shape[1]
        results["img"] = cv2.flip(results["img"], 1)
        if "gt_bboxes" not in results:
            return results
        if CLASSES_KEY not in results:
            raise ConfigError("RandomMirror: the dataset does not name its classes; use CxrDataset, or leave it out.")
        old = results["gt_bboxes"]
        results["gt_bboxes"] = old.clone()  # with what else it knows of its boxes, such as their votes
        results["gt_bboxes"].tensor = old.tensor.new_tensor(boxes.flip_horizontal(old.tensor.numpy(), width))
        others = np.array(mirrored_labels(results[CLASSES_KEY]))
        results["gt_bboxes_labels"] = others[results["gt_bboxes_labels"]]
        return results
