"""The database of a DICOM node's queue.

``jobs`` has one row per radiograph, kept for good, so that it recognises duplicates. ``deliveries`` has one row per
predicted radiograph and destination, so that each destination has its own progress, delays and failures.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.pacs.job_folder import DATABASE, IMAGES, RESULTS, unusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA_VERSION = 3
CHECKPOINT_PAGES = 64
"""The write-ahead log is folded into the database at 256 KiB, so that it takes little of a small disk."""

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
    reason TEXT NOT NULL DEFAULT '',
    content_sha256 TEXT NOT NULL DEFAULT '',
    identity TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, not_before, number);
CREATE TABLE IF NOT EXISTS deliveries (
    job INTEGER NOT NULL,
    destination TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    changed REAL NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (job, destination)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_waiting ON deliveries (destination, not_before, job) WHERE state = 'waiting';
"""
_SINCE_VERSION_2 = ("content_sha256", "identity")
_KNOWN_STATE = "CASE WHEN state IN ('queued', 'predicted', 'done') THEN state ELSE 'failed' END"
"""A state that this program does not know counts as failed, so that ``status`` shows it and ``retry`` mends it."""
SETTLE = """
UPDATE jobs SET changed = ?, state = CASE
    WHEN EXISTS (SELECT 1 FROM deliveries AS each WHERE job = number AND each.state = 'waiting') THEN 'predicted'
    WHEN EXISTS (SELECT 1 FROM deliveries AS each WHERE job = number AND each.state = 'failed') THEN 'failed'
    ELSE 'done' END,
    reason = coalesce(
        (SELECT min(each.reason) FROM deliveries AS each WHERE job = number AND each.state = 'failed'), '')
WHERE state IN ('predicted', 'failed') AND EXISTS (SELECT 1 FROM deliveries WHERE job = number)
"""
"""A radiograph is done once every destination has its results, and failed once nothing is tried any more."""


RETRY_DELIVERIES = """
UPDATE deliveries SET state = 'waiting', attempts = 0, refusals = 0, not_before = 0, changed = ?
WHERE job = ? AND state = 'failed'
"""
_DELIVERY = """
SELECT deliveries.state AS progress, destination, deliveries.attempts AS sent_attempts,
    deliveries.refusals AS sent_refusals, deliveries.reason AS sent_reason, jobs.*
FROM deliveries JOIN jobs ON number = job
"""
NEXT_DELIVERY = f"""{_DELIVERY}
WHERE destination = ? AND deliveries.state = 'waiting' AND deliveries.not_before <= ? AND jobs.state = 'predicted'
ORDER BY deliveries.not_before, job LIMIT 1
"""
OWE = """
INSERT OR IGNORE INTO deliveries (job, destination, state, reason)
SELECT number, ?, CASE state WHEN 'failed' THEN 'failed' ELSE 'waiting' END, reason FROM jobs
WHERE (state = 'predicted' OR (state = 'failed' AND findings IS NOT NULL))
"""
"""A start owes each destination what is predicted and not delivered everywhere, also in queues of earlier versions."""


class Progress(str, Enum):
    """Progress of a delivery."""

    waiting = "waiting"
    delivered = "delivered"
    failed = "failed"


class State(str, Enum):
    """Progress of a radiograph; ``predicted`` while a destination waits for its results."""

    queued = "queued"
    predicted = "predicted"
    done = "done"
    failed = "failed"


class QueueDamagedError(CxrError):
    """The database cannot be trusted; the folder still can, and ``repair`` rebuilds the one from the other."""

    def __init__(self, folder: Path, detail: object) -> None:
        super().__init__(
            f"{folder / DATABASE}: the queue's database is damaged ({detail}); stop the node and run "
            f"`tools/dicom_node.py repair --state {shlex.quote(str(folder))}`, which rebuilds it from its files."
        )


