"""Regions to ignore (COCO's ``iscrowd``) in training: a prior there is neither a finding nor background."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from mmdet.models.task_modules.assigners import ATSSAssigner, MaxIoUAssigner
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor

if TYPE_CHECKING:
    from torch import nn

REGION_SHARE = 0.5
"""A prior is in a region if more than this share of it is."""

_NAMES = ("assigner", "bbox_assigner")


class RegionAssigner:
    """An assigner of mmdet's that also leaves out the background in regions.

    mmdet's own ``ignore_iof_thr`` has no effect where an image holds regions alone, and takes the priors of findings
    that lie in a region as well.

    Args:
        assigner: whose priors are boxes.
    """

    def __init__(self, assigner: MaxIoUAssigner | ATSSAssigner) -> None:
        self.assigner = assigner
        self._signature = signature(assigner.assign)

    def assign(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the assigner does, without the background that lies in ``gt_instances_ignore``."""
        call = self._signature.bind(*args, **kwargs)
        regions = call.arguments.pop("gt_instances_ignore", None)
        result = self.assigner.assign(*call.args, **call.kwargs)
        priors = get_box_tensor(call.arguments["pred_instances"].priors)
        if regions is not None and len(regions) and len(priors):
            shares = bbox_overlaps(priors, get_box_tensor(regions.bboxes).to(priors), mode="iof")
            result.gt_inds[(shares.amax(dim=1) > REGION_SHARE) & (result.gt_inds == 0)] = -1
        return result


def leave_regions_out(model: nn.Module) -> bool:
    """Let all assigners of a detector leave regions out; return False, changing nothing, where some cannot."""
    places = [(module, name) for module in model.modules() for name in _NAMES if getattr(module, name, None)]
    found = [(module, name, _listed(getattr(module, name))) for module, name in places]
    able = (MaxIoUAssigner, ATSSAssigner, RegionAssigner)
    if not found or not all(isinstance(each, able) for _, _, assigners in found for each in assigners):
        return False
    for module, name, assigners in found:
        wrapped = [each if isinstance(each, RegionAssigner) else RegionAssigner(each) for each in assigners]
        setattr(module, name, wrapped if isinstance(getattr(module, name), list) else wrapped[0])
    return True


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
