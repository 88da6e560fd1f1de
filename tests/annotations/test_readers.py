"""The model of readers: known parameters come back, no order matters, and little data stays close to the mean."""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_tables import drawn_readings, readings

from cxr_mmdet.annotations.marks import Candidates, Marks
from cxr_mmdet.annotations.readers import Reliability
from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.labels import LABELS_14, NO_FINDING

CLASSES = ("Edema", "ILD")
SENSITIVITY = {"keen": 0.9, "usual": 0.7, "tired": 0.45, "rare": 0.7}
LARGER = {"keen": 0.10, "usual": 0.0, "tired": -0.10, "rare": 0.0}
FALSE_MARKS = {"keen": 0.5, "usual": 0.1, "tired": 0.1, "rare": 0.1}


def simulated(images=1500, seed=0):
    """Readers whose sensitivity, false marks and size of boxes are known: three of the four read each image."""
    random = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        name = f"i{image:04}"
        truth = [(CLASSES[random.integers(2)], column) for column in range(3) if random.random() < 0.6]
        who = ["keen", "usual", "tired" if image >= 30 else "rare"]
        for reader in who:
            own = []
            for label, column in truth:
                if random.random() < SENSITIVITY[reader]:
                    half = 50 * (1 + LARGER[reader])
                    centre = np.array([200 + 300 * column, 300])
                    box = np.concatenate([centre - half, centre + half]) + random.normal(0, 3, 4)
                    own.append((name, label, reader, tuple(box)))
            if random.random() < FALSE_MARKS[reader]:
                low = random.uniform(600, 2000, 2)
                own.append((name, "Edema", reader, (*low, *(low + 60))))
            rows += own or [(name, NO_FINDING, reader, None)]
    return readings(*rows)


@pytest.fixture(scope="module")
def rows():
    return simulated()


@pytest.fixture(scope="module")
def reliability(rows):
    return Reliability.of(Marks.of(rows, CLASSES), resamples=200)


def test_sensitivity_of_simulated_readers_is_recovered_within_its_intervals(reliability):
    for reader in ("keen", "usual", "tired"):
        place = reliability.readers.index(reader)
        assert reliability.sensitivity[place] == pytest.approx(SENSITIVITY[reader], abs=0.04)
        low, high = reliability.sensitivity_interval[:, place]
        assert (low <= SENSITIVITY[reader]).all()
        assert (SENSITIVITY[reader] <= high).all()
        assert (high - low < 0.12).all()


def test_false_marks_of_simulated_readers_are_recovered(reliability):
    # Per image, 1.8 findings are there: half of them Edema, the class of all false marks.
    for reader in ("keen", "usual", "tired"):
        place = reliability.readers.index(reader)
        assert reliability.false_marks[place, 0] == pytest.approx(FALSE_MARKS[reader] / 0.9, abs=0.08)
        assert reliability.false_marks[place, 1] < 0.08


def test_bias_and_spread_of_simulated_readers_are_recovered(reliability):
    wider = reliability.bias[:, :, 2] - reliability.bias[:, :, 0]
    for reader, larger in LARGER.items():
        if reader != "rare":
            # Only differences between readers can be seen.
            expected = larger - LARGER["usual"]
            found = wider[reliability.readers.index(reader)] - wider[reliability.readers.index("usual")]
            assert found == pytest.approx(expected, abs=0.02)
            spread = reliability.spread[reliability.readers.index(reader)]
            assert spread == pytest.approx(3 / 100, abs=0.015)


def test_a_reader_of_few_images_stays_near_the_mean_and_has_a_wide_interval(reliability):
    rare, usual = (reliability.readers.index(name) for name in ("rare", "usual"))
    widths = reliability.sensitivity_interval[1] - reliability.sensitivity_interval[0]
    assert (widths[rare] > 2 * widths[usual]).all()
    assert reliability.sensitivity[rare] == pytest.approx(reliability.class_sensitivity, abs=0.2)


def test_less_data_never_narrows_an_interval():
    found = [(f"i{image}", "ILD", reader, (10.0, 10.0, 60.0, 60.0)) for image in range(40) for reader in "AB"]
    alone = [(f"i{image}", "Edema", "A", (10.0, 10.0, 60.0, 60.0)) for image in range(40)]
    few, many = (
        Reliability.of(Marks.of(readings(*rows), CLASSES), resamples=200)
        for rows in ([*found[:2], ("i1", NO_FINDING, "A", None), ("i1", NO_FINDING, "B", None)], found + alone)
    )
    (few_edema, few_ild), (edema, ild) = (
        (each.sensitivity_interval[1] - each.sensitivity_interval[0])[0] for each in (few, many)
    )
    assert few_ild > 0.4 > 2 * ild
    # Nothing tells whether others missed what one reader alone marks, or that reader imagined it.
    assert few_edema > 0.4
    assert edema > 0.4


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
def test_no_order_of_rows_matters(seed, order):
    rows = drawn_readings(seed)
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    one, other = (Reliability.of(Marks.of(each, CLASSES)) for each in (rows, rows.iloc[shuffled]))
    assert one.to_json() == other.to_json()


