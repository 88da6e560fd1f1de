"""Coverage of an image by its readers: the classes that they looked for, per image.

An image without a box of a class shows its absence only where somebody looked for that class. COCO files state it in
the federated convention of LVIS (https://www.lvisdataset.org/dataset): ``neg_category_ids`` of an image lists classes
that were looked for and not found, ``not_exhaustive_category_ids`` those of which some findings may lack a box.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

NEG_KEY = "neg_category_ids"
NOT_EXHAUSTIVE_KEY = "not_exhaustive_category_ids"
NORMAL_KEY = "normal"
"""False in images without a box that are not known to be normal, although every class was looked for: other findings
than these may be there."""

COVERAGE_KEY = "coverage"
"""Key of an entry or sample of partly labelled training data: its row of :func:`coverage_of`."""


class Coverage(IntEnum):
    """Knowledge of one class on one image."""

    UNKNOWN = 0
    """Nobody looked for the class: neither its presence nor its absence is known."""
    NOT_EXHAUSTIVE = 1
    """The boxes of the class are findings; further findings may lack a box."""
    EXHAUSTIVE = 2
    """The class was looked for: its boxes, none included, are all there is."""


def coverage_of(coco: Mapping[str, Any]) -> NDArray[np.int8]:
    """Return the coverage of each image and class, shape (images, categories), in the order of the file's lists.

    An image without ``neg_category_ids`` was looked through for all classes. With it, classes that are not listed are
    known where the image has a box of them, and unknown otherwise. Regions to ignore (``iscrowd`` 1) are no boxes.

    Args:
        coco: COCO dict that :func:`cxr_mmdet.structures.coco.check_coco` accepts.
    """
    rows = {image["id"]: row for row, image in enumerate(coco["images"])}
    columns = {category["id"]: column for column, category in enumerate(coco["categories"])}
    coverage = np.full((len(rows), len(columns)), Coverage.EXHAUSTIVE, dtype=np.int8)
    for row, image in enumerate(coco["images"]):
        if NEG_KEY in image:
            coverage[row] = Coverage.UNKNOWN
            coverage[row, [columns[category] for category in image[NEG_KEY]]] = Coverage.EXHAUSTIVE
    for annotation in coco["annotations"]:
        if not annotation.get("iscrowd"):
            coverage[rows[annotation["image_id"]], columns[annotation["category_id"]]] = Coverage.EXHAUSTIVE
    for row, image in enumerate(coco["images"]):
        partial = [columns[category] for category in image.get(NOT_EXHAUSTIVE_KEY, ())]
        coverage[row, partial] = np.minimum(coverage[row, partial], Coverage.NOT_EXHAUSTIVE)
    return coverage


def is_partly_labelled(coco: Mapping[str, Any]) -> bool:
    """Return whether some class of some image was not looked for, or not marked throughout."""
    stated = any(NEG_KEY in image or image.get(NOT_EXHAUSTIVE_KEY) for image in coco["images"])
    return stated and bool((coverage_of(coco) < Coverage.EXHAUSTIVE).any())


def coverage_keys(
    coverage: NDArray[np.int8], present: NDArray[np.bool_], category_ids: NDArray[np.int64]
) -> dict[str, list[int]]:
    """Return the keys that state one image's coverage in its COCO entry; none where every class was looked for.

    Args:
        coverage: (categories,) values of :class:`Coverage`.
        present: (categories,) whether the image has a box of the class.
        category_ids: (categories,) ids of the COCO file.
    """
    if (coverage == Coverage.EXHAUSTIVE).all():
        return {}
    partial = category_ids[coverage == Coverage.NOT_EXHAUSTIVE]
    negative = category_ids[(coverage == Coverage.EXHAUSTIVE) & ~present]
    return {NEG_KEY: negative.tolist(), **({NOT_EXHAUSTIVE_KEY: partial.tolist()} if len(partial) else {})}


def coverage_problems(image: Mapping[str, Any], category_ids: set[int], present: set[int]) -> Iterator[str]:
    """Yield the problems of an image's coverage keys.

    Args:
        image: image entry of a COCO file.
        category_ids: ids of the file's categories.
        present: ids of the categories of which the image has a box.
    """
    for key in (NEG_KEY, NOT_EXHAUSTIVE_KEY):
        listed = image.get(key, [])
        if not isinstance(listed, list) or any(type(value) is not int for value in listed):
            yield f"image {image['id']} has {key} {listed!r}, expected a list of category ids"
            return
        unknown = sorted(set(listed) - category_ids)
        if unknown:
            yield f"image {image['id']} names category {unknown[0]} in {key}, which is not among the categories"
            return
    if NORMAL_KEY in image and not isinstance(image[NORMAL_KEY], bool):
        yield f"image {image['id']} has {NORMAL_KEY} {image[NORMAL_KEY]!r}, expected true or false"
    both = sorted(set(image.get(NEG_KEY, [])) & present)
    if both:
        yield f"image {image['id']} names category {both[0]} in {NEG_KEY}, but has a box of it"
