"""Train and predict straight from DICOM, through the same reader and the same shrinking as preparation."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.preparation.images import read_to_size


@TRANSFORMS.register_module()
class LoadRadiograph(BaseTransform):
    """Load a radiograph of any format as one plane: ``img`` is (H, W) uint8, the very pixels preparation would write.

    Stands in a pipeline instead of ``LoadGreyImage``; ``CxrDataset`` finds the sources by ``data_prefix`` and
    ``img_suffix``. It costs a decoding of the full picture each time: for training on a data set, preparing is cheaper.

    Args:
        short_edge: as the COCO file was prepared with (``manifest.json``), in whose pixels the boxes are; 0 keeps the
            full size.
        reduced_jpeg2000: likewise.

    Raises:
        DicomError: the source is not a radiograph we can show.
        DatasetError: its size is not the one in the COCO file.
    """

    def __init__(self, short_edge: int = 1024, reduced_jpeg2000: bool = False) -> None:
        self.short_edge = short_edge
        self.reduced_jpeg2000 = reduced_jpeg2000

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img``, ``img_shape``, ``ori_shape`` (height, width) to ``results``."""
        path = results["img_path"]
        _, image = read_to_size(path, self.short_edge, reduced_jpeg2000=self.reduced_jpeg2000)
        expected = (results.get("height", image.shape[0]), results.get("width", image.shape[1]))
        if image.shape != expected:
            raise DatasetError(
                f"{path}: becomes {image.shape[1]}x{image.shape[0]} pixels with short_edge={self.short_edge}, the COCO "
                f"file says {expected[1]}x{expected[0]}; set LoadRadiograph's short_edge to the one in manifest.json."
            )
        results.update(img=image, img_shape=image.shape, ori_shape=image.shape)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(short_edge={self.short_edge}, reduced_jpeg2000={self.reduced_jpeg2000})"
