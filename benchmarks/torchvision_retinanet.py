"""torchvision's RetinaNet as a detector that mmengine can train: the alternative to our recipes on the same data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from mmdet.structures import DetDataSample
    from mmengine.config import Config

_CHANNELS = 256


@MODELS.register_module()
class TorchvisionRetinaNet(BaseDetector):
    """torchvision's RetinaNet on a backbone of mmdet's, otherwise as it is: neck, anchors, head, losses, decoding.

    Only its normalising and resizing are left to the pipeline, as for every mmdet detector.

    Args:
        backbone: a ResNet's config, with all four stages out or the last three; the neck takes the last three.
        stage_channels: (3,) of those.
        num_classes: without background.
        data_preprocessor: as every mmdet detector takes it.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        stage_channels: Sequence[int],
        num_classes: int,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.detector = RetinaNet(
            _PyramidBackbone(backbone, stage_channels),
            num_classes,
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
        )
        # Its own would enlarge every image to 800 px, `_skip_resize` or not once training is over.
        self.detector.transform = _AsGiven(0, 0, image_mean=[0.0] * 3, image_std=[1.0] * 3)

    def init_weights(self) -> None:
        """Initialise the backbone as mmdet does; torchvision initialised the rest when it was built."""
        self.detector.backbone.stages.init_weights()

    def loss(self, batch_inputs: torch.Tensor, batch_data_samples: Sequence[DetDataSample]) -> dict[str, torch.Tensor]:
        """Return torchvision's two losses."""
        targets = [
            {"boxes": sample.gt_instances.bboxes.float(), "labels": sample.gt_instances.labels}
            for sample in batch_data_samples
        ]
        losses = self.detector(list(batch_inputs), targets)
        return {"loss_cls": losses["classification"], "loss_bbox": losses["bbox_regression"]}

    def predict(
        self, batch_inputs: torch.Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Return what torchvision finds, in pixels of the image before resizing if ``rescale``."""
        instances = []
        for found, sample in zip(self.detector(list(batch_inputs)), batch_data_samples, strict=True):
            boxes = found["boxes"]
            if rescale:
                boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
            instances.append(InstanceData(bboxes=boxes, scores=found["scores"], labels=found["labels"]))
        return self.add_pred_to_datasample(batch_data_samples, instances)

    def extract_feat(self, batch_inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the neck's levels."""
        return tuple(self.detector.backbone(batch_inputs).values())

    def _forward(self, batch_inputs: torch.Tensor, batch_data_samples: Any = None) -> dict[str, torch.Tensor]:
        return self.detector.head(list(self.extract_feat(batch_inputs)))


class _AsGiven(GeneralizedRCNNTransform):
    """torchvision's preparation of images without a change of their size, which the pipeline has seen to."""

    def resize(self, image: torch.Tensor, target: Any = None) -> tuple[torch.Tensor, Any]:
        return image, target


class _PyramidBackbone(nn.Module):
    """mmdet's stages under torchvision's own neck, as its ``resnet_fpn_backbone`` puts its own."""

    out_channels = _CHANNELS

    def __init__(self, backbone: dict[str, Any], stage_channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = MODELS.build(backbone)
        self.fpn = FeaturePyramidNetwork(list(stage_channels), _CHANNELS, LastLevelP6P7(_CHANNELS, _CHANNELS))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.stages(images)[-3:]
        return self.fpn({str(level): feature for level, feature in enumerate(features)})


def as_torchvision(config: Config) -> Config:
    """Return a copy of a RetinaNet recipe with torchvision's detector on its backbone; all else stays the recipe's."""
    other = config.copy()
    backbone = dict(other.model.backbone) | {"out_indices": (1, 2, 3)}
    expansion = 4 if backbone["depth"] >= 50 else 1
    width = backbone.get("base_channels", 64) * expansion
    other.model = {
        "type": "TorchvisionRetinaNet",
        "data_preprocessor": other.model.data_preprocessor,
        "backbone": backbone,
        "stage_channels": [2 * width, 4 * width, 8 * width],
        "num_classes": other.model.bbox_head.num_classes,
    }
    return other
