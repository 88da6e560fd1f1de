"""Sets as their publishers ship them, from the tree to the COCO files."""

import json

import numpy as np
import pytest
from report_builders import radiograph

from cxr_mmdet.preparation.build import build_dataset
from cxr_mmdet.preparation.options import BuildOptions

COUNT = 6


@pytest.fixture
def built(tmp_path):
    """Build folders and return the images of both sides by image id, each with its boxes."""

    def build(*places):
        out = tmp_path / "out"
        options = BuildOptions(labels=("auto",), val_ratio=0.5, seed=1, allow_duplicates=True)
        build_dataset(places[0] if len(places) == 1 else [("", place) for place in places], out, options)
        images = {}
        for side in ("train", "val"):
            coco = json.loads((out / f"annotations/{side}_auto.json").read_text())
            names = {category["id"]: category["name"] for category in coco["categories"]}
            for image in coco["images"]:
                boxes = [
                    (names[a["category_id"]], a["bbox"]) for a in coco["annotations"] if a["image_id"] == image["id"]
                ]
                images[image["image_id"]] = image | {"boxes": boxes, "side": side}
        return images

    return build


def rsna(folder="rsna"):
    """Return half images with an opacity, half without; the last is normal. Images have an eighth of 1024 pixels."""
    rows = [f"p{n},{80 * n},160,240,320,1" if n < COUNT // 2 else f"p{n},,,,,0" for n in range(COUNT)]
    kinds = ["Lung Opacity" if n < COUNT // 2 else "No Lung Opacity / Not Normal" for n in range(COUNT - 1)]
    info = [f"p{n},{kind}" for n, kind in enumerate([*kinds, "Normal"])]
    return {
        f"{folder}/stage_2_train_labels.csv": "\n".join(["patientId,x,y,width,height,Target", *rows]),
        f"{folder}/stage_2_detailed_class_info.csv": "\n".join(["patientId,class", *info]),
        **{f"{folder}/stage_2_train_images/p{n}.png": (128, 128) for n in range(COUNT)},
    }


def nih(folder="nih"):
    """Return two images of each patient, and an image that nobody read."""
    names = [f"{n // 2:08d}_{n % 2:03d}.png" for n in range(COUNT)]
    rows = [f"{name},Mass,{80 * n},160,240,320" for n, name in enumerate(names)]
    return {
        f"{folder}/BBox_List_2017.csv": "\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *rows]),
        **{f"{folder}/images_001/images/{name}": (256, 256) for name in [*names, "00000009_000.png"]},
    }


def test_boxes_on_1024_pixels_fit_smaller_images(write, built):
    images = built(write(rsna()) / "rsna")
    assert len(images) == COUNT
    assert images["p1"]["boxes"] == [("Lung Opacity", [80 / 8, 160 / 8, 240 / 8, 320 / 8])]
    assert [images[f"p{n}"].get("normal", True) for n in range(COUNT // 2, COUNT)] == [False, False, True]


def test_two_sets_know_what_the_other_did_not_look_for(write, built):
    root = write(rsna() | nih())
    images = built(root / "rsna", root / "nih")
    assert len(images) == 2 * COUNT, "without the image that has no row"
    assert images["00000000_001"]["boxes"] == [("Mass", [80 / 4, 160 / 4, 240 / 4, 320 / 4])]
    assert images["00000000_001"]["neg_category_ids"] == []
    assert images["p4"]["neg_category_ids"] == [1], "opacity was looked for, mass was not"
    assert "neg_category_ids" not in images["p5"], "a normal chest lacks every class"
    for patient in range(COUNT // 2):
        first, second = (images[f"{patient:08d}_{n:03d}"] for n in (0, 1))
        assert (first["group"], first["side"]) == (second["group"], second["side"])


def test_an_image_without_a_row_stays_with_its_patient(write, tmp_path):
    tree = {name.replace("images_001/images/00000009_000", "images/00000001_007"): each for name, each in nih().items()}
    options = BuildOptions(labels=("auto",), val_ratio=0.5, seed=1, unread_as_normal=True, allow_duplicates=True)
    build_dataset(write(tree) / "nih", tmp_path / "out", options)
    sides = [json.loads((tmp_path / f"out/annotations/{side}_auto.json").read_text()) for side in ("train", "val")]
    groups = {image["image_id"]: image["group"] for coco in sides for image in coco["images"]}
    assert groups["00000001_007"] == groups["00000001_000"] != groups["00000002_000"]


def test_images_named_by_their_folders_are_found(write, built):
    names = [f"patient{n}_study1_view1_frontal" for n in range(COUNT)]
    regions = {
        name: {"img_size": [320, 256], "Edema": [[[10 + n, 20], [50, 30], [40, 200]]]} for n, name in enumerate(names)
    }
    files = {f"CheXpert/val/patient{n}/study1/view1_frontal.jpg": (160, 128) for n in range(COUNT)}
    images = built(write({"gt_annotations_val.json": json.dumps(regions), **files}))
    assert images[names[3]]["boxes"] == [("Edema", [13 / 2, 20 / 2, (50 - 13) / 2, (200 - 20) / 2])]


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID"])
def test_images_named_by_their_uids_are_found(write, built, keyword):
    uids = [[f"1.2.{number}.{n}" for n in range(COUNT)] for number in (1, 2)]
    studies = [
        radiograph(SOPInstanceUID=sop, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1")
        for sop, study in zip(*uids, strict=True)
    ]
    rows = [f"{study[keyword].value},{1024 * 512 + 10 * n} 100" for n, study in enumerate(studies)]
    root = write({"train-rle.csv": "\n".join(["ImageId, EncodedPixels", *rows])})
    for n, image in enumerate(studies):
        image.Modality, image.PhotometricInterpretation, image.SamplesPerPixel = "CR", "MONOCHROME2", 1
        image.Rows = image.Columns = 256
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit, image.PixelRepresentation = 7, 0
        noise = np.random.default_rng(n).integers(0, 255, (8, 8), np.uint8)
        image.PixelData = np.kron(noise, np.ones((32, 32), np.uint8)).tobytes()
        # All files are named alike, as on a CD.
        path = root / f"DICOM/ST{n}/IM1"
        path.parent.mkdir(parents=True)
        image.save_as(path, enforce_file_format=True)
    images = built(root)
    assert sorted(images) == sorted(study[keyword].value for study in studies)
    assert images[studies[3][keyword].value]["boxes"] == [("Pneumothorax", [512 / 4, 30 / 4, 1 / 4, 100 / 4])]
