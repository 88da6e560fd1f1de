import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import init_default_scope

import cxr_mmdet.datasets  # noqa: F401 (registers)
from cxr_mmdet.datasets.minority import VARIANT_KEY
from cxr_mmdet.engine.metrics import to_prepared_pixels
from cxr_mmdet.errors import DatasetError

init_default_scope("mmdet")


@st.composite
def pictures_with_box(draw):
    """A black picture of any shape whose box is exactly its white pixels."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    x_min, y_min = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x_max, y_max = draw(st.integers(x_min + 1, width)), draw(st.integers(y_min + 1, height))
    image = np.zeros((height, width), np.uint8)
    image[y_min:y_max, x_min:x_max] = 255
    boxes = HorizontalBoxes(torch.tensor([[x_min, y_min, x_max, y_max]], dtype=torch.float32))
    return {"img": image, "img_shape": image.shape, "ori_shape": image.shape, "gt_bboxes": boxes, "img_id": 1}


def white_box(image: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(image)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def run(results: dict, *steps: dict) -> dict:
    for step in steps:
        results = TRANSFORMS.build(step)(results)
    return results


@given(results=pictures_with_box(), variant=st.sampled_from(["original", "horizontal_flip", "rotate_90_ccw"]))
def test_minority_copies_keep_the_box_on_its_pixels(results, variant):
    height, width = results["img"].shape
    results[VARIANT_KEY] = variant
    out = run(results, dict(type="MinorityFlipRot90"))
    assert out["gt_bboxes"].tensor.tolist() == [white_box(out["img"])]
    assert out["img_shape"] == out["img"].shape == ((width, height) if variant == "rotate_90_ccw" else (height, width))


def test_a_turn_counter_clockwise_puts_the_head_to_the_left():
    image = np.zeros((4, 3), np.uint8)
    image[0, 1] = 255  # the head: top centre
    results = {"img": image, "img_shape": image.shape, VARIANT_KEY: "rotate_90_ccw"}
    assert white_box(run(results, dict(type="MinorityFlipRot90"))["img"]) == [0, 1, 1, 2]


@given(results=pictures_with_box())
def test_padding_makes_a_centred_black_square(results):
    height, width = results["img"].shape
    before = results["img"].copy()
    out = run(results, dict(type="PadToSquare"))
    side = max(height, width)
    left, top = out["pad_offset"]
    assert out["img"].shape == out["img_shape"] == (side, side)
    np.testing.assert_array_equal(out["img"][top : top + height, left : left + width], before)
    assert out["img"].sum(dtype=int) == before.sum(dtype=int)
    assert 0 <= (side - width) - 2 * left <= 1
    assert 0 <= (side - height) - 2 * top <= 1
    assert out["gt_bboxes"].tensor.tolist() == [white_box(out["img"])]


@settings(deadline=None)
@given(results=pictures_with_box(), size=st.integers(8, 64))
def test_boxes_come_back_to_prepared_pixels_after_padding_and_resizing(results, size):
    """What mmdet's ``predict`` does with rescale=True, then ours, is the inverse of the test pipeline."""
    original = results["gt_bboxes"].tensor.numpy().copy()
    out = run(
        results,
        dict(type="PadToSquare"),
        dict(type="Resize", scale=(size, size), keep_ratio=True),
        dict(type="GreyToThreeChannels"),
        dict(type="PackRadiograph"),
    )
    sample = out["data_samples"]
    scale_x, scale_y = sample.scale_factor
    unscaled = sample.gt_instances.bboxes.tensor.numpy() / np.array([scale_x, scale_y] * 2)
    np.testing.assert_allclose(to_prepared_pixels(unscaled, sample.to_dict()), original, atol=1e-3)


def test_boxes_in_the_padding_are_cut_at_the_picture():
    sample = {"pad_offset": (10, 0), "ori_shape": (40, 20)}
    assert to_prepared_pixels(np.array([[0, 0, 25, 50]]), sample).tolist() == [[0, 0, 15, 40]]


def test_padding_after_resizing_is_refused():
    image = np.zeros((4, 6), np.uint8)
    with pytest.raises(DatasetError, match="move it before"):
        run({"img": image, "scale_factor": (1.0, 1.0)}, dict(type="PadToSquare"))


def test_three_channels_are_one_plane_seen_three_times():
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = run({"img": plane}, dict(type="GreyToThreeChannels"))["img"]
    assert image.shape == (3, 4, 3)
    assert np.shares_memory(image, plane)
    np.testing.assert_array_equal(image, np.dstack([plane] * 3))


def test_loading_refuses_what_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a png")
    with pytest.raises(DatasetError, match=r"a\.png: not a picture"):
        run({"img_path": str(tmp_path / "a.png")}, dict(type="LoadGreyImage"))


def packed(image: np.ndarray) -> dict:
    return run({"img": image, "img_shape": image.shape, "img_id": 1}, dict(type="PackRadiograph"))


def test_packing_keeps_three_equal_channels_one_plane():
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4)
    three = run({"img": plane}, dict(type="GreyToThreeChannels"))["img"]
    inputs = packed(three)["inputs"]
    assert torch.equal(inputs, packed(three.copy())["inputs"])  # mmdet's own way, three planes in memory
    assert inputs.untyped_storage().nbytes() == plane.nbytes
    assert packed(three)["data_samples"].img_shape == (3, 4, 3)
    plane[:] = 0  # the sample does not hang on the loader's buffer
    assert inputs[2].tolist() == np.arange(12).reshape(3, 4).tolist()


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3)], ids=["one plane", "one channel", "colour"])
def test_packing_other_pictures_is_mmdets(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    expected = torch.from_numpy(image.reshape(3, 4, -1).transpose(2, 0, 1))
    assert torch.equal(packed(image)["inputs"], expected)
