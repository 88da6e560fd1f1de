"""Quantisation of an OpenVINO bundle to eight bits; layers that cost too much mAP stay in single precision."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from cxr_mmdet.errors import CheckpointError, counted
from cxr_mmdet.inference.backends.graphs import GraphBackend, graph_names
from cxr_mmdet.inference.backends.openvino import SINGLE_PRECISION, Graph
from cxr_mmdet.inference.export.formats import save_graph
from cxr_mmdet.inference.export.parity import evenly, mean_ap
from cxr_mmdet.inference.predictor import Predictor, as_radiograph
from cxr_mmdet.structures.boxes import iou_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cxr_mmdet.inference.backends.graphs import Run
    from cxr_mmdet.inference.bundle import Bundle
    from cxr_mmdet.inference.export.parity import CheckSet
    from cxr_mmdet.structures.detections import Findings
    from cxr_mmdet.structures.radiograph_files import RadiographFile

    Judgement = Callable[[Any, Iterable[int]], tuple[float, list[float]]]

MAX_CALIBRATION = 128
"""More images than this no longer change the ranges that quantisation finds."""

REGION_IMAGES = 24
"""Images that calibrate a second stage: each gives it up to a thousand regions."""

MAX_CONTROL = 128
"""Images that decide which layers stay in single precision; each candidate is scored on all of them."""

_RANKING = 16
"""Images that rank the layers, those that eight bits change most."""

_MAX_REVERTED = 40
"""Groups of layers set back to single precision before the search ends; more would leave little of the speed."""

_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
_ON_WEIGHTS = ("Convert", "FakeQuantize", "Multiply", "Reshape", "Subtract", "Transpose")


@dataclass(frozen=True)
class Quantisation:
    """Facts of a quantisation, for the bundle.

    Attributes:
        calibration_images: images that set the ranges of activations.
        control_images: labelled images on which layers were chosen.
        layers: convolutions and matrix products with weights.
        single_precision: names of those whose weights stay in single precision.
    """

    calibration_images: int
    control_images: int
    layers: int
    single_precision: tuple[str, ...]


def quantise(
    bundle: Bundle, calibration: Sequence[RadiographFile], control: CheckSet | None, *, max_loss: float
) -> Quantisation:
    """Replace the graphs of a bundle by graphs in eight bits.

    NNCF sets layers back to single precision, the costliest first, until the mAP on ``control`` falls by no more than
    ``max_loss``.

    Args:
        bundle: in single precision, of the format ``openvino``, without a graph of the box branch.
        calibration: radiographs that show which values occur.
        control: radiographs with ground truth; without, every layer is quantised.
        max_loss: mAP@[.5:.95], 0…1, over all graphs together.

    Raises:
        CheckpointError: the mAP in single precision is too low for the loss to show.
        OSError: the graphs cannot be written.
    """
    calibration = evenly(calibration, MAX_CALIBRATION)
    predictor = Predictor.load(bundle.path)
    backend = predictor.model.backend
    assert isinstance(backend, GraphBackend), "the format is openvino"
    names = graph_names(bundle.spec, bundle.box_depth)
    judge = None if control is None or control.truth is None else _Judge(predictor, control.some(MAX_CONTROL))
    if judge is not None and judge.exact_mean_ap <= max_loss < 1:
        raise CheckpointError(
            f"{bundle.model_id}: eight bits cannot be judged on {counted(len(judge), 'radiograph')} of {judge.name}, "
            f"where the mAP in single precision is {judge.exact_mean_ap:.4f}, no more than the loss that --max-loss "
            f"{max_loss:g} allows. Nothing was written; train longer, pass --check with radiographs of what the model "
            "finds, or export without --int8."
        )
    layers: dict[str, bool] = {}
    for name in names:
        model = openvino.Core().read_model(str(bundle.path / f"{name}.xml"))
        items = calibration if name == names[0] else calibration[:REGION_IMAGES]
        inputs = _Inputs(predictor, name, items)
        control_of = None if judge is None else (judge.of_graph(name), len(judge))
        quantised = quantise_graph(model, inputs, len(items), control_of, max_drop=max_loss / len(names))
        _replace(bundle.path / f"{name}.xml", quantised)
        backend.run = _with_graph(backend.run, name, openvino.compile_model(quantised, "CPU", SINGLE_PRECISION))
        layers |= {f"{name}{layer}": exact for layer, exact in layers_of(quantised)}
    return Quantisation(
        calibration_images=len(calibration),
        control_images=0 if judge is None else len(judge),
        layers=len(layers),
        single_precision=tuple(layer for layer, exact in layers.items() if exact),
    )


def quantise_graph(
    model: Any, inputs: Iterable[Any], count: int, control: tuple[Judgement, int] | None, *, max_drop: float
) -> Any:
    """Return an OpenVINO graph in eight bits.

    Args:
        model: the graph.
        inputs: of calibration, by name.
        count: number of inputs.
        control: function that judges a compiled candidate on the images of some numbers, and the number of images; see
            :meth:`_Judge.of_graph`. Layers are set back to single precision as it asks.
        max_drop: loss of the judgement over all images that is allowed.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # which NNCF asks for CUDA
    import nncf

    nncf.set_log_level(logging.ERROR)
    data: Any = nncf.Dataset(inputs)
    preset = nncf.QuantizationPreset.MIXED
    if control is None:
        return nncf.quantize(model, data, subset_size=count, preset=preset)
    judge, images = control
    numbers: Any = nncf.Dataset(range(images))
    search = nncf.AdvancedAccuracyRestorerParameters(
        max_num_iterations=_MAX_REVERTED, ranking_subset_size=_RANKING, num_ranking_workers=1
    )
    return nncf.quantize_with_accuracy_control(
        model,
        data,
        numbers,
        judge,
        max_drop=max_drop,
        subset_size=count,
        preset=preset,
        advanced_accuracy_restorer_parameters=search,
    )


