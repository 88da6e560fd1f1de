"""A folder of phantoms as VinBigData lays it out: ``train/*.dicom``, ``train.csv``, and the truth beside it."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.files import write_csv
from cxr_mmdet.parallel import map_unordered
from cxr_mmdet.phantom.cases import plan_case
from cxr_mmdet.phantom.dicom_file import draw_encoding, image_id, write_dicom
from cxr_mmdet.phantom.organs import ORGANS
from cxr_mmdet.phantom.patient import patient_number
from cxr_mmdet.phantom.readers import POOL, draw_pool, read
from cxr_mmdet.phantom.render import render_phantom
from cxr_mmdet.structures.enums import PhantomReaders
from cxr_mmdet.structures.labels import LABELS_14, NO_FINDING, NO_FINDING_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from cxr_mmdet.phantom.scene import Box

    Row = tuple[str, str, int, str, float | None, float | None, float | None, float | None]

COLUMNS = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")
TRUTH = "truth"
CLASSES = (*LABELS_14, NO_FINDING, *ORGANS)
"""Names in the order of their ``class_id``."""
SMALLEST_SIZE, LARGEST_SIZE = 128, 4096


@dataclass(frozen=True)
class PhantomSummary:
    """Summary of the written radiographs.

    Attributes:
        path: the folder.
        images: how many.
        patients: how many.
        abnormal_images: images with at least one finding.
        truth_boxes: boxes drawn, by label, in the labels' order.
        reader_boxes: boxes of all readers, likewise.
    """

    path: Path
    images: int
    patients: int
    abnormal_images: int
    truth_boxes: dict[str, int]
    reader_boxes: dict[str, int]


@dataclass(frozen=True)
class _Job:
    out: Path
    seed: int
    size: int
    abnormal_share: float
    readers: int
    labels: tuple[str, ...]
    reader_kind: PhantomReaders
    anatomy: bool
    bedside_share: float


def write_phantoms(
    out: Path,
    *,
    images: int,
    seed: int,
    size: int = 1024,
    abnormal_share: float = 0.3,
    readers: int = 3,
    jobs: int = 1,
    labels: Sequence[str] = LABELS_14,
    reader_kind: PhantomReaders = PhantomReaders.PLAIN,
    anatomy: bool = False,
    bedside_share: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomSummary:
    """Write synthetic radiographs with known findings; the same arguments give the same bytes, whatever ``jobs`` is.

    Image ``i`` depends on the seed and ``i`` only, so a larger set begins with the smaller one.

    Args:
        out: folder to make; it must not exist or be empty.
        images: how many.
        seed: not negative.
        size: short edge in pixels.
        abnormal_share: share of patients with findings, 0…1.
        readers: readers per image.
        jobs: worker processes; -1 starts one per core.
        labels: findings that occur, a subset of the 14.
        reader_kind: habits of the readers.
        anatomy: let the tables hold the organs as well, exactly as drawn for every reader; see
            :data:`~cxr_mmdet.phantom.organs.ORGANS`.
        bedside_share: share of patients imaged at the bedside, with pneumonias, 0…1.
        progress: called with the number of images just drawn, and of all.

    Raises:
        UsageError: an argument is out of range, or the folder holds something.
        OSError: the disk is full; nothing is left in the folder.
        CxrError: a worker was killed; likewise.
    """
    known = tuple(label for label in LABELS_14 if label in labels)
    job = _Job(out, seed, size, abnormal_share, readers, known, reader_kind, anatomy, bedside_share)
    _check(job, images, jobs, labels)
    # From the first moment the folder can be told from somebody's radiographs, so --force may clear an interrupted one.
    write_csv(out / "truth.csv", COLUMNS, [])
    rows: dict[int, tuple[list[Row], list[Row]]] = {}
    try:
        with closing(map_unordered(_write_one, [(job, index) for index in range(images)], jobs=jobs)) as written:
            for index, truth_rows, reader_rows in written:
                rows[index] = truth_rows, reader_rows
                if progress is not None:
                    progress(1, images)
        truth = [row for index in range(images) for row in rows[index][0]]
        marks = [row for index in range(images) for row in rows[index][1]]
        write_csv(out / "truth.csv", COLUMNS, truth)
        # Last, for with it the folder is one to build from.
        write_csv(out / "train.csv", COLUMNS, marks)
    except (OSError, CxrError):
        # The disk is full or a worker was killed: half a set is of no use, and would be in the way of the next try.
        remove_phantoms(out)
        raise
    classes = (*job.labels, *ORGANS) if anatomy else job.labels
    return PhantomSummary(
        path=out,
        images=images,
        patients=len({patient_number(seed, index) for index in range(images)}),
        abnormal_images=len({row[0] for row in truth if row[1] in LABELS_14}),
        truth_boxes=_count(truth, classes),
        reader_boxes=_count(marks, classes),
    )


def remove_phantoms(out: Path) -> None:
    """Remove what :func:`write_phantoms` wrote, and nothing else."""
    shutil.rmtree(out / "train", ignore_errors=True)
    for name in ("train.csv", "truth.csv"):
        (out / name).unlink(missing_ok=True)


def _check(job: _Job, images: int, jobs: int, labels: Sequence[str]) -> None:
    unknown = [label for label in labels if label not in LABELS_14]
    problems = (
        (images < 1, f"--images {images}: at least one image is needed."),
        (job.seed < 0, f"--seed {job.seed}: seeds are whole numbers from 0."),
        (
            not SMALLEST_SIZE <= job.size <= LARGEST_SIZE,
            f"--size {job.size}: the short edge must be between {SMALLEST_SIZE} and {LARGEST_SIZE} pixels.",
        ),
        *(
            (not 0 <= share <= 1, f"{option} {share}: a share is a number from 0 to 1.")
            for option, share in (("--abnormal-share", job.abnormal_share), ("--bedside-share", job.bedside_share))
        ),
        (
            not 1 <= job.readers <= len(POOL),
            f"--readers {job.readers}: the pool holds {len(POOL)}; ask for 1 to {len(POOL)}.",
        ),
        (jobs == 0, "--jobs 0: ask for 1 or more processes, or -1 for one a core."),
        (
            bool(unknown),
            f"--labels: {', '.join(map(repr, unknown))} cannot be drawn; choose from {', '.join(LABELS_14)}.",
        ),
        (not labels, "--labels: no finding is named; name at least one of the 14."),
        (
            job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())),
            f"{job.out}: is there and not an empty folder; name another one, or remove it first (--force).",
        ),
    )
    for wrong, message in problems:
        if wrong:
            raise UsageError(message)


def _write_one(job: _Job, index: int) -> tuple[int, list[Row], list[Row]]:
    """Write one DICOM file; return its number and its rows of truth.csv and train.csv."""
    case = plan_case(
        job.seed,
        index,
        abnormal_share=job.abnormal_share,
        labels=job.labels,
        bedside_share=job.bedside_share,
    )
    phantom = render_phantom(case, size=job.size)
    name = image_id(job.seed, index)
    write_dicom(job.out / "train" / f"{name}.dicom", phantom, draw_encoding(case))
    organs = phantom.organs if job.anatomy else ()
    truth = _rows(name, TRUTH, [*((finding.label, finding.box_xyxy) for finding in phantom.findings), *organs])
    marks = []
    for reading in read(phantom, draw_pool(job.seed, job.reader_kind), readers=job.readers, labels=job.labels):
        marks += _rows(name, reading.reader, [*((mark.label, mark.box_xyxy) for mark in reading.marks), *organs])
    return index, truth, marks


def _rows(name: str, reader: str, boxes: Sequence[tuple[str, Box]]) -> list[Row]:
    if not boxes:
        return [(name, NO_FINDING, NO_FINDING_ID, reader, None, None, None, None)]
    return [(name, label, CLASSES.index(label), reader, *box) for label, box in boxes]


def _count(rows: Iterable[Row], labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(row[1] for row in rows)
    return {label: counts[label] for label in labels}
