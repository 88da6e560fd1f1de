"""The server under the DICOM node: limits on who connects, how long a peer may take and how much it may send.

pynetdicom reads a PDU for as long as it takes, believes the length in its header, and shakes hands over TLS in the loop
that accepts connections. This server gives a peer neither an association nor its threads before it has sent an
acceptable association request, and cuts connections that exceed :class:`ConnectionLimits`.
"""

from __future__ import annotations

import logging
import math
import socket
import ssl
import struct
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RQ
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pynetdicom.association import Association

log = logging.getLogger("cxr_mmdet.node")

MAX_REQUEST_BYTES = 1 << 17
"""128 presentation contexts of 30 transfer syntaxes each, as the largest toolkits propose them, take 115 KB."""
ASSOCIATE_RQ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 0x01, 0x04, 0x05, 0x06, 0x07
HEADER_BYTES = 6
"""Type, a reserved byte and the length of what follows (PS3.8 9.3.1)."""
POLL_S = 0.5
"""Interval at which overdue connections are looked for."""
ABORT_S = 1
"""Seconds that a stop waits for aborted associations to close, and again for their threads to end."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on every connection.

    Attributes:
        handshake_s: seconds for the TLS handshake.
        request_s: seconds until the association request has arrived.
        pdu_s: seconds from the first to the last byte of a PDU, in either direction.
        message_s: seconds for all PDUs of a message.
        message_bytes: size of all PDUs of a message; an object and its copies are held in memory.
        stop_s: seconds that a stop waits for associations under way.
        connections: open at once, with or without an association; more are closed.
        connections_per_host: of these, from one address.
    """

    handshake_s: float = 10
    request_s: float = 10
    pdu_s: float = 30
    message_s: float = 600
    message_bytes: int = 1 << 28
    stop_s: float = 4
    connections: int = 512
    connections_per_host: int = 256


class PduError(OSError):
    """A peer sent what it may not; the message is the end of a sentence that begins with the peer."""


class _Connection:
    """An accepted socket and the time by which its present step must be over."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.socket = sock
        self.host = host
        self.association: Association | None = None
        self._step = ""
        self._deadline = math.inf

    @contextmanager
    def within(self, seconds: float, step: str) -> Iterator[None]:
        """Let the server cut the connection if the block takes longer, whichever call it hangs in."""
        self._step, self._deadline = step, time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = math.inf

    def cut_if_overdue(self) -> None:
        if time.monotonic() > self._deadline:
            self._deadline = math.inf
            log.warning("closed a connection of %s: %s took too long", self.host, self._step)
            self.cut()

    def cut(self) -> None:
        """Wake every call that waits for the peer; the thread that makes it closes the socket."""
        with suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def refuse(self, error: PduError) -> None:
        """Tell the log and the peer why the connection ends."""
        log.warning("closed a connection of %s: it sent %s", self.host, error)
        abort = A_ABORT_RQ()
        abort.source, abort.reason_diagnostic = 0x02, 0x06  # the service provider: invalid PDU parameter value
        with suppress(OSError), self.within(ABORT_S, "taking an A-ABORT"):
            self.socket.sendall(abort.encode())

    def close_if_over(self) -> bool:
        """Return whether the connection is closed; a peer's reset may have kept pynetdicom from closing it."""
        association = self.association
        if association is not None and not association.is_alive() and not association.dul.is_alive():
            self.socket.close()
        return self.socket.fileno() < 0


