"""HTML pages in one self-contained file: the look they share, and images and figures inside them."""

from __future__ import annotations

import base64
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup, escape

from cxr_mmdet.drawing import class_style
from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.files import atomic_path

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

TEMPLATES = Path(__file__).parent / "templates"
"""``base.html``, which every page extends, its style, and ``macros.html``."""

UNDEFINED = "n/a"
JPEG_QUALITY = 88

INK = {"text": "#010203", "muted": "#010204", "line": "#010205", "card": "#010206", "accent": "#010207"}
"""Draw figures in these colours: :func:`figure_svg` replaces each by the page's CSS property of that name, which knows
light and dark."""

_SVG_ID = re.compile(r' id="[A-Za-z0-9]+(?:\.[a-z]+)?_\d+"')
"""matplotlib numbers its groups anew in each figure; two figures on a page would share the numbers."""


@dataclass(frozen=True)
class Panel:
    """One image: its heading, a note beside it, what a screen reader says, its data address and size in pixels."""

    title: str
    note: str
    alt: str
    uri: Markup
    width: int
    height: int


def page_environment(templates: Path | None = None) -> jinja2.Environment:
    """Return the environment that pages are rendered in; what a template leaves undefined is an error.

    A page starts with ``{% extends "base.html" %}`` and fills the blocks ``title``, ``lead``, ``style``, ``content``.
    Filters: ``number`` (12,345), ``score`` (0.123), ``percent`` (12 %), each n/a for None; ``counted(noun)`` (1 image,
    2 images). Function: ``swatch(label)``.

    Args:
        templates: a room's own folder, searched before the shared one.
    """
    folders = [TEMPLATES] if templates is None else [templates, TEMPLATES]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "score": format_score,
        "percent": format_percent,
        "counted": counted,
    }
    environment.globals["swatch"] = swatch
    return environment


def write_page(path: str | os.PathLike[str], template: jinja2.Template, **values: Any) -> None:
    """Render ``template`` and write it to ``path``, atomically."""
    page = template.render(**values)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def format_number(value: float | None) -> str:
    """Return a count with separators, or n/a for what is undefined."""
    return UNDEFINED if value is None else f"{value:,}"


def format_score(value: float | None) -> str:
    """Return three decimals, or n/a for what is undefined."""
    return UNDEFINED if value is None else f"{value:.3f}"


def format_percent(value: float | None) -> str:
    """Return a share as whole per cent, or n/a for what is undefined."""
    return UNDEFINED if value is None else f"{100 * value:.0f} %"


def swatch(label: int) -> Markup:
    """Return the line that stands for the class with this index on the images."""
    style = class_style(label)
    return Markup('<span class="swatch {}" style="color:{}"></span>').format(style.dash, style.css_color)


def jpeg_uri(pixels: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> Markup:
    """Return a ``data:`` address of the image for ``<img src>``; right for radiographs.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8.
        quality: 0…100.
    """
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    ok, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return Markup(f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}")


def figure_svg(figure: Figure, label: str) -> Markup:
    """Return a matplotlib figure as inline SVG that scales with the page and follows its colours.

    Args:
        figure: drawn in the colours of :data:`INK` and without a background; text stays text.
        label: what a screen reader says instead.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cxr_mmdet"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's browser has it
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = _SVG_ID.sub("", svg[svg.index("<svg") :])
    for name, color in INK.items():
        svg = svg.replace(color, f"var(--{name})")
    head, body = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return Markup(f'{head} class="figure" role="img" aria-label="{escape(label)}">{body}')


def read_grey_image(path: Path) -> NDArray[np.uint8]:
    """Return the (H, W) uint8 pixels of a prepared image.

    Raises:
        DatasetError: the file is missing or cannot be decoded.
    """
    try:
        # Read as bytes, because OpenCV cannot open every path on Windows.
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); is this the folder of the images?") from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DatasetError(f"{path}: is not an image that OpenCV can decode; prepare the data again.")
    return pixels.astype(np.uint8, copy=False)
