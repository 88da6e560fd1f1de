"""What a user points at: files, folders, patterns, archives."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from detectors import write_image
from pydicom.data import get_testdata_file

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import DatasetError, DicomError
from cxr_mmdet.structures.radiograph_files import find_originals, find_radiographs


def names(items):
    return [item.image_id for item in items]


def test_folders_with_all_below_and_nothing_hidden(tmp_path):
    for name in ("b.png", "sub/a.jpg", ".hidden/c.png", ".d.png", "sub/deeper/e.tif"):
        write_image(tmp_path / name, 20, 20)
    (tmp_path / "notes.txt").write_text("no radiograph")
    assert names(find_radiographs([str(tmp_path)])) == ["b", "a", "e"]


def test_one_path_need_not_be_in_a_list(tmp_path):
    """The letters of a path were taken for inputs, "/" among them: the whole disk was searched."""
    write_image(tmp_path / "a.png", 20, 20)
    for inputs in (str(tmp_path), tmp_path, [tmp_path], str(tmp_path / "*.png"), tmp_path / "*.png"):
        assert names(find_radiographs(inputs)) == ["a"]


def test_dicom_without_a_suffix(tmp_path):
    data = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    (tmp_path / "IM000001").write_bytes(data)
    (tmp_path / "README").write_text("text")
    assert names(find_radiographs([str(tmp_path)])) == ["IM000001"]


def test_patterns_that_the_shell_left_alone(tmp_path):
    for name in ("a1.png", "a2.png", "b1.png", "sub/a3.png"):
        write_image(tmp_path / name, 20, 20)
    assert names(find_radiographs([str(tmp_path / "a*.png")])) == ["a1", "a2"]
    assert names(find_radiographs([str(tmp_path / "**" / "a*.png")])) == ["a1", "a2", "a3"]


def test_overlays_of_a_prediction_are_no_radiographs(tmp_path):
    """They took the ids of the radiographs when a prediction into a folder below these was run again."""
    for path in ("a.png", "findings/overlays/a.png", "overlays/b.png"):
        write_image(tmp_path / path, 20, 20)
    (tmp_path / "findings/.progress").mkdir()
    for inputs in (str(tmp_path), str(tmp_path / "**" / "*.png")):
        assert [item.source for item in find_radiographs(inputs)] == [
            str(tmp_path / path) for path in ("a.png", "overlays/b.png")
        ]
    assert names(find_radiographs(str(tmp_path / "findings/overlays/a.png"))) == ["a"]


def test_archives(tmp_path):
    image = write_image(tmp_path / "x.png", 20, 30)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(image, "one/x.png")
        archive.writestr("one/report.txt", "text")
        archive.writestr("__MACOSX/one/._x.png", "no image")
        archive.writestr("IM1", Path(get_testdata_file("CT_small.dcm")).read_bytes())
    items = find_radiographs([str(tmp_path / "study.zip")])
    assert names(items) == ["IM1", "x"]
    assert items[1].source == f"{tmp_path / 'study.zip'}!one/x.png"
    assert read_radiograph(items[1].read()).size_hw == (20, 30)


def test_files_of_one_name_get_numbers(tmp_path):
    for name in ("a/1.png", "b/1.png", "c/1-2.png", "d/1.png"):
        write_image(tmp_path / name, 20, 20)
    found = names(find_radiographs([str(tmp_path)]))
    assert found == ["1", "1-2", "1-2-2", "1-3"]
    assert len(set(found)) == 4


def test_named_twice_is_taken_once(tmp_path):
    path = write_image(tmp_path / "a.png", 20, 20)
    assert names(find_radiographs([str(path), str(tmp_path), str(path)])) == ["a"]


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path):
    (tmp_path / "what.xyz").write_text("hm")
    assert names(find_radiographs([str(tmp_path / "what.xyz")])) == ["what.xyz"]


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (lambda folder: None, "nothing", "no such file or folder"),
        (lambda folder: None, "*.png", "nothing matches"),
        (lambda folder: (folder / "empty").mkdir(), "empty", "holds no radiograph"),
        (lambda folder: (folder / "bad.zip").write_bytes(b"PK"), "bad.zip", "not a readable zip"),
    ],
)
def test_nothing_there(tmp_path, make, name, message):
    make(tmp_path)
    with pytest.raises(DatasetError, match=message):
        find_radiographs([str(tmp_path / name)])


def test_a_damaged_member_is_an_error_of_that_member(tmp_path):
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.png", b"A" * 1000)
    path.write_bytes(path.read_bytes().replace(b"A" * 1000, b"A" * 999 + b"B"))
    (item,) = find_radiographs([str(path)])
    with pytest.raises(DicomError, match=r"study\.zip!x\.png: cannot be unpacked"):
        item.read()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
@pytest.mark.parametrize("place", ["bad\udcff.png", "bad\udcff/good.png"])
def test_a_path_that_is_not_utf8_is_refused_before_work_that_could_not_be_written(tmp_path, place):
    """``predict`` ended in a traceback when it wrote findings.json, and the other files' findings were not written."""
    write_image(tmp_path / "a.png", 20, 20)
    odd = tmp_path / place
    odd.parent.mkdir(exist_ok=True)
    odd.write_bytes((tmp_path / "a.png").read_bytes())
    message = r"bad\\xff.*: this path is not UTF-8, so results cannot name the file; rename it\.$"
    for listed in (tmp_path, odd, odd.parent / "*.png"):
        with pytest.raises(DatasetError, match=message):
            find_radiographs([str(listed)])
    with pytest.raises(DatasetError, match=message):
        find_originals(odd.parent)
    (tmp_path / "README\udcff").write_text("nobody's radiograph")
    odd.unlink()
    assert names(find_radiographs([str(tmp_path)])) == ["a"]
