"""Human ceiling: the scores of readers against each other, from the manifest of a prepared folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.evaluation.bootstrap import Interval
from cxr_mmdet.structures.coco import read_json
from cxr_mmdet.structures.enums import SplitMethod

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cxr_mmdet.structures.coco import CocoDict

MANIFEST_NAME = "manifest.json"
CEILING_NAMES = ("voc_mean_ap_40", "mean_ap_50", "mean_ap")
"""Scores of readers in the manifest, under the names of a model's own numbers."""


@dataclass(frozen=True)
class HumanCeiling:
    """Mean score of a reader against the consensus of the others.

    Attributes:
        split: split of the prepared folder.
        images: number of images that were compared.
        readers: number of readers.
        values: by the names in :data:`CEILING_NAMES`.
        per_class: the same by class, ``voc_ap_40`` and ``ap_50``.
    """

    split: str
    images: int
    readers: int
    values: Mapping[str, Interval]
    per_class: Mapping[str, Mapping[str, Interval]]

    def reached(self, name: str, value: float | None) -> float | None:
        """Return ``value`` as a share of the ceiling; None where either is undefined or the ceiling is 0."""
        ceiling = self.values[name].value if name in self.values else None
        return value / ceiling if value is not None and ceiling else None

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return {
            "split": self.split,
            "images": self.images,
            "readers": self.readers,
            **{name: interval.to_json() for name, interval in self.values.items()},
            "per_class": [
                {"name": name, **{key: interval.to_json() for key, interval in values.items()}}
                for name, values in self.per_class.items()
            ],
        }


def find_ceiling(ground_truth_path: Path, ground_truth: CocoDict, manifest: Path | None = None) -> HumanCeiling | None:
    """Return the ceiling of the ground truth's label set and split, or None where there is none.

    The manifest of ``<folder>/annotations/val_5.json`` is ``<folder>/manifest.json``, and its entry that of label set 5
    and split val. A manifest of a single reader holds no ceiling.

    Args:
        ground_truth_path: ``<split>_<label set>.json``.
        ground_truth: its content; the classes must be those of the label set.
        manifest: path of another manifest.

    Raises:
        DatasetError: ``manifest`` is given but cannot be read, or a manifest contradicts itself or the ground truth.
    """
    split, _, label_set = ground_truth_path.stem.partition("_")
    path = manifest or ground_truth_path.parent.parent / MANIFEST_NAME
    if manifest is None and not path.is_file():
        return None
    entry = _label_set(path, _read_manifest(path), label_set, ground_truth)
    ceiling = (entry.get("human_ceiling") or {}).get(split)
    if ceiling is None:
        return None
    try:
        return _parse(split, ceiling)
    except (KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path}: the human ceiling of label set {label_set}, {split}, cannot be read ({error!r}); "
            "prepare the data again."
        ) from None


def find_training_readers(ground_truth_path: Path | None) -> tuple[str, ...]:
    """Return the readers of the training images where a prepared folder was split by readers, else none.

    Args:
        ground_truth_path: COCO file of the prepared folder; None or a file elsewhere gives none.

    Raises:
        DatasetError: the folder's manifest cannot be read.
    """
    path = ground_truth_path and ground_truth_path.resolve().parent.parent / MANIFEST_NAME
    if path is None or not path.is_file():
        return ()
    parameters = _read_manifest(path).get("parameters")
    if not isinstance(parameters, dict) or parameters.get("split") != SplitMethod.READERS.value:
        return ()
    return tuple(map(str, parameters.get("train_readers") or ()))


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise DatasetError(f"{path}: holds no JSON object; is it the manifest of a prepared folder?")
    return manifest


def _label_set(path: Path, manifest: dict[str, Any], name: str, ground_truth: CocoDict) -> dict[str, Any]:
    """Return the manifest's entry of the label set; an empty one where it has none, as another project's would."""
    label_sets = manifest.get("label_sets")
    entry = label_sets.get(name) if isinstance(label_sets, dict) else None
    if not isinstance(entry, dict):
        return {}
    labels = [category["name"] for category in ground_truth["categories"]]
    if entry.get("human_ceiling") and entry.get("labels") != labels:
        raise DatasetError(
            f"{path}: label set {name} is {entry.get('labels')}, but the ground truth's classes are {labels}; "
            "pass the manifest of its own folder by --manifest (manifest in Python)."
        )
    return entry


def _parse(split: str, ceiling: dict[str, Any]) -> HumanCeiling:
    return HumanCeiling(
        split=split,
        images=int(ceiling["images"]),
        readers=len(ceiling["readers"]),
        values={name: _interval(ceiling[name]) for name in CEILING_NAMES},
        per_class={
            row["name"]: {key: _interval(row[key]) for key in ("voc_ap_40", "ap_50")} for row in ceiling["per_class"]
        },
    )


def _interval(measure: dict[str, float | None]) -> Interval:
    return Interval(value=measure["value"], low=measure["low"], high=measure["high"])
