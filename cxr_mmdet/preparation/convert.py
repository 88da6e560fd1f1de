"""Annotations of any format → files of an annotation tool or another project, with images that it can show."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.annotations.coco import DECIMALS
from cxr_mmdet.annotations.placement import fit_to_images, keep_within_images, scale_to_prepared
from cxr_mmdet.annotations.sources import Source, SourceFormat, formats
from cxr_mmdet.annotations.table import ONE_READER, SIZE_COLUMNS, is_region
from cxr_mmdet.dicom.images import image_size_hw
from cxr_mmdet.errors import DicomError, TableError, UsageError, counted
from cxr_mmdet.preparation.images import Failure, image_notes, prepare_images
from cxr_mmdet.preparation.inputs import read_input
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.coverage import Coverage
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion: the number of images written, those that failed, and what a user should know."""

    out: Path
    images: int
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]


def convert(
    src: Path,
    out: Path,
    to: str,
    *,
    table: Path | None = None,
    format_name: str | None = None,
    reader: str | None = None,
    with_images: bool = True,
    clip_boxes: bool = False,
    jobs: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Write the annotations of ``src`` in another format into a new folder; images that nobody read stay unread there.

    Images become 8-bit PNG of full size, without Patient ID; a format of radiographs gets the originals.

    Args:
        src: holds the radiographs and, unless ``table`` is given, the annotations.
        out: a folder that does not exist yet, or is empty.
        to: name of the format to write.
        table: the annotations, where they lie elsewhere.
        format_name: their format; None tells it by their content.
        reader: convert the readings of this reader alone.
        with_images: write images too.
        clip_boxes: cut boxes at the border of their image instead of refusing them.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        progress: called with the number of radiographs just dealt with, and of all.

    Raises:
        UsageError: the format cannot be written or cannot hold these readers, or ``out`` is in use.
        TableError: the annotations contradict themselves or an image.
        DatasetError: there are no radiographs.
    """
    known = formats()
    target = known.get(to)
    if target is None or target.write is None:
        writable = ", ".join(name for name, each in known.items() if each.write)
        raise UsageError(f"--to {to}: cannot be written; expected one of {writable}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already; name a new folder.")
    found = read_input(src, table=table, format_name=format_name)
    source = _of_reader(found.source, reader, target)
    rows = source.rows[source.rows["image_id"].isin(found.images)]
    unread = sorted(found.files.keys() - set(source.rows["image_id"]))
    wanted = {image_id: found.files[image_id] for image_id in [*dict.fromkeys(rows["image_id"]), *unread]}
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        render = with_images and "originals" not in target.keeps
        placed = _render(wanted, part, jobs, progress) if render else _measure(wanted, progress)
        rows, notes = _place(rows, placed, source, clip=clip_boxes)
        source = replace(source, rows=rows, unread=tuple(name for name in unread if name in placed.files))
        places = target.write(source, part)
        for image_id, place in places.items() if with_images else ():
            path = part / place if render else part / f"{place}{_suffix(wanted[image_id])}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if render:
                os.replace(placed.files[image_id], path)
            else:
                shutil.copyfile(wanted[image_id], path)
        shutil.rmtree(part / _RENDERED, ignore_errors=True)
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    failures = sorted([*found.missing, *placed.failures], key=lambda failure: failure.image_id)
    notes = [*found.notes, *placed.notes, *notes, *_losses(source, target)]
    if unread:
        notes.append(f"{counted(len(unread), 'image')} that nobody read, not converted into normal ones.")
    return Conversion(out, len(placed.files), tuple(failures), tuple(notes))


_RENDERED = ".rendered"
"""Folder of images whose places are not known yet."""


def _suffix(path: Path) -> str:
    return path.name[len(image_id_of(path)) :]


@dataclass(frozen=True)
class _Images:
    """Images to write: the file of each, its size, that of its source, EXIF orientations, and what failed."""

    files: Mapping[str, Path]
    sizes_hw: Mapping[str, tuple[int, int]]
    original_sizes_hw: Mapping[str, tuple[int, int]]
    orientations: Mapping[str, int]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()


def _render(
    wanted: Mapping[str, Path], part: Path, jobs: int | None, progress: Callable[[int, int], None] | None
) -> _Images:
    prepared = prepare_images(wanted, part / _RENDERED / "images", short_edge=0, jobs=jobs, progress=progress)
    return _Images(
        {image.image_id: image.path for image in prepared.images},
        {image.image_id: image.size_hw for image in prepared.images},
        {image.image_id: image.original_size_hw for image in prepared.images},
        {image.image_id: image.exif_orientation for image in prepared.images if image.exif_orientation != 1},
        prepared.failures,
        tuple(image_notes(prepared.images)),
    )


def _measure(wanted: Mapping[str, Path], progress: Callable[[int, int], None] | None) -> _Images:
    sizes, failures = {}, []
    for image_id, path in wanted.items():
        try:
            sizes[image_id] = image_size_hw(path)
        except DicomError as error:
            failures.append(Failure(image_id, path, str(error)))
        if progress:
            progress(1, len(wanted))
    files = {image_id: wanted[image_id] for image_id in sizes}
    return _Images(files, sizes, sizes, {}, tuple(failures))


def _of_reader(source: Source, reader: str | None, target: SourceFormat) -> Source:
    readers = source.rows["reader"].unique().tolist()
    if reader is not None:
        if reader not in readers:
            raise UsageError(f"--reader {reader}: read nothing in {source.path}; expected one of {', '.join(readers)}.")
        source = replace(source, rows=source.rows[source.rows["reader"] == reader])
    elif len(readers) > 1 and "readers" not in target.keeps:
        raise UsageError(
            f"{target.title}: holds one reading of an image, but {source.path} has {counted(len(readers), 'reader')}; "
            "choose one with --reader NAME, or convert the fused boxes of a prepared folder (convert OUT/images DST "
            "--table OUT/annotations --format coco)."
        )
    return source


def _place(rows: pd.DataFrame, placed: _Images, source: Source, *, clip: bool) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of the images with boxes and sizes in their pixels, and notes."""
    rows = rows[rows["image_id"].isin(placed.files)].reset_index(drop=True)
    if rows.empty:
        raise TableError(f"{source.path}: none of its images could be read, so there is nothing to convert.")
    rows, notes = fit_to_images(rows, placed.original_sizes_hw, placed.orientations, source.path)
    rows, clipped = keep_within_images(rows, placed.original_sizes_hw, source.path, clip=clip, unit=source.unit)
    if clipped:
        notes.append(f"clipped: {counted(clipped, 'box of a reader', 'boxes of readers')} beyond the image.")
    if placed.sizes_hw != placed.original_sizes_hw:  # pixels that are not square
        rows = scale_to_prepared(rows, placed.original_sizes_hw, placed.sizes_hw)
    boxes = dict(zip(XYXY_COLUMNS, np.round(rows[XYXY_COLUMNS].to_numpy(np.float64), DECIMALS).T, strict=True))
    sizes = np.array([placed.sizes_hw[image_id] for image_id in rows["image_id"]])
    return rows.assign(**boxes, **dict(zip(SIZE_COLUMNS, sizes.T, strict=True))), notes


def _losses(source: Source, target: SourceFormat) -> list[str]:
    """Return a sentence for everything in the source that the format cannot hold."""
    rows, regions = source.rows, int(is_region(source.rows).sum())
    reader = rows["reader"].iloc[0]
    partial = 0 if source.coverage is None else len(_partly(source.coverage) & set(rows["image_id"]))
    empty = set(rows["image_id"]) - set(rows.loc[(rows["class_name"] != NO_FINDING) & ~is_region(rows), "image_id"])
    doubtful = 0 if source.normal is None else len(empty - source.normal)
    losses = (
        ("readers", reader != ONE_READER, f"the reader's name {reader}"),
        ("patients", "group" in rows, "which images are of one patient"),
        ("regions", regions, counted(regions, "region to ignore", "regions to ignore")),
        ("coverage", partial, f"what was not looked for on {counted(partial, 'image')}: it counts as absent there"),
        (
            "normal",
            doubtful,
            f"that {counted(doubtful, 'image')} without a box need not be normal: they count as such there",
        ),
        ("split", source.split, "the split that the source ships"),
        ("image_labels", source.image_labels is not None, "the labels of whole images"),
    )
    lost = [text for kind, present, text in losses if present and kind not in target.keeps]
    return [f"{target.title} cannot hold {'; '.join(lost)}."] if lost else []


def _partly(coverage: pd.DataFrame) -> set[str]:
    """Return the images that were not looked through for every class."""
    return set(coverage.index[(coverage < Coverage.EXHAUSTIVE).any(axis=1)])
