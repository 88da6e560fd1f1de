"""Predictions as files: findings.json, detections.json, findings.csv, failures.csv and overlays."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from cxr_mmdet.batch.journal import cannot_write, read_line
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.image_level import p_abnormal_path, write_p_abnormal
from cxr_mmdet.files import atomic_path, write_csv
from cxr_mmdet.structures.coco import read_coco, sort_detections
from cxr_mmdet.structures.detections import Findings
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import OVERLAYS, PROGRESS, image_id_of, image_ids_in_coco

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TextIO

    import numpy as np
    from numpy.typing import NDArray

    from cxr_mmdet.structures.radiograph_files import RadiographFile

FINDINGS_JSON, DETECTIONS_JSON, FINDINGS_CSV = "findings.json", "detections.json", "findings.csv"
FAILURES_CSV = "failures.csv"
RESULTS = (FINDINGS_JSON, DETECTIONS_JSON, FINDINGS_CSV, FAILURES_CSV, OVERLAYS)
SCHEMA_VERSION = 1

CSV_COLUMNS = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max", "score", "source")


@dataclass(frozen=True)
class CocoIds:
    """Image and category ids of detections.json, and the size of the images that its boxes are scaled to.

    Attributes:
        images: image id → number, and height and width to scale boxes into; None
            keeps them in source-image pixels.
        categories: the number of each class, in the model's order.
        path: the annotation file that states them; None where none does.
    """

    images: Mapping[str, tuple[int, tuple[int, int] | None]]
    categories: Sequence[int]
    path: Path | None = None

    @classmethod
    def by_order(cls, items: Sequence[RadiographFile], class_names: Sequence[str]) -> CocoIds:
        """Return numbers from 1 in the order of the items and of the classes."""
        images = {item.image_id: (number, None) for number, item in enumerate(items, 1)}
        return cls(images, range(1, len(class_names) + 1))

    @classmethod
    def of_file(cls, path: Path, class_names: Sequence[str]) -> CocoIds:
        """Return the numbers of a COCO annotation file.

        Raises:
            DatasetError: it is not such a file, lacks a class of the model, or names two images alike.
        """
        truth = read_coco(path, strict=False)
        ids = {category["name"]: category["id"] for category in truth["categories"]}
        missing = [name for name in class_names if name not in ids]
        if missing:
            raise DatasetError(
                f"{path}: has no category {missing[0]!r}, which the model finds; give the annotations of its label set."
            )
        images = {
            image_id: (image["id"], (image["height"], image["width"]))
            for image_id, image in image_ids_in_coco(truth["images"], path).items()
        }
        return cls(images, [ids[name] for name in class_names], path)

    def radiographs(self, items: Iterable[RadiographFile]) -> list[RadiographFile]:
        """Return those that are images of the annotation file, under the ids of their names.

        Raises:
            DatasetError: there is none, or two could be one image: which one was annotated, their names do not tell.
        """
        found: dict[int, RadiographFile] = {}
        for item in items:
            image_id = image_id_of(item.member or item.path)  # not the item's, which may have a number for its name
            if image_id not in self.images:
                continue
            number, _ = self.images[image_id]
            item = replace(item, image_id=image_id)
            other = found.setdefault(number, item)
            if other is not item:
                raise DatasetError(
                    f"{other.source} and {item.source} are both the image of {self.path} with id {number} by their "
                    "names; give the one that was annotated alone."
                )
        if not found:
            raise DatasetError(f"{self.path}: none of its images is among the inputs; they are matched by file name.")
        return list(found.values())

    def without_radiograph(self, items: Iterable[RadiographFile]) -> dict[str, str]:
        """Return why images of the annotation file are not predicted: image id → reason.

        Scoring would take each of them for an image without a finding.
        """
        given = {self.images[item.image_id][0] for item in items}
        names = {number: image_id for image_id, (number, _) in self.images.items() if number not in given}
        return {
            image_id: f"{self.path}: names image {image_id}, but no radiograph of this name is given"
            for image_id in sorted(names.values())
        }


def write_results(
    out_dir: Path,
    items: Sequence[RadiographFile],
    places: Mapping[str, tuple[Path, int]],
    failures: Mapping[str, str],
    *,
    class_names: Sequence[str],
    coco: CocoIds,
    settings: Mapping[str, Any],
    has_gate: bool,
) -> None:
    """Write the files in the order of ``items``, one radiograph in memory at a time.

    Args:
        out_dir: output folder.
        items: all radiographs.
        places: position in the journal of each finished radiograph's results.
        failures: reasons why others failed, by image id.
        class_names: classes of the model.
        coco: numbers for detections.json.
        settings: settings of the prediction, written at the head of findings.json.
        has_gate: write each radiograph's ``p_abnormal`` beside detections.json too, where tools/evaluate.py finds it.

    Raises:
        CxrError: a file cannot be written.
    """
    done = [item for item in items if item.image_id in places]

    def results() -> Iterator[tuple[RadiographFile, Findings]]:
        for item in done:
            yield item, Findings.from_json(read_line(places[item.image_id])["findings"], class_names)

    head = {"schema_version": SCHEMA_VERSION, "labels": list(class_names), "settings": dict(settings)}
    images = ({"image_id": item.image_id, "source": item.source, **found.to_json()} for item, found in results())
    try:
        _stream_json(out_dir / FINDINGS_JSON, images, head=head, key="images")
        _stream_json(out_dir / DETECTIONS_JSON, _detections(results(), coco))
        gated = {item.image_id: found.p_abnormal for item, found in results()} if has_gate else None
        write_p_abnormal(out_dir / DETECTIONS_JSON, gated)
        rows = (row for item, found in results() for row in csv_rows(item.image_id, item.source, found))
        write_csv(out_dir / FINDINGS_CSV, CSV_COLUMNS, rows)
        _write_failures(out_dir / FAILURES_CSV, items, failures)
    except OSError as error:
        raise cannot_write(Path(error.filename or out_dir), error) from None


def remove_results(out_dir: Path) -> None:
    """Remove the files of an earlier run; a folder of drawings stays where no run left its progress.

    Raises:
        CxrError: the folder cannot be written to.
    """
    try:
        p_abnormal_path(out_dir / DETECTIONS_JSON).unlink(missing_ok=True)
        for path in (out_dir / name for name in RESULTS):
            if not path.is_dir():
                path.unlink(missing_ok=True)
            elif (out_dir / PROGRESS).is_dir():
                shutil.rmtree(path)
    except OSError as error:
        raise cannot_write(Path(error.filename or out_dir), error) from None


def write_overlay(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image as PNG.

    Raises:
        CxrError: it cannot be written.
    """
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(data.tobytes())
    except OSError as error:
        raise cannot_write(path, error) from None


