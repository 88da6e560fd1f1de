"""Our training iteration against stock mmdet's: the same model, weights and images; from sample to update."""

from __future__ import annotations

import contextlib
import logging
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.registry import HOOKS, MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from benchmarks.harness import Alternative, Comparison, compare
from benchmarks.stock import OURS, STOCK, stock_model
from cxr_mmdet.engine.config import class_names
from cxr_mmdet.engine.hooks import ChannelsLastHook, CompileHook
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.steady_loss import SteadyLoss

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmdet.models.detectors.base import BaseDetector
    from mmengine.config import Config
    from mmengine.hooks import Hook

    from benchmarks.harness import Progress

PLAIN = "the recipe"
_BOXES_PER_IMAGE = 5
_SEED = 0

Batch = dict[str, list[Any]]


class Trainer:
    """A model, its optimizer and the hooks that act in every iteration.

    Args:
        model: on the device where it trains.
        optim_wrapper: as in a config.
        hooks: their ``before_train_iter`` and ``after_train_iter`` belong to the iteration.
    """

    def __init__(self, model: BaseDetector, optim_wrapper: dict[str, Any], hooks: Sequence[Hook] = ()) -> None:
        self.model = model.train()
        self.optim_wrapper = build_optim_wrapper(model, optim_wrapper)
        self.hooks = hooks
        for hook in hooks:
            if isinstance(hook, (ChannelsLastHook, CompileHook)):
                hook.before_train(SimpleNamespace(model=self.model, logger=logging.getLogger(__name__)))
        self._message_hub = MessageHub("train-step")

    def step(self, iteration: int, batch: Batch) -> dict[str, torch.Tensor]:
        """Train one iteration, wait for the device, and return the losses."""
        runner = SimpleNamespace(
            seed=_SEED,
            iter=iteration,
            world_size=1,
            rank=0,
            model=self.model,
            message_hub=self._message_hub,
            optim_wrapper=self.optim_wrapper,
        )
        for hook in self.hooks:
            hook.before_train_iter(runner, iteration, batch)
        losses = self.model.train_step(batch, self.optim_wrapper)
        for hook in self.hooks:
            hook.after_train_iter(runner, iteration, batch, losses)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return losses

    @torch.no_grad()
    def losses(self, batch: Batch) -> dict[str, Any]:
        """Return the losses before any update, with the samplers' generators freshly seeded."""
        random.seed(_SEED)
        np.random.seed(_SEED)  # noqa: NPY002 (mmdet draws from the global generator)
        torch.manual_seed(_SEED)
        return self.model(**self.model.data_preprocessor(batch, True), mode="loss")


