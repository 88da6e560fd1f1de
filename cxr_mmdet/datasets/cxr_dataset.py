"""A prepared folder as an mmdet dataset that refuses to train on labels other than the ones it was told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS

from cxr_mmdet.datasets.augmentation import CLASSES_KEY
from cxr_mmdet.datasets.draw_plan import UNDECIDED_KEY
from cxr_mmdet.datasets.sampler import seed_draw
from cxr_mmdet.datasets.votes import READERS_KEY, weigh_corners
from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.structures.coco import read_coco, sample_images
from cxr_mmdet.structures.coverage import COVERAGE_KEY, NORMAL_KEY, Coverage, coverage_of, is_partly_labelled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxr_mmdet.structures.coco import CocoDict

_MISSING_SHOWN = 3


@DATASETS.register_module()
class CxrDataset(BaseDetDataset):
    """Radiographs of a prepared folder with their boxes; images without boxes are kept, they are data.

    Regions (``iscrowd`` 1) become mmdet's ignored instances.

    ``metainfo['classes']`` must be the categories of the COCO file, in its order: mmdet's own ``CocoDataset`` skips a
    class it cannot find and shifts every later label (mmdetection #9611). Without ``metainfo`` the file's are taken.

    Args:
        ann_file: the COCO file, relative to ``data_root``.
        data_root: the prepared folder.
        data_prefix: where the images are, below ``data_root`` or absolute.
        img_suffix: what replaces ``.png`` in their names, such as ``.dicom`` with ``LoadRadiograph``.
        partial_labels: whether entries and samples hold their coverage (``COVERAGE_KEY``), by which training leaves
            out what nobody looked for; None: if some class of some image was not looked for. False takes that for
            absent.
        sample: the number of images to take, see :func:`~cxr_mmdet.structures.coco.sample_images`; all by default.
        kwargs: as ``mmengine.dataset.BaseDataset`` takes them.

    Raises:
        DatasetError: no such file, classes that disagree, no image at all, or images that are missing.
    """

    def __init__(
        self,
        *,
        data_prefix: dict[str, str] | None = None,
        img_suffix: str | None = None,
        partial_labels: bool | None = None,
        sample: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.img_suffix, self.partial_labels, self.sample = img_suffix, partial_labels, sample
        super().__init__(data_prefix=data_prefix or {"img": "images"}, **kwargs)

    def read_annotations(self) -> CocoDict:
        """Return what the COCO file holds."""
        return read_coco(self.ann_file)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one entry an image, as mmdet's pipelines expect them."""
        coco = self.read_annotations()
        names = tuple(category["name"] for category in coco["categories"])
        self._check_classes(names)
        if not coco["images"]:
            raise DatasetError(f"{self.ann_file}: holds no image; prepare the data with another --val-ratio or source.")
        if self.sample is not None:
            coco = sample_images(coco, self.sample)
        self._check_files(coco["images"])
        label_of = {category["id"]: label for label, category in enumerate(coco["categories"])}
        instances: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
        for annotation in coco["annotations"]:
            x, y, width, height = annotation["bbox"]
            instances[annotation["image_id"]].append(
                {
                    "bbox": [x, y, x + width, y + height],
                    "bbox_label": label_of[annotation["category_id"]],
                    "ignore_flag": int(annotation.get("iscrowd", 0)),
                    "votes": annotation.get("votes", 1),
                    "score": annotation.get("score"),
                    "corner_spread": annotation.get("corner_spread"),
                }
            )
        partly = is_partly_labelled(coco) if self.partial_labels is None else self.partial_labels
        coverage = list(coverage_of(coco)) if partly else [None] * len(coco["images"])
        entries = [
            {
                "img_path": os.path.join(self.data_prefix["img"], self._file_name(image)),
                "img_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "instances": instances[image["id"]],
                UNDECIDED_KEY: _is_undecided(instances[image["id"]], covered, image.get(NORMAL_KEY)),
                **({} if covered is None else {COVERAGE_KEY: covered}),
                **({READERS_KEY: len(image["readers"])} if "readers" in image else {}),
            }
            for image, covered in zip(coco["images"], coverage, strict=True)
        ]
        weigh_corners(entries)
        return entries

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return an image's entry, and the names of the labels for steps that swap some."""
        return {**super().get_data_info(idx), CLASSES_KEY: self.metainfo["classes"]}

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the labels of an image's boxes; regions to ignore (``iscrowd``) are not boxes."""
        instances = self.get_data_info(idx)["instances"]
        return [instance["bbox_label"] for instance in instances if not instance["ignore_flag"]]

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return the sample after the pipeline; a draw of ours seeds the transforms by its position."""
        seed_draw(idx)
        return super().__getitem__(int(idx))

    def _file_name(self, image: dict[str, Any]) -> str:
        name = image["file_name"]
        return name if self.img_suffix is None else os.path.splitext(name)[0] + self.img_suffix

    def _check_classes(self, names: tuple[str, ...]) -> None:
        expected = tuple(self.metainfo.get("classes", ()))
        if not expected:
            self._metainfo["classes"] = names
        elif expected != names:
            raise DatasetError(
                f"{self.ann_file}: holds the classes {_listed(names)}, the config expects {_listed(expected)}, in this "
                "order; choose the label set by --labels, or prepare the data with the config's classes."
            )

    def _check_files(self, images: list[dict[str, Any]]) -> None:
        folder = Path(self.data_prefix["img"])
        present = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        missing = [name for name in map(self._file_name, images) if name not in present]
        if missing:
            shown = ", ".join(missing[:_MISSING_SHOWN]) + (", …" if len(missing) > _MISSING_SHOWN else "")
            raise DatasetError(
                f"{self.ann_file}: {len(missing)} of {counted(len(images), 'image')} missing in {folder} ({shown}); "
                "run tools/prepare_data.py build again, or correct --data-root."
            )


def _is_undecided(
    instances: list[dict[str, Any]], coverage: NDArray[np.int8] | None, normal: bool | None = None
) -> bool:
    partly = coverage is not None and bool((coverage < Coverage.EXHAUSTIVE).any())
    return (bool(instances) or partly or normal is False) and all(instance["ignore_flag"] for instance in instances)


def _listed(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(names) + "]"
