"""Uploads, files or archives of files, as named contents within limits, or a refusal in one sentence."""

from __future__ import annotations

import contextlib
import os
import time
import zipfile
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from cxr_mmdet.errors import CxrError, counted
from cxr_mmdet.structures.radiograph_files import HEAD_BYTES, UNZIP_ERRORS, image_id_of, is_radiograph, unique_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHUNK = 1 << 20
_MOST_MEMBERS = 10_000
_ZIP = b"PK\x03\x04"

NOT_UPLOADED = "a file of this request was not uploaded to this server; upload it first."
"""The same whether such a file exists or not."""


class UploadError(CxrError):
    """An upload that is refused; the message names the file and the limit."""


@dataclass(frozen=True)
class UploadLimits:
    """Limits on what one upload may hold.

    Attributes:
        files: radiographs at once, those in archives included.
        file_bytes: of one file, unpacked.
        total_bytes: of all files of one upload, unpacked.
        pixels: of one radiograph.
    """

    files: int = 32
    file_bytes: int = 128 << 20
    total_bytes: int = 512 << 20
    pixels: int = 60_000_000


@dataclass(frozen=True)
class Upload:
    """One file.

    Attributes:
        name: without folders.
        content: what it holds.
        image_id: by default the one that the name gives; unique among the files of one upload.
    """

    name: str
    content: bytes = field(repr=False)
    image_id: str = ""

    def __post_init__(self) -> None:
        if not self.image_id:
            object.__setattr__(self, "image_id", image_id_of(self.name))


def uploaded_file(path: object, folder: Path) -> Path:
    """Return the resolved path of a file inside the folder of uploads, itself resolved.

    The disk is not asked about any other place, so that neither the answer nor its time tells what exists there.

    Raises:
        UploadError: it is none; the message is always :data:`NOT_UPLOADED`.
    """
    if isinstance(path, str) and "\0" not in path and _inside(os.path.normpath(folder / path), folder):
        try:
            resolved = Path(path).resolve()
            if _inside(resolved, folder) and resolved.is_file():
                return resolved
        except (OSError, RuntimeError):  # a name that is too long, a circle of links
            pass
    raise UploadError(NOT_UPLOADED)


def _inside(path: str | Path, folder: Path) -> bool:
    return folder in Path(path).parents


def held_bytes(folder: Path) -> int:
    """Return the size of all files in the folder of uploads."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def remove_unfinished(folder: Path, kept_s: float) -> None:
    """Remove uploads that nothing was written to for a time: those that have ended lie in folders of their own."""
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_mtime < time.time() - kept_s:
                path.unlink()


def read_uploads(paths: Sequence[Path], limits: UploadLimits) -> tuple[list[Upload], list[str]]:
    """Return the radiographs in uploaded files, archives unpacked in memory, and notes on what was left out.

    Raises:
        UploadError: larger or other files than ``limits`` allow, or an archive that is damaged or hostile.
    """
    uploads: list[Upload] = []
    notes: list[str] = []
    total = 0
    for upload in (entry for path in paths for entry in _open(path, limits)):
        if len(uploads) == limits.files:
            taken = "first radiograph is" if limits.files == 1 else f"first {limits.files} radiographs are"
            notes = [f"Only the {taken} taken; upload the others after these."]
            break
        total += len(upload.content)
        if total > limits.total_bytes:
            raise UploadError(f"more than {_mib(limits.total_bytes)} at once; upload fewer radiographs.")
        uploads.append(upload)
    ids = unique_ids(upload.name for upload in uploads)
    return [replace(upload, image_id=image_id) for upload, image_id in zip(uploads, ids, strict=True)], notes


def _open(path: Path, limits: UploadLimits) -> Iterator[Upload]:
    name = path.name
    if path.stat().st_size > limits.file_bytes and not zipfile.is_zipfile(path):
        raise UploadError(f"{name}: is larger than {_mib(limits.file_bytes)}; no radiograph is.")
    if path.stat().st_size > limits.total_bytes:
        raise UploadError(f"{name}: is larger than {_mib(limits.total_bytes)}; upload fewer radiographs.")
    content = path.read_bytes()
    if content.startswith(_ZIP) or name.lower().endswith(".zip"):
        yield from _unpack(name, content, limits)
    else:
        yield Upload(name, content)


def _unpack(name: str, content: bytes, limits: UploadLimits) -> Iterator[Upload]:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check_members(name, members, limits)
            found = 0
            for info in sorted(members, key=lambda info: PurePosixPath(info.filename)):
                upload = _member(archive, info, name, limits)
                if upload is not None:
                    found += 1
                    yield upload
    except UNZIP_ERRORS as error:
        reason = "it is encrypted" if "encrypted" in str(error) else str(error)
        raise UploadError(f"{name}: cannot be unpacked ({reason}).") from None
    if not found:
        raise UploadError(f"{name}: holds no radiograph; expected .dicom, .dcm, .png, .jpg or .tif files.")


def _check_members(name: str, members: Sequence[zipfile.ZipInfo], limits: UploadLimits) -> None:
    for info in members:
        if _leaves_its_folder(info.orig_filename):
            raise UploadError(f"{name}: holds a file whose name leads out of the archive; it is refused.")
    if sum(info.file_size for info in members) > limits.total_bytes:
        raise UploadError(f"{name}: unpacks to more than {_mib(limits.total_bytes)}; it is refused.")
    if len(members) > _MOST_MEMBERS:
        raise UploadError(f"{name}: holds {counted(len(members), 'file')}, more than {_MOST_MEMBERS:,}; it is refused.")


def _leaves_its_folder(member: str) -> bool:
    posix, windows = PurePosixPath(member), PureWindowsPath(member)
    return posix.is_absolute() or bool(windows.anchor) or ".." in windows.parts or "\0" in member


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, limits: UploadLimits) -> Upload | None:
    def head() -> bytes:
        with archive.open(info) as file:
            return file.read(HEAD_BYTES)

    path = PurePosixPath(info.filename)
    if not is_radiograph(path, head):
        return None
    parts, size = [], 0
    with archive.open(info) as file:
        # What the header says about the size is not believed: reading stops at the limit.
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > limits.file_bytes:
                raise UploadError(f"{name}: {path.name} unpacks to more than {_mib(limits.file_bytes)}; it is refused.")
            parts.append(chunk)
    return Upload(path.name, b"".join(parts))


def _mib(count: int) -> str:
    return f"{count >> 20} MiB"
