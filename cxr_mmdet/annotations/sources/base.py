"""Sources of annotations: what each format gives, how it is told from others, and the images that it names."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import pydicom
from pydicom.uid import RE_VALID_UID

from cxr_mmdet.dicom.images import image_size_hw
from cxr_mmdet.dicom.source import quiet_pydicom
from cxr_mmdet.structures.radiograph_files import UNZIP_ERRORS, image_id_of, is_radiograph_file, visible_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

Named = TypeVar("Named")

HEAD_BYTES = 8192
"""Length of the beginning of a file that tells its format."""

DEPTH = 2
"""Folders below the one that is named in which annotation files are looked for."""


@dataclass(frozen=True)
class Source:
    """Annotations of one source: per image who read it, which classes they looked for, and what they found.

    An image that nobody read has no row. One that was read and holds nothing has a row "No finding" by its reader.

    Attributes:
        path: the annotation file or tree.
        rows: as :func:`cxr_mmdet.annotations.table.check_rows` gives them; with ``group`` where the source names
            patients or a group column was asked for, and with ``table_height`` and ``table_width`` where it gives the
            size of the image that the boxes were drawn on.
        unit: what ``rows.line`` counts in that file.
        image_labels: labels of whole images, see
            :func:`cxr_mmdet.annotations.sources.vinbigdata.read_image_labels`.
        notes: what a user should know.
        coverage: image id → one int8 column per class, values of :class:`cxr_mmdet.structures.coverage.Coverage`;
            None where every image in ``rows`` was looked through for every class.
        normal: images that are known to be normal chests, where reading without a box does not show that, because other
            diseases than the classes of the source were not looked for; None: every image that was looked through for
            all classes and holds no box is one.
        classes: classes that were looked for although no row may name them; needed only where ``coverage`` is None.
        split: image id → ``train`` or ``val`` where the source ships a split of its own.
        images: image id → file, where the files do not simply lie in ``train/`` or beside the table.
        unread: images that the source names, but that nobody read; they are unknown, not normal.
        unread_is_known: an image without a row is no mistake in this format: nobody read it.
        patient_pattern: its first group is the patient in the path of an image, also of one without a row; empty where
            paths do not tell.
        format: name of the format.
    """

    path: Path
    rows: pd.DataFrame
    unit: str = "line"
    image_labels: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    coverage: pd.DataFrame | None = None
    normal: frozenset[str] | None = None
    classes: tuple[str, ...] = ()
    split: Mapping[str, str] | None = None
    images: Mapping[str, Path] | None = None
    unread: tuple[str, ...] = ()
    unread_is_known: bool = False
    patient_pattern: str = ""
    format: str = ""

    @property
    def looked_for(self) -> tuple[str, ...]:
        """Classes that the source states to have been looked for; empty where it states none."""
        return self.classes if self.coverage is None else tuple(map(str, self.coverage))


@dataclass(frozen=True)
class ReadOptions:
    """Options of reading that a format receives beside the path of its annotations.

    Attributes:
        images: the radiographs of the source's tree; walked through at the first look.
        group_column: a column (in COCO a key of the images) that names each image's group.
        notes: what a user should know may be appended here as well as to :attr:`Source.notes`.
    """

    images: ImageFinder
    group_column: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SourceFormat:
    """One format of annotations; its file holds one as ``FORMAT``.

    Attributes:
        name: value of ``--format``.
        title: name of the set or tool, for messages.
        recognise: folder or file → the file or tree that this format would read; None where there is none. Judged by
            content, a few kB of each file; never raises on foreign files.
        read: the path that ``recognise`` gave → its annotations.
        coverage_rule: one sentence on what an image without a box means here, and why.
        looks_for: what ``recognise`` looks for, for the message that no format was recognised.
        write: writes annotations into a folder and returns where in it each image belongs, image id → relative path.
            Rows have ``table_height`` and ``table_width``. None where the format cannot be written.
        keeps: what is not lost in writing: ``readers``, ``patients``, ``regions`` to ignore, ``coverage``, ``split``;
            with ``originals`` the images are those of the source, whose suffix follows the path, else PNG.
    """

    name: str
    title: str
    recognise: Callable[[Path], Path | None]
    read: Callable[[Path, ReadOptions], Source]
    coverage_rule: str
    looks_for: str = ""
    write: Callable[[Source, Path], Mapping[str, str]] | None = None
    keeps: frozenset[str] = frozenset()


class ImageFinder:
    """The radiographs in and below a folder, by the names that annotations give them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """All radiographs, sorted by path."""
        return tuple(path for path in visible_files(self.root) if is_radiograph_file(path, self.root))

    @cached_property
    def by_id(self) -> dict[str, tuple[Path, ...]]:
        """Name without folders and suffix → the files of this name."""
        return grouped((image_id_of(path), path) for path in self.files)

    @cached_property
    def by_path(self) -> dict[str, Path]:
        """Path below the root, with ``/`` → the file."""
        return {path.relative_to(self.root).as_posix(): path for path in self.files}

    @cached_property
    def by_sop_uid(self) -> dict[str, Path]:
        """SOP Instance UID → the DICOM file; every header is read."""
        return {uid: path for path, (uid, _) in self._uids.items() if uid}

    @cached_property
    def by_study_uid(self) -> dict[str, tuple[Path, ...]]:
        """Study Instance UID → its DICOM files; every header is read."""
        return grouped((uid, path) for path, (_, uid) in self._uids.items() if uid)

    def find(self, name: str) -> Path | None:
        """Return the image that a path, the end of a path, or a name with or without suffix means; None if unclear.

        Windows' separators and a leading ``./`` are fine. A UID that is no file's name is that of the image, or of
        the study of a single image.
        """
        wanted = name.replace("\\", "/").removeprefix("./").strip("/")
        if wanted in self.by_path:
            return self.by_path[wanted]
        named = self.by_id.get(image_id_of(wanted), ())
        if not named and re.fullmatch(RE_VALID_UID, wanted):
            of_study = self.by_study_uid.get(wanted, ())
            return self.by_sop_uid.get(wanted) or (of_study[0] if len(of_study) == 1 else None)
        if len(named) > 1:
            # Of several files of one name, the one whose path ends as the name does.
            end = "/" + wanted
            named = tuple(path for path in named if ("/" + path.relative_to(self.root).as_posix()).endswith(end))
        return named[0] if len(named) == 1 else None

    def size_hw(self, path: Path) -> tuple[int, int]:
        """Return height and width of an image as annotation tools show it, turned upright; pixels are not decoded.

        Raises:
            DicomError: the file is no image that can be read.
        """
        return image_size_hw(path)

    @cached_property
    def _uids(self) -> dict[Path, tuple[str, str]]:
        found = {}
        tags = ["SOPInstanceUID", "StudyInstanceUID"]
        for path in self.files:
            try:
                with quiet_pydicom():
                    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=False)
            except Exception:  # a PNG, or a file that the preparation will complain about
                continue
            found[path] = (str(header.get("SOPInstanceUID", "")), str(header.get("StudyInstanceUID", "")))
        return found


