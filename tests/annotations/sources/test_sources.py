"""Which format a folder or file is of, and what is said where none is."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pydicom
import pytest
from conftest import write_radiograph

from cxr_mmdet.annotations.sources import (
    base,
    chestx_det,
    chexlocalize,
    find_source,
    formats,
    read_source,
    siim,
    xywh_tables,
)
from cxr_mmdet.annotations.sources.base import ImageFinder, annotation_files, csv_header
from cxr_mmdet.errors import TableError, UsageError
from cxr_mmdet.structures.labels import LABELS_14, LABELS_22, resolve_label_map

if TYPE_CHECKING:
    from pathlib import Path

VINBIGDATA = "image_id,class_name,x_min,y_min,x_max,y_max\na,ILD,1,2,3,4\n"
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 2, 2]}],
    "categories": [{"id": 1, "name": "Nodule"}],
}


def test_every_format_says_what_it_is() -> None:
    for name, each in formats().items():
        assert each.name == name
        assert each.title
        assert each.coverage_rule.endswith(".")


def test_the_shipped_map_names_classes_that_the_sets_have() -> None:
    has = {
        "nih": xywh_tables.NIH_LAYOUT.classes,
        "rsna": xywh_tables.RSNA_LAYOUT.classes,
        "node21": xywh_tables.NODE21_LAYOUT.classes,
        "ms-cxr": xywh_tables.MS_CXR_LAYOUT.classes,
        "chestx-det": chestx_det.CLASSES,
        "chexlocalize": chexlocalize.CLASSES,
        "siim-covid": (siim.OPACITY,),
        "siim-acr": (siim.PNEUMOTHORAX,),
        "vinbigdata": (*LABELS_14, *LABELS_22),
    }
    label_map = resolve_label_map("findings_14", ())
    assert tuple(label_map) == LABELS_14
    for name in (name for classes in label_map.values() for name in classes):
        own, _, plain = name.partition(":")
        assert own in formats()
        assert own == "padchest-gr" or plain in has[own], name


def test_content_decides_and_a_name_overrides(tmp_path: Path) -> None:
    (tmp_path / "boxes.txt.json").write_text(json.dumps(COCO))
    assert find_source(tmp_path)[0].name == "coco"
    (tmp_path / "train.csv").write_text(VINBIGDATA)
    chosen, path, notes = find_source(tmp_path)
    assert (chosen.name, path) == ("vinbigdata", tmp_path / "train.csv")
    assert notes == (
        f"{tmp_path.name} is read as VinBigData or VinDr-CXR table (train.csv); --format would choose coco "
        "(boxes.txt.json) instead.",
    )
    assert read_source(tmp_path, format_name="coco").rows["class_name"].tolist() == ["Nodule"]
    with pytest.raises(UsageError, match="--format bmp: no such format; expected one of vinbigdata, "):
        find_source(tmp_path, "bmp")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.csv", "id,boxes\n", "nearest is b.csv: no format reads a CSV with header 'id, boxes'"),
        ("b.csv", "id;boxes\n", "b.csv: columns are separated by ';'; save the table with commas."),
        ("b.csv", "Image Index;Label;Bbox [x,y,w,h];;;\n", "b.csv: columns are separated by ';'; save the table with"),
        ("b.json", '[{"x": 1}]', "b.json: no format reads a file that begins with '[{\"x\": 1}]'"),
        ("b.csv", "\0\1", "b.csv: is no text"),
        ("b.csv", "", "b.csv: is empty"),
        ("b.zip", "", "b.zip: is an archive; unpack it and name the folder that it gives"),
        ("notes.md", "", "holds no annotations of a known format. Looked for: vinbigdata: train.csv or"),
    ],
)
def test_a_folder_of_no_format_names_what_is_nearest(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TableError, match=re.escape(message)):
        read_source(tmp_path)
    with pytest.raises(TableError, match="holds nothing that --format coco reads"):
        find_source(tmp_path, "coco")


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.csv: no such file or folder"):
        find_source(tmp_path / "none.csv")


def test_packed_headers_and_depth(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    (folder / "c").mkdir(parents=True)
    (folder / "x.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfid, boxes \n1,2"))
    with zipfile.ZipFile(tmp_path / "y.csv.zip", "w") as archive:
        archive.writestr("y.csv", "p,q")
    (folder / "c" / "deep.csv").touch()
    (folder / "broken.csv.zip").write_bytes(b"PK")
    found = annotation_files(tmp_path, [".csv", ".csv.gz", ".csv.zip"])
    assert found == [tmp_path / "y.csv.zip", folder / "broken.csv.zip", folder / "x.csv.gz"]
    assert [csv_header(path) for path in found] == [("p", "q"), (), ("id", "boxes")]


def test_images_are_found_by_path_name_and_uid(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((3, 5), np.uint8))
    header = pydicom.dcmread(write_radiograph(tmp_path / "s" / "1.dcm", StudyInstanceUID="1.2.3"))
    index = ImageFinder(tmp_path)
    assert index.find("y\\a.png") == tmp_path / "y/a.png"
    assert index.find("./b.jpg") == index.find("other/b") == tmp_path / "b.png"
    assert index.find("a") is index.find("z") is None
    assert index.size_hw(tmp_path / "b.png") == (3, 5)
    assert index.by_sop_uid == {str(header.SOPInstanceUID): tmp_path / "s/1.dcm"}
    assert index.by_study_uid == {"1.2.3": (tmp_path / "s/1.dcm",)}
    assert index.size_hw(tmp_path / "s/1.dcm") == (header.Rows, header.Columns)


def test_a_folder_is_listed_once_for_all_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "images/train/notes.md").write_text("")
    (tmp_path / "set.json").write_text(json.dumps(COCO))
    listed = []
    entries = base._entries
    monkeypatch.setattr(base, "_entries", lambda folder: listed.append(folder) or entries(folder))
    assert find_source(tmp_path)[0].name == "coco"
    assert listed == [tmp_path, tmp_path / "images", tmp_path / "images/train"]
    (tmp_path / "set.json").unlink()
    with pytest.raises(TableError, match="holds no annotations"):
        find_source(tmp_path)
