"""Reader votes as weights: what a box's share multiplies, by gradients and by losses computed by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from dense_heads import (
    BOXES,
    CLASSES,
    HEADS,
    MAX_IOU,
    META,
    SIDE,
    SIDES,
    STRIDES,
    batch,
    head,
    losses_of,
    maps,
    total,
    truth,
)
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torchvision.ops import sigmoid_focal_loss

import cxr_mmdet.models.vote_weights_atss  # noqa: F401 (registers)
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.vote_weights import VoteWeighting, weighs_votes

init_default_scope("mmdet")

THIRD = 1 / 3


@pytest.mark.parametrize("kind", HEADS)
def test_boxes_of_all_readers_give_mmdets_losses_to_the_bit(kind):
    expected, _ = losses_of(head(kind), kind, *batch(kind, 1.0))
    got, _ = losses_of(head(f"VoteWeighted{kind}"), kind, *batch(kind, 1.0))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(total(got[name]), total(value))
        assert total(value) > 0


@pytest.mark.parametrize("kind", HEADS)
def test_mmdets_own_head_does_not_look_at_votes(kind):
    bare = batch(kind, 0.5)
    for instances in bare:
        del instances.vote_shares
    (without, _), (with_votes, _) = (losses_of(head(kind), kind, *given) for given in (bare, batch(kind, 0.5)))
    for name, value in without.items():
        assert torch.equal(total(with_votes[name]), total(value))


def gradients(kind: str, name: str, share: float, **options) -> list[torch.Tensor]:
    losses, parts = losses_of(head(name, **options), kind, *batch(kind, share))
    sum(total(value) for value in losses.values()).backward()
    return [torch.cat([level.grad.flatten(2) for level in part], dim=2) for part in parts]


def columns() -> torch.Tensor:
    """Return the x of each place of the maps, in pixels."""
    return torch.cat([(torch.arange(side) * stride).repeat(side) for side, stride in zip(SIDES, STRIDES, strict=True)])


@pytest.mark.parametrize("kind", HEADS)
def test_a_share_of_a_third_scales_what_its_box_teaches_and_nothing_else(kind):
    stock, voted = gradients(kind, kind, THIRD), gradients(kind, f"VoteWeighted{kind}", THIRD)
    left = columns() < SIDE / 2
    for part, (before, after) in enumerate(zip(stock, voted, strict=True)):
        learns = before != 0
        assert torch.equal(learns, after != 0)
        assert torch.equal(after[1], before[1])  # the normal radiograph
        factor = torch.where(learns, after / before, torch.nan)[0]
        on_left, on_right = (factor[:, side] for side in (left, ~left))
        on_left, on_right = on_left[on_left.isfinite()], on_right[on_right.isfinite()]
        assert len(on_left)
        assert len(on_right)
        torch.testing.assert_close(on_right, torch.ones_like(on_right))
        weighed = torch.isclose(on_left, torch.tensor(THIRD), rtol=1e-4)
        if part == 0:  # scores: positives weigh a third, negatives on the same side stay
            assert weighed.any()
            assert not weighed.all()
            torch.testing.assert_close(on_left[~weighed], torch.ones(int((~weighed).sum())))
        elif part == 2 and kind == "ATSSHead":  # centerness is no matter of votes
            torch.testing.assert_close(on_left, torch.ones_like(on_left))
        else:
            assert weighed.all()


@pytest.mark.parametrize("kind", HEADS)
def test_uncertain_corners_scale_what_a_box_teaches_of_its_sides_and_nothing_else(kind):
    """The left box's corners weigh a quarter (``batch``); without the option, or without a spread, nothing changes."""
    name = f"VoteWeighted{kind}"
    without, weighed = gradients(kind, name, THIRD), gradients(kind, name, THIRD, votes={"corners": True})
    left = columns() < SIDE / 2
    for part, (before, after) in enumerate(zip(without, weighed, strict=True)):
        of_corners = part > 0 and not (part == 2 and kind == "ATSSHead")
        expected = torch.where(left & of_corners, 0.25, 1.0) * before
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-9)
    bare = batch(kind, THIRD)
    for instances in bare:
        instances.corner_weights = torch.ones(len(instances))
    of_ones, _ = losses_of(head(name, votes={"corners": True}), kind, *bare)
    switched_off, _ = losses_of(head(name), kind, *batch(kind, THIRD))
    for key, value in switched_off.items():
        assert torch.equal(total(of_ones[key]), total(value))


