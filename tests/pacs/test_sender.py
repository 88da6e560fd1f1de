"""Destinations as users write them, and what an archive's answers mean."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread
from pydicom.filereader import read_partial
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.dimse import DIMSEServiceProvider

from cxr_mmdet.dicom.report import to_bytes
from cxr_mmdet.errors import UsageError
from cxr_mmdet.pacs import sender
from cxr_mmdet.pacs.sender import DimseDestination, NotDeliveredError, check_ae_title

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ARCHIVE@10.0.0.5:104", ("ARCHIVE", "10.0.0.5", 104)),
        ("OUR PACS@pacs.example.org:11112", ("OUR PACS", "pacs.example.org", 11112)),
        ("A@B@host:1", ("A@B", "host", 1)),  # an AE title may hold an @
        ("A@[::1]:104", ("A", "::1", 104)),
    ],
)
def test_destinations(text: str, expected: tuple[str, str, int]):
    destination = DimseDestination.parse(text)
    assert (destination.ae_title, destination.host, destination.port) == expected


@pytest.mark.parametrize(
    "text", ["", "ARCHIVE", "host:104", "A@host", "A@host:x", "A@host:0", "A@host:65536", "A@:104"]
)
def test_what_is_no_destination(text: str):
    with pytest.raises(UsageError, match="AE@host:port"):
        DimseDestination.parse(text)


@pytest.mark.parametrize("title", ["", "  ", "x" * 17, "a\\b", "tür"])
def test_what_is_no_ae_title(title: str):
    with pytest.raises(ValueError, match="an AE title of 1 to 16 ASCII characters"):
        check_ae_title(title)
    with pytest.raises(UsageError, match="an AE title of 1 to 16" if title else "form AE@host:port|an AE title"):
        DimseDestination.parse(f"{title}@host:104")


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    import numpy as np
    from node_builders import FINDINGS, HEADER

    from cxr_mmdet.dicom.report import secondary_capture

    path = tmp_path / "sc.dcm"
    path.write_bytes(to_bytes(secondary_capture(np.zeros((4, 4, 3), np.uint8), FINDINGS, HEADER)))
    return path


@pytest.fixture
def archive() -> Iterator[Callable[[int], DimseDestination]]:
    """Return a function that starts an archive which answers each C-STORE with a status."""
    servers = []

    def start(status: int, sop_class: str = SecondaryCaptureImageStorage) -> DimseDestination:
        entity = AE("ARCHIVE")
        entity.add_supported_context(sop_class)
        handlers = [(evt.EVT_C_STORE, lambda event: status)]
        servers.append(entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers))
        return DimseDestination("ARCHIVE", "127.0.0.1", servers[-1].server_address[1])

    yield start
    for server in servers:
        server.shutdown()


Arrival = tuple[str, bytes]
"""The transfer syntax of an object and its bytes, as they arrived."""


@pytest.fixture
def listener() -> Iterator[Callable[..., tuple[DimseDestination, list[Arrival]]]]:
    """Return a function that starts an archive of some syntaxes, and a list of what arrives there."""
    servers = []

    def start(syntaxes: list[str], max_pdu: int = 16382) -> tuple[DimseDestination, list[Arrival]]:
        arrivals: list[Arrival] = []

        def take(event: evt.Event) -> int:
            arrivals.append((str(event.context.transfer_syntax), event.encoded_dataset(include_meta=False)))
            return 0x0000

        entity = AE("ARCHIVE")
        entity.maximum_pdu_size = max_pdu
        entity.add_supported_context(SecondaryCaptureImageStorage, syntaxes)
        servers.append(entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)]))
        return DimseDestination("ARCHIVE", "127.0.0.1", servers[-1].server_address[1]), arrivals

    yield start
    for server in servers:
        server.shutdown()


def dataset_bytes(path: Path) -> bytes:
    """Return what follows the file meta information."""
    with path.open("rb") as file:
        read_partial(file, stop_when=lambda tag, vr, length: tag.group > 2)
        return file.read()


@pytest.mark.parametrize("max_pdu", [1024, 16382, 1 << 18, 0], ids=lambda size: f"pdu-{size or 'unlimited'}")
@pytest.mark.parametrize(
    "syntaxes",
    [
        [ExplicitVRLittleEndian],
        [ImplicitVRLittleEndian, ExplicitVRLittleEndian],  # of two in one context it would take the first
    ],
)
def test_the_bytes_that_arrive_are_those_of_the_file(listener, tmp_path: Path, max_pdu: int, syntaxes: list[str]):
    import numpy as np
    from node_builders import FINDINGS, HEADER

    from cxr_mmdet.dicom.report import secondary_capture

    path = tmp_path / "sc.dcm"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 101, 3), dtype=np.uint8)
    path.write_bytes(to_bytes(secondary_capture(pixels, FINDINGS, HEADER)))
    destination, arrivals = listener(syntaxes, max_pdu)
    destination.send([path])
    ((syntax, content),) = arrivals
    assert syntax == ExplicitVRLittleEndian
    assert content == dataset_bytes(path)
    assert all(row.tobytes() in content for row in pixels)


def test_an_archive_that_knows_implicit_vr_only_gets_the_same_object(listener, capture: Path):
    from io import BytesIO

    destination, arrivals = listener([ImplicitVRLittleEndian])
    destination.send([capture])
    ((syntax, content),) = arrivals
    assert syntax == ImplicitVRLittleEndian
    assert content != dataset_bytes(capture)
    sent = dcmread(capture)
    arrived = dcmread(BytesIO(content), force=True)
    assert [(element.tag, element.value) for element in arrived] == [(element.tag, element.value) for element in sent]


@pytest.fixture
def jpeg_capture(tmp_path: Path) -> Path:
    import numpy as np
    from node_builders import FINDINGS, HEADER

    from cxr_mmdet.dicom.report import secondary_capture

    path = tmp_path / "jpeg.dcm"
    image = np.zeros((40, 61, 3), np.uint8)
    image[10:30, 10:40] = (250, 180, 20)
    path.write_bytes(to_bytes(secondary_capture(image, FINDINGS, HEADER, jpeg_quality=95)))
    return path


def test_a_compressed_capture_arrives_as_it_lies_where_it_is_welcome(listener, jpeg_capture: Path):
    destination, arrivals = listener([ImplicitVRLittleEndian, JPEGBaseline8Bit])
    destination.send([jpeg_capture])
    assert arrivals == [(JPEGBaseline8Bit, dataset_bytes(jpeg_capture))]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_archive_without_jpeg_gets_the_image_uncompressed(listener, jpeg_capture: Path, syntax: str):
    """pydicom's own decoder says what the image is."""
    import numpy as np
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filereader import read_dataset

    destination, arrivals = listener([syntax])
    destination.send([jpeg_capture])
    ((arrived_as, content),) = arrivals
    assert arrived_as == syntax
    arrived = read_dataset(DicomBytesIO(content), syntax == ImplicitVRLittleEndian, is_little_endian=True)
    arrived.file_meta = FileMetaDataset()
    arrived.file_meta.TransferSyntaxUID = syntax
    assert arrived.PhotometricInterpretation == "RGB"
    assert arrived.LossyImageCompression == "01"
    expected = dcmread(jpeg_capture).pixel_array
    assert np.abs(arrived.pixel_array.astype(int) - expected).max() <= 3  # two decoders


