"""The gate that reads a detector's scores: what it says, what it is fitted to, and that it changes no detector."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from gate_builders import SIDE, build, images, sample, say

from cxr_mmdet.engine.config import load_config
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.abnormality_gate import ScoreGate
from cxr_mmdet.models.gated_detectors import with_gate


def small_gate(classes: int = 2, prior: float = 0.25) -> ScoreGate:
    gate = ScoreGate(classes)
    gate.prior = prior
    gate.init_weights()
    return gate


def test_scores_of_an_untrained_detector_leave_the_prior():
    maps = [torch.full((3, 6, side, side), -4.6) for side in (4, 2)]
    assert small_gate()((), (), maps).sigmoid().tolist() == pytest.approx([0.25] * 3, abs=1e-4)
    assert small_gate(prior=0.0)((), (), maps).isfinite().all()
    assert small_gate(prior=1.0)((), (), maps).isfinite().all()


def test_by_hand():
    """Two classes, two anchors, two levels: the highest logits are 0.5 and -1; scale 4, biases 0 and 2."""
    fine = torch.full((1, 4, 2, 3), -9.0)
    fine[0, 2, 1, 2] = 0.5  # of class 0 by the second anchor
    coarse = torch.full((1, 4, 1, 1), -9.0)
    coarse[0, 1] = -1.0  # of class 1 by the first
    gate = small_gate()
    gate.numbers[1] = 2
    survives = 0.75 / (1 + math.exp(4 * 0.5)) / (1 + math.exp(4 * -1.0 + 2))
    assert gate((), (), [fine, coarse]).sigmoid().item() == pytest.approx(1 - survives, abs=1e-6)


def test_every_class_adds():
    gate, lone, both = small_gate(), torch.full((1, 2, 2, 2), -9.0), torch.full((1, 2, 2, 2), -9.0)
    lone[0, 0, 0, 0] = both[0, 0, 0, 0] = both[0, 1, 1, 1] = 0.0
    assert gate((), (), [both]) > gate((), (), [lone])


def test_sure_and_unsure_to_the_last():
    gate = small_gate(prior=0.0)
    gate.numbers[-1] = -100
    for score in (-200.0, 200.0):
        maps = [torch.full((1, 2, 2, 2), score, requires_grad=True)]
        logits = gate((), (), maps)
        assert logits.isfinite().all()
        assert not logits.requires_grad, "it only reads"
        assert gate.loss(logits, [sample(int(score < 0))]).isfinite()


def studies(count: int, seed: int = 0) -> tuple[torch.Tensor, list[bool]]:
    """Return highest logits of two classes: the first tells studies with a finding, the second is always high."""
    rng = torch.Generator().manual_seed(seed)
    abnormal = (torch.rand(count, generator=rng) < 0.4).tolist()
    highest = torch.randn(count, 2, generator=rng) + torch.tensor([[-3.0 + 3 * one, 1.0] for one in abnormal])
    return highest[:, :, None, None], abnormal


def test_it_is_fitted_to_what_it_saw():
    """The share of abnormal studies is met, the telling class decides, and the telltale one is told apart."""
    maps, abnormal = studies(400)
    gate = ScoreGate(2, interval=4)
    gate.prior = sum(abnormal) / 400
    gate.init_weights()
    for start in range(0, 400, 20):
        batch = slice(start, start + 20)
        logits = gate((), (), [maps[batch]])
        gate.loss(logits, [sample(int(one)) for one in abnormal[batch]])
    said = gate.eval()((), (), [maps]).sigmoid()
    labels = torch.tensor(abnormal)
    assert said.mean().item() == pytest.approx(labels.float().mean().item(), abs=0.02)
    ranks = (said[labels][:, None] > said[~labels][None, :]).float().mean()
    alone = (maps[labels, 0].flatten()[:, None] > maps[~labels, 0].flatten()[None, :]).float().mean()
    highest = maps.flatten(1).amax(dim=1)
    assert ranks > alone - 0.01
    assert ranks > (highest[labels][:, None] > highest[~labels][None, :]).float().mean() + 0.05


def test_only_the_last_images_count_and_copies_never():
    gate = ScoreGate(2, memory=6)
    gate.init_weights()
    for value in range(4):
        logits = gate((), (), [torch.full((2, 2, 1, 1), float(value))])
        gate.loss(logits, [sample(1, virtual_copy=value == 3), sample(0)])
    assert gate.highest[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert gate.weights.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0], [0, 0], [1, 0]]


def test_one_kind_of_study_fits_nothing():
    gate = ScoreGate(2, interval=1)
    gate.init_weights()
    before = gate.numbers.clone()
    for _ in range(20):
        gate.loss(gate((), (), [torch.randn(4, 2, 2, 2)]), [sample(1)] * 4)
    assert torch.equal(gate.numbers, before)


def test_it_goes_on_where_a_checkpoint_left_it():
    gates = [ScoreGate(2, interval=4), ScoreGate(2, interval=4)]
    gates[0].init_weights()
    maps, abnormal = studies(200, seed=1)

    def train(gate, first: int, last: int) -> None:
        for start in range(first, last, 10):
            batch = slice(start, start + 10)
            gate.loss(gate((), (), [maps[batch]]), [sample(int(one)) for one in abnormal[batch]])

    train(gates[0], 0, 90)
    gates[1].load_state_dict(gates[0].state_dict())
    for gate in gates:
        train(gate, 90, 200)
    assert torch.equal(gates[0].numbers, gates[1].numbers)


def test_the_detector_learns_to_the_bit_what_it_learns_without_it():
    weights = []
    for gate in ({}, {"source": "scores", "score_mode": "multiply", "memory": 16, "interval": 2}):
        detector = build("retina", **gate).train()
        optimizer = torch.optim.AdamW(detector.parameters(), lr=0.003)
        for step in range(20):
            optimizer.zero_grad()
            losses = detector(images([True, False], step), [sample(1), sample(0)], mode="loss")
            detector.parse_losses(losses)[0].backward()
            optimizer.step()
        weights.append(detector.state_dict())
    plain, gated_weights = weights
    assert all(torch.equal(value, gated_weights[name]) for name, value in plain.items())
    assert gated_weights["gate.weights"].sum() == 16


def test_shares_that_are_drawn_are_not_shares_that_are_said():
    """Half of what is drawn is abnormal, a tenth of the data; nothing tells studies apart, so it says a tenth."""
    gate = ScoreGate(2, interval=4)
    gate.prior = 0.1
    gate.init_weights()
    for seed in range(40):
        maps = torch.randn(10, 2, 1, 1, generator=torch.Generator().manual_seed(seed)) - 3
        gate.loss(gate((), (), [maps]), [sample(number % 2) for number in range(10)])
    said = gate.eval()((), (), [torch.full((1, 2, 1, 1), -3.0)]).sigmoid()
    assert said.item() == pytest.approx(0.1, abs=0.03)


def test_boxes_from_abnormal_studies_alone():
    """Losses and gradients are those of the abnormal studies by themselves; the gate remembers both."""
    gradients, values = [], []
    for options, studies in (
        ({}, [True, True]),
        ({"source": "scores", "boxes_from": "abnormal"}, [False, True, False, True]),
    ):
        detector = build("retina", **options)
        for module in detector.backbone.modules():  # the norms would see the normal studies
            module.training = False
        for module in detector.neck.modules():
            module.training = False
        batch = torch.zeros(len(studies), 3, SIDE, SIDE)
        batch[torch.tensor(studies)] = images([True, True])
        samples = [sample(int(one)) for one in studies]
        losses = detector(batch, samples, mode="loss")
        detector.parse_losses(losses)[0].backward()
        gradients.append(detector.bbox_head.retina_cls.weight.grad)
        values.append(detector.parse_losses(losses)[1])
    for name in ("loss_cls", "loss_bbox"):
        assert values[0][name].item() == pytest.approx(values[1][name].item(), rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)
    assert detector.gate.weights[-4:].tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_normal_studies_alone_teach_no_box_but_reach_every_parameter():
    detector = build("retina", source="scores", boxes_from="abnormal").train()
    losses = detector(images([False, False]), [sample(0), sample(0)], mode="loss")
    detector.parse_losses(losses)[0].backward()
    assert all((parameter.grad == 0).all() for parameter in detector.parameters() if parameter.requires_grad)
    assert detector.gate.weights[-2:].tolist() == [[1, 0], [1, 0]]


def test_the_switch_that_teaches_boxes_from_abnormal_studies_wants_a_gate():
    config = load_config("retina_14cls", load_from="none", switches=["gate,boxes_from_abnormal"])
    assert config.model.gate.boxes_from == "abnormal"
    assert config.train_dataloader.sampler.normal_share == 0.125
    for name, switches in {"retina_14cls": [], "faster_rcnn_14cls": ["gate"]}.items():
        with pytest.raises(ConfigError, match="give --with gate,boxes_from_abnormal, or abnormal_only"):
            load_config(name, load_from="none", switches=[*switches, "boxes_from_abnormal"])


def test_copies_of_a_detector_have_gates_of_their_own():
    """EMA and the backends copy a detector, its hooks with it."""
    detector = build("retina", source="scores").eval()
    twin = copy.deepcopy(detector)
    twin.gate.numbers[-1] = 3
    with torch.no_grad():
        assert say(twin, images([True])) > say(detector, images([True])) + 1


def test_the_switch_gives_it_to_dense_heads_alone():
    for name, source in {"retina_14cls": "scores", "rtmdet_s": "scores", "faster_rcnn_14cls": "neck"}.items():
        gate = with_gate(load_config(name, load_from="none").model)["gate"]
        assert gate["source"] == source
        assert gate.get("exponent") == (0.25 if source == "scores" else None)
