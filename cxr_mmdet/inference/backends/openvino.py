"""A detector in OpenVINO; neither torch nor mmdet is loaded."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.errors import CheckpointError, UsageError, not_finite
from cxr_mmdet.inference.backends.base import Streams
from cxr_mmdet.inference.backends.graphs import GraphBackend, check_outputs, graph_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cxr_mmdet.inference.bundle import Bundle

    Array = NDArray[np.float32]

SINGLE_PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""Where the processor has bfloat16, OpenVINO would use it unasked."""


class OpenVinoBackend(GraphBackend):
    """Runs the graphs of a bundle.

    Args:
        bundle: of the format ``openvino``.
        streams: radiographs at once and their threads; by default one, with as many as OpenVINO takes.

    Raises:
        UsageError: OpenVINO is not installed.
        CheckpointError: a graph that it cannot load.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, *, streams: Streams | None = None) -> None:
        try:
            import openvino
        except ImportError:
            raise UsageError(f"{bundle.path}: needs OpenVINO; install it by pip install cxr-mmdet[openvino].") from None
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **SINGLE_PRECISION}
        streams = streams or Streams()
        if streams.count > 1:
            config |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": str(streams.count)}
        if streams.count > 1 or streams.threads is not None:
            config["INFERENCE_NUM_THREADS"] = streams.all_threads
        core = openvino.Core()

        def graph(name: str) -> Graph:
            path = bundle.path / f"{name}.xml"
            try:
                model = core.read_model(str(path), str(path.with_suffix(".bin")))
                _check_constants(path, model)
                return Graph(core.compile_model(model, "CPU", config))
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise CheckpointError(f"{path}: cannot be loaded by OpenVINO ({reason}); export it again.") from None

        graphs = {name: graph(name) for name in graph_names(bundle.spec, bundle.box_depth)}
        check_outputs(bundle, {name: graph.outputs() for name, graph in graphs.items()})
        super().__init__(bundle.spec, bundle.box_depth, lambda name, inputs: graphs[name](inputs), streams)


class Graph:
    """A compiled model with one request per thread that uses it; threads must not share a request."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def outputs(self) -> list[tuple[str, int | None]]:
        """Return the name and the last dimension of each output; None for a dimension that is open."""
        shapes = [(port.get_any_name(), port.get_partial_shape()) for port in self._compiled.outputs]
        return [
            (name, shape[-1].get_length() if len(shape) > 1 and shape[-1].is_static else None) for name, shape in shapes
        ]

    def __call__(self, inputs: Mapping[str, Any]) -> list[Array]:
        """Return the outputs, in their order, for inputs by name."""
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        results = request.infer(dict(inputs), share_inputs=True)
        outputs = [np.array(results[port]) for port in self._compiled.outputs]
        self._idle.put(request)
        return outputs


def _check_constants(path: Path, model: Any) -> None:
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            values = node.data
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise not_finite(path, node.get_friendly_name())
