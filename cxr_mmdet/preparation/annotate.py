"""Readers' rows and prepared images → the COCO files of each label set, and what the manifest says of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr_mmdet.annotations.agreement import measure_agreement
from cxr_mmdet.annotations.ceiling import human_ceiling
from cxr_mmdet.annotations.coco import CocoImage
from cxr_mmdet.annotations.consensus import fuse_readers
from cxr_mmdet.annotations.coverage import SET_SEPARATOR, ImageFacts
from cxr_mmdet.annotations.marks import Marks
from cxr_mmdet.annotations.placement import scale_to_prepared
from cxr_mmdet.annotations.reader_consensus import ReaderModel, fuse_by_readers
from cxr_mmdet.annotations.readers import RESAMPLES, Reliability
from cxr_mmdet.annotations.table import (
    READER_COLUMN,
    REGION_COLUMN,
    is_region,
    merge_classes,
    unknown_classes,
    without_regions,
    write_frame,
)
from cxr_mmdet.errors import counted
from cxr_mmdet.preparation.folder import MANIFEST_NAME, describe_label_set
from cxr_mmdet.preparation.label_sets import LabelSetCounts, Splits, build_splits, count_splits
from cxr_mmdet.preparation.near_duplicates import FINGERPRINTS_NAME, find_near_duplicates, fingerprint_images
from cxr_mmdet.preparation.splitting import Split, split_images
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.coco import findings_of, write_coco
from cxr_mmdet.structures.enums import ReaderFusion, SplitMethod
from cxr_mmdet.structures.labels import spelling_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cxr_mmdet.preparation.images import PreparedImage
    from cxr_mmdet.preparation.label_sets import LabelSet
    from cxr_mmdet.preparation.options import BuildOptions

ANNOTATIONS = "annotations"
PART = f".{ANNOTATIONS}.part"
"""New annotations until they are complete."""

PARAMETERS_NAME = "readers_{}.json"
"""Among the annotations: what ``--fusion readers`` learned under a label set's names."""
COVERAGE_NAME = "coverage.csv"
"""Among the annotations: the classes that were looked for per image, where these are not all."""
READERS_NAME = "readers.csv"
"""Among the annotations: the readers' boxes on the prepared radiographs, in pixels of the originals."""


@dataclass(frozen=True)
class Annotated:
    """Summary of what was written: counts per label set, entries for the manifest, and notes for the user."""

    counts: tuple[LabelSetCounts, ...]
    manifest: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Labelled:
    """One label set: the readers' rows under its names, their consensus in prepared pixels, its files."""

    rows: pd.DataFrame
    boxes: pd.DataFrame
    splits: Splits
    folds: tuple[Splits, ...]
    outvoted: int
    model: ReaderModel | None
    coverage: pd.DataFrame | None


def annotate(
    out: Path,
    rows: pd.DataFrame,
    images: Sequence[PreparedImage],
    label_sets: Sequence[LabelSet],
    options: BuildOptions,
    *,
    facts: ImageFacts | None = None,
    jobs: int | None = 1,
    models: Mapping[str, ReaderModel] | None = None,
) -> Annotated:
    """Split the images, fuse the readers for every label set, and write ``out/annotations`` again.

    Written: ``{train,val}_<labels>.json``, the same in ``fold<k>/`` for each of several folds,
    ``readers_<labels>.json`` (what ``--fusion readers`` learned), ``without_boxes_<labels>.csv`` (which images are
    kept without a box, and what readers saw instead), ``readers.csv`` (the readers' boxes) and, where not everything
    was looked for, ``coverage.csv``; from these two another split can be made.

    Args:
        out: the prepared folder.
        rows: the readers' rows of ``images``, within the originals.
        images: the prepared images.
        label_sets: the label sets to write.
        options: how.
        facts: which classes were looked for on these images, and the like; None: all on all.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        models: parameters of the readers by the name of a label set, where an earlier build learned them.

    Raises:
        UsageError: an option does not fit these images.
        DatasetError: there is nothing to train on or to validate on, or something leaks from one side to the other.
    """
    facts = facts or ImageFacts()
    files = {image.image_id: image.path for image in images}
    near_duplicates = find_near_duplicates(fingerprint_images(files, out / FINGERPRINTS_NAME, jobs=jobs))
    findings = without_regions(rows)
    split = split_images(images, findings, near_duplicates, options, facts)
    coco_images = _coco_images(images, rows, split, facts)
    labelled: list[_Labelled] = []
    plain: tuple[pd.DataFrame, ReaderModel | None] | None = None
    for label_set in label_sets:
        own = merge_classes(rows, label_set.label_map)
        given = _given_model(label_set, own, options, models)
        if own is not rows or given:
            fused = _fuse(own, images, options, given)
        else:
            fused = plain = plain or _fuse(rows, images, options, None)
        coverage = facts.of_labels(label_set.label_map, own)
        labelled.append(_label(label_set, own, fused, coco_images, split, options, coverage))

    counts = tuple(count_splits(each.splits) for each in labelled)
    manifest = {
        "groups": {"all": len(set(split.group_of.values())), "val": len({split.group_of[i] for i in split.val})},
        "near_identical": [pair._asdict() | {"across": pair in split.across} for pair in split.near_duplicates],
        "label_sets": {
            each.label_set.name: describe_label_set(each) | _measure_readers(label, split, options)
            for each, label in zip(counts, labelled, strict=True)
        },
    }
    notes = [*split.notes, *(note for each in labelled for note in _notes(each, findings, images, options, facts))]
    if is_region(rows).any():
        notes.append(
            f"{int(is_region(rows).sum())} regions to ignore (iscrowd) are neither findings nor their absence."
        )
    # Last, and beside what is there: a kill or a full disk before costs nothing.
    part = out / PART
    shutil.rmtree(part, ignore_errors=True)
    try:
        for each in labelled:
            _write_label_set(part, each)
        _write_readers(part / READERS_NAME, rows)
        facts.write(part / COVERAGE_NAME)
        # Killed from here on, the folder is not finished.
        (out / MANIFEST_NAME).unlink(missing_ok=True)
        shutil.rmtree(out / ANNOTATIONS, ignore_errors=True)
        part.rename(out / ANNOTATIONS)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Annotated(counts, manifest, tuple(notes))


