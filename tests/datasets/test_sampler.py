"""Weighed draws; the plain stream is tested in test_cxr_dataset.py and, against what it was, here."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_images import LabelledImages, eight_abnormal_of_twelve
from mmengine.dataset import InfiniteSampler
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from cxr_mmdet.datasets import CxrDataset, MinorityAugmentedDataset, SeededInfiniteSampler
from cxr_mmdet.datasets.draw_plan import plan_draws

if TYPE_CHECKING:
    from conftest import PreparedFolder

init_default_scope("mmdet")

SWITCHES = [
    dict(),
    dict(repeat_threshold=0.5),
    dict(normal_share=0.25),
    dict(repeat_threshold=0.5, normal_share=0.25),
    dict(repeat_threshold=0.5, repeat_classes=["B"], normal_share=0.1),
]


def sampler(dataset=None, *, rank: int = 0, of: int = 1, seed: int = 3, **options) -> SeededInfiniteSampler:
    built = SeededInfiniteSampler(dataset or eight_abnormal_of_twelve(), seed=seed, **options)
    built.rank, built.world_size = rank, of
    return built


def draws(source: SeededInfiniteSampler, count: int) -> list[tuple[int, int]]:
    """Return the next draws as (index, seed)."""
    return [(int(draw), draw.seed) for draw in itertools.islice(source.indices, count)]


def test_without_switches_the_stream_is_what_it_always_was():
    got = draws(sampler(range(7)), 9)
    assert [index for index, _ in got] == list(itertools.islice(InfiniteSampler(range(7), seed=3).indices, 9))
    assert [seed for _, seed in got] == [  # written down before there were switches
        1576890651,
        457190280,
        960329833,
        4253259675,
        2746448868,
        3746004709,
        534926514,
        2580024465,
        1820076146,
    ]


def test_without_switches_nobody_asks_what_the_images_hold():
    assert sampler(range(7)).plan is None  # a range could not answer


@pytest.mark.parametrize("switches", SWITCHES)
def test_frequencies_are_the_plans_shares(switches):
    count = 20_000
    got = np.bincount([index for index, _ in draws(sampler(**switches), count)], minlength=12) / count
    np.testing.assert_allclose(got, plan_draws(eight_abnormal_of_twelve(), **switches).shares(), atol=0.003)


def test_each_pass_holds_every_entry_and_rounds_its_factor_at_random():
    data = LabelledImages([[0]] * 9 + [[0, 1]])  # r(B) = sqrt(0.5 / 0.1)
    ordered = SeededInfiniteSampler(data, shuffle=False, seed=3, repeat_threshold=0.5, repeat_classes=["B"])
    stream = [index for index, _ in draws(ordered, 12_000)]
    starts = [place for place, index in enumerate(stream) if index == 0]
    passes = [stream[start:end] for start, end in itertools.pairwise(starts)]
    copies = [len(drawn) - 9 for drawn in passes]
    assert all(drawn == [*range(9), *[9] * count] for drawn, count in zip(passes, copies, strict=True))
    assert set(copies) == {2, 3}
    assert np.mean(copies) == pytest.approx(math.sqrt(5), abs=0.05)  # 1000 passes, standard error 0.013


def test_factors_of_one_change_nothing():
    plain, weighed = (
        sampler(LabelledImages([[0, 1, 2]] * 9)),
        sampler(LabelledImages([[0, 1, 2]] * 9), repeat_threshold=1),
    )
    assert draws(plain, 50) == draws(weighed, 50)


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(switches, ranks):
    for rank in range(ranks):
        whole, rest = (sampler(rank=rank, of=ranks, **switches) for _ in range(2))
        rest.skip(29)
        assert draws(rest, 60) == draws(whole, 89)[29:]


@pytest.mark.parametrize("switches", SWITCHES)
def test_two_ranks_share_one_stream(switches):
    ranks = [draws(sampler(rank=rank, of=2, **switches), 300) for rank in range(2)]
    together = list(itertools.chain.from_iterable(zip(*ranks, strict=True)))
    assert len({seed for _, seed in together}) == 600
    normal = plan_draws(eight_abnormal_of_twelve()).normal
    passes = [[index for index, _ in together if normal[index] == kind] for kind in (False, True)]
    if "normal_share" not in switches:
        assert together == draws(sampler(**switches), 600)
    else:  # each of the two streams goes through its images before it starts again
        assert sorted(passes[1][:4]) == sorted(passes[1][4:8]) == list(np.flatnonzero(normal))
        alone = [index for index, _ in draws(sampler(**switches), 600) if not normal[index]]
        assert passes[0][:400] == alone[:400]


@given(
    share=st.fractions(0, 1, max_denominator=60).filter(lambda value: value < 1),
    ranks=st.integers(1, 5),
    start=st.integers(0, 50),
    length=st.integers(1, 40),
)
@settings(max_examples=60)
def test_any_successive_draws_of_any_rank_hold_the_share_of_normals(share, ranks, start, length):
    normal = plan_draws(eight_abnormal_of_twelve()).normal
    total = 0
    for rank in range(ranks):
        own = [normal[i] for i, _ in draws(sampler(rank=rank, of=ranks, normal_share=float(share)), start + length)]
        assert math.floor(length * share) <= sum(own[start:]) <= math.ceil(length * share)
        total += sum(own)
    assert total == math.floor(Fraction(ranks * (start + length)) * share)


def test_unshuffled_draws_keep_the_order():
    ordered = SeededInfiniteSampler(eight_abnormal_of_twelve(), shuffle=False, seed=0, normal_share=0.5)
    assert [index for index, _ in draws(ordered, 8)] == [0, 3, 1, 5, 2, 8, 4, 11]


PIPELINE = [
    dict(type="LoadGreyImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="MinorityFlipRot90"),
    dict(type="RandomClahe"),
    dict(type="RandomPositioning"),
    dict(type="RandomExposure"),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]


def test_all_switches_together_do_not_depend_on_the_worker(prepared_folder: PreparedFolder):
    base = CxrDataset(data_root=str(prepared_folder(train=8)), ann_file="annotations/train_5.json", pipeline=PIPELINE)
    dataset = MinorityAugmentedDataset(base, ["ILD"])
    switches = dict(repeat_threshold=0.5, repeat_classes=["ILD", "Nodule/Mass"], normal_share=0.25)

    def load(workers: int) -> list[tuple]:
        loader = DataLoader(
            dataset,
            batch_size=4,
            sampler=SeededInfiniteSampler(dataset, seed=1, **switches),
            num_workers=workers,
            collate_fn=list,
        )
        return [
            [(s["data_samples"].img_id, s["inputs"].numpy(), s["data_samples"].gt_instances.bboxes.tensor) for s in b]
            for b in itertools.islice(loader, 5)
        ]

    here, there = load(0), load(1)
    for batch, other in zip(here, there, strict=True):
        assert sum(len(boxes) == 0 for _, _, boxes in batch) == 1  # every fourth is normal
        for (image, pixels, boxes), (same_image, same_pixels, same_boxes) in zip(batch, other, strict=True):
            assert image == same_image
            np.testing.assert_array_equal(pixels, same_pixels)
            np.testing.assert_array_equal(boxes, same_boxes)
