"""NIH ChestX-ray14, RSNA Pneumonia, NODE21 and MS-CXR."""

import json

import pytest

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.coverage import Coverage

NIH = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
NIH_ROWS = (
    "00000001_000.png,Mass,10,20,30.5,40,,,",
    "00000001_001.png,Infiltrate,1,2,3,4,,,",
    "00000002_000.png,Mass,5,6,7,8",
)
RSNA = "patientId,x,y,width,height,Target"
RSNA_ROWS = ("a,264,152,213,379,1", "a,562,152,256,453,1", "b,,,,,0", "c,,,,,0")
RSNA_INFO = ("patientId,class", "a,Lung Opacity", "a,Lung Opacity", "b,No Lung Opacity / Not Normal", "c,Normal")
NODE21 = "height,img_name,label,width,x,y"
NODE21_ROWS = ("46,n0001.mha,1,53,646,387", "0,c0001.mha,0,0,0,0")
MS_CXR = "category_name,label_text,path,x,y,w,h,image_width,image_height,split"
MS_ROWS = (
    "Edema,mild edema,files/p10/p100/s50/aa-bb.dcm,10,20,30,40,2544,3056,train",
    "Edema,edema,files/p10/p100/s50/aa-bb.dcm,10,20,30,40,2544,3056,train",
    "Pneumonia,pneumonia,files/p11/p110/s51/cc.dcm,1,2,3,4,2022,2022,test",
)


def lines(*rows):
    return "\n".join(rows) + "\n"


def test_nih_boxes_have_their_four_columns_in_a_bracket_with_commas(write, boxes_of):
    source = read_source(write({"BBox_List_2017.csv": lines(NIH, *NIH_ROWS)}))
    assert source.format == "nih"
    assert boxes_of(source) == [
        ("00000001_000", "Mass", (10, 20, 10 + 30.5, 20 + 40)),
        ("00000001_001", "Infiltrate", (1, 2, 1 + 3, 2 + 4)),
        ("00000002_000", "Mass", (5, 6, 5 + 7, 6 + 8)),
    ]
    assert set(source.rows["table_width"]) == set(source.rows["table_height"]) == {1024}
    assert source.rows["group"].tolist() == ["00000001", "00000001", "00000002"], "one patient, several images"
    assert source.coverage.loc["00000001_000"].to_dict() == {
        "Mass": Coverage.NOT_EXHAUSTIVE,
        "Infiltrate": Coverage.UNKNOWN,
    }
    assert source.normal == frozenset()
    assert source.unread_is_known


def test_nih_header_that_a_program_quoted(write, boxes_of):
    header = 'Image Index,Finding Label,"Bbox [x,y,w,h]",,,'
    source = read_source(write({"boxes.csv": lines(header, "00000001_000.png,Mass,10,20,30.5,40")}))
    assert boxes_of(source) == [("00000001_000", "Mass", (10, 20, 40.5, 60))]


def test_nih_class_of_another_name_is_kept_and_noted(write):
    source = read_source(write({"boxes.csv": lines(NIH, *NIH_ROWS, "00000003_000.png,Noduel,1,2,3,4")}))
    assert "not among the classes of this set: Noduel; they are kept as they are." in source.notes
    assert source.rows.groupby("class_name")["class_id"].first().to_dict() == {"Infiltrate": 3, "Mass": 4, "Noduel": 8}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00000003_000.png,Mass,1,x,3,4", r"boxes.csv, line 5: y is 'x', expected a number"),
        ("00000003_000.png,Mass,1,2,,4", r"boxes.csv, line 5: w is '', expected a number"),
        ("00000003_000.png,Mass,1,2,0,4", r"boxes.csv, line 5: x_max 1 is not beyond x_min 1"),
        (",Mass,1,2,3,4", r"boxes.csv, line 5: Image Index is empty"),
        ("00000003_000.png,,1,2,3,4", r"boxes.csv, line 5: class_name is empty"),
        ("00000003_000.png,Mass,1,2,inf,4", r"boxes.csv, line 5: w is 'inf', expected a number"),
    ],
)
def test_nih_bad_rows_are_named(write, row, message):
    with pytest.raises(TableError, match=message):
        read_source(write({"boxes.csv": lines(NIH, *NIH_ROWS, row)}))


