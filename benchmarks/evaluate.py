"""Our evaluation against pycocotools and faster-coco-eval, and what a thousand resamples cost."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import Alternative, compare
from benchmarks.memory import peak_memory_growth
from cxr_mmdet.errors import counted
from cxr_mmdet.evaluation.coco import evaluate_coco
from cxr_mmdet.evaluation.headline import match_all, point_values, resampled_values
from cxr_mmdet.files import atomic_path
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.harness import Comparison, Progress
    from cxr_mmdet.structures.coco import CocoDict, Detection

SIDE = 1000
"""Pixels."""
BOXES_AN_IMAGE = 1.6
"""VinBigData's 23,905 boxes fused from all readers lie on 15,000 images."""
CLASS_SHARES = (7162, 279, 960, 5427, 556, 1000, 1247, 2483, 2580, 2203, 2476, 4842, 226, 4655)
"""Readers' boxes of each class in VinBigData."""
NEAR = 3
"""Detections of each box, near enough that most of them hit or nearly do; the rest lie anywhere."""
TOLERANCE = 1e-9

SCALING_IMAGES = (300, 1000, 3000, 10000)
SCALING_DETECTIONS = (10, 30, 100, 300)
SCALING_FIXED = (3000, 100)
"""Images while detections grow, detections per image while images grow."""


@dataclass(frozen=True)
class HeadlineCost:
    """Cost of all headline metrics with their intervals, measured once.

    Attributes:
        images: how many.
        detections: on each image.
        resamples: how many.
        match_s: seconds of CPU to read the dicts and to match.
        resample_s: seconds of CPU to resample.
        wall_s: seconds by the clock, all together.
        peak_bytes: growth of resident memory; None where it wasn't asked for or cannot be read.
    """

    images: int
    detections: int
    resamples: int
    match_s: float
    resample_s: float
    wall_s: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Growth:
    """Cost of COCO scores and of all headline metrics at one size, in CPU seconds."""

    images: int
    detections: int
    coco_s: float
    pycocotools_s: float | None
    headline_s: float


