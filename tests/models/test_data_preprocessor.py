import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from cxr_mmdet.models.data_preprocessor import GreyDetDataPreprocessor, is_grey

RETINANET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32)

sizes_hw = st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=4)


def grey_images(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(sizes))
    return [torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).expand(3, -1, -1) for size in sizes]


def samples(count: int) -> list[DetDataSample]:
    boxes = HorizontalBoxes(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    return [DetDataSample(gt_instances=InstanceData(bboxes=boxes.clone())) for _ in range(count)]


def both(options: dict, images: list[torch.Tensor], training: bool = True) -> tuple[dict, dict]:
    """Return what ours makes of grey images, and mmdet's of their copies with three planes in memory."""
    ours, stock = GreyDetDataPreprocessor(**options), DetDataPreprocessor(**options)
    copies = [image.contiguous() for image in images]
    return (
        ours(dict(inputs=images, data_samples=samples(len(images))), training),
        stock(dict(inputs=copies, data_samples=samples(len(images))), training),
    )


@settings(max_examples=30)
@given(
    sizes=sizes_hw,
    divisor=st.sampled_from([1, 7, 32]),
    pad_value=st.sampled_from([0, -1.5]),
    grey_constants=st.booleans(),
)
def test_the_models_input_is_mmdets_to_the_bit(sizes, divisor, pad_value, grey_constants):
    constants = dict(mean=[127.0], std=[63.0]) if grey_constants else {}
    options = RETINANET | dict(pad_size_divisor=divisor, pad_value=pad_value) | constants
    ours, stock = both(options, grey_images(sizes))
    assert ours["inputs"].dtype == stock["inputs"].dtype == torch.float32
    assert torch.equal(ours["inputs"], stock["inputs"])
    for got, expected in zip(ours["data_samples"], stock["data_samples"], strict=True):
        assert got.metainfo == expected.metainfo
        assert torch.equal(got.gt_instances.bboxes, expected.gt_instances.bboxes)


def test_one_plane_of_each_image_is_moved(monkeypatch):
    moved = []
    preprocessor = GreyDetDataPreprocessor(**RETINANET)
    monkeypatch.setattr(preprocessor, "cast_data", lambda data: moved.extend(data["inputs"]) or data)
    preprocessor(dict(inputs=grey_images([(9, 5), (4, 6)]), data_samples=samples(2)))
    assert [tuple(plane.shape) for plane in moved] == [(1, 9, 5), (1, 4, 6)]


def test_the_loaders_batch_is_left_as_it_was():
    images = grey_images([(9, 5)])
    batch = dict(inputs=images, data_samples=samples(1))
    GreyDetDataPreprocessor(**RETINANET)(batch)
    assert batch["inputs"] is images
    assert tuple(images[0].shape) == (3, 9, 5)


@pytest.mark.parametrize(
    ("options", "images"),
    [
        (RETINANET, [torch.arange(60, dtype=torch.uint8).reshape(3, 4, 5)]),
        (RETINANET, [*grey_images([(4, 5)]), torch.arange(60, dtype=torch.uint8).reshape(3, 4, 5)]),
        (dict(pad_size_divisor=32), grey_images([(4, 5)])),
    ],
    ids=["colour", "grey and colour in one batch", "no normalisation"],
)
def test_anything_else_takes_mmdets_way(options, images):
    ours, stock = both(options, images)
    assert torch.equal(ours["inputs"], stock["inputs"])


def test_a_stacked_batch_takes_mmdets_way():
    batch = torch.stack(grey_images([(8, 8), (8, 8)]))
    ours, stock = GreyDetDataPreprocessor(**RETINANET), DetDataPreprocessor(**RETINANET)
    expected = stock(dict(inputs=batch, data_samples=samples(2)))
    assert torch.equal(ours(dict(inputs=batch, data_samples=samples(2)))["inputs"], expected["inputs"])


def test_prediction_has_no_samples():
    ours = GreyDetDataPreprocessor(**RETINANET)(dict(inputs=grey_images([(4, 5)]), data_samples=None))
    assert ours["data_samples"] is None
    assert tuple(ours["inputs"].shape) == (1, 3, 32, 32)


def test_samples_may_be_left_out():
    inputs = grey_images([(4, 5)])
    assert GreyDetDataPreprocessor(**RETINANET)(dict(inputs=inputs))["data_samples"] is None


def test_precision_follows_the_model():
    images = grey_images([(4, 5)])
    ours, stock = GreyDetDataPreprocessor(**RETINANET).double(), DetDataPreprocessor(**RETINANET).double()
    got = ours(dict(inputs=images, data_samples=None))["inputs"]
    assert got.dtype == torch.float64
    assert torch.equal(got, stock(dict(inputs=[images[0].contiguous()], data_samples=None))["inputs"])


def test_stock_checkpoints_load():
    assert GreyDetDataPreprocessor(**RETINANET).state_dict() == {}


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (torch.zeros(4, 5).expand(3, 4, 5), True),
        (torch.zeros(3, 4, 5), False),
        (torch.zeros(1, 4, 5), False),
        (torch.zeros(4, 5), False),
        (torch.zeros(1, 1).expand(3, 1, 1), True),
        (torch.zeros(4, 5).expand(2, 3, 4, 5), False),
    ],
)
def test_a_grey_image_is_one_plane_seen_three_times(image, expected):
    assert is_grey(image) is expected
