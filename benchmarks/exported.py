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
from benchmarks.predict import write_pictures
from benchmarks.predict_models import random_detector, training_meta
from benchmarks.radiographs import ENCODINGS, phantom_pixels, write_dicom
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.files import atomic_path
from cxr_mmdet.inference.backends.base import WholeBackend, detect
from cxr_mmdet.inference.bundle import MODEL_FILE, Bundle
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.inference.export.parity import mean_ap, user_set
from cxr_mmdet.inference.predictor import Predictor, Thresholds, as_radiograph
from cxr_mmdet.structures.coco import read_coco
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.radiograph_files import find_radiographs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.harness import Clock, Comparison, Progress
    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.structures.radiograph_files import RadiographFile

BACKENDS = {
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
        model: the recipe, the checkpoint's recipe, or the outsider's name.
        backend: what runs it, and in which precision.
        predictor: loaded with the threads that are measured.
    """

    model: str
    backend: str
    predictor: Predictor

    @property
    def name(self) -> str:
        """Model and backend."""
        return f"{self.model}, {self.backend}"


@dataclass(frozen=True)
class Point:
    """One contestant in the plot: median milliseconds from DICOM to findings, and mAP@[.5:.95], 0…1."""

    model: str
    backend: str
    milliseconds: float
    mean_ap: float


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
        """Return the contestants that have an mAP, timed by ``clock``."""
        timings = {entry.name: getattr(entry, clock) for entry in self.comparisons[-1].timings}
        return [
            Point(each.model, each.backend, 1000 * Spread.of(timings[each.name]).median, score)
            for each in self.contestants
            if (score := self.mean_ap[each.name]) is not None
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
        models: recipes, with random weights; or checkpoints, folders of runs, bundles.
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
        scores = {each.name: None if val_file is None else _score(each.predictor, val_file) for each in contestants}
    return ExportedBenchmark(tuple(contestants), tuple(comparisons), scores)


def network_of(predictor: Predictor, radiograph: Radiograph) -> Callable[[], object]:
    """Return the runs of a detector's graphs for a radiograph, on recorded inputs; of torch, the network as a whole."""
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
    """Draw mAP@[.5:.95] against milliseconds: a colour per model, a marker per backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not found:
        raise UsageError("no contestant has an mAP, so there is nothing to draw; pass --data.")
    colours = {model: f"C{place}" for place, model in enumerate(dict.fromkeys(point.model for point in found))}
    markers = dict(zip(dict.fromkeys(point.backend for point in found), "os^Dv", strict=False))
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for model, colour in colours.items():
        own = sorted((point for point in found if point.model == model), key=lambda point: point.milliseconds)
        axes.plot([p.milliseconds for p in own], [p.mean_ap for p in own], "-", color=colour, alpha=0.4, zorder=1)
        for point in own:
            axes.plot(point.milliseconds, point.mean_ap, markers[point.backend], color=colour, markersize=8)
    axes.set(xscale="log", xlabel=f"{unit} per radiograph, from DICOM in memory to findings", ylabel="mAP@[.5:.95]")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.2, high * 1.2)
    top = max(point.mean_ap for point in found)
    axes.set_ylim(0, max(1.15 * top, 0.01))
    axes.grid(alpha=0.3)
    handles = [Line2D([], [], color=colour, linewidth=4, label=model) for model, colour in colours.items()]
    handles += [Line2D([], [], color="0.4", marker=mark, linestyle="", label=name) for name, mark in markers.items()]
    axes.legend(handles=handles, fontsize="small", loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


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
    model = predictor.model
    entry = model.preprocessing(radiograph.pixels, radiograph.pixel_aspect)
    limits = Thresholds().of_classes(model.class_names, model.spec.score_threshold)
    nms_iou = model.spec.resolve_nms_iou(None)
    return lambda: detect(model.backend, model.spec, entry.batch, [entry.size_hw], limits, nms_iou)


def _of_model(
    model: str,
    folder: Path,
    backends: Sequence[str],
    val_file: Path | None,
    threads: int,
    cfg_options: Sequence[str],
) -> list[Contestant]:
    path = Path(model)
    folder.mkdir()
    if (path / MODEL_FILE).is_file():
        bundle = Bundle.open(path)
        (title,) = (
            title
            for key, (title, form) in BACKENDS.items()
            if (form or key) == bundle.format and (key == "int8") == bundle.int8
        )
        return [Contestant(_recipe_of(bundle.model_id), title, Predictor.load(path, threads=threads))]
    checkpoint = model
    if path.suffix == ".py" or not path.exists():
        checkpoint = str(_random_checkpoint(model, folder, cfg_options))
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
        predictor = Predictor.load(target, threads=threads)
        contestants.append(Contestant(_recipe_of(predictor.model_id), title, predictor))
    return contestants


def _recipe_of(model_id: str) -> str:
    """Return the recipe in a model's name, before the checkpoint's hash and the format."""
    return re.sub(r"-[0-9a-f]{12}(-.*)?$", "", model_id)


def _random_checkpoint(recipe: str, folder: Path, cfg_options: Sequence[str]) -> Path:
    config = load_config(recipe, load_from="none", cfg_options=list(cfg_options))
    state = random_detector(config).state_dict()
    torch.save({"meta": training_meta(config, Path(recipe).stem), "state_dict": state}, folder / "random.pth")
    return folder / "random.pth"


def _calibration(folder: Path, val_file: Path | None) -> tuple[RadiographFile, ...]:
    if val_file is None:
        write_pictures(folder / "pictures", 4, 1024)
        return tuple(find_radiographs([str(folder / "pictures")]))
    train_file = val_file.with_name(val_file.name.replace("val", "train", 1))
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