def test_retinanets_losses_by_hand():
    """Focal loss and L1 of each anchor, times 1/3 where mmdet's assigner gave it the left box, over all positives."""
    module = head("VoteWeightedRetinaHead")
    instances = truth(THIRD, 1.0)
    score_maps, box_maps = ([level[:1] for level in part] for part in maps("RetinaHead"))
    losses = module.loss_by_feat(score_maps, box_maps, [instances], [META])
    scores = torch.cat([level[0].permute(1, 2, 0).reshape(-1, CLASSES) for level in score_maps])
    deltas = torch.cat([level[0].permute(1, 2, 0).reshape(-1, 4) for level in box_maps])
    anchors = torch.cat(module.prior_generator.grid_priors([(side, side) for side in SIDES], device="cpu"))
    assigned = module.assigner.assign(InstanceData(priors=anchors), instances).gt_inds
    ignored, left, right = assigned == -1, assigned == 1, assigned == 2
    positive = left | right
    assert left.any()
    assert right.any()

    weights = torch.ones(len(anchors))
    weights[ignored], weights[left] = 0, THIRD
    targets = torch.zeros_like(scores)
    targets[left, 0] = targets[right, 2] = 1
    focal = sigmoid_focal_loss(scores, targets, alpha=0.25, gamma=2).sum(dim=1)
    torch.testing.assert_close(total(losses["loss_cls"]), (focal * weights).sum() / positive.sum())
    fits = torch.where(left[:, None], *BOXES)
    l1 = (deltas - module.bbox_coder.encode(anchors, fits)).abs().sum(dim=1)
    expected = (l1 * weights)[positive].sum() / positive.sum()
    torch.testing.assert_close(total(losses["loss_bbox"]), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("border", [-1, 0, 20])
def test_weights_follow_the_box_when_anchors_beyond_the_image_are_left_out(border):
    """With decoded targets an anchor's target names its box, which tells the weight it should have."""
    train_cfg = HEADS["RetinaHead"]["train_cfg"] | {"allowed_border": border}
    module = head("VoteWeightedRetinaHead", train_cfg=train_cfg, reg_decoded_bbox=True, loss_bbox=dict(type="GIoULoss"))
    anchors = module.prior_generator.grid_priors([(side, side) for side in SIDES], device="cpu")
    valid = [torch.ones(len(level), dtype=torch.bool) for level in anchors]
    labels, label_weights, bbox_targets, bbox_weights, _ = module.get_targets(
        [anchors], [valid], [truth(0.25, 0.75)], [META]
    )
    seen = set()
    for level in zip(labels, label_weights, bbox_targets, bbox_weights, strict=True):
        for label, label_weight, target, weight in zip(*(part[0] for part in level), strict=True):
            if label < CLASSES:
                share = 0.25 if torch.equal(target, BOXES[0]) else 0.75
                assert (label_weight, *weight) == (share,) * 5
                seen.add(share)
            else:
                assert label_weight in (0, 1)
                assert not weight.any()
    assert seen == {0.25, 0.75}


def sample_rois(sampler: str, *shares: float):
    """Return what a sampler of Faster R-CNN chose of proposals around the boxes and elsewhere."""
    generator = torch.Generator().manual_seed(2)
    near = BOXES.repeat(6, 1) + torch.randn(12, 4, generator=generator)
    far = torch.tensor([[60.0, 5, 75, 20]]).repeat(12, 1) + torch.randn(12, 4, generator=generator)
    proposals = InstanceData(priors=torch.cat([near, far])[torch.randperm(24, generator=generator)])
    instances = truth(*shares)
    assigner = TASK_UTILS.build(dict(MAX_IOU, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False))
    config = dict(type=sampler, num=16, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True)
    torch.manual_seed(0)
    return TASK_UTILS.build(config).sample(assigner.assign(proposals, instances), proposals, instances)


def roi_head(kind: str, **options):
    return MODELS.build(
        ConfigDict(type=kind, in_channels=4, fc_out_channels=8, roi_feat_size=3, num_classes=CLASSES, **options)
    )


RCNN = ConfigDict(pos_weight=-1)


def roi_losses(kind: str, sampled: list):
    generator = torch.Generator().manual_seed(3)
    count = sum(len(each.priors) for each in sampled)
    scores, deltas = (torch.randn(count, n, generator=generator) for n in (CLASSES + 1, 4 * CLASSES))
    result = roi_head(kind).loss_and_target(scores, deltas, torch.zeros(count, 5), sampled, RCNN)["loss_bbox"]
    return result, scores, deltas


@pytest.mark.parametrize("kind", ["Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead"])
def test_rois_of_boxes_of_all_readers_give_mmdets_losses_to_the_bit(kind):
    expected, *_ = roi_losses(kind, [sample_rois("RandomSampler", 1.0, 1.0)] * 2)
    got, *_ = roi_losses(f"VoteWeighted{kind}", [sample_rois("VoteRandomSampler", 1.0, 1.0)] * 2)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value)


