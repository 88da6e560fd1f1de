"""A trained detector and its config, described as data: how to prepare images and how to read the outputs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import (
    AnchorHead,
    ATSSHead,
    DINOHead,
    GFLHead,
    RPNHead,
    RTMDetHead,
    RTMDetSepBNHead,
    VFNetHead,
)
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import DINO, SingleStageDetector, TwoStageDetector
from mmdet.models.layers import DeformableDetrTransformerEncoder, DinoTransformerDecoder
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator
from torch import nn

from cxr_mmdet.errors import CheckpointError
from cxr_mmdet.inference.preprocessing import Preprocessing
from cxr_mmdet.inference.spec import (
    AnchorMaps,
    DeltaCoder,
    DetectorSpec,
    DistanceCoder,
    Four,
    Pooling,
    Queries,
    Regions,
)
from cxr_mmdet.models.gated_detectors import gate_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmdet.models.detectors.base import BaseDetector
    from mmengine.config import Config

NOT_EXPORTED = (
    "it cannot be exported. Predict with the checkpoint itself: tools/predict.py, tools/serve.py and "
    "tools/dicom_node.py take it"
)

_DENSE = {head.forward for head in (AnchorHead, ATSSHead, GFLHead, VFNetHead, RTMDetHead, RTMDetSepBNHead)}
"""Passes through dense heads whose maps are known: scores, deltas, and of ATSS the centerness."""

_LOADING = {"LoadGreyImage", "LoadImageFromFile", "LoadAnnotations", "LoadVotedAnnotations"}
_PACKING = {"GreyToThreeChannels", "PackRadiograph", "PackDetInputs"}


_PROBE_SIDE = 256


class OtherArchitectureError(CheckpointError):
    """A detector whose outputs only mmdet itself can decode."""


def describe_preprocessing(config: Config, source: str, *, short_edge: int) -> Preprocessing:
    """Return the steps of a config's test pipeline and of its model's preprocessor.

    Args:
        config: the config a model was trained with.
        source: what messages call the model.
        short_edge: of the prepared images it was trained on; the config does not say.

    Raises:
        CheckpointError: the pipeline has a step that prediction does not know, or a number is out of range.
    """
    pad, scale, keep_ratio = False, None, True
    for step in _test_pipeline(config, source):
        kind = step["type"].rpartition(".")[2]  # without the scope
        if kind == "PadToSquare" and scale is None:
            pad = True
        elif kind == "Resize" and scale is None and step.get("scale") is not None:
            width, height = step["scale"]
            scale, keep_ratio = (int(width), int(height)), bool(step.get("keep_ratio", False))
        elif kind not in _LOADING | _PACKING:
            raise CheckpointError(
                f"{source}: its test pipeline has the step {kind}, which prediction does not know; known are "
                "LoadGreyImage, PadToSquare, one Resize with a scale, GreyToThreeChannels and PackRadiograph."
            )
    with in_range(source):
        return _preprocessing(config, short_edge, pad, scale, keep_ratio)


@contextmanager
def in_range(source: str) -> Iterator[None]:
    """Turn a number that no detector can have into the sentence that its config holds it."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{source}: its config is inconsistent ({error}); correct it and train again.") from None


def _preprocessing(
    config: Config, short_edge: int, pad: bool, scale: tuple[int, int] | None, keep_ratio: bool
) -> Preprocessing:
    preprocessor = config.model.get("data_preprocessor") or {}
    mean, std = (
        tuple(map(float, preprocessor.get(key) or default)) for key, default in (("mean", "000"), ("std", "111"))
    )
    return Preprocessing(
        short_edge=short_edge,
        pad_to_square=pad,
        scale=scale,
        keep_ratio=keep_ratio,
        mean=mean,
        std=std,
        size_divisor=int(preprocessor.get("pad_size_divisor", 1)),
        pad_value=float(preprocessor.get("pad_value", 0)),
    )


def describe_detector(model: BaseDetector, source: str) -> DetectorSpec:
    """Return how to read the outputs of ``model``.

    Args:
        model: built by mmdet.
        source: what messages call the model.

    Raises:
        OtherArchitectureError: an architecture whose outputs mean something else.
        CheckpointError: a threshold or another number of its config is out of range.
    """
    with in_range(source):
        return _detector(model, source)


