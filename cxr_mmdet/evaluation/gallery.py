"""A page of radiographs with ground truth and detections, chosen without looking at the detections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mmdet.evaluation.panels import PictureBook, entries_by_image
from cxr_mmdet.evaluation.selection import choose_images
from cxr_mmdet.pages import page_environment, write_page

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from cxr_mmdet.evaluation.coco import CocoScores
    from cxr_mmdet.evaluation.results import CocoDict, Detection

TEMPLATES = Path(__file__).parent / "templates"


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
    book = PictureBook(ground_truth, Path(image_dir))
    found = entries_by_image(detections)
    write_page(
        path,
        page_environment(TEMPLATES).get_template("gallery.html"),
        title=title,
        scores=scores,
        studies=[
            book.study(image_id, [("Detections", found[image_id], score_threshold)])
            for image_id in choose_images(ground_truth, images)
        ],
        image_count=len(ground_truth["images"]),
        score_threshold=score_threshold,
        legend=list(enumerate(book.names)),
    )