class _BoundedSocket(AssociationSocket):
    """A socket that reads whole PDUs within the limits."""

    def __init__(
        self, assoc: Association, connection: _Connection, limits: ConnectionLimits, request: bytearray
    ) -> None:
        super().__init__(assoc, client_socket=connection.socket)
        self._connection = connection
        self._limits = limits
        self._ahead = memoryview(request)
        self._unanswered_bytes = 0
        self._message_end = math.inf

    @property
    def ready(self) -> bool:
        """Whether there is something to read that the association can deal with now."""
        # PS3.8 9.2: outside the association (Sta1, Sta2, Sta13) there is the request alone, and nothing may come
        # while the node has to answer a request (Sta3) or a release (Sta8).
        if self.assoc.dul.state_machine.current_state in ("Sta1", "Sta2", "Sta3", "Sta8", "Sta13"):
            return bool(self._ahead)
        # Messages that nobody asked for are left in the network instead of being piled up here.
        return self.assoc.dimse.msg_queue.empty() and super().ready

    def recv(self, nr_bytes: int) -> Any:
        """Return the next bytes of the PDU, which pynetdicom copies: it asks for the header, then for the rest."""
        if nr_bytes and not self._ahead:
            self._ahead = memoryview(self._read_pdu())
        piece, self._ahead = self._ahead[:nr_bytes], self._ahead[nr_bytes:]
        return piece

    def send(self, bytestream: bytes) -> None:
        """Send a PDU."""
        self._unanswered_bytes, self._message_end = 0, math.inf
        with self._connection.within(self._limits.pdu_s, "taking an answer"):
            super().send(bytestream)

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._connection.socket.close()

    def _read_pdu(self) -> bytearray:
        # Some senders count the header, and that of the fragment, out of what they may send.
        longest = {P_DATA: (self.assoc.acceptor.maximum_length or 0) + 2 * HEADER_BYTES}
        longest |= dict.fromkeys((RELEASE_RQ, RELEASE_RP, ABORT), 4)
        now, limits = time.monotonic(), self._limits
        self._message_end = min(self._message_end, now + limits.message_s)
        try:
            if now >= self._message_end:
                raise PduError(f"a message for longer than {limits.message_s} s")
            with self._connection.within(min(limits.pdu_s, self._message_end - now), "a PDU or its message"):
                pdu = read_pdu(self._connection.socket, longest)
            self._unanswered_bytes += len(pdu)
            if self._unanswered_bytes > limits.message_bytes:
                raise PduError(f"a message of more than {limits.message_bytes} bytes")
        # Nothing read is a connection that ended; errors would come with a traceback each into pynetdicom's log.
        except PduError as error:
            self._connection.refuse(error)
            return bytearray()
        except OSError as error:
            log.debug("a connection of %s ended within a PDU: %s", self._connection.host, error)
            return bytearray()
        return pdu


class _Handler(RequestHandler):
    """The beginning of a connection, in a thread of its own: handshake, request, and only then an association."""

    server: NodeServer

    def setup(self) -> None:
        """Find the connection that the server has admitted."""
        self._connection = self.server.connection(self.client_address)
        self.request = self._connection.socket  # wrapped for TLS, which leaves the accepted one empty
        self._association_request = bytearray()

    def handle(self) -> None:
        """Start the association once the peer has asked for one."""
        connection, limits = self._connection, self.server.limits
        try:
            if isinstance(self.request, ssl.SSLSocket):
                with connection.within(limits.handshake_s, "the TLS handshake"):
                    self.request.do_handshake()
            with connection.within(limits.request_s, "the association request"):
                self._association_request = read_pdu(self.request, {ASSOCIATE_RQ: MAX_REQUEST_BYTES})
                if not self._association_request:
                    return
            _check_request(self._association_request)
        except PduError as error:
            connection.refuse(error)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
            log.debug("%s ended its connection before it asked for an association", connection.host)
        except OSError as error:
            log.warning("closed a connection of %s: %s", connection.host, error)
        else:
            super().handle()
            connection.association = self._association

    def finish(self) -> None:
        """Close what has not become an association."""
        if self._connection.association is None:
            self._connection.socket.close()

    def _create_association(self) -> Association:
        association = super()._create_association()
        # The socket takes the place of the plain one, which has told the association of the connection already.
        association.dul.event_queue.get_nowait()
        association.dul.socket = _BoundedSocket(
            association, self._connection, self.server.limits, self._association_request
        )
        self._association = association
        return association


