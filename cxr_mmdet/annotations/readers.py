"""How reliable each reader is: sensitivity, false marks, and bias and spread of the sides of their boxes, by EM.

Marks of one image and class that overlap are one *candidate*, marked by some of the readers who looked. As in models
of Dawid and Skene (Applied Statistics 28, 1979), of BDC (https://arxiv.org/abs/2407.07958) and of EM-WBF (GCPR 2023),
whether a candidate is a finding is a latent variable, and readers differ. What tells findings from false marks is
capture and recapture: two readers do not imagine the same box, so a candidate with two marks is a finding, and a lone
mark is either a finding that the others missed or a false mark. Findings that nobody marked are counted as well, or
every reader's sensitivity would be too high.

The sides of marks are measured against each other: side = truth + bias of the reader + noise, in shares of the
candidate's width and height. The bias of all readers together cannot be seen; the mean over marks is taken as 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.consensus import REFERENCE_IOU_THRESHOLD, cluster_boxes
from cxr_mmdet.annotations.table import without_regions
from cxr_mmdet.errors import TableError
from cxr_mmdet.evaluation.bootstrap import LEVEL
from cxr_mmdet.structures.boxes import XYXY_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Indices = NDArray[np.int64]

SHRINKAGE = 10.0
"""Findings, or marks, that a reader's own rows have to outweigh before they count more than the class's mean."""
USUAL_SENSITIVITY, USUAL_FALSE_MARKS = 0.6, 0.3
"""What is assumed of a class before its rows are seen; :data:`CLASS_SHRINKAGE` rows outweigh it."""
CLASS_SHRINKAGE = 5.0
USUAL_SPREAD = 0.15
"""Deviation of a side in shares of the box, before any row is seen."""
ITERATIONS = 60
RESAMPLES = 200


@dataclass(frozen=True)
class Marks:
    """Readers' boxes as arrays of one length, and who looked at which image.

    Attributes:
        labels: names of the classes.
        readers: names of the readers.
        image_names: names of the images, sorted.
        images: (N,) place of each box's image.
        classes: (N,) place of its class.
        drawn_by: (N,) place of its reader.
        boxes_xyxy: (N, 4).
        looked: (images, readers) whether the reader looked at the image, with or without a finding.
    """

    labels: tuple[str, ...]
    readers: tuple[str, ...]
    image_names: NDArray[np.object_]
    images: Indices
    classes: Indices
    drawn_by: Indices
    boxes_xyxy: Floats
    looked: Flags

    @classmethod
    def of(cls, rows: pd.DataFrame, labels: Sequence[str], readers: Sequence[str] = ()) -> Marks:
        """Return the boxes of ``labels``, the same whatever the order of the rows.

        Args:
            rows: validated readers' rows; regions to ignore are no marks.
            labels: classes to look at.
            readers: readers to number first; others follow in the order of their names.
        """
        rows = without_regions(rows)
        known = set(readers)
        names = [*readers, *sorted(set(rows["reader"]) - known)]
        images, image_names = pd.factorize(rows["image_id"], sort=True)
        drawn_by = pd.Index(names).get_indexer(pd.Index(rows["reader"]))
        classes = pd.Index(labels).get_indexer(pd.Index(rows["class_name"]))
        looked = np.zeros((len(image_names), len(names)), dtype=bool)
        looked[images, drawn_by] = True
        boxes = rows[XYXY_COLUMNS].to_numpy(np.float64)
        kept = np.flatnonzero(classes >= 0)
        order = kept[
            np.lexsort((drawn_by[kept], *(-side for side in boxes[kept].T[::-1]), classes[kept], images[kept]))
        ]
        return cls(
            labels=tuple(labels),
            readers=tuple(names),
            image_names=np.asarray(image_names, dtype=object),
            images=images[order],
            classes=classes[order],
            drawn_by=drawn_by[order],
            boxes_xyxy=boxes[order],
            looked=looked,
        )

    def hide_each_reader(self) -> tuple[Marks, Indices, Indices]:
        """Return one image for each reading that another reader shares: the image without that reader.

        Returns:
            The readings of the others; (readings,) the image of each; (readings,) the hidden reader.
        """
        shared = self.looked & (self.looked.sum(axis=1) > 1)[:, None]
        of_reading, hidden = np.nonzero(shared)
        place = np.full(self.looked.shape, -1)
        place[of_reading, hidden] = np.arange(len(hidden))
        kept, reading = [], []
        for reader in np.unique(hidden).tolist():
            others = np.flatnonzero((place[self.images, reader] >= 0) & (self.drawn_by != reader))
            kept.append(others)
            reading.append(place[self.images[others], reader])
        rows = np.concatenate([np.zeros(0, np.int64), *kept])
        readings = np.concatenate([np.zeros(0, np.int64), *reading])
        order = np.lexsort((rows, readings))
        looked = self.looked[of_reading]
        looked[np.arange(len(hidden)), hidden] = False
        rows = rows[order]
        marks = Marks(
            labels=self.labels,
            readers=self.readers,
            image_names=self.image_names[of_reading],
            images=readings[order],
            classes=self.classes[rows],
            drawn_by=self.drawn_by[rows],
            boxes_xyxy=self.boxes_xyxy[rows],
            looked=looked,
        )
        return marks, of_reading, hidden

    def take_images(self, chosen: Flags) -> Marks:
        """Return the images of an (images,) mask."""
        number = np.cumsum(chosen) - 1
        kept = chosen[self.images]
        return Marks(
            labels=self.labels,
            readers=self.readers,
            image_names=self.image_names[chosen],
            images=number[self.images[kept]],
            classes=self.classes[kept],
            drawn_by=self.drawn_by[kept],
            boxes_xyxy=self.boxes_xyxy[kept],
            looked=self.looked[chosen],
        )


@dataclass(frozen=True)
class Candidates:
    """Marks that overlap, as one: what may be a finding.

    Attributes:
        of_mark: (N,) candidate of each mark.
        images: (K,).
        classes: (K,).
        boxes_xyxy: (K, 4) mean of the marks.
        spread: (K, 4) deviation of the marks' sides, in shares of width and height.
        n_marks: (K,).
        marked: (K, readers) who marked it.
        missed: (K, readers) who looked and did not.
    """

    of_mark: Indices
    images: Indices
    classes: Indices
    boxes_xyxy: Floats
    spread: Floats
    n_marks: Indices
    marked: Flags
    missed: Flags

    @property
    def sizes(self) -> Floats:
        """Width, height, width, height of the (K, 4) boxes, at least a pixel."""
        return np.tile(np.maximum(self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2], 1.0), 2)

    @classmethod
    def of(cls, marks: Marks, iou_threshold: float = REFERENCE_IOU_THRESHOLD) -> Candidates:
        """Return the candidates by weighted boxes fusion of all marks alike."""
        _, groups = np.unique(marks.images * len(marks.labels) + marks.classes, return_inverse=True)
        ones = np.ones(len(marks.images))
        of_mark = cluster_boxes(marks.boxes_xyxy, ones, groups.reshape(-1), iou_threshold, fuse=True)
        _, first = np.unique(of_mark, return_index=True)
        counts = np.bincount(of_mark, minlength=len(first))
        boxes = _means(of_mark, marks.boxes_xyxy, counts)
        sizes = np.tile(np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0), 2)
        variance = _means(of_mark, (marks.boxes_xyxy - boxes[of_mark]) ** 2, counts)
        marked = np.zeros((len(first), len(marks.readers)), dtype=bool)
        marked[of_mark, marks.drawn_by] = True
        return cls(
            of_mark=of_mark,
            images=marks.images[first],
            classes=marks.classes[first],
            boxes_xyxy=boxes,
            spread=np.sqrt(variance) / sizes,
            n_marks=counts,
            marked=marked,
            missed=marks.looked[marks.images[first]] & ~marked,
        )


@dataclass(frozen=True)
class Reliability:
    """What is learned of readers, by reader and class; :meth:`of` estimates it.

    Attributes:
        labels: classes.
        readers: readers.
        images: (readers,) images that each read together with another.
        marks: (readers, classes) boxes on those images.
        sensitivity: (readers, classes) share of the findings that the reader marks.
        false_marks: (readers, classes) false marks for each finding on the images that the reader read.
        bias: (readers, classes, 4) how far the sides lie from those of the others, in shares of width and height; x_min
            and y_min below 0 and x_max and y_max above 0 are large boxes.
        spread: (readers, classes, 4) deviation of the sides, likewise.
        sensitivity_interval: (2, readers, classes) bootstrap interval over images; NaN where there is none.
        precision: (readers, classes) share of the reader's marks that are findings.
        class_sensitivity: (classes,) of an unknown reader.
        class_false_marks: (classes,) of an unknown reader.
        class_spread: (classes, 4) of an unknown reader.
    """

    labels: tuple[str, ...]
    readers: tuple[str, ...]
    images: Indices
    marks: Indices
    sensitivity: Floats
    false_marks: Floats
    bias: Floats
    spread: Floats
    precision: Floats
    class_sensitivity: Floats
    class_false_marks: Floats
    class_spread: Floats
    sensitivity_interval: Floats

    @classmethod
    def of(
        cls, marks: Marks, candidates: Candidates | None = None, *, resamples: int = 0, seed: int = 0
    ) -> Reliability:
        """Return the readers' reliability.

        Args:
            marks: of images that several readers read; others tell nothing and are left out.
            candidates: of ``marks``, if known.
            resamples: how many draws of images the intervals rest on; 0: none.
            seed: of the draws.

        Raises:
            TableError: no image has two readers.
        """
        shared = marks.looked.sum(axis=1) > 1
        if not shared.any():
            raise TableError(nothing_to_learn(marks))
        if not shared.all():
            marks, candidates = marks.take_images(shared), None
        candidates = candidates or Candidates.of(marks)
        cells = _Cells.of(candidates, len(marks.labels))
        everything = cells.weights(np.ones(len(marks.looked)))
        sensitivity, false_marks, precision = cells.estimate(everything)
        bias, spread, class_spread = _localisation(marks, candidates)
        drawn = np.zeros((len(marks.readers), len(marks.labels)), dtype=np.int64)
        np.add.at(drawn, (marks.drawn_by, marks.classes), 1)
        interval = np.full((2, *sensitivity.shape[1:]), np.nan)
        if resamples:
            random = np.random.default_rng(seed)
            n_images = len(marks.looked)
            drawn_images = random.multinomial(n_images, np.full(n_images, 1 / n_images), size=resamples)
            resampled = cells.estimate(cells.weights(drawn_images.T.astype(np.float64)))[0]
            interval = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        class_sensitivity, class_false_marks = cells.pooled(everything)
        return cls(
            labels=marks.labels,
            readers=marks.readers,
            images=marks.looked.sum(axis=0),
            marks=drawn,
            sensitivity=sensitivity[0],
            false_marks=false_marks[0],
            precision=precision[0],
            bias=bias,
            spread=spread,
            class_sensitivity=class_sensitivity[0],
            class_false_marks=class_false_marks[0],
            class_spread=class_spread,
            sensitivity_interval=interval,
        )

    def evidence(self, candidates: Candidates) -> tuple[Floats, Floats]:
        """Return (K,) log odds that each candidate is a finding from its marks, and from who looked and did not."""
        unknown = candidates.marked.shape[1] - len(self.readers)
        tables = []
        for own, of_class in ((self.sensitivity, self.class_sensitivity), (self.false_marks, self.class_false_marks)):
            tables.append(np.concatenate([own, np.tile(of_class, (unknown, 1))]))
        sensitivity, false_marks = (np.clip(table, 1e-3, None) for table in tables)
        seen = np.log(sensitivity / false_marks)[:, candidates.classes].T
        unseen = np.log1p(-np.minimum(sensitivity, 0.999))[:, candidates.classes].T
        return (seen * candidates.marked).sum(axis=1), (unseen * candidates.missed).sum(axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return what a file holds; undefined is null."""
        return {
            name: _nested(value.tolist()) if isinstance(value, np.ndarray) else list(value)
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Reliability:
        """Return the reliability of a file.

        Raises:
            ValueError: an array does not fit the readers and classes, or holds what is no number.
        """
        names = {name: tuple(map(str, entry[name])) for name in ("labels", "readers")}
        n_readers, n_labels = len(names["readers"]), len(names["labels"])
        table: tuple[int, ...] = (n_readers, n_labels)
        shapes = {"images": (n_readers,), "sensitivity_interval": (2, *table), "bias": (*table, 4)}
        shapes |= {"spread": (*table, 4), "class_spread": (n_labels, 4)}
        shapes |= dict.fromkeys(("class_sensitivity", "class_false_marks"), (n_labels,))
        values: dict[str, Any] = dict(names)
        for each in fields(cls):
            if each.name not in names:
                kind = np.int64 if each.name in ("images", "marks") else np.float64
                values[each.name] = array = np.array(entry[each.name], dtype=kind)
                defined = np.isfinite(array) | (each.name in ("precision", "sensitivity_interval"))
                if array.shape != shapes.get(each.name, table) or not defined.all():
                    raise ValueError(f"{each.name} does not fit {n_readers} readers and {n_labels} classes")
        return cls(**values)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row for each reader and class with marks, for reports and ``manifest.json``; shares are 0…1."""
        rows = []
        for reader, class_ in zip(*np.nonzero(self.marks), strict=True):
            low, high = (_number(end) for end in self.sensitivity_interval[:, reader, class_])
            left, top, right, bottom = self.bias[reader, class_].tolist()
            rows.append(
                {
                    "reader": self.readers[reader],
                    "name": self.labels[class_],
                    "images": int(self.images[reader]),
                    "boxes": int(self.marks[reader, class_]),
                    "sensitivity": {
                        "value": _number(self.sensitivity[reader, class_]),
                        "low": low,
                        "high": high,
                    },
                    "precision": _number(self.precision[reader, class_]),
                    "wider": right - left,
                    "taller": bottom - top,
                    "spread": float(np.sqrt((self.spread[reader, class_] ** 2).mean())),
                }
            )
        return rows


def nothing_to_learn(marks: Marks) -> str:
    """Return the sentence about readers that never share an image."""
    readers = int(marks.looked.any(axis=0).sum())
    who = "one reader read everything" if readers < 2 else f"no two of its {readers} readers share an image"
    return f"the readers' table: {who}, so nothing can be learned about who sees what; use --fusion wbf."


@dataclass(frozen=True)
class _Cells:
    """Candidates counted by class, who marked them and who looked: all that sensitivity depends on.

    Attributes:
        classes: (P,).
        marked: (P, readers).
        missed: (P, readers).
        pattern: (K,) cell of each candidate.
        images: (K,) its image.
        n_labels: how many classes.
    """

    classes: Indices
    marked: Flags
    missed: Flags
    pattern: Indices
    images: Indices
    n_labels: int

    @classmethod
    def of(cls, candidates: Candidates, n_labels: int) -> _Cells:
        keys = np.column_stack([candidates.classes, candidates.marked, candidates.missed])
        cells, pattern = np.unique(keys.astype(np.int16), axis=0, return_inverse=True)
        n_readers = candidates.marked.shape[1]
        return cls(
            classes=cells[:, 0].astype(np.int64),
            marked=cells[:, 1 : 1 + n_readers].astype(bool),
            missed=cells[:, 1 + n_readers :].astype(bool),
            pattern=pattern.reshape(-1),
            images=candidates.images,
            n_labels=n_labels,
        )

    def weights(self, image_weights: Floats) -> Floats:
        """Return (B, P) counts of the cells where image i counts ``image_weights[i]`` or ``image_weights[i, b]``."""
        per_image = image_weights.reshape(len(image_weights), -1)
        counts = np.zeros((len(self.classes), per_image.shape[1]))
        np.add.at(counts, self.pattern, per_image[self.images])
        return counts.T

    def estimate(self, counts: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (B, readers, classes) sensitivity, false marks for each finding, and precision."""
        class_sensitivity, class_false = self.pooled(counts)
        n_readers = self.marked.shape[1]
        shape = (len(counts), n_readers, self.n_labels)
        start = np.broadcast_to(class_sensitivity[:, None], shape), np.broadcast_to(class_false[:, None], shape)
        return self._em(counts, np.arange(n_readers), start, SHRINKAGE)

    def pooled(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return (B, classes) sensitivity and false marks of the readers taken as one kind."""
        shape = (len(counts), 1, self.n_labels)
        start = np.full(shape, USUAL_SENSITIVITY), np.full(shape, USUAL_FALSE_MARKS)
        kinds = np.zeros(self.marked.shape[1], dtype=np.int64)
        sensitivity, false_marks, _ = self._em(counts, kinds, start, CLASS_SHRINKAGE)
        return sensitivity[:, 0], false_marks[:, 0]

    def _em(
        self, counts: Floats, kinds: Indices, prior: tuple[Floats, Floats], strength: float
    ) -> tuple[Floats, Floats, Floats]:
        """Return the estimates after :data:`ITERATIONS`; ``kinds`` says which readers share their parameters."""
        own = np.zeros((len(kinds), prior[0].shape[1]))
        own[np.arange(len(kinds)), kinds] = 1.0
        estimates = [np.array(part) for part in (*prior, np.full(prior[0].shape, np.nan))]
        for label in np.unique(self.classes).tolist():
            cells = self.classes == label
            marked, missed = (flags[cells].astype(np.float64).T for flags in (self.marked, self.missed))
            found = self._em_of_class(
                counts[:, cells],
                own.T @ marked,
                own.T @ missed,
                (prior[0][:, :, label], prior[1][:, :, label]),
                strength,
            )
            for estimate, part in zip(estimates, found, strict=True):
                estimate[:, :, label] = part
        return estimates[0], estimates[1], estimates[2]

    @staticmethod
    def _em_of_class(
        counts: Floats, marked: Floats, missed: Floats, prior: tuple[Floats, Floats], strength: float
    ) -> tuple[Floats, Floats, Floats]:
        """Return (B, kinds) estimates from (B, P) counts of cells that so many of each kind (kinds, P) marked."""
        lone = marked.sum(axis=0) == 1
        sensitivity, false_marks = prior
        for _ in range(ITERATIONS):
            seen = np.clip(sensitivity, 1e-6, 1 - 1e-6)
            log_seen, log_missed = np.log(seen), np.log1p(-seen)
            unmarked = np.exp(log_missed @ (marked + missed))
            as_finding = np.exp(log_seen @ marked + log_missed @ missed)
            real = np.where(lone, as_finding / (as_finding + false_marks @ marked), 1.0) * counts
            found, false = real @ marked.T, (counts - real) @ marked.T
            findings = (real / np.maximum(1 - unmarked, 1e-6)) @ (marked + missed).T
            sensitivity = (found + strength * prior[0]) / (findings + strength)
            false_marks = (false + strength * prior[1]) / (findings + strength)
        drawn = found + false
        return sensitivity, false_marks, np.divide(found, drawn, out=np.full_like(drawn, np.nan), where=drawn > 0)


def _localisation(marks: Marks, candidates: Candidates) -> tuple[Floats, Floats, Floats]:
    """Return bias and spread (readers, classes, 4), and the spread of a class (classes, 4).

    EM over the true sides of candidates that several readers marked: the truth is the precision-weighted mean of the
    marks without their bias, and its own uncertainty counts towards the spread.
    """
    n_readers, n_labels = len(marks.readers), len(marks.labels)
    several = candidates.marked.sum(axis=1)[candidates.of_mark] > 1
    of_mark, reader, label = candidates.of_mark[several], marks.drawn_by[several], marks.classes[several]
    sides = (marks.boxes_xyxy - candidates.boxes_xyxy[candidates.of_mark])[several]
    sides /= candidates.sizes[of_mark]
    key = reader * n_labels + label
    n_candidates = len(candidates.images)
    counts = np.bincount(key, minlength=n_readers * n_labels).astype(np.float64)[:, None]
    class_counts = np.bincount(label, minlength=n_labels).astype(np.float64)[:, None]
    bias: Floats = np.zeros((n_readers * n_labels, 4))
    variance: Floats = np.full((n_readers * n_labels, 4), USUAL_SPREAD**2)
    class_variance: Floats = np.full((n_labels, 4), USUAL_SPREAD**2)
    for _ in range(ITERATIONS // 2):
        precision = 1 / variance[key]
        total = _sums(of_mark, precision, n_candidates)
        truth = _sums(of_mark, precision * (sides - bias[key]), n_candidates) / np.maximum(total, 1e-9)
        residual = sides - truth[of_mark]
        bias = _sums(key, residual, n_readers * n_labels) / (counts + SHRINKAGE)
        mean = _sums(label, bias[key], n_labels) / np.maximum(class_counts, 1.0)
        bias -= np.tile(mean, (n_readers, 1)) * (counts > 0)
        squares = (residual - bias[key]) ** 2 + (1 / np.maximum(total, 1e-9))[of_mark]
        class_variance = _sums(label, squares, n_labels) + CLASS_SHRINKAGE * USUAL_SPREAD**2
        class_variance /= class_counts + CLASS_SHRINKAGE
        variance = _sums(key, squares, n_readers * n_labels) + SHRINKAGE * np.tile(class_variance, (n_readers, 1))
        variance = np.maximum(variance / (counts + SHRINKAGE), 1e-6)
    shape = (n_readers, n_labels, 4)
    return bias.reshape(shape), np.sqrt(variance).reshape(shape), np.sqrt(class_variance)


def _sums(places: Indices, values: Floats, length: int) -> Floats:
    """Return (length, columns) sums of the rows of ``values`` that stand at each place."""
    return np.stack([np.bincount(places, column, minlength=length) for column in values.T], axis=1)


def _means(places: Indices, values: Floats, counts: Indices) -> Floats:
    return _sums(places, values, len(counts)) / np.maximum(counts, 1)[:, None]


def _nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_nested(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
