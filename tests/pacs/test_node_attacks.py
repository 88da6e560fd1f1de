"""The DICOM node under attack from its network: peers that hang, drip, lie and flood, on loopback."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from detectors import bundle_of
from node_builders import make_certificate, run_node, wait_for, write_phantoms
from orthanc_server import free_port
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)
from pynetdicom import AE, build_context
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

from cxr_mmdet.pacs.config import Tls
from cxr_mmdet.pacs.listener import MAX_REQUEST_BYTES, ConnectionLimits
from cxr_mmdet.pacs.node import CANNOT_UNDERSTAND, VERIFICATION, DicomNode, parse_networks
from cxr_mmdet.pacs.sender import DimseDestination, NotDeliveredError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "NOBODY@127.0.0.1:9"
SHORT = ConnectionLimits(handshake_s=1, request_s=1, pdu_s=1, message_s=2, message_bytes=1 << 22, stop_s=1)
PATIENT = ConnectionLimits(stop_s=1)
"""For what must be noticed at once, not when a time is over."""
AT_ONCE_S = 5
STOP_S = 10
BUFFERS_BYTES = 1 << 24
"""More than the network holds between two sockets."""
RELEASE_PDU = b"\x05\0" + (4).to_bytes(4, "big") + bytes(4)
HALF_PDU = b"\x04\0" + (1000).to_bytes(4, "big") + bytes(10)


@functools.cache
def association_request(*, version: int = 1) -> bytes:
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = "ATTACKER", "CXR"
    context = build_context(VERIFICATION)
    context.context_id = 1
    request.presentation_context_definition_list = [context]
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 16384, "1.2.3.4"
    request.user_information = [length, implementation]
    pdu = A_ASSOCIATE_RQ(request)
    pdu.protocol_version = version
    return pdu.encode()


def fragment(content: bytes, *, control: int) -> bytes:
    """Return a P-DATA-TF PDU with one fragment; control is 1 for a command, 2 for the last one, 3 for both."""
    item = (len(content) + 2).to_bytes(4, "big") + b"\x01" + bytes([control]) + content
    return b"\x04\0" + len(item).to_bytes(4, "big") + item


def echo_request() -> bytes:
    command = Dataset()
    command.AffectedSOPClassUID = VERIFICATION
    command.CommandField, command.MessageID, command.CommandDataSetType = 0x0030, 1, 0x0101
    elements = encode(command, True, True)
    assert elements is not None
    length = Dataset()
    length.CommandGroupLength = len(elements)
    return fragment((encode(length, True, True) or b"") + elements, control=3)


def connect(port: int, *, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))


def associate(port: int) -> socket.socket:
    """Return a connection with an association."""
    peer = connect(port)
    peer.sendall(association_request())
    assert answer_to(peer) == 0x02, "not accepted"
    return peer


def answer_to(peer: socket.socket) -> int | None:
    """Return the type of the next PDU; None once the node has closed the connection."""
    try:
        header = peer.recv(6, socket.MSG_WAITALL)
        if len(header) < 6:
            return None
        peer.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
    except ConnectionError:
        return None
    return header[0]


def is_closed_within(seconds: float, *peers: socket.socket) -> bool:
    """Return whether the node closes all these connections, with or without an A-ABORT, in this time."""
    end = time.monotonic() + seconds
    for peer in peers:
        peer.settimeout(max(end - time.monotonic(), 0.01))
        try:
            while answer_to(peer) is not None:
                pass
        except TimeoutError:
            return False
    return True


def store(port: int, path: Path, tls: ssl.SSLContext | None = None) -> int | None:
    """Send a radiograph as any good sender does and return the status; None without an association."""
    entity = AE("SENDER")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 10
    entity.add_requested_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
    entity.add_requested_context(dcmread(path, stop_before_pixels=True).SOPClassUID, ExplicitVRLittleEndian)
    tls_args: Any = None if tls is None else (tls, "localhost")
    association = entity.associate("127.0.0.1", port, ae_title="CXR", tls_args=tls_args)
    if not association.is_established:
        return None
    status = association.send_c_store(dcmread(path))
    association.release()
    return status.get("Status")


@pytest.fixture(scope="module")
def radiograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("phantom"), 1)[0]


@contextmanager
def node_that_stops(state: Path, **options: Any) -> Iterator[DicomNode]:
    """Yield a node with short limits, and see to it that it stops in time whatever still hangs."""
    with ExitStack() as stack:
        node = stack.enter_context(run_node(state, NOBODY, **({"limits": SHORT} | options)))
        yield node
        begun = time.monotonic()
        stack.close()
        assert time.monotonic() - begun < STOP_S


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the Debian package openssl")
def test_silent_connections_to_a_tls_node_keep_nobody_out(tmp_path: Path, radiograph: Path):
    certificate, key = make_certificate(tmp_path, "node")
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.check_hostname = False
    with node_that_stops(tmp_path / "state", tls=Tls(cert=certificate, key=key).for_listening()) as node:
        silent, half_hello = connect(node.port), connect(node.port)
        half_hello.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        assert store(node.port, radiograph, trusting) == 0
        assert is_closed_within(5, silent, half_hello)
        in_the_clear = connect(node.port)
        in_the_clear.sendall(association_request())
        assert is_closed_within(5, in_the_clear)
        with trusting.wrap_socket(connect(node.port)) as shaken:
            shaken.sendall(association_request()[:20])
            assert shaken.recv(1) == b""
        still_silent = connect(node.port)
    still_silent.close()


def test_requests_that_do_not_end_take_no_place(tmp_path: Path, radiograph: Path):
    with node_that_stops(tmp_path, max_associations=1) as node:
        halves = [connect(node.port) for _ in range(30)]
        for index, peer in enumerate(halves):
            peer.sendall(association_request()[: index * 5])
        assert store(node.port, radiograph) == 0
        assert is_closed_within(5, *halves)


def test_pdus_that_do_not_end_give_their_place_back(tmp_path: Path, radiograph: Path):
    with node_that_stops(tmp_path, max_associations=11) as node:
        halves = [associate(node.port) for _ in range(11)]
        for peer in halves:
            peer.sendall(HALF_PDU)
        assert store(node.port, radiograph) is None  # they are associations, and take the places they are given
        assert is_closed_within(5, *halves)
        wait_for(lambda: store(node.port, radiograph) == 0, 10)
        associate(node.port).sendall(HALF_PDU)


@pytest.mark.parametrize("begun", [b"", b"an association"], ids=["request", "message"])
def test_a_pdu_that_drips_is_cut(tmp_path: Path, begun: bytes):
    with node_that_stops(tmp_path) as node:
        peer, pdu = (associate(node.port), HALF_PDU) if begun else (connect(node.port), association_request())
        assert drips_until_closed(peer, *[bytes([byte]) for byte in pdu[:100].ljust(100)]) < 8


def test_a_message_of_small_pdus_that_does_not_end_is_cut(tmp_path: Path):
    with node_that_stops(tmp_path) as node:
        assert drips_until_closed(associate(node.port), *100 * [fragment(bytes(10), control=1)]) < 8


def drips_until_closed(peer: socket.socket, *drops: bytes) -> float:
    """Return for how many seconds the node lets a peer send a drop each tenth of a second."""
    start = time.monotonic()
    try:
        for drop in drops:
            peer.sendall(drop)
            time.sleep(0.1)
    except ConnectionError:
        return time.monotonic() - start
    return float("inf")


def test_a_message_without_end_does_not_fill_the_memory(tmp_path: Path):
    with node_that_stops(tmp_path) as node:
        sent = sent_until_closed(associate(node.port), fragment(bytes(100_000), control=1))
        assert sent < SHORT.message_bytes + BUFFERS_BYTES


def test_a_deflated_object_does_not_unpack_to_more_than_may_be_sent(tmp_path: Path):
    """A thousand times its size: ten such objects of 1.5 MB each took 30 GB."""
    bomb = Dataset()
    bomb.SOPClassUID, bomb.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "1.2.3.4"
    bomb.private_block(0x0011, "ACME", create=True).add_new(1, "OB", bytes(SHORT.message_bytes + 2))
    bomb.file_meta = FileMetaDataset()
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with node_that_stops(tmp_path) as node:
        entity = AE("SENDER")
        entity.add_requested_context(bomb.SOPClassUID, DeflatedExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", node.port, ae_title="CXR")
        assert association.is_established
        status = association.send_c_store(bomb)
        association.release()
    assert status.get("Status") == CANNOT_UNDERSTAND
    assert not list((tmp_path / "images").iterdir())


def sent_until_closed(peer: socket.socket, content: bytes, *, at_most: int = 1 << 26) -> int:
    """Return how many bytes the node and the network between took, of a peer that sends as much as it can."""
    sent = 0
    try:
        while sent < at_most:
            sent += peer.send(content)
    except ConnectionError:
        pass
    return sent


def test_a_health_check_that_connects_and_closes_takes_no_place(tmp_path: Path, radiograph: Path):
    with node_that_stops(tmp_path, limits=PATIENT, max_associations=1) as node:
        for _ in range(50):
            connect(node.port).close()
        begun = time.monotonic()
        assert store(node.port, radiograph) == 0
        assert time.monotonic() - begun < AT_ONCE_S


@pytest.mark.parametrize("claimed", [MAX_REQUEST_BYTES + 1, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", [0x01, 0x04, 0x07])
def test_a_length_is_not_believed(tmp_path: Path, kind: int, claimed: int):
    header = bytes([kind, 0]) + max(claimed, (1 << 18) + 100 if kind == 0x04 else 0).to_bytes(4, "big")
    with node_that_stops(tmp_path, limits=PATIENT) as node:
        for start in (connect, associate):
            peer = start(node.port)
            peer.sendall(header)
            assert is_closed_within(AT_ONCE_S, peer)
            peer = start(node.port)
            peer.sendall(header)
            assert sent_until_closed(peer, bytes(1 << 16)) < BUFFERS_BYTES


def test_requests_that_cannot_be_read_take_no_place(tmp_path: Path, radiograph: Path):
    good = association_request()
    junk = [b"\x01\0\0\0\x01\xf4" + b"\xff" * 500, good[:80] + b"\xee" * (len(good) - 80), bytes(6) + good]
    with node_that_stops(tmp_path, limits=PATIENT, max_associations=1) as node:
        peers = [connect(node.port) for _ in range(12)]
        for peer, content in zip(peers, 3 * [*junk, association_request(version=2)], strict=True):
            peer.sendall(content)
        assert store(node.port, radiograph) == 0
        assert is_closed_within(AT_ONCE_S, *peers)


def test_an_address_that_is_not_allowed_is_closed_before_it_sends(tmp_path: Path, radiograph: Path):
    limits = ConnectionLimits(connections_per_host=1)
    with node_that_stops(tmp_path, networks=parse_networks(["127.0.0.1"]), limits=limits) as node:
        strangers = [connect(node.port, source="127.0.0.2") for _ in range(20)]
        assert all(peer.recv(1) == b"" for peer in strangers)
        assert store(node.port, radiograph) == 0


def test_sockets_are_counted_per_host_and_together(tmp_path: Path, radiograph: Path):
    limits = ConnectionLimits(connections_per_host=5, connections=8)
    with node_that_stops(tmp_path, limits=limits) as node:
        first = [connect(node.port, source="127.0.0.2") for _ in range(9)]
        assert is_closed_within(5, *first[5:])
        assert not is_closed_within(0.2, *first[:5])
        assert store(node.port, radiograph) == 0
        second = [connect(node.port, source="127.0.0.3") for _ in range(5)]
        assert is_closed_within(5, *second[3:])
        first[0].close()
        wait_for(lambda: store(node.port, radiograph) == 0, 10)


def test_requests_without_end_are_left_in_the_network(tmp_path: Path, radiograph: Path):
    with node_that_stops(tmp_path) as node:
        peer = associate(node.port)
        peer.settimeout(0.5)
        with pytest.raises(TimeoutError):
            peer.sendall(300_000 * echo_request())
        assert store(node.port, radiograph) == 0


def test_what_is_sent_after_a_rejection_is_not_read(tmp_path: Path, radiograph: Path):
    with node_that_stops(tmp_path, limits=PATIENT, max_associations=1, calling_ae_titles=("SENDER",)) as node:
        peers = [connect(node.port) for _ in range(5)]
        for peer in peers:
            peer.sendall(association_request() + 1000 * RELEASE_PDU)
        assert is_closed_within(AT_ONCE_S, *peers)
        assert store(node.port, radiograph) == 0


def test_the_node_stops_in_time_whatever_hangs(tmp_path: Path):
    with node_that_stops(tmp_path, limits=PATIENT, max_associations=20) as node:
        hanging = [connect(node.port) for _ in range(5)] + [associate(node.port) for _ in range(10)]
        for peer in hanging[2:5]:
            peer.sendall(association_request()[:30])
        for peer in hanging[7:]:
            peer.sendall(HALF_PDU)
    assert is_closed_within(1, *hanging)


def test_two_hundred_associations_at_once(tmp_path: Path):
    with node_that_stops(tmp_path, limits=PATIENT, max_associations=200) as node:
        peers = [associate(node.port) for _ in range(200)]
        one_too_many = connect(node.port)
        one_too_many.sendall(association_request())
        assert answer_to(one_too_many) == 0x03  # rejected
        for peer in peers:
            peer.sendall(echo_request())
        assert [answer_to(peer) for peer in peers] == [0x04] * 200
        for peer in peers:
            peer.sendall(RELEASE_PDU)
        assert [answer_to(peer) for peer in peers] == [0x06] * 200


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
def test_a_destination_that_hangs_within_an_answer_is_given_up(
    drip: bool, radiograph: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cxr_mmdet.pacs.sender.TIMEOUT_S", 1)
    monkeypatch.setattr("cxr_mmdet.pacs.sender.DELIVERY_S", 2)
    over = threading.Event()

    def answer() -> None:
        peer, _ = listener.accept()
        with peer, suppress(ConnectionError):
            peer.recv(1)
            peer.sendall(b"\x02\0\0\0\x01\0")
            while not over.wait(0.2):
                peer.sendall(bytes(drip))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        archive = threading.Thread(target=answer)
        archive.start()
        begun = time.monotonic()
        try:
            with pytest.raises(NotDeliveredError, match="cannot be reached") as caught:
                DimseDestination("ARCHIVE", *listener.getsockname()).send([radiograph])
        finally:
            over.set()
            archive.join()
    assert not caught.value.refused
    assert time.monotonic() - begun < 10


def test_sigterm_ends_the_process_in_time(tmp_path: Path, radiograph: Path):
    """With a destination, too, that accepts the connection of the node and never answers."""
    port, destination = free_port(), socket.create_server(("127.0.0.1", 0))
    command = [sys.executable, str(ROOT / "tools" / "dicom_node.py"), str(bundle_of("retina", "onnx"))]
    command += ["--port", str(port), "--destination", f"HANGS@127.0.0.1:{destination.getsockname()[1]}"]
    command += ["--state", str(tmp_path / "state"), "--score-threshold", "0.85", "--threads", "1"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60)
            assert store(port, radiograph) == 0
            silent, half = connect(port), associate(port)
            half.sendall(HALF_PDU)
            archive, _ = destination.accept()
            assert archive.recv(1) == b"\x01"
            archive.sendall(b"\x02\0\0\0\x01\0")  # the header of an answer that does not come
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            assert is_closed_within(1, silent, half)
        finally:
            process.kill()