@dataclass(frozen=True)
class Job:
    """One radiograph.

    Attributes:
        number: in order of arrival.
        sop_instance_uid: the radiograph.
        file: the stem of its files.
        sender: who sent it, ``AE@host``.
        received: seconds since 1970.
        state: how far it is.
        not_before: seconds since 1970 before which nothing is tried.
        attempts: how often prediction has failed in a row.
        refusals: kept by earlier versions, which had one destination.
        unfinished: how often prediction was begun and the process died.
        findings: how many were reported; None before.
        reason: why the last attempt failed.
        content_sha256: of the radiograph's file; empty where an earlier version or a lost database forgot it.
        identity: see :func:`cxr_mmdet.dicom.identity.identify`; empty before it was predicted.
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
    content_sha256: str = ""
    identity: str = ""


@dataclass(frozen=True)
class Delivery:
    """The results of one radiograph on their way to one destination.

    Attributes:
        job: the radiograph.
        destination: name of the destination.
        attempts: how often sending has failed in a row.
        refusals: how often the destination said no, rather than nothing.
        reason: why the last attempt failed.
    """

    job: Job
    destination: str
    attempts: int
    refusals: int
    reason: str


@contextlib.contextmanager
def open_queue(folder: Path) -> Iterator[sqlite3.Connection]:
    """Yield the database of a node that may be running, to look or to :func:`retry_failed`.

    Raises:
        UsageError: there is none.
        QueueDamagedError: it cannot be read.
        DiskError: it cannot be opened.
    """
    path = folder / DATABASE
    with explained(folder):
        if not path.is_file():
            if any((folder / part).is_dir() for part in (IMAGES, RESULTS)):
                raise QueueDamagedError(folder, "it is missing")
            raise UsageError(f"{folder}: is not the folder of a DICOM node; give the --state of the node.")
        with contextlib.closing(connect(path, create=False)) as connection:
            if not _has_table(connection, "jobs"):
                raise QueueDamagedError(folder, "it is empty")
            yield connection


def count_states(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many radiographs are in each state."""
    counts = dict(connection.execute(f"SELECT {_KNOWN_STATE} AS known, count(*) FROM jobs GROUP BY known").fetchall())
    return {state.value: counts.get(state.value, 0) for state in State}


def list_jobs(connection: sqlite3.Connection, state: State) -> list[Job]:
    """Return the radiographs in a state, in order of arrival."""
    column = _KNOWN_STATE if state is State.failed else "state"
    rows = connection.execute(f"SELECT * FROM jobs WHERE {column} = ? ORDER BY number", (state.value,))
    return [as_job(row) for row in rows]


