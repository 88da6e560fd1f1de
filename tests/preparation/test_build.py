"""From radiographs and the readers' table to a prepared folder, the whole way."""

import json
import os
import re
import unicodedata
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from cxr_mmdet.annotations.coco import CocoImage
from cxr_mmdet.annotations.consensus import fuse_readers
from cxr_mmdet.annotations.split import split_groups
from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.errors import DatasetError, TableError, UsageError
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.preparation.label_sets import LabelSet, build_splits, choose_label_sets, count_splits
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.coco import read_coco
from cxr_mmdet.structures.enums import ReaderFusion
from cxr_mmdet.structures.labels import LABELS_5, LABELS_14, NO_FINDING

READERS = ("R8", "R9", "R10")
OPTIONS = BuildOptions(labels=("5",), val_ratio=0.25, short_edge=60)


def write_radiograph(path, size_hw, box_xyxy, patient_id):
    """Write a DICOM that is bright inside the box, on dark clouds of its own: no two are near-identical."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.stem])
    dataset.PatientID = patient_id
    dataset.Modality = "CR"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.Rows, dataset.Columns = size_hw
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    clouds = np.random.default_rng(zlib.crc32(path.stem.encode())).integers(0, 100, (12, 12), dtype=np.uint8)
    pixels = cv2.resize(clouds, size_hw[::-1], interpolation=cv2.INTER_NEAREST)
    if box_xyxy is not None:
        x_min, y_min, x_max, y_max = map(int, box_xyxy)
        pixels[y_min:y_max, x_min:x_max] = 230
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def box_of(number, size_hw):
    """Return a box that lies on whole pixels, different for each image."""
    height, width = size_hw
    x_min, y_min = 5 + number % 7, 8 + number % 5
    return float(x_min), float(y_min), float(x_min + width // 2), float(y_min + height // 3)


def table_rows(images):
    """Return the rows of three readers who agree on the box; every fifth image is normal."""
    rows = []
    for number, (image_id, (size_hw, label)) in enumerate(images.items()):
        for reader in READERS:
            if label == NO_FINDING:
                rows.append((image_id, label, 14, reader, "", "", "", ""))
            else:
                rows.append((image_id, label, LABELS_14.index(label), reader, *box_of(number, size_hw)))
    return rows


def write_table(path, rows):
    columns = ["image_id", "class_name", "class_id", "rad_id", *XYXY_COLUMNS]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


CLASSES = ("Cardiomegaly", "ILD", "Nodule/Mass", "Pneumothorax", NO_FINDING)
IMAGES = {
    f"image{number:02}": ((120 + 7 * (number % 3), 90 + 11 * (number % 4)), CLASSES[number % 5]) for number in range(20)
}


@pytest.fixture
def src(tmp_path):
    """A folder like VinBigData's: 20 radiographs of 10 patients, 4 of each class, 4 normal."""
    (tmp_path / "src/train").mkdir(parents=True)
    for number, (image_id, (size_hw, label)) in enumerate(IMAGES.items()):
        box = None if label == NO_FINDING else box_of(number, size_hw)
        write_radiograph(tmp_path / f"src/train/{image_id}.dicom", size_hw, box, f"P{number // 2}")
    write_table(tmp_path / "src/train.csv", table_rows(IMAGES))
    return tmp_path / "src"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def both(out, name):
    return [read_coco(out / f"annotations/{split}_{name}.json") for split in ("train", "val")]


