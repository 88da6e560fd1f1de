"""The label sets and where a user's own comes from."""

import re

import pytest

from cxr_mmdet.errors import UsageError
from cxr_mmdet.structures.labels import (
    LABELS_5,
    LABELS_14,
    LABELS_22,
    MINORITY_LABELS_5,
    NO_FINDING,
    NO_FINDING_ID,
    mirrored_labels,
    resolve_label_map,
    resolve_labels,
    shared_classes,
)


def test_the_competitions_ids_are_the_positions():
    assert len(LABELS_14) == NO_FINDING_ID == 14
    assert list(LABELS_14) == sorted(LABELS_14, key=str.lower)
    assert LABELS_14.index("Nodule/Mass") == 8
    assert set(MINORITY_LABELS_5) < set(LABELS_5) < set(LABELS_14)
    assert [label for label in LABELS_14 if label in LABELS_5] == list(LABELS_5)


def test_named_sets():
    assert resolve_labels("14", []) == LABELS_14
    assert resolve_labels("5", ["anything"]) == LABELS_5


def test_auto_keeps_the_order_it_is_given_and_leaves_out_no_finding():
    assert resolve_labels("auto", ["Right lung", NO_FINDING, "Left lung", "Right lung"]) == ("Right lung", "Left lung")


def test_auto_needs_a_class():
    with pytest.raises(UsageError, match="found no class in the table"):
        resolve_labels("auto", [NO_FINDING])


@pytest.mark.parametrize(
    "text", ["ILD\nCardiomegaly\n", "\ufeffILD\r\n\r\n  Cardiomegaly  \r\n", "# mine\nILD # first\n\n#x\nCardiomegaly"]
)
def test_a_file_of_names(tmp_path, text):
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert resolve_labels(str(path), []) == ("ILD", "Cardiomegaly")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n\n", "holds no class name"),
        ("ILD\nCardiomegaly\nILD\n", "names ILD more than once"),
        ("ILD\nNo finding\n", "line 2: 'No finding' is the absence of boxes"),
        ("Normal: [No finding]\n", "line 1: 'No finding' is the absence of boxes"),
        ("Mass: [Nodule]\n\nOpacity: [Edema, Nodule]\n", "line 3: class Nodule is already part .* on line 1"),
        ("Nodule\nMass: [Nodule, Tumor]\n", "line 2: class Nodule is already part"),
        ("Mass: []\n", r"line 1: 'Mass: \[\]' merges nothing"),
        ("Mass: [Nodule,,Tumor]\n", "merges nothing"),
    ],
)
def test_a_file_that_is_no_label_set_is_refused(tmp_path, text, message):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(str(path)) + ".*" + message):
        resolve_labels(str(path), [])


def test_a_missing_file_is_refused_with_the_other_choices():
    with pytest.raises(UsageError, match="neither 14, 5, auto nor findings_14, and no such file"):
        resolve_labels("15", [])


def test_a_file_orders_merges_and_drops(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text('Nodule/Mass\nLung Opacity: [Lung Opacity, Infiltration]  # one finding\nOther: ["Scar, old",X]\n')
    assert list(resolve_label_map(str(path), ["ILD"]).items()) == [
        ("Nodule/Mass", ("Nodule/Mass",)),
        ("Lung Opacity", ("Lung Opacity", "Infiltration")),
        ("Other", ("Scar, old", "X")),
    ]
    assert resolve_labels(str(path), []) == ("Nodule/Mass", "Lung Opacity", "Other")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("ILD".encode("utf-16"))
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        resolve_label_map(str(path), [])


def test_the_releases_local_findings_hold_the_competitions():
    assert len(set(LABELS_22)) == 22
    assert set(LABELS_14) < set(LABELS_22)


def test_left_and_right_change_places_in_the_mirror():
    assert mirrored_labels(("Right lung", "Heart", "Left lung")) == (2, 1, 0)
    assert mirrored_labels(("left hilum", "right hilum")) == (1, 0)
    assert mirrored_labels(("Right lung", "Bright spot")) == (0, 1)


def test_a_hash_within_a_name_is_no_comment(tmp_path):
    (tmp_path / "set.txt").write_text("# mine\nGrade #1\nC#2 # a comment\n")
    assert resolve_labels(str(tmp_path / "set.txt"), ()) == ("Grade", "C#2")


def test_no_finding_in_any_spelling_is_no_class_of_a_file(tmp_path):
    (tmp_path / "set.txt").write_text("ILD\nNormal\n")
    with pytest.raises(UsageError, match="line 2: 'No finding' is the absence of boxes"):
        resolve_labels(str(tmp_path / "set.txt"), ())


YAML = """\
# a comment
Opacity: [Lung Opacity, "nih:Infiltrate"]
Heart:
  - Cardiomegaly
  - "enlarged, silhouette"
ILD:
Mass: Nodule
"""


def test_a_yaml_file_holds_the_same(tmp_path):
    (tmp_path / "map.yaml").write_text(YAML)
    assert resolve_label_map(str(tmp_path / "map.yaml"), ()) == {
        "Opacity": ("Lung Opacity", "nih:Infiltrate"),
        "Heart": ("Cardiomegaly", "enlarged, silhouette"),
        "ILD": ("ILD",),
        "Mass": ("Nodule",),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: [b", "is not YAML"),
        ("A:\n- b\nA: [c]", "line 3: names A more than once"),
        ("A: {b: c}", "line 1: holds no names; expected labels with a list of classes each"),
        ("- a", "holds no mapping; expected labels"),
        ("A: []", "line 1: 'A: \\[\\]' merges nothing"),
        ("", "holds no class name"),
    ],
)
def test_a_bad_yaml_file_is_named_by_its_line(tmp_path, text, message):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        resolve_label_map(str(tmp_path / "map.yaml"), ())


def test_names_are_alike_in_any_case_and_spacing():
    assert shared_classes(["Left lung", "Nodule", "lung_opacity"], ["Lung  Opacity", "left Lung"]) == [
        (0, 1),
        (2, 0),
    ]
    assert shared_classes(["Lung", "lung"], ["lung", "LUNG"]) == [(1, 0)]
    assert shared_classes(["lung"], ["Lung", "LUNG"]) == []
    assert shared_classes(["+", "-"], ["-"]) == [(1, 0)]