def count_deliveries(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Return how many deliveries of each progress every destination has that has any."""
    counts: dict[str, dict[str, int]] = {}
    if _has_table(connection, "deliveries"):  # a queue of an earlier version that no node has opened yet
        for name, progress, count in connection.execute(
            "SELECT destination, state, count(*) FROM deliveries GROUP BY destination, state ORDER BY destination"
        ):
            counts.setdefault(name, dict.fromkeys((each.value for each in Progress), 0))[progress] = count
    return counts


@dataclass(frozen=True)
class QueueSummary:
    """State of a queue.

    Attributes:
        counts: radiographs by state.
        oldest: seconds since 1970 at which the oldest of those that are queued or predicted was received, by state.
        deliveries: see :func:`count_deliveries`.
    """

    counts: dict[str, int]
    oldest: dict[str, float]
    deliveries: dict[str, dict[str, int]]


def summarise(connection: sqlite3.Connection) -> QueueSummary:
    """Return the state of a queue."""
    oldest = connection.execute(
        "SELECT state, min(received) FROM jobs WHERE state IN ('queued', 'predicted') GROUP BY state"
    )
    return QueueSummary(count_states(connection), dict(oldest.fetchall()), count_deliveries(connection))


def list_undelivered(connection: sqlite3.Connection) -> list[tuple[str, Delivery]]:
    """Return the deliveries that failed or wait after a failure, each after its state, in order of arrival."""
    if not _has_table(connection, "deliveries"):
        return []
    rows = connection.execute(
        f"{_DELIVERY} WHERE deliveries.reason != '' AND deliveries.state != 'delivered' ORDER BY number, destination"
    )
    names = {Progress.waiting.value: State.predicted.value}
    return [(names.get(row["progress"], row["progress"]), as_delivery(row)) for row in rows]


def retry_failed(folder: Path, connection: sqlite3.Connection) -> int:
    """Queue again what failed, at the step where it did, and return how many; a running node picks them up.

    What has no files left stays failed: only its sender can send it again.
    """
    count, now = 0, time.time()
    has_deliveries = _has_table(connection, "deliveries")
    undelivered = " OR number IN (SELECT job FROM deliveries WHERE state = 'failed')" if has_deliveries else ""
    with connection:
        failed = connection.execute(f"SELECT * FROM jobs WHERE {_KNOWN_STATE} = 'failed'{undelivered}").fetchall()
        for job in map(as_job, failed):
            if (folder / IMAGES / f"{job.file}.dcm").is_file():
                state = State.queued
            elif any((folder / RESULTS).glob(f"{job.file}-*.dcm")):
                state = State.predicted
            else:
                continue
            connection.execute(
                "UPDATE jobs SET state = ?, attempts = 0, refusals = 0, unfinished = 0, not_before = 0, changed = ?"
                " WHERE number = ?",
                (state.value, now, job.number),
            )
            if has_deliveries:
                connection.execute(RETRY_DELIVERIES, (now, job.number))
            count += 1
    return count


def forget_destination(connection: sqlite3.Connection, name: str) -> int:
    """Stop waiting for a destination that exists no more, and return how many deliveries to it are dropped."""
    if not _has_table(connection, "deliveries"):
        return 0
    with connection:
        dropped = connection.execute("DELETE FROM deliveries WHERE destination = ? AND state != 'delivered'", (name,))
        if dropped.rowcount:
            connection.execute(SETTLE, (time.time(),))
    return int(dropped.rowcount)


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the disk and the database raise into a sentence.

    Raises:
        QueueDamagedError: the database cannot be trusted.
        DiskError: the folder cannot be used.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise (QueueDamagedError(folder, error) if is_damage(error) else unusable(folder, error)) from None


def is_damage(error: Exception) -> bool:
    """Return whether SQLite does not understand its file; it reports locks and full disks as operational errors."""
    if isinstance(error, sqlite3.OperationalError):
        return "no such" in str(error) or "malformed" in str(error)
    return type(error) is sqlite3.DatabaseError


def connect(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """Open a database; with ``create`` make or convert it where needed and check it from end to end."""
    if create:
        # The files that SQLite adds beside the database take its permissions.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        if path.stat().st_uid == os.geteuid():
            path.chmod(0o600)
    connection = sqlite3.connect(path, check_same_thread=False, timeout=30)
    try:
        _set_up(connection, path, create=create)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    connection.row_factory = sqlite3.Row
    # In WAL mode only FULL syncs at each commit: without it a power cut could take back what was accepted.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise UsageError(f"{path}: was written by a later version of this program; install that one.")
    if not create:
        return
    connection.execute("PRAGMA journal_mode = WAL")
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise QueueDamagedError(path.parent, " ".join(verdict.split()))
    if version < SCHEMA_VERSION:
        connection.executescript(_SCHEMA)
        columns = {row["name"] for row in connection.execute("PRAGMA table_info(jobs)")}
        for column in _SINCE_VERSION_2:
            if column not in columns:
                connection.execute(f"ALTER TABLE jobs ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def as_job(row: sqlite3.Row) -> Job:
    """Return a row as a job; one whose state is not known counts as failed."""
    values = {name: row[name] for name in row.keys() if name in Job.__dataclass_fields__}  # noqa: SIM118 (a Row iterates its values)
    known = row["state"] in {state.value for state in State}
    state = State(row["state"]) if known else State.failed
    reason = row["reason"] if known else f"the database holds an unknown state, {row['state']!r}"
    return Job(**(values | {"state": state, "reason": reason}))


def as_delivery(row: sqlite3.Row) -> Delivery:
    """Return a row of :data:`NEXT_DELIVERY` as a delivery."""
    return Delivery(as_job(row), row["destination"], row["sent_attempts"], row["sent_refusals"], row["sent_reason"])


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None
