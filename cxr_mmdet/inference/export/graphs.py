"""Networks as graphs that end at raw maps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import RetinaHead, RPNHead, VFNetHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from torch import Tensor, nn
from torch.nn import functional

from cxr_mmdet.inference.backends.torch import dense_outputs
from cxr_mmdet.inference.cpu_kernels.winograd import Branch, Grid, is_eligible, replace_convolutions
from cxr_mmdet.models.gated_detectors import gate_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmdet.models.detectors.base import BaseDetector


def maps_graph(model: BaseDetector, *, winograd: bool) -> tuple[nn.Module, BoxGraph | None]:
    """Return what gives an image's maps, and the box branch where that can be left to be computed on demand.

    Args:
        model: in evaluation mode, its norms fused into its convolutions; it is changed.
        winograd: convolve by :mod:`cxr_mmdet.inference.cpu_kernels.winograd`. Without, there is no box branch: eight
            bits come from convolutions as they are.
    """
    two_stage = isinstance(model, TwoStageDetector)
    head = model.rpn_head if two_stage else model.bbox_head
    gate = gate_of(model)
    if isinstance(head, VFNetHead):
        _replace_deformable(head)
    if not winograd:
        return WholeGraph(model.backbone, model.neck, head, gate, rows=two_stage), None
    replace_convolutions(model.neck)
    if two_stage and _is_plain_rpn(head):
        return ProposalGraph(model.backbone, model.neck, head, gate), None
    if not two_stage and _is_plain_retina(head):
        classes, boxes = ([layer.conv for layer in convs] for convs in (head.cls_convs, head.reg_convs))
        scores = ScoreGraph(model.backbone, model.neck, Branch([*classes, head.retina_cls]), gate)
        return scores, BoxGraph([*boxes, head.retina_reg])
    replace_convolutions(head)
    return WholeGraph(model.backbone, model.neck, head, gate, rows=two_stage), None


class FeatureGraph(nn.Module):
    """Backbone, neck and, where there is one, the abnormality gate, whose (N,) logits end a graph's outputs."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, gate: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.neck, self.gate = backbone, neck, gate

    def features(self, image: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the backbone's maps and the pyramid."""
        stages = self.backbone(image)
        return stages, self.neck(stages)

    def abnormal(self, stages: Any, pyramid: Any, scores: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gate's logits if there is a gate; the scores are (N, A * K, H, W)."""
        return () if self.gate is None else (self.gate(stages, pyramid, scores),)


class WholeGraph(FeatureGraph):
    """Backbone, neck and a dense head as it is."""

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, head: nn.Module, gate: nn.Module | None, *, rows: bool
    ) -> None:
        super().__init__(backbone, neck, gate)
        self.head, self.rows = head, rows

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return scores and deltas of the levels, then the pyramid's rows where a second stage needs them."""
        stages, pyramid = self.features(image)
        scores, deltas = dense_outputs(self.head, pyramid)
        maps = [level.permute(0, 2, 3, 1) for level in (*scores, *deltas)]
        return (*maps, *[Grid.of(pyramid).rows] * self.rows, *self.abnormal(stages, pyramid, scores))


class ProposalGraph(FeatureGraph):
    """Backbone, neck and a region proposal network whose convolution is done for all levels at once."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: Any, gate: nn.Module | None) -> None:
        super().__init__(backbone, neck, gate)
        self.branch = Branch([head.rpn_conv])
        self.scores, self.deltas = head.rpn_cls, head.rpn_reg

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return scores and deltas of the levels, then the pyramid's rows."""
        stages, pyramid = self.features(image)
        grid = Grid.of(pyramid)
        hidden = self.branch(grid.rows, grid.first).relu()
        maps = []
        for layer in (self.scores, self.deltas):
            maps += grid.maps(functional.linear(hidden, layer.weight[:, :, 0, 0], layer.bias))
        return (*maps, grid.rows, *self.abnormal(stages, pyramid, ()))


class ScoreGraph(FeatureGraph):
    """Backbone, neck and a RetinaNet's branch of classes."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, branch: Branch, gate: nn.Module | None) -> None:
        super().__init__(backbone, neck, gate)
        self.branch = branch

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the scores of the levels and the pyramid's rows."""
        stages, pyramid = self.features(image)
        grid = Grid.of(pyramid)
        tables = [grid.first, *[grid.inner] * (len(self.branch.convs) - 1)]
        maps = grid.maps(self.branch(grid.rows, *tables))
        scores = [level.permute(0, 3, 1, 2) for level in maps]
        return (*maps, grid.rows, *self.abnormal(stages, pyramid, scores))


class BoxGraph(nn.Module):
    """A RetinaNet's branch of boxes, at some cells."""

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.branch = Branch(convs)

    def forward(self, rows: Tensor, *plan: Tensor) -> Tensor:
        """Return the (n, A * 4) deltas; the plan's tables come first, then its cells."""
        return self.branch(rows, *plan[:-1]).index_select(0, plan[-1])


class SampledConv2d(nn.Module):
    """A deformable 3x3 convolution as bilinear samples and a 1x1 convolution: ONNX Runtime has no operator for it.

    Args:
        conv: mmcv's, of stride, padding and dilation 1, without groups.
    """

    _taps: Tensor

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().reshape(conv.out_channels, -1, 1, 1))
        taps = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
        self.register_buffer("_taps", taps.T.reshape(2, 9, 1, 1).to(conv.weight.dtype), persistent=False)

    def forward(self, image: Tensor, offsets: Tensor) -> Tensor:
        """Return (N, C_out, H, W); the offsets (N, 18, H, W) are (y, x) of each tap, in cells."""
        images, channels, height, width = image.shape
        y, x = offsets.reshape(-1, 9, 2, height, width).unbind(2)
        y = y + self._taps[0] + torch.arange(height)[:, None]
        x = x + self._taps[1] + torch.arange(width)
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        samples = functional.grid_sample(image, grid.reshape(images, -1, width, 2), align_corners=False)
        return functional.conv2d(samples.reshape(images, 9 * channels, height, width), self.weight)