def test_rsna_not_normal_is_read_for_opacity_and_no_normal_chest(write, boxes_of):
    tables = {"stage_2_train_labels.csv": lines(RSNA, *RSNA_ROWS)}
    root = write(tables | {"stage_2_detailed_class_info.csv": lines(*RSNA_INFO)})
    source = read_source(root)
    assert source.format == "rsna"
    assert boxes_of(source) == [
        ("a", "Lung Opacity", (264, 152, 264 + 213, 152 + 379)),
        ("a", "Lung Opacity", (562, 152, 562 + 256, 152 + 453)),
        ("b", "No finding", None),
        ("c", "No finding", None),
    ]
    assert set(source.rows["table_width"]) == {1024}
    assert source.coverage.to_numpy().tolist() == [[Coverage.EXHAUSTIVE]] * 3
    assert source.normal == {"c"}


def test_rsna_patients_have_their_numbers_in_nih(write):
    mapping = [
        {"subset_img_id": "a", "img_id": "00000013_005.png"},
        {"subset_img_id": "c", "img_id": "00000013_011.png"},
    ]
    files = {"stage_2_train_labels.csv": lines(RSNA, *RSNA_ROWS), "mappings_2018.json": json.dumps(mapping)}
    rows = read_source(write(files)).rows.drop_duplicates("image_id")
    assert dict(zip(rows["image_id"], rows["group"], strict=True)) == {"a": "00000013", "b": "b", "c": "00000013"}


def test_rsna_without_the_file_of_classes_knows_no_normal_chest(write):
    source = read_source(write({"stage_2_train_labels.csv": lines(RSNA, *RSNA_ROWS)}))
    assert source.normal == frozenset()
    assert "no stage_2_detailed_class_info.csv beside" in source.notes[0]


@pytest.mark.parametrize(
    ("row", "info", "message"),
    [
        ("d,1,2,3,4,2", RSNA_INFO, r"labels.csv, line 6: Target is '2', expected 0 or 1"),
        ("d,1,2,3,4,0", RSNA_INFO, r"labels.csv, line 6: Target is 0, but the row has a box"),
        ("d,1,2,3,,1", RSNA_INFO, r"labels.csv, line 6: height is '', expected a number"),
        ("a,,,,,0", RSNA_INFO, r"labels.csv, line 6: reader R1 says 'No finding' and draws a box on image a"),
        ("d,,,,,0", (*RSNA_INFO, "d,Healthy"), r"class_info.csv, line 6: class is 'Healthy', expected one of Normal"),
        ("d,,,,,0", (*RSNA_INFO, "d,Lung Opacity"), r"class_info.csv, line 6: class is 'Lung Opacity', but stage_2_"),
        ("d,1,2,3,4,1", (*RSNA_INFO, "d,Normal"), r"class_info.csv, line 6: class is 'Normal', but stage_2_train"),
    ],
)
def test_rsna_bad_rows_are_named(write, row, info, message):
    files = {"stage_2_train_labels.csv": lines(RSNA, *RSNA_ROWS, row)}
    with pytest.raises(TableError, match=message):
        read_source(write(files | {"stage_2_detailed_class_info.csv": lines(*info)}))


def test_node21_negatives_are_read_for_nodules_only(write, boxes_of):
    source = read_source(write({"cxr_images/proccessed_data/metadata.csv": lines(NODE21, *NODE21_ROWS)}))
    assert source.format == "node21"
    assert boxes_of(source) == [
        ("n0001", "Nodule", (646, 387, 646 + 53, 387 + 46)),
        ("c0001", "No finding", None),
    ]
    assert source.normal == frozenset(), "no nodule is not yet a normal chest"
    assert list(source.coverage) == ["Nodule"]


