"""A folder of radiographs and a readers' table → a prepared folder: images, COCO files, manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cxr_mmdet.annotations.agreement import label_agreement
from cxr_mmdet.annotations.placement import fit_to_images, keep_within_images
from cxr_mmdet.annotations.sources.vinbigdata import label_names
from cxr_mmdet.annotations.table import is_region
from cxr_mmdet.errors import DatasetError, UsageError, counted
from cxr_mmdet.files import sole_use, write_json
from cxr_mmdet.preparation.annotate import ANNOTATIONS, PART, annotate
from cxr_mmdet.preparation.folder import (
    FAILURES_NAME,
    IMAGES,
    MANIFEST_NAME,
    describe_inputs,
    describe_packages,
    write_failures,
)
from cxr_mmdet.preparation.images import INDEX_NAME, Failure, image_notes, prepare_images
from cxr_mmdet.preparation.inputs import all_rows, facts_of, join_rows, read_inputs, without_test_images
from cxr_mmdet.preparation.label_sets import LabelSetCounts, choose_label_sets
from cxr_mmdet.preparation.near_duplicates import FINGERPRINTS_NAME
from cxr_mmdet.preparation.options import BY_PATIENT, BuildOptions
from cxr_mmdet.preparation.pseudonyms import PseudonymKey
from cxr_mmdet.preparation.report import REPORT_NAME, write_report
from cxr_mmdet.structures.enums import SplitMethod
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from cxr_mmdet.annotations.sources import Source
    from cxr_mmdet.preparation.images import PreparedImage
    from cxr_mmdet.preparation.inputs import Input
    from cxr_mmdet.preparation.label_sets import LabelSet

OURS = frozenset({IMAGES, ANNOTATIONS, PART, FAILURES_NAME, FINGERPRINTS_NAME, INDEX_NAME, MANIFEST_NAME, REPORT_NAME})

__all__ = ["BuildOptions", "BuildSummary", "build_dataset"]


@dataclass(frozen=True)
class BuildSummary:
    """Result of a build: counts per label set, the radiographs that failed, and notes for the user."""

    out: Path
    images: int
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    label_sets: tuple[LabelSetCounts, ...]


def build_dataset(
    src: Path | Sequence[tuple[str, Path]],
    out: Path,
    options: BuildOptions,
    *,
    table: Path | None = None,
    format_name: str | None = None,
    jobs: int | None = 1,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    pseudonym_key: Path | None = None,
) -> BuildSummary:
    """Prepare the radiographs of ``src`` for training in ``out``.

    Written: ``images/<image_id>.png``, ``annotations/`` (COCO files, see
    :func:`cxr_mmdet.preparation.annotate.annotate`), ``manifest.json``, ``report.html`` and, when radiographs failed,
    ``failures.csv``. Failed are those that cannot be read, rows whose file is missing, and files without a row (nobody
    read them, which is not the same as normal). The build goes on without them; the caller decides by
    ``summary.failures`` whether that is acceptable.

    The split is made over all radiographs before any label set selects its own, so that a radiograph stands on the
    same side in all of them.

    Args:
        src: holds the annotations and the radiographs; of several sets, the name of each, empty for that of its
            format, and its folder.
        out: a new folder, or one of an interrupted build, which is then completed.
        options: how.
        table: the annotations, a file or folder; None finds those of ``src``.
        format_name: their format; None tells it by their content.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        force: replace an earlier build; images whose radiographs did not change are kept.
        progress: called with the number of radiographs just dealt with, and of all.
        pseudonym_key: a file whose secret gives each patient the same pseudonym in every build; by default a patient
            is named after their first image.

    Raises:
        UsageError: ``out`` is in use, or an option makes no sense with this table.
        TableError: the table contradicts itself or an image.
        DatasetError: there is nothing to train on or to validate on.
    """
    options.check()
    _check_out(out, force=force)
    key = PseudonymKey.read(pseudonym_key, out) if pseudonym_key else PseudonymKey.random()
    places = [("", src)] if isinstance(src, Path) else list(src)
    inputs = read_inputs(
        places,
        table=table,
        format_name=format_name,
        group_column=options.group_column,
        unread_as_normal=options.unread_as_normal,
    )
    options, inputs = _settle_split(options, inputs)
    looked_for = [name for each in inputs for name in each.source.looked_for]
    label_sets = choose_label_sets(
        options.labels, all_rows(inputs), options.minority, [each.name for each in inputs], looked_for
    )
    # Nothing is made where the annotations are refused.
    with sole_use(out, "name another folder"):
        _check_out(out, force=force)  # another build may have ended meanwhile
        return _build(inputs, out, options, label_sets, key, jobs=jobs, progress=progress)


def _build(
    inputs: Sequence[Input],
    out: Path,
    options: BuildOptions,
    label_sets: Sequence[LabelSet],
    key: PseudonymKey,
    *,
    jobs: int | None,
    progress: Callable[[int, int], None] | None,
) -> BuildSummary:
    """Build as :func:`build_dataset` says, in a folder that no other process uses."""
    rows = all_rows(inputs)
    unmatched = [failure for each in inputs for failure in each.failures]
    for each in inputs:
        if not each.images or each.images.keys().isdisjoint(each.source.rows["image_id"]):
            write_failures(out / FAILURES_NAME, unmatched)
            raise DatasetError(_describe_mismatch(each, out))
    readable = {name: path for each in inputs for name, path in each.images.items()}
    patients: dict[str, str] = {}
    if "group" in rows and not options.group_column:
        # Of several sets, some may not name patients.
        named = rows.dropna(subset="group")
        patients = dict(zip(named["image_id"], named["group"], strict=True))
        # Files without a row, which --unread-as-normal turns into images without findings.
        for each in (each for each in inputs if each.source.patient_pattern):
            told = {name: re.search(each.source.patient_pattern, path.as_posix()) for name, path in each.images.items()}
            patients = {name: match[1] for name, match in told.items() if match} | patients

    # An interrupted or failed build must not look finished, nor show an earlier one's page.
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    (out / REPORT_NAME).unlink(missing_ok=True)
    prepared = prepare_images(
        readable,
        out / IMAGES,
        short_edge=options.short_edge,
        reduced_jpeg2000=options.reduced_jpeg2000,
        jobs=jobs,
        progress=progress,
        key=key,
        patients=patients,
    )
    if not prepared.images:
        raise DatasetError(
            f"none of {counted(len(readable), 'radiograph')} could be read; {prepared.failures[0].reason}"
        )
    failures = tuple(sorted([*unmatched, *prepared.failures], key=lambda failure: failure.image_id))
    # Before anything that may be refused because of them.
    write_failures(out / FAILURES_NAME, failures)
    placed = [_rows_of(each, prepared.images, options, key) for each in inputs]
    placed_rows = join_rows([each.rows for each in placed])
    facts = facts_of(inputs).of_images({image.image_id for image in prepared.images})
    _remove_stale(out, {image.path.name for image in prepared.images})
    try:
        annotated = annotate(out, placed_rows, prepared.images, label_sets, options, facts=facts, jobs=jobs)
    except DatasetError as error:
        lost = [_describe_missing(each, out) for each in inputs if each.missing]
        if not lost:
            raise
        raise DatasetError(f"{lost[0]}. With what is left: {error}") from None

    clipped = sum(each.clipped for each in placed)
    notes = [
        *([f"clipped: {counted(clipped, 'box of a reader', 'boxes of readers')} beyond the image."] if clipped else []),
        *(note for each, place in zip(inputs, placed, strict=True) for note in (*each.notes, *place.notes)),
        *image_notes(prepared.images),
    ]
    unnamed = [image.image_id for image in prepared.images if image.patient is None]
    if unnamed and options.group_by == BY_PATIENT:
        notes.append(
            f"{counted(len(unnamed), 'image states', 'images state')} no patient, such as {unnamed[0]}; each counts as "
            "a patient of its own; where a column of the table names patients, pass --group-by COLUMN."
        )
    nobody_read = [name for each in inputs for name in each.nobody_read]
    if nobody_read:
        notes.append(
            f"left out: {counted(len(nobody_read), 'image')} that nobody read, such as {nobody_read[0]}; they "
            "are unknown, and --unread-as-normal takes them for normal."
        )
    manifest = {
        "parameters": options.to_json(),
        "inputs": _describe_inputs(inputs),
        "packages": describe_packages(),
        "images": len(prepared.images),
        "failures": len(failures),
        **({"unread": len(nobody_read)} if nobody_read else {}),
        "readers": sorted(rows["reader"].unique()),
        "readers_per_image": int(rows.groupby("image_id")["reader"].nunique().max()),
        "boxes": {
            "readers": int(((placed_rows["class_name"] != NO_FINDING) & ~is_region(placed_rows)).sum()),
            "clipped": clipped,
        },
        "image_labels": _describe_image_labels(inputs[0].source) if len(inputs) == 1 else None,
        # Another split has other notes, see resplit.
        "notes": {"source": notes, "split": list(annotated.notes)},
        **annotated.manifest,
    }
    write_report(out, manifest)
    # Last, for it says that the folder is finished.
    write_json(out / MANIFEST_NAME, manifest, indent=2)
    return BuildSummary(out, len(prepared.images), failures, (*notes, *annotated.notes), annotated.counts)


def _check_out(out: Path, *, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is a file; expected a folder to write to.")
    foreign = sorted(path.name for path in out.iterdir() if path.name not in OURS)
    if foreign:
        raise UsageError(f"{out}: holds {foreign[0]}, which no build wrote; name a new folder.")
    if (out / MANIFEST_NAME).exists() and not force:
        raise UsageError(f"{out}: holds a finished build; pass --force to replace it, or name another folder.")


def _settle_split(options: BuildOptions, inputs: list[Input]) -> tuple[BuildOptions, list[Input]]:
    """Return the options with a split that is not ``auto``, and the inputs without images kept for a test.

    Raises:
        UsageError: the given split was asked for, but a set ships none.
    """
    ships = [each for each in inputs if each.source.split]
    split = options.split
    if split is SplitMethod.AUTO:
        all_ship = len(ships) == len(inputs) and options.folds is None
        split = SplitMethod.GIVEN if all_ship else SplitMethod.RANDOM
    if split is SplitMethod.GIVEN:
        if len(ships) < len(inputs):
            lacking = next(each for each in inputs if not each.source.split)
            raise UsageError(
                f"--split given: {lacking.source.path} ships no split; pass --split random, or --split list with "
                "--val-list."
            )
        inputs = [without_test_images(each) for each in inputs]
    return replace(options, split=split), inputs


def _describe_inputs(inputs: Sequence[Input]) -> dict[str, Any]:
    if len(inputs) == 1:
        return describe_inputs(inputs[0].source.path, inputs[0].files)
    return {"sets": {each.name: describe_inputs(each.source.path, each.files) for each in inputs}}


def _describe_mismatch(each: Input, out: Path) -> str:
    """Return that no image of the annotations is among the radiographs."""
    return (
        f"{each.source.path}: names none of the {counted(len(each.files), 'radiograph')} in "
        f"{next(iter(each.files.values())).parent}; "
        f"expected image_id to be the file's name without suffix, got {each.missing[0].image_id!r} in the table and "
        f"{next(iter(each.files))!r} there; {out / FAILURES_NAME} lists all."
    )


def _describe_missing(each: Input, out: Path) -> str:
    """Return that images of the table have no file: it is often why nothing else is as expected."""
    return (
        f"{len(each.missing)} of {each.source.rows['image_id'].nunique()} images in {each.source.path} without a "
        f"radiograph, such as {each.missing[0].image_id!r} ({each.missing[0].reason}); {out / FAILURES_NAME} lists them"
    )


class _Placed(NamedTuple):
    """Rows of the images that exist, every box within its image, the number of clipped boxes, and notes."""

    rows: pd.DataFrame
    clipped: int
    notes: list[str]


def _rows_of(each: Input, images: Sequence[PreparedImage], options: BuildOptions, key: PseudonymKey) -> _Placed:
    source = each.source
    sizes_hw = {image.image_id: image.original_size_hw for image in images if image.image_id in each.images}
    rows = source.rows[source.rows["image_id"].isin(sizes_hw)]
    if options.group_column:
        # The column may hold Patient IDs, which are no business of a prepared folder.
        pseudonym_of = dict(zip(rows["image_id"], rows["group"].map(key.pseudonym), strict=True))
        rows = rows.assign(group=rows["image_id"].map(key.published(pseudonym_of)))
    else:
        rows = rows.drop(columns="group", errors="ignore")
    orientations = {
        image.image_id: image.exif_orientation
        for image in images
        if image.exif_orientation != 1 and image.image_id in sizes_hw
    }
    rows, notes = fit_to_images(rows, sizes_hw, orientations, source.path)
    rows, clipped = keep_within_images(rows, sizes_hw, source.path, clip=options.clip_boxes, unit=source.unit)
    return _Placed(rows, clipped, notes)


def _describe_image_labels(readers: Source) -> list[dict[str, Any]] | None:
    if readers.image_labels is None:
        return None
    return label_agreement(readers.image_labels, label_names(readers.image_labels))


def _remove_stale(out: Path, images: set[str]) -> None:
    """Remove the images of an earlier build that this one does not replace."""
    for path in (out / IMAGES).iterdir():
        if path.name not in images:
            path.unlink()
