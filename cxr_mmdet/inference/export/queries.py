"""DINO as a graph: a transformer whose deformable attention is plain operators, for inputs of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmcv.ops import MultiScaleDeformableAttention
from torch import Tensor, nn
from torch.nn import functional

from cxr_mmdet.inference.export.graphs import FeatureGraph
from cxr_mmdet.models.gated_detectors import gate_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmdet.models.detectors.base import BaseDetector
    from numpy.typing import NDArray
    from torch.utils.hooks import RemovableHandle

    from cxr_mmdet.inference.backends.graphs import GraphBackend
    from cxr_mmdet.inference.backends.torch import TorchBackend
    from cxr_mmdet.inference.cpu_kernels.on_demand import Deltas

    Array = NDArray[np.float32]

_FAR = 1e6
"""A logit whose sigmoid is 1; mmdet has infinity, which bundles may not hold."""

_SIDE = 0.05
"""Side of the boxes that the cells of the finest level propose, of the image's; it doubles from level to level."""

_LOW, _HIGH = 0.01, 0.99
"""A box with a number that is not between these is not proposed."""


class QueryGraph(FeatureGraph):
    """Backbone, neck, transformer and head of a DINO, without padding and its masks.

    mmdet's layers run as they are, with the sizes of the levels as traced numbers: mmdet keeps them in a tensor, whose
    values tracing would make constants.

    Args:
        model: in evaluation mode; it is changed.
    """

    def __init__(self, model: BaseDetector) -> None:
        super().__init__(model.backbone, model.neck, gate_of(model))
        self.model = model
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, MultiScaleDeformableAttention):
                    setattr(module, name, PlainAttention(child))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return logits (N, Q, 1, K) of the queries, and (N, Q, 1, 5) their boxes and the cells they start from."""
        model: Any = self.model
        stages, pyramid = self.features(image)
        sizes = [torch.stack([torch.as_tensor(side) for side in level.shape[2:]]) for level in pyramid]
        places = [
            model.positional_encoding(None, input=level) + embedding[:, None, None]
            for level, embedding in zip(pyramid, model.level_embed, strict=True)
        ]
        centres = [_centres(size) for size in sizes]
        memory = _rows(pyramid)
        of_levels = {"spatial_shapes": sizes, "level_start_index": None, "key_padding_mask": None}
        ratios = memory.new_ones(1, len(sizes), 2)
        for layer in model.encoder.layers:
            memory = layer(
                query=memory,
                query_pos=_rows(places),
                reference_points=torch.cat(centres)[None, :, None].expand(-1, -1, len(sizes), -1),
                valid_ratios=ratios,
                **of_levels,
            )
        boxes, starts = self._proposals(memory, sizes, centres)
        hidden, references = model.decoder(
            query=model.query_embedding.weight.expand(memory.shape[0], -1, -1),
            value=memory,
            reference_points=boxes,
            self_attn_mask=None,
            valid_ratios=ratios,
            reg_branches=model.bbox_head.reg_branches,
            **of_levels,
        )
        logits, boxes = model.bbox_head(hidden, list(references))
        found = torch.cat([boxes[-1], starts[:, :, None].to(memory.dtype)], dim=2)
        return (logits[-1].unsqueeze(2), found.unsqueeze(2), *self.abnormal(stages, pyramid, ()))

    def _proposals(self, memory: Tensor, sizes: Sequence[Tensor], centres: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the (N, Q, 4) boxes and (N, Q) cells that queries start from, as mmdet's ``pre_decoder`` does."""
        model: Any = self.model
        sides = [torch.full_like(level, _SIDE * 2**number) for number, level in enumerate(centres)]
        boxes = torch.cat([torch.cat(list(centres)), torch.cat(sides)], dim=1)
        # Cells at the border propose nothing, and their features are left out.
        inside = torch.cat([proposing_cells(size, number) for number, size in enumerate(sizes)])[:, None]
        logits = (boxes / (1 - boxes)).log().masked_fill(~inside, _FAR)
        features = model.memory_trans_norm(model.memory_trans_fc(memory.masked_fill(~inside, 0)))
        scores = model.bbox_head.cls_branches[-1](features).amax(dim=2)
        starts = scores.topk(model.num_queries, dim=1).indices
        boxes = model.bbox_head.reg_branches[-1](features) + logits
        return boxes.gather(1, starts[:, :, None].expand(-1, -1, 4)).sigmoid(), starts


