"""Box geometry: against images, torchvision and hand-computed overlaps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_area, box_convert, box_iou

from cxr_mmdet.structures import boxes

WIDTH, HEIGHT = 37, 23


@st.composite
def boxes_xyxy(draw, width=WIDTH, height=HEIGHT, whole=False, max_size=6):
    """Draw (N, 4) boxes with extent inside an image."""
    count = draw(st.integers(0, max_size))
    number = (lambda limit: st.integers(0, limit)) if whole else (lambda limit: st.floats(0, limit, width=32))
    drawn = []
    for _ in range(count):
        x = sorted(draw(st.lists(number(width), min_size=2, max_size=2, unique=True)))
        y = sorted(draw(st.lists(number(height), min_size=2, max_size=2, unique=True)))
        drawn.append((x[0], y[0], x[1], y[1]))
    return np.array(drawn, dtype=np.float64).reshape(-1, 4)


def paint(box_xyxy, width=WIDTH, height=HEIGHT):
    """Return an image that is 1 inside a box of whole pixels."""
    image = np.zeros((height, width), dtype=np.uint8)
    x_min, y_min, x_max, y_max = map(int, box_xyxy)
    image[y_min:y_max, x_min:x_max] = 1
    return image


def painted(image):
    """Return the box of the ones in an image."""
    rows, columns = np.nonzero(image)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@given(boxes_xyxy())
def test_formats_are_torchvisions_and_go_back(given_boxes):
    tensor = torch.from_numpy(given_boxes)
    np.testing.assert_array_equal(boxes.xyxy_to_xywh(given_boxes), box_convert(tensor, "xyxy", "xywh").numpy())
    np.testing.assert_allclose(boxes.xywh_to_xyxy(boxes.xyxy_to_xywh(given_boxes)), given_boxes, atol=1e-9)


@given(boxes_xyxy(), boxes_xyxy())
def test_area_and_overlap_are_torchvisions(ours, others):
    first, second = torch.from_numpy(ours), torch.from_numpy(others)
    np.testing.assert_allclose(boxes.area(ours), box_area(first).numpy(), rtol=1e-12)
    np.testing.assert_allclose(boxes.iou_matrix(ours, others), box_iou(first, second).numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("box", "other", "overlap"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (5, 0, 15, 10), (5 * 10) / (2 * 100 - 5 * 10)),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),  # they touch
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),
        ((0, 0, 1, 1), (0, 0, 1, 1), 1),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0),  # no extent: undefined, taken as 0
    ],
)
def test_overlap_by_hand(box, other, overlap):
    assert boxes.iou_matrix([box], [other]).tolist() == [[pytest.approx(overlap)]]


def test_overlap_broadcasts():
    many = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    one = np.array([0.0, 1.0, 2.0, 3.0])
    assert boxes.iou(many, one).shape == (2, 3)
    assert boxes.iou(many, one)[0, 0] == 1


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), np.zeros(0)])
def test_no_boxes_stay_no_boxes(empty):
    assert boxes.as_boxes(empty).shape == (0, 4)
    for result in (
        boxes.xyxy_to_xywh(empty),
        boxes.xywh_to_xyxy(empty),
        boxes.clip_to_image(empty, (3, 4)),
        boxes.scale(empty, 2, 3),
        boxes.flip_horizontal(empty, 5),
        boxes.rotate_90_ccw(empty, 5),
        boxes.translate(empty, 1, 2),
    ):
        assert result.shape == (0, 4)
    assert boxes.area(empty).shape == (0,)
    assert boxes.iou_matrix(empty, [[0, 0, 1, 1]]).shape == (0, 1)


@given(boxes_xyxy(whole=True))
def test_flip_rotation_and_padding_move_boxes_as_numpy_moves_pixels(given_boxes):
    flipped, turned = boxes.flip_horizontal(given_boxes, WIDTH), boxes.rotate_90_ccw(given_boxes, WIDTH)
    padded = boxes.translate(given_boxes, 3, 5)
    for index, box in enumerate(given_boxes):
        image = paint(box)
        assert painted(np.fliplr(image)) == flipped[index].tolist()
        assert painted(np.rot90(image)) == turned[index].tolist()
        assert painted(np.pad(image, ((5, 0), (3, 0)))) == padded[index].tolist()


@given(boxes_xyxy(whole=True))
def test_scaling_moves_boxes_as_repeated_pixels_do(given_boxes):
    scaled = boxes.scale(given_boxes, 2, 3)
    for index, box in enumerate(given_boxes):
        assert painted(paint(box).repeat(2, axis=1).repeat(3, axis=0)) == scaled[index].tolist()


@given(boxes_xyxy())
def test_two_flips_and_four_turns_change_nothing(given_boxes):
    twice = boxes.flip_horizontal(boxes.flip_horizontal(given_boxes, WIDTH), WIDTH)
    np.testing.assert_allclose(twice, given_boxes, atol=1e-9)
    turned, size = given_boxes, (WIDTH, HEIGHT)
    for _ in range(4):
        turned, size = boxes.rotate_90_ccw(turned, size[0]), size[::-1]
    np.testing.assert_allclose(turned, given_boxes, atol=1e-9)


@settings(max_examples=50)
@given(boxes_xyxy(), st.integers(-40, 40), st.integers(-40, 40))
def test_clipped_boxes_lie_in_the_image_and_inner_ones_stay(given_boxes, right, down):
    moved = boxes.translate(given_boxes, right, down)
    clipped = boxes.clip_to_image(moved, (HEIGHT, WIDTH))
    assert (clipped >= 0).all()
    assert (clipped <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    inside = ((moved >= 0) & (moved <= [WIDTH, HEIGHT, WIDTH, HEIGHT])).all(axis=1)
    np.testing.assert_array_equal(clipped[inside], moved[inside])


def test_the_argument_is_never_changed():
    given_boxes = np.array([[-1.0, 2.0, 30.0, 40.0]])
    before = given_boxes.copy()
    boxes.clip_to_image(given_boxes, (5, 5))
    boxes.xyxy_to_xywh(given_boxes)
    boxes.xywh_to_xyxy(given_boxes)
    np.testing.assert_array_equal(given_boxes, before)


def turn(degrees: float, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    cosine, sine = factor * math.cos(math.radians(degrees)), factor * math.sin(math.radians(degrees))
    return np.array([[cosine, sine, shift], [-sine, cosine, -shift]])


def test_without_rotation_ellipses_move_exactly_as_boxes():
    matrix = np.array([[1.5, 0, 7], [0, 0.5, -3]])
    assert boxes.move_as_ellipses([[10, 20, 40, 60]], matrix).tolist() == [[22, 7, 67, 27]]
    assert boxes.move_as_ellipses([], matrix).shape == (0, 4)


@given(
    width=st.floats(5, 60),
    height=st.floats(5, 60),
    touching=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    degrees=st.floats(-10, 10),
)
def test_sides_are_off_by_no_more_than_the_documented_bound(width, height, touching, degrees):
    """Of whatever touches all four sides of its box somewhere: here the four points where it does."""
    left, right, top, bottom = touching
    points = np.array(
        [(0, left * height), (width, right * height), (top * width, 0), (bottom * width, height)], dtype=float
    )
    matrix = turn(degrees)
    turned = points @ matrix[:, :2].T + matrix[:, 2]
    truth = np.concatenate([turned.min(axis=0), turned.max(axis=0)])
    got = boxes.move_as_ellipses([[0, 0, width, height]], matrix)[0]
    sine, cosine = abs(math.sin(math.radians(degrees))), math.cos(math.radians(degrees))

    def bound(across: float, along: float) -> float:
        return (along * sine + math.hypot(across * cosine, along * sine) - across * cosine) / 2

    allowed = np.array([bound(width, height), bound(height, width)] * 2) + 1e-6
    assert (np.abs(got - truth) <= allowed).all()


@given(degrees=st.floats(-10, 10), factor=st.floats(0.8, 1.25), shift=st.floats(-9, 9))
def test_the_box_lies_within_the_turned_corners(degrees, factor, shift):
    matrix = turn(degrees, factor, shift)
    corners = np.array([(10, 20), (40, 20), (10, 35), (40, 35)], dtype=float) @ matrix[:, :2].T + matrix[:, 2]
    box = boxes.move_as_ellipses([[10, 20, 40, 35]], matrix)[0]
    assert (box[:2] >= corners.min(axis=0) - 1e-9).all()
    assert (box[2:] <= corners.max(axis=0) + 1e-9).all()
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, corners.mean(axis=0))
