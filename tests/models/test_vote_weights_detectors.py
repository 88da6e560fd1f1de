"""Reader votes as weights in whole detectors, built from the recipes."""

import copy
import functools

import pytest
import torch
from detectors import MODELS_BY_KIND
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from cxr_mmdet.engine.config import load_config
from cxr_mmdet.models.vote_weights import weighs_votes

SIDE = 128
KINDS = {"retina_wide": "retina_14cls", "faster_wide": "faster_rcnn_14cls"}


@functools.cache
def detector(kind: str, votes: bool, rpn: str):
    """Return a small detector of a recipe with or without votes, the same weights in both."""
    _, options = MODELS_BY_KIND[kind]
    if "faster" in kind:
        options = [*options, f"model.rpn_head.type={rpn}"]
    switches = ["votes"] if votes else []
    config = load_config(KINDS[kind], load_from="none", switches=switches, cfg_options=options)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    return model.train()


def losses(kind: str, votes: bool, *shares: float, rpn: str = "RPNHead") -> dict[str, torch.Tensor]:
    """Return the losses of a radiograph with a box on either side, and of a normal one."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for boxes in (torch.tensor([[8.0, 20, 50, 70], [80, 50, 120, 100]]), torch.zeros(0, 4)):
        sample = DetDataSample(metainfo={"img_shape": (SIDE, SIDE), "pad_shape": (SIDE, SIDE), "scale_factor": (1, 1)})
        truth = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)) + 3)
        if shares:
            truth.vote_shares = torch.tensor(shares)[: len(boxes)]
        sample.gt_instances, sample.ignored_instances = truth, InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    model = copy.deepcopy(detector(kind, votes, rpn))  # its norms count what they see
    torch.manual_seed(2)  # samplers draw
    raw = model.loss(torch.randn(2, 3, SIDE, SIDE, generator=generator), samples)
    return {name: torch.stack(list(v)).sum() if isinstance(v, list) else v for name, v in raw.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_of_all_readers_give_the_recipes_losses_to_the_bit(kind):
    assert weighs_votes(detector(kind, True, "RPNHead"))
    assert not weighs_votes(detector(kind, False, "RPNHead"))
    expected, got = losses(kind, False), losses(kind, True, 1.0, 1.0)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_votes_weigh_the_last_stage_alone(kind):
    expected, got = losses(kind, True, 1.0, 1.0), losses(kind, True, 1 / 3, 1 / 3)
    for name, value in expected.items():
        if name.startswith("loss_bbox"):
            torch.testing.assert_close(got[name], value / 3)
        elif name == "loss_cls":
            assert value / 3 < got[name] < value
        else:  # proposals, accuracy
            assert torch.equal(got[name], value), name


def test_the_rpn_can_be_weighed_too():
    expected = losses("faster_wide", True, 1 / 3, 1 / 3)
    got = losses("faster_wide", True, 1 / 3, 1 / 3, rpn="VoteWeightedRPNHead")
    torch.testing.assert_close(got["loss_rpn_bbox"], expected["loss_rpn_bbox"] / 3)
    assert expected["loss_rpn_cls"] / 3 < got["loss_rpn_cls"] < expected["loss_rpn_cls"]
    assert torch.equal(got["loss_bbox"], expected["loss_bbox"])
