"""The readers' table: good rows come through as they are, each bad one is named by its line."""

import gzip
import re

import numpy as np
import pandas as pd
import pytest

from cxr_mmdet.annotations.table import class_names, read_table, write_frame
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.boxes import XYXY_COLUMNS

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
GOOD = (
    "a,Cardiomegaly,3,R8,691.0,1375.0,1653.0,1831.0",
    "a,Cardiomegaly,3,R9,700,1370,1650,1840",
    "b,No finding,14,R8,,,,",
    "007,Aortic enlargement,0,NA,1.5,2,3,4.25",
)


@pytest.fixture
def table(tmp_path):
    """Write the header and these lines as train.csv and return its path."""

    def write(*lines, header=HEADER, encoding="utf-8", newline="\n"):
        path = tmp_path / "train.csv"
        path.write_bytes(newline.join([header, *lines, ""]).encode(encoding))
        return path

    return write


def test_reads_rows_with_their_lines(table):
    rows = read_table(table(*GOOD))
    assert list(rows.columns) == ["image_id", "class_name", "class_id", "reader", *XYXY_COLUMNS, "line"]
    assert rows["image_id"].tolist() == ["a", "a", "b", "007"]
    assert rows["class_id"].tolist() == [3, 3, 14, 0]
    assert rows["reader"].tolist() == ["R8", "R9", "R8", "NA"]
    assert rows["line"].tolist() == [2, 3, 4, 5]
    assert rows.loc[3, XYXY_COLUMNS].tolist() == [1.5, 2, 3, 4.25]
    assert rows.loc[2, XYXY_COLUMNS].isna().all()


@pytest.mark.parametrize(("encoding", "newline"), [("utf-8-sig", "\n"), ("utf-8", "\r\n"), ("utf-8-sig", "\r\n")])
def test_byte_order_mark_and_windows_line_ends_change_nothing(table, encoding, newline):
    expected = read_table(table(*GOOD))
    pd.testing.assert_frame_equal(read_table(table(*GOOD, encoding=encoding, newline=newline)), expected)


def test_blank_lines_are_skipped_but_counted(table):
    rows = read_table(table(GOOD[0], "", GOOD[1], "", ""))
    assert rows["line"].tolist() == [2, 4]
    assert rows.index.tolist() == [0, 1]


def test_columns_in_any_order_and_further_ones(table):
    header = "y_min,note,rad_id,x_min,x_max,y_max,class_name,class_id,image_id"
    rows = read_table(table("1,x,R1,0,2,3,Cardiomegaly,4,a", header=header))
    assert rows.loc[0, XYXY_COLUMNS].tolist() == [0, 1, 2, 3]


def test_the_placeholder_box_of_no_finding_is_no_box(table):
    rows = read_table(table("a,No finding,14,R1,0,0,1,1", "b,No finding,14,R1,,,,"))
    assert rows[XYXY_COLUMNS].isna().all(axis=None)


def test_a_finding_may_have_the_placeholder_box(table):
    assert read_table(table("a,Nodule/Mass,8,R1,0,0,1,1")).loc[0, XYXY_COLUMNS].tolist() == [0, 0, 1, 1]


def test_without_ids_classes_are_numbered_in_alphabetical_order(table):
    header = HEADER.replace("class_id,", "")
    rows = read_table(table("a,Nodule,R1,0,0,1,1", "a,Edema,R1,0,0,1,1", "b,No finding,R1,,,,", header=header))
    assert rows["class_id"].tolist() == [1, 0, 2]


def test_class_names_by_id_without_no_finding(table):
    rows = read_table(
        table(
            "a,Left lung,1,R1,0,0,1,1",
            "a,Right lung,0,R1,0,0,1,1",
            "b,No finding,14,R1,,,,",
            "c,Left lung,1,R1,0,0,1,1",
        )
    )
    assert class_names(rows) == ("Right lung", "Left lung")


def test_without_readers_one_reader_read_everything(table):
    rows = read_table(table("a,ILD,5,0,0,1,1", "b,No finding,14,,,,", header=HEADER.replace("rad_id,", "")))
    assert rows["reader"].tolist() == ["R1", "R1"]


def test_a_further_column_names_the_group(table):
    header = f"{HEADER},patient"
    path = table("a,ILD,5,R1,0,0,1,1,007", "a,ILD,5,R2,0,0,1,1, 007", "b,No finding,14,R1,,,,,8", header=header)
    rows = read_table(path, group_column="patient")
    assert rows["group"].tolist() == ["007", "007", "8"]
    with pytest.raises(TableError, match="line 1: no column study"):
        read_table(path, group_column="study")


@pytest.mark.parametrize("column", ["patient", "patient_id", "PatientID"])
def test_the_patients_column_is_the_group_without_being_asked_for(table, column):
    lines = ("a,ILD,5,R1,0,0,1,1,007", "a,ILD,5,R2,0,0,1,1,", "b,No finding,14,R1,,,,,")
    groups = read_table(table(*lines, header=f"{HEADER},{column}"))["group"]
    assert groups[:2].tolist() == ["007", "007"]
    assert groups.isna().tolist() == [False, False, True]


