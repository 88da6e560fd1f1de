"""Report of a quality benchmark: scores over seeds and patients, and differences from the first contestant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from cxr_mmdet.evaluation.bootstrap import RESAMPLES, Interval, bootstrap, percentile_interval
from cxr_mmdet.evaluation.headline import match_all, point_values, statistics
from cxr_mmdet.evaluation.image_level import p_abnormal_path, read_p_abnormal
from cxr_mmdet.files import atomic_path
from cxr_mmdet.structures.coco import read_coco, read_detections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.quality import QualityRun
    from cxr_mmdet.evaluation.headline import MatchedDetections

SHOWN = {
    "mean_ap": "mAP@[.5:.95]",
    "mean_ap_50": "mAP@.5",
    "voc_mean_ap_40": "VOC@.4",
    "sensitivity_at_1": "sensitivity at 1 FP",
    "voc_mean_ap_40_with_no_finding": "VOC@.4 + normal",
    "image_auc": "image AUC",
}
"""Headline numbers and what tables call them: of boxes, then of images; the competition's has 15 classes for its 14."""

_PER_TABLE = 3
"""Headline numbers in a table, which with their intervals fit a terminal of 80 columns."""

_GATE_SHOWN = ("voc_mean_ap_40_with_no_finding", "image_auc")
"""Those that p_abnormal has a part in."""


@dataclass(frozen=True)
class QualityScores:
    """One contestant.

    Attributes:
        name: the contestant's.
        seeds: how many trainings, per fold.
        folds: how many.
        iterations: of a training, on average.
        minutes: of processor time of a training, on average.
        values: means over the seeds, by the names of :data:`SHOWN`; intervals over seeds and patients.
        differences: from the first contestant, paired in patients and seeds; empty for the first.
    """

    name: str
    seeds: int
    folds: int
    iterations: float
    minutes: float
    values: Mapping[str, Interval]
    differences: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        intervals = {
            part: {name: interval.to_json() for name, interval in getattr(self, part).items()}
            for part in ("values", "differences")
        }
        return vars(self) | intervals


Trained = dict[str, "list[tuple[QualityRun, MatchedDetections]]"]
"""By contestant, its trainings in the order of the seeds and folds, and what their last checkpoints find."""


def read_runs(runs: Sequence[QualityRun], data_root: Path, out: Path, *, gates: bool = True) -> Trained:
    """Return the runs by contestant, in the order of their seeds, with their detections matched.

    Args:
        runs: the benchmark's.
        data_root: the prepared folder that they were trained on.
        out: the benchmark's folder.
        gates: whether abnormality gates speak for "No finding". Otherwise only runs with a gate are returned, as if
            they had none: an image's highest score speaks for it.
    """
    trained: dict[str, list[tuple[QualityRun, MatchedDetections]]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, run.part)):
        ground_truth = read_coco(run.ground_truth(out, data_root))
        path = run.folder(out) / "detections.json"
        given = p_abnormal_path(path)
        if not gates and not given.is_file():
            continue
        p_abnormal = read_p_abnormal(given, ground_truth) if gates and given.is_file() else None
        matched = match_all(ground_truth, read_detections(path, ground_truth), p_abnormal=p_abnormal)
        trained.setdefault(run.contestant, []).append((run, matched))
    return trained


