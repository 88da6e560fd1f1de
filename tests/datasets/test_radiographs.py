"""Straight from DICOM: the same pixels and samples as from the prepared folder."""

import json

import cv2
import numpy as np
import pytest
from conftest import write_radiograph
from mmdet.registry import TRANSFORMS
from mmengine.registry import init_default_scope

from cxr_mmdet.datasets import CxrDataset, LoadRadiograph
from cxr_mmdet.errors import DatasetError, DicomError
from cxr_mmdet.preparation.build import BuildOptions, build_dataset

init_default_scope("mmdet")

REST = [
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(133, 64), keep_ratio=True),
    dict(type="GreyToThreeChannels"),
    dict(type="PackRadiograph"),
]


@pytest.fixture
def folders(tmp_path):
    """Radiographs of odd kinds and the prepared folder made of them, with a short edge of 50."""
    src = tmp_path / "src"
    rows = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    kinds = [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": None, "WindowWidth": None},
        {"ImagerPixelSpacing": [0.1, 0.2]},
        {"BitsStored": 12, "HighBit": 11, "VOILUTFunction": "SIGMOID", "WindowCenter": 2000, "WindowWidth": 900},
    ]
    for number, kind in enumerate(kinds):
        pixels = np.random.default_rng(number).integers(0, 4096, (120, 90 + number), dtype=np.uint16)
        write_radiograph(src / "train" / f"i{number}.dicom", pixels, PatientID=f"P{number}", **kind)
        rows.append(f"i{number},ILD,5,R1,10,20,60,90")
    (src / "train.csv").write_text("\n".join(rows))
    options = BuildOptions(labels=("auto",), val_ratio=0.5, short_edge=50)
    return src, build_dataset(src, tmp_path / "prepared", options).out


def dataset(folders, loading, **options):
    return CxrDataset(
        data_root=str(folders[1]), ann_file="annotations/train_auto.json", pipeline=[loading, *REST], **options
    )


def test_pixels_are_the_prepared_ones(folders):
    src, prepared = folders
    for path in (src / "train").iterdir():
        results = TRANSFORMS.build(dict(type="LoadRadiograph", short_edge=50))({"img_path": str(path)})
        expected = cv2.imread(str(prepared / "images" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(results["img"], expected)
        assert results["img_shape"] == results["ori_shape"] == expected.shape


def test_samples_are_the_prepared_ones(folders):
    sources = {"data_prefix": {"img": str(folders[0] / "train")}, "img_suffix": ".dicom"}
    straight = dataset(folders, dict(type="LoadRadiograph", short_edge=50), **sources)
    prepared = dataset(folders, dict(type="LoadGreyImage"))
    assert len(straight) == len(prepared) > 0
    for one, other in zip(straight, prepared, strict=True):
        assert one["inputs"].equal(other["inputs"])
        boxes = [sample["data_samples"].gt_instances.bboxes for sample in (one, other)]
        assert boxes[0].tensor.equal(boxes[1].tensor)


def test_another_short_edge_than_the_boxes_is_refused(folders):
    sources = {"data_prefix": {"img": str(folders[0] / "train")}, "img_suffix": ".dicom"}
    with pytest.raises(DatasetError, match=r"with short_edge=60, the COCO file says .*manifest\.json"):
        dataset(folders, dict(type="LoadRadiograph", short_edge=60), **sources)[0]
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    assert manifest["parameters"]["short_edge"] == 50


def test_full_size_missing_sources_and_what_is_no_radiograph(folders, tmp_path):
    src = folders[0]
    load = LoadRadiograph(short_edge=0)
    assert load({"img_path": str(src / "train" / "i0.dicom")})["img"].shape == (120, 90)
    assert repr(load) == "LoadRadiograph(short_edge=0, reduced_jpeg2000=False)"
    (tmp_path / "x.dcm").write_bytes(b"no")
    with pytest.raises(DicomError, match=r"x\.dcm"):
        load({"img_path": str(tmp_path / "x.dcm")})
    (src / "train" / "i1.dicom").unlink()
    (src / "train" / "i2.dicom").unlink()
    with pytest.raises(DatasetError, match=r"\.dicom"):
        dataset(
            folders,
            dict(type="LoadRadiograph"),
            data_prefix={"img": str(src / "train")},
            img_suffix=".dicom",
        )
