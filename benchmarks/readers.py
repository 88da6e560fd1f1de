"""Measure a consensus against a reader it has not seen: hide one reader of each image, fuse the others, score it.

All contestants see the same readings, are scored by the project's own VOC and COCO code, and what they learn is
cross-fitted: nothing of an image, read by whomever, is in the estimates that score it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from cxr_mmdet.annotations.consensus import cluster_boxes
from cxr_mmdet.annotations.marks import Candidates, Marks, hidden_boxes
from cxr_mmdet.annotations.next_reads import ExpectedChange, changes_of, disagreements
from cxr_mmdet.annotations.reader_consensus import fit_marks
from cxr_mmdet.annotations.split import random_folds
from cxr_mmdet.errors import UsageError
from cxr_mmdet.evaluation.bootstrap import RESAMPLES, bootstrap, percentile_interval
from cxr_mmdet.evaluation.coco import coco_average_precision, match_coco
from cxr_mmdet.evaluation.matching import DetectionTable, TruthTable, match_tables, overlapping_pairs
from cxr_mmdet.evaluation.voc import COMPETITION_IOU, average_precision, mean_defined
from cxr_mmdet.memory import peak_bytes
from cxr_mmdet.pages import UNDEFINED, format_score
from cxr_mmdet.structures.boxes import xyxy_to_xywh

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.bootstrap import Interval

FOLDS = 5
REGULARS = ("R8", "R9", "R10")
"""Readers who together read 94 % of VinBigData's abnormal images; the hard case learns from them alone."""
BASELINE = "WBF, vote shares"
OURS, WITH_ALTERNATIVES = "readers", "readers, confused classes"
SMOOTHING = 5.0
"""Readings that the coarser frequency weighs in the table of frequencies."""


@dataclass(frozen=True)
class Ranked:
    """Boxes of a contestant: reading, class, corners and score of each."""

    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]

    def table(self) -> DetectionTable:
        """Return what the evaluation takes."""
        return DetectionTable(self.images, self.classes, xyxy_to_xywh(self.boxes_xyxy), self.scores)


@dataclass(frozen=True)
class Score:
    """A contestant's scores against the hidden readers.

    Attributes:
        name: of the contestant.
        boxes: how many it gives.
        voc_40: VOC mean average precision at IoU 0.4, with its interval.
        gain: the difference to :data:`BASELINE`, with the interval of paired draws of images.
        voc_50: the same score at IoU 0.5.
        voc_75: at IoU 0.75.
        mean_ap: COCO's mAP@[.5:.95].
        per_class: VOC average precision at IoU 0.4 of each class.
        class_gain: its difference to the baseline's.
    """

    name: str
    boxes: int
    voc_40: Interval
    gain: Interval
    voc_50: float
    voc_75: float
    mean_ap: float
    per_class: Mapping[str, float | None]
    class_gain: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        entry = dict(vars(self)) | {"voc_40": self.voc_40.to_json(), "gain": self.gain.to_json()}
        return entry | {"class_gain": {name: gain.to_json() for name, gain in self.class_gain.items()}}


