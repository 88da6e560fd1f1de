"""What a user points at, files, folders, patterns and zip archives, as single radiographs with names of their own."""

from __future__ import annotations

import glob
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cxr_mmdet.dicom.source import MAX_FILE_BYTES, looks_like_dicom
from cxr_mmdet.errors import DatasetError, DicomError
from cxr_mmdet.preparation.images import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    State = tuple[int, int]

_HEAD = 132


@dataclass(frozen=True)
class Item:
    """One radiograph to predict.

    Attributes:
        image_id: the file's name without suffix; a number follows where several files share it.
        path: the file, or the archive it is in.
        member: its name in the archive; empty for a file of its own.
    """

    image_id: str
    path: Path
    member: str = ""

    @property
    def source(self) -> str:
        """Where it comes from, for messages and results."""
        return f"{self.path}!{self.member}" if self.member else str(self.path)

    def state(self) -> State:
        """Return what tells a changed file from an unchanged one without reading it.

        Raises:
            DicomError: it is gone or unreadable.
        """
        try:
            status = self.path.stat()
        except OSError as error:
            raise DicomError(f"{self.source}: cannot be read ({error.strerror})") from None
        return status.st_size, status.st_mtime_ns

    def read(self) -> Path | bytes:
        """Return what :func:`cxr_mmdet.dicom.radiograph.read_radiograph` takes.

        Raises:
            DicomError: it cannot be unpacked.
        """
        if not self.member:
            return self.path
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        # RuntimeError: encrypted. NotImplementedError: a compression Python does not know.
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
            raise DicomError(f"{self.source}: cannot be unpacked ({error})") from None


def find_items(inputs: Sequence[str]) -> list[Item]:
    """Return the radiographs in files, folders (with all below), patterns and zip archives, each once, in order.

    A file that is named is taken whatever it is called; in folders and archives the suffix decides, and without one
    the content.

    Raises:
        DatasetError: something named does not exist, or there is no radiograph at all.
    """
    found: dict[tuple[str, str], tuple[Path, str]] = {}
    for entry in inputs:
        for path, member in _expand(entry):
            found.setdefault((str(path), member), (path, member))
    if not found:
        raise DatasetError(
            f"{', '.join(inputs)}: holds no radiograph; expected .dicom, .dcm, .png, .jpg or .tif files, or a .zip."
        )
    return _named(list(found.values()))


def _expand(entry: str) -> Iterator[tuple[Path, str]]:
    path = Path(entry)
    if path.is_dir():
        yield from ((file, member) for file in _files_below(path) for member in _members(file))
    elif path.exists():
        yield from ((path, member) for member in _members(path))
    elif glob.has_magic(entry):
        matches = sorted(glob.glob(entry, recursive=True))
        if not matches:
            raise DatasetError(f"{entry}: nothing matches this pattern.")
        for match in matches:
            yield from _expand(match)
    else:
        raise DatasetError(f"{entry}: no such file or folder.")


def _files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file() and (_is_archive(path) or _looks_like_one(path.name, path)):
            yield path


def _members(path: Path) -> list[str]:
    """Return the radiographs in an archive; for any other file, itself."""
    if not _is_archive(path):
        return [""]
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(info.filename for info in archive.infolist() if _is_radiograph_in(archive, info))
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: is not a readable zip archive ({error}).") from None


def _is_radiograph_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    name = PurePosixPath(info.filename)
    if (
        info.is_dir()
        or info.file_size > MAX_FILE_BYTES
        or any(part.startswith((".", "__MACOSX")) for part in name.parts)
    ):
        return False
    if name.suffix:
        return name.suffix.lower() in SUFFIXES
    with archive.open(info) as file:
        return looks_like_dicom(file.read(_HEAD))


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _looks_like_one(name: str, path: Path) -> bool:
    suffix = Path(name).suffix
    if suffix:
        return suffix.lower() in SUFFIXES
    try:
        with path.open("rb") as file:
            return looks_like_dicom(file.read(_HEAD))
    except OSError:
        return False


def _named(found: list[tuple[Path, str]]) -> list[Item]:
    taken: Counter[str] = Counter()
    items: list[Item] = []
    used: set[str] = set()
    for path, member in found:
        stem = PurePosixPath(member).stem if member else path.stem
        taken[stem] += 1
        image_id = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        while image_id in used:
            taken[stem] += 1
            image_id = f"{stem}-{taken[stem]}"
        used.add(image_id)
        items.append(Item(image_id, path, member))
    return items