def make_case(images: int, detections: int, seed: int = 0) -> tuple[CocoDict, list[Detection]]:
    """Return ground truth of 14 classes and a detector's results, as uneven as VinBigData's.

    Args:
        images: how many; two belong to a patient.
        detections: on each image.
        seed: of everything.
    """
    random = np.random.default_rng(seed)
    shares = np.array(CLASS_SHARES) / sum(CLASS_SHARES)
    boxes = random.poisson(BOXES_AN_IMAGE, images)
    truth_image = np.repeat(np.arange(images), boxes)
    truth_class = random.choice(len(shares), len(truth_image), p=shares)
    truth_xywh = _boxes(random, len(truth_image))
    near_image, near_class = np.repeat(truth_image, NEAR), np.repeat(truth_class, NEAR)
    near_xywh = np.repeat(truth_xywh, NEAR, axis=0) + random.normal(0, 12, (len(near_image), 4))
    near_xywh[:, 2:] = np.abs(near_xywh[:, 2:]) + 1
    rest = np.maximum(detections - NEAR * boxes, 0)
    far_image = np.repeat(np.arange(images), rest)
    columns = (
        np.concatenate([near_image, far_image]),
        np.concatenate([near_class, random.choice(len(shares), len(far_image), p=shares)]),
        np.concatenate([near_xywh, _boxes(random, len(far_image))]),
        np.concatenate([random.beta(2, 2, len(near_image)), random.beta(0.5, 6, len(far_image))]),
    )
    return _ground_truth(images, truth_image, truth_class, truth_xywh), [
        {"image_id": image + 1, "category_id": label + 1, "bbox": bbox, "score": score}
        for image, label, bbox, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def benchmark_coco(
    images: int, detections: int, *, rounds: int, memory: bool = False, progress: Progress | None = None
) -> Comparison:
    """Return the time to COCO's twelve numbers, from the dicts in memory to the result.

    Raises:
        AssertionError: two libraries don't agree to 1e-9.
    """
    truth, found = make_case(images, detections)
    reference = pycocotools_map(truth, found)
    alternatives = [
        Alternative("pycocotools", lambda _: pycocotools_map(truth, found)),
        *_faster_coco_eval(truth, found),
        Alternative("cxr_mmdet (hotcoco)", lambda _: evaluate_coco(truth, found).mean_ap),
    ]
    for alternative in alternatives[1:]:
        value: Any = alternative.run(0)
        assert abs(value - reference) <= TOLERANCE, f"{alternative.name} gives {value}, pycocotools {reference}"
    return compare(
        f"COCO, {counted(images, 'image')} with {counted(detections, 'detection')} each",
        alternatives,
        item="run",
        items_per_round=1,
        rounds=rounds,
        warm_up=0,
        memory=memory,
        progress=progress,
    )


def benchmark_headline(images: int, detections: int, *, resamples: int, memory: bool = False) -> HeadlineCost:
    """Return what every headline number with its interval costs: COCO, the competition's, FROC, image AUC."""
    truth, found = make_case(images, detections)
    spent: dict[str, float] = {}

    def work() -> None:
        start = time.process_time()
        matched = match_all(truth, found)
        point_values(matched)
        spent["match"] = time.process_time() - start
        resampled_values(matched, resamples=resamples)
        spent["all"] = time.process_time() - start

    begin = time.perf_counter()
    work()
    wall = time.perf_counter() - begin
    return HeadlineCost(
        images=images,
        detections=detections,
        resamples=resamples,
        match_s=spent["match"],
        resample_s=spent["all"] - spent["match"],
        wall_s=wall,
        peak_bytes=peak_memory_growth(work) if memory else None,
    )


def benchmark_growth(
    *, resamples: int, pycocotools_up_to: int = 300_000, progress: Progress | None = None
) -> tuple[list[Growth], list[Growth]]:
    """Return the cost over images, and over detections per image.

    Args:
        resamples: behind the intervals.
        pycocotools_up_to: leave pycocotools out where there are more detections in all: it would take minutes.
        progress: called with the sizes just done and all of them.
    """
    fixed_images, fixed_detections = SCALING_FIXED
    series = (
        [(images, fixed_detections) for images in SCALING_IMAGES],
        [(fixed_images, detections) for detections in SCALING_DETECTIONS],
    )
    total = sum(map(len, series))
    grown: tuple[list[Growth], list[Growth]] = ([], [])
    for sizes, results in zip(series, grown, strict=True):
        for images, detections in sizes:
            truth, found = make_case(images, detections)
            headline = benchmark_headline(images, detections, resamples=resamples)
            small = len(found) <= pycocotools_up_to
            results.append(
                Growth(
                    images=images,
                    detections=detections,
                    coco_s=_cpu_seconds(evaluate_coco, truth, found),
                    pycocotools_s=_cpu_seconds(pycocotools_map, truth, found) if small else None,
                    headline_s=headline.match_s + headline.resample_s,
                )
            )
            if progress:
                progress(1, total)
    return grown


def draw_growth(path: Path, grown: tuple[Sequence[Growth], Sequence[Growth]], resamples: int) -> None:
    """Draw both series, double logarithmic, into an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    titles = (
        f"{SCALING_FIXED[1]} detections per image",
        f"{SCALING_FIXED[0]:,} images",
    )
    for axes, series, title, by in zip(
        figure.subplots(1, 2, sharey=True), grown, titles, ("images", "detections"), strict=True
    ):
        sizes = [getattr(entry, by) for entry in series]
        axes.plot(sizes, [entry.headline_s for entry in series], "o-", label=f"all numbers, {resamples:,} resamples")
        slow = [(getattr(entry, by), entry.pycocotools_s) for entry in series if entry.pycocotools_s is not None]
        if slow:
            axes.plot(*zip(*slow, strict=True), "s--", color="grey", label="COCO, pycocotools")
        axes.plot(sizes, [entry.coco_s for entry in series], "o-", label="COCO, cxr_mmdet")
        axes.set(xscale="log", yscale="log", title=title, xlabel=by if by == "images" else "detections per image")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("CPU seconds")
    figure.axes[0].legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def pycocotools_map(truth: CocoDict, found: Sequence[Detection]) -> float:
    """Return mAP@[.5:.95] by the original library, which adds to the dicts it is given: it gets copies of them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = _copy_of_truth(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes([dict(entry) for entry in found]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _faster_coco_eval(truth: CocoDict, found: Sequence[Detection]) -> list[Alternative]:
    """Return faster-coco-eval as an alternative, if it is installed."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        return []

    def run(_: int) -> float:
        coco = COCO(_copy_of_truth(truth), print_function=lambda *_: None)
        results = coco.loadRes([dict(entry) for entry in found])
        evaluation = COCOeval_faster(coco, results, iouType="bbox", print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return float(evaluation.stats[0])

    return [Alternative("faster-coco-eval", run)]


def _copy_of_truth(truth: CocoDict) -> CocoDict:
    return truth | {"annotations": [dict(entry) for entry in truth["annotations"]]}


def _cpu_seconds(work: Callable[..., object], *arguments: object) -> float:
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def _boxes(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    sizes = random.uniform(20, 200, (count, 2))
    return np.hstack([random.uniform(0, SIDE - sizes), sizes])


def _ground_truth(
    images: int, image: NDArray[np.int64], label: NDArray[np.int64], boxes_xywh: NDArray[np.float64]
) -> CocoDict:
    rows = zip(image.tolist(), label.tolist(), boxes_xywh.tolist(), strict=True)
    return {
        "images": [
            {"id": number, "width": SIDE, "height": SIDE, "group": f"p{number // 2}"} for number in range(1, images + 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": of_image + 1,
                "category_id": of_class + 1,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": 0,
            }
            for number, (of_image, of_class, bbox) in enumerate(rows, 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(LABELS_14, 1)],
    }