def _given_model(
    label_set: LabelSet, rows: pd.DataFrame, options: BuildOptions, models: Mapping[str, ReaderModel] | None
) -> ReaderModel | None:
    """Return parameters of the readers that were learned elsewhere, if there are any."""
    if options.fusion is not ReaderFusion.READERS:
        return None
    if options.reader_model and not models:
        present = set(rows["class_name"])
        return ReaderModel.load(options.reader_model, [label for label in label_set.labels if label in present])
    return (models or {}).get(label_set.name)


def _fuse(
    rows: pd.DataFrame, images: Sequence[PreparedImage], options: BuildOptions, model: ReaderModel | None
) -> tuple[pd.DataFrame, ReaderModel | None]:
    """Return the consensus in prepared pixels, with a column ``confidence`` where the readers' parameters score it.

    Readers are fused in the pixels of the original, in which they drew.
    """
    if options.fusion is ReaderFusion.READERS:
        fused, model = fuse_by_readers(rows, model)
        fused = fused.assign(confidence=fused["score"]) if model else fused
    else:
        fused = fuse_readers(rows, **options.fusion_arguments)
    original_sizes_hw = {image.image_id: image.original_size_hw for image in images}
    return scale_to_prepared(fused, original_sizes_hw, {image.image_id: image.size_hw for image in images}), model


def _label(
    label_set: LabelSet,
    rows: pd.DataFrame,
    fused: tuple[pd.DataFrame, ReaderModel | None],
    coco_images: Sequence[CocoImage],
    split: Split,
    options: BuildOptions,
    coverage: pd.DataFrame | None,
) -> _Labelled:
    boxes, model = fused
    outvoted = 0
    if options.fusion is ReaderFusion.VOTE:
        everything = fuse_readers(rows, **options.fusion_arguments | {"method": ReaderFusion.WBF})
        outvoted = int(everything["class_name"].isin(label_set.labels).sum())
        outvoted -= int(boxes["class_name"].isin(label_set.labels).sum())

    def divide(val: frozenset[str]) -> Splits:
        return build_splits(label_set, coco_images, boxes, val, coverage=coverage, drop_normals=options.drop_normals)

    folds = tuple(divide(fold) for fold in split.folds)
    return _Labelled(without_regions(rows), boxes, divide(split.val), folds, outvoted, model, coverage)


def _coco_images(
    images: Sequence[PreparedImage], rows: pd.DataFrame, split: Split, facts: ImageFacts
) -> list[CocoImage]:
    readers = {image_id: tuple(sorted(set(names))) for image_id, names in rows.groupby("image_id")["reader"]}
    # What is taken as normal unread has no row, and no reader.
    return [
        CocoImage(
            image_id=image.image_id,
            file_name=image.path.name,
            width=image.size_hw[1],
            height=image.size_hw[0],
            group=split.group_of[image.image_id],
            original_width=image.original_size_hw[1],
            original_height=image.original_size_hw[0],
            readers=readers.get(image.image_id, ()),
            normal=facts.normal.get(image.image_id, True),
        )
        for image in images
    ]


def _measure_readers(each: _Labelled, split: Split, options: BuildOptions) -> dict[str, Any]:
    """Return agreement and human ceiling on the images of the label set's files."""
    sides = {
        name: [image["image_id"] for image in coco["images"]]
        for name, coco in (("train", each.splits.train), ("val", each.splits.val))
    }
    sides["all"] = sides["train"] + sides["val"]
    labels = each.splits.label_set.labels
    groups = {image_id: split.group_of[image_id] for image_id in sides["all"]}
    rows = each.rows[each.rows["image_id"].isin(groups)]
    marks = Marks.of(rows, labels)
    shared = (marks.looked.sum(axis=1) > 1).any()
    return {
        "agreement": measure_agreement(rows, labels, coverage=each.coverage),
        "reliability": Reliability.of(marks, resamples=RESAMPLES).to_rows() if shared else None,
        "human_ceiling": human_ceiling(rows, labels, groups, sides, fusion=options.fusion_arguments),
    }


