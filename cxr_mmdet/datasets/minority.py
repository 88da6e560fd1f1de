"""Virtual copies of the radiographs that hold a minority class: flipped and turned while loading, never on disk."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from mmdet.registry import DATASETS

from cxr_mmdet.datasets.sampler import Draw, seed_draw
from cxr_mmdet.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmengine.dataset import BaseDataset


class Variant(str, Enum):
    """Variant of a radiograph, applied before the rest of the pipeline."""

    ORIGINAL = "original"
    HORIZONTAL_FLIP = "horizontal_flip"
    ROTATE_90_CCW = "rotate_90_ccw"


VARIANT_KEY = "minority_variant"
"""Key under which :class:`MinorityAugmentedDataset` stores the variant for ``MinorityFlipRot90``."""

COPY_KEY = "virtual_copy"
"""Key that marks an entry as a further copy of an image; only images with minority classes have copies."""


@DATASETS.register_module()
class MinorityAugmentedDataset:
    """A dataset in which each image with a minority class stands once more per variant.

    The reference project writes the copies to disk and then splits them at random; here they exist in the training set
    only, after the split by patient. The first ``len(dataset)`` entries are the originals, in their order.

    Args:
        dataset: a :class:`CxrDataset` or its config; its pipeline must hold ``MinorityFlipRot90``.
        minority_classes: names of the classes whose images are copied.
        variants: the copies made of each such image.

    Raises:
        ConfigError: a minority class that the dataset lacks, or a pipeline that would ignore the copies.
    """

    def __init__(
        self,
        dataset: BaseDataset | dict[str, Any],
        minority_classes: Sequence[str],
        variants: Sequence[str] = (Variant.HORIZONTAL_FLIP.value, Variant.ROTATE_90_CCW.value),
        lazy_init: bool = False,
    ) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.minority_classes = tuple(minority_classes)
        self.variants = tuple(Variant(variant) for variant in variants)
        self._entries: list[tuple[int, Variant]] = []
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """The wrapped dataset's."""
        return self.dataset.metainfo

    @property
    def copies(self) -> int:
        """Number of entries that are virtual copies."""
        return len(self._entries) - len(self.dataset)

    def full_init(self) -> None:
        """Load the wrapped dataset and list the copies."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        classes = tuple(self.metainfo["classes"])
        unknown = [name for name in self.minority_classes if name not in classes]
        if unknown:
            raise ConfigError(
                f"MinorityAugmentedDataset: minority class {', '.join(unknown)} is not one of {', '.join(classes)}; "
                "correct `minority_classes` in the config."
            )
        if not any(type(transform).__name__ == "MinorityFlipRot90" for transform in self.dataset.pipeline.transforms):
            raise ConfigError(
                "MinorityAugmentedDataset: the pipeline has no MinorityFlipRot90, so that its copies would be plain "
                "repetitions; put it after LoadVotedAnnotations."
            )
        minority = {classes.index(name) for name in self.minority_classes}
        self._entries = [(index, Variant.ORIGINAL) for index in range(len(self.dataset))]
        for index in range(len(self.dataset)):
            if minority.intersection(self.dataset.get_cat_ids(index)):
                self._entries += [(index, variant) for variant in self.variants]
        self._fully_initialized = True

    def __len__(self) -> int:
        return len(self._entries)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the annotation of entry ``idx``, with :data:`VARIANT_KEY` and :data:`COPY_KEY`."""
        index, variant = self._entries[idx]
        return self.dataset.get_data_info(index) | {VARIANT_KEY: variant.value, COPY_KEY: idx >= len(self.dataset)}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the labels in entry ``idx``."""
        return self.dataset.get_cat_ids(self._entries[idx][0])

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return the sample after the wrapped dataset's pipeline."""
        seed_draw(idx)
        return self.dataset.pipeline(self.get_data_info(int(idx)))


__all__ = ["COPY_KEY", "VARIANT_KEY", "Draw", "MinorityAugmentedDataset", "Variant"]
