"""Decoding in processes of their own: a file that crashes or stalls a codec costs a sentence, not the service."""

from __future__ import annotations

import multiprocessing
import queue
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_mmdet.dicom.identity import hash_content, hash_pixels
from cxr_mmdet.dicom.source import quiet_pydicom, size_in_memory
from cxr_mmdet.dicom.viewing import read_viewable
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.dicom.viewing import Viewable
    from cxr_mmdet.web.uploads import Upload

MEMORY_BYTES = 6 << 30
"""Address space of a worker: several times the largest radiograph, less than what would starve the service."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A radiograph for the model, for the eye and for the archive.

    Attributes:
        radiograph: as its file asks it to be shown.
        viewable: its values at full depth.
        content_sha256: of the file.
        pixels_sha256: see :func:`cxr_mmdet.dicom.identity.hash_pixels`.
        nbytes: memory that it takes; fixed, since reading an attribute changes what the header takes.
    """

    radiograph: Radiograph = field(repr=False)
    viewable: Viewable = field(repr=False)
    content_sha256: str
    pixels_sha256: str
    nbytes: int


class DecodingPool:
    """Worker processes that decode uploads; may be used from several threads at once.

    Args:
        workers: processes.
        seconds: after which a file is given up.
        max_pixels: of one radiograph.
    """

    def __init__(self, *, workers: int = 1, seconds: float = 60.0, max_pixels: int = 60_000_000) -> None:
        self._seconds = seconds
        self._max_pixels = max_pixels
        # A pool a worker: when a file takes its process down, no other file goes with it.
        self._free: queue.Queue[_Worker] = queue.Queue()
        self._workers = [_Worker() for _ in range(workers)]
        for worker in self._workers:
            self._free.put(worker)

    def decode(self, upload: Upload) -> Decoded:
        """Return the radiograph.

        Raises:
            DicomError: it is none, or decoding it crashed, stalled or wanted too much memory.
        """
        worker = self._free.get()
        try:
            return worker.run(upload, self._max_pixels, self._seconds)
        finally:
            self._free.put(worker)

    def warm_up(self) -> None:
        """Start the processes, so that the first visitor does not wait for them."""
        for worker in self._workers:
            worker.start().submit(_ready)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process, started when first needed and again after it was lost."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked: the service has threads and a model, which a copy could not use.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_limit_memory)
        return self._pool

    def run(self, upload: Upload, max_pixels: int, seconds: float) -> Decoded:
        try:
            return self.start().submit(_decode, upload.content, upload.name, max_pixels).result(seconds)
        except BrokenProcessPool:
            self.stop()
            raise DicomError(f"{upload.name}: decoding it failed badly; the file is damaged or hostile.") from None
        except (FutureTimeoutError, TimeoutError):
            self.stop()
            raise DicomError(f"{upload.name}: decoding it takes over {seconds:g} s and was given up.") from None
        except MemoryError:
            raise DicomError(f"{upload.name}: decoding it takes more memory than a radiograph may.") from None

    def stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows knows no such limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _ready() -> None:
    """Do nothing: this module and all that it needs are loaded by then."""


def _decode(content: bytes, name: str, max_pixels: int) -> Decoded:
    with quiet_pydicom():
        radiograph, viewable = read_viewable(content, name, max_pixels=max_pixels)
        header_bytes = 0 if radiograph.header is None else size_in_memory(radiograph.header)
    return Decoded(
        radiograph,
        viewable,
        hash_content(content),
        hash_pixels(radiograph.pixels),
        viewable.nbytes + radiograph.pixels.nbytes + header_bytes,
    )