def _write_label_set(folder: Path, each: _Labelled) -> None:
    _write_splits(folder, each.splits)
    if each.model:
        each.model.save(folder / PARAMETERS_NAME.format(each.splits.label_set.name))
    for number, fold in enumerate(each.folds, start=1):
        _write_splits(folder / f"fold{number}", fold)
    findings = each.boxes[~is_region(each.boxes)]
    seen = findings.groupby("image_id")["class_name"].agg(lambda names: "; ".join(sorted(set(names)))).to_dict()
    without_boxes = []
    for split, coco in (("train", each.splits.train), ("val", each.splits.val)):
        with_boxes = {annotation["image_id"] for annotation in findings_of(coco)}
        without_boxes += [
            {"image_id": image["image_id"], "split": split, "other_findings": seen.get(image["image_id"], "")}
            for image in coco["images"]
            if image["id"] not in with_boxes
        ]
    frame = pd.DataFrame(without_boxes, columns=["image_id", "split", "other_findings"])
    write_frame(folder / f"without_boxes_{each.splits.label_set.name}.csv", frame)


def _write_splits(folder: Path, splits: Splits) -> None:
    for split, coco in (("train", splits.train), ("val", splits.val)):
        write_coco(folder / f"{split}_{splits.label_set.name}.json", coco)


def _write_readers(path: Path, rows: pd.DataFrame) -> None:
    """Write the rows as a table that :func:`cxr_mmdet.annotations.table.read_table` reads, in one order."""
    columns = [
        "image_id",
        "class_name",
        "class_id",
        "reader",
        *XYXY_COLUMNS,
        *(c for c in ("group", REGION_COLUMN) if c in rows),
    ]
    ordered = rows[columns].assign(**({REGION_COLUMN: is_region(rows).astype(int)} if REGION_COLUMN in rows else {}))
    ordered = ordered.sort_values(["image_id", "class_id", "reader", *XYXY_COLUMNS])
    write_frame(path, ordered.rename(columns={"reader": READER_COLUMN}))


def _notes(
    each: _Labelled, rows: pd.DataFrame, images: Sequence[PreparedImage], options: BuildOptions, facts: ImageFacts
) -> list[str]:
    """Return what a user should know of a label set and nobody should have to search for."""
    label_set, counts = each.splits.label_set, count_splits(each.splits)
    notes = []
    plain = tuple(name for name in label_set.unmatched if SET_SEPARATOR not in name)
    looked_for = () if facts.coverage is None else tuple(facts.coverage)
    for name, close in unknown_classes(rows, {**label_set.label_map, "": plain}).items():
        # A label that is missing altogether shows as one without boxes, below, as does one without a finding.
        if name not in looked_for and (close or any(name in classes for classes in label_set.merged.values())):
            notes.append(f"the table has no class {name!r}" + (f"; did you mean {close!r}?" if close else "."))
    if label_set.unmatched:
        notes.append(
            f"nobody looked here for {counted(len(label_set.unmatched), 'class', 'classes')} that it names, such as "
            f"{label_set.unmatched[0]}."
        )
    for label, classes in label_set.merged.items():
        if label not in classes and any(spelling_key(name) == spelling_key(label) for name in classes):
            notes.append(f"the table's class {', '.join(map(repr, classes))} is taken as {label!r}.")
    boxes = each.boxes[~is_region(each.boxes)]
    left_out = boxes.loc[~boxes["class_name"].isin(label_set.labels), "class_name"]
    if len(left_out):
        names = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.value_counts().items()))
        notes.append(
            f"left out: {counted(len(left_out), 'box')} of {counted(left_out.nunique(), 'other class')}: {names}."
        )
    if options.fusion is ReaderFusion.READERS and each.model:
        found = each.rows[each.rows["class_name"].isin(label_set.labels)]
        used_by = found.groupby("class_name")["reader"].unique()
        for single, readers in used_by[used_by.map(len) == 1].items():
            notes.append(
                f"only {readers[0]} marked {single!r}, so that no other reader confirms it; its boxes get low scores."
            )
    if options.fusion is ReaderFusion.READERS and each.model is None:
        notes.append("no two readers share an image, so their boxes are fused by wbf and every box counts alike.")
    if each.outvoted:
        notes.append(
            f"voted out: {counted(each.outvoted, 'box')} of fewer than {counted(options.min_votes, 'reader')}."
        )
    dropped = len(images) - len(each.splits.train["images"]) - len(each.splits.val["images"])
    if dropped:
        reason = " or on which none of them is known" if counts.is_partial else ""
        notes.append(f"dropped: {counted(dropped, 'image')} without any of these classes{reason}.")
    for split, split_counts in (("train", counts.train), ("val", counts.val)):
        empty = [label for label, count in split_counts.by_class.items() if not count.boxes]
        if empty:
            remedy = "; --split stratified spreads rare classes" if options.split is SplitMethod.RANDOM else ""
            notes.append(f"no box of {', '.join(empty)} in {split}{remedy}.")
    return [f"labels {label_set.name}: {note}" for note in notes]
