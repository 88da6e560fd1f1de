"""Leak-free splits by patient: stratified, by list, by readers, by column."""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.errors import DatasetError, UsageError, counted
from cxr_mmdet.structures.labels import strip_comment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


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
            f"{counted(len(groups), 'image')} of {counted(len(sizes), 'patient')} cannot be split into training and "
            "validation; expected at least 2 patients. If the PatientID is only a placeholder, pass --group-by image."
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


SHOWN = 3


def random_folds(group_of: Mapping[str, str], folds: int, seed: int) -> list[frozenset[str]]:
    """Return the images of each fold: whole groups in hashed order, the largest first, each to the smallest fold.

    Args:
        group_of: image → group.
        folds: how many, at least 2.
        seed: another one gives other folds.

    Raises:
        UsageError: fewer than 2 folds.
        DatasetError: fewer groups than folds.
    """
    members = _members(group_of, folds)
    sizes = [0] * folds
    chosen: list[set[str]] = [set() for _ in range(folds)]
    for group in sorted(order_of_groups(members, seed), key=lambda group: -len(members[group])):
        smallest = sizes.index(min(sizes))
        chosen[smallest].update(members[group])
        sizes[smallest] += len(members[group])
    return [frozenset(images) for images in chosen]


def stratified_folds(
    group_of: Mapping[str, str], labels_of: Mapping[str, Collection[str]], folds: int, seed: int
) -> list[frozenset[str]]:
    """Return the images of each fold, each class spread over the folds as evenly as the groups allow.

    Iterative stratification (Sechidis et al. 2011) of whole groups by the package ``iterative-stratification``: a group
    holds the classes of all its images.

    Args:
        group_of: image → group.
        labels_of: image → its classes; images without any may be missing.
        folds: how many, at least 2.
        seed: another one gives other folds.

    Raises:
        UsageError: fewer than 2 folds.
        DatasetError: fewer groups than folds.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    members, order, holds = _group_labels(group_of, labels_of, folds, seed)
    splitter = MultilabelStratifiedKFold(n_splits=folds, shuffle=True, random_state=seed % 2**32)
    return [
        frozenset(image for number in test for image in members[order[number]])
        for _, test in splitter.split(holds, holds)
    ]


def stratified_split(
    group_of: Mapping[str, str], labels_of: Mapping[str, Collection[str]], val_ratio: float, seed: int
) -> frozenset[str]:
    """Return the images to validate on, each class divided as ``val_ratio`` asks as nearly as the groups allow.

    Args:
        group_of: image → group.
        labels_of: image → its classes; images without any may be missing.
        val_ratio: share of the groups to validate on, above 0 and below 1.
        seed: another one gives another split.

    Raises:
        UsageError: ``val_ratio`` is out of range.
        DatasetError: fewer than 2 groups.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    check_val_ratio(val_ratio)
    members, order, holds = _group_labels(group_of, labels_of, 2, seed)
    wanted = min(max(round(val_ratio * len(order)), 1), len(order) - 1)
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=wanted, random_state=seed % 2**32)
    _, test = next(splitter.split(holds, holds))
    val = frozenset(image for number in test for image in members[order[number]])
    # With hardly any group the algorithm may put all of them on one side.
    if val and len(val) < len(group_of):
        return val
    groups = split_groups(list(group_of.values()), val_ratio, seed)
    return frozenset(image for image, group in group_of.items() if group in groups)


