"""The model's input is that of mmdet's test pipeline and preprocessor, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from detectors import make_image
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cxr_mmdet.datasets.transforms import PadToSquare
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.inference.export.describe import describe_preprocessing
from cxr_mmdet.inference.preprocessing import Preprocessing, pad_to_square
from cxr_mmdet.preparation.images import shrink

CONFIGS = ["retina_14cls", "faster_rcnn_5cls", "retina_phantom", "retina_lungs"]
SIZES = [(150, 120), (97, 301), (1, 1), (3, 400), (400, 3), (800, 800), (333, 777), (1024, 1281)]


def mmdet_input(name: str, path):
    init_default_scope("mmdet")
    config = load_config(name)
    sample = Compose(config.test_dataloader.dataset.pipeline)({"img_path": str(path), "img_id": 1, "instances": []})
    preprocessor = MODELS.build(config.model.data_preprocessor)
    data = preprocessor({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, False)
    return data["inputs"].numpy(), data["data_samples"][0].metainfo


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", SIZES)
def test_every_bit_of_the_input(tmp_path, name, size):
    path = tmp_path / "a.png"
    image = make_image(*size)
    cv2.imwrite(str(path), image)
    expected, meta = mmdet_input(name, path)
    got = describe_preprocessing(load_config(name), name, short_edge=1024)(image)
    assert got.batch.dtype == expected.dtype
    np.testing.assert_array_equal(got.batch, expected)
    assert got.size_hw == meta["img_shape"]
    assert got.offset == meta["pad_offset"]
    assert got.factors == meta["scale_factor"]


def test_every_grey_level(tmp_path):
    """The table of levels gives the bits that arithmetic on each pixel gives."""
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    expected, _ = mmdet_input("retina_phantom", tmp_path / "a.png")
    got = describe_preprocessing(load_config("retina_phantom"), "", short_edge=0)(image)
    np.testing.assert_array_equal(got.batch, expected)


@pytest.mark.parametrize(
    ("name", "fixed"),
    [("rtmdet_tiny", (512, 512)), ("faster_rcnn_5cls", (800, 800)), ("retina_14cls", None), ("rtmdet_s", None)],
)
def test_the_size_that_all_inputs_have(name, fixed):
    steps = describe_preprocessing(load_config(name), name, short_edge=1024)
    assert steps.fixed_size_hw == fixed
    stretched = replace(steps, keep_ratio=False, scale=(100, 70), size_divisor=32)
    assert stretched.fixed_size_hw == (96, 128)
    for size in SIZES:
        assert fixed is None or steps(make_image(*size)).batch.shape[2:] == fixed
        assert stretched(make_image(*size)).batch.shape[2:] == (96, 128)


def test_a_radiograph_at_full_size_is_prepared_first():
    pixels = make_image(500, 400)
    steps = describe_preprocessing(load_config("retina_phantom"), "", short_edge=200)
    from_full, from_prepared = steps(pixels), steps(shrink(pixels, 200))
    np.testing.assert_array_equal(from_full.batch, from_prepared.batch)
    assert from_full.prepared_size_hw == (250, 200)


def test_pixels_that_are_not_square():
    """An image stored with half its rows is stretched by preparation, and its boxes come back in stored rows."""
    pixels = make_image(100, 200)
    steps = describe_preprocessing(load_config("retina_phantom"), "", short_edge=0)
    view = steps(pixels, pixel_aspect=2.0)
    assert view.prepared_size_hw == (100, 100)
    np.testing.assert_allclose(view.to_source([[10, 20, 30, 40]]), [[20, 20, 60, 40]])


@settings(max_examples=60)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    flip=st.booleans(),
    pad=st.booleans(),
    short_edge=st.sampled_from([0, 64, 1024]),
)
def test_boxes_find_their_way_back(height, width, flip, pad, short_edge):
    """The whole image in the input is the whole radiograph."""
    steps = Preprocessing(short_edge, pad, (96, 96), True, (0.0,), (1.0,), 32, 0.0)
    view = steps(np.zeros((height, width), np.uint8), flip=flip)
    prepared_height, prepared_width = view.prepared_size_hw
    left, top = view.offset
    whole = np.array([left, top, left + prepared_width, top + prepared_height], dtype=float)
    np.testing.assert_allclose(view.to_source([whole]), [[0, 0, width, height]], atol=1e-9)


def test_a_mirrored_box_comes_back_on_its_own_side():
    steps = Preprocessing(0, False, None, True, (0.0,), (1.0,), 1, 0.0)
    pixels = np.zeros((10, 20), np.uint8)
    pixels[2:4, 1:5] = 255
    view = steps(pixels, flip=True)
    rows, columns = np.nonzero(view.batch[0, 0])
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert seen == [15, 2, 19, 4]
    np.testing.assert_allclose(view.to_source([seen]), [[1, 2, 5, 4]])


@pytest.mark.parametrize("size", [(5, 5), (4, 9), (9, 4), (1, 2)])
def test_padding_is_that_of_training(size):
    image = make_image(*size)
    results = PadToSquare()({"img": image})
    square, offset = pad_to_square(image)
    np.testing.assert_array_equal(square, results["img"])
    assert offset == results["pad_offset"]


def test_it_travels_as_json():
    steps = describe_preprocessing(load_config("retina_14cls"), "", short_edge=1024)
    assert Preprocessing.from_json(steps.to_json()) == steps
    assert steps.scaled(1.5).scale == (2000, 1200)


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ([{"type": "LoadGreyImage"}, {"type": "RandomFlip", "prob": 0.5}], "the step RandomFlip"),
        ([{"type": "Resize", "scale": (8, 8)}, {"type": "PadToSquare"}], "the step PadToSquare"),
        ([{"type": "Resize", "scale_factor": 0.5}], "the step Resize"),
        ([], "no test pipeline"),
    ],
)
def test_a_pipeline_that_prediction_does_not_know_is_refused(pipeline, message):
    config = Config({"model": {}, "test_dataloader": {"dataset": {"pipeline": pipeline}}})
    with pytest.raises(CheckpointError, match=message):
        describe_preprocessing(config, "model.pth", short_edge=1024)
