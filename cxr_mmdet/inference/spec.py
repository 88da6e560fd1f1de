"""Descriptions of detectors that prediction needs, as data; a bundle's ``model.json`` holds a :class:`DetectorSpec`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from cxr_mmdet.errors import CxrError, UsageError
from cxr_mmdet.models.gate_rule import GateRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Activation = Literal["sigmoid", "softmax"]
Four = tuple[float, float, float, float]

NO_NMS = 1.0
"""NMS IoU that no two boxes exceed, so that NMS removes nothing."""

_TINY, _LARGE, _MANY = 1e-6, 1 << 16, 1 << 20
_BELOW_ONE = math.nextafter(1, 0)


def require_number(name: str, value: Any, low: float, high: float) -> None:
    """Check that ``value`` is a finite number in low…high, both included.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, expected a number in {low:g}…{high:g}")


def require_whole(name: str, value: Any, low: int, high: int) -> None:
    """Check that ``value`` is an integer in low…high, both included.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, expected an integer in {low}…{high}")


def require_flag(name: str, value: Any) -> None:
    """Check that ``value`` is true or false.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected true or false")


def _require_selection(score_threshold: Any, nms_iou: Any, max_per_image: Any) -> None:
    require_number("score_threshold", score_threshold, 0, _BELOW_ONE)  # at 1 nothing would ever be found
    require_number("nms_iou", nms_iou, 0, 1)
    require_whole("max_per_image", max_per_image, 1, _MANY)


@dataclass(frozen=True)
class DeltaCoder:
    """Coding of a box as four deltas of an anchor (mmdet's ``DeltaXYWHBBoxCoder``).

    Attributes:
        means: added to the deltas dx, dy, dw, dh after scaling.
        stds: factors that scale the deltas first.
        clip_border: clip decoded boxes to the image.
    """

    means: Four
    stds: Four
    clip_border: bool = True

    def __post_init__(self) -> None:
        for mean in self.means:
            require_number("means", mean, -_LARGE, _LARGE)
        for std in self.stds:
            require_number("stds", std, _TINY, _LARGE)
        require_flag("clip_border", self.clip_border)


@dataclass(frozen=True)
class DistanceCoder:
    """Coding of a box as four distances from an anchor's centre (mmdet's ``DistancePointBBoxCoder``).

    The numbers are the distances to the left, top, right and bottom side.

    Attributes:
        clip_border: clip decoded boxes to the image.
        in_pixels: the unit is a pixel of the input; otherwise a cell of the level.
    """

    clip_border: bool = True
    in_pixels: bool = False

    def __post_init__(self) -> None:
        require_flag("clip_border", self.clip_border)
        require_flag("in_pixels", self.in_pixels)


@dataclass(frozen=True)
class AnchorMaps:
    """Dense maps of scores and deltas over anchors, one pair per level.

    Attributes:
        base_anchors: per level, the anchors around the cell (0, 0): x_min y_min x_max y_max, in pixels of the input;
            for a detector of points, a cell around each point.
        strides: per level, width and height of a cell in pixels of the input.
        coder: coding of the deltas; a :class:`DistanceCoder` for GFL, VFNet and RTMDet.
        activation: of the scores; softmax has the background as last channel.
        channels: scores per anchor, background included.
        nms_pre: maximum candidates per level before NMS, the highest scores first; -1 keeps all.
        nms_iou: overlap above which the weaker box of a class (of a level, for proposals) is removed.
        max_per_image: maximum detections per image.
        score_threshold: a detection's score exceeds this one; unused for proposals.
        min_size: boxes with a side of at most this many pixels are removed; -1 keeps all.
        centerness: a fifth number follows the deltas of each anchor, the logit of a factor of its scores (ATSS). The
            threshold applies to the product, ``nms_pre`` to the scores before.
    """

    base_anchors: tuple[tuple[Four, ...], ...]
    strides: tuple[tuple[int, int], ...]
    coder: DeltaCoder | DistanceCoder
    activation: Activation
    channels: int
    nms_pre: int
    nms_iou: float
    max_per_image: int
    score_threshold: float
    min_size: float
    centerness: bool = False

    def __post_init__(self) -> None:
        if not self.strides or len(self.base_anchors) != len(self.strides):
            raise ValueError(f"base_anchors has {len(self.base_anchors)} levels, strides has {len(self.strides)}")
        for side in (side for level in self.strides for side in level):
            require_whole("strides", side, 1, _LARGE)
        for level in self.base_anchors:
            if not level:
                raise ValueError("a level of base_anchors is empty")
            for x_min, y_min, x_max, y_max in level:
                for corner in (x_min, y_min, x_max, y_max):
                    require_number("base_anchors", corner, -_LARGE, _LARGE)
                if not (x_min < x_max and y_min < y_max):
                    raise ValueError(f"base_anchors holds {[x_min, y_min, x_max, y_max]}, which has no extent")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation is {self.activation!r}, expected one of {', '.join(get_args(Activation))}")
        require_whole("channels", self.channels, 1 if self.activation == "sigmoid" else 2, _MANY)
        require_whole("nms_pre", self.nms_pre, -1, _MANY)
        _require_selection(self.score_threshold, self.nms_iou, self.max_per_image)
        require_number("min_size", self.min_size, -1, _LARGE)
        require_flag("centerness", self.centerness)

    @property
    def anchor_counts(self) -> tuple[int, ...]:
        """Anchors per cell of each level."""
        return tuple(map(len, self.base_anchors))

    @property
    def values(self) -> int:
        """Numbers per anchor beside its scores."""
        return 4 + self.centerness

    def anchors(self, level: int) -> NDArray[np.float32]:
        """Return the (A, 4) anchors around the cell (0, 0)."""
        return np.array(self.base_anchors[level], dtype=np.float32)


