"""A consensus of readers whose scores say how likely a further reader marks the box: fitted by hiding one reader.

Three layers, each learned from the readers' table itself:

1. :class:`cxr_mmdet.annotations.readers.Reliability`, by EM: how much each mark and each missing mark tells.
2. Corners: precision-weighted mean of the marks with the readers' biases removed, then a ridge regression of how a
   further reader's box differs from it.
3. Score: of each image one reader after the other is hidden; a logistic regression learns whether the hidden reader
   marks the box, given who marked it, who looked and did not, its place, size and spread, and what else was marked.

Every regression has effects shared by all classes and deviations of each class from them, the latter shrunk more, so
that a rare class with few rows behaves like the others. An unknown reader has the mean effect of the known ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.consensus import REFERENCE_IOU_THRESHOLD, fuse_readers, with_regions
from cxr_mmdet.annotations.marks import Candidates, Marks, hidden_boxes, sums_at
from cxr_mmdet.annotations.reader_features import (
    BY_MARKING_READER,
    as_other_class,
    describe,
    extents_of,
    other_classes,
    pairs_with,
    take,
)
from cxr_mmdet.annotations.reader_regression import Blocks, Layer
from cxr_mmdet.annotations.readers import RESAMPLES, Reliability
from cxr_mmdet.annotations.table import is_region, without_regions
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.files import write_json
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cxr_mmdet.annotations.marks import Flags, Floats, Indices
    from cxr_mmdet.evaluation.matching import Pairs

SCHEMA_VERSION = 1
_EXAMPLE = pd.DataFrame([["", "", 0.0, 0.0, 1.0, 1.0]], columns=["image_id", "reader", *XYXY_COLUMNS])
"""A box by which a file is tried before it is trusted."""
CORNER_FEATURES = ("log_width", "log_height", "aspect", "x", "y", "width", "height", "spread", "marks", "all_marks")
CORNER_IOU = 0.3
"""Boxes of the hidden reader that overlap less are not taken for the same finding."""
BIRGE_SHRINKAGE = 2.0
"""Marks by which the spread of a candidate's own marks is drawn to that of its readers."""
RELATED = 0.01
"""Least share of a class's candidates that the hidden reader marks as the other class."""


