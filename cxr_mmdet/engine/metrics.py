"""Our evaluation as an mmengine metric: boxes back to prepared-image pixels, then the pure code scores them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from cxr_mmdet import boxes
from cxr_mmdet.annotations.coco import read_coco
from cxr_mmdet.evaluation.coco import CocoScores, evaluate_coco
from cxr_mmdet.evaluation.results import detections_from_arrays, sort_detections, write_detections
from cxr_mmdet.files import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence


@METRICS.register_module()
class CxrMetric(BaseMetric):
    """COCO scores of a detector on a prepared folder: ``bbox/mAP``, ``bbox/mAP_50``, ``bbox/AP_50/<class>``.

    A score that is undefined (a class without boxes) is left out; no detection at all is a legal 0.

    Args:
        ann_file: the COCO file, relative to ``data_root``.
        data_root: the prepared folder.
        out_dir: where ``detections.json`` and ``metrics.json`` are written; nowhere by default.
    """

    default_prefix = "bbox"

    def __init__(self, ann_file: str, data_root: str = "", out_dir: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ground_truth = read_coco(os.path.join(data_root, ann_file))
        self.out_dir = out_dir
        self.scores: CocoScores | None = None
        self._category_ids = np.array([category["id"] for category in self.ground_truth["categories"]])

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the detections of each image; the batch itself is not needed."""
        for sample in data_samples:
            predictions = sample["pred_instances"]
            detections = detections_from_arrays(
                sample["img_id"],
                to_prepared_pixels(predictions["bboxes"].numpy(force=True), sample),
                predictions["scores"].numpy(force=True),
                self._category_ids[predictions["labels"].numpy(force=True)],
            )
            self.results.append(detections)

    def compute_metrics(self, results: list[list[dict[str, Any]]]) -> dict[str, float]:
        """Return the scores by name, and write the files when ``out_dir`` is set."""
        # COCO breaks ties of scores by the order of the list, and several processes hand them over in another order.
        detections = sort_detections(detection for of_image in results for detection in of_image)
        self.scores = evaluate_coco(self.ground_truth, detections)
        if self.out_dir is not None:
            write_detections(Path(self.out_dir) / "detections.json", detections)
            write_json(Path(self.out_dir) / "metrics.json", self.scores.to_metrics(), indent=2)
        named = {
            "mAP": self.scores.mean_ap,
            "mAP_50": self.scores.mean_ap_50,
            "mAP_75": self.scores.mean_ap_75,
        } | {f"AP_50/{scores.name}": scores.ap_50 for scores in self.scores.per_class}
        return {name: value for name, value in named.items() if value is not None}


def to_prepared_pixels(boxes_xyxy: np.ndarray, sample: dict[str, Any]) -> np.ndarray:
    """Return boxes predicted on a transformed picture in pixels of the prepared one, cut at its border.

    mmdet has undone the resizing already (``scale_factor``); the padding of ``PadToSquare`` is undone here.

    Args:
        boxes_xyxy: (N, 4) in pixels of the padded, unresized picture.
        sample: the data sample's meta information: ``pad_offset`` (left, top), ``ori_shape`` (height, width).
    """
    left, top = sample.get("pad_offset", (0, 0))
    height, width = sample["ori_shape"][:2]
    return boxes.clip_to_image(boxes.translate(boxes_xyxy, -left, -top), (height, width))
