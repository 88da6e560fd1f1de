"""What a DICOM node has accepted and how far each radiograph is, on a disk that survives being killed at any point.

A folder holds ``queue.sqlite`` (a row a radiograph, kept for good: it recognises duplicates), ``images`` (until they
are predicted) and ``results`` (until they are sent). The order of writing makes it safe: a file is on the disk before
the row that speaks of it, and a row has moved on before its files are removed. Files without a row are what a kill
left behind; nobody was told that they are safe, and the next start removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.files import sync_folder, write_durably

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

DATABASE, IMAGES, RESULTS, LOCK = "queue.sqlite", "images", "results", "node.lock"
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY,
    sop_instance_uid TEXT NOT NULL UNIQUE,
    file TEXT NOT NULL,
    sender TEXT NOT NULL,
    received REAL NOT NULL,
    state TEXT NOT NULL,
    changed REAL NOT NULL,
    not_before REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    unfinished INTEGER NOT NULL DEFAULT 0,
    findings INTEGER,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, not_before, number);
"""


class State(str, Enum):
    """How far a radiograph is."""

    queued = "queued"
    predicted = "predicted"
    done = "done"
    failed = "failed"


class DiskError(CxrError):
    """The disk did not take it: full, read-only or gone."""


@dataclass(frozen=True)
class Job:
    """One radiograph.

    Attributes:
        number: in order of arrival.
        sop_instance_uid: which.
        file: the stem of its files.
        sender: who sent it, ``AE@host``.
        received: seconds since 1970.
        state: how far it is.
        not_before: seconds since 1970 before which nothing is tried.
        attempts: how often the present step has failed in a row.
        refusals: how often the destination said no, rather than nothing.
        unfinished: how often the step was begun and the process died.
        findings: how many were reported; None before.
        reason: why the last attempt failed.
    """

    number: int
    sop_instance_uid: str
    file: str
    sender: str
    received: float
    state: State
    not_before: float
    attempts: int
    refusals: int
    unfinished: int
    findings: int | None
    reason: str


