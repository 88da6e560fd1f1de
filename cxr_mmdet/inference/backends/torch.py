"""Detectors in torch without mmdet's decoding, and the bundle of the format ``torch``: safetensors and architecture."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import torch
from mmcv.cnn import fuse_conv_bn
from mmdet.models.dense_heads import GFLHead
from mmdet.models.detectors import DINO, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cxr_mmdet.errors import CheckpointError, first_line
from cxr_mmdet.files import write_json
from cxr_mmdet.inference.backends.base import Streams
from cxr_mmdet.inference.bundle import ARCHITECTURE, WEIGHTS
from cxr_mmdet.inference.checkpoint import build_detector, register_types, require_labels
from cxr_mmdet.inference.cpu_kernels.on_demand import Deltas, WholeMaps
from cxr_mmdet.models.finite import require_finite_weights
from cxr_mmdet.models.gated_detectors import gate_logits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from mmdet.models.detectors.base import BaseDetector
    from numpy.typing import NDArray
    from torch import Tensor

    from cxr_mmdet.inference.bundle import Bundle
    from cxr_mmdet.inference.checkpoint import TrainedDetector

    Array = NDArray[np.float32]


def dense_outputs(head: Any, pyramid: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return a head's scores (N, A * K, H, W) and deltas (N, A * values, H, W), one of each per level.

    GFL gives a distribution over the distance of each side, in cells; its mean is returned. ATSS gives a centerness per
    anchor, which becomes a fifth delta.
    """
    scores, deltas, *centerness = head(pyramid)
    if isinstance(head, GFLHead):
        deltas = [_means(level, head.integral.project) for level in deltas]
    for factors in centerness:
        pairs = zip(deltas, factors, strict=True)
        deltas = [torch.cat([d.unflatten(1, (-1, 4)), f.unsqueeze(2)], dim=2).flatten(1, 2) for d, f in pairs]
    return scores, deltas


def query_outputs(model: Any, pyramid: Sequence[Tensor], size_hw: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the logits (N, K, Q, 1) and boxes (N, 4, Q, 1) of a DINO's queries, for inputs without padding."""
    sample = DetDataSample(metainfo={"img_shape": size_hw, "batch_input_shape": size_hw})
    hidden = model.forward_transformer(pyramid, [sample] * len(pyramid[0]))
    logits, boxes = (layers[-1].transpose(1, 2).unsqueeze(3) for layers in model.bbox_head(**hidden))
    return logits, boxes


def fuse_norms(model: BaseDetector) -> BaseDetector:
    """Return ``model``, changed: norms became part of the convolutions before them.

    RTMDet's head has one convolution for all levels, each with its own norm, so every level gets its own copy first.
    """
    seen: set[int] = set()
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Conv2d):
                if id(child) in seen:
                    setattr(module, name, copy.deepcopy(child))
                seen.add(id(child))
    return fuse_conv_bn(model)


def _means(level: Tensor, values: Tensor) -> Tensor:
    """Return the means (N, A * 4, H, W) of distributions (N, A * 4 * bins, H, W) over ``values`` (bins,)."""
    likely = level.unflatten(1, (-1, len(values))).softmax(dim=2)
    return (likely * values.to(likely.dtype)[:, None, None]).sum(dim=2)


class TorchBackend:
    """Backend that runs a detector of mmdet without mmdet's decoding.

    Args:
        model: in evaluation mode; it is not changed.
        device: such as ``cpu`` or ``cuda:0``.
        streams: radiographs at once and their threads, which are then all threads of torch in this process; by default
            one radiograph with the threads that torch has.
    """

    name = "torch"

    def __init__(self, model: BaseDetector, *, device: str = "cpu", streams: Streams | None = None) -> None:
        self._streams = streams or Streams()
        if self._streams.count > 1 or self._streams.threads is not None:
            torch.set_num_threads(self._streams.threads_each)
        # Channels last is what CPUs and tensor cores prefer.
        self.model = fuse_norms(copy.deepcopy(model)).to(device, memory_format=torch.channels_last).eval()
        self.device = torch.device(device)

    @torch.inference_mode()
    def maps(self, batch: Array) -> tuple[list[Array], Deltas, Any, Array | None]:
        """See :class:`cxr_mmdet.inference.backends.base.Backend`."""
        images = torch.from_numpy(batch).to(self.device, memory_format=torch.channels_last)
        head = self.model.rpn_head if isinstance(self.model, TwoStageDetector) else self.model.bbox_head
        with self._streams.slots, gate_logits() as logits:
            pyramid = self.model.extract_feat(images)
            if isinstance(self.model, DINO):
                scores, deltas = ([output] for output in query_outputs(self.model, pyramid, batch.shape[2:]))
            else:
                scores, deltas = map(list, dense_outputs(head, pyramid))
        abnormal = _numpy(logits[0]) if logits else None
        values = deltas[0].shape[1] // getattr(head, "num_base_priors", 1)
        whole = WholeMaps([_numpy(level) for level in deltas], values)
        return [_numpy(level) for level in scores], whole, pyramid, abnormal

    @torch.inference_mode()
    def regions(self, pyramid: Any, rois: Array, levels: NDArray[np.int64], stage: int) -> tuple[Array, Array]:
        """See :class:`cxr_mmdet.inference.backends.base.Backend`; mmdet assigns the levels itself."""
        head = self.model.roi_head
        stages = (stage,) if isinstance(head, CascadeRoIHead) else ()
        with self._streams.slots:
            results = head._bbox_forward(*stages, pyramid, torch.from_numpy(rois).to(self.device))
        return _numpy(results["cls_score"]), _numpy(results["bbox_pred"])


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.float().numpy(force=True)


def save_torch_bundle(detector: TrainedDetector, folder: Path) -> list[Path]:
    """Write weights and architecture; return the files.

    Raises:
        OSError: they cannot be written.
    """
    # Clones, for safetensors takes no memory twice, and RTMDet's levels share convolutions.
    weights = {name: tensor.contiguous().clone() for name, tensor in detector.model.state_dict().items()}
    try:
        save_file(weights, str(folder / WEIGHTS))
    except SafetensorError as error:  # also what the system says, such as that the disk is full
        raise OSError(str(error)) from error
    config = detector.config
    kept = {"model": _plain(config.model), "custom_imports": _plain(config.get("custom_imports"))}
    write_json(folder / ARCHITECTURE, kept, indent=1)
    return [folder / WEIGHTS, folder / ARCHITECTURE]


def load_torch_bundle(bundle: Bundle) -> BaseDetector:
    """Return the detector of a bundle of the format ``torch``.

    Raises:
        CheckpointError: it is damaged, or names a type that is not part of mmdet.
    """
    path = bundle.path / ARCHITECTURE
    try:
        config = Config(ConfigDict(json.loads(path.read_text(encoding="utf-8"))))
        weights = load_file(str(bundle.path / WEIGHTS))
    except Exception as error:  # safetensors has an error of its own
        reason = first_line(error)
        raise CheckpointError(f"{bundle.path}: cannot be loaded ({reason}); export it again.") from None
    register_types(path, config, trust=False)
    require_finite_weights(weights, str(bundle.path / WEIGHTS))
    model = build_detector(path, config, weights)
    require_labels(path, model, bundle.class_names)
    return model


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
