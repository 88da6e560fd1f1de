"""Background in regions to ignore is not learnt, of images with findings and without."""

from __future__ import annotations

import pytest
import torch
from detectors import build
from mmdet.models.task_modules.assigners import ATSSAssigner, MaxIoUAssigner
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import nn

from cxr_mmdet.models.regions import REGION_SHARE, RegionAssigner, leave_regions_out

PRIORS = torch.tensor(
    [[x, y, x + side, y + side] for side in (16, 32) for x in range(0, 96, 8) for y in range(0, 96, 8)]
).float()
REGION = torch.tensor([[0.0, 0.0, 48.0, 96.0]])
INSIDE = bbox_overlaps(PRIORS, REGION, mode="iof")[:, 0] > REGION_SHARE


def instances(*boxes: list[float]) -> InstanceData:
    return InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long))


@pytest.mark.parametrize("boxes", [[], [[8.0, 8.0, 24.0, 24.0]], [[8.0, 8.0, 24.0, 24.0], [64.0, 8.0, 80.0, 24.0]]])
@pytest.mark.parametrize("kind", ["max_iou", "atss"])
def test_background_in_a_region_is_left_out_and_findings_there_stay(kind, boxes):
    assigner = ATSSAssigner(topk=9) if kind == "atss" else MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4)
    level = ([len(PRIORS)],) if kind == "atss" else ()
    arguments = (InstanceData(priors=PRIORS), *level, instances(*boxes))
    plain = assigner.assign(*arguments).gt_inds
    region = InstanceData(bboxes=REGION, labels=torch.zeros(1, dtype=torch.long))
    got = RegionAssigner(assigner).assign(*arguments, region).gt_inds
    expected = plain.clone()
    expected[(plain == 0) & INSIDE] = -1
    assert torch.equal(got, expected)
    assert (got == -1).any()
    assert (got > 0).sum() == (plain > 0).sum()
    for none in (None, instances()):
        assert torch.equal(RegionAssigner(assigner).assign(*arguments, none).gt_inds, plain)


@pytest.mark.parametrize("kind", ["retina", "faster"])
def test_every_assigner_of_a_detector(kind):
    model = build(kind)
    assert leave_regions_out(model)
    assert leave_regions_out(model), "twice is as good as once"
    heads = [model.bbox_head] if kind == "retina" else [model.rpn_head, model.roi_head]
    for head in heads:
        assigner = getattr(head, "assigner", None) or head.bbox_assigner
        assert isinstance(assigner, RegionAssigner)
        assert isinstance(assigner.assigner, MaxIoUAssigner)


def test_a_detector_with_other_assigners_cannot():
    assert not leave_regions_out(nn.Linear(1, 1))
    model = nn.Module()
    model.head = nn.Module()
    model.head.assigner = object()
    assert not leave_regions_out(model)
