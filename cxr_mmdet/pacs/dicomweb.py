"""Radiographs from, and results to, an archive by DICOMweb (PS3.18): QIDO-RS, WADO-RS and STOW-RS."""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import sqlite3
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset, dcmread
from requests.utils import get_environ_proxies

from cxr_mmdet.dicom.report import to_bytes
from cxr_mmdet.dicom.source import RADIOGRAPHS
from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.files import write_durably
from cxr_mmdet.pacs.job_folder import file_stem
from cxr_mmdet.pacs.job_store import LONGEST_DELAY_S, JobStore, OtherContentError
from cxr_mmdet.pacs.sender import NotDeliveredError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger("cxr_mmdet.node")

CONNECT_S, READ_S = 10, 60
"""Seconds to connect, and between two pieces of an answer; storing a report may take an archive a while."""
MAX_ANSWER_BYTES = 1 << 28
PAGE = 500
"""Results per query."""
MODALITIES = ("CR", "DX")
_DICOM_JSON = ("application/dicom+json", "application/json")
_DUPLICATE_INSTANCE = 0x0111
_FOR_THE_MOMENT = (408, 425, 429)
_NOT_THE_OBJECTS = (401, 403, 404, 407, 429, 502, 503, 504)
"""Answers of a service, or of a proxy before it, that would be the same whatever is stored."""

MAX_AHEAD = 100
"""Radiographs that wait for prediction, beyond which further ones are better kept by the archive than by the queue."""
MAX_FAILURES = 5
"""Searches in which one radiograph could not be retrieved while others could, after which it is given up."""


class DicomwebError(NotDeliveredError, CxrError):
    """An archive that cannot be reached, or that answers with something other than success.

    Attributes:
        status: the HTTP status; None where there was no answer.
    """

    def __init__(self, reason: str, *, status: int | None = None, **kinds: bool) -> None:
        super().__init__(reason, **kinds)
        self.status = status


class _AnswerError(ValueError):
    """An answer that cannot be read, in words that quote nothing of it."""


