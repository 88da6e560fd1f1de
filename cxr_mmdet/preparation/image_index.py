"""The note beside a prepared folder that says which pictures are finished and what they were made from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INDEX_NAME = "images.json"

RENDERING_VERSION = 2
"""Raised whenever the same file gives other pixels than before, so that prepared folders are made anew."""


@dataclass(frozen=True)
class PreparedImage:
    """One finished picture.

    Attributes:
        image_id: the picture's name without suffix.
        path: where the PNG lies.
        size_hw: its height and width.
        original_size_hw: the source's; boxes scale by the ratio, per axis.
        patient: what stands for its Patient ID, equal for pictures of one patient; None when the source names none.
        windowing: how values became grey levels.
        warnings: what was odd about the source.
        burned_in_annotation: whether the source says that text is burnt into the pixels; None when it says nothing.
        exif_orientation: what the source was turned by to stand upright; 1 for not at all.
    """

    image_id: str
    path: Path
    size_hw: tuple[int, int]
    original_size_hw: tuple[int, int]
    patient: str | None
    windowing: str
    warnings: tuple[str, ...]
    burned_in_annotation: bool | None
    exif_orientation: int = 1


@dataclass(frozen=True)
class SourceState:
    """What tells a changed file from an unchanged one without reading it."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> SourceState:
        """Return the state of ``path`` now."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


class ImageIndex:
    """The finished pictures of one prepared folder, as of its ``images.json``."""

    def __init__(self, path: Path, made_by: dict[str, Any], entries: dict[str, Any], key_name: str | None) -> None:
        self._path = path
        self._made_by = made_by
        self._entries = entries
        self._key_name = key_name

    @classmethod
    def load(
        cls, path: Path, *, short_edge: int, reduced_jpeg2000: bool = False, key_name: str | None = None
    ) -> ImageIndex:
        """Read the index; one made with other parameters or by another version counts as empty.

        Args:
            path: of ``images.json``.
            short_edge: of this run.
            reduced_jpeg2000: of this run.
            key_name: of the key that this run makes pseudonyms with; None for one that ends with it.

        Raises:
            DatasetError: the file is not an index.
        """
        made_by: dict[str, Any] = {"rendering_version": RENDERING_VERSION, "short_edge": short_edge}
        if reduced_jpeg2000:
            made_by["reduced_jpeg2000"] = True
        if not path.is_file():
            return cls(path, made_by, {}, key_name)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            entries = document.pop("images")
            if document != made_by:
                entries = {}
        except (AttributeError, ValueError, KeyError, TypeError):
            raise DatasetError(f"{path}: not an index of prepared pictures; remove it to prepare them anew") from None
        return cls(path, made_by, entries, key_name)

    def get(self, image_id: str, source: Path, out_dir: Path) -> PreparedImage | None:
        """Return the finished picture, or None when it is missing or its source has changed since."""
        entry = self._entries.get(image_id)
        path = out_dir / f"{image_id}.png"
        try:
            if entry is None or not path.is_file() or SourceState(**entry["source"]) != SourceState.of(source):
                return None
        except OSError:
            return None
        return PreparedImage(
            image_id=image_id,
            path=path,
            size_hw=_pair(entry["size_hw"]),
            original_size_hw=_pair(entry["original_size_hw"]),
            patient=entry["patient"],
            windowing=entry["windowing"],
            warnings=tuple(entry["warnings"]),
            burned_in_annotation=entry["burned_in_annotation"],
            exif_orientation=entry["exif_orientation"],
        )

    def knows_patient(self, image_id: str) -> bool:
        """Return whether a picture's pseudonym was made with this run's key; else it must be made again."""
        return self._key_name is not None and self._entries[image_id].get("patient_keyed_by") == self._key_name

    def put(self, image: PreparedImage, state: SourceState) -> None:
        """Note that a picture is finished."""
        entry = asdict(image)
        del entry["image_id"], entry["path"]
        self._entries[image.image_id] = entry | {"source": asdict(state), "patient_keyed_by": self._key_name}

    def publish(self, patients: Mapping[str, str | None]) -> None:
        """Write what stands for the patients of these pictures."""
        for image_id, patient in patients.items():
            self._entries[image_id] |= {"patient": patient, "patient_keyed_by": self._key_name}

    def drop(self, image_id: str) -> None:
        """Forget a picture, if it is known."""
        self._entries.pop(image_id, None)

    def save(self) -> None:
        """Write the index beside the pictures."""
        write_json(self._path, self._made_by | {"images": self._entries}, indent=1)


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values
    return first, second
