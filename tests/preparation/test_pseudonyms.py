"""Patients in a prepared folder: together, and not to be recovered."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from conftest import write_radiograph

from cxr_mmdet.errors import UsageError
from cxr_mmdet.preparation import images as images_module
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.preparation.folder import prepare_folder
from cxr_mmdet.preparation.pseudonyms import PseudonymKey, join_names

PATIENTS = [f"MRN-{number // 2}" for number in range(8)]


@pytest.fixture
def src(tmp_path):
    """Eight radiographs of four patients, a column that names them too, and a key file."""
    rows = []
    for number, patient in enumerate(PATIENTS):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 40), dtype=np.uint8)
        write_radiograph(tmp_path / f"src/train/i{number}.dcm", pixels, PatientID=patient)
        rows.append((f"i{number}", "ILD", 5, "R1", 2, 2, 20, 20, patient))
    columns = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max", "mrn"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "src/train.csv", index=False)
    (tmp_path / "key").write_text("c0ffee" * 8)
    return tmp_path / "src"


def groups(out):
    """Return image → group of the COCO files."""
    found = {}
    for path in (out / "annotations").glob("*_auto.json"):
        found |= {image["image_id"]: image["group"] for image in json.loads(path.read_text())["images"]}
    return found


def options(**others):
    return BuildOptions(labels=("auto",), allow_duplicates=True, **others)


def together(group_of):
    return sorted(sorted(i for i in group_of if group_of[i] == group) for group in set(group_of.values()))


PAIRS = [["i0", "i1"], ["i2", "i3"], ["i4", "i5"], ["i6", "i7"]]


@pytest.mark.parametrize("group_by", ["patient", "mrn"])
@pytest.mark.parametrize("keyed", [False, True])
def test_no_list_of_patient_ids_recovers_a_patient(src, tmp_path, group_by, keyed):
    """Ten of ten were recovered from the unsalted hash in 0.1 s."""
    key = tmp_path / "key" if keyed else None
    build_dataset(src, tmp_path / "out", options(group_by=group_by), pseudonym_key=key)
    assert together(groups(tmp_path / "out")) == PAIRS
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    for patient in set(PATIENTS):
        assert patient.encode() not in written
        assert hashlib.sha256(patient.encode()).hexdigest()[:16].encode() not in written


def test_a_key_file_keeps_pseudonyms_across_builds_and_another_key_changes_them(src, tmp_path):
    build_dataset(src, tmp_path / "a", options(), pseudonym_key=tmp_path / "key")
    (src / "train/i0.dcm").unlink()
    build_dataset(src, tmp_path / "b", options(), pseudonym_key=tmp_path / "key")
    first, second = groups(tmp_path / "a"), groups(tmp_path / "b")
    assert {image: first[image] for image in second} == second
    (tmp_path / "key").write_text("another" * 8)
    build_dataset(src, tmp_path / "c", options(), pseudonym_key=tmp_path / "key")
    assert set(groups(tmp_path / "c").values()).isdisjoint(second.values())


@pytest.mark.parametrize("keyed", [False, True])
def test_an_interrupted_build_goes_on_with_equal_groups(src, tmp_path, monkeypatch, keyed):
    """The first run's key is gone, and half of each patient's images were made with it."""
    out, prepare = tmp_path / "out", images_module.prepare_image

    def stop_after_i2(image_id, *rest):
        if image_id == "i3":
            raise KeyboardInterrupt
        return prepare(image_id, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(images_module, "prepare_image", stop_after_i2)
        with pytest.raises(KeyboardInterrupt):
            prepare_folder(src, out)
    key = tmp_path / "key" if keyed else None
    build_dataset(src, out, options(), pseudonym_key=key)
    build_dataset(src, tmp_path / "at_once", options(), pseudonym_key=key, jobs=2)
    assert groups(out) == groups(tmp_path / "at_once")
    assert together(groups(out)) == PAIRS
    # Again, with everything there; and with another key over it.
    build_dataset(src, out, options(), pseudonym_key=None if keyed else tmp_path / "key", force=True)
    assert together(groups(out)) == PAIRS


def test_a_folder_with_unsalted_hashes_gets_new_names(src, tmp_path):
    out = tmp_path / "out"
    prepare_folder(src, out)
    index = json.loads((out / "images.json").read_text())
    for number, entry in enumerate(index["images"].values()):
        del entry["patient_keyed_by"]
        entry["patient"] = "patient-" + hashlib.sha256(PATIENTS[number].encode()).hexdigest()[:16]
    (out / "images.json").write_text(json.dumps(index))
    build_dataset(src, out, options())
    assert together(groups(out)) == PAIRS
    assert hashlib.sha256(PATIENTS[0].encode()).hexdigest()[:16] not in (out / "images.json").read_text()


def test_a_key_that_protects_nothing_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/key").write_text("c0ffee" * 8)
    with pytest.raises(UsageError, match=r"lies in .*keep it outside"):
        PseudonymKey.read(tmp_path / "out/key", tmp_path / "out")
    (tmp_path / "short").write_text("secret\n")
    with pytest.raises(UsageError, match=r"holds 6 bytes, expected at least 16 random ones; make it with: python -c"):
        PseudonymKey.read(tmp_path / "short", tmp_path / "out")
    assert "c0ffee" not in repr(PseudonymKey.read(tmp_path / "out/key", tmp_path / "elsewhere"))


def test_a_patient_is_one_where_file_or_annotations_say_so():
    by_file = {"a": "p", "b": "p", "c": "q", "d": None, "e": None, "f": "r"}
    by_source = {"b": "1", "c": "1", "d": "1", "f": "2"}
    assert join_names(by_file, by_source) == {"a": "1", "b": "1", "c": "1", "d": "1", "e": None, "f": "2"}
    assert join_names(by_file, {}) == by_file
