"""Split of a prepared folder's images, and a new split of a finished folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr_mmdet.annotations.split import (
    check_groups,
    listed_split,
    random_folds,
    reader_split,
    split_groups,
    stratified_folds,
    stratified_split,
)
from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.preparation.near_duplicates import MAX_DISTANCE, NearDuplicates, pairs_across
from cxr_mmdet.preparation.options import BY_IMAGE, BY_PATIENT
from cxr_mmdet.structures.enums import SplitMethod
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pandas as pd

    from cxr_mmdet.annotations.coverage import ImageFacts
    from cxr_mmdet.preparation.images import PreparedImage
    from cxr_mmdet.preparation.options import SplitOptions

SHOWN_NAMES = 3


@dataclass(frozen=True)
class Split:
    """Division of the images into training and validation.

    Attributes:
        group_of: image → group, near-duplicates joined where asked.
        val: the images to validate on.
        folds: the images of every fold; empty without folds.
        near_duplicates: all near-identical pairs.
        across: those of which one trains and the other validates.
        notes: what a user should know.
    """

    group_of: Mapping[str, str]
    val: frozenset[str]
    folds: tuple[frozenset[str], ...]
    near_duplicates: tuple[NearDuplicates, ...]
    across: tuple[NearDuplicates, ...]
    notes: tuple[str, ...]


def split_images(
    images: Sequence[PreparedImage],
    rows: pd.DataFrame,
    near_duplicates: Sequence[NearDuplicates],
    options: SplitOptions,
    facts: ImageFacts,
) -> Split:
    """Return who validates.

    Args:
        images: the prepared images.
        rows: the readers' rows of these images, with ``group`` where a column names it.
        near_duplicates: near-identical pairs among the images.
        options: how.
        facts: the set of each image and the split that its source ships.

    Raises:
        UsageError: an option does not fit these images.
        DatasetError: the images cannot be divided; or a group, or near-identical images, stand on both sides.
    """
    group_of = _groups(images, rows, options)
    shared = [*_same_names(facts.set_of), *_of_two_sets(near_duplicates, facts.set_of)]
    joined = [*near_duplicates, *shared] if options.join_duplicates else shared
    if joined:
        group_of = join_near_duplicates(group_of, joined)
    val, folds, notes = _divide(group_of, rows, options, facts)
    for part in folds or (val,):
        try:
            check_groups(group_of, part)
        except DatasetError as error:
            if options.split is not SplitMethod.GIVEN:
                raise
            raise DatasetError(f"the split that the source ships leaks: {error} Or pass --split random.") from None
    if shared:
        notes.append(
            f"{counted(len(shared), 'pair')} of images of two sets with the same name or near-identical images, such "
            f"as {shared[0].first} and {shared[0].second}, kept on one side of the split."
        )
    across = sorted(
        {pair for part in folds or (val,) for pair in pairs_across(near_duplicates, part)}, key=lambda pair: pair[2]
    )
    notes += [*_judge_near_duplicates(across, options), *_notes_on_groups(images, rows, folds or [val], options)]
    return Split(group_of, val, tuple(folds), tuple(near_duplicates), tuple(across), tuple(notes))


def join_near_duplicates(group_of: Mapping[str, str], near_duplicates: Sequence[NearDuplicates]) -> dict[str, str]:
    """Return the groups with those of near-identical images made one, under the first of their names."""
    names = sorted(set(group_of.values()))
    number = {name: place for place, name in enumerate(names)}
    pairs = [(number[group_of[pair.first]], number[group_of[pair.second]]) for pair in near_duplicates]
    left, right = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_array(([1] * len(pairs), (left, right)), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    for name, part in zip(names, component.tolist(), strict=True):
        first.setdefault(part, name)
    return {image: first[int(component[number[group]])] for image, group in group_of.items()}


def _groups(images: Sequence[PreparedImage], rows: pd.DataFrame, options: SplitOptions) -> dict[str, str]:
    if options.group_by == BY_IMAGE:
        return {image.image_id: image.image_id for image in images}
    if options.group_column is None:
        return {image.image_id: image.patient or image.image_id for image in images}
    named = rows.drop_duplicates("image_id").set_index("image_id")["group"].to_dict()
    # An image without a row is nobody's.
    return {image.image_id: named.get(image.image_id, image.image_id) for image in images}


def _notes_on_groups(
    images: Sequence[PreparedImage], rows: pd.DataFrame, parts: Sequence[Collection[str]], options: SplitOptions
) -> list[str]:
    """Return what a split by another unit than the patient does to patients."""
    if options.group_by == BY_PATIENT:
        return []
    notes = []
    unnamed = sorted({image.image_id for image in images}.difference(rows["image_id"]))
    if options.group_column and unnamed:
        notes.append(
            f"{counted(len(unnamed), 'image has', 'images have')} no row and so no {options.group_column}, such as "
            f"{unnamed[0]}; each counts as a group of its own."
        )
    of_patient: dict[str, set[str]] = {}
    for image in images:
        if image.patient:
            of_patient.setdefault(image.patient, set()).add(image.image_id)
    torn = sorted(
        name for name, own in of_patient.items() if any(0 < len(own & set(part)) < len(own) for part in parts)
    )
    if torn:
        notes.append(
            f"{counted(len(torn), 'patient stands', 'patients stand')} on both sides of the split, such as the one of "
            f"{min(of_patient[torn[0]])}, by the Patient IDs of the radiographs; --group-by patient keeps each on one."
        )
    return notes


def _same_names(set_of: Mapping[str, str]) -> list[NearDuplicates]:
    """Return pairs of images that had one id in two sets."""
    first: dict[str, str] = {}
    pairs = []
    for image in sorted(set_of):
        plain = image.removeprefix(f"{set_of[image]}-")
        other = first.setdefault(plain, image)
        if set_of[other] != set_of[image]:
            pairs.append(NearDuplicates(other, image, 0))
    return pairs


def _of_two_sets(pairs: Sequence[NearDuplicates], set_of: Mapping[str, str]) -> list[NearDuplicates]:
    return [pair for pair in pairs if set_of.get(pair.first) != set_of.get(pair.second)]


def _given_split(
    images: Collection[str], split_of: Mapping[str, str]
) -> tuple[frozenset[str], list[frozenset[str]], list[str]]:
    val = frozenset(image for image in images if split_of.get(image) == "val")
    if not val or len(val) == len(images):
        raise DatasetError(
            f"--split given: the source puts {'all' if val else 'none'} of {counted(len(images), 'image')} into "
            "validation; expected some on both sides, so pass --split random."
        )
    notes = [f"the split that the source ships is kept: {len(images) - len(val)} train, {len(val)} validate."]
    undecided = sum(image not in split_of for image in images)
    if undecided:
        notes.append(f"{counted(undecided, 'image')} that the given split does not name train.")
    return val, [], notes


def _divide(
    group_of: Mapping[str, str], rows: pd.DataFrame, options: SplitOptions, facts: ImageFacts
) -> tuple[frozenset[str], list[frozenset[str]], list[str]]:
    """Return the images to validate on, all folds, and notes."""
    if options.split is SplitMethod.GIVEN:
        return _given_split(group_of.keys(), facts.split_of)
    if options.split is SplitMethod.LIST:
        assert options.val_list is not None, "SplitOptions.check sees to it"
        val, unknown = listed_split(group_of.keys(), options.val_list)
        names = ", ".join(unknown[:SHOWN_NAMES])
        note = f"{counted(len(unknown), 'name')} in {options.val_list.name} without a prepared image, such as {names}."
        return val, [], [note] if unknown else []
    if options.split is SplitMethod.READERS:
        readers_of = {image: frozenset[str]() for image in group_of} | _sets(rows, "reader")
        val, mixed = reader_split(readers_of, options.train_readers)
        note = f"{mixed} training images were read by others than {', '.join(options.train_readers)} as well."
        return val, [], [note] if mixed else []
    labels_of = _sets(rows[rows["class_name"] != NO_FINDING], "class_name")
    if options.folds is not None:
        folds = (
            stratified_folds(group_of, labels_of, options.folds, options.seed)
            if options.split is SplitMethod.STRATIFIED
            else random_folds(group_of, options.folds, options.seed)
        )
        return folds[options.fold - 1], folds, []
    if options.split is SplitMethod.STRATIFIED:
        return stratified_split(group_of, labels_of, options.val_ratio, options.seed), [], []
    groups = split_groups(list(group_of.values()), options.val_ratio, options.seed)
    return frozenset(image for image, group in group_of.items() if group in groups), [], []


def _sets(rows: pd.DataFrame, column: str) -> dict[str, frozenset[str]]:
    """Return image → the values of a column in its rows."""
    return {str(image): frozenset(values) for image, values in rows.groupby("image_id")[column]}


def _judge_near_duplicates(across: Sequence[NearDuplicates], options: SplitOptions) -> list[str]:
    if not across:
        return []
    closest = across[0]
    found = (
        f"{counted(len(across), 'pair')} of near-identical images on both sides of the split (perceptual hashes "
        f"within {MAX_DISTANCE} of 256 bits), the closest are {closest.first} and {closest.second} "
        f"({closest.distance} bits)"
    )
    if options.allow_duplicates:
        return [f"{found}."]
    raise DatasetError(
        f"{found}; expected none, since a model knows such an image from training. Remove one of each, pass "
        "--join-duplicates to keep them on one side, or --allow-duplicates to go on."
    )
