"""A detector as one more reader: scored against each reader of the same images, and ranked among them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.annotations.marks import Marks, boxes_as_truth, rows_of
from cxr_mmdet.annotations.placement import scale_to_prepared
from cxr_mmdet.annotations.table import merge_classes, read_table
from cxr_mmdet.errors import UsageError
from cxr_mmdet.evaluation.bootstrap import LEVEL, RESAMPLES, percentile_interval
from cxr_mmdet.evaluation.ceiling import MANIFEST_NAME
from cxr_mmdet.evaluation.matching import DetectionTable, match_tables, overlapping_pairs
from cxr_mmdet.evaluation.voc import COMPETITION_IOU, average_precision, mean_defined
from cxr_mmdet.structures.boxes import xyxy_to_xywh

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.bootstrap import Interval
    from cxr_mmdet.structures.coco import CocoDict

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

READERS_TABLE = "readers.csv"
DRAWS_AT_ONCE = 50


@dataclass(frozen=True)
class ReaderRank:
    """One reader and the detector against the same readings of others.

    Attributes:
        reader: name.
        images: images that this reader and another read.
        detector_against: VOC mAP@.4 of the detector when this reader's boxes are the truth.
        reader_f1: F1 at IoU 0.4 of this reader against the others, mean over classes.
        detector_f1: F1 of the detector against the same readings.
    """

    reader: str
    images: int
    detector_against: Interval
    reader_f1: Interval
    detector_f1: Interval


@dataclass(frozen=True)
class AgainstReaders:
    """A detector among readers.

    Attributes:
        expected: VOC mAP@.4 against a new reader, with the interval over images and readers.
        per_class: the same of each class.
        readers: every reader that shares an image with another, in the order of their names.
        rank: 1 where the detector agrees with readers better than every reader does; with its interval. None where no
            reader can be compared, because nobody drew a box.
        of: the readers that can be compared, and the detector.
        class_rank: the rank in each class.
        class_of: of how many in each class.
    """

    expected: Interval
    per_class: dict[str, Interval]
    readers: tuple[ReaderRank, ...]
    rank: Interval
    of: int
    class_rank: dict[str, Interval]
    class_of: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds under ``against_readers``."""
        return {
            "expected_voc_mean_ap_40": self.expected.to_json(),
            "rank": self.rank.to_json() | {"of": self.of},
            "per_class": [
                {
                    "name": name,
                    "voc_ap_40": value.to_json(),
                    "rank": self.class_rank[name].to_json() | {"of": self.class_of[name]},
                }
                for name, value in self.per_class.items()
            ],
            "readers": [
                {
                    "reader": each.reader,
                    "images": each.images,
                    "detector_voc_mean_ap_40": each.detector_against.to_json(),
                    "f1": each.reader_f1.to_json(),
                    "detector_f1": each.detector_f1.to_json(),
                }
                for each in self.readers
            ],
        }


def readers_of(ground_truth_path: Path, ground_truth: CocoDict) -> pd.DataFrame:
    """Return the readers' rows of a ground truth's images, in pixels of the prepared images.

    Raises:
        UsageError: the prepared folder of the ground truth holds no such rows.
        TableError: they contradict each other.
    """
    path = ground_truth_path.parent / READERS_TABLE
    if not path.is_file():
        raise UsageError(
            f"--against readers: there is no {path}; give the annotations/<split>_<labels>.json of a folder that "
            "tools/prepare_data.py build wrote from a table that names its readers."
        )
    images = {image.get("image_id"): image for image in ground_truth["images"]}
    merged = _merged_classes(ground_truth_path)
    labels = [category["name"] for category in ground_truth["categories"]]
    rows = merge_classes(read_table(path), {label: tuple(merged.get(label, (label,))) for label in labels})
    rows = rows[rows["image_id"].isin(images)].reset_index(drop=True)
    original, prepared = (
        {name: (images[name][height], images[name][width]) for name in set(rows["image_id"])}
        for height, width in (("original_height", "original_width"), ("height", "width"))
    )
    return scale_to_prepared(rows, original, prepared)


