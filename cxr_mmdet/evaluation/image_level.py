"""Image-level probability of an abnormality: files of it, ROC curve, and the competition's "No finding"."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.evaluation.matching import ClassMatches, first_of_runs
from cxr_mmdet.evaluation.voc import as_weights
from cxr_mmdet.files import plain_cell, write_json
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.matching import DetectionTable, TruthTable
    from cxr_mmdet.evaluation.voc import Weights
    from cxr_mmdet.structures.coco import CocoDict


COLUMNS = ["image_id", "p_abnormal"]


def p_abnormal_path(detections: Path) -> Path:
    """Return the path of a gate's probabilities beside a file of detections.

    It is ``detections.p_abnormal.json`` for ``detections.json``; a detector without a gate writes no such file.
    """
    return detections.with_suffix(".p_abnormal.json")


def write_p_abnormal(detections: Path, p_abnormal: Mapping[str, float] | None) -> None:
    """Write an object image_id → p beside a file of detections, or, for None, remove the file of an earlier run."""
    path = p_abnormal_path(detections)
    if p_abnormal is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, dict(p_abnormal), indent=1)


def read_p_abnormal(path: Path, ground_truth: CocoDict) -> NDArray[np.float64]:
    """Return (images,) probabilities in the order of the ground truth's images.

    Args:
        path: a CSV file with the columns image_id and p_abnormal; or JSON: an object image_id → p, or a list of objects
            with image_id and p_abnormal, or ``findings.json``. Other images are ignored.
        ground_truth: COCO dict. Its images are named by ``image_id``, else by the name of their file without suffix,
            else by their id.

    Raises:
        DatasetError: the file cannot be read, names an image twice, lacks one, or holds a value outside 0…1.
    """
    given: dict[str, float] = {}
    for name, value in _entries(path):
        if name in given:
            raise DatasetError(f"{path}: names image {name!r} twice.")
        given[name] = _probability(path, name, value)
    names = [image_name(image) for image in ground_truth["images"]]
    missing = [name for name in names if name not in given]
    if missing:
        raise DatasetError(
            f"{path}: lacks p_abnormal of {len(missing)} of {counted(len(names), 'image')}, such as {missing[0]!r}."
        )
    return np.array([given[name] for name in names], dtype=np.float64)


def image_name(image: Mapping[str, Any]) -> str:
    """Return the name of an image of a COCO file, as :func:`read_p_abnormal` defines it."""
    if "image_id" in image:
        return str(image["image_id"])
    return image_id_of(image["file_name"]) if isinstance(image.get("file_name"), str) else str(image["id"])


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: is not text ({error}).") from None
    return _csv_entries(path, text) if path.suffix.lower() == ".csv" else _json_entries(path, text)


def _csv_entries(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(text.splitlines())
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise DatasetError(f"{path}: has the columns {reader.fieldnames}, expected {' and '.join(COLUMNS)}.")
    for row in reader:
        yield plain_cell(row["image_id"]), row["p_abnormal"]


def _json_entries(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: is not JSON ({error}).") from None
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content = content["images"]  # findings.json
    if isinstance(content, dict):
        yield from content.items()
        return
    if not isinstance(content, list):
        raise DatasetError(f"{path}: holds neither an object image_id → p_abnormal nor a list of findings.")
    for place, entry in enumerate(content):
        if not isinstance(entry, dict) or not set(COLUMNS) <= set(entry):
            raise DatasetError(f"{path}, entry {place}: is not an object with {' and '.join(COLUMNS)}.")
        yield str(entry["image_id"]), entry["p_abnormal"]


def _probability(path: Path, name: str, value: Any) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number <= 1:
        raise DatasetError(f"{path}: p_abnormal {value!r} of image {name!r} is not a number in 0…1.")
    return number


@dataclass(frozen=True)
class ImageScores:
    """Probability that each image is abnormal, and whether it is.

    Attributes:
        p_abnormal: (images,), 0…1.
        abnormal: (images,) bool: the ground truth holds a box.
        unknown: (images,) bool: it holds no box, but crowd regions or classes that were not looked for throughout, and
            counts as neither abnormal nor normal; None: no such image.
    """

    p_abnormal: NDArray[np.float64]
    abnormal: NDArray[np.bool_]
    unknown: NDArray[np.bool_] | None = None

    @property
    def known(self) -> NDArray[np.bool_]:
        """(images,) bool: the image is abnormal or normal."""
        return np.ones(len(self.abnormal), bool) if self.unknown is None else ~self.unknown


def score_images(
    truth: TruthTable, detections: DetectionTable, p_abnormal: NDArray[np.float64] | None = None
) -> ImageScores:
    """Return the images' scores.

    Args:
        truth: the ground truth; an image with a box of any of its classes is abnormal, one without a box is normal
            where all classes were looked for, it has no crowd region and the file does not say otherwise, else
            neither.
        detections: the detections.
        p_abnormal: (images,) from a classifier; without it the highest score of any detection, 0 without detections.
    """
    images = len(truth.image_ids)
    if p_abnormal is None:
        p_abnormal = np.zeros(images)
        np.maximum.at(p_abnormal, detections.image_index, detections.scores)
    abnormal, region = np.zeros(images, bool), np.zeros(images, bool)
    abnormal[truth.image_index[~truth.crowd]] = True
    region[truth.image_index[truth.crowd]] = True
    partly = ~truth.exhaustive.all(axis=1)
    if truth.maybe_abnormal is not None:
        partly |= truth.maybe_abnormal
    return ImageScores(p_abnormal=p_abnormal, abnormal=abnormal, unknown=(region | partly) & ~abnormal)


def no_finding_matches(images: ImageScores) -> ClassMatches:
    """Return the competition's class 14: each image gets one box, which hits where nothing is annotated.

    Its score is 1 - p_abnormal. A submission writes ``14 <score> 0 0 1 1``, as does the ground truth of normal images.
    """
    scores = 1 - images.p_abnormal
    order = np.argsort(-scores, kind="stable")
    order = order[images.known[order]]
    normal = ~images.abnormal & images.known
    return ClassMatches(
        name=NO_FINDING,
        scores=scores[order],
        hits=normal[order],
        duplicates=np.zeros(len(order), bool),
        image_index=order,
        detection_index=np.full(len(order), -1),
        annotation_index=np.full(len(order), -1),
        positives=normal.astype(np.int64),
    )


def roc_auc(images: ImageScores, weights: Weights | None = None) -> NDArray[np.float64]:
    """Return (R,) the probability that an abnormal image scores above a normal one, ties counting half.

    This is the Mann-Whitney statistic, equal to the area under the ROC curve (Hanley and McNeil, Radiology 143, 1982).

    Args:
        images: the images' scores.
        weights: weight of each image, (images,) or (R, images); 1 by default.

    Returns:
        NaN where there is no abnormal or no normal image.
    """
    abnormal, normal = _counts_by_score(images, as_weights(weights, len(images.abnormal)))
    below = np.cumsum(normal[::-1], axis=0)[::-1] - normal
    wins = (abnormal * (below + normal / 2)).sum(axis=0)
    pairs = abnormal.sum(axis=0) * normal.sum(axis=0)
    return np.divide(wins, pairs, out=np.full_like(wins, np.nan), where=pairs > 0)


def roc_curve(images: ImageScores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates from (0, 0) to (1, 1), empty without abnormal or without normal images."""
    abnormal, normal = _counts_by_score(images, as_weights(None, len(images.abnormal)))
    if not abnormal.sum() or not normal.sum():
        return np.zeros(0), np.zeros(0)
    rates = [np.concatenate([[0], np.cumsum(counts[:, 0]) / counts.sum()]) for counts in (normal, abnormal)]
    return rates[0], rates[1]


def _counts_by_score(images: ImageScores, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (distinct scores, R) weighted abnormal and normal images, the highest score first."""
    order = np.argsort(-images.p_abnormal, kind="stable")
    per_image = weights.T[order].astype(np.float64) * images.known[order, None]
    starts = first_of_runs(images.p_abnormal[order])
    abnormal = images.abnormal[order, None]
    if not len(starts):
        return per_image, per_image
    return (
        np.add.reduceat(per_image * abnormal, starts, axis=0),
        np.add.reduceat(per_image * ~abnormal, starts, axis=0),
    )
