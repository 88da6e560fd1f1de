"""The graphs of a bundle: names, inputs, outputs, and the backend that runs them by any runtime.

* ``maps``: ``image`` (N, 3, H, W) → ``scores_i`` (N, H_i, W_i, A * K) of each level; where the bundle has no graph
  ``boxes``, ``deltas_i`` (N, H_i, W_i, A * values); where it has another graph, ``rows`` (cells + 1, C): the feature
  pyramid, level by level, in each image by image, then a row of zeros. DINO has ``scores_0`` (N, Q, 1, K) and
  ``deltas_0`` (N, Q, 1, 5) of its queries: boxes and the cells that the queries start from.
* ``boxes``: ``rows`` and a plan (``table_i``, ``cells``; see :mod:`cxr_mmdet.inference.cpu_kernels.on_demand`) →
  ``deltas`` (n, A * 4).
* ``regions``: ``pooled`` (R, bins * C) → ``logits`` and ``deltas``; ``regions_2`` and so on: later stages of a cascade.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.inference.backends.base import Streams
from cxr_mmdet.inference.cpu_kernels.on_demand import Deltas, OnDemand, WholeMaps
from cxr_mmdet.inference.cpu_kernels.sparse_roi_align import pool_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cxr_mmdet.inference.bundle import Bundle
    from cxr_mmdet.inference.cpu_kernels.on_demand import Plan
    from cxr_mmdet.inference.spec import DetectorSpec, Pooling

    Array = NDArray[np.float32]
    Run = Callable[[str, Mapping[str, Any]], list[Array]]

MAPS, BOXES, REGIONS = "maps", "boxes", "regions"
ABNORMAL = "abnormal"
"""The last output of the first graph where the detector has an abnormality gate: (N,) logits."""


@dataclass(frozen=True, eq=False)
class Pyramid:
    """Features of a batch.

    Attributes:
        rows: (cells + 1, C) as above.
        sizes: (N, H, W) of each level.
    """

    rows: Array = field(repr=False)
    sizes: tuple[tuple[int, int, int], ...]


def graph_names(spec: DetectorSpec, box_depth: int) -> list[str]:
    """Return the graphs of a bundle; ``box_depth`` as :class:`GraphBackend` takes it."""
    stages = 0 if spec.regions is None else len(spec.regions.refining) + 1
    return [MAPS, *[BOXES] * bool(box_depth), *map(regions_name, range(stages))]


def regions_name(stage: int) -> str:
    """Return the name of the graph of a stage of a cascade, numbered from 0."""
    return f"{REGIONS}_{stage + 1}" if stage else REGIONS


def maps_outputs(levels: int, *, deltas: bool, rows: bool, gate: bool) -> list[str]:
    """Return the names of the outputs of the first graph."""
    kinds = ["scores", "deltas"] if deltas else ["scores"]
    return [*(f"{kind}_{level}" for kind in kinds for level in range(levels)), *["rows"] * rows, *[ABNORMAL] * gate]


def boxes_inputs(depth: int) -> list[str]:
    """Return the names of the inputs of the graph of the box branch."""
    return ["rows", *(f"table_{layer}" for layer in range(depth)), "cells"]


def check_outputs(bundle: Bundle, outputs: Mapping[str, Sequence[tuple[str, int | None]]]) -> None:
    """Check that the outputs of the graphs are those that ``model.json`` describes.

    Args:
        bundle: the bundle they are in.
        outputs: the name and the last dimension of each output of each graph; None where the graph leaves it open.

    Raises:
        CheckpointError: another number of outputs, of anchors or of classes.
    """
    spec, depth, labels = bundle.spec, bundle.box_depth, len(bundle.class_names)
    anchors = spec.maps.anchor_counts
    rows = bool(depth) or spec.regions is not None
    names = maps_outputs(len(anchors), deltas=not depth, rows=rows, gate=spec.gate is not None)
    widths: dict[str, int] = {f"scores_{level}": count * spec.maps.channels for level, count in enumerate(anchors)}
    widths |= {f"deltas_{level}": spec.maps.values * count for level, count in enumerate(anchors)}
    expected: dict[str, dict[str, int | None]] = {MAPS: {name: widths.get(name) for name in names}}
    if depth:
        expected[BOXES] = {"deltas": 4 * anchors[0]}
    if spec.regions is not None:
        ends: dict[str, int | None] = {"logits": labels + 1, "deltas": 4 if spec.regions.class_agnostic else 4 * labels}
        expected |= {regions_name(stage): ends for stage in range(len(spec.regions.refining) + 1)}
    for graph, wanted in expected.items():
        if [name for name, _ in outputs[graph]] != list(wanted):
            raise CheckpointError(
                f"{bundle.path}: the graph {graph} gives {', '.join(name for name, _ in outputs[graph])}, model.json "
                f"describes {', '.join(wanted)}; export the model again."
            )
        for name, width in outputs[graph]:
            if width is not None and wanted[name] not in (None, width):
                raise CheckpointError(
                    f"{bundle.path}: the output {name} of the graph {graph} has {width} channels, model.json with its "
                    f"{labels} labels describes {wanted[name]}; export the model again."
                )


class GraphBackend:
    """Backend that runs the graphs of a detector by a runtime.

    Args:
        spec: of the detector.
        box_depth: number of 3x3 convolutions of the box branch where that is a graph of its own; else 0.
        run: runs a graph on inputs by name and returns its outputs in their order; callable from any thread.
        streams: number of runs at once and of their threads; by default one run with a thread per core.

    Attributes:
        run: as given; may be exchanged, to record inputs or to try another graph.
    """

    name = "graphs"

    def __init__(self, spec: DetectorSpec, box_depth: int, run: Run, streams: Streams | None) -> None:
        self._spec = spec
        self._box_depth = box_depth
        self.run = run
        self._streams = streams or Streams()

    def maps(self, batch: Array) -> tuple[list[Array], Deltas, Pyramid | None, Array | None]:
        """See :class:`cxr_mmdet.inference.backends.base.Backend`."""
        outputs = self._run(MAPS, {"image": batch})
        abnormal = outputs.pop() if self._spec.gate is not None else None
        count = len(self._spec.maps.anchor_counts)
        scores, rest = outputs[:count], outputs[count:]
        sizes = tuple((level.shape[0], level.shape[1], level.shape[2]) for level in scores)
        pyramid = Pyramid(rest[-1], sizes) if self._box_depth or self._spec.regions is not None else None
        deltas: Deltas
        if self._box_depth:
            assert pyramid is not None
            deltas = self._boxes_of(pyramid)
        else:
            deltas = WholeMaps([_channels_first(level) for level in rest[:count]], self._spec.maps.values)
        return [_channels_first(level) for level in scores], deltas, pyramid, abnormal

    def regions(self, pyramid: Pyramid, rois: Array, levels: NDArray[np.int64], stage: int) -> tuple[Array, Array]:
        """See :class:`cxr_mmdet.inference.backends.base.Backend`."""
        assert self._spec.regions is not None, "only two-stage detectors have regions"
        pooled = pool_pyramid(self._spec.regions.pooling, pyramid, rois, levels, threads=self._streams.threads_each)
        logits, deltas = self._run(regions_name(stage), {"pooled": pooled})
        return logits, deltas

    def _run(self, name: str, inputs: Mapping[str, Any]) -> list[Array]:
        with self._streams.slots:
            return self.run(name, inputs)

    def _boxes_of(self, pyramid: Pyramid) -> OnDemand:
        def branch(plan: Plan) -> Array:
            tables = {f"table_{layer}": table for layer, table in enumerate(plan.tables)}
            (deltas,) = self._run(BOXES, {"rows": pyramid.rows, **tables, "cells": plan.cells})
            return deltas

        return OnDemand(branch, pyramid.sizes, self._box_depth, self._spec.maps.anchor_counts)


def pool_pyramid(
    pooling: Pooling, pyramid: Pyramid, rois: Array, levels: NDArray[np.int64], *, threads: int = 1
) -> Array:
    """Return the features of regions; see :func:`cxr_mmdet.inference.cpu_kernels.sparse_roi_align.pool_regions`."""
    sizes = pyramid.sizes[: len(pooling.strides)]
    return pool_regions(pooling, pyramid.rows, sizes, rois, levels, threads=threads)


def _channels_first(level: Array) -> Array:
    """Return a view, so that nothing is copied: decoding reads the channels last."""
    return level.transpose(0, 3, 1, 2)
