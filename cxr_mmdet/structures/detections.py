"""Detections of one radiograph, and findings: detections with the facts of the radiograph that they lie on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cxr_mmdet.structures.boxes import batched_nms, clip_to_image, scale, xyxy_to_xywh
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Self

Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes, classes and scores on one image, in any order unless a function promises one.

    Sequences are converted to arrays. Single precision stays single precision: a network's candidates keep it until
    after NMS.

    Attributes:
        boxes_xyxy: (N, 4) floating point, absolute pixels.
        labels: (N,) int64 indices into ``class_names``; pyramid levels for the proposals of a two-stage detector.
        scores: (N,) floating point, 0…1.
        class_names: the label set of the model, in its order; empty where the labels are not named yet.
        p_abnormal: probability of any abnormality according to an abnormality gate; None without a gate.

    Raises:
        ValueError: the numbers of boxes, labels and scores differ.

    Example:
        >>> detections = Detections([[10, 20, 30, 40], [11, 20, 30, 40]], [0, 0], [0.9, 0.6], ("Nodule/Mass",))
        >>> detections.nms(0.5).filter(0.3).scores.tolist()
        [0.9]
    """

    boxes_xyxy: NDArray[np.floating] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.floating] = field(repr=False)
    class_names: tuple[str, ...] = ()
    p_abnormal: float | None = None

    def __post_init__(self) -> None:
        arrays = {
            "boxes_xyxy": _floating(self.boxes_xyxy).reshape(-1, 4),
            "labels": np.asarray(self.labels, dtype=np.int64).reshape(-1),
            "scores": _floating(self.scores).reshape(-1),
        }
        if len({len(array) for array in arrays.values()}) > 1:
            lengths = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
            raise ValueError(f"Detections take one label and one score per box, got {lengths}")
        for name, array in arrays.items():
            object.__setattr__(self, name, array)
        object.__setattr__(self, "class_names", tuple(self.class_names))

    @classmethod
    def concatenate(cls, parts: Sequence[Detections], class_names: Sequence[str] = ()) -> Detections:
        """Return the detections of all parts, which are at least one, one part after the other."""
        return Detections(
            np.concatenate([part.boxes_xyxy for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.scores for part in parts]),
            tuple(class_names),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | NDArray[Any]) -> Self:
        """Return the detections at these indices, in this slice or where this mask is true; p_abnormal stays."""
        return replace(self, boxes_xyxy=self.boxes_xyxy[index], labels=self.labels[index], scores=self.scores[index])

    def filter(self, min_score: float | Mapping[str, float]) -> Self:
        """Return the detections with at least this score, or the score given for their class; p_abnormal stays.

        Args:
            min_score: one for all classes, or by class name; classes that are not named keep all.
        """
        if isinstance(min_score, (int, float)):
            return self[reaches(self.scores, min_score)]
        limits = np.array([min_score.get(name, 0.0) for name in self.class_names], dtype=np.float64)
        return self[reaches(self.scores, limits[self.labels])]

    def best(self, count: int) -> Self:
        """Return at most ``count`` detections, the highest score first; p_abnormal stays."""
        return self[np.argsort(-self.scores, kind="stable")[:count]]

    def nms(self, iou_threshold: float, max_detections: int | None = None) -> Self:
        """Return what class-wise non-maximum suppression keeps, the highest score first; p_abnormal stays.

        Args:
            iou_threshold: overlap above which the weaker of two detections of a class is removed.
            max_detections: at most this many are kept; None keeps all.
        """
        limit = max(1, len(self)) if max_detections is None else max_detections
        return self[batched_nms(self.boxes_xyxy, self.scores, self.labels, iou_threshold, limit)]


class Finding(NamedTuple):
    """One row of :class:`Findings`."""

    label: int
    class_name: str
    score: float
    box_xyxy: Box

    @property
    def key(self) -> str:
        """Identifier within the radiograph, which does not change with the score threshold."""
        return f"{self.label}:" + ",".join(f"{side:.2f}" for side in self.box_xyxy)


