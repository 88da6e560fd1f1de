"""A folder of radiographs and a readers' table → a prepared folder: pictures, COCO files, manifest."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr_mmdet.annotations.coco import CocoImage, write_coco
from cxr_mmdet.annotations.consensus import (
    REFERENCE_IOU_THRESHOLD,
    REFERENCE_SKIP_THRESHOLD,
    Fusion,
    fuse_readers,
)
from cxr_mmdet.annotations.placement import keep_within_images, scale_to_prepared
from cxr_mmdet.annotations.split import check_val_ratio, split_groups
from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.files import atomic_path, write_json
from cxr_mmdet.labels import NO_FINDING
from cxr_mmdet.preparation.failures import FAILURES_NAME, write_failures
from cxr_mmdet.preparation.image_index import INDEX_NAME
from cxr_mmdet.preparation.images import Failure, find_radiographs, image_notes, prepare_images
from cxr_mmdet.preparation.label_sets import LabelSetCounts, Splits, build_splits, choose_label_sets, count_splits
from cxr_mmdet.preparation.manifest import MANIFEST_NAME, describe_inputs, describe_label_set, describe_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cxr_mmdet.preparation.image_index import PreparedImage

TABLE_NAME = "train.csv"
IMAGES = "images"
ANNOTATIONS = "annotations"
OURS = frozenset({IMAGES, ANNOTATIONS, FAILURES_NAME, INDEX_NAME, MANIFEST_NAME})


@dataclass(frozen=True)
class BuildOptions:
    """How a folder is prepared; all of it stands in ``manifest.json``.

    Attributes:
        labels: label sets to write, each ``14``, ``5``, ``auto`` or a file of class names.
        val_ratio: share of the images to validate on.
        seed: of the split.
        short_edge: the pictures' shorter side at most, in pixels; 0 keeps the full size.
        reduced_jpeg2000: decode JPEG 2000 no larger than ``short_edge`` needs: faster, not to the same pixels.
        fusion: how several readers' boxes become one set.
        fusion_iou: overlap above which two boxes are one finding.
        fusion_skip: boxes with a lower score are left out; readers' boxes have score 1.
        minority: classes whose training images are counted with their virtual copies; None takes the reference's for
            its five classes, and none for other sets.
        drop_normals: leave out the images that hold none of the labels, as the reference's five-class set does.
        group_by_patient: keep a patient's images on one side of the split; else each image stands alone.
        clip_boxes: cut boxes that reach beyond their picture instead of refusing the table.
        unread_as_normal: take radiographs without a row for read and without finding instead of failed.
    """

    labels: tuple[str, ...] = ("14",)
    val_ratio: float = 0.2
    seed: int = 42
    short_edge: int = 1024
    reduced_jpeg2000: bool = False
    fusion: Fusion = Fusion.WBF
    fusion_iou: float = REFERENCE_IOU_THRESHOLD
    fusion_skip: float = REFERENCE_SKIP_THRESHOLD
    minority: tuple[str, ...] | None = None
    drop_normals: bool = False
    group_by_patient: bool = True
    clip_boxes: bool = False
    unread_as_normal: bool = False


@dataclass(frozen=True)
class BuildSummary:
    """What a build made: counts for each label set, the radiographs that failed, and notes for the user."""

    out: Path
    images: int
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    label_sets: tuple[LabelSetCounts, ...]


@dataclass(frozen=True)
class _Consensus:
    """The readers' boxes on the pictures that were read, in prepared-image pixels."""

    boxes: pd.DataFrame
    readers_boxes: int
    clipped: int