@dataclass(frozen=True)
class ReaderModel:
    """Model of the readers of a table; :func:`fit_readers` makes it, :meth:`consensus` applies it.

    Attributes:
        reliability: sensitivity, false marks, bias and spread.
        reading_shares: (readers,) share of the readings, by which an unknown reader is the mean of the known.
        unit: length in pixels by which places and sizes are measured.
        corners: gives the four sides of a further reader's box, in shares of the candidate's width and height.
        score: gives the log odds that a further reader marks the candidate.
        alternatives: gives the log odds that a further reader marks it as another class; None: not fitted.
        related: (classes, classes) which other classes are considered for candidates of a class.
    """

    reliability: Reliability
    reading_shares: Floats
    unit: float
    corners: Layer
    score: Layer
    alternatives: Layer | None
    related: Flags

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes that the model knows."""
        return self.reliability.labels

    def to_json(self) -> dict[str, Any]:
        """Return what a file of reader parameters holds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "reliability": self.reliability.to_json(),
            "reading_shares": self.reading_shares.tolist(),
            "unit_px": self.unit,
            "corners": self.corners.to_json(),
            "score": self.score.to_json(),
            "alternatives": self.alternatives and self.alternatives.to_json(),
            "related": self.related.tolist(),
        }

    @classmethod
    def load(cls, path: Path, labels: Sequence[str]) -> ReaderModel:
        """Return the model of a file that :meth:`save` wrote.

        Args:
            path: the file.
            labels: classes that it has to know.

        Raises:
            UsageError: it does not know them all.
            DatasetError: it cannot be read, or is damaged.
        """
        remedy = "give a readers_<labels>.json of a folder that tools/prepare_data.py build --fusion readers wrote"
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); {remedy}.") from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DatasetError(f"{path}: is not JSON ({error}); {remedy}.") from None
        try:
            if entry["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema version {entry['schema_version']}, expected {SCHEMA_VERSION}")
            reliability = Reliability.from_json(entry["reliability"])
            n_labels, n_readers = len(reliability.labels), len(reliability.readers)
            corners, score = (Layer.from_json(entry[name], n_labels) for name in ("corners", "score"))
            other = entry["alternatives"] and Layer.from_json(entry["alternatives"], n_labels)
            shares = np.array(entry["reading_shares"], dtype=np.float64)
            related = np.array(entry["related"], dtype=bool)
            unit = float(entry["unit_px"])
            if shares.shape != (n_readers,) or related.shape != (n_labels, n_labels) or not 0 < unit < np.inf:
                raise ValueError("its arrays do not fit its readers and classes")
            model = cls(reliability, shares, unit, corners, score, other, related)
            model.consensus(_EXAMPLE.assign(class_name=reliability.labels[0]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise DatasetError(f"{path}: is not a complete file of reader parameters ({reason}); {remedy}.") from None
        unknown = [label for label in labels if label not in model.labels]
        if unknown:
            raise UsageError(
                f"{path}: holds the parameters of {', '.join(model.labels[:3])} … ({len(model.labels)} classes), not "
                f"of {', '.join(unknown[:3])}; give those of the same label set, or omit --reader-model to learn them "
                "from this table."
            )
        return model

    def save(self, path: Path) -> None:
        """Write the parameters; same model, same bytes."""
        write_json(path, self.to_json())

    def consensus(self, rows: pd.DataFrame, *, alternatives: bool = False) -> pd.DataFrame:
        """Return the consensus of the readers of each image, as :func:`fuse_readers` does, sorted.

        Boxes of classes that the model does not know are left out.

        Args:
            rows: validated readers' rows; images and readers may be others than those of the fit.
            alternatives: add each box under the other classes that readers confuse its class with, scored likewise;
                ``votes`` 0 and no reader stand behind those.

        Returns:
            image_id, class_name, x_min, y_min, x_max, y_max, score (probability that a further reader marks the box),
            corner_spread (standard deviations of the left, upper, right and lower side, in shares of width and height),
            votes and readers.
        """
        marks = Marks.of(rows, self.labels, self.reliability.readers)
        candidates = Candidates.of(marks)
        boxes, scores, extra = self.rank(marks, candidates, alternatives=alternatives)
        _, deviations = unbiased_boxes(marks, candidates, self.reliability)
        spread = pd.Series(list(map(tuple, deviations.tolist())), dtype=object)
        names = np.array(marks.readers, dtype=object)
        behind = [tuple(sorted(names[row])) for row in candidates.marked]
        frame = _frame(marks, candidates.images, candidates.classes, boxes, scores).assign(
            corner_spread=spread, votes=candidates.marked.sum(axis=1), readers=pd.Series(behind, dtype=object)
        )
        if extra is not None:
            place, classes, extra_scores = extra
            other = _frame(marks, candidates.images[place], classes, boxes[place], extra_scores)
            nobody = pd.Series([()] * len(place), dtype=object)
            also = other.assign(corner_spread=spread.to_numpy()[place], votes=0, readers=nobody)
            frame = pd.concat([frame, also])
        return frame.sort_values(["image_id", "class_name", *XYXY_COLUMNS], kind="stable", ignore_index=True)

    def rank(
        self, marks: Marks, candidates: Candidates, *, alternatives: bool = False
    ) -> tuple[Floats, Floats, tuple[Indices, Indices, Floats] | None]:
        """Return (K, 4) corners and (K,) scores of candidates, and their alternatives: candidate, class and score."""
        blocks = describe(marks, candidates, self.reliability, self.reading_shares, self.unit)
        boxes = self._corners(marks, candidates, blocks)
        odds = self.score.predict(blocks, candidates.classes)[:, 0]
        if not alternatives or self.alternatives is None:
            return boxes, _probability(odds), None
        place, classes = other_classes(candidates, self.related, self.labels)
        also = as_other_class(blocks, candidates, odds, place, len(self.labels))
        return boxes, _probability(odds), (place, classes, _probability(self.alternatives.predict(also, classes)[:, 0]))

    def _corners(self, marks: Marks, candidates: Candidates, blocks: Blocks) -> Floats:
        boxes, _ = unbiased_boxes(marks, candidates, self.reliability)
        moved = boxes + self.corners.predict(blocks, candidates.classes) * candidates.sizes
        return _if_proper(moved, boxes)


def fuse_by_readers(rows: pd.DataFrame, model: ReaderModel | None = None) -> tuple[pd.DataFrame, ReaderModel | None]:
    """Return the consensus by a model of the readers, and the model; regions to ignore come through as they are.

    Where no two readers share an image there is nothing to learn: the consensus is that of WBF, and the model None.

    Args:
        rows: validated readers' rows.
        model: parameters to use instead of those that ``rows`` teach.
    """
    found = without_regions(rows)
    if model is None:
        labels = sorted(set(found["class_name"]) - {NO_FINDING})
        if not labels or found.groupby("image_id")["reader"].nunique().max() < 2:
            return fuse_readers(rows), None
        model = fit_readers(found, labels, resamples=RESAMPLES)
    boxes = model.consensus(found)
    region = is_region(rows)
    return (with_regions(boxes, rows[region]) if region.any() else boxes), model


def fit_readers(
    rows: pd.DataFrame, labels: Sequence[str], *, alternatives: bool = True, resamples: int = 0
) -> ReaderModel:
    """Return what a readers' table teaches about its readers: deterministic, and blind to the order of the rows.

    Args:
        rows: validated readers' rows.
        labels: classes to learn.
        alternatives: also learn which classes readers confuse.
        resamples: draws of images for the intervals of the reliability; 0: none.

    Raises:
        TableError: no image has two readers.
    """
    return fit_marks(Marks.of(rows, labels), alternatives=alternatives, resamples=resamples)


def fit_marks(marks: Marks, *, alternatives: bool = True, resamples: int = 0) -> ReaderModel:
    """Return the model of :func:`fit_readers`, of marks."""
    reliability = Reliability.of(marks, resamples=resamples)
    shares = marks.looked.sum(axis=0) / marks.looked.sum()
    extents = extents_of(marks)
    unit = float(np.median(extents[extents > 0])) if (extents > 0).any() else 1.0
    others, of_reading, hidden = marks.hide_each_reader()
    candidates = Candidates.of(others)
    blocks = describe(others, candidates, reliability, shares, unit)
    truth = hidden_boxes(marks, of_reading, hidden)

    base, _ = unbiased_boxes(others, candidates, reliability)
    pairs = pairs_with(candidates, base, truth)
    best = _best(pairs, len(base))
    met = best >= 0
    met[met] = pairs.iou[best[met]] > CORNER_IOU
    offsets = (truth.boxes_xyxy[pairs.truth[best[met]]] - base[met]) / candidates.sizes[met]
    n_labels = len(marks.labels)
    corners = Layer.prepare(blocks, CORNER_FEATURES, [BY_MARKING_READER])
    corners = corners.fit_linear(take(blocks, met), candidates.classes[met], np.clip(offsets, -1, 1), n_labels)
    related: Flags = np.zeros((n_labels, n_labels), dtype=bool)
    unscored = Layer.prepare(blocks)
    model = ReaderModel(reliability, shares, unit, corners, unscored, None, related)

    boxes = model._corners(others, candidates, blocks)
    pairs = pairs_with(candidates, boxes, truth, same_class=False)
    near = pairs.iou > REFERENCE_IOU_THRESHOLD
    marked_as = np.zeros((len(boxes), n_labels), dtype=bool)
    marked_as[pairs.found[near], truth.category_index[pairs.truth[near]]] = True
    own_class = marked_as[np.arange(len(boxes)), candidates.classes]
    score = unscored.fit_logistic(blocks, candidates.classes, own_class, n_labels)
    if not alternatives:
        return ReaderModel(reliability, shares, unit, corners, score, None, related)
    totals = np.zeros((n_labels, n_labels))
    np.add.at(totals, candidates.classes, marked_as)
    per_class = np.bincount(candidates.classes, minlength=n_labels)
    related = totals > RELATED * np.maximum(per_class, 1)[:, None]
    np.fill_diagonal(related, False)
    place, classes = other_classes(candidates, related, marks.labels)
    layer = None
    if len(place):
        odds = score.predict(blocks, candidates.classes)[:, 0]
        also = as_other_class(blocks, candidates, odds, place, n_labels)
        layer = Layer.prepare(also).fit_logistic(also, classes, marked_as[place, classes], n_labels)
    return ReaderModel(reliability, shares, unit, corners, score, layer, related)


def unbiased_boxes(marks: Marks, candidates: Candidates, reliability: Reliability) -> tuple[Floats, Floats]:
    """Return boxes made of the marks of each candidate, and how uncertain their sides are.

    Returns:
        (K, 4) precision-weighted means of the marks without their readers' biases; and (K, 4) standard deviations of
        these means, in shares of the candidate's width and height. Readers' precisions give what a mean of such readers
        deviates by; where the marks lie further apart than their readers' spread explains, or closer, it is scaled by
        their own chi square (Birge's ratio, Phys. Rev. 40, 207, 1932), shrunk towards 1 by :data:`BIRGE_SHRINKAGE`.
    """
    n_known = len(reliability.readers)
    known = marks.drawn_by < n_known
    reader = np.where(known, marks.drawn_by, 0)
    bias = np.where(known[:, None], reliability.bias[reader, marks.classes], 0.0)
    spread = np.where(
        known[:, None], reliability.spread[reader, marks.classes], reliability.class_spread[marks.classes]
    )
    sizes = candidates.sizes[candidates.of_mark]
    weights, sides = spread**-2.0, marks.boxes_xyxy - bias * sizes
    length = len(candidates.images)
    total = sums_at(candidates.of_mark, weights, length)
    boxes = sums_at(candidates.of_mark, weights * sides, length) / total
    residuals = (sides - boxes[candidates.of_mark]) / sizes
    chi_square = sums_at(candidates.of_mark, weights * residuals**2, length)
    ratio = (chi_square + BIRGE_SHRINKAGE) / (candidates.n_marks[:, None] - 1 + BIRGE_SHRINKAGE)
    return _if_proper(boxes, candidates.boxes_xyxy), np.sqrt(ratio / total)


def _if_proper(boxes_xyxy: Floats, others_xyxy: Floats) -> Floats:
    """Return the boxes, but the others where a side would be 0 or less."""
    proper = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(axis=1, keepdims=True)
    return np.where(proper, boxes_xyxy, others_xyxy)


def _best(pairs: Pairs, length: int) -> Indices:
    """Return (length,) the row of ``pairs`` of the largest overlap of each candidate; -1 without any."""
    best = np.full(length, -1)
    order = np.lexsort((-pairs.truth, pairs.iou))
    best[pairs.found[order]] = order
    return best


def _frame(marks: Marks, images: Indices, classes: Indices, boxes_xyxy: Floats, scores: Floats) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": marks.image_names[images],
            "class_name": np.array(marks.labels, dtype=object)[classes],
            **dict(zip(XYXY_COLUMNS, boxes_xyxy.T, strict=True)),
            "score": scores,
        }
    )


def _probability(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
