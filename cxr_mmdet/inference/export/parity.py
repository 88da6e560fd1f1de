"""Radiographs to compare models on: synthetic ones with known findings, and a user's own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cxr_mmdet.errors import DatasetError, counted
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, iou_matrix, xyxy_to_xywh
from cxr_mmdet.structures.coverage import NEG_KEY, NOT_EXHAUSTIVE_KEY
from cxr_mmdet.structures.labels import LABELS_14, NO_FINDING
from cxr_mmdet.structures.radiograph_files import RadiographFile, find_radiographs, image_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cxr_mmdet.structures.coco import CocoDict, Detection
    from cxr_mmdet.structures.detections import Findings

Item = TypeVar("Item")

PHANTOMS = 6

_PHANTOM_SIZE = 512

_PHANTOM_SEED = 20


@dataclass(frozen=True)
class CheckSet:
    """Radiographs, and their ground truth if it is known; its images are numbered from 1 in their order."""

    name: str
    items: tuple[RadiographFile, ...]
    truth: CocoDict | None

    def some(self, count: int) -> CheckSet:
        """Return at most ``count`` of the radiographs, spread over all of them, numbered anew."""
        if len(self.items) <= count:
            return self
        numbers = {old: new for new, old in enumerate(evenly(range(1, len(self.items) + 1), count), 1)}
        truth = self.truth
        if truth is not None:
            images = [image | {"id": numbers[image["id"]]} for image in truth["images"] if image["id"] in numbers]
            annotations = [
                entry | {"image_id": numbers[entry["image_id"]]}
                for entry in truth["annotations"]
                if entry["image_id"] in numbers
            ]
            truth = truth | {"images": images, "annotations": annotations}
        return CheckSet(self.name, tuple(self.items[old - 1] for old in numbers), truth)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` of the items, spread over all of them."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places.tolist()]


def phantom_set(class_names: Sequence[str], folder: Path) -> CheckSet:
    """Return a few synthetic radiographs, written into ``folder``; with truth where all classes can be drawn."""
    from cxr_mmdet.annotations.table import read_table
    from cxr_mmdet.phantom import write_phantoms

    drawn = [name for name in class_names if name in LABELS_14]
    write_phantoms(
        folder,
        images=PHANTOMS,
        seed=_PHANTOM_SEED,
        size=_PHANTOM_SIZE,
        abnormal_share=0.8,
        readers=1,
        labels=drawn or LABELS_14,
    )
    items = tuple(find_radiographs([str(folder / "train")]))
    if len(drawn) < len(class_names):
        return CheckSet("phantoms", items, None)
    rows = read_table(folder / "truth.csv")
    rows = rows[rows["class_name"] != NO_FINDING]
    numbers = {item.image_id: number for number, item in enumerate(items, 1)}
    boxes = xyxy_to_xywh(rows[XYXY_COLUMNS].to_numpy(float)).tolist()
    entries = zip(rows["image_id"], rows["class_name"], boxes, strict=True)
    annotations = [
        _annotation(index, numbers[image], class_names.index(name), box)
        for index, (image, name, box) in enumerate(entries, 1)
    ]
    return CheckSet("phantoms", items, _coco([{"id": number} for number in numbers.values()], class_names, annotations))


def user_set(path: Path, class_names: Sequence[str]) -> CheckSet:
    """Return a user's radiographs: a folder's or archive's without truth, or those of a prepared folder's COCO file.

    Raises:
        DatasetError: there is none, or the file is not COCO, or of other classes.
    """
    if path.suffix.lower() != ".json":
        return CheckSet(path.name, tuple(find_radiographs([str(path)])), None)
    from cxr_mmdet.structures.coco import read_coco

    truth = read_coco(path, strict=False)
    names = [category["name"] for category in truth["categories"]]
    missing = [name for name in class_names if name not in names]
    if missing:
        raise DatasetError(f"{path}: has no category {missing[0]!r}, which the model finds; give its own label set.")
    folder = next((parent.parent for parent in path.parents if parent.name == "annotations"), path.parent.parent)
    label_of = {category["id"]: category["name"] for category in truth["categories"]}
    items, numbers, images = [], {}, []
    for number, image in enumerate(sorted(truth["images"], key=lambda image: image["id"]), 1):
        file = folder / "images" / image["file_name"]
        if not file.is_file():
            raise DatasetError(f"{path}: its image {file} is missing; give the annotation file of a prepared folder.")
        items.append(RadiographFile(image_id_of(file), file))
        numbers[image["id"]] = number
        facts: dict[str, Any] = {"id": number} | {key: image[key] for key in ("group",) if key in image}
        for key in (NEG_KEY, NOT_EXHAUSTIVE_KEY):
            if key in image:
                listed = [label_of[label] for label in image[key]]
                facts[key] = [class_names.index(name) + 1 for name in listed if name in class_names]
        images.append(facts)
    annotations = [
        {
            **entry,
            "image_id": numbers[entry["image_id"]],
            "category_id": class_names.index(label_of[entry["category_id"]]) + 1,
        }
        for entry in truth["annotations"]
        if label_of[entry["category_id"]] in class_names
    ]
    return CheckSet(folder.name, tuple(items), _coco(images, class_names, annotations))


def _coco(images: list[Any], class_names: Sequence[str], annotations: list[dict[str, object]]) -> CocoDict:
    return {
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, 1)],
        "annotations": annotations,
    }


def _annotation(index: int, image: int, label: int, bbox: list[float]) -> dict[str, object]:
    return {
        "id": index,
        "image_id": image,
        "category_id": label + 1,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
    }


SAME_IOU = 0.5

CLEAR_MARGIN = 0.01
"""A finding whose score is nearer to the threshold than this may be missing on the other side."""


@dataclass(frozen=True)
class ParityLimits:
    """Largest differences allowed between an exported model and torch.

    Attributes:
        box_px: pixels of the radiograph, for a box's side; None: not limited.
        score: of a finding, and of a gate's p_abnormal; None: not limited.
        unmatched: whether clear findings of either may be without counterpart.
        mean_ap: mAP@[.5:.95] that may be lost, 0…1.
        order: logit by which the reference may contradict the order of the cells that a DINO's queries start from;
            None: not limited.
    """

    box_px: float | None
    score: float | None
    unmatched: bool
    mean_ap: float
    order: float | None


EXACT = ParityLimits(box_px=0.5, score=0.001, unmatched=False, mean_ap=0.001, order=0.001)


def quantised_limits(max_loss: float) -> ParityLimits:
    """Return the limits of eight bits, which move every score a little: what counts is the mAP."""
    return ParityLimits(box_px=None, score=None, unmatched=True, mean_ap=max_loss, order=None)


@dataclass(frozen=True)
class Parity:
    """The comparison on one set of radiographs.

    Attributes:
        name: of the set.
        images: how many.
        findings: of the reference, clearly above its threshold.
        unmatched: those without a counterpart of the same class that overlaps by half.
        additional: findings of the other, clearly above the threshold, without such a counterpart in the reference.
        largest_box_difference_px: between a side of a finding and its counterpart's, pixels of the radiograph.
        largest_score_difference: likewise.
        reference_mean_ap: mAP@[.5:.95] of the reference, 0…1; None without ground truth.
        mean_ap: of the other.
        largest_p_abnormal_difference: of the gates; None without. Without a gate p_abnormal is a score, and a finding
            at the threshold would make or unmake it.
        largest_order_difference: of a DINO, whose reference starts its queries as the other does; see
            :class:`cxr_mmdet.inference.export.queries.SameStarts`.
        loss: of eight bits: ``mean_ap``, ``mean_ap_50`` and ``per_class``, each as
            :meth:`cxr_mmdet.evaluation.comparison.Difference.to_json` writes it, from the reference to the other.
    """

    name: str
    images: int
    findings: int
    unmatched: int
    largest_box_difference_px: float
    largest_score_difference: float
    additional: int = 0
    reference_mean_ap: float | None = None
    mean_ap: float | None = None
    largest_p_abnormal_difference: float | None = None
    largest_order_difference: float | None = None
    loss: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def problems(self, limits: ParityLimits) -> list[str]:
        """Return what exceeds the limits, in words."""
        found = []
        if limits.box_px is not None and self.largest_box_difference_px > limits.box_px:
            found.append(f"a box differs by {self.largest_box_difference_px:.3g} px (limit {limits.box_px:g})")
        if limits.score is not None and self.largest_score_difference > limits.score:
            found.append(f"a score differs by {self.largest_score_difference:.3g} (limit {limits.score:g})")
        gate = self.largest_p_abnormal_difference
        if limits.score is not None and gate is not None and gate > limits.score:
            found.append(f"p_abnormal differs by {gate:.3g} (limit {limits.score:g})")
        order = self.largest_order_difference
        if limits.order is not None and order is not None and order > limits.order:
            found.append(f"torch's scores contradict the order of the queries by {order:.2g} (limit {limits.order:g})")
        if self.unmatched and not limits.unmatched:
            found.append(f"{self.unmatched} of {self.findings} findings have no counterpart")
        if self.additional and not limits.unmatched:
            found.append(f"{counted(self.additional, 'finding')} without counterpart in torch")
        if self.reference_mean_ap is not None and self.mean_ap is not None:
            lost = self.reference_mean_ap - self.mean_ap
            if lost > limits.mean_ap:
                found.append(f"the mAP falls by {lost:.4f} (limit {limits.mean_ap:g})")
        return found


def nothing_compared(sets: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence that says that no box and no score was compared, where the reference found nothing; else ''.

    Args:
        sets: as :meth:`Parity.to_json` gives them.
    """
    if not sets or any(entry["findings"] for entry in sets):
        return ""
    return "Torch found nothing clear on these radiographs, so no box and no score was compared"


