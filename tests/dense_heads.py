"""Dense heads of mmdet and our forms of them on two small maps, with boxes whose anchors never meet."""

from __future__ import annotations

import copy

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

init_default_scope("mmdet")

CLASSES = 3
SIDE = 128
STRIDES = (8, 16)
SIDES = [SIDE // stride for stride in STRIDES]
META = {"img_shape": (SIDE, SIDE), "pad_shape": (SIDE, SIDE)}
# One box well within the left half, one in the right: no anchor that is positive for one reaches into the other's half.
BOXES = torch.tensor([[8.0, 40, 44, 76], [86, 50, 120, 90]])
ANCHORS = dict(type="AnchorGenerator", strides=list(STRIDES), ratios=[1.0], scales_per_octave=1, octave_base_scale=4)
MAX_IOU = dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1)
ATSS = dict(assigner=dict(type="ATSSAssigner", topk=5), allowed_border=-1, pos_weight=-1, debug=False)
SQUARES = dict(
    type="AnchorGenerator",
    strides=list(STRIDES),
    ratios=[1.0],
    scales_per_octave=1,
    octave_base_scale=4,
    center_offset=0.0,
)
HEADS = {
    "RetinaHead": dict(
        anchor_generator=ANCHORS,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25),
        loss_bbox=dict(type="L1Loss"),
        train_cfg=dict(assigner=MAX_IOU, sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1),
    ),
    "RPNHead": dict(
        anchor_generator=dict(type="AnchorGenerator", strides=list(STRIDES), ratios=[1.0], scales=[4]),
        train_cfg=dict(
            assigner=MAX_IOU,
            sampler=dict(type="RandomSampler", num=64, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            allowed_border=0,  # leaves anchors out, so that targets are mapped back to all anchors
            pos_weight=-1,
        ),
    ),
    "ATSSHead": dict(
        anchor_generator=SQUARES,
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        train_cfg=ATSS,
    ),
    "GFLHead": dict(
        anchor_generator=SQUARES,
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        reg_max=8,
        train_cfg=ATSS,
    ),
    "VFNetHead": dict(
        anchor_generator=SQUARES, strides=list(STRIDES), regress_ranges=((-1, 64), (64, 1e8)), train_cfg=ATSS
    ),
}


def head(kind: str, **options):
    """Return a head of mmdet or, with ``VoteWeighted`` or ``Steady`` before its name, ours."""
    name = kind.removeprefix("Steady").removeprefix("VoteWeighted")
    config = copy.deepcopy(HEADS[name]) | options
    classes = {} if name == "RPNHead" else {"num_classes": CLASSES}
    return MODELS.build(ConfigDict(type=kind, in_channels=8, feat_channels=32, **classes, **config))


def truth(*shares: float, boxes=BOXES, labels=(0, 2), rpn: bool = False) -> InstanceData:
    instances = InstanceData(bboxes=boxes[: len(shares)], labels=torch.tensor(labels[: len(shares)]) * (not rpn))
    instances.vote_shares = torch.tensor(shares)
    instances.corner_weights = torch.tensor([0.25, 1.0][: len(shares)])  # heads look at them only if they are told to
    return instances


def maps(kind: str) -> list[list[torch.Tensor]]:
    """Return random score and box maps of two images, and ATSS's centerness or VFNet's refined boxes."""
    generator = torch.Generator().manual_seed(1)

    def level_maps(channels: int, positive: bool = False) -> list[torch.Tensor]:
        noise = [torch.randn(2, channels, side, side, generator=generator) for side in SIDES]
        return [(level.abs() * 20 + 8 if positive else level / 3).requires_grad_() for level in noise]

    vfnet = "VFNet" in kind
    sides = 4 * 9 if "GFL" in kind else 4  # a distribution over 0…8 strides each
    parts = [level_maps(1 if "RPN" in kind else CLASSES), level_maps(sides, positive=vfnet)]
    if "ATSS" in kind:
        parts.append(level_maps(1))
    if vfnet:
        parts.append(level_maps(4, positive=True))
    return parts


def losses_of(module, kind: str, *batch: InstanceData, seed: int = 0):
    torch.manual_seed(seed)  # the RPN's sampler draws
    parts = maps(kind)
    losses = module.loss_by_feat(*parts, list(batch), [META] * len(batch))
    return losses, parts


def total(value) -> torch.Tensor:
    return torch.stack(list(value)).sum() if isinstance(value, (list, tuple)) else value


def batch(kind: str, share: float) -> list[InstanceData]:
    """Two images: both boxes, the left one with ``share`` of the votes; and a normal radiograph."""
    nothing = {"vote_shares": torch.zeros(0), "corner_weights": torch.zeros(0)}
    normal = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), **nothing)
    return [truth(share, 1.0, rpn="RPN" in kind), normal]
