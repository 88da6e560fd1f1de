import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.submission import images_of_sample, read_findings, read_submission, write_submission
from cxr_mmdet.structures.boxes import xywh_to_xyxy
from cxr_mmdet.structures.enums import SubmissionFormat

NAMES = ("Nodule/Mass", "Cardiomegaly")  # the competition's 8 and 3


def make_truth(names=NAMES):
    """Two images at half and at a quarter of their source's size."""
    return {
        "images": [
            {"id": 9, "image_id": "b", "width": 100, "height": 80, "original_width": 200, "original_height": 160},
            {"id": 2, "image_id": "a", "width": 50, "height": 60, "original_width": 200, "original_height": 240},
        ],
        "annotations": [],
        "categories": [{"id": 5 + place, "name": name} for place, name in enumerate(names)],
    }


def entry(bbox, score=0.5, image_id=9, category_id=5):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def submit(path, detections, p=(0.25, 0.0), truth=None, competition=SubmissionFormat.VINBIGDATA):
    write_submission(path, truth or make_truth(), detections, np.array(p), competition)
    return path.read_text(encoding="utf-8")


def test_the_competitions_format(tmp_path):
    detections = [
        entry([10, 20, 30.2, 40], 0.5),
        entry([0, 0, 100, 80], 0.75, category_id=6),
    ]
    assert submit(tmp_path / "s.csv", detections) == (
        "image_id,PredictionString\nb,3 0.75 0 0 200 160 8 0.5 20 40 80 120 14 0.75 0 0 1 1\na,14 1 0 0 1 1\n"
    )


OPACITY = ("Lung Opacity", "Cardiomegaly")


def test_rsna_takes_width_and_height_on_1024_pixels_and_nothing_for_no_box(tmp_path):
    detections = [entry([10, 20, 30, 40], 0.5), entry([0, 0, 50, 8], 0.75), entry([0, 0, 9, 9], category_id=6)]
    text = submit(tmp_path / "s.csv", detections, truth=make_truth(OPACITY), competition=SubmissionFormat.RSNA)
    x, y, width, height = 10 * 1024 / 100, 20 * 1024 / 80, 30 * 1024 / 100, 40 * 1024 / 80
    second = f"0.5 {round(x)} {round(y)} {round(x + width) - round(x)} {round(y + height) - round(y)}"
    assert text == f"patientId,PredictionString\nb,0.75 0 0 {1024 // 2} {round(8 * 1024 / 80)} {second}\na,\n"


def test_siim_covid_names_its_classes_and_has_lines_of_studies(tmp_path):
    path, truth = tmp_path / "s.csv", make_truth(("opacity",))
    text = submit(path, [entry([10, 20, 30, 40], 0.5)], truth=truth, competition=SubmissionFormat.SIIM_COVID)
    assert text == ("id,PredictionString\nb_image,opacity 0.5 20 40 80 120 none 0.75 0 0 1 1\na_image,none 1 0 0 1 1\n")
    path.write_text(text + "s1_study,typical 0.5 0 0 1 1\n")
    back = read_submission(path, truth)
    assert [(row["image_id"], row["bbox"], row["score"]) for row in back.detections] == [(9, [10, 20, 30, 40], 0.5)]
    assert back.p_no_finding == {9: 0.75, 2: 1}


