"""mmdet's detectors with an abnormality gate.

``type="GatedRetinaNet", gate=dict(...)`` is a RetinaNet with a gate, and so on for each of :data:`GATED`. The
detector's parameters keep their names, so its checkpoints still load; the gate's are ``gate.*``.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models import detectors
from mmdet.models.dense_heads import AnchorFreeHead, AnchorHead, TOODHead
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.abnormality_gate import AbnormalityGate, FeatureGate, Features, ScoreGate, is_abnormal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

GATED = (
    "ATSS",
    "CascadeRCNN",
    "DDOD",
    "DINO",
    "DeformableDETR",
    "FCOS",
    "FasterRCNN",
    "GFL",
    "PAA",
    "RTMDet",
    "RetinaNet",
    "TOOD",
    "VFNet",
)
"""mmdet's detectors that are registered with a gate, as ``Gated…``; :func:`gated` makes others."""

_SOURCES = ("scores", "neck", "backbone")
_SCORING = (AnchorHead, AnchorFreeHead)
_PROBE_SIDE = 128

_SEEN: ContextVar[list[Tensor] | None] = ContextVar("gate_logits", default=None)


class GateMixin(BaseDetector):
    """Adds an :class:`AbnormalityGate` to the detector that stands after it among a class's bases.

    Training adds ``loss_gate``. Prediction sets ``p_abnormal``, a float in 0…1, on each sample, whether anything was
    found or not, and then applies the gate's rule to its boxes.

    Args:
        args: the detector's.
        gate: ``source``: ``scores`` of a dense head for a :class:`ScoreGate`, features of the ``neck`` (the default) or
            of the ``backbone`` for a :class:`FeatureGate`; and options of that class.
        kwargs: the detector's.

    Raises:
        ConfigError: a source that the detector has not, or options that the gate has not or that cannot be.
    """

    def __init__(self, *args: Any, gate: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = dict(gate or {})
        source = options.pop("source", "neck")
        if source not in _SOURCES or (source == "neck" and not self.with_neck):
            raise ConfigError(
                f"the gate's source is {source!r}; choose scores, backbone, or neck where the model has one."
            )
        kind = ScoreGate if source == "scores" else FeatureGate
        known = [name for cls in (kind, AbnormalityGate) for name in signature(cls).parameters]
        if unknown := sorted(options.keys() - set(known)):
            raise ConfigError(f"the gate has no {', '.join(unknown)} where its source is {source!r}; leave it out.")
        self.gate = self._score_gate(options) if source == "scores" else self._feature_gate(source, options)

    def _feature_gate(self, source: str, options: dict[str, Any]) -> AbnormalityGate:
        stages, pyramid = self._probe()
        maps = pyramid if source == "neck" else stages
        return FeatureGate([level.shape[1] for level in maps], source=source, **options)

    def _score_gate(self, options: dict[str, Any]) -> AbnormalityGate:
        head = getattr(self, "bbox_head", None)
        if not isinstance(head, _SCORING) or isinstance(head, TOODHead) or not head.use_sigmoid_cls:
            raise ConfigError(
                f"{type(self).__name__} has no dense head with a logit for each class, whose scores a gate could read; "
                'give gate=dict(source="neck").'
            )
        head.register_forward_hook(self._hear_scores)
        return ScoreGate(head.cls_out_channels, **options)

    def _hear_scores(self, head: nn.Module, args: Any, outputs: Any) -> None:
        seen = _SEEN.get()
        if seen is not None:
            seen.append(self.gate((), (), outputs[0]))

    def extract_feat(self, batch_inputs: Tensor) -> Features:
        """Return the features for the detector; a gate that reads them leaves its logits where they are asked for."""
        stages, pyramid = self._maps(batch_inputs)
        seen = _SEEN.get()
        if seen is not None and not self.gate.reads_scores:
            seen.append(self.gate(stages, pyramid, ()))
        return pyramid

    def loss(self, batch_inputs: Tensor, batch_data_samples: Any) -> dict[str, Any]:
        """Return the detector's losses and ``loss_gate``."""
        with gate_logits() as seen:
            if isinstance(self.gate, ScoreGate) and self.gate.boxes_from == "abnormal":
                losses, batch_data_samples = self._loss_of_abnormal(batch_inputs, batch_data_samples)
            else:
                losses = super().loss(batch_inputs, batch_data_samples)
        return losses | {"loss_gate": self.gate.loss(torch.cat(seen), batch_data_samples)}

    def _loss_of_abnormal(self, batch_inputs: Tensor, samples: Sequence[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Return the detector's losses on abnormal studies, and all samples in the order that the gate saw them."""
        pyramid = self.extract_feat(batch_inputs)
        abnormal = [index for index, sample in enumerate(samples) if is_abnormal(sample)]
        normal = [index for index in range(len(samples)) if index not in abnormal]
        if not abnormal:  # every parameter still gets its gradient, of 0
            losses = self.bbox_head.loss(pyramid, samples)
            return {name: _scaled(loss, 0.0) for name, loss in losses.items()}, list(samples)
        losses = self.bbox_head.loss(tuple(level[abnormal] for level in pyramid), [samples[i] for i in abnormal])
        if normal:
            with torch.no_grad():
                self.bbox_head(tuple(level[normal] for level in pyramid))
        return losses, [samples[index] for index in (*abnormal, *normal)]

    def predict(self, batch_inputs: Tensor, batch_data_samples: Any, rescale: bool = True) -> Any:
        """Return the detector's samples with ``p_abnormal``, their boxes after the gate's rule."""
        with gate_logits() as seen:
            samples = super().predict(batch_inputs, batch_data_samples, rescale=rescale)
        (logits,) = seen
        head = getattr(self, "roi_head", None) or self.bbox_head
        threshold = (head.test_cfg or {}).get("score_thr", 0.0)
        for sample, p_abnormal in zip(samples, logits.float().sigmoid().tolist(), strict=True):
            sample.p_abnormal = p_abnormal
            factor = self.gate.rule.factor(p_abnormal)
            if factor != 1:
                found = sample.pred_instances
                found.scores = found.scores * factor
                sample.pred_instances = found[found.scores > threshold]
        return samples

    def _maps(self, batch_inputs: Tensor) -> tuple[Features, Features]:
        """Return the backbone's and the neck's feature maps."""
        stages = self.backbone(batch_inputs)
        return stages, self.neck(stages) if self.with_neck else stages

    @torch.no_grad()
    def _probe(self) -> tuple[Features, Features]:
        """Return the maps of a small black image, whose channels no config names for every backbone and neck."""
        modes = {module: module.training for module in self.modules()}
        for module in modes:
            module.training = False
        maps = self._maps(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
        for module, mode in modes.items():
            module.training = mode
        return maps


@contextmanager
def gate_logits() -> Iterator[list[Tensor]]:
    """Collect the (N,) logits that gates say in this thread meanwhile: with the features, or with the head's scores."""
    seen: list[Tensor] = []
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)


def gate_of(model: nn.Module) -> AbnormalityGate | None:
    """Return the gate of a detector, wrapped or not; None where it has none."""
    gate = getattr(model.module if is_model_wrapper(model) else model, "gate", None)
    return gate if isinstance(gate, AbnormalityGate) else None


def gated(detector: type[BaseDetector]) -> type[BaseDetector]:
    """Return the class ``Gated…`` of a detector whose features are ``neck(backbone(images))``.

    Raises:
        ConfigError: a detector that makes its features in another way.
    """
    standard = (detectors.SingleStageDetector, detectors.TwoStageDetector, detectors.DetectionTransformer)
    if detector.extract_feat not in [base.extract_feat for base in standard]:
        raise ConfigError(f"{detector.__name__} extracts features in its own way, so it cannot have a gate.")
    doc = f"mmdet's {detector.__name__} with an abnormality gate; see :class:`GateMixin`."
    return type(f"Gated{detector.__name__}", (GateMixin, detector), {"__doc__": doc, "__module__": __name__})


def _scaled(loss: Any, factor: float) -> Any:
    return [part * factor for part in loss] if isinstance(loss, (list, tuple)) else loss * factor


def with_gate(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be merged into a detector's config to give it the gate that suits it; see the switch ``gate``.

    Args:
        model: of a detector without one.
    """
    one_stage = "bbox_head" in model and not {"roi_head", "decoder"} & set(model) and model["type"] != "TOOD"
    scores = {"source": "scores", "score_mode": "multiply", "exponent": 0.25}
    gate = scores if one_stage else {"source": "neck"}
    return {"type": f"Gated{model['type']}", "gate": gate}


def with_boxes_from_abnormal(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be merged into a gated detector's config; see the switch ``boxes_from_abnormal``.

    Raises:
        ConfigError: it has no gate that reads scores.
    """
    if (model.get("gate") or {}).get("source") != "scores":
        raise ConfigError(
            "switch boxes_from_abnormal: there is no gate that reads a dense head's scores to learn from the normal "
            "studies; give --with gate,boxes_from_abnormal, or abnormal_only."
        )
    return {"gate": {"boxes_from": "abnormal"}}


for _name in GATED:
    MODELS.register_module(module=gated(getattr(detectors, _name)))
