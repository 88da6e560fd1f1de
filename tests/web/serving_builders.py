"""What tests of the page share: phantoms as files, a reading room with a tiny random model."""

from __future__ import annotations

import functools
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from detectors import checkpoint_of

from cxr_mmdet.inference.predictor import Predictor
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import Encoding, write_dicom
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.labels import LABELS_5
from cxr_mmdet.web.examples import draw_examples
from cxr_mmdet.web.room import ReadingRoom
from cxr_mmdet.web.site import build_site, private_uploads

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = tempfile.TemporaryDirectory(prefix="cxr-mmdet-serving-")


@functools.cache
def predictor() -> Predictor:
    """Return a model of five classes that has opinions on everything."""
    return Predictor.load(checkpoint_of("retina"), short_edge=256)


@functools.cache
def phantom_dicom(index: int = 0, size: int = 256, encoding: Encoding | None = None) -> bytes:
    """Return the content of a phantom's DICOM file."""
    case = plan_case(5, index, abnormal_share=1.0, labels=LABELS_5)
    path = Path(_FOLDER.name) / f"{index}-{size}.dicom"
    write_dicom(path, render_phantom(case, size=size), encoding or Encoding(bits_stored=14, used=(0.05, 0.9)))
    return path.read_bytes()


def make_room(**options) -> ReadingRoom:
    """Return a room with that model; close it."""
    return ReadingRoom(predictor(), **options)


@contextmanager
def running_site(
    room: ReadingRoom, *, examples: int = 1, users: dict[str, str] | None = None, hosts=None
) -> Iterator[str]:
    """Serve the page of a room on a free port of this machine; yield its address."""
    with private_uploads(), socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        site = build_site(room, draw_examples(room.class_names, count=examples, size=256), users, hosts=hosts)
        server = uvicorn.Server(uvicorn.Config(site, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
