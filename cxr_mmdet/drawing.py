"""Boxes drawn on a radiograph: the one image that overlays, pages and DICOM Secondary Capture share."""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cxr_mmdet.structures.boxes import as_boxes, clip_to_image, scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Color = tuple[int, int, int]
    Rectangle = tuple[int, int, int, int]

PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
"""Okabe and Ito's colours (jfly.uni-koeln.de/color) that stand out on a radiograph: all but black, brightest first."""

DASHES = ("solid", "dashed", "dotted")
"""No 14 colours are told apart by everybody: after each round through the palette the line changes instead."""

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
HERSHEY_CAP_HEIGHT = 21
"""Height in pixels of a capital letter of that font at scale 1."""
MIN_LETTER_HEIGHT = 7
"""Height in pixels of the smallest legible capital letter of that font."""


@dataclass(frozen=True)
class ClassStyle:
    """Style of one class: an RGB colour and one of :data:`DASHES`, which are also CSS border styles."""

    color: Color
    dash: str

    @property
    def css_color(self) -> str:
        """The colour as ``#rrggbb``."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)

    @property
    def text_color(self) -> Color:
        """Black or white, whichever is read more easily on the colour (relative luminance of WCAG 2)."""
        linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in self.color]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        return BLACK if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else WHITE


def class_style(label: int) -> ClassStyle:
    """Return the style of the class with this index; styles repeat after 21 classes."""
    turn, place = divmod(label, len(PALETTE))
    return ClassStyle(color=PALETTE[place], dash=DASHES[turn % len(DASHES)])


def draw_boxes(
    pixels: NDArray[np.uint8],
    boxes_xyxy: ArrayLike,
    labels: Sequence[int] | NDArray[np.integer],
    scores: Sequence[float] | NDArray[np.floating] | None,
    class_names: Sequence[str],
    *,
    long_edge: int | None = None,
    caption: str | None = None,
) -> NDArray[np.uint8]:
    """Return the radiograph as RGB with every box outlined and named.

    Boxes reach to the last pixel they cover and are cut at the border. Each name stands at its box, beside other names
    as long as there is room; the highest score chooses first and lies on top.

    Args:
        pixels: (H, W) uint8, air black.
        boxes_xyxy: (N, 4), absolute pixels of ``pixels``.
        labels: (N,) indices into ``class_names``.
        scores: (N,), written behind the names, or ``None`` for ground truth.
        class_names: what to write, in label order. The font knows ASCII only: accents are dropped.
        long_edge: enlarge or shrink the image to this long edge before drawing; lines and letters follow its size.
        caption: ASCII text in the top left corner, in several lines where the image is narrow.

    Returns:
        (H', W', 3) uint8; ``pixels`` stays as it is.

    Raises:
        ValueError: ``pixels`` is not (H, W) uint8.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ValueError(f"draw_boxes takes (H, W) uint8 pixels, got {pixels.shape} {pixels.dtype}")
    canvas, factors = _resize(pixels, long_edge)
    size_hw = (canvas.shape[0], canvas.shape[1])
    boxes = clip_to_image(scale(as_boxes(boxes_xyxy), *factors), size_hw)
    rank = list(range(len(boxes)))
    if scores is not None:
        rank.sort(key=lambda i: -scores[i])
    rectangles = np.array([_covered_pixels(box, size_hw) for box in boxes], dtype=np.int64).reshape(-1, 4)
    texts = [_caption(class_names, label, None if scores is None else scores[i]) for i, label in enumerate(labels)]
    line = max(1, round(max(size_hw) / 320))
    for i in reversed(rank):
        _draw_rectangle(canvas, rectangles[i].tolist(), class_style(int(labels[i])), line)
    chips = np.zeros_like(rectangles)
    for place, i in enumerate(rank):
        chips[place] = _place_chip(rectangles, i, _chip_size(texts[i], size_hw), chips[:place], size_hw)
    for chip, i in reversed(list(zip(chips, rank, strict=True))):
        _draw_chip(canvas, chip.tolist(), texts[i], class_style(int(labels[i])))
    if caption is not None:
        width, height = _chip_size(caption, size_hw)
        for number, text in enumerate(textwrap.wrap(caption, max(1, len(caption) * size_hw[1] // width))):
            end, top = _chip_size(text, size_hw)[0], number * height
            _draw_chip(canvas, (0, top, end - 1, top + height - 1), text, ClassStyle(WHITE, DASHES[0]))
    return canvas


def add_footer(image: NDArray[np.uint8], texts: Sequence[str]) -> NDArray[np.uint8]:
    """Return an RGB image with texts on a black strip below it, where they hide nothing.

    They stand in one line or, where that is too long, in one line each. An image too narrow for legible letters gets
    black columns on its right.

    Args:
        image: (H, W, 3) uint8.
        texts: what to write. The font knows ASCII only: accents are dropped.
    """
    height, width = image.shape[:2]
    plain = [_ascii(text) for text in texts]
    largest = max(MIN_LETTER_HEIGHT, min(_letter_height((height, width)), min(height, width) // 16))
    caps = range(largest, MIN_LETTER_HEIGHT - 1, -1)
    choices = [(cap, lines) for lines in ([" | ".join(plain)], plain) for cap in caps]
    widths = [max(_text_width(line, cap) for line in lines) + 2 * cap for cap, lines in choices]
    fitting = [place for place, needed in enumerate(widths) if needed <= width]
    place = fitting[0] if fitting else -1
    cap, lines = choices[place]
    drawn = np.zeros((height + 2 * cap * len(lines), max(width, widths[place]), 3), np.uint8)
    drawn[:height, :width] = image
    for number, line in enumerate(lines):
        origin = (cap, height + 2 * cap * number + cap + (cap + 1) // 2)
        cv2.putText(drawn, line, origin, FONT, cap / HERSHEY_CAP_HEIGHT, WHITE, _stroke(cap), cv2.LINE_AA)
    return drawn


def _resize(pixels: NDArray[np.uint8], long_edge: int | None) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Return an RGB copy with this long edge, and the factors by which x and y grew."""
    height, width = pixels.shape
    if long_edge is not None:
        ratio = long_edge / max(height, width)
        size_wh = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        pixels = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    factors = (pixels.shape[1] / width, pixels.shape[0] / height)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), factors


def _covered_pixels(box_xyxy: NDArray[np.float64], size_hw: tuple[int, int]) -> Rectangle:
    """Return the first and last column and row (left, top, right, bottom) that the box covers, at least one each."""
    height, width = size_hw
    left, top = (min(round(float(low)), end - 1) for low, end in zip(box_xyxy[:2], (width, height), strict=True))
    right, bottom = (round(float(high)) - 1 for high in box_xyxy[2:])
    return left, top, max(left, right), max(top, bottom)


def _caption(class_names: Sequence[str], label: int, score: float | None) -> str:
    name = _ascii(class_names[label]) or f"class {label}"
    return name if score is None else f"{name} {score:.2f}"


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("\N{EN DASH}", "-"))
    return plain.encode("ascii", "ignore").decode().strip()


def _draw_rectangle(canvas: NDArray[np.uint8], rectangle: Rectangle, style: ClassStyle, line: int) -> None:
    """Draw the outline with a dark rim, so that it is seen on bone and on air alike."""
    left, top, right, bottom = rectangle
    # An outline is centred on its path; pushed in by half a line it stays inside the box, and in sight at the border.
    inset = min(line // 2, (right - left) // 2, (bottom - top) // 2)
    left, top, right, bottom = left + inset, top + inset, right - inset, bottom - inset
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    strokes = [stroke for start, end in pairwise(corners) for stroke in _strokes(start, end, style.dash, line)]
    for color, width in ((BLACK, line + 2), (style.color, line)):
        for start, end in strokes:
            cv2.line(canvas, start, end, color, width, cv2.LINE_8)


def _strokes(
    start: tuple[int, int], end: tuple[int, int], dash: str, line: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the pieces of an axis-parallel line that are drawn; both ends always are."""
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    piece = {"solid": length, "dashed": 7 * line, "dotted": line}[dash]
    pitch = {"solid": length, "dashed": 12 * line, "dotted": 5 * line}[dash]
    if length <= piece:
        return [(start, end)]
    step_x, step_y = np.sign(np.subtract(end, start)).tolist()
    firsts = np.linspace(0, length - piece, 1 + max(1, round((length - piece) / pitch))).round().astype(int)
    return [
        (
            (start[0] + step_x * first, start[1] + step_y * first),
            (start[0] + step_x * (first + piece), start[1] + step_y * (first + piece)),
        )
        for first in firsts.tolist()
    ]


def _letter_height(size_hw: tuple[int, int]) -> int:
    return max(MIN_LETTER_HEIGHT, round(max(size_hw) / 50))


def _chip_size(text: str, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of the filled rectangle that holds the text."""
    cap = _letter_height(size_hw)
    return _text_width(text, cap) + cap // 2 * 2, cap + 2 * (cap // 2)


def _text_width(text: str, cap: int) -> int:
    (width, _), _ = cv2.getTextSize(text, FONT, cap / HERSHEY_CAP_HEIGHT, _stroke(cap))
    return int(width)


def _stroke(cap: int) -> int:
    return max(1, round(cap / 9))


def _place_chip(
    rectangles: NDArray[np.int64],
    own: int,
    size_wh: tuple[int, int],
    taken: NDArray[np.int64],
    size_hw: tuple[int, int],
) -> NDArray[np.int64]:
    """Return where the name of box ``own`` goes: over as little of other names as possible, then over few boxes.

    Args:
        rectangles: (N, 4), all boxes.
        own: which of them is named.
        size_wh: of the name.
        taken: (M, 4), where names stand already.
        size_hw: of the image.
    """
    chips = _chip_candidates(rectangles[own].tolist(), size_wh, size_hw)
    hidden_names = _shared_pixels(chips, taken).sum(axis=1)
    widths, heights = (rectangles[:, 2:] - rectangles[:, :2] + 1).T
    hidden_boxes = (4 * _shared_pixels(chips, rectangles) > widths * heights).sum(axis=1)
    best: NDArray[np.int64] = chips[np.lexsort((hidden_boxes, hidden_names))[0]]
    return best


def _chip_candidates(rectangle: Rectangle, size_wh: tuple[int, int], size_hw: tuple[int, int]) -> NDArray[np.int64]:
    """Return (M, 4) where a box's name may stand, the best place first: above, below, inside from the top down."""
    width, height = size_wh
    left, top, right, bottom = rectangle
    lefts = (left, right + 1 - width, (left + right + 1 - width) // 2)
    tops = (top - height, bottom + 1, *range(top, max(top, bottom + 1 - height) + 1, height))
    x = np.clip(lefts, 0, max(0, size_hw[1] - width))
    y = np.clip(tops, 0, max(0, size_hw[0] - height))
    corners = np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)
    return np.hstack([corners, corners + np.array([width - 1, height - 1])])


def _shared_pixels(ones: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (M, N) how many pixels each of (M, 4) rectangles has in common with each of (N, 4) others."""
    firsts = np.maximum(ones[:, None, :2], others[None, :, :2])
    lasts = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(0, lasts - firsts + 1)
    shared: NDArray[np.int64] = sides[..., 0] * sides[..., 1]
    return shared


def _draw_chip(canvas: NDArray[np.uint8], chip: Rectangle, text: str, style: ClassStyle) -> None:
    left, top, right, bottom = chip
    cv2.rectangle(canvas, (left, top), (right, bottom), style.color, cv2.FILLED)
    cv2.rectangle(canvas, (left, top), (right, bottom), BLACK, 1)
    cap = _letter_height((canvas.shape[0], canvas.shape[1]))
    origin = (left + cap // 2, bottom - cap // 2)
    cv2.putText(canvas, text, origin, FONT, cap / HERSHEY_CAP_HEIGHT, style.text_color, _stroke(cap), cv2.LINE_AA)
