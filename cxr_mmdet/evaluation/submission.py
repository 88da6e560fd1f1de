"""Submissions to competitions: CSV files with one line per image, its boxes in source-image pixels.

* VinBigData: ``class score x_min y_min x_max y_max …``, then "No finding" as class 14 with the box 0 0 1 1;
* SIIM-FISABIO-RSNA COVID-19: the same with ``opacity`` and ``none`` for classes, without its lines of studies, because
  a detector knows nothing of the appearance of a study;
* RSNA Pneumonia: ``score x y width height …`` of 1024 x 1024 pixels, nothing for an image without a box.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.files import plain_cell, write_csv
from cxr_mmdet.structures.boxes import clip_to_image, xywh_to_xyxy
from cxr_mmdet.structures.detections import Findings
from cxr_mmdet.structures.enums import SubmissionFormat
from cxr_mmdet.structures.labels import LABELS_14, NO_FINDING_ID, spelling_key

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from cxr_mmdet.structures.coco import CocoDict, Detection

NO_FINDING_BOX = ("0", "0", "1", "1")
OPACITY_CLASSES = ("lungopacity", "opacity")
"""The class that RSNA and SIIM ask for, as sets spell it, by :func:`~cxr_mmdet.structures.labels.spelling_key`."""
CLIPPED_PX = 1
"""Pixels of the source by which rounding may move a box beyond its image."""
SCORE_DIGITS = 9
"""Significant digits, more than a float32 has, so that no two scores of a detector become equal."""


@dataclass(frozen=True)
class _Layout:
    """Layout of a competition's file.

    Attributes:
        header: names of the two columns.
        words_per_box: class, score and corners, or score and corners.
        suffix: what follows the name of an image.
        other_suffix: what follows the name in lines of another kind, which are not read.
        no_finding: class that stands for "No finding"; empty where there is none.
        is_xywh: corner, width and height instead of two corners.
        side_px: side of the square images that boxes refer to; None: the source's own size.
    """

    header: tuple[str, str]
    words_per_box: int = 6
    suffix: str = ""
    other_suffix: str = "\0"
    no_finding: str = ""
    is_xywh: bool = False
    side_px: int | None = None


_LAYOUTS = {
    SubmissionFormat.VINBIGDATA: _Layout(("image_id", "PredictionString"), no_finding=str(NO_FINDING_ID)),
    SubmissionFormat.RSNA: _Layout(("patientId", "PredictionString"), words_per_box=5, is_xywh=True, side_px=1024),
    SubmissionFormat.SIIM_COVID: _Layout(
        ("id", "PredictionString"), suffix="_image", other_suffix="_study", no_finding="none"
    ),
}


@dataclass(frozen=True)
class Submission:
    """Content of a submission, in prepared-image pixels.

    Attributes:
        detections: COCO results.
        p_no_finding: by COCO image id; images whose line does not state it are missing.
        clipped: number of boxes that left their image by up to a pixel of the source and were clipped.
    """

    detections: list[Detection]
    p_no_finding: dict[int, float]
    clipped: int = 0


def write_submission(
    path: str | os.PathLike[str],
    ground_truth: CocoDict,
    detections: Sequence[Detection],
    p_abnormal: Sequence[float],
    format: SubmissionFormat = SubmissionFormat.VINBIGDATA,  # noqa: A002 - named as the option
) -> int:
    """Write the submission: every image of the file in its order, its boxes by falling score, then "No finding".

    Corners are rounded to whole pixels of the source image, as the competitions' own boxes are, and span at least one.
    A detection outside its image is left out, because no box could represent it; so is one of a class that the
    competition does not ask for.

    Args:
        path: CSV file.
        ground_truth: COCO dict whose images name their source (``image_id``, ``original_width``, ``original_height``)
            and whose categories the competition asks for.
        detections: COCO results, checked.
        p_abnormal: (images,) in file order; "No finding" scores 1 - p_abnormal.
        format: the competition.

    Returns:
        Number of detections that were left out.

    Raises:
        DatasetError: an image lacks its source's name or size, or a class is not the competition's.
    """
    layout = _LAYOUTS[format]
    word_of = _words_of_classes(ground_truth, format)
    sources = {image["id"]: _Source.of(image, layout) for image in ground_truth["images"]}
    by_image: dict[int, list[Detection]] = defaultdict(list)
    for entry in sorted(detections, key=lambda entry: -entry["score"]):
        by_image[entry["image_id"]].append(entry)
    left_out = 0
    rows = []
    for (image_id, source), p in zip(sources.items(), p_abnormal, strict=True):
        words: list[str] = []
        for entry in by_image[image_id]:
            if entry["category_id"] not in word_of or not source.covered(entry["bbox"]):
                left_out += 1
                continue
            words += [*word_of[entry["category_id"]], _number(entry["score"]), *source.corners(entry["bbox"])]
        if layout.no_finding:
            words += [layout.no_finding, _number(1 - p), *NO_FINDING_BOX]
        rows.append([source.name + layout.suffix, " ".join(words)])
    write_csv(path, layout.header, rows)
    return left_out


def read_findings(path: Path) -> tuple[CocoDict, list[Detection], list[float]]:
    """Return what tools/predict.py found as images without boxes, COCO results and each image's p_abnormal.

    Args:
        path: its output folder, or the findings.json in it.

    Raises:
        DatasetError: there is no such file, it is not what tools/predict.py writes, or names an image twice.
    """
    path = path / "findings.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        labels = document["labels"]
        names = [str(image["image_id"]) for image in document["images"]]
        found = {name: Findings.from_json(image, labels) for name, image in zip(names, document["images"], strict=True)}
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); expected the output folder of tools/predict.py."
        ) from None
    except (KeyError, TypeError, ValueError):
        raise DatasetError(f"{path}: is not the findings.json that tools/predict.py writes.") from None
    _require_each_once(path, names)
    images = []
    for number, (name, findings) in enumerate(found.items(), 1):
        height, width = findings.size_hw
        size = {"height": height, "width": width, "original_height": height, "original_width": width}
        images.append({"id": number, "file_name": name, "image_id": name} | size)
    categories = [{"id": number, "name": name} for number, name in enumerate(labels, 1)]
    ids = range(1, len(labels) + 1)
    detections = [row for number, each in enumerate(found.values(), 1) for row in each.to_coco(number, ids)]
    truth = {"images": images, "annotations": [], "categories": categories}
    return truth, detections, [findings.p_abnormal for findings in found.values()]


def images_of_sample(
    sample: Path, ground_truth: CocoDict, p_abnormal: Sequence[float], *, allow_missing: bool = False
) -> tuple[CocoDict, list[float], list[str]]:
    """Return the images that a competition asks for in its order, their p_abnormal, and those that were missing.

    Args:
        sample: the competition's sample_submission.csv.
        ground_truth: COCO dict of images whose ``image_id`` the sample names.
        p_abnormal: (images,) in file order.
        allow_missing: give an image that is missing the line of a normal one.

    Raises:
        DatasetError: it is no such file, names an image twice, or images are missing.
    """
    format_, lines = _lines(sample)
    layout = _LAYOUTS[format_]
    asked = [name.strip().removesuffix(layout.suffix) for _, name, _ in lines if not name.endswith(layout.other_suffix)]
    _require_each_once(sample, asked)
    known = {
        str(image.get("image_id")): (image, p) for image, p in zip(ground_truth["images"], p_abnormal, strict=True)
    }
    missing = [name for name in asked if name not in known]
    if len(missing) == len(asked) or (missing and not allow_missing):
        raise DatasetError(
            f"{sample}: asks for {counted(len(asked), 'image')}, of which {len(missing):,} were not predicted, such as "
            f"{missing[0]!r}; run tools/predict.py again, which predicts what is missing, or pass --allow-missing to "
            "submit them as normal."
            if missing
            else f"{sample}: names no image."
        )
    spare = max(image["id"] for image in ground_truth["images"])
    size = dict.fromkeys(("width", "height", "original_width", "original_height"), 1)
    known |= {name: ({"id": spare + place, "image_id": name} | size, 0.0) for place, name in enumerate(missing, 1)}
    images, probabilities = zip(*(known[name] for name in asked), strict=True)
    return {**ground_truth, "images": list(images)}, list(probabilities), missing


def _require_each_once(path: Path, names: Sequence[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DatasetError(f"{path}: names image {twice!r} more than once; expected each image once.")


def read_submission(path: str | os.PathLike[str], ground_truth: CocoDict) -> Submission:
    """Return the content of a submission for the images of ``ground_truth``; additional blanks are ignored.

    A box that leaves its image by up to a pixel of the source is clipped and counted; one that leaves it by more is an
    error.

    Args:
        path: CSV file.
        ground_truth: COCO dict; the file must hold each of its images once, and no other.

    Raises:
        DatasetError: names the line and the problem.
    """
    format_, lines = _lines(path)
    layout = _LAYOUTS[format_]
    category_of = {" ".join(word): category for category, word in _words_of_classes(ground_truth, format_).items()}
    places = [(image["id"], _Source.of(image, layout)) for image in ground_truth["images"]]
    sources = {source.name + layout.suffix: (image_id, source) for image_id, source in places}
    detections: list[Detection] = []
    p_no_finding: dict[int, float] = {}
    clipped = 0
    seen: set[str] = set()
    for where, written, text in lines:
        if written.endswith(layout.other_suffix):
            continue
        name = written if written in sources else written.strip()
        if name not in sources:
            raise DatasetError(f"{where}: image {name!r} is not among the ground truth's.")
        if name in seen:
            raise DatasetError(f"{where}: image {name!r} has a line already.")
        seen.add(name)
        clipped += _read_predictions(where, text, sources[name], layout, category_of, detections, p_no_finding)
    missing = sorted(set(sources) - seen)
    if missing:
        raise DatasetError(f"{path}: lacks {len(missing)} of {counted(len(sources), 'image')}, such as {missing[0]!r}.")
    return Submission(detections, p_no_finding, clipped)


@dataclass(frozen=True)
class _Source:
    """Source of a prepared image: name, size, and scale to the prepared size."""

    name: str
    width: int
    height: int
    scale_x: float
    scale_y: float
    is_xywh: bool = False

    @classmethod
    def of(cls, image: Mapping[str, Any], layout: _Layout) -> _Source:
        lacking = [k for k in ("image_id", "width", "height", "original_width", "original_height") if k not in image]
        if lacking:
            raise DatasetError(
                f"ground truth, image {image['id']}: has no {', '.join(lacking)}, which a submission in source-image "
                "pixels needs; build the file with tools/prepare_data.py build."
            )
        width, height = (layout.side_px or image[key] for key in ("original_width", "original_height"))
        scale_x, scale_y = width / image["width"], height / image["height"]
        return cls(str(image["image_id"]), width, height, scale_x, scale_y, layout.is_xywh)

    def corners(self, bbox_xywh: Sequence[float]) -> list[str]:
        """Return a box of the prepared image as the file writes it."""
        x, y, width, height = bbox_xywh
        left, right = _whole_pixels(x * self.scale_x, (x + width) * self.scale_x, self.width)
        top, bottom = _whole_pixels(y * self.scale_y, (y + height) * self.scale_y, self.height)
        if self.is_xywh:
            right, bottom = right - left, bottom - top
        return [str(left), str(top), str(right), str(bottom)]

    def covered(self, bbox_xywh: Sequence[float]) -> bool:
        """Return whether a box overlaps the image."""
        x, y, width, height = bbox_xywh
        across = x * self.scale_x < self.width and x + width > 0
        return across and y * self.scale_y < self.height and y + height > 0

    def bbox_xywh(self, corners: Sequence[float]) -> list[float]:
        left, top, right, bottom = corners
        return [
            left / self.scale_x,
            top / self.scale_y,
            (right - left) / self.scale_x,
            (bottom - top) / self.scale_y,
        ]


def _whole_pixels(low: float, high: float, size: int) -> tuple[int, int]:
    """Return the nearest integers in 0…size, at least one apart."""
    first = min(max(round(low), 0), size - 1)
    return first, min(max(round(high), first + 1), size)


def _number(score: float) -> str:
    return f"{score:.{SCORE_DIGITS}g}"


def _words_of_classes(ground_truth: CocoDict, format_: SubmissionFormat) -> dict[int, tuple[str, ...]]:
    """Return what names a category in the file, by id, for those that the competition asks for."""
    categories = {category["id"]: category["name"] for category in ground_truth["categories"]}
    if format_ is SubmissionFormat.VINBIGDATA:
        numbers = {name: str(number) for number, name in enumerate(LABELS_14)}
        unknown = [name for name in categories.values() if name not in numbers]
        if unknown:
            raise DatasetError(
                f"ground truth: {', '.join(map(repr, unknown))} is not among the competition's 14 classes, so there is "
                "no number to submit it under."
            )
        return {category: (numbers[name],) for category, name in categories.items()}
    chosen = [category for category, name in categories.items() if spelling_key(name) in OPACITY_CLASSES]
    if len(chosen) != 1:
        raise DatasetError(
            f"ground truth: has the classes {', '.join(map(repr, categories.values()))}; expected one of them to be "
            f"'Lung Opacity', the only class of a submission to {format_.value}. Merge yours under that label."
        )
    return {chosen[0]: ("opacity",) if format_ is SubmissionFormat.SIIM_COVID else ()}


def _lines(path: str | os.PathLike[str]) -> tuple[SubmissionFormat, list[tuple[str, str, str]]]:
    """Return the competition by the header, and the place of each line, its image and its prediction string."""
    try:
        rows = list(csv.reader(Path(path).read_text(encoding="utf-8-sig").splitlines(), strict=True))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not a CSV file ({error}).") from None
    header = tuple(rows[0] if rows else ())
    format_ = next((each for each, layout in _LAYOUTS.items() if layout.header == header), None)
    if format_ is None:
        expected = " or ".join(",".join(layout.header) for layout in _LAYOUTS.values())
        raise DatasetError(f"{path}, line 1: expected the header {expected}, got {','.join(header)!r}.")
    lines = []
    for number, row in enumerate(([plain_cell(cell) for cell in row] for row in rows[1:]), 2):
        if len(row) != len(header):
            raise DatasetError(f"{path}, line {number}: has {len(row)} columns, expected {len(header)}.")
        lines.append((f"{path}, line {number}", row[0], row[1]))
    return format_, lines


def _read_predictions(
    where: str,
    text: str,
    place: tuple[int, _Source],
    layout: _Layout,
    category_of: Mapping[str, int],
    detections: list[Detection],
    p_no_finding: dict[int, float],
) -> int:
    """Add one image's predictions to ``detections`` and ``p_no_finding``; return how many boxes were clipped."""
    image_id, source = place
    clipped = 0
    words = text.split()
    count = layout.words_per_box
    if len(words) % count or (layout.no_finding and not words):
        expected = (
            f"six for each box (class score x_min y_min x_max y_max), or '{layout.no_finding} 1 0 0 1 1'"
            if layout.no_finding
            else "five for each box (score x y width height)"
        )
        raise DatasetError(f"{where}: the prediction string holds {len(words)} words, expected {expected}.")
    for first in range(0, len(words), count):
        label, score, corners = _prediction(where, words[first : first + count], layout)
        if layout.no_finding and label == layout.no_finding:
            if image_id in p_no_finding or corners != [float(side) for side in NO_FINDING_BOX]:
                raise DatasetError(f"{where}: 'No finding' must stand once, with the box 0 0 1 1.")
            p_no_finding[image_id] = score
            continue
        if label not in category_of:
            raise DatasetError(f"{where}: class {label} is not among the ground truth's.")
        left, top, right, bottom = corners
        if left > right or top > bottom:
            raise DatasetError(f"{where}: the box {corners} is inverted, expected x_min y_min x_max y_max.")
        inside = clip_to_image([corners], (source.height, source.width))[0].tolist()
        beyond = max(abs(corner - kept) for corner, kept in zip(corners, inside, strict=True))
        if beyond > CLIPPED_PX:
            raise DatasetError(
                f"{where}: the box {corners} leaves its image of {source.width} x {source.height} by {beyond:g} px; up "
                f"to {CLIPPED_PX} px would be clipped."
            )
        clipped += beyond > 0
        detections.append(
            {
                "image_id": image_id,
                "category_id": category_of[label],
                "bbox": source.bbox_xywh(inside),
                "score": score,
            }
        )
    return clipped


def _prediction(where: str, words: Sequence[str], layout: _Layout) -> tuple[str, float, list[float]]:
    """Return class, score and corners of a box; no class where the file names none."""
    names, numbers = words[: layout.words_per_box - 5], words[layout.words_per_box - 5 :]
    try:
        score, *corners = map(float, numbers)
        label = str(int(names[0])) if layout.no_finding == str(NO_FINDING_ID) else "".join(names)
    except ValueError:
        raise DatasetError(f"{where}: {' '.join(words)!r} is not a class and five numbers.") from None
    if layout.no_finding == str(NO_FINDING_ID) and not 0 <= int(label) <= NO_FINDING_ID:
        raise DatasetError(f"{where}: class {label} is not in 0…{NO_FINDING_ID}.")
    if not 0 <= score <= 1 or not all(math.isfinite(corner) for corner in corners):
        raise DatasetError(f"{where}: {' '.join(words)!r} has a score outside 0…1 or a corner that is not finite.")
    return label, score, xywh_to_xyxy([corners])[0].tolist() if layout.is_xywh else corners
