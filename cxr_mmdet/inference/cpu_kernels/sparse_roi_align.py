"""RoIAlign (He et al., Mask R-CNN, 2017) as one sparse matrix over the cells of a feature pyramid.

Every bin of every region is a weighted sum of cells. The weights, which bilinear sampling and averaging over samples
give, follow from the boxes alone; the sums are one product of a sparse matrix and the cells' features. Runtimes' own
operators sample channel by channel, which takes several times as long.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.inference.spec import Pooling

    Array = NDArray[np.float32]
    Integers = NDArray[np.int64]


def pool_regions(
    pooling: Pooling,
    features: Array,
    sizes: Sequence[tuple[int, int, int]],
    rois: Array,
    levels: Integers,
    *,
    threads: int = 1,
) -> Array:
    """Return the (R, bins * C) features of regions, bins row by row.

    Args:
        pooling: bins and sampling points.
        features: (cells, C), level by level, in each image by image, in each row by row; more may follow.
        sizes: per level, (N, H, W).
        rois: (R, 5): index of the image, then x_min, y_min, x_max, y_max in pixels of the input.
        levels: (R,) the level that each region is taken from.
        threads: number of threads that share the regions.
    """
    bins = pooling.size_hw[0] * pooling.size_hw[1]
    pooled = np.empty((len(rois), bins, features.shape[1]), dtype=np.float32)

    def fill(share: Integers) -> None:
        weights, order = pooling_weights(pooling, sizes, rois[share], levels[share], len(features))
        pooled[share[order]] = (weights @ features).reshape(-1, *pooled.shape[1:])

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(fill, np.array_split(np.arange(len(rois)), max(1, threads))))
    return pooled.reshape(len(rois), bins * features.shape[1])


def pooling_weights(
    pooling: Pooling, sizes: Sequence[tuple[int, int, int]], rois: Array, levels: Integers, cells: int
) -> tuple[sparse.csr_array, Integers]:
    """Return the (R * bins, cells) weights and which region each block of rows is; arguments as above."""
    _, heights, widths = np.array(sizes, dtype=np.int64).T
    starts = np.cumsum([0] + [images * height * width for images, height, width in sizes])
    boxes = rois[:, 1:] / np.array(pooling.strides, dtype=np.float32)[levels][:, None]
    if pooling.aligned:
        boxes = boxes - np.float32(0.5)
    sides = boxes[:, 2:] - boxes[:, :2]
    if not pooling.aligned:
        sides = np.maximum(sides, 1)
    top, down = _shares(boxes[:, 1], sides[:, 1], heights[levels], pooling.size_hw[0], pooling.samples)
    left, right = _shares(boxes[:, 0], sides[:, 0], widths[levels], pooling.size_hw[1], pooling.samples)
    first = starts[levels] + rois[:, 0].astype(np.int64) * (heights * widths)[levels]
    # Regions whose bins reach over equally many cells, at a time: so that no weight is there to fill a gap.
    tall, wide = _reach(down), _reach(right)
    order = np.lexsort((wide, tall))
    values, columns, counts = [], [], []
    for group in np.split(order, np.flatnonzero(np.diff(tall[order]) | np.diff(wide[order])) + 1):
        if not len(group):
            continue
        rows, across = np.arange(tall[group[0]]), np.arange(wide[group[0]])
        share = down[group][:, :, None, : len(rows), None] * right[group][:, None, :, None, : len(across)]
        on = levels[group]
        # A bin that reaches less far than others has weights of zero there, which must lie on the map all the same.
        y = np.minimum(top[group][:, :, None] + rows, heights[on][:, None, None] - 1)
        x = np.minimum(left[group][:, :, None] + across, widths[on][:, None, None] - 1)
        place = (first[group][:, None, None] + y * widths[on][:, None, None])[:, :, None, :, None]
        place = place + x[:, None, :, None, :]
        values.append(share.reshape(-1))
        columns.append(place.reshape(-1).astype(np.int32))
        counts.append(np.full(share.shape[0] * share.shape[1] * share.shape[2], len(rows) * len(across)))
    ends = np.cumsum(np.concatenate([[0], *counts])).astype(np.int32)
    if not len(rois):
        return sparse.csr_array((0, cells), dtype=np.float32), order
    matrix = (np.concatenate(values), np.concatenate(columns), ends)
    return sparse.csr_array(matrix, shape=(len(ends) - 1, cells)), order


def _shares(
    starts: Array, sides: Array, lengths: Integers, bins: int, samples: int
) -> tuple[Integers, NDArray[np.float32]]:
    """Return the (R, bins) first cell of each bin along one axis and the (R, bins, L) weights from there on."""
    steps = sides / np.float32(bins)
    # A region without extent has no samples, and is zero.
    counts = np.ceil(steps).astype(np.int64) if samples <= 0 else np.full(len(starts), samples)
    parts = np.maximum(counts, 1)
    each = np.arange(parts.max(initial=1))
    offsets = (each.astype(np.float32) + np.float32(0.5)) * steps[:, None] / parts[:, None].astype(np.float32)
    at = starts[:, None, None] + np.arange(bins, dtype=np.float32)[:, None] * steps[:, None, None] + offsets[:, None, :]
    last = (lengths - 1)[:, None, None]
    # Samples up to one cell outside count as on the border, samples beyond as zero.
    is_counted = (at >= -1) & (at <= lengths[:, None, None]) & (each < counts[:, None])[:, None, :]
    at = np.maximum(at, 0)
    low = np.minimum(at.astype(np.int64), last)
    high = np.minimum(low + 1, last)
    towards_high = np.where(low == last, 0, at - low).astype(np.float32)
    shares = (is_counted / parts[:, None, None]).astype(np.float32)
    first = low[:, :, 0]
    # Samples that do not count lie anywhere; their weight is zero wherever it is added.
    reach = int(np.where(is_counted, high - first[:, :, None], 0).max(initial=0)) + 1
    weights = np.zeros((*first.shape, reach), dtype=np.float32)
    region, part = np.arange(len(starts))[:, None], np.arange(bins)
    for sample in each:
        for cells, weight in ((low, 1 - towards_high), (high, towards_high)):
            place = np.clip(cells[:, :, sample] - first, 0, reach - 1)
            weights[region, part, place] += shares[:, :, sample] * weight[:, :, sample]
    return first, weights


def _reach(weights: NDArray[np.float32]) -> Integers:
    """Return over how many cells a region's bins reach at most: at least one, from the first."""
    used = (weights != 0).any(axis=1)
    used[:, 0] = True
    return np.asarray(weights.shape[2] - np.argmax(used[:, ::-1], axis=1))
