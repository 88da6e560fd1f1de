"""Radiograph files: which files are radiographs, in folders and zip archives, and the image id of each.

Every front end takes names and ids from here, so that a radiograph that was prepared can be predicted, uploaded,
reported on and evaluated under the same id.
"""

from __future__ import annotations

import glob
import os
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from cxr_mmdet.errors import DatasetError, DicomError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

SUFFIXES = frozenset({".dicom", ".dcm", ".dic", ".ima", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".mha", ".mhd"})

PROGRESS, OVERLAYS = ".progress", "overlays"
"""Folders that a prediction of many radiographs makes among its results: of its journal, and of its drawings."""

_OTHER_SUFFIXES = frozenset({".bmp", ".gif", ".jp2", ".webp"})
"""Suffixes of formats that are not read here, but that annotation files name."""

HEAD_BYTES = 132
"""Length of preamble and prefix, which tell a DICOM file by its content (PS3.10 7.1)."""

MAX_FILE_BYTES = 2 << 30
"""Size limit of a file, and of what a deflated one unpacks to."""

UNZIP_ERRORS = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # the archive is encrypted
    NotImplementedError,  # Python does not know the compression
    ValueError,
)
"""Errors that ``zipfile`` raises on damaged or unusual archives."""

_FIRST_VRS = frozenset({b"UL", b"CS", b"UI", b"DA", b"TM", b"LO", b"SH"})
_FIRST_LENGTH = 128


class ChangeStamp(NamedTuple):
    """Size and time of a file; they tell a changed file from an unchanged one without reading it."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> ChangeStamp:
        """Return the present stamp of ``path``.

        Raises:
            OSError: the file is gone or unreadable.
        """
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class RadiographFile:
    """One radiograph on disk.

    Attributes:
        image_id: the file's name without suffix, see :func:`image_id_of`; made unique among the files found with it.
        path: the file, or the zip archive that holds it.
        member: its name in the archive; empty for a file of its own.
    """

    image_id: str
    path: Path
    member: str = ""

    @property
    def source(self) -> str:
        """The place named in messages and results."""
        return f"{self.path}!{self.member}" if self.member else str(self.path)

    def stamp(self) -> ChangeStamp:
        """Return the present stamp of the file or of its archive.

        Raises:
            DicomError: it is gone or unreadable.
        """
        try:
            return ChangeStamp.of(self.path)
        except OSError as error:
            raise DicomError(f"{self.source}: cannot be read ({error.strerror})") from None

    def read(self) -> bytes:
        """Return the content.

        Raises:
            DicomError: it cannot be read or unpacked.
        """
        if not self.member:
            return read_bytes(self.path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except UNZIP_ERRORS as error:
            raise DicomError(f"{self.source}: cannot be unpacked ({error})") from None


def image_id_of(name: str | PurePath) -> str:
    """Return a file's name without folders and without the suffix of an image format.

    Other endings belong to the id, such as the last number of a UID: 1.2.840.10.
    """
    path = PurePosixPath(name.replace("\\", "/")) if isinstance(name, str) else name
    return path.stem if path.suffix.lower() in SUFFIXES | _OTHER_SUFFIXES else path.name


def image_ids_in_coco(images: Iterable[Mapping[str, Any]], source: Path) -> dict[str, Mapping[str, Any]]:
    """Return the images of a COCO file by image id: that of ``file_name``, and ``image_id`` where an entry has one.

    Raises:
        DatasetError: two images have one id.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for image in images:
        names = (image.get("file_name"), image.get("image_id"))
        for image_id in {image_id_of(name) for name in names if isinstance(name, str)}:
            other = found.setdefault(image_id, image)
            if other is not image:
                raise DatasetError(
                    f"{source}: the images with id {other['id']} and {image['id']} are both named {image_id!r}; "
                    "expected each radiograph once."
                )
    return found


def unique_ids(names: Iterable[str | PurePath]) -> list[str]:
    """Return the image ids of files in their order; a number follows where an earlier file has the same id."""
    counts: Counter[str] = Counter()
    ids: dict[str, None] = {}
    for name in names:
        plain = image_id = image_id_of(name)
        counts[plain] += 1
        if counts[plain] > 1:
            image_id = f"{plain}-{counts[plain]}"
        while image_id in ids:
            counts[plain] += 1
            image_id = f"{plain}-{counts[plain]}"
        ids[image_id] = None
    return list(ids)


def find_radiographs(inputs: str | Path | Sequence[str | Path]) -> list[RadiographFile]:
    """Return the radiographs in files, folders (with all below), patterns and zip archives, each once, in order.

    A file that is named is taken whatever it is called; in folders and archives :func:`is_radiograph` decides.
    Overlays of a prediction, which may lie among them, are no radiographs.

    Args:
        inputs: one path or pattern, or several.

    Raises:
        DatasetError: an input does not exist, a radiograph's path is not UTF-8, or there is no radiograph at all.
    """
    entries = [str(entry) for entry in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    found = list(dict.fromkeys(place for entry in entries for place in _expand(entry)))
    if not found:
        raise DatasetError(
            f"{', '.join(entries)}: holds no radiograph; expected .dicom, .dcm, .png, .jpg or .tif files, or a .zip."
        )
    ids = unique_ids(PurePosixPath(member) if member else path for path, member in found)
    return [RadiographFile(image_id, path, member) for image_id, (path, member) in zip(ids, found, strict=True)]


def find_originals(source: Path) -> dict[str, Path]:
    """Return image id → file for the radiographs in ``source/train``, or in ``source`` itself, sorted by image id.

    Folders below are not searched, as VinBigData has none.

    Raises:
        DatasetError: no such folder, no radiograph in it, a path that is not UTF-8, or two files with one image id.
    """
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; expected train/<image_id>.dicom in it")
    folder = source / "train" if (source / "train").is_dir() else source
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (image_id_of(path), path.name)):
        if not is_radiograph_file(path, folder):
            continue
        image_id = image_id_of(path)
        if image_id in found:
            raise DatasetError(
                f"{folder}: {found[image_id].name} and {path.name} are both image {image_id!r}; remove one"
            )
        found[image_id] = path
    if not found:
        raise DatasetError(
            f"{folder}: holds no radiograph; expected <image_id>.dicom, .dcm, .png, .jpg or .tif in this very folder"
        )
    return found


