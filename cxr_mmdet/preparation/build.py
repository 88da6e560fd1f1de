"""A folder of radiographs and a readers' table → a prepared folder: pictures, COCO files, manifest."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cxr_mmdet.annotations.agreement import label_agreement
from cxr_mmdet.annotations.placement import fit_to_pictures, keep_within_images
from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.annotations.sources.vinbigdata import label_names
from cxr_mmdet.annotations.table import is_region
from cxr_mmdet.errors import DatasetError, UsageError, counted
from cxr_mmdet.files import write_json
from cxr_mmdet.preparation.annotate import ANNOTATIONS, annotate
from cxr_mmdet.preparation.folder import (
    FAILURES_NAME,
    IMAGES,
    MANIFEST_NAME,
    describe_inputs,
    describe_packages,
    write_failures,
)
from cxr_mmdet.preparation.images import INDEX_NAME, Failure, image_notes, prepare_images
from cxr_mmdet.preparation.label_sets import LabelSetCounts, choose_label_sets
from cxr_mmdet.preparation.near_duplicates import FINGERPRINTS_NAME
from cxr_mmdet.preparation.options import BuildOptions
from cxr_mmdet.preparation.pseudonyms import PseudonymKey
from cxr_mmdet.preparation.report import REPORT_NAME, write_report
from cxr_mmdet.preparation.survey import match_ids
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import find_originals, image_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from cxr_mmdet.annotations.sources import Source
    from cxr_mmdet.preparation.images import PreparedImage

OURS = frozenset({IMAGES, ANNOTATIONS, FAILURES_NAME, FINGERPRINTS_NAME, INDEX_NAME, MANIFEST_NAME, REPORT_NAME})

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
    src: Path,
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
        src: holds the readers' table and the radiographs, in ``train/`` or beside it.
        out: a new folder, or one of an interrupted build, which is then completed.
        options: how.
        table: the annotations, a file or folder; None finds those of ``src``.
        format_name: their format; None tells it by their content.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        force: replace an earlier build; pictures whose radiographs did not change are kept.
        progress: called with the number of radiographs just dealt with, and of all.
        pseudonym_key: a file whose secret gives each patient the same pseudonym in every build; by default a patient
            is named after their first image.

    Raises:
        UsageError: ``out`` is in use, or an option makes no sense with this table.
        TableError: the table contradicts itself or a picture.
        DatasetError: there is nothing to train on or to validate on.
    """
    options.check()
    _check_out(out, force=force)
    key = PseudonymKey.read(pseudonym_key, out) if pseudonym_key else PseudonymKey.random()
    readers = read_source(table or src, group_column=options.group_column, format_name=format_name)
    label_sets = choose_label_sets(options.labels, readers.rows, options.minority)
    sources = find_originals(src)
    found, readable, missing, unread = _match(readers.rows, sources, readers.path, options)
    if not found:
        write_failures(out / FAILURES_NAME, [*missing, *unread])
        raise DatasetError(
            f"{readers.path}: names none of the {counted(len(sources), 'radiograph')} in "
            f"{next(iter(sources.values())).parent}; "
            f"expected image_id to be the file's name without suffix, got {missing[0].image_id!r} in the table and "
            f"{next(iter(sources))!r} there; {out / FAILURES_NAME} lists all."
        )
    respelled = [name for name, image_id in found.items() if name != image_id]
    readers = replace(
        readers, rows=readers.rows.assign(image_id=readers.rows["image_id"].map(lambda name: found.get(name, name)))
    )

    # An interrupted or failed build must not look finished, nor show an earlier one's page.
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    (out / REPORT_NAME).unlink(missing_ok=True)
    prepared = prepare_images(
        readable,
        out / IMAGES,
        short_edge=options.short_edge,
        reduced_jpeg2000=options.reduced_jpeg2000,
        jobs=jobs,
        progress=(lambda done: progress(done, len(readable))) if progress else None,
        key=key,
    )
    if not prepared.images:
        raise DatasetError(
            f"none of {counted(len(readable), 'radiograph')} could be read; {prepared.failures[0].reason}"
        )
    failures = tuple(sorted([*missing, *unread, *prepared.failures], key=lambda failure: failure.image_id))
    # Before anything that may be refused because of them.
    write_failures(out / FAILURES_NAME, failures)
    rows, clipped, placement = _rows_of(readers, prepared.images, options, key)
    _remove_stale(out, {image.path.name for image in prepared.images})
    try:
        annotated = annotate(out, rows, prepared.images, label_sets, options, jobs=jobs)
    except DatasetError as error:
        if not missing:
            raise
        lost = _describe_missing(missing, readers.rows, readers.path, out)
        raise DatasetError(f"{lost}. With what is left: {error}") from None

    notes = [*readers.notes, *placement, *image_notes(prepared.images)]
    if respelled:
        notes.insert(
            0,
            f"{counted(len(respelled), 'image')} spelled otherwise in {readers.path.name} than the file (accents or "
            f"suffix), such as {respelled[0]!r} for {found[respelled[0]]!r}.",
        )
    if clipped:
        notes.insert(0, f"clipped: {counted(clipped, 'box of a reader', 'boxes of readers')} beyond the picture.")
    manifest = {
        "parameters": options.to_json(),
        "inputs": describe_inputs(readers.path, sources),
        "packages": describe_packages(),
        "images": len(prepared.images),
        "failures": len(failures),
        "readers": sorted(readers.rows["reader"].unique()),
        "readers_per_image": int(readers.rows.groupby("image_id")["reader"].nunique().max()),
        "boxes": {"readers": int(((rows["class_name"] != NO_FINDING) & ~is_region(rows)).sum()), "clipped": clipped},
        "image_labels": _describe_image_labels(readers),
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


def _match(
    rows: pd.DataFrame, sources: Mapping[str, Path], table: Path, options: BuildOptions
) -> tuple[dict[str, str], dict[str, Path], list[Failure], list[Failure]]:
    """Return the file's id of each id in the table, the radiographs to prepare, and what has no counterpart.

    That is the images of the table without a file, and the files without a row.
    """
    found, without_file = match_ids(rows["image_id"], sources)
    in_table = set(found.values())
    folder = next(iter(sources.values())).parent
    readable = {name: path for name, path in sources.items() if name in in_table or options.unread_as_normal}
    elsewhere: dict[str, Path] = {}
    if without_file:
        below = (path for path in sorted(folder.rglob("*")) if path.parent != folder and path.is_file())
        elsewhere = {unicodedata.normalize("NFC", image_id_of(path)): path for path in below}
    missing = []
    for name in without_file:
        reason = f"{table} names image {name}, but {folder} holds no file of this name"
        other = elsewhere.get(unicodedata.normalize("NFC", name))
        missing.append(Failure(name, folder / name, reason + (f"; move {other} there" if other else "")))
    unread = [
        Failure(name, path, f"{path}: no row in {table.name}, so nobody read it; if it is normal, --unread-as-normal")
        for name, path in sources.items()
        if name not in readable
    ]
    return found, readable, missing, unread


def _describe_missing(missing: Sequence[Failure], rows: pd.DataFrame, table: Path, out: Path) -> str:
    """Return that images of the table have no file: it is often why nothing else is as expected."""
    return (
        f"{len(missing)} of {rows['image_id'].nunique()} images in {table} without a radiograph, such as "
        f"{missing[0].image_id!r} ({missing[0].reason}); {out / FAILURES_NAME} lists them"
    )


def _rows_of(
    readers: Source, images: Sequence[PreparedImage], options: BuildOptions, key: PseudonymKey
) -> tuple[pd.DataFrame, int, list[str]]:
    """Return the rows of the pictures there are, every box within its picture, how many were clipped, and notes."""
    sizes_hw = {image.image_id: image.original_size_hw for image in images}
    rows = readers.rows[readers.rows["image_id"].isin(sizes_hw)]
    if "group" in rows:
        # The column may hold Patient IDs, which are no business of a prepared folder.
        pseudonym_of = dict(zip(rows["image_id"], rows["group"].map(key.pseudonym), strict=True))
        rows = rows.assign(group=rows["image_id"].map(key.published(pseudonym_of)))
    orientations = {image.image_id: image.exif_orientation for image in images if image.exif_orientation != 1}
    rows, notes = fit_to_pictures(rows, sizes_hw, orientations, readers.path)
    rows, clipped = keep_within_images(rows, sizes_hw, readers.path, clip=options.clip_boxes, unit=readers.unit)
    return rows, clipped, notes


def _describe_image_labels(readers: Source) -> list[dict[str, Any]] | None:
    if readers.image_labels is None:
        return None
    return label_agreement(readers.image_labels, label_names(readers.image_labels))


def _remove_stale(out: Path, pictures: set[str]) -> None:
    """Remove the pictures of an earlier build that this one does not replace."""
    for path in (out / IMAGES).iterdir():
        if path.name not in pictures:
            path.unlink()
