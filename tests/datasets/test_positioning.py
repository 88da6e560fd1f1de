import random

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import init_default_scope

from cxr_mmdet.datasets.augmentation import RandomPositioning, positioning, reposition
from cxr_mmdet.datasets.votes import VotedBoxes

init_default_scope("mmdet")

SIZE = (90, 120)
degrees = st.floats(-10, 10)
factors = st.floats(0.8, 1.25)


def sample(image: np.ndarray, *boxes_xyxy: list[float]) -> dict:
    tensor = torch.tensor(boxes_xyxy, dtype=torch.float32).reshape(-1, 4)
    return {
        "img": image,
        "img_shape": image.shape,
        "gt_bboxes": HorizontalBoxes(tensor),
        "gt_ignore_flags": np.zeros(len(tensor), dtype=bool),
    }


def white_box(image: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(image > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def seed_all(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@given(x=st.integers(20, 90), y=st.integers(20, 60), shift_x=st.integers(-15, 15), shift_y=st.integers(-15, 15))
def test_a_shift_moves_pixels_and_box_exactly(x, y, shift_x, shift_y):
    image = np.zeros(SIZE, np.uint8)
    image[y : y + 10, x : x + 12] = 255
    out = reposition(sample(image, [x, y, x + 12, y + 10]), positioning(SIZE, 0, 1, shift_x, shift_y), 0.25)
    assert out["gt_bboxes"].tensor.tolist() == [white_box(out["img"]).tolist()]
    assert out["gt_bboxes"].tensor.tolist() == [[x + shift_x, y + shift_y, x + 12 + shift_x, y + 10 + shift_y]]
    assert np.unique(out["img"]).tolist() == [0, 255]  # nothing is blurred
    assert not out["gt_ignore_flags"].any()


@given(x=st.integers(30, 70), y=st.integers(25, 50), factor=factors)
def test_scaling_moves_the_box_with_its_pixels(x, y, factor):
    """A pixel half covered is above or below the threshold of 127: within half a pixel, plus 1/32 of interpolation."""
    image = np.zeros(SIZE, np.uint8)
    image[y : y + 14, x : x + 20] = 255
    out = reposition(sample(image, [x, y, x + 20, y + 14]), positioning(SIZE, 0, factor, 0, 0), 0.25)
    assert np.abs(out["gt_bboxes"].tensor.numpy()[0] - white_box(out["img"])).max() <= 0.5 + 0.1


@given(width=st.integers(12, 50), height=st.integers(12, 40), degrees=degrees, factor=factors)
def test_the_box_of_a_turned_ellipse_encloses_it_tightly(width, height, degrees, factor):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = ((columns - 60) / (width / 2)) ** 2 + ((rows - 45) / (height / 2)) ** 2 <= 1
    box = [60 - width / 2, 45 - height / 2, 60 + width / 2, 45 + height / 2]
    out = reposition(
        sample(np.where(inside, 255, 0).astype(np.uint8), box), positioning(SIZE, degrees, factor, 0, 0), 0.25
    )
    # The pixels' own rounding of the ellipse is up to one, at the flat ends of its axes too.
    assert np.abs(out["gt_bboxes"].tensor.numpy()[0] - white_box(out["img"])).max() <= 1.5


@given(degrees=st.floats(-180, 180), factor=st.floats(0.5, 2))
def test_no_position_is_a_mirror(degrees, factor):
    assert np.linalg.det(positioning((90, 120), degrees, factor, 0, 0)[:, :2]) == pytest.approx(factor**2)


def test_the_left_stays_left_and_the_head_up():
    image = np.zeros((100, 100), np.uint8)
    image[10:30, 15:35] = 255  # the marker: upper left
    for seed in range(200):
        seed_all(seed)
        _x_min, _y_min, x_max, y_max = white_box(RandomPositioning()({"img": image})["img"])
        assert x_max < 50
        assert y_max < 50


def test_counter_clockwise_lifts_the_right():
    image = np.zeros((100, 100), np.uint8)
    image[48:52, 80:84] = 255
    turned = reposition({"img": image}, positioning((100, 100), 5, 1, 0, 0), 0.25)["img"]
    assert white_box(turned)[1] < 48


def test_positions_stay_within_their_limits_and_use_them():
    corner = np.zeros((100, 200), np.uint8)
    seen = []
    for seed in range(400):
        seed_all(seed)
        results = sample(corner, [90, 45, 110, 55])
        box = RandomPositioning(rotation=0, scale=0.25, shift=0.1)(results)["gt_bboxes"].tensor.numpy()[0]
        seen.append([box[2] - box[0], (box[0] + box[2]) / 2 - 100, (box[1] + box[3]) / 2 - 50])
    width, shift_x, shift_y = np.array(seen).T
    for values, low, high in ((width, 16, 25), (shift_x, -20, 20), (shift_y, -10, 10)):
        margin = 0.05 * (high - low)
        assert low - 1e-3 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-3


def test_nothing_to_draw_changes_nothing():
    image = np.random.default_rng(0).integers(0, 255, (31, 40), dtype=np.uint8)
    out = RandomPositioning(0, 0, 0)(sample(image.copy(), [3, 4, 9.5, 11]))
    np.testing.assert_array_equal(out["img"], image)
    assert out["gt_bboxes"].tensor.tolist() == [[3, 4, 9.5, 11]]


def test_what_is_cut_off_is_ignored_and_the_rest_cut_at_the_border():
    """Shifted 20 to the left: of 16 px all, 12 (3/4), 13 and 8 px leave the image; one box was ignored before."""
    image = np.zeros((100, 100), np.uint8)
    results = sample(image, [0, 0, 16, 9], [8, 0, 24, 9], [7, 0, 23, 9], [12, 0, 28, 9], [50, 50, 60, 60])
    results["gt_ignore_flags"] = np.array([False, False, False, False, True])
    out = reposition(results, positioning((100, 100), 0, 1, -20, 0), 0.25)
    assert out["gt_ignore_flags"].tolist() == [True, False, True, False, True]
    assert out["gt_bboxes"].tensor.tolist() == [
        [0, 0, 0, 9],
        [0, 0, 4, 9],
        [0, 0, 3, 9],
        [0, 0, 8, 9],
        [30, 50, 40, 60],
    ]


def test_images_without_boxes_or_labels():
    image = np.full((20, 30), 9, np.uint8)
    assert len(RandomPositioning()(sample(image))["gt_bboxes"]) == 0
    assert set(RandomPositioning()({"img": image})) == {"img"}
    assert RandomPositioning()(sample(np.ones((1, 1), np.uint8), [0, 0, 1, 1]))["img"].shape == (1, 1)


def test_boxes_keep_the_votes_of_their_readers():
    results = sample(np.zeros((64, 64), np.uint8), [10, 10, 20, 20], [30, 30, 50, 40])
    readings = torch.tensor([[1.0, 1.5], [1 / 3, 0.5]])
    results["gt_bboxes"] = VotedBoxes(results["gt_bboxes"].tensor, readings=readings)
    out = reposition(results, positioning((64, 64), 0, 1, 2, 3), 0.25)["gt_bboxes"]
    assert torch.equal(out.readings, readings)
    assert out.tensor.tolist() == [[12, 13, 22, 23], [32, 33, 52, 43]]


def test_draws_follow_the_global_seed():
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (5, 5), dtype=np.uint8), (64, 64))

    def draw(seed: int) -> bytes:
        seed_all(seed)
        return RandomPositioning()(sample(image, [5, 5, 20, 20]))["img"].tobytes()

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(20)}) == 20


