"""Which radiographs a page shows: every class, some normal studies, chosen without looking at the scores."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_mmdet.evaluation.results import CocoDict

NORMAL_SHARE = 4
"""One picture in so many is a study without boxes."""


def choose_images(ground_truth: CocoDict, count: int) -> list[int]:
    """Return up to ``count`` image ids, those with boxes first, each part in rising order.

    First images that together show as many classes as ``count`` allows, then others spread evenly over the file.
    Nothing is drawn by chance and no detection is looked at, so the page neither flatters nor shames the detector.

    Args:
        ground_truth: COCO dict.
        count: how many images, at least 1; all of them where the file holds fewer.
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
    """Return at most ``count`` images that together show every class, each time the one that adds most classes."""
    missing = set().union(*(classes_of[image_id] for image_id in image_ids))
    chosen: list[int] = []
    while missing and len(chosen) < count:
        best = max(image_ids, key=lambda image_id: len(classes_of[image_id] & missing))
        chosen.append(best)
        missing -= classes_of[best]
    return chosen


def _spread(image_ids: list[int], count: int) -> list[int]:
    return [image_ids[place * len(image_ids) // count] for place in range(count)]