@dataclass(frozen=True, eq=False, kw_only=True)
class Findings(Detections):
    """Detections in pixels of a radiograph, the highest score first, with the facts of that radiograph.

    Boxes lie inside the radiograph, have an extent, and are float64 of a precision that DICOM keeps (:meth:`of`).
    Iteration yields a :class:`Finding` per detection.

    Attributes:
        p_abnormal: probability of any abnormality, 0…1: the abnormality gate's; without a gate the highest score, and
            0 where nothing was found.
        size_hw: height and width of the radiograph in pixels.
        model_id: name of the model and its weights.
        warnings: oddities of the radiograph's file.
    """

    p_abnormal: float = 0.0
    size_hw: tuple[int, int]
    model_id: str
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, detections: Detections, *, size_hw: tuple[int, int], model_id: str, warnings: Sequence[str] = ()
    ) -> Findings:
        """Return detections as findings: clipped to the radiograph, without boxes that have no extent, sorted.

        Corners are rounded to 32-bit floats, as structured reports hold them (VR FL), so that findings which are read
        back from an archive equal those that were written. At 4000 px the rounding is below 0.0002 px.
        """
        boxes = clip_to_image(detections.boxes_xyxy, size_hw).astype(np.float32).astype(np.float64)
        scores = detections.scores.astype(np.float64)
        keep = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
        order = keep[np.argsort(-scores[keep], kind="stable")]
        p_abnormal = detections.p_abnormal
        return cls(
            boxes_xyxy=boxes[order],
            labels=detections.labels[order],
            scores=scores[order],
            class_names=detections.class_names,
            p_abnormal=float(scores[order].max(initial=0.0)) if p_abnormal is None else p_abnormal,
            size_hw=size_hw,
            model_id=model_id,
            warnings=tuple(warnings),
        )

    def __iter__(self) -> Iterator[Finding]:
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes_xyxy.tolist(), strict=True)
        for label, score, box in rows:
            yield Finding(label, self.class_names[label], score, tuple(box))

    def to_json(self) -> dict[str, Any]:
        """Return the findings as plain values; ``box_xyxy`` is in pixels of the radiograph."""
        return {
            "height": self.size_hw[0],
            "width": self.size_hw[1],
            "p_abnormal": self.p_abnormal,
            "model_id": self.model_id,
            "warnings": list(self.warnings),
            "findings": [
                {"class": finding.class_name, "score": finding.score, "box_xyxy": list(finding.box_xyxy)}
                for finding in self
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], class_names: Sequence[str]) -> Findings:
        """Return the findings that :meth:`to_json` wrote."""
        names = tuple(class_names)
        rows = value["findings"]
        return cls(
            boxes_xyxy=np.array([row["box_xyxy"] for row in rows], dtype=np.float64),
            labels=np.array([names.index(row["class"]) for row in rows], dtype=np.int64),
            scores=np.array([row["score"] for row in rows], dtype=np.float64),
            class_names=names,
            p_abnormal=value["p_abnormal"],
            size_hw=(value["height"], value["width"]),
            model_id=value["model_id"],
            warnings=tuple(value["warnings"]),
        )

    def to_coco(
        self, image_id: int, category_ids: Sequence[int], size_hw: tuple[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """Return the entries of a COCO results file.

        Args:
            image_id: id of the image in the COCO file.
            category_ids: id in the COCO file of each class, in the order of ``class_names``.
            size_hw: size of the image that the boxes are scaled to, such as the prepared one; the radiograph's by
                default.
        """
        boxes = xyxy_to_xywh(self._boxes_in(size_hw or self.size_hw)).tolist()
        rows = zip(self.labels.tolist(), self.scores.tolist(), boxes, strict=True)
        return [
            {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
            for label, score, box in rows
        ]

    def draw(
        self,
        pixels: NDArray[np.uint8],
        *,
        min_score: float | Mapping[str, float] = DEFAULT_SCORE_THRESHOLD,
        long_edge: int | None = None,
    ) -> NDArray[np.uint8]:
        """Return the radiograph (H, W) uint8 as RGB with boxes and names; a caption says so where no box is drawn.

        Args:
            pixels: the radiograph, or a resized version of it.
            min_score: the lowest score that is drawn, as in :meth:`filter`.
            long_edge: see :func:`cxr_mmdet.drawing.draw_boxes`.
        """
        from cxr_mmdet.drawing import draw_boxes

        shown = self.filter(min_score)
        height, width = pixels.shape
        return draw_boxes(
            pixels,
            shown._boxes_in((height, width)),
            shown.labels,
            shown.scores,
            self.class_names,
            long_edge=long_edge,
            caption=self.caption(min_score),
        )

    def caption(self, min_score: float | Mapping[str, float]) -> str | None:
        """Return the caption of an overlay without a box; None where at least one finding is drawn."""
        limit = f"{min_score:.2f}" if isinstance(min_score, (int, float)) else "the thresholds of their classes"
        return None if len(self.filter(min_score)) else f"no finding above {limit}"

    def _boxes_in(self, size_hw: tuple[int, int]) -> NDArray[np.float64]:
        height, width = size_hw
        return scale(self.boxes_xyxy, width / self.size_hw[1], height / self.size_hw[0])


def _floating(values: ArrayLike) -> NDArray[np.floating]:
    array = np.asarray(values)
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)
