import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mmdet.evaluation.gallery import choose_images


def make_ground_truth(classes_of_images):
    """One image a list, with one box for each class in it; ids have gaps and fall."""
    images = [{"id": 100 - 3 * place} for place in range(len(classes_of_images))]
    boxes = [
        {"image_id": image["id"], "category_id": category_id}
        for image, categories in zip(images, classes_of_images, strict=True)
        for category_id in categories
    ]
    return {"images": images, "annotations": boxes, "categories": []}


ground_truths = st.lists(st.lists(st.integers(1, 6), max_size=4), max_size=33).map(make_ground_truth)


@given(ground_truths, st.integers(1, 15))
def test_as_many_as_asked_for_each_once(ground_truth, count):
    chosen = choose_images(ground_truth, count)
    ids = {image["id"] for image in ground_truth["images"]}
    assert len(chosen) == len(set(chosen)) == min(count, len(ids))
    assert set(chosen) <= ids


@given(ground_truths, st.integers(8, 15))
def test_every_class_is_shown(ground_truth, count):
    """Six classes need at most six images, and eight leave six for abnormal ones."""
    chosen = choose_images(ground_truth, count)
    shown = {box["category_id"] for box in ground_truth["annotations"] if box["image_id"] in chosen}
    assert shown == {box["category_id"] for box in ground_truth["annotations"]}


def test_a_quarter_is_normal_and_stands_last():
    ground_truth = make_ground_truth([[1]] * 20 + [[]] * 13)
    chosen = choose_images(ground_truth, 12)
    normal = {image["id"] for image in ground_truth["images"]} - {b["image_id"] for b in ground_truth["annotations"]}
    assert [image_id in normal for image_id in chosen] == [False] * 9 + [True] * 3
    assert chosen[:9] == sorted(chosen[:9])
    assert chosen[9:] == sorted(chosen[9:])


@pytest.mark.parametrize(("abnormal", "normal"), [(2, 20), (20, 0), (0, 20)])
def test_what_one_kind_lacks_the_other_fills(abnormal, normal):
    assert len(choose_images(make_ground_truth([[1]] * abnormal + [[]] * normal), 12)) == 12


def test_no_images_give_no_choice():
    assert choose_images(make_ground_truth([]), 12) == []


def test_a_single_image_shows_most_classes():
    assert choose_images(make_ground_truth([[1], [1, 2, 3], []]), 1) == [97]
