"""Peer of a DICOM node in its own process: sends radiographs and counts the results that come back."""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, dcmread
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, evt

from cxr_mmdet.errors import CxrError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

NODE_TITLE, PEER_TITLE = "CXR", "PEER"
RESULTS = (ComprehensiveSRStorage, SecondaryCaptureImageStorage)
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit]
PATIENCE_S = 120
"""Seconds without an arrival after which the node counts as stuck."""


@dataclass(frozen=True)
class DicomPeer:
    """A running peer.

    Attributes:
        port: where it accepts results.
    """

    port: int
    _orders: Connection

    def send(self, node_port: int, count: int, *, wait: bool) -> None:
        """Send the first radiographs as new ones to the node at this port of this machine.

        Args:
            node_port: the node's.
            count: number of radiographs.
            wait: whether to return only when a report and a capture of each have come back.

        Raises:
            CxrError: a radiograph was refused, or results stayed away.
        """
        self._orders.send((node_port, count, wait))
        problem = self._orders.recv()
        if problem:
            raise CxrError(problem)


@contextmanager
def run_peer(paths: Sequence[Path]) -> Iterator[DicomPeer]:
    """Yield a peer that holds these DICOM files in memory; it ends afterwards."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, [str(path) for path in paths]), daemon=True)
    process.start()
    theirs.close()
    try:
        yield DicomPeer(ours.recv(), ours)
    finally:
        ours.close()  # tells the peer to end
        process.join(10)
        if process.is_alive():
            process.terminate()


class _Arrivals:
    """Counts what has been stored; safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    def add(self, event: evt.Event) -> int:
        """Take an object, as an archive would: whole, and answered when it is taken."""
        event.encoded_dataset()
        with self._changed:
            self._count += 1
            self._changed.notify_all()
        return 0x0000

    def wait_for(self, count: int) -> str:
        """Wait for ``count`` objects, forget them, and return the errors."""
        with self._changed:
            while (before := self._count) < count:
                if not self._changed.wait(PATIENCE_S) and self._count == before:
                    return f"{before} of {count} results came back, then none for {PATIENCE_S} s; see the node's log."
            self._count -= count
        return ""


def _serve(orders: Connection, paths: Sequence[str]) -> None:
    datasets = [dcmread(path) for path in paths]
    arrivals = _Arrivals()
    archive = AE(PEER_TITLE)
    for sop_class in RESULTS:
        archive.add_supported_context(sop_class, _SYNTAXES)
    handlers: list[Any] = [(evt.EVT_C_STORE, arrivals.add)]
    server = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None  # it does not block
    orders.send(int(server.server_address[1]))
    try:
        while True:
            port, count, wait = orders.recv()
            problem = _send_all(datasets[:count], port)
            if wait and not problem:
                problem = arrivals.wait_for(len(RESULTS) * count)
            orders.send(problem)
    except EOFError:
        server.shutdown()


def _send_all(datasets: Sequence[Dataset], port: int) -> str:
    """Send all in one association, as a modality does, and return what went wrong."""
    entity = AE(PEER_TITLE)
    for dataset in datasets:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for sop_class, syntax in {(str(each.SOPClassUID), str(each.file_meta.TransferSyntaxUID)) for each in datasets}:
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate("127.0.0.1", port, ae_title=NODE_TITLE)
    if not association.is_established:
        return "the node rejected the association."
    try:
        for dataset in datasets:
            status = association.send_c_store(dataset).get("Status")
            if status != 0x0000:
                return f"the node answered a radiograph with status {status}."
    finally:
        association.release()
    return ""
