import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import cxr_mmdet.datasets  # noqa: F401 (registers)
from cxr_mmdet.datasets.minority import VARIANT_KEY
from cxr_mmdet.datasets.transforms import RadiographSample
from cxr_mmdet.errors import DatasetError

init_default_scope("mmdet")


@st.composite
def images_with_box(draw):
    """A black image of any shape whose box is exactly its white pixels."""
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


@given(results=images_with_box(), variant=st.sampled_from(["original", "horizontal_flip", "rotate_90_ccw"]))
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


@given(results=images_with_box())
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


@given(results=images_with_box(), size=st.integers(8, 64))
def test_boxes_come_back_to_prepared_pixels_after_padding_and_resizing(results, size):
    """What mmdet's ``predict`` does with rescale=True, then the sample, is the inverse of the test pipeline."""
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
    unscaled = sample.gt_instances.bboxes.tensor / torch.tensor([scale_x, scale_y] * 2)
    sample.pred_instances = predicted(unscaled)
    np.testing.assert_allclose(sample.pred_instances.bboxes.numpy(), original, atol=1e-3)


def predicted(boxes_xyxy) -> InstanceData:
    boxes_xyxy = torch.as_tensor(boxes_xyxy, dtype=torch.float32).reshape(-1, 4)
    return InstanceData(bboxes=boxes_xyxy, labels=torch.arange(len(boxes_xyxy)), scores=torch.ones(len(boxes_xyxy)))


def test_boxes_in_the_padding_are_cut_at_the_image_or_dropped():
    sample = RadiographSample(metainfo={"pad_offset": (10, 0), "ori_shape": (40, 20)})
    sample.pred_instances = predicted([[1, 1, 10, 30], [0, 0, 25, 50]])
    assert sample.pred_instances.bboxes.tolist() == [[0, 0, 15, 40]]
    assert sample.pred_instances.labels.tolist() == [1]


def test_padding_is_removed_once_whatever_becomes_of_the_sample():
    sample = RadiographSample(metainfo={"pad_offset": (10, 0), "ori_shape": (40, 20)})
    sample.pred_instances = predicted([[12, 3, 25, 30]])
    expected = [[2, 3, 15, 30]]
    for copy in (sample, sample.clone(), sample.cpu(), sample.new(), pickle.loads(pickle.dumps(sample))):
        assert copy.pred_instances.bboxes.tolist() == expected
        copy.pred_instances = copy.pred_instances[copy.pred_instances.scores > 0.5]  # as an abnormality gate does
        copy.pred_instances = predicted(copy.pred_instances.bboxes)  # as DetTTAModel does
        assert copy.pred_instances.bboxes.tolist() == expected
    assert sample.numpy().pred_instances.bboxes.tolist() == expected


def test_nothing_predicted_and_no_padding():
    sample = RadiographSample(metainfo={"pad_offset": (10, 0), "ori_shape": (40, 20)})
    sample.pred_instances = predicted([])
    assert sample.pred_instances.bboxes.shape == (0, 4)
    sample = RadiographSample(metainfo={"pad_offset": (0, 0), "ori_shape": (40, 20)})
    sample.pred_instances = predicted([[0, 0, 90, 90]])  # as mmdet leaves it
    assert sample.pred_instances.bboxes.tolist() == [[0, 0, 90, 90]]


@pytest.mark.parametrize("flip_first", [True, False])
@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
@given(results=images_with_box())
def test_padding_is_removed_from_flipped_images(flip_first, direction, results):
    flip = dict(type="RandomFlip", prob=1.0, direction=direction)
    steps = [flip, dict(type="PadToSquare")] if flip_first else [dict(type="PadToSquare"), flip]
    flipped = run({"img": results["img"], "img_shape": results["img"].shape}, flip)["img"]
    out = run(results, *steps, dict(type="GreyToThreeChannels"), dict(type="PackRadiograph"))
    sample = out["data_samples"]
    assert (sample.flip, sample.flip_direction) == (True, direction)
    sample.pred_instances = predicted([white_box(out["inputs"][0].numpy())])
    assert sample.pred_instances.bboxes.tolist() == [white_box(flipped)]


@pytest.mark.parametrize("steps", [["PadToSquare", "GreyToThreeChannels"], ["GreyToThreeChannels"]])
def test_colour_becomes_one_plane(steps):
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = run({"img": colour}, *(dict(type=step) for step in steps))["img"]
    grey = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    plane = run({"img": grey}, *(dict(type=step) for step in steps))["img"]
    np.testing.assert_array_equal(image, plane)
    assert image.strides[2] == 0


@pytest.mark.parametrize("array", [np.zeros((4, 5), np.uint16), np.zeros((4, 5, 4), np.uint8), np.zeros(4, np.uint8)])
def test_an_array_that_is_no_image_is_refused(array):
    with pytest.raises(DatasetError, match=r"array of uint.* give uint8 of the shape \(H, W\)"):
        run({"img": array}, dict(type="GreyToThreeChannels"))


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


def test_loading_refuses_what_is_no_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a png")
    with pytest.raises(DatasetError, match=r"a\.png: not an image"):
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
def test_packing_other_images_is_mmdets(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    expected = torch.from_numpy(image.reshape(3, 4, -1).transpose(2, 0, 1))
    assert torch.equal(packed(image)["inputs"], expected)
