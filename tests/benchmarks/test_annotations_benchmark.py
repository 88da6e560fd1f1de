"""The benchmark of a readers' table: both sides do the same work, and the figures come out."""

import json
import os
import time
from pathlib import Path

import pytest
from conftest import write_reader_source
from typer.testing import CliRunner

from benchmarks.annotations import _lists_by_image, write_coco_files
from benchmarks.cli import app
from benchmarks.memory import peak_memory_growth
from cxr_mmdet.annotations.consensus import fuse_readers
from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.structures.coco import read_coco


@pytest.fixture
def table(tmp_path):
    return write_reader_source(tmp_path / "src") / "train.csv"


def test_both_sides_fuse_the_same_boxes(table):
    from ensemble_boxes import weighted_boxes_fusion

    rows = read_source(table).rows
    inputs = _lists_by_image(rows)
    assert sum(len(boxes) for lists, _, _ in inputs for boxes in lists) == rows["x_min"].notna().sum()
    theirs = sum(len(weighted_boxes_fusion(*each, iou_thr=0.4, skip_box_thr=0.21)[0]) for each in inputs)
    assert theirs == len(fuse_readers(rows))


def test_the_whole_way_writes_all_images_and_boxes(table, tmp_path):
    write_coco_files(table, tmp_path)
    cocos = [read_coco(tmp_path / f"{split}.json") for split in ("train", "val")]
    assert [len(coco["images"]) for coco in cocos] == [13, 3]
    assert sum(len(coco["annotations"]) for coco in cocos) == len(fuse_readers(read_source(table).rows))


def test_the_command_prints_both_comparisons(table):
    result = CliRunner().invoke(app, ["annotations", str(table.parent), "--rounds", "2", "--json"])
    assert result.exit_code == 0, result.output
    fusion, whole = json.loads(result.stdout)["comparisons"]
    assert fusion["title"] == "Readers fused on 16 images"
    assert [entry["name"] for entry in fusion["alternatives"]] == ["ensemble-boxes", "cxr_mmdet"]
    assert all(len(entry["cpu_s"]) == 2 for entry in fusion["alternatives"])
    assert [entry["name"] for entry in whole["alternatives"]] == ["cxr_mmdet"]
    result = CliRunner().invoke(app, ["annotations", str(table)], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    assert "From table to COCO files, 16 images" in result.stdout


def test_a_bad_table_is_one_sentence(tmp_path):
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    result = CliRunner().invoke(app, ["annotations", str(tmp_path / "bad.csv")])
    assert result.exit_code == 1
    assert "no format reads a CSV with header 'a, b'" in result.stderr


@pytest.mark.vinbigdata
def test_vinbigdata_becomes_coco_files_in_a_minute_and_a_gigabyte(tmp_path):
    path = os.environ.get("CXR_VINBIGDATA_TABLE")
    if not path:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    start = time.process_time()
    growth = peak_memory_growth(lambda: write_coco_files(Path(path), tmp_path))
    assert time.process_time() - start < 60
    assert growth is None or growth < 1e9
    cocos = [read_coco(tmp_path / f"{split}.json") for split in ("train", "val")]
    assert [len(coco["images"]) for coco in cocos] == [12_000, 3000]
    assert sum(len(coco["annotations"]) for coco in cocos) == 22_694
