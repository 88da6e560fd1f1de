"""mmdet's own front ends give what ``tools/predict.py`` gives: init_detector, DetInferencer, DetTTAModel."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import detectors
import modern
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import MODELS
from mmdet_oracle import BOX_PX, SCORE, assert_same
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate

from cxr_mmdet.engine.config import load_config
from cxr_mmdet.inference.predictor import Augmentation, AugmentationView, Predictor
from cxr_mmdet.recipes import config_names
from cxr_mmdet.structures.boxes import batched_nms

if TYPE_CHECKING:
    from cxr_mmdet.structures.detections import Findings

CHECKPOINTS = {
    **dict.fromkeys(("retina", "retina_wide", "gfl", "faster", "retina_gate"), detectors.checkpoint_of),
    **{name: modern.checkpoint_of for name in modern.DETECTORS if name not in ("rtmdet_m", "gfl")},
}
CONFIGS = {
    kind: modern.config_of if checkpoint is modern.checkpoint_of else detectors.config_of
    for kind, checkpoint in CHECKPOINTS.items()
}
SIZES = [(150, 120), (97, 301), (120, 120)]


def config_file(kind: str, folder: Path) -> str:
    """Return the resolved config as mmengine writes it beside a run's checkpoints."""
    path = folder / "config.py"
    CONFIGS[kind](kind).dump(path)
    return str(path)


def assert_as_predicted(found: Findings, instances) -> None:
    """Check mmdet's instances against findings, above the threshold of findings."""
    boxes, scores, labels = (np.asarray(instances[key]) for key in ("bboxes", "scores", "labels"))
    boxes = boxes.reshape(-1, 4)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert_same(found, boxes[kept], scores[kept], labels[kept])
    assert len(found) > 3, "or the test says nothing"


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_inference_detector_predicts_as_we_do(tmp_path, kind):
    checkpoint = CHECKPOINTS[kind](kind)
    predictor = Predictor.load(checkpoint)
    model = init_detector(config_file(kind, tmp_path), str(checkpoint), device="cpu")
    threshold = predictor.model.spec.score_threshold
    paths = [detectors.write_image(tmp_path / f"{number}.png", *size) for number, size in enumerate(SIZES)]
    expected = predictor.predict(paths)
    greys = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    # Paths come first: mmdet leaves its loader of arrays in the config of a model that saw one.
    for images in ([str(path) for path in paths], [cv2.imread(str(path)) for path in paths], greys):
        for findings, result in zip(expected, inference_detector(model, images), strict=True):
            found = result.pred_instances
            assert_as_predicted(findings, found[found.scores > threshold])


def test_det_inferencer_predicts_as_we_do():
    """Its tests have a process of their own: in one that ran thousands of others before, the process died in it."""
    tests = ["-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("det_inferencer.py"))]
    done = subprocess.run([sys.executable, "-m", "pytest", *tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


@pytest.mark.parametrize("kind", ["retina", "retina_wide", "faster", "rtmdet_s"])
def test_test_time_augmentation_merges_our_views(tmp_path, kind):
    """DetTTAModel suppresses over all views; each view, and so their union, is the one of our own augmentation."""
    checkpoint = CHECKPOINTS[kind](kind)
    predictor = Predictor.load(checkpoint)
    config = CONFIGS[kind](kind)
    model = init_detector(config_file(kind, tmp_path), str(checkpoint), device="cpu")
    nms = dict(type="nms", iou_threshold=0.5)
    tta = MODELS.build(ConfigDict(type="DetTTAModel", module=model, tta_cfg=dict(nms=nms, max_per_img=100)))
    load, *steps = copy.deepcopy(config.test_dataloader.dataset.pipeline)
    flips = [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)]
    pipeline = Compose([load, dict(type="TestTimeAug", transforms=[flips, *([step] for step in steps)])])
    for size in SIZES:
        path = detectors.write_image(tmp_path / "a.png", *size)
        with torch.no_grad():
            (result,) = tta.test_step(pseudo_collate([pipeline({"img_path": str(path), "img_id": 1})]))
        views = [
            predictor.predict(path, augmentation=Augmentation((AugmentationView(flip=flip),))) for flip in (False, True)
        ]
        merged = np.concatenate([view.boxes_xyxy for view in views])
        scores, labels = (np.concatenate([getattr(view, name) for view in views]) for name in ("scores", "labels"))
        kept = batched_nms(merged, scores, labels, 0.5, 100)
        found = result.pred_instances
        assert len(found) == len(kept) > 5
        nearest = np.abs(found.bboxes.numpy()[:, None] - merged[kept][None]).max(axis=2).min(axis=1)
        assert nearest.max() < 2 * BOX_PX
        np.testing.assert_allclose(np.sort(found.scores.numpy()), np.sort(scores[kept]), atol=SCORE)


@pytest.mark.parametrize("name", config_names())
def test_det_inferencer_finds_the_loader_of_every_recipe(name):
    steps = load_config(name, load_from="none").test_dataloader.dataset.pipeline
    assert DetInferencer._get_transform_idx(None, steps, ("LoadImageFromFile",)) == 0
