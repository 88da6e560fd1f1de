import json

import pytest
from ceiling_cases import LABELS, make_ceiling, measure

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.bootstrap import Interval
from cxr_mmdet.evaluation.ceiling import find_ceiling

TRUTH = {"images": [], "annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(LABELS, 1)]}


@pytest.fixture
def prepared(tmp_path):
    """Return a function that writes a prepared folder's manifest, and gives the path of its val_5.json."""

    def prepare(**entry):
        label_set = {
            "labels": LABELS,
            "human_ceiling": {"all": make_ceiling(0.7), "train": None, "val": make_ceiling()},
        }
        (tmp_path / "manifest.json").write_text(json.dumps({"label_sets": {"5": label_set | entry}}))
        return tmp_path / "annotations" / "val_5.json"

    return prepare


def test_found_beside_the_ground_truth(prepared):
    ceiling = find_ceiling(prepared(), TRUTH)
    assert (ceiling.split, ceiling.images, ceiling.readers) == ("val", 120, 3)
    assert ceiling.values["voc_mean_ap_40"] == Interval(0.5, 0.4, 0.6)
    assert ceiling.per_class["ILD"]["ap_50"].value == 0.4
    assert ceiling.to_json()["per_class"][0] == {
        "name": "Cardiomegaly",
        "voc_ap_40": measure(0.6),
        "ap_50": measure(0.4),
    }


def test_the_share_that_is_reached(prepared):
    ceiling = find_ceiling(prepared(), TRUTH)
    assert ceiling.reached("mean_ap_50", 0.25) == 0.5
    assert ceiling.reached("mean_ap_50", None) is None
    assert ceiling.reached("image_auc", 0.9) is None
    zero = find_ceiling(prepared(human_ceiling={"val": make_ceiling(0.0)}), TRUTH)
    assert zero.reached("mean_ap", 0.1) is None


def test_nothing_to_say_is_no_error(prepared, tmp_path):
    path = prepared()
    assert find_ceiling(path.with_name("train_5.json"), TRUTH) is None  # the split is null
    assert find_ceiling(path.with_name("val_14.json"), TRUTH) is None  # another label set
    assert find_ceiling(path.with_name("instances.json"), TRUTH) is None
    assert find_ceiling(prepared(human_ceiling=None), TRUTH) is None
    (tmp_path / "manifest.json").unlink()
    assert find_ceiling(path, TRUTH) is None


def test_a_manifest_from_elsewhere(prepared, tmp_path):
    prepared()
    elsewhere = tmp_path / "other" / "annotations" / "val_5.json"
    assert find_ceiling(elsewhere, TRUTH) is None
    assert find_ceiling(elsewhere, TRUTH, tmp_path / "manifest.json").images == 120
    with pytest.raises(DatasetError, match=r"gone\.json: no such file"):
        find_ceiling(elsewhere, TRUTH, tmp_path / "gone.json")


def test_another_list_of_classes_is_refused(prepared):
    with pytest.raises(DatasetError, match=r"label set 5 is \['ILD'\], but the ground truth's classes are"):
        find_ceiling(prepared(labels=["ILD"]), TRUTH)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_manifest_is_named(prepared, tmp_path, content):
    path = prepared()
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DatasetError, match=r"manifest\.json: "):
        find_ceiling(path, TRUTH)


@pytest.mark.parametrize("broken", [{"val": {"images": 3}}, {"val": 7}, {"val": make_ceiling() | {"mean_ap": None}}])
def test_a_ceiling_that_cannot_be_read_is_named(prepared, broken):
    with pytest.raises(DatasetError, match="the human ceiling of label set 5, val, cannot be read"):
        find_ceiling(prepared(human_ceiling=broken), TRUTH)
