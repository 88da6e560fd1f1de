"""What a DICOM node has accepted and how far each radiograph is, on a disk that survives being killed at any point.

A folder holds ``queue.sqlite`` (one row per radiograph, kept for good: it recognises duplicates), ``images`` (until
they are predicted) and ``results`` (until they are sent). The order of writing makes it safe: a file is on the disk
before the row that speaks of it, and a row has moved on before its files are removed. A start compares both
(:mod:`cxr_mmdet.pacs.job_recovery`): a file without a row goes back into the queue, one that is not understood into
``quarantine``; nothing that was acknowledged is removed before its results are delivered.

``reserve`` keeps some room on the disk. A full disk refuses new radiographs while the reserve lets those that were
accepted move on and be removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import logging
import os
import shlex
import sqlite3
import threading
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from cxr_mmdet.dicom.identity import hash_content, hash_pixels
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.source import parse_dataset
from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.files import sync_folder, write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

    from pydicom import Dataset

    from cxr_mmdet.dicom.radiograph import Radiograph

log = logging.getLogger("cxr_mmdet.node")

Made = TypeVar("Made")

DATABASE, IMAGES, RESULTS, LOCK = "queue.sqlite", "images", "results", "node.lock"
QUARANTINE, RESERVE = "quarantine", "reserve"
SCHEMA_VERSION = 2
LONGEST_DELAY_S = 300.0
"""Longest time between two attempts; also the longest that a start believes of the last run's clock."""
MIN_RESERVE_BYTES, MAX_RESERVE_BYTES = 128 << 10, 16 << 20
"""The reserve is an eighth of the disk between these; 16 MiB hold one radiograph's results, also uncompressed."""
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
"""
_SINCE_VERSION_2 = ("content_sha256", "identity")
_KNOWN_STATE = "CASE WHEN state IN ('queued', 'predicted', 'done') THEN state ELSE 'failed' END"
"""A state that this program does not know counts as failed, so that ``status`` shows it and ``retry`` mends it."""


_COMPARABLE = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian})
"""Transfer syntaxes in which equal pixels are stored as equal bytes."""


class State(str, Enum):
    """How far a radiograph is."""

    queued = "queued"
    predicted = "predicted"
    done = "done"
    failed = "failed"


class DiskError(CxrError):
    """The disk did not take it: full, read-only or gone."""


class QueueDamagedError(CxrError):
    """The database cannot be trusted; the folder still can, and ``repair`` rebuilds the one from the other."""

    def __init__(self, folder: Path, detail: object) -> None:
        super().__init__(
            f"{folder / DATABASE}: the queue's database is damaged ({detail}); stop the node and run "
            f"`tools/dicom_node.py repair --state {shlex.quote(str(folder))}`, which rebuilds it from its files."
        )


class OtherContentError(CxrError):
    """A SOP Instance UID that belongs to another radiograph."""


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
        content_sha256: of the radiograph's file; empty where an earlier version or a lost database forgot it.
        identity: see :func:`identify`; empty before it was predicted.
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


def file_stem(sop_instance_uid: str) -> str:
    """Return the stem of a radiograph's files, which no UID, however hostile, turns into a path."""
    return hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:32]


