import cv2
import numpy as np
import pytest
from page_parser import Page

from cxr_mmdet.drawing import PALETTE
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.coco import evaluate_coco
from cxr_mmdet.evaluation.gallery import write_gallery

NAMES = ("Cardiomegaly", "ILD <b>", "Nodule/Mass")


@pytest.fixture
def study(tmp_path):
    """Three images of 80 by 100 pixels: a heart, a nodule, nothing; detections on all of them."""
    folder = tmp_path / "images"
    folder.mkdir()
    for image_id in (1, 2, 3):
        cv2.imwrite(str(folder / f"s{image_id}.png"), np.full((80, 100), 60, np.uint8))
    ground_truth = {
        "images": [{"id": i, "file_name": f"s{i}.png", "width": 100, "height": 80} for i in (1, 2, 3)],
        "categories": [{"id": 5 + i, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [20, 30, 50, 40]},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": [70, 20, 8, 8]},
        ],
    }
    detections = [
        {"image_id": 1, "category_id": 5, "bbox": [20, 30, 50, 40], "score": 0.875},
        {"image_id": 1, "category_id": 6, "bbox": [0, 0, 30, 30], "score": 0.29},
        {"image_id": 3, "category_id": 7, "bbox": [5, 40, 9, 9], "score": 0.3},
    ]
    return ground_truth, detections, folder


def write(tmp_path, study, **options):
    ground_truth, detections, folder = study
    options = {"scores": evaluate_coco(ground_truth, detections)} | options
    path = tmp_path / "page.html"
    write_gallery(path, ground_truth, detections, folder, **options)
    return Page(path.read_text(encoding="utf-8"))


def test_each_study_has_ground_truth_left_and_detections_right(tmp_path, study):
    page = write(tmp_path, study)
    assert [image["alt"] for image in page.images] == [
        "Ground truth: Cardiomegaly",
        "Detections: Cardiomegaly 0.88",
        "Ground truth: Nodule/Mass",
        "Detections: no boxes",
        "Ground truth: no boxes",
        "Detections: Nodule/Mass 0.30",
    ]
    assert "1 shown, 1 below the threshold" in page.texts


def test_images_are_the_radiographs_with_boxes_in_the_colour_of_the_class(tmp_path, study):
    page = write(tmp_path, study)
    image = page.pixels(0)
    assert image.shape == (720, 900, 3)  # 80 by 100 at nine times the size
    assert (int(page.images[0]["width"]), int(page.images[0]["height"])) == (900, 720)
    # The middle of the heart's lower edge, at y = 30 + 40; JPEG blurs colours a little.
    np.testing.assert_allclose(image[70 * 9 - 2, 45 * 9], PALETTE[0], atol=40)
    np.testing.assert_allclose(page.pixels(4), 60, atol=3)


def test_headline_table_and_notice(tmp_path, study):
    texts = write(tmp_path, study, title="Trial & error").texts
    assert "Trial & error" in texts
    assert texts[texts.index("mAP@.5") + 1] == "0.500"  # the heart is found, the nodule is not
    cells = [text for text in texts[texts.index("ILD <b>") + 1 :] if text]
    assert cells[:5] == ["n/a", "n/a", "n/a", "0", "1"]
    assert any("research use only" in text for text in texts)


def test_names_are_text_never_markup(tmp_path, study):
    page = write(tmp_path, study, title="<script>alert(1)</script>")
    assert "script" not in page.tags
    assert "b" not in page.tags


def test_the_page_asks_nothing_of_the_network(tmp_path, study):
    page = write(tmp_path, study)
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not any(word in text for word in ("http:", "https:", "@import", "url("))


def test_without_scores_there_is_no_table(tmp_path, study):
    page = write(tmp_path, study, scores=None)
    assert "table" not in page.tags
    assert len(page.images) == 6


def test_threshold_and_number_of_images_are_followed(tmp_path, study):
    page = write(tmp_path, study, images=1, score_threshold=0.2)
    assert [image["alt"] for image in page.images][1:] == ["Detections: Cardiomegaly 0.88, ILD <b> 0.29"]


def test_same_input_same_bytes(tmp_path, study):
    write(tmp_path, study)
    first = (tmp_path / "page.html").read_bytes()
    write(tmp_path, study)
    assert (tmp_path / "page.html").read_bytes() == first


@pytest.mark.parametrize(
    ("spoil", "message"), [(lambda p: p.unlink(), "cannot be read"), (lambda p: p.write_bytes(b""), "not an image")]
)
def test_an_image_that_is_missing_or_broken_is_named_and_nothing_is_written(tmp_path, study, spoil, message):
    spoil(study[2] / "s2.png")
    with pytest.raises(DatasetError, match=rf"s2\.png: .*{message}"):
        write(tmp_path, study)
    assert not (tmp_path / "page.html").exists()


def test_an_image_without_a_file_is_named(tmp_path, study):
    del study[0]["images"][1]["file_name"]
    with pytest.raises(DatasetError, match="image 2: has no file_name"):
        write(tmp_path, study)


def test_no_images_at_all_make_an_empty_page(tmp_path):
    empty = {"images": [], "categories": [], "annotations": []}
    page = write(tmp_path, (empty, [], tmp_path))
    assert page.images == []


def test_crowd_regions_are_named_as_such(study, tmp_path):
    ground_truth, detections, folder = study
    ground_truth["annotations"].append({"id": 3, "image_id": 1, "category_id": 7, "bbox": [0, 0, 99, 20], "iscrowd": 1})
    write_gallery(tmp_path / "g.html", ground_truth, detections, folder, scores=None, images=3)
    text = (tmp_path / "g.html").read_text(encoding="utf-8")
    assert "1 box, 1 region where detections do not count" in text
    assert "Nodule/Mass (region)" in text
