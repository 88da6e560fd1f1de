"""A node's folder against its database: what each start puts right, and a damaged database rebuilt.

The folder is what counts: an image that is there waits for prediction, and results without an image wait for delivery,
whatever became of the rows. So nothing that was acknowledged depends on the database. What does is the memory of what
was delivered: without it a radiograph that is sent again is predicted again, to the same UIDs.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydicom import dcmread

from cxr_mmdet.dicom.identity import hash_content
from cxr_mmdet.errors import UsageError
from cxr_mmdet.files import sync_folder
from cxr_mmdet.pacs.job_database import SETTLE, Job, State, connect, explained
from cxr_mmdet.pacs.job_folder import (
    DATABASE,
    IMAGES,
    LOCK,
    RESULTS,
    file_stem,
    lock_folder,
    mark_name,
    set_aside,
    tidy,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger("cxr_mmdet.node")

_UNFINISHED = re.compile(r"\..+\.part")
_OWN = {
    IMAGES: re.compile(r"(?P<stem>[0-9a-f]{32})\.dcm"),
    RESULTS: re.compile(r"(?P<stem>[0-9a-f]{32})(-[\w-]+\.dcm|(\.[0-9a-f]{8})?\.delivered)"),
}
_SALVAGED = "salvaged"
"""A state that no row keeps: the files decide."""


@dataclass
class _Files:
    """The files of one radiograph."""

    image: Path | None = None
    results: list[Path] = field(default_factory=list)
    marks: list[Path] = field(default_factory=list)


def reconcile(folder: Path, connection: sqlite3.Connection) -> None:
    """Make the rows agree with the files, and remove the files of what was delivered.

    The rows are committed before a file is removed, so that a kill in between is put right by the next start.

    Raises:
        OSError, sqlite3.Error: folder or database cannot be used.
    """
    found = _scan(folder)
    _note_marks(connection, found)
    not_needed: list[Path] = []
    changes: list[tuple[str, str, int]] = []
    for row in connection.execute("SELECT number, file, state, content_sha256 FROM jobs"):
        files = found.pop(row["file"], None)
        if files is None and row["state"] in (State.done.value, State.failed.value):
            continue
        state, reason, leftovers = _judge(row, files or _Files())
        not_needed += leftovers
        if state.value != row["state"]:
            changes.append((state.value, reason, row["number"]))
    with connection:
        connection.executemany(
            "UPDATE jobs SET state = ?, reason = ?, attempts = 0, refusals = 0, not_before = 0 WHERE number = ?",
            changes,
        )
        connection.execute("DELETE FROM deliveries WHERE job IN (SELECT number FROM jobs WHERE state = 'queued')")
        put_back = sum(_put_back(folder, connection, stem, files) for stem, files in found.items())
    tidy(*not_needed, *(mark for files in found.values() for mark in files.marks))
    if changes or put_back:
        log.warning(
            "%s: the database did not agree with the folder: %d radiographs without a row were put back into the queue,"
            " the state of %d others was set by their files",
            folder,
            put_back,
            len(changes),
        )


def repair(folder: Path) -> Path | None:
    """Rebuild the database from the folder and from what can still be read of the old one.

    Returns:
        Where the old one is kept, beside the new one; None if there was none.

    Raises:
        UsageError: the folder is not that of a node, or its node is running.
        DiskError: the folder cannot be written.
    """
    if not any((folder / part).exists() for part in (DATABASE, IMAGES, RESULTS, LOCK)):
        raise UsageError(f"{folder}: is not the folder of a DICOM node; give the --state of the node.")
    path, made = folder / DATABASE, folder / f"{DATABASE}.new"
    with lock_folder(folder), explained(folder):
        tidy(*_with_companions(made))
        with closing(connect(made)) as connection, connection:
            for row in _salvage(path):
                names = ", ".join(row)
                marks = ", ".join("?" * len(row))
                connection.execute(f"INSERT OR IGNORE INTO jobs ({names}) VALUES ({marks})", tuple(row.values()))
            connection.executemany(
                "INSERT OR IGNORE INTO deliveries (job, destination, state)"
                " SELECT number, ?, 'delivered' FROM jobs WHERE sop_instance_uid = ?",
                _salvage_deliveries(path),
            )
        kept = _keep_beside(path)
        os.replace(made, path)
        sync_folder(folder)
        with closing(connect(path)) as connection:
            reconcile(folder, connection)
    return kept


def _scan(folder: Path) -> dict[str, _Files]:
    """Return the files by their stem; what is not of the queue is set aside."""
    found: dict[str, _Files] = {}
    for part, pattern in _OWN.items():
        for path in sorted((folder / part).iterdir()):
            is_file = path.is_file() and not path.is_symlink()
            if is_file and _UNFINISHED.fullmatch(path.name):
                tidy(path)  # a kill while it was written: nobody was told that it is safe
                continue
            match = pattern.fullmatch(path.name) if is_file else None
            if match is None:
                _set_aside(folder, path, "it is not a file of the queue")
                continue
            files = found.setdefault(match["stem"], _Files())
            if part == IMAGES:
                files.image = path
            elif path.suffix == ".delivered":
                files.marks.append(path)
            else:
                files.results.append(path)
    return found


def _note_marks(connection: sqlite3.Connection, found: Mapping[str, _Files]) -> None:
    """Note the deliveries that marks stand for, because the disk was full."""
    with connection:
        for stem, files in found.items():
            names = {mark.name for mark in files.marks}
            rows = connection.execute(
                "SELECT job, destination FROM deliveries JOIN jobs ON number = job WHERE file = ?", (stem,)
            )
            for job, destination in rows.fetchall() if names else ():
                if mark_name(stem, destination) in names:
                    connection.execute(
                        "UPDATE deliveries SET state = 'delivered', reason = '' WHERE job = ? AND destination = ?",
                        (job, destination),
                    )
                    connection.execute(f"{SETTLE} AND number = ?", (time.time(), job))


def _judge(row: sqlite3.Row, files: _Files) -> tuple[State, str, list[Path]]:
    """Return the state that the files of a row show, the reason of a failure, and the files nobody needs any more."""
    image = [files.image] if files.image else []
    # Earlier versions had one destination, and their marks name none.
    is_complete = not files.results or any(mark.stem == row["file"] for mark in files.marks)
    if files.marks and is_complete and not image:
        return State.done, "", [*files.results, *files.marks]
    leftovers = files.marks
    if row["state"] == State.failed.value:
        return State.failed, "", leftovers
    if row["state"] == State.done.value and row["content_sha256"]:
        if not image or _is_content(image[0], row["content_sha256"]):
            return State.done, "", [*image, *files.results, *leftovers]
        return State.queued, "", leftovers
    if row["state"] == State.predicted.value and image and files.results:
        # Removing the image comes after the row. Another one, which an older state of the row does not know, waits.
        if _is_content(image[0], row["content_sha256"]):
            return State.predicted, "", [*image, *leftovers]
        return State.queued, "", leftovers
    if image:
        return State.queued, "", [*files.results, *leftovers]
    if files.results:
        return State.predicted, "", leftovers
    if row["state"] == State.done.value:
        return State.done, "", leftovers
    return State.failed, "its files are gone from the queue's folder; send the radiograph again", leftovers


def _is_content(path: Path, content_sha256: str) -> bool:
    """Return whether a file is the one that a row speaks of; one that cannot be read is kept, for it may not be."""
    try:
        return hash_content(path.read_bytes()) == content_sha256
    except OSError:
        return False


def _put_back(folder: Path, connection: sqlite3.Connection, stem: str, files: _Files) -> int:
    """Make a row for files that have none, and return how many; what names no radiograph is set aside."""
    paths = [files.image] if files.image else files.results
    uid, received, content_sha256 = "", 0.0, ""
    for path in paths:
        try:
            uid = uid or _uid_in(path, stem)
            received = path.stat().st_mtime
            content_sha256 = hash_content(path.read_bytes()) if files.image else ""
        except OSError as error:
            log.warning("%s: cannot be read (%s)", path, error)
            uid = ""
    if not uid:
        for path in paths:
            _set_aside(folder, path, "there is no row for it in the database, and it names no radiograph")
        return _put_back(folder, connection, stem, _Files(results=files.results)) if files.image else 0
    state = State.queued if files.image else State.predicted
    connection.execute(
        "INSERT INTO jobs (sop_instance_uid, file, sender, received, state, changed, content_sha256)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sop_instance_uid) DO UPDATE SET file = excluded.file,"
        " state = excluded.state, content_sha256 = excluded.content_sha256, identity = ''",
        (uid, stem, "an unknown sender", received, state.value, received, content_sha256),
    )
    return 1


def _uid_in(path: Path, stem: str) -> str:
    """Return the radiograph's UID, which its file holds and which its results refer to; empty if there is none."""
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        uids = [str(dataset.file_meta.get("MediaStorageSOPInstanceUID", ""))]
        uids += [str(element.value) for element in dataset.iterall() if element.VR == "UI"]
    except OSError:
        raise
    # Libraries raise whatever a damaged file makes happen.
    except Exception:
        return ""
    return next((uid for uid in uids if file_stem(uid) == stem), "")