@dataclass(frozen=True)
class Queries:
    """Scores and boxes of a transformer's queries (DINO), the best of which are the detections, without NMS.

    They are maps of one level: a query is a cell with one anchor, whose deltas are the centre x and y, the width and
    the height of its box, in shares of the input.

    Attributes:
        count: number of queries, which start from as many cells of all levels of the pyramid.
        strides: per level of the pyramid, width and height of a cell in pixels of the input.
        channels: scores per query, one per class.
        max_per_image: maximum detections per image.
        score_threshold: a detection's score exceeds this one.
        starts: in a graph, a fifth number follows each box: the cell that the query starts from, counted through all
            levels of the pyramid, row by row.
    """

    count: int
    strides: tuple[tuple[int, int], ...]
    channels: int
    max_per_image: int
    score_threshold: float
    starts: bool = False

    activation: ClassVar[Activation] = "sigmoid"
    anchor_counts: ClassVar[tuple[int, ...]] = (1,)
    min_size: ClassVar[float] = -1.0
    nms_iou: ClassVar[float] = NO_NMS

    def __post_init__(self) -> None:
        require_whole("count", self.count, 1, _MANY)
        for side in (side for level in self.strides for side in level):
            require_whole("strides", side, 1, _LARGE)
        require_whole("channels", self.channels, 1, _MANY)
        _require_selection(self.score_threshold, self.nms_iou, self.max_per_image)
        require_flag("starts", self.starts)

    @property
    def values(self) -> int:
        """Numbers per query beside its scores."""
        return 4 + self.starts

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Check that inputs of a shape (N, C, H, W) have a cell for each query.

        Raises:
            CxrError: they have fewer.
        """
        height, width = shape[-2:]
        cells = sum(math.ceil(height / down) * math.ceil(width / across) for across, down in self.strides)
        if cells < self.count:
            raise CxrError(
                f"DINO cannot predict {shape[0]} input(s) of {width} x {height} px ({cells} cells for {self.count} "
                "queries); give larger radiographs or another --tta-scale (make_views in Python)."
            )


@dataclass(frozen=True)
class Pooling:
    """RoIAlign on the levels of a feature pyramid.

    Attributes:
        size_hw: rows and columns of bins.
        samples: sampling points per bin along each side; 0: the number of cells that the bin covers, rounded up.
        aligned: pixel centres lie at one half, and regions may be smaller than a cell.
        strides: per level, the side of a cell in pixels of the input.
    """

    size_hw: tuple[int, int]
    samples: int
    aligned: bool
    strides: tuple[float, ...]

    def __post_init__(self) -> None:
        for side in self.size_hw:
            require_whole("size_hw", side, 1, 64)
        require_whole("samples", self.samples, 0, 64)
        require_flag("aligned", self.aligned)
        for stride in self.strides:
            require_number("strides", stride, 1, _LARGE)


@dataclass(frozen=True)
class Regions:
    """The second stage of a two-stage detector, or all later stages of a cascade.

    Each stage of a cascade pools the boxes that the stage before it refined; the logits of all stages are averaged.

    Attributes:
        pooling: RoIAlign of the regions.
        coder: coding of the last stage's deltas.
        class_agnostic: one set of deltas per region instead of one per class.
        levels: number of levels of the feature pyramid that regions are pooled from.
        finest_scale: regions with a side below twice this length are pooled from the first level (FPN's rule).
        nms_iou: overlap above which the weaker box of a class is removed.
        max_per_image: maximum detections per image.
        score_threshold: a detection's score exceeds this one.
        refining: coding of the deltas of each stage before the last.
    """

    pooling: Pooling
    coder: DeltaCoder
    class_agnostic: bool
    levels: int
    finest_scale: float
    nms_iou: float
    max_per_image: int
    score_threshold: float
    refining: tuple[DeltaCoder, ...] = ()

    def __post_init__(self) -> None:
        require_flag("class_agnostic", self.class_agnostic)
        require_whole("levels", self.levels, 1, len(self.pooling.strides))
        require_number("finest_scale", self.finest_scale, _TINY, _LARGE)
        require_whole("refining", len(self.refining), 0, 8)
        _require_selection(self.score_threshold, self.nms_iou, self.max_per_image)


@dataclass(frozen=True)
class DetectorSpec:
    """A one-stage detector or transformer, whose ``maps`` give detections, or one whose maps propose ``regions``.

    With a ``gate`` the network has one more output: the logit of the image being abnormal.
    """

    maps: AnchorMaps | Queries
    regions: Regions | None = None
    gate: GateRule | None = None

    def __post_init__(self) -> None:
        if self.regions is not None and isinstance(self.maps, Queries):
            raise ValueError("regions follow queries, expected null")
        if self.regions is not None and self.regions.levels > len(self.maps.strides):
            raise ValueError(f"levels is {self.regions.levels}, of {len(self.maps.strides)} in the maps")

    @property
    def class_count(self) -> int | None:
        """Number of classes of the dense scores; None for a two-stage detector."""
        if self.regions is not None:
            return None
        return self.maps.channels - (self.maps.activation == "softmax")

    @property
    def score_threshold(self) -> float:
        """Score threshold that the model was tested with."""
        return (self.regions or self.maps).score_threshold

    @property
    def nms_iou(self) -> float:
        """NMS IoU that the model was tested with."""
        return (self.regions or self.maps).nms_iou

    @property
    def nms_is_adjustable(self) -> bool:
        """Whether an NMS IoU other than the model's own may be set."""
        return isinstance(self.maps, AnchorMaps)

    @property
    def max_per_image(self) -> int:
        """Maximum detections per image."""
        return (self.regions or self.maps).max_per_image

    @property
    def min_size(self) -> float:
        """Boxes with a side of at most this many pixels are removed; negative keeps all."""
        return self.maps.min_size if self.regions is None else -1.0

    def resolve_nms_iou(self, asked: float | None) -> float:
        """Return the NMS IoU that is asked for, or else the model's own.

        Raises:
            UsageError: the model has no NMS that another NMS IoU could change.
        """
        return _resolve_nms_iou(self, "DINO", asked)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        parts = {"maps": asdict(self.maps), "regions": None if self.regions is None else asdict(self.regions)}
        return parts if self.gate is None else parts | {"gate": self.gate.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DetectorSpec:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: something else.
        """
        maps, regions = dict(value["maps"]), value["regions"]
        maps["strides"] = tuple((width, height) for width, height in maps["strides"])
        is_queries = "count" in maps
        if not is_queries:
            maps["base_anchors"] = tuple(tuple(_four(anchor) for anchor in level) for level in maps["base_anchors"])
        return cls(
            maps=Queries(**maps) if is_queries else AnchorMaps(**_with_coder(maps)),
            regions=_regions(regions) if regions else None,
            gate=GateRule.from_json(value["gate"]) if "gate" in value else None,
        )


@dataclass(frozen=True)
class WholeDetector:
    """A detector whose outputs mmdet decodes itself; it runs in torch only.

    Attributes:
        kind: name of its class, for messages.
        score_threshold: score threshold that the model was tested with; 0 where it has none.
        nms_iou: NMS IoU that the model was tested with; ``NO_NMS`` where it does not use plain class-wise NMS.
        nms_is_adjustable: whether it uses plain class-wise NMS, so that another NMS IoU can be asked for.
        max_per_image: maximum detections per image.
        gate: rule of its abnormality gate, which it applies itself; None without one.
    """

    kind: str
    score_threshold: float
    nms_iou: float
    nms_is_adjustable: bool
    max_per_image: int
    gate: GateRule | None = None

    def __post_init__(self) -> None:
        _require_selection(self.score_threshold, self.nms_iou, self.max_per_image)

    @property
    def min_size(self) -> float:
        """Always negative: mmdet has already removed boxes that are too small."""
        return -1.0

    def resolve_nms_iou(self, asked: float | None) -> float:
        """Return the NMS IoU that is asked for, or else the model's own.

        Raises:
            UsageError: the model has no NMS that another NMS IoU could change.
        """
        return _resolve_nms_iou(self, self.kind, asked)


Spec = DetectorSpec | WholeDetector


def _resolve_nms_iou(spec: Spec, kind: str, asked: float | None) -> float:
    if asked is None or asked == spec.nms_iou:
        return spec.nms_iou
    if not spec.nms_is_adjustable:
        raise UsageError(
            f"the NMS IoU cannot be changed: {kind} does not use plain NMS; omit --nms-iou (nms_iou in Python)."
        )
    return asked


def _regions(part: Mapping[str, Any]) -> Regions:
    values = part["pooling"]
    height, width = values["size_hw"]
    pooling = Pooling((height, width), values["samples"], values["aligned"], tuple(values["strides"]))
    refining = tuple(_delta_coder(coder) for coder in part.get("refining", ()))
    return Regions(**_with_coder(part) | {"pooling": pooling, "refining": refining})


def _with_coder(part: Mapping[str, Any]) -> dict[str, Any]:
    coder = dict(part["coder"])
    return dict(part) | {"coder": _delta_coder(coder) if "means" in coder else DistanceCoder(**coder)}


def _delta_coder(coder: Mapping[str, Any]) -> DeltaCoder:
    return DeltaCoder(_four(coder["means"]), _four(coder["stds"]), coder["clip_border"])


def _four(values: Any) -> Four:
    first, second, third, fourth = values
    return first, second, third, fourth
