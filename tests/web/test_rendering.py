"""What the page shows is the radiograph: the right part, from full depth, with the findings that are in it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_builders import make_room, phantom_dicom

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.viewing import Window
from cxr_mmdet.structures.labels import LABELS_5
from cxr_mmdet.web.cases import Filter, Look
from cxr_mmdet.web.examples import draw_examples
from cxr_mmdet.web.markup import findings_html, viewer_html
from cxr_mmdet.web.rendering import MAX_ZOOM, render_case, render_overlay, visible_part
from cxr_mmdet.web.uploads import Upload


@pytest.fixture(scope="module")
def opened():
    room = make_room()
    (case,), problems = room.open_uploads([Upload("a.dicom", phantom_dicom())], Filter(0.5, 0.5))
    assert not problems
    yield case
    room.close()


@pytest.fixture
def case(opened):
    opened.filter, opened.look = Filter(0.5, 0.5), Look()
    return opened


def decoded(jpeg: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.floats(0.1, 20),
    st.tuples(st.floats(-1, 2), st.floats(-1, 2)),
)
def test_a_part_lies_within_the_radiograph(size_hw, zoom, center):
    part = visible_part(size_hw, Look(zoom=zoom, center=center))
    height, width = size_hw
    assert 0 <= part.left < part.right <= width
    assert 0 <= part.top < part.bottom <= height
    zoom = min(max(zoom, 1), MAX_ZOOM)
    assert part.size_hw == (max(1, round(height / zoom)), max(1, round(width / zoom)))


def test_without_zoom_all_of_it_is_shown():
    part = visible_part((300, 200), Look(center=(0.0, 1.0)))
    assert (part.left, part.top, part.right, part.bottom) == (0, 0, 200, 300)


@pytest.mark.parametrize(
    "look",
    [Look(), Look(zoom=2.0, center=(0.2, 0.9)), Look(window=Window(6000, 5000)), Look(invert=True, zoom=8.0)],
    ids=["own", "zoomed", "windowed", "inverted"],
)
def test_the_original_is_the_part_of_the_radiograph(case, look):
    case.look = look
    images = render_case(case)
    part = visible_part(case.size_hw, look)
    pixels = case.decoded.viewable.render(look.window, invert=look.invert)[part.slices]
    expected = cv2.resize(pixels, images.size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    shown = decoded(images.original)
    assert shown.shape[:2] == images.size_hw
    assert np.abs(shown[..., 0].astype(int) - expected).mean() < 1.5


def test_findings_are_drawn_where_they_are_and_only_there(case):
    images = render_case(case)
    assert len(list(case.findings())) > 2
    changed = np.abs(decoded(images.overlay).astype(int) - decoded(images.original)).max(axis=2) > 60
    assert changed.any()
    case.filter = Filter(0.5, 0.5, frozenset(case.candidates.model.class_names))
    assert list(case.findings()) == []
    images = render_case(case)
    np.testing.assert_array_equal(decoded(images.overlay), decoded(images.original))


def test_an_image_without_a_box_says_how_many_lie_below_the_threshold(case):
    case.filter = Filter(1.0, 0.5)
    assert len(case.findings()) == 0
    images = render_case(case)
    added = np.abs(decoded(images.overlay).astype(int) - decoded(images.original)).max(axis=2) > 60
    assert added[:60, :300].any()
    assert not added[60:].any()


def test_the_overlay_to_take_along_is_what_predict_draws(case):
    case.filter = Filter(0.1, 0.5)
    expected = case.findings().draw(read_radiograph(phantom_dicom()).pixels, min_score=0.1)
    np.testing.assert_array_equal(render_overlay(case), expected)


def test_pixels_that_are_not_square_are_shown_as_they_are(case):
    radiograph = case.decoded.radiograph
    object.__setattr__(radiograph, "pixel_aspect", 2.0)
    try:
        height, width = render_case(case).size_hw
    finally:
        object.__setattr__(radiograph, "pixel_aspect", 1.0)
    assert height / width == pytest.approx(2 * case.size_hw[0] / case.size_hw[1], rel=0.01)


def test_every_finding_in_sight_can_be_clicked(case):
    text = viewer_html(case, next(iter(case.findings())).key)
    assert text.count("cxr-hit") == len(list(case.findings()))
    assert text.count("is-selected") == 1
    assert findings_html(case, None).count("<tr data-key") == len(list(case.findings()))
    case.look = Look(zoom=8.0, center=(0.0, 0.0))
    part = visible_part(case.size_hw, case.look)
    inside = [
        each for each in list(case.findings()) if each.box_xyxy[0] < part.right and each.box_xyxy[1] < part.bottom
    ]
    assert len(inside) < len(list(case.findings()))
    assert viewer_html(case, None).count("cxr-hit") == len(inside)


def test_names_of_files_are_text(case, monkeypatch):
    monkeypatch.setattr(case, "name", "<script>alert(1)</script>.dcm")
    assert "<script>" not in viewer_html(case, None)


def test_examples_are_drawn_by_program_and_can_be_opened():
    examples = draw_examples(LABELS_5, count=3, size=128)
    assert [example.title == "Healthy" for example in examples] == [False, False, True]
    assert [example.upload.name for example in examples] == [f"phantom-{i}.dicom" for i in (1, 2, 3)]
    for example in examples:
        assert min(read_radiograph(example.upload.content).size_hw) == 128
    assert draw_examples(("another",), count=1, size=128)[0].title != "Healthy"