def test_a_table_without_patients_has_no_groups(table):
    assert "group" not in read_table(table("a,ILD,5,R1,0,0,1,1"))


@pytest.mark.parametrize(
    ("patient", "message"),
    [("", "patient is empty"), ("9", "patient is '9', but an earlier row puts image a in '7'")],
)
def test_groups_that_contradict_are_named_by_their_line(table, patient, message):
    path = table("a,ILD,5,R1,0,0,1,1,7", f"a,ILD,5,R2,0,0,1,1,{patient}", header=f"{HEADER},patient")
    with pytest.raises(TableError, match=f"line 3: {message}"):
        read_table(path, group_column="patient")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,Cardiomegaly,3,R8,691,,1653,1831", "'Cardiomegaly' lacks y_min"),
        ("a,Cardiomegaly,3,R8,,,,", "'Cardiomegaly' lacks x_min, y_min, x_max, y_max"),
        ("a,Cardiomegaly,3,R8,1653,1375,691,1831", "x_max 691 is not beyond x_min 1653"),
        ("a,Cardiomegaly,3,R8,691,1375,691,1831", "x_max 691 is not beyond x_min 691"),
        ("a,Cardiomegaly,3,R8,691,1831,1653,1375", "y_max 1375 is not beyond y_min 1831"),
        ("a,Cardiomegaly,3,R8,691,abc,1653,1831", "y_min is 'abc', expected a number"),
        ("a,Cardiomegaly,3,R8,691,inf,1653,1831", "y_min is inf, expected a finite number"),
        ("a,Cardiomegaly,three,R8,691,1375,1653,1831", "class_id is 'three', expected a number"),
        ("a,Cardiomegaly,3.5,R8,691,1375,1653,1831", "class_id is 3.5, expected a whole number"),
        ("a,Cardiomegaly,,R8,691,1375,1653,1831", "class_id is nan, expected a whole number"),
        ("a,Cardiomegaly,4,R8,691,1375,1653,1831", "class_id 4 contradicts class_name 'Cardiomegaly'; elsewhere 'Car"),
        ("a,Cardiomegali,3,R8,691,1375,1653,1831", "class_id 3 contradicts class_name 'Cardiomegali'; elsewhere 3 is"),
        (",Cardiomegaly,3,R8,691,1375,1653,1831", "image_id is empty"),
        ("a, ,3,R8,691,1375,1653,1831", "class_name is empty"),
        ("a,Cardiomegaly,3,,691,1375,1653,1831", "rad_id is empty"),
        ("../a,Cardiomegaly,3,R8,691,1375,1653,1831", "image_id '../a' cannot name a file"),
        ("..,Cardiomegaly,3,R8,691,1375,1653,1831", "image_id '..' cannot name a file"),
        ("c,No finding,14,R8,691,1375,1653,1831", "'No finding' has the box 691, 1375, 1653, 1831"),
        ("c,No finding,14,R8,691,,,", "'No finding' has the box 691, , , "),
        (GOOD[1], "repeats an earlier row"),
    ],
)
def test_a_bad_row_is_named_by_its_line(table, line, message):
    path = table(*GOOD, "", line)
    with pytest.raises(TableError, match=re.escape(f"{path}, line 7: {message}")):
        read_table(path)


def test_a_reader_who_sees_nothing_and_draws_a_box_is_refused(table):
    path = table("a,Cardiomegaly,3,R8,1,1,2,2", "a,No finding,14,R9,,,,", "a,No finding,14,R8,,,,")
    with pytest.raises(TableError, match="line 4: reader R8 says 'No finding' and draws a box on image a"):
        read_table(path)


def test_the_first_of_several_bad_rows_is_named_and_the_others_counted(table):
    with pytest.raises(TableError, match=r"line 3 \(and 2 more\): x_max"):
        read_table(table(GOOD[0], *(f"{name},ILD,5,R1,9,0,3,4" for name in "xyz")))


def test_a_missing_column_is_named(table):
    with pytest.raises(TableError, match=r"no column x_min, found image_id, class_name"):
        read_table(table("a,Cardiomegaly,1,2,3", header="image_id,class_name,y_min,x_max,y_max"))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_is_recognised(table, separator):
    lines = [line.replace(",", separator) for line in (HEADER, *GOOD)]
    with pytest.raises(TableError, match=re.escape(f"separated by {separator!r}, expected commas")):
        read_table(table(*lines[1:], header=lines[0]))


def test_too_many_fields_are_refused_and_the_line_is_named(table):
    with pytest.raises(TableError, match="line 4"):
        read_table(table(*GOOD[:2], GOOD[2] + ",,extra"))


def test_too_many_fields_in_every_row_are_refused(table):
    with pytest.raises(TableError, match="do not match"):
        read_table(table(*(line + ",1" for line in GOOD)))


def test_too_few_fields_are_missing_coordinates(table):
    with pytest.raises(TableError, match="line 2: 'Cardiomegaly' lacks x_max, y_max"):
        read_table(table("a,Cardiomegaly,3,R8,691,1375"))