def _detector(model: BaseDetector, source: str) -> DetectorSpec:
    gate = gate_of(model)
    rule = None if gate is None else gate.rule
    if isinstance(model, TwoStageDetector) and model.with_rpn and model.with_roi_head:
        return DetectorSpec(
            maps=_maps(model.rpn_head, RPNHead._predict_by_feat_single, source),
            regions=_regions(model, source),
            gate=rule,
        )
    if isinstance(model, SingleStageDetector):
        whole = GFLHead if isinstance(model.bbox_head, GFLHead) else BaseDenseHead
        return DetectorSpec(maps=_maps(model.bbox_head, whole._predict_by_feat_single, source), gate=rule)
    if isinstance(model, DINO):
        return DetectorSpec(maps=_queries(model, source), gate=rule)
    raise OtherArchitectureError(f"{source}: is a {type(model).__name__}; {NOT_EXPORTED}.")


def _test_pipeline(config: Config, source: str) -> list[Any]:
    dataset = (config.get("test_dataloader") or config.get("val_dataloader") or {}).get("dataset") or {}
    while "pipeline" not in dataset and isinstance(dataset.get("dataset"), dict):
        dataset = dataset["dataset"]
    pipeline = dataset.get("pipeline") or config.get("test_pipeline")
    if not pipeline:
        raise CheckpointError(f"{source}: its config has no test pipeline, so the preprocessing of images is unknown.")
    return list(pipeline)


def _maps(head: Any, reading: Any, source: str) -> AnchorMaps:
    """Return the description of an anchor head that is read as ``reading`` reads it."""
    generator: Any = getattr(head, "prior_generator", None)
    standard = (
        isinstance(head, AnchorHead)
        and type(head).forward in _DENSE
        and type(head)._predict_by_feat_single is reading
        and type(generator) in (AnchorGenerator, MlvlPointGenerator)
        and not getattr(head.loss_cls, "custom_cls_channels", False)
    )
    if not standard:
        raise OtherArchitectureError(f"{source}: its {type(head).__name__} is decoded differently; {NOT_EXPORTED}.")
    test = head.test_cfg
    return AnchorMaps(
        base_anchors=_base_anchors(generator),
        strides=tuple((int(width), int(height)) for width, height in generator.strides),
        coder=_dense_coder(head, source),
        activation="sigmoid" if head.use_sigmoid_cls else "softmax",
        channels=head.cls_out_channels,
        nms_pre=int(test.get("nms_pre", -1)),
        nms_iou=_nms_iou(test.nms, source),
        max_per_image=int(test.max_per_img),
        score_threshold=float(test.get("score_thr", 0)),
        min_size=float(test.get("min_bbox_size", -1)),
        centerness=type(head).forward is ATSSHead.forward,
    )