def _replace_deformable(head: VFNetHead) -> None:
    """Write the star-shaped deformable convolutions of a head in operators that runtimes have."""
    head.vfnet_reg_refine_dconv = SampledConv2d(head.vfnet_reg_refine_dconv)
    head.vfnet_cls_dconv = SampledConv2d(head.vfnet_cls_dconv)
    # The offsets (18) are linear in the distances (4): no distance, and one cell to each side, tell the rest.
    distances = torch.cat([torch.zeros(1, 4), torch.eye(4)])[:, :, None, None]
    start, *ends = head.star_dcn_offset(distances, 1.0, 1)
    slopes = torch.stack([end - start for end in ends], dim=1)
    head.star_dcn_offset = lambda distances, _, stride: functional.conv2d(distances / stride, slopes, start.flatten())


class RegionsGraph(nn.Module):
    """A second stage's head, or that of one stage of a cascade, on regions that are cut out already."""

    def __init__(self, extractor: Any, head: Any) -> None:
        super().__init__()
        head = copy.deepcopy(head)
        self.size_hw = tuple(int(side) for side in extractor.roi_layers[0].output_size)
        self.channels = int(extractor.out_channels)
        # Its input has the channels last; where the first layer is linear, its weights change places instead.
        self.is_linear = (
            isinstance(head, ConvFCBBoxHead)
            and head.num_shared_convs == 0
            and head.num_shared_fcs > 0
            and not head.with_avg_pool
        )
        if self.is_linear:
            first = head.shared_fcs[0]
            weight = first.weight.detach().reshape(first.out_features, self.channels, -1)
            first.weight = nn.Parameter(weight.transpose(1, 2).reshape(first.out_features, -1).contiguous())
        self.head = head

    @property
    def width(self) -> int:
        """Numbers a region."""
        return self.size_hw[0] * self.size_hw[1] * self.channels

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and deltas of regions (R, bins * C)."""
        if not self.is_linear:
            pooled = pooled.reshape(-1, *self.size_hw, self.channels).permute(0, 3, 1, 2)
        logits, deltas = self.head(pooled)
        return logits, deltas


def _is_plain_retina(head: Any) -> bool:
    """Return whether both branches are nothing but convolutions and ReLU, so that any part can be computed alone."""
    if not isinstance(head, RetinaHead) or type(head).forward_single is not RetinaHead.forward_single:
        return False
    layers = [*head.cls_convs, *head.reg_convs]
    last = (head.retina_cls, head.retina_reg)
    return all(_is_plain_layer(layer) for layer in layers) and all(is_eligible(layer) for layer in last)


def _is_plain_layer(layer: Any) -> bool:
    return (
        isinstance(layer, ConvModule)
        and is_eligible(layer.conv)
        and layer.order == ("conv", "norm", "act")
        and (not layer.with_norm or isinstance(layer.norm, nn.Identity))
        and layer.with_activation
        and type(layer.activate) is nn.ReLU
    )


def _is_plain_rpn(head: Any) -> bool:
    if type(head) is not RPNHead:
        return False
    last = (head.rpn_cls, head.rpn_reg)
    return is_eligible(head.rpn_conv) and all(type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) for conv in last)


def example_plan(depth: int) -> tuple[Tensor, ...]:
    """Return a plan of the right shape for tracing."""
    return (*(torch.zeros(36, 2, dtype=torch.int64) for _ in range(depth)), torch.zeros(3, dtype=torch.int64))
