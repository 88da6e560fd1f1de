"""Which images validate: options that fit, groups kept whole, near-duplicates refused, joined or allowed."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mmdet.annotations.coverage import ImageFacts
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.preparation.images import PreparedImage
from cxr_mmdet.preparation.near_duplicates import NearDuplicates
from cxr_mmdet.preparation.options import BuildOptions, SplitOptions
from cxr_mmdet.preparation.splitting import join_near_duplicates, split_images
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.enums import SplitMethod
from cxr_mmdet.structures.labels import NO_FINDING

NAMES = [f"i{number}" for number in range(20)]
NEAR_DUPLICATES = [NearDuplicates("i0", "i1", 0), NearDuplicates("i4", "i9", 12)]


def image(name):
    patient = f"patient-{int(name[1:]) // 2}"
    return PreparedImage(name, Path(f"{name}.png"), (60, 50), (60, 50), patient, "as stored", (), None)


IMAGES = [image(name) for name in NAMES]


def rows(**columns):
    """Return one ILD box an image by R1 up to i9, by R2 from there, and none on i19."""
    frame = pd.DataFrame(
        {"image_id": NAMES, "class_name": ["ILD"] * 19 + [NO_FINDING], "reader": ["R1"] * 10 + ["R2"] * 10}
    )
    frame[XYXY_COLUMNS] = [[1.0, 1.0, 5.0, 5.0]] * 19 + [[np.nan] * 4]
    return frame.assign(**columns)


def split(options, near_duplicates=(), table=None):
    options.check()
    return split_images(IMAGES, rows() if table is None else table, near_duplicates, options, ImageFacts())


@pytest.mark.parametrize("method", [SplitMethod.RANDOM, SplitMethod.STRATIFIED])
def test_patients_stay_on_one_side(method):
    result = split(SplitOptions(split=method))
    assert 0 < len(result.val) < 20
    assert {name for name in NAMES if result.group_of[name] in {result.group_of[v] for v in result.val}} == result.val
    assert not result.folds


@pytest.mark.parametrize("method", [SplitMethod.RANDOM, SplitMethod.STRATIFIED])
def test_folds_cover_everything_once_and_the_chosen_one_validates(method):
    result = split(SplitOptions(split=method, folds=4, fold=3))
    assert sorted(image for fold in result.folds for image in fold) == sorted(NAMES)
    assert result.val == result.folds[2]


def test_a_list_that_tears_a_patient_apart_is_refused(tmp_path):
    (tmp_path / "val.txt").write_text("i3\nnobody\n")
    options = SplitOptions(split=SplitMethod.LIST, val_list=tmp_path / "val.txt")
    with pytest.raises(DatasetError, match="1 group stands on both sides of the split, such as patient-1"):
        split(options)
    by_image = split(SplitOptions(split=SplitMethod.LIST, val_list=tmp_path / "val.txt", group_by="image"))
    assert by_image.val == {"i3"}
    assert by_image.notes == (
        "1 name in val.txt without a prepared image, such as nobody.",
        "1 patient stands on both sides of the split, such as the one of i2, by the Patient IDs of the radiographs; "
        "--group-by patient keeps each on one.",
    )


def test_images_of_other_readers_validate():
    result = split(SplitOptions(split=SplitMethod.READERS, train_readers=("R1",)))
    assert result.val == set(NAMES[10:])
    assert result.notes == ()


def test_a_column_names_the_groups():
    table = rows(group=[f"study {int(name[1:]) // 5}" for name in NAMES])
    result = split(SplitOptions(group_by="study"), table=table[table["image_id"] != "i7"])
    assert result.group_of["i6"] == result.group_of["i5"] == "study 1"
    assert result.group_of["i7"] == "i7"
    assert result.notes[0] == "1 image has no row and so no study, such as i7; each counts as a group of its own."
    assert re.match(r"\d patients? stands? on both sides of the split", result.notes[1])
    by_patient = split(SplitOptions(group_by="visit"), table=rows(group=[f"{int(name[1:]) // 4}" for name in NAMES]))
    assert by_patient.notes == ()


@pytest.fixture
def torn(tmp_path):
    """Options that put i0, i1 and i9, but not i4, to validation."""
    (tmp_path / "val.txt").write_text("i0\ni1\ni9\n")
    return dict(split=SplitMethod.LIST, val_list=tmp_path / "val.txt", group_by="image")


def test_near_duplicates_on_both_sides_are_refused_with_the_ways_out(torn):
    with pytest.raises(DatasetError, match=r"1 pair of near-identical .* closest are i4 and i9 \(12 bits\)") as caught:
        split(SplitOptions(**torn), NEAR_DUPLICATES)
    for option in ("--join-duplicates", "--allow-duplicates"):
        assert option in str(caught.value)


def test_near_duplicates_on_both_sides_are_allowed_and_noted(torn):
    result = split(SplitOptions(**torn, allow_duplicates=True), NEAR_DUPLICATES)
    assert result.across == (NEAR_DUPLICATES[1],)
    assert result.near_duplicates == tuple(NEAR_DUPLICATES)
    assert "i4 and i9" in result.notes[0]


@pytest.mark.parametrize("folds", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_joined_near_duplicates_are_one_group(folds, seed):
    near_duplicates = [NearDuplicates(f"i{number}", f"i{number + 9}", 3) for number in range(0, 10, 3)]
    result = split(SplitOptions(join_duplicates=True, folds=folds, seed=seed), near_duplicates)
    assert result.across == ()
    for pair in near_duplicates:
        assert (pair.first in result.val) == (pair.second in result.val)


def test_near_duplicates_of_near_duplicates_are_joined_under_the_first_name():
    groups = {"a": "p3", "b": "p2", "c": "p1", "d": "p9"}
    joined = join_near_duplicates(groups, [NearDuplicates("a", "b", 0), NearDuplicates("b", "c", 0)])
    assert joined == {"a": "p1", "b": "p1", "c": "p1", "d": "p9"}
    assert join_near_duplicates(groups, []) == groups


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(split=SplitMethod.LIST), "--split list and --val-list do not fit"),
        (dict(val_list=Path("x")), "--split random and --val-list do not fit; expected --split list"),
        (dict(train_readers=("R1",)), "--split random and --train-readers do not fit"),
        (dict(split=SplitMethod.READERS), "--split readers and --train-readers do not fit"),
        (dict(fold=2), "--fold 2: there are no folds"),
        (dict(folds=3, fold=4), "--fold 4: expected 1 to 3"),
        (dict(split=SplitMethod.READERS, train_readers=("R1",), folds=2), "--split readers has no folds"),
        (dict(join_duplicates=True, allow_duplicates=True), "contradict each other"),
        (dict(val_ratio=1.0), "--val-ratio 1.0"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        SplitOptions(**options).check()


def test_options_come_back_from_the_manifest():
    options = BuildOptions(labels=("5",), minority=("ILD",), folds=3, split=SplitMethod.STRATIFIED, group_by="study")
    assert BuildOptions.from_json(options.to_json()) == options
    assert BuildOptions.from_json({}) == BuildOptions()
