"""Sources of annotations, one file per format: found by their content and read into one kind of rows."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.annotations.sources.base import (
    ImageFinder,
    ReadOptions,
    Source,
    SourceFormat,
    annotation_files,
    csv_header,
    read_head,
    remembered_listings,
)
from cxr_mmdet.annotations.table import SUFFIXES, class_names
from cxr_mmdet.errors import TableError, UsageError
from cxr_mmdet.structures.labels import is_no_finding, spelling_key

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

__all__ = ["ImageFinder", "ReadOptions", "Source", "SourceFormat", "find_source", "formats", "read_source"]

MODULES = (
    "vinbigdata",
    "xywh_tables",
    "siim",
    "object_cxr",
    "chestx_det",
    "padchest_gr",
    "chexlocalize",
    "tbx11k",
    "labelstudio",
    "cvat",
    "yolo",
    "voc",
    "coco",
    "box_csv",
    "dicom_annotations",
)
"""Files of the formats in the order in which they are tried: the more particular before the more general."""

SHOWN_CHARACTERS = 80


def formats() -> dict[str, SourceFormat]:
    """Return every format by its name, in the order in which they are tried."""
    modules = [import_module(f"{__name__}.{name}") for name in MODULES]
    found = [each for module in modules for each in getattr(module, "FORMATS", None) or (module.FORMAT,)]
    return {each.name: each for each in found}


def find_source(place: Path, name: str | None = None) -> tuple[SourceFormat, Path, tuple[str, ...]]:
    """Return the format of a folder or annotation file, the file or tree that it reads, and notes.

    Args:
        place: folder or file.
        name: a format to take instead of the first that recognises ``place``.

    Raises:
        UsageError: no such format.
        TableError: there is nothing, or no format, or not the one that was named, reads anything there.
    """
    if not place.exists():
        raise TableError(f"{place}: no such file or folder; expected annotations.")
    known = formats()
    if name is not None:
        if name not in known:
            raise UsageError(f"--format {name}: no such format; expected one of {', '.join(known)}.")
        path = known[name].recognise(place) or (place if place.is_file() else None)
        if path is None:
            wanted = known[name].looks_for or known[name].title
            raise TableError(f"{place}: holds nothing that --format {name} reads; expected {wanted}.")
        return known[name], path, ()
    with remembered_listings():
        found = [(each, path) for each in known.values() if (path := each.recognise(place)) is not None]
    if not found:
        raise TableError(_unrecognised(place, known))
    first, path = found[0]
    others = [f"{other.name} ({where.name})" for other, where in found[1:] if where != path]
    note = f"{place.name} is read as {first.title} ({path.name}); --format would choose {' or '.join(others)} instead."
    return first, path, (note,) if others else ()


def read_source(
    place: Path, *, images: Path | None = None, group_column: str | None = None, format_name: str | None = None
) -> Source:
    """Return the validated annotations of a folder or annotation file, whatever its format.

    Args:
        place: an annotation file, or a folder that holds annotations and usually the images.
        images: folder of the radiographs; that of ``place`` by default.
        group_column: a column that names each image's group.
        format_name: see :func:`find_source`.

    Raises:
        UsageError: no such format.
        TableError: the annotations cannot be read or contradict themselves.
        DatasetError: a COCO file is not one.
    """
    chosen, path, notes = find_source(place, format_name)
    options = ReadOptions(ImageFinder(images or (place if place.is_dir() else place.parent)), group_column)
    source = chosen.read(path, options)
    notes += (*options.notes, *source.notes)
    if group_column and "group" not in source.rows:
        raise UsageError(f"--group-by {group_column}: {chosen.title} names no such column; expected patient or image.")
    readers = source.rows["reader"].unique()
    if len(readers) == 1:
        notes += (
            f"all boxes of {source.path.name} are of one reader, {readers[0]}: there is no agreement and no human "
            "ceiling.",
        )
    return replace(source, notes=notes, format=chosen.name, coverage=_spelled_as_rows(source))


def _spelled_as_rows(source: Source) -> pd.DataFrame | None:
    """Return the coverage with its classes spelled as the checked rows spell them, "No finding" left out."""
    if source.coverage is None:
        return None
    spellings = {spelling_key(name): name for name in class_names(source.rows)}
    frame = source.coverage[[name for name in source.coverage if not is_no_finding(str(name))]]
    names = [spellings.get(spelling_key(str(name)), str(name)) for name in frame]
    if len(set(names)) == len(names):
        return frame.set_axis(names, axis=1)
    # Of two spellings of one class, what both say.
    return frame.T.groupby(np.array(names, dtype=object), sort=False).min().T.astype(np.int8)


def _unrecognised(place: Path, known: dict[str, SourceFormat]) -> str:
    """Return the message that names the file nearest to annotations, and what was looked for."""
    files = [
        path
        for ends in (SUFFIXES, (".json", ".xml", ".yaml", ".yml", ".zip", ".txt"))
        for path in annotation_files(place, ends)
    ]
    wanted = "; ".join(f"{each.name}: {each.looks_for or each.title}" for each in known.values())
    if place.is_file():
        found = _described(place)
    else:
        found = "holds no annotations of a known format"
        found += f"; nearest is {files[0].name}: {_described(files[0])}" if files else ""
    return f"{place}: {found}. Looked for: {wanted}. Name the file itself, or insist with --format NAME."


def _described(path: Path) -> str:
    if path.suffix.lower() == ".zip" and not path.name.lower().endswith(SUFFIXES):
        return "is an archive; unpack it and name the folder that it gives"
    start = " ".join(read_head(path, 400).split())
    if not start or "\0" in start:
        return "is empty" if path.stat().st_size == 0 else "is no text"
    if not path.name.endswith(SUFFIXES):
        return f"no format reads a file that begins with {_shown(start)!r}"
    first = read_head(path, 400).partition("\n")[0]
    separator = max((",", ";", "\t", "|"), key=first.count)
    if separator != ",":
        return f"columns are separated by {separator!r}; save the table with commas"
    return f"no format reads a CSV with header {_shown(', '.join(csv_header(path)))!r}"


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
