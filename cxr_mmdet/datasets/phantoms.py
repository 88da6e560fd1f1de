"""Phantoms among the training images, against overfitting to few radiographs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.logging import MMLogger

from cxr_mmdet.datasets.cxr_dataset import CxrDataset
from cxr_mmdet.datasets.sampler import Draw
from cxr_mmdet.errors import ConfigError
from cxr_mmdet.preparation.phantoms import prepare_phantoms
from cxr_mmdet.structures.coverage import Coverage, coverage_keys
from cxr_mmdet.structures.labels import shared_classes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxr_mmdet.structures.coco import CocoDict


_LEAST_IMAGES = 10


class PhantomDataset(CxrDataset):
    """Phantoms with the classes of other data.

    Boxes of other classes are left out. Classes that no phantom was drawn with count as not looked for, since something
    that looks like them may be there under another name.
    """

    def read_annotations(self) -> CocoDict:
        """Return the phantoms' annotations under the classes of ``metainfo``."""
        return relabel(super().read_annotations(), self.metainfo["classes"])


@DATASETS.register_module()
class WithPhantoms:
    """A training set, and phantoms as a share of its draws.

    Phantoms are drawn once per machine and kept in the cache. Few radiographs are repeated so that a pass holds as many
    phantoms as there are; beside many radiographs, phantoms are repeated.

    Args:
        dataset: a :class:`CxrDataset`, whatever wraps it, or its config.
        share: of phantoms among the draws, above 0 and below 1.
        images: number of phantoms.
        size: their short edge in pixels.
        seed: of the phantoms.

    Raises:
        ConfigError: a share or number out of range, or data of which no class is drawn on phantoms.
        UsageError: there is no place for the cache.
    """

    def __init__(self, dataset: Any, *, share: float = 0.5, images: int = 800, size: int = 288, seed: int = 12) -> None:
        if not 0 < share < 1:
            raise ConfigError(f"WithPhantoms: share is {share}, expected above 0 and below 1, such as 0.5.")
        if images < _LEAST_IMAGES:
            raise ConfigError(f"WithPhantoms: images is {images}, expected at least {_LEAST_IMAGES}, such as 800.")
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        innermost = self.dataset
        while hasattr(innermost, "dataset"):
            innermost = innermost.dataset
        MMLogger.get_current_instance().info(
            f"Training with phantoms: {images} of {size} px, drawn once per machine, in about a minute."
        )
        phantoms = PhantomDataset(
            data_root=str(prepare_phantoms(images, size, seed)),
            ann_file="annotations/train_auto.json",
            metainfo={"classes": self.metainfo["classes"]},
            pipeline=innermost.pipeline.transforms,
            partial_labels=innermost.partial_labels,
        )
        self.datasets = (self.dataset, phantoms)
        """The training set and the phantoms."""
        radiographs, odds = len(self.dataset), share / (1 - share)
        times = max(1, int(len(phantoms) / odds / radiographs))
        wanted = max(1, round(times * radiographs * odds))
        self._parts = np.repeat([0, 1], [times * radiographs, wanted])
        self._indices = np.concatenate([np.tile(np.arange(radiographs), times), np.arange(wanted) % len(phantoms)])

    @property
    def metainfo(self) -> dict[str, Any]:
        """The training set's."""
        return self.dataset.metainfo

    @property
    def copies(self) -> int:
        """Number of entries that repeat another, or are virtual copies of the training set."""
        repeated = len(self) - len(set(zip(self._parts.tolist(), self._indices.tolist(), strict=True)))
        return repeated + getattr(self.dataset, "copies", 0)

    def __len__(self) -> int:
        return len(self._indices)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation of entry ``idx``."""
        part, index = self._find(idx)
        entry: dict[str, Any] = part.get_data_info(index)
        return entry

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the labels in entry ``idx``; not every wrapper of a dataset has this method."""
        instances = self.get_data_info(idx)["instances"]
        return [instance["bbox_label"] for instance in instances if not instance["ignore_flag"]]

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return the sample after its part's pipeline."""
        part, index = self._find(idx)
        sample: dict[str, Any] = part[idx.at(index) if isinstance(idx, Draw) else index]
        return sample

    def _find(self, idx: int) -> tuple[Any, int]:
        return self.datasets[self._parts[int(idx)]], int(self._indices[int(idx)])


def relabel(coco: CocoDict, classes: Sequence[str]) -> CocoDict:
    """Return annotations under other classes: those that both name are kept, the others were not looked for.

    Args:
        coco: a checked file whose images were looked through for all classes.
        classes: the new classes, in order.

    Raises:
        ConfigError: no class is named by both.
    """
    names = [category["name"] for category in coco["categories"]]
    shared = shared_classes(classes, names)
    if not shared:
        raise ConfigError(
            f"phantoms: none of the classes {', '.join(classes)} is drawn on phantoms, which have {', '.join(names)}; "
            "train without the switch phantoms, or name a class as phantoms do."
        )
    new_id = {coco["categories"][given]["id"]: own + 1 for own, given in shared}
    annotations = [
        {**annotation, "category_id": new_id[annotation["category_id"]]}
        for annotation in coco["annotations"]
        if annotation["category_id"] in new_id
    ]
    ids = np.arange(1, len(classes) + 1)
    coverage = np.full(len(classes), Coverage.UNKNOWN, dtype=np.int8)
    coverage[[own for own, _ in shared]] = Coverage.EXHAUSTIVE
    present: dict[int, set[int]] = {image["id"]: set() for image in coco["images"]}
    for annotation in annotations:
        present[annotation["image_id"]].add(annotation["category_id"])
    return {
        **coco,
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, start=1)],
        "images": [
            {**image, **coverage_keys(coverage, np.isin(ids, list(present[image["id"]])), ids)}
            for image in coco["images"]
        ],
        "annotations": annotations,
    }
