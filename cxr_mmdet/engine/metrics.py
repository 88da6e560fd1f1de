"""Our evaluation as an mmengine metric: collect the boxes in prepared-image pixels, then the pure code scores them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from cxr_mmdet.evaluation.ceiling import find_ceiling
from cxr_mmdet.evaluation.evaluate import METRICS_FILE, EvaluationResult, evaluate_inputs
from cxr_mmdet.evaluation.froc import RATES
from cxr_mmdet.evaluation.headline import match_all, of_class, point_values, sensitivity_name
from cxr_mmdet.evaluation.image_level import image_name, write_p_abnormal
from cxr_mmdet.evaluation.inputs import EvaluationInputs
from cxr_mmdet.files import write_json
from cxr_mmdet.structures import boxes
from cxr_mmdet.structures.coco import (
    detections_from_arrays,
    read_coco,
    sample_images,
    sort_detections,
    write_detections,
)
from cxr_mmdet.structures.enums import HitCriterion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@METRICS.register_module()
class CxrMetric(BaseMetric):
    """A detector's scores on a prepared folder, under the prefix ``bbox``.

    COCO's ``mAP``, ``mAP_50``, ``mAP_75`` and ``AP_50/<class>``; the competition's ``mAP_40``, ``mAP_40_no_finding``
    and ``AP_40/<class>`` (PASCAL VOC 2010, IoU above 0.4); the FROC curve's ``sensitivity_0.125`` … ``sensitivity_8``
    (false positives per image) and ``sensitivity_mean``; ``image_AUC`` of abnormal against normal. Any of them can
    choose the best checkpoint: ``save_best="bbox/mAP_40", rule="greater"``. "No finding" and ``image_AUC`` go by the
    gate's ``p_abnormal`` where the detector has a gate, else by an image's highest score.

    A score that is undefined (a class without boxes) is left out; no detection at all is a legal 0.

    Args:
        ann_file: the COCO file, relative to ``data_root``.
        data_root: the prepared folder.
        out_dir: where ``detections.json`` (with a gate ``detections.p_abnormal.json`` too) and ``metrics.json`` are
            written, the latter with intervals and everything that tools/evaluate.py computes. By default nothing is
            written, and only the named scores are computed.
        criterion: rule for hits on the FROC curve: ``iou`` (above 0.4) or ``centre`` (in the box).
        sample: the number of images that the dataset takes, where these are not all.
    """

    default_prefix = "bbox"

    def __init__(
        self,
        ann_file: str,
        data_root: str = "",
        out_dir: str | None = None,
        criterion: str = "iou",
        sample: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ann_path = Path(data_root) / ann_file
        truth = read_coco(self.ann_path)
        self.ground_truth = truth if sample is None else sample_images(truth, sample)
        self.out_dir = out_dir
        self.criterion = HitCriterion(criterion)
        self.evaluation: EvaluationResult | None = None
        self._category_ids = np.array([category["id"] for category in self.ground_truth["categories"]])

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the detections of each image; the batch itself is not needed."""
        for sample in data_samples:
            predictions = sample["pred_instances"]
            detections = detections_from_arrays(
                sample["img_id"],
                boxes.clip_to_image(predictions["bboxes"].numpy(force=True), sample["ori_shape"][:2]),
                predictions["scores"].numpy(force=True),
                self._category_ids[predictions["labels"].numpy(force=True)],
            )
            self.results.append((sample["img_id"], sample.get("p_abnormal"), detections))

    def compute_metrics(self, results: list[tuple[int, float | None, list[dict[str, Any]]]]) -> dict[str, float]:
        """Return the scores by name, and write the files when ``out_dir`` is set."""
        # COCO breaks ties of scores by the order of the list, and several processes hand them over in another order.
        detections = sort_detections(detection for _, _, of_image in results for detection in of_image)
        gated = {image_id: p_abnormal for image_id, p_abnormal, _ in results if p_abnormal is not None}
        images = self.ground_truth["images"]
        p_abnormal = np.array([gated.get(image["id"], 0.0) for image in images]) if gated else None
        if self.out_dir is None:
            values = point_values(
                match_all(self.ground_truth, detections, p_abnormal=p_abnormal, criterion=self.criterion)
            )
            return _named(values, [category["name"] for category in self.ground_truth["categories"]])
        self.evaluation = evaluate_inputs(
            EvaluationInputs(self.ground_truth, detections, p_abnormal, self.ann_path),
            criterion=self.criterion,
            ceiling=find_ceiling(self.ann_path.resolve(), self.ground_truth),
        )
        path = Path(self.out_dir) / "detections.json"
        write_detections(path, detections)
        names = {image["id"]: image_name(image) for image in images}
        write_p_abnormal(path, {names[image_id]: p for image_id, p in gated.items()} if gated else None)
        write_json(Path(self.out_dir) / METRICS_FILE, self.evaluation.to_metrics(), indent=2)
        values = {name: interval.value for name, interval in self.evaluation.values.items()}
        return _named(values, list(self.evaluation.matched.truth.names))

    def score_names(self) -> tuple[set[str], set[str]]:
        """Return the names of all scores, prefix included, and of those that the ground truth defines.

        Defined is what a detector gets that finds every box.
        """
        classes = [category["name"] for category in self.ground_truth["categories"]]
        found = [
            {key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
            for annotation in self.ground_truth["annotations"]
            if not annotation.get("iscrowd", 0)
        ]
        values = point_values(match_all(self.ground_truth, found, criterion=self.criterion))
        known = _named(defaultdict(float), classes)
        return {f"{self.prefix}/{name}" for name in known}, {
            f"{self.prefix}/{name}" for name in _named(values, classes)
        }


def _named(values: Mapping[str, float | None], classes: Sequence[str]) -> dict[str, float]:
    """Return the defined values under the names that configs and logs use."""
    names = {
        "mAP": "mean_ap",
        "mAP_50": "mean_ap_50",
        "mAP_75": "mean_ap_75",
        "mAP_40": "voc_mean_ap_40",
        "mAP_40_no_finding": "voc_mean_ap_40_with_no_finding",
        **{f"sensitivity_{rate:g}": sensitivity_name(rate) for rate in RATES},
        "sensitivity_mean": "mean_sensitivity",
        "image_AUC": "image_auc",
    }
    for label, name in enumerate(classes):
        names |= {f"AP_50/{name}": of_class("ap_50", label), f"AP_40/{name}": of_class("voc_ap_40", label)}
    return {name: value for name, key in names.items() if (value := values[key]) is not None}
