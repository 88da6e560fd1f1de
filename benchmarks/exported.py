"""Exported detectors and outsiders' graphs, turn by turn: network, network and decoding, from DICOM to findings."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.harness import Alternative, Spread, compare
from benchmarks.outsiders import load_outsider
from benchmarks.predict import StockPredictor, write_images
from benchmarks.predict_models import random_detector, training_meta
from benchmarks.radiographs import ENCODINGS, phantom_pixels, write_dicom
from benchmarks.stock import STOCK
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.files import atomic_path
from cxr_mmdet.inference.backends.base import WholeBackend, detect
from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.inference.export.parity import mean_ap, user_set
from cxr_mmdet.inference.predictor import Predictor, Thresholds, as_radiograph
from cxr_mmdet.recipes import config_names
from cxr_mmdet.structures.coco import read_coco
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.radiograph_files import find_radiographs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.harness import Clock, Comparison, Progress
    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.structures.radiograph_files import RadiographFile

BACKENDS = {
    "mmdet": (STOCK, None),
    "torch": ("torch", None),
    "onnx": ("ONNX Runtime", ExportFormat.ONNX),
    "openvino": ("OpenVINO", ExportFormat.OPENVINO),
    "int8": ("OpenVINO int8", ExportFormat.OPENVINO),
}
"""Names that ``--backend`` takes, each with its name in tables and the format of the bundle."""

NETWORK, DECODED, WHOLE = "Network alone", "Network and decoding", "From DICOM in memory to findings"

MAX_SCORED = 400
"""Validation images that score each contestant, spread over all of them."""


@dataclass(frozen=True)
class Contestant:
    """A detector that is timed.

    Attributes:
        model: the name that it was given; by default its recipe.
        backend: what runs it, and in which precision.
        predictor: loaded with the threads that are measured.
        trained: whether its weights are; random ones have no mAP.
    """

    model: str
    backend: str
    predictor: Predictor
    trained: bool = True

    @property
    def name(self) -> str:
        """Model and backend."""
        return f"{self.model}, {self.backend}"


@dataclass(frozen=True)
class Point:
    """Contestant in the plot: median milliseconds from DICOM to findings, and mAP@[.5:.95], 0…1, if it has one."""

    model: str
    backend: str
    milliseconds: float
    mean_ap: float | None


@dataclass(frozen=True)
class ExportedBenchmark:
    """Timings of the contestants by the three ways, and their mAP@[.5:.95] by name; None where it was not measured."""

    contestants: tuple[Contestant, ...]
    comparisons: tuple[Comparison, ...]
    mean_ap: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "contestants": [{"model": each.model, "backend": each.backend} for each in self.contestants],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "mean_ap": self.mean_ap,
        }

    def points(self, clock: Clock) -> list[Point]:
        """Return the contestants, timed by ``clock``."""
        timings = {entry.name: getattr(entry, clock) for entry in self.comparisons[-1].timings}
        return [
            Point(each.model, each.backend, 1000 * Spread.of(timings[each.name]).median, self.mean_ap[each.name])
            for each in self.contestants
        ]


def benchmark_exported(
    models: Sequence[str],
    graphs: Sequence[str],
    *,
    backends: Sequence[str] = ("openvino", "int8"),
    val_file: Path | None = None,
    rounds: int = 10,
    threads: int = 2,
    size_hw: tuple[int, int] = (3000, 2500),
    clock: Clock = "wall_s",
    cfg_options: Sequence[str] = (),
    progress: Progress | None = None,
) -> ExportedBenchmark:
    """Time exported models, all of them in one run.

    Args:
        models: recipes, with random weights; or checkpoints, folders of runs, bundles. ``NAME=`` before one names it in
            tables and plot, ``@KEY,KEY`` behind one chooses backends for it alone.
        graphs: NAME=FILE of graphs that others exported; see :func:`benchmarks.outsiders.load_outsider`.
        backends: keys of :data:`BACKENDS`, for all models but bundles.
        val_file: annotation file of a prepared folder that scores every contestant; the training images beside it
            calibrate eight bits, and it decides which layers stay in single precision.
        rounds: timed radiographs of each.
        threads: of processors, for every contestant.
        size_hw: of the radiograph, which is a phantom of 16 bits, uncompressed.
        clock: what ratios are taken of.
        cfg_options: overrides of the recipes' configs.
        progress: called with the rounds just done and all of them.
    """
    torch.set_num_threads(threads)
    report = progress or (lambda done, total: None)
    names = (
        () if val_file is None else tuple(entry["name"] for entry in read_coco(val_file, strict=False)["categories"])
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dicom = write_dicom(folder / "a.dcm", phantom_pixels(0, size_hw), ENCODINGS[0]).read_bytes()
        contestants = [
            each
            for number, model in enumerate(models)
            for each in _of_model(model, folder / str(number), backends, val_file, threads, cfg_options)
        ]
        contestants += [_of_graph(text, threads, names) for text in graphs]
        contestants = _with_names_of_their_own(contestants)
        if not contestants:
            raise UsageError("there is nothing to time; name a recipe, a checkpoint or a bundle, or pass --graph.")
        radiograph = read_radiograph(dicom)
        ways: dict[str, Callable[[Contestant], Callable[[], object]]] = {
            NETWORK: lambda each: network_of(each.predictor, radiograph),
            DECODED: lambda each: _decoded(each.predictor, radiograph),
            WHOLE: lambda each: lambda: each.predictor.predict(dicom),
        }
        comparisons = [
            compare(
                f"{title}, {threads} threads",
                [_alternative(each, way(each)) for each in contestants],
                item="image",
                items_per_round=1,
                rounds=rounds,
                clock=clock,
                progress=lambda done, total: report(done, len(ways) * total),
            )
            for title, way in ways.items()
        ]
        scores = {
            each.name: _score(each.predictor, val_file) if val_file and each.trained else None for each in contestants
        }
    return ExportedBenchmark(tuple(contestants), tuple(comparisons), scores)


def network_of(predictor: Predictor, radiograph: Radiograph) -> Callable[[], object]:
    """Return the runs of a detector's graphs for a radiograph, on recorded inputs; of torch, the network as a whole."""
    if isinstance(predictor, StockPredictor):
        return predictor.forward(radiograph, "tensor")
    backend: Any = predictor.model.backend
    if not hasattr(backend, "run"):
        batch = predictor.model.preprocessing(radiograph.pixels, radiograph.pixel_aspect).batch
        if isinstance(backend, WholeBackend):
            return _decoded(predictor, radiograph)
        return lambda: backend.maps(batch)
    run, calls = backend.run, []

    def record(name: str, inputs: Any) -> Any:
        calls.append((name, inputs))
        return run(name, inputs)

    backend.run = record
    try:
        predictor.predict(radiograph)
    finally:
        backend.run = run
    return lambda: [run(name, inputs) for name, inputs in calls]