def test_ignored_boxes_are_packed_apart():
    results = sample(np.zeros((50, 50), np.uint8), [0, 0, 10, 10], [20, 20, 30, 30]) | {"img_id": 1}
    results["gt_bboxes_labels"] = np.array([0, 1])
    out = reposition(results, positioning((50, 50), 0, 1, -9, 0), 0.25)
    packed = TRANSFORMS.build(dict(type="PackRadiograph"))(out)["data_samples"]
    assert packed.gt_instances.labels.tolist() == [1]
    assert packed.ignored_instances.labels.tolist() == [0]


def test_against_torchvisions_affine_on_whole_pixels():
    """An independent hand at the same map: rotation about the centre, scale and shift."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import affine

    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8), dtype=np.uint8), (120, 90))
    for angle, factor, shift_x, shift_y in ((5, 1.1, 3, -4), (-4, 0.9, -6, 2), (0, 1.08, 0, 0)):
        ours = reposition({"img": image}, positioning(SIZE, angle, factor, shift_x, shift_y), 0.25)["img"]
        theirs = affine(
            torch.from_numpy(image)[None],
            angle=-angle,
            translate=[shift_x, shift_y],
            scale=factor,
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )[0].numpy()
        inner = (slice(15, -15), slice(15, -15))
        assert np.abs(ours[inner].astype(int) - theirs[inner]).max() <= 3
