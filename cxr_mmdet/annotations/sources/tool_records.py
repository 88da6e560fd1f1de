"""Records of annotation tools' files, and what these files have in common: extents, XML, splits, sizes, classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.sources.geometry import points_extent
from cxr_mmdet.annotations.sources.rows import NO_BOX, source_of
from cxr_mmdet.annotations.table import (
    ONE_READER,
    READER_COLUMN,
    REGION_COLUMN,
    REQUIRED_COLUMNS,
    SIZE_COLUMNS,
    class_names,
)
from cxr_mmdet.errors import TableError, counted
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, as_boxes
from cxr_mmdet.structures.coverage import Coverage
from cxr_mmdet.structures.labels import is_no_finding

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from cxr_mmdet.annotations.sources.base import ImageFinder, ReadOptions, Source

SPLITS = dict.fromkeys(("train", "training"), "train")
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "val") | {"test": "test", "testing": "test"}
"""Names of the sides of a split as tools write them, in lower case."""

PARTIAL_KEYS = {"unknown_classes": Coverage.UNKNOWN, "not_exhaustive_classes": Coverage.NOT_EXHAUSTIVE}
"""Keys of an image under which formats that allow further keys list the classes not looked for throughout."""

BORDER_PX = 0.5
"""Distance by which rounded fractions may carry a box beyond its image; it is cut there."""

DECIMALS = 6
"""Coordinates computed from fractions are rounded to this many decimals of a pixel, so that 271.5 stays 271.5."""


class Record(NamedTuple):
    """One box of a reader, or their statement that an image holds nothing.

    Attributes:
        image_id: name of the image.
        class_name: finding, or "No finding".
        place: where it stands, for messages.
        box_xyxy: in pixels of an image of ``size_hw``.
        reader: who drew it.
        is_region: a region to ignore.
        size_hw: height and width of the image that it was drawn on; 0 where that is not known.
    """

    image_id: str
    class_name: str
    place: Any
    box_xyxy: Sequence[float] = NO_BOX
    reader: str = ONE_READER
    is_region: bool = False
    size_hw: tuple[float, float] = (0, 0)


def source_of_records(
    path: Path,
    records: Sequence[Record],
    options: ReadOptions,
    *,
    classes: Iterable[str] = (),
    unit: str,
    notes: Iterable[str],
    **facts: Any,
) -> Source:
    """Return the source of a tool's records.

    Args:
        path: of the file or tree.
        records: of all images that were read.
        options: as the format's reader got them.
        classes: the file's classes in its order.
        unit: what places count.
        notes: what a user should know.
        facts: further attributes of the source.

    Raises:
        TableError: there is no record, or they contradict each other.
    """
    if not records:
        raise TableError(f"{path}: nobody has read an image of it yet; expected annotations of at least one.")
    frame = pd.DataFrame(
        [(*each[:2], *each.box_xyxy, each.reader, each.is_region, *each.size_hw, each.place) for each in records],
        columns=[*REQUIRED_COLUMNS, READER_COLUMN, REGION_COLUMN, *SIZE_COLUMNS, "line"],
    )
    frame[REGION_COLUMN] = frame[REGION_COLUMN].astype(int)
    frame[SIZE_COLUMNS] = frame[SIZE_COLUMNS].where(frame[SIZE_COLUMNS] > 0)
    named = list(classes)
    source = source_of(path, frame, options, classes=named, unit=unit, notes=notes)
    return replace(source, classes=tuple(name for name in named if not is_no_finding(name)), **facts)


def images_beside(images: ImageFinder, found: Mapping[str, Path | None]) -> dict[str, Path] | None:
    """Return the file of each image, and the other images of the tree, which nobody read; None without any."""
    named = {image_id: image for image_id, image in found.items() if image is not None}
    used = set(named.values())  # maybe under another name, such as a UID
    single = {image_id: paths[0] for image_id, paths in images.by_id.items() if len(paths) == 1}
    return {image_id: path for image_id, path in single.items() if path not in used} | named or None


def refuse_twins(image_ids: Iterable[tuple[str, Any]], path: Path, unit: str) -> None:
    """Refuse images of one id, such as those of one name in two folders.

    Raises:
        TableError: names two of them.
    """
    first: dict[str, Any] = {}
    for image_id, place in image_ids:
        other = first.setdefault(image_id, place)
        if other is not place:
            raise TableError(
                f"{path}: {unit} {other} and {unit} {place} are both image {image_id!r}; expected each name once over "
                "all folders, so rename one of them, here and on disk."
            )


def mask_extent(mask: NDArray[np.generic]) -> list[float] | None:
    """Return the box around all pixels of a (height, width) mask, which is one finding; None if it is empty."""
    rows, columns = np.nonzero(mask)
    x_min, y_min, x_max, y_max = points_extent(np.stack([columns, rows], axis=1))
    return [x_min, y_min, x_max + 1, y_max + 1] if len(rows) else None


def turned_extent(box_xyxy: Sequence[float], degrees: float, about_xy: ArrayLike) -> list[float]:
    """Return the box around a box that was turned clockwise, as seen on the screen, about a point."""
    if degrees % 360 == 0:
        return list(box_xyxy)
    x_min, y_min, x_max, y_max = box_xyxy
    about = np.asarray(about_xy)
    corners = np.array([(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max)]) - about
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return list(points_extent(corners @ np.array([[cosine, sine], [-sine, cosine]]) + about))


def turned_ellipse(centre_xy: ArrayLike, radii_xy: ArrayLike, degrees: float) -> list[float]:
    """Return the box around an ellipse that was turned clockwise about its centre."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    (major, minor), centre = np.asarray(radii_xy), np.asarray(centre_xy)
    half = np.hypot([major * cosine, major * sine], [minor * sine, minor * cosine])
    return [*(centre - half).tolist(), *(centre + half).tolist()]


