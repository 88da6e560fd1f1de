"""Inter-reader agreement per class and pair of readers: matched boxes, F1, and kappa over whole images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from cxr_mmdet.annotations.marks import Marks
from cxr_mmdet.structures.boxes import iou
from cxr_mmdet.structures.coverage import Coverage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


_Counts = dict[tuple[int, int, int], "BoxAgreement"]
"""By reader, reader and class: what both drew on the images they share."""

AGREEMENT_IOU = 0.4
"""The competition's overlap; boxes meet above it."""


@dataclass(frozen=True)
class BoxAgreement:
    """Boxes of two readers and their matches; of one pair, or of all pairs that share an image.

    Attributes:
        boxes: how many boxes each side drew on the images that both read.
        met: how many of them meet a box of the other side, on either side.
        matched: how many can be paired off one to one.
    """

    boxes: tuple[int, int]
    met: tuple[int, int]
    matched: int

    @property
    def met_share(self) -> tuple[float | None, float | None]:
        """The share of each side's boxes that meets a box of the other; None where a side drew none."""
        first, second = (_ratio(met, boxes) for met, boxes in zip(self.met, self.boxes, strict=True))
        return first, second

    @property
    def f1(self) -> float | None:
        """Twice the pairs over all boxes: 1 when all can be paired off; None where nobody drew any."""
        return 2 * self.matched / sum(self.boxes) if sum(self.boxes) else None


def measure_agreement(
    rows: pd.DataFrame,
    labels: Sequence[str],
    *,
    iou_threshold: float = AGREEMENT_IOU,
    coverage: pd.DataFrame | None = None,
) -> dict[str, Any] | None:
    """Return how far the readers of the same images agree, as ``manifest.json`` holds it; None where no two do.

    ``readers``: each reader's images, boxes, and the share of boxes that meet any other reader's box of the same class.
    ``per_class``: the same over all readers, F1 over all pairs of readers of an image, and Fleiss' kappa of whether an
    image holds the class. ``pairs``: for each pair of readers with an image in common, their images, and for each
    class that one of them drew: boxes, met share and F1 at the threshold, and Cohen's kappa; met share and F1 also over
    all classes.

    Args:
        rows: validated readers' rows, whose classes have the names of the labels.
        labels: the classes to look at.
        iou_threshold: boxes meet when their intersection over union is above it.
        coverage: image id → one column per label, values of :class:`cxr_mmdet.structures.coverage.Coverage`: readers
            who did not look for a class do not agree that it is absent.
    """
    readings = _Readings.of(rows, labels, coverage)
    shared = _pairs_within(readings.images)  # by the names of the readers
    if not len(shared):
        return None
    pairs = readings.pairs_that_meet(iou_threshold)
    counts = _pair_counts(readings, pairs, shared)
    return {
        "iou_threshold": iou_threshold,
        "images": len(np.unique(readings.images[shared[:, 0]])),
        "readers": _per_reader(readings, pairs),
        "per_class": _per_class(readings, pairs, counts),
        "pairs": _per_pair(readings, counts, shared),
    }


