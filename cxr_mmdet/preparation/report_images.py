"""Images of a prepared folder's report: places on a mean radiograph, readers before and after fusion, duplicates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cxr_mmdet.annotations.split import order_of_groups
from cxr_mmdet.drawing import DASHES, PALETTE, draw_boxes
from cxr_mmdet.errors import counted
from cxr_mmdet.pages import Panel, jpeg_uri, read_grey_image
from cxr_mmdet.preparation.report_numbers import place_map
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, iou_matrix, xywh_to_xyxy
from cxr_mmdet.structures.coco import findings_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from markupsafe import Markup
    from numpy.typing import NDArray

    from cxr_mmdet.preparation.report_numbers import BoxColumns

MEAN_OF = 200
"""Radiographs behind the mean one; more change nothing that is seen."""
MEAN_SIDE = 192
STUDY_LONG_EDGE = 900
STUDY_QUALITY = 82
THUMBNAIL_LONG_EDGE = 320
MEETS = 0.4
CROWD = 16
"""Readers' boxes on a radiograph above which their names hide the image."""
CYCLE = len(PALETTE) * len(DASHES)
ONE_READER, SOME_READERS, ALL_READERS = 2 * len(PALETTE), 1, 2
"""Styles of fused boxes: dotted orange, blue, green."""


@dataclass(frozen=True)
class ReadersOfImage:
    """A radiograph with its readers' boxes and, where several read it, with their consensus."""

    image_id: str
    note: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class PlaceMap:
    """Map of the places of a class's boxes; ``peak`` is the largest share of them that cover one place."""

    label: int
    name: str
    boxes: int
    peak: float
    uri: Markup


def mean_radiograph(images: Sequence[Path]) -> NDArray[np.uint8]:
    """Return the (MEAN_SIDE, MEAN_SIDE) mean of some of the images, each stretched to a square."""
    by_name = {path.name: path for path in images}
    chosen = order_of_groups(by_name, seed=0)[:MEAN_OF]
    total = np.zeros((MEAN_SIDE, MEAN_SIDE))
    for name in chosen:
        pixels = read_grey_image(by_name[name])
        total += cv2.resize(pixels, (MEAN_SIDE, MEAN_SIDE), interpolation=cv2.INTER_AREA)
    return (total / max(1, len(chosen))).astype(np.uint8)


def place_maps(labels: Sequence[str], boxes: BoxColumns, mean: NDArray[np.uint8]) -> list[PlaceMap]:
    """Return a heat map on the mean radiograph for each class that has boxes."""
    maps = []
    for label, name in enumerate(labels):
        own = boxes.relative_xyxy[boxes.classes == label]
        if not len(own):
            continue
        heat = place_map(own, MEAN_SIDE)
        maps.append(PlaceMap(label, name, len(own), float(heat.max() / len(own)), jpeg_uri(_overlay(mean, heat))))
    return maps


