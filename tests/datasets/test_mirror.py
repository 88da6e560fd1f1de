"""Mirrored organs: the image, the boxes, their classes, their votes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

from cxr_mmdet.datasets.augmentation import RandomMirror
from cxr_mmdet.datasets.cxr_dataset import CxrDataset
from cxr_mmdet.datasets.votes import VotedBoxes
from cxr_mmdet.errors import ConfigError


def sample(**changes) -> dict:
    """Return an image that is bright where its two boxes are: the right lung at the left of the image, the heart."""
    image = np.zeros((20, 40), np.uint8)
    image[4:10, 2:12] = 255
    image[11:15, 18:30] = 128
    boxes = torch.tensor([[2.0, 4, 12, 10], [18, 11, 30, 15]])
    return {
        "img": image,
        "gt_bboxes": HorizontalBoxes(boxes),
        "gt_bboxes_labels": np.array([0, 2]),
        "classes": ("Right lung", "Left lung", "Heart"),
    } | changes


def test_boxes_stay_on_what_they_surround_and_sides_change_names():
    out = RandomMirror(1.0)(sample())
    assert out["gt_bboxes_labels"].tolist() == [1, 2]
    for (x_min, y_min, x_max, y_max), shade in zip(out["gt_bboxes"].tensor.int().tolist(), (255, 128), strict=True):
        inside = np.zeros(out["img"].shape, bool)
        inside[y_min:y_max, x_min:x_max] = True
        assert ((out["img"] == shade) == inside).all()


def test_what_was_looked_for_changes_sides_as_well():
    assert RandomMirror(1.0)(sample(coverage=np.array([2, 0, 1])))["coverage"].tolist() == [0, 2, 1]


def test_twice_is_as_before_and_never_is_untouched():
    before = sample()
    twice = RandomMirror(1.0)(RandomMirror(1.0)(sample()))
    for out in (twice, RandomMirror(0.0)(sample())):
        assert np.array_equal(out["img"], before["img"])
        assert out["gt_bboxes"].tensor.tolist() == before["gt_bboxes"].tensor.tolist()
        assert out["gt_bboxes_labels"].tolist() == [0, 2]


def test_half_of_the_images_are_mirrored():
    np.random.seed(0)  # noqa: NPY002
    mirrored = sum(RandomMirror()(sample())["gt_bboxes_labels"][0] == 1 for _ in range(400))
    assert 160 < mirrored < 240


def test_votes_stay_with_their_boxes():
    readings = torch.tensor([[1.0, 1.5], [0.5, 0.25]])
    boxes = VotedBoxes(sample()["gt_bboxes"].tensor, readings=readings)
    assert torch.equal(RandomMirror(1.0)(sample(gt_bboxes=boxes))["gt_bboxes"].readings, readings)


def test_images_without_boxes():
    out = RandomMirror(1.0)(sample(gt_bboxes=HorizontalBoxes(torch.zeros(0, 4)), gt_bboxes_labels=np.zeros(0, int)))
    assert len(out["gt_bboxes"]) == len(out["gt_bboxes_labels"]) == 0
    assert set(RandomMirror(1.0)({"img": np.eye(3, dtype=np.uint8)})) == {"img"}


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(ConfigError, match=r"probability is 2; give one in 0…1"):
        RandomMirror(2)
    unnamed = sample()
    del unnamed["classes"]
    with pytest.raises(ConfigError, match="does not name its classes"):
        RandomMirror(1.0)(unnamed)


def test_a_prepared_folder_names_its_classes(prepared_folder):
    dataset = CxrDataset(data_root=str(prepared_folder(train=2)), ann_file="annotations/train_5.json", pipeline=[])
    assert dataset[0]["classes"] == dataset.metainfo["classes"]
