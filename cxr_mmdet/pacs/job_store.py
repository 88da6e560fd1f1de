"""Queue of a DICOM node: accepted radiographs and their progress, on a disk that survives a kill at any point.

A folder holds ``queue.sqlite`` (one row per radiograph, kept for good: it recognises duplicates), ``images`` (until
they are predicted) and ``results`` (until every destination has them). The order of writing makes it safe: a file is
on the disk before the row that speaks of it, and a row has moved on before its files are removed. A start compares both
(:mod:`cxr_mmdet.pacs.job_recovery`): a file without a row goes back into the queue, one that is not understood into
``quarantine``; nothing that was acknowledged is removed before its results are delivered.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

from cxr_mmdet.dicom.identity import are_one_radiograph, hash_content, identify_content
from cxr_mmdet.errors import CxrError
from cxr_mmdet.files import write_durably
from cxr_mmdet.pacs.job_database import (
    NEXT_DELIVERY,
    OWE,
    RETRY_DELIVERIES,
    SETTLE,
    Delivery,
    Job,
    QueueDamagedError,
    QueueSummary,
    State,
    as_delivery,
    as_job,
    connect,
    explained,
    is_damage,
    summarise,
)
from cxr_mmdet.pacs.job_folder import (
    DATABASE,
    IMAGES,
    RESULTS,
    DiskError,
    Reserve,
    file_stem,
    lock_folder,
    mark_name,
    set_aside,
    tidy,
)
from cxr_mmdet.pacs.operation import AuditLog

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger("cxr_mmdet.node")

LONGEST_DELAY_S = 300.0
"""Longest time between two attempts; also the longest that a start believes of the last run's clock."""


class OtherContentError(CxrError):
    """A SOP Instance UID that belongs to another radiograph."""