def build_dataset(
    src: Path,
    out: Path,
    options: BuildOptions,
    *,
    jobs: int | None = 1,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BuildSummary:
    """Prepare the radiographs of ``src`` for training in ``out``.

    Written: ``images/<image_id>.png``, ``annotations/{train,val}_<labels>.json`` (COCO),
    ``annotations/without_boxes_<labels>.csv`` (which images are kept without a box, and what readers saw instead),
    ``manifest.json`` and, when radiographs failed, ``failures.csv``. Failed are those that cannot be read, rows whose
    file is missing, and files without a row (nobody read them, which is not the same as normal). The build goes on
    without them; the caller decides by ``summary.failures`` whether that is acceptable.

    The split is made over all radiographs before any label set selects its own, so that a radiograph stands on the
    same side in all of them.

    Args:
        src: holds ``train.csv`` and the radiographs, in ``train/`` or beside it.
        out: a new folder, or one of an interrupted build, which is then completed.
        options: how.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        force: replace an earlier build; pictures whose radiographs did not change are kept.
        progress: called with the number of radiographs just dealt with, and of all.

    Raises:
        UsageError: ``out`` is in use, or an option makes no sense with this table.
        TableError: the table contradicts itself or a picture.
        DatasetError: there is nothing to train on or to validate on.
    """
    check_val_ratio(options.val_ratio)
    _check_out(out, force=force)
    table = src / TABLE_NAME
    rows = read_table(table)
    label_sets = choose_label_sets(options.labels, rows, options.minority)
    sources = find_radiographs(src)
    readable, unmatched = _match(rows, sources, table, options)

    # An interrupted or failed build must not look finished.
    (out / MANIFEST_NAME).unlink(missing_ok=True)
    prepared = prepare_images(
        readable,
        out / IMAGES,
        short_edge=options.short_edge,
        reduced_jpeg2000=options.reduced_jpeg2000,
        jobs=jobs,
        progress=(lambda done: progress(done, len(readable))) if progress else None,
    )
    if not prepared.images:
        raise DatasetError(f"none of {len(readable)} radiographs could be read; {prepared.failures[0].reason}")
    failures = tuple(sorted([*unmatched, *prepared.failures], key=lambda failure: failure.image_id))

    consensus = _consensus(rows, prepared.images, table, options)
    images = [_coco_image(image, group_by_patient=options.group_by_patient) for image in prepared.images]
    val_groups = split_groups([image.group for image in images], options.val_ratio, options.seed)
    splits = [
        build_splits(label_set, images, consensus.boxes, val_groups, drop_normals=options.drop_normals)
        for label_set in label_sets
    ]
    counts = tuple(count_splits(each) for each in splits)

    _remove_stale(out, {image.path.name for image in prepared.images})
    _write_annotations(out / ANNOTATIONS, splits, consensus.boxes)
    write_failures(out / FAILURES_NAME, failures)
    manifest = {
        "parameters": _parameters(options),
        "inputs": describe_inputs(table, sources),
        "packages": describe_packages(),
        "images": len(images),
        "failures": len(failures),
        "groups": {"all": len({image.group for image in images}), "val": len(val_groups)},
        "readers": sorted(rows["reader"].unique()),
        "boxes": {
            "readers": consensus.readers_boxes,
            "clipped": consensus.clipped,
            "consensus": len(consensus.boxes),
        },
        "label_sets": {each.label_set.name: describe_label_set(each) for each in counts},
    }
    write_json(out / MANIFEST_NAME, manifest, indent=2)
    notes = _notes(prepared.images, consensus, splits, counts)
    return BuildSummary(out, len(images), failures, notes, counts)


def _check_out(out: Path, *, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is a file; expected a folder to write to.")
    foreign = sorted(path.name for path in out.iterdir() if path.name not in OURS)
    if foreign:
        raise UsageError(f"{out}: holds {foreign[0]}, which no build wrote; name a new folder.")
    if (out / MANIFEST_NAME).exists() and not force:
        raise UsageError(f"{out}: holds a finished build; pass --force to replace it, or name another folder.")


def _match(
    rows: pd.DataFrame, sources: Mapping[str, Path], table: Path, options: BuildOptions
) -> tuple[dict[str, Path], list[Failure]]:
    """Return the radiographs to prepare, and the rows without a file and files without a row as failures."""
    in_table = set(rows["image_id"])
    folder = next(iter(sources.values())).parent
    readable = {name: path for name, path in sources.items() if name in in_table or options.unread_as_normal}
    if in_table.isdisjoint(sources):
        raise DatasetError(
            f"{table}: names none of the {len(sources)} radiographs in {folder}; expected image_id to be the file's "
            f"name without suffix, got {rows['image_id'].iloc[0]!r} in the table and {next(iter(sources))!r} there."
        )
    missing = [
        Failure(name, folder / name, f"{table} names image {name}, but {folder} holds no file of this name")
        for name in sorted(in_table.difference(sources))
    ]
    unread = [
        Failure(name, path, f"{path}: no row in {table.name}, so nobody read it; if it is normal, --unread-as-normal")
        for name, path in sources.items()
        if name not in readable
    ]
    return readable, [*missing, *unread]


def _consensus(rows: pd.DataFrame, images: Sequence[PreparedImage], table: Path, options: BuildOptions) -> _Consensus:
    """Return one set of boxes for each picture, fused in the original's pixels, in which the readers drew."""
    original_sizes_hw = {image.image_id: image.original_size_hw for image in images}
    rows = rows[rows["image_id"].isin(original_sizes_hw)]
    rows, clipped = keep_within_images(rows, original_sizes_hw, table, clip=options.clip_boxes)
    fused = fuse_readers(
        rows, method=options.fusion, iou_threshold=options.fusion_iou, skip_threshold=options.fusion_skip
    )
    return _Consensus(
        boxes=scale_to_prepared(fused, original_sizes_hw, {image.image_id: image.size_hw for image in images}),
        readers_boxes=int((rows["class_name"] != NO_FINDING).sum()),
        clipped=clipped,
    )


def _coco_image(image: PreparedImage, *, group_by_patient: bool) -> CocoImage:
    height, width = image.size_hw
    original_height, original_width = image.original_size_hw
    return CocoImage(
        image_id=image.image_id,
        file_name=image.path.name,
        width=width,
        height=height,
        group=(image.patient if group_by_patient else None) or image.image_id,
        original_width=original_width,
        original_height=original_height,
    )


def _remove_stale(out: Path, pictures: set[str]) -> None:
    """Remove what an earlier build left that this one does not replace."""
    shutil.rmtree(out / ANNOTATIONS, ignore_errors=True)
    for path in (out / IMAGES).iterdir():
        if path.name not in pictures:
            path.unlink()


def _write_annotations(folder: Path, splits: Sequence[Splits], boxes: pd.DataFrame) -> None:
    seen = boxes.groupby("image_id")["class_name"].agg(lambda names: "; ".join(sorted(set(names)))).to_dict()
    for each in splits:
        without_boxes = []
        for split, coco in (("train", each.train), ("val", each.val)):
            write_coco(folder / f"{split}_{each.label_set.name}.json", coco)
            with_boxes = {annotation["image_id"] for annotation in coco["annotations"]}
            without_boxes += [
                {"image_id": image["image_id"], "split": split, "other_findings": seen.get(image["image_id"], "")}
                for image in coco["images"]
                if image["id"] not in with_boxes
            ]
        columns = ["image_id", "split", "other_findings"]
        _write_csv(folder / f"without_boxes_{each.label_set.name}.csv", pd.DataFrame(without_boxes, columns=columns))


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def _parameters(options: BuildOptions) -> dict[str, Any]:
    # A file of class names is told by its name: its place is this machine's, its content stands with the label set.
    labels = [Path(spec).name for spec in options.labels]
    return asdict(options) | {"labels": labels, "fusion": options.fusion.value}


def _notes(
    images: Sequence[PreparedImage],
    consensus: _Consensus,
    splits: Sequence[Splits],
    counts: Sequence[LabelSetCounts],
) -> tuple[str, ...]:
    """Return what a user should know and nobody should have to search for."""
    notes = []
    if consensus.clipped:
        notes.append(f"{consensus.clipped} readers' boxes reached beyond their picture and were clipped.")
    notes += image_notes(images)
    for each, written in zip(counts, splits, strict=True):
        name = each.label_set.name
        left_out = consensus.boxes.loc[~consensus.boxes["class_name"].isin(each.label_set.labels), "class_name"]
        if len(left_out):
            notes.append(f"labels {name}: {len(left_out)} boxes of {left_out.nunique()} other classes are left out.")
        dropped = len(images) - len(written.train["images"]) - len(written.val["images"])
        if dropped:
            notes.append(f"labels {name}: {dropped} images without any of these classes are dropped.")
        for split, split_counts in (("train", each.train), ("val", each.val)):
            empty = [label for label, count in split_counts.by_class.items() if not count.boxes]
            if empty:
                notes.append(f"labels {name}: no box of {', '.join(empty)} in {split}.")
    return tuple(notes)
