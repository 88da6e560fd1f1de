"""Decoding of maps into proposals."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_mmdet.inference.decoding import propose, sigmoid
from cxr_mmdet.inference.spec import AnchorMaps, DeltaCoder

SIDE = 24
MAPS = AnchorMaps(
    base_anchors=(((-32.0, -32.0, 32.0, 32.0),),),
    strides=((8, 8),),
    coder=DeltaCoder((0.0,) * 4, (1.0,) * 4),
    activation="sigmoid",
    channels=1,
    nms_pre=400,
    nms_iou=0.7,
    max_per_image=400,
    score_threshold=0.0,
    min_size=0.0,
)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_proposals_are_ranked_by_logits_where_probabilities_are_one_number_in_single_precision(activation):
    """Else the order in which a runtime's rounding leaves equal probabilities decides which of them NMS keeps."""
    rng = np.random.default_rng(0)
    low = np.float32(rng.permutation(np.arange(SIDE**2)).reshape(1, SIDE, SIDE) / 256)
    high = low + np.float32(14)
    assert len(np.unique(sigmoid(low))) == SIDE**2
    assert len(np.unique(sigmoid(high))) < 20
    spec = MAPS
    if activation == "softmax":
        spec = AnchorMaps(**vars(MAPS) | {"activation": "softmax", "channels": 2})
        low, high = (np.concatenate([logits / 2, -logits / 2]) for logits in (low, high))
    deltas = np.float32(rng.normal(0, 0.2, (SIDE**2, 4)))

    def proposals(logits):
        return propose(spec, [logits], lambda indices: [deltas[rows] for rows in indices], (8 * SIDE, 8 * SIDE))

    expected = proposals(low)
    assert 50 < len(expected) < 400
    np.testing.assert_array_equal(proposals(high), expected)
