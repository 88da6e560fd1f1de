"""Time what happens to a readers' table: fusion against ensemble-boxes, and the whole way from table to COCO files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import Alternative, compare
from cxr_mmdet.annotations.coco import CocoImage, build_coco
from cxr_mmdet.annotations.consensus import REFERENCE_IOU_THRESHOLD, REFERENCE_SKIP_THRESHOLD, fuse_readers
from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.annotations.split import split_groups
from cxr_mmdet.annotations.table import class_names
from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.coco import write_coco
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

    from benchmarks.harness import Comparison, Progress

    Lists = tuple[list[NDArray[Any]], list[NDArray[Any]], list[NDArray[Any]]]

VAL_RATIO = 0.2


def benchmark_annotations(
    path: Path, *, rounds: int, memory: bool = False, progress: Progress | None = None
) -> list[Comparison]:
    """Return two comparisons: fusion by ensemble-boxes and by us, and our way from the table to COCO files.

    ensemble-boxes gets its lists ready-made and their making is not counted; ours begins with the table's rows.

    Args:
        path: a readers' table, or the folder that holds one.
        rounds: timed rounds of each.
        memory: whether to measure resident memory.
        progress: called with the rounds just done and all of them.

    Raises:
        UsageError: ensemble-boxes is not installed.
        TableError: the table contradicts itself.
    """
    rows = read_source(path).rows
    images = rows["image_id"].nunique()
    fusion = compare(
        f"Readers fused on {images:,} images",
        [Alternative("ensemble-boxes", _ensemble_boxes(rows)), Alternative("cxr_mmdet", lambda _: fuse_readers(rows))],
        item="table",
        items_per_round=1,
        rounds=rounds,
        warm_up=0,
        memory=memory,
        progress=progress,
    )
    with tempfile.TemporaryDirectory() as folder:
        whole = compare(
            f"From table to COCO files, {images:,} images",
            [Alternative("cxr_mmdet", lambda _: write_coco_files(path, Path(folder)))],
            item="table",
            items_per_round=1,
            rounds=rounds,
            warm_up=0,
            memory=memory,
        )
    return [fusion, whole]


def write_coco_files(table: Path, folder: Path) -> None:
    """Read, check, fuse, split and write a table; images get a size that holds their boxes."""
    rows = read_source(table).rows
    boxes = fuse_readers(rows)
    reach = rows.groupby("image_id")[["x_max", "y_max"]].max().fillna(1)
    images = [
        CocoImage(name, f"{name}.png", width, height, name, width, height)
        for name, (width, height) in zip(reach.index, np.ceil(reach.to_numpy()).astype(int).tolist(), strict=True)
    ]
    val = split_groups([image.group for image in images], VAL_RATIO, 42)
    for split in ("train", "val"):
        own = [image for image in images if (image.group in val) == (split == "val")]
        write_coco(folder / f"{split}.json", build_coco(own, boxes, class_names(rows)))


def _ensemble_boxes(rows: pd.DataFrame) -> Callable[[int], None]:
    try:
        from ensemble_boxes import weighted_boxes_fusion
    except ImportError:
        raise UsageError(
            'the comparison needs ensemble-boxes, which is not installed; pip install "ensemble-boxes==1.0.9"'
        ) from None
    inputs = _lists_by_image(rows)

    def run(_: int) -> None:
        for boxes, scores, labels in inputs:
            weighted_boxes_fusion(
                boxes, scores, labels, iou_thr=REFERENCE_IOU_THRESHOLD, skip_box_thr=REFERENCE_SKIP_THRESHOLD
            )

    return run


def _lists_by_image(rows: pd.DataFrame) -> list[Lists]:
    """Return ensemble-boxes' input for each image with boxes: one list a reader, boxes 0…1."""
    found = rows[rows["class_name"] != NO_FINDING]
    reach = found[XYXY_COLUMNS].to_numpy(np.float64).max()
    inputs: list[Lists] = []
    for _, image in found.groupby("image_id"):
        readers = [own for _, own in image.groupby("reader")]
        inputs.append(
            (
                [own[XYXY_COLUMNS].to_numpy(np.float64) / reach for own in readers],
                [np.ones(len(own)) for own in readers],
                [own["class_id"].to_numpy(np.int64) for own in readers],
            )
        )
    return inputs
