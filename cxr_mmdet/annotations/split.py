"""Who trains and who validates: whole groups (patients), the same ones whatever the order of the rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

from cxr_mmdet.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def split_groups(groups: Sequence[str], val_ratio: float, seed: int) -> frozenset[str]:
    """Return the groups to validate on; all images of a group stand on the same side.

    Groups are taken in the order of a hash of seed and name, so the choice depends on nothing but these, and a data
    set that grows keeps nearly all of its split. A group that would overshoot the number of images is passed over.

    Args:
        groups: the group of each image.
        val_ratio: share of the images to validate on, above 0 and below 1.
        seed: another one gives another split.

    Raises:
        UsageError: ``val_ratio`` is out of range.
        DatasetError: the groups cannot be divided into two sides.
    """
    check_val_ratio(val_ratio)
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise DatasetError(
            f"{len(groups)} images of {len(sizes)} patient(s) cannot be split into training and validation; expected "
            "at least 2 patients. If the PatientID is only a placeholder, pass --group-by image."
        )
    # At least one image for each side, however small the ratio.
    wanted = min(max(round(val_ratio * len(groups)), 1), len(groups) - 1)
    order = order_of_groups(sizes, seed)
    val: set[str] = set()
    taken = 0
    for group in order:
        if taken + sizes[group] <= wanted:
            val.add(group)
            taken += sizes[group]
    # Every group is larger than what is wanted: the smallest comes closest.
    return frozenset(val or {min(order, key=lambda group: sizes[group])})


def order_of_groups(groups: Iterable[str], seed: int) -> list[str]:
    """Return the groups in an order that depends on nothing but the seed and their own names."""
    return sorted(groups, key=lambda group: _hash(seed, group))


def check_val_ratio(val_ratio: float) -> None:
    """Refuse a share of images that leaves one side empty.

    Raises:
        UsageError: ``val_ratio`` is not above 0 and below 1.
    """
    if not 0 < val_ratio < 1:
        raise UsageError(f"--val-ratio {val_ratio}: expected a share above 0 and below 1, such as 0.2.")


def _hash(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
