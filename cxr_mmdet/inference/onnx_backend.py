"""A detector in ONNX Runtime; neither torch nor mmdet is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CheckpointError, UsageError
from cxr_mmdet.inference.graphs import GraphBackend, graph_names

if TYPE_CHECKING:
    from cxr_mmdet.inference.bundle import Bundle


class OnnxBackend(GraphBackend):
    """Runs the graphs of a bundle.

    Args:
        bundle: of the format ``onnx``.
        threads: processor threads; None leaves it to ONNX Runtime, which takes one a core.

    Raises:
        UsageError: ONNX Runtime is not installed.
        CheckpointError: a graph that it cannot load.
    """

    name = "onnx"

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UsageError(f"{bundle.path}: needs ONNX Runtime; install it by pip install cxr-mmdet[onnx].") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads

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
        super().__init__(bundle.spec, bundle.box_depth, lambda name, inputs: sessions[name].run(None, inputs), threads)
