"""mmdet's own detectors, from its own configs made small, on the operators of cxr_mmdet: train a step and predict."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.hub import get_config

SHRINK = 8
CHANNELS = {"in_channels", "out_channels", "feat_channels", "embed_dims", "num_feats", "compressed_channels"} | {
    "fc_out_channels",
    "feedforward_channels",
}
SMALL = {
    "frozen_stages": -1,
    "init_cfg": None,
    "num_classes": 3,
    "num_queries": 100,
    "num_layers": 2,
    "score_thr": 0.0,
    "max_per_img": 20,
}
DETECTORS = {
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco",
    "faster_rcnn": "faster_rcnn/faster-rcnn_r50_fpn_1x_coco",
    "cascade_rcnn": "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco",
    "atss": "atss/atss_r50_fpn_1x_coco",
    "gfl": "gfl/gfl_r50_fpn_1x_coco",
    "fcos": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco",
    "vfnet": "vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco",
    "deformable_detr": "deformable_detr/deformable-detr_r50_16xb2-50e_coco",
    "guided_anchoring": "guided_anchoring/ga-retinanet_r50_fpn_1x_coco",
    "reppoints": "reppoints/reppoints-moment_r50_fpn_1x_coco",
}


def small(value, key=""):
    """Return a model config with an eighth of the channels, few layers and queries, and no weights to download."""
    if key in SMALL:
        return SMALL[key]
    if isinstance(value, dict):
        return {name: small(child, name) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(small(child, key) for child in value)
    return value // SHRINK if key in CHANNELS and isinstance(value, int) else value


def build(config):
    register_all_modules()
    torch.manual_seed(0)
    model = ConfigDict(small(get_config(f"mmdet::{config}.py").model.to_dict()))
    # Otherwise each residual branch starts at zero, and nothing in it gets a gradient in the first step.
    model.backbone.update(base_channels=64 // SHRINK, zero_init_residual=False)
    if "DETR" in model.type:
        model.bbox_head.embed_dims = 256 // SHRINK
    detector = MODELS.build(model)
    detector.init_weights()
    return detector


def batch(size):
    # Group norm needs two cells on the coarsest map, of stride 128.
    shapes, boxes = [(3, 128, 160), (3, 96, 128)], [2, 1]
    return demo_mm_inputs(size, shapes[:size], num_items=boxes[:size], num_classes=3)


def train_step(detector):
    """Return the loss, with gradients left on the parameters."""
    detector.train()
    data = detector.data_preprocessor(batch(2), True)
    loss, _ = detector.parse_losses(detector(**data, mode="loss"))
    loss.backward()
    return loss


def predict(detector):
    detector.eval()
    with torch.no_grad():
        (sample,) = detector.test_step(batch(1))  # mmcv's masked convolution takes one image at a time
    return sample.pred_instances


def assert_learns(detector):
    loss = train_step(detector)
    assert loss.isfinite()
    assert loss > 0
    gradients = {name: p.grad for name, p in detector.named_parameters() if p.requires_grad and p.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    learning = {name.partition(".")[0] for name, gradient in gradients.items() if gradient.any()}
    assert learning >= {name for name, _ in detector.named_children() if name.endswith(("backbone", "neck", "head"))}


def assert_predicts(detector):
    instances = predict(detector)
    assert 0 < len(instances) <= SMALL["max_per_img"]
    assert instances.bboxes.isfinite().all()
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()
    assert set(instances.labels.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("config", DETECTORS.values(), ids=list(DETECTORS))
def test_detector_trains_and_predicts(config):
    detector = build(config)
    assert_learns(detector)
    assert_predicts(detector)


@pytest.mark.parametrize("config", [DETECTORS["vfnet"], DETECTORS["deformable_detr"]], ids=["vfnet", "deformable_detr"])
def test_offsets_of_deformable_layers_learn(config):
    detector = build(config)
    train_step(detector)
    offsets = {name: p.grad for name, p in detector.named_parameters() if "offset" in name and "weight" in name}
    assert len(offsets) > 3
    assert all(gradient.any() for gradient in offsets.values())


def test_soft_nms_by_config():
    detector = build(DETECTORS["retinanet"])
    plain = predict(detector)
    detector.bbox_head.test_cfg.nms = ConfigDict(type="soft_nms", iou_threshold=0.5, method="gaussian", min_score=0.0)
    soft = predict(detector)
    assert len(plain) == len(soft) == SMALL["max_per_img"]
    assert soft.scores[0] == plain.scores[0]
    assert not torch.equal(soft.bboxes, plain.bboxes)


def test_carafe_neck():
    register_all_modules()
    neck = MODELS.build(small(get_config("mmdet::carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py").model.neck.to_dict()))
    neck.init_weights()
    pyramid = neck([torch.randn(1, 32 * 2**level, 32 >> level, 32 >> level) for level in range(4)])
    assert [tuple(features.shape) for features in pyramid] == [(1, 32, 32 >> level, 32 >> level) for level in range(5)]
