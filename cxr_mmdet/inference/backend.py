"""What runs a network: maps of a picture, and for two-stage detectors the classes of regions; the rest is shared."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cxr_mmdet.inference import decoding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.inference.decoding import Boxes, Moves
    from cxr_mmdet.inference.deltas import Deltas
    from cxr_mmdet.inference.spec import DetectorSpec

    Array = NDArray[np.float32]


class Backend(Protocol):
    """A network somewhere; may be called from several threads at once."""

    name: str

    def maps(self, batch: Array) -> tuple[list[Array], Deltas, Any]:
        """Return scores, one (N, C, H, W) a level, deltas, and the feature pyramid for :meth:`regions`.

        Args:
            batch: (N, C, H, W) normalised pictures.
        """
        ...

    def regions(self, pyramid: Any, rois: Array, levels: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return logits (R, K + 1) and deltas of regions.

        Args:
            pyramid: as :meth:`maps` returned it.
            rois: (R, 5): index in the batch, then x_min, y_min, x_max, y_max in pixels of the input.
            levels: (R,) the pyramid level that each region is taken from.
        """
        ...


def detect(
    backend: Backend,
    spec: DetectorSpec,
    batch: Array,
    sizes_hw: list[tuple[int, int]],
    score_thresholds: Array,
    nms_iou: float,
) -> list[Boxes]:
    """Return the boxes of each picture of a batch, in pixels of the input, best score first.

    Args:
        backend: runs the network.
        spec: of the network.
        batch: (N, C, H, W).
        sizes_hw: of the part of each input that shows the picture.
        score_thresholds: (K,) of each class.
        nms_iou: overlap above which the weaker of two boxes of a class goes.
    """
    found = candidates(backend, spec, batch, sizes_hw, score_thresholds)
    return [leave_best(spec, boxes, nms_iou) for boxes in found]


def candidates(
    backend: Backend,
    spec: DetectorSpec,
    batch: Array,
    sizes_hw: list[tuple[int, int]],
    score_thresholds: Array,
) -> list[Boxes]:
    """Return the boxes of each picture before suppression; arguments as :func:`detect` takes them."""
    scores, deltas, pyramid = backend.maps(batch)
    return [
        _candidates_of_one(
            backend,
            spec,
            ([level[index] for level in scores], functools.partial(deltas.at, index)),
            pyramid,
            index,
            size_hw,
            score_thresholds,
        )
        for index, size_hw in enumerate(sizes_hw)
    ]


def leave_best(spec: DetectorSpec, found: Boxes, nms_iou: float) -> Boxes:
    """Return what suppression leaves of one picture's candidates, best score first."""
    if spec.regions is None:
        return decoding.keep_best(found, nms_iou, spec.maps.max_per_image, spec.maps.min_size)
    return decoding.keep_best(found, nms_iou, spec.regions.max_per_image)


def _candidates_of_one(
    backend: Backend,
    spec: DetectorSpec,
    maps: tuple[list[Array], Moves],
    pyramid: Any,
    index: int,
    size_hw: tuple[int, int],
    score_thresholds: Array,
) -> Boxes:
    if spec.regions is None:
        return decoding.decode_maps(spec.maps, *maps, size_hw, score_thresholds)
    boxes = decoding.propose(spec.maps, *maps, size_hw)
    if not len(boxes):
        return decoding.Boxes(boxes, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    rois = np.concatenate([np.full((len(boxes), 1), index, dtype=np.float32), boxes], axis=1)
    logits, moves = backend.regions(pyramid, rois, decoding.level_of_regions(spec.regions, boxes))
    return decoding.decode_regions(spec.regions, boxes, logits, moves, size_hw, score_thresholds)