def benchmark_train_step(
    config: Config,
    name: str,
    *,
    size: int = 384,
    batch_size: int = 1,
    rounds: int = 6,
    memory: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Time training iterations of ``config`` and of its stock counterpart, on the GPU if there is one.

    Stock mmdet gets mmdet's own preprocessor, images of three planes in memory and none of our hooks; mmcv's
    operators are whichever the process has, for both.

    Args:
        config: a recipe.
        name: what to call it.
        size: both sides of the images, which are noise with boxes: what is in them does not change the work.
        batch_size: images per iteration.
        rounds: timed iterations.
        memory: whether to measure resident memory as well.
        progress: called with the rounds just done and all of them.

    Raises:
        ConfigError: the two models do not compute the same losses.
    """
    stock, ours = _build_models(config)
    hooks = [HOOKS.build(hook) for hook in config.custom_hooks]
    trainers = {STOCK: Trainer(stock, config.optim_wrapper), OURS: Trainer(ours, config.optim_wrapper, hooks)}
    classes = len(class_names(config))
    batches = [make_batch(turn, batch_size, size, classes) for turn in range(rounds)]
    batches_of = {STOCK: [_with_planes_copied(batch) for batch in batches], OURS: batches}
    _check_agreement(*(trainers[side].losses(batches_of[side][0]) for side in (STOCK, OURS)))

    def alternative(side: str) -> Alternative:
        return Alternative(side, lambda turn: trainers[side].step(turn, batches_of[side][turn]))

    return compare(
        f"Training iteration of {name}, {batch_size} x {size} px",
        [alternative(STOCK), alternative(OURS)],
        item="iteration",
        items_per_round=1,
        rounds=rounds,
        clock="wall_s" if torch.cuda.is_available() else "cpu_s",
        memory=memory,
        progress=progress,
    )


def benchmark_switches(
    configs: Mapping[str, Config],
    name: str,
    *,
    size: int = 384,
    batch_size: int = 1,
    rounds: int = 6,
    memory: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Time training iterations of a recipe with switches against the recipe as it is, the first of ``configs``.

    Arguments are those of :func:`benchmark_train_step`.
    """
    classes = len(class_names(next(iter(configs.values()))))
    batches = [make_batch(turn, batch_size, size, classes) for turn in range(rounds)]

    def alternative(title: str, config: Config) -> Alternative:
        hooks = [HOOKS.build(hook) for hook in config.custom_hooks]
        trainer = Trainer(_build_models(config)[1], config.optim_wrapper, hooks)
        return Alternative(title, lambda turn: trainer.step(turn, batches[turn]))

    return compare(
        f"Training iteration of {name}, {batch_size} x {size} px",
        [alternative(title, config) for title, config in configs.items()],
        item="iteration",
        items_per_round=1,
        rounds=rounds,
        warm_up=2,
        clock="wall_s" if torch.cuda.is_available() else "cpu_s",
        memory=memory,
        progress=progress,
    )


def _build_models(config: Config) -> tuple[BaseDetector, BaseDetector]:
    """Return the stock model and ours, with the same random weights."""
    init_default_scope("mmdet")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(_SEED)
    with _quiet_logger():
        ours = MODELS.build(config.model)
        ours.init_weights()
        for part in ours.modules():
            if isinstance(part, SteadyLoss):
                part.momentum = 0.0  # mmdet's loss, by the same work
        stock = MODELS.build(stock_model(config.model))
    stock.load_state_dict(ours.state_dict())
    return stock.to(device), ours.to(device)


@contextlib.contextmanager
def _quiet_logger() -> Iterator[None]:
    """Keep back the line per parameter that mmengine logs when weights are initialised."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def make_batch(seed: int, batch_size: int, size: int, classes: int) -> Batch:
    """Return a batch as the loader hands it over: grey noise (3, size, size) uint8, and random boxes."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.randint(0, 256, (batch_size, size, size), dtype=torch.uint8, generator=generator)
    return {
        "inputs": [plane.expand(3, -1, -1) for plane in planes],
        "data_samples": [_make_sample(index, size, classes, generator) for index in range(batch_size)],
    }


def _make_sample(index: int, size: int, classes: int, generator: torch.Generator) -> DetDataSample:
    corners = torch.rand((_BOXES_PER_IMAGE, 2), generator=generator) * 0.6 * size
    sides = (0.1 + 0.3 * torch.rand((_BOXES_PER_IMAGE, 2), generator=generator)) * size
    labels = torch.randint(0, classes, (_BOXES_PER_IMAGE,), generator=generator)
    boxes = HorizontalBoxes(torch.cat([corners, corners + sides], dim=1))
    shape = {"img_shape": (size, size), "ori_shape": (size, size), "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo={"img_id": index} | shape)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    return sample


def _with_planes_copied(batch: Batch) -> Batch:
    return {
        "inputs": [image.contiguous() for image in batch["inputs"]],
        "data_samples": [sample.clone() for sample in batch["data_samples"]],
    }


def _check_agreement(stock: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, expected in stock.items():
        pairs = zip(_as_tuple(expected), _as_tuple(ours[name]), strict=True)
        if not all(torch.allclose(got, reference) for reference, got in pairs):
            raise ConfigError(
                f"the config's model and its stock counterpart do not compute the same {name}, so their speeds cannot "
                "be compared; choose another recipe, such as retina_5cls."
            )


def _as_tuple(loss: Any) -> tuple[torch.Tensor, ...]:
    return tuple(loss) if isinstance(loss, (list, tuple)) else (loss,)