class NodeServer(ThreadedAssociationServer):
    """A server for :meth:`pynetdicom.AE.make_server`.

    Args:
        args: what ``make_server`` passes on.
        tls: how to encrypt; None: in the clear.
        limits: of every connection.
        is_allowed: whether an address may connect.
        kwargs: what ``make_server`` passes on.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,
        tls: ssl.SSLContext | None,
        limits: ConnectionLimits,
        is_allowed: Callable[[str], bool],
        **kwargs: Any,
    ) -> None:
        self._tls = tls
        self.limits = limits
        self._is_allowed = is_allowed
        self._connections: dict[Any, _Connection] = {}
        kwargs["request_handler"] = _Handler
        super().__init__(*args, **kwargs)

    def connection(self, peer: Any) -> _Connection:
        """Return the connection with this address and port at the other end."""
        return self._connections[peer]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Decide by the address alone, before a byte is read, whether a connection is kept."""
        host = client_address[0]
        if not self._is_allowed(host):
            log.warning("closed a connection of %s: its address is not allowed", host)
            return False
        self._forget_closed()
        from_host = sum(connection.host == host for connection in self._connections.values())
        if len(self._connections) >= self.limits.connections or from_host >= self.limits.connections_per_host:
            log.warning("closed a connection of %s: %d are open, %d of it", host, len(self._connections), from_host)
            return False
        if self._tls is not None:
            try:
                request = self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            except (OSError, ValueError) as error:
                log.debug("%s ended its connection before the TLS handshake: %s", host, error)
                return False
        self._connections[client_address] = _Connection(request, host)
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads can be started
            self._connections.pop(client_address).socket.close()
            raise

    def service_actions(self) -> None:
        """Cut what is overdue; the loop that accepts connections calls this."""
        super().service_actions()
        for connection in self._connections.values():
            connection.cut_if_overdue()
        self._forget_closed()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of our own; it costs one connection."""
        log.exception("a connection of %s failed", client_address[0])

    def shutdown(self) -> None:
        """Listen no more; unlike those of ``start_server``, a server of ``make_server`` is in no list of its AE."""
        TCPServer.shutdown(self)
        self.server_close()

    def end(self) -> None:
        """Listen no more, give associations under way their time, and cut what is left."""
        self.shutdown()
        for connection in self._connections.values():
            if connection.association is None:
                connection.cut()
        _wait_while(lambda: self.active_associations, self.limits.stop_s)
        for association in self.active_associations:
            association.abort(block=False)
        _wait_while(lambda: self.active_associations, ABORT_S)
        for connection in self._connections.values():
            connection.cut()
            if connection.association is not None:
                connection.association.dul.kill_dul()
        _wait_while(lambda: self.active_associations, ABORT_S)

    def _forget_closed(self) -> None:
        for peer in [peer for peer, connection in self._connections.items() if connection.close_if_over()]:
            del self._connections[peer]


def read_pdu(sock: socket.socket, longest: Mapping[int, int]) -> bytearray:
    """Return a PDU with its header; nothing if the peer has closed the connection before it.

    Args:
        sock: where to read.
        longest: the types that may come, and how many bytes may follow their headers.

    Raises:
        PduError: another type, or a length beyond that; nothing but the header has been read.
        ConnectionError: the connection ended within the PDU.
    """
    header = bytearray(HEADER_BYTES)
    if not _receive(sock, memoryview(header)):
        return bytearray()
    kind, length = struct.unpack(">BxL", header)
    if kind not in longest:
        raise PduError(f"a PDU of type 0x{kind:02X}, which cannot come here")
    if length > longest[kind]:
        raise PduError(f"a header that claims {length} bytes; at most {longest[kind]} may follow it")
    pdu = header + bytes(length)
    if _receive(sock, memoryview(pdu)[HEADER_BYTES:]) < length:
        raise ConnectionError("the connection ended within a PDU")
    return pdu


def _receive(sock: socket.socket, target: memoryview) -> int:
    """Fill ``target`` and return the number of bytes in it, fewer where the connection ended."""
    count = 0
    while count < len(target) and (received := sock.recv_into(target[count:])):
        count += received
    return count


def _check_request(pdu: bytearray) -> None:
    """Make sure that pynetdicom can read the request: on one that it cannot read it waits for another.

    Raises:
        PduError: it cannot.
    """
    request = A_ASSOCIATE_RQ()
    try:
        request.decode(bytes(pdu))
        request.to_primitive()
    # The decoder raises whatever the bytes of a stranger make it raise.
    except Exception as error:
        raise PduError(f"an association request that cannot be read ({type(error).__name__})") from None
    if request.protocol_version != 1:
        raise PduError(f"an association request of protocol version {request.protocol_version}")


def _wait_while(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(0.02)
