"""Tests of mmdet's DetInferencer, which ``test_mmdet_apis.py`` runs in a process of their own."""

from __future__ import annotations

import cv2
import detectors
import pytest
from mmdet.apis import DetInferencer
from test_mmdet_apis import CHECKPOINTS, SIZES, assert_as_predicted, config_file

from cxr_mmdet.inference.predictor import Predictor


@pytest.mark.parametrize("kind", ["retina", "retina_wide", "faster", "rtmdet_s"])
def test_det_inferencer_predicts_as_we_do(tmp_path, kind):
    checkpoint = CHECKPOINTS[kind](kind)
    predictor = Predictor.load(checkpoint)
    paths = [detectors.write_image(tmp_path / f"{number}.png", *size) for number, size in enumerate(SIZES)]
    inferencer = DetInferencer(config_file(kind, tmp_path), str(checkpoint), device="cpu", show_progress=False)
    for images in ([str(path) for path in paths], [cv2.imread(str(path)) for path in paths]):
        out = inferencer(images, return_vis=True)
        for findings, result, drawn in zip(
            predictor.predict(paths), out["predictions"], out["visualization"], strict=True
        ):
            assert_as_predicted(findings, result)
            assert drawn.shape[:2] == findings.size_hw


def test_det_inferencer_takes_the_config_in_the_checkpoint(tmp_path):
    inferencer = DetInferencer(weights=str(detectors.checkpoint_of("retina")), device="cpu", show_progress=False)
    path = detectors.write_image(tmp_path / "a.png")
    (result,) = inferencer(str(path), batch_size=2)["predictions"]
    assert_as_predicted(Predictor.load(detectors.checkpoint_of("retina")).predict(path), result)