class JobStore:
    """The folder of one running node; safe to use from several threads.

    Raises:
        UsageError: another node uses the folder, or a later version wrote it.
        DiskError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._accepting = threading.Lock()
        self._database = threading.Lock()
        try:
            for part in (IMAGES, RESULTS):
                (folder / part).mkdir(parents=True, exist_ok=True)
            sync_folder(folder)
            self._lock = _lock(folder / LOCK)
            self._connection = _connect(folder / DATABASE)
        except (OSError, sqlite3.Error) as error:
            raise DiskError(f"{folder}: cannot be used for the queue ({error}).") from None
        self._remove_orphans()

    def close(self) -> None:
        """Let another node use the folder."""
        with self._database:
            self._connection.close()
        self._lock.close()

    def accept(self, sop_instance_uid: str, content: bytes, sender: str) -> bool:
        """Put a radiograph into the queue; when this returns, no kill and no power cut loses it.

        Returns:
            Whether it is new; one that failed is queued again, any other known one is left as it is.

        Raises:
            DiskError: it is not in the queue.
        """
        with self._accepting:
            known = self._one("SELECT * FROM jobs WHERE sop_instance_uid = ?", sop_instance_uid)
            if known is not None and known.state is not State.failed:
                return False
            name = hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:32]
            now = time.time()
            try:
                write_durably(self._image(name), content)
                self._run(
                    "INSERT INTO jobs (sop_instance_uid, file, sender, received, state, changed)"
                    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sop_instance_uid) DO UPDATE SET state = excluded.state,"
                    " changed = excluded.changed, not_before = 0, attempts = 0, refusals = 0, unfinished = 0,"
                    " reason = ''",
                    *(sop_instance_uid, name, sender, now, State.queued.value, now),
                )
            except (OSError, sqlite3.Error) as error:
                if known is None:
                    _tidy(self._image(name))
                raise DiskError(f"{self.folder}: cannot take another radiograph ({error}).") from None
        return True

    def next(self, state: State, besides: Collection[int] = ()) -> Job | None:
        """Return the job in this state that has waited longest and may be tried now, but for those ``besides``."""
        excluded = ", ".join("?" * len(besides))
        return self._one(
            f"SELECT * FROM jobs WHERE state = ? AND not_before <= ? AND number NOT IN ({excluded})"
            " ORDER BY not_before, number LIMIT 1",
            *(state.value, time.time(), *besides),
        )

    def read_image(self, job: Job) -> bytes:
        """Return the radiograph as it was sent, as a DICOM file."""
        return self._image(job.file).read_bytes()

    def result_files(self, job: Job) -> list[Path]:
        """Return what is to be sent, in order."""
        return sorted((self.folder / RESULTS).glob(f"{job.file}-*.dcm"))

    def begin(self, job: Job) -> None:
        """Note that a step begins, so that a radiograph that kills the process is recognised after the next start."""
        self._run("UPDATE jobs SET unfinished = unfinished + 1 WHERE number = ?", job.number)

    def predicted(self, job: Job, results: Mapping[str, bytes], findings: int) -> None:
        """Keep the results, by a name each, and move on to sending."""
        for path in self.result_files(job):
            path.unlink()
        for name, content in results.items():
            write_durably(self.folder / RESULTS / f"{job.file}-{name}.dcm", content)
        self._move(job, State.predicted, findings=findings)
        _tidy(self._image(job.file))

    def sent(self, job: Job) -> None:
        """Note that the destination has the results."""
        self._move(job, State.done)
        _tidy(*self.result_files(job))

    def postpone(self, job: Job, reason: str, delay_s: float, *, refused: bool = False) -> None:
        """Try again later."""
        self._run(
            "UPDATE jobs SET attempts = attempts + 1, refusals = refusals + ?, unfinished = 0, reason = ?,"
            " not_before = ?, changed = ? WHERE number = ?",
            *(int(refused), reason, time.time() + delay_s, time.time(), job.number),
        )

    def fail(self, job: Job, reason: str) -> None:
        """Give up on it; its files stay, for :meth:`retry_failed`."""
        self._run(
            "UPDATE jobs SET state = ?, unfinished = 0, reason = ?, changed = ? WHERE number = ?",
            *(State.failed.value, reason, time.time(), job.number),
        )

    def hurry(self, state: State) -> None:
        """Let every job in this state be tried now."""
        self._run("UPDATE jobs SET not_before = 0 WHERE state = ? AND not_before > 0", state.value)

    def _move(self, job: Job, state: State, findings: int | None = None) -> None:
        self._run(
            "UPDATE jobs SET state = ?, attempts = 0, refusals = 0, unfinished = 0, reason = '', not_before = 0,"
            " changed = ?, findings = coalesce(?, findings) WHERE number = ?",
            *(state.value, time.time(), findings, job.number),
        )

    def _image(self, name: str) -> Path:
        return self.folder / IMAGES / f"{name}.dcm"

    def _run(self, statement: str, *values: Any) -> None:
        with self._database, self._connection:
            self._connection.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Job | None:
        with self._database:
            row = self._connection.execute(statement, values).fetchone()
        return None if row is None else _job(row)

    def _remove_orphans(self) -> None:
        """Remove what kills left: files of no row, and of rows that have moved on."""
        with self._database:
            rows = self._connection.execute("SELECT file, state FROM jobs").fetchall()
        states = {row["file"]: State(row["state"]) for row in rows}
        wanted = {IMAGES: (State.queued, State.failed), RESULTS: (State.predicted, State.failed)}
        for part, kept in wanted.items():
            for path in (self.folder / part).iterdir():
                if path.suffix != ".dcm" or states.get(path.stem.split("-")[0]) not in kept:
                    path.unlink()


@contextlib.contextmanager
def open_queue(folder: Path) -> Iterator[sqlite3.Connection]:
    """Yield the database of a node that may be running, to look or to :func:`retry_failed`.

    Raises:
        UsageError: there is none.
    """
    path = folder / DATABASE
    if not path.is_file():
        raise UsageError(f"{folder}: is no folder of a DICOM node; give the --state of the node.")
    connection = _connect(path)
    try:
        yield connection
    finally:
        connection.close()


def count_states(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many radiographs are in each state."""
    counts = dict(connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    return {state.value: counts.get(state.value, 0) for state in State}


def list_jobs(connection: sqlite3.Connection, state: State) -> list[Job]:
    """Return the radiographs in a state, in order of arrival."""
    rows = connection.execute("SELECT * FROM jobs WHERE state = ? ORDER BY number", (state.value,))
    return [_job(row) for row in rows]


def retry_failed(folder: Path, connection: sqlite3.Connection) -> int:
    """Queue again what failed, at the step where it did, and return how many; a running node picks them up."""
    jobs = list_jobs(connection, State.failed)
    with connection:
        for job in jobs:
            has_image = (folder / IMAGES / f"{job.file}.dcm").is_file()
            state = State.queued if has_image else State.predicted
            connection.execute(
                "UPDATE jobs SET state = ?, attempts = 0, refusals = 0, unfinished = 0, not_before = 0, changed = ?"
                " WHERE number = ?",
                (state.value, time.time(), job.number),
            )
    return len(jobs)


def _tidy(*paths: Path) -> None:
    """Remove files that nobody needs any more; what cannot be removed now is by the next start."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    # In WAL mode only FULL syncs at each commit: without it a power cut could take back what was accepted.
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        connection.close()
        raise UsageError(f"{path}: was written by a later version of this program; install that one.")
    if version < SCHEMA_VERSION:
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return connection


def _lock(path: Path) -> TextIO:
    """Return a file that only one process holds; a process that dies lets go of it."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(f"{path.parent}: another DICOM node uses this folder; give each its own --state.") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _job(row: sqlite3.Row) -> Job:
    values = {name: row[name] for name in row.keys() if name != "changed"}  # noqa: SIM118 (a Row iterates its values)
    return Job(**(values | {"state": State(row["state"])}))
