"""Options of preparing and splitting a folder; all of them stand in ``manifest.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_mmdet.annotations.consensus import MAJORITY, REFERENCE_IOU_THRESHOLD, REFERENCE_SKIP_THRESHOLD
from cxr_mmdet.annotations.split import check_val_ratio
from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.enums import ReaderFusion, SplitMethod

BY_PATIENT, BY_IMAGE = "patient", "image"


@dataclass(frozen=True)
class SplitOptions:
    """Options of dividing the images.

    Attributes:
        split: as the source ships it, by chance, by chance with every class spread alike, by a list, or by who read an
            image.
        val_ratio: share of the images to validate on, by chance.
        seed: of chance.
        folds: divide at random into this number of parts instead; each is validated on once.
        fold: the one that ``train_<labels>.json`` and ``val_<labels>.json`` are of, from 1.
        val_list: file of the images to validate on.
        train_readers: whose images are trained on; those that none of them read are validated on.
        group_by: what must not stand on both sides: ``patient`` (DICOM, else the image), ``image``, or the column of
            the table that names it.
        join_duplicates: keep near-identical images on one side, as if they were one patient's.
        allow_duplicates: let near-identical images stand on both sides instead of refusing the split.
    """

    split: SplitMethod = SplitMethod.RANDOM
    val_ratio: float = 0.2
    seed: int = 42
    folds: int | None = None
    fold: int = 1
    val_list: Path | None = None
    train_readers: tuple[str, ...] = ()
    group_by: str = BY_PATIENT
    join_duplicates: bool = False
    allow_duplicates: bool = False

    @property
    def group_column(self) -> str | None:
        """The column of the table that names groups; None where the table has no say."""
        return None if self.group_by in (BY_PATIENT, BY_IMAGE) else self.group_by

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: with the pair that does.
        """
        check_val_ratio(self.val_ratio)
        for name, given, method in (
            ("--val-list", self.val_list is not None, SplitMethod.LIST),
            ("--train-readers", bool(self.train_readers), SplitMethod.READERS),
        ):
            if given != (self.split is method):
                raise UsageError(
                    f"--split {self.split.value} and {name} do not fit; expected --split {method.value} with {name}."
                )
        if self.folds is None:
            if self.fold != 1:
                raise UsageError(f"--fold {self.fold}: there are no folds; pass --folds as well.")
        elif self.split not in (SplitMethod.AUTO, SplitMethod.RANDOM, SplitMethod.STRATIFIED):
            raise UsageError(f"--folds {self.folds}: --split {self.split.value} has no folds; expected random ones.")
        elif not 1 <= self.fold <= self.folds:
            raise UsageError(f"--fold {self.fold}: expected 1 to {self.folds}.")
        if self.join_duplicates and self.allow_duplicates:
            raise UsageError("--join-duplicates and --allow-duplicates contradict each other; pass one of them.")


@dataclass(frozen=True)
class BuildOptions(SplitOptions):
    """Options of preparing a folder.

    Attributes:
        labels: label sets to write, each ``14``, ``5``, ``auto`` or a file of class names.
        short_edge: the images' shorter side at most, in pixels; 0 keeps the full size.
        reduced_jpeg2000: decode JPEG 2000 no larger than ``short_edge`` needs: faster, not to the same pixels.
        fusion: how several readers' boxes become one set.
        reader_model: file of parameters for ``readers``, learned elsewhere; None learns them from the table.
        fusion_iou: overlap above which two boxes are one finding.
        fusion_skip: boxes with a lower score are left out; readers' boxes have score 1.
        min_votes: how many readers a box needs with ``vote``.
        minority: classes whose training images are counted with their virtual copies; None takes the reference's for
            its five classes, and none for other sets.
        drop_normals: leave out the images that hold none of the labels, as the reference's five-class set does.
        clip_boxes: cut boxes that reach beyond their image instead of refusing the table.
        unread_as_normal: take radiographs without a row for read and without finding instead of failed.
    """

    labels: tuple[str, ...] = ("14",)
    short_edge: int = 1024
    reduced_jpeg2000: bool = False
    fusion: ReaderFusion = ReaderFusion.WBF
    reader_model: Path | None = None
    fusion_iou: float = REFERENCE_IOU_THRESHOLD
    fusion_skip: float = REFERENCE_SKIP_THRESHOLD
    min_votes: int = MAJORITY
    minority: tuple[str, ...] | None = None
    drop_normals: bool = False
    clip_boxes: bool = False
    unread_as_normal: bool = False

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: with the pair that does.
        """
        super().check()
        if self.reader_model and self.fusion is not ReaderFusion.READERS:
            raise UsageError(f"--reader-model and --fusion {self.fusion.value} do not fit; expected --fusion readers.")

    @property
    def fusion_arguments(self) -> dict[str, Any]:
        """Arguments for :func:`cxr_mmdet.annotations.consensus.fuse_readers`; ``readers`` has a function of its own.

        With ``readers`` these are WBF's, which the human ceiling then takes for the truth: scores do not matter there.
        """
        readers = self.fusion is ReaderFusion.READERS
        return {
            "method": ReaderFusion.WBF if readers else self.fusion,
            "iou_threshold": self.fusion_iou,
            "skip_threshold": self.fusion_skip,
            "min_votes": self.min_votes,
        }

    def to_json(self) -> dict[str, Any]:
        """Return what ``manifest.json`` holds."""
        # A file is told by its name: its place is this machine's, its content stands with what was made of it.
        return asdict(self) | {
            "labels": [Path(spec).name for spec in self.labels],
            "fusion": self.fusion.value,
            "split": self.split.value,
            "val_list": self.val_list.name if self.val_list else None,
            "reader_model": self.reader_model.name if self.reader_model else None,
        }

    @classmethod
    def from_json(cls, parameters: dict[str, Any]) -> BuildOptions:
        """Return the options of a ``manifest.json``; those that it does not know have their default."""
        known = {name: parameters[name] for name in cls.__dataclass_fields__ if name in parameters}
        for name in ("labels", "train_readers", "minority"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        known |= {
            "fusion": ReaderFusion(known.get("fusion", ReaderFusion.WBF)),
            "split": SplitMethod(known.get("split", "random")),
        }
        known |= {name: Path(known[name]) if known.get(name) else None for name in ("val_list", "reader_model")}
        return cls(**known)
