"""A data set that is nothing but labels, for what draws by them."""

from __future__ import annotations

import numpy as np


class LabelledImages:
    """Image i holds a box of each label in ``labels[i]``; ``coverage[i]`` says which were looked for."""

    def __init__(
        self,
        labels: list[list[int]],
        classes: tuple[str, ...] = ("A", "B", "C"),
        copies: int = 0,
        coverage: list[list[int]] | None = None,
    ) -> None:
        self.labels, self.coverage = labels, coverage
        self.metainfo = {"classes": classes}
        self.copies = copies

    def __len__(self) -> int:
        return len(self.labels)

    def get_data_info(self, index: int) -> dict:
        if self.coverage is None:
            return {}
        row = np.array(self.coverage[index], np.int8)
        return {"coverage": row, "undecided": not self.labels[index] and bool((row < 2).any())}

    def get_cat_ids(self, index: int) -> list[int]:
        return self.labels[index]


def eight_abnormal_of_twelve() -> LabelledImages:
    """A in all 8 images with a finding, B in 2 of them, C in 1 of these two; two boxes of A in the first."""
    return LabelledImages([[0, 0], [0], [0], [], [0], [], [0, 1], [0, 1, 2], [], [0], [0], []])
