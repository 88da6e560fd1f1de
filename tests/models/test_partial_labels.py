"""Partial labels: what is not known gives no gradient, everything else mmdet's, in each head and in whole detectors."""

from __future__ import annotations

import copy
import functools

import modern
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_heads import CLASSES, HEADS, META, batch, head, maps, total
from detectors import build as build_small
from mmdet.models.losses import CrossEntropyLoss, FocalLoss
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

import cxr_mmdet.models.steady_loss  # noqa: F401 (registers)
from cxr_mmdet.models.partial_labels import MaskedLoss, _mix_in, known_classes, mask_unknown_classes
from cxr_mmdet.structures.coverage import COVERAGE_KEY, Coverage

U, N, E = Coverage
DENSE = [kind for kind in HEADS if kind != "RPNHead"]
FORMS = [*DENSE, *(f"VoteWeighted{kind}" for kind in DENSE), "SteadyVoteWeightedRetinaHead"]
ALL_KNOWN = [(E, E, E), (E, E, E)]


def gradients(module: nn.Module, kind: str, coverage: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Return the gradients of score maps, box maps and whatever follows: (images, channels, places)."""
    torch.manual_seed(0)  # the RPN's sampler draws
    parts = maps(kind)
    metas = [META | {COVERAGE_KEY: np.array(row, np.int8)} for row in coverage]
    losses = module.loss_by_feat(*parts, batch(kind, 1.0), metas)
    sum(total(value) for value in losses.values()).backward()
    return [torch.cat([level.grad.flatten(2) for level in part], dim=2) for part in parts]


def masked(kind: str) -> nn.Module:
    module = head(kind)
    assert mask_unknown_classes(module)
    assert mask_unknown_classes(module), "twice is as good as once"
    return copy.deepcopy(module)


@pytest.mark.parametrize("kind", FORMS)
def test_what_is_not_known_gives_no_gradient_and_all_else_mmdets(kind):
    """Image 0 has boxes of classes 0 and 2, image 1 none."""
    coverage = [(E, U, E), (U, E, U)]
    stock, ours = gradients(head(kind), kind, ALL_KNOWN), gradients(masked(kind), kind, coverage)
    known = torch.tensor(coverage) == E
    assert (stock[0][~known] != 0).any(dim=1).all()
    assert not ours[0][~known].any()
    assert torch.equal(ours[0][known], stock[0][known])
    for part, expected in zip(ours[1:], stock[1:], strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("kind", DENSE)
def test_of_a_class_not_marked_throughout_positives_learn_alone(kind):
    stock, ours = gradients(head(kind), kind, ALL_KNOWN), gradients(masked(kind), kind, [(N, E, E), (E, E, E)])
    of_boxes = (stock[1][0] != 0).any(dim=0)
    side = torch.cat([torch.arange(size).repeat(size) < size / 2 for size in (16, 8)])
    positive = of_boxes & side  # the left box is the one of class 0
    assert positive.any()
    assert torch.equal(ours[0][0, 0] != 0, positive)
    assert torch.equal(ours[0][0, 0, positive], stock[0][0, 0, positive])
    assert torch.equal(ours[0][0, 1:], stock[0][0, 1:])
    assert torch.equal(ours[0][1], stock[0][1])


def test_an_rpn_learns_background_from_fully_known_images_alone():
    stock = gradients(head("RPNHead"), "RPNHead", ALL_KNOWN)
    ours = gradients(masked("RPNHead"), "RPNHead", [(E, U, E), (E, E, E)])
    positive = (stock[1][0] != 0).any(dim=0)
    assert torch.equal(ours[0][0, 0] != 0, positive)
    assert torch.equal(ours[0][0, 0, positive], stock[0][0, 0, positive])
    assert torch.equal(ours[0][1], stock[0][1])
    assert stock[0][1].any()


def test_a_softmax_is_the_one_over_known_classes_and_the_background():
    """RoIs 0 and 1 are of an image whose class 1 is unknown, RoI 2 of a fully known one; label 3 is background."""
    loss = CrossEntropyLoss()
    _mix_in(loss, MaskedLoss)
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss.known, loss.images = torch.tensor([[True, False, True], [True, True, True]]), torch.tensor([0, 0, 1])
    labels = torch.tensor([3, 2, 1])
    value = loss(scores, labels, torch.ones(3), avg_factor=3)
    kept = scores[:2, [0, 2, 3]]
    expected = F.cross_entropy(kept, torch.tensor([2, 1]), reduction="sum") + F.cross_entropy(scores[2:], labels[2:])
    torch.testing.assert_close(value, expected / 3)
    value.backward()
    assert scores.grad[:2, 1].tolist() == [0, 0]
    assert (scores.grad[2] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_hides_as_well(dtype):
    loss = FocalLoss()
    _mix_in(loss, MaskedLoss)
    loss.known = torch.tensor([[True, False]])
    scores = torch.zeros(2, 2, dtype=dtype, requires_grad=True)
    loss(scores, torch.tensor([2, 0]), torch.ones(2), avg_factor=1).backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[:, 1].tolist() == [0, 0]
    assert (scores.grad[:, 0] != 0).all()


SIDE = 128
CLASSIFIERS = {
    "rtmdet_s": "bbox_head.rtm_cls",
    "dino_r50": "bbox_head.cls_branches",
    "faster": "roi_head.bbox_head.fc_cls",
    "cascade_rcnn": "roi_head.bbox_head",
}


@functools.cache
def classifier_gradients(name: str, coverage: tuple[int, ...], mask: bool) -> dict[str, torch.Tensor]:
    """Return the gradient of each classifier's bias, after a batch of two radiographs of the same coverage."""
    model = (build_small(name) if name == "faster" else modern.build(name)).train()
    if mask:
        assert mask_unknown_classes(model)
    samples = []
    for boxes in (torch.tensor([[8.0, 20, 50, 70], [80, 50, 120, 100]]), torch.zeros(0, 4)):
        sizes = dict.fromkeys(("img_shape", "pad_shape", "batch_input_shape", "ori_shape"), (SIDE, SIDE))
        meta = sizes | {"scale_factor": (1, 1)} | {COVERAGE_KEY: np.array(coverage, np.int8)}
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)) * 2)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    torch.manual_seed(2)  # samplers and denoising draw
    raw = model.loss(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)), samples)
    sum(total(value).sum() for key, value in raw.items() if "loss" in key).backward()
    part = model.get_submodule(CLASSIFIERS[name])
    return {
        key: parameter.grad
        for key, parameter in part.named_parameters()
        if key.endswith("bias") and ("fc_cls" in key or "fc_cls" in CLASSIFIERS[name] or "roi" not in CLASSIFIERS[name])
    }


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_detector_learns_nothing_of_an_unknown_class(name):
    """All layers and stages: class 1 of 5 is unknown, the boxes are of classes 0 and 2."""
    stock = classifier_gradients(name, (E,) * 5, mask=False)
    ours = classifier_gradients(name, (E, U, E, E, E), mask=True)
    known = torch.tensor([0, 2, 3, 4])
    assert stock
    for key, expected in stock.items():
        assert expected[1] != 0
        assert ours[key][1] == 0
        assert (ours[key][known] != 0).all()
        if "roi" not in CLASSIFIERS[name]:  # a softmax moves the others
            assert torch.equal(ours[key][known], expected[known])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_with_full_labels_a_masked_detector_is_mmdets_to_the_bit(name):
    stock, ours = (classifier_gradients(name, (E,) * 5, mask) for mask in (False, True))
    for key, expected in stock.items():
        assert torch.equal(ours[key], expected)


def test_the_state_of_a_masked_detector_is_the_recipes():
    plain, ours = build_small("faster"), build_small("faster")
    assert mask_unknown_classes(ours)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert repr(ours) == repr(plain)


def test_heads_that_were_not_read_are_left_alone():
    config = ConfigDict(type="TOODHead", in_channels=8, feat_channels=32, num_classes=CLASSES, num_dcn=0)
    config.update(copy.deepcopy(HEADS["ATSSHead"]), initial_loss_cls=dict(type="FocalLoss", use_sigmoid=True))
    config.pop("bbox_coder")
    config.train_cfg = None
    tood = MODELS.build(config)
    before = type(tood), type(tood.loss_cls)
    assert not mask_unknown_classes(tood)
    assert not mask_unknown_classes(nn.Linear(1, 1))
    assert (type(tood), type(tood.loss_cls)) == before


def test_known_classes_by_hand():
    assert known_classes([{}, {}]) is None
    assert known_classes([{COVERAGE_KEY: np.array([E, E])}]) is None
    rows = known_classes([{COVERAGE_KEY: np.array([U, N])}, {}, {COVERAGE_KEY: np.array([E, N])}])
    assert rows.tolist() == [[False, False], [True, True], [True, False]]