def draw_points(path: Path, found: Sequence[Point], *, title: str, unit: str) -> None:
    """Draw mAP@[.5:.95] against milliseconds: a colour per model, a marker per backend, hollow in eight bits.

    Models without an mAP have a row each below, by their milliseconds alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not (scores := [point.mean_ap for point in found if point.mean_ap is not None]):
        raise UsageError("no contestant has an mAP, so there is nothing to draw; pass --data.")
    names = dict.fromkeys(point.model for point in found if point.mean_ap is not None)
    colours = {model: f"C{place % 10}" for place, model in enumerate(names)}
    rows = list(dict.fromkeys(point.model for point in reversed(found) if point.mean_ap is None))
    forms = {title: mark for (title, _), mark in zip(BACKENDS.values(), "XosDD", strict=True)}

    def look(backend: str) -> dict[str, Any]:
        hollow = {"markerfacecolor": "white", "markeredgewidth": 1.6} if "int8" in backend else {}
        return {"marker": forms[backend], "markersize": 7, "linestyle": "", **hollow}

    heights = [3.6, 0.3 + 0.22 * len(rows)] if rows else [3.6]
    figure = Figure(figsize=(8, 1.2 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes, *below = figure.subplots(len(heights), sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for model, colour in colours.items():
        own = sorted((p.milliseconds, p.mean_ap) for p in found if p.model == model and p.mean_ap is not None)
        axes.plot(*zip(*own, strict=True), "-", color=colour, alpha=0.4, zorder=1)
    for point in found:
        if point.mean_ap is None:
            below[0].plot(point.milliseconds, rows.index(point.model), color="0.35", **look(point.backend))
        else:
            axes.plot(point.milliseconds, point.mean_ap, color=colours[point.model], **look(point.backend))
    # Not from 0 where all scores are close together, yet never so close that a hundredth looks like a gulf.
    middle, half = (max(scores) + min(scores)) / 2, max(0.6 * (max(scores) - min(scores)), 0.05)
    axes.set(xscale="log", ylabel="mAP@[.5:.95]", ylim=(max(0.0, middle - half), min(1.0, middle + half)))
    axes.set_title(title, loc="left", fontsize="medium")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.1, high * 1.1)
    for each in below:
        each.set_title("random weights or other classes: milliseconds only", loc="left", fontsize="small")
        each.set(ylim=(-0.7, len(rows) - 0.3), yticks=range(len(rows)))
        each.set_yticklabels(rows, fontsize="small")
    (axes, *below)[-1].set_xlabel(f"{unit} per radiograph, from DICOM in memory to findings")
    for each in (axes, *below):
        each.grid(alpha=0.3)
    handles = [Line2D([], [], color=colour, linewidth=4, label=model) for model, colour in colours.items()]
    used = {point.backend for point in found}
    handles += [Line2D([], [], color="0.35", label=name, **look(name)) for name in forms if name in used]
    figure.legend(handles=handles, fontsize="small", loc="outside right upper")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", facecolor="white")


def find_val_file(data: Path, ann_file: str | None) -> Path:
    """Return the annotation file of a prepared folder that scores: the one asked for, or the only one.

    Raises:
        DatasetError: there is none.
        UsageError: there are several, and none is asked for.
    """
    found = [data / ann_file] if ann_file else sorted(data.glob("annotations/val_*.json"))
    if not found or not found[0].is_file():
        raise DatasetError(f"{data}: has no {ann_file or 'annotations/val_*.json'}; give a prepared folder.")
    if len(found) > 1:
        names = ", ".join(f"annotations/{file.name}" for file in found)
        raise UsageError(f"{data}: holds several label sets; choose one of {names} by --ann-file.")
    return found[0]


def _with_names_of_their_own(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return the contestants, numbered where several models have one name and backend."""
    counts: Counter[str] = Counter()
    named = []
    for each in contestants:
        counts[each.name] += 1
        again = counts[each.name] > 1
        named.append(replace(each, model=f"{each.model} ({counts[each.name]})") if again else each)
    return named