def test_a_lone_mark_of_a_careless_reader_tells_less(reliability):
    def evidence(reader):
        rows = readings(("a", "Edema", reader, (0, 0, 10, 10)), ("a", NO_FINDING, "tired", None))
        return np.sum(reliability.evidence(Candidates.of(Marks.of(rows, CLASSES, reliability.readers))))

    assert evidence("keen") < evidence("usual") - 0.5
    assert np.isfinite(evidence("never seen before"))


def test_hiding_each_reader_leaves_the_others():
    rows = readings(
        ("a", "ILD", "A", (0, 0, 10, 10)), ("a", "ILD", "B", (0, 0, 11, 10)), ("a", NO_FINDING, "C", None),
        ("b", "ILD", "A", (0, 0, 10, 10)),
    )  # fmt: skip
    others, of_reading, hidden = Marks.of(rows, ("ILD",)).hide_each_reader()
    assert of_reading.tolist() == [0, 0, 0]
    assert hidden.tolist() == [0, 1, 2]
    assert [others.drawn_by[others.images == reading].tolist() for reading in range(3)] == [[1], [0], [1, 0]]
    assert others.looked.tolist() == [[False, True, True], [True, False, True], [True, True, False]]


def test_marks_are_told_from_regions_to_ignore():
    rows = readings(("a", "ILD", "A", (0, 0, 10, 10)), ("a", "ILD", "B", (0, 0, 10, 10)))
    assert len(Marks.of(rows.assign(iscrowd=[True, False]), ("ILD",)).images) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a", "ILD", "A", (0, 0, 9, 9)), ("b", NO_FINDING, "A", None)], "one reader read everything"),
        ([("a", "ILD", "A", (0, 0, 9, 9)), ("b", "ILD", "B", (0, 0, 9, 9))], "no two of its 2 readers share an image"),
    ],
)
def test_readers_who_share_no_image_teach_nothing(rows, said):
    with pytest.raises(TableError, match=said):
        Reliability.of(Marks.of(readings(*rows), ("ILD",)))


def test_a_class_that_one_reader_alone_uses_has_a_defined_reliability():
    rows = drawn_readings(0)
    alone = readings(*[(f"i{image:02}", "Only", "A", (0.0, 0.0, 50.0, 50.0)) for image in range(10)])
    reliability = Reliability.of(Marks.of(pd.concat([rows, alone], ignore_index=True), (*CLASSES, "Only")))
    assert np.isfinite(reliability.sensitivity).all()
    others = [place for place, name in enumerate(reliability.readers) if name != "A"]
    assert (reliability.sensitivity[others, 2] <= reliability.class_sensitivity[2] + 1e-9).all()


def test_all_findings_and_no_findings_are_defined():
    nothing = readings(("a", NO_FINDING, "A", None), ("a", NO_FINDING, "B", None))
    reliability = Reliability.of(Marks.of(nothing, CLASSES), resamples=5)
    assert np.isfinite(reliability.sensitivity).all()
    assert reliability.to_rows() == []


@pytest.mark.vinbigdata
def test_vinbigdata_readers_differ():
    path = os.environ.get("CXR_VINBIGDATA_TABLE")
    if not path:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    reliability = Reliability.of(Marks.of(read_table(path), LABELS_14), resamples=50)
    opacity = LABELS_14.index("Lung Opacity")
    found = {name: reliability.sensitivity[reliability.readers.index(name), opacity] for name in ("R8", "R9", "R10")}
    assert found == pytest.approx({"R8": 0.28, "R9": 0.62, "R10": 0.54}, abs=0.02)
    low, high = reliability.sensitivity_interval[:, reliability.readers.index("R8"), opacity]
    assert high < 0.4 < reliability.sensitivity_interval[0, reliability.readers.index("R9"), opacity]
    assert low > 0.15
    # R1 to R7 drew no box at all: nothing is known of them but the class.
    r1 = reliability.readers.index("R1")
    assert reliability.marks[r1].sum() == 0
    assert reliability.sensitivity[r1] == pytest.approx(reliability.class_sensitivity)
