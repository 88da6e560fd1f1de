"""Tables of corner, width and height, one row per box: NIH ChestX-ray14, RSNA Pneumonia, NODE21 and MS-CXR."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from cxr_mmdet.annotations.coco import read_coco_table
from cxr_mmdet.annotations.sources.base import ReadOptions, Source, SourceFormat
from cxr_mmdet.annotations.sources.rows import (
    box_columns,
    find_csv,
    find_json,
    found_only,
    looked_for,
    numbers,
    read_cells,
    read_json,
    source_of,
)
from cxr_mmdet.annotations.table import SIZE_COLUMNS
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.boxes import xywh_to_xyxy
from cxr_mmdet.structures.coverage import Coverage
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import image_id_of

if TYPE_CHECKING:
    from pathlib import Path

SIDE_PX = 1024
"""Height and width of the images of NIH, RSNA and NODE21."""

NIH_NAME = "subset_img_id"
"""In the mapping that RSNA published: its own name of an image, beside NIH's under ``img_id``."""

CLASS_INFO = "stage_2_detailed_class_info.csv"
CLASS_INFO_COLUMNS = ("patientId", "class")
RSNA_CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")


@dataclass(frozen=True)
class Layout:
    """Columns of a table and their meaning.

    Attributes:
        header: columns that tell the format.
        image: column of the image's file name or path.
        box_xywh: columns of the box.
        classes: the classes of the set in its order.
        class_column: column of the class; None where ``classes`` holds the only one.
        found: column that is 1 in rows with a box and 0 in those of images without one; None: every row has a box.
        size_columns: columns of height and width that the boxes were drawn on; empty where they are 1024.
        group: pattern whose first group is the patient in the image's name; empty where that is not known.
        unit: what each row is.
    """

    header: tuple[str, ...]
    image: str
    box_xywh: tuple[str, str, str, str]
    classes: tuple[str, ...]
    class_column: str | None = None
    found: str | None = None
    size_columns: tuple[str, ...] = ()
    group: str = ""