def identify(dataset: Dataset, radiograph: Radiograph) -> str:
    """Return two hashes of the patient and the pixels, as they are stored and as they are shown.

    Stored ones are comparable between uncompressed files only, and there they are exact; shown ones outlive a change of
    the compression. The first is ``-`` for a compressed file.
    """
    patient = [
        str(dataset.get(keyword, "")).strip(" ^") for keyword in ("PatientID", "PatientName", "PatientBirthDate")
    ]
    shown = hash_content(repr((*patient, hash_pixels(radiograph.pixels))).encode())
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax not in _COMPARABLE or "PixelData" not in dataset:
        return f"- {shown}"
    layout = [str(dataset.get(keyword, "")) for keyword in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation")]
    return f"{hash_content(repr((*patient, *layout, hash_content(dataset.PixelData))).encode())} {shown}"


def _are_one(identity: str, other: str) -> bool:
    """Return whether two identities are those of one radiograph."""
    (stored, shown), (other_stored, other_shown) = identity.split(), other.split()
    return shown == other_shown if "-" in (stored, other_stored) else stored == other_stored


class JobStore:
    """The folder of one running node; safe to use from several threads.

    Delays go by the monotonic clock: a clock that is set back makes nothing wait.

    Raises:
        UsageError: another node uses the folder, or a later version wrote it.
        QueueDamagedError: the database cannot be read.
        DiskError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from cxr_mmdet.pacs.job_recovery import reconcile

        self.folder = folder
        self._accepting = threading.Lock()
        self._database = threading.Lock()
        self._started = time.time() - time.monotonic()
        with contextlib.ExitStack() as on_error:
            on_error.enter_context(lock_folder(folder))
            with explained(folder):
                # On a full disk SQLite cannot even make the files that it keeps beside the database.
                self._connection = self._with_reserve(lambda: connect(folder / DATABASE))
                on_error.callback(self._connection.close)
                self._with_reserve(lambda: reconcile(folder, self._connection))
                latest = self._now() + LONGEST_DELAY_S
                self._note("UPDATE jobs SET not_before = ? WHERE not_before > ?", latest, latest)
            self._open = on_error.pop_all()
        with contextlib.suppress(OSError):
            self._restore_reserve()

    def close(self) -> None:
        """Let another node use the folder."""
        with self._database:
            self._open.close()

    def accept(self, sop_instance_uid: str, content: bytes, sender: str) -> bool:
        """Put a radiograph into the queue; when this returns, no kill and no power cut loses it.

        Returns:
            Whether it is new; one that failed is queued again, any other known one is left as it is.

        Raises:
            OtherContentError: the UID belongs to a radiograph of other pixels or of another patient.
            DiskError: it is not in the queue.
        """
        with self._accepting:
            known: Job | None = None
            try:
                known = self._one("SELECT * FROM jobs WHERE sop_instance_uid = ?", sop_instance_uid)
                if known is not None and not self._is_to_be_taken_again(known, content):
                    return False
                name, now = file_stem(sop_instance_uid), time.time()
                self._restore_reserve()
                write_durably(self._image(name), content)
                self._run(
                    "INSERT INTO jobs (sop_instance_uid, file, sender, received, state, changed, content_sha256)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sop_instance_uid) DO UPDATE SET file = excluded.file,"
                    " sender = excluded.sender, received = excluded.received, state = excluded.state,"
                    " changed = excluded.changed, content_sha256 = excluded.content_sha256, identity = '',"
                    " not_before = 0, attempts = 0, refusals = 0, unfinished = 0, reason = ''",
                    *(sop_instance_uid, name, sender, now, State.queued.value, now, hash_content(content)),
                )
            except (OSError, sqlite3.Error) as error:
                if known is None:
                    tidy(self._image(file_stem(sop_instance_uid)))
                raise DiskError(f"{self.folder}: cannot take another radiograph ({self.explain(error)}).") from None
        return True

    def _is_to_be_taken_again(self, known: Job, content: bytes) -> bool:
        """Return whether a radiograph whose UID is known goes into the queue once more.

        Raises:
            OtherContentError: the UID belongs to another one.
        """
        image = self._image(known.file)
        waits_for_prediction = known.state in (State.queued, State.failed) and image.is_file()
        is_same = self._is_same(known, content, image if waits_for_prediction else None)
        if known.state is State.failed and waits_for_prediction and is_same is None:
            # Nothing can be read from what is there: the sender mends it. What was acknowledged is set aside all the
            # same, not removed.
            set_aside(self.folder, image, "a readable radiograph with its SOP Instance UID replaces it")
            return True
        if is_same is None and self.result_files(known):
            raise OSError(
                errno.EBUSY, "what is known of this SOP Instance UID is being delivered; send it again afterwards"
            )
        if is_same is False:
            raise OtherContentError(
                f"{known.sop_instance_uid}: belongs to a radiograph of {known.sender} with other pixels or another "
                "patient, which is kept; give this one a UID of its own."
            )
        # A row of a lost or older database does not know its content: predicting twice is better than losing one.
        return is_same is None or known.state is State.failed or (known.state is State.queued and not image.is_file())

    def _is_same(self, known: Job, content: bytes, image: Path | None) -> bool | None:
        """Return whether content is that of a known radiograph; None where nothing is left to compare with."""
        if known.content_sha256 and known.content_sha256 == hash_content(content):
            return True
        present = known.identity
        if image is not None:
            kept = image.read_bytes()
            if kept == content:
                return True
            present = _identity_of(kept)
        if not present:
            return False if known.content_sha256 and known.state is not State.failed else None
        new = _identity_of(content)
        return bool(new) and _are_one(present, new)

    def next(self, state: State, besides: Collection[int] = ()) -> Job | None:
        """Return the job in this state that has waited longest and may be tried now, but for those ``besides``."""
        excluded = ", ".join("?" * len(besides))
        return self._one(
            f"SELECT * FROM jobs WHERE state = ? AND not_before <= ? AND number NOT IN ({excluded})"
            " ORDER BY not_before, number LIMIT 1",
            *(state.value, self._now(), *besides),
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

    def abandon(self, number: int) -> None:
        """Note that a step was begun and is left unfinished on purpose."""
        self._note(
            "UPDATE jobs SET unfinished = max(unfinished - 1, 0) WHERE number = ? AND state = ?",
            *(number, State.queued.value),
        )

    def predicted(self, job: Job, results: Mapping[str, bytes], findings: int, identity: str = "") -> None:
        """Keep the results, by a name each, and move on to sending.

        Raises:
            OSError, sqlite3.Error: the disk is full; nothing of the results is left, so that there is room to say so.
        """
        for path in self.result_files(job):
            path.unlink()
        try:
            for name, content in results.items():
                path = self.folder / RESULTS / f"{job.file}-{name}.dcm"
                self._with_reserve(functools.partial(write_durably, path, content))
            self._move(job, State.predicted, findings=findings, identity=identity)
        except (OSError, sqlite3.Error):
            tidy(*self.result_files(job))
            raise
        tidy(self._image(job.file))

    def sent(self, job: Job) -> None:
        """Note that the destination has the results, and remove them.

        Raises:
            sqlite3.Error: the database has no room for the note. The results are removed, a mark in the folder stands
                for the note, and another call writes it.
        """
        results = self.result_files(job)
        try:
            self._move(job, State.done)
        except sqlite3.Error:
            if results:
                # Neither takes room, as a new file would.
                os.replace(results[0], self._mark_delivered(job))
                os.truncate(self._mark_delivered(job), 0)
            tidy(*results[1:])
            raise
        tidy(*reversed(results), self._mark_delivered(job))  # the report last: it names the radiograph
        with contextlib.suppress(OSError):
            self._restore_reserve()

    def is_delivered(self, job: Job) -> bool:
        """Return whether only the note is missing that the destination has the results."""
        return self._mark_delivered(job).is_file()

    def postpone(self, job: Job, reason: str, delay_s: float, *, refused: bool = False) -> None:
        """Try again later."""
        self._note(
            "UPDATE jobs SET attempts = attempts + 1, refusals = refusals + ?, unfinished = 0, reason = ?,"
            " not_before = ?, changed = ? WHERE number = ?",
            *(int(refused), reason, self._now() + delay_s, time.time(), job.number),
        )

    def fail(self, job: Job, reason: str) -> None:
        """Give up on it; its files stay, for :func:`retry_failed`."""
        self._note(
            "UPDATE jobs SET state = ?, unfinished = 0, reason = ?, changed = ? WHERE number = ?",
            *(State.failed.value, reason, time.time(), job.number),
        )

    def hurry(self, state: State, reason: str) -> None:
        """Let every job in this state that waits for this reason be tried now, but for those that were refused."""
        self._note(
            "UPDATE jobs SET not_before = 0 WHERE state = ? AND not_before > 0 AND reason = ? AND refusals = 0",
            *(state.value, reason),
        )

    def explain(self, error: OSError | sqlite3.Error) -> str:
        """Return what went wrong, and how to go on from a damaged database."""
        return str(QueueDamagedError(self.folder, error)) if is_damage(error) else str(error)

    def _move(self, job: Job, state: State, findings: int | None = None, identity: str = "") -> None:
        self._note(
            "UPDATE jobs SET state = ?, attempts = 0, refusals = 0, unfinished = 0, reason = '', not_before = 0,"
            " changed = ?, findings = coalesce(?, findings), identity = coalesce(nullif(?, ''), identity)"
            " WHERE number = ?",
            *(state.value, time.time(), findings, identity, job.number),
        )

    def _image(self, name: str) -> Path:
        return self.folder / IMAGES / f"{name}.dcm"

    def _mark_delivered(self, job: Job) -> Path:
        return self.folder / RESULTS / f"{job.file}.delivered"

    def _now(self) -> float:
        """Return the time as it was at the start plus what has passed since, whatever is done to the clock."""
        return self._started + time.monotonic()

    def _note(self, statement: str, *values: Any) -> None:
        """Write how far a radiograph is, if need be into the room of the reserve."""
        self._with_reserve(lambda: self._run(statement, *values))

    def _with_reserve(self, step: Callable[[], Made]) -> Made:
        """Return what the step makes; where the disk is full, give it the reserve's room and try it once more."""
        try:
            return step()
        except (OSError, sqlite3.OperationalError) as error:
            if not _is_full(error) or not self._release_reserve():
                raise
        return step()

    def _restore_reserve(self) -> None:
        """Take the reserve's room, unless it is taken.

        Raises:
            OSError: the disk is full.
        """
        path = self.folder / RESERVE
        if path.exists():
            return
        disk = os.statvfs(self.folder)
        size = min(max(disk.f_blocks * disk.f_frsize // 8, MIN_RESERVE_BYTES), MAX_RESERVE_BYTES)
        write_durably(path, os.urandom(size))  # which no file system compresses to nothing, as it may do with zeros

    def _release_reserve(self) -> bool:
        """Give the reserve's room back to the disk; return whether there was any."""
        try:
            (self.folder / RESERVE).unlink()
        except OSError:
            return False
        log.warning(
            "%s: the disk is full; its reserve is in use, and nothing is accepted until it is free", self.folder
        )
        return True

    def _run(self, statement: str, *values: Any) -> None:
        with self._database, self._connection:
            self._connection.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Job | None:
        with self._database:
            row = self._connection.execute(statement, values).fetchone()
        return None if row is None else _job(row)


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
            raise UsageError(f"{folder}: is no folder of a DICOM node; give the --state of the node.")
        with contextlib.closing(connect(path, create=False)) as connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is None:
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
    return [_job(row) for row in rows]


def retry_failed(folder: Path, connection: sqlite3.Connection) -> int:
    """Queue again what failed, at the step where it did, and return how many; a running node picks them up.

    What has no files left stays failed: only its sender can send it again.
    """
    count = 0
    with connection:
        for job in list_jobs(connection, State.failed):
            if (folder / IMAGES / f"{job.file}.dcm").is_file():
                state = State.queued
            elif any((folder / RESULTS).glob(f"{job.file}-*.dcm")):
                state = State.predicted
            else:
                continue
            connection.execute(
                "UPDATE jobs SET state = ?, attempts = 0, refusals = 0, unfinished = 0, not_before = 0, changed = ?"
                " WHERE number = ?",
                (state.value, time.time(), job.number),
            )
            count += 1
    return count


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
        raise _unusable(folder, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another DICOM node uses this folder; give each its own --state.") from None
        yield file


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
        raise (QueueDamagedError(folder, error) if is_damage(error) else _unusable(folder, error)) from None


def is_damage(error: Exception) -> bool:
    """Return whether SQLite does not understand its file; it reports locks and full disks as operational errors."""
    if isinstance(error, sqlite3.OperationalError):
        return "no such" in str(error) or "malformed" in str(error)
    return type(error) is sqlite3.DatabaseError


def _is_full(error: Exception) -> bool:
    """Return whether room on the disk may help."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # The last two are what SQLite says when there is no room for the files beside the database.
    return any(words in str(error) for words in ("is full", "disk I/O error", "unable to open"))


def _unusable(folder: Path, error: Exception) -> DiskError:
    return DiskError(
        f"{folder}: cannot be used for the queue ({error}); give a --state folder on a disk that this user can write."
    )


def tidy(*paths: Path) -> None:
    """Remove files that nobody needs any more; what cannot be removed now is by the next start."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _identity_of(content: bytes) -> str:
    """Return what :func:`identify` says of a file; empty where it is no radiograph."""
    try:
        dataset = parse_dataset(content, "the radiograph")
        return identify(dataset, read_radiograph(dataset))
    # Libraries raise whatever a damaged file makes happen; it is then no radiograph to compare with.
    except Exception:
        return ""


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


def _job(row: sqlite3.Row) -> Job:
    values = {name: row[name] for name in row.keys() if name != "changed"}  # noqa: SIM118 (a Row iterates its values)
    known = row["state"] in {state.value for state in State}
    state = State(row["state"]) if known else State.failed
    reason = row["reason"] if known else f"the database holds an unknown state, {row['state']!r}"
    return Job(**(values | {"state": state, "reason": reason}))
