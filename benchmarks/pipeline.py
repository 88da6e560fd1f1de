"""Our data pipeline against stock mmdet's: the same images, boxes and drawn sizes, from file to model input."""

from __future__ import annotations

import contextlib
import io
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.registry import init_default_scope

from benchmarks.harness import Alternative, Comparison, compare
from benchmarks.stock import OURS, STOCK, stock_model, stock_steps
from cxr_mmdet.datasets.sampler import Draw, seed_draw
from cxr_mmdet.engine.config import annotated_parts
from cxr_mmdet.errors import ConfigError, DatasetError
from cxr_mmdet.structures.coco import read_coco

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmdet.datasets import BaseDetDataset
    from mmdet.models.data_preprocessors import DetDataPreprocessor
    from mmengine.config import Config

    from benchmarks.harness import Progress

LOOK_UP = "look up the entry"


@dataclass(frozen=True)
class Side:
    """One of the two pipelines."""

    name: str
    dataset: BaseDetDataset
    preprocessor: DetDataPreprocessor

    def sample(self, draw: Draw) -> dict[str, Any]:
        """Return what the dataset gives for a draw: image (3, H, W) uint8 and boxes."""
        seed_draw(draw)  # stock datasets do not; ours does it a second time, to the same effect
        return self.dataset[draw]

    def model_input(self, draw: Draw) -> dict[str, Any]:
        """Return what the model gets for a draw: a normalised batch of one, (1, 3, H, W) float32, and boxes."""
        return self.preprocess(self.sample(draw))

    def preprocess(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the model's input made of one sample."""
        batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
        return self.preprocessor(batch, training=True)


@dataclass(frozen=True)
class StepTime:
    """Mean CPU seconds per image in one step of ours and in its stock counterpart; None where there is none."""

    step: str
    stock_s: float | None
    ours_s: float


@dataclass(frozen=True)
class PipelineReport:
    """Both comparisons, and where the time goes."""

    comparisons: tuple[Comparison, ...]
    steps: tuple[StepTime, ...]


def benchmark_pipeline(
    config: Config,
    data: Path,
    *,
    ann_file: str | None = None,
    rounds: int = 20,
    images: int = 8,
    memory: bool = False,
    progress: Progress | None = None,
) -> PipelineReport:
    """Time the training pipeline of ``config`` and its stock counterpart on one core.

    Args:
        config: a recipe whose steps stock mmdet can do too.
        data: the prepared folder.
        ann_file: COCO file relative to ``data``; the first of its training files by default.
        rounds: timed rounds of each comparison.
        images: images a round; each round takes the next ones.
        memory: whether to measure resident memory as well.
        progress: called with the rounds just done and all of one comparison.

    Raises:
        ConfigError: a step has no stock counterpart, or the pipelines do not give the same model input.
        DatasetError: the folder holds no training file, or is damaged.
    """
    with one_thread():
        sides = stock, ours = _build_sides(config, data, ann_file or _training_file(data))
        count = len(ours.dataset)
        draws = [Draw(position % count, position) for position in range(rounds * images)]
        _fill_page_cache(ours, draws)
        for draw in draws[:images]:
            _check_agreement(stock.model_input(draw), ours.model_input(draw))
        works = {
            "From file to sample": [side.sample for side in sides],
            "From file to model input": [side.model_input for side in sides],
        }
        comparisons = [
            compare(
                title,
                [
                    Alternative(side.name, _round_of(work, draws, images))
                    for side, work in zip(sides, side_works, strict=True)
                ],
                item="image",
                items_per_round=images,
                rounds=rounds,
                memory=memory,
                progress=progress,
            )
            for title, side_works in works.items()
        ]
        return PipelineReport(tuple(comparisons), tuple(_time_steps(config, stock, ours, draws)))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV and torch to one thread each, as in a data loader's worker."""
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])


def _training_file(data: Path) -> str:
    files = sorted((data / "annotations").glob("train_*.json"))
    if not files:
        raise DatasetError(
            f"{data}: holds no annotations/train_*.json; give a folder that tools/prepare_data.py build made."
        )
    return str(files[0].relative_to(data))


def _training_pipeline(config: Config) -> list[dict[str, Any]]:
    return annotated_parts(config.train_dataloader)[0]["pipeline"]


def _build_sides(config: Config, data: Path, ann_file: str) -> tuple[Side, Side]:
    init_default_scope("mmdet")
    classes = tuple(category["name"] for category in read_coco(data / ann_file)["categories"])
    pipeline = _training_pipeline(config)
    common = {"data_root": str(data), "ann_file": ann_file, "metainfo": {"classes": classes}}
    stock_dataset = common | {
        "type": "CocoDataset",
        "data_prefix": {"img": "images"},
        "pipeline": [step for step in stock_steps(pipeline) if step],
    }
    ours_dataset = common | {"type": "CxrDataset", "pipeline": pipeline}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports every load
        return (
            Side(STOCK, DATASETS.build(stock_dataset), MODELS.build(stock_model(config.model)["data_preprocessor"])),
            Side(OURS, DATASETS.build(ours_dataset), MODELS.build(config.model.data_preprocessor)),
        )


def _fill_page_cache(side: Side, draws: Sequence[Draw]) -> None:
    for index in {int(draw) for draw in draws}:
        Path(side.dataset.get_data_info(index)["img_path"]).read_bytes()


def _check_agreement(stock: dict[str, Any], ours: dict[str, Any]) -> None:
    stock_boxes, ours_boxes = (batch["data_samples"][0].gt_instances.bboxes for batch in (stock, ours))
    if not (torch.equal(stock["inputs"], ours["inputs"]) and torch.equal(stock_boxes, ours_boxes)):
        raise ConfigError(
            "the config's pipeline and its stock counterpart do not give the same model input, so their speeds cannot "
            "be compared; choose another recipe, such as retina_14cls."
        )


def _round_of(work: Any, draws: Sequence[Draw], images: int) -> Any:
    def run(turn: int) -> None:
        for draw in draws[turn * images : (turn + 1) * images]:
            work(draw)

    return run


def _time_steps(config: Config, stock: Side, ours: Side, draws: Sequence[Draw]) -> Iterator[StepTime]:
    """Yield the mean time of each step, both sides taking turns image by image."""
    totals: dict[str, dict[str, float]] = {side.name: defaultdict(float) for side in (stock, ours)}
    for draw in draws:
        for side in (stock, ours):
            for step, seconds in _timed_steps(side, draw):
                totals[side.name][step] += seconds / len(draws)
    counterparts = _counterparts(_training_pipeline(config))
    for step, ours_s in totals[ours.name].items():
        yield StepTime(step, totals[stock.name].get(counterparts.get(step, step)), ours_s)


def _counterparts(pipeline: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return step → the stock step that does its work; empty where there is none."""
    pairs = zip(pipeline, stock_steps(pipeline), strict=True)
    return {step["type"]: stock["type"] if stock else "" for step, stock in pairs}


def _timed_steps(side: Side, draw: Draw) -> Iterator[tuple[str, float]]:
    seed_draw(draw)
    start = time.process_time()
    results = side.dataset.get_data_info(int(draw))
    yield LOOK_UP, time.process_time() - start
    for transform in side.dataset.pipeline.transforms:
        start = time.process_time()
        results = transform(results)
        yield type(transform).__name__, time.process_time() - start
    start = time.process_time()
    side.preprocess(results)
    yield "preprocess", time.process_time() - start
