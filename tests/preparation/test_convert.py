"""Conversion between annotation tools: equal rows, images that tools can show, and what is lost by name."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from conftest import write_radiograph, write_reader_source
from PIL import Image
from typer.testing import CliRunner

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.cli.prepare_data import app
from cxr_mmdet.errors import TableError, UsageError
from cxr_mmdet.preparation.convert import convert
from cxr_mmdet.structures.boxes import XYXY_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ["image_id", "class_name", "reader", *XYXY_COLUMNS]


@pytest.fixture(scope="module")
def three_readers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a source of 16 images and three readers, and one image that nobody read."""
    folder = write_reader_source(tmp_path_factory.mktemp("readers"))
    shutil.copyfile(folder / "train/i00.png", folder / "train/unread.png")
    return folder


def rows_of(folder: Path, reader: str | None = None) -> list:
    rows = read_source(folder).rows
    rows = rows if reader is None else rows[rows["reader"] == reader]
    return rows[COLUMNS].fillna(-1).round(4).sort_values(COLUMNS).to_numpy().tolist()


@pytest.mark.parametrize("to", ["labelstudio", "cvat", "coco", "vinbigdata"])
def test_several_readers_read_back_equal(three_readers: Path, tmp_path: Path, to: str) -> None:
    done = convert(three_readers, tmp_path / "out", to)
    found = read_source(tmp_path / "out")
    assert found.format == to
    assert rows_of(tmp_path / "out") == rows_of(three_readers)
    assert done.images == 17
    assert not done.failures
    assert done.notes[-1] == "1 image that nobody read, not converted into normal ones."
    assert not [note for note in done.notes if "cannot hold" in note]
    assert "unread" not in set(found.rows["image_id"])
    (image,) = (tmp_path / "out").rglob("unread.png")
    assert Image.open(image).size == (50, 60)
    assert not list((tmp_path).glob(".*"))


def with_patients(folder: Path) -> Path:
    """Return a source whose table names patients of two images each, the last one's unknown."""
    write_reader_source(folder, images=6)
    table = pd.read_csv(folder / "train.csv").rename(columns={"study": "patient"})
    table.loc[table["image_id"] == "i05", "patient"] = None
    table.to_csv(folder / "train.csv", index=False)
    return folder


@pytest.mark.parametrize("to", ["coco", "vinbigdata"])
def test_images_of_one_patient_stay_so(tmp_path: Path, to: str) -> None:
    convert(with_patients(tmp_path / "source"), tmp_path / "out", to)
    groups = read_source(tmp_path / "out").rows.groupby("image_id")["group"].first()
    assert [groups[f"i{number:02}"] == groups[f"i{number + 1:02}"] for number in range(4)] == [True, False, True, False]
    assert pd.isna(groups["i05"])


def test_patients_that_a_format_cannot_hold_are_named(tmp_path: Path) -> None:
    done = convert(with_patients(tmp_path / "source"), tmp_path / "out", "cvat")
    assert done.notes[-1].endswith("cannot hold which images are of one patient.")


def test_yolo_holds_one_reader(three_readers: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"YOLO tree: holds one reading of an image, but .*train.csv has 3 readers"):
        convert(three_readers, tmp_path / "out", "yolo")
    assert not list(tmp_path.iterdir())
    done = convert(three_readers, tmp_path / "out", "yolo", reader="R2")
    assert [row[:2] + row[3:] for row in rows_of(tmp_path / "out")] == [
        row[:2] + row[3:] for row in rows_of(three_readers, "R2")
    ]
    assert "YOLO tree cannot hold the reader's name R2." in done.notes
    assert read_source(tmp_path / "out").unread == ("unread",)
    assert not (tmp_path / "out/labels/train/unread.txt").exists()
    with pytest.raises(UsageError, match=r"--reader R9: read nothing in .*; expected one of R1, R2, R3"):
        convert(three_readers, tmp_path / "other", "yolo", reader="R9")


def partly_labelled(root: Path) -> Path:
    """Write a COCO file of two images, the second of which was read for one class alone, with a region to ignore."""
    coco = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 50, "height": 60},
            {"id": 2, "file_name": "b.png", "width": 50, "height": 60, "neg_category_ids": [2]},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 30]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [1, 1, 9, 9], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "Mass"}, {"id": 2, "name": "ILD"}],
    }
    root.mkdir()
    (root / "set.json").write_text(json.dumps(coco))
    for name in "ab":
        Image.fromarray(np.full((60, 50), 90, np.uint8)).save(root / f"{name}.png")
    return root