def in_pixels(box_xyxy: ArrayLike, size_hw: tuple[float, float]) -> list[float]:
    """Return a box given in fractions of the image in its pixels, free of what rounding did to it."""
    limits = np.array([size_hw[1], size_hw[0]] * 2)
    pixels = np.round(np.asarray(box_xyxy) * limits, DECIMALS)
    inside = np.clip(pixels, 0, limits)
    return np.where(np.abs(pixels - inside) <= BORDER_PX, inside, pixels).tolist()


def boxes_in_fractions(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return the (N, 4) boxes of rows in fractions of the images that they were drawn on."""
    height, width = rows[SIZE_COLUMNS].to_numpy(np.float64).T
    return as_boxes(rows[XYXY_COLUMNS]) / np.stack([width, height, width, height], axis=1)


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file without a DTD.

    Raises:
        TableError: it is not such a file.
    """

    class Builder(ElementTree.TreeBuilder):
        def doctype(self, name: str, *_: object) -> None:
            raise TableError(f"{path}: declares a document type {name}, which annotations do not need; remove it.")

    try:
        return ElementTree.parse(path, ElementTree.XMLParser(target=Builder())).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError, LookupError) as error:
        raise TableError(f"{path}: is no whole XML file ({error}); export it again.") from None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without blanks around them.

    Raises:
        TableError: it is not UTF-8 text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: is not UTF-8 text ({error.reason}); save it in UTF-8.") from None


def numbers_of(texts: Sequence[Any], where: str, what: str) -> list[float]:
    """Return finite numbers.

    Raises:
        TableError: one is none.
    """
    numbers = []
    for text in texts:
        try:
            number = float(text)
        except (TypeError, ValueError):
            number = np.nan
        if not np.isfinite(number):
            raise TableError(f"{where}: {what} holds {text!r}, expected numbers.")
        numbers.append(number)
    return numbers


def left_out(counts: Counter[str], path: Path) -> list[str]:
    """Return a note for each kind of mark that is no box of a finding."""
    return [f"{counted(count, 'mark')} of {path.name} left out: {kind}." for kind, count in sorted((+counts).items())]


def classes_of(source: Source) -> list[str]:
    """Return the classes of a source: those with boxes by their class id, then those that were only looked for."""
    return list(dict.fromkeys([*class_names(source.rows), *source.looked_for]))


def partial_coverage(source: Source, image_id: str) -> dict[str, list[str]]:
    """Return the classes of an image that were not looked for, or not marked throughout, by their key."""
    if source.coverage is None or image_id not in source.coverage.index:
        return {}
    values = source.coverage.loc[image_id].to_dict()
    found = {key: [str(name) for name in values if values[name] == kind] for key, kind in PARTIAL_KEYS.items()}
    return {key: names for key, names in found.items() if names}