def test_files_that_are_no_table(table, tmp_path):
    with pytest.raises(TableError, match="no such file"):
        read_table(tmp_path / "none.csv")
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(TableError, match="is empty"):
        read_table(empty)
    with pytest.raises(TableError, match="cannot be read"):
        read_table(tmp_path)
    torn = tmp_path / "torn.csv.gz"
    torn.write_bytes(gzip.compress(b"x" * 9999)[:20])
    with pytest.raises(TableError, match="cannot be read"):
        read_table(torn)
    with pytest.raises(TableError, match="holds a header but no row"):
        read_table(table())
    with pytest.raises(TableError, match="not UTF-8"):
        read_table(table(*GOOD, encoding="utf-16"))


def test_a_long_table_is_read_with_its_lines(tmp_path):
    n = 150_000
    image = np.arange(n) // 4
    x = np.arange(n) % 1000
    frame = pd.DataFrame({"image_id": image.astype(str), "class_name": "Nodule/Mass", "class_id": 8, "rad_id": "R1"})
    frame = frame.assign(x_min=x, y_min=0, x_max=x + 1, y_max=1)
    frame.loc[n - 1, "x_max"] = -1
    frame.to_csv(tmp_path / "big.csv", index=False)
    with pytest.raises(TableError, match=f"line {n + 1}: x_max -1 is not beyond"):
        read_table(tmp_path / "big.csv")


@pytest.mark.parametrize("name", ["No Finding", "no_finding", "NO FINDINGS", "Normal", "none", "no-finding"])
@pytest.mark.parametrize("box", [",,,", "0,0,1,1"])
def test_no_finding_is_known_in_its_spellings_and_trains_no_class(table, name, box):
    notes: list[str] = []
    rows = read_table(table("a,ILD,5,R1,1,1,9,9", f"b,{name},0,R1,{box}", "c,No finding,14,R1,,,,"), notes=notes)
    assert class_names(rows) == ("ILD",)
    assert rows["class_name"].tolist() == ["ILD", "No finding", "No finding"]
    assert rows["class_id"].tolist() == [5, 14, 14]
    assert rows.loc[1:, XYXY_COLUMNS].isna().all(axis=None)
    assert notes == [f"1 row of class {name!r} is taken as 'No finding'."]


@pytest.mark.parametrize("box", ["0,0,1,1", "0,0,0,0", "-1,-1,-1,-1", ",,,"])
def test_the_boxes_that_tables_write_for_a_normal_study_are_none(table, box):
    rows = read_table(table(f"a,No finding,14,R1,{box}"))
    assert rows[XYXY_COLUMNS].isna().all(axis=None)


def test_a_normal_image_with_a_box_is_refused_under_the_name_it_has(table):
    with pytest.raises(TableError, match="line 2: 'Normal' has the box 1, 2, 3, 4, expected no box"):
        read_table(table("a,Normal,0,R1,1,2,3,4"))


def test_names_that_differ_in_case_or_blanks_alone_are_one_class(table):
    notes: list[str] = []
    lines = [
        f"{name},{label},{number},R1,1,1,9,9"
        for name, label, number in (
            ("a", "Lung Opacity", 7),
            ("b", "Lung Opacity", 7),
            ("c", "lung  opacity", 3),
            ("d", "LungOpacity", 7),
        )
    ]
    rows = read_table(table(*lines), notes=notes)
    assert class_names(rows) == ("Lung Opacity",)
    assert set(rows["class_id"]) == {7}
    assert notes == [
        "1 row of class 'LungOpacity' is taken as 'Lung Opacity'.",
        "1 row of class 'lung  opacity' is taken as 'Lung Opacity'.",
    ]


def test_texts_that_spreadsheets_would_compute_are_read_back(tmp_path):
    names = ["=1+1", "-2+3", "@SUM(A1)", "plain"]
    frame = pd.DataFrame(
        {
            "image_id": names, "class_name": "ILD", "rad_id": "=R1()", "class_id": 1,
            "x_min": 1.0, "y_min": 2.0, "x_max": 3.0, "y_max": 4.0,
        }
    )  # fmt: skip
    path = tmp_path / "readers.csv"
    write_frame(path, frame)
    assert not any(line.startswith(("=", "-", "@")) or ",=" in line for line in path.read_text().splitlines())
    table = read_table(path)
    assert sorted(table["image_id"].unique()) == sorted(names)
    assert set(table["reader"]) == {"=R1()"}
    assert table["x_max"].tolist() == [3.0] * 4


def test_normalised_boxes_are_refused(table):
    """Before, they became boxes below a pixel that training took for findings."""
    with pytest.raises(TableError, match=r"line 2 \(and 1 more\): the box 0.1, 0.2, 0.5, 0.75 looks normalised to 0…1"):
        read_table(table("a,ILD,5,R1,0.1,0.2,0.5,0.75", "b,ILD,5,R1,0,0,1,1", "c,No finding,14,R1,,,,"))
    read_table(table("a,ILD,5,R1,0.1,0.2,0.5,0.75", "b,ILD,5,R1,0,0,9,9"))
    read_table(table("a,ILD,5,R1,0,0,1,1"))