class Archive:
    """An archive's DICOMweb service; one thread at a time may use it.

    Args:
        url: root of the service, as in ``https://pacs.example/dicom-web``.
        credentials: a file with one line, ``NAME:PASSWORD`` or ``Bearer TOKEN``, or ``env:VARIABLE`` for an environment
            variable that holds it; None: nothing is sent.
        ca: certificates (PEM) of the authorities that may have signed the archive's; None: the public ones.

    Raises:
        UsageError: an address or a file that cannot be used.
    """

    def __init__(self, url: str, *, credentials: str | None = None, ca: Path | None = None) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"{url}: is not the address of a DICOMweb service, such as https://pacs.example/dicom-web."
            )
        if parts.username or parts.password:
            raise UsageError(
                f"{parts.scheme}://…@{parts.hostname}: a password in an address is shown in lists of processes and in "
                "logs; put NAME:PASSWORD into a file and name that file as the credentials."
            )
        if ca is not None and not ca.is_file():
            raise UsageError(f"{ca}: no such file; expected the certificates of the archive's authority in PEM.")
        session = requests.Session()
        # Of the environment only the proxies: REQUESTS_CA_BUNDLE would override the authority given here.
        session.trust_env = False
        session.proxies = get_environ_proxies(self.url)
        session.verify = True if ca is None else str(ca)
        session.max_redirects = 0  # a redirected POST becomes a GET, whose success stores nothing
        session.headers["Accept"] = _DICOM_JSON[0]
        if credentials is not None:
            session.auth = _Authorization(_read_credentials(credentials))
            if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
                log.warning("%s: the credentials are sent in the clear; use https", self.url)
        for library in ("dicomweb_client", "retrying"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self._client = DICOMwebClient(
            self.url,
            session=session,
            callback=_check,
            chunk_size=MAX_ANSWER_BYTES,  # some proxies take no chunks
            timeout=(CONNECT_S, READ_S),
        )
        self._client.set_http_retry_params(retry=False)  # the queue tries again, for as long as it takes

    def __str__(self) -> str:
        return self.url

    def store(self, paths: Sequence[Path]) -> None:
        """Store the objects in these files by STOW-RS.

        Raises:
            DicomwebError: not all of them are there. ``refused`` and ``busy`` say whether trying again may help.
        """
        objects = [dcmread(path) for path in paths]
        with self._explained("storing"):
            answer = self._client.store_instances(objects)
        named = [item.get("ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence") or []]
        _refuse_failures(self.url, answer)
        missing = [stored for stored in objects if stored.SOPInstanceUID not in named]
        if named and missing:
            reason = f"{self.url} does not say whether it stored the {_kind(missing[0].SOPClassUID)}"
            raise DicomwebError(reason, refused=True)

    def search_series(self, study: str | None = None, dates: str = "") -> list[tuple[str, str, int]]:
        """Return Study and Series Instance UID and number of instances of CR and DX series, by QIDO-RS.

        Args:
            study: only of this study.
            dates: only of studies of this range of days, as in ``20260101-20260131``.

        Raises:
            DicomwebError: the archive does not answer, or not in DICOM JSON.
        """
        found = []
        for modality in MODALITIES:
            filters = {"Modality": modality} | ({"StudyDate": dates} if dates else {})
            fields = ["NumberOfSeriesRelatedInstances"]
            with self._explained("searching"):
                for item in _pages(self._client.search_for_series, study, search_filters=filters, fields=fields):
                    # A server that ignores a filter would have every study of the archive predicted.
                    if item.get("Modality") == modality:
                        count = int(item.get("NumberOfSeriesRelatedInstances") or 0)
                        found.append((str(item.get("StudyInstanceUID") or study), str(item.SeriesInstanceUID), count))
        return found

    def search_radiographs(self, study: str, series: str) -> list[str]:
        """Return the SOP Instance UIDs of the radiographs in a series, by QIDO-RS.

        Raises:
            DicomwebError: the archive does not answer, or not in DICOM JSON.
        """
        with self._explained("searching"):
            items = _pages(self._client.search_for_instances, study, series, fields=["SOPClassUID"])
            return [str(item.SOPInstanceUID) for item in items if item.get("SOPClassUID") in RADIOGRAPHS]

    def retrieve(self, study: str, series: str, instance: str) -> bytes:
        """Return a radiograph as the archive keeps it, as the content of a DICOM file, by WADO-RS.

        Raises:
            DicomwebError: the archive does not have it, or sends something else.
        """
        with self._explained("retrieving"):
            dataset = self._client.retrieve_instance(study, series, instance)
            content = to_bytes(dataset)
        if dataset.get("SOPInstanceUID") != instance or dataset.get("SOPClassUID") not in RADIOGRAPHS:
            reason = f"{self.url} sent {dataset.get('SOPInstanceUID')} instead of the radiograph {instance}"
            raise DicomwebError(reason, refused=True)
        return content

    def download(self, study: str, series: str | None, folder: Path) -> list[Path]:
        """Return files with the radiographs of a study, or of one of its series; those that are there stay.

        Raises:
            DicomwebError: the archive does not give them.
            UsageError: it has none.
        """
        where = f"study {study}" + (f", series {series}" if series else "")
        if not all(re.fullmatch(r"[0-9.]{1,64}", uid) for uid in (study, series or "1")):
            raise UsageError(f"{where}: expected UIDs, which have digits and points.")
        found = [one for _, one, _ in self.search_series(study) if series in (None, one)]
        paths = {uid: (one, folder / f"{uid}.dcm") for one in found for uid in self.search_radiographs(study, one)}
        if not paths:
            raise UsageError(f"{self.url}, {where}: holds no CR or DX radiograph; check the UIDs.")
        folder.mkdir(parents=True, exist_ok=True)
        for uid, (one, path) in paths.items():
            if not path.exists():
                write_durably(path, self.retrieve(study, one, uid))
        return [path for _, path in paths.values()]

    @contextmanager
    def _explained(self, step: str) -> Iterator[None]:
        """Turn what the libraries raise into a sentence.

        Raises:
            DicomwebError: always, where they raise anything.
        """
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise DicomwebError(
                f"{self.url}: its certificate is not trusted ({_cause(error)}); give the certificate of its authority."
            ) from None
        except requests.TooManyRedirects as error:
            target = "" if error.response is None else error.response.headers.get("Location", "")
            raise DicomwebError(f"{self.url} redirects {step} to {target}; give that address instead.") from None
        except requests.HTTPError as error:
            raise self._refusal(step, error.response) from None
        except requests.Timeout:
            raise DicomwebError(f"{self.url} did not answer in {READ_S} s when {step}") from None
        except requests.ConnectionError as error:
            raise DicomwebError(f"{self.url} cannot be reached ({_cause(error)})", unreachable=True) from None
        # What the answer holds decides what json, pydicom and the client raise: ValueError, KeyError, struct.error …
        # Only these two do not quote it: others may name a patient in the log.
        except Exception as error:
            detail = str(error) if isinstance(error, (_AnswerError, json.JSONDecodeError)) else type(error).__name__
            raise DicomwebError(
                f"{self.url}: the answer to {step} is not DICOMweb ({detail}); check the address of the service",
                refused=True,
            ) from None

    def _refusal(self, step: str, response: Any) -> DicomwebError:
        status = response.status_code
        if step == "storing" and status < 500:
            try:
                answer = Dataset.from_json(response.json())
            except Exception:
                answer = Dataset()
            _refuse_failures(self.url, answer)
        has_credentials = response.request is not None and "Authorization" in response.request.headers
        remedies = {
            401: "; it wants other credentials" if has_credentials else "; it wants credentials, and none were given",
            403: "; these credentials may not do that",
            404: "; check the address of the service and the UIDs",
        }
        return DicomwebError(
            f"{self.url} answered {step} with status {status} ({response.reason}){remedies.get(status, '')}",
            refused=400 <= status < 500 and status not in _FOR_THE_MOMENT,
            busy=status >= 500,
            unreachable=status in _NOT_THE_OBJECTS,
            status=status,
        )


def _pages(search: Callable[..., list[Any]], *uids: str | None, **options: Any) -> list[Dataset]:
    """Return the results of all pages; a server that knows no pages sends the first one again."""
    rows: list[Any] = []
    while (page := search(*uids, limit=PAGE, offset=len(rows), **options)) and page[0] not in rows[:1]:
        rows += page
    return [Dataset.from_json(row) for row in rows]


class _Authorization(requests.auth.AuthBase):
    """The header that proves who asks."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value.lower().startswith("bearer "):
            request.headers["Authorization"] = self._value
            return request
        name, _, password = self._value.partition(":")
        return requests.auth.HTTPBasicAuth(name.encode(), password.encode())(request)


def _read_credentials(source: str) -> str:
    """Return the line that a file or ``env:VARIABLE`` holds; no message quotes it.

    Raises:
        UsageError: there is none, or it is neither of the two forms.
    """
    if source.startswith("env:"):
        value = os.environ.get(source[4:], "")
        if not value:
            raise UsageError(f"{source}: the environment variable {source[4:]} is not set, or is empty; set it.")
    else:
        try:
            value = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{source}: the credentials cannot be read ({error}).") from None
    value = value.strip()
    if "\n" in value or not (value.lower().startswith("bearer ") or ":" in value):
        raise UsageError(f"{source}: holds no credentials; expected one line, NAME:PASSWORD or Bearer TOKEN.")
    return value


def _check(response: requests.Response, *_: Any, **__: Any) -> None:
    """Refuse answers that are too large, and those to STOW-RS that the client would take for success unread."""
    if int(response.headers.get("Content-Length") or 0) > MAX_ANSWER_BYTES:
        response.close()
        raise _AnswerError(f"more than {MAX_ANSWER_BYTES >> 20} MiB")
    if response.request.method == "POST" and 200 <= response.status_code < 300:
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        response.headers["Content-Type"] = kind
        is_empty = not response.content and response.status_code in (200, 204)
        if not is_empty and kind not in (*_DICOM_JSON, "application/dicom+xml", "application/xml", "text/xml"):
            raise _AnswerError(f"status {response.status_code} with {kind or 'nothing'} instead of DICOM JSON or XML")


def _refuse_failures(url: str, answer: Dataset) -> None:
    """Raise the first failure that an answer to STOW-RS names; an instance that is there already is none.

    Raises:
        DicomwebError: an instance was not stored.
    """
    for item in answer.get("FailedSOPSequence") or []:
        reason = int(item.get("FailureReason") or 0)
        if reason != _DUPLICATE_INSTANCE:
            busy = reason >> 8 == 0xA7  # out of resources (PS3.18 I.2.2)
            raise DicomwebError(
                f"{url} did not store a {_kind(item.get('ReferencedSOPClassUID'))} (failure reason 0x{reason:04X})",
                refused=not busy,
                busy=busy,
            )


def _kind(sop_class: Any) -> str:
    return getattr(sop_class, "name", "") or "an object"


def _cause(error: BaseException) -> str:
    """Return the innermost reason of a connection error, without the address that urllib3 repeats."""
    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", inner)
    return str(reason).rpartition(": ")[2] or type(error).__name__


@dataclass
class Poller:
    """Brings the new radiographs of an archive into the queue of a node.

    What the queue knows is not retrieved again. A search begins some days before the last complete one, by the date
    of the study, so that neither a kill nor a long pause loses any; a study that reaches the archive later than that
    is not found.

    Attributes:
        archive: what is searched.
        interval_s: seconds between two searches.
        days: how many days before the last complete search, at first before today, the next one begins.
    """

    archive: Archive
    interval_s: float = 30
    days: int = 2
    _complete: dict[str, int] = field(default_factory=dict, init=False)
    _failures: Counter[str] = field(default_factory=Counter, init=False)

    def run(self, store: JobStore, wake: Callable[[], None], stop: threading.Event) -> None:
        """Search until the event is set.

        Args:
            store: the queue.
            wake: called after each radiograph that went into the queue.
            stop: ends the loop between two requests to the archive.
        """
        failed = 0
        while not stop.is_set():
            delay = self.interval_s
            try:
                self.search(store, wake, stop)
                failed = 0
            # An archive that is down, a full disk and whatever an answer makes the libraries do must not end the loop.
            except Exception as error:
                delay = max(delay, min(LONGEST_DELAY_S, 2.0**failed))
                failed = min(failed + 1, 20)
                if not stop.is_set():
                    is_known = isinstance(error, (CxrError, OSError, sqlite3.Error))
                    reason = error if is_known else type(error).__name__
                    log.warning("%s; searching again in %.0f s", reason, delay, exc_info=not is_known)
            stop.wait(delay)

    def search(self, store: JobStore, wake: Callable[[], None], stop: threading.Event) -> None:
        """Search once, and queue what is new.

        Raises:
            DicomwebError: the archive does not answer, or gives no radiograph.
            DiskError: the queue takes no more.
        """
        today = datetime.date.today()
        last = self._last_search(store, today)
        found = self.archive.search_series(dates=f"{min(last, today) - datetime.timedelta(self.days):%Y%m%d}-")
        failed: list[str] = []
        taken = 0
        for study, series, count in found:
            if count and self._complete.get(series) == count:
                continue
            failed_before = len(failed)
            for uid in self.archive.search_radiographs(study, series):
                if store.is_known(uid) or self._failures[uid] >= MAX_FAILURES:
                    continue
                while store.count_queued() >= MAX_AHEAD and not stop.is_set():
                    stop.wait(0.2)
                if stop.is_set():
                    return
                try:
                    self._take(store, study, series, uid)
                except DicomwebError as error:
                    # One that the archive cannot give must not keep the others from being predicted.
                    no_answer = error.status is None and not error.refused
                    if no_answer or error.status in (401, 403) or (not taken and len(failed) >= 2):
                        raise
                    log.warning("%s: %s", uid, error)
                    failed.append(uid)
                else:
                    taken += 1
                    wake()
            if len(failed) == failed_before:
                self._complete[series] = count
        self._complete = {series: self._complete[series] for _, series, _ in found if series in self._complete}
        if taken:
            self._failures.update(failed)
            for uid in (uid for uid in failed if self._failures[uid] >= MAX_FAILURES):
                log.error("%s: given up: %s gave others but not this one", uid, self.archive)
        if not failed and today != last:
            self._note_search(store, today)

    def _take(self, store: JobStore, study: str, series: str, uid: str) -> None:
        content = self.archive.retrieve(study, series, uid)
        try:
            if store.accept(uid, content, self.archive.url):
                log.info("queued %s of %s", uid, self.archive)
        except OtherContentError as error:
            log.error("refused an object of %s: %s", self.archive, error)
            self._failures[uid] = MAX_FAILURES

    def _last_search(self, store: JobStore, today: datetime.date) -> datetime.date:
        """Return the day of the last complete search; the first one is noted before it begins."""
        try:
            return datetime.date.fromisoformat(self._note(store).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            self._note_search(store, today)
            return today

    def _note_search(self, store: JobStore, day: datetime.date) -> None:
        write_durably(self._note(store), day.isoformat().encode())

    def _note(self, store: JobStore) -> Path:
        return store.folder / f"searched-{file_stem(self.archive.url)}"
