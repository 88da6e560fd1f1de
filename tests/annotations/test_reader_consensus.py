"""The consensus by the model of readers: scores that rank, corners that fit, files that are trusted only whole."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_tables import drawn_readings, readings
from test_readers import CLASSES, simulated

from cxr_mmdet.annotations.coco import CocoImage, build_coco
from cxr_mmdet.annotations.consensus import fuse_readers
from cxr_mmdet.annotations.marks import Candidates, Marks, hidden_boxes
from cxr_mmdet.annotations.reader_consensus import ReaderModel, fit_readers, fuse_by_readers, unbiased_boxes
from cxr_mmdet.annotations.reader_features import pairs_with
from cxr_mmdet.annotations.readers import Reliability
from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.errors import CxrError, TableError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, iou
from cxr_mmdet.structures.labels import LABELS_14, NO_FINDING


@pytest.fixture(scope="module")
def rows():
    return simulated(images=300, seed=1)


@pytest.fixture(scope="module")
def model(rows):
    return fit_readers(rows, CLASSES)


def test_the_consensus_has_the_boxes_of_wbf_with_votes_and_readers(rows, model):
    ours, wbf = model.consensus(rows), fuse_readers(rows)
    assert list(ours.columns.drop("corner_spread")) == list(wbf.columns)
    assert len(ours) == len(wbf)
    assert ours["votes"].value_counts().to_dict() == wbf["votes"].value_counts().to_dict()
    assert (ours["readers"].map(len) == ours["votes"]).all()
    assert ours["score"].between(0, 1, inclusive="neither").all()


def test_scores_rise_with_the_votes_and_are_probabilities(rows, model):
    ours = model.consensus(rows)
    mean = ours.groupby("votes")["score"].mean()
    assert mean[1] < mean[2] < mean[3]
    # Findings are marked by the next reader in 45 to 90 %; false marks of careless readers by nobody.
    assert mean[1] < 0.4
    assert 0.6 < mean[3] < 0.9


def test_the_mean_of_marks_is_without_the_bias_of_readers(model):
    # Keen readers draw 10 % larger, tired ones 10 % smaller than the usual; everybody's findings are 100 wide.
    for reader, half in (("keen", 55), ("tired", 45)):
        box = (500 - half, 300 - half, 500 + half, 300 + half)
        rows = readings(("a", "ILD", reader, box), ("a", NO_FINDING, "usual", None))
        marks = Marks.of(rows, CLASSES, model.reliability.readers)
        boxes, _ = unbiased_boxes(marks, Candidates.of(marks), model.reliability)
        assert boxes == pytest.approx(np.array([[450, 250, 550, 350]]), abs=2.5)


def test_the_spread_of_corners_is_what_the_mean_of_marks_deviates_by(rows, model):
    """Each mark deviates by 3 px of 100; so the mean of n marks by 0.03 / sqrt(n), once biases are out."""
    marks = Marks.of(rows, CLASSES, model.reliability.readers)
    candidates = Candidates.of(marks)
    _, spread = unbiased_boxes(marks, candidates, model.reliability)
    findings = candidates.boxes_xyxy[:, 1] < 400
    for n_marks in (1, 2, 3):
        alike = findings & (candidates.n_marks == n_marks)
        assert np.sqrt((spread[alike] ** 2).mean()) == pytest.approx(0.03 / np.sqrt(n_marks), rel=0.2)
    ours = model.consensus(rows)
    assert len(ours["corner_spread"]) == len(spread)
    assert {len(each) for each in ours["corner_spread"]} == {4}


def test_readers_who_disagree_on_one_side_leave_it_uncertain(model):
    for right, wider in ((550, False), (650, True)):
        boxes = (("a", "ILD", "keen", (450, 250, 550, 350)), ("a", "ILD", "usual", (450, 250, right, 350)))
        spread = model.consensus(readings(*boxes))["corner_spread"].item()
        assert (spread[2] > 2 * max(spread[0], spread[1], spread[3])) == wider


def test_regions_to_ignore_have_no_spread(model):
    rows = readings(("a", "ILD", "keen", (0, 0, 99, 99)), ("a", "ILD", "usual", (200, 0, 299, 99)))
    fused, _ = fuse_by_readers(rows.assign(iscrowd=[False, True]), model)
    assert fused["iscrowd"].tolist() == [False, True]
    assert [spread is None for spread in fused["corner_spread"]] == [False, True]
    image = CocoImage("a", "a.png", 400, 400, "a", 400, 400)
    first, region = build_coco([image], fused, CLASSES)["annotations"]
    assert len(first["corner_spread"]) == 4
    assert "corner_spread" not in region


def test_corners_are_those_of_a_further_reader(model):
    # After the keen reader come the usual and the tired, who draw smaller; after the tired, larger ones.
    for reader, half, sign in (("keen", 55, -1), ("tired", 45, 1)):
        box = (500 - half, 300 - half, 500 + half, 300 + half)
        ours = model.consensus(readings(("a", "ILD", reader, box), ("a", NO_FINDING, "usual", None)))
        assert sign * ((ours["x_max"] - ours["x_min"]).item() - 2 * half) > 5


def test_unknown_readers_and_images_of_one_reader_are_defined(model):
    rows = readings(("a", "ILD", "X", (450, 250, 550, 350)), ("b", "ILD", "keen", (450, 250, 550, 350)))
    ours = model.consensus(rows)
    assert np.isfinite(ours["score"]).all()
    assert ours["readers"].tolist() == [("X",), ("keen",)]


def test_classes_that_readers_confuse_are_given_on_request():
    random = np.random.default_rng(0)
    rows = []
    for image in range(200):
        for reader in "ABC":
            label = CLASSES[int(random.random() < 0.4)]
            rows.append((f"i{image}", label, reader, (100.0, 100.0, 200.0 + image % 7, 200.0)))
    model = fit_readers(readings(*rows), CLASSES)
    alone = readings(("x", "Edema", "A", (100, 100, 200, 200)), ("x", "Edema", "B", (100, 100, 200, 200)))
    assert model.consensus(alone)["class_name"].tolist() == ["Edema"]
    both = model.consensus(alone, alternatives=True)
    assert both["class_name"].tolist() == ["Edema", "ILD"]
    assert both["score"].tolist() == pytest.approx([0.6, 0.4], abs=0.15)
    assert both["votes"].tolist() == [2, 0]


@settings(max_examples=5)
@given(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
def test_no_order_of_rows_matters(seed, order):
    rows = drawn_readings(seed)
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    one, other = (fit_readers(each, CLASSES) for each in (rows, rows.iloc[shuffled]))
    assert one.to_json() == other.to_json()
    pd.testing.assert_frame_equal(one.consensus(rows), other.consensus(rows.iloc[shuffled]))


def test_a_table_of_three_rows_is_enough():
    rows = readings(("a", "ILD", "A", (0, 0, 9, 9)), ("a", "ILD", "B", (0, 0, 9, 8)), ("a", NO_FINDING, "C", None))
    ours = fit_readers(rows, CLASSES).consensus(rows)
    assert 0 < ours["score"].item() < 1
    assert iou(ours[XYXY_COLUMNS].to_numpy(float), np.array([[0, 0, 9, 8.5]])).item() > 0.6


def test_nothing_but_normal_images_gives_no_box():
    rows = readings(("a", NO_FINDING, "A", None), ("a", NO_FINDING, "B", None))
    assert fit_readers(rows, CLASSES).consensus(rows).empty


def test_one_reader_everywhere_is_one_sentence():
    with pytest.raises(TableError, match=r"one reader read everything, .* several readers read the same"):
        fit_readers(readings(("a", "ILD", "A", (0, 0, 9, 9))), CLASSES)


def test_a_file_gives_the_same_model_back(tmp_path, rows, model):
    model.save(tmp_path / "one.json")
    again = ReaderModel.load(tmp_path / "one.json", CLASSES)
    again.save(tmp_path / "other.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    pd.testing.assert_frame_equal(model.consensus(rows, alternatives=True), again.consensus(rows, alternatives=True))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:100], "is not JSON"),
        (lambda text: "[]", "not a complete file of reader parameters"),
        (lambda text: text.replace('"unit_px"', '"unit"'), "not a complete file of reader parameters"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 9'), "schema version 9, expected 1"),
        (lambda text: json.dumps(json.loads(text) | {"related": [[True]]}), "do not fit its readers and classes"),
        (lambda text: json.dumps(json.loads(text) | {"score": None}), "not a complete file"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, model, damage, said):
    path = tmp_path / "readers.json"
    model.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(CxrError, match=said) as raised:
        ReaderModel.load(path, CLASSES)
    assert "\n" not in str(raised.value)
    assert "--fusion readers" in str(raised.value)


def test_a_file_of_other_classes_is_refused(tmp_path, model):
    model.save(tmp_path / "readers.json")
    with pytest.raises(CxrError, match=r"not of Mass; .* omit --reader-model"):
        ReaderModel.load(tmp_path / "readers.json", (*CLASSES, "Mass"))
    assert ReaderModel.load(tmp_path / "readers.json", ("ILD",)).labels == CLASSES


@pytest.mark.vinbigdata
def test_vinbigdata_scores_rise_with_the_votes():
    path = os.environ.get("CXR_VINBIGDATA_TABLE")
    if not path:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    rows = read_table(path)
    ours = fit_readers(rows, LABELS_14, alternatives=False).consensus(rows)
    assert len(ours) == 22_694
    mean = ours.groupby("votes")["score"].mean()
    assert mean[1] < 0.35 < mean[2] < 0.7 < mean[3]


@pytest.mark.vinbigdata
def test_vinbigdata_sides_that_are_uncertain_lie_further_from_a_reader_who_was_not_asked():
    path = os.environ.get("CXR_VINBIGDATA_TABLE")
    if not path:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    marks = Marks.of(read_table(path), LABELS_14)
    others, of_reading, hidden = marks.hide_each_reader()
    candidates, truth = Candidates.of(others), hidden_boxes(marks, of_reading, hidden)
    boxes, spread = unbiased_boxes(others, candidates, Reliability.of(marks))
    pairs = pairs_with(candidates, boxes, truth)
    met = pairs.iou > 0.4
    found, theirs = pairs.found[met], truth.boxes_xyxy[pairs.truth[met]]
    off = np.sqrt((((theirs - boxes[found]) / candidates.sizes[found]) ** 2).mean(axis=1))
    fifths = pd.qcut(np.sqrt((spread[found] ** 2).mean(axis=1)), 5, labels=False)
    mean = pd.Series(off).groupby(fifths).mean()
    assert mean.is_monotonic_increasing
    assert mean[4] > 1.9 * mean[0]
