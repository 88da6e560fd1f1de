"""Reader votes as weights for ATSS, GFL and VFNet, whose losses do not look at all of the weights of their targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from mmdet.models.dense_heads import ATSSHead, GFLHead, VFNetHead
from mmdet.registry import MODELS
from torch import nn

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.vote_weights import VoteWeightedAnchors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class WeighableLoss(nn.Module):
    """A loss of mmdet that multiplies the weights it is given by ``factor``: (N,), or what broadcasts with the loss."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.factor: Tensor | None = None

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the loss."""
        if self.factor is not None:
            weight = self.factor if weight is None else weight * self.factor
        result: Tensor = self.loss(pred, target, weight=weight, **kwargs)
        return result


class _WeighedLevels(VoteWeightedAnchors):
    """For heads whose loss of a level is not given the weights of its boxes: it gets those of the targets.

    Attributes:
        sides: losses that see positive anchors alone, and how many rows of each belong to an anchor.
    """

    sides: ClassVar[dict[str, int]]
    _factors: Iterator[Tensor]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.sides:
            setattr(self, name, WeighableLoss(getattr(self, name)))

    def get_targets(self, *args: Any, **kwargs: Any) -> Any:
        """Return mmdet's targets, and keep the weights of boxes for the levels, whose losses follow in this order."""
        head: Any = super()
        targets = head.get_targets(*args, **kwargs)
        _, labels, _, _, bbox_weights, _ = targets
        self._factors = (_weights_of_boxes(self, *level) for level in zip(labels, bbox_weights, strict=True))
        return targets

    def loss_by_feat_single(self, *args: Any, **kwargs: Any) -> Any:
        """Return mmdet's losses of one level, its boxes weighed."""
        head: Any = super()
        factor = next(self._factors)
        for name, rows in self.sides.items():
            getattr(self, name).factor = factor.repeat_interleave(rows)
        try:
            return head.loss_by_feat_single(*args, **kwargs)
        finally:
            for name in self.sides:
                getattr(self, name).factor = None


@MODELS.register_module()
class VoteWeightedATSSHead(_WeighedLevels, ATSSHead):
    """mmdet's ``ATSSHead`` with reader votes as weights.

    Centerness says how well an anchor lies in a box, not whether there is one, and keeps its weight.
    """

    sides: ClassVar[dict[str, int]] = {"loss_bbox": 1}


@MODELS.register_module()
class VoteWeightedGFLHead(_WeighedLevels, GFLHead):
    """mmdet's ``GFLHead`` with reader votes as weights, beside the scores that it weighs boxes by."""

    sides: ClassVar[dict[str, int]] = {"loss_bbox": 1, "loss_dfl": 4}


@MODELS.register_module()
class VoteWeightedVFNetHead(VoteWeightedAnchors, VFNetHead):
    """mmdet's ``VFNetHead`` with reader votes as weights.

    Its losses ignore the weights of labels and boxes; each gets them from the targets made for it.

    Raises:
        ConfigError: ``use_atss`` or ``use_vfl`` is False.
    """

    loss_cls: WeighableLoss
    loss_bbox: WeighableLoss
    loss_bbox_refine: WeighableLoss

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (self.use_atss and self.use_vfl):
            raise ConfigError(f"{type(self).__name__}: needs use_atss=True and use_vfl=True; leave both as they are.")
        self.loss_cls = WeighableLoss(self.loss_cls)
        self.loss_bbox = WeighableLoss(self.loss_bbox)
        self.loss_bbox_refine = WeighableLoss(self.loss_bbox_refine)

    def get_targets(self, *args: Any, **kwargs: Any) -> Any:
        """Return mmdet's targets, and have the losses weighed by them until :meth:`loss_by_feat` ends."""
        targets = super().get_targets(*args, **kwargs)
        levels, label_weights, _, bbox_weights = targets
        head: Any = self
        labels, own = torch.cat(levels), head.train_cfg["pos_weight"]
        positive = (labels >= 0) & (labels < head.num_classes)
        self.loss_cls.factor = torch.where(positive, label_weights / (own if own > 0 else 1), 1.0)[:, None]
        self.loss_bbox.factor = self.loss_bbox_refine.factor = _weights_of_boxes(self, labels, bbox_weights)
        return targets

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> Any:
        """Return mmdet's losses, weighed."""
        try:
            return super().loss_by_feat(*args, **kwargs)
        finally:
            self.loss_cls.factor = self.loss_bbox.factor = self.loss_bbox_refine.factor = None


def _weights_of_boxes(head: Any, labels: Tensor, bbox_weights: Tensor) -> Tensor:
    """Return the weights of the boxes of positive anchors, of targets in any shape."""
    labels = labels.reshape(-1)
    return bbox_weights.reshape(-1, 4)[(labels >= 0) & (labels < head.num_classes), 0]
