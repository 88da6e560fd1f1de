"""Whether table and files belong together, each way in which they may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import write_radiograph

from cxr_mmdet.preparation.inputs import match_ids
from cxr_mmdet.preparation.survey import TableMatch, match_table, survey_folder, survey_lines

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
SIZES = {"train/a.dicom": (60, 40), "train/b.dicom": (60, 40)}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    for name in "ab":
        write_radiograph(tmp_path / "train" / f"{name}.dicom")
    return tmp_path


def match(src: Path, *rows: str) -> TableMatch | None:
    (src / "train.csv").write_text("\n".join([HEADER, *rows]))
    return match_table(src, SIZES)


def test_a_complete_table_up_to_the_very_border(src: Path) -> None:
    found = match(src, "a,ILD,5,R1,0,0,40,60", "b,No finding,14,R1,,,,")
    assert found == TableMatch(images=2, boxes_outside={})
    assert found.is_complete
    assert survey_folder(src).is_ready


def test_what_is_missing_on_either_side(src: Path) -> None:
    found = match(src, "a,ILD,5,R1,0,0,40,60", "z,ILD,5,R1,0,0,40,60")
    assert found == TableMatch(images=2, without_file=("z",), without_row=("b",), boxes_outside={})
    assert not found.is_complete
    lines = list(survey_lines(survey_folder(src)))
    assert lines[-2:] == ["table: 1 image without a file: z", "table: 1 file without a row: b"]


def test_boxes_beyond_their_image(src: Path) -> None:
    found = match(src, "a,ILD,5,R1,0,0,41,60", "a,ILD,5,R2,1,1,9,9", "b,ILD,5,R1,-1,0,9,9", "b,ILD,5,R2,0,0,9,61")
    assert found is not None
    assert found.boxes_outside == {"a": 1, "b": 2}
    assert list(survey_lines(survey_folder(src)))[-1] == "table: 3 boxes beyond the image: a, b"


def test_a_table_that_cannot_be_read_is_a_problem_not_the_end(src: Path) -> None:
    found = match(src, "a,ILD,5,R1,0,0,,60")
    assert found is not None
    assert "line 2: 'ILD' lacks x_max" in str(found.problem)
    assert not found.is_complete
    assert not survey_folder(src).is_ready


def test_no_table(src: Path) -> None:
    assert match_table(src, SIZES) is None
    assert survey_folder(src).is_ready


def test_an_id_that_could_mean_two_files_or_another_ids_file_has_none(tmp_path: Path) -> None:
    sources = dict.fromkeys(["a", "b", "M\u00fc", "Mu\u0308"], tmp_path)
    assert match_ids(["a", "a.png", "b.dcm", "c", "M\u00fc"], sources) == (
        {"a": "a", "b.dcm": "b", "M\u00fc": "M\u00fc"},
        ["a.png", "c"],
    )
    assert match_ids(["b.dcm", "b.png"], sources) == ({}, ["b.dcm", "b.png"])
