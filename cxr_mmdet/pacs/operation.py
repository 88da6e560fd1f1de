"""Operation of the node: health, metrics, a log for machines, and an audit trail.

None of it holds names, Patient IDs or accession numbers. Radiographs are named by their SOP Instance UID; studies are
not named at all.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import threading
import time
import traceback
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cxr_mmdet.pacs.job_store import JobStore

log = logging.getLogger("cxr_mmdet.node")

REQUEST_S = 10
"""Seconds that a client of the HTTP port may take for its request."""

PREDICTIONS = Counter("cxr_node_predictions", "Radiographs predicted.")
FAILURES = Counter("cxr_node_failures", "Attempts that failed, by step and kind.", ["step", "kind"])
SECONDS = Histogram(
    "cxr_node_step_seconds",
    "Time of one step for one radiograph; sending has a destination.",
    ["step", "destination"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
)


def timed(step: str, destination: str = "") -> Any:
    """Return a context that measures a step."""
    return SECONDS.labels(step, destination).time()


def count_failure(step: str, error: BaseException) -> None:
    """Count a failed attempt under the name of its exception, or of what a destination said."""
    kinds = [kind for kind in ("unreachable", "busy", "refused") if getattr(error, kind, False)]
    FAILURES.labels(step, (kinds or [type(error).__name__])[0]).inc()


class TextFormatter(logging.Formatter):
    """Lines for people; of exceptions the type and the places, for their text may quote what a header says."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        """Return what is logged of an exception."""
        return "\n".join([f"{ei[0].__name__} at", *(f"  {place}" for place in _places(ei))])


class JsonFormatter(logging.Formatter):
    """One JSON object per line.

    Of other libraries' lines the text without its values is kept, and of exceptions the type and the places: either
    may quote what a header says of a patient.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        is_own = record.name.startswith("cxr_mmdet")
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage() if is_own else str(record.msg),
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
            line["at"] = _places(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _places(exc_info: Any) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(exc_info[2])]


def set_up_logging(log_format: str) -> None:
    """Log to stderr, as ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)  # or they would be lines of another format


class AuditLog:
    """Append-only file of JSON lines: who sent which radiograph, what was found by which model, where it went.

    A line is on the disk when :meth:`write` returns True. While the disk is full, lines are kept in memory and written
    before the next one. The node never shortens, renames or removes the file.

    Args:
        path: the file; None: nothing is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pending: list[str] = []
        self.problem = ""
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._append("")
            except OSError as error:
                raise UsageError(f"{path}: the audit log cannot be written ({error.strerror}).") from None

    def write(self, event: str, **facts: Any) -> bool:
        """Append an event; return whether it is on the disk."""
        if self._path is None:
            return True
        line = json.dumps({"time": _utc(time.time()), "event": event} | facts, ensure_ascii=False)
        with self._lock:
            self._pending.append(f"{line}\n")
            try:
                self._append("".join(self._pending))
            except OSError as error:
                self.problem = f"the audit log cannot be written ({error.strerror})"
                log.error("%s: %s", self._path, self.problem)
                return False
            self._pending, self.problem = [], ""
        return True

    def _append(self, text: str) -> None:
        assert self._path is not None
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            content = text.encode()
            if os.write(handle, content) < len(content):
                os.ftruncate(handle, size)  # half a line of this process, on a disk that became full
                raise OSError(28, "No space left on device")
            os.fsync(handle)
        finally:
            os.close(handle)


class _QueueCollector(Collector):
    """State of the queue at the moment of a scrape."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics."""
        facts = self._store.summary()
        jobs = GaugeMetricFamily("cxr_node_radiographs", "Radiographs by state.", labels=["state"])
        for state, count in facts.counts.items():
            jobs.add_metric([state], count)
        yield jobs
        oldest = GaugeMetricFamily(
            "cxr_node_oldest_seconds", "Age of the oldest radiograph that is not done, by state.", labels=["state"]
        )
        for state, received in facts.oldest.items():
            oldest.add_metric([state], max(time.time() - received, 0))
        yield oldest
        deliveries = GaugeMetricFamily(
            "cxr_node_deliveries", "Results by destination and state.", labels=["destination", "state"]
        )
        for destination, by_state in facts.deliveries.items():
            for state, count in by_state.items():
                deliveries.add_metric([destination, state], count)
        yield deliveries


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, *_: Any) -> None:
        """Log nothing: a scrape every few seconds is no news."""


class StatusServer:
    """HTTP server of ``/healthz``, ``/readyz`` and ``/metrics``, from its making to :meth:`close`.

    Args:
        endpoint: ``HOST:PORT`` to listen at.

    Raises:
        UsageError: the address cannot be listened at.
    """

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._registry = CollectorRegistry()
        self._registry.register(REGISTRY)
        self._metrics = make_wsgi_app(self._registry)
        self.is_alive: Callable[[], bool] = lambda: True
        self.problems: Callable[[], list[str]] = lambda: ["the model is being loaded"]
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host.strip("[]"), int(port), self._answer, kind, _Handler)
        except OSError as error:
            raise UsageError(
                f"http, {endpoint}: cannot be listened at ({error.strerror}); give another port."
            ) from None
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    @property
    def port(self) -> int:
        """The port it listens at."""
        return int(self._server.server_port)

    def serve(self, store: JobStore, is_alive: Callable[[], bool], problems: Callable[[], list[str]]) -> None:
        """Answer for a node.

        Args:
            store: its queue.
            is_alive: whether its threads run.
            problems: why it is not ready; nothing where it is.
        """
        self._registry.register(_QueueCollector(store))
        self.is_alive, self.problems = is_alive, problems

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, start_response)
        if path == "/healthz":
            reasons = [] if self.is_alive() else ["a thread of the node has ended"]
        elif path == "/readyz":
            reasons = self.problems()
        else:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/healthz, /readyz or /metrics\n"]
        status = "503 Service Unavailable" if reasons else "200 OK"
        start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [json.dumps({"ok": not reasons, "reasons": reasons}).encode() + b"\n"]


def _utc(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="milliseconds")
