"""Builds of sources that did not look for every class on every image: nothing unknown is taken for absent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from conftest import write_reader_source

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.preparation.check import check_folder
from cxr_mmdet.preparation.options import SplitOptions
from cxr_mmdet.preparation.report import write_report
from cxr_mmdet.preparation.resplit import resplit
from cxr_mmdet.preparation.survey import survey_folder, survey_lines
from cxr_mmdet.structures.coverage import coverage_of

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = BuildOptions(labels=("auto",), short_edge=0)
LABELS = ["ILD", "Cardiomegaly", "Nodule/Mass"]
SIZE = {"width": 50, "height": 60}


def coco_source(folder: Path) -> Path:
    """Write 16 images with one box each, every fourth without; images i00 to i07 were read for ILD alone."""
    write_reader_source(folder)
    (folder / "train.csv").unlink()
    names = [f"i{number:02}" for number in range(16)]
    coco: dict[str, Any] = {
        "images": [{"id": number, "file_name": f"{name}.png", **SIZE} for number, name in enumerate(names)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(LABELS)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": number % 3, "bbox": [5, 6, 20 + number, 30]}
            for number in range(16)
            if number % 4 != 3
        ],
    }
    for number in range(8):
        has_ild = number % 3 == 0 and number % 4 != 3
        coco["images"][number] |= {"neg_category_ids": [] if has_ild else [0]}
    coco["images"][1]["not_exhaustive_category_ids"] = [1]
    (folder / "all.json").write_text(json.dumps(coco))
    return folder


def images_of(out: Path) -> dict[str, dict[str, Any]]:
    parts = [json.loads((out / f"annotations/{split}_auto.json").read_text()) for split in ("train", "val")]
    return {image["image_id"]: image for part in parts for image in part["images"]}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return coco_source(tmp_path / "src")


def test_what_nobody_looked_for_is_unknown_in_every_output(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = build_dataset(src, out, OPTIONS)
    images = images_of(out)
    # Category ids count from 1 now: image i00 has an ILD and i01 a Cardiomegaly; of i03 only ILD is known.
    assert images["i00"]["neg_category_ids"] == []
    assert (images["i01"]["neg_category_ids"], images["i01"]["not_exhaustive_category_ids"]) == ([1], [2])
    assert images["i03"]["neg_category_ids"] == [1]
    assert all("neg_category_ids" not in images[f"i{number:02}"] for number in range(8, 16))
    (counts,) = summary.label_sets
    both = [counts.train, counts.val]
    # ILD was looked for everywhere; i00, i06, i09, i12 have one, i15 would be but is normal.
    assert sum(each.by_class["ILD"].unknown for each in both) == 0
    assert sum(each.absent("ILD") for each in both) == 16 - 4
    # Nodule/Mass: present on 2, 5, 8, 14 (11 is normal), absent on the other six of i08 to i15.
    assert sum(each.by_class["Nodule/Mass"].images for each in both) == 4
    assert sum(each.absent("Nodule/Mass") for each in both) == 8 - 2
    assert sum(each.by_class["Nodule/Mass"].unknown for each in both) == 8 - 2
    # i03 and i07 hold no box, but are not known to be normal; i11 and i15 are.
    assert (sum(each.images_without_boxes for each in both), sum(each.unknown for each in both)) == (4, 2)
    manifest = json.loads((out / "manifest.json").read_text())
    assert "unknown" in manifest["label_sets"]["auto"]["val"]["by_class"]["Nodule/Mass"]
    assert "images<br>unknown" in (out / "report.html").read_text()
    assert check_folder(out) == []


def test_it_is_read_back_and_kept_by_another_split(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_dataset(src, out, OPTIONS)
    before = images_of(out)
    resplit(out, SplitOptions(seed=7))
    after = images_of(out)
    assert {name: image.get("neg_category_ids") for name, image in before.items()} == {
        name: image.get("neg_category_ids") for name, image in after.items()
    }
    assert check_folder(out) == []
    write_report(out)
    # The prepared folder's COCO file as the source of another build.
    path = out / "annotations/train_auto.json"
    coverage = read_source(path).coverage
    coco = json.loads(path.read_text())
    assert coverage is not None
    expected = pd.DataFrame(coverage_of(coco), [image["image_id"] for image in coco["images"]], LABELS)
    pd.testing.assert_frame_equal(coverage.sort_index(axis=1), expected.sort_index(axis=1), check_names=False)


def test_a_changed_list_is_found_by_check(src: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_dataset(src, out, OPTIONS)
    path = out / "annotations/train_auto.json"
    coco = json.loads(path.read_text())
    next(image for image in coco["images"] if "neg_category_ids" in image)["neg_category_ids"] = [1, 2, 3, 4]
    path.write_text(json.dumps(coco))
    assert any("names category 4 in neg_category_ids" in problem for problem in check_folder(out))
    for image in coco["images"]:
        image.pop("neg_category_ids", None)
    path.write_text(json.dumps(coco))
    assert any(
        "Nodule/Mass is unknown on 0 images, but the manifest counts" in problem for problem in check_folder(out)
    )


def test_an_image_of_which_nothing_is_known_is_left_out(src: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("Cardiomegaly\nNodule/Mass\n")
    options = BuildOptions(labels=(str(tmp_path / "two.txt"),), short_edge=0)
    summary = build_dataset(src, tmp_path / "out", options)
    (counts,) = summary.label_sets
    # i00, i03, i06 and i07 were read for ILD alone.
    assert counts.train.images + counts.val.images == 16 - 4
    assert any("or on which none of them is known" in note for note in summary.notes)
    assert check_folder(tmp_path / "out") == []


def test_doctor_counts_present_absent_and_unknown(src: Path) -> None:
    lines = list(survey_lines(survey_folder(src)))
    assert "COCO file: 16 images, each with its file; every box lies in its image" in lines
    assert lines[-1] == "table: Nodule/Mass: on 4 images, absent on 6, unknown on 6"


@pytest.mark.parametrize(
    "label_file",
    ["ILD\nEdema\nFracture\n", "ILD\nEdema: [coco:edema]\nFracture: [coco:Fracture]\n"],
    ids=["by name", "by set and name"],
)
def test_a_label_that_the_only_source_did_not_look_for_is_unknown(src: Path, tmp_path: Path, label_file: str) -> None:
    coco = json.loads((src / "all.json").read_text())
    for image in coco["images"]:
        image.pop("neg_category_ids", None), image.pop("not_exhaustive_category_ids", None)
    coco["categories"].append({"id": 3, "name": "Edema"})
    (src / "all.json").write_text(json.dumps(coco))
    (tmp_path / "auto.txt").write_text(label_file)
    summary = build_dataset(src, tmp_path / "out", BuildOptions(labels=(str(tmp_path / "auto.txt"),), short_edge=0))
    # Without a box, but looked for: Edema. Not among the file's categories: Fracture.
    without_ild = [image for image in images_of(tmp_path / "out").values() if 1 in image["neg_category_ids"]]
    assert len(images_of(tmp_path / "out")) == 16
    assert all(3 not in image["neg_category_ids"] for image in images_of(tmp_path / "out").values())
    assert all(2 in image["neg_category_ids"] for image in images_of(tmp_path / "out").values())
    assert without_ild
    assert "Fracture was not looked for" in (tmp_path / "out/report.html").read_text()
    assert any("nobody looked here for 1 class that it names, such as" in note for note in summary.notes)


def test_doctor_says_what_the_source_notes(src: Path) -> None:
    lines = list(survey_lines(survey_folder(src)))
    assert any(line.startswith("note: all boxes of all.json are of one reader") for line in lines)
