import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mmdet import drawing
from cxr_mmdet.drawing import DASHES, PALETTE, add_footer, class_style, draw_boxes
from cxr_mmdet.structures.labels import LABELS_14


def make_radiograph(height=300, width=240, value=90):
    return np.full((height, width), value, np.uint8)


def colored(image):
    """Where the image is not grey."""
    return (image.max(axis=2) != image.min(axis=2)) | (image == 0).all(axis=2)


def extent(mask):
    """First and last column and row that hold something."""
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_nothing_to_draw_gives_the_radiograph_in_rgb():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = draw_boxes(pixels, [], [], None, LABELS_14)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.stack([pixels] * 3, axis=2))


def test_pixels_stay_as_they_are():
    pixels = make_radiograph()
    draw_boxes(pixels, [[10, 60, 90, 150]], [0], [0.5], LABELS_14)
    assert (pixels == 90).all()


def test_the_outline_covers_the_boxs_outermost_pixels_in_the_class_colour(monkeypatch):
    monkeypatch.setattr(drawing, "_draw_chip", lambda *_: None)
    image = draw_boxes(make_radiograph(), [[20, 60, 120, 200]], [3], None, LABELS_14)
    left, top, right, bottom = extent((image == PALETTE[3]).all(axis=2))
    assert (left, top, right, bottom) == (20, 60, 120 - 1, 200 - 1)
    assert (image[100:150, 40:100] == 90).all()


@pytest.mark.parametrize("long_edge", [150, 300, 900])
def test_boxes_follow_the_size_of_the_image(monkeypatch, long_edge):
    monkeypatch.setattr(drawing, "_draw_chip", lambda *_: None)
    image = draw_boxes(make_radiograph(), [[20, 60, 120, 200]], [3], None, LABELS_14, long_edge=long_edge)
    ratio = long_edge / 300
    assert image.shape == (long_edge, 240 * ratio, 3)
    drawn = extent((image == PALETTE[3]).all(axis=2))
    np.testing.assert_allclose(drawn, np.array([20, 60, 120, 200]) * ratio - [0, 0, 1, 1], atol=1)


def test_a_box_over_the_border_is_cut_there_and_stays_visible(monkeypatch):
    monkeypatch.setattr(drawing, "_draw_chip", lambda *_: None)
    image = draw_boxes(make_radiograph(), [[-50, -50, 500, 500]], [0], None, LABELS_14)
    assert extent((image == PALETTE[0]).all(axis=2)) == (0, 0, 239, 299)


def test_a_box_of_one_pixel_and_one_beyond_the_image_do_not_crash():
    for box in ([5, 5, 6, 6], [239, 299, 240, 300], [400, 400, 410, 410], [7, 7, 7, 7]):
        assert colored(draw_boxes(make_radiograph(), [box], [0], [1.0], LABELS_14)).any()
    assert draw_boxes(make_radiograph(1, 1), [[0, 0, 1, 1]], [0], [1.0], LABELS_14).shape == (1, 1, 3)


def test_the_highest_score_lies_on_top(monkeypatch):
    monkeypatch.setattr(drawing, "_draw_chip", lambda *_: None)
    box = [20, 60, 120, 200]
    for scores, top in (([0.9, 0.2], 0), ([0.2, 0.9], 4)):
        image = draw_boxes(make_radiograph(), [box, box], [0, 4], scores, LABELS_14)
        assert tuple(image[60, 70]) == PALETTE[top]


def test_names_and_scores_are_written_in_plain_letters(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, "_draw_chip", lambda canvas, chip, text, style: written.append(text))
    names = ("Épanchement", "Nodule/Mass", "气胸")
    boxes = [[10, 50, 60, 90], [100, 50, 160, 90], [10, 150, 60, 190]]
    draw_boxes(make_radiograph(), boxes, [0, 1, 2], [0.5, 0.256, 1], names)
    assert sorted(written) == ["Epanchement 0.50", "Nodule/Mass 0.26", "class 2 1.00"]
    written.clear()
    draw_boxes(make_radiograph(), boxes[:1], np.array([1]), None, names)
    assert written == ["Nodule/Mass"]


def record_chips(monkeypatch):
    chips = []
    monkeypatch.setattr(drawing, "_draw_chip", lambda canvas, chip, text, style: chips.append(chip))
    return chips