def csv_rows(image_id: str, source: str, found: Findings) -> list[list[str]]:
    """Return the rows of findings.csv of one radiograph; a single row with "No finding" where nothing was found."""
    if not len(found):
        return [[image_id, NO_FINDING, "", "", "", "", "", source]]
    return [
        [image_id, finding.class_name, *(f"{side:.2f}" for side in finding.box_xyxy), f"{finding.score:.4f}", source]
        for finding in found
    ]


def _detections(results: Iterable[tuple[RadiographFile, Findings]], coco: CocoIds) -> Iterator[dict[str, Any]]:
    for item, found in results:
        number, size_hw = coco.images[item.image_id]
        yield from sort_detections(found.to_coco(number, coco.categories, size_hw))


def _stream_json(path: Path, entries: Iterable[Any], *, head: Mapping[str, Any] | None = None, key: str = "") -> None:
    """Write a list of entries, or an object of ``head`` and the list under ``key``, an entry a line."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        if head is not None:
            opening = json.dumps(dict(head), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
            file.write(opening.removesuffix("\n}") + f',\n "{key}": ')
        _write_list(file, entries)
        file.write("\n}\n" if head is not None else "\n")


def _write_list(file: TextIO, entries: Iterable[Any]) -> None:
    separator = "[\n"
    for entry in entries:
        file.write(separator + json.dumps(entry, sort_keys=True, allow_nan=False, ensure_ascii=False))
        separator = ",\n"
    file.write("[]" if separator == "[\n" else "\n]")


def _write_failures(path: Path, items: Sequence[RadiographFile], failures: Mapping[str, str]) -> None:
    if not failures:
        path.unlink(missing_ok=True)
        return
    sources = {item.image_id: item.source for item in items}
    rows = ((image_id, sources.get(image_id, ""), reason) for image_id, reason in failures.items())
    write_csv(path, ("image_id", "source", "reason"), rows)
