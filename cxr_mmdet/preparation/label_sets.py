"""The label sets of a build: which classes, which images, and the COCO file of each split."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from cxr_mmdet.annotations.coco import CocoImage, build_coco
from cxr_mmdet.annotations.coverage import SET_SEPARATOR
from cxr_mmdet.annotations.table import class_names, is_region
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.structures.coco import findings_of
from cxr_mmdet.structures.coverage import NORMAL_KEY, Coverage, coverage_of, is_partly_labelled
from cxr_mmdet.structures.labels import LABELS_5, MINORITY_LABELS_5, resolve_label_map, spelling_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelSet:
    """A set of classes in training order; ``name`` ends the names of its files.

    ``merged`` holds the labels that stand for other classes of the table than the one of their own name; ``unmatched``
    what was named as ``set:Class`` of a set that has no such class.
    """

    name: str
    labels: tuple[str, ...]
    minority: tuple[str, ...]
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()

    @property
    def label_map(self) -> dict[str, tuple[str, ...]]:
        """Each label with the classes of the table that it stands for."""
        return {label: self.merged.get(label, (label,)) for label in self.labels}


@dataclass(frozen=True)
class Splits:
    """The COCO files of one label set."""

    label_set: LabelSet
    train: dict[str, Any]
    val: dict[str, Any]


@dataclass(frozen=True)
class LabelSetCounts:
    """Counts of one label set; ``train_augmented`` counts the virtual minority copies as well."""

    label_set: LabelSet
    train: SplitCounts
    train_augmented: SplitCounts
    val: SplitCounts

    @property
    def is_partial(self) -> bool:
        """True where a class was not looked for on an image."""
        return self.train.is_partial or self.val.is_partial


def choose_label_sets(
    specs: Sequence[str],
    rows: pd.DataFrame,
    minority: Sequence[str] | None,
    sets: Sequence[str] = (),
    looked_for: Sequence[str] = (),
) -> tuple[LabelSet, ...]:
    """Return the label sets that ``--labels`` names.

    Args:
        specs: each ``14``, ``5``, ``auto`` or a file of class names.
        rows: the readers' table.
        sets: names of the sets that are built; of several, each class begins with its set's.
        looked_for: classes that were looked for, also without a row; where a single set states them, others are
            unknown.
        minority: classes to augment; None takes the reference's for its five classes, and none for other sets.

    Raises:
        UsageError: two sets have one name, a set has nothing in common with the table, or no set holds a minority
            class.
    """
    in_table = class_names(rows)
    # Classes of several sets begin with the set's name.
    of_sets = tuple(dict.fromkeys([*in_table, *looked_for]))
    by_key = {spelling_key(name): name for name in (each.partition(SET_SEPARATOR)[2] for each in reversed(in_table))}
    plain = tuple(reversed(by_key.values())) if len(sets) > 1 else in_table
    label_sets = []
    for spec in specs:
        stated = resolve_label_map(spec, plain)
        if len(sets) > 1:
            label_map = {label: _of_sets(classes, of_sets, sets) for label, classes in stated.items()}
        else:
            label_map = _as_in_table(_as_in_table(_of_one_set(stated, of_sets, sets), in_table), of_sets)
        named = {name for classes in stated.values() for name in classes if name.partition(SET_SEPARATOR)[0] in sets}
        if looked_for and len(sets) == 1:
            named |= {name for classes in label_map.values() for name in classes}
            label_map = {label: tuple(name for name in own if name in of_sets) for label, own in label_map.items()}
        has = {spelling_key(name) for name in of_sets}
        has |= {spelling_key(f"{each}{SET_SEPARATOR}{name}") for each in sets for name in of_sets}
        unmatched = tuple(sorted(name for name in named if spelling_key(name) not in has))
        labels = tuple(label_map)
        if not any(name in in_table for classes in label_map.values() for name in classes):
            raise UsageError(
                f"--labels {spec}: the table holds none of these classes, but {', '.join(in_table) or 'no finding'}; "
                "use --labels auto or a file with these names."
            )
        wanted = minority if minority is not None else MINORITY_LABELS_5 if labels == LABELS_5 else ()
        own_minority = tuple(name for name in labels if name in wanted)
        merged = {label: classes for label, classes in label_map.items() if classes != (label,)}
        label_sets.append(LabelSet(Path(spec).stem, labels, own_minority, merged, unmatched))
    for name, count in Counter(label_set.name for label_set in label_sets).items():
        if count > 1:
            raise UsageError(f"--labels: {count} sets would write train_{name}.json; rename the file of class names.")
    unknown = [name for name in minority or () if not any(name in label_set.labels for label_set in label_sets)]
    if unknown:
        raise UsageError(f"--minority {unknown[0]}: no label set holds this class; expected one of its class names.")
    return tuple(label_sets)


def _of_one_set(
    label_map: Mapping[str, tuple[str, ...]], in_table: Sequence[str], sets: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the labels with ``set:Name`` as ``Name`` where it is of the only set, and without other sets' classes."""
    keys = {spelling_key(name) for name in in_table}

    def plain(name: str) -> str | None:
        own, separator, rest = name.partition(SET_SEPARATOR)
        if not sets or not separator or name in in_table:
            return name
        return rest if own in sets and spelling_key(rest) in keys else None

    return {
        label: tuple(dict.fromkeys(own for name in classes if (own := plain(name)) is not None))
        for label, classes in label_map.items()
    }