class SameStarts:
    """Backend of a DINO in torch whose queries start from the cells that an exported graph chose for the same input.

    DINO gives its learned queries to the best cells in the order of their scores. Two cells whose scores differ by less
    than rounding change places between any two programs, torch in single and in double precision included, and two
    queries then find something else. In the graph's order torch must find what the graph finds; how far that order is
    from torch's own is measured here.

    Args:
        reference: the detector in torch.
        exported: the backend of its exported graph.

    Attributes:
        order_difference: largest logit by which a cell exceeds, in torch, one that the graph put before it or chose in
            its place, over all inputs so far.
    """

    name = "torch"

    def __init__(self, reference: TorchBackend, exported: GraphBackend) -> None:
        self._reference, self._exported = reference, exported
        self.order_difference = 0.0

    def maps(self, batch: Array) -> tuple[list[Array], Deltas, Any, Array | None]:
        """See :class:`cxr_mmdet.inference.backends.base.Backend`."""
        model: Any = self._reference.model
        _, deltas, *_ = self._exported.maps(batch)
        queries = np.arange(model.num_queries)
        starts = np.stack([deltas.at(index, [queries])[0][:, 4] for index in range(len(batch))])
        branch = model.bbox_head.cls_branches[model.decoder.num_layers]
        handles: list[RemovableHandle] = []

        def force(_: nn.Module, __: Any, logits: Tensor) -> Tensor:
            handles.pop().remove()  # where all layers share one branch, the later ones call it as well
            return self._force(torch.from_numpy(starts).to(logits.device, torch.int64), logits)

        handles.append(branch.register_forward_hook(force))
        try:
            return self._reference.maps(batch)
        finally:
            for handle in handles:
                handle.remove()

    def regions(self, pyramid: Any, rois: Array, levels: Any, stage: int) -> tuple[Array, Array]:
        """Raise: a DINO has none."""
        raise NotImplementedError

    def _force(self, starts: Tensor, logits: Tensor) -> Tensor:
        """Return logits (N, cells, K) that put the cells (N, Q) in that order before all others."""
        scores = logits.amax(dim=2)
        chosen = scores.gather(1, starts)
        others = scores.scatter(1, starts, -torch.inf).amax(dim=1, keepdim=True)
        later = torch.cat([chosen, others], dim=1).flip(1).cummax(dim=1).values.flip(1)[:, 1:]
        self.order_difference = max(self.order_difference, float((later - chosen).max()))
        order = torch.arange(starts.shape[1], 0, -1, dtype=logits.dtype, device=logits.device)
        forced = torch.full_like(scores, -torch.inf).scatter(1, starts, order.expand_as(chosen))
        return forced[:, :, None].expand_as(logits)


class PlainAttention(nn.Module):
    """Multi-scale deformable attention by bilinear sampling (``GridSample``), level by level.

    Args:
        attention: mmcv's module, whose input this one takes, but for ``spatial_shapes``: pairs of height and width.
    """

    def __init__(self, attention: MultiScaleDeformableAttention) -> None:
        super().__init__()
        assert attention.batch_first, "mmdet's transformers are"
        self.attention = attention

    def forward(
        self,
        query: Tensor,
        *,
        value: Tensor | None = None,
        query_pos: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[Tensor],
        **_: Any,
    ) -> Tensor:
        """Return the (N, Q, C) attended values, added to the queries."""
        own = self.attention
        heads, points, levels = own.num_heads, own.num_points, own.num_levels
        placed = query + query_pos
        values = own.value_proj(query if value is None else value).unflatten(2, (heads, -1))
        offsets = own.sampling_offsets(placed).unflatten(2, (heads, levels, points, 2))
        weights = own.attention_weights(placed).unflatten(2, (heads, -1)).softmax(-1).unflatten(3, (levels, points))
        total: Any = 0
        start: Any = 0
        for level, size in enumerate(spatial_shapes):
            height, width = size
            centres = reference_points[:, :, None, level, None, :2]
            if reference_points.shape[-1] == 4:
                unit = reference_points[:, :, None, level, None, 2:] * (0.5 / points)
            else:
                unit = 1 / size.flip(0)
            grid = 2 * (centres + offsets[:, :, :, level] * unit) - 1  # (N, Q, heads, points, 2)
            cells = values[:, start : start + height * width].permute(0, 2, 3, 1)
            sampled = functional.grid_sample(
                cells.reshape(-1, cells.shape[2], height, width),
                grid.transpose(1, 2).flatten(0, 1),
                align_corners=False,
            )
            shares = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
            total = total + (sampled * shares[:, None]).sum(-1)  # (N * heads, C / heads, Q)
            start = start + height * width
        attended = total.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2)
        return own.output_proj(attended) + query


def proposing_cells(size: Tensor, level: int) -> Tensor:
    """Return which cells of a level propose a box, (cells,): those whose box has all numbers in 0.01…0.99, exclusive.

    In whole numbers: where a map has 50 rows, the centre of the last one is at 0.99, and a runtime that multiplies by
    1 / 50 puts it below.

    Args:
        size: height and width of the level.
        level: its number, from 0, the finest.
    """
    height, width = size
    across, down = (_is_inside(torch.arange(side), side) for side in (width, height))
    inside = (down[:, None] & across).flatten()
    return inside if _SIDE * 2**level < _HIGH else torch.zeros_like(inside)


def _is_inside(place: Tensor, side: Tensor) -> Tensor:
    """Return whether (place + 0.5) / side is within the limits."""
    hundredths = 50 * (2 * place + 1)  # times the side
    return (hundredths > round(100 * _LOW) * side) & (hundredths < round(100 * _HIGH) * side)


def _rows(levels: Sequence[Tensor]) -> Tensor:
    """Return (N, cells, C) of (N, C, H, W) maps."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def _centres(size: Tensor) -> Tensor:
    """Return the centres of a level's cells, (cells, 2), x and y in 0…1."""
    height, width = size
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
