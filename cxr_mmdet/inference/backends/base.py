"""Backends of prediction, and the steps from a batch to detections that all of them share."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cxr_mmdet.errors import NotFiniteError
from cxr_mmdet.inference import decoding
from cxr_mmdet.inference.spec import DetectorSpec, Queries
from cxr_mmdet.structures.detections import Detections
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.inference.cpu_kernels.on_demand import Deltas
    from cxr_mmdet.inference.decoding import DeltasAt
    from cxr_mmdet.inference.spec import Regions, Spec
    from cxr_mmdet.models.gate_rule import GateRule

    Array = NDArray[np.float32]


class Streams:
    """Number of radiographs that may be in the network at once, and of the threads that they share.

    The threads of one radiograph wait for each other at the end of every layer. Several radiographs at once, on fewer
    threads each, therefore take less time in all, but each of them takes longer.

    Args:
        count: maximum radiographs at once, at most the number of threads; others wait for a slot.
        threads: threads of all streams together; None: one per core.

    Attributes:
        slots: semaphore to hold while in the network.
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
    """A network that returns raw maps; may be called from several threads at once."""

    name: str

    def maps(self, batch: Array) -> tuple[list[Array], Deltas, Any, Array | None]:
        """Return scores, one (N, C, H, W) per level, deltas, the pyramid for :meth:`regions` and the gate's logits.

        The gate's logits are (N,); None without an abnormality gate.

        Args:
            batch: (N, C, H, W) normalised images.
        """
        ...

    def regions(self, pyramid: Any, rois: Array, levels: NDArray[np.int64], stage: int) -> tuple[Array, Array]:
        """Return logits (R, K + 1) and deltas of regions.

        Args:
            pyramid: as :meth:`maps` returned it.
            rois: (R, 5): index in the batch, then x_min, y_min, x_max, y_max in pixels of the input.
            levels: (R,) the pyramid level that each region is taken from.
            stage: number of the stage of a cascade, from 0.
        """
        ...


class WholeBackend(ABC):
    """A network that decodes its outputs itself, described by a :class:`~cxr_mmdet.inference.spec.WholeDetector`."""

    name: str

    @abstractmethod
    def candidates(self, batch: Array, sizes_hw: list[tuple[int, int]], score_thresholds: Array) -> list[Detections]:
        """Return the candidates of each image before NMS; arguments as :func:`detect` takes them."""


def detect(
    backend: Backend | WholeBackend,
    spec: Spec,
    batch: Array,
    sizes_hw: list[tuple[int, int]],
    score_thresholds: Array,
    nms_iou: float,
) -> list[Detections]:
    """Return the detections in each image of a batch, in pixels of the input, the highest score first.

    Args:
        backend: runs the network.
        spec: description of the network.
        batch: (N, C, H, W).
        sizes_hw: size of the part of each input that shows the image.
        score_thresholds: (K,) lowest score of each class, above 0.
        nms_iou: overlap above which the weaker of two boxes of a class is removed.

    Raises:
        NotFiniteError: the network gives NaN or infinity.
    """
    candidates = find_candidates(backend, spec, batch, sizes_hw, score_thresholds)
    return [decoding.apply_nms(spec, each, nms_iou) for each in candidates]


def find_candidates(
    backend: Backend | WholeBackend,
    spec: Spec,
    batch: Array,
    sizes_hw: list[tuple[int, int]],
    score_thresholds: Array,
) -> list[Detections]:
    """Return the candidates in each image before NMS; see :func:`detect`."""
    if isinstance(backend, WholeBackend):
        candidates = backend.candidates(batch, sizes_hw, score_thresholds)
    else:
        assert isinstance(spec, DetectorSpec), "a backend and its spec are loaded together"
        candidates = _decode(backend, spec, batch, sizes_hw, score_thresholds)
    for each in candidates:
        _require_finite(each.boxes_xyxy, each.scores, 0.0 if each.p_abnormal is None else each.p_abnormal)
    return candidates


def _decode(
    backend: Backend, spec: DetectorSpec, batch: Array, sizes_hw: list[tuple[int, int]], score_thresholds: Array
) -> list[Detections]:
    if isinstance(spec.maps, Queries):
        spec.maps.check_input(batch.shape)
    scores, deltas, pyramid, abnormal = backend.maps(batch)
    # NaN is above no threshold: decoding would leave it out, and the image would seem normal.
    _require_finite(*scores, 0.0 if abnormal is None else abnormal)
    candidates = []
    for index, size_hw in enumerate(sizes_hw):
        maps = [level[index] for level in scores], _deltas_of(deltas, index)
        if isinstance(spec.maps, Queries):
            candidates.append(decoding.decode_queries(spec.maps, *maps, size_hw, score_thresholds))
            continue
        if spec.regions is None:
            candidates.append(decoding.decode_maps(spec.maps, *maps, size_hw, score_thresholds))
            continue
        proposals = decoding.propose(spec.maps, *maps, size_hw)
        candidates.append(
            _decode_second_stage(backend, spec.regions, proposals, pyramid, index, size_hw, score_thresholds)
        )
    if spec.gate is None or abnormal is None:
        return candidates
    probabilities = decoding.sigmoid(abnormal).tolist()
    return [
        _apply_gate(spec.gate, each, p_abnormal, score_thresholds)
        for each, p_abnormal in zip(candidates, probabilities, strict=True)
    ]


def _deltas_of(deltas: Deltas, index: int) -> DeltasAt:
    def deltas_at(indices: Sequence[NDArray[np.int64]]) -> list[Array]:
        levels = deltas.at(index, indices)
        _require_finite(*levels)
        return levels

    return deltas_at


def _require_finite(*values: NDArray[Any] | float) -> None:
    if not all(np.isfinite(value).all() for value in values):
        raise NotFiniteError


def _apply_gate(rule: GateRule, candidates: Detections, p_abnormal: float, score_thresholds: Array) -> Detections:
    """Return candidates with gated scores, which never rise, so that none below the threshold is missed."""
    factor = rule.factor(p_abnormal)
    if factor != 1:
        candidates = replace(candidates, scores=candidates.scores * np.float32(factor))
        candidates = candidates[reaches(candidates.scores, score_thresholds[candidates.labels])]
    return replace(candidates, p_abnormal=p_abnormal)


def _decode_second_stage(
    backend: Backend,
    spec: Regions,
    proposals: Array,
    pyramid: Any,
    index: int,
    size_hw: tuple[int, int],
    score_thresholds: Array,
) -> Detections:
    if not len(proposals):
        return Detections(proposals, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    boxes, logits, last = proposals, [], len(spec.refining)
    for stage in range(last + 1):
        _require_finite(boxes)
        rois = np.concatenate([np.full((len(boxes), 1), index, dtype=np.float32), boxes], axis=1)
        stage_logits, deltas = backend.regions(pyramid, rois, decoding.level_of_regions(spec, boxes), stage)
        _require_finite(stage_logits, deltas)
        logits.append(stage_logits)
        if stage < last:
            boxes = decoding.refine_regions(spec, stage, boxes, stage_logits, deltas, size_hw)
    mean = np.asarray(np.mean(logits, axis=0, dtype=np.float32))
    return decoding.decode_regions(spec, boxes, mean, deltas, size_hw, score_thresholds)
