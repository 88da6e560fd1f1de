"""Destinations of results: what they have in common, and archives that take DICOM objects by C-STORE."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from cxr_mmdet.dicom.secondary_capture import uncompress_capture
from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

    from cxr_mmdet.pacs.dicomweb import Archive

TIMEOUT_S = 30
DELIVERY_S = 600
"""Seconds that one delivery may take in all, also at a destination that answers byte by byte."""
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_DUPLICATE_INSTANCE = 0x0111
"""The archive has the instance already (PS3.7 C.5.7)."""
_REJECTED_TRANSIENT = 0x02
"""The archive has too many associations at the moment (PS3.8 9.3.4)."""
_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}")


class Destination(Protocol):
    """Destination of results."""

    @property
    def name(self) -> str:
        """Name in the queue, the status and the log; what waits for a destination waits for its name."""

    def send(self, paths: Sequence[Path]) -> None:
        """Store the objects in these files at the destination.

        Raises:
            NotDeliveredError: not all of them are there.
        """

    def check(self) -> None:
        """Ask the destination whether it is there, without sending anything.

        Raises:
            NotDeliveredError: it is not.
        """


@dataclass(frozen=True)
class StowDestination:
    """Archive that takes objects by STOW-RS.

    Attributes:
        name: name in the queue, the status and the log.
        archive: its DICOMweb service.
    """

    name: str
    archive: Archive

    def send(self, paths: Sequence[Path]) -> None:
        """Store the objects in these files at the archive, in one request."""
        self.archive.store(paths)

    def check(self) -> None:
        """Search for radiographs of a day without any, by QIDO-RS."""
        self.archive.search_series(dates="18950101")


@dataclass(frozen=True)
class DimseDestination:
    """Archive that takes objects by C-STORE.

    Attributes:
        ae_title: what the archive calls itself.
        host: its name or address.
        port: its DICOM port.
        tls: how to encrypt; None sends in the clear.
        calling_ae: what the node calls itself.
        label: name in the queue; by default its address.
    """

    ae_title: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    calling_ae: str = "CXR"
    label: str = ""

    @classmethod
    def parse(cls, text: str) -> DimseDestination:
        """Return the destination that ``AE@host:port`` names; an IPv6 address stands in brackets.

        Raises:
            UsageError: it is not of that form.
        """
        title, at, address = text.rpartition("@")
        host, colon, port = address.rpartition(":")
        if not (at and colon and host and port.isdecimal() and 0 < int(port) < 65536):
            raise UsageError(f"--destination {text}: is not of the form AE@host:port, as in ARCHIVE@10.0.0.5:104.")
        try:
            return cls(check_ae_title(title), host.strip("[]"), int(port))
        except ValueError as error:
            raise UsageError(f"--destination {text}: got {title!r}, expected {error}.") from None

    @property
    def name(self) -> str:
        """Name in the queue, the status and the log."""
        return self.label or str(self)

    def send(self, paths: Sequence[Path]) -> None:
        """Store the objects in these files at the archive, in one association.

        Raises:
            NotDeliveredError: not all of them are there.
        """
        objects = [_Stored.of(path) for path in paths]
        # A context each: of two syntaxes in one the peer picks, and some pick the other one where both would do.
        wanted = [(stored.sop_class, syntax) for stored in objects for syntax in (stored.syntax, *_SYNTAXES)]
        with self._associate([build_context(sop_class, syntax) for sop_class, syntax in dict.fromkeys(wanted)]) as peer:
            for stored in objects:
                _store(peer, stored, self)

    def check(self) -> None:
        """Ask the archive whether it is there, by C-ECHO.

        Raises:
            NotDeliveredError: it is not, or does not answer.
        """
        with self._associate([build_context(Verification)]) as peer:
            status = peer.send_c_echo().get("Status")
            if status != 0x0000:
                raise NotDeliveredError(f"{self} answered a C-ECHO with status {status}", refused=True)

    @contextmanager
    def _associate(self, contexts: list[PresentationContext]) -> Iterator[Association]:
        # Files are sent as they lie on the disk: parsing and writing a report again takes longer than sending it.
        _config.STORE_SEND_CHUNKED_DATASET = True
        entity = AE(self.calling_ae)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = TIMEOUT_S
        with _time_limits() as handlers:
            association = entity.associate(
                self.host,
                self.port,
                contexts=contexts,
                ae_title=self.ae_title,
                tls_args=None if self.tls is None else (self.tls, self.host),
                evt_handlers=handlers,
            )
            if not association.is_established:
                raise _no_association(association, self)
            association._reactor_checkpoint = _Checkpoint(association)
            try:
                yield association
            finally:
                if association.is_established:
                    association.release()

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


class NotDeliveredError(Exception):
    """The destination does not have the objects; the message says why.

    Attributes:
        refused: it answered, and said no; trying for ever would not help.
        busy: it answered that it has no room, for this object or for any.
        unreachable: it was not asked for any object, so that no other needs to be tried before it is back.
    """

    def __init__(self, reason: str, *, refused: bool = False, busy: bool = False, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused
        self.busy = busy
        self.unreachable = unreachable


def check_ae_title(title: str) -> str:
    """Return an application entity title without blanks around it (VR AE).

    Raises:
        ValueError: DICOM allows no such title; the message says what it does allow.
    """
    stripped = title.strip()
    if not stripped or not _AE_TITLE.fullmatch(stripped):
        raise ValueError("an AE title of 1 to 16 ASCII characters without a backslash")
    return stripped


@contextmanager
def _time_limits() -> Iterator[list[Any]]:
    """Yield handlers that limit an association's time: pynetdicom waits for ever for the rest of a PDU."""
    connections: list[socket.socket] = []

    def limit(event: evt.Event) -> None:
        carrier: Any = event.assoc.dul.socket
        connection: socket.socket = carrier.socket
        connection.settimeout(TIMEOUT_S)  # of each read and write
        connections.append(connection)

    def cut() -> None:
        for connection in connections:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    timer = threading.Timer(DELIVERY_S, cut)
    timer.daemon = True
    timer.start()
    try:
        yield [(evt.EVT_CONN_OPEN, limit)]
    finally:
        timer.cancel()


