"""Gallery of radiographs, chosen without looking at the detections: every class and some normal studies."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mmdet.evaluation.panels import ImageBook, entries_by_image
from cxr_mmdet.pages import page_environment, write_page
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from cxr_mmdet.evaluation.coco import CocoScores
    from cxr_mmdet.structures.coco import CocoDict, Detection


NORMAL_SHARE = 4
"""One in this many images is a study without boxes."""


def choose_images(ground_truth: CocoDict, count: int) -> list[int]:
    """Return up to ``count`` image ids, those with boxes first, each part in rising order.

    First images that together show as many classes as ``count`` allows, then others spread evenly over the file.
    The choice is not random and ignores the detections, so that it does not favour or disfavour the detector.

    Args:
        ground_truth: COCO dict.
        count: number of images, at least 1; all of them where the file holds fewer.
    """
    classes_of: dict[int, set[int]] = defaultdict(set)
    for annotation in ground_truth["annotations"]:
        classes = classes_of[annotation["image_id"]]
        if not annotation.get("iscrowd"):
            classes.add(annotation["category_id"])
    image_ids = sorted(image["id"] for image in ground_truth["images"])
    abnormal = [image_id for image_id in image_ids if image_id in classes_of]
    normal = [image_id for image_id in image_ids if image_id not in classes_of]
    normal_count = min(len(normal), max(count // NORMAL_SHARE, count - len(abnormal)))
    abnormal_count = min(len(abnormal), count - normal_count)
    shown = _covering(abnormal, classes_of, abnormal_count)
    rest = [image_id for image_id in abnormal if image_id not in shown]
    shown += _spread(rest, abnormal_count - len(shown))
    return sorted(shown) + _spread(normal, normal_count)


def _covering(image_ids: list[int], classes_of: dict[int, set[int]], count: int) -> list[int]:
    """Return at most ``count`` images that together show every class, each time the image that adds most classes."""
    missing = set().union(*(classes_of[image_id] for image_id in image_ids))
    chosen: list[int] = []
    while missing and len(chosen) < count:
        best = max(image_ids, key=lambda image_id: len(classes_of[image_id] & missing))
        chosen.append(best)
        missing -= classes_of[best]
    return chosen


def _spread(image_ids: list[int], count: int) -> list[int]:
    return [image_ids[place * len(image_ids) // count] for place in range(count)]


TEMPLATES = Path(__file__).parent / "templates"


def write_gallery(
    path: str | os.PathLike[str],
    ground_truth: CocoDict,
    detections: Iterable[Detection],
    image_dir: Path,
    *,
    scores: CocoScores | None,
    images: int = 12,
    score_threshold: float = DEFAULT_SCORE_THRESHOLD,
    title: str = "Chest X-ray detections",
) -> None:
    """Write one self-contained HTML file: the headline numbers, then radiographs with ground truth and detections.

    Args:
        path: HTML file.
        ground_truth: COCO dict, checked; its images need a ``file_name``.
        detections: COCO results, boxes in pixels of those files.
        image_dir: folder of the files.
        scores: scores of the table on top; None omits it.
        images: number of radiographs, chosen by :func:`choose_images`.
        score_threshold: score from which detections are drawn.
        title: heading of the page.

    Raises:
        DatasetError: an image names no file, or its file is missing or cannot be decoded.
    """
    book = ImageBook(ground_truth, Path(image_dir))
    by_image = entries_by_image(detections)
    write_page(
        path,
        page_environment(TEMPLATES).get_template("gallery.html"),
        title=title,
        scores=scores,
        studies=[
            book.study(image_id, [("Detections", by_image[image_id], score_threshold)])
            for image_id in choose_images(ground_truth, images)
        ],
        image_count=len(ground_truth["images"]),
        score_threshold=score_threshold,
        legend=list(enumerate(book.names)),
    )
