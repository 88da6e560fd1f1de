"""A detector in ONNX Runtime; neither torch nor mmdet is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CheckpointError, UsageError
from cxr_mmdet.inference.graphs import MAPS, REGIONS, region_inputs, split_maps, unsort

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxr_mmdet.inference.bundle import Bundle

    Array = NDArray[np.float32]


class OnnxBackend:
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

        self._levels = len(bundle.spec.maps.strides)
        self._gate = bundle.spec.gate is not None
        self._maps = session(MAPS)
        self._regions = session(REGIONS) if bundle.spec.regions is not None else None
        self._pyramid_levels = bundle.spec.regions.levels if bundle.spec.regions is not None else 0

    def maps(self, batch: Array) -> tuple[list[Array], list[Array], Any, Array | None]:
        """See :class:`cxr_mmdet.inference.backend.Backend`."""
        return split_maps(self._maps.run(None, {"image": batch}), self._levels, gate=self._gate)

    def regions(self, pyramid: Any, rois: Array, levels: NDArray[np.int64]) -> tuple[Array, Array]:
        """See :class:`cxr_mmdet.inference.backend.Backend`."""
        assert self._regions is not None, "only two-stage detectors have regions"
        inputs, order = region_inputs(pyramid, rois, levels, self._pyramid_levels)
        return unsort(self._regions.run(None, inputs), order)
