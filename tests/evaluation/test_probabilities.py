import json

import pytest

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.image_level import p_abnormal_path, read_p_abnormal, write_p_abnormal

TRUTH = {"images": [{"id": 4, "image_id": "b"}, {"id": 2, "file_name": "sub/a.png"}, {"id": 7}]}
ROWS = {"a": 0.1, "b": 0.9, "7": 1, "elsewhere": 0.5}


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "image_id,p_abnormal,note\na,0.1,\nb,0.9,x\n7,1,\nelsewhere,0.5,\n"),
        ("p.json", ROWS),
        ("findings.json", [{"image_id": k, "p_abnormal": v, "findings": []} for k, v in ROWS.items()]),
        ("findings.json", {"labels": [], "images": [{"image_id": k, "p_abnormal": v} for k, v in ROWS.items()]}),
        ("numbers.json", [{"image_id": 7 if k == "7" else k, "p_abnormal": v} for k, v in ROWS.items()]),
    ],
)
def test_every_form_gives_the_images_in_file_order(tmp_path, name, content):
    assert read_p_abnormal(write(tmp_path, name, content), TRUTH).tolist() == [0.9, 0.1, 1.0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "image,p\na,0.1\n", "expected image_id and p_abnormal"),
        ("p.csv", "", "expected image_id and p_abnormal"),
        ("p.csv", "image_id,p_abnormal\na,0.1\na,0.2\n", "names image 'a' twice"),
        ("p.csv", "image_id,p_abnormal\na,high\n", "p_abnormal 'high' of image 'a'"),
        ("p.csv", "image_id,p_abnormal\na\n", "p_abnormal None of image 'a'"),
        ("p.json", "{", "is not JSON"),
        ("p.json", 3, "holds neither"),
        ("p.json", [{"image_id": "a"}], "entry 0: is not an object with"),
        ("p.json", ROWS | {"a": 1.2}, "p_abnormal 1.2 of image 'a'"),
        ("p.json", ROWS | {"a": True}, "p_abnormal True of image 'a'"),
        ("p.json", {"b": 0.5}, "lacks p_abnormal of 2 of 3 images, such as 'a'"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, name, content, message):
    with pytest.raises(DatasetError) as caught:
        read_p_abnormal(write(tmp_path, name, content), TRUTH)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.csv: cannot be read"):
        read_p_abnormal(tmp_path / "gone.csv", TRUTH)


def test_what_a_gate_leaves_beside_detections(tmp_path):
    path = tmp_path / "detections.json"
    assert p_abnormal_path(path) == tmp_path / "detections.p_abnormal.json"
    write_p_abnormal(path, {"b": 0.9, "a": 0.1, "7": 1.0})
    assert read_p_abnormal(p_abnormal_path(path), TRUTH).tolist() == [0.9, 0.1, 1.0]
    write_p_abnormal(path, None)  # a run without a gate takes away what an earlier one left
    assert not p_abnormal_path(path).exists()
    write_p_abnormal(path, None)
