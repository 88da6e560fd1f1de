"""What model and data must agree on, checked before a training starts: a sentence then, not a surprise later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_mmdet.datasets.votes import READERS_KEY, LoadVotedAnnotations
from cxr_mmdet.errors import ConfigError, DatasetError
from cxr_mmdet.models.regions import leave_regions_out
from cxr_mmdet.models.vote_weights import weighs_votes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_WITHOUT = "train without votes (no VoteWeighted… type in the config)"


def check_votes(model: nn.Module, dataset: Any) -> None:
    """Check that a model which weighs reader votes gets votes worth weighing; any other model may have any data.

    Args:
        model: the detector to be trained.
        dataset: the training set, however wrapped.

    Raises:
        ConfigError: the pipeline does not load votes.
        DatasetError: the COCO file does not name the readers, or all boxes have the same share of votes.
    """
    if not weighs_votes(model):
        return
    shares: set[float] = set()
    parts = list(innermost(dataset))
    for part in parts:
        if not any(isinstance(step, LoadVotedAnnotations) for step in part.pipeline.transforms):
            raise ConfigError(
                "the config weighs reader votes, but its training pipeline loads none; put LoadVotedAnnotations in the "
                f"place of LoadAnnotations, or {_WITHOUT}."
            )
        shares |= _shares_of_votes(part)
    if len(shares) == 1:
        (share,) = shares
        why = "as where one reader read each image" if share == 1 else "as where readers are not fused"
        raise DatasetError(
            f"{parts[0].ann_file}: all boxes have the same share of votes ({share:.2g}), {why}, so that weighing them "
            f"changes nothing; prepare a table in which several readers drew boxes, fusing them, or {_WITHOUT}."
        )


def heed_regions(model: nn.Module, dataset: Any) -> None:
    """Let a detector leave out the regions (``iscrowd``) of its training data; without regions it stays as it is.

    Args:
        model: the detector to be trained.
        dataset: the training set, however wrapped.

    Raises:
        ConfigError: there are regions, and the detector would learn them as background.
    """
    for part in innermost(dataset):
        entries = [part.get_data_info(index) for index in range(len(part))]
        count = sum(instance["ignore_flag"] for entry in entries for instance in entry["instances"])
        if count and not leave_regions_out(model):
            raise ConfigError(
                f"{part.ann_file}: holds regions to ignore (iscrowd 1, {count} of them), which this detector would "
                "learn as background; train a RetinaNet, GFL, ATSS, VFNet, Faster R-CNN or Cascade R-CNN, or take the "
                "regions out of the table."
            )


def innermost(dataset: Any) -> Iterator[Any]:
    """Yield the datasets that read annotation files, within whatever repeats, copies or joins them."""
    inner = getattr(dataset, "datasets", None) or [each for each in [getattr(dataset, "dataset", None)] if each]
    if not inner:
        yield dataset
    for each in inner:
        yield from innermost(each)


def _shares_of_votes(dataset: Any) -> set[float]:
    entries = [dataset.get_data_info(index) for index in range(len(dataset))]
    if any(READERS_KEY not in entry for entry in entries):
        raise DatasetError(
            f"{dataset.ann_file}: does not name the readers of every image, so that votes are no share of them; write "
            "it anew with tools/prepare_data.py build --force, which keeps the pictures it has already made, or "
            f"{_WITHOUT}."
        )
    return {
        instance["votes"] / entry[READERS_KEY]
        for entry in entries
        for instance in entry["instances"]
        if not instance["ignore_flag"]
    }
