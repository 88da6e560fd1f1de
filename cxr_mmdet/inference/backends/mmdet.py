"""Backend for detectors that only mmdet can decode: all that :mod:`cxr_mmdet.inference.export.describe` refuses."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor

from cxr_mmdet.errors import CheckpointError, CxrError, first_line
from cxr_mmdet.inference.backends.base import WholeBackend
from cxr_mmdet.inference.export.describe import in_range
from cxr_mmdet.inference.spec import NO_NMS, WholeDetector
from cxr_mmdet.models.finite import refuse_non_finite_outputs
from cxr_mmdet.models.gated_detectors import gate_of
from cxr_mmdet.structures.detections import Detections
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from mmdet.models.detectors.base import BaseDetector
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

_ALL = 1_000_000
"""More boxes than any head gives before NMS."""


def describe_whole(model: BaseDetector, source: str) -> WholeDetector:
    """Return the description of a detector that decodes its outputs itself.

    Args:
        model: built by mmdet.
        source: name of the model in error messages.

    Raises:
        CheckpointError: it has no head with a ``test_cfg``, so that its thresholds are unknown.
    """
    test = getattr(_last_head(model), "test_cfg", None)
    if test is None or "max_per_img" not in test:
        raise CheckpointError(
            f"{source}: is a {type(model).__name__} without a bbox_head or roi_head whose test_cfg has max_per_img, "
            "so its detections per image are unknown; use a detector of one of the recipes."
        )
    plain_nms, gate = _uses_plain_nms(test), gate_of(model)
    with in_range(source):
        return WholeDetector(
            kind=type(model).__name__,
            score_threshold=float(test.get("score_thr", 0)),
            nms_iou=float(test.nms.iou_threshold) if plain_nms else NO_NMS,
            nms_is_adjustable=plain_nms,
            max_per_image=int(test.max_per_img),
            gate=None if gate is None else gate.rule,
        )


class MmdetBackend(WholeBackend):
    """Backend that runs a detector of mmdet with its own decoding, one batch at a time.

    Plain class-wise NMS is switched off here and left to :func:`cxr_mmdet.inference.decoding.apply_nms`, which can
    repeat it with another overlap; any other kind of suppression stays the model's own. Norms are not folded into
    convolutions: some heads share convolutions among norms.

    Args:
        model: in evaluation mode; it is not changed.
        device: such as ``cpu`` or ``cuda:0``.
        threads: number of torch's threads in this process; None does not change it.
    """

    name = "torch"

    def __init__(self, model: BaseDetector, *, device: str = "cpu", threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = copy.deepcopy(model).to(device).eval()
        refuse_non_finite_outputs(self.model)
        self.device = torch.device(device)
        self._test = _last_head(self.model).test_cfg
        # The head reads the threshold from its config: one call may not change it under another's feet.
        self._lock = threading.Lock()
        if _uses_plain_nms(self._test):
            self._test.nms.iou_threshold, self._test.max_per_img = NO_NMS, _ALL

    @torch.inference_mode()
    def candidates(self, batch: Array, sizes_hw: list[tuple[int, int]], score_thresholds: Array) -> list[Detections]:
        """See :class:`cxr_mmdet.inference.backends.base.WholeBackend`.

        Raises:
            CxrError: the detector cannot be run on inputs of this size.
            NotFiniteError: a head gives NaN or infinity.
        """
        images = torch.from_numpy(batch).to(self.device)
        shape = (images.shape[2], images.shape[3])
        samples = [_sample(size_hw, shape) for size_hw in sizes_hw]
        with self._lock:
            if "score_thr" in self._test:
                # mmdet keeps what exceeds its threshold, we what reaches ours.
                self._test.score_thr = float(np.nextafter(score_thresholds.min(), np.float32(-1)))
            try:
                results = self.model.predict(images, samples, rescale=False)
            except RuntimeError as error:
                # torch's, from deep inside: DINO has more queries than a small input has cells.
                reason = first_line(error)
                raise CxrError(
                    f"{type(self.model).__name__} cannot predict {len(batch)} input(s) of {shape[1]} x {shape[0]} px "
                    f"({reason}); give larger radiographs or another --tta-scale or --batch-size (make_views or "
                    "batch_size in Python)."
                ) from error
        return [
            replace(_reaching(result.pred_instances, score_thresholds), p_abnormal=result.get("p_abnormal"))
            for result in results
        ]


def _last_head(model: BaseDetector) -> Any:
    """Return the head whose boxes are the detections."""
    return getattr(model, "roi_head", None) or getattr(model, "bbox_head", None)


def _uses_plain_nms(test: Any) -> bool:
    nms = test.get("nms")
    return nms is not None and nms.get("type", "nms") == "nms" and not nms.get("class_agnostic", False)


def _sample(size_hw: tuple[int, int], shape: tuple[int, int]) -> DetDataSample:
    return DetDataSample(
        metainfo={
            "img_shape": size_hw,
            "ori_shape": size_hw,
            "pad_shape": shape,
            "batch_input_shape": shape,
            "scale_factor": (1.0, 1.0),
        }
    )


def _reaching(instances: Any, score_thresholds: Array) -> Detections:
    """Return an image's detections whose score reaches the threshold of their class."""
    labels = instances.labels.numpy(force=True).astype(np.int64)
    scores = instances.scores.float().numpy(force=True)
    boxes = get_box_tensor(instances.bboxes).float().numpy(force=True)
    return Detections(boxes, labels, scores)[reaches(scores, score_thresholds[labels])]