def _of_sets(classes: Sequence[str], in_table: Sequence[str], sets: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of several sets that a label stands for: ``set:Name`` of that set, ``Name`` of any."""
    found: dict[str, None] = {}
    for name in classes:
        own, separator, _ = name.partition(SET_SEPARATOR)
        wanted = [name] if separator and own in sets else [f"{each}{SET_SEPARATOR}{name}" for each in sets]
        keys = {spelling_key(each) for each in wanted}
        found |= dict.fromkeys(each for each in in_table if spelling_key(each) in keys)
    return tuple(found)


def _as_in_table(label_map: Mapping[str, tuple[str, ...]], in_table: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the labels with their classes as the table spells them, where it differs in case or blanks alone."""
    named = {name for classes in label_map.values() for name in classes}
    spelled = {spelling_key(name): name for name in in_table if name not in named}
    return {
        label: tuple(name if name in in_table else spelled.get(spelling_key(name), name) for name in classes)
        for label, classes in label_map.items()
    }


def build_splits(
    label_set: LabelSet,
    images: Iterable[CocoImage],
    boxes: pd.DataFrame,
    val: Collection[str],
    *,
    coverage: pd.DataFrame | None = None,
    drop_normals: bool,
) -> Splits:
    """Return the COCO files of one label set.

    Args:
        label_set: the classes.
        images: all prepared images.
        boxes: the consensus in prepared-image pixels, all classes.
        val: the ids of the images to validate on.
        coverage: see :func:`cxr_mmdet.annotations.coco.build_coco`; images on which no class is known are left out.
        drop_normals: leave out the images that hold none of the labels.

    Raises:
        DatasetError: a split would be empty, or nothing could be learnt or measured.
    """
    kept = list(images)
    if drop_normals:
        holders = set(boxes.loc[boxes["class_name"].isin(label_set.labels) & ~is_region(boxes), "image_id"])
        kept = [image for image in kept if image.image_id in holders]
    if coverage is not None:
        unknown = set(coverage.index[(coverage == Coverage.UNKNOWN).all(axis=1)])
        kept = [image for image in kept if image.image_id not in unknown]
    sides = [[image for image in kept if (image.image_id in val) is validates] for validates in (False, True)]
    train_coco, val_coco = (build_coco(side, boxes, label_set.labels, coverage) for side in sides)
    for split, coco in (("train", train_coco), ("val", val_coco)):
        if not findings_of(coco):
            raise DatasetError(
                f"labels {label_set.name}: none of {len(coco['images'])} {split} images holds a box of these classes; "
                "expected some on both sides, so prepare more radiographs or change --seed or --val-ratio."
            )
    return Splits(label_set, train_coco, val_coco)


def count_splits(splits: Splits) -> LabelSetCounts:
    """Return the counts of both splits, validation never augmented."""
    return LabelSetCounts(
        label_set=splits.label_set,
        train=count_split(splits.train),
        train_augmented=count_split(splits.train, splits.label_set.minority),
        val=count_split(splits.val),
    )


AUGMENTED = "augmented"
"""Column of counts with virtual copies."""

MINORITY_COPIES = 3
"""An image that holds a minority class is trained on as it is, flipped, and rotated by 90°."""


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of images that hold a class, of its boxes, and of images that show neither its presence nor absence."""

    images: int
    boxes: int
    unknown: int = 0


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split; ``by_class`` is in label order and also names classes that do not occur.

    ``unknown`` of the images without boxes are not known to be normal, since not every class was looked for.
    """

    images: int
    images_without_boxes: int
    boxes: int
    by_class: Mapping[str, ClassCounts]
    unknown: int = 0

    def absent(self, name: str) -> int:
        """Return the number of images on which a class was looked for and not found."""
        counts = self.by_class[name]
        return self.images - counts.images - counts.unknown

    @property
    def is_partial(self) -> bool:
        """True where a class is unknown on an image."""
        return bool(self.unknown) or any(counts.unknown for counts in self.by_class.values())


def count_split(coco: Mapping[str, Any], minority: Collection[str] = ()) -> SplitCounts:
    """Return the counts of a COCO file, an image that holds a class of ``minority`` counted with its virtual copies."""
    names = {category["id"]: category["name"] for category in coco["categories"]}
    held: dict[int, list[str]] = defaultdict(list)
    for annotation in findings_of(coco):
        held[annotation["image_id"]].append(names[annotation["category_id"]])
    copies = {image: MINORITY_COPIES if not set(minority).isdisjoint(held[image]) else 1 for image in held}
    unsure = np.array([image.get(NORMAL_KEY) is False for image in coco["images"]], dtype=bool)
    unknown: NDArray[np.int64] = np.zeros(len(names), dtype=np.int64)
    if is_partly_labelled(coco):
        holds = [held.get(image["id"], ()) for image in coco["images"]]
        weights = np.array([copies.get(image["id"], 1) for image in coco["images"]])
        missing = coverage_of(coco) < Coverage.EXHAUSTIVE
        unsure |= missing.any(axis=1) & np.array([not classes for classes in holds])
        missing &= ~np.array([[name in classes for name in names.values()] for classes in holds])
        unknown = weights @ missing
    return SplitCounts(
        images=sum(copies.get(image["id"], 1) for image in coco["images"]),
        images_without_boxes=len(coco["images"]) - len(held),
        boxes=sum(copies[image] * len(classes) for image, classes in held.items()),
        by_class={
            name: ClassCounts(
                images=sum(copies[image] for image, classes in held.items() if name in classes),
                boxes=sum(copies[image] * classes.count(name) for image, classes in held.items()),
                unknown=int(missed),
            )
            for name, missed in zip(names.values(), unknown, strict=True)
        },
        unknown=int(unsure.sum()),
    )


def counts_table(title: str, columns: Mapping[str, SplitCounts]) -> Table:
    """Return the table of images and boxes: a row for each class, two columns for each entry of ``columns``.

    Where not every class was looked for, two more: images of all entries but ``augmented`` on which it is absent, and
    on which it is unknown; in the row of images without a box, those that are normal, and those that may not be.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("class", no_wrap=True)
    for name in columns:
        table.add_column(f"{name}\nimages", justify="right")
        table.add_column("\nboxes", justify="right")
    own = [counts for name, counts in columns.items() if name != AUGMENTED]
    partial = any(counts.is_partial for counts in own)
    for column in ("absent", "unknown") if partial else ():
        table.add_column(f"images\n{column}", justify="right")

    def cells(pairs: list[tuple[int, int]], absent: int, unknown: int) -> list[str]:
        numbers = [number for pair in pairs for number in pair]
        return [f"{number:,}" for number in (*numbers, *((absent, unknown) if partial else ()))]

    for label in next(iter(columns.values())).by_class:
        per_class = [counts.by_class[label] for counts in columns.values()]
        absent, unknown = (
            sum(each) for each in ([c.absent(label) for c in own], [c.by_class[label].unknown for c in own])
        )
        table.add_row(label, *cells([(counts.images, counts.boxes) for counts in per_class], absent, unknown))
    table.add_section()
    empty, unknown = (sum(each) for each in ([c.images_without_boxes for c in own], [c.unknown for c in own]))
    pairs = [(counts.images_without_boxes, 0) for counts in columns.values()]
    table.add_row("no box", *cells(pairs, empty - unknown, unknown))
    totals = [(counts.images, counts.boxes) for counts in columns.values()]
    table.add_row("all", *cells(totals, 0, 0)[: 2 * len(columns)], style="bold")
    return table
