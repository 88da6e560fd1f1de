"""From an image's file to its findings: stock mmdet, torchvision, and this project's ways, turn by turn."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from mmdet.apis import inference_detector
from mmdet.registry import MODELS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import Compose

from benchmarks.harness import Alternative, Comparison, compare
from benchmarks.predict_models import random_detector, training_meta
from benchmarks.stock import STOCK, stock_model, stock_steps
from cxr_mmdet.engine.config import class_names
from cxr_mmdet.inference.checkpoint import load_detector
from cxr_mmdet.inference.export.export import ExportOptions, export_model
from cxr_mmdet.inference.export.parity import Parity, compare_findings
from cxr_mmdet.inference.predictor import Predictor
from cxr_mmdet.preparation.images import write_grey_png
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.enums import ExportFormat
from cxr_mmdet.structures.radiograph_files import find_radiographs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from benchmarks.harness import Progress
    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.inference.predictor import Augmentation, Thresholds

TORCHVISION = "torchvision RetinaNet"
TORCH, ONNX, OPENVINO, INT8 = "torch", "ONNX Runtime", "OpenVINO", "OpenVINO int8"


@dataclass(frozen=True)
class FirstFinding:
    """A process of its own that loads a model and predicts one image.

    Attributes:
        name: of the alternative.
        seconds: from starting Python to the findings.
        peak_bytes: of its resident memory.
    """

    name: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class PredictionBenchmark:
    """Timings, start-up and agreement of one detector's alternatives."""

    comparison: Comparison
    first: tuple[FirstFinding, ...]
    parity: tuple[Parity, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "comparison": self.comparison.to_json(),
            "first_finding": [vars(entry) for entry in self.first],
            "agreement_with_torch": [entry.to_json() for entry in self.parity],
        }


def benchmark_predict(
    config: Config,
    name: str,
    folder: Path,
    *,
    rounds: int = 10,
    size: int = 1024,
    images: int = 4,
    threads: int = 2,
    int8: bool = True,
    progress: Progress | None = None,
) -> PredictionBenchmark:
    """Time each way from an image's file to its findings.

    Args:
        config: a recipe without steps of ours in its test pipeline that stock mmdet lacks.
        name: what to call it.
        folder: for models and images; remains.
        rounds: timed images of each alternative.
        size: both sides of the synthetic images in pixels.
        images: number of different radiographs.
        threads: of processors, for every alternative.
        int8: whether to quantise as well, which takes minutes.
        progress: called with the rounds just done and all of them.
    """
    torch.set_num_threads(threads)
    paths = write_images(folder / "images", images, size)
    model = random_detector(copy.deepcopy(config))
    checkpoint = folder / "checkpoint.pth"
    torch.save({"meta": training_meta(config, name), "state_dict": model.state_dict()}, checkpoint)
    models = {TORCH: checkpoint, **_export(checkpoint, folder, int8=int8)}
    predictors = {title: Predictor.load(path, threads=threads) for title, path in models.items()}
    stock = stock_detector(config, model)
    runs: dict[str, Callable[[Path], object]] = {STOCK: lambda path: inference_detector(stock, str(path))}
    if not hasattr(model, "roi_head"):
        runs[TORCHVISION] = torchvision_retinanet(config)
    runs |= {title: predictor.predict for title, predictor in predictors.items()}

    def alternative(title: str) -> Alternative:
        return Alternative(title, lambda turn: runs[title](paths[turn % len(paths)]))

    comparison = compare(
        f"From file to findings, {name}",
        [alternative(title) for title in runs],
        item="image",
        items_per_round=1,
        rounds=rounds,
        clock="wall_s",
        progress=progress,
    )
    first = [first_finding(title, path, paths[0], threads) for title, path in models.items()]
    found = {title: [predictor.predict(path) for path in paths] for title, predictor in predictors.items()}
    threshold = predictors[TORCH].model.spec.score_threshold
    parity = tuple(
        compare_findings(title, found[TORCH], others, score_threshold=threshold) for title, others in found.items()
    )
    return PredictionBenchmark(
        comparison, (first_finding_of_mmdet(config, checkpoint, paths[0], threads), *first), parity
    )


