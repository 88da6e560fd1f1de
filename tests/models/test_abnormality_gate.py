"""The abnormality gate on mmdet's detectors: names, losses, predictions, and nothing computed twice."""

from __future__ import annotations

import math

import pytest
import torch
from gate_builders import SMALL, build, images, sample, say
from mmdet.models import detectors
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.model import MMDistributedDataParallel
from mmengine.structures import InstanceData

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.abnormality_gate import FeatureGate, is_abnormal
from cxr_mmdet.models.gate_rule import GateRule
from cxr_mmdet.models.gated_detectors import GATED, gate_of, gated

SOURCES = [("retina", "scores"), *[(kind, source) for kind in SMALL for source in ("neck", "backbone")]]


@pytest.mark.parametrize(("kind", "source"), SOURCES)
def test_the_detector_keeps_its_names_and_the_gate_has_its_own(kind, source):
    plain, with_gate = build(kind).state_dict(), build(kind, source=source).state_dict()
    added = with_gate.keys() - plain.keys()
    assert plain.keys() <= with_gate.keys()
    assert added
    assert all(name.startswith("gate.") for name in added)
    assert {name: value.shape for name, value in plain.items()} == {name: with_gate[name].shape for name in plain}


@pytest.mark.parametrize(("kind", "source"), SOURCES)
def test_a_gate_that_leaves_scores_changes_no_other_loss_and_no_box(kind, source):
    plain, with_gate = build(kind), build(kind, source=source, score_mode="leave")
    with_gate.load_state_dict(plain.state_dict(), strict=False)
    batch = images([True, False])
    losses = []
    for detector in (plain, with_gate):
        torch.manual_seed(1)  # Faster R-CNN draws regions
        losses.append(detector.train()(batch, [sample(1), sample(0)], mode="loss"))
    assert losses[1].keys() - losses[0].keys() == {"loss_gate"}
    for name, value in losses[0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(losses[1][name])) or isinstance(value, list)
    with torch.no_grad():
        found, gated_found = (
            detector.eval()(batch, [sample(), sample()], mode="predict") for detector in (plain, with_gate)
        )
    for one, other in zip(found, gated_found, strict=True):
        assert torch.equal(one.pred_instances.bboxes, other.pred_instances.bboxes)
        assert torch.equal(one.pred_instances.scores, other.pred_instances.scores)
        assert "p_abnormal" not in one
        assert 0 < other.p_abnormal < 1


@pytest.mark.parametrize("source", ["neck", "backbone", "scores"])
def test_nothing_is_computed_twice(source):
    detector = build("retina", source=source)
    calls = []
    for module in (detector.backbone, detector.neck, detector.bbox_head, detector.gate):
        module.register_forward_pre_hook(lambda module, *_: calls.append(type(module).__name__))
    detector.train()(images([True, True]), [sample(1), sample(1)], mode="loss")
    with torch.no_grad():
        detector.eval()(images([True]), [sample()], mode="predict")
    head = type(detector.bbox_head).__name__
    last = [head, "ScoreGate"] if source == "scores" else ["FeatureGate", head]
    assert calls == ["ResNet", "FPN", *last] * 2


@pytest.mark.parametrize("source", ["neck", "backbone", "scores"])
def test_the_loss_falls_and_tells_normal_from_abnormal(source):
    detector = build("retina", source=source).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.003)
    abnormal = [True, False, True, False]
    history = []
    for step in range(150 if source == "scores" else 35):  # scores must be learned before anything is said of them
        optimizer.zero_grad()
        losses = detector(images(abnormal, step), [sample(int(bright)) for bright in abnormal], mode="loss")
        loss, _ = detector.parse_losses(losses)
        loss.backward()
        optimizer.step()
        history.append(losses["loss_gate"].item())
    assert history[0] == pytest.approx(math.log(2), abs=0.05)  # an untrained gate says a half
    assert sum(history[-3:]) / 3 < 0.2
    with torch.no_grad():
        found = detector.eval()(images([True, False], 99), [sample(), sample()], mode="predict")
    assert found[0].p_abnormal > 0.7
    assert found[1].p_abnormal < 0.3


