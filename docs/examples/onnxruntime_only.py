"""Findings of an exported bundle with onnxruntime, numpy and OpenCV alone: a reference for a port to any language.

    python onnxruntime_only.py BUNDLE IMAGE

BUNDLE is a folder of `cxr export --format onnx`; every number comes from its model.json, which MODEL_CARD.md explains.
IMAGE is a grey PNG with square pixels and black as 0. The script is short rather than fast.
"""

import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def preprocess(grey, steps):
    """Return the input (1, 3, H, W), the size (H, W) of the part that shows the radiograph, and the way back."""
    height, width = grey.shape
    shrink = min(1, steps["short_edge"] / min(height, width)) if steps["short_edge"] else 1
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    prepared, left, top = grey.shape, 0, 0
    if steps["pad_to_square"]:
        side = max(prepared)
        top, left = (side - prepared[0]) // 2, (side - prepared[1]) // 2
        square = np.zeros((side, side), np.uint8)
        square[top : top + prepared[0], left : left + prepared[1]] = grey
        grey = square
    padded = grey.shape
    if steps["scale"]:
        size = steps["scale"]
        if steps["keep_ratio"]:
            factor = min(max(size) / max(padded), min(size) / min(padded))
            size = int(padded[1] * factor + 0.5), int(padded[0] * factor + 0.5)
        grey = cv2.resize(grey, (max(1, size[0]), max(1, size[1])), interpolation=cv2.INTER_LINEAR)
    shown = grey.shape
    sides = [math.ceil(side / steps["size_divisor"]) * steps["size_divisor"] for side in shown]
    image = np.full((1, 3, *sides), steps["pad_value"], np.float32)
    for channel, (mean, std) in enumerate(zip(steps["mean"], steps["std"])):
        image[0, channel, : shown[0], : shown[1]] = (grey.astype(np.float32) - np.float32(mean)) / np.float32(std)

    def back(boxes):
        boxes = boxes * np.tile([padded[1] / shown[1], padded[0] / shown[0]], 2) - np.tile([left, top], 2)
        return np.clip(boxes, 0, np.tile(prepared[::-1], 2)) * np.tile([width / prepared[1], height / prepared[0]], 2)

    return image, shown, back


def decode(coder, boxes, deltas, shown, stride=(1, 1)):
    """Return boxes (N, 4) moved by deltas (N, 4), cut at the border of what is shown."""
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    if "means" in coder:  # dx, dy in sides of the box, then the logarithms of the growth in width and height
        deltas = deltas * np.float32(coder["stds"]) + np.float32(coder["means"])
        limit = abs(math.log(16 / 1000))
        halves = sides * np.exp(np.clip(deltas[:, 2:], -limit, limit)) / 2
        centres = centres + sides * deltas[:, :2]
        corners = np.concatenate([centres - halves, centres + halves], axis=1)
    else:  # distances to the left, top, right and bottom side, in pixels or in cells
        deltas = deltas * np.tile(np.float32((1, 1) if coder.get("in_pixels") else stride), 2)
        corners = np.concatenate([centres - deltas[:, :2], centres + deltas[:, 2:]], axis=1)
    return np.clip(corners, 0, np.tile(shown[::-1], 2)).astype(np.float32) if coder["clip_border"] else corners