def _set_aside(folder: Path, path: Path, reason: str) -> None:
    try:
        set_aside(folder, path, reason)
    except OSError as error:
        log.warning("%s: is left where it is (%s): %s", path, error, reason)


def _salvage(path: Path) -> list[dict[str, object]]:
    """Return the rows that make sense, read from both ends up to the damage; no state but ``done`` is believed."""
    rows: dict[str, dict[str, object]] = {}
    if not path.is_file():
        return []
    names = [name for name in Job.__dataclass_fields__ if name != "number"]
    for order in ("ASC", "DESC"):
        try:
            with closing(sqlite3.connect(path)) as connection:
                connection.row_factory = sqlite3.Row
                for found in connection.execute(f"SELECT * FROM jobs NOT INDEXED ORDER BY rowid {order}"):
                    row = {name: found[name] for name in names if name in found.keys()}  # noqa: SIM118
                    uid, received = row.get("sop_instance_uid"), row.get("received")
                    if not isinstance(uid, str) or row.get("file") != file_stem(uid) or not isinstance(received, float):
                        continue
                    row["state"] = State.done.value if row["state"] == State.done.value else _SALVAGED
                    rows.setdefault(uid, row | {"changed": received, "not_before": 0})
        except (sqlite3.Error, UnicodeError) as error:
            log.warning("%s: not all of it can be read (%s)", path, error)
    return sorted(rows.values(), key=lambda row: float(str(row["received"])))


def _salvage_deliveries(path: Path) -> list[tuple[str, str]]:
    """Return which destination has the results of which radiograph, as far as that can be read."""
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(
                "SELECT destination, sop_instance_uid FROM deliveries JOIN jobs ON number = job"
                " WHERE deliveries.state = 'delivered'"
            ).fetchall()
    except (sqlite3.Error, UnicodeError) as error:
        log.warning("%s: which destinations have which results cannot be read (%s)", path, error)
        return []


def _keep_beside(path: Path) -> Path | None:
    """Rename the old database and the files that belong to it, and return its new name."""
    if not path.exists():
        return None
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in range(1, 1 << 20))
    kept = next(name for name in names if not name.exists())
    for old, new in zip(_with_companions(path), _with_companions(kept), strict=True):
        if old.exists():
            os.rename(old, new)
    return kept


def _with_companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
