"""Journal of a run, one line per radiograph, so that a killed run goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.files import atomic_path
from cxr_mmdet.structures.radiograph_files import PROGRESS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from cxr_mmdet.structures.radiograph_files import RadiographFile


def cannot_write(path: Path, error: OSError) -> CxrError:
    """Return the error of a disk that is full, read-only or gone."""
    return CxrError(
        f"{path}: cannot be written ({error.strerror}); make room or choose another --out, then run the same command "
        "again: what is finished is kept."
    )


def is_in(out_dir: Path) -> bool:
    """Return whether a folder holds results of a run, finished or not."""
    return (out_dir / PROGRESS).is_dir()


def start(out_dir: Path, settings: Mapping[str, Any], *, force: bool) -> None:
    """Prepare the folder of results; called by one process, before any :class:`Journal` is opened.

    Raises:
        UsageError: it holds results of another model or of other settings, and ``force`` is off.
        CxrError: it cannot be written.
    """
    folder = out_dir / PROGRESS
    note = folder / "settings.json"
    wanted = json.dumps(settings, sort_keys=True)
    try:
        # Where a removal is killed, the settings may be gone first: lines without them may be of any model.
        if folder.is_dir() and (force or not note.exists()):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            with atomic_path(note) as temporary:
                temporary.write_text(wanted + "\n", encoding="utf-8")
        elif note.read_text(encoding="utf-8").strip() != wanted:
            raise UsageError(
                f"{out_dir}: holds results of another model or of other settings; pass --force to replace them, or "
                "choose another --out."
            )
    except OSError as error:
        raise cannot_write(folder, error) from None


class Journal:
    """The lines of one process, whose threads may all add to them; reading sees those of all processes."""

    def __init__(self, out_dir: Path, rank: int = 0) -> None:
        self.folder = out_dir / PROGRESS
        self.path = self.folder / f"rank-{rank}.jsonl"
        self._file: BinaryIO | None = None
        self._adding = threading.Lock()

    def add(self, item: RadiographFile, result: Mapping[str, Any]) -> None:
        """Note a result; it is in the file when this returns.

        Raises:
            CxrError: the disk is full, for example.
        """
        state = result.get("state")
        line = {"image_id": item.image_id, "source": item.source, **result, "state": state}
        data = (json.dumps(line, sort_keys=True, allow_nan=False) + "\n").encode()
        try:
            with self._adding:
                if self._file is None:
                    self._file = _open_whole_lines(self.path)
                self._file.write(data)
                self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        """Close the file; what could not be written is said by :meth:`add`."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def places(self, items: Sequence[RadiographFile]) -> dict[str, tuple[Path, int]]:
        """Return for each item that is done where its line stands: image id → file and offset.

        An item that failed is not done; nor is one whose file has changed since.
        """
        by_key = {(item.image_id, item.source): item for item in items}
        found: dict[str, tuple[Path, int]] = {}
        for path, offset, line in self._lines():
            item = by_key.get((line.get("image_id", ""), line.get("source", "")))
            if item is not None and "findings" in line and tuple(line["state"]) == item.stamp():
                found[item.image_id] = (path, offset)
        return found

    def failures(self) -> dict[str, str]:
        """Return why items failed, by image id, also for those that succeeded in a later run."""
        return {line["image_id"]: line["failure"] for _, _, line in self._lines() if "failure" in line}

    def _lines(self) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            offset = 0
            with path.open("rb") as file:
                for data in file:
                    line = _parse(data)
                    if line is not None:
                        yield path, offset, line
                    offset += len(data)


def read_line(place: tuple[Path, int]) -> dict[str, Any]:
    """Return the line at a place that :meth:`Journal.places` gave."""
    path, offset = place
    with path.open("rb") as file:
        file.seek(offset)
        return dict(json.loads(file.readline()))


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(data)
    except ValueError:
        return None
    return line if isinstance(line, dict) and data.endswith(b"\n") else None


def _open_whole_lines(path: Path) -> BinaryIO:
    """Open for appending, after cutting off a line that a kill left half written."""
    file = path.open("ab")
    end = file.tell()
    if end:
        with path.open("rb") as reader:
            reader.seek(max(0, end - (1 << 24)))
            tail = reader.read()
        whole = end - (len(tail) - 1 - tail.rfind(b"\n"))
        if whole != end:
            os.truncate(path, whole)
    return file