def compare_findings(
    name: str,
    reference: Sequence[Findings],
    other: Sequence[Findings],
    *,
    score_threshold: float,
    truth: CocoDict | None = None,
    gate: bool = False,
    loss: bool = False,
) -> Parity:
    """Return how far ``other`` is from ``reference``.

    Args:
        name: of the set.
        reference: of each radiograph.
        other: of the same radiographs, in the same order.
        score_threshold: that both were made with.
        truth: COCO ground truth whose images are numbered from 1 in that order, in pixels of the radiographs.
        gate: whether their p_abnormal is a gate's, and is compared.
        loss: give the differences of the scores with paired intervals, where there is truth.
    """
    boxes, scores, unmatched, findings, additional = 0.0, 0.0, 0, 0, 0
    for expected, got in zip(reference, other, strict=True):
        clear, clear_got = (found.filter(score_threshold + CLEAR_MARGIN) for found in (expected, got))
        overlaps = _overlaps(clear, got)
        findings += len(clear)
        additional += int((_overlaps(clear_got, expected).max(axis=1, initial=0) < SAME_IOU).sum())
        if not len(got):
            unmatched += len(clear)
            continue
        # Among several that overlap alike, the counterpart is the one with the nearest score.
        distance = 1 - overlaps + np.abs(clear.scores[:, None] - got.scores[None, :])
        partners = distance.argmin(axis=1) if len(clear) else np.empty(0, dtype=np.int64)
        moved = np.abs(clear.boxes_xyxy - got.boxes_xyxy[partners]).max(axis=1, initial=0)
        changed = np.abs(clear.scores - got.scores[partners])
        found = overlaps[np.arange(len(clear)), partners] >= SAME_IOU
        unmatched += int((~found).sum())
        boxes = max(boxes, float(moved[found].max(initial=0)))
        scores = max(scores, float(changed[found].max(initial=0)))
    return Parity(
        name=name,
        images=len(reference),
        findings=findings,
        unmatched=unmatched,
        additional=additional,
        largest_box_difference_px=boxes,
        largest_score_difference=scores,
        reference_mean_ap=None if truth is None else mean_ap(truth, reference),
        mean_ap=None if truth is None else mean_ap(truth, other),
        largest_p_abnormal_difference=_p_abnormal_difference(reference, other) if gate else None,
        loss=_loss(truth, reference, other) if loss and truth is not None else None,
    )