def nms(boxes, scores, groups, iou_threshold, count):
    """Return the indices of the best boxes, of which no two of a group overlap by more than the threshold."""
    keep, areas = [], np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for one in np.argsort(-scores, kind="stable"):
        others = np.array([other for other in keep if groups[other] == groups[one]], dtype=int)
        low, high = np.maximum(boxes[others, :2], boxes[one, :2]), np.minimum(boxes[others, 2:], boxes[one, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        if not (shared > iou_threshold * (areas[others] + areas[one] - shared)).any() and len(keep) < count:
            keep.append(one)
    return np.array(keep, dtype=int)


def tables_of(sizes, depth):
    """Return the inputs of the box graph that ask for every cell: a table per convolution, then the cells.

    A convolution reads tiles of 4 x 4 cells with a ring of one cell around them, 36 rows per tile, and gives 16 rows
    per tile, the first cells of all tiles first. Row number `beyond`, after the last, stands for all that is outside.
    """
    starts = np.cumsum([0, *(height * width for height, width in sizes)])
    rows = [start + np.arange(height * width).reshape(height, width) for start, (height, width) in zip(starts, sizes)]
    grids, beyond, tables = [(-(-height // 4), -(-width // 4)) for height, width in sizes], starts[-1], []
    tiles = sum(down * right for down, right in grids)
    for _ in range(depth):
        parts, after, first = [], [], 0
        for (height, width), (down, right), where in zip(sizes, grids, rows):
            padded = np.full((4 * down + 2, 4 * right + 2), beyond)
            padded[1 : height + 1, 1 : width + 1] = where
            windows = np.lib.stride_tricks.sliding_window_view(padded, (6, 6))[::4, ::4]
            parts.append(windows.reshape(-1, 36).T)
            y, x = np.mgrid[:height, :width]
            after.append(((y % 4) * 4 + x % 4) * tiles + first + (y // 4) * right + x // 4)
            first += down * right
        tables.append(np.concatenate(parts, axis=1).astype(np.int64))
        rows, beyond = after, 16 * tiles
    return tables, np.concatenate([level.reshape(-1) for level in rows]).astype(np.int64)


def roi_align(feature, box, size_hw, samples, aligned):
    """Return the mean features (bins, C) of a box in cells of a map (H, W, C), bins row by row."""

    def weights(start, end, bins, cells):
        length = end - start if aligned else max(end - start, 1)
        count = samples or math.ceil(length / bins)
        places = start + (np.arange(bins)[:, None] + (np.arange(count) + 0.5) / max(count, 1)) * length / bins
        inside, places = (places >= -1) & (places <= cells), np.clip(places, 0, cells - 1)
        hat = np.maximum(0, 1 - np.abs(places[..., None] - np.arange(cells)))  # bilinear
        return (hat * inside[..., None]).sum(axis=1) / max(count, 1)

    x_min, y_min, x_max, y_max = box - 0.5 if aligned else box
    rows = weights(y_min, y_max, size_hw[0], feature.shape[0])
    columns = weights(x_min, x_max, size_hw[1], feature.shape[1])
    return np.einsum("yh,hwc,xw->yxc", rows, feature, columns, optimize=True).reshape(-1, feature.shape[2])


def predict(bundle, grey):
    """Return boxes (N, 4) in its pixels, labels (N,), scores (N,) and p_abnormal, the best score first."""
    model = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    maps, regions, depth = model["detector"]["maps"], model["detector"]["regions"], model["box_depth"]
    assert maps.get("activation", "sigmoid") == "sigmoid", "the recipes' detectors have no other"

    def run(graph, **inputs):
        return onnxruntime.InferenceSession(bundle / f"{graph}.onnx").run(None, inputs)

    image, shown, back = preprocess(grey, model["preprocessing"])
    counts = [len(anchors) for anchors in maps.get("base_anchors", [[0]])]  # a query is a cell with one anchor
    outputs, levels = run("maps", image=image), len(counts)
    scores = outputs[:levels]  # one (1, H, W, anchors * classes) per level
    sizes = [level.shape[1:3] for level in scores]
    gate = model["detector"].get("gate")
    rows = outputs[-1 - bool(gate)]  # the feature pyramid: a row per cell, level by level, then a row of zeros
    if depth:
        tables, cells = tables_of(sizes, depth)
        (deltas,) = run(
            "boxes", rows=rows, cells=cells, **{f"table_{layer}": table for layer, table in enumerate(tables)}
        )
        deltas = np.split(deltas, np.cumsum([height * width for height, width in sizes])[:-1])
    else:
        deltas = outputs[levels : 2 * levels]

    if "count" in maps:  # the queries of DINO, with boxes in shares of the input; the best are the findings
        chances = 1 / (1 + np.exp(-scores[0].reshape(-1, maps["channels"])))
        query, labels = np.nonzero(chances > np.float32(maps["score_threshold"]))
        order = np.argsort(-chances[query, labels], kind="stable")[: maps["max_per_image"]]
        query, labels = query[order], labels[order]
        coordinates = deltas[0].reshape(maps["count"], -1)[query, :4]  # a fifth number, if any, is the query's start
        centres, halves = np.split(coordinates * np.float32([1, 1, 0.5, 0.5]), 2, axis=1)
        boxes = np.clip(np.concatenate([centres - halves, centres + halves], axis=1), 0, 1) * np.tile(shown[::-1], 2)
        best = chances[query, labels]
        maps = maps | {"nms_iou": 1, "min_size": -1}
    else:
        boxes, labels, best = [], [], []
        for level, (_, width) in enumerate(sizes):
            chances = scores[level].reshape(-1, maps["channels"])
            if not regions:  # proposals keep their logits: near 1, many chances are one number in single precision
                chances = 1 / (1 + np.exp(-chances))
            floor = -np.inf if regions else np.float32(maps["score_threshold"])
            anchor, label = np.nonzero(chances > floor)
            order = np.argsort(-chances[anchor, label], kind="stable")[
                : maps["nms_pre"] if maps["nms_pre"] > 0 else None
            ]
            anchor, label = anchor[order], label[order]
            (y, x), stride = np.divmod(anchor // counts[level], width), maps["strides"][level]
            corners = np.float32(maps["base_anchors"][level])[anchor % counts[level]]
            corners = corners + np.stack([x * stride[0], y * stride[1]] * 2, axis=1).astype(np.float32)
            moves = deltas[level].reshape(-1, 5 if maps.get("centerness") else 4)[anchor]
            boxes.append(decode(maps["coder"], corners, moves[:, :4], shown, stride))
            labels.append(np.full(len(label), level) if regions else label)
            best.append(chances[anchor, label])
            if maps.get("centerness"):
                best[-1] = best[-1] / (1 + np.exp(-moves[:, 4]))
        boxes, labels, best = map(np.concatenate, (boxes, labels, best))
        if maps.get("centerness"):
            kept = best > np.float32(maps["score_threshold"])
            boxes, labels, best = boxes[kept], labels[kept], best[kept]
        if maps["min_size"] >= 0:
            large = ((boxes[:, 2:] - boxes[:, :2]) > maps["min_size"]).all(axis=1)
            boxes, labels, best = boxes[large], labels[large], best[large]
    last = maps
    if regions:  # what was found are proposals, suppressed within a level
        last, pooling = regions, regions["pooling"]
        boxes = boxes[nms(boxes, best, labels, maps["nms_iou"], maps["max_per_image"])]
        starts = np.cumsum([0, *(height * width for height, width in sizes)])
        features = [rows[a:b].reshape(*size, -1) for a, b, size in zip(starts, starts[1:], sizes)]
        refining, total = regions.get("refining", []), 0  # of the stages of a cascade before the last
        later = len(refining)
        for stage in range(later + 1):
            sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
            chosen = np.clip(np.log2(sides / regions["finest_scale"] + 1e-6) // 1, 0, regions["levels"] - 1).astype(int)
            pooled = [
                roi_align(
                    features[k], box / pooling["strides"][k], pooling["size_hw"], pooling["samples"], pooling["aligned"]
                )
                for box, k in zip(boxes, chosen)
            ]
            graph = f"regions_{stage + 1}" if stage else "regions"
            logits, deltas = run(graph, pooled=np.float32(pooled).reshape(len(boxes), -1))
            total = total + logits
            if stage < later:  # the likeliest class moves the box, and the next stage looks again
                column = 0 if regions["class_agnostic"] else logits[:, :-1].argmax(axis=1)
                moves = deltas.reshape(len(deltas), -1, 4)[np.arange(len(deltas)), column]
                boxes = decode(refining[stage], boxes, moves, shown)
        logits = total / np.float32(later + 1)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances = (chances / chances.sum(axis=1, keepdims=True))[:, :-1]  # the last is the background
        region, labels = np.nonzero(chances > np.float32(regions["score_threshold"]))
        columns = 0 if regions["class_agnostic"] else labels
        boxes = decode(regions["coder"], boxes[region], deltas.reshape(len(deltas), -1, 4)[region, columns], shown)
        best = chances[region, labels]
    if gate:  # one factor for all scores of the radiograph, before the threshold
        p_abnormal = 1 / (1 + math.exp(-outputs[-1][0]))
        factor = {"leave": 1, "multiply": p_abnormal ** gate["exponent"], "cut": p_abnormal >= gate["cut"]}
        best = best * np.float32(factor[gate["score_mode"]])
        kept = best > np.float32(last["score_threshold"])
        boxes, labels, best = boxes[kept], labels[kept], best[kept]
    keep = nms(boxes, best, labels, last["nms_iou"], last["max_per_image"])
    boxes, labels, best = back(boxes[keep]), labels[keep], best[keep]
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # others lay in the padding
    if not gate:
        p_abnormal = float(best[solid].max(initial=0))
    return boxes[solid], labels[solid], best[solid], p_abnormal, model["labels"]


if __name__ == "__main__":
    boxes, labels, scores, p_abnormal, names = predict(Path(sys.argv[1]), cv2.imread(sys.argv[2], cv2.IMREAD_GRAYSCALE))
    rows = [{"class": names[k], "score": float(s), "box_xyxy": b.tolist()} for b, k, s in zip(boxes, labels, scores)]
    print(json.dumps({"p_abnormal": p_abnormal, "findings": rows}, indent=1))
