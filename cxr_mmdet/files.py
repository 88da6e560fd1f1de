"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends, and vanishes when the block raises.

    The temporary file keeps the suffix, since writers such as OpenCV choose the format by it. Parent folders are made.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem[:40]}-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private to the user; a data file gets the permissions any new file would get.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        # What a write to an open file raises does not say which file.
        if error.errno is not None:
            error.filename = error.filename or str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = None) -> None:
    """Write ``value`` as JSON with sorted keys (same input, same bytes), atomically; NaN is refused.

    Raises:
        ValueError: ``value`` holds NaN or infinity, which JSON has no word for; undefined is ``None``.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, sort_keys=True, indent=indent, allow_nan=False, ensure_ascii=False)
        file.write("\n")
