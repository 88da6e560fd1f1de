import json
import shutil

import pytest

from benchmarks.folds import Part, parts_of
from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.coco import read_coco, write_coco


@pytest.fixture
def patients(prepared_folder):
    """Prepared folder of 24 images, two of each patient, of which every third is normal."""
    root = prepared_folder(train=16, val=8)
    for split in ("train", "val"):
        path = root / f"annotations/{split}_5.json"
        coco = read_coco(path)
        for number, image in enumerate(coco["images"]):
            image["group"] = f"{split}{number // 2}"
        normal = {image["id"] for image in coco["images"] if int(image["group"][-1]) % 3 == 0}
        coco["annotations"] = [box for box in coco["annotations"] if box["image_id"] not in normal]
        write_coco(path, coco)
    return root


def split_of(part):
    return [read_coco(part.data_root / f"annotations/{split}_5.json") for split in ("train", "val")]


def groups(coco):
    return {image["group"] for image in coco["images"]}


def boxes_by_name(*cocos):
    return {
        image["image_id"]: sorted(box["bbox"] for box in coco["annotations"] if box["image_id"] == image["id"])
        for coco in cocos
        for image in coco["images"]
    }


def test_every_patient_validates_in_exactly_one_fold(patients, tmp_path):
    parts = parts_of(patients, tmp_path / "out", folds=3)
    whole = boxes_by_name(*split_of(Part(patients)))
    validated = []
    for part in parts:
        train, val = split_of(part)
        assert not groups(train) & groups(val)
        assert boxes_by_name(train, val) == whole
        assert any(box for box in boxes_by_name(val).values())
        assert (part.data_root / "images" / val["images"][0]["file_name"]).is_file()
        validated += [image["image_id"] for image in val["images"]]
    assert sorted(validated) == sorted(whole)
    assert [part.folder for part in parts] == ["fold_1", "fold_2", "fold_3"]


def test_folds_depend_on_their_seed_alone(patients, tmp_path):
    first, again, other = (
        [groups(split_of(part)[1]) for part in parts_of(patients, tmp_path / str(number), folds=3, fold_seed=seed)]
        for number, seed in enumerate((0, 0, 1))
    )
    assert first == again != other
    (second,) = parts_of(patients, tmp_path / "only", folds=3, only=[2])
    assert groups(split_of(second)[1]) == first[1]


@pytest.mark.parametrize("folds", [None, 3])
def test_a_smaller_share_of_the_labels_is_part_of_a_larger_one(patients, tmp_path, folds):
    shares = [
        split_of(parts_of(patients, tmp_path / "out", folds=folds, label_share=share)[0]) for share in (0.3, 0.6, 1.0)
    ]
    few, more, all_ = (groups(train) for train, _ in shares)
    assert few < more < all_
    assert all(train["annotations"] for train, _ in shares)
    assert shares[0][1] == shares[1][1] == shares[2][1]


def test_the_whole_folder_is_trained_on_as_it_is(patients, tmp_path):
    assert parts_of(patients, tmp_path / "out", folds=None) == [Part(patients)]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folds", "only", "expected"), [(3, [4], "numbers from 1 to 3"), (None, [1], "--folds K")])
def test_a_fold_that_does_not_exist_is_refused(tmp_path, folds, only, expected):
    with pytest.raises(UsageError, match=f"no such fold; expected {expected}"):
        parts_of(tmp_path, tmp_path, folds=folds, only=only)


def test_a_label_set_without_some_images_keeps_their_patients_together(patients, tmp_path):
    """Normals that one set leaves out do not let the other train on a patient who validates."""
    for split in ("train", "val"):
        coco = read_coco(patients / f"annotations/{split}_5.json")
        boxed = {box["image_id"] for box in coco["annotations"]}
        kept = [image for image in coco["images"] if image["id"] in boxed and image["id"] % 2]
        ids = {image["id"] for image in kept}
        few = coco | {"images": kept, "annotations": [box for box in coco["annotations"] if box["image_id"] in ids]}
        write_coco(patients / f"annotations/{split}_1few.json", few)
    for part in parts_of(patients, tmp_path / "out", folds=3):
        few, all_ = (
            [groups(read_coco(part.data_root / f"annotations/{split}_{name}.json")) for split in ("train", "val")]
            for name in ("1few", "5")
        )
        assert few[0] <= all_[0]
        assert few[1] <= all_[1]
        assert not all_[0] & all_[1]


@pytest.mark.parametrize("change", ["seed", "labels", "images"])
def test_parts_that_a_training_may_be_reading_are_not_changed(patients, tmp_path, change):
    """A command that was refused afterwards had exchanged the folds of a benchmark that ran."""
    for split in ("train", "val"):
        write_coco(patients / f"annotations/{split}_x.json", read_coco(patients / f"annotations/{split}_5.json"))
    out = tmp_path / "out"
    parts = parts_of(patients, out, folds=2)
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    (out / "fold_1/annotations/val_x.json").unlink()  # killed halfway
    assert parts_of(patients, out, folds=2) == parts
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before
    data = patients
    if change == "labels":
        for split in ("train", "val"):
            (data / f"annotations/{split}_x.json").unlink()
    elif change == "images":
        data = shutil.copytree(patients, tmp_path / "other")
    with pytest.raises(UsageError, match=r"fold_1: holds other data, folds or label sets than asked for"):
        parts_of(data, out, folds=2, fold_seed=int(change == "seed"))
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before
    assert (parts[0].data_root / "images").resolve() == (patients / "images").resolve()


@pytest.mark.parametrize(("allowed", "apart"), [(False, False), (True, True)])
def test_near_identical_images_of_two_patients_validate_together(patients, tmp_path, allowed, apart):
    """Preparation accepts them on one side of its own split; folds divide that side again."""
    (part, *_) = parts_of(patients, tmp_path / "before", folds=3)
    train, val = split_of(part)
    pair = {"first": train["images"][0]["image_id"], "second": val["images"][0]["image_id"], "distance": 3}
    manifest = {"parameters": {"allow_duplicates": allowed}, "near_identical": [pair]}
    (patients / "manifest.json").write_text(json.dumps(manifest))
    sides = [
        {name: number for number, coco in enumerate(split_of(each)) for name in boxes_by_name(coco)}
        for each in parts_of(patients, tmp_path / "after", folds=3)
    ]
    assert any(side[pair["first"]] != side[pair["second"]] for side in sides) == apart
    assert all(not groups(train) & groups(val) for train, val in map(split_of, parts_of(patients, tmp_path, folds=3)))
