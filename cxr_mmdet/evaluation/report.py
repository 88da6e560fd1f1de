"""Scores as people read them: a table for a terminal, a page with pictures."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup
from rich import box
from rich.table import Table

from cxr_mmdet.boxes import xywh_to_xyxy
from cxr_mmdet.drawing import class_style, draw_boxes
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.selection import choose_images
from cxr_mmdet.files import atomic_path

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.coco import CocoScores
    from cxr_mmdet.evaluation.results import CocoDict, Detection

UNDEFINED = "n/a"
HEADERS = ("AP@[.5:.95]", "AP@.5", "AP@.75", "boxes", "detections")
PICTURE_LONG_EDGE = 900
"""Pixels; shown at about 570 on a desk and 360 on a phone, so that names stay readable on both."""
JPEG_QUALITY = 88
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _Panel:
    title: str
    note: str
    alt: str
    jpeg: str
    width: int
    height: int


@dataclass(frozen=True)
class _Study:
    name: str
    panels: tuple[_Panel, _Panel]


def metrics_table(scores: CocoScores) -> Table:
    """Return a table of the classes in label order, their mean as its last row and the headline as its title.

    It fits 80 columns; a score that is undefined (a class without boxes) is shown as n/a.
    """
    table = Table(title=headline(scores), title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("finding", overflow="fold")
    for header in HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for row in scores.per_class:
        values = (row.ap, row.ap_50, row.ap_75)
        table.add_row(row.name, *map(format_score, values), str(row.ground_truth_boxes), str(row.detections))
    table.add_section()
    values = (scores.mean_ap, scores.mean_ap_50, scores.mean_ap_75)
    counts = (str(scores.ground_truth_boxes), str(scores.detections))
    table.add_row("mean of findings", *map(format_score, values), *counts, style="bold")
    return table


def headline(scores: CocoScores) -> str:
    """Return the two numbers everybody asks for, and over how many images."""
    return (
        f"mAP@[.5:.95] {format_score(scores.mean_ap)}   mAP@.5 {format_score(scores.mean_ap_50)}   "
        f"({scores.images} images)"
    )


def format_score(score: float | None) -> str:
    """Return three decimals, or n/a for what is undefined."""
    return UNDEFINED if score is None else f"{score:.3f}"


def write_gallery(
    path: str | os.PathLike[str],
    ground_truth: CocoDict,
    detections: Iterable[Detection],
    image_dir: Path,
    *,
    scores: CocoScores | None,
    images: int = 12,
    score_threshold: float = 0.3,
    title: str = "Chest X-ray detections",
) -> None:
    """Write one self-contained HTML file: the headline numbers, then radiographs with ground truth and detections.

    Args:
        path: the page to write.
        ground_truth: COCO dict, checked; its images need a ``file_name``.
        detections: COCO results, boxes in pixels of those files.
        image_dir: where the files lie.
        scores: the table on top; left out when ``None``.
        images: how many radiographs; :func:`choose_images` says which.
        score_threshold: detections below are not drawn.
        title: heading of the page.

    Raises:
        DatasetError: an image names no file, or its file is missing or cannot be decoded.
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    labels = {category_id: label for label, category_id in enumerate(names)}
    files = {image["id"]: _file_name(image) for image in ground_truth["images"]}
    truth_of, found_of = _by_image(ground_truth["annotations"]), _by_image(detections)
    studies = []
    for image_id in choose_images(ground_truth, images):
        pixels = _read_picture(Path(image_dir) / files[image_id])
        truth, found = truth_of[image_id], found_of[image_id]
        shown = [entry for entry in found if entry["score"] >= score_threshold]
        note = f"{len(shown)} shown, {len(found) - len(shown)} below the threshold"
        panels = (
            _panel(
                "Ground truth", _count(len(truth), "box", "boxes"), pixels, truth, None, labels, list(names.values())
            ),
            _panel("Detections", note, pixels, shown, [d["score"] for d in shown], labels, list(names.values())),
        )
        studies.append(_Study(name=Path(files[image_id]).stem, panels=panels))
    page = (
        _environment()
        .get_template("gallery.html")
        .render(
            title=title,
            scores=scores,
            studies=studies,
            image_count=len(files),
            score_threshold=score_threshold,
            legend=list(enumerate(names.values())),
        )
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _by_image(entries: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        grouped[entry["image_id"]].append(entry)
    return grouped


def _file_name(image: dict[str, Any]) -> str:
    name = image.get("file_name")
    if not isinstance(name, str):
        raise DatasetError(f"ground truth, image {image['id']}: has no file_name, so its picture cannot be shown.")
    return name


def _read_picture(path: Path) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 pixels; read as bytes, because OpenCV cannot open every path on Windows."""
    try:
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); is this the folder of the images?") from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DatasetError(f"{path}: is not a picture OpenCV can decode; prepare the data again.")
    return pixels.astype(np.uint8, copy=False)


def _panel(
    title: str,
    note: str,
    pixels: NDArray[np.uint8],
    entries: list[dict[str, Any]],
    scores: list[float] | None,
    labels: dict[int, int],
    class_names: list[str],
) -> _Panel:
    """Return one picture of a study with the boxes of COCO ``entries`` (annotations or detections)."""
    entry_labels = [labels[entry["category_id"]] for entry in entries]
    boxes = xywh_to_xyxy([entry["bbox"] for entry in entries])
    picture = draw_boxes(pixels, boxes, entry_labels, scores, class_names, long_edge=PICTURE_LONG_EDGE)
    ok, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok
    seen = [class_names[label] for label in entry_labels]
    if scores is not None:
        seen = [f"{name} {score:.2f}" for name, score in zip(seen, scores, strict=True)]
    return _Panel(
        title=title,
        note=note,
        alt=f"{title}: {', '.join(seen) or 'no boxes'}",
        jpeg=base64.b64encode(encoded.tobytes()).decode("ascii"),
        width=picture.shape[1],
        height=picture.shape[0],
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["score"] = format_score
    environment.globals["swatch"] = _swatch
    return environment


def _swatch(label: int) -> Markup:
    style = class_style(label)
    return Markup('<span class="swatch {}" style="color:{}"></span>').format(style.dash, style.css_color)
