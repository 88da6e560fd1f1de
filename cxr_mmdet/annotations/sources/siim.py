"""SIIM's two sets: COVID-19 boxes (SIIM-FISABIO-RSNA) and pneumothorax masks (SIIM-ACR)."""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat
from cxr_mmdet.annotations.sources.geometry import relative_rle_extent
from cxr_mmdet.annotations.sources.rows import NO_BOX, box_columns, find_csv, looked_for, read_cells, source_of
from cxr_mmdet.annotations.table import SIZE_COLUMNS
from cxr_mmdet.errors import counted
from cxr_mmdet.structures.labels import NO_FINDING

if TYPE_CHECKING:
    from pathlib import Path

    from cxr_mmdet.structures.detections import Box

COVID_HEADER = ("id", "boxes", "label", "StudyInstanceUID")
STUDY_FILE = "train_study_level.csv"
NEGATIVE = "Negative for Pneumonia"
OPACITY = "opacity"
NONE_BOX = (0.0, 0.0, 1.0, 1.0)

PNEUMOTHORAX = "Pneumothorax"
MASK_HEADER = ("ImageId", "EncodedPixels")
MASK_SIZE_HW = (1024, 1024)


def read_covid(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of ``train_image_level.csv``, without images that nobody read though their study is positive.

    Raises:
        TableError: a cell of ``label`` or ``boxes`` cannot be read, or they differ in the number of boxes.
    """
    cells, check = read_cells(path, COVID_HEADER)
    drawn = [_covid_boxes(label, boxes) for label, boxes in zip(cells["label"], cells["boxes"], strict=True)]
    check.refuse(
        [found is None for found in drawn],  # type: ignore[arg-type]
        lambda i: (
            f"label is {cells['label'][i]!r} and boxes {cells['boxes'][i]!r}; expected 'opacity 1 x_min y_min x_max "
            "y_max' for each of the boxes, or 'none 1 0 0 1 1'."
        ),
    )
    cells = cells.assign(image_id=cells["id"].str.removesuffix("_image"), group=cells["StudyInstanceUID"])
    cells["box"] = pd.Series([found or [NO_BOX] for found in drawn])
    has_box = cells["box"].map(lambda found: found[0] is not NO_BOX)
    # In a study of several images one was drawn on; the others repeat it, and nobody drew there.
    in_marked_study = cells["group"].isin(cells.loc[has_box, "group"])
    unread = ~has_box & in_marked_study & ~cells["group"].isin(_negative_studies(path.with_name(STUDY_FILE)))
    notes = []
    if unread.any():
        notes.append(
            f"{counted(int(unread.sum()), 'image')} without a box, such as {cells.loc[unread, 'image_id'].iloc[0]}, in "
            "a study whose boxes were drawn on another image: unknown, so left out."
        )
    raw = cells[~unread].explode("box").reset_index(drop=True)
    raw = raw.assign(
        class_name=[NO_FINDING if box is NO_BOX else OPACITY for box in raw["box"]], **box_columns(raw["box"].tolist())
    )
    source = source_of(path, raw, options, classes=[OPACITY], notes=notes)
    return looked_for(replace(source, unread=tuple(cells.loc[unread, "image_id"])), [OPACITY])


def _covid_boxes(label: str, boxes: str) -> list[Box] | None:
    """Return the boxes that a cell names; None where it cannot be read."""
    words = label.split()
    found: list[Box] = []
    try:
        for first in range(0, len(words), 6):
            name, _, *corners = words[first : first + 6]
            x_min, y_min, x_max, y_max = map(float, corners)
            if name == OPACITY:
                found.append((x_min, y_min, x_max, y_max))
            elif name != "none" or (x_min, y_min, x_max, y_max) != NONE_BOX or len(words) > len(NONE_BOX) + 2:
                return None
        listed: Any = ast.literal_eval(boxes) if boxes else []
        return found if words and len(listed) == len(found) else None
    except (ValueError, SyntaxError, TypeError):
        return None


def _negative_studies(path: Path) -> set[str]:
    """Return the studies of the study-level file without an appearance of pneumonia; empty without that file."""
    if find_csv(path, ("id", NEGATIVE)) is None:
        return set()
    cells, _ = read_cells(path, ("id", NEGATIVE))
    return set(cells.loc[cells[NEGATIVE].isin(["1", "1.0"]), "id"].str.removesuffix("_study"))


def read_pneumothorax(path: Path, options: ReadOptions) -> Source:
    """Return a box around each region of ``train-rle.csv``; several rows of an image are several regions.

    Raises:
        TableError: a row is no relative run-length encoding of a mask of 1024 x 1024.
    """
    cells, check = read_cells(path, MASK_HEADER)
    cells = cells.rename(columns={"EncodedPixels": "mask"})
    boxes = [_mask_box(text) for text in cells["mask"]]
    check.refuse(
        [box is None for box in boxes],  # type: ignore[arg-type]
        lambda i: (
            f"EncodedPixels begins with {cells['mask'][i][:30]!r}; expected -1, or pairs of a gap and a length within "
            f"{MASK_SIZE_HW[1]} x {MASK_SIZE_HW[0]} pixels, column by column."
        ),
    )
    raw = cells.drop(columns="mask").assign(
        image_id=cells["ImageId"],
        class_name=[NO_FINDING if box is NO_BOX else PNEUMOTHORAX for box in boxes],
        **box_columns(boxes),
        **dict(zip(SIZE_COLUMNS, MASK_SIZE_HW, strict=True)),
    )
    return looked_for(source_of(path, raw, options, classes=[PNEUMOTHORAX]), [PNEUMOTHORAX])


def _mask_box(text: str) -> Box | None:
    if text == "-1":
        return NO_BOX
    try:
        return relative_rle_extent([int(word) for word in text.split()], MASK_SIZE_HW)
    except ValueError:
        return None


FORMATS = (
    SourceFormat(
        name="siim-covid",
        title="SIIM-FISABIO-RSNA COVID-19 boxes",
        recognise=partial(find_csv, header=COVID_HEADER),
        read=read_covid,
        coverage_rule="Every image was read for opacities of pneumonia alone, so none is known to be a normal chest; "
        "an image without a box whose study has boxes on another image was not read.",
        looks_for=f"train_image_level.csv with {', '.join(COVID_HEADER)}",
    ),
    SourceFormat(
        name="siim-acr",
        title="SIIM-ACR Pneumothorax masks",
        recognise=partial(find_csv, header=MASK_HEADER),
        read=read_pneumothorax,
        coverage_rule="Every image with a row was read for pneumothorax alone; -1 is its absence, no normal chest.",
        looks_for=f"train-rle.csv with {', '.join(MASK_HEADER)}",
    ),
)