def _queries(model: Any, source: str) -> Queries:
    head, test = model.bbox_head, model.bbox_head.test_cfg
    standard = (
        type(model).pre_decoder is DINO.pre_decoder
        and type(model.encoder) is DeformableDetrTransformerEncoder
        and type(model.decoder) is DinoTransformerDecoder
        and type(head) is DINOHead
        and head.loss_cls.use_sigmoid
        and "nms" not in test
    )
    if not standard:
        raise OtherArchitectureError(f"{source}: its {type(head).__name__} is decoded differently; {NOT_EXPORTED}.")
    # Padding would take masks in every layer.
    if (divisor := getattr(model.data_preprocessor, "pad_size_divisor", 1)) != 1:
        raise OtherArchitectureError(f"{source}: pads its inputs to multiples of {divisor} px; {NOT_EXPORTED}.")
    with torch.no_grad():
        pyramid = model.extract_feat(torch.zeros(1, 3, _PROBE_SIDE, _PROBE_SIDE))
    return Queries(
        count=int(model.num_queries),
        strides=tuple((_PROBE_SIDE // level.shape[3], _PROBE_SIDE // level.shape[2]) for level in pyramid),
        channels=int(head.cls_out_channels),
        max_per_image=int(test.get("max_per_img", model.num_queries)),
        score_threshold=float(test.get("score_thr", 0)),
        starts=True,
    )


def _base_anchors(generator: Any) -> tuple[tuple[Four, ...], ...]:
    """Return the anchors of each level around the cell (0, 0): of points, a cell around the point."""
    if isinstance(generator, AnchorGenerator):
        return tuple(tuple(map(tuple, level.tolist())) for level in generator.base_anchors)
    low, high = generator.offset - 0.5, generator.offset + 0.5
    return tuple(((low * width, low * height, high * width, high * height),) for width, height in generator.strides)


def _regions(model: BaseDetector, source: str) -> Regions:
    roi_head = model.roi_head
    kinds = [kind for kind in (StandardRoIHead, CascadeRoIHead) if isinstance(roi_head, kind)]
    stages = region_stages(roi_head) if kinds else []
    standard = (
        bool(kinds)
        and type(roi_head).predict_bbox is kinds[0].predict_bbox
        and all(_is_plain_stage(extractor, head) for extractor, head in stages)
        and not roi_head.with_shared_head
    )
    poolings = {_pooling(extractor, source) for extractor, _ in stages} if standard else set()
    if len(poolings) != 1 or len({head.reg_class_agnostic for _, head in stages}) != 1:
        raise OtherArchitectureError(f"{source}: its {type(roi_head).__name__} is decoded differently; {NOT_EXPORTED}.")
    test = roi_head.test_cfg
    extractor, head = stages[-1]
    return Regions(
        pooling=poolings.pop(),
        coder=_coder(head.bbox_coder, source),
        refining=tuple(_coder(earlier.bbox_coder, source) for _, earlier in stages[:-1]),
        class_agnostic=bool(head.reg_class_agnostic),
        levels=extractor.num_inputs,
        finest_scale=float(extractor.finest_scale),
        nms_iou=_nms_iou(test.nms, source),
        max_per_image=int(test.max_per_img),
        score_threshold=float(test.score_thr),
    )


def region_stages(roi_head: Any) -> list[tuple[Any, Any]]:
    """Return the RoI extractor and the head of each stage of a cascade, or of the one second stage."""
    extractors, heads = roi_head.bbox_roi_extractor, roi_head.bbox_head
    return list(zip(extractors, heads, strict=True)) if isinstance(heads, nn.ModuleList) else [(extractors, heads)]


def _is_plain_stage(extractor: Any, head: Any) -> bool:
    return (
        type(extractor) is SingleRoIExtractor
        and isinstance(head, BBoxHead)
        and type(head)._predict_by_feat_single is BBoxHead._predict_by_feat_single
        and not head.custom_cls_channels
        and not head.custom_activation
    )


def _pooling(extractor: SingleRoIExtractor, source: str) -> Pooling:
    layers = extractor.roi_layers
    kinds = {
        (type(layer), tuple(layer.output_size), int(layer.sampling_ratio), layer.aligned)
        for layer in layers
        if type(layer) is RoIAlign and layer.pool_mode == "avg"
    }
    if len(kinds) != 1 or not all(type(layer) is RoIAlign and layer.pool_mode == "avg" for layer in layers):
        raise OtherArchitectureError(f"{source}: pools regions by {type(layers[0]).__name__}; {NOT_EXPORTED}.")
    ((_, (height, width), samples, aligned),) = kinds
    strides = tuple(1 / float(layer.spatial_scale) for layer in layers)
    return Pooling((int(height), int(width)), samples, bool(aligned), strides)


def _dense_coder(head: Any, source: str) -> DeltaCoder | DistanceCoder:
    coder = head.bbox_coder
    if type(coder) is DistancePointBBoxCoder:
        return DistanceCoder(bool(coder.clip_border), in_pixels=not isinstance(head, GFLHead))
    return _coder(coder, source)


def _coder(coder: Any, source: str) -> DeltaCoder:
    if type(coder) is not DeltaXYWHBBoxCoder or coder.add_ctr_clamp:
        raise OtherArchitectureError(f"{source}: encodes boxes by {type(coder).__name__}; {NOT_EXPORTED}.")
    return DeltaCoder(tuple(coder.means), tuple(coder.stds), bool(coder.clip_border))


def _nms_iou(nms: Any, source: str) -> float:
    if nms.get("type", "nms") != "nms" or nms.get("class_agnostic", False):
        raise OtherArchitectureError(
            f"{source}: suppresses boxes by {nms.get('type', 'nms')}, not by plain nms within a class; {NOT_EXPORTED}."
        )
    return float(nms.iou_threshold)