def write_images(folder: Path, count: int, size: int) -> list[Path]:
    """Write ``count`` grey images of noise at several scales, compressed as preparation does."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image = sum(cv2.resize(rng.uniform(0, 85, (cells, cells)), (size, size)) for cells in (4, 16, 64))
        paths.append(folder / f"{number}.png")
        write_grey_png(paths[-1], np.rint(image).astype(np.uint8))
    return paths


def stock_detector(config: Config, model: torch.nn.Module, *, own_pipeline: bool = False) -> Any:
    """Return what mmdet's ``init_detector`` would: a stock model with ``model``'s weights, and a stock pipeline.

    With ``own_pipeline`` the recipe's, of which mmdet lacks the padding to squares.
    """
    stock = MODELS.build(stock_model(config.model))
    stock.load_state_dict(model.state_dict())
    steps = config.test_dataloader.dataset.pipeline
    pipeline = [step for step in (steps if own_pipeline else stock_steps(steps)) if step is not None]
    stock.cfg = Config({"test_dataloader": {"dataset": {"pipeline": pipeline}}})
    return stock.eval()


class StockPredictor(Predictor):
    """A checkpoint as stock mmdet runs it: its model, eager, by ``inference_detector``.

    Radiographs are read as everywhere in this project, and the steps before the network are the recipe's.

    Args:
        checkpoint: file, or a run's folder.
    """

    def __init__(self, checkpoint: str) -> None:
        self.exact = True
        self._detector = load_detector(checkpoint)
        self._stock = stock_detector(self._detector.config, self._detector.model, own_pipeline=True)
        get_test_pipeline_cfg(self._stock.cfg)[0].type = "mmdet.LoadImageFromNDArray"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the model, in its order."""
        return self._detector.class_names

    @property
    def model_id(self) -> str:
        """Name of the model and its weights."""
        return self._detector.model_id

    def predict_radiographs(
        self, radiographs: Sequence[Radiograph], thresholds: Thresholds, augmentation: Augmentation | None = None
    ) -> list[Findings]:
        """Return the findings at the model's own thresholds."""
        return [self._findings_of(radiograph) for radiograph in radiographs]

    def forward(self, radiograph: Radiograph, mode: str) -> Callable[[], object]:
        """Return the run of the network in a mode of mmengine's on a radiograph that is prepared once, here."""
        pipeline = Compose(get_test_pipeline_cfg(self._stock.cfg))
        entry = pipeline({"img": _three_planes(radiograph), "img_id": 0})
        data = {"inputs": [entry["inputs"]], "data_samples": [entry["data_samples"]]}

        def run() -> object:
            with torch.inference_mode():
                return self._stock(**batch, mode=mode)

        batch = self._stock.data_preprocessor(data, False)
        return run

    def _findings_of(self, radiograph: Radiograph) -> Findings:
        found = inference_detector(self._stock, _three_planes(radiograph)).pred_instances.numpy()
        detections = Detections(found.bboxes, found.labels, found.scores, self.class_names)
        height, width = radiograph.pixels.shape
        return Findings.of(detections, size_hw=(height, width), model_id=self.model_id)


def _three_planes(radiograph: Radiograph) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(radiograph.pixels, cv2.COLOR_GRAY2BGR), dtype=np.uint8)


def torchvision_retinanet(config: Config) -> Callable[[Path], object]:
    """Return torchvision's RetinaNet R50 at the same size and number of classes, from file to boxes."""
    from torchvision.models.detection import retinanet_resnet50_fpn

    classes = int(config.model.bbox_head.num_classes)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes).eval()

    def run(path: Path) -> object:
        image = torch.from_numpy(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        with torch.inference_mode():
            return model([image.permute(2, 0, 1).float().div_(255)])

    return run


def first_finding(title: str, model: Path, image: Path, threads: int) -> FirstFinding:
    """Return what a new process takes to load ``model`` and predict one image."""
    code = (
        "from cxr_mmdet.inference.predictor import Predictor\n"
        f"Predictor.load({str(model)!r}, threads={threads}).predict({str(image)!r})\n"
    )
    return _measure(title, code, threads)


def first_finding_of_mmdet(config: Config, checkpoint: Path, image: Path, threads: int) -> FirstFinding:
    """Return what a new process takes by mmdet's own ``init_detector`` and ``inference_detector``."""
    stock = {
        "model": stock_model(config.model),
        "test_dataloader": {
            "dataset": {
                "pipeline": [s for s in stock_steps(config.test_dataloader.dataset.pipeline) if s is not None],
                "metainfo": {"classes": class_names(config)},
                "type": "CocoDataset",
            }
        },
        "default_scope": "mmdet",
    }
    path = checkpoint.with_name("stock.py")
    Config(stock).dump(str(path))
    code = (
        "import cxr_mmdet, torch\n"
        f"torch.set_num_threads({threads})\n"
        "load = torch.load\n"
        "torch.load = lambda *a, **k: load(*a, **(k | {'weights_only': False}))\n"  # mmengine's own loader asks for it
        "from mmdet.apis import init_detector, inference_detector\n"
        f"model = init_detector({str(path)!r}, {str(checkpoint)!r}, device='cpu', palette='random')\n"
        f"inference_detector(model, {str(image)!r})\n"
    )
    return _measure(STOCK, code, threads)


def _measure(title: str, code: str, threads: int) -> FirstFinding:
    # Not ru_maxrss: that begins with what the parent held when it forked.
    code += "print([int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')][0])\n"
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": root}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    seconds = time.perf_counter() - start
    return FirstFinding(title, seconds, 1024 * int(done.stdout.split()[-1]))


def _export(checkpoint: Path, folder: Path, *, int8: bool) -> dict[str, Path]:
    # Random weights have no mAP to lose: what differs is reported below, not refused here.
    wanted = {ONNX: ExportOptions(format=ExportFormat.ONNX, compare=False)}
    wanted[OPENVINO] = replace(wanted[ONNX], format=ExportFormat.OPENVINO)
    if int8:
        calibration = tuple(find_radiographs([str(folder / "images")]))
        wanted[INT8] = replace(wanted[OPENVINO], int8=True, calibration=calibration)
    paths = {}
    for title, options in wanted.items():
        paths[title] = folder / title.replace(" ", "-").lower()
        export_model(str(checkpoint), paths[title], options)
    return paths
