"""Several sets in one build: names that do not collide, coverage per set, shared images on one side; given splits."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from conftest import write_reader_source

from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.preparation.check import check_folder
from cxr_mmdet.preparation.options import SplitOptions
from cxr_mmdet.preparation.resplit import resplit
from cxr_mmdet.structures.coverage import Coverage, coverage_of
from cxr_mmdet.structures.enums import SplitMethod

if TYPE_CHECKING:
    from pathlib import Path

MAP = """\
Interstitial: [vinbigdata:ILD]
Heart: [vinbigdata:Cardiomegaly, clinic:big heart]
Nodule: [vinbigdata:Nodule/Mass, nodule, mass]
Elsewhere: [nih:Mass]
"""


def clinic(folder: Path, first_seed: int = 0, images: int = 8) -> Path:
    """Write a COCO set of images i00, i01 … of the same noise as ``write_reader_source``'s, boxes on even ones."""
    folder.mkdir()
    for number in range(images):
        pixels = np.random.default_rng(first_seed + number).integers(0, 255, (60, 50), dtype=np.uint8)
        cv2.imwrite(str(folder / f"i{number:02}.png"), pixels)
    coco: dict[str, Any] = {
        "images": [{"id": number, "file_name": f"i{number:02}.png"} for number in range(images)],
        "categories": [{"id": 1, "name": "big heart"}, {"id": 2, "name": "Nodule"}, {"id": 3, "name": "Mass"}],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1 + number % 4 // 2, "bbox": [5, 6, 20, 30]}
            for number in range(0, images, 2)
        ],
    }
    (folder / "boxes.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture
def options(tmp_path: Path) -> BuildOptions:
    (tmp_path / "map.yaml").write_text(MAP)
    return BuildOptions(labels=(str(tmp_path / "map.yaml"),), short_edge=0)


def sides_of(out: Path, labels: str = "map") -> dict[str, str]:
    found = {}
    for split in ("train", "val"):
        coco = json.loads((out / f"annotations/{split}_{labels}.json").read_text())
        found |= {image["image_id"]: split for image in coco["images"]}
    return found


def coverage_by_image(out: Path, labels: str = "map") -> dict[str, list[int]]:
    found = {}
    for split in ("train", "val"):
        coco = json.loads((out / f"annotations/{split}_{labels}.json").read_text())
        rows = coverage_of(coco).tolist()
        found |= {image["image_id"]: row for image, row in zip(coco["images"], rows, strict=True)}
    return found


def test_each_set_answers_for_its_own_classes_and_shared_images_stay_together(
    tmp_path: Path, options: BuildOptions
) -> None:
    places = [("", write_reader_source(tmp_path / "a")), ("clinic", clinic(tmp_path / "b"))]
    out = tmp_path / "out"
    summary = build_dataset(places, out, options)
    coverage = coverage_by_image(out)
    assert set(coverage) == {
        *(f"vinbigdata-i{number:02}" for number in range(8)),
        *(f"i{number:02}" for number in range(8, 16)),
        *(f"clinic-i{number:02}" for number in range(8)),
    }
    no, full = Coverage.UNKNOWN, Coverage.EXHAUSTIVE
    # Interstitial, Heart, Nodule, Elsewhere: the clinic's file lists heart, nodule and mass, also without a box.
    assert all(row == [full, full, full, no] for name, row in coverage.items() if not name.startswith("clinic"))
    assert all(row == [no, full, full, no] for name, row in coverage.items() if name.startswith("clinic"))
    (counts,) = summary.label_sets
    assert counts.label_set.merged["Nodule"] == ("vinbigdata:Nodule/Mass", "clinic:Nodule", "clinic:Mass")
    assert counts.label_set.merged["Elsewhere"] == ()
    # i00 to i07 are the same noise in both sets.
    for split in (None, SplitOptions(split=SplitMethod.STRATIFIED, seed=1)):
        if split:
            resplit(out, split)
        sides = sides_of(out)
        assert all(sides[f"vinbigdata-i{number:02}"] == sides[f"clinic-i{number:02}"] for number in range(8))
        assert set(sides.values()) == {"train", "val"}
        assert coverage_by_image(out) == coverage
        assert check_folder(out) == []
    assert any("of two sets with the same name or near-identical images" in note for note in summary.notes)
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["inputs"]["sets"]) == {"vinbigdata", "clinic"}
    assert "clinic:R1" in manifest["readers"]


