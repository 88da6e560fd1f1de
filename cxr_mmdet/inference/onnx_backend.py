"""A detector in ONNX Runtime; neither torch nor mmdet is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CheckpointError, UsageError
from cxr_mmdet.inference.graphs import GraphBackend, graph_names
from cxr_mmdet.inference.streams import Streams

if TYPE_CHECKING:
    from cxr_mmdet.inference.bundle import Bundle


class OnnxBackend(GraphBackend):
    """Runs the graphs of a bundle.

    Args:
        bundle: of the format ``onnx``.
        streams: radiographs at once and their threads; by default one, with as many as ONNX Runtime takes.

    Raises:
        UsageError: ONNX Runtime is not installed.
        CheckpointError: a graph that it cannot load.
    """

    name = "onnx"

    def __init__(self, bundle: Bundle, *, streams: Streams | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UsageError(f"{bundle.path}: needs ONNX Runtime; install it by pip install cxr-mmdet[onnx].") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        streams = streams or Streams()
        if streams.count > 1 or streams.threads is not None:
            # Who calls is a thread of his own; the others are a pool that all share.
            options.intra_op_num_threads = streams.all_threads - streams.count + 1

        def session(name: str) -> Any:
            path = bundle.path / f"{name}.onnx"
            try:
                return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime has a class of its own for each kind of damage
                reason = str(error).strip().splitlines()[0]
                raise CheckpointError(
                    f"{path}: cannot be loaded by ONNX Runtime ({reason}); export it again."
                ) from None

        sessions = {name: session(name) for name in graph_names(bundle.spec, bundle.box_depth)}
        super().__init__(bundle.spec, bundle.box_depth, lambda name, inputs: sessions[name].run(None, inputs), streams)
