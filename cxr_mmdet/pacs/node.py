"""A DICOM node: radiographs sent to it come back to an archive as structured reports and Secondary Captures."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydicom import Dataset
from pynetdicom import AE, evt

from cxr_mmdet.dicom.codecs import DECODABLE
from cxr_mmdet.dicom.source import RADIOGRAPHS, parse_dataset
from cxr_mmdet.errors import CxrError, DicomError, UsageError
from cxr_mmdet.inference.predictor import Thresholds
from cxr_mmdet.pacs.job_folder import DiskError
from cxr_mmdet.pacs.job_store import JobStore, OtherContentError
from cxr_mmdet.pacs.listener import POLL_S, ConnectionLimits, NodeServer
from cxr_mmdet.pacs.worker import Worker

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from pathlib import Path

    from pynetdicom.association import Association

    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.pacs.dicomweb import Poller
    from cxr_mmdet.pacs.operation import AuditLog, StatusServer
    from cxr_mmdet.pacs.reporting import ReportOptions
    from cxr_mmdet.pacs.sender import Destination

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

log = logging.getLogger("cxr_mmdet.node")

VERIFICATION = "1.2.840.10008.1.1"

OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
"""Status codes of PS3.4 B.2.3; the second is for a data set that is not the object that its request names."""
DUPLICATE_INSTANCE = 0x0111
"""The SOP Instance UID belongs to another object (PS3.7 C.5.7)."""
TIMEOUT_S = 60
MAX_PDU_BYTES = 1 << 18
"""Longest PDU that a peer may send; a third less work per image than with the usual 16 KiB."""


@dataclass(frozen=True)
class NodeOptions:
    """Options of listening.

    Attributes:
        ae_title: what it calls itself; associations to another title are rejected.
        host: the address it listens at.
        port: its DICOM port; 0 takes a free one.
        calling_ae_titles: who may send; empty: anyone.
        networks: where from; empty: anywhere.
        tls: how to encrypt; None: in the clear.
        max_associations: at once; more are rejected for the moment.
        limits: how long peers may take and how much they may send.
    """

    ae_title: str
    host: str = "127.0.0.1"
    port: int = 11112
    calling_ae_titles: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    tls: ssl.SSLContext | None = None
    max_associations: int = 10
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)


class DicomNode:
    """A node that runs from :meth:`start` to :meth:`stop`.

    Args:
        state: the folder of the queue.
        predictor: the model.
        destinations: where results go.
        options: how to listen.
        report_options: what is reported.
        pollers: archives whose new radiographs are fetched, besides those that are sent.
        audit: where each radiograph's way is written down; None: nowhere.

    Raises:
        UsageError: another node uses the folder, or a threshold is of a class that the model does not know.
        DiskError: the folder cannot be written.
    """

    def __init__(
        self,
        state: Path,
        predictor: Predictor,
        destinations: Sequence[Destination],
        options: NodeOptions,
        report_options: ReportOptions,
        pollers: Sequence[Poller] = (),
        audit: AuditLog | None = None,
    ) -> None:
        if report_options.class_thresholds:
            predictor.check(Thresholds(per_class=report_options.class_thresholds))
        self._options = options
        self._pollers = pollers
        self._stopping = threading.Event()
        self._store = JobStore(state, [destination.name for destination in destinations], audit)
        self._worker = Worker(self._store, predictor, destinations, report_options, workers=predictor.workers)
        self._server: NodeServer | None = None
        self._admission = threading.Lock()
        self._admitted: set[Association] = set()

    @property
    def port(self) -> int:
        """The port it listens at."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Take up what the queue holds, and listen.

        Raises:
            UsageError: the address cannot be listened at.
        """
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_ECHO, lambda event: 0x0000),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_ABORTED, self._on_aborted),
        ]
        options = self._options
        try:
            server: Any = self._entity().make_server(
                (options.host, options.port),
                evt_handlers=handlers,
                server_class=NodeServer,
                tls=options.tls,
                limits=options.limits,
                is_allowed=lambda address: _is_in(address, options.networks),
            )
        except OSError as error:
            self._store.close()
            raise UsageError(
                f"cannot listen at {options.host}:{options.port} ({error.strerror}); give another host or port."
            ) from None
        self._server = server
        self._listening = threading.Thread(target=server.serve_forever, args=(POLL_S,), name="listen", daemon=True)
        self._listening.start()
        self._worker.start()
        for poller in self._pollers:
            arguments = (self._store, self._worker.wake, self._stopping)
            threading.Thread(target=poller.run, args=arguments, name="poll", daemon=True).start()

    def report_on(self, server: StatusServer) -> None:
        """Let an HTTP server answer for the node, which has started."""
        server.serve(self._store, lambda: self._listening.is_alive() and self._worker.is_alive(), self._problems)

    def _problems(self) -> list[str]:
        """Return why no radiograph can be taken and predicted at present; nothing where one can."""
        reasons = [] if self._listening.is_alive() else ["the DICOM port is closed"]
        if not self._worker.is_alive():
            reasons.append("a thread of the node has ended")
        try:
            self._store.check_writable()
        except CxrError as error:
            reasons.append(str(error))
        return reasons + [self._store.audit.problem] * bool(self._store.audit.problem)

    def pause(self) -> None:
        """From now on only take radiographs in; what is in the queue waits for the next start."""
        self._worker.stop()

    def stop(self, limit_s: float | None = None) -> None:
        """Take nothing new, finish what is under way, and leave the rest in the queue.

        Args:
            limit_s: seconds after which predictions under way are abandoned; None: wait for them.
        """
        self._stopping.set()
        # Both at once, so that a peer that hangs takes nothing from the time of what is being predicted.
        finishing = threading.Thread(target=self._worker.stop, args=(limit_s,), name="finish")
        finishing.start()
        if self._server is not None:
            self._server.end()
        finishing.join()
        self._store.close()

    def _entity(self) -> AE:
        entity = AE(self._options.ae_title)
        entity.require_called_aet = True
        entity.maximum_associations = self._options.limits.connections  # fewer: see _on_requested
        entity.maximum_pdu_size = MAX_PDU_BYTES
        entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        entity.acse_timeout = self._options.limits.request_s
        entity.add_supported_context(VERIFICATION)
        for sop_class in RADIOGRAPHS:
            entity.add_supported_context(sop_class, list(DECODABLE))
        return entity

    def _on_requested(self, event: evt.Event) -> None:
        """Reject who is not on the list, and who would be one too many."""
        request, address = event.assoc.requestor.primitive, event.assoc.requestor.address
        caller = str(request.calling_ae_title or "").strip() if request else ""
        titles = self._options.calling_ae_titles
        if titles and caller not in titles:
            log.warning("rejected %s@%s: its AE title is not allowed", caller, address)
            _reject(event, 0x01, 0x01, 0x03)  # for good: calling AE title not recognised
        elif not self._admit(event.assoc):
            log.warning("rejected %s@%s for the moment: as many associations as are allowed are open", caller, address)
            _reject(event, 0x02, 0x03, 0x02)  # for the moment: local limit exceeded

    def _admit(self, association: Association) -> bool:
        """Give the association one of the places; those being rejected, which pynetdicom would count, take none."""
        with self._admission:
            self._admitted = {other for other in self._admitted if other.is_alive() and not other.is_rejected}
            if len(self._admitted) >= self._options.max_associations:
                return False
            self._admitted.add(association)
            return True

    def _on_store(self, event: evt.Event) -> int | Dataset:
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", ""))
        sender = f"{event.assoc.requestor.ae_title}@{event.assoc.requestor.address}"
        try:
            content = event.encoded_dataset()
        # Whatever is wrong with what the peer sent is the peer's to hear, and must not end the association's thread.
        except Exception as error:
            log.warning("refused an object of %s: its header cannot be written (%s)", sender, error)
            return CANNOT_UNDERSTAND
        # Parsed here and again at prediction, which may be days and a restart later: only now can the sender be told
        # that its object is damaged or not the one it names. Keeping what was parsed would save 1.5 ms of a prediction,
        # at 15 MB, and hold radiographs in memory for as long as the queue is.
        try:
            dataset = parse_dataset(content, uid, max_inflated_bytes=self._options.limits.message_bytes)
        except DicomError as error:
            log.warning("refused an object of %s: %s", sender, error)
            return _refusal(CANNOT_UNDERSTAND, "the data set cannot be read")
        for keyword in ("SOPClassUID", "SOPInstanceUID"):
            requested, held = getattr(event.request, f"Affected{keyword}"), dataset.get(keyword)
            if not held or held != requested:
                log.warning("refused %s of %s: its data set has the %s %s", uid, sender, keyword, held)
                return _refusal(DOES_NOT_MATCH, f"{keyword} differs between request and data set")
        try:
            is_new = self._store.accept(uid, content, sender)
        except OtherContentError as error:
            log.error("refused an object of %s: %s", sender, error)
            return _refusal(DUPLICATE_INSTANCE, "UID of other pixels or another patient")
        except DiskError as error:
            log.error("refused %s of %s: %s", uid, sender, error)
            return OUT_OF_RESOURCES
        log.info("%s %s of %s", "queued" if is_new else "already known:", uid, sender)
        self._worker.wake()
        return 0x0000

    def _on_aborted(self, event: evt.Event) -> None:
        requestor = event.assoc.requestor
        log.warning("an association of %s@%s was aborted", requestor.ae_title or "an unnamed caller", requestor.address)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks that addresses, networks and host names stand for.

    Raises:
        ValueError: a name that nobody knows; the message says what is expected.
    """
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            networks += [ipaddress.ip_network(address) for address in _addresses(text)]
    return tuple(networks)


def _refusal(status: int, comment: str) -> Dataset:
    """Return an answer to a C-STORE that says why; a comment has 64 characters at most (VR LO)."""
    answer = Dataset()
    answer.Status, answer.ErrorComment = status, comment
    return answer


def _reject(event: evt.Event, result: int, source: int, reason: int) -> None:
    """Reject the association (PS3.8 9.3.4), and wait until that is sent."""
    event.assoc.acse.send_reject(result, source, reason)
    event.assoc.kill()


def _addresses(host: str) -> list[str]:
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None)})
    except OSError:
        raise ValueError("addresses, networks such as 10.0.0.0/8, or host names that are known") from None


def _is_in(address: str | None, networks: Sequence[Network]) -> bool:
    if not networks:
        return True
    try:
        parsed = ipaddress.ip_address((address or "").split("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(mapped in network for network in networks)
