"""Images without a table: what is written, that a build goes on from there, and what is refused."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import cv2
import pytest
from conftest import write_radiograph

from cxr_mmdet.errors import UsageError
from cxr_mmdet.files import sole_use
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.preparation.folder import prepare_folder, write_failures
from cxr_mmdet.preparation.images import image_notes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def src(tmp_path: Path) -> Path:
    for number in range(4):
        write_radiograph(tmp_path / "src" / "train" / f"i{number}.dicom", PatientID=f"P{number}")
    return tmp_path / "src"


def test_images_index_and_failures_are_written(src: Path, tmp_path: Path) -> None:
    (src / "train" / "i2.dicom").write_bytes(b"nonsense, with a comma")
    counts: list[tuple[int, int]] = []
    prepared = prepare_folder(src, tmp_path / "out", short_edge=20, progress=lambda *count: counts.append(count))
    assert [image.image_id for image in prepared.images] == ["i0", "i1", "i3"]
    assert counts == [(0, 4), (1, 4), (1, 4), (1, 4), (1, 4)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["failures.csv", "images", "images.json"]
    assert cv2.imread(str(tmp_path / "out/images/i0.png"), cv2.IMREAD_UNCHANGED).shape == (30, 20)
    (row,) = csv.DictReader((tmp_path / "out/failures.csv").read_text().splitlines())
    path = src / "train" / "i2.dicom"
    assert row == {"image_id": "i2", "reason": f"{path}: not a DICOM file nor a PNG, JPEG or TIFF image"}

    write_radiograph(path)
    assert prepare_folder(src, tmp_path / "out", short_edge=20).reused == 3
    assert not (tmp_path / "out/failures.csv").exists()


def test_a_folder_in_use_is_refused(src: Path, tmp_path: Path) -> None:
    with sole_use(tmp_path / "out", "go elsewhere"), pytest.raises(UsageError, match="in use by another process"):
        prepare_folder(src, tmp_path / "out")


def test_a_build_goes_on_from_there(src: Path, tmp_path: Path) -> None:
    prepare_folder(src, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()}
    rows = [f"i{number},ILD,5,R1,1,2,30,40" for number in range(4)]
    (src / "train.csv").write_text("\n".join(["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", *rows]))
    summary = build_dataset(src, tmp_path / "out", BuildOptions(labels=("auto",), val_ratio=0.5, allow_duplicates=True))
    assert summary.images == 4
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()} == before
    with pytest.raises(UsageError, match="holds a finished build"):
        prepare_folder(src, tmp_path / "out")


def test_sources_are_never_replaced(src: Path, tmp_path: Path) -> None:
    prepare_folder(src, tmp_path / "out")
    with pytest.raises(UsageError, match="would replace the radiographs"):
        prepare_folder(tmp_path / "out" / "images", tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        prepare_folder(src, tmp_path / "file")


def test_burnt_in_text_is_reported_and_stands_in_the_index(src: Path, tmp_path: Path) -> None:
    write_radiograph(src / "train" / "i1.dicom", BurnedInAnnotation="YES")
    prepared = prepare_folder(src, tmp_path / "out")
    (note,) = image_notes(prepared.images)
    assert note.startswith("1 radiograph with text burnt into the pixels (BurnedInAnnotation YES)")
    index = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert [name for name, entry in index.items() if entry["burned_in_annotation"]] == ["i1"]


def test_without_failures_there_is_no_file(tmp_path: Path) -> None:
    write_failures(tmp_path / "failures.csv", [])
    assert list(tmp_path.iterdir()) == []