def content(folder):
    """Return the bytes of all files but the index of images, which holds the radiographs' times of change."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "images.json"
    }


def test_boxes_lie_where_the_images_are_bright(src, out):
    summary = build_dataset(src, out, OPTIONS)
    assert summary.images == 20
    assert not summary.failures
    found = 0
    for coco in both(out, "5"):
        index = COCO()
        index.dataset = coco
        index.createIndex()
        for image in index.loadImgs(index.getImgIds()):
            pixels = cv2.imread(str(out / "images" / image["file_name"]), cv2.IMREAD_UNCHANGED)
            (height, width), label = IMAGES[image["image_id"]]
            assert pixels.dtype == np.uint8
            assert pixels.shape == (image["height"], image["width"])
            assert min(pixels.shape) == 60
            assert (image["original_height"], image["original_width"]) == (height, width)
            annotations = index.loadAnns(index.getAnnIds(image["id"]))
            assert [index.cats[a["category_id"]]["name"] for a in annotations] == [label] * (label in LABELS_5)
            for annotation in annotations:
                rows, columns = np.nonzero(pixels > 125)
                bright = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                x, y, w, h = annotation["bbox"]
                np.testing.assert_allclose(bright, (x, y, x + w, y + h), atol=1)
                assert annotation["votes"] == 3
                found += 1
    assert found == 12


def test_a_full_size_build_keeps_the_readers_coordinates(src, out):
    build_dataset(src, out, BuildOptions(labels=("auto",), short_edge=0))
    boxes = {}
    for coco in both(out, "auto"):
        names = {image["id"]: image["image_id"] for image in coco["images"]}
        boxes |= {names[a["image_id"]]: a["bbox"] for a in coco["annotations"]}
    expected = {}
    for number, (image_id, (size_hw, label)) in enumerate(IMAGES.items()):
        if label != NO_FINDING:
            x_min, y_min, x_max, y_max = box_of(number, size_hw)
            expected[image_id] = [x_min, y_min, x_max - x_min, y_max - y_min]
    assert boxes == expected


def test_a_patient_stands_on_one_side(src, out):
    build_dataset(src, out, OPTIONS)
    train, val = ({image["group"] for image in coco["images"]} for coco in both(out, "5"))
    assert train
    assert val
    assert not train & val
    assert train | val == {f"patient-of-image{number:02}" for number in range(0, 20, 2)}


def test_each_image_stands_alone_where_asked(src, out):
    build_dataset(src, out, BuildOptions(labels=("5",), group_by="image"))
    for coco in both(out, "5"):
        assert all(image["group"] == image["image_id"] for image in coco["images"])


def test_one_patient_id_for_all_is_refused_with_the_way_out(src, out):
    for number, (image_id, (size_hw, _)) in enumerate(IMAGES.items()):
        write_radiograph(src / f"train/{image_id}.dicom", size_hw, box_of(number, size_hw), "ANONYMOUS")
    with pytest.raises(DatasetError, match="--group-by image"):
        build_dataset(src, out, OPTIONS)
    build_dataset(src, out, BuildOptions(labels=("5",), group_by="image"))


def test_images_that_state_no_patient_are_noted(src, out):
    (size_hw, _) = IMAGES["image03"]
    write_radiograph(src / "train/image03.dicom", size_hw, box_of(3, size_hw), "")
    notes = build_dataset(src, out, OPTIONS).notes
    assert any(note.startswith("1 image states no patient, such as image03; each counts as") for note in notes)
    assert not any(
        "no patient" in note for note in build_dataset(src, out, replace(OPTIONS, group_by="image"), force=True).notes
    )


def test_a_column_of_patients_divides_images_that_state_none(src, out):
    """Without it the radiographs of one patient would stand on both sides."""
    for number, (image_id, (size_hw, _)) in enumerate(IMAGES.items()):
        write_radiograph(src / f"train/{image_id}.dicom", size_hw, box_of(number, size_hw), "")
    table = pd.read_csv(src / "train.csv", dtype=str, keep_default_na=False)
    # Images far apart in the order of names: 0 and 10, 1 and 11, …
    table["patient"] = table["image_id"].str[-1]
    table.to_csv(src / "train.csv", index=False)
    result = build_dataset(src, out, OPTIONS)
    groups = {image["image_id"]: image["group"] for coco in both(out, "5") for image in coco["images"]}
    assert groups == {image_id: f"patient-of-image0{image_id[-1]}" for image_id in IMAGES}
    train, val = ({image["group"] for image in coco["images"]} for coco in both(out, "5"))
    assert not train & val
    assert not any("no patient" in note for note in result.notes)


def test_same_input_same_bytes_whatever_the_order_of_rows_and_the_number_of_jobs(src, out, tmp_path):
    build_dataset(src, out, OPTIONS)
    build_dataset(src, tmp_path / "again", OPTIONS, jobs=2)
    assert content(out) == content(tmp_path / "again")
    write_table(src / "train.csv", table_rows(IMAGES)[::-1])
    build_dataset(src, tmp_path / "reversed", OPTIONS)
    annotations = {name: data for name, data in content(out).items() if name.startswith("annotations")}
    assert len(annotations) == 4
    reversed_content = content(tmp_path / "reversed")
    assert {name: reversed_content[name] for name in annotations} == annotations


def test_images_without_boxes_are_kept_and_told_apart(src, out):
    build_dataset(src, out, OPTIONS)
    kept = sum(len(coco["images"]) for coco in both(out, "5"))
    assert kept == 20
    listed = pd.read_csv(out / "annotations/without_boxes_5.csv", keep_default_na=False)
    seen = dict(zip(listed["image_id"], listed["other_findings"], strict=True))
    assert seen == {
        image_id: "Pneumothorax" if label == "Pneumothorax" else ""
        for image_id, (_, label) in IMAGES.items()
        if label not in LABELS_5
    }
    train = {image["image_id"] for image in both(out, "5")[0]["images"]}
    assert set(listed.loc[listed["split"] == "train", "image_id"]) <= train


def test_dropped_normals_leave_the_images_with_the_labels(src, out):
    summary = build_dataset(src, out, BuildOptions(labels=("5",), drop_normals=True))
    kept = {image["image_id"] for coco in both(out, "5") for image in coco["images"]}
    assert kept == {image_id for image_id, (_, label) in IMAGES.items() if label in LABELS_5}
    assert "labels 5: dropped: 8 images without any of these classes." in summary.notes


def test_several_label_sets_share_images_and_split(src, out, tmp_path):
    names = tmp_path / "mine.txt"
    names.write_text("Pneumothorax\nILD\n")
    options = BuildOptions(labels=("14", "5", "auto", str(names)), drop_normals=True)
    summary = build_dataset(src, out, options)
    sides = {}
    for name in ("14", "5", "auto", "mine"):
        for side, coco in zip(("train", "val"), both(out, name), strict=True):
            for image in coco["images"]:
                assert sides.setdefault(image["image_id"], side) == side
    assert [category["name"] for category in both(out, "mine")[0]["categories"]] == ["Pneumothorax", "ILD"]
    assert [category["name"] for category in both(out, "14")[0]["categories"]] == list(LABELS_14)
    auto = [category["name"] for category in both(out, "auto")[0]["categories"]]
    assert auto == ["Cardiomegaly", "ILD", "Nodule/Mass", "Pneumothorax"]
    assert [counts.label_set.name for counts in summary.label_sets] == ["14", "5", "auto", "mine"]


def test_the_manifest_says_what_was_made_of_what(src, out):
    summary = build_dataset(src, out, OPTIONS)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["parameters"]["val_ratio"] == 0.25
    assert manifest["parameters"]["labels"] == ["5"]
    assert manifest["boxes"] == {"readers": 3 * 16, "clipped": 0}
    assert manifest["groups"]["all"] == 10
    assert manifest["readers"] == sorted(READERS)
    assert manifest["packages"]["pydicom"] == pydicom.__version__
    assert str(src.parent) not in (out / "manifest.json").read_text()
    counts = manifest["label_sets"]["5"]
    assert counts["labels"] == list(LABELS_5)
    assert counts["train"]["images"] + counts["val"]["images"] == 20
    assert counts["train"]["by_class"]["ILD"]["boxes"] + counts["val"]["by_class"]["ILD"]["boxes"] == 4
    # ILD and Nodule/Mass images are trained on three times, validation never is.
    train = both(out, "5")[0]
    minority = sum(IMAGES[image["image_id"]][1] in ("ILD", "Nodule/Mass") for image in train["images"])
    assert minority > 0
    assert counts["train_augmented"]["images"] == len(train["images"]) + 2 * minority
    assert summary.label_sets[0].train_augmented.images == counts["train_augmented"]["images"]


def test_a_changed_table_or_radiograph_changes_the_hash_of_the_inputs(src, out):
    def inputs():
        build_dataset(src, out, OPTIONS, force=True)
        return json.loads((out / "manifest.json").read_text())["inputs"]

    first = inputs()
    write_table(src / "train.csv", table_rows(IMAGES)[::-1])
    second = inputs()
    assert first["table_sha256"] != second["table_sha256"]
    write_radiograph(src / "train/image00.dicom", (200, 200), None, "P0")
    assert second["radiographs_sha256_of_names_and_sizes"] != inputs()["radiographs_sha256_of_names_and_sizes"]


def test_what_failed_is_left_out_and_listed(src, out):
    (src / "train/image03.dicom").write_bytes(b"not a radiograph")
    (src / "train/image07.dicom").unlink()
    write_radiograph(src / "train/unread.dicom", (100, 100), None, "P99")
    summary = build_dataset(src, out, OPTIONS)
    assert [failure.image_id for failure in summary.failures] == ["image03", "image07", "unread"]
    listed = pd.read_csv(out / "failures.csv").set_index("image_id")["reason"]
    assert "image03.dicom" in listed["image03"]
    assert "holds no radiograph of this name, nor do its folders" in listed["image07"]
    assert "no row in train.csv, so nobody read it" in listed["unread"]
    assert {image["image_id"] for coco in both(out, "5") for image in coco["images"]} == IMAGES.keys() - {
        "image03",
        "image07",
    }
    # Mended, the failures are gone, and so is their list.
    (src / "train/unread.dicom").unlink()
    for number in (3, 7):
        write_radiograph(src / f"train/image{number:02}.dicom", IMAGES[f"image{number:02}"][0], None, "P1")
    assert not build_dataset(src, out, OPTIONS, force=True).failures
    assert not (out / "failures.csv").exists()


def test_unread_radiographs_are_normal_where_asked(src, out):
    write_radiograph(src / "train/unread.dicom", (100, 100), None, "P99")
    summary = build_dataset(src, out, BuildOptions(labels=("5",), unread_as_normal=True))
    assert not summary.failures
    assert "unread" in {image["image_id"] for coco in both(out, "5") for image in coco["images"]}


def test_nothing_readable_is_refused(src, out):
    for path in (src / "train").iterdir():
        path.write_bytes(b"not a radiograph")
    with pytest.raises(DatasetError, match="none of 20 radiographs could be read"):
        build_dataset(src, out, OPTIONS)


def test_a_table_of_other_images_is_refused(src, out):
    write_table(src / "train.csv", table_rows({f"x{name}": value for name, value in IMAGES.items()}))
    with pytest.raises(DatasetError, match=re.escape("got 'ximage00' in the table and 'image00' there")):
        build_dataset(src, out, OPTIONS)
    assert len(pd.read_csv(out / "failures.csv")) == 40


def test_ids_match_their_files_whatever_the_form_of_accents_and_with_a_suffix(src, out):
    """macOS writes decomposed names; a table with composed ones matched nothing."""
    os.rename(src / "train/image00.dicom", src / "train" / unicodedata.normalize("NFD", "Müller.dicom"))
    other = {"image00": unicodedata.normalize("NFC", "Müller"), "image01": "image01.dicom"}
    write_table(src / "train.csv", [(other.get(row[0], row[0]), *row[1:]) for row in table_rows(IMAGES)])
    summary = build_dataset(src, out, OPTIONS)
    assert not summary.failures
    assert summary.notes[0].startswith("2 images spelled otherwise in train.csv than the file")
    images = {image["image_id"] for coco in both(out, "5") for image in coco["images"]}
    assert images == {unicodedata.normalize("NFD", "Müller"), *IMAGES} - {"image00"}


def test_a_coco_table_of_resized_and_turned_images_places_its_boxes(src, out):
    """Of 512-pixel copies the boxes landed at the wrong scale; of an image on its side, at the wrong place."""
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "ILD"}]}
    for number, (image_id, ((height, width), _)) in enumerate(IMAGES.items()):
        x_min, y_min, x_max, y_max = box_of(number, (height, width))
        half = 2 if number % 2 else 1
        coco["images"].append(
            {"id": number, "file_name": f"{image_id}.png", "height": height // half, "width": width // half}
        )
        bbox = [x_min / half, y_min / half, (x_max - x_min) / half, (y_max - y_min) / half]
        coco["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": bbox})
    # image00 as a JPEG on its side: the annotation tool showed it as stored.
    (height, width), _ = IMAGES["image00"]
    (src / "train/image00.dicom").unlink()
    pixels = np.zeros((height, width), np.uint8)
    x_min, y_min, x_max, y_max = map(int, box_of(0, (height, width)))
    pixels[y_min:y_max, x_min:x_max] = 230
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(src / "train/image00.jpg", exif=exif, quality=95)
    (src / "train.json").write_text(json.dumps(coco))
    options = BuildOptions(labels=("auto",), short_edge=0, group_by="image")
    notes = build_dataset(src, out, options, table=src / "train.json").notes
    assert any(note.startswith("the boxes of 10 images were drawn on images of another size") for note in notes)
    assert any("by its sizes train.json was drawn before that" in note for note in notes)
    for part in both(out, "auto"):
        files = {image["id"]: image["file_name"] for image in part["images"]}
        for annotation in part["annotations"]:
            pixels = cv2.imread(str(out / "images" / files[annotation["image_id"]]), cv2.IMREAD_UNCHANGED)
            rows, columns = np.nonzero(pixels > 125)
            if not len(rows):
                continue  # a normal one
            x, y, w, h = annotation["bbox"]
            bright = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            np.testing.assert_allclose(bright, (x, y, x + w, y + h), atol=2)
    coco["images"][3]["width"] *= 2
    (src / "train.json").write_text(json.dumps(coco))
    with pytest.raises(TableError, match=r"image 'image03': its width and height are .*another shape"):
        build_dataset(src, out, options, table=src / "train.json", force=True)


def test_what_matches_nothing_is_named_before_what_follows_from_it(src, out):
    for number in range(2, 20):
        (src / f"train/image{number:02}.dicom").unlink()
    with pytest.raises(DatasetError) as caught:
        build_dataset(src, out, OPTIONS)
    message = str(caught.value)
    assert message.startswith(f"18 of 20 images in {src / 'train.csv'} without a radiograph, such as 'image02' (")
    assert "holds no radiograph of this name" in message
    assert len(pd.read_csv(out / "failures.csv")) == 18


def test_images_are_taken_where_they_lie(src, out):
    (src / "train/sub").mkdir()
    for number in range(2, 20):
        name = f"image{number:02}"
        os.rename(src / f"train/{name}.dicom", src / f"train/sub/{name}.dicom")
    assert build_dataset(src, out, OPTIONS).failures == ()
    os.rename(src / "train", src / "images")
    assert build_dataset(src, out, OPTIONS, force=True).failures == ()


def test_without_a_table_nothing_is_built(src, out):
    (src / "train.csv").unlink()
    with pytest.raises(TableError, match="holds no annotations of a known format"):
        build_dataset(src, out, OPTIONS)
    assert not out.exists()


def test_a_box_beyond_its_image_is_refused_or_clipped(src, out):
    rows = table_rows(IMAGES)
    rows[0] = (*rows[0][:6], 5000, rows[0][7])
    write_table(src / "train.csv", rows)
    with pytest.raises(TableError, match=r"train.csv, line 2: x_max 5000 is beyond the image width 90"):
        build_dataset(src, out, OPTIONS)
    summary = build_dataset(src, out, BuildOptions(labels=("5",), clip_boxes=True))
    assert "clipped: 1 box of a reader beyond the image." in summary.notes


@pytest.mark.parametrize(("fusion", "boxes"), [(ReaderFusion.WBF, 12), (ReaderFusion.NMS, 12), (ReaderFusion.NONE, 36)])
def test_the_consensus_is_as_asked(src, out, fusion, boxes):
    rows = [
        (*row[:4], row[4] if row[1] == NO_FINDING else row[4] + READERS.index(row[3]), *row[5:])
        for row in table_rows(IMAGES)
    ]
    write_table(src / "train.csv", rows)
    build_dataset(src, out, BuildOptions(labels=("5",), fusion=fusion))
    assert sum(len(coco["annotations"]) for coco in both(out, "5")) == boxes


def test_a_finished_build_is_replaced_only_by_force(src, out):
    build_dataset(src, out, OPTIONS)
    before = content(out)
    with pytest.raises(UsageError, match="--force"):
        build_dataset(src, out, OPTIONS)
    assert content(out) == before
    (src / "train/image00.dicom").unlink()
    write_table(src / "train.csv", [row for row in table_rows(IMAGES) if row[0] != "image00"])
    build_dataset(src, out, BuildOptions(labels=("auto",)), force=True)
    names = set(content(out))
    assert "images/image00.png" not in names
    assert {name for name in names if name.startswith("annotations")} == {
        "annotations/readers.csv",
        "annotations/train_auto.json",
        "annotations/val_auto.json",
        "annotations/without_boxes_auto.csv",
    }


def test_a_build_that_failed_late_is_completed_by_the_same_call(src, out):
    rows = table_rows(IMAGES)
    write_table(src / "train.csv", [(*rows[0][:6], 5000, rows[0][7]), *rows[1:]])
    with pytest.raises(TableError):
        build_dataset(src, out, OPTIONS)
    assert not (out / "manifest.json").exists()
    rendered = {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    assert len(rendered) == 20
    write_table(src / "train.csv", rows)
    build_dataset(src, out, OPTIONS)
    assert {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()} == rendered


def test_a_replacement_that_fails_does_not_pass_for_a_finished_build(src, out):
    build_dataset(src, out, OPTIONS)
    rows = table_rows(IMAGES)
    write_table(src / "train.csv", [(*rows[0][:6], 5000, rows[0][7]), *rows[1:]])
    with pytest.raises(TableError):
        build_dataset(src, out, OPTIONS, force=True)
    assert not (out / "manifest.json").exists()


def test_a_folder_with_something_else_in_it_is_refused_even_by_force(src, out, tmp_path):
    out.mkdir()
    (out / "thesis.docx").touch()
    with pytest.raises(UsageError, match=re.escape("thesis.docx")):
        build_dataset(src, out, OPTIONS, force=True)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        build_dataset(src, tmp_path / "file", OPTIONS)


def test_progress_reaches_the_number_of_radiographs(src, out):
    seen = []
    build_dataset(src, out, OPTIONS, progress=lambda done, total: seen.append((done, total)))
    assert sum(done for done, _ in seen) == 20
    assert {total for _, total in seen} == {20}


def test_labels_that_do_not_fit_the_table_are_refused(src, out, tmp_path):
    lungs = tmp_path / "lungs.txt"
    lungs.write_text("Left lung\n")
    with pytest.raises(UsageError, match="the table holds none of these classes, but Cardiomegaly, ILD"):
        build_dataset(src, out, BuildOptions(labels=(str(lungs),)))
    (tmp_path / "5.txt").write_text("ILD\n")
    with pytest.raises(UsageError, match=re.escape("2 sets would write train_5.json")):
        build_dataset(src, out, BuildOptions(labels=("5", str(tmp_path / "5.txt"))))
    with pytest.raises(UsageError, match="--minority Cardiomegali"):
        build_dataset(src, out, BuildOptions(labels=("5",), minority=("Cardiomegali",)))


def test_a_label_set_finds_its_classes_in_another_spelling():
    rows = pd.DataFrame({"class_name": ["ILD", "nodule / mass"], "class_id": [5, 8]})
    (five,) = choose_label_sets(("5",), rows, None)
    assert five.labels == LABELS_5
    assert five.merged == {"Nodule/Mass": ("nodule / mass",)}


def test_a_class_without_boxes_is_noted(src, out):
    notes = build_dataset(src, out, OPTIONS).notes
    assert any(note.startswith("labels 5: no box of Aortic enlargement, Infiltration") for note in notes)
    assert "labels 5: left out: 4 boxes of 1 other class: Pneumothorax (4)." in notes


def test_a_side_without_any_box_is_refused(src, out):
    rows = [row for row in table_rows(IMAGES) if row[1] == NO_FINDING or row[0] == "image00"]
    rows += [(row[0], NO_FINDING, 14, row[3], *[""] * 4) for row in table_rows(IMAGES) if row[0] == "image01"]
    write_table(src / "train.csv", rows)
    with pytest.raises(DatasetError, match=r"labels auto: none of \d+ (train|val) images holds a box"):
        build_dataset(src, out, BuildOptions(labels=("auto",)))


def test_minority_classes_follow_the_reference_or_the_user():
    rows = pd.DataFrame({"class_name": ["ILD", "Pneumothorax"], "class_id": [5, 12]})
    five, fourteen = choose_label_sets(("5", "14"), rows, None)
    assert five.minority == ("ILD", "Infiltration", "Nodule/Mass")
    assert fourteen.minority == ()
    five, fourteen = choose_label_sets(("5", "14"), rows, ("Pneumothorax", "ILD"))
    assert five.minority == ("ILD",)
    assert fourteen.minority == ("ILD", "Pneumothorax")


@pytest.mark.vinbigdata
def test_vinbigdata_five_class_images_are_the_references():
    path = os.environ.get("CXR_VINBIGDATA_TABLE")
    if not path:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    rows = read_table(path)
    size = int(rows[XYXY_COLUMNS].max(axis=None))
    images = [CocoImage(name, f"{name}.png", size, size, name, size, size) for name in rows["image_id"].unique()]
    val = split_groups([image.group for image in images], 0.2, 42)
    label_set = LabelSet("5", LABELS_5, ("ILD", "Infiltration", "Nodule/Mass"))
    boxes = fuse_readers(rows)
    counts = count_splits(build_splits(label_set, images, boxes, val, drop_normals=True))
    assert counts.train.images + counts.val.images == 3951
    for name, number in {"Aortic enlargement": 3067, "Cardiomegaly": 2300, "ILD": 386, "Infiltration": 613}.items():
        assert counts.train.by_class[name].images + counts.val.by_class[name].images == number
    everything = count_splits(build_splits(label_set, images, boxes, val, drop_normals=False))
    assert (everything.train.images, everything.val.images) == (12_000, 3000)
