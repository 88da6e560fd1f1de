"""What mmdet's own pipeline, model and decoding say about an image, and whether our findings are the same."""

from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import Compose

BOX_PX, SCORE = 2e-3, 2e-5
"""What fused norms and another memory layout change: boxes in pixels, scores."""


def mmdet_says(model, config, path):
    """Return boxes in prepared-image pixels, scores and labels."""
    pipeline = Compose(config.test_dataloader.dataset.pipeline)
    sample = pipeline({"img_path": str(path), "img_id": 1, "instances": []})
    with torch.no_grad():
        (result,) = model.test_step({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]})
    found = result.pred_instances
    boxes = found.bboxes.numpy()
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[kept], found.scores.numpy()[kept], found.labels.numpy()[kept]


def assert_same(found, boxes, scores, labels, *, slack=1):
    """Check findings against the oracle's; ``slack`` multiplies what they may differ by."""
    assert len(found) == len(labels)
    # Scores nearer to each other than rounding may change places.
    for label in set(labels.tolist()) | set(found.labels.tolist()):
        got, expected = found.labels == label, labels == label
        assert got.sum() == expected.sum()
        got_rows = np.column_stack([found.scores[got], found.boxes_xyxy[got]])
        for score, box in zip(scores[expected], boxes[expected], strict=True):
            off = np.abs(got_rows[:, 1:] - box).max(axis=1)
            nearest = off.argmin()
            assert off[nearest] < slack * BOX_PX
            assert abs(got_rows[nearest, 0] - score) < slack * SCORE
