"""Active reading: which images a further reader should look at, by how much the consensus is expected to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.consensus import REFERENCE_IOU_THRESHOLD
from cxr_mmdet.annotations.marks import Candidates, Marks, boxes_as_truth, rows_of
from cxr_mmdet.evaluation.matching import DetectionTable, overlapping_pairs
from cxr_mmdet.structures.boxes import xyxy_to_xywh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.annotations.reader_consensus import ReaderModel

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

RIDGE = 30.0


@dataclass(frozen=True)
class ExpectedChange:
    """Expected change of the scores of an image's boxes after one more reading, learned by hiding a reader.

    Attributes:
        model: what is known of the readers.
        scale: (F,) of each feature.
        weights: (F,).
    """

    model: ReaderModel
    scale: Floats
    weights: Floats

    @classmethod
    def fit(cls, model: ReaderModel, marks: Marks) -> ExpectedChange:
        """Return what images that several readers read teach: by ridge regression on what readers found so far.

        Args:
            model: what is known of the readers.
            marks: of :meth:`Marks.of` with the readers of ``model`` first.
        """
        others, of_reading, _ = marks.hide_each_reader()
        changes = changes_of(model, others, marks, of_reading)
        features = _features(model, others)
        scale = np.sqrt((features**2).mean(axis=0)) + 1e-9
        columns = features / scale
        normal = columns.T @ columns + RIDGE * np.eye(columns.shape[1])
        return cls(model, scale, np.linalg.solve(normal, columns.T @ changes))

    def of(self, marks: Marks) -> Floats:
        """Return (images,) the expected change; at least 0."""
        return np.maximum(_features(self.model, marks) / self.scale @ self.weights, 0.0)


def changes_of(model: ReaderModel, before: Marks, after: Marks, of_image: Indices) -> Floats:
    """Return how far the scores of boxes move from fewer readers to more: (images of ``before``,).

    The sum of absolute differences over the boxes of both; a box that one side lacks counts with its whole score.

    Args:
        model: what is known of the readers.
        before: marks of fewer readers.
        after: marks of more.
        of_image: place in ``after`` of each image of ``before``.
    """
    first, last = Candidates.of(before), Candidates.of(after)
    boxes, scores, _ = model.rank(before, first)
    last_boxes, last_scores, _ = model.rank(after, last)
    # Every image of `before` has its own copy of the boxes after.
    rows, images = rows_of(last.images, of_image)
    truth = boxes_as_truth(images, last.classes[rows], last_boxes[rows], len(of_image), after.labels)
    found = DetectionTable(first.images, first.classes, xyxy_to_xywh(boxes), scores)
    pairs = overlapping_pairs(truth, found)
    near = np.flatnonzero(pairs.iou > REFERENCE_IOU_THRESHOLD)
    near = near[np.argsort(pairs.iou[near], kind="stable")]
    known, gone = np.zeros(len(rows)), np.ones(len(scores), dtype=bool)
    known[pairs.truth[near]] = scores[pairs.found[near]]
    gone[pairs.found[near]] = False
    moved = np.bincount(images, np.abs(last_scores[rows] - known), minlength=len(of_image))
    lost = np.bincount(first.images, scores * gone, minlength=len(of_image))
    return (moved + lost).astype(np.float64)


def disagreements(marks: Marks) -> Floats:
    """Return (images,) how many boxes of each image some reader who looked did not mark."""
    candidates = Candidates.of(marks)
    missed = candidates.missed.any(axis=1).astype(np.float64)
    return np.bincount(candidates.images, missed, minlength=len(marks.looked)).astype(np.float64)


def next_reads(rows: pd.DataFrame, model: ReaderModel, n: int) -> pd.DataFrame:
    """Return the ``n`` images that a further reader should look at, the most worthwhile first.

    Args:
        rows: validated readers' rows, from which the expected change is learned as well.
        model: what is known of the readers.
        n: how many.

    Returns:
        image_id, expected_change, readers (how many looked so far) and boxes (candidates so far).
    """
    marks = Marks.of(rows, model.labels, model.reliability.readers)
    expected = ExpectedChange.fit(model, marks).of(marks)
    frame = pd.DataFrame(
        {
            "image_id": marks.image_names,
            "expected_change": expected.round(4),
            "readers": marks.looked.sum(axis=1),
            "boxes": np.bincount(Candidates.of(marks).images, minlength=len(marks.looked)),
        }
    )
    return frame.sort_values(["expected_change", "image_id"], ascending=[False, True], ignore_index=True).head(n)


def _features(model: ReaderModel, marks: Marks) -> Floats:
    """Return (images, F): of each class the boxes, their scores, uncertainty and lone ones; and of the whole image."""
    candidates = Candidates.of(marks)
    _, scores, _ = model.rank(marks, candidates)
    n_images, n_labels = len(marks.looked), len(marks.labels)
    key = candidates.images * n_labels + candidates.classes
    lone = candidates.missed.any(axis=1)
    columns = [np.ones_like(scores), scores, scores * (1 - scores), lone, scores * lone]
    sums = [np.bincount(key, column, minlength=n_images * n_labels).reshape(n_images, n_labels) for column in columns]
    boxes = sums[0].sum(axis=1)
    empty = marks.looked.copy()
    empty[marks.images, marks.drawn_by] = False
    whole = [np.ones(n_images), np.sqrt(boxes), np.log1p(boxes), empty.sum(axis=1) * boxes, (sums[0] > 0).sum(axis=1)]
    n_known = len(model.reading_shares)
    who = marks.looked[:, :n_known] * np.sqrt(boxes)[:, None]
    return np.column_stack([*sums, *whole, who])
