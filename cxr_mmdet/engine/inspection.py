"""Looking at a recipe before training: the images its pipeline makes, and what its network costs."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS, DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from cxr_mmdet.drawing import draw_boxes
from cxr_mmdet.engine.config import annotated_parts, check_annotation_files
from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmengine.config import Config
    from numpy.typing import NDArray

_GAP = 8
"""Black pixels between the images of a grid."""


@dataclass(frozen=True)
class TrainingImage:
    """One image as the network sees it in training, with its boxes drawn.

    Attributes:
        image: the prepared image it was made of, without suffix.
        pixels: (H, W, 3) uint8, RGB.
        boxes: number of boxes on it, without regions to ignore.
    """

    image: str
    pixels: NDArray[np.uint8]
    boxes: int


@dataclass(frozen=True)
class Cost:
    """Size and arithmetic of a detector.

    Attributes:
        side: of the square image, in pixels: the short edge of the test pipeline.
        parameters: number of parameters.
        multiply_adds: per image, of backbone, neck and heads up to the raw maps; mmdet's tables call them FLOPs.
    """

    side: int
    parameters: int
    multiply_adds: int


def training_images(config: Config, count: int) -> Iterator[TrainingImage]:
    """Yield the first images that a training with this config draws, after its whole pipeline.

    Args:
        config: see :func:`~cxr_mmdet.engine.config.load_config`.
        count: of images; one image may be drawn several times.

    Raises:
        DatasetError: the prepared folder is not as the config expects.
    """
    check_annotation_files(config)
    init_default_scope("mmdet")
    dataset = DATASETS.build(config.train_dataloader.dataset)
    sampler = DATA_SAMPLERS.build(
        config.train_dataloader.sampler,
        default_args={"dataset": dataset, "seed": config.get("randomness", {}).get("seed") or 0},
    )
    names = dataset.metainfo["classes"]
    for draw in islice(iter(sampler), count):
        sample = dataset[draw]
        truth = sample["data_samples"].gt_instances
        ignored = sample["data_samples"].get("ignored_instances", [])
        boxes = [get_box_tensor(each.bboxes).numpy(force=True) for each in (truth, ignored) if len(each)]
        labels = [each.labels.numpy(force=True) for each in (truth, ignored) if len(each)]
        pixels = draw_boxes(
            np.ascontiguousarray(sample["inputs"][0].numpy(force=True)),
            np.concatenate(boxes) if boxes else np.zeros((0, 4)),
            np.concatenate(labels) if labels else np.zeros(0, dtype=int),
            None,
            names,
            long_edge=None,
        )
        yield TrainingImage(Path(sample["data_samples"].img_path).stem, pixels, len(truth))


def write_grid(path: Path, images: list[TrainingImage], side: int = 320) -> None:
    """Write images side by side as one PNG, each in a square cell of ``side`` pixels."""
    columns = int(np.ceil(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    grid = np.zeros((rows * (side + _GAP) - _GAP, columns * (side + _GAP) - _GAP, 3), np.uint8)
    for place, image in enumerate(images):
        height, width = image.pixels.shape[:2]
        factor = side / max(height, width)
        size_wh = max(1, round(width * factor)), max(1, round(height * factor))
        cell = cv2.resize(image.pixels, size_wh, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        top, left = (place // columns) * (side + _GAP), (place % columns) * (side + _GAP)
        grid[top : top + size_wh[1], left : left + size_wh[0]] = cell
    write_image(path, grid)


def write_image(path: Path, pixels_rgb: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) RGB pixels as PNG."""
    encoded = cv2.imencode(".png", cv2.cvtColor(pixels_rgb, cv2.COLOR_RGB2BGR))[1]
    path.write_bytes(encoded.tobytes())


def measure_cost(config: Config) -> Cost:
    """Return the size and the arithmetic of a config's detector, counted by mmengine on one traced image.

    Raises:
        ConfigError: the test pipeline does not resize, or the detector cannot be traced.
    """
    init_default_scope("mmdet")
    (part,) = annotated_parts(config.test_dataloader)
    scales: list[Any] = [step["scale"] for step in part["pipeline"] if step["type"] == "Resize" and "scale" in step]
    if not scales:
        raise ConfigError("the test pipeline has no Resize with a scale, so the image size is unknown.")
    side = min(scales[0])
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model = MODELS.build(copy.deepcopy(config.model)).eval()
        shape = (side, side)
        sample = DetDataSample(
            metainfo={
                "img_shape": shape,
                "ori_shape": shape,
                "pad_shape": shape,
                "batch_input_shape": shape,
                "scale_factor": (1.0, 1.0),
            }
        )
        model.forward = partial(model.forward, data_samples=[sample], mode="tensor")
        with torch.no_grad():
            analyzer = FlopAnalyzer(model, (torch.zeros(1, 3, side, side),))
            analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            multiply_adds = int(analyzer.total())
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"the detector of this config cannot be traced for its cost ({error}).") from error
    finally:
        logger.setLevel(level)
    return Cost(side=side, parameters=int(parameter_count(model)[""]), multiply_adds=multiply_adds)