def _overlaps(first: Findings, second: Findings) -> NDArray[np.float64]:
    """Return the IoU of each pair of findings, 0 for two classes."""
    return iou_matrix(first.boxes_xyxy, second.boxes_xyxy) * (first.labels[:, None] == second.labels[None, :])


def _p_abnormal_difference(reference: Sequence[Findings], other: Sequence[Findings]) -> float:
    pairs = zip(reference, other, strict=True)
    return max((abs(expected.p_abnormal - got.p_abnormal) for expected, got in pairs), default=0.0)


def _loss(truth: CocoDict, reference: Sequence[Findings], other: Sequence[Findings]) -> dict[str, Any]:
    from cxr_mmdet.evaluation.comparison import compare
    from cxr_mmdet.evaluation.headline import match_all

    first, second = (match_all(truth, _detections(truth, found)) for found in (reference, other))
    document = compare(first, second).to_json()
    return {
        "bootstrap": document["bootstrap"],
        **{name: document[name] for name in ("mean_ap", "mean_ap_50")},
        "per_class": [{"name": entry["name"], "ap": entry["ap"]} for entry in document["per_class"]],
    }


def mean_ap(truth: CocoDict, found: Sequence[Findings]) -> float | None:
    """Return mAP@[.5:.95], 0…1, of findings of the images numbered from 1; None where the truth holds no box."""
    from cxr_mmdet.evaluation.coco import evaluate_coco

    return evaluate_coco(truth, _detections(truth, found)).mean_ap if truth["annotations"] else None


def _detections(truth: CocoDict, found: Sequence[Findings]) -> list[Detection]:
    ids = {category["name"]: category["id"] for category in truth["categories"]}
    return [
        entry
        for number, findings in enumerate(found, 1)
        for entry in findings.to_coco(number, [ids[name] for name in findings.class_names])
    ]
