"""Our hooks on mmengine's Runner: exact resuming, the best so far, curves at the end, a progress bar."""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cxr_mmdet.engine.curves import draw_curves
from cxr_mmdet.models.steady_loss import SteadyLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmengine.runner import Runner

_LARGE_PRIME = 1_000_003


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed each iteration by its number and rank, so that a resumed run draws what the uninterrupted one drew.

    Samplers of RoIs and dropout draw from global generators in the training process; their state is not in mmengine's
    checkpoints. The data has its own seeds (``SeededInfiniteSampler``).
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed ``random``, ``numpy.random`` and torch on all devices."""
        seed = (int(runner.seed) * _LARGE_PRIME + runner.iter * runner.world_size + runner.rank) % 2**32
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (mmdet draws from the global generator)
        torch.manual_seed(seed)


@HOOKS.register_module()
class SteadyLossHook(Hook):
    """Keep the means that steady losses are divided by in the run's checkpoints, and take them up when it resumes."""

    _KEY = "mean_positives"

    def __init__(self) -> None:
        self._heads: list[SteadyLoss] | None = None

    def before_train(self, runner: Runner) -> None:
        """Take up what a resumed checkpoint holds."""
        means = runner.message_hub.get_info(self._KEY, None)
        for head, mean in zip(self._steady_heads(runner), means or [], strict=False):
            head.mean_positives = mean

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note the means, before a checkpoint is saved."""
        heads = self._steady_heads(runner)
        if heads:
            runner.message_hub.update_info(self._KEY, [head.mean_positives for head in heads])

    def _steady_heads(self, runner: Runner) -> list[SteadyLoss]:
        if self._heads is None:
            self._heads = [part for part in runner.model.modules() if isinstance(part, SteadyLoss)]
        return self._heads


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keep the weights of convolutions in memory with their channels last, and with them all feature maps.

    A CPU convolves this layout faster (docs/benchmarks.md); results differ in rounding only. Checkpoints hold the same
    tensors either way. A network with a strided 1x1 convolution of fewer than 16 channels keeps its layout: up to 8
    channels make torch 2.14 write beyond its memory in that convolution's backward pass on a CPU.
    """

    def before_train(self, runner: Runner) -> None:
        """Change the layout."""
        if any(map(_overflows_channels_last, runner.model.modules())):
            runner.logger.info("Channels stay first in memory: the network is too narrow for the other layout.")
            return
        runner.model.to(memory_format=torch.channels_last)


def _overflows_channels_last(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, torch.nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < 16
    )


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile parts of the detector by ``torch.compile``, for inputs of any size; weights keep their names.

    Heads and losses stay as they are: their work depends on the boxes, which a compiler answers by compiling again.

    Args:
        parts: of the model.
    """

    def __init__(self, parts: Sequence[str] = ("backbone", "neck")) -> None:
        self.parts = parts

    def before_train(self, runner: Runner) -> None:
        """Compile them; the work is done when they are first called."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for part in self.parts:
            if hasattr(model, part):
                getattr(model, part).compile(dynamic=True)


@HOOKS.register_module()
class BestSoFarHook(Hook):
    """Log one line after each validation: the metric that picks the best checkpoint, its best, and when that was.

    The metric is the checkpoint hook's ``save_best``, such as ``bbox/mAP_50``; of several the first.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self.best: tuple[float, int] | None = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log the line."""
        name = next((hook.save_best[0] for hook in runner.hooks if getattr(hook, "save_best", None)), "")
        value = (metrics or {}).get(name)
        if value is None:
            return
        if self.best is None or value > self.best[0]:
            self.best = (value, runner.iter)
        best_value, best_iteration = self.best
        runner.logger.info(
            f"{name} {value:.4f} after {runner.iter} iterations; best so far {best_value:.4f} after {best_iteration}."
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the best over a resume."""
        checkpoint["best_so_far"] = self.best

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take up the best where the resumed run left it."""
        if runner._resume:
            self.best = checkpoint.get("best_so_far")


@HOOKS.register_module()
class CurvesHook(Hook):
    """Draw ``curves.png`` (losses, learning rate, mAP) into the work dir when training ends."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.runs: list[str] = []

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the folders of the runs that led here over a resume."""
        checkpoint["runs"] = [*self.runs, runner.timestamp]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take up those folders."""
        if runner._resume:
            self.runs = checkpoint.get("runs", [])

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Draw the image from the scalars of this run and of those it resumed."""
        draw_curves(Path(runner.work_dir), [*self.runs, runner.timestamp])


@HOOKS.register_module()
class ProgressHook(Hook):
    """A progress bar with rate and time left while training and testing, in a terminal; log lines do elsewhere."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._handlers: list[logging.StreamHandler] = []

    def before_train(self, runner: Runner) -> None:
        """Start the bar at the iteration the run begins with."""
        self._start(runner, "training", runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance by one iteration."""
        loss = outputs["loss"].item() if self._bar and outputs and "loss" in outputs else None
        self._advance("" if loss is None else f"loss {loss:.3f}")

    def after_train(self, runner: Runner) -> None:
        """Take the bar away."""
        self._stop()

    def before_test(self, runner: Runner) -> None:
        """Start the bar over the batches of the test split."""
        self._start(runner, "testing", len(runner.test_dataloader), 0)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Advance by one batch."""
        self._advance("")

    def after_test(self, runner: Runner) -> None:
        """Take the bar away."""
        self._stop()

    @master_only
    def _start(self, runner: Runner, what: str, total: int, done: int) -> None:
        if not sys.stderr.isatty():
            return
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.add_task(what, total=total, completed=done, note="")
        self._bar.start()
        # The bar replaces sys.stderr to print above itself; the logger still holds the stream it replaced.
        self._handlers = [
            handler
            for handler in runner.logger.handlers
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        ]
        self._point_handlers(sys.stderr)

    def _advance(self, note: str) -> None:
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, advance=1, note=note)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._point_handlers(sys.stderr)

    def _point_handlers(self, stream: TextIO) -> None:
        for handler in self._handlers:
            handler.setStream(stream)
