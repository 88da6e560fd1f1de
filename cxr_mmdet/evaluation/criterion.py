"""When a detection counts as a hit; apart from the counting, so that a command's help needs no numpy."""

from __future__ import annotations

from enum import Enum


class HitCriterion(str, Enum):
    """When a detection counts for a ground truth box of its class."""

    iou = "iou"
    """The intersection over union is above a threshold."""
    centre = "centre"
    """The detection's centre lies in the ground truth box, its border included."""
