"""Share of readers behind each box, carried through the pipeline whatever its steps do with the boxes."""

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
SHARES_KEY = "gt_vote_shares"
"""Key under which :func:`unload_votes` stores the shares, beside ``gt_bboxes`` and ``gt_bboxes_labels``."""
_VOTED_KEY = "voted"


class VotedBoxes(HorizontalBoxes):
    """Boxes with a share of votes each: selecting, copying and joining boxes does the same to their shares.

    Steps such as ``RandomAffine`` and ``RandomCrop`` drop boxes by indices of their own, and know no annotation but
    mmdet's; what must stay beside a box has to be part of it. Operations that this class does not know leave
    ``vote_shares`` None, which :func:`unload_votes` refuses.

    Args:
        data: (N, 4) boxes in absolute pixels, xyxy.
        vote_shares: (N,) float in (0, 1].
        kwargs: as ``HorizontalBoxes`` takes them.
    """

    def __init__(self, data: Any, *args: Any, vote_shares: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(data, *args, **kwargs)
        self.vote_shares = vote_shares

    def __getitem__(self, index: Any) -> VotedBoxes:
        chosen: VotedBoxes = super().__getitem__(index)
        if self.vote_shares is not None and not isinstance(index, tuple):
            chosen.vote_shares = self.vote_shares[torch.as_tensor(index) if isinstance(index, np.ndarray) else index]
            chosen.vote_shares = chosen.vote_shares.reshape(-1)  # one box, by its number
        return chosen

    def __setitem__(self, index: Any, values: VotedBoxes) -> None:
        super().__setitem__(index, values)
        self.vote_shares = None

    def __deepcopy__(self, memo: dict[int, Any]) -> VotedBoxes:
        memo[id(self)] = copied = self.clone()
        return copied

    def clone(self) -> VotedBoxes:
        """Return a copy that shares no memory."""
        shares = None if self.vote_shares is None else self.vote_shares.clone()
        return VotedBoxes(self.tensor, vote_shares=shares)

    def convert_to(self, dst_type: Any) -> HorizontalBoxes:
        """Return plain boxes of mmdet's, for instance to measure overlaps."""
        return HorizontalBoxes(self.tensor, clone=False).convert_to(dst_type)

    @classmethod
    def cat(cls, box_list: Sequence[VotedBoxes], dim: int = 0) -> VotedBoxes:
        """Return the boxes of all, one after the other, as ``Mosaic`` and ``MixUp`` join images."""
        joined: VotedBoxes = super().cat(box_list, dim)
        shares = [boxes.vote_shares for boxes in box_list if boxes.vote_shares is not None]
        joined.vote_shares = torch.cat(shares) if len(shares) == len(box_list) and dim == 0 else None
        return joined


@TRANSFORMS.register_module()
class LoadVotedAnnotations(LoadAnnotations):
    """mmdet's ``LoadAnnotations``, same arguments; boxes also know the share of their image's readers who drew them.

    Where the COCO file scores its boxes (``--fusion readers``), the score stands for the share.

    Where the COCO file does not say how many readers read an image, it is mmdet's to the bit.
    """

    def transform(self, results: Results) -> Results:
        """Add what mmdet's adds; ``gt_bboxes`` are :class:`VotedBoxes` where the readers are known."""
        results = super().transform(results)
        if READERS_KEY in results and isinstance(results.get("gt_bboxes"), HorizontalBoxes):
            readers = results[READERS_KEY]
            # A consensus of `--fusion readers` says how likely another reader marks the box: a better share.
            known = [instance.get("score") or instance["votes"] / readers for instance in results["instances"]]
            shares = torch.tensor(known, dtype=torch.float32)
            results["gt_bboxes"] = VotedBoxes(results["gt_bboxes"].tensor, clone=False, vote_shares=shares)
            results[_VOTED_KEY] = True
        return results


def unload_votes(results: Results) -> None:
    """Turn :class:`VotedBoxes` into mmdet's boxes and an array beside them, (N,) float32 under :data:`SHARES_KEY`.

    Raises:
        ConfigError: a step of the pipeline parted boxes and votes.
    """
    if not results.get(_VOTED_KEY):
        return
    boxes = results["gt_bboxes"]
    shares = boxes.vote_shares if isinstance(boxes, VotedBoxes) else None
    if shares is None or len(shares) != len(boxes):
        raise ConfigError(
            "a step of the training pipeline makes new boxes, so that the readers' votes for them are lost; leave it "
            "out, or load boxes by LoadAnnotations in place of LoadVotedAnnotations and train without votes."
        )
    results[SHARES_KEY] = shares.numpy()
    results["gt_bboxes"] = HorizontalBoxes(boxes.tensor, clone=False)