def test_equal_images_of_other_names_stay_together(tmp_path: Path, options: BuildOptions) -> None:
    source = clinic(tmp_path / "b")
    for path in source.glob("*.png"):
        path.rename(source / f"x{path.name}")
    (source / "boxes.json").write_text((source / "boxes.json").read_text().replace('"i0', '"xi0'))
    for seed in range(2):
        out = tmp_path / f"out{seed}"
        split = BuildOptions(labels=options.labels, short_edge=0, seed=seed)
        build_dataset([("", write_reader_source(tmp_path / f"a{seed}")), ("clinic", source)], out, split)
        sides = sides_of(out)
        assert all(sides[f"i{number:02}"] == sides[f"xi{number:02}"] for number in range(8))


def test_auto_joins_classes_of_one_name_and_the_map_reads_one_set_too(tmp_path: Path, options: BuildOptions) -> None:
    one, two = clinic(tmp_path / "b"), clinic(tmp_path / "c", first_seed=100)
    auto = BuildOptions(labels=("auto",), short_edge=0, val_ratio=0.5)
    with pytest.raises(UsageError, match="2 sets are named 'coco'; name them apart, as in first=DIR second=DIR"):
        build_dataset([("", one), ("", two)], tmp_path / "out", auto)
    summary = build_dataset([("b", one), ("c", two)], tmp_path / "out", auto)
    assert summary.label_sets[0].label_set.merged == {
        "big heart": ("b:big heart", "c:big heart"),
        "Nodule": ("b:Nodule", "c:Nodule"),
    }
    single = build_dataset([("clinic", two)], tmp_path / "single", replace(options, val_ratio=0.5))
    assert single.label_sets[0].label_set.merged["Heart"] == ("big heart",)
    assert all(row == [0, 2, 2, 0] for row in coverage_by_image(tmp_path / "single").values())


def test_options_of_one_set_are_refused_for_several(tmp_path: Path, options: BuildOptions) -> None:
    places = [("a", clinic(tmp_path / "a")), ("b", clinic(tmp_path / "b"))]
    with pytest.raises(UsageError, match="--format belongs to one set, but 2 are built"):
        build_dataset(places, tmp_path / "out", options, format_name="coco")


def test_the_shipped_map_reads_every_set_that_it_names(tmp_path: Path) -> None:
    summary = build_dataset(
        [("", write_reader_source(tmp_path / "a"))],
        tmp_path / "out",
        BuildOptions(labels=("findings_14",), short_edge=0),
    )
    (counts,) = summary.label_sets
    assert len(counts.label_set.labels) == 14
    assert counts.label_set.name == "findings_14"
    assert counts.train.by_class["ILD"].images + counts.val.by_class["ILD"].images > 0


def yolo(folder: Path, val: range = range(4, 6), test: range = range(6, 8)) -> Path:
    """Write a YOLO tree of eight images, patients by nothing."""
    for number in range(8):
        side = "val" if number in val else "test" if number in test else "train"
        for kind in ("images", "labels"):
            (folder / kind / side).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (60, 50), dtype=np.uint8)
        cv2.imwrite(str(folder / f"images/{side}/i{number:02}.png"), pixels)
        (folder / f"labels/{side}/i{number:02}.txt").write_text("0 0.5 0.5 0.2 0.2\n" if number % 4 != 3 else "")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\ntest: images/test\nnames: [Nodule]\n")
    return folder


def test_a_given_split_is_kept_and_its_test_images_left_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    auto = BuildOptions(labels=("auto",), short_edge=0, split=SplitMethod.AUTO)
    summary = build_dataset(yolo(tmp_path / "src"), out, auto)
    given = {f"i{number:02}": "val" if number > 3 else "train" for number in range(6)}
    assert sides_of(out, "auto") == given
    assert "2 images that data.yaml keeps for testing left out (--split random takes all images)." in summary.notes
    assert check_folder(out) == []
    resplit(out, SplitOptions(seed=4, val_ratio=0.5))
    assert sides_of(out, "auto") != given
    resplit(out, SplitOptions(split=SplitMethod.AUTO))
    assert sides_of(out, "auto") == given
    build_dataset(tmp_path / "src", out, BuildOptions(labels=("auto",), short_edge=0), force=True)
    assert len(sides_of(out, "auto")) == 8


def test_a_given_split_that_leaks_is_refused(tmp_path: Path) -> None:
    src = yolo(tmp_path / "src")
    pixels = cv2.imread(str(src / "images/train/i00.png"))
    cv2.imwrite(str(src / "images/val/i04.png"), pixels)
    auto = BuildOptions(labels=("auto",), short_edge=0, split=SplitMethod.AUTO, join_duplicates=True)
    with pytest.raises(DatasetError, match="the split that the source ships leaks: 1 group stands on both sides"):
        build_dataset(src, tmp_path / "out", auto)
    with pytest.raises(UsageError, match=r"train\.csv ships no split; pass --split random"):
        build_dataset(write_reader_source(tmp_path / "a"), tmp_path / "b", BuildOptions(split=SplitMethod.GIVEN))