def test_all_results_go_through_one_association(listener, capture: Path):
    destination, arrivals = listener([ExplicitVRLittleEndian])
    destination.send([capture, capture])
    assert [content for _, content in arrivals] == [dataset_bytes(capture)] * 2


def test_an_answer_is_not_lost_where_threads_wake_late(listener, capture: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a machine whose processors predict: one answer in some dozens was lost, and the archive called silent."""
    pass_by, get = sender._Checkpoint.wait, DIMSEServiceProvider.get_msg

    def pass_late(self: threading.Event, timeout: float | None = None) -> bool:
        is_open = pass_by(self, timeout)  # type: ignore[arg-type]
        time.sleep(0.1)
        return is_open

    def get_late(self: DIMSEServiceProvider, block: bool = False) -> object:
        time.sleep(0.3 * block)
        return get(self, block)

    monkeypatch.setattr(sender._Checkpoint, "wait", pass_late)
    monkeypatch.setattr(DIMSEServiceProvider, "get_msg", get_late)
    destination, arrivals = listener([ExplicitVRLittleEndian])
    destination.send([capture, capture])
    assert len(arrivals) == 2


def test_nobody_passes_a_checkpoint_that_is_closed():
    """Not a thread that came near while it was open either: closing it returns when the thread stands."""
    passed, ended = [], threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            checkpoint.wait()
            time.sleep(0.01)  # woken late
            passed.append(None)

    thread = threading.Thread(target=come_and_go, daemon=True)
    checkpoint = sender._Checkpoint(thread)
    thread.start()
    for turn in range(20):
        checkpoint.clear()
        before = len(passed)
        time.sleep(0.03)
        assert len(passed) == before
        checkpoint.set()
        while turn % 2 and len(passed) == before:  # else closed again before the thread wakes
            time.sleep(0.001)
    ended.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_checkpoint_does_not_wait_for_a_thread_that_ended():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    sender._Checkpoint(thread).clear()


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB007, 0x0111])
def test_stored_with_a_remark_or_there_already_is_delivered(archive, capture: Path, status: int):
    archive(status).send([capture])


@pytest.mark.parametrize(("status", "refused"), [(0xA700, False), (0xA900, True), (0xC000, True), (0x0124, True)])
def test_a_refusal_is_told_from_a_lack_of_room(archive, capture: Path, status: int, refused: bool):
    with pytest.raises(NotDeliveredError, match=f"refused a Secondary Capture .* 0x{status:04X}") as caught:
        archive(status).send([capture])
    assert caught.value.refused is refused
    assert caught.value.busy is (status == 0xA700)


def test_an_archive_that_takes_other_objects_only(archive, capture: Path):
    with pytest.raises(NotDeliveredError, match="accept") as caught:
        archive(0, "1.2.840.10008.5.1.4.1.1.2").send([capture])
    assert caught.value.refused


def test_an_archive_that_is_not_there(capture: Path):
    with pytest.raises(NotDeliveredError, match="cannot be reached") as caught:
        DimseDestination("ARCHIVE", "127.0.0.1", 9).send([capture])
    assert not caught.value.refused


def test_an_archive_with_too_many_associations_is_tried_again(capture: Path):
    entity = AE("ARCHIVE")
    entity.maximum_associations = 1
    entity.add_supported_context(SecondaryCaptureImageStorage)
    server = entity.start_server(("127.0.0.1", 0), block=False)
    port = server.server_address[1]
    other = AE("OTHER")
    other.add_requested_context(SecondaryCaptureImageStorage)
    association = other.associate("127.0.0.1", port)
    with pytest.raises(NotDeliveredError, match="rejected the association") as caught:
        DimseDestination("ARCHIVE", "127.0.0.1", port).send([capture])
    assert not caught.value.refused
    association.release()
    server.shutdown()
