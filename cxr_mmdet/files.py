"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import csv
import glob
import json
import os
import re
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import tomllib

from cxr_mmdet.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows has no such locks; nothing is cleared there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_QUOTED = re.compile(r"'+[=+\-@\t\r\n]")


def spreadsheet_cell(value: Any) -> Any:
    """Return a cell that spreadsheets show as it is: text that begins like a formula gets an apostrophe before it.

    Names of files, patients and readers come from strangers, and a spreadsheet would compute them. Numbers stay.
    """
    is_formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def plain_cell(text: str) -> str:
    """Return the text that :func:`spreadsheet_cell` was given."""
    return text[1:] if _QUOTED.match(text) else text


def write_csv_rows(file: TextIO, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write CSV for people, with the cells of :func:`spreadsheet_cell`, to a file that translates no line ends."""
    lines = ([spreadsheet_cell(value) for value in row] for row in chain([header], rows))
    csv.writer(file, lineterminator="\n").writerows(lines)


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file as :func:`write_csv_rows` does, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write_csv_rows(file, header, rows)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends, and vanishes when the block raises.

    The temporary file keeps the suffix, since writers such as OpenCV choose the format by it. Parent folders are made.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:40]}-{secrets.token_hex(8)}{target.suffix}")
    try:
        # Not mkstemp, whose files are private: giving them a new file's permissions takes the umask, which can only be
        # read by changing it, for all threads at once.
        temporary.touch(exist_ok=False)
    except OSError as error:
        error.filename = str(target)
        raise
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        # A write to an open file does not say which file, and the temporary one is nobody's choice.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder that only this user reads and that goes when the block ends.

    A process that is killed leaves its folder behind, but not the lock on it: the next call with this prefix removes
    what nobody holds.

    Args:
        prefix: of its name, and of the folders to remove; nothing else may begin with it.
        parent: where it is made; the system's folder for temporary files by default.
    """
    folder, lock = _lock_new_folder(prefix, parent)
    try:
        _remove_abandoned(folder.parent, prefix)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _lock_new_folder(prefix: str, parent: Path | None) -> tuple[Path, _Lock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
        lock = _lock(folder)
        # Between the two lines above another process may have taken the folder for an abandoned one.
        if lock is not None and folder.exists():
            return folder, lock
        if lock is not None:
            lock.close()


def _remove_abandoned(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        lock = _lock(folder)
        if lock is not None:
            if lock.handle is not None and os.fstat(lock.handle).st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)
            lock.close()


def make_writable_folder(folder: Path, remedy: str) -> None:
    """Make a folder if need be, before long work whose results it is to hold.

    Raises:
        UsageError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error.strerror}); {remedy}.") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder}: cannot be written to; {remedy}.")


def cache_folder() -> Path:
    """Return where this user's machine keeps what can be made again.

    Raises:
        UsageError: the user has no home folder, and the environment names no other.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxr_mmdet"
    except RuntimeError:  # a container's user without a home
        raise UsageError("this user has no home folder for a cache; name a folder by XDG_CACHE_HOME.") from None


@contextmanager
def sole_use(folder: Path, remedy: str, *, wait: bool = False) -> Iterator[None]:
    """Make a folder if need be, and keep other processes out that call this too.

    Args:
        folder: to be used.
        remedy: for messages, how to do with another folder.
        wait: wait for another process that uses it.

    Raises:
        UsageError: another process uses it, or it cannot be made or written to.
    """
    make_writable_folder(folder, remedy)
    lock = _lock(folder.resolve(), wait=wait)
    if lock is None:
        raise UsageError(f"{folder}: is in use by another process; wait for it, or {remedy}.")
    try:
        yield
    finally:
        lock.close()


@dataclass(frozen=True)
class _Lock:
    """A folder's lock while ``handle`` is open; None where the system or the file system locks no folders."""

    handle: int | None

    def close(self) -> None:
        """Give the folder back."""
        if self.handle is not None:
            os.close(self.handle)


def _lock(folder: Path, *, wait: bool = False) -> _Lock | None:
    """Return a folder's lock; None where another process has it, or the folder cannot be opened."""
    if fcntl is None:
        return _Lock(None)
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(handle)
        # EWOULDBLOCK is a lock of another process; NFS, for one, locks no folders and answers EBADF.
        return None if isinstance(error, BlockingIOError) else _Lock(None)
    return _Lock(handle)


def write_durably(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` so that it is on the disk, under its name and whole, when this returns.

    Raises:
        OSError: it is not; nothing is left behind.
    """
    write_together({Path(path): content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files of one folder that belong together, each as :func:`write_durably` does.

    No file gets its name before all are on the disk, so a full disk leaves none of them; the last name given appears
    last, and a reader who finds it finds the others.

    Raises:
        OSError: they are not all written; nothing is left behind.
    """
    parts = {target: target.with_name(f".{target.name}.part") for target in contents}
    try:
        for target, part in parts.items():
            try:
                with part.open("wb") as file:
                    file.write(contents[target])
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                error.filename = str(target)
                raise
        for target, part in parts.items():
            os.replace(part, target)
        for folder in {target.parent for target in contents}:
            sync_folder(folder)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: after a power cut a new file is there only if its folder was written."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        UsageError: it cannot be read, or is not TOML; the message names the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:  # also bytes that are not UTF-8
        raise UsageError(f"{path}: is not TOML: {error}.") from None


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = None) -> None:
    """Write ``value`` as JSON with sorted keys (same input, same bytes), atomically; NaN is refused.

    Raises:
        ValueError: ``value`` holds NaN or infinity, which JSON has no word for; undefined is ``None``.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, sort_keys=True, indent=indent, allow_nan=False, ensure_ascii=False)
        file.write("\n")