def _overlay(grey: NDArray[np.uint8], heat: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the image as RGB, warmer and less transparent where ``heat`` is higher."""
    strength = heat / max(heat.max(), 1)
    colours = cv2.applyColorMap((55 + 200 * strength).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = (0.85 * np.sqrt(strength))[..., None]
    return ((1 - opacity) * grey[..., None] + opacity * colours).astype(np.uint8)


def lonely_boxes(rows: pd.DataFrame) -> dict[str, int]:
    """Return image → how many of its boxes no other reader of the image drew; images of one reader are left out.

    Args:
        rows: readers' rows, of the classes that count and of "No finding".
    """
    readers = rows.groupby("image_id")["reader"].nunique()
    shared = rows[rows["image_id"].map(readers).gt(1) & rows["x_min"].notna()]
    all_boxes = shared[XYXY_COLUMNS].to_numpy(np.float64)
    all_images, all_names = shared["image_id"].to_numpy(), shared["reader"].to_numpy()
    counts: dict[str, int] = {}
    for same in shared.groupby(["image_id", "class_name"]).indices.values():
        boxes, names = all_boxes[same], all_names[same]
        met = (iou_matrix(boxes, boxes) > MEETS) & (names[:, None] != names[None, :])
        image_id = str(all_images[same[0]])
        counts[image_id] = counts.get(image_id, 0) + int((~met.any(axis=1)).sum())
    return counts


def hardest_studies(
    labels: Sequence[str], rows: pd.DataFrame, cocos: Sequence[dict[str, Any]], folder: Path, count: int
) -> tuple[list[ReadersOfImage], list[str]]:
    """Return the radiographs on which readers agree least, the hardest first, and those too crowded to be shown.

    Args:
        labels: the classes.
        rows: the readers' rows under the names of the labels, in prepared pixels.
        cocos: the COCO files of the label set.
        folder: of the images.
        count: how many studies.
    """
    files = {image["image_id"]: (image, coco) for coco in cocos for image in coco["images"]}
    # Also where a reader drew nothing: those rows say who looked.
    own = rows[rows["image_id"].isin(files) & (rows["class_name"].isin(labels) | rows["x_min"].isna())]
    lonely = lonely_boxes(own)
    if not lonely:
        boxes = own.loc[own["x_min"].notna(), "image_id"].value_counts()
        lonely = {str(image_id): int(number) for image_id, number in boxes.items()}
    drawn = own.loc[own["x_min"].notna(), "image_id"].value_counts()
    ranked = sorted(lonely, key=lambda image_id: (-lonely[image_id], image_id))
    crowded = [image_id for image_id in ranked if drawn[image_id] > CROWD]
    chosen = [image_id for image_id in ranked if drawn[image_id] <= CROWD][:count]
    everybody = (
        rows[rows["image_id"].isin(chosen)]
        .groupby("image_id")["reader"]
        .agg(lambda names: sorted(set(names), key=natural_order))
    )
    studies = [
        _study(labels, own[own["image_id"] == image_id], everybody[image_id], *files[image_id], folder)
        for image_id in chosen
    ]
    return studies, crowded


def _study(
    labels: Sequence[str],
    rows: pd.DataFrame,
    readers: Sequence[str],
    image: dict[str, Any],
    coco: dict[str, Any],
    folder: Path,
) -> ReadersOfImage:
    pixels = read_grey_image(folder / image["file_name"])
    drawn = rows[rows["class_name"].isin(labels)]
    fused = [annotation for annotation in findings_of(coco) if annotation["image_id"] == image["id"]]
    alone = sum(annotation["votes"] == 1 for annotation in fused)
    place = {name: number for number, name in enumerate(readers)}
    by_reader = drawn["reader"].value_counts()
    before = _panel(
        "Readers' boxes",
        ", ".join(f"{reader} {int(by_reader.get(reader, 0))}" for reader in readers),
        pixels,
        drawn[XYXY_COLUMNS].to_numpy(np.float64),
        [f"{reader} {name}" for reader, name in zip(drawn["reader"], drawn["class_name"], strict=True)],
        [place[reader] % len(PALETTE) for reader in drawn["reader"]],
    )
    after = _panel(
        "Consensus",
        f"{counted(len(fused), 'box')}, {alone} of one reader only",
        pixels,
        xywh_to_xyxy([annotation["bbox"] for annotation in fused]),
        [f"{labels[annotation['category_id'] - 1]} {annotation['votes']}/{len(readers)}" for annotation in fused],
        [vote_style(annotation["votes"], len(readers)) for annotation in fused],
    )
    several = len(readers) > 1
    who = counted(len(readers), "reader") if several else readers[0]
    return ReadersOfImage(
        str(image["image_id"]), f"{who}, {counted(len(drawn), 'box')}", (before, after) if several else (before,)
    )


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return what sorts R8 before R10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def vote_style(votes: int, readers: int) -> int:
    """Return how a fused box is drawn: all readers behind it, some, or one."""
    if votes >= readers:
        return ALL_READERS
    return SOME_READERS if votes > 1 else ONE_READER


def _panel(
    title: str,
    note: str,
    pixels: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.float64],
    captions: Sequence[str],
    styles: Sequence[int],
) -> Panel:
    # draw_boxes knows one caption and one style a label; labels a whole cycle of styles apart look alike.
    names = [caption for caption in captions for _ in range(CYCLE)]
    numbers = [CYCLE * place + style for place, style in enumerate(styles)]
    image = draw_boxes(pixels, boxes_xyxy, numbers, None, names, long_edge=STUDY_LONG_EDGE)
    seen = ", ".join(captions) or "no boxes"
    uri = jpeg_uri(image, STUDY_QUALITY)
    return Panel(title, note, f"{title}: {seen}", uri, image.shape[1], image.shape[0])


def thumbnail(path: Path) -> Markup:
    """Return a small image of a radiograph for ``<img src>``."""
    pixels = read_grey_image(path)
    ratio = min(1.0, THUMBNAIL_LONG_EDGE / max(pixels.shape))
    size_wh = (max(1, round(pixels.shape[1] * ratio)), max(1, round(pixels.shape[0] * ratio)))
    return jpeg_uri(cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA), STUDY_QUALITY)