NIH_LAYOUT = Layout(
    header=("Image Index", "Finding Label"),
    image="Image Index",
    box_xywh=("x", "y", "w", "h"),
    classes=("Atelectasis", "Cardiomegaly", "Effusion", "Infiltrate", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    class_column="Finding Label",
    group=r"(?:^|/)(\d{8})_\d+[^/]*$",
)
RSNA_LAYOUT = Layout(
    header=("patientId", "x", "y", "width", "height", "Target"),
    image="patientId",
    box_xywh=("x", "y", "width", "height"),
    classes=("Lung Opacity",),
    found="Target",
)
NODE21_LAYOUT = Layout(
    header=("img_name", "label", "x", "y", "width", "height"),
    image="img_name",
    box_xywh=("x", "y", "width", "height"),
    classes=("Nodule",),
    found="label",
)
MS_CXR_LAYOUT = Layout(
    header=("category_name", "label_text", "x", "y", "w", "h", "image_width", "image_height"),
    image="path",
    box_xywh=("x", "y", "w", "h"),
    classes=(
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Lung Opacity",
        "Pleural Effusion",
        "Pneumonia",
        "Pneumothorax",
    ),
    class_column="category_name",
    size_columns=("image_height", "image_width"),
    group=r"(?:^|/)p\d\d/(p\d+)/",
)


def _source(path: Path, options: ReadOptions, layout: Layout) -> tuple[pd.DataFrame, Source]:
    cells, check = read_cells(path, (*layout.header, layout.image))
    if layout is NIH_LAYOUT:
        # The header's "Bbox [x,y,w,h]" is four cells, or one where a program quoted it.
        names = [*layout.header, *layout.box_xywh]
        further = cells.shape[1] - len([*names, "line"])
        if further < 0 or list(cells.columns[:2]) != list(layout.header):
            raise TableError(f"{path}, line 1: expected Image Index,Finding Label,Bbox [x,y,w,h] in this order.")
        cells = cells.set_axis([*names, *map(str, range(further)), "line"], axis=1)
    check.refuse(cells[layout.image] == "", f"{layout.image} is empty; expected a name in every row.")
    found = pd.Series(True, index=cells.index)
    if layout.found:
        said = pd.to_numeric(cells[layout.found], errors="coerce")
        check.refuse(~said.isin([0, 1]), lambda i: f"{layout.found} is {cells[layout.found][i]!r}, expected 0 or 1.")
        found = said == 1
        # NODE21 writes zeros where there is no box, RSNA nothing.
        drawn = cells[list(layout.box_xywh)].apply(pd.to_numeric, errors="coerce").fillna(0).any(axis=1)
        check.refuse(~found & drawn, f"{layout.found} is 0, but the row has a box; correct one of them.")
    boxes_xyxy = xywh_to_xyxy(numbers(cells, layout.box_xywh, check, where=found))
    classes = cells[layout.class_column] if layout.class_column else pd.Series(layout.classes[0], index=cells.index)
    raw = cells.drop(columns=list(layout.box_xywh)).assign(
        image_id=cells[layout.image].map(image_id_of),
        class_name=classes.where(found, NO_FINDING),
        **box_columns(boxes_xyxy),
        **dict.fromkeys(SIZE_COLUMNS, SIDE_PX),
    )
    if layout.size_columns:
        raw[SIZE_COLUMNS] = numbers(cells, layout.size_columns, check).to_numpy()
    if layout.group:
        raw["group"] = cells[layout.image].str.extract(layout.group, expand=False).fillna(raw["image_id"])
    source = source_of(path, raw, options, classes=layout.classes)
    return cells.assign(image_id=raw["image_id"]), replace(source, patient_pattern=layout.group)


def read_nih(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of ``BBox_List_2017.csv``: one disease at a time was asked for on each image."""
    _, source = _source(path, options, NIH_LAYOUT)
    return found_only(source, Coverage.NOT_EXHAUSTIVE)


def read_node21(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of NODE21's ``metadata.csv``."""
    _, source = _source(path, options, NODE21_LAYOUT)
    return looked_for(source, NODE21_LAYOUT.classes)


def find_ms_cxr(place: Path) -> Path | None:
    """Return MS-CXR's CSV file, else its COCO file, whose annotations hold phrases."""
    return find_csv(place, MS_CXR_LAYOUT.header) or find_json(place, r'"(label_text|num_annotations)"\s*:')


def read_ms_cxr(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of MS-CXR; two phrases with one box are one row."""
    if path.suffix == ".json":
        rows = read_coco_table(path, group_column=options.group_column, notes=options.notes)
        rows = rows[rows["class_name"] != NO_FINDING].reset_index(drop=True)
        return found_only(Source(path, rows, "annotation", unread_is_known=True), Coverage.NOT_EXHAUSTIVE)
    cells, source = _source(path, options, MS_CXR_LAYOUT)
    split = dict(zip(cells["image_id"], cells["split"].str.lower(), strict=True)) if "split" in cells else None
    return replace(found_only(source, Coverage.NOT_EXHAUSTIVE), split=split)


def _nih_patients(image_ids: pd.Series, mapping: Path) -> pd.Series:
    """Return the patients under their numbers in NIH ChestX-ray14, of which RSNA's images are a part."""
    entries = read_json(mapping, list, f"list of objects with {NIH_NAME} and img_id")
    names = {str(entry.get(NIH_NAME)): str(entry.get("img_id")) for entry in entries if isinstance(entry, dict)}
    patients = image_ids.map(names).str.extract(NIH_LAYOUT.group, expand=False)
    return patients.fillna(image_ids)


def read_rsna(path: Path, options: ReadOptions) -> Source:
    """Return the boxes of ``stage_2_train_labels.csv``; the file of classes beside it tells normal chests."""
    _, source = _source(path, options, RSNA_LAYOUT)
    mapping = find_json(path.parent, f'"{NIH_NAME}"')
    if mapping and not options.group_column:
        source = replace(source, rows=source.rows.assign(group=_nih_patients(source.rows["image_id"], mapping)))
    beside = find_csv(path.parent, CLASS_INFO_COLUMNS)
    if beside is None:
        note = f"no {CLASS_INFO} beside {path.name}: which images without an opacity are normal chests is unknown."
        return looked_for(replace(source, notes=(*source.notes, note)), RSNA_LAYOUT.classes)
    cells, check = read_cells(beside, CLASS_INFO_COLUMNS)
    check.refuse(
        ~cells["class"].isin(RSNA_CLASSES),
        lambda i: f"class is {cells['class'][i]!r}, expected one of {', '.join(RSNA_CLASSES)}.",
    )
    with_boxes = set(source.rows.loc[source.rows["class_name"] != NO_FINDING, "image_id"])
    read = set(source.rows["image_id"])
    named = cells["patientId"]
    check.refuse(
        named.isin(read) & (named.isin(with_boxes) != (cells["class"] == "Lung Opacity")),
        lambda i: f"class is {cells['class'][i]!r}, but {path.name} says otherwise of {named[i]}; correct one of them.",
    )
    return looked_for(source, RSNA_LAYOUT.classes, normal=named[cells["class"] == "Normal"])


FORMATS = (
    SourceFormat(
        name="nih",
        title="NIH ChestX-ray14 boxes",
        recognise=partial(find_csv, header=NIH_LAYOUT.header),
        read=read_nih,
        coverage_rule="An image without a row is unknown, and so is every class without a box on an image with rows: "
        "the radiologist was asked for one instance of one disease per image, so even that class may have more.",
        looks_for="BBox_List_2017.csv with Image Index, Finding Label, Bbox [x,y,w,h]",
    ),
    SourceFormat(
        name="rsna",
        title="RSNA Pneumonia boxes",
        recognise=partial(find_csv, header=RSNA_LAYOUT.header),
        read=read_rsna,
        coverage_rule="Every image with a row was read for Lung Opacity alone; Target 0 is its absence, and only the "
        f"class Normal of {CLASS_INFO} is a normal chest, because Not Normal holds findings of other kinds.",
        looks_for=f"stage_2_train_labels.csv with {', '.join(RSNA_LAYOUT.header)}",
    ),
    SourceFormat(
        name="node21",
        title="NODE21 boxes",
        recognise=partial(find_csv, header=NODE21_LAYOUT.header),
        read=read_node21,
        coverage_rule="Every image was read for nodules alone; label 0 is their absence, not a normal chest.",
        looks_for=f"metadata.csv with {', '.join(NODE21_LAYOUT.header)}",
    ),
    SourceFormat(
        name="ms-cxr",
        title="MS-CXR boxes",
        recognise=find_ms_cxr,
        read=read_ms_cxr,
        coverage_rule="Only the classes with a box are known, and not exhaustively: boxes were drawn for chosen "
        "phrases of a report, and nothing is said of what the other phrases name.",
        looks_for=f"a CSV with {', '.join(MS_CXR_LAYOUT.header)}",
    ),
)
