"""Reader votes as weights: what few of an image's readers drew counts less in the loss of mmdet's own heads.

After agreement-weighted learning (Le et al., https://arxiv.org/abs/2203.10611): whatever is assigned to a box has its
classification and regression loss multiplied by the box's weight, negatives keep 1, and the loss is divided by what it
was divided by before (the number of matches, not the sum of their weights). With one radiograph a step, dividing by
the weights would give a box that stands alone its full weight back, however few drew it.

With ``corners``, the regression loss is also multiplied by how well the box's sides are known
(:func:`cxr_mmdet.datasets.votes.weigh_corners`); the classification loss is not.

The paper's code (YOLOv5) weighs by the number of votes and leaves objectness alone; so does this: the RPN proposes
what anyone drew, and the RoI head learns how much to believe it. ``VoteWeightedRPNHead`` is there to try otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import nn

from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmdet.models.task_modules.samplers import SamplingResult
    from torch import Tensor


@dataclass(frozen=True)
class VoteWeighting:
    """Weight of a box = ``full_weight`` · max(share ** ``power``, ``min_weight``), share: of its readers who drew it.

    Attributes:
        power: 0 weighs all boxes alike, 1 by their share; above 1 trusts single votes less.
        min_weight: in [0, 1]; no box weighs less than this part of a box that all readers drew.
        full_weight: what a box weighs that all readers drew. At 1 all other boxes weigh less than without votes, so
            positives lose ground to negatives; one over the mean share of the training set gives it back, and the
            number of readers gives the weights of the paper's code (1, 2 and 3 of three readers).
        corners: whether the regression loss also weighs boxes by how well the readers agree on their sides.

    Raises:
        ConfigError: a value out of range.
    """

    power: float = 1.0
    min_weight: float = 0.0
    full_weight: float = 1.0
    corners: bool = False

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("power", self.power, self.power >= 0, "0 or more"),
            ("min_weight", self.min_weight, 0 <= self.min_weight <= 1, "0 to 1"),
            ("full_weight", self.full_weight, self.full_weight > 0, "above 0"),
        ):
            if not fits:
                raise ConfigError(f"votes: {name} is {value}, expected {expected}; correct it in the head's `votes`.")

    def __call__(self, shares: Tensor) -> Tensor:
        """Return the weights of boxes with these shares of votes."""
        return self.full_weight * shares.pow(self.power).clamp(min=self.min_weight)

    def both(self, gt_instances: InstanceData) -> tuple[Tensor, Tensor]:
        """Return (N,) the weights of boxes in the classification loss, and in the regression loss.

        Raises:
            ConfigError: the pipeline did not pack what readers say of the boxes.
        """
        if "vote_shares" not in gt_instances or (self.corners and "corner_weights" not in gt_instances):
            raise ConfigError(
                "the model weighs reader votes, but a radiograph's boxes came without; its pipeline must load them by "
                "LoadVotedAnnotations and pack them by PackRadiograph, from COCO files that name each image's readers."
            )
        weights = self(gt_instances.vote_shares)
        return weights, weights * gt_instances.corner_weights if self.corners else weights


class VoteWeightedHead(nn.Module):
    """A head of mmdet whose positives weigh by the votes behind the box they are assigned to.

    Args:
        args: the head's.
        votes: the options of :class:`VoteWeighting`.
        kwargs: the head's.
    """

    def __init__(self, *args: Any, votes: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.vote_weighting = VoteWeighting(**(votes or {}))
        except TypeError:
            raise ConfigError(
                f"votes: holds {', '.join(map(str, votes or ()))}; known are power, min_weight, full_weight "
                "and corners."
            ) from None


class VoteWeightedAnchors(VoteWeightedHead):
    """For heads on anchors: the targets of an image, weighed where mmdet's assigner found a box."""

    def _get_targets_single(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        head: Any = super()
        targets: tuple[Any, ...] = head._get_targets_single(*args, **kwargs)
        gt_instances = next(arg for arg in args if isinstance(arg, InstanceData))  # ignored ones come after
        # ATSS puts the anchors in front.
        labels, label_weights, _, bbox_weights, pos_inds, _, sampled = targets[-7:]
        # Samplers sort pos_inds, but they count the anchors inside the image; the targets are those of all anchors.
        positive = torch.nonzero((labels >= 0) & (labels < self.num_classes)).squeeze(1)
        assert len(positive) == len(pos_inds), "every positive anchor has a class"
        of_labels, of_boxes = self.vote_weighting.both(gt_instances)
        label_weights[positive] *= of_labels[sampled.pos_assigned_gt_inds]
        bbox_weights[positive] *= of_boxes[sampled.pos_assigned_gt_inds, None]
        return targets


@MODELS.register_module()
class VoteWeightedRetinaHead(VoteWeightedAnchors, RetinaHead):
    """mmdet's ``RetinaHead`` with reader votes as weights."""


@MODELS.register_module()
class VoteWeightedRPNHead(VoteWeightedAnchors, RPNHead):
    """mmdet's ``RPNHead`` with reader votes as weights of objectness and proposals; not part of the recipes."""


class VotesOfSamples:
    """For samplers of RoIs: what was sampled also knows the votes of the boxes it was assigned to."""

    def sample(
        self, assign_result: Any, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs: Any
    ) -> SamplingResult:
        """Return mmdet's result with ``pos_gt_instances``, the box of each of ``pos_inds``."""
        sampler: Any = super()
        result: SamplingResult = sampler.sample(assign_result, pred_instances, gt_instances, **kwargs)
        result.pos_gt_instances = gt_instances[result.pos_assigned_gt_inds]
        return result


@TASK_UTILS.register_module()
class VoteRandomSampler(VotesOfSamples, RandomSampler):
    """mmdet's ``RandomSampler``, for RoI heads that weigh by votes: they see no other trace of the boxes' origin."""


class _VoteWeightedRoIs(VoteWeightedHead):
    """For RoI heads: the targets of mmdet, weighed by what a sampler of :class:`VotesOfSamples` left."""

    def get_targets(
        self, sampling_results: Sequence[SamplingResult], rcnn_train_cfg: Any, concat: bool = True
    ) -> tuple[Any, ...]:
        """Return labels, label_weights, bbox_targets and bbox_weights, as mmdet's head does.

        Raises:
            ConfigError: the sampler does not pass the votes on.
        """
        head: Any = super()
        targets: tuple[Any, ...] = head.get_targets(sampling_results, rcnn_train_cfg, concat=False)
        for sampled, label_weights, bbox_weights in zip(sampling_results, targets[1], targets[3], strict=True):
            matched = getattr(sampled, "pos_gt_instances", None)
            if matched is None:
                raise ConfigError(
                    f"{type(self).__name__}: its sampler does not pass reader votes on; set "
                    'train_cfg.rcnn.sampler.type="VoteRandomSampler".'
                )
            of_labels, of_boxes = self.vote_weighting.both(matched)
            label_weights[: len(of_labels)] *= of_labels  # mmdet's targets have the positives in front
            bbox_weights[: len(of_boxes)] *= of_boxes[:, None]
        return tuple(torch.cat(part) for part in targets) if concat else targets


@MODELS.register_module()
class VoteWeightedShared2FCBBoxHead(_VoteWeightedRoIs, Shared2FCBBoxHead):
    """mmdet's ``Shared2FCBBoxHead`` with reader votes as weights; needs :class:`VoteRandomSampler`."""


@MODELS.register_module()
class VoteWeightedShared4Conv1FCBBoxHead(_VoteWeightedRoIs, Shared4Conv1FCBBoxHead):
    """mmdet's ``Shared4Conv1FCBBoxHead`` with reader votes as weights; needs :class:`VoteRandomSampler`."""


def weighs_votes(model: nn.Module) -> bool:
    """Return whether any head of ``model`` needs the readers' votes."""
    return any(isinstance(part, VoteWeightedHead) for part in model.modules())


def weighs_corners(model: nn.Module) -> bool:
    """Return whether any head of ``model`` weighs boxes by how well the readers agree on their sides."""
    return any(isinstance(part, VoteWeightedHead) and part.vote_weighting.corners for part in model.modules())
