"""Frames, curves and chords against what geometry says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mmdet.phantom.shapes import Frame, blur, chord, ellipse, ribbon, smooth_curve, smoothstep

FRAME = Frame.place((200, 160), 0.5, (80.0, 100.0), 0.0)


def disc(radius_mm: float, frame: Frame = FRAME) -> np.ndarray:
    return frame.depth(ellipse((0, 0), (radius_mm, radius_mm)))


class TestFrame:
    def test_origin_and_spacing(self):
        assert FRAME.to_pixels([(0, 0), (10, -5)]).tolist() == [[80, 100], [80 + 10 / 0.5, 100 - 5 / 0.5]]

    def test_grid_holds_each_pixels_millimetres(self):
        frame = Frame.place((30, 20), 0.7, (9.0, 14.0), 12.0)
        x, y = frame.grid
        for row, column in ((0, 0), (29, 19), (11, 3)):
            back = frame.to_pixels([(x[row, column], y[row, column])])[0]
            assert tuple(back) == pytest.approx((column, row), abs=1e-4)

    def test_crop_keeps_millimetres_in_place(self):
        part = FRAME.crop(slice(20, 60), slice(30, 90))
        assert part.size_hw == (40, 60)
        whole, cut = FRAME.fill([ellipse((-5, -20), (9, 6))]), part.fill([ellipse((-5, -20), (9, 6))])
        assert np.abs(whole[20:60, 30:90].astype(int) - cut).max() < 16  # the rim's smoothing, of 255

    def test_halved_keeps_millimetres_in_place(self):
        large = FRAME.fill([ellipse((4, 7), (30, 20))]).astype(np.float32)
        half = FRAME.halved()
        small = FRAME.enlarged(half.fill([ellipse((4, 7), (30, 20))]).astype(np.float32))
        assert np.abs(large - small).mean() < 3  # of 255: only the rim differs
        rows, columns = (np.nonzero(large > 127)[i].mean() for i in range(2))
        small_rows, small_columns = (np.nonzero(small > 127)[i].mean() for i in range(2))
        assert (small_rows, small_columns) == pytest.approx((rows, columns), abs=0.1)

    def test_filled_area(self):
        area = FRAME.fill([ellipse((0, 0), (20, 10))]).sum() / 255 * 0.5**2
        rim = 0.5 / 2  # OpenCV counts the pixels that the outline runs through as inside
        assert area == pytest.approx(math.pi * (20 + rim) * (10 + rim), rel=0.02)

    def test_union_of_overlapping_outlines_has_no_hole(self):
        mask = FRAME.fill([ellipse((0, 0), (20, 20)), ellipse((5, 0), (20, 20))])
        assert mask[100, 85] == 255

    def test_line_thinner_than_a_pixel_is_weaker(self):
        path = [np.array([(-30.0, 0.0), (30.0, 0.0)])]
        thick, thin = FRAME.stroke(path, 0.5), FRAME.stroke(path, 0.125)
        assert thin.sum() == pytest.approx(thick.sum() / 4, rel=0.1)

    def test_noise_is_the_same_pattern_at_every_size(self):
        coarse = Frame.place((64, 64), 4.0, (32, 32), 0).noise(np.random.default_rng(3), 16.0)
        fine = Frame.place((256, 256), 1.0, (128, 128), 0).noise(np.random.default_rng(3), 16.0)
        assert np.corrcoef(coarse.ravel(), fine[2::4, 2::4].ravel())[0, 1] > 0.97
        assert 0.6 < fine.std() < 1.4


@pytest.mark.filterwarnings("error")
def test_a_mask_that_fills_the_image_is_deep_everywhere_and_finite():
    frame = Frame.place((60, 40), 0.5, (20, 30), 0)
    depth = frame.depth_of(np.ones((60, 40), np.uint8))
    assert np.isfinite(depth).all()
    assert depth.min() >= 0.5 * 60


def test_depth_of_a_disc_is_its_radius_in_the_middle_and_nothing_outside():
    depth = disc(30)
    assert depth[100, 80] == pytest.approx(30, rel=0.03)
    assert depth[100, 80 + 40] == pytest.approx(10, rel=0.08)
    assert depth[100, 80 + 62] == 0


def test_chord_of_a_sphere():
    # A ray that passes a sphere of radius r at distance d from its middle runs 2·sqrt(r² - d²) inside.
    through = chord(disc(30), 30)
    for distance in (0, 10, 20, 27):
        assert through[100, 80 + 2 * distance] == pytest.approx(2 * math.sqrt(30**2 - distance**2), rel=0.05)


def test_chord_stays_at_the_diameter_deep_inside():
    assert chord(np.array([[7.0, 90.0]], np.float32), 7.0).tolist() == [[14.0, 14.0]]


@pytest.mark.parametrize("sigma", [0.8, 5.0, 6.5, 20.0])
def test_blur_has_the_deviation_asked_for(sigma):
    point = np.zeros((257, 257), np.float32)
    point[128, 128] = 1
    spread = blur(point, sigma)
    position = np.arange(257) - 128
    total = spread.sum()
    assert math.sqrt((spread.sum(axis=0) * position**2).sum() / total) == pytest.approx(sigma, rel=0.12)


@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=3, max_size=8),
    st.booleans(),
)
def test_curve_passes_its_points(points, closed):
    curve = smooth_curve(points, closed=closed, steps=6)
    for point in points:
        assert np.abs(curve - point).sum(axis=1).min() < 1e-6
    assert len(curve) == 6 * len(points) if closed else 6 * (len(points) - 1) + 1


def test_ribbon_is_as_wide_as_asked():
    outline = ribbon(np.array([(0.0, 0.0), (10.0, 0.0), (20.0, 0.0)]), [1.0, 2.0, 3.0])
    assert outline.tolist() == [[0, 1], [10, 2], [20, 3], [20, -3], [10, -2], [0, -1]]


def test_smoothstep_rises_and_falls():
    value = np.array([-1.0, 0.0, 0.5, 1.0, 2.0], np.float32)
    assert smoothstep(value, 0, 1).tolist() == [0, 0, 0.5, 1, 1]
    assert smoothstep(value, 1, 0).tolist() == [1, 1, 0.5, 0, 0]