def test_competitions_of_one_class_need_it(tmp_path):
    for competition in (SubmissionFormat.RSNA, SubmissionFormat.SIIM_COVID):
        with pytest.raises(DatasetError, match="expected one of them to be 'Lung Opacity'"):
            submit(tmp_path / "s.csv", [], competition=competition)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patientId,PredictionString\nb,0.5 1 2 3\na,\n", "line 2: the prediction string holds 4 words, expected five"),
        ("patientId,PredictionString\nb,0.5 1 2 -3 4\na,\n", "line 2: the box .* is inverted"),
        ("id,PredictionString\nb_image,opaque 1 0 0 9 9\na_image,none 1 0 0 1 1\n", "line 2: class opaque is not"),
        ("id,PredictionString\nb,none 1 0 0 1 1\n", "line 2: image 'b' is not among"),
    ],
)
def test_the_parser_of_other_competitions_is_strict(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_submission(path, make_truth(OPACITY))


def test_a_tiny_box_keeps_a_pixel_and_stays_in_the_image(tmp_path):
    text = submit(tmp_path / "s.csv", [entry([99.9, 79.9, 0.1, 0.1]), entry([0, 0, 0.05, 0.05])])
    assert "8 0.5 199 159 200 160 8 0.5 0 0 1 1" in text


boxes = st.tuples(st.floats(0, 90), st.floats(0, 70), st.floats(0.5, 60), st.floats(0.5, 60)).map(
    lambda box: [box[0], box[1], min(box[2], 100 - box[0]), min(box[3], 80 - box[1])]
)
rows = st.lists(st.builds(entry, boxes, st.floats(0, 1, width=32), st.just(9), st.sampled_from([5, 6])), max_size=8)


@settings(max_examples=60)
@given(rows, st.lists(st.floats(0, 1), min_size=2, max_size=2), st.sampled_from(SubmissionFormat))
def test_what_was_written_is_read_back(tmp_path_factory, detections, p, competition):
    path = tmp_path_factory.mktemp("round") / "s.csv"
    truth = make_truth()
    if competition is not SubmissionFormat.VINBIGDATA:
        detections, truth = [row for row in detections if row["category_id"] == 5], make_truth(OPACITY)
    submit(path, detections, p, truth, competition)
    back = read_submission(path, truth)
    expected = sorted(detections, key=lambda row: -row["score"])
    assert [(row["image_id"], row["category_id"]) for row in back.detections] == [
        (row["image_id"], row["category_id"]) for row in expected
    ]
    for ours, theirs in zip(back.detections, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-8)
        # Half a source pixel is a quarter of a prepared one; a box widened to one pixel moves by at most one.
        corners, there = xywh_to_xyxy([ours["bbox"], theirs["bbox"]])
        np.testing.assert_allclose(corners, there, rtol=0, atol=0.51)
    if competition is SubmissionFormat.RSNA:
        assert back.p_no_finding == {}, "its file has no place for it"
    else:
        assert back.p_no_finding == {9: pytest.approx(1 - p[0], abs=1e-8), 2: pytest.approx(1 - p[1], abs=1e-8)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the header image_id,PredictionString"),
        ("image_id,prediction\n", "line 1: expected the header"),
        ("image_id,PredictionString\nb,14 1 0 0 1 1,7\n", "line 2: has 3 columns"),
        ("image_id,PredictionString\nz,14 1 0 0 1 1\n", "line 2: image 'z' is not among"),
        ("image_id,PredictionString\nb,14 1 0 0 1 1\nb,14 1 0 0 1 1\n", "line 3: image 'b' has a line already"),
        ("image_id,PredictionString\nb,14 1 0 0 1 1\n", "lacks 1 of 2 images, such as 'a'"),
        ("image_id,PredictionString\nb,\n", "line 2: the prediction string holds 0 words"),
        ("image_id,PredictionString\nb,14 1 0 0 1\n", "holds 5 words"),
        ("image_id,PredictionString\nb,x 1 0 0 1 1\n", "is not a class and five numbers"),
        ("image_id,PredictionString\nb,15 1 0 0 1 1\n", "class 15 is not in 0…14"),
        ("image_id,PredictionString\nb,0 1 0 0 1 1\n", "class 0 is not among the ground truth's"),
        ("image_id,PredictionString\nb,8 1.5 0 0 1 1\n", "score outside 0…1"),
        ("image_id,PredictionString\nb,8 nan 0 0 1 1\n", "score outside 0…1"),
        ("image_id,PredictionString\nb,8 0.5 0 0 inf 1\n", "corner that is not finite"),
        ("image_id,PredictionString\nb,8 0.5 9 0 8 1\n", "is inverted"),
        ("image_id,PredictionString\nb,8 0.5 0 0 201.5 1\n", "leaves its image of 200 x 160 by 1.5 px"),
        ("image_id,PredictionString\nb,14 1 0 0 2 2\n", "'No finding' must stand once"),
        ("image_id,PredictionString\nb,14 1 0 0 1 1 14 1 0 0 1 1\n", "'No finding' must stand once"),
    ],
)
def test_the_parser_is_strict(tmp_path, text, message):
    path = tmp_path / "s.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        read_submission(path, make_truth())
    assert message in str(caught.value)
    assert "s.csv" in str(caught.value)


def test_blanks_anywhere_and_a_pixel_beyond_the_border_are_read(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(
        "image_id,PredictionString\nb ,  8 0.5  -1 0 200.5 161\t3 0.4 10 10 10 20 14 0.7 0 0 1 1.0 \na,14 1 0 0 1 1 \n",
        encoding="utf-8",
    )
    back = read_submission(path, make_truth())
    assert back.detections == [
        {"image_id": 9, "category_id": 5, "bbox": [0, 0, 100, 80], "score": 0.5},
        {"image_id": 9, "category_id": 6, "bbox": [5, 5, 0, 5], "score": 0.4},
    ]
    assert back.clipped == 1
    assert back.p_no_finding == {9: 0.7, 2: 1}


def test_a_detection_wholly_outside_is_left_out_and_not_moved_to_a_corner(tmp_path):
    path = tmp_path / "s.csv"
    beyond = [[120, 90, 10, 10], [-20, 5, 20, 5], [5, -9, 5, 8], [100, 10, 5, 5]]
    count = write_submission(path, make_truth(), [entry(box) for box in [*beyond, [95, 70, 20, 20]]], np.zeros(2))
    assert count == 4
    assert path.read_text() == ("image_id,PredictionString\nb,8 0.5 190 140 200 160 14 1 0 0 1 1\na,14 1 0 0 1 1\n")


def test_an_image_that_is_named_twice_is_refused(tmp_path):
    """The last of two in findings.json was submitted, without a word; a sample with two ended in a traceback."""
    image = {
        "image_id": "a",
        "height": 9,
        "width": 9,
        "p_abnormal": 0.5,
        "model_id": "m",
        "warnings": [],
        "findings": [],
    }
    for count in (1, 2):
        (tmp_path / "findings.json").write_text(json.dumps({"labels": ["ILD"], "images": [image] * count}))
        if count == 1:
            truth, _, p_abnormal = read_findings(tmp_path)
    with pytest.raises(DatasetError, match=r"findings\.json: names image 'a' more than once"):
        read_findings(tmp_path)
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("image_id,PredictionString\n" + "a,14 1 0 0 1 1\n" * 2)
    with pytest.raises(DatasetError, match=r"sample_submission\.csv: names image 'a' more than once"):
        images_of_sample(sample, truth, p_abnormal)


def test_what_cannot_be_submitted_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(DatasetError, match="'Tumour' is not among the competition's 14 classes"):
        submit(tmp_path / "s.csv", [], truth=make_truth(("Cardiomegaly", "Tumour")))
    truth = make_truth()
    del truth["images"][1]["original_width"]
    with pytest.raises(DatasetError, match="image 2: has no original_width"):
        submit(tmp_path / "s.csv", [], truth=truth)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "s.csv").write_text("image_id,PredictionString\n")
    del truth["images"][0]["image_id"]
    with pytest.raises(DatasetError, match="image 9: has no image_id"):
        read_submission(tmp_path / "s.csv", truth)
