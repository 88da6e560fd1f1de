"""Detectors that others exported, as contestants: YOLO's graphs as ultralytics writes them, in ONNX or OpenVINO.

Only the graph is read; nothing of ultralytics is needed here. Its licence is AGPL-3.0: who compares with it exports the
graph in an environment of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.errors import CheckpointError, UsageError, first_line
from cxr_mmdet.inference.backends.base import WholeBackend
from cxr_mmdet.inference.backends.openvino import SINGLE_PRECISION, Graph
from cxr_mmdet.inference.model import LoadedModel
from cxr_mmdet.inference.preprocessing import Preprocessing
from cxr_mmdet.inference.spec import WholeDetector
from cxr_mmdet.structures.detections import Detections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SCORE_THRESHOLD, NMS_IOU, MAX_PER_IMAGE = 0.05, 0.7, 300
"""NMS IoU and detections per image as ultralytics has them by default; the score threshold is that of our recipes."""

_ANY_SIDE = 640
"""Side in pixels of the input of graphs that take any."""


class YoloBackend(WholeBackend):
    """A graph whose output is (N, 4 + K, A): centre, width and height in pixels of the input, and a score per class.

    Args:
        path: the graph; ONNX Runtime runs ``.onnx``, OpenVINO ``.xml``.
        threads: of processors.

    Attributes:
        run: runs the graph on inputs by name.
        side: width and height of the input in pixels.
        classes: number of classes.

    Raises:
        CheckpointError: it cannot be loaded, or has other inputs or outputs.
    """

    def __init__(self, path: Path, threads: int) -> None:
        try:
            load = {".xml": _openvino, ".onnx": _onnx}[path.suffix]
        except KeyError:
            raise UsageError(f"{path}: expected an exported graph, an .xml of OpenVINO or an .onnx.") from None
        try:
            self.name, self._input, shape, self.run = load(path, threads)
        except Exception as error:  # each runtime has classes of its own
            raise CheckpointError(f"{path}: cannot be loaded ({first_line(error)}); export it again.") from None
        if len(shape) != 4 or shape[1] not in (3, None) or shape[2] != shape[3]:
            raise CheckpointError(f"{path}: takes {shape}, expected images of three channels and one side for both.")
        self.side = shape[2] or _ANY_SIDE
        output = self.run("", {self._input: np.zeros((1, 3, self.side, self.side), np.float32)})[0]
        if output.ndim != 3 or not 4 < output.shape[1] < output.shape[2]:
            raise CheckpointError(
                f"{path}: gives {output.shape}, expected (N, 4 + classes, anchors); export YOLO's detection graph "
                "without NMS."
            )
        self.classes = output.shape[1] - 4

    def candidates(
        self, batch: NDArray[np.float32], sizes_hw: list[tuple[int, int]], score_thresholds: NDArray[np.float32]
    ) -> list[Detections]:
        """See :class:`cxr_mmdet.inference.backends.base.WholeBackend`."""
        return [_decode(output, score_thresholds) for output in self.run("", {self._input: batch})[0]]


def load_outsider(path: Path, *, threads: int, class_names: Sequence[str] = ()) -> LoadedModel:
    """Return an outsider's graph as a model that predicts radiographs.

    Args:
        path: see :class:`YoloBackend`.
        threads: of processors.
        class_names: of a prepared folder; used where the graph has as many classes, which are then taken to be these.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such graph; give an exported .xml or .onnx.")
    backend = YoloBackend(path, threads)
    side = backend.side
    own = tuple(f"class {number}" for number in range(backend.classes))
    return LoadedModel(
        backend,
        WholeDetector("YOLO", SCORE_THRESHOLD, NMS_IOU, True, MAX_PER_IMAGE),
        # Its letterbox: grey of 114 beside the image, here to the right or bottom of it.
        Preprocessing(0, False, (side, side), True, (0.0,) * 3, (255.0,) * 3, side, 114 / 255),
        tuple(class_names) if len(class_names) == backend.classes else own,
        path.stem,
    )


def _decode(output: NDArray[np.float32], score_thresholds: NDArray[np.float32]) -> Detections:
    """Return one image's boxes above the threshold, each with its best class, as ultralytics takes them."""
    scores = output[4:]
    labels = scores.argmax(axis=0)
    best = scores.max(axis=0)
    kept = np.flatnonzero(best >= score_thresholds[labels])
    centres, sides = output[:2, kept].T, output[2:4, kept].T
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return Detections(boxes, labels[kept], best[kept])


def _openvino(path: Path, threads: int) -> tuple[str, str, list[int | None], Any]:
    import openvino

    config = {"PERFORMANCE_HINT": "LATENCY", **SINGLE_PRECISION, "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().read_model(str(path))
    is_int8 = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    compiled = openvino.compile_model(model, "CPU", config)
    graph = Graph(compiled)
    shape = [side.get_length() if side.is_static else None for side in compiled.inputs[0].get_partial_shape()]
    name = compiled.inputs[0].get_any_name()
    return f"OpenVINO{' int8' * is_int8}", name, shape, lambda _, inputs: graph(inputs)


def _onnx(path: Path, threads: int) -> tuple[str, str, list[int | None], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    shape = [side if isinstance(side, int) else None for side in entry.shape]
    return "ONNX Runtime", entry.name, shape, lambda _, inputs: session.run(None, inputs)