def _alternative(contestant: Contestant, run: Callable[[], object]) -> Alternative:
    return Alternative(contestant.name, lambda turn: run())


def _decoded(predictor: Predictor, radiograph: Radiograph) -> Callable[[], object]:
    if isinstance(predictor, StockPredictor):
        return predictor.forward(radiograph, "predict")
    model = predictor.model
    entry = model.preprocessing(radiograph.pixels, radiograph.pixel_aspect)
    limits = Thresholds().of_classes(model.class_names, model.spec.score_threshold)
    nms_iou = model.spec.resolve_nms_iou(None)
    return lambda: detect(model.backend, model.spec, entry.batch, [entry.size_hw], limits, nms_iou)


def _of_model(
    text: str,
    folder: Path,
    backends: Sequence[str],
    val_file: Path | None,
    threads: int,
    cfg_options: Sequence[str],
) -> list[Contestant]:
    name, model, backends = _parse_model(text, backends)
    path = Path(model)
    folder.mkdir()
    if (path / MODEL_FILE).is_file():
        bundle = Bundle.open(path)
        (title,) = (
            title
            for key, (title, form) in BACKENDS.items()
            if key != "mmdet" and (form or key) == bundle.format and (key == "int8") == bundle.int8
        )
        return [Contestant(name or _recipe_of(bundle.model_id), title, Predictor.load(path, threads=threads))]
    checkpoint, trained = model, path.suffix != ".py" and path.exists()
    if not trained:
        checkpoint, val_file = str(_random_checkpoint(model, folder, cfg_options)), None
    contestants = []
    for key in backends:
        title, form = BACKENDS[key]
        target = checkpoint if form is None else folder / key
        if form is not None:
            calibration = _calibration(folder, val_file) if key == "int8" else ()
            options = ExportOptions(
                format=form,
                int8=key == "int8",
                calibration=calibration,
                check=val_file if key == "int8" else None,
                compare=False,
            )
            export_model(checkpoint, Path(target), options)
        predictor = StockPredictor(checkpoint) if key == "mmdet" else Predictor.load(target, threads=threads)
        contestants.append(Contestant(name or _recipe_of(predictor.model_id), title, predictor, trained))
    return contestants