def visible_files(folder: Path) -> list[Path]:
    """Return all files in and below ``folder`` that are not hidden, sorted by path."""
    return [path for path in sorted(folder.rglob("*")) if not _is_hidden(path.relative_to(folder)) and path.is_file()]


def is_radiograph_file(path: Path, folder: Path) -> bool:
    """Return whether a file in or below ``folder`` is a radiograph; see :func:`is_radiograph`.

    Raises:
        DatasetError: it is, and its path is not UTF-8.
    """

    def head() -> bytes:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)

    found = path.is_file() and is_radiograph(path.relative_to(folder), head)
    return found and _is_utf8(path)


def is_radiograph(name: PurePath, head: Callable[[], bytes]) -> bool:
    """Return whether a file's name says that it is a radiograph, or its content, where the name has no suffix.

    Archives write DICOM under a UID or under any name without suffix. Hidden files are not radiographs.

    Args:
        name: the path below the folder or archive that is searched.
        head: returns the first ``HEAD_BYTES`` of the content; called only if needed.
    """
    if _is_hidden(name):
        return False
    if name.suffix and not name.suffix[1:].isdigit():  # the last number of a UID is no suffix
        return name.suffix.lower() in SUFFIXES
    try:
        return looks_like_dicom(head())
    except OSError:
        return False


def is_dicom(content: bytes) -> bool:
    """Return whether ``content`` has the 128-byte preamble and prefix of a DICOM file (PS3.10 7.1)."""
    return content[128:HEAD_BYTES] == b"DICM"


def looks_like_dicom(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is DICOM, with or without preamble and prefix.

    Without them it begins with a data element of group 2 or 8, explicit or implicit, of either byte order.
    """
    if is_dicom(head):
        return True
    for order in "<>":
        try:
            group, element, vr, _ = struct.unpack_from(f"{order}HH2sH", head)
            (length,) = struct.unpack_from(f"{order}I", head, 4)
        except struct.error:
            return False
        # The first element of a group is its length, a character set, a UID: short in all.
        if group in (2, 8) and element < 0x100 and (vr in _FIRST_VRS or length <= _FIRST_LENGTH):
            return True
    return False


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        DicomError: there is no such file, it cannot be read, or it is larger than any radiograph.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DicomError(f"{path}: the file is larger than {MAX_FILE_BYTES >> 20} MiB, no radiograph is")
        return path.read_bytes()
    except FileNotFoundError:
        raise DicomError(f"{path}: no such file") from None
    except OSError as error:
        raise DicomError(f"{path}: cannot be read ({error.strerror})") from None


def _is_utf8(path: Path) -> bool:
    """Return true, or refuse a path that no JSON, CSV or page could hold: a batch would fail when it writes them.

    Raises:
        DatasetError: the path is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DatasetError(f"{shown}: this path is not UTF-8, so results cannot name the file; rename it.") from None
    return True


def _is_hidden(name: PurePath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)


def _is_overlay(path: Path) -> bool:
    """Return whether a file is the drawing of a radiograph with its findings, and would take the radiograph's id."""
    return path.parent.name == OVERLAYS and (path.parent.parent / PROGRESS).is_dir()


def _expand(entry: str) -> Iterator[tuple[Path, str]]:
    path = Path(entry)
    if path.is_dir():
        visible = (file for file in visible_files(path) if not _is_overlay(file))
        files = (file for file in visible if _is_archive(file) or is_radiograph_file(file, path))
        yield from ((file, member) for file in files for member in _members(file))
    elif path.exists() and _is_utf8(path):
        yield from ((path, member) for member in _members(path))
    elif glob.has_magic(entry):
        matches = sorted(match for match in glob.glob(entry, recursive=True) if not _is_overlay(Path(match)))
        if not matches:
            raise DatasetError(f"{entry}: nothing matches this pattern.")
        for match in matches:
            yield from _expand(match)
    else:
        raise DatasetError(f"{entry}: no such file or folder.")


def _members(path: Path) -> list[str]:
    """Return the names of the radiographs in an archive; for any other file, an empty name."""
    if not _is_archive(path):
        return [""]
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info.filename for info in archive.infolist() if _is_radiograph_in(archive, info)]
    except UNZIP_ERRORS as error:
        raise DatasetError(f"{path}: is not a readable zip archive ({error}).") from None
    return sorted(found, key=PurePosixPath)  # as the files of a folder are


def _is_radiograph_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    def head() -> bytes:
        with archive.open(info) as file:
            return file.read(HEAD_BYTES)

    is_file = not info.is_dir() and info.file_size <= MAX_FILE_BYTES
    return is_file and is_radiograph(PurePosixPath(info.filename), head)


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip"
