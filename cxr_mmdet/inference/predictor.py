"""Prediction of the findings on radiographs, with test-time augmentation where it is asked for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from cxr_mmdet.dicom.radiograph import Radiograph, read_radiograph
from cxr_mmdet.dicom.source import quiet_pydicom
from cxr_mmdet.errors import UsageError
from cxr_mmdet.inference.backends.base import detect
from cxr_mmdet.inference.fusion import fuse
from cxr_mmdet.inference.model import load_model
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.enums import DetectionFusion
from cxr_mmdet.structures.labels import mirrored_labels
from cxr_mmdet.structures.scores import beyond, in_single_precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.inference.model import LoadedModel
    from cxr_mmdet.inference.preprocessing import ModelInput

    Source = Radiograph | str | Path | bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class AugmentationView:
    """View of test-time augmentation: size of the input as a multiple of the usual one, and whether it is mirrored."""

    scale: float = 1.0
    flip: bool = False


def make_views(scales: Sequence[float] = (1.0,), *, flip: bool = False) -> tuple[AugmentationView, ...]:
    """Return a view per scale and, with ``flip``, a mirrored one per scale."""
    return tuple(
        AugmentationView(scale, mirrored) for mirrored, scale in itertools.product((False, True)[: 1 + flip], scales)
    )


@dataclass(frozen=True)
class Thresholds:
    """Thresholds that decide which detections become findings.

    Attributes:
        score: lowest score of a finding; None: a score must exceed the model's own threshold, from its training config.
        nms_iou: overlap above which the weaker of two findings of a class is removed; None: the model's own.
        per_class: lowest score of single classes, by name.
    """

    score: float | None = None
    nms_iou: float | None = None
    per_class: Mapping[str, float] | None = None

    def check(self, class_names: Sequence[str]) -> None:
        """Raise unless every number is in 0…1 and every class exists.

        Raises:
            UsageError: see above.
        """
        numbers = {"score threshold": self.score, "NMS IoU": self.nms_iou}
        numbers |= {f"score threshold of {name}": value for name, value in (self.per_class or {}).items()}
        for title, value in numbers.items():
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"the {title} is {value:g}, expected a number in 0…1.")
        unknown = [name for name in self.per_class or {} if name not in class_names]
        if unknown:
            raise UsageError(
                f"class threshold: the model has no class {unknown[0]!r}; its classes are {', '.join(class_names)}."
            )

    @property
    def lowest(self) -> float | None:
        """Lowest score that is asked for, of any class; None where none is."""
        asked = [score for score in (self.score, *(self.per_class or {}).values()) if score is not None]
        return min(asked, default=None)

    def of_classes(self, class_names: Sequence[str], own: float) -> NDArray[np.float32]:
        """Return the (K,) lowest scores of the classes.

        Args:
            class_names: classes of the model.
            own: the model's own threshold, which a score must exceed, as in mmdet, where no other is asked for.
        """
        asked = [(self.per_class or {}).get(name, self.score) for name in class_names]
        limits = [beyond(own) if score is None else in_single_precision(score) for score in asked]
        return np.array(limits, dtype=np.float32)


@dataclass(frozen=True)
class Augmentation:
    """Test-time augmentation: the views of a radiograph and the rule by which their findings are fused.

    Attributes:
        views: at least one.
        method: see :class:`cxr_mmdet.structures.enums.DetectionFusion`.
        iou_threshold: overlap above which detections of two views are fused.
    """

    views: tuple[AugmentationView, ...] = (AugmentationView(),)
    method: DetectionFusion = DetectionFusion.WBF
    iou_threshold: float = 0.5


class Predictor:
    """A model that predicts; may be used from several threads at once.

    Args:
        model: a loaded model, or the path of a checkpoint, a run or a bundle; :meth:`load` takes more arguments.
        exact: read every pixel, also of DICOM images of at least twice the size that the model needs.
    """

    def __init__(self, model: LoadedModel | str | Path, *, exact: bool = False) -> None:
        self.model = load_model(model) if isinstance(model, str | Path) else model
        self.exact = exact

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        trust_checkpoint: bool = False,
        short_edge: int | None = None,
        streams: int = 1,
        exact: bool = False,
    ) -> Predictor:
        """Return the predictor of a checkpoint or an exported bundle; see :func:`load_model` for the arguments."""
        loaded = load_model(
            model,
            device=device,
            threads=threads,
            trust_checkpoint=trust_checkpoint,
            short_edge=short_edge,
            streams=streams,
        )
        return cls(loaded, exact=exact)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the model, in its order."""
        return self.model.class_names

    @property
    def model_id(self) -> str:
        """Name of the model and its weights."""
        return self.model.model_id

    @property
    def score_threshold(self) -> float:
        """The model's own score threshold, which applies unless another is asked for."""
        return self.model.spec.score_threshold

    @property
    def has_gate(self) -> bool:
        """Whether the model has an abnormality gate, which gives ``p_abnormal``."""
        return self.model.spec.gate is not None

    @property
    def min_short_edge(self) -> int | None:
        """Pixels of the shorter side below which no radiograph may be reduced; None where all of it must be read."""
        return None if self.exact else self.model.preprocessing.short_edge or None

    @property
    def workers(self) -> int:
        """Number of threads that keep the network busy: beside those in it, one reads ahead and one writes behind."""
        return self.model.streams + 2

    @overload
    def predict(
        self,
        source: Source,
        *,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        augmentation: Augmentation | None = None,
        batch_size: int = 1,
    ) -> Findings: ...

    @overload
    def predict(
        self,
        source: list[Source],
        *,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        augmentation: Augmentation | None = None,
        batch_size: int = 1,
    ) -> list[Findings]: ...

    def predict(
        self,
        source: Source | list[Source],
        *,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        augmentation: Augmentation | None = None,
        batch_size: int = 1,
    ) -> Findings | list[Findings]:
        """Return the findings of one radiograph, or of each in a list.

        Args:
            source: a radiograph, the path or content of a DICOM file or image, grey pixels (H, W) uint8 with black
                as 0, or a list of these. A DICOM file is read no larger than the model needs, unless ``exact``.
            score_threshold: see :class:`Thresholds`.
            nms_iou: see :class:`Thresholds`.
            class_thresholds: see :class:`Thresholds`.
            augmentation: predict several views; one by default.
            batch_size: radiographs of a list per run of the network, where their inputs have one size.

        Raises:
            DicomError: a source that cannot be read.
            UsageError: an array that is no grey image; a threshold outside 0…1, for a class that the model does not
                have, or an NMS IoU for a model without adjustable NMS.
        """
        thresholds = Thresholds(score_threshold, nms_iou, class_thresholds)
        sources = source if isinstance(source, list) else [source]
        found: list[Findings] = []
        for start in range(0, len(sources), batch_size):
            batch = sources[start : start + batch_size]
            radiographs = [as_radiograph(entry, min_short_edge=self.min_short_edge) for entry in batch]
            found += self.predict_radiographs(radiographs, thresholds, augmentation)
        return found if isinstance(source, list) else found[0]

    def check(self, thresholds: Thresholds) -> None:
        """Raise unless the thresholds make sense for this model.

        Raises:
            UsageError: see :meth:`Thresholds.check`, or an NMS IoU for a model without adjustable NMS.
        """
        thresholds.check(self.class_names)
        self.model.spec.resolve_nms_iou(thresholds.nms_iou)

    def predict_radiographs(
        self, radiographs: Sequence[Radiograph], thresholds: Thresholds, augmentation: Augmentation | None = None
    ) -> list[Findings]:
        """Return the findings of radiographs that have been read."""
        self.check(thresholds)
        augmentation = augmentation or Augmentation()
        by_view = [self._detect_view(radiographs, view, thresholds) for view in augmentation.views]
        limits = thresholds.of_classes(self.class_names, self.score_threshold)
        return [
            self._findings(radiograph, views, augmentation, limits)
            for radiograph, *views in zip(radiographs, *by_view, strict=True)
        ]

    def _detect_view(
        self, radiographs: Sequence[Radiograph], view: AugmentationView, thresholds: Thresholds
    ) -> list[Detections]:
        preprocessing = self.model.preprocessing.scaled(view.scale)
        inputs = [
            preprocessing(entry.pixels, entry.pixel_aspect, flip=view.flip, size_hw=entry.size_hw)
            for entry in radiographs
        ]
        found: list[Detections] = []
        # Inputs of different sizes would have to be padded, which changes the network's input at their borders.
        for _, group in itertools.groupby(inputs, key=lambda entry: entry.batch.shape):
            found += self._detect(list(group), thresholds)
        return found

    def _detect(self, inputs: list[ModelInput], thresholds: Thresholds) -> Iterator[Detections]:
        spec = self.model.spec
        limits = thresholds.of_classes(self.class_names, spec.score_threshold)
        nms_iou = spec.resolve_nms_iou(thresholds.nms_iou)
        batch = inputs[0].batch if len(inputs) == 1 else np.concatenate([entry.batch for entry in inputs])
        sizes = [entry.size_hw for entry in inputs]
        detections = detect(self.model.backend, spec, batch, sizes, limits, nms_iou)
        for entry, found in zip(inputs, detections, strict=True):
            yield in_source_pixels(entry, found, self.class_names)

    def _findings(
        self,
        radiograph: Radiograph,
        views: Sequence[Detections],
        augmentation: Augmentation,
        limits: NDArray[np.float32],
    ) -> Findings:
        found = views[0]
        if len(views) > 1:
            found = fuse(views, method=augmentation.method, iou_threshold=augmentation.iou_threshold)
        size_hw, warnings = radiograph.size_hw, radiograph.warnings
        findings = Findings.of(found, size_hw=size_hw, model_id=self.model_id, warnings=warnings)
        if len(views) == 1:
            return findings
        # Fusion lowers the score of what only some of the views show.
        return findings.filter(dict(zip(self.class_names, limits.tolist(), strict=True)))