@dataclass(frozen=True)
class _Stored:
    """A file to send, and what its meta information says of it."""

    path: Path
    sop_class: UID
    syntax: UID

    @classmethod
    def of(cls, path: Path) -> _Stored:
        meta = read_file_meta_info(path)
        return cls(path, meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)


def _no_association(association: Association, destination: DimseDestination) -> NotDeliveredError:
    if association.is_rejected:
        answer = association.acceptor.primitive
        why = "" if answer is None else f" ({answer.reason_str})"
        passes = answer is not None and answer.result == _REJECTED_TRANSIENT
        return NotDeliveredError(f"{destination} rejected the association{why}", refused=not passes, unreachable=passes)
    if association.acceptor.primitive is not None:
        return NotDeliveredError(f"{destination} accepts none of the objects", refused=True)
    return NotDeliveredError(f"{destination} cannot be reached", unreachable=True)


def _rewritten(stored: _Stored) -> Dataset:
    """Return the object for a peer that wants another syntax; pynetdicom writes datasets in what the peer takes."""
    dataset = dcmread(stored.path)
    uncompress_capture(dataset)
    return dataset


class _Checkpoint(threading.Event):
    """Checkpoint at which an association's own thread stands while the sender waits for an answer.

    pynetdicom takes that thread to stand there as soon as it comes near an open checkpoint, which it then passes: it
    takes the answer off the queue, and an archive that answered counts as silent (its issues 842 and 850). Here
    :meth:`clear` returns when the thread does stand, or has ended.
    """

    def __init__(self, reactor: threading.Thread) -> None:
        super().__init__()
        self._reactor = reactor
        self._changed = threading.Condition()
        self._is_open = True
        self._stands = False

    def is_set(self) -> bool:
        """Return whether the thread may pass."""
        return self._is_open

    def set(self) -> None:
        """Let the thread pass."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Stop the thread, and return when it stands."""
        with self._changed:
            self._is_open = False
            while not self._stands and self._reactor.is_alive() and threading.current_thread() is not self._reactor:
                self._changed.wait(0.05)  # nobody tells when the thread ends

    def wait(self, timeout: float | None = None) -> bool:
        """Stand until the checkpoint is open; one that is closed again before the thread wakes holds it."""
        with self._changed:
            while not self._is_open:
                self._stands = True
                self._changed.notify_all()
                if not self._changed.wait(timeout):
                    break
            self._stands = False
            return self._is_open


def _store(association: Association, stored: _Stored, destination: DimseDestination) -> None:
    kind = stored.sop_class.name
    accepted = [
        context.transfer_syntax[0]
        for context in association.accepted_contexts
        if context.abstract_syntax == stored.sop_class
    ]
    if not accepted:
        raise NotDeliveredError(f"{destination} does not accept objects of the kind {kind}", refused=True)
    try:
        answer = association.send_c_store(stored.path if stored.syntax in accepted else _rewritten(stored))
    except RuntimeError:  # the association ended meanwhile
        answer = Dataset()
    status = answer.get("Status")
    if status is None:
        raise NotDeliveredError(f"{destination} gave no answer to a {kind}", refused=False)
    # 0xB000 to 0xBFFF are warnings: stored, with remarks (PS3.4 B.2.3).
    if status in (0x0000, _DUPLICATE_INSTANCE) or status >> 12 == 0xB:
        return
    remark = str(answer.get("ErrorComment") or "").strip()
    busy = status >> 8 == 0xA7  # out of resources (PS3.4 B.2.3)
    raise NotDeliveredError(
        f"{destination} refused a {kind} with status 0x{status:04X}{f' ({remark})' if remark else ''}",
        refused=not busy,
        busy=busy,
    )
