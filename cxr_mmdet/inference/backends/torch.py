"""What a dense head says, as scores and four numbers an anchor, whatever it learned them as."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from mmcv.cnn import fuse_conv_bn
from mmdet.models.dense_heads import GFLHead
from mmdet.models.detectors import TwoStageDetector

from cxr_mmdet.inference.backends.base import Streams
from cxr_mmdet.inference.cpu_kernels.on_demand import Deltas, WholeMaps
from cxr_mmdet.models.gated_detectors import gate_logits

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from mmdet.models.detectors.base import BaseDetector
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float32]


def dense_outputs(head: Any, pyramid: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return a head's scores (N, A * K, H, W) and deltas (N, A * 4, H, W), one of each a level.

    GFL says how likely each side is so many cells away; what is read off is the mean.
    """
    scores, deltas = head(pyramid)
    if isinstance(head, GFLHead):
        deltas = [_means(level, head.integral.project) for level in deltas]
    return scores, deltas


def _means(level: Tensor, values: Tensor) -> Tensor:
    """Return the means (N, A * 4, H, W) of distributions (N, A * 4 * bins, H, W) over ``values`` (bins,)."""
    likely = level.unflatten(1, (-1, len(values))).softmax(dim=2)
    return (likely * values.to(likely.dtype)[:, None, None]).sum(dim=2)


class TorchBackend:
    """Runs an anchor-based detector of mmdet without its own decoding.

    Args:
        model: in evaluation mode; it stays as it is.
        device: such as ``cpu`` or ``cuda:0``.
        streams: radiographs at once and their threads, which become all of this process; by default one at a time,
            with as many as torch has.
    """

    name = "torch"

    def __init__(self, model: BaseDetector, *, device: str = "cpu", streams: Streams | None = None) -> None:
        self._streams = streams or Streams()
        if self._streams.count > 1 or self._streams.threads is not None:
            torch.set_num_threads(self._streams.threads_each)
        # Norms become part of the convolutions before them; channels last is what CPUs and tensor cores prefer.
        self.model = fuse_conv_bn(copy.deepcopy(model)).to(device, memory_format=torch.channels_last).eval()
        self.device = torch.device(device)

    @torch.inference_mode()
    def maps(self, batch: Array) -> tuple[list[Array], Deltas, Any, Array | None]:
        """See :class:`cxr_mmdet.inference.backends.base.Backend`."""
        pictures = torch.from_numpy(batch).to(self.device, memory_format=torch.channels_last)
        head = self.model.rpn_head if isinstance(self.model, TwoStageDetector) else self.model.bbox_head
        with self._streams.slots, gate_logits() as said:
            pyramid = self.model.extract_feat(pictures)
            scores, deltas = dense_outputs(head, pyramid)
        abnormal = _numpy(said[0]) if said else None
        return [_numpy(level) for level in scores], WholeMaps([_numpy(level) for level in deltas]), pyramid, abnormal

    @torch.inference_mode()
    def regions(self, pyramid: Any, rois: Array, levels: NDArray[np.int64]) -> tuple[Array, Array]:
        """See :class:`cxr_mmdet.inference.backends.base.Backend`; mmdet finds the levels itself."""
        with self._streams.slots:
            results = self.model.roi_head._bbox_forward(pyramid, torch.from_numpy(rois).to(self.device))
        return _numpy(results["cls_score"]), _numpy(results["bbox_pred"])


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.float().numpy(force=True)
