"""Focal losses in closed form (Lin et al., Focal Loss for Dense Object Detection, arXiv:1708.02002).

Since ``-log(1 - sigmoid(x)) = softplus(x)`` and ``-log sigmoid(x) = softplus(-x)``, one function
``f(x) = sigmoid(x)^gamma softplus(x)`` gives the loss of a negative, ``(1 - alpha) f(x)``, and of a positive,
``alpha f(-x)``. Softplus stays finite where mmcv has to clamp the logarithm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from cxr_mmdet.models.mmcv_ops.precision import widen

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
]


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill ``output`` (N, C) with the loss of every logit.

    Args:
        logits: (N, C).
        target: (N,) int64 class of each row; a value outside 0…C-1 is background, whose row is all negatives.
        weight: (C,) factor by the row's class, 1 for background; empty for none.
        output: (N, C).
        gamma: focusing exponent.
        alpha: share of positives, in 0…1.
    """
    output.copy_(_by_row(_focal, widen(logits), target, weight, gamma, 1 - alpha, alpha))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of each logit's loss; arguments as in the forward."""
    grad_input.copy_(_by_row(_focal_slope, widen(logits), target, weight, gamma, 1 - alpha, -alpha))


def _by_row(
    function: Callable[[Tensor, float], Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    gamma: float,
    negative_factor: float,
    positive_factor: float,
) -> Tensor:
    """Return ``negative_factor f(x)`` for every logit but the row's own class, there ``positive_factor f(-x)``."""
    if logits.numel() == 0:
        return logits
    values = function(logits, gamma).mul_(negative_factor)
    column = target.clamp(0, logits.size(1) - 1)[:, None]
    foreground = column == target[:, None]
    # All rows are scattered, background onto itself: picking the foreground ones would make the GPU wait for the CPU.
    own = function(-logits.gather(1, column), gamma).mul_(positive_factor)
    values.scatter_(1, column, torch.where(foreground, own, values.gather(1, column)))
    if weight.numel():
        values *= torch.where(foreground, weight.to(values.dtype)[column], 1)
    return values


def _focal(logits: Tensor, gamma: float) -> Tensor:
    return functional.softplus(logits).mul_(logits.sigmoid().pow_(gamma))


def _focal_slope(logits: Tensor, gamma: float) -> Tensor:
    """Return the derivative ``p^gamma (p + gamma (1 - p) softplus)``, p the sigmoid, of :func:`_focal`."""
    probability = logits.sigmoid()
    slope = functional.softplus(logits).mul_(1 - probability).mul_(gamma).add_(probability)
    return slope.mul_(probability.pow_(gamma))


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Fill ``output`` (N,) with ``-alpha (1 - p)^gamma log p``, p the probability of the row's class.

    Args:
        softmax: (N, C) probabilities.
        target: (N,) int64 class of each row; a row whose target is outside 0…C-1 has no loss.
        weight: (C,) factor by the row's class; empty for none.
        output: (N,).
        gamma: focusing exponent.
        alpha: factor of the loss.
    """
    probability, factor = _of_target(widen(softmax), target, weight)
    output.copy_((1 - probability).pow_(gamma) * _safe_log(probability) * factor * -alpha)


def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative by the logits below the softmax, ``buff`` (N,) with its factor."""
    probability, factor = _of_target(widen(softmax), target, weight)
    # The clamp keeps 0 * 0^(gamma - 1) at 0 where a probability is exactly 1 and gamma below 1.
    rest = (1 - probability).clamp_(min=torch.finfo(probability.dtype).tiny)
    steepness = gamma * rest.pow(gamma - 1) * probability * _safe_log(probability)
    slope = (steepness - (1 - probability).pow(gamma)) * factor * alpha
    buff.copy_(slope)
    one_hot = target[:, None] == torch.arange(softmax.size(1), device=target.device)
    grad_input.copy_(slope[:, None] * (one_hot.to(softmax.dtype) - softmax))


def _of_target(softmax: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (N,) probability of each row's class and its weight, 0 for a row without a class."""
    column = target.clamp(0, softmax.size(1) - 1)
    factor = (column == target).to(softmax.dtype)
    if weight.numel():
        factor *= weight.to(softmax.dtype)[column]
    return softmax.gather(1, column[:, None]).squeeze(1), factor


def _safe_log(probability: Tensor) -> Tensor:
    return probability.clamp(min=torch.finfo(probability.dtype).tiny).log_()
