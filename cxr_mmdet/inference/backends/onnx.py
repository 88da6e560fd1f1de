"""A detector in ONNX Runtime; neither torch nor mmdet is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.errors import CheckpointError, UsageError, first_line, not_finite
from cxr_mmdet.inference.backends.base import Streams
from cxr_mmdet.inference.backends.graphs import GraphBackend, check_outputs, graph_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from cxr_mmdet.inference.bundle import Bundle


class OnnxBackend(GraphBackend):
    """Runs the graphs of a bundle.

    Args:
        bundle: of the format ``onnx``.
        streams: radiographs at once and their threads; by default one, with as many as ONNX Runtime takes.

    Raises:
        UsageError: ONNX or ONNX Runtime is not installed.
        CheckpointError: a graph that it cannot load.
    """

    name = "onnx"

    def __init__(self, bundle: Bundle, *, streams: Streams | None = None) -> None:
        try:
            import onnx  # noqa: F401 (reads what ONNX Runtime does not check)
            import onnxruntime
        except ImportError as error:
            raise UsageError(
                f"{bundle.path}: needs the package {error.name}; install it by pip install cxr-mmdet[onnx]."
            ) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        streams = streams or Streams()
        if streams.count > 1 or streams.threads is not None:
            # Who calls is a thread of his own; the others are a pool that all share.
            options.intra_op_num_threads = streams.all_threads - streams.count + 1

        def session(name: str) -> Any:
            path = bundle.path / f"{name}.onnx"
            _check_tensors(path, bundle.files)
            try:
                return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime has a class of its own for each kind of damage
                reason = first_line(error)
                raise CheckpointError(
                    f"{path}: cannot be loaded by ONNX Runtime ({reason}); export it again."
                ) from None

        sessions = {name: session(name) for name in graph_names(bundle.spec, bundle.box_depth)}
        check_outputs(
            bundle,
            {
                name: [(output.name, _width(output.shape)) for output in session.get_outputs()]
                for name, session in sessions.items()
            },
        )
        super().__init__(bundle.spec, bundle.box_depth, lambda name, inputs: sessions[name].run(None, inputs), streams)


def _width(shape: Sequence[int | str]) -> int | None:
    return shape[-1] if len(shape) > 1 and isinstance(shape[-1], int) else None


def _check_tensors(path: Path, files: Mapping[str, str]) -> None:
    """Check the numbers of a graph, and that they are in files whose hash is known.

    Raises:
        CheckpointError: a tensor that is not finite, or in a file that the bundle does not list.
    """
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # the runtime says what is wrong
        return
    for tensor in _tensors(graph):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value not in files:
                raise CheckpointError(
                    f"{path}: keeps numbers in {entry.value}, which model.json does not list; export it again."
                )
        values = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise not_finite(path, tensor.name or "a constant")


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _tensors(inner)