def label_agreement(image_labels: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return Fleiss' kappa of image-level labels, a row for each name: the images that any reader gives it, and kappa.

    Args:
        image_labels: as :func:`cxr_mmdet.annotations.sources.read_image_labels` gives them.
        names: the labels.
    """
    images = pd.factorize(image_labels["image_id"], sort=True)[0]
    given = image_labels[list(names)].to_numpy(bool)
    return [
        {
            "name": name,
            "images": len(np.unique(images[given[:, column]])),
            "kappa": fleiss_kappa(images, given[:, column]),
        }
        for column, name in enumerate(names)
    ]


@dataclass(frozen=True)
class _Readings:
    """Each reader's look at each image, and the boxes drawn in it.

    Attributes:
        labels: names of the classes.
        reader_names: sorted.
        images: (N,) image of each reading; readings of one image stand together, by reader.
        readers: (N,) its reader.
        holds: (N, classes) whether a box of the class was drawn.
        known: (N, classes) whether the class was looked for.
        classes: (B,) class of each box; boxes of one image and class stand together, by reader.
        of_box: (B,) its reading.
        boxes_xyxy: (B, 4).
    """

    labels: Sequence[str]
    reader_names: tuple[str, ...]
    images: NDArray[np.int64]
    readers: NDArray[np.int64]
    holds: NDArray[np.bool_]
    known: NDArray[np.bool_]
    classes: NDArray[np.int64]
    of_box: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]

    @classmethod
    def of(cls, rows: pd.DataFrame, labels: Sequence[str], coverage: pd.DataFrame | None) -> _Readings:
        marks = Marks.of(rows, labels)
        images, readers = np.nonzero(marks.looked)
        number = np.zeros(marks.looked.shape, dtype=np.int64)
        number[images, readers] = np.arange(len(images))
        order = np.lexsort((marks.drawn_by, marks.classes, marks.images))
        classes, of_box = marks.classes[order], number[marks.images, marks.drawn_by][order]
        holds = np.zeros((len(images), len(labels)), dtype=bool)
        holds[of_box, classes] = True
        known = np.ones_like(holds)
        if coverage is not None:
            levels = coverage.reindex(index=marks.image_names, columns=list(labels), fill_value=Coverage.EXHAUSTIVE)
            known = (levels.to_numpy() > Coverage.UNKNOWN)[images]
        return cls(labels, marks.readers, images, readers, holds, known, classes, of_box, marks.boxes_xyxy[order])

    @property
    def drawn_by(self) -> NDArray[np.int64]:
        """(B,) reader of each box."""
        return self.readers[self.of_box]

    def pairs_that_meet(self, iou_threshold: float) -> NDArray[np.int64]:
        """Return (P, 2) positions of boxes of one image and class by different readers that overlap enough."""
        pairs = _pairs_within(self.images[self.of_box] * len(self.labels) + self.classes)
        pairs = pairs[self.drawn_by[pairs[:, 0]] != self.drawn_by[pairs[:, 1]]]
        overlaps = iou(self.boxes_xyxy[pairs[:, 0]], self.boxes_xyxy[pairs[:, 1]])
        return pairs[overlaps > iou_threshold]

    def met(self, pairs: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float | None:
        """Return the share of the chosen boxes that meet another; those on images that nobody else read cannot."""
        met = np.zeros(len(self.of_box), dtype=bool)
        met[pairs.reshape(-1)] = True
        read_by = np.bincount(self.images)[self.images]
        counted = met[(read_by[self.of_box] > 1) & chosen]
        return float(counted.mean()) if len(counted) else None


def _pairs_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (P, 2) all pairs of positions of one group, of an array in which groups stand together, in order."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, len(groups)])
    pairs = [np.zeros((0, 2), np.int64)]
    for size in np.unique(sizes[sizes > 1]).tolist():
        within = np.array(list(combinations(range(size), 2)))
        pairs.append((starts[sizes == size][:, None, None] + within).reshape(-1, 2))
    return np.concatenate(pairs)


def _count_matches(pairs: NDArray[np.int64]) -> int:
    """Return how many of the pairs of boxes can stand at once when each box is used once for each pair of readers.

    A largest matching, so that the number does not depend on any order.
    """
    if not len(pairs):
        return 0
    # 32 bits: what scipy's matching takes in all of its versions.
    left, right = (np.unique(side, return_inverse=True)[1].astype(np.int32) for side in pairs.T)
    graph = coo_array((np.ones(len(pairs), np.int8), (left, right))).tocsr()
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def _per_reader(readings: _Readings, pairs: NDArray[np.int64]) -> list[dict[str, Any]]:
    return [
        {
            "reader": name,
            "images": int((readings.readers == number).sum()),
            "boxes": int((readings.drawn_by == number).sum()),
            "met": readings.met(pairs, readings.drawn_by == number),
        }
        for number, name in enumerate(readings.reader_names)
    ]


def _per_class(readings: _Readings, pairs: NDArray[np.int64], counts: _Counts) -> list[dict[str, Any]]:
    rows = []
    for label, name in enumerate(readings.labels):
        own = [agreement for (_, _, other), agreement in counts.items() if other == label]
        drawn = sum(sum(agreement.boxes) for agreement in own)
        rows.append(
            {
                "name": name,
                "boxes": int((readings.classes == label).sum()),
                "met": readings.met(pairs, readings.classes == label),
                "f1": 2 * sum(agreement.matched for agreement in own) / drawn if drawn else None,
                "kappa": fleiss_kappa(
                    readings.images[readings.known[:, label]], readings.holds[readings.known[:, label], label]
                ),
            }
        )
    return rows


def _per_pair(readings: _Readings, counts: _Counts, shared: NDArray[np.int64]) -> list[dict[str, Any]]:
    first, second = readings.readers[shared[:, 0]], readings.readers[shared[:, 1]]
    entries = []
    for a, b in np.unique(np.stack([first, second], axis=1), axis=0).tolist():
        common = shared[(first == a) & (second == b)]
        per_class = []
        for label, name in enumerate(readings.labels):
            agreement = counts.get((a, b, label))
            if agreement is None:
                continue
            holds = readings.holds[common[readings.known[common[:, 0], label]], label]
            per_class.append(
                {
                    "name": name,
                    "boxes": list(agreement.boxes),
                    "met": list(agreement.met_share),
                    "f1": agreement.f1,
                    "kappa": cohen_kappa(holds[:, 0], holds[:, 1]),
                }
            )
        whole = [agreement for (x, y, _), agreement in counts.items() if (x, y) == (a, b)]
        drawn = sum(sum(agreement.boxes) for agreement in whole)
        entries.append(
            {
                "readers": [readings.reader_names[a], readings.reader_names[b]],
                "images": len(common),
                "met": [_ratio(sum(x.met[side] for x in whole), sum(x.boxes[side] for x in whole)) for side in (0, 1)],
                "f1": 2 * sum(agreement.matched for agreement in whole) / drawn if drawn else None,
                "per_class": per_class,
            }
        )
    return entries


def _pair_counts(readings: _Readings, pairs: NDArray[np.int64], shared: NDArray[np.int64]) -> _Counts:
    """Return by (reader, reader, class) what both drew on the images they share, where either drew anything."""
    n_readers, n_labels = len(readings.reader_names), len(readings.labels)
    drawn = np.zeros((len(readings.images), n_labels), dtype=np.int64)
    np.add.at(drawn, (readings.of_box, readings.classes), 1)
    key = readings.readers[shared[:, 0]] * n_readers + readings.readers[shared[:, 1]]
    keys, place = np.unique(key, return_inverse=True)
    totals = np.zeros((2, len(keys), n_labels), dtype=np.int64)
    for side in (0, 1):
        np.add.at(totals[side], place.reshape(-1), drawn[shared[:, side]])
    pair_key = readings.drawn_by[pairs[:, 0]] * n_readers + readings.drawn_by[pairs[:, 1]]
    pair_class = readings.classes[pairs[:, 0]]
    counts = {}
    for row, number in enumerate(keys.tolist()):
        for label in np.flatnonzero(totals[:, row].sum(axis=0)).tolist():
            own = pairs[(pair_key == number) & (pair_class == label)]
            counts[(*divmod(number, n_readers), label)] = BoxAgreement(
                boxes=(int(totals[0, row, label]), int(totals[1, row, label])),
                met=(len(np.unique(own[:, 0])), len(np.unique(own[:, 1]))),
                matched=_count_matches(own),
            )
    return counts


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def cohen_kappa(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float | None:
    """Return the kappa of two raters of the same things (Cohen 1960); None where both say the same of everything.

    Args:
        first: (N,) what one rater says.
        second: (N,) what the other says.
    """
    if not len(first):
        return None
    observed = np.mean(first == second)
    yes = first.mean() * second.mean()
    expected = yes + (1 - first.mean()) * (1 - second.mean())
    return None if expected >= 1 else float((observed - expected) / (1 - expected))


def fleiss_kappa(things: NDArray[np.int64], says_yes: NDArray[np.bool_]) -> float | None:
    """Return the kappa of many raters, whose number may differ from thing to thing; None where nobody disagrees at all.

    Fleiss' kappa for two answers in the form for unequal numbers of ratings: Fleiss and Cuzick, Applied Psychological
    Measurement 3 (1979), 537-542. Things that one rater saw are left out. With equal numbers it is Fleiss' of 1971.

    Args:
        things: (N,) what each rating is about, as numbers from 0.
        says_yes: (N,) the ratings.
    """
    ratings = np.bincount(things)
    positive = np.bincount(things, weights=says_yes)
    positive, ratings = positive[ratings > 1], ratings[ratings > 1]
    if not len(ratings):
        return None
    share = positive.sum() / ratings.sum()
    if share in (0, 1):
        return None
    disagreement = (positive * (ratings - positive) / ratings).sum()
    return float(1 - disagreement / (len(ratings) * (ratings.mean() - 1) * share * (1 - share)))