def _parse_model(text: str, backends: Sequence[str]) -> tuple[str, str, Sequence[str]]:
    """Return the name that is asked for, or none, the model, and the backends of ``[NAME=]MODEL[@BACKEND,…]``."""
    if Path(text).exists():
        return "", text, backends
    name, equals, model = text.partition("=")
    model, at, chosen = (model if equals else text).rpartition("@")
    unknown = sorted(set(chosen.split(",")) - BACKENDS.keys())
    if at and unknown and (Path(model).exists() or model in config_names()):
        raise UsageError(f"{text}: no such backend {unknown[0]}; expected some of {', '.join(BACKENDS)}.")
    if not at or unknown:
        return name * bool(equals), f"{model}{at}{chosen}", backends
    return name * bool(equals), model, chosen.split(",")


def _recipe_of(model_id: str) -> str:
    """Return the recipe in a model's name, before the checkpoint's hash, the size and the format."""
    return re.sub(r"-[0-9a-f]{12}(@\d+)?(-.*)?$", "", model_id)


def _random_checkpoint(recipe: str, folder: Path, cfg_options: Sequence[str]) -> Path:
    config = load_config(recipe, load_from="none", cfg_options=list(cfg_options))
    state = random_detector(config).state_dict()
    torch.save({"meta": training_meta(config, Path(recipe).stem), "state_dict": state}, folder / "random.pth")
    return folder / "random.pth"


def _calibration(folder: Path, val_file: Path | None) -> tuple[RadiographFile, ...]:
    if val_file is None:
        write_images(folder / "images", 4, 1024)
        return tuple(find_radiographs([str(folder / "images")]))
    train_file = val_file.with_name(f"train_{val_file.name.removeprefix('val_')}")
    if not val_file.name.startswith("val_") or not train_file.is_file():
        raise DatasetError(
            f"{val_file}: eight bits are calibrated on the training images of train_<labels>.json beside it, and there "
            "is none; give val_<labels>.json of a prepared folder, or choose other backends by --backend."
        )
    names = [entry["name"] for entry in read_coco(train_file, strict=False)["categories"]]
    return user_set(train_file, names).items


def _of_graph(text: str, threads: int, class_names: Sequence[str]) -> Contestant:
    name, equals, file = text.partition("=")
    if not name or not equals or not file:
        raise UsageError(f"--graph {text}: expected NAME=FILE, as --graph yolo11s=yolo11s_openvino_model/yolo11s.xml.")
    model = load_outsider(Path(file), threads=threads, class_names=class_names)
    return Contestant(name, model.backend.name, Predictor(model))


def _score(predictor: Predictor, val_file: Path) -> float | None:
    categories = {entry["name"] for entry in read_coco(val_file, strict=False)["categories"]}
    if not categories.issuperset(predictor.class_names):
        return None
    check = user_set(val_file, predictor.class_names).some(MAX_SCORED)
    assert check.truth is not None, "it was read from a COCO file"
    return mean_ap(check.truth, [predictor.predict(as_radiograph(item.read())) for item in check.items])
