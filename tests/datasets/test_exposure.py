import numpy as np
import pytest

from cxr_mmdet.datasets.exposure import RandomExposure, exposure_table


def test_nothing_to_draw_changes_nothing():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(RandomExposure(0, 0, 0)({"img": image})["img"], image)


@pytest.mark.parametrize(
    ("gamma", "contrast", "brightness", "level", "expected"),
    [
        (2, 1, 0, 128, 255 * (128 / 255) ** 2),
        (1, 0.5, 0, 255, 255 * 0.75),
        (1, 1, 0.2, 51, 51 + 51),
        (1, 1, 0.1, 0, 0),
    ],
)
def test_levels_follow_the_formula_and_black_stays(gamma, contrast, brightness, level, expected):
    assert exposure_table(gamma, contrast, brightness)[level] == round(expected)


def test_levels_keep_their_order():
    for seed in range(50):
        np.random.seed(seed)  # noqa: NPY002
        levels = RandomExposure()({"img": np.arange(256, dtype=np.uint8)[None]})["img"][0].astype(int)
        assert (np.diff(levels) >= 0).all()
        assert levels.max() > 150


def test_draws_follow_the_global_seed():
    image = np.full((2, 2), 100, np.uint8)

    def draw(seed: int) -> int:
        np.random.seed(seed)  # noqa: NPY002
        return int(RandomExposure()({"img": image})["img"][0, 0])

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(20)}) > 5
