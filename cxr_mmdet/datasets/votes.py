"""Share of readers behind each box, and how well they agree on its sides: carried through whatever a pipeline does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes

from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Results = dict[str, Any]

READERS_KEY = "n_readers"
"""Key under which ``CxrDataset`` stores the number of readers of an image, if the COCO file gives it."""
SHARES_KEY, CORNERS_KEY = "gt_vote_shares", "gt_corner_weights"
"""Keys under which :func:`unload_votes` stores both, beside ``gt_bboxes`` and ``gt_bboxes_labels``."""
_VOTED_KEY = "voted"
OWN_SPREAD = 0.1
"""Standard deviation of a detector's sides in shares of the box, beside which the readers' counts."""
LARGEST_SPREAD = 3 * OWN_SPREAD
"""Spread above which all boxes weigh alike, a tenth of one whose sides are certain."""


def weigh_corners(entries: Sequence[dict[str, Any]]) -> None:
    """Add ``corner_weight`` to the boxes of a data set whose COCO file states their ``corner_spread``; else nothing.

    A side that is known up to a variance s² and predicted with a variance t² (:data:`OWN_SPREAD`) weighs 1 / (t² + s²),
    as least squares and random-effects meta-analysis weigh (DerSimonian and Laird, Controlled Clinical Trials 7, 1986);
    s² is the mean of a box's four. Weights have a mean of 1 over the boxes, each counted by its share of votes, so that
    the size of the loss stays what it is. A box without a spread weighs 1.

    Args:
        entries: what ``CxrDataset`` reads; regions to ignore have no spread.
    """
    found = [(each, share_of(each, entry)) for entry in entries for each in entry["instances"] if each["corner_spread"]]
    if not found:
        return
    spreads, shares = np.array([each["corner_spread"] for each, _ in found]), np.array([share for _, share in found])
    variances = np.minimum((spreads**2).mean(axis=1), LARGEST_SPREAD**2)
    weights = 1 / (OWN_SPREAD**2 + variances)
    weights /= np.average(weights, weights=shares)
    for (instance, _), weight in zip(found, weights.tolist(), strict=True):
        instance["corner_weight"] = weight


def share_of(instance: dict[str, Any], entry: dict[str, Any]) -> float:
    """Return the share of an image's readers behind a box, or the score of a consensus, which is a better one."""
    share: float = instance.get("score") or instance["votes"] / entry.get(READERS_KEY, instance["votes"])
    return share


class VotedBoxes(HorizontalBoxes):
    """Boxes with what readers say of each: selecting, copying and joining boxes does the same to it.

    Steps such as ``RandomAffine`` and ``RandomCrop`` drop boxes by indices of their own, and know no annotation but
    mmdet's; what must stay beside a box has to be part of it. Operations that this class does not know leave
    ``readings`` None, which :func:`unload_votes` refuses.

    Args:
        data: (N, 4) boxes in absolute pixels, xyxy.
        readings: (N, 2) float32: share of votes in (0, 1], and weight of the corners. Neither depends on where a step
            moves a box, nor on which of its sides becomes which.
        kwargs: as ``HorizontalBoxes`` takes them.
    """

    def __init__(self, data: Any, *args: Any, readings: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(data, *args, **kwargs)
        self.readings = readings

    def __getitem__(self, index: Any) -> VotedBoxes:
        chosen: VotedBoxes = super().__getitem__(index)
        if self.readings is not None and not isinstance(index, tuple):
            chosen.readings = self.readings[torch.as_tensor(index) if isinstance(index, np.ndarray) else index]
            chosen.readings = chosen.readings.reshape(-1, 2)  # one box, by its number
        return chosen

    def __setitem__(self, index: Any, values: VotedBoxes) -> None:
        super().__setitem__(index, values)
        self.readings = None

    def __deepcopy__(self, memo: dict[int, Any]) -> VotedBoxes:
        memo[id(self)] = copied = self.clone()
        return copied

    def clone(self) -> VotedBoxes:
        """Return a copy that shares no memory."""
        readings = None if self.readings is None else self.readings.clone()
        return VotedBoxes(self.tensor, readings=readings)

    def convert_to(self, dst_type: Any) -> HorizontalBoxes:
        """Return plain boxes of mmdet's, for instance to measure overlaps."""
        return HorizontalBoxes(self.tensor, clone=False).convert_to(dst_type)

    @classmethod
    def cat(cls, box_list: Sequence[VotedBoxes], dim: int = 0) -> VotedBoxes:
        """Return the boxes of all, one after the other, as ``Mosaic`` and ``MixUp`` join images."""
        joined: VotedBoxes = super().cat(box_list, dim)
        readings = [boxes.readings for boxes in box_list if boxes.readings is not None]
        joined.readings = torch.cat(readings) if len(readings) == len(box_list) and dim == 0 else None
        return joined


@TRANSFORMS.register_module()
class LoadVotedAnnotations(LoadAnnotations):
    """mmdet's ``LoadAnnotations``, same arguments; boxes also know the share of their image's readers who drew them.

    Where the COCO file scores its boxes (``--fusion readers``), the score stands for the share, and boxes also know the
    weight that :func:`weigh_corners` gave them; without one it is 1.

    Where the COCO file does not say how many readers read an image, it is mmdet's to the bit.
    """

    def transform(self, results: Results) -> Results:
        """Add what mmdet's adds; ``gt_bboxes`` are :class:`VotedBoxes` where the readers are known."""
        results = super().transform(results)
        if READERS_KEY in results and isinstance(results.get("gt_bboxes"), HorizontalBoxes):
            known = [(share_of(each, results), each.get("corner_weight", 1.0)) for each in results["instances"]]
            readings = torch.tensor(known, dtype=torch.float32).reshape(-1, 2)
            results["gt_bboxes"] = VotedBoxes(results["gt_bboxes"].tensor, clone=False, readings=readings)
            results[_VOTED_KEY] = True
        return results


def unload_votes(results: Results) -> None:
    """Turn :class:`VotedBoxes` into mmdet's boxes, with shares of votes and weights of corners, (N,) float32, beside.

    Raises:
        ConfigError: a step of the pipeline parted boxes and votes.
    """
    if not results.get(_VOTED_KEY):
        return
    boxes = results["gt_bboxes"]
    readings = boxes.readings if isinstance(boxes, VotedBoxes) else None
    if readings is None or len(readings) != len(boxes):
        raise ConfigError(
            "a step of the training pipeline makes new boxes, so that the readers' votes for them are lost; leave it "
            "out, or load boxes by LoadAnnotations in place of LoadVotedAnnotations and train without votes."
        )
    results[SHARES_KEY], results[CORNERS_KEY] = readings.numpy().T.copy()
    results["gt_bboxes"] = HorizontalBoxes(boxes.tensor, clone=False)