@pytest.mark.parametrize("kind", SMALL)
def test_normal_studies_alone_reach_every_parameter_of_the_gate(kind):
    """As DDP wants it: no parameter without a gradient, whatever the batch."""
    detector = build(kind, source="neck").train()
    for evidence in detector.gate.evidence:
        torch.nn.init.normal_(evidence.weight)
    loss, _ = detector.parse_losses(detector(images([False] * 2), [sample(0)] * 2, mode="loss"))
    loss.backward()
    assert all(parameter.grad is not None for parameter in detector.gate.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in detector.gate.parameters())
    assert detector.backbone.conv1.weight.grad.abs().sum() > 0


class TestLoss:
    LOGITS = torch.tensor([0.0, math.log(3)])  # a half, three quarters

    def gate(self, **options) -> FeatureGate:
        return FeatureGate([4], hidden=2, **options)

    def test_by_hand(self):
        """An abnormal study at 1/2 and a normal one at 3/4."""
        value = self.gate().loss(self.LOGITS, [sample(1), sample(0)])
        assert value.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)

    def test_weights_by_hand(self):
        value = self.gate(pos_weight=3.0, loss_weight=0.5).loss(self.LOGITS, [sample(1), sample(0)])
        assert value.item() == pytest.approx(0.5 * (3 * math.log(2) + math.log(4)) / 2, rel=1e-6)

    def test_virtual_copies_are_left_out(self):
        value = self.gate().loss(self.LOGITS, [sample(1), sample(1, virtual_copy=True)])
        assert value.item() == pytest.approx(math.log(2), rel=1e-6)

    def test_images_of_regions_alone_are_neither_normal_nor_abnormal(self):
        packed = sample(0, undecided=True)
        packed.ignored_instances = InstanceData(bboxes=torch.zeros(1, 4))
        assert not is_abnormal(packed)
        value = self.gate().loss(self.LOGITS, [sample(1), packed])
        assert value.item() == pytest.approx(math.log(2), rel=1e-6)

    def test_a_batch_of_copies_only_is_zero_but_reaches_the_parameters(self):
        logits = self.LOGITS.clone().requires_grad_()
        value = self.gate().loss(logits, [sample(1, virtual_copy=True)] * 2)
        value.backward()
        assert value.item() == 0.0
        assert logits.grad.tolist() == [0.0, 0.0]

    def test_half_precision(self):
        value = self.gate().loss(self.LOGITS.bfloat16(), [sample(1), sample(0)])
        assert value.dtype is torch.float32

    def test_a_finding_that_the_detector_ignores_is_abnormal(self):
        packed = sample(0)
        packed.ignored_instances = InstanceData(bboxes=torch.zeros(1, 4))
        assert is_abnormal(packed)
        packed.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        assert not is_abnormal(packed)


def test_an_untrained_gate_answers_the_prior():
    gate = FeatureGate([4, 4])
    gate.prior = 0.25
    gate.init_weights()
    maps = tuple(torch.randn(3, 4, side, side) for side in (8, 4))
    assert gate(maps, maps).sigmoid().tolist() == pytest.approx([0.25] * 3, abs=0.05)
    gate.prior = 0.0
    gate.init_weights()  # not minus infinity
    assert gate(maps, maps).isfinite().all()


@pytest.mark.parametrize("source", ["neck", "backbone"])
def test_a_gate_that_only_reads_leaves_the_detectors_gradients_as_they_are(source):
    gradients = {}
    for name, gate in {"none": {}, "reads": {"detach": True}, "shapes": {"detach": False}}.items():
        detector = build("retina", **gate and {"source": source, **gate})
        if gate:
            detector.load_state_dict(build("retina").state_dict(), strict=False)
            for evidence in detector.gate.evidence:
                torch.nn.init.ones_(evidence.weight)
        loss, _ = detector.train().parse_losses(detector(images([True, False]), [sample(1), sample(0)], mode="loss"))
        loss.backward()
        gradients[name] = detector.backbone.conv1.weight.grad
    assert torch.equal(gradients["none"], gradients["reads"])
    assert not torch.allclose(gradients["none"], gradients["shapes"])
    assert all(parameter.grad.abs().sum() > 0 for parameter in detector.gate.parameters())


def test_pooling_by_hand():
    """One place says log 9 and three say 0; sharpness 1: log((9 + 3) / 4) = log 3."""
    evidence = torch.zeros(2, 1, 2, 2)
    evidence[0, 0, 1, 0] = math.log(9)
    gate = FeatureGate([4], sharpness=1)
    assert gate._pool(evidence).tolist() == pytest.approx([math.log(3), 0])
    assert gate._pool(evidence + 200).tolist() == pytest.approx([200 + math.log(3), 200])  # exp(200) would overflow
    assert FeatureGate([4], sharpness=1e-3)._pool(evidence)[0].item() == pytest.approx(math.log(9) / 4, abs=1e-2)
    assert FeatureGate([4], sharpness=1e3)._pool(evidence)[0].item() == pytest.approx(math.log(9), abs=1e-2)