def score_quality(runs: Trained, *, resamples: int = RESAMPLES, seed: int = 0) -> list[QualityScores]:
    """Return the scores of every contestant, the first one being what the others are compared with.

    A score is the mean over folds and seeds. Folds, the patients of each and seeds are all drawn with replacement in
    each resample. All contestants get the same draw: the same folds and patients, and the trainings at the same places
    of their lists, since seed by seed they saw the same data in the same order. A score's interval so holds what other
    patients and another start would change; with folds it is rather too wide, since patients count in both draws.

    Args:
        runs: by contestant; equally many of each, every fold with every seed, in the order of seeds, then folds.
        resamples: how many draws.
        seed: of the draws.
    """
    own = next(iter(runs.values()))
    folds = list(dict.fromkeys(run.part for run, _ in own))
    places = [(run.seed, run.part) for run, _ in own]
    assert all([(run.seed, run.part) for run, _ in each] == places for each in runs.values()), "run_quality trains all"
    seed_weights = _draw(len(own) // len(folds), resamples, (seed, 1))
    fold_weights = _draw(len(folds), resamples, (seed, 2))
    weights = (seed_weights[:, :, None] * fold_weights[:, None, :]).reshape(resamples, len(own))
    points = {name: _means([point_values(matched) for _, matched in own]) for name, own in runs.items()}
    samples = {
        name: _weighted([_resampled(matched, resamples, seed + folds.index(run.part)) for run, matched in own], weights)
        for name, own in runs.items()
    }
    first = next(iter(runs))
    patients = sum(len(np.unique(matched.groups)) for _, matched in own[: len(folds)])

    def difference(name: str, key: str) -> Interval:
        one, two = points[first][key], points[name][key]
        value = None if one is None or two is None else two - one
        return percentile_interval(value, samples[name][key] - samples[first][key], groups=patients)

    return [
        QualityScores(
            name=name,
            seeds=len(own) // len(folds),
            folds=len(folds),
            iterations=float(np.mean([run.iterations for run, _ in own])),
            minutes=float(np.mean([run.cpu_s for run, _ in own])) / 60,
            values={key: percentile_interval(points[name][key], samples[name][key], groups=patients) for key in SHOWN},
            differences={} if name == first else {key: difference(name, key) for key in SHOWN},
        )
        for name, own in runs.items()
    ]


def score_gates(trained: Trained, ungated: Trained, *, resamples: int = RESAMPLES) -> list[QualityScores]:
    """Return for each contestant with a gate what the gate's p_abnormal changes beside the same boxes' highest scores.

    Args:
        trained: by contestant, as :func:`read_runs` gives them.
        ungated: the same without their gates.
        resamples: how many draws of patients and seeds.
    """
    return [score_quality({"": own, name: trained[name]}, resamples=resamples)[1] for name, own in ungated.items()]


def _draw(count: int, resamples: int, seed: tuple[int, int]) -> NDArray[np.float64]:
    """Return (resamples, count) weights of seeds or folds, each row with the sum 1."""
    random = np.random.default_rng(seed)
    return random.multinomial(count, np.full(count, 1 / count), size=resamples) / count


def _resampled(matched: MatchedDetections, resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    def shown(weights: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
        values = statistics(matched, weights)
        return {name: values[name] for name in SHOWN}

    return bootstrap(shown, matched.groups, resamples=resamples, seed=seed)


def _weighted(
    samples: Sequence[Mapping[str, NDArray[np.float64]]], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    return {
        name: np.sum([own[name] * weights[:, place] for place, own in enumerate(samples)], axis=0) for name in SHOWN
    }


def _means(values: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in SHOWN:
        own = [value[name] for value in values]
        defined = [value for value in own if value is not None]
        means[name] = float(np.mean(defined)) if len(defined) == len(own) else None
    return means


def gates_table(scores: Sequence[QualityScores]) -> Table:
    """Return one row a gate: what :func:`score_gates` found of what a gate changes."""
    title = "What the gate's p_abnormal adds to the same boxes' highest scores"
    table = _table(title, *(SHOWN[key] for key in _GATE_SHOWN))
    for entry in scores:
        table.add_row(entry.name, *(_words(entry.differences[key], signed=True) for key in _GATE_SHOWN))
    return table


def quality_tables(scores: Sequence[QualityScores], *, differences: bool) -> list[Table]:
    """Return tables of a row per contestant: scores or differences from the first, of boxes and of images.

    A table of the trainings stands before the scores.
    """
    # What a name adds to the first, which the title or the first row says: recipes have long names.
    names = [scores[0].name, *(entry.name.removeprefix(scores[0].name) for entry in scores[1:])]
    tables = []
    if not differences:
        trainings = _table("Trainings", "folds", "seeds", "minutes", "iterations")
        for name, entry in zip(names, scores, strict=True):
            numbers = (f"{entry.minutes:.1f}", f"{entry.iterations:.0f}")
            trainings.add_row(name, str(entry.folds), str(entry.seeds), *numbers)
        tables.append(trainings)
    for shown in (list(SHOWN)[:_PER_TABLE], list(SHOWN)[_PER_TABLE:]):
        title = f"Difference from {scores[0].name}" if differences else "Scores"
        table = _table(title, *(SHOWN[key] for key in shown))
        for name, entry in list(zip(names, scores, strict=True))[differences:]:
            intervals = entry.differences if differences else entry.values
            table.add_row(name, *(_words(intervals[key], signed=differences) for key in shown))
        tables.append(table)
    return tables


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for header in columns:
        table.add_column(header, justify="right")
    return table


def draw_quality(runs: Trained, path: Path) -> None:
    """Draw mAP@[.5:.95] against minutes of processor time: per contestant its trainings, thin, and their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (name, own) in enumerate(runs.items()):
        curves = [np.array([(0.0, 0.0), *run.curve]) for run, _ in own]
        for curve in curves if len(curves[0]) > 2 else ():
            axes.plot(curve[:, 0] / 60, curve[:, 1], color=f"C{place}", linewidth=0.7, alpha=0.35)
        mean = np.mean(curves, axis=0) if len({len(curve) for curve in curves}) == 1 else curves[0]
        # Of a contestant that is validated once, at the end, nothing is known of the way there.
        line = "none" if len(mean) == 2 else "-"
        axes.plot(
            mean[:, 0] / 60, mean[:, 1], color=f"C{place}", label=name, linestyle=line, marker="o", markersize=3.5
        )
    axes.set(xlabel="minutes of processor time", ylabel="mAP@[.5:.95]", title="Validation while training")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _words(interval: Interval, *, signed: bool) -> str:
    if interval.value is None:
        return "undefined"
    sign = "+" if signed else ""
    if interval.low is None or interval.high is None:
        return f"{interval.value:{sign}.3f}"
    return f"{interval.value:{sign}.3f} ({interval.low:{sign}.3f}…{interval.high:{sign}.3f})"