def test_what_a_format_cannot_hold_is_noted(tmp_path: Path) -> None:
    source = partly_labelled(tmp_path / "set")
    notes = convert(source, tmp_path / "yolo", "yolo").notes
    assert (
        "YOLO tree cannot hold 1 region to ignore; what was not looked for on 1 image: it counts as absent there."
        in notes
    )
    for to in ("labelstudio", "coco"):
        assert not [note for note in convert(source, tmp_path / to, to).notes if "cannot hold" in note]
        coverage = read_source(tmp_path / to).coverage
        assert coverage is not None
        pd.testing.assert_frame_equal(coverage, read_source(source).coverage, check_like=True, check_names=False)


def test_an_image_that_need_not_be_normal_is_noted(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    (source / "labels.csv").write_text("patientId,x,y,width,height,Target\na,80,96,320,480,1\nb,,,,,0\n")
    for name in "ab":
        Image.new("L", (64, 64), 90).save(source / f"{name}.png")
    note = convert(source, tmp_path / "yolo", "yolo").notes[-1]
    assert "that 1 image without a box need not be normal: they count as such there." in note
    assert not any("need not be normal" in note for note in convert(source, tmp_path / "coco", "coco").notes)
    assert read_source(tmp_path / "coco").normal == frozenset()


def test_boxes_follow_images_whose_pixels_are_not_square(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (60, 50), dtype=np.uint16)
    write_radiograph(tmp_path / "set/train/a.dicom", pixels, PixelAspectRatio=[2, 1])
    (tmp_path / "set/train.csv").write_text("image_id,class_name,x_min,y_min,x_max,y_max\na,Mass,5,6,25,36\n")
    convert(tmp_path / "set", tmp_path / "out", "cvat")
    (image,) = (tmp_path / "out").rglob("*.png")
    width, height = Image.open(image).size
    assert (width, height) != (50, 60)
    (row,) = rows_of(tmp_path / "out")
    assert row[3:] == pytest.approx([5 * width / 50, 6 * height / 60, 25 * width / 50, 36 * height / 60], abs=1e-4)


def test_annotations_without_images(three_readers: Path, tmp_path: Path) -> None:
    convert(three_readers, tmp_path / "out", "cvat", with_images=False)
    assert not list((tmp_path / "out").rglob("*.png"))
    assert rows_of(tmp_path / "out") == rows_of(three_readers)


def test_refusals_leave_nothing_behind(three_readers: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="used: exists already; name a new folder"):
        convert(three_readers, tmp_path / "used", "cvat")
    with pytest.raises(
        UsageError, match="--to voc: cannot be written; expected one of vinbigdata, labelstudio, cvat, "
    ):
        convert(three_readers, tmp_path / "out", "voc")
    source = partly_labelled(tmp_path / "set")
    (source / "set.json").write_text((source / "set.json").read_text().replace("[5, 6, 20, 30]", "[5, 6, 99, 30]"))
    with pytest.raises(TableError, match="x_max 104 is beyond the image width 50; fix the row, or pass --clip-boxes"):
        convert(source, tmp_path / "out", "cvat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "used"]
    assert (
        "clipped: 1 box of a reader beyond the image."
        in convert(source, tmp_path / "out", "cvat", clip_boxes=True).notes
    )


def test_the_command(tmp_path: Path) -> None:
    source = partly_labelled(tmp_path / "set")
    (source / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    arguments = ["convert", str(source), str(tmp_path / "out"), "--to", "yolo"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "1 failed" in result.output
    assert f"wrote 1 image to {tmp_path}/out as yolo" in result.output.replace("\n", "")
    assert (tmp_path / "out/labels/train/a.txt").read_text() == "0 0.3 0.35 0.4 0.5\n"
    shutil.rmtree(tmp_path / "out")
    assert CliRunner().invoke(app, [*arguments, "--max-failures", "1"]).exit_code == 0


def test_two_images_of_one_name_are_told_from_none(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("patientId,x,y,width,height,Target\na,,,,,0\nb,,,,,0\n")
    for name in ("one/a", "two/a", "one/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (64, 64), 90).save(tmp_path / f"{name}.png")
    (failure,) = convert(tmp_path, tmp_path / "out", "coco", with_images=False).failures
    one, two = (tmp_path / f"{folder}/a.png" for folder in ("one", "two"))
    assert f"holds 2 radiographs of this name, such as {one} and {two}; leave one" in failure.reason