def test_a_place_says_the_same_in_an_image_twice_as_large():
    """Each place four times: what is pooled is a mean, so no size of image looks more abnormal than another."""
    gate = FeatureGate([4])
    gate.init_weights()
    maps = torch.randn(2, 4, 6, 5)
    larger = maps.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(gate((), (maps,)), gate((), (larger,)), atol=1e-6)


def test_levels_choose_the_maps():
    gate = FeatureGate([4, 6], levels=[1])
    gate.init_weights()
    fine, coarse = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)
    assert [layer.in_channels for layer in gate.hidden] == [6]
    assert torch.equal(gate((), (fine, coarse)), gate((), (fine * 9, coarse)))
    assert not torch.equal(gate((), (fine, coarse)), gate((), (fine, coarse.flip(1))))


def test_one_image_a_batch_and_mixed_precision():
    """Faster R-CNN's coarsest map is one cell here, and its norms are frozen."""
    detector = build("faster", source="neck").train()
    for module in detector.backbone.modules():
        module.training = False
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images([True]), [sample(1)], mode="loss")
    loss, _ = detector.parse_losses(losses)
    loss.backward()
    assert losses["loss_gate"].isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in detector.gate.parameters())


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("leave", [0.9, 0.5, 0.08]),
        ("multiply", [0.9 * 0.5, 0.5 * 0.5]),  # 0.08 · 0.5 is below the threshold of 0.05
        ("cut", []),
    ],
)
@pytest.mark.parametrize("kind", SMALL)
def test_score_modes_by_hand(kind, mode, expected, monkeypatch):
    """Three boxes of a study whose p_abnormal is 0.5, below a cut of 0.6."""
    detector = build(kind, source="neck").eval()
    detector.gate.rule = GateRule.of(mode, 0.6)
    monkeypatch.setattr(detector.gate, "forward", lambda stages, pyramid, scores: torch.zeros(1))

    def found(*args, **kwargs):
        corners = torch.tensor([[0.0, 0.0, 9.0, 9.0], [9.0, 9.0, 30.0, 30.0], [3.0, 3.0, 20.0, 20.0]])
        return [InstanceData(bboxes=corners, scores=torch.tensor([0.9, 0.5, 0.08]), labels=torch.tensor([0, 1, 2]))]

    monkeypatch.setattr(detector.roi_head if kind == "faster" else detector.bbox_head, "predict", found)
    with torch.no_grad():
        (result,) = detector(images([False]), [sample()], mode="predict")
    assert result.p_abnormal == 0.5
    assert result.pred_instances.scores.tolist() == pytest.approx(expected)
    assert result.pred_instances.labels.tolist() == list(range(len(expected)))


def test_multiplying_after_the_caps_is_multiplying_before_them():
    """The same boxes as from a head whose scores are multiplied before suppression and max_per_img."""
    detector = build("retina", source="neck").eval()
    head = detector.bbox_head
    head.test_cfg.update(score_thr=0.006, max_per_img=15, nms_pre=40)
    detector.test_cfg = head.test_cfg
    batch = images([True], 3)
    rule = GateRule.of("multiply", 0.0)
    with torch.no_grad():
        logits = say(detector, batch)
        scores, deltas = head(detector.extract_feat(batch))
        factor = logits.sigmoid().item()
        multiplied = [torch.logit(level.sigmoid() * factor) for level in scores]
        (before,) = head.predict_by_feat(multiplied, deltas, batch_img_metas=[sample().metainfo], rescale=True)
        detector.gate.rule = rule
        (after,) = detector(batch, [sample()], mode="predict")
    assert len(after.pred_instances) > 5, "or the test says nothing"
    torch.testing.assert_close(after.pred_instances.scores, before.scores, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after.pred_instances.bboxes, before.bboxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("source", ["neck", "scores"])
def test_gates_in_threads_do_not_hear_each_other(source):
    from concurrent.futures import ThreadPoolExecutor

    detector = build("retina", source=source).eval()
    batches = [images([bool(seed % 2)], seed) for seed in range(6)]
    expected = [say(detector, batch).item() for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda batch: say(detector, batch).item(), batches))
    assert got == pytest.approx(expected, abs=1e-5)
    assert say(build("retina").eval(), batches[0]) is None


