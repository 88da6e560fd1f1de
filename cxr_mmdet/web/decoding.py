"""Decoding in processes of their own: a file that crashes or stalls a codec costs a sentence, not the service."""

from __future__ import annotations

import multiprocessing
import queue
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydicom import DataElement, Dataset, Sequence
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue

from cxr_mmdet.dicom.identity import hash_content, hash_pixels
from cxr_mmdet.dicom.pictures import picture_format
from cxr_mmdet.dicom.source import PIXEL_KEYWORDS, parse_dataset
from cxr_mmdet.dicom.viewing import read_viewable
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    from cxr_mmdet.dicom.radiograph import Radiograph
    from cxr_mmdet.dicom.viewing import Viewable
    from cxr_mmdet.web.uploads import Upload

MEMORY_BYTES = 6 << 30
"""Address space of a worker: several times the largest radiograph, less than what would starve the service."""

MAX_ATTRIBUTE_BYTES = 256 << 10
"""Twice the largest lookup table."""

MAX_HEADER_BYTES = 2 << 20
"""Of all attributes of a radiograph that is held."""

_CURVES_AND_OVERLAYS = frozenset({0x50, 0x60})
_OBJECT_BYTES = 200


@dataclass(frozen=True, eq=False)
class Decoded:
    """A radiograph for the model, for the eye and for the archive.

    Attributes:
        radiograph: as its file asks it to be shown.
        viewable: its values at full depth.
        header: the DICOM attributes without pixels and what is large; None for pictures.
        content_sha256: of the file.
        pixels_sha256: see :func:`cxr_mmdet.dicom.identity.hash_pixels`.
        header_bytes: memory that the header takes.
    """

    radiograph: Radiograph = field(repr=False)
    viewable: Viewable = field(repr=False)
    header: Dataset | None = field(repr=False)
    content_sha256: str
    pixels_sha256: str
    header_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.viewable.nbytes + self.radiograph.pixels.nbytes + self.header_bytes


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
    with warnings.catch_warnings():
        # pydicom remarks on every oddity; what matters of it is in the radiograph's own warnings.
        warnings.simplefilter("ignore")
        radiograph, viewable = read_viewable(content, name, max_pixels=max_pixels)
        header, size = (None, 0) if picture_format(content) else _header(parse_dataset(content, name))
    return Decoded(radiograph, viewable, header, hash_content(content), hash_pixels(radiograph.pixels), size)


def _header(dataset: Dataset) -> tuple[Dataset, int]:
    """Return the attributes that reports and captures are made from, and the bytes they take.

    A new dataset, since the one that was read keeps the whole file. What is private, an overlay or large goes, the
    largest first: nothing that names the patient and the study is.
    """
    sizes = {
        tag: _size(dataset.get_item(tag))
        for tag in dataset.keys()  # noqa: SIM118 - iterating a dataset converts its values
        if not tag.is_private
        and tag.group >> 8 not in _CURVES_AND_OVERLAYS
        and keyword_for_tag(tag) not in PIXEL_KEYWORDS
    }
    header, total = Dataset(), 0
    kept = []
    for tag in sorted(sizes, key=lambda tag: (sizes[tag], tag)):
        if sizes[tag] > MAX_ATTRIBUTE_BYTES or total + sizes[tag] > MAX_HEADER_BYTES:
            break
        total += sizes[tag]
        kept.append(tag)
    header.update({tag: dataset.get_item(tag) for tag in sorted(kept)})
    is_implicit, is_little = dataset.original_encoding
    header.set_original_encoding(is_implicit, is_little, dataset.original_character_set)
    if hasattr(dataset, "file_meta"):
        header.file_meta = dataset.file_meta
    return header, total


def _size(value: Any) -> int:
    """Return the bytes that an attribute takes, its sequence's items and what a Python object takes included."""
    if isinstance(value, (DataElement, RawDataElement)):
        return _OBJECT_BYTES + _size(value.value)
    if isinstance(value, Dataset):
        return sum(_size(value.get_item(tag)) for tag in value.keys())  # noqa: SIM118
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, (list, Sequence, MultiValue)):
        return sum(_OBJECT_BYTES + _size(each) for each in value)
    return _OBJECT_BYTES