def in_source_pixels(entry: ModelInput, detections: Detections, class_names: Sequence[str]) -> Detections:
    """Return a network's detections in pixels of the radiograph that the input was made of, with named labels."""
    # In single precision, as mmdet undoes the resizing.
    factors = np.array([1 / factor for factor in entry.factors * 2], dtype=np.float32)
    labels = np.array(mirrored_labels(class_names))[detections.labels] if entry.flipped else detections.labels
    boxes = entry.to_source(detections.boxes_xyxy * factors)
    return Detections(boxes, labels, detections.scores.astype(np.float64), tuple(class_names), detections.p_abnormal)


def as_radiograph(source: Source, *, name: str | None = None, min_short_edge: int | None = None) -> Radiograph:
    """Return a source as a radiograph; see :func:`read_radiograph` for the other arguments."""
    if isinstance(source, Radiograph):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 2 or not source.size:
            raise UsageError(
                f"the image is an array of {source.dtype} of the shape {source.shape}; give grey levels as uint8 of "
                "the shape (height, width)."
            )
        height, width = source.shape
        return Radiograph(np.ascontiguousarray(source), (height, width), None, 1.0, "MONOCHROME2", "as given", "none")
    with quiet_pydicom():
        return read_radiograph(source, name=name, min_short_edge=min_short_edge)
