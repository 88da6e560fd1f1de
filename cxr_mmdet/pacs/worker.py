"""The two steps of a DICOM node, in threads that nothing ends but a stop: predict, with a report of it, and send.

Each is a loop over the queue. Several threads predict: while the network looks at one radiograph, others are read and
reported on. At the end of a step its results are on the disk. Each destination has a thread of its own, so that one
that is down delays neither the others nor prediction.
"""

from __future__ import annotations

import datetime
import logging
import sqlite3
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from cxr_mmdet.dicom.identity import identify
from cxr_mmdet.dicom.report import to_bytes
from cxr_mmdet.errors import CxrError, counted
from cxr_mmdet.pacs.job_store import LONGEST_DELAY_S
from cxr_mmdet.pacs.operation import PREDICTIONS, count_failure, timed
from cxr_mmdet.pacs.reporting import describe_findings, predict_content
from cxr_mmdet.pacs.sender import NotDeliveredError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.pacs.job_database import Delivery, Job
    from cxr_mmdet.pacs.job_store import JobStore
    from cxr_mmdet.pacs.reporting import ReportOptions
    from cxr_mmdet.pacs.sender import Destination

log = logging.getLogger("cxr_mmdet.node")

Made = TypeVar("Made")

FIRST_DELAY_S = 1.0
POLL_S = 0.5
"""Interval at which an idle loop looks whether a delay is over."""

MAX_UNFINISHED = 5
"""A radiograph during which the process died so often is given up: something in it kills the process."""
HANGING_S = 120
"""Prediction that takes longer hangs; a stop in the middle of it counts like a crash."""
MAX_ATTEMPTS = 5
"""Attempts at predicting that end in an error of ours."""
MAX_REFUSALS = 10
"""Answers of the destination that it does not want the object; silence is never given up on."""
MAX_BUSY_REFUSALS, MAX_BUSY_ATTEMPTS = 20, 300
"""Answers, over about an hour, that there is no room for one object although there is for others; and attempts, over
about a day, that end in a lack of room for anything."""


def delay_after(attempts: int) -> float:
    """Return the seconds to wait after a number of failures: doubling, up to a limit."""
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(attempts, 20))


