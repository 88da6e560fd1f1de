"""Augmentations of a chest that keep it a chest: exposure, positioning, mirroring with sides exchanged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.structures import boxes
from cxr_mmdet.structures.coverage import COVERAGE_KEY
from cxr_mmdet.structures.labels import mirrored_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    """Equalise the contrast of each neighbourhood (CLAHE), as many machines do, in some of the images; boxes stay.

    Black stays black, so that padding and collimation do not turn grey; equalised it would be some levels above.

    Args:
        probability: the share of images that are equalised.
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
    """Return the (H, W) uint8 image after CLAHE; pixels of level 0 keep it."""
    equalised = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles)).apply(image)
    equalised[image == 0] = 0
    return equalised


def exposure_table(gamma: float, contrast: float, brightness: float) -> np.ndarray:
    """Return the (256,) uint8 levels that the levels 0…255 become."""
    levels = np.linspace(0, 1, 256) ** gamma
    mapped = np.clip(contrast * (levels - 0.5) + 0.5 + brightness, 0, 1)
    mapped[0] = 0
    return np.rint(255 * mapped).astype(np.uint8)


CLASSES_KEY = "classes"
"""Key under which ``CxrDataset`` stores the class names."""


@TRANSFORMS.register_module()
class RandomAcquisition(BaseTransform):
    """Lay over an image what phantoms lack: scattered light, blur or edge enhancement, lines, electrodes, text.

    Boxes stay. Nothing that is drawn looks like a finding: lines and electrodes are thin, sharp and as bright as metal.

    Args:
        haze: strongest veil of scattered light, 0…1, different from place to place.
        blur: deviation in pixels of the strongest blur.
        sharpening: gain of the strongest edge enhancement.
        devices: mean number of lines, electrodes and words.
    """

    def __init__(self, haze: float = 0.6, blur: float = 1.0, sharpening: float = 1.5, devices: float = 1.2) -> None:
        self.haze, self.blur, self.sharpening, self.devices = haze, blur, sharpening, devices

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``img``, a plane of uint8."""
        # One number of the global generator, which draws are seeded by.
        rng = np.random.default_rng(np.random.randint(1 << 31))  # noqa: NPY002
        image = results["img"].astype(np.float32)
        exposed = image > 0  # padding and collimation stay black
        size_wh = image.shape[::-1]
        amount = rng.uniform(-1, 1)
        soft = cv2.GaussianBlur(image, (0, 0), 0.05 + self.blur * abs(amount) if amount < 0 else 1.5)
        image = soft if amount < 0 else image + np.float32(self.sharpening * amount) * (image - soft)
        veil = cv2.resize(rng.random((4, 4), dtype=np.float32), size_wh, interpolation=cv2.INTER_CUBIC)
        veil = np.clip(veil * np.float32(self.haze * rng.uniform() ** 2), 0, 1)
        image += veil * (225 - image)
        image *= exposed
        for _ in range(rng.poisson(self.devices)):
            _draw_device(image, rng)
        results["img"] = np.clip(image, 0, 255).astype(np.uint8)
        return results


def _draw_device(image: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Draw a tube or cable, an electrode or a word into a plane of grey levels 0…255, in place."""
    height, width = image.shape
    ink = np.zeros((height, width), np.uint8)
    kind = rng.choice(("line", "electrode", "word"), p=(0.6, 0.2, 0.2))
    thick = max(1, round(width / 256 * rng.uniform(0.5, 1.6)))
    if kind == "line":
        ends = rng.uniform(-0.1, 1.1, (4, 2)) * (width, height)
        t = np.linspace(0, 1, 40)[:, None]
        curve = (1 - t) ** 3 * ends[0] + 3 * (1 - t) ** 2 * t * ends[1] + 3 * (1 - t) * t**2 * ends[2] + t**3 * ends[3]
        cv2.polylines(ink, [np.round(curve * 16).astype(np.int32)], False, 255, thick, cv2.LINE_AA, 4)
    elif kind == "electrode":
        at = rng.uniform(0.1, 0.9, 2) * (width, height)
        for radius, line in ((thick + 1, -1), (round(rng.uniform(2, 5)) * thick, thick)):
            cv2.circle(ink, tuple(int(v) for v in at), radius, 255, line, cv2.LINE_AA)
    else:
        at = rng.uniform((0.0, 0.03), (0.8, 0.16)) * (width, height)
        word = str(rng.choice(("AP", "PA", "SUPINE", "ERECT", "MOBILE", "SITTING", "L", "R")))
        size = width / 256 * rng.uniform(0.25, 0.6)
        cv2.putText(ink, word, tuple(int(v) for v in at), cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
    image += ink * np.float32(1.0 if kind == "word" else rng.uniform(0.15, 0.7))


@TRANSFORMS.register_module()
class RandomMirror(BaseTransform):
    """Mirror an image left to right, and give each box the class of the other side: "Left lung" for "Right lung".

    For organs, whose outline is learned from both sides then. Not for findings: a mirrored heart lies on the right. A
    model trained with it also reads mirrored images, as ``tools/predict.py --tta-flip`` shows it.

    Args:
        probability: of mirroring, 0…1.

    Raises:
        ConfigError: another probability, or a dataset that does not name its classes.
    """

    def __init__(self, probability: float = 0.5) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(f"RandomMirror's probability is {probability:g}; give one in 0…1.")
        self.probability = probability

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``img``, ``gt_bboxes``, ``gt_bboxes_labels`` and the coverage of partly labelled data."""
        # The global generator, which draws are seeded by.
        if np.random.random() >= self.probability:  # noqa: NPY002
            return results
        width = results["img"].shape[1]
        results["img"] = cv2.flip(results["img"], 1)
        if "gt_bboxes" not in results:
            return results
        if CLASSES_KEY not in results:
            raise ConfigError("RandomMirror: the dataset does not name its classes; use CxrDataset, or leave it out.")
        old = results["gt_bboxes"]
        results["gt_bboxes"] = old.clone()  # with what else it knows of its boxes, such as their votes
        results["gt_bboxes"].tensor = old.tensor.new_tensor(boxes.flip_horizontal(old.tensor.numpy(), width))
        others = np.array(mirrored_labels(results[CLASSES_KEY]))
        results["gt_bboxes_labels"] = others[results["gt_bboxes_labels"]]
        if COVERAGE_KEY in results:
            results[COVERAGE_KEY] = results[COVERAGE_KEY][others]
        return results


@TRANSFORMS.register_module()
class RandomPositioning(BaseTransform):
    """Turn an image about its centre, scale and shift it, all by a little and in one interpolation.

    The image keeps its size; what comes in from outside is black. A box becomes the box around its inscribed
    ellipse (:func:`~cxr_mmdet.structures.boxes.move_as_ellipses`, which gives the error): without rotation that is
    exact, cut at the border. The box around the turned corners, which mmdet's ``RandomAffine`` takes, would grow with
    every turn: a round finding's by 8 % in width and height at 5°. Nor does ``RandomAffine`` turn and scale about the
    centre.

    A box of which less than ``min_visible`` of the area stays within the image is flagged as ignored, so that nobody
    learns from a sliver; the number and order of the boxes stay.

    Args:
        rotation: degrees; drawn from -rotation…rotation.
        scale: drawn from 1/(1+scale)…1+scale, evenly on a logarithmic scale.
        shift: drawn from -shift…shift for each axis, as a share of width and height.
        min_visible: the share of a box's area.
    """

    def __init__(
        self, rotation: float = 5.0, scale: float = 0.1, shift: float = 0.05, min_visible: float = 0.25
    ) -> None:
        self.rotation, self.scale, self.shift, self.min_visible = rotation, scale, shift, min_visible

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change ``img``, ``gt_bboxes`` and ``gt_ignore_flags``."""
        # The global generator, which draws are seeded by.
        degrees = np.random.uniform(-self.rotation, self.rotation)  # noqa: NPY002
        limit = math.log1p(self.scale)
        factor = math.exp(np.random.uniform(-limit, limit))  # noqa: NPY002
        height, width = results["img"].shape[:2]
        shift_x, shift_y = np.random.uniform(-self.shift, self.shift, 2) * (width, height)  # noqa: NPY002
        return reposition(results, positioning((height, width), degrees, factor, shift_x, shift_y), self.min_visible)


def positioning(
    size_hw: tuple[int, int], degrees: float, factor: float, shift_x: float, shift_y: float
) -> NDArray[np.float64]:
    """Return the (2, 3) map of continuous pixel coordinates: scaled and turned about the centre, then shifted.

    Args:
        size_hw: of the image, in pixels.
        degrees: counter-clockwise as seen.
        factor: above 1 enlarges.
        shift_x: to the right, in pixels.
        shift_y: downwards, in pixels.
    """
    height, width = size_hw
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, factor)
    matrix[:, 2] += shift_x, shift_y
    return np.asarray(matrix, dtype=np.float64)


