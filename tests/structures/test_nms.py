"""Non-maximum suppression against torchvision's."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from cxr_mmdet.structures.boxes import batched_nms


def random_boxes(count: int, seed: int, groups: int = 3):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 40, (count, 2))], axis=1).astype(np.float32)
    return boxes, rng.permutation(count).astype(np.float32) / max(count, 1), rng.integers(0, groups, count)


@settings(max_examples=60)
@given(
    count=st.integers(0, 700),
    seed=st.integers(0, 99),
    iou=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    group_count=st.sampled_from([1, 3, 14, 80]),
)
def test_it_keeps_what_torchvision_keeps(count, seed, iou, group_count):
    boxes, scores, groups = random_boxes(count, seed, group_count)
    expected = ops.batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(groups), iou)
    # torchvision moves groups apart by adding offsets, which costs digits: one group at a time has none.
    alone = [
        np.flatnonzero(groups == g)[
            ops.batched_nms(
                torch.from_numpy(boxes[groups == g]),
                torch.from_numpy(scores[groups == g]),
                torch.zeros(int((groups == g).sum())),
                iou,
            ).numpy()
        ]
        for g in range(group_count)
    ]
    kept = np.concatenate(alone)
    kept = kept[np.argsort(-scores[kept])]
    assert abs(len(expected) - len(kept)) <= 2
    np.testing.assert_array_equal(batched_nms(boxes, scores, groups, iou, max(count, 1)), kept)


def test_it_stops_once_enough_are_kept():
    boxes, scores, groups = random_boxes(500, 1)
    everything = batched_nms(boxes, scores, groups, 0.5, 500)
    np.testing.assert_array_equal(batched_nms(boxes, scores, groups, 0.5, 7), everything[:7])


def test_no_boxes():
    empty = np.empty((0, 4), np.float32)
    assert batched_nms(empty, np.empty(0, np.float32), np.empty(0, np.int64), 0.5, 10).tolist() == []


def test_equal_scores_keep_their_order():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    kept = batched_nms(boxes, np.full(3, 0.5, np.float32), np.zeros(3, np.int64), 0.5, 10)
    assert kept.tolist() == [0, 2]


def test_an_overlap_equal_to_the_threshold_stays():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert len(batched_nms(boxes, scores, np.zeros(2, np.int64), 0.5, 10)) == 2
    assert len(batched_nms(boxes, scores, np.zeros(2, np.int64), 0.49, 10)) == 1


def test_boxes_without_extent_suppress_nothing():
    boxes = np.zeros((3, 4), np.float32)
    assert len(batched_nms(boxes, np.arange(3, dtype=np.float32), np.zeros(3, np.int64), 0.5, 10)) == 3