def shared(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    return max(0, width) * max(0, height)


def test_names_of_boxes_that_lie_on_each_other_do_not_collide(monkeypatch):
    chips = record_chips(monkeypatch)
    draw_boxes(make_radiograph(800, 800), [[200, 300, 500, 600]] * 5, range(5), [0.9, 0.8, 0.7, 0.6, 0.5], LABELS_14)
    assert len(chips) == 5
    assert not any(shared(one, other) for one, other in itertools.combinations(chips, 2))


def test_a_name_does_not_cover_a_nodule(monkeypatch):
    """The nodule lies where the name of the large box would go first."""
    chips = record_chips(monkeypatch)
    nodule = [205, 285, 225, 300]
    draw_boxes(make_radiograph(800, 800), [[200, 300, 500, 600], nodule], [3, 8], [0.9, 0.8], LABELS_14)
    assert not any(shared(chip, nodule) for chip in chips)


boxes = st.lists(
    st.tuples(*[st.floats(-30, 330, allow_nan=False)] * 4).map(
        lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(boxes, st.integers(10, 300), st.integers(10, 300))
def test_every_name_lies_inside_the_image_when_it_fits(boxes, height, width):
    with pytest.MonkeyPatch.context() as monkeypatch:
        chips = record_chips(monkeypatch)
        draw_boxes(make_radiograph(height, width), boxes, [8] * len(boxes), [0.5] * len(boxes), LABELS_14)
    assert len(chips) == len(boxes)
    for left, top, right, bottom in chips:
        assert left >= 0
        assert top >= 0
        assert right < width or left == 0
        assert bottom < height or top == 0


def test_styles_differ_for_every_class_and_then_repeat():
    styles = [class_style(label) for label in range(len(PALETTE) * len(DASHES))]
    assert len(set(styles)) == 21
    assert class_style(21) == styles[0]
    assert all(style.dash == "solid" for style in styles[:7])


def test_text_reads_on_every_colour():
    """WCAG 2 asks for a contrast of at least 4.5 between letters and ground."""
    for label in range(7):
        style = class_style(label)
        luminances = []
        for color in (style.color, style.text_color):
            c = np.array(color) / 255
            linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
            luminances.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
        assert max(luminances) / min(luminances) >= 4.5


def test_css_color_is_the_same_colour():
    assert class_style(0).css_color == "#e69f00"


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), np.zeros(4, np.uint8)])
def test_other_pixels_are_refused(pixels):
    with pytest.raises(ValueError, match=r"\(H, W\) uint8"):
        draw_boxes(pixels, [], [], None, LABELS_14)


@pytest.mark.parametrize("size_hw", [(300, 240), (16, 20), (40, 2000), (2000, 40), (2048, 1700)])
def test_a_footer_hides_nothing_and_is_written_in_full(monkeypatch, size_hw):
    """Whatever the shape of the image, each text ends before its border."""
    written = []
    put = drawing.cv2.putText
    monkeypatch.setattr(drawing.cv2, "putText", lambda *given: (written.append(given[1:5]), put(*given)))
    image = np.full((*size_hw, 3), 90, np.uint8)
    with_text = add_footer(image, ["AI result \N{EN DASH} research use only", "größer", "2026-01-02"])
    height, width = size_hw
    np.testing.assert_array_equal(with_text[:height, :width], image)
    assert (with_text[height:] > 200).any()
    assert " | ".join(text for text, *_ in written) == "AI result - research use only | groer | 2026-01-02"
    for text, (x, y), font, scale in written:
        (length, _), _ = drawing.cv2.getTextSize(text, font, scale, 1)
        assert x + length <= with_text.shape[1]
        assert y <= with_text.shape[0]
        assert not with_text[height:, -1].any()


def test_a_caption_stays_inside_a_narrow_image(monkeypatch):
    chips = []
    monkeypatch.setattr(drawing, "_draw_chip", lambda _, chip, text, __: chips.append((chip, text)))
    draw_boxes(make_radiograph(96, 80), [], [], None, LABELS_14, caption="no finding above 0.30")
    assert [text for _, text in chips] == ["no finding", "above 0.30"]
    assert all(right < 80 for (_, _, right, _), _ in chips)
