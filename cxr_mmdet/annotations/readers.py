"""Reliability of each reader by EM: sensitivity, false marks, and bias and spread of the sides of their boxes.

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

from cxr_mmdet.annotations.marks import Candidates, Marks, sums_at
from cxr_mmdet.errors import TableError
from cxr_mmdet.evaluation.bootstrap import LEVEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Indices = NDArray[np.int64]

SHRINKAGE = 10.0
"""Findings, or marks, that a reader's own rows have to outweigh before they count more than the class's mean."""
USUAL_SENSITIVITY, USUAL_FALSE_MARKS = 0.6, 0.3
"""Prior of a class before its rows are seen; :data:`CLASS_SHRINKAGE` rows outweigh it."""
CLASS_SHRINKAGE = 5.0
USUAL_SPREAD = 0.15
"""Deviation of a side in shares of the box, before any row is seen."""
ITERATIONS = 60
RESAMPLES = 200


@dataclass(frozen=True)
class Reliability:
    """Parameters learned per reader and class; :meth:`of` estimates them.

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
    def of(cls, marks: Marks, candidates: Candidates | None = None, *, resamples: int = 0) -> Reliability:
        """Return the readers' reliability.

        Args:
            marks: of images that several readers read; others tell nothing and are left out.
            candidates: of ``marks``, if known.
            resamples: how many draws of images the intervals rest on; 0: none.

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
            random = np.random.default_rng(0)
            n_images = len(marks.looked)
            drawn_images = random.multinomial(n_images, np.full(n_images, 1 / n_images), size=resamples)
            resampled = cells.estimate(cells.weights(drawn_images.T.astype(np.float64)), random)[0]
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
    return (
        f"the readers' table: {who}, so nothing can be learned about who sees what; give one in which several readers "
        "read the same images."
    )


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

    def estimate(self, counts: Floats, random: np.random.Generator | None = None) -> tuple[Floats, Floats, Floats]:
        """Return (B, readers, classes) sensitivity, false marks for each finding, and precision.

        Args:
            counts: (B, P) of :meth:`weights`.
            random: draws the rows that a prior stands for as well, as intervals need; None: their means are taken.
        """
        class_sensitivity, class_false = self.pooled(counts, random)
        n_readers = self.marked.shape[1]
        shape = (len(counts), n_readers, self.n_labels)
        start = np.broadcast_to(class_sensitivity[:, None], shape), np.broadcast_to(class_false[:, None], shape)
        return self._em(counts, np.arange(n_readers), _drawn(start, SHRINKAGE, random), SHRINKAGE)

    def pooled(self, counts: Floats, random: np.random.Generator | None = None) -> tuple[Floats, Floats]:
        """Return (B, classes) sensitivity and false marks of the readers taken as one kind."""
        shape = (len(counts), 1, self.n_labels)
        start = np.full(shape, USUAL_SENSITIVITY), np.full(shape, USUAL_FALSE_MARKS)
        kinds = np.zeros(self.marked.shape[1], dtype=np.int64)
        sensitivity, false_marks, _ = self._em(counts, kinds, _drawn(start, CLASS_SHRINKAGE, random), CLASS_SHRINKAGE)
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
        """Return (B, kinds) estimates from (B, P) counts of cells and how many of each kind (kinds, P) marked them."""
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


def _drawn(prior: tuple[Floats, Floats], strength: float, random: np.random.Generator | None) -> tuple[Floats, Floats]:
    """Return a draw of the sensitivity and false marks that a prior worth ``strength`` rows allows.

    Without it, a reader of few rows, whose estimate is mostly prior, would have the narrowest interval of all.
    """
    if random is None:
        return prior
    sensitivity, false_marks = np.clip(prior[0], 1e-3, 1 - 1e-3), np.maximum(prior[1], 1e-3)
    return (
        random.beta(strength * sensitivity, strength * (1 - sensitivity)),
        random.gamma(strength * false_marks) / strength,
    )


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
        total = sums_at(of_mark, precision, n_candidates)
        truth = sums_at(of_mark, precision * (sides - bias[key]), n_candidates) / np.maximum(total, 1e-9)
        residual = sides - truth[of_mark]
        bias = sums_at(key, residual, n_readers * n_labels) / (counts + SHRINKAGE)
        mean = sums_at(label, bias[key], n_labels) / np.maximum(class_counts, 1.0)
        bias -= np.tile(mean, (n_readers, 1)) * (counts > 0)
        squares = (residual - bias[key]) ** 2 + (1 / np.maximum(total, 1e-9))[of_mark]
        class_variance = sums_at(label, squares, n_labels) + CLASS_SHRINKAGE * USUAL_SPREAD**2
        class_variance /= class_counts + CLASS_SHRINKAGE
        variance = sums_at(key, squares, n_readers * n_labels) + SHRINKAGE * np.tile(class_variance, (n_readers, 1))
        variance = np.maximum(variance / (counts + SHRINKAGE), 1e-6)
    shape = (n_readers, n_labels, 4)
    return bias.reshape(shape), np.sqrt(variance).reshape(shape), np.sqrt(class_variance)


def _nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_nested(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
