import numpy as np
import pytest

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.structures.coco import check_coco
from cxr_mmdet.structures.coverage import Coverage, coverage_keys, coverage_of, is_partly_labelled

UNKNOWN, NOT_EXHAUSTIVE, EXHAUSTIVE = Coverage.UNKNOWN, Coverage.NOT_EXHAUSTIVE, Coverage.EXHAUSTIVE


def make_coco(*, box_of=None, crowd=0, **keys):
    box = {"id": 1, "image_id": 7, "category_id": box_of, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": crowd}
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 80, **keys}],
        "categories": [{"id": 2, "name": "ILD"}, {"id": 5, "name": "Nodule/Mass"}, {"id": 9, "name": "Cardiomegaly"}],
        "annotations": [box] if box_of else [],
    }


@pytest.mark.parametrize(
    ("coco", "expected"),
    [
        (make_coco(), [EXHAUSTIVE] * 3),
        (make_coco(neg_category_ids=[]), [UNKNOWN] * 3),
        (make_coco(neg_category_ids=[5]), [UNKNOWN, EXHAUSTIVE, UNKNOWN]),
        (make_coco(box_of=2, neg_category_ids=[5]), [EXHAUSTIVE, EXHAUSTIVE, UNKNOWN]),
        (make_coco(box_of=2, crowd=1, neg_category_ids=[5]), [UNKNOWN, EXHAUSTIVE, UNKNOWN]),
        (
            make_coco(box_of=2, neg_category_ids=[5], not_exhaustive_category_ids=[2, 9]),
            [NOT_EXHAUSTIVE, EXHAUSTIVE, UNKNOWN],
        ),
        (make_coco(not_exhaustive_category_ids=[9]), [EXHAUSTIVE, EXHAUSTIVE, NOT_EXHAUSTIVE]),
    ],
    ids=["no keys", "nothing read", "one absent", "one present", "region to ignore", "partly marked", "no negatives"],
)
def test_coverage_follows_the_convention_of_lvis(coco, expected):
    check_coco(coco, strict=False)
    assert coverage_of(coco).tolist() == [expected]
    assert is_partly_labelled(coco) == (min(expected) < EXHAUSTIVE)


def test_keys_written_for_an_image_read_back_as_its_coverage():
    for first in Coverage:
        for second in Coverage:
            # Without a box a class cannot be marked in part beside unknown ones: its box is what is known.
            coverage = np.array([first, second, EXHAUSTIVE], dtype=np.int8)
            present = coverage == NOT_EXHAUSTIVE
            coco = make_coco(**coverage_keys(coverage, present, np.array([2, 5, 9])))
            for number, category in enumerate(np.array([2, 5, 9])[present], start=1):
                coco["annotations"].append({"id": number, "image_id": 7, "category_id": int(category)})
            assert coverage_of(coco).tolist() == [coverage.tolist()]


@pytest.mark.parametrize(
    ("coco", "problem"),
    [
        (make_coco(neg_category_ids=5), "expected a list of category ids"),
        (make_coco(neg_category_ids=[True]), "expected a list of category ids"),
        (make_coco(neg_category_ids=["5"]), "expected a list of category ids"),
        (make_coco(neg_category_ids=[1]), "names category 1 in neg_category_ids, which is not among the categories"),
        (make_coco(not_exhaustive_category_ids=[1]), "names category 1 in not_exhaustive_category_ids"),
        (make_coco(box_of=5, neg_category_ids=[5]), "names category 5 in neg_category_ids, but has a box of it"),
    ],
    ids=["no list", "truth value", "name", "unknown absent", "unknown partly marked", "absent and present"],
)
def test_coverage_that_contradicts_the_file_is_refused(coco, problem):
    with pytest.raises(DatasetError, match=problem):
        check_coco(coco, strict=False)