class JobStore:
    """The folder of one running node; safe to use from several threads.

    Delays go by the monotonic clock: a clock that is set back makes nothing wait.

    Args:
        folder: the folder of the queue.
        destinations: names of the destinations that are owed results.
        audit: where each radiograph's way is written down; None: nowhere.

    Raises:
        UsageError: another node uses the folder, or a later version wrote it.
        QueueDamagedError: the database cannot be read.
        DiskError: the folder cannot be written.
    """

    def __init__(self, folder: Path, destinations: Sequence[str], audit: AuditLog | None = None) -> None:
        from cxr_mmdet.pacs.job_recovery import reconcile

        self.folder = folder
        self.audit = audit or AuditLog(None)
        self._destinations = tuple(destinations)
        self._confirmed: set[tuple[int, str]] = set()
        self._reserve = Reserve(folder)
        self._accepting = threading.Lock()
        self._database = threading.Lock()
        self._started = time.time() - time.monotonic()
        with contextlib.ExitStack() as on_error:
            on_error.enter_context(lock_folder(folder))
            with explained(folder):
                # On a full disk SQLite cannot even make the files that it keeps beside the database.
                self._connection = self._reserve.use_for(lambda: connect(folder / DATABASE))
                on_error.callback(self._connection.close)
                self._reserve.use_for(lambda: reconcile(folder, self._connection))
                latest = self._now() + LONGEST_DELAY_S
                self._note(
                    *((OWE, name) for name in self._destinations),
                    ("UPDATE jobs SET not_before = ? WHERE not_before > ?", latest, latest),
                    ("UPDATE deliveries SET not_before = ? WHERE not_before > ?", latest, latest),
                )
                self._warn_of_others()
            self._open = on_error.pop_all()
        with contextlib.suppress(OSError):
            self._reserve.restore()

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
            DiskError: it is not in the queue, or that it is cannot be written down.
        """
        is_new = self._accept(sop_instance_uid, content, sender)
        if not self.audit.write("received", sop_instance_uid=sop_instance_uid, sender=sender, is_new=is_new):
            raise DiskError(f"{self.folder}: {self.audit.problem}.")
        return is_new

    def _accept(self, sop_instance_uid: str, content: bytes, sender: str) -> bool:
        with self._accepting:
            known: Job | None = None
            try:
                known = self._one("SELECT * FROM jobs WHERE sop_instance_uid = ?", sop_instance_uid)
                if known is not None and not self._is_to_be_taken_again(known, content):
                    return False
                if known is not None and known.state is State.failed and self.result_files(known):
                    self._retry_deliveries(known)
                    return True
                name, now = file_stem(sop_instance_uid), time.time()
                self._reserve.restore()
                write_durably(self._image(name), content)
                self._run(
                    (
                        "INSERT INTO jobs (sop_instance_uid, file, sender, received, state, changed, content_sha256)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sop_instance_uid) DO UPDATE SET"
                        " file = excluded.file, sender = excluded.sender, received = excluded.received,"
                        " state = excluded.state, changed = excluded.changed, content_sha256 = excluded.content_sha256,"
                        " identity = '', findings = NULL, not_before = 0, attempts = 0, refusals = 0, unfinished = 0,"
                        " reason = ''",
                        *(sop_instance_uid, name, sender, now, State.queued.value, now, hash_content(content)),
                    ),
                    ("DELETE FROM deliveries WHERE job = ?", -1 if known is None else known.number),
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
            present = identify_content(kept)
        if not present:
            return False if known.content_sha256 and known.state is not State.failed else None
        new = identify_content(content)
        return bool(new) and are_one_radiograph(present, new)

    def _retry_deliveries(self, job: Job) -> None:
        """Send results again that a destination did not take; those that have them are left in peace."""
        now = time.time()
        self._run((RETRY_DELIVERIES, now, job.number), (f"{SETTLE} AND number = ?", now, job.number))

    def next_queued(self, besides: Collection[int] = ()) -> Job | None:
        """Return the queued job that has waited longest and may be tried now, but for those ``besides``."""
        excluded = ", ".join("?" * len(besides))
        return self._one(
            f"SELECT * FROM jobs WHERE state = 'queued' AND not_before <= ? AND number NOT IN ({excluded})"
            " ORDER BY not_before, number LIMIT 1",
            *(self._now(), *besides),
        )

    def is_known(self, sop_instance_uid: str) -> bool:
        """Return whether a radiograph is, or was, in the queue."""
        return self._one("SELECT * FROM jobs WHERE sop_instance_uid = ?", sop_instance_uid) is not None

    def count_queued(self) -> int:
        """Return how many radiographs wait for prediction."""
        with self._database:
            (count,) = self._connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()
        return int(count)

    def next_delivery(self, destination: str) -> Delivery | None:
        """Return the delivery to this destination that has waited longest and may be tried now."""
        with self._database:
            row = self._connection.execute(NEXT_DELIVERY, (destination, self._now())).fetchone()
        return None if row is None else as_delivery(row)

    def summary(self) -> QueueSummary:
        """Return how much is in which state."""
        with self._database:
            return summarise(self._connection)

    def check_writable(self) -> None:
        """Try the disk.

        Raises:
            DiskError, QueueDamagedError: nothing can be accepted.
        """
        with explained(self.folder):
            self._reserve.restore()
            probe = self.folder / "probe"
            write_durably(probe, b"1")
            probe.unlink()
            self._run(("BEGIN IMMEDIATE",))
        self._reserve.check_room()

    def read_image(self, job: Job) -> bytes:
        """Return the radiograph as it was sent, as a DICOM file."""
        return self._image(job.file).read_bytes()

    def result_files(self, job: Job) -> list[Path]:
        """Return what is to be sent, in order."""
        return sorted((self.folder / RESULTS).glob(f"{job.file}-*.dcm"))

    def begin(self, job: Job) -> None:
        """Note that a step begins, so that a radiograph that kills the process is recognised after the next start."""
        self._run(("UPDATE jobs SET unfinished = unfinished + 1 WHERE number = ?", job.number))

    def abandon(self, number: int) -> None:
        """Note that a step was begun and is left unfinished on purpose."""
        self._note(
            ("UPDATE jobs SET unfinished = max(unfinished - 1, 0) WHERE number = ? AND state = 'queued'", number)
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
                self._reserve.use_for(functools.partial(write_durably, path, content))
            self._note(
                (
                    "UPDATE jobs SET state = 'predicted', attempts = 0, unfinished = 0, reason = '', not_before = 0,"
                    " changed = ?, findings = ?, identity = ? WHERE number = ?",
                    *(time.time(), findings, identity, job.number),
                ),
                *((f"{OWE} AND number = ?", name, job.number) for name in self._destinations),
            )
        except (OSError, sqlite3.Error):
            tidy(*self.result_files(job))
            raise
        tidy(self._image(job.file))

    def delivered(self, delivery: Delivery) -> None:
        """Note that the destination has the results, and remove them once no other waits for them.

        Raises:
            sqlite3.Error: the database has no room for the note. A mark in the folder stands for it, in place of the
                results where no other destination waits for them, and another call writes it.
        """
        job, now = delivery.job, time.time()
        results = self.result_files(job)
        try:
            self._note(
                (
                    "UPDATE deliveries SET state = 'delivered', attempts = 0, refusals = 0, reason = '', changed = ?"
                    " WHERE job = ? AND destination = ?",
                    *(now, job.number, delivery.destination),
                ),
                (f"{SETTLE} AND number = ?", now, job.number),
            )
        except sqlite3.Error:
            self._confirmed.add((job.number, delivery.destination))
            self._mark(delivery, results)
            raise
        self._confirmed.discard((job.number, delivery.destination))
        settled = self._one("SELECT * FROM jobs WHERE number = ?", job.number)
        if settled is not None and settled.state is State.done:
            tidy(*reversed(results))  # the report last: it names the radiograph
        tidy(self._mark_of(delivery))
        with contextlib.suppress(OSError):
            self._reserve.restore()

    def is_delivered(self, delivery: Delivery) -> bool:
        """Return whether only the note is missing that the destination has the results."""
        is_confirmed = (delivery.job.number, delivery.destination) in self._confirmed
        return is_confirmed or self._mark_of(delivery).is_file()

    def postpone(self, step: Job | Delivery, reason: str, delay_s: float, *, refused: bool = False) -> None:
        """Try again later."""
        table, key = _row_of(step)
        self._note(
            (
                f"UPDATE {table} SET attempts = attempts + 1, refusals = refusals + ?, reason = ?, not_before = ?,"
                f" changed = ?{', unfinished = 0' if isinstance(step, Job) else ''} WHERE {' AND '.join(key)}",
                *(int(refused), reason, self._now() + delay_s, time.time(), *key.values()),
            )
        )

    def fail(self, step: Job | Delivery, reason: str) -> None:
        """Give up on it; its files stay, for :func:`retry_failed`."""
        table, key = _row_of(step)
        now, number = time.time(), (step if isinstance(step, Job) else step.job).number
        self._note(
            (
                f"UPDATE {table} SET state = 'failed', reason = ?, changed = ? WHERE {' AND '.join(key)}",
                *(reason, now, *key.values()),
            ),
            ("UPDATE jobs SET unfinished = 0 WHERE number = ?", number),
            (f"{SETTLE} AND number = ?", now, number),
        )

    def hurry(self, destination: str, reason: str) -> None:
        """Let what waits for this reason be sent to the destination now, but for what it refused."""
        self._note(
            (
                "UPDATE deliveries SET not_before = 0 WHERE destination = ? AND state = 'waiting' AND not_before > 0"
                " AND reason = ? AND refusals = 0",
                *(destination, reason),
            )
        )

    def explain(self, error: OSError | sqlite3.Error) -> str:
        """Return what went wrong, and how to go on from a damaged database."""
        return str(QueueDamagedError(self.folder, error)) if is_damage(error) else str(error)

    def _image(self, name: str) -> Path:
        return self.folder / IMAGES / f"{name}.dcm"

    def _mark(self, delivery: Delivery, results: Sequence[Path]) -> None:
        mark = self._mark_of(delivery)
        waiting = self._one(
            "SELECT * FROM jobs WHERE number = ? AND EXISTS"
            " (SELECT 1 FROM deliveries AS each WHERE job = number AND destination != ? AND each.state != 'delivered')",
            *(delivery.job.number, delivery.destination),
        )
        if waiting is not None:
            with contextlib.suppress(OSError):
                write_durably(mark, b"")
        elif results:
            # Neither takes room, as a new file would.
            os.replace(results[0], mark)
            os.truncate(mark, 0)
            tidy(*results[1:])

    def _mark_of(self, delivery: Delivery) -> Path:
        return self.folder / RESULTS / mark_name(delivery.job.file, delivery.destination)

    def _warn_of_others(self) -> None:
        """Log which destinations results wait for that are not configured any more; they are kept."""
        rows = self._connection.execute(
            "SELECT destination, count(*) FROM deliveries WHERE state = 'waiting' GROUP BY destination"
        )
        for name, count in rows:
            if name not in self._destinations:
                log.warning(
                    "%s: the results of %d radiographs wait for the destination %s, which is not configured; configure"
                    " it, or drop them by `dicom_node forget %s`",
                    *(self.folder, count, name, name),
                )

    def _now(self) -> float:
        """Return the time as it was at the start plus what has passed since, whatever is done to the clock."""
        return self._started + time.monotonic()

    def _note(self, *statements: tuple[Any, ...]) -> None:
        """Write how far a radiograph is, if need be into the room of the reserve."""
        self._reserve.use_for(lambda: self._run(*statements))

    def _run(self, *statements: tuple[Any, ...]) -> None:
        """Execute statements, each with its values, in one transaction."""
        with self._database, self._connection:
            for statement, *values in statements:
                self._connection.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Job | None:
        with self._database:
            row = self._connection.execute(statement, values).fetchone()
        return None if row is None else as_job(row)


def _row_of(step: Job | Delivery) -> tuple[str, dict[str, Any]]:
    """Return the table and the conditions, with their values, that name a step's row."""
    if isinstance(step, Job):
        return "jobs", {"number = ?": step.number}
    return "deliveries", {"job = ?": step.job.number, "destination = ?": step.destination}