def test_the_samplers_choose_alike():
    ours, mmdets = sample_rois("VoteRandomSampler", THIRD, 1.0), sample_rois("RandomSampler", THIRD, 1.0)
    for key in ("pos_inds", "neg_inds", "pos_assigned_gt_inds", "pos_is_gt"):
        assert torch.equal(getattr(ours, key), getattr(mmdets, key))
    assert torch.equal(ours.pos_gt_instances.vote_shares, torch.tensor([THIRD, 1.0])[ours.pos_assigned_gt_inds])
    assert set(ours.pos_assigned_gt_inds.tolist()) == {0, 1}


def test_faster_rcnns_losses_by_hand():
    """Cross entropy and L1 of each RoI, times 1/3 where it was sampled for the left box, over all RoIs."""
    sampled = sample_rois("VoteRandomSampler", THIRD, 1.0)
    losses, scores, deltas = roi_losses("VoteWeightedShared2FCBBoxHead", [sampled])
    is_left = sampled.pos_assigned_gt_inds == 0
    positives, count = len(is_left), len(sampled.priors)
    labels = torch.full((count,), CLASSES)
    labels[:positives] = torch.where(is_left, 0, 2)
    weights = torch.ones(count)
    weights[:positives][is_left] = THIRD
    cross_entropy = F.cross_entropy(scores, labels, reduction="none")
    torch.testing.assert_close(losses["loss_cls"], (cross_entropy * weights).sum() / count)

    own = deltas.view(count, CLASSES, 4)[torch.arange(positives), labels[:positives]]
    targets = roi_head("Shared2FCBBoxHead").bbox_coder.encode(sampled.pos_priors, sampled.pos_gt_bboxes)
    beta = 1.0  # mmdet's smooth L1
    smooth = F.smooth_l1_loss(own, targets, beta=beta, reduction="none").sum(dim=1)
    torch.testing.assert_close(losses["loss_bbox"], (smooth * weights[:positives]).sum() / count)

    stock, *_ = roi_losses("Shared2FCBBoxHead", [sampled])
    assert losses["loss_cls"] < stock["loss_cls"]
    assert torch.equal(losses["acc"], stock["acc"])


