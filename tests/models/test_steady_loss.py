"""Losses divided by a running mean of the positives: mmdet's losses times what was divided by, over the mean."""

import pytest
import torch
from dense_heads import batch, head, losses_of, total, truth
from mmengine.registry import init_default_scope

import cxr_mmdet.models.steady_loss  # noqa: F401 (registers)
from cxr_mmdet.engine import config as configs
from cxr_mmdet.errors import ConfigError

init_default_scope("mmdet")

KINDS = ["RetinaHead", "ATSSHead", "GFLHead"]


def normal_batch():
    return [truth(boxes=torch.zeros(0, 4), labels=())] * 2


def divisor(kind: str, given) -> float:
    """Return what mmdet divides a batch's loss by: its positives, a normal radiograph counting as one."""
    seen = []
    module = head(kind)
    targets = module.get_targets
    module.get_targets = lambda *args, **kwargs: seen.append(targets(*args, **kwargs)) or seen[-1]
    losses_of(module, kind, *given)
    return float(seen[-1][-1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_classes_is_mmdets_over_the_running_mean(kind):
    module = head(f"Steady{kind}", steady={"momentum": 0.75, "start": 40})
    mean = 40.0
    for given in (batch(kind, 1.0), normal_batch(), batch(kind, 1.0)):
        own = divisor(kind, given)
        mean = 0.75 * mean + 0.25 * own
        expected, _ = losses_of(head(kind), kind, *given)
        got, _ = losses_of(module, kind, *given)
        torch.testing.assert_close(total(got["loss_cls"]), total(expected["loss_cls"]) * own / mean)
        assert module.mean_positives == pytest.approx(mean)


def test_a_normal_radiograph_no_longer_outweighs_one_with_findings():
    """The same "no" of the same anchors, beside a step with findings and without: equal in ours, not in mmdet's."""
    kind = "RetinaHead"
    stock = [total(losses_of(head(kind), kind, *given)[0]["loss_cls"]) for given in (batch(kind, 1.0), normal_batch())]
    ours = [
        total(losses_of(head(f"Steady{kind}"), kind, *given)[0]["loss_cls"])
        for given in (batch(kind, 1.0), normal_batch())
    ]
    assert stock[1] > 4 * stock[0]
    assert ours[1] < 1.5 * ours[0]


@pytest.mark.parametrize("kind", ["RetinaHead", "ATSSHead", "GFLHead"])
def test_votes_weigh_within_it(kind):
    alone, _ = losses_of(head(f"SteadyVoteWeighted{kind}"), kind, *batch(kind, 1 / 3))
    plain, _ = losses_of(head(f"Steady{kind}"), kind, *batch(kind, 1 / 3))
    flat, _ = losses_of(head(f"SteadyVoteWeighted{kind}"), kind, *batch(kind, 1.0))
    assert total(alone["loss_bbox"]) < total(plain["loss_bbox"])
    assert torch.equal(total(flat["loss_bbox"]), total(plain["loss_bbox"]))


def test_the_state_is_mmdets():
    assert head("SteadyRetinaHead").state_dict().keys() == head("RetinaHead").state_dict().keys()


def test_without_memory_it_is_mmdets_loss_to_the_bit():
    kind = "RetinaHead"
    expected, _ = losses_of(head(kind), kind, *batch(kind, 1.0))
    got, _ = losses_of(head("SteadyRetinaHead", steady={"momentum": 0}), kind, *batch(kind, 1.0))
    assert all(torch.equal(total(got[name]), total(value)) for name, value in expected.items())


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"start": 0}, {"decay": 0.9}])
def test_a_wrong_option_is_a_sentence(options):
    with pytest.raises(ConfigError, match="known are momentum, from 0 to below 1, and start, 1 or more"):
        head("SteadyRetinaHead", steady=options)


@pytest.mark.parametrize(("name", "kind"), [("rtmdet_s", "RTMDetSepBNHead"), ("faster_rcnn_5cls", "StandardRoIHead")])
def test_a_head_without_such_a_form_is_a_sentence(name, kind):
    with pytest.raises(
        ConfigError, match=f"switch steady_loss: no {kind} divides its loss so; .* RetinaHead, ATSSHead"
    ):
        configs.load_config(name, switches=["steady_loss"])
