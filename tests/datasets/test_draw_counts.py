import logging
import math
import re

import numpy as np
import pytest
from labelled_images import LabelledImages, eight_abnormal_of_twelve
from rich.console import Console
from torch.utils.data import DataLoader

from cxr_mmdet.datasets import SeededInfiniteSampler
from cxr_mmdet.datasets.draw_counts import announce_draws, count_draws, draws_table
from cxr_mmdet.datasets.draw_plan import plan_draws


def rows(table) -> dict[str, list[str]]:
    """Return the cells of the table in 80 columns by the first of their row."""
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    lines = [re.split(r"\s{2,}", line.strip()) for line in console.export_text().splitlines()]
    return {cells[0]: cells[1:] for cells in lines if len(cells) > 3}


def test_counts_without_switches_are_the_datas():
    counts = count_draws(plan_draws(eight_abnormal_of_twelve()))
    assert [(group.name, group.images, group.boxes) for group in counts.classes] == [
        ("A", 8, 9),
        ("B", 2, 2),
        ("C", 1, 1),
    ]
    assert [group.share for group in counts.classes] == pytest.approx([8 / 12, 2 / 12, 1 / 12])
    assert (counts.images, counts.abnormal.images, counts.abnormal.boxes, counts.normal.images) == (12, 8, 12, 4)
    assert (counts.abnormal.share, counts.normal.share) == pytest.approx((8 / 12, 4 / 12))


def test_counts_follow_factors_and_share():
    """Factors 1 (six), sqrt 2 and 2 among the abnormal, which get four fifths of the draws."""
    counts = count_draws(plan_draws(eight_abnormal_of_twelve(), repeat_threshold=0.5, normal_share=0.2))
    total = 6 + math.sqrt(2) + 2
    assert [group.repeat_factor for group in counts.classes] == pytest.approx([1, math.sqrt(2), 2])
    assert [group.share for group in counts.classes] == pytest.approx(
        [0.8, 0.8 * (math.sqrt(2) + 2) / total, 0.8 * 2 / total]
    )
    assert (counts.abnormal.share, counts.normal.share) == pytest.approx((0.8, 0.2))


def test_the_counts_are_what_the_sampler_draws():
    sampler = SeededInfiniteSampler(eight_abnormal_of_twelve(), seed=0, repeat_threshold=0.5, normal_share=0.2)
    drawn = np.array([next(sampler.indices) for _ in range(10_000)])
    for label, group in enumerate(count_draws(sampler.plan).classes):
        assert np.isin(drawn, np.flatnonzero(sampler.plan.holding(label))).mean() == pytest.approx(
            group.share, abs=0.005
        )


def test_the_table_says_it_all_in_80_columns():
    plan = plan_draws(eight_abnormal_of_twelve(), repeat_threshold=0.5, normal_share=0.2)
    table = draws_table(count_draws(plan, copies=3), plan)
    assert table.title == "Training draws from 12 images, 3 of them virtual copies"
    assert table.caption == "repeat_threshold 0.5, normal_share 0.2"
    assert rows(table) == {
        "images": ["boxes", "repeat factor", "of images", "of draws"],
        "A": ["8", "9", "1.00", "66.7 %", "80.0 %"],
        "B": ["2", "2", "1.41", "16.7 %", "29.0 %"],
        "C": ["1", "1", "2.00", "8.3 %", "17.0 %"],
        "any finding": ["8", "12", "66.7 %", "80.0 %"],
        "normal": ["4", "0", "33.3 %", "20.0 %"],
    }


def test_the_table_counts_unknown_beside_absent():
    """A is in 1 image and unknown on 2 of 4; the last image holds nothing and was not looked through for A."""
    classes = ("Aortic enlargement", "B", "C")
    coverage = [[2, 2, 2], [0, 2, 1], [2, 2, 2], [0, 2, 2]]
    plan = plan_draws(LabelledImages([[0], [1], [], []], classes, coverage=coverage))
    assert rows(draws_table(count_draws(plan), plan)) == {
        "images": ["unknown", "boxes", "repeat", "of known", "of draws"],
        "Aortic enlargement": ["1", "2", "1", "1.00", "50.0 %", "25.0 %"],
        "B": ["1", "0", "1", "1.00", "25.0 %", "25.0 %"],
        "C": ["0", "1", "0", "1.00", "0.0 %", "0.0 %"],
        "finding or unknown": ["3", "1", "2", "75.0 %", "75.0 %"],
        "normal": ["1", "0", "0", "25.0 %", "25.0 %"],
    }


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def announced(sampler) -> list[str]:
    logger = logging.Logger("run")
    logger.addHandler(handler := Lines())
    announce_draws(DataLoader(sampler.dataset, sampler=sampler), logger)
    return handler.lines


@pytest.mark.parametrize("switches", [{}, dict(normal_share=0.5)])
def test_terminal_and_log_get_the_table_once_each(capsys, switches):
    (logged,) = announced(
        SeededInfiniteSampler(LabelledImages([[0], []], classes=("Aortic enlargement",)), seed=0, **switches)
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("Training draws from 2 images") == logged.count("Training draws from 2 images") == 1
    assert logged.count("\n") >= 6  # so that CheckedRunner's console leaves it to the table on the terminal


def test_other_samplers_and_data_are_left_alone(capsys):
    from mmengine.dataset import InfiniteSampler

    assert announced(InfiniteSampler(eight_abnormal_of_twelve(), seed=0)) == []
    assert announced(SeededInfiniteSampler(range(4), seed=0)) == []
    assert capsys.readouterr().err == ""
