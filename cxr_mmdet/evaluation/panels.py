"""Images of misses, of confident false alarms, and of findings that only one of two detectors finds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.drawing import draw_boxes
from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.pages import Panel, jpeg_uri, read_grey_image
from cxr_mmdet.structures.boxes import xywh_to_xyxy
from cxr_mmdet.structures.radiograph_files import image_id_of
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.headline import MatchedDetections
    from cxr_mmdet.structures.coco import CocoDict, Detection


@dataclass(frozen=True)
class Extreme:
    """A ground truth box or a detection to be shown.

    Attributes:
        image: index of its image in the ground truth's images.
        label: index of its class.
        row: index of the box in the annotations, or of the detection in the list of detections.
        score: score of the detection, or the highest of a detection that hits the box, 0 without a hit.
    """

    image: int
    label: int
    row: int
    score: float


def worst_misses(matched: MatchedDetections, score_threshold: float | None, count: int) -> list[Extreme]:
    """Return ground truth boxes without a hit at or above the threshold, one per image.

    They are sorted by the score of their hit, boxes without any hit first and of those the largest.

    Args:
        matched: the detections.
        score_threshold: score from which a detection counts; None: none does.
        count: maximum number.
    """
    best = best_scores(matched)
    truth = matched.truth
    missed = np.flatnonzero(~_shown(best, score_threshold) & ~truth.crowd)
    order = missed[np.lexsort((missed, -truth.areas[missed], best[missed]))]
    rows = _one_an_image(order, truth.image_index[order], count)
    return [Extreme(int(truth.image_index[row]), int(truth.category_index[row]), row, float(best[row])) for row in rows]


def worst_false_alarms(matched: MatchedDetections, score_threshold: float | None, count: int) -> list[Extreme]:
    """Return detections at or above the threshold that hit no box of their class, by falling score, one per image."""
    detections = matched.detections
    false = np.concatenate([[], *(entry.detection_index[entry.annotation_index < 0] for entry in matched.hits)])
    false = false.astype(np.int64)
    false = false[_shown(detections.scores[false], score_threshold)]
    order = false[np.lexsort((false, -detections.scores[false]))]
    rows = _one_an_image(order, detections.image_index[order], count)
    return [
        Extreme(
            int(detections.image_index[row]), int(detections.category_index[row]), row, float(detections.scores[row])
        )
        for row in rows
    ]


def best_scores(matched: MatchedDetections) -> NDArray[np.float64]:
    """Return (annotations,) the highest score of a detection that hits each box; 0 where none does."""
    best = np.zeros(len(matched.truth.crowd))
    for entry in matched.hits:
        best[entry.annotation_index[entry.hits]] = entry.scores[entry.hits]
    return best


def found_by_one(
    finder: MatchedDetections, other: MatchedDetections, thresholds: tuple[float | None, float | None], count: int
) -> list[Extreme]:
    """Return boxes that ``finder`` finds at its threshold and ``other`` misses at its own, one per image.

    The largest difference of scores comes first. Where a threshold is undefined there are none: a detector without an
    operating point neither finds nor misses.
    """
    if None in thresholds:
        return []
    own, others = best_scores(finder), best_scores(other)
    truth = finder.truth
    alone = np.flatnonzero(_shown(own, thresholds[0]) & ~_shown(others, thresholds[1]) & ~truth.crowd)
    order = alone[np.lexsort((alone, others[alone] - own[alone]))]
    rows = _one_an_image(order, truth.image_index[order], count)
    return [Extreme(int(truth.image_index[row]), int(truth.category_index[row]), row, float(own[row])) for row in rows]


def _shown(scores: NDArray[np.float64], threshold: float | None) -> NDArray[np.bool_]:
    return reaches(scores, np.inf if threshold is None else threshold)


def _one_an_image(rows: NDArray[np.int64], images: NDArray[np.int64], count: int) -> list[int]:
    """Return the first of ``rows`` of each image, at most ``count``."""
    _, first = np.unique(images, return_index=True)
    return rows[np.sort(first)][:count].tolist()


IMAGE_LONG_EDGE = 900
"""Pixels; shown at about 570 on a desktop and 360 on a phone, so that names stay readable on both."""


@dataclass(frozen=True)
class Study:
    """Images of one radiograph, under its name and a remark."""

    name: str
    panels: tuple[Panel, ...]
    remark: str = ""


class ImageBook:
    """Draws studies of one data set.

    Args:
        ground_truth: COCO dict, checked; its images need a ``file_name``.
        image_dir: folder of the files.

    Raises:
        DatasetError: an image names no file.
    """

    def __init__(self, ground_truth: CocoDict, image_dir: Path) -> None:
        self.names = [category["name"] for category in ground_truth["categories"]]
        self._label_of = {category["id"]: label for label, category in enumerate(ground_truth["categories"])}
        self._image_dir = image_dir
        self._files = {image["id"]: _file_name(image) for image in ground_truth["images"]}
        self._truth = entries_by_image(ground_truth["annotations"])

    def study(
        self,
        image_id: int,
        detectors: Sequence[tuple[str, Sequence[Detection], float | None]],
        *,
        remark: str = "",
        long_edge: int = IMAGE_LONG_EDGE,
    ) -> Study:
        """Return a radiograph with the ground truth, then with each detector's boxes.

        Args:
            image_id: of the COCO file.
            detectors: name, the image's detections and the score from which they are drawn; None: none is.
            remark: reason why the study is shown.
            long_edge: long edge of the images in pixels.

        Raises:
            DatasetError: the image is missing or cannot be decoded.
        """
        path = self._image_dir / self._files[image_id]
        pixels = read_grey_image(path)
        truth = self._truth[image_id]
        regions = sum(bool(entry.get("iscrowd")) for entry in truth)
        boxes = len(truth) - regions
        note = counted(boxes, "box")
        if regions:
            note += f", {counted(regions, 'region')} where detections do not count"
        panels = [self._panel("Ground truth", note, pixels, truth, None, long_edge)]
        for name, entries, threshold in detectors:
            shown = [entry for entry in entries if threshold is not None and reaches(entry["score"], threshold)]
            rest = f"{len(entries) - len(shown)} below the threshold"
            note = "none shown: no threshold" if threshold is None else f"{len(shown)} shown, {rest}"
            scores = [entry["score"] for entry in shown]
            panels.append(self._panel(name, note, pixels, shown, scores, long_edge))
        return Study(name=image_id_of(self._files[image_id]), panels=tuple(panels), remark=remark)

    def _panel(
        self,
        title: str,
        note: str,
        pixels: NDArray[np.uint8],
        entries: Sequence[dict[str, Any]],
        scores: list[float] | None,
        long_edge: int,
    ) -> Panel:
        """Return one image with the boxes of COCO ``entries`` (annotations or detections)."""
        labels = [self._label_of[entry["category_id"]] for entry in entries]
        boxes = xywh_to_xyxy([entry["bbox"] for entry in entries])
        names = [*self.names, *(f"{name} (region)" for name in self.names)]
        labels = [
            label + len(self.names) * bool(entry.get("iscrowd")) for label, entry in zip(labels, entries, strict=True)
        ]
        image = draw_boxes(pixels, boxes, labels, scores, names, long_edge=long_edge)
        seen = [names[label] for label in labels]
        if scores is not None:
            seen = [f"{name} {score:.2f}" for name, score in zip(seen, scores, strict=True)]
        return Panel(
            title=title,
            note=note,
            alt=f"{title}: {', '.join(seen) or 'no boxes'}",
            uri=jpeg_uri(image),
            width=image.shape[1],
            height=image.shape[0],
        )


def entries_by_image(entries: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Return annotations or detections by image id, in their order; an image without any has an empty list."""
    grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        grouped[entry["image_id"]].append(entry)
    return grouped


def _file_name(image: dict[str, Any]) -> str:
    name = image.get("file_name")
    if not isinstance(name, str):
        raise DatasetError(f"ground truth, image {image['id']}: has no file_name, so its image cannot be shown.")
    return name
