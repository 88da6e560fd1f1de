"""Reader votes as weights for ATSS, GFL and VFNet, whose losses do not look at all of the weights of their targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import ATSSHead, GFLHead, VFNetHead
from mmdet.registry import MODELS
from torch import nn

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.vote_weights import VoteWeightedAnchors

if TYPE_CHECKING:
    from collections.abc import Sequence

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


@MODELS.register_module()
class VoteWeightedATSSHead(VoteWeightedAnchors, ATSSHead):
    """mmdet's ``ATSSHead`` with reader votes as weights.

    Its regression ignores the weights of boxes; it gets those of their labels. Centerness says how well an anchor lies
    in a box, not whether there is one, and keeps its weight.
    """

    loss_bbox: WeighableLoss

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_bbox = WeighableLoss(self.loss_bbox)

    def loss_by_feat_single(
        self,
        anchors: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        centerness: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return mmdet's losses of one level, its boxes weighed."""
        positive, weights = _weights_of_labels(self, labels, label_weights)
        self.loss_bbox.factor = weights[positive]
        try:
            return super().loss_by_feat_single(
                anchors, cls_score, bbox_pred, centerness, labels, label_weights, *args, **kwargs
            )
        finally:
            self.loss_bbox.factor = None


@MODELS.register_module()
class VoteWeightedGFLHead(VoteWeightedAnchors, GFLHead):
    """mmdet's ``GFLHead`` with reader votes as weights.

    Its regression ignores the weights of boxes; box and distribution loss get those of their labels, beside the scores
    that mmdet weighs them by.
    """

    loss_bbox: WeighableLoss
    loss_dfl: WeighableLoss

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loss_bbox = WeighableLoss(self.loss_bbox)
        self.loss_dfl = WeighableLoss(self.loss_dfl)

    def loss_by_feat_single(
        self,
        anchors: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Return mmdet's losses of one level, its boxes weighed."""
        positive, weights = _weights_of_labels(self, labels, label_weights)
        self.loss_bbox.factor = weights[positive]
        self.loss_dfl.factor = weights[positive].repeat_interleave(4)  # of each side
        try:
            return super().loss_by_feat_single(anchors, cls_score, bbox_pred, labels, label_weights, *args, **kwargs)
        finally:
            self.loss_bbox.factor = self.loss_dfl.factor = None


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
        labels, label_weights, *_ = targets
        positive, weights = _weights_of_labels(self, _flat(labels), _flat(label_weights))
        self.loss_cls.factor = weights[:, None]
        self.loss_bbox.factor = self.loss_bbox_refine.factor = weights[positive]
        return targets

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> Any:
        """Return mmdet's losses, weighed."""
        try:
            return super().loss_by_feat(*args, **kwargs)
        finally:
            self.loss_cls.factor = self.loss_bbox.factor = self.loss_bbox_refine.factor = None


def _flat(levels: Sequence[Tensor]) -> Tensor:
    return torch.cat([level.reshape(-1) for level in levels])


def _weights_of_labels(head: Any, labels: Tensor, label_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return which anchors are positive, (N,) bool, and what votes make each weigh: 1 where it is not."""
    labels, label_weights = labels.reshape(-1), label_weights.reshape(-1)
    positive = (labels >= 0) & (labels < head.num_classes)
    own = head.train_cfg["pos_weight"]
    return positive, torch.where(positive, label_weights / (own if own > 0 else 1), 1.0)