def listed_split(image_ids: Collection[str], path: Path) -> tuple[frozenset[str], list[str]]:
    """Return the images that a file lists, to validate on, and the listed names that are not images.

    Args:
        image_ids: all images.
        path: one image id a line, or the first column of a CSV table; a header ``image_id``, blank lines and ``#``
            comments are skipped. A line that is an image's id is taken whole, commas and ``#`` too.

    Raises:
        UsageError: the file cannot be read, or lists none of the images, or all.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--val-list {path}: cannot be read ({error}); expected one image id per line.") from None
    by_form = {unicodedata.normalize("NFC", image_id): image_id for image_id in image_ids}
    listed = dict.fromkeys(name for line in lines if (name := _listed_name(line, by_form)) not in ("", "image_id"))
    val = frozenset(name for name in listed if name in image_ids)
    if not val or len(val) == len(image_ids):
        which = "none" if not val else "all"
        raise UsageError(
            f"--val-list {path}: names {which} of {counted(len(image_ids), 'image')}; expected those to validate on."
        )
    return val, [name for name in listed if name not in val]


def _listed_name(line: str, by_form: Mapping[str, str]) -> str:
    """Return the image that a line of a list names, else the name that it seems to hold."""
    line = unicodedata.normalize("NFC", line.strip())
    uncommented = strip_comment(line)
    cells = [(next(csv.reader([text]), None) or [""])[0].strip() for text in (line, uncommented)]
    candidates = [line, uncommented, *cells]
    return next((by_form[name] for name in candidates if name in by_form), candidates[-1])


def reader_split(
    readers_of: Mapping[str, Collection[str]], train_readers: Collection[str]
) -> tuple[frozenset[str], int]:
    """Return the images that none of ``train_readers`` read, to validate on, and how many others had other readers too.

    Args:
        readers_of: image → who read it; images nobody read are trained on.
        train_readers: whose images are trained on.

    Raises:
        UsageError: a name is not a reader's, or one side would be empty.
    """
    known = {reader for readers in readers_of.values() for reader in readers}
    unknown = sorted(set(train_readers) - known)
    if unknown:
        raise UsageError(f"--train-readers {unknown[0]}: no such reader; expected some of {', '.join(sorted(known))}.")
    named = set(train_readers)
    val = frozenset(image for image, readers in readers_of.items() if readers and named.isdisjoint(readers))
    if not val or len(val) == len(readers_of):
        side = "nothing to validate on" if not val else "nothing to train on"
        raise UsageError(f"--train-readers {', '.join(sorted(named))}: leaves {side}; name fewer or other readers.")
    mixed = sum(not named.isdisjoint(readers) and not named.issuperset(readers) for readers in readers_of.values())
    return val, mixed


def check_groups(group_of: Mapping[str, str], val: Collection[str]) -> None:
    """Refuse a split that tears a group apart.

    Raises:
        DatasetError: a group stands on both sides.
    """
    sides: dict[str, dict[bool, str]] = defaultdict(dict)
    for image in sorted(group_of):
        sides[group_of[image]].setdefault(image in val, image)
    torn = [group for group, images in sides.items() if len(images) == 2]
    if torn:
        images = sides[torn[0]]
        raise DatasetError(
            f"{counted(len(torn), 'group stands', 'groups stand')} on both sides of the split, such as {torn[0]}: "
            f"{images[False]} trains and {images[True]} validates; expected each patient on one side. "
            "Choose the split by groups, or pass --group-by image when they are not the same patient's."
        )


def _members(group_of: Mapping[str, str], folds: int) -> dict[str, list[str]]:
    if folds < 2:
        raise UsageError(f"--folds {folds}: expected at least 2.")
    members: dict[str, list[str]] = defaultdict(list)
    for image in sorted(group_of):
        members[group_of[image]].append(image)
    if len(members) < folds:
        raise DatasetError(
            f"{counted(len(group_of), 'image')} of {counted(len(members), 'patient')} cannot be divided in {folds}; "
            "expected at least one patient for each part. If the PatientID is only a placeholder, pass --group-by "
            "image."
        )
    return members


def _group_labels(
    group_of: Mapping[str, str], labels_of: Mapping[str, Collection[str]], folds: int, seed: int
) -> tuple[dict[str, list[str]], Sequence[str], NDArray[np.bool_]]:
    """Return the images of each group, the groups in hashed order, and the (groups, columns) table to stratify by.

    Beside a column for each class there is one for groups without any, so that normal images are spread as well.
    """
    members = _members(group_of, folds)
    order = order_of_groups(members, seed)
    counts = Counter(label for image in group_of for label in set(labels_of.get(image, ())))
    column = {label: number for number, label in enumerate(sorted(counts))}
    holds = np.zeros((len(order), len(column) + 1), dtype=bool)
    for row, group in enumerate(order):
        found = [column[label] for image in members[group] for label in labels_of.get(image, ())]
        holds[row, found or [-1]] = True
    # The package takes a single column for an ordinary class label.
    return members, order, holds if holds.shape[1] > 1 else np.repeat(holds, 2, axis=1)
