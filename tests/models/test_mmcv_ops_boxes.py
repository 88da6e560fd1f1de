"""NMS, soft-NMS, NMS grouping and overlaps against loops over single boxes."""

import math

import mmcv._ext
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import batched_nms, bbox_overlaps, nms, nms_match, soft_nms

METHODS = {"naive": 0, "linear": 1, "gaussian": 2}


def random_boxes(count, seed=0, size=40):
    """Return boxes and scores that overlap a lot, on whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, size, (count, 2), generator=generator)
    extent = torch.randint(1, size // 2, (count, 2), generator=generator)
    scores = torch.rand(count, generator=generator)
    return torch.cat([corner, corner + extent], dim=1).float(), scores


def iou(box, other, offset):
    width = min(box[2], other[2]) - max(box[0], other[0]) + offset
    height = min(box[3], other[3]) - max(box[1], other[1]) + offset
    intersection = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0] + offset) * (b[3] - b[1] + offset) for b in (box, other)]
    union = sum(areas) - intersection
    return intersection / union if union else 0.0


def nms_by_loop(boxes, scores, threshold, offset):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def soft_nms_by_loop(boxes, scores, threshold, sigma, min_score, method, offset):
    """Return (index, score) in the order of picking, without the array that mmcv works in."""
    waiting = dict(enumerate(scores))
    picked = []
    while waiting:
        best = max(waiting, key=waiting.get)
        picked.append((best, waiting.pop(best)))
        for i in list(waiting):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == "gaussian":
                waiting[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                waiting[i] *= 0 if method == "naive" else 1 - overlap
            if waiting[i] < min_score:
                del waiting[i]
    return picked


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_equals_loop(threshold, offset, device):
    boxes, scores = random_boxes(80)
    dets, kept = nms(boxes.to(device), scores.to(device), threshold, offset)
    assert kept.tolist() == nms_by_loop(boxes.tolist(), scores.tolist(), threshold, offset)
    assert kept.dtype == torch.int64
    assert torch.equal(dets.cpu(), torch.cat([boxes, scores[:, None]], dim=1)[kept.cpu()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_nms_needs_more_overlap_than_the_threshold(tenths, dtype):
    boxes, scores = torch.tensor([[0, 0, 10, 1], [0, 0, tenths, 1]], dtype=dtype), torch.tensor([0.9, 0.8])
    assert mmcv._ext.nms(boxes, scores, iou_threshold=tenths / 10, offset=0).tolist() == [0, 1]
    assert mmcv._ext.nms(boxes, scores, iou_threshold=tenths / 10 - 0.01, offset=0).tolist() == [0]


def test_nms_offset_counts_the_last_pixel():
    # Boxes of 2 x 2 and 2 x 1 pixels: IoU 1/2 with continuous coordinates, (3 * 2) / (3 * 3) with inclusive ones.
    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]]), torch.tensor([0.9, 0.8])
    assert mmcv._ext.nms(boxes, scores, iou_threshold=0.6, offset=0).tolist() == [0, 1]
    assert mmcv._ext.nms(boxes, scores, iou_threshold=0.6, offset=1).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_nms_takes_other_precisions(dtype, device):
    # 1000 x 1000 pixels: an area that float16 cannot hold.
    boxes = torch.tensor([[0, 0, 1000, 1000], [0, 0, 1000, 960], [0, 0, 1000, 400]], dtype=dtype, device=device)
    scores = torch.tensor([0.5, 0.75, 0.25], device=device)
    assert mmcv._ext.nms(boxes, scores, iou_threshold=0.5, offset=0).tolist() == [1, 2]


@pytest.mark.parametrize("offset", [0, 1])
def test_nothing_in_nothing_out(offset, device):
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    for function in (nms, soft_nms):
        dets, kept = function(boxes, scores, 0.5, offset=offset)
        assert dets.shape == (0, 5)
        assert kept.tolist() == []
    assert nms_match(torch.zeros(0, 5, device=device), 0.5) == []
    assert mmcv._ext.nms_match(torch.zeros(0, 5), iou_threshold=0.5) == []
    assert (
        mmcv._ext.softnms(
            boxes.cpu(),
            scores.cpu(),
            torch.zeros(0, 5),
            iou_threshold=0.5,
            sigma=0.5,
            min_score=0.1,
            method=1,
            offset=0,
        ).tolist()
        == []
    )


def test_nms_options_of_the_wrapper():
    boxes, scores = random_boxes(60, seed=3)
    loop = [i for i in nms_by_loop(boxes.tolist(), scores.tolist(), 0.3, 0) if scores[i] > 0.4]
    dets, kept = nms(boxes.numpy(), scores.numpy(), 0.3, score_threshold=0.4, max_num=5)
    assert isinstance(dets, np.ndarray)
    assert kept.tolist() == loop[:5]


@pytest.mark.parametrize("split_thr", [10000, 10])
@pytest.mark.parametrize("kind", ["nms", "soft_nms"])
def test_batched_nms_keeps_classes_apart(kind, split_thr):
    boxes, scores = random_boxes(60, seed=4)
    labels = torch.arange(60) % 3
    dets, kept = batched_nms(boxes, scores, labels, {"type": kind, "iou_threshold": 0.3, "split_thr": split_thr})
    assert (dets[:-1, 4] >= dets[1:, 4]).all()
    for label in range(3):
        own = (labels == label).nonzero().flatten()
        _, expected = (nms if kind == "nms" else soft_nms)(boxes[own], scores[own], 0.3)
        assert sorted(kept[labels[kept] == label].tolist()) == sorted(own[expected].tolist())


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", list(METHODS))
def test_soft_nms_equals_loop(method, offset):
    boxes, scores = random_boxes(60, seed=1)
    expected = soft_nms_by_loop(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.05, method, offset)
    dets, kept = soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert kept.tolist() == [index for index, _ in expected]
    assert dets[:, 4].tolist() == pytest.approx([score for _, score in expected], rel=1e-5)
    assert torch.equal(dets[:, :4], boxes[kept])


def mmcvs_soft_nms(boxes, scores, threshold, min_score):
    """The linear method as mmcv/ops/csrc/pytorch/cpu/nms.cpp has it: swapping, and filling gaps from the end."""
    rows = [[index, *box, score] for index, (box, score) in enumerate(zip(boxes, scores, strict=True))]
    i = 0
    while i < len(rows):
        best = max(range(i, len(rows)), key=lambda pos: (rows[pos][5], -pos))
        rows[i], rows[best] = rows[best], rows[i]
        pos = i + 1
        while pos < len(rows):
            overlap = iou(rows[i][1:5], rows[pos][1:5], 0)
            rows[pos][5] *= 1 - overlap if overlap >= threshold else 1
            if rows[pos][5] < min_score:
                rows[pos] = rows[-1]
                rows.pop()
            else:
                pos += 1
        i += 1
    return [row[0] for row in rows]


@given(count=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=60)
def test_soft_nms_resolves_ties_as_mmcv_does(count, seed):
    boxes, scores = random_boxes(count, seed, size=12)
    scores = (scores * 4).round() / 4
    _, kept = soft_nms(boxes.double(), scores.double(), 0.2, 0.5, 0.1, "linear")
    assert kept.tolist() == mmcvs_soft_nms(boxes.tolist(), scores.tolist(), 0.2, 0.1)


def test_soft_nms_of_mmcvs_docstring():
    boxes = np.array([[4, 3, 5, 3], [4, 3, 5, 4], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1], [3, 1, 3, 1]], np.float32)
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.4, 0.0], np.float32)
    dets, kept = soft_nms(boxes, scores, 0.6, sigma=0.5)
    assert len(kept) == len(dets) == 5


def test_soft_nms_half_precision(device):
    boxes = torch.tensor([[0, 0, 1000, 1000], [0, 0, 1000, 500]], dtype=torch.float16, device=device)
    dets, kept = soft_nms(boxes, torch.tensor([0.5, 0.75], dtype=torch.float16, device=device), 0.3)
    assert dets.dtype == torch.float16
    assert kept.tolist() == [1, 0]
    assert dets[1, 4].item() == 0.5 * (1 - 500 / 1000)


def test_nms_match_equals_loop():
    boxes, scores = random_boxes(60, seed=2)
    waiting = sorted(range(60), key=lambda i: -scores[i])
    expected = []
    while waiting:
        head = waiting[0]
        group = [head] + [i for i in waiting[1:] if iou(boxes[head].tolist(), boxes[i].tolist(), 0) >= 0.3]
        expected.append(group)
        waiting = [i for i in waiting if i not in group]
    dets = torch.cat([boxes, scores[:, None]], dim=1)
    assert [group.tolist() for group in nms_match(dets, 0.3)] == expected
    assert [group.tolist() for group in nms_match(dets.numpy(), 0.3)] == expected
    assert sum(len(group) > 1 for group in expected) > 5


def test_nms_match_includes_the_threshold():
    dets = torch.tensor([[0, 0, 4, 4, 0.9], [0, 0, 4, 2, 0.8]])
    assert mmcv._ext.nms_match(dets, iou_threshold=0.5) == [[0, 1]]
    assert mmcv._ext.nms_match(dets, iou_threshold=0.51) == [[0], [1]]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_bbox_overlaps_equals_loop(mode, offset, device):
    boxes, others = random_boxes(12)[0], random_boxes(9, seed=1)[0]
    expected = torch.zeros(12, 9)
    for i, box in enumerate(boxes.tolist()):
        for j, other in enumerate(others.tolist()):
            expected[i, j] = iou(box, other, offset)
            if mode == "iof":
                areas = [(b[2] - b[0] + offset) * (b[3] - b[1] + offset) for b in (box, other)]
                intersection = expected[i, j] * sum(areas) / (1 + expected[i, j])
                expected[i, j] = intersection / areas[0]
    pairwise = bbox_overlaps(boxes.to(device), others.to(device), mode, aligned=False, offset=offset)
    torch.testing.assert_close(pairwise.cpu(), expected)
    aligned = bbox_overlaps(boxes[:9].to(device), others.to(device), mode, aligned=True, offset=offset)
    torch.testing.assert_close(aligned.cpu(), expected[:9].diagonal())


def test_bbox_overlaps_half_precision_and_empty():
    boxes = torch.tensor([[0, 0, 1000, 1000], [0, 0, 1000, 500]], dtype=torch.float16)
    assert bbox_overlaps(boxes, boxes).tolist() == [[1, 0.5], [0.5, 1]]
    assert bbox_overlaps(boxes, torch.zeros(0, 4)).shape == (2, 0)
    ious = torch.zeros(0, 2)
    mmcv._ext.bbox_overlaps(torch.zeros(0, 4), boxes, ious, mode=0, aligned=False, offset=0)
    assert ious.shape == (0, 2)


def test_bbox_overlaps_of_a_point_is_undefined():
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert bbox_overlaps(point, point).isnan().all()
    assert bbox_overlaps(point, point, offset=1).tolist() == [[1]]