def test_it_is_found_on_a_wrapped_model(tmp_path):
    detector = build("retina", source="neck")
    assert gate_of(detector) is detector.gate
    assert gate_of(build("retina")) is None
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert gate_of(MMDistributedDataParallel(detector)) is detector.gate
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "head"}, "source is 'head'; choose scores, backbone, or neck"),
        ({"source": "scores", "hidden": 8, "detach": True}, "no detach, hidden where its source is 'scores'"),
        ({"source": "scores", "memory": 0}, "memory is 0"),
        ({"source": "scores", "boxes_from": "normal"}, "boxes_from is 'normal'; choose all or abnormal"),
        ({"depth": 1}, "no depth where its source is 'neck'"),
        ({"score_mode": "multiply", "exponent": -1.0}, "exponent is -1"),
        ({"levels": [5]}, r"levels are \[5\]; the neck has 0…4"),
        ({"levels": []}, r"levels are \[\]"),
        ({"hidden": 0}, "hidden is 0"),
        ({"pos_weight": -1.0}, "pos_weight is -1"),
        ({"score_mode": "add"}, "score_mode is 'add'"),
        ({"score_mode": "cut", "cut": 2.0}, "cut is 2"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        build("retina", **options)


def test_scores_of_a_detector_without_a_dense_head():
    with pytest.raises(ConfigError, match=r'GatedFasterRCNN has no dense head .*; give gate=dict\(source="neck"\)'):
        build("faster", source="scores")


def test_a_detector_that_makes_its_features_in_its_own_way():
    class Strange(detectors.RetinaNet):
        def extract_feat(self, batch_inputs):
            return super().extract_feat(-batch_inputs)

    with pytest.raises(ConfigError, match="Strange extracts features in its own way"):
        gated(Strange)


OTHERS = {
    "ATSS": "atss/atss_r50_fpn_1x_coco",
    "CascadeRCNN": "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco",
    "DINO": "dino/dino-4scale_r50_8xb2-12e_coco",
    "RTMDet": "rtmdet/rtmdet_s_8xb32-300e_coco",
    "VFNet": "vfnet/vfnet_r50_fpn_1x_coco",
}
DENSE = ("ATSS", "RTMDet", "VFNet")


@pytest.mark.parametrize(
    ("name", "source"), [*[(name, "neck") for name in OTHERS], *[(name, "scores") for name in DENSE]]
)
def test_other_detectors_train_a_step_and_predict(name, source):
    assert name in GATED
    detector = small_of_mmdet(name, source)
    data = detector.data_preprocessor(demo_mm_inputs(2, [(3, 128, 160)] * 2, num_items=[2, 0], num_classes=3), True)
    losses = detector.train()(**data, mode="loss")
    loss, _ = detector.parse_losses(losses)
    loss.backward()
    assert losses["loss_gate"].item() == pytest.approx(math.log(2), abs=0.1)
    assert all(parameter.grad.isfinite().all() for parameter in detector.gate.parameters())
    with torch.no_grad():
        (found,) = detector.eval().test_step(demo_mm_inputs(1, [(3, 128, 160)], num_items=[1], num_classes=3))
    assert 0 < found.p_abnormal < 1
    assert (found.pred_instances.scores <= found.p_abnormal).all()


def small_of_mmdet(name: str, source: str):
    """Return one of mmdet's own detectors with few channels and a gate that multiplies."""
    from mmdet.utils import register_all_modules
    from mmengine.hub import get_config

    register_all_modules()
    model = get_config(f"mmdet::{OTHERS[name]}.py").model
    model.update(type=f"Gated{name}", gate=dict(source=source, score_mode="multiply"))
    model.backbone.init_cfg = None
    if name == "RTMDet":
        model.data_preprocessor.batch_augments = None
    else:
        model.backbone.update(depth=18, frozen_stages=-1)
        model.neck.in_channels = [64, 128, 256, 512][-len(model.neck.in_channels) :]
    if name == "CascadeRCNN":
        for head in model.roi_head.bbox_head:
            head.fc_out_channels = 32
        model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 100
    if name == "DINO":
        model.num_queries = 30
        model.test_cfg.max_per_img = 50
        model.encoder.num_layers = model.decoder.num_layers = 1
        model.dn_cfg.group_cfg.num_dn_queries = 10
        model.bbox_head.num_classes = 3
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.init_weights()
    return detector
