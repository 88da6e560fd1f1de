"""Draws of training samples whose randomness depends on their position alone, so that a resumed run is the same run.

mmengine's ``InfiniteSampler`` leaves the randomness of the transforms to the state of whichever worker process they
run in, and a run that was killed cannot get that state back. Here each draw carries its position in the stream of all
draws; the dataset seeds the generators by it before the pipeline runs. Resuming is a matter of counting.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import InfiniteSampler

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEED_BITS = 32


class Draw(int):
    """A dataset index that knows the seed of its draw."""

    seed: int

    def __new__(cls, index: int, seed: int) -> Draw:
        """Return the index with its seed."""
        draw = super().__new__(cls, index)
        draw.seed = seed
        return draw

    def __reduce__(self) -> tuple[type[Draw], tuple[int, int]]:  # pickled on its way to a worker process
        return Draw, (int(self), self.seed)

    def at(self, index: int) -> Draw:
        """Return another index with this draw's seed, for datasets that wrap datasets."""
        return Draw(index, self.seed)


def seed_draw(index: int) -> None:
    """Seed the generators transforms use (``random``, ``numpy.random``, torch's CPU one) if ``index`` is a draw."""
    if isinstance(index, Draw):
        random.seed(index.seed)
        np.random.seed(index.seed)  # noqa: NPY002 (mmcv's transforms use the global generator)
        torch.default_generator.manual_seed(index.seed)


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(InfiniteSampler):
    """mmengine's ``InfiniteSampler``, yielding :class:`Draw`.

    Same arguments. ``skip`` makes resuming instant where the installed mmengine calls it; elsewhere its loop draws and
    drops the samples already trained on, with the same outcome.
    """

    def _draws_of_rank(self) -> Iterator[Draw]:
        for position, index in enumerate(self._infinite_indices()):
            if position % self.world_size == self.rank:
                yield Draw(index, _mix(self.seed, position))

    def _indices_of_rank(self) -> Iterator[int]:
        return self._draws_of_rank()

    def skip(self, num_samples: int) -> None:
        """Start the stream after ``num_samples`` draws of this rank, counted from the first."""
        self.indices = itertools.islice(self._indices_of_rank(), num_samples, None)


def _mix(seed: int, position: int) -> int:
    return int(np.random.SeedSequence((seed, position)).generate_state(1, np.uint32)[0]) % 2**_SEED_BITS
