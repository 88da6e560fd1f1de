"""Random grey levels: the same chest as another machine, dose, display window or processing would have shown it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RandomExposure(BaseTransform):
    """Draw a gamma, a contrast and a brightness, and map the grey levels by them; boxes stay.

    A level v in 0…1 becomes ``contrast · (v^gamma - 0.5) + 0.5 + brightness``, cut to 0…1. Black stays black, so that
    padding and collimation do not turn grey.

    Args:
        gamma: gamma is drawn from 1/(1+gamma)…1+gamma, evenly on a logarithmic scale.
        contrast: contrast is drawn from 1-contrast…1+contrast.
        brightness: brightness is drawn from -brightness…brightness.
    """

    def __init__(self, gamma: float = 0.4, contrast: float = 0.2, brightness: float = 0.1) -> None:
        self.gamma, self.contrast, self.brightness = gamma, contrast, brightness

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``img``, a plane of uint8."""
        # The global generator, which draws are seeded by.
        limit = np.log1p(self.gamma)
        gamma = np.exp(np.random.uniform(-limit, limit))  # noqa: NPY002
        contrast = 1 + np.random.uniform(-self.contrast, self.contrast)  # noqa: NPY002
        brightness = np.random.uniform(-self.brightness, self.brightness)  # noqa: NPY002
        results["img"] = cv2.LUT(results["img"], exposure_table(gamma, contrast, brightness))
        return results


@TRANSFORMS.register_module()
class RandomClahe(BaseTransform):
    """Equalise the contrast of each neighbourhood (CLAHE), as many machines do, in some of the pictures; boxes stay.

    Black stays black, so that padding and collimation do not turn grey; equalised it would be some levels above.

    Args:
        probability: the share of pictures that are equalised.
        clip_limit: the limit of the contrast's gain is drawn from this range; 1 gives the least gain there is.
        tiles: neighbourhoods along each axis.
    """

    def __init__(self, probability: float = 0.5, clip_limit: tuple[float, float] = (1.0, 3.0), tiles: int = 8) -> None:
        self.probability, self.clip_limit, self.tiles = probability, clip_limit, tiles

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``img``, a plane of uint8."""
        # The global generator, which draws are seeded by.
        if np.random.uniform() < self.probability:  # noqa: NPY002
            clip_limit = np.random.uniform(self.clip_limit[0], self.clip_limit[1])  # noqa: NPY002
            results["img"] = equalise(results["img"], clip_limit, self.tiles)
        return results


def equalise(image: np.ndarray, clip_limit: float, tiles: int) -> np.ndarray:
    """Return the (H, W) uint8 picture after CLAHE; pixels of level 0 keep it."""
    equalised = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles)).apply(image)
    equalised[image == 0] = 0
    return equalised


def exposure_table(gamma: float, contrast: float, brightness: float) -> np.ndarray:
    """Return the (256,) uint8 levels that the levels 0…255 become."""
    levels = np.linspace(0, 1, 256) ** gamma
    mapped = np.clip(contrast * (levels - 0.5) + 0.5 + brightness, 0, 1)
    mapped[0] = 0
    return np.rint(255 * mapped).astype(np.uint8)
