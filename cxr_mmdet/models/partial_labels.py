"""Partial labels: a class that nobody looked for in an image neither rewards nor punishes the detector.

The logits of such a class are hidden from the classification loss: at -10,000 a sigmoid loss (focal, quality focal,
varifocal) and its gradient are exactly 0, and a softmax is the one over the remaining classes and the background. This
also hides the negatives of a class whose findings were not all marked; its positives learn. Everything else stays
mmdet's: assignment, the regression of boxes, and the number of positives that a loss is divided by.

Heads and losses that are built already get their class changed, as torch's ``fully_shard`` does it: so every form of a
head (steady, weighed by votes) has its masked one, and configs, parameters and checkpoints are those of the recipe.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.base_roi_head import BaseRoIHead
from torch import nn

from cxr_mmdet.structures.coverage import COVERAGE_KEY, Coverage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

_HIDDEN = -1e4  # float16 holds it


class MaskedLoss(nn.Module):
    """A classification loss that hides the classes of which the row's image is not fully known.

    Attributes:
        known: (images, classes) whether the class was looked for and marked throughout; None hides nothing.
        images: (rows,) the image of each row; None where every image has equally many rows, one image after the other.
    """

    known: Tensor | None = None
    images: Tensor | None = None

    def forward(self, pred: Tensor, target: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of logits (rows, classes), or (rows, classes + 1) with the background last."""
        if self.known is not None:
            pred = pred.masked_fill(self._hidden(pred, self.known.to(pred.device), target), _HIDDEN)
        loss: Tensor = super().forward(pred, target, *args, **kwargs)
        return loss

    def _hidden(self, pred: Tensor, known: Tensor, target: Any) -> Tensor:
        images = self.images
        if images is None:
            images = torch.arange(len(known)).repeat_interleave(len(pred) // len(known))
        hidden = torch.zeros_like(pred, dtype=torch.bool)
        classes = known.shape[1]
        hidden[:, :classes] = ~known[images.to(pred.device)]
        labels = target[0] if isinstance(target, tuple) else target
        if labels.dim() == 1:
            rows = torch.nonzero((labels >= 0) & (labels < classes)).squeeze(1)
            hidden[rows, labels[rows]] = False
        else:
            hidden[:, :classes] &= labels[:, :classes] <= 0
        return hidden


class MaskedHead:
    """A dense head of mmdet, or a DETR's, whose loss is a :class:`MaskedLoss`."""

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> Any:
        """Return mmdet's losses without the classes that are not known."""
        head: Any = super()
        metas = next(each for each in (*args, *kwargs.values()) if isinstance(each, list) and isinstance(each[0], dict))
        with _masked([self.loss_cls], self._known(metas), self._images(args[0])):  # type: ignore[attr-defined]
            return head.loss_by_feat(*args, **kwargs)

    def _known(self, metas: Sequence[Mapping[str, Any]]) -> Tensor | None:
        return known_classes(metas)

    def _images(self, scores: Any) -> Tensor | None:
        return None


class MaskedLevelsHead(MaskedHead):
    """A head that joins all images of a level, and then the levels, before it computes its loss."""

    def _images(self, scores: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.arange(len(level)).repeat_interleave(level[0, 0].numel()) for level in scores])


class MaskedRPNHead(MaskedHead):
    """An RPN that learns background only from images of which all classes are known, and objects from all."""

    def _known(self, metas: Sequence[Mapping[str, Any]]) -> Tensor | None:
        known = known_classes(metas)
        return None if known is None else known.all(dim=1, keepdim=True)


class MaskedRoIHead:
    """A RoI head whose softmax leaves out, image by image, the classes that are not known."""

    def loss(self, x: Any, rpn_results_list: Any, batch_data_samples: Sequence[Any]) -> Any:
        """Return mmdet's losses without the classes that are not known."""
        head: Any = super()
        with _masked(_losses_of(self), known_classes([sample.metainfo for sample in batch_data_samples])):
            return head.loss(x, rpn_results_list, batch_data_samples)

    def bbox_loss(self, *args: Any) -> Any:
        """Return mmdet's losses of a stage, whose RoIs each image has as many of as were sampled."""
        head: Any = super()
        counts = torch.tensor([len(sampled.priors) for sampled in args[-1]])
        for loss in _losses_of(self):
            loss.images = torch.arange(len(counts)).repeat_interleave(counts)
        return head.bbox_loss(*args)


_FORMS: dict[str, type] = {
    "ATSSHead": MaskedHead,
    "CascadeRoIHead": MaskedRoIHead,
    "DINOHead": MaskedHead,
    "DeformableDETRHead": MaskedHead,
    "FCOSHead": MaskedLevelsHead,
    "GFLHead": MaskedHead,
    "RPNHead": MaskedRPNHead,
    "RTMDetHead": MaskedHead,
    "RTMDetSepBNHead": MaskedHead,
    "RetinaHead": MaskedHead,
    "StandardRoIHead": MaskedRoIHead,
    "VFNetHead": MaskedLevelsHead,
}
"""mmdet's heads whose losses were read; heads that mmdet derives from them compute theirs in other ways."""


def known_classes(metas: Sequence[Mapping[str, Any]]) -> Tensor | None:
    """Return (images, classes) whether each class was looked for and marked throughout; None where all were.

    Args:
        metas: meta information of the samples, with ``COVERAGE_KEY`` where the data are partly labelled.
    """
    rows = [meta.get(COVERAGE_KEY) for meta in metas]
    stated = next((row for row in rows if row is not None), None)
    if stated is None:
        return None
    known = np.stack([np.full(len(stated), True) if row is None else row == Coverage.EXHAUSTIVE for row in rows])
    return None if known.all() else torch.from_numpy(known)


def mask_unknown_classes(model: nn.Module, *, rpn: bool = True) -> bool:
    """Let a detector's losses leave out what is not known; return False, changing nothing, where a head cannot.

    Args:
        model: a detector, wrapped or not.
        rpn: whether an RPN keeps from background in images that are not fully known, too.
    """
    heads = [part for part in model.modules() if isinstance(part, (BaseDenseHead, DETRHead, BaseRoIHead))]
    forms = [_FORMS.get(_stock_name(head)) for head in heads]
    if not heads or None in forms:
        return False
    for head, form in zip(heads, forms, strict=True):
        if form is None or (form is MaskedRPNHead and not rpn):
            continue
        _mix_in(head, form)
        for loss in _losses_of(head):
            _mix_in(loss, MaskedLoss)
    return True


def _stock_name(head: nn.Module) -> str:
    return next(base.__name__ for base in type(head).__mro__ if base.__module__.startswith("mmdet."))


def _losses_of(head: Any) -> list[Any]:
    if not isinstance(head, BaseRoIHead):
        return [head.loss_cls]
    stages = head.bbox_head if isinstance(head.bbox_head, nn.ModuleList) else [head.bbox_head]
    return [stage.loss_cls for stage in stages]


def _mix_in(module: nn.Module, mixin: type) -> None:
    kind = type(module)
    if not issubclass(kind, mixin):
        module.__class__ = type(kind.__name__, (mixin, kind), {"__doc__": kind.__doc__, "__module__": __name__})


@contextmanager
def _masked(losses: Sequence[Any], known: Tensor | None, images: Tensor | None = None) -> Iterator[None]:
    for loss in losses:
        loss.known, loss.images = known, images
    try:
        yield
    finally:
        for loss in losses:
            loss.known = loss.images = None