def test_what_is_no_normal_chest_is_said_and_a_normal_one_lacks_every_class(tmp_path: Path) -> None:
    """RSNA: 8 images, two with an opacity, three Normal, three Not Normal."""
    src = tmp_path / "rsna"
    (src / "stage_2_train_images").mkdir(parents=True)
    rows, kinds = ["patientId,x,y,width,height,Target"], ["patientId,class"]
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (128, 128), dtype=np.uint8)
        cv2.imwrite(str(src / f"stage_2_train_images/p{number}.png"), pixels)
        kind = (
            "Lung Opacity" if number in (0, 4) else "Normal" if number in (1, 2, 5) else "No Lung Opacity / Not Normal"
        )
        rows.append(f"p{number},100,200,300,400,1" if number in (0, 4) else f"p{number},,,,,0")
        kinds.append(f"p{number},{kind}")
    (src / "stage_2_train_labels.csv").write_text("\n".join(rows))
    (src / "stage_2_detailed_class_info.csv").write_text("\n".join(kinds))
    single = tmp_path / "single"
    (tmp_path / "val.txt").write_text("p4\np5\np6\ni00\ni02\n")
    listed = BuildOptions(labels=("auto",), short_edge=0, split=SplitMethod.LIST, val_list=tmp_path / "val.txt")
    summary = build_dataset(src, single, listed)
    images = [
        image
        for split in ("train", "val")
        for image in json.loads((single / f"annotations/{split}_auto.json").read_text())["images"]
    ]
    assert {image["image_id"] for image in images if image.get("normal") is False} == {"p3", "p6", "p7"}
    (counts,) = summary.label_sets
    assert counts.train.unknown + counts.val.unknown == 3
    assert check_folder(single) == []
    (tmp_path / "other.txt").write_text("p0\np3\n")
    resplit(single, SplitOptions(split=SplitMethod.LIST, val_list=tmp_path / "other.txt"))
    again = json.loads((single / "annotations/train_auto.json").read_text())["images"]
    assert [image.get("normal") for image in again] == [
        None if image["image_id"] in {"p0", "p1", "p2", "p4", "p5"} else False for image in again
    ]
    # Beside another set, the classes that RSNA does not look for are known on its normal chests alone.
    (tmp_path / "two.yaml").write_text("Opacity: [rsna:Lung Opacity]\nHeart: [clinic:big heart]\n")
    places = [("", src), ("clinic", clinic(tmp_path / "b", first_seed=50))]
    build_dataset(places, tmp_path / "out", replace(listed, labels=(str(tmp_path / "two.yaml"),)))
    coverage = coverage_by_image(tmp_path / "out", "two")
    assert coverage["p1"] == [Coverage.EXHAUSTIVE, Coverage.EXHAUSTIVE]
    assert coverage["p3"] == coverage["p0"] == [Coverage.EXHAUSTIVE, Coverage.UNKNOWN]


def test_a_patient_of_two_sets_stands_on_one_side(tmp_path: Path) -> None:
    """NIH names the patient in its file names, RSNA by the mapping that it published; the images differ."""
    nih, rsna = tmp_path / "nih", tmp_path / "rsna"
    rows, labels, mapping = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"], ["patientId,x,y,width,height,Target"], []
    for number in range(6):
        for folder, name in ((nih, f"{number:08}_000"), (rsna, f"p{number}")):
            folder.mkdir(exist_ok=True)
            pixels = np.random.default_rng((number, folder == nih)).integers(0, 255, (128, 128), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{name}.png"), pixels)
        rows.append(f"{number:08}_000.png,Mass,100,200,300,400,,,")
        labels.append(f"p{number},100,200,300,400,1")
        mapping.append({"subset_img_id": f"p{number}", "img_id": f"{number:08}_007.png"})
    (nih / "BBox_List_2017.csv").write_text("\n".join(rows))
    (rsna / "stage_2_train_labels.csv").write_text("\n".join(labels))
    (rsna / "mapping.json").write_text(json.dumps(mapping))
    options = BuildOptions(labels=("auto",), short_edge=0, val_ratio=0.5)
    build_dataset([("", nih), ("", rsna)], tmp_path / "out", options)
    sides = sides_of(tmp_path / "out", "auto")
    assert all(sides[f"p{number}"] == sides[f"{number:08}_000"] for number in range(6))
    assert set(sides.values()) == {"train", "val"}
