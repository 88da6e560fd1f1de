"""A finished prepared folder, read back: its manifest, images, readers' boxes and COCO files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_mmdet.annotations.coverage import ImageFacts
from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.errors import DatasetError
from cxr_mmdet.preparation.annotate import ANNOTATIONS, COVERAGE_NAME, READERS_NAME
from cxr_mmdet.preparation.folder import IMAGES, MANIFEST_NAME
from cxr_mmdet.preparation.images import INDEX_NAME, RENDERING_VERSION, PreparedImage
from cxr_mmdet.preparation.label_sets import LabelSet
from cxr_mmdet.preparation.options import BuildOptions
from cxr_mmdet.structures.coco import read_coco

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

REBUILD = "build it with tools/prepare_data.py build"


@dataclass(frozen=True)
class PreparedFolder:
    """A folder that ``build`` finished.

    Attributes:
        path: where it lies.
        manifest: what it says of itself.
        images: its images, by image id.
        rows: the readers' boxes, in pixels of the originals.
        facts: which classes were looked for on the images, and the like.
    """

    path: Path
    manifest: dict[str, Any]
    images: dict[str, PreparedImage]
    rows: pd.DataFrame
    facts: ImageFacts

    @classmethod
    def load(cls, path: Path, manifest: dict[str, Any] | None = None) -> PreparedFolder:
        """Read all but the COCO files.

        Args:
            path: the folder.
            manifest: of a folder that is being finished; by default the one in it.

        Raises:
            DatasetError: the folder is not finished, or was made by an earlier version.
            TableError: the readers' boxes are damaged.
        """
        manifest = read_manifest(path) if manifest is None else manifest
        readers = path / ANNOTATIONS / READERS_NAME
        if not readers.is_file():
            raise DatasetError(
                f"{readers}: no such file; this folder was made by an earlier version, {REBUILD} --force."
            )
        column = "group" if _group_column(manifest, path) else None
        facts = ImageFacts.read(path / ANNOTATIONS / COVERAGE_NAME)
        return cls(path, manifest, _read_images(path), read_table(readers, group_column=column), facts)

    @property
    def options(self) -> BuildOptions:
        """Options the folder was made with; the files that options named are names only."""
        return _options(self.manifest, self.path)

    @property
    def group_column(self) -> str | None:
        """The table's column behind the groups that the folder keeps; None without one."""
        return _group_column(self.manifest, self.path)

    @property
    def label_sets(self) -> tuple[LabelSet, ...]:
        """The label sets, in the order of their names."""
        return tuple(
            LabelSet(
                name=name,
                labels=tuple(entry["labels"]),
                minority=tuple(entry["minority"]),
                merged={label: tuple(classes) for label, classes in entry.get("merged", {}).items()},
            )
            for name, entry in sorted(self.manifest["label_sets"].items())
        )

    def coco(self, split: str, label_set: str) -> dict[str, Any]:
        """Return the validated COCO file of a split.

        Raises:
            DatasetError: it is missing or not valid.
        """
        return read_coco(self.path / ANNOTATIONS / f"{split}_{label_set}.json")


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a prepared folder.

    Raises:
        DatasetError: there is none, or it is damaged.
    """
    manifest = _read_json(path / MANIFEST_NAME)
    missing = [key for key in ("label_sets", "parameters") if not isinstance(manifest.get(key), dict)]
    if missing:
        raise DatasetError(f"{path / MANIFEST_NAME}: has no {missing[0]}; {REBUILD} --force.")
    return manifest


def _group_column(manifest: dict[str, Any], path: Path) -> str | None:
    return manifest.get("group_column") or _options(manifest, path).group_column


def _options(manifest: dict[str, Any], path: Path) -> BuildOptions:
    try:
        return BuildOptions.from_json(manifest["parameters"])
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path / MANIFEST_NAME}: its parameters are not a build's ({error}); {REBUILD}.") from None


def _read_images(path: Path) -> dict[str, PreparedImage]:
    index = _read_json(path / INDEX_NAME)
    if index.get("rendering_version") != RENDERING_VERSION:
        raise DatasetError(f"{path / INDEX_NAME}: was written by another version; {REBUILD} --force.")
    images = {}
    for name, entry in sorted(index["images"].items()):
        image = path / IMAGES / f"{name}.png"
        if image.is_file():
            images[name] = PreparedImage.from_entry(name, image, entry)
    return images


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file, so the folder is not finished; {REBUILD}.") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error}); {REBUILD} --force.") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: holds no JSON object; {REBUILD} --force.")
    return value
