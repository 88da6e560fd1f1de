"""What a detector says about one radiograph, in pixels of the radiograph itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_mmdet.drawing import draw_boxes
from cxr_mmdet.structures.boxes import as_boxes, clip_to_image, scale, xyxy_to_xywh
from cxr_mmdet.structures.scores import reaches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Detection = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Findings:
    """Boxes, classes and scores, the highest score first.

    Attributes:
        boxes_xyxy: (N, 4) float64, absolute pixels of the source image, inside it, each with an extent; of a precision
            that DICOM keeps (:meth:`of`).
        labels: (N,) int64 indices into ``class_names``.
        scores: (N,) float64, 0…1.
        class_names: the model's label set, in its order.
        size_hw: the source image's height and width.
        p_abnormal: how sure the model is that there is anything at all, 0…1: what its abnormality gate says; without a
            gate the highest score, 0 where nothing was found.
        model_id: names the model and its weights.
        warnings: what was odd about the source.
    """

    boxes_xyxy: NDArray[np.float64] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    class_names: tuple[str, ...]
    size_hw: tuple[int, int]
    p_abnormal: float
    model_id: str
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        boxes_xyxy: ArrayLike,
        labels: ArrayLike,
        scores: ArrayLike,
        *,
        class_names: Sequence[str],
        size_hw: tuple[int, int],
        model_id: str,
        warnings: Sequence[str] = (),
        p_abnormal: float | None = None,
    ) -> Findings:
        """Return findings made of a detector's output: cut at the border, without boxes that have no extent, sorted.

        Corners are rounded to 32-bit floats, as structured reports hold them (VR FL), so that what is read back from an
        archive is what was found. Of 4000 px that leaves 0.0002 px.

        ``p_abnormal`` is a gate's; None stands for the highest score.
        """
        boxes = clip_to_image(boxes_xyxy, size_hw).astype(np.float32).astype(np.float64)
        label_array = np.asarray(labels, dtype=np.int64).reshape(-1)
        score_array = np.asarray(scores, dtype=np.float64).reshape(-1)
        kept = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
        order = kept[np.argsort(-score_array[kept], kind="stable")]
        return cls(
            boxes_xyxy=boxes[order],
            labels=label_array[order],
            scores=score_array[order],
            class_names=tuple(class_names),
            size_hw=size_hw,
            p_abnormal=float(score_array[order].max(initial=0.0)) if p_abnormal is None else p_abnormal,
            model_id=model_id,
            warnings=tuple(warnings),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def at_least(self, score_threshold: float | Mapping[str, float]) -> Findings:
        """Return the findings with at least this score, or the score given for their class; p_abnormal stays."""
        limits: NDArray[np.float64]
        if isinstance(score_threshold, (int, float)):
            limits = np.full(len(self.class_names), float(score_threshold))
        else:
            limits = np.array([score_threshold.get(name, 0.0) for name in self.class_names], dtype=np.float64)
        return self._only(reaches(self.scores, limits[self.labels]))

    def best(self, count: int) -> Findings:
        """Return the findings with the highest scores, at most so many; p_abnormal stays."""
        return self._only(slice(count))

    def _only(self, kept: NDArray[np.bool_] | slice) -> Findings:
        return replace(self, boxes_xyxy=self.boxes_xyxy[kept], labels=self.labels[kept], scores=self.scores[kept])

    def to_json(self) -> dict[str, Any]:
        """Return the findings as plain values; ``box_xyxy`` is in pixels of the source image."""
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes_xyxy.tolist(), strict=True)
        return {
            "height": self.size_hw[0],
            "width": self.size_hw[1],
            "p_abnormal": self.p_abnormal,
            "model_id": self.model_id,
            "warnings": list(self.warnings),
            "findings": [
                {"class": self.class_names[label], "score": score, "box_xyxy": box} for label, score, box in rows
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], class_names: Sequence[str]) -> Findings:
        """Return the findings that :meth:`to_json` wrote."""
        names = tuple(class_names)
        found = value["findings"]
        return cls(
            boxes_xyxy=as_boxes([finding["box_xyxy"] for finding in found]),
            labels=np.array([names.index(finding["class"]) for finding in found], dtype=np.int64),
            scores=np.array([finding["score"] for finding in found], dtype=np.float64),
            class_names=names,
            size_hw=(value["height"], value["width"]),
            p_abnormal=value["p_abnormal"],
            model_id=value["model_id"],
            warnings=tuple(value["warnings"]),
        )

    def to_coco(
        self, image_id: int, category_ids: Sequence[int], size_hw: tuple[int, int] | None = None
    ) -> list[Detection]:
        """Return COCO results entries.

        Args:
            image_id: the image's id in the COCO file.
            category_ids: the COCO file's id of each class, in the order of ``class_names``.
            size_hw: scale the boxes into an image of this size, such as the prepared one; the source's by default.
        """
        height, width = size_hw or self.size_hw
        scaled = scale(self.boxes_xyxy, width / self.size_hw[1], height / self.size_hw[0])
        rows = zip(self.labels.tolist(), self.scores.tolist(), xyxy_to_xywh(scaled).tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
            for label, score, box in rows
        ]

    def draw(self, pixels: NDArray[np.uint8], *, long_edge: int | None = None) -> NDArray[np.uint8]:
        """Return the radiograph (H, W) uint8 as RGB with the findings drawn and named.

        Args:
            pixels: the source image, or a smaller version of it.
            long_edge: as :func:`cxr_mmdet.drawing.draw_boxes` takes it.
        """
        height, width = pixels.shape
        boxes = scale(self.boxes_xyxy, width / self.size_hw[1], height / self.size_hw[0])
        return draw_boxes(pixels, boxes, self.labels, self.scores, self.class_names, long_edge=long_edge)