@dataclass(frozen=True)
class Study:
    """A benchmark's result.

    Attributes:
        title: what was asked.
        images: how many.
        readings: hidden readings.
        scores: of every contestant.
    """

    title: str
    images: int
    readings: int
    scores: tuple[Score, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return dict(vars(self)) | {"scores": [score.to_json() for score in self.scores]}


def benchmark_readers(
    rows: pd.DataFrame, labels: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Study, ...]:
    """Return the contestants' scores against hidden readers: cross-fitted, and learned of other readers only.

    Args:
        rows: validated readers' rows; images without a box are left out.
        labels: the classes.
        resamples: draws of images for the intervals.
        seed: of the draws.
    """
    marks = marks_with_boxes(rows, labels)
    names = marks.image_names.tolist()
    folds = random_folds(dict(zip(names, names, strict=True)), FOLDS, seed)
    fold_of = {name: number for number, fold in enumerate(folds) for name in fold}
    fold = np.array([fold_of[name] for name in names])
    parts = [(marks.take_images(fold != number), marks.take_images(fold == number)) for number in range(FOLDS)]
    studies = [_study(f"one reader hidden, cross-fitted in {FOLDS} folds", parts, resamples, seed)]
    regulars = np.isin(marks.readers, REGULARS)
    by_regulars = np.all(marks.looked == regulars, axis=1)
    by_others = ~np.any(marks.looked[:, regulars], axis=1)
    if by_regulars.any() and by_others.any():
        title = f"learned of {', '.join(REGULARS)} alone, scored on images of other readers"
        studies.append(_study(title, [(marks.take_images(by_regulars), marks.take_images(by_others))], resamples, seed))
    return tuple(studies)


def marks_with_boxes(rows: pd.DataFrame, labels: Sequence[str]) -> Marks:
    """Return the images on which anybody drew a box and at least three readers looked.

    Raises:
        UsageError: there is no such image.
    """
    marks = Marks.of(rows, labels)
    kept = np.zeros(len(marks.looked), dtype=bool)
    kept[marks.images] = True
    kept &= marks.looked.sum(axis=1) > 2
    if not kept.any():
        raise UsageError(
            "the readers' table: no image has a box and three readers; expected a table like VinBigData's, so that one "
            "reader can be hidden and the others fused."
        )
    return marks.take_images(kept)


@dataclass(frozen=True)
class FitCost:
    """Cost of a fit on the whole table."""

    cpu_s: float
    wall_s: float
    peak_bytes: int | None


def measure_fit(rows: pd.DataFrame, labels: Sequence[str]) -> FitCost:
    """Return time and the process's peak of resident memory after a fit on the whole table."""
    wall, cpu = time.perf_counter(), time.process_time()
    fit_marks(Marks.of(rows, labels), resamples=200)
    return FitCost(time.process_time() - cpu, time.perf_counter() - wall, peak_bytes())


def study_tables(study: Study) -> list[Table]:
    """Return what to print of a study: every contestant, then the classes of the baseline and of ours."""
    title = f"{study.title}: {study.images:,} images, {study.readings:,} readings"
    contestants = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    contestants.add_column("consensus", no_wrap=True)
    for header in ("boxes", "VOC@.4", "difference\nto shares", "@.5", "@.75", "COCO\nmAP"):
        contestants.add_column(header, justify="right")
    for score in study.scores:
        figures = (format_score(value) for value in (score.voc_50, score.voc_75, score.mean_ap))
        contestants.add_row(
            score.name, f"{score.boxes:,}", format_score(score.voc_40.value), _signed(score.gain), *figures
        )
    classes = Table(title="VOC@.4 per class", title_justify="left", box=box.SIMPLE_HEAD)
    classes.add_column("class", no_wrap=True)
    shown = [score for score in study.scores if score.name in (BASELINE, OURS, WITH_ALTERNATIVES)]
    for score in shown:
        classes.add_column(score.name, justify="right")
    classes.add_column("difference", justify="right")
    ours = next(score for score in study.scores if score.name == OURS)
    for label in ours.class_gain:
        values = [format_score(score.per_class[label]) for score in shown]
        classes.add_row(label, *values, _signed(ours.class_gain[label]))
    return [contestants, classes]


def _signed(difference: Interval) -> str:
    if difference.value is None:
        return UNDEFINED
    ends = "" if difference.low is None else f"\n{difference.low:+.3f} to {difference.high:+.3f}"
    return f"{difference.value:+.3f}{ends}"


def _study(title: str, parts: Sequence[tuple[Marks, Marks]], resamples: int, seed: int) -> Study:
    ranked: dict[str, list[Ranked]] = {}
    truths, of_image, n_images, n_readings = [], [], 0, 0
    for train, test in parts:
        others, of_reading, hidden = test.hide_each_reader()
        for name, found in _contestants(train, others).items():
            moved = Ranked(found.images + n_readings, found.classes, found.boxes_xyxy, found.scores)
            ranked.setdefault(name, []).append(moved)
        truth = hidden_boxes(test, of_reading, hidden)
        truths.append((truth.image_index + n_readings, truth.category_index, truth.boxes_xywh, truth.areas))
        of_image.append(of_reading + n_images)
        n_images += len(test.looked)
        n_readings += len(hidden)
    images, classes, boxes, areas = (np.concatenate(column) for column in zip(*truths, strict=True))
    labels = parts[0][0].labels
    truth = TruthTable(
        image_ids=np.arange(n_readings),
        category_ids=np.arange(len(labels)),
        names=labels,
        image_index=images,
        category_index=classes,
        boxes_xywh=boxes,
        areas=areas,
        crowd=np.zeros(len(images), dtype=bool),
    )
    joined = {name: _join(own) for name, own in ranked.items()}
    return Study(title, n_images, n_readings, _scores(truth, joined, np.concatenate(of_image), resamples, seed))


def _join(parts: Sequence[Ranked]) -> Ranked:
    return Ranked(*(np.concatenate([getattr(part, name) for part in parts]) for name in Ranked.__dataclass_fields__))


def _contestants(train: Marks, others: Marks) -> dict[str, Ranked]:
    """Return every contestant's boxes of the readings ``others``, learned of the images ``train``."""
    candidates = Candidates.of(others)
    votes, looked = candidates.marked.sum(axis=1), others.looked[candidates.images].sum(axis=1)
    shares = votes / looked
    model = fit_marks(train)
    boxes, scores, extra = model.rank(others, candidates, alternatives=True)

    def ranked(corners: NDArray[np.float64], values: NDArray[np.float64]) -> Ranked:
        return Ranked(candidates.images, candidates.classes, corners, values)

    ours = ranked(boxes, scores)
    found = {
        "WBF, score 1": ranked(candidates.boxes_xyxy, np.ones(len(votes))),
        BASELINE: ranked(candidates.boxes_xyxy, shares),
        "NMS, vote shares": _nms(others),
        "majority": _those(ranked(candidates.boxes_xyxy, np.ones(len(votes))), votes * 2 > looked),
        "table of frequencies": ranked(candidates.boxes_xyxy, _frequencies(train, candidates)),
        "vote shares, our corners": ranked(boxes, shares),
        "our scores, WBF's corners": ranked(candidates.boxes_xyxy, scores),
        OURS: ours,
    }
    if extra is not None:
        place, classes, extra_scores = extra
        also = Ranked(candidates.images[place], classes, boxes[place], extra_scores)
        found[WITH_ALTERNATIVES] = _join([ours, also])
    return found


def _those(found: Ranked, kept: NDArray[np.bool_]) -> Ranked:
    return Ranked(*(getattr(found, name)[kept] for name in Ranked.__dataclass_fields__))


def _nms(others: Marks) -> Ranked:
    _, groups = np.unique(others.images * len(others.labels) + others.classes, return_inverse=True)
    ones = np.ones(len(others.images))
    of_mark = cluster_boxes(others.boxes_xyxy, ones, groups.reshape(-1), COMPETITION_IOU, fuse=False)
    _, first = np.unique(of_mark, return_index=True)
    behind = np.unique(of_mark * len(others.readers) + others.drawn_by) // len(others.readers)
    shares = np.bincount(behind) / others.looked[others.images[first]].sum(axis=1)
    return Ranked(others.images[first], others.classes[first], others.boxes_xyxy[first], shares)


def _frequencies(train: Marks, candidates: Candidates) -> NDArray[np.float64]:
    """Return how often a hidden reader of ``train`` met such a candidate: of its class, marks and readers, smoothed."""
    others, of_reading, hidden = train.hide_each_reader()
    own = Candidates.of(others)
    truth = hidden_boxes(train, of_reading, hidden)
    found = DetectionTable(own.images, own.classes, xyxy_to_xywh(own.boxes_xyxy), np.ones(len(own.images)))
    pairs = overlapping_pairs(truth, found)
    met = np.zeros(len(own.images))
    met[pairs.found[pairs.iou > COMPETITION_IOU]] = 1.0
    fitted, given = np.full(len(met), met.mean()), np.full(len(candidates.images), met.mean())
    for detail in range(3):
        keys = [_keys(each, detail) for each in (own, candidates)]
        _, number = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
        number = number.reshape(-1)
        mine, theirs = number[: len(met)], number[len(met) :]
        hits, counts = (np.bincount(mine, weights, number.max() + 1) for weights in (met, np.ones(len(met))))
        fitted = (hits[mine] + SMOOTHING * fitted) / (counts[mine] + SMOOTHING)
        given = (hits[theirs] + SMOOTHING * given) / (counts[theirs] + SMOOTHING)
    return given


def _keys(candidates: Candidates, detail: int) -> NDArray[np.int16]:
    columns: list[NDArray[Any]] = [candidates.classes[:, None]]
    if detail:
        columns.append(candidates.marked.sum(axis=1)[:, None])
    if detail > 1:
        columns += [candidates.marked, candidates.missed]
    return np.concatenate(columns, axis=1).astype(np.int16)


def _scores(
    truth: TruthTable, ranked: Mapping[str, Ranked], of_image: NDArray[np.int64], resamples: int, seed: int
) -> tuple[Score, ...]:
    tables = {name: found.table() for name, found in ranked.items()}
    pairs = {name: overlapping_pairs(truth, table) for name, table in tables.items()}
    matched = {name: match_tables(truth, tables[name], pairs[name], iou_threshold=COMPETITION_IOU) for name in tables}

    def values(weights: NDArray[np.number]) -> dict[str, NDArray[np.float64]]:
        found = {}
        for name, classes in matched.items():
            precision = np.stack([average_precision(each, weights) for each in classes])
            found[name] = mean_defined(precision)
            found |= {f"{name}/{each.name}": own for each, own in zip(classes, precision, strict=True)}
        return found

    point = {name: float(value[0]) for name, value in values(np.ones((1, len(of_image)))).items()}
    samples = bootstrap(values, of_image, resamples=resamples, seed=seed) if resamples else {}
    groups, nothing = int(of_image.max()) + 1, np.zeros(0)

    def gain(name: str, base: str) -> Interval:
        apart = samples[name] - samples[base] if samples else nothing
        return percentile_interval(point[name] - point[base], apart, groups=groups)

    def at(name: str, threshold: float) -> float:
        classes = match_tables(truth, tables[name], pairs[name], iou_threshold=threshold)
        return float(mean_defined(np.array([_or_nan(average_precision(each)) for each in classes])))

    return tuple(
        Score(
            name=name,
            boxes=len(tables[name].scores),
            voc_40=percentile_interval(point[name], samples.get(name, nothing), groups=groups),
            gain=gain(name, BASELINE),
            voc_50=at(name, 0.5),
            voc_75=at(name, 0.75),
            mean_ap=_coco_mean(truth, tables[name], pairs[name]),
            per_class={label: _or_none(point[f"{name}/{label}"]) for label in truth.names},
            class_gain={
                label: gain(f"{name}/{label}", f"{BASELINE}/{label}")
                for label in truth.names
                if not np.isnan(point[f"{name}/{label}"])
            },
        )
        for name in tables
    )


def _coco_mean(truth: TruthTable, found: DetectionTable, pairs: Any) -> float:
    precision = [coco_average_precision(each)[:, 0].mean() for each in match_coco(truth, found, pairs)]
    return float(mean_defined(np.array(precision)))


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


@dataclass(frozen=True)
class Reading:
    """Speed at which third readings bring the consensus of two readers to that of all three.

    Attributes:
        order: how the images were ordered.
        shares: share of the images whose third reading is known.
        distances: mean absolute difference of the boxes' scores to the final consensus, as a share of what it was
            without any third reading.
    """

    order: str
    shares: tuple[float, ...]
    distances: tuple[float, ...]


STEPS = tuple(step / 10 for step in range(11))


def simulate_reading(rows: pd.DataFrame, labels: Sequence[str], *, seed: int = 0) -> tuple[Reading, ...]:
    """Return how the consensus approaches the final one when third readings come by ours, at random or by disagreement.

    One reader of each image is hidden, by chance. The parameters are those of other images, in folds. An image's
    distance is the sum over its final boxes of how far the score is from the final one, boxes found only by two readers
    counting in full; it is 0 once the third reading is known.

    Args:
        rows: validated readers' rows.
        labels: the classes.
        seed: of chance.
    """
    marks = marks_with_boxes(rows, labels)
    random = np.random.default_rng(seed)
    fold = random.permutation(len(marks.looked)) % FOLDS
    distance, ours, split = (np.zeros(len(marks.looked)) for _ in range(3))
    for number in range(FOLDS):
        train = marks.take_images(fold != number)
        model = fit_marks(train, alternatives=False)
        test = marks.take_images(fold == number)
        others, of_reading, _ = test.hide_each_reader()
        # One reading of each image, whichever chance hides.
        order = random.permutation(len(of_reading))
        chosen = np.zeros(len(of_reading), dtype=bool)
        chosen[order[np.unique(of_reading[order], return_index=True)[1]]] = True
        two = others.take_images(chosen)
        distance[fold == number] = changes_of(model, two, test, of_reading[chosen])
        ours[fold == number] = ExpectedChange.fit(model, train).of(two)
        split[fold == number] = disagreements(two)
    chance = random.random(len(distance))
    orders = {
        "expected change": np.lexsort((chance, -ours)),
        "disagreement": np.lexsort((chance, -split)),
        "random": np.argsort(chance),
        "best possible": np.argsort(-distance),
    }
    return tuple(
        Reading(
            order=name,
            shares=STEPS,
            distances=tuple(
                float(distance[order[round(step * len(order)) :]].sum() / distance.sum()) for step in STEPS
            ),
        )
        for name, order in orders.items()
    )


def reading_table(readings: Sequence[Reading]) -> Table:
    """Return what to print of a simulation."""
    table = Table(title="Distance to the consensus of all readings", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("third readings by", no_wrap=True)
    for step in STEPS[:-1]:
        table.add_column(f"{100 * step:.0f} %", justify="right")
    for reading in readings:
        table.add_row(reading.order, *(f"{100 * distance:.0f}" for distance in reading.distances[:-1]))
    return table


def plot_readings(path: Path, readings: Sequence[Reading]) -> None:
    """Draw how the distance to the final consensus falls with the share of images read a third time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="images with a third reading, %", ylabel="distance left, %")
    for reading in readings:
        style = {"random": ":", "best possible": "--"}.get(reading.order, "-")
        percent = [[100 * value for value in values] for values in (reading.shares, reading.distances)]
        axes.plot(*percent, style, label=reading.order)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
