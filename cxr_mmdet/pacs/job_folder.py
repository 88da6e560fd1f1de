"""The folder of a DICOM node's queue: its parts, who may use it, and room that is kept for a full disk.

``reserve`` keeps some room on the disk. A full disk refuses new radiographs while the reserve lets those that were
accepted move on and be removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.files import sync_folder, write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TextIO

log = logging.getLogger("cxr_mmdet.node")

Made = TypeVar("Made")

DATABASE, IMAGES, RESULTS, LOCK = "queue.sqlite", "images", "results", "node.lock"
QUARANTINE, RESERVE = "quarantine", "reserve"
MIN_RESERVE_BYTES, MAX_RESERVE_BYTES = 128 << 10, 16 << 20
"""The reserve is an eighth of the disk between these; 16 MiB hold one radiograph's results, also uncompressed."""


class DiskError(CxrError):
    """A disk that is full, read-only or gone."""


class Reserve:
    """Room on the disk that is kept for moving on what was accepted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def use_for(self, step: Callable[[], Made]) -> Made:
        """Return what the step makes; where the disk is full, give it the reserve's room and try it once more."""
        try:
            return step()
        except (OSError, sqlite3.OperationalError) as error:
            if not _is_full(error) or not self._release():
                raise
        return step()

    def restore(self) -> None:
        """Take the reserve's room, unless it is taken.

        Raises:
            OSError: the disk is full.
        """
        path = self._folder / RESERVE
        if path.exists():
            return
        size, _ = self._room()
        write_durably(path, os.urandom(size))  # which no file system compresses to nothing, as it may do with zeros

    def check_room(self) -> None:
        """Check that a radiograph fits beside the reserve: it may take as much room.

        Raises:
            DiskError: it may not fit.
        """
        size, free = self._room()
        if free < size:
            raise DiskError(
                f"{self._folder}: only {free >> 10:,} KiB are free on its disk; expected {size >> 10:,} KiB at least, "
                "so make room."
            )

    def _room(self) -> tuple[int, int]:
        """Return the reserve's size and the bytes that are free."""
        disk = os.statvfs(self._folder)
        size = min(max(disk.f_blocks * disk.f_frsize // 8, MIN_RESERVE_BYTES), MAX_RESERVE_BYTES)
        return size, disk.f_bavail * disk.f_frsize

    def _release(self) -> bool:
        """Give the reserve's room back to the disk; return whether there was any."""
        try:
            (self._folder / RESERVE).unlink()
        except OSError:
            return False
        log.warning(
            "%s: the disk is full; its reserve is in use, and nothing is accepted until it is free", self._folder
        )
        return True


def file_stem(sop_instance_uid: str) -> str:
    """Return the stem of a radiograph's files, which no UID, however hostile, turns into a path."""
    return hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:32]


def mark_name(stem: str, destination: str) -> str:
    """Return the name of the file that says, on a full disk, that the destination has a radiograph's results."""
    return f"{stem}.{file_stem(destination)[:8]}.delivered"


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[TextIO]:
    """Make the folder where needed, private to its user, and yield a file that only one process holds.

    A process that dies lets go of it.

    Raises:
        UsageError: another node uses the folder.
        DiskError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A folder that holds other things, such as a home folder given by mistake, keeps its permissions.
        private = [folder] if (folder / IMAGES).exists() or not any(folder.iterdir()) else []
        for part in (*private, folder / IMAGES, folder / RESULTS):
            part.mkdir(mode=0o700, exist_ok=True)
            if part.stat().st_uid == os.geteuid():
                part.chmod(0o700)
        sync_folder(folder)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise unusable(folder, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another DICOM node uses this folder; give each its own --state.") from None
        yield file


def list_quarantine(folder: Path) -> list[str]:
    """Return the names of what was set aside, for a person to look at."""
    part = folder / QUARANTINE
    return sorted(path.name for path in part.iterdir()) if part.is_dir() else []


def set_aside(folder: Path, path: Path, reason: str) -> None:
    """Move a file or folder out of the queue's way, under a name that is free, and log it.

    Raises:
        OSError: it cannot be moved.
    """
    target = folder / QUARANTINE
    target.mkdir(mode=0o700, exist_ok=True)
    names = (f"{path.name}.{number}" if number else path.name for number in range(1 << 20))
    kept = next(kept for name in names if not os.path.lexists(kept := target / name))
    os.rename(path, kept)
    sync_folder(target)
    log.warning("%s: moved to %s: %s", path, kept, reason)


def tidy(*paths: Path) -> None:
    """Remove files that nobody needs any more; what cannot be removed now is by the next start."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def unusable(folder: Path, error: Exception) -> DiskError:
    """Return the error of a folder that cannot be used."""
    return DiskError(
        f"{folder}: cannot be used for the queue ({error}); give a --state folder on a disk that this user can write."
    )


def _is_full(error: Exception) -> bool:
    """Return whether room on the disk may help."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # The last two are what SQLite says when there is no room for the files beside the database.
    return any(words in str(error) for words in ("is full", "disk I/O error", "unable to open"))