def reposition(results: dict[str, Any], matrix: NDArray[np.float64], min_visible: float) -> dict[str, Any]:
    """Change ``img``, ``gt_bboxes`` and ``gt_ignore_flags`` by a (2, 3) map of continuous pixel coordinates."""
    image = results["img"]
    height, width = image.shape[:2]
    # OpenCV counts from the centre of the first pixel, boxes from its corner: p' + 1/2 = A (p + 1/2) + t.
    of_centres = matrix.copy()
    of_centres[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    results["img"] = cv2.warpAffine(image, of_centres, (width, height), flags=cv2.INTER_LINEAR, borderValue=0)
    if "gt_bboxes" not in results:
        return results
    old = results["gt_bboxes"]
    moved = boxes.move_as_ellipses(old.tensor.numpy(), matrix)
    visible = boxes.clip_to_image(moved, (height, width))
    results["gt_bboxes"] = old.clone()  # with what else it knows of its boxes, such as their votes
    results["gt_bboxes"].tensor = old.tensor.new_tensor(visible)
    cut_off = boxes.area(visible) < min_visible * boxes.area(moved)
    flags = np.asarray(results.get("gt_ignore_flags", np.zeros(len(moved), dtype=bool)))
    results["gt_ignore_flags"] = flags | cut_off
    return results
