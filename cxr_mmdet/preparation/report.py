"""``report.html`` of a prepared folder: one page, shown to whoever wants to know what the data is like."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cxr_mmdet.annotations.placement import scale_to_prepared
from cxr_mmdet.annotations.table import merge_classes, without_regions
from cxr_mmdet.files import plain_cell
from cxr_mmdet.pages import page_environment, write_page
from cxr_mmdet.preparation.folder import FAILURES_NAME, IMAGES
from cxr_mmdet.preparation.prepared import PreparedFolder
from cxr_mmdet.preparation.report_images import (
    CROWD,
    hardest_studies,
    mean_radiograph,
    place_maps,
    thumbnail,
)
from cxr_mmdet.preparation.report_numbers import (
    BoxColumns,
    class_rows,
    company,
    normal_share,
    reader_rows,
    size_rows,
)

if TYPE_CHECKING:
    from markupsafe import Markup
    from numpy.typing import NDArray

    from cxr_mmdet.preparation.label_sets import LabelSet
    from cxr_mmdet.preparation.report_images import PlaceMap, ReadersOfImage
    from cxr_mmdet.preparation.report_numbers import ClassRow, ReaderRow, SizeRow

REPORT_NAME = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
STUDIES = 8
SHOWN_NEAR_DUPLICATES = 6
SHOWN_FAILURES = 50
SHOWN_WARNINGS = 12
MATRIX_READERS = 12
"""The matrix of readers shows those who drew most."""


@dataclass(frozen=True)
class _LabelSetPage:
    """Content of the page for one label set."""

    label_set: LabelSet
    counts: dict[str, Any]
    classes: list[ClassRow]
    readers: list[ReaderRow]
    company_images: NDArray[Any]
    company: NDArray[Any]
    sizes: list[SizeRow]
    places: list[PlaceMap]
    studies: list[ReadersOfImage]
    crowded: list[str]
    pair_f1: dict[tuple[str, str], dict[str, Any]]
    matrix_readers: list[str]


@dataclass(frozen=True)
class _PairImages:
    first: str
    second: str
    distance: int
    across: bool
    uris: tuple[Markup, Markup]


def write_report(folder: Path, manifest: dict[str, Any] | None = None) -> Path:
    """Write ``report.html`` into a prepared folder and return its path.

    Args:
        folder: the prepared folder.
        manifest: of a folder that is being finished; by default the one in it.

    Raises:
        DatasetError: the folder is not finished, or an image is missing.
    """
    prepared = PreparedFolder.load(folder, manifest)
    rows = without_regions(prepared.rows)
    rows = rows[rows["image_id"].isin(prepared.images)]
    rows = scale_to_prepared(
        rows,
        {name: image.original_size_hw for name, image in prepared.images.items()},
        {name: image.size_hw for name, image in prepared.images.items()},
    )
    mean = mean_radiograph([image.path for image in prepared.images.values()])
    pages = [
        _label_set_page(prepared, label_set, rows, mean, studies=STUDIES if number == 0 else 0)
        for number, label_set in enumerate(prepared.label_sets)
    ]
    warnings = Counter(warning for image in prepared.images.values() for warning in image.warnings)
    near_duplicates = prepared.manifest.get("near_identical", [])
    target = folder / REPORT_NAME
    write_page(
        target,
        page_environment(TEMPLATES).get_template("report.html"),
        manifest=prepared.manifest,
        pages=pages,
        normal_share=normal_share(rows),
        readers_boxes=int(rows["x_min"].notna().sum()),
        notes=[note for notes in prepared.manifest.get("notes", {}).values() for note in notes],
        failures=_failures(folder / FAILURES_NAME),
        shown_failures=SHOWN_FAILURES,
        warnings=warnings.most_common(SHOWN_WARNINGS),
        near_duplicate_count=len(near_duplicates),
        near_duplicates=[_pair_images(pair, prepared) for pair in near_duplicates[:SHOWN_NEAR_DUPLICATES]],
        crowd=CROWD,
    )
    return target


def _label_set_page(
    prepared: PreparedFolder, label_set: LabelSet, rows: pd.DataFrame, mean: NDArray[Any], *, studies: int
) -> _LabelSetPage:
    labels = label_set.labels
    own = merge_classes(rows, label_set.label_map)
    cocos = [prepared.coco(split, label_set.name) for split in ("train", "val")]
    boxes = BoxColumns.of(cocos)
    counts = prepared.manifest["label_sets"][label_set.name]
    images, together = company(labels, boxes)
    kept = {image["image_id"] for coco in cocos for image in coco["images"]}
    own = own[own["image_id"].isin(kept)]
    readers = reader_rows(labels, own)
    shown, crowded = hardest_studies(labels, own, cocos, prepared.path / IMAGES, studies) if studies else ([], [])
    return _LabelSetPage(
        label_set=label_set,
        counts=counts,
        classes=class_rows(labels, own, boxes, counts),
        readers=readers,
        company_images=images,
        company=together,
        sizes=size_rows(labels, boxes),
        places=place_maps(labels, boxes, mean),
        studies=shown,
        crowded=crowded,
        pair_f1=_pair_f1(counts.get("agreement")),
        matrix_readers=[row.name for row in readers if row.total][:MATRIX_READERS],
    )


def _pair_f1(agreement: dict[str, Any] | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the pairs of readers both ways round."""
    pairs = agreement["pairs"] if agreement else []
    return {key: pair for pair in pairs for key in (tuple(pair["readers"]), tuple(pair["readers"][::-1]))}


def _failures(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    frame = pd.read_csv(path, dtype=str, keep_default_na=False).map(plain_cell)
    return list(frame[["image_id", "reason"]].itertuples(index=False, name=None))


def _pair_images(pair: dict[str, Any], prepared: PreparedFolder) -> _PairImages:
    first, second = pair["first"], pair["second"]
    return _PairImages(
        first,
        second,
        pair["distance"],
        pair["across"],
        (thumbnail(prepared.images[first].path), thumbnail(prepared.images[second].path)),
    )
