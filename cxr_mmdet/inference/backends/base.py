"""Several radiographs in a network at once, which share its processor threads."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cxr_mmdet.errors import NotFiniteError
from cxr_mmdet.inference import decoding
from cxr_mmdet.inference.spec import DetectorSpec
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.inference.cpu_kernels.on_demand import Deltas
    from cxr_mmdet.inference.decoding import Boxes, Moves
    from cxr_mmdet.inference.spec import Spec
    from cxr_mmdet.models.gate_rule import GateRule

    Array = NDArray[np.float32]


class Streams:
    """How many may be in the network at once, and with how many threads.

    The threads of one radiograph wait for each other at the end of every layer: several at once, on fewer threads each,
    get through the network faster than one after another, but each of them later.

    Args:
        count: at most so many at once, and no more than threads; others wait for a slot.
        threads: of all together; None: one a core.

    Attributes:
        slots: to hold while in the network.
    """

    def __init__(self, count: int = 1, threads: int | None = None) -> None:
        self.threads = threads
        self.count = min(count, self.all_threads)
        self.slots = threading.Semaphore(self.count)

    @property
    def all_threads(self) -> int:
        """Threads of all streams together."""
        return self.threads or os.cpu_count() or 1

    @property
    def threads_each(self) -> int:
        """Threads of each stream."""
        return max(1, self.all_threads // self.count)


class Backend(Protocol):
    """A network somewhere; may be called from several threads at once."""

    name: str

    def maps(self, batch: Array) -> tuple[list[Array], Deltas, Any, Array | None]:
        """Return scores, one (N, C, H, W) a level, deltas, and the feature pyramid for :meth:`regions`.

        The last is an abnormality gate's (N,) logits; None without a gate.

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


class WholeBackend(ABC):
    """A network with decoding of its own, the partner of a :class:`~cxr_mmdet.inference.spec.WholeDetector`."""

    name: str

    @abstractmethod
    def boxes(self, batch: Array, sizes_hw: list[tuple[int, int]], score_thresholds: Array) -> list[Boxes]:
        """Return the boxes of each picture before suppression; arguments as :func:`detect` takes them."""


def detect(
    backend: Backend | WholeBackend,
    spec: Spec,
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
        score_thresholds: (K,) that a score of each class must reach, above 0.
        nms_iou: overlap above which the weaker of two boxes of a class goes.

    Raises:
        NotFiniteError: the network gives NaN or infinity.
    """
    found = candidates(backend, spec, batch, sizes_hw, score_thresholds)
    return [leave_best(spec, boxes, nms_iou) for boxes in found]


def candidates(
    backend: Backend | WholeBackend,
    spec: Spec,
    batch: Array,
    sizes_hw: list[tuple[int, int]],
    score_thresholds: Array,
) -> list[Boxes]:
    """Return the boxes of each picture before suppression; see :func:`detect`."""
    found = _all_candidates(backend, spec, batch, sizes_hw, score_thresholds)
    for boxes in found:
        _require_finite(boxes.boxes_xyxy, boxes.scores, 0.0 if boxes.p_abnormal is None else boxes.p_abnormal)
    return found


def _all_candidates(
    backend: Backend | WholeBackend,
    spec: Spec,
    batch: Array,
    sizes_hw: list[tuple[int, int]],
    score_thresholds: Array,
) -> list[Boxes]:
    if isinstance(backend, WholeBackend):
        return backend.boxes(batch, sizes_hw, score_thresholds)
    assert isinstance(spec, DetectorSpec), "a backend and its spec are loaded together"
    scores, deltas, pyramid, abnormal = backend.maps(batch)
    # NaN is above no threshold: decoding would leave it out, and the image would seem normal.
    _require_finite(*scores, 0.0 if abnormal is None else abnormal)
    found = [
        _candidates_of_one(
            backend,
            spec,
            ([level[index] for level in scores], _moves_of(deltas, index)),
            pyramid,
            index,
            size_hw,
            score_thresholds,
        )
        for index, size_hw in enumerate(sizes_hw)
    ]
    if spec.gate is None or abnormal is None:
        return found
    probabilities = decoding.sigmoid(abnormal).tolist()
    return [
        _gated(spec.gate, boxes, p_abnormal, score_thresholds)
        for boxes, p_abnormal in zip(found, probabilities, strict=True)
    ]


def _moves_of(deltas: Deltas, index: int) -> Moves:
    def moves(places: Sequence[NDArray[np.int64]]) -> list[Array]:
        found = deltas.at(index, places)
        _require_finite(*found)
        return found

    return moves


def _require_finite(*values: NDArray[Any] | float) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise NotFiniteError


def _gated(rule: GateRule, found: Boxes, p_abnormal: float, score_thresholds: Array) -> Boxes:
    """Return a picture's boxes with the scores that the gate leaves them; none of them rises, so none was missed."""
    factor = rule.factor(p_abnormal)
    if factor != 1:
        found = replace(found, scores=found.scores * np.float32(factor))
        found = found.take(np.flatnonzero(reaches(found.scores, score_thresholds[found.labels])))
    return replace(found, p_abnormal=p_abnormal)


def leave_best(spec: Spec, found: Boxes, nms_iou: float) -> Boxes:
    """Return what suppression leaves of one picture's candidates, best score first."""
    return decoding.keep_best(found, nms_iou, spec.max_per_image, spec.min_size)


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
    _require_finite(boxes)
    logits, moves = backend.regions(pyramid, rois, decoding.level_of_regions(spec.regions, boxes))
    _require_finite(logits, moves)
    return decoding.decode_regions(spec.regions, boxes, logits, moves, size_hw, score_thresholds)