class _ReachedError(Exception):
    """Raised in place of running the graph whose inputs are wanted."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self.inputs = inputs


class _Inputs:
    """The inputs that a graph gets for radiographs, which are read when they are needed, not kept."""

    def __init__(self, predictor: Predictor, name: str, items: Sequence[RadiographFile]) -> None:
        self._predictor, self._name, self._items = predictor, name, items

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        backend: Any = self._predictor.model.backend
        run = backend.run

        def stop(name: str, inputs: Mapping[str, Any]) -> list[Any]:
            if name == self._name:
                raise _ReachedError(inputs)
            return run(name, inputs)

        for item in self._items:
            radiograph = as_radiograph(item.read(), name=item.source)
            inputs = None
            backend.run = stop
            try:
                self._predictor.predict(radiograph)  # ends without reaching a second stage that gets no proposal
            except _ReachedError as reached:
                inputs = reached.inputs
            finally:
                backend.run = run  # before the yield: the caller may predict, or never come back
            if inputs is not None:
                yield inputs


class _Judge:
    """The mAP of candidate graphs, and how far their findings are from those in single precision."""

    def __init__(self, predictor: Predictor, control: CheckSet) -> None:
        self.name = control.name
        self._predictor, self._truth = predictor, control.truth
        self._radiographs = [as_radiograph(item.read(), name=item.source) for item in control.items]
        self._exact = [predictor.predict(radiograph) for radiograph in self._radiographs]
        self.exact_mean_ap = self._mean_ap(self._exact)
        """mAP@[.5:.95], 0…1, in single precision."""

    def __len__(self) -> int:
        return len(self._radiographs)

    def of_graph(self, name: str) -> Judgement:
        """Return the function that NNCF calls with a compiled candidate of a graph and the numbers of images.

        The function's value is the mAP over all images, by which NNCF ends. Over some of them it is the mean agreement,
        by which NNCF ranks layers: the mAP of few images is too coarse for that.
        """
        backend: Any = self._predictor.model.backend

        def judge(compiled: Any, numbers: Iterable[int]) -> tuple[float, list[float]]:
            run, backend.run = backend.run, _with_graph(backend.run, name, compiled)
            try:
                found = {number: self._predictor.predict(self._radiographs[number]) for number in map(int, numbers)}
            finally:
                backend.run = run
            agreements = [agreement(self._exact[number], findings) for number, findings in found.items()]
            if len(found) < len(self):
                return float(np.mean(agreements)), agreements
            return self._mean_ap(list(found.values())), agreements

        return judge

    def _mean_ap(self, found: Sequence[Findings]) -> float:
        assert self._truth is not None, "a judge without truth is not asked"
        return mean_ap(self._truth, found) or 0.0


def agreement(expected: Findings, found: Findings) -> float:
    """Return the mean over expected findings, by score, of IoU times ratio of scores of the best match; 0…1."""
    if not len(expected):
        return 1.0
    if not len(found):
        return 0.0
    scores = expected.scores[:, None], found.scores[None, :]
    ratios = np.minimum(*scores) / np.maximum(*scores)
    matches = iou_matrix(expected.boxes_xyxy, found.boxes_xyxy) * ratios
    matches *= expected.labels[:, None] == found.labels[None, :]
    return float(np.average(matches.max(axis=1), weights=expected.scores))


def _with_graph(run: Run, name: str, compiled: Any) -> Run:
    """Return ``run`` with one graph exchanged."""
    graph = Graph(compiled)
    return lambda asked, inputs: graph(inputs) if asked == name else run(asked, inputs)


def _replace(path: Path, model: Any) -> None:
    # Beside it first: the graph that is replaced is read from its file while the new one is written.
    beside = path.with_stem("quantised")
    save_graph(model, beside)
    for suffix in (".xml", ".bin"):
        os.replace(beside.with_suffix(suffix), path.with_suffix(suffix))


def layers_of(model: Any) -> Iterator[tuple[str, bool]]:
    """Yield the name of each operation with constant weights, and whether these are in single precision."""
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _WEIGHTED:
            continue
        weights = node.input_value(1).get_node()
        while weights.get_type_name() in _ON_WEIGHTS:
            weights = weights.input_value(0).get_node()
        if weights.get_type_name() == "Constant":
            yield node.get_friendly_name().removesuffix("/WithoutBiases"), weights.data.dtype.kind == "f"