def grouped(pairs: Iterable[tuple[str, Named]]) -> dict[str, tuple[Named, ...]]:
    """Return the second values of pairs by their first ones."""
    groups: dict[str, list[Named]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return {key: tuple(values) for key, values in groups.items()}


def annotation_files(place: Path, suffixes: Sequence[str], depth: int = DEPTH) -> list[Path]:
    """Return ``place`` itself, or the files in and a little below it, that end so; the nearest first, then by name.

    Args:
        place: a file, or a folder.
        suffixes: lower-case endings such as ``.csv``, ``.csv.gz``.
        depth: folders below ``place`` to look into.
    """
    if place.is_file():
        return [place] if place.name.lower().endswith(tuple(suffixes)) else []
    entries = (entry for level in _levels(place)[: depth + 1] for entry in level)
    return [entry for entry in entries if entry.name.lower().endswith(tuple(suffixes)) and entry.is_file()]


_LISTED: ContextVar[dict[Path, list[list[Path]]] | None] = ContextVar("listed", default=None)


@contextmanager
def remembered_listings() -> Iterator[None]:
    """List each folder once for all formats that look into it in this block."""
    token = _LISTED.set({})
    try:
        yield
    finally:
        _LISTED.reset(token)


def _levels(place: Path) -> list[list[Path]]:
    """Return what lies in a folder, in the folders in it, and so on down to ``DEPTH``, without hidden entries."""
    listed = _LISTED.get()
    if listed is not None and place in listed:
        return listed[place]
    levels: list[list[Path]] = []
    folders = [place]
    for _ in range(DEPTH + 1):
        entries = (entry for folder in folders for entry in _entries(folder))
        shown = (entry for entry in entries if not entry.name.startswith((".", "__MACOSX")))
        levels.append(sorted(shown, key=lambda entry: entry.as_posix()))
        # Only names without a dot, or a directory's status would be asked for every image.
        folders = [entry for entry in levels[-1] if image_id_of(entry) == entry.name and entry.is_dir()]
    if listed is not None:
        listed[place] = levels
    return levels


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def read_head(path: Path, size: int = HEAD_BYTES) -> str:
    """Return the beginning of a text file, unpacked from .gz or a .zip of one file; empty where it cannot be read.

    Bytes that are not UTF-8 are replaced, so that a format recognises its file and says itself what is wrong with it.
    """
    try:
        with open_text(path) as file:
            file.reconfigure(errors="replace")
            return file.read(size)
    except UNZIP_ERRORS:
        return ""


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a text file (UTF-8, with or without byte order mark) to read, unpacked from .gz or a .zip of one file.

    Raises:
        OSError: it cannot be opened; damaged archives raise any of ``UNZIP_ERRORS``.
    """
    with ExitStack() as stack:
        raw: Any
        if path.suffix.lower() == ".gz":
            raw = stack.enter_context(gzip.open(path))
        elif path.suffix.lower() == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX") and not name.endswith("/")]
            if len(names) != 1:
                raise OSError(f"{path} holds {len(names)} files, expected one")
            raw = stack.enter_context(archive.open(names[0]))
        else:
            raw = stack.enter_context(path.open("rb"))
        yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def csv_header(path: Path) -> tuple[str, ...]:
    """Return the cells of the first line of a CSV file, without blanks around them; empty where it is none."""
    line = next(iter(read_head(path).splitlines()), "")
    if "\0" in line:
        return ()
    return tuple(cell.strip() for cell in next(csv.reader([line]), []))
