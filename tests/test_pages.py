"""Pages: one file, its images in it, colours that follow the reader's setting."""

import base64
import re
from xml.etree import ElementTree

import cv2
import jinja2
import numpy as np
import pytest

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.pages import (
    INK,
    figure_svg,
    format_number,
    format_percent,
    format_score,
    jpeg_uri,
    page_environment,
    read_grey_image,
    write_page,
)

PAGE = """{% extends "base.html" %}
{% block title %}{{ name }}{% endblock %}
{% block content %}<p>{{ name }}</p>{% endblock %}"""


def decode(uri):
    data = np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


@pytest.fixture
def templates(tmp_path):
    (tmp_path / "page.html").write_text(PAGE, encoding="utf-8")
    return tmp_path


def test_a_page_holds_its_style_and_loads_nothing(templates, tmp_path):
    write_page(tmp_path / "out.html", page_environment(templates).get_template("page.html"), name="Röntgen")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<title>Röntgen</title>" in page
    assert "<h1>Röntgen</h1>" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://|<link|@import|url\(", page)


def test_what_users_wrote_is_text(templates, tmp_path):
    write_page(tmp_path / "out.html", page_environment(templates).get_template("page.html"), name="<script>alert(1)")
    assert "<script>alert" not in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_a_missing_value_is_an_error(templates, tmp_path):
    with pytest.raises(jinja2.UndefinedError):
        write_page(tmp_path / "out.html", page_environment(templates).get_template("page.html"))
    assert not (tmp_path / "out.html").exists()


def test_numbers_as_people_read_them():
    assert (format_number(12345), format_score(0.31249), format_percent(0.425)) == ("12,345", "0.312", "42 %")
    assert {format_number(None), format_score(None), format_percent(None)} == {"n/a"}


def test_images_come_back_from_their_address():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert decode(jpeg_uri(red)).mean((0, 1)) == pytest.approx([0, 0, 200], abs=3)
    assert decode(jpeg_uri(np.full((16, 16), 90, np.uint8))).mean() == pytest.approx(90, abs=1)


def test_a_figure_follows_the_pages_colours():
    from matplotlib.figure import Figure

    def draw():
        figure = Figure(figsize=(4, 3))
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=INK["accent"])
        axes.set_title("Sensitivity", color=INK["text"])
        return figure_svg(figure, 'FROC "curve"')

    svg = str(draw())
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("aria-label") == 'FROC "curve"'
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "stroke: var(--accent)" in svg
    assert "Sensitivity</text>" in svg
    assert INK["accent"] not in svg
    # Same figure, same bytes; what identifies parts is made of their content, so two figures do not clash.
    assert svg == str(draw())
    assert not re.search(r'id="(figure|axes|patch|line2d)_\d', svg)


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    (tmp_path / "b.png").touch()
    for name in ("a.png", "b.png"):
        with pytest.raises(DatasetError, match=f"{name}: is not an image"):
            read_grey_image(tmp_path / name)
    with pytest.raises(DatasetError, match=r"c\.png: cannot be read"):
        read_grey_image(tmp_path / "c.png")