def test_uncertain_corners_weigh_in_the_rois_regression_alone():
    sampled = [sample_rois("VoteRandomSampler", THIRD, 1.0)]
    for each in sampled:
        each.pos_gt_instances.corner_weights = torch.where(each.pos_assigned_gt_inds == 0, 0.25, 1.0)
    left = len(torch.nonzero(sampled[0].pos_assigned_gt_inds == 0))
    targets = [
        roi_head("VoteWeightedShared2FCBBoxHead", votes={"corners": corners}).get_targets(sampled, RCNN)
        for corners in (False, True)
    ]
    for plain, weighed in zip(*(each[:3] for each in targets), strict=True):
        assert torch.equal(plain, weighed)
    expected = (
        torch.where((sampled[0].pos_assigned_gt_inds == 0)[:, None], 0.25, 1.0)
        * targets[0][3][: len(sampled[0].pos_assigned_gt_inds)]
    )
    assert left
    assert torch.equal(targets[1][3][: len(expected)], expected)


def test_a_roi_head_without_its_sampler_is_a_sentence():
    with pytest.raises(ConfigError, match=r'train_cfg\.rcnn\.sampler\.type="VoteRandomSampler"'):
        roi_losses("VoteWeightedShared2FCBBoxHead", [sample_rois("RandomSampler", 1.0, 1.0)])


def test_boxes_without_votes_are_a_sentence():
    given = truth(1.0, 1.0)
    del given.vote_shares
    with pytest.raises(ConfigError, match="a radiograph's boxes came without"):
        losses_of(head("VoteWeightedRetinaHead"), "RetinaHead", given, given)


class TestVoteWeighting:
    SHARES = torch.tensor([1 / 3, 2 / 3, 1.0])

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, [1 / 3, 2 / 3, 1]),
            ({"power": 0}, [1, 1, 1]),
            ({"power": 2}, [1 / 9, 4 / 9, 1]),
            ({"min_weight": 0.5}, [0.5, 2 / 3, 1]),
            ({"full_weight": 3}, [1, 2, 3]),  # the paper's code: the number of votes
            ({"power": 2, "min_weight": 0.25, "full_weight": 2}, [0.5, 8 / 9, 2]),
        ],
    )
    def test_by_hand(self, options, expected):
        torch.testing.assert_close(VoteWeighting(**options)(self.SHARES), torch.tensor(expected, dtype=torch.float32))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"power": -1}, "power is -1, expected 0 or more"),
            ({"min_weight": 1.5}, "min_weight is 1.5, expected 0 to 1"),
            ({"full_weight": 0}, "full_weight is 0, expected above 0"),
            ({"floor": 0.1}, "votes: holds floor; known are power, min_weight, full_weight and corners"),
        ],
    )
    def test_a_wrong_option_is_a_sentence(self, options, message):
        with pytest.raises(ConfigError, match=message):
            head("VoteWeightedRetinaHead", votes=options)

    def test_options_reach_the_loss(self):
        kind = "RetinaHead"
        flat, _ = losses_of(head(f"VoteWeighted{kind}", votes={"power": 0}), kind, *batch(kind, THIRD))
        stock, _ = losses_of(head(kind), kind, *batch(kind, THIRD))
        assert torch.equal(total(flat["loss_bbox"]), total(stock["loss_bbox"]))


def test_only_a_voting_head_asks_for_votes():
    assert weighs_votes(torch.nn.ModuleList([head("VoteWeightedATSSHead")]))
    assert not weighs_votes(torch.nn.ModuleList([head("ATSSHead")]))
    assert isinstance(TASK_UTILS.build(dict(type="VoteRandomSampler", num=4, pos_fraction=0.5)), RandomSampler)


@pytest.mark.parametrize("kind", HEADS)
def test_heads_have_mmdets_parameters_and_can_be_copied(kind):
    ours = copy.deepcopy(head(f"VoteWeighted{kind}"))
    assert ours.state_dict().keys() == head(kind).state_dict().keys()
    losses_of(ours, kind, *batch(kind, THIRD))


def test_vfnet_with_other_targets_is_a_sentence():
    with pytest.raises(ConfigError, match="needs use_atss=True"):
        head("VoteWeightedVFNetHead", use_atss=False)
