"""Draws of training samples whose randomness depends on their position alone, so that a resumed run is the same run.

mmengine's ``InfiniteSampler`` leaves the randomness of the transforms to the state of whichever worker process they
run in, and a run that was killed cannot get that state back. Here each draw carries its position in the stream of all
draws; the dataset seeds the generators by it before the pipeline runs. Resuming is a matter of counting.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import InfiniteSampler

from cxr_mmdet.datasets.draw_plan import DrawPlan, plan_draws

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from fractions import Fraction

    from numpy.typing import NDArray

_SEED_BITS = 32
_OF_NORMALS, _OF_ROUNDING = 1, 2


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
    """mmengine's ``InfiniteSampler``, yielding :class:`Draw`; rare findings and normal studies by weight, if told so.

    ``skip`` makes resuming instant where the installed mmengine calls it; elsewhere its loop draws and drops the
    samples already trained on, with the same outcome.

    With ``repeat_threshold`` an entry of repeat factor 2.3 stands in each pass over the data twice, and in three of ten
    passes once more: rounded at random, pass by pass, as Detectron2 does. mmengine's ``ClassBalancedDataset`` rounds
    up, which makes 1.01 a 2; drawing by weight with replacement would leave some entries out of each pass.

    With ``normal_share`` normal studies and the others have passes of their own, and take turns: any n successive draws
    of a process hold the floor or the ceiling of n times the share, so that each batch does, and so do all processes'
    batches together.

    Args:
        dataset: what is drawn from.
        shuffle: whether each pass has an order of its own.
        seed: of the stream; mmengine gives the run's.
        repeat_threshold: t of LVIS's repeat factors, see :func:`~cxr_mmdet.datasets.draw_plan.plan_draws`; None
            repeats nothing.
        repeat_classes: the names of the classes to repeat; all by default.
        normal_share: the share of normal studies; None leaves it to their number.

    Raises:
        ConfigError: as ``plan_draws``.
    """

    def __init__(
        self,
        dataset: Any,
        shuffle: bool = True,
        seed: int | None = None,
        *,
        repeat_threshold: float | None = None,
        repeat_classes: Sequence[str] | None = None,
        normal_share: float | None = None,
    ) -> None:
        super().__init__(dataset, shuffle=shuffle, seed=seed)
        self.plan: DrawPlan | None = None
        """None where nothing is weighed; what the images hold is then not asked for."""
        if any(option is not None for option in (repeat_threshold, repeat_classes, normal_share)):
            self.plan = plan_draws(
                dataset,
                repeat_threshold=repeat_threshold,
                repeat_classes=repeat_classes,
                normal_share=normal_share,
            )

    def _draws_of_rank(self) -> Iterator[Draw]:
        for position, index in enumerate(self._infinite_indices()):
            if position % self.world_size == self.rank:
                yield Draw(index, _mix(self.seed, position))

    def _indices_of_rank(self) -> Iterator[int]:
        return self._draws_of_rank()

    def _infinite_indices(self) -> Iterator[int]:
        """Yield the stream that the processes share, each taking the positions of its rank."""
        if self.plan is None:
            yield from super()._infinite_indices()
        elif self.plan.normal_share is None:
            yield from self._passes(np.arange(self.size), self.seed)
        else:
            normal = self.plan.normal
            normals = self._passes(np.flatnonzero(normal), _mix(self.seed, 0, _OF_NORMALS))
            others = self._passes(np.flatnonzero(~normal), self.seed)
            for position in itertools.count():
                yield next(normals if self._is_normals_turn(position, self.plan.normal_share) else others)

    def _passes(self, entries: NDArray[np.intp], seed: int) -> Iterator[int]:
        """Yield pass after pass over ``entries``, each as often as its factor says."""
        assert self.plan is not None, "only weighed streams come here"
        order = torch.Generator()
        order.manual_seed(seed)
        rounding = np.random.default_rng(_mix(seed, 0, _OF_ROUNDING))  # its own: factors of 1 leave the order as it is
        whole = np.floor(self.plan.factors[entries])
        rest = self.plan.factors[entries] - whole
        while True:
            copies = whole + (rounding.random(len(entries)) < rest)
            drawn = np.repeat(entries, copies.astype(np.intp))
            yield from (drawn[torch.randperm(len(drawn), generator=order).numpy()] if self.shuffle else drawn).tolist()

    def _is_normals_turn(self, position: int, share: Fraction) -> bool:
        """Return whether a position of the shared stream belongs to a normal study.

        Of its first k draws rank r of W gives floor(k·share + r/W) to normal studies; over the ranks that sums up to
        floor(W·k·share) (Hermite's identity), so the ranks take turns, too.
        """
        turn, rank = divmod(position, self.world_size)
        step, phase = share.numerator * self.world_size, share.denominator * rank
        whole = share.denominator * self.world_size
        return (step * (turn + 1) + phase) // whole > (step * turn + phase) // whole

    def skip(self, num_samples: int) -> None:
        """Start the stream after ``num_samples`` draws of this rank, counted from the first."""
        self.indices = itertools.islice(self._indices_of_rank(), num_samples, None)


def _mix(seed: int, *place: int) -> int:
    return int(np.random.SeedSequence((seed, *place)).generate_state(1, np.uint32)[0]) % 2**_SEED_BITS