def _merged_classes(ground_truth_path: Path) -> dict[str, list[str]]:
    """Return which classes of the table a label stands for, where the folder's manifest says that it is several."""
    path = ground_truth_path.parent.parent / MANIFEST_NAME
    label_set = ground_truth_path.stem.partition("_")[2]
    try:
        merged: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))["label_sets"][label_set]["merged"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return merged


def rank_among_readers(
    rows: pd.DataFrame,
    ground_truth: CocoDict,
    found: DetectionTable,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> AgainstReaders:
    """Return how a detector agrees with readers, beside how they agree among themselves.

    A reading is an image with one reader's boxes as the truth. The detector's average precision is over all readings;
    its interval draws images and readers, because both would be others elsewhere. For the rank a reader's boxes are
    compared with every other reader of the image by F1, and the detector's likewise on the same readings, cut at each
    class's score at which it draws as many boxes per reading as the readers do.

    Args:
        rows: readers' rows in pixels of the prepared images.
        ground_truth: names the images, in the order that ``found`` counts them, and the classes.
        found: the detections.
        resamples: draws for the intervals; 0: none.
        seed: of the draws.

    Raises:
        UsageError: no two readers share an image.
    """
    labels = [category["name"] for category in ground_truth["categories"]]
    marks = Marks.of(rows, labels)
    if not (marks.looked.sum(axis=1) > 1).any():
        raise UsageError(
            "--against readers: no two readers share an image of this ground truth, so there is nothing to rank among."
        )
    place_of = {image.get("image_id"): number for number, image in enumerate(ground_truth["images"])}
    place = np.array([place_of[name] for name in marks.image_names])
    image, reader = np.nonzero(marks.looked)
    against = _against(marks, image, reader, place, found)
    pairs = _Pairs.of(marks, place, found)
    random = np.random.default_rng(seed)
    draws = [_weights(marks, None, 1), *(_weights(marks, random, n) for n in _batches(resamples))]
    values: list[dict[str, Floats]] = []
    for by_image, by_reader in draws:
        weights = by_image[:, image] * by_reader[:, reader]
        classes = np.stack([average_precision(each, weights) for each in against])
        own = {"expected": mean_defined(classes)}
        own |= {f"class {name}": value for name, value in zip(labels, classes, strict=True)}
        for number, name in enumerate(marks.readers):
            only = by_image[:, image] * (reader == number)
            own[f"against {name}"] = mean_defined(np.stack([average_precision(each, only) for each in against]))
        values.append(own | pairs.values(by_image, marks.readers, labels))
    point, samples = (
        values[0],
        {
            name: np.concatenate([each[name] for each in values[1:]]) if values[1:] else np.zeros(0)
            for name in values[0]
        },
    )

    def interval(name: str) -> Interval:
        value = float(point[name][0])
        return percentile_interval(
            None if np.isnan(value) else value, samples[name], groups=len(marks.looked), level=LEVEL
        )

    shared = marks.looked & (marks.looked.sum(axis=1) > 1)[:, None]
    return AgainstReaders(
        expected=interval("expected"),
        per_class={name: interval(f"class {name}") for name in labels},
        readers=tuple(
            ReaderRank(
                reader=name,
                images=int(shared[:, number].sum()),
                detector_against=interval(f"against {name}"),
                reader_f1=interval(f"reader {name}"),
                detector_f1=interval(f"detector {name}"),
            )
            for number, name in enumerate(marks.readers)
            if shared[:, number].any()
        ),
        rank=interval("rank"),
        of=int(point["of"][0]),
        class_rank={name: interval(f"rank {name}") for name in labels},
        class_of={name: int(point[f"of {name}"][0]) for name in labels},
    )


@dataclass(frozen=True)
class _Pairs:
    """Every reader against every other reader of an image, and the detector against the same.

    Attributes:
        images: (Q,) image of each pair.
        readers: (Q,) who is scored.
        own: (Q, classes, 3) hits, boxes drawn and boxes of the other reader.
        detector: (Q, classes, 3) likewise.
    """

    images: Indices
    readers: Indices
    own: Floats
    detector: Floats

    @classmethod
    def of(cls, marks: Marks, place: Indices, found: DetectionTable) -> _Pairs:
        image, reader = np.nonzero(marks.looked)
        reading = np.full(marks.looked.shape, -1)
        reading[image, reader] = np.arange(len(image))
        scored, other = (
            np.concatenate(column)
            for column in zip(
                *(
                    (reading[both, first], reading[both, second])
                    for first in range(len(marks.readers))
                    for second in range(len(marks.readers))
                    if first != second
                    for both in [np.flatnonzero(marks.looked[:, first] & marks.looked[:, second])]
                ),
                strict=True,
            )
        )
        own = reading[marks.images, marks.drawn_by]
        truth_rows, truth_pair = rows_of(own, other)
        drawn_rows, drawn_pair = rows_of(own, scored)
        truth = boxes_as_truth(
            truth_pair, marks.classes[truth_rows], marks.boxes_xyxy[truth_rows], len(other), marks.labels
        )
        boxes = xyxy_to_xywh(marks.boxes_xyxy[drawn_rows])
        theirs = DetectionTable(drawn_pair, marks.classes[drawn_rows], boxes, np.ones(len(drawn_rows)))
        kept = _as_many_as_readers(marks, place, image, found)
        detected_rows, detected_pair = rows_of(found.image_index[kept], place[image[scored]])
        rows = kept[detected_rows]
        detected = DetectionTable(detected_pair, found.category_index[rows], found.boxes_xywh[rows], found.scores[rows])
        return cls(image[scored], reader[scored], _counts(truth, theirs), _counts(truth, detected))

    def values(self, by_image: Floats, names: tuple[str, ...], labels: list[str]) -> dict[str, Floats]:
        """Return (R,) F1 of readers and detector by name, and the detector's rank, where image i counts so often.

        Readers without an F1 are not ranked among; a rank among nobody is undefined (NaN).
        """
        values: dict[str, Floats] = {}
        better, of = np.zeros((2, 1 + len(labels), len(by_image)))
        for number, name in enumerate(names):
            pairs = self.readers == number
            weights = by_image[:, self.images[pairs]]
            own, detector = (_f1(counts[pairs], weights) for counts in (self.own, self.detector))
            both = ~np.isnan(own) & ~np.isnan(detector)
            own, detector = (np.where(both, each, np.nan) for each in (own, detector))
            values[f"reader {name}"], values[f"detector {name}"] = mean_defined(own), mean_defined(detector)
            own, detector = (
                np.vstack([values[f"{who} {name}"], each]) for who, each in (("reader", own), ("detector", detector))
            )
            better += own > detector
            of += ~np.isnan(own)
        for number, of_label in enumerate(["", *(f" {label}" for label in labels)]):
            values[f"rank{of_label}"] = np.where(of[number] > 0, 1 + better[number], np.nan)
            values[f"of{of_label}"] = 1 + of[number]
        return values


def _against(marks: Marks, image: Indices, reader: Indices, place: Indices, found: DetectionTable) -> Any:
    """Return the detector's matches of each class over all readings."""
    reading = np.full(marks.looked.shape, -1)
    reading[image, reader] = np.arange(len(image))
    own = reading[marks.images, marks.drawn_by]
    truth = boxes_as_truth(own, marks.classes, marks.boxes_xyxy, len(image), marks.labels)
    rows, readings = rows_of(found.image_index, place[image])
    detected = DetectionTable(readings, found.category_index[rows], found.boxes_xywh[rows], found.scores[rows])
    return match_tables(truth, detected, overlapping_pairs(truth, detected), iou_threshold=COMPETITION_IOU)


def _as_many_as_readers(marks: Marks, place: Indices, image: Indices, found: DetectionTable) -> Indices:
    """Return the detections of each class that are left when it draws as many per reading as the readers do."""
    n_readers = np.zeros(int(max(found.image_index.max(initial=-1), place.max(initial=-1))) + 1, dtype=np.int64)
    np.add.at(n_readers, place[image], 1)
    kept = []
    for label in range(len(marks.labels)):
        own = np.flatnonzero((found.category_index == label) & (n_readers[found.image_index] > 0))
        own = own[np.lexsort((own, -found.scores[own]))]
        drawn = np.cumsum(n_readers[found.image_index[own]])
        kept.append(own[drawn <= (marks.classes == label).sum()])
    return np.concatenate([np.zeros(0, np.int64), *kept])


def _counts(truth: Any, found: DetectionTable) -> Floats:
    """Return (images, classes, 3) hits, detections and boxes."""
    counts = np.zeros((len(truth.image_ids), len(truth.names), 3))
    matches = match_tables(truth, found, overlapping_pairs(truth, found), iou_threshold=COMPETITION_IOU)
    for label, each in enumerate(matches):
        np.add.at(counts[:, label, 0], each.image_index, each.hits)
        np.add.at(counts[:, label, 1], each.image_index, 1)
        counts[:, label, 2] = each.positives
    return counts


def _f1(counts: Floats, weights: Floats) -> Floats:
    """Return (classes, R) F1; NaN where nobody drew anything."""
    hits, drawn, there = (weights @ counts[:, :, column] for column in range(3))
    total = drawn + there
    return np.divide(2 * hits, total, out=np.full(hits.shape, np.nan), where=total > 0).T


def _batches(resamples: int) -> list[int]:
    return [min(DRAWS_AT_ONCE, resamples - start) for start in range(0, resamples, DRAWS_AT_ONCE)]


def _weights(marks: Marks, random: np.random.Generator | None, draws: int) -> tuple[Floats, Floats]:
    """Return (draws, images) and (draws, readers) weights: ones, or how often each was drawn."""
    n_images, n_readers = marks.looked.shape
    if random is None:
        return np.ones((draws, n_images)), np.ones((draws, n_readers))
    sizes = ((n, np.full(n, 1 / n)) for n in (n_images, n_readers))
    by_image, by_reader = (random.multinomial(n, chances, size=draws).astype(np.float64) for n, chances in sizes)
    return by_image, by_reader
