"""A detector in OpenVINO; neither torch nor mmdet is loaded."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.errors import CheckpointError, UsageError, not_finite
from cxr_mmdet.inference.backends.base import Streams
from cxr_mmdet.inference.backends.graphs import MAPS, GraphBackend, check_outputs, graph_names
from cxr_mmdet.inference.preprocessing import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
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

        size_hw = bundle.preprocessing.fixed_size_hw

        def graph(name: str) -> Graph:
            path = bundle.path / f"{name}.xml"
            try:
                model = core.read_model(str(path), str(path.with_suffix(".bin")))
                _check_constants(path, model)
                if name == MAPS and size_hw is not None:
                    return FixedGraph(
                        model, (1, CHANNELS, *size_hw), lambda each: core.compile_model(each, "CPU", config)
                    )
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


class FixedGraph(Graph):
    """A model of one input that is nearly always of one shape, for which it is compiled.

    The shapes of all maps being known, OpenVINO leaves out copies and computes tables of indices beforehand. For inputs
    of other shapes, such as batches, the model is compiled once more, when the first of them comes.

    Args:
        model: takes any shape.
        shape: of the input.
        compile_model: returns a model, compiled.
    """

    def __init__(self, model: Any, shape: tuple[int, ...], compile_model: Callable[[Any], Any]) -> None:
        fixed = model.clone()
        fixed.reshape(shape)
        super().__init__(compile_model(fixed))
        self._shape = shape
        self._other: Graph | None = None
        self._lock = Lock()
        self._compile_other = lambda: Graph(compile_model(model))

    def __call__(self, inputs: Mapping[str, Any]) -> list[Array]:
        """See :meth:`Graph.__call__`."""
        (value,) = inputs.values()
        if value.shape == self._shape:
            return super().__call__(inputs)
        with self._lock:
            if self._other is None:
                self._other = self._compile_other()
        return self._other(inputs)


def _check_constants(path: Path, model: Any) -> None:
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            values = node.data
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise not_finite(path, node.get_friendly_name())
