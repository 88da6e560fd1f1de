"""From DICOM to prepared image: ours, the usual script and the bare codec, turn by turn on the same files."""

from __future__ import annotations

import tempfile
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    generate_uid,
)

from benchmarks.harness import Alternative, Comparison, compare
from cxr_mmdet.memory import peak_bytes
from cxr_mmdet.parallel import map_unordered
from cxr_mmdet.phantom import plan_case, render_phantom
from cxr_mmdet.preparation.images import prepare_image
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from benchmarks.harness import Progress

SCRIPT = "usual script"
OURS = "cxr_mmdet"
REDUCED = "ours, reduced"
CODEC = "bare codec"

SHORT_EDGE = 1024
TASKS_A_WORKER = 4


@dataclass(frozen=True)
class Encoding:
    """A transfer syntax, how its frames are made, and the bare call that decodes one; without it there is no codec."""

    name: str
    syntax: UID
    encode: Callable[[NDArray[np.uint16]], Any] | None = None
    decode: Callable[[bytes], Any] | None = None


ENCODINGS = (
    Encoding("uncompressed", ExplicitVRLittleEndian),
    Encoding(
        "JPEG 2000 lossless",
        JPEG2000Lossless,
        partial(imagecodecs.jpeg2k_encode, level=0, codecformat="J2K", reversible=True),
        partial(imagecodecs.jpeg2k_decode, numthreads=1),
    ),
    Encoding(
        "JPEG lossless",
        JPEGLosslessSV1,
        partial(imagecodecs.jpeg8_encode, bitspersample=16, lossless=True),
        imagecodecs.jpeg8_decode,
    ),
)


@dataclass(frozen=True)
class RadiographsReport:
    """The comparisons, and the peak of a worker's resident memory in bytes; None where it cannot be read."""

    comparisons: tuple[Comparison, ...]
    worker_peak_bytes: int | None


def benchmark_radiographs(
    *,
    size_hw: tuple[int, int] = (3000, 2500),
    images: int = 2,
    rounds: int = 5,
    workers: int = 2,
    memory: bool = False,
    progress: Progress | None = None,
) -> RadiographsReport:
    """Time the way from a 16-bit DICOM file to an 8-bit PNG with a shorter side of 1024 pixels, on one core.

    Args:
        size_hw: of the images, which are phantoms.
        images: different ones; a round takes each of them once.
        rounds: timed rounds of each comparison.
        workers: processes whose speed is compared with one's by the clock; 1 leaves that out.
        memory: whether to measure each alternative's resident memory as well.
        progress: called with the rounds just done and all of one comparison.
    """
    stored = [phantom_pixels(case, size_hw) for case in range(images)]
    with tempfile.TemporaryDirectory() as name, one_opencv_thread():
        folder = Path(name)
        comparisons = []
        paths: list[Path] = []
        for encoding in ENCODINGS:
            files = [
                write_dicom(folder / f"{encoding.syntax}-{i}.dcm", each, encoding) for i, each in enumerate(stored)
            ]
            comparisons += _compare(encoding, files, rounds=rounds, memory=memory, progress=progress)
            paths += files
        peak = None
        if workers > 1:
            tasks = [(path, folder) for path in paths * max(1, workers * TASKS_A_WORKER // len(paths))]
            comparisons.append(_compare_workers(tasks, workers, rounds, progress))
            peak = max((each for each in map_unordered(_prepare, tasks, jobs=workers) if each), default=None)
    return RadiographsReport(tuple(comparisons), peak)


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV to one thread, as in a worker."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def usual_script(path: Path, target: Path, short_edge: int = SHORT_EDGE) -> None:
    """Do what scripts for this task do: pydicom's pixels and window, min-max, Pillow's resizing and PNG."""
    dataset = dcmread(path)
    values = apply_voi_lut(dataset.pixel_array, dataset).astype(np.float64)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = values.max() - values
    values = (values - values.min()) / (values.max() - values.min())
    image = Image.fromarray((values * 255).astype(np.uint8))
    scale = min(1.0, short_edge / min(image.size))
    image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS).save(target)


def _compare(
    encoding: Encoding, files: Sequence[Path], *, rounds: int, memory: bool, progress: Progress | None
) -> list[Comparison]:
    """Return ours against the script, and, of the same rounds, against the bare codec."""
    folder = files[0].parent
    works: dict[str, Callable[[Path], object]] = {
        SCRIPT: lambda path: usual_script(path, folder / "script.png"),
        OURS: lambda path: prepare_image("ours", path, folder, SHORT_EDGE),
    }
    if encoding.syntax == JPEG2000Lossless:
        works[REDUCED] = lambda path: prepare_image("ours", path, folder, SHORT_EDGE, reduced_jpeg2000=True)
    if encoding.decode is not None:
        frames = {path: get_frame(dcmread(path).PixelData, 0, number_of_frames=1) for path in files}
        decode = encoding.decode
        works[CODEC] = lambda path: decode(frames[path])
    comparison = compare(
        f"Preparing radiographs, {encoding.name}",
        [Alternative(name, partial(_each, work, files)) for name, work in works.items()],
        item="image",
        items_per_round=len(files),
        rounds=rounds,
        memory=memory,
        progress=progress,
    )
    if encoding.decode is None:
        return [comparison]
    by_name = {entry.name: entry for entry in comparison.timings}
    title = f"Against the bare codec, {encoding.name}"
    return [comparison, Comparison(title, comparison.item, (by_name[CODEC], by_name[OURS]), comparison.clock)]


def _compare_workers(
    tasks: Sequence[tuple[Path, Path]], workers: int, rounds: int, progress: Progress | None
) -> Comparison:
    def run(jobs: int, turn: int) -> None:
        deque(map_unordered(_prepare, tasks, jobs=jobs), maxlen=0)

    return compare(
        "Preparing radiographs of all three",
        [Alternative("1 worker", partial(run, 1)), Alternative(f"{workers} workers", partial(run, workers))],
        item="image",
        items_per_round=len(tasks),
        rounds=rounds,
        clock="wall_s",
        progress=progress,
    )


def _each(work: Callable[[Path], object], files: Sequence[Path], _: int) -> None:
    for path in files:
        work(path)


def _prepare(path: Path, folder: Path) -> int | None:
    """Prepare an image and return the peak of this process's resident memory, None where the kernel does not count."""
    prepare_image(path.stem, path, folder, SHORT_EDGE)
    return peak_bytes()


def phantom_pixels(case: int, size_hw: tuple[int, int]) -> NDArray[np.uint16]:
    """Return the pixels of a phantom, over the full range of 16 bits."""
    height, width = size_hw
    image = render_phantom(plan_case(0, case, abnormal_share=1, labels=LABELS_14), size=width).image
    image = np.pad(image, ((0, max(0, height - len(image))), (0, 0)), mode="reflect")[:height, :width]
    return np.rint(np.clip(image, 0, 1) * 65535).astype(np.uint16)


def write_dicom(path: Path, stored: NDArray[np.uint16], encoding: Encoding) -> Path:
    """Write a radiograph of 16 bits; return its path."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = encoding.syntax
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME1", 0
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.WindowCenter, dataset.WindowWidth = 32768, 60000
    dataset.PixelData = stored.tobytes() if encoding.encode is None else encapsulate([encoding.encode(stored)])
    dataset["PixelData"].VR = "OW" if encoding.encode is None else "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path