def test_ms_cxr_knows_only_the_classes_of_its_phrases(write, boxes_of):
    source = read_source(write({"MS_CXR_Local_Alignment_v1.1.0.csv": lines(MS_CXR, *MS_ROWS)}))
    assert source.format == "ms-cxr"
    assert boxes_of(source) == [("aa-bb", "Edema", (10, 20, 10 + 30, 20 + 40)), ("cc", "Pneumonia", (1, 2, 4, 6))]
    assert source.notes[0] == "1 repeated row left out, the first is line 3."
    assert source.rows["group"].tolist() == ["p100", "p110"]
    assert source.rows[["table_height", "table_width"]].to_numpy().tolist() == [[3056, 2544], [2022, 2022]]
    assert source.split == {"aa-bb": "train", "cc": "test"}
    assert source.coverage.loc["cc"].to_dict() == {"Edema": Coverage.UNKNOWN, "Pneumonia": Coverage.NOT_EXHAUSTIVE}


def test_ms_cxr_as_a_coco_file_is_as_partial_as_its_table(write, boxes_of):
    images = [
        {"id": n, "file_name": f"{n}.jpg", "width": 2, "height": 2, "num_annotations": 1, "path": "files/p10"}
        for n in (1, 2)
    ]
    annotation = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 2], "label_text": "edema"}
    content = {"images": images, "annotations": [annotation], "categories": [{"id": 7, "name": "Edema"}]}
    source = read_source(write({"MS_CXR.json": json.dumps(content)}))
    assert source.format == "ms-cxr"
    assert boxes_of(source) == [("1", "Edema", (0, 0, 1, 2))], "nothing is known of the other image"
    assert source.coverage.loc["1", "Edema"] == Coverage.NOT_EXHAUSTIVE


def test_columns_are_found_in_any_case_and_missing_ones_are_named(write, boxes_of):
    root = write({"labels.csv": lines("PatientID,X,Y,Width,Height,target", *RSNA_ROWS)})
    assert boxes_of(read_source(root))[0] == ("a", "Lung Opacity", (264, 152, 264 + 213, 152 + 379))
    write({"labels.csv": lines("patientId,x,y,width,Target", "a,1,2,3,1")})
    with pytest.raises(TableError, match=r"labels.csv, line 1: no column height, found patientId, x, y, width, Target"):
        read_source(root / "labels.csv", format_name="rsna")
    write({"labels.csv": lines("Image Index,Finding Label,x", "a,Mass,3")})
    with pytest.raises(TableError, match=r"labels.csv, line 1: expected Image Index,Finding Label,Bbox"):
        read_source(root / "labels.csv")


@pytest.mark.vinbigdata
def test_the_real_nih_table_is_read_whole(real_table):
    source = read_source(real_table("BBox_List_2017.csv.gz"))
    assert source.format == "nih"
    assert len(source.rows) == 984
    assert source.rows["image_id"].nunique() == 880
    assert source.rows["class_name"].value_counts().to_dict() == {
        "Atelectasis": 180,
        "Effusion": 153,
        "Cardiomegaly": 146,
        "Infiltrate": 123,
        "Pneumonia": 120,
        "Pneumothorax": 98,
        "Mass": 85,
        "Nodule": 79,
    }
    assert (source.coverage > 0).to_numpy().sum() == 984, "one box of a class per image"


@pytest.mark.vinbigdata
def test_the_real_rsna_table_is_read_whole(real_table):
    source = read_source(real_table("kaggle_stage_2_train_labels.csv.zip"))
    assert source.format == "rsna"
    assert source.rows["image_id"].nunique() == 26_684
    assert source.rows["class_name"].value_counts().to_dict() == {"No finding": 20_672, "Lung Opacity": 9_555}
    assert source.rows.loc[source.rows["class_name"] == "Lung Opacity", "image_id"].nunique() == 6_012