class Worker:
    """Predicts and reports in some threads, and sends in one per destination.

    Args:
        store: the queue.
        predictor: the model.
        destinations: where results go.
        options: what is reported.
        workers: radiographs under way at once; each takes its memory.
    """

    def __init__(
        self,
        store: JobStore,
        predictor: Predictor,
        destinations: Sequence[Destination],
        options: ReportOptions,
        *,
        workers: int,
    ) -> None:
        self._store = store
        self._predictor = predictor
        self._options = options
        self._taking = threading.Lock()
        self._begun: dict[int, float] = {}
        self._under_way: set[int] = set()
        self._one_is_done = threading.Condition()
        self._stopping = threading.Event()
        self._has_arrived = threading.Event()
        self._has_results = {destination.name: threading.Event() for destination in destinations}
        self._threads = [
            threading.Thread(target=self._loop, args=(self._has_arrived, self.predict_next), name=f"predict-{number}")
            for number in range(workers)
        ]
        for destination in destinations:
            arguments = (self._has_results[destination.name], Courier(store, destination).deliver_next)
            self._threads.append(threading.Thread(target=self._loop, args=arguments, name=f"send-{destination.name}"))

    def start(self) -> None:
        """Begin with what the queue holds."""
        for thread in self._threads:
            thread.start()

    def is_alive(self) -> bool:
        """Return whether all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def wake(self) -> None:
        """Say that a radiograph has arrived."""
        self._has_arrived.set()

    def stop(self, limit_s: float | None = None) -> None:
        """Finish the steps at hand, then return; the rest stays in the queue.

        Args:
            limit_s: seconds after which predictions under way are abandoned; they do not count as crashes of the
                process, unless they hang. None: wait for them.
        """
        self._stopping.set()
        for event in (self._has_arrived, *self._has_results.values()):
            event.set()
        end = time.monotonic() + (limit_s or 0)
        for thread in self._threads:
            thread.join(None if limit_s is None else max(end - time.monotonic(), 0))
        for number, since in list(self._begun.items()):
            if time.monotonic() - since < HANGING_S:
                self._store.abandon(number)

    def _loop(self, is_woken: threading.Event, step: Callable[[], bool]) -> None:
        while not self._stopping.is_set():
            try:
                if step():
                    continue
            # The disk is full or gone: nothing was noted, so that the job stands where it stood.
            except (OSError, sqlite3.Error) as error:
                log.error("the queue cannot be written (%s); trying again", self._store.explain(error))
                self._stopping.wait(FIRST_DELAY_S)
                continue
            is_woken.wait(POLL_S)
            is_woken.clear()

    def predict_next(self) -> bool:
        """Predict the radiograph that has waited longest and keep its results; return whether one was waiting."""
        with self._taking:
            job = self._store.next_queued(besides=self._all_under_way())
            if job is None or self._stopping.is_set():
                return False
            if job.unfinished:
                # What a process died of is taken alone, so that none beside it is suspected, and given up, with it.
                with self._one_is_done:
                    self._one_is_done.wait_for(lambda: not self._under_way)
                self._predict(job)
                return True
            with self._one_is_done:
                self._under_way.add(job.number)
        try:
            self._predict(job)
        finally:
            # Only after what became of it is in the queue may it be taken from there again.
            with self._one_is_done:
                self._under_way.discard(job.number)
                self._one_is_done.notify_all()
        return True

    def _all_under_way(self) -> tuple[int, ...]:
        with self._one_is_done:
            return tuple(self._under_way)

    def _predict(self, job: Job) -> None:
        """Predict one radiograph and keep the results, or note why not."""
        if job.unfinished >= MAX_UNFINISHED and job.number not in self._begun:
            self._give_up(job, f"the node died {job.unfinished} times while predicting it")
            return
        if job.number not in self._begun:
            self._store.begin(job)
            self._begun[job.number] = time.monotonic()
        try:
            content = self._store.read_image(job)
        except FileNotFoundError:
            self._give_up(job, "its file is gone from the queue's folder")
            return
        # A bad sector or missing rights concern this radiograph; the others go on meanwhile.
        except OSError as error:
            self._postpone(job, f"its file cannot be read ({error})")
            return
        made = self._attempt(job, lambda: self._results(job, content))
        if made is not None:
            self._keep(job, *made)

    def _attempt(self, job: Job, step: Callable[[], Made]) -> Made | None:
        """Return what the step makes; None once it is noted why it makes nothing."""
        try:
            return step()
        except CxrError as error:
            count_failure("predict", error)
            self._give_up(job, str(error))
        # One radiograph must not end the service, whatever it makes the libraries do; the traceback is in the log.
        except Exception as error:
            count_failure("predict", error)
            log.exception("predicting %s failed", job.sop_instance_uid)
            self._postpone(job, type(error).__name__, str(error), give_up=job.attempts + 1 >= MAX_ATTEMPTS)
        return None

    def _results(self, job: Job, content: bytes) -> tuple[dict[str, bytes], dict[str, Any], str]:
        """Return the files to send, by name, the facts of the prediction, and what identifies the radiograph."""
        prediction = predict_content(self._predictor, content, job.sop_instance_uid, self._options)
        # The time of arrival, so that predicting again after a kill makes the same bytes.
        created = datetime.datetime.fromtimestamp(job.received)
        with timed("report"):
            reports = describe_findings(prediction, self._options, created)
            results = {"1-report": reports.report, "2-capture": reports.capture, "3-presentation": reports.presentation}
            made = {name: dataset for name, dataset in results.items() if dataset is not None}
            encoded = {name: to_bytes(dataset) for name, dataset in made.items()}
            identity = identify(prediction.dataset, prediction.radiograph)
        facts = {
            "model": reports.findings.model_id,
            "score_threshold": self._options.score_threshold,
            "class_thresholds": dict(self._options.class_thresholds),
            "findings": Counter(finding.class_name for finding in reports.findings),
            "results": [str(dataset.SOPInstanceUID) for dataset in made.values()],
        }
        return encoded, facts, identity

    def _keep(self, job: Job, results: dict[str, bytes], facts: dict[str, Any], identity: str) -> None:
        findings = facts["findings"].total()
        self._store.audit.write("predicted", sop_instance_uid=job.sop_instance_uid, **facts)
        try:
            self._store.predicted(job, results, findings, identity)
        except (OSError, sqlite3.Error) as error:
            self._postpone(job, f"its results cannot be written ({self._store.explain(error)})")
            return
        self._begun.pop(job.number, None)
        PREDICTIONS.inc()
        log.info("predicted %s: %s", job.sop_instance_uid, counted(findings, "finding"))
        for event in self._has_results.values():
            event.set()

    def _postpone(self, job: Job, reason: str, detail: str = "", *, give_up: bool = False) -> None:
        """Try again later, or never; ``detail``, which may quote a header, is kept in the queue and not logged."""
        if give_up:
            self._give_up(job, reason, detail)
            return
        delay = delay_after(job.attempts)
        log.warning("%s: %s; trying again in %.0f s", job.sop_instance_uid, reason, delay)
        self._store.postpone(job, _joined(reason, detail), delay)
        self._begun.pop(job.number, None)

    def _give_up(self, job: Job, reason: str, detail: str = "") -> None:
        self._store.audit.write("given up", sop_instance_uid=job.sop_instance_uid)
        self._store.fail(job, _joined(reason, detail))
        self._begun.pop(job.number, None)
        log.error("%s: given up: %s", job.sop_instance_uid, reason)


class Courier:
    """Sends results to one destination.

    While the destination cannot be reached, the results in front are tried alone, after growing delays.

    Args:
        store: the queue.
        destination: where results go.
    """

    def __init__(self, store: JobStore, destination: Destination) -> None:
        self._store = store
        self._destination = destination
        self._had_room: dict[int, bool] = {}
        self._failures = 0
        self._resume_at = 0.0

    def deliver_next(self) -> bool:
        """Send the results that have waited longest, or note why not; return whether any were tried."""
        if time.monotonic() < self._resume_at:
            return False
        delivery = self._store.next_delivery(self._destination.name)
        if delivery is None:
            return False
        self._deliver(delivery)
        return True

    def _deliver(self, delivery: Delivery) -> None:
        if self._store.is_delivered(delivery):
            self._store.delivered(delivery)
            return
        results = self._store.result_files(delivery.job)
        if not results:
            self._give_up(delivery, "its results are gone from the queue's folder")
            return
        try:
            with timed("send", self._destination.name):
                self._destination.send(results)
        except NotDeliveredError as error:
            count_failure("send", error)
            self._note_refusal(delivery, error)
            return
        except OSError as error:
            count_failure("send", error)
            self._postpone(delivery, f"its results cannot be read ({error})")
            return
        # A result that cannot be sent, such as a damaged file, must not keep the others from being sent.
        except Exception as error:
            count_failure("send", error)
            log.exception("sending the findings of %s failed", delivery.job.sop_instance_uid)
            reason = f"its results cannot be sent ({type(error).__name__})"
            give_up = delivery.refusals + 1 >= MAX_REFUSALS
            self._postpone(delivery, reason, str(error), refused=True, give_up=give_up)
            return
        self._failures = 0
        self._note_room(delivery, has_room=True)
        self._store.audit.write(
            "delivered", sop_instance_uid=delivery.job.sop_instance_uid, destination=delivery.destination
        )
        self._store.delivered(delivery)
        if delivery.attempts:
            # The destination is back: what waits for it need not wait longer.
            self._store.hurry(delivery.destination, delivery.reason)
        log.info("sent the findings of %s to %s", delivery.job.sop_instance_uid, delivery.destination)

    def _note_refusal(self, delivery: Delivery, error: NotDeliveredError) -> None:
        """Postpone or give up what the destination did not take.

        A lack of room counts as a refusal of this object where there was room for the last other one: otherwise the
        destination is full, and waiting is all that helps.
        """
        if error.unreachable:
            delay = delay_after(self._failures)
            log.warning("%s; %s waits, trying again in %.0f s", error, delivery.job.sop_instance_uid, delay)
            self._store.postpone(delivery, str(error), 0)
            self._failures, self._resume_at = self._failures + 1, time.monotonic() + delay
            return
        self._failures = 0
        if not error.busy:
            give_up = error.refused and delivery.refusals + 1 >= MAX_REFUSALS
            self._postpone(delivery, str(error), refused=error.refused, give_up=give_up)
            return
        others = [has_room for number, has_room in self._had_room.items() if number != delivery.job.number]
        refused = others[-1:] == [True]
        self._note_room(delivery, has_room=False)
        give_up = (refused and delivery.refusals + 1 >= MAX_BUSY_REFUSALS) or delivery.attempts + 1 >= MAX_BUSY_ATTEMPTS
        self._postpone(delivery, str(error), refused=refused, give_up=give_up)

    def _note_room(self, delivery: Delivery, *, has_room: bool) -> None:
        """Remember whether the destination had room for the last two objects."""
        number = delivery.job.number
        earlier = [item for item in self._had_room.items() if item[0] != number][-1:]
        self._had_room = dict([*earlier, (number, has_room)])

    def _postpone(
        self, delivery: Delivery, reason: str, detail: str = "", *, refused: bool = False, give_up: bool = False
    ) -> None:
        if give_up:
            self._give_up(delivery, reason, detail)
            return
        delay = delay_after(delivery.attempts)
        uid = delivery.job.sop_instance_uid
        log.warning("%s for %s: %s; trying again in %.0f s", uid, delivery.destination, reason, delay)
        self._store.postpone(delivery, _joined(reason, detail), delay, refused=refused)

    def _give_up(self, delivery: Delivery, reason: str, detail: str = "") -> None:
        uid = delivery.job.sop_instance_uid
        self._store.audit.write("given up", sop_instance_uid=uid, destination=delivery.destination)
        self._store.fail(delivery, _joined(reason, detail))
        log.error("%s for %s: given up: %s", uid, delivery.destination, reason)


def _joined(reason: str, detail: str) -> str:
    return f"{reason}: {detail}" if detail else reason
