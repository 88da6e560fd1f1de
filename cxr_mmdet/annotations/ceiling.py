"""The human ceiling: each reader scored against the consensus of the others, by the code that scores detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cxr_mmdet.annotations.consensus import fuse_readers, with_regions
from cxr_mmdet.annotations.table import is_region, without_regions
from cxr_mmdet.evaluation.bootstrap import RESAMPLES, bootstrap, percentile_interval
from cxr_mmdet.evaluation.coco import IOU_THRESHOLDS, match_coco
from cxr_mmdet.evaluation.matching import ClassMatches, DetectionTable, TruthTable, match_tables, overlapping_pairs
from cxr_mmdet.evaluation.voc import COMPETITION_IOU, average_precision, mean_defined
from cxr_mmdet.structures.boxes import XYXY_COLUMNS, area, xyxy_to_xywh

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.coco import CocoMatches

    Values = dict[str, NDArray[np.float64]]

RESAMPLES_AT_ONCE = 250
"""Of 15,000 images: 30 MB of weights."""
MEANS = ("voc_mean_ap_40", "mean_ap_50", "mean_ap")


def human_ceiling(
    rows: pd.DataFrame,
    labels: Sequence[str],
    groups: Mapping[str, str],
    splits: Mapping[str, Collection[str]],
    *,
    fusion: Mapping[str, Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return ``human_ceiling`` of ``manifest.json``: for each split, how well readers find the others' boxes.

    Of every image that two or more read, each reader's boxes, all of score 1, are detections, and the consensus of the
    other readers is the truth. A reader's scores are those of a detector on these images: ``voc_mean_ap_40`` (VOC
    2010's rule at IoU 0.4), ``mean_ap_50`` and ``mean_ap`` (COCO's rule at 0.5 and over 0.50:0.05:0.95). Boxes of one
    score are one operating point, so each average precision is precision times recall, and no order of files matters.
    The headline and ``per_class`` are means over readers, weighted by the images they read on which they or the others
    drew a box; readers of normal images only would else drown the rest. A region to ignore, whoever marked it, is
    neither a box to find nor a reader's box, and a box in it is no false alarm. Each measure has the 95 % bootstrap
    interval over groups of images.

    Args:
        rows: validated readers' rows, whose classes have the names of the labels.
        labels: the classes to score.
        groups: the group of each image that counts.
        splits: name → images.
        fusion: arguments of :func:`cxr_mmdet.annotations.consensus.fuse_readers`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        split → ``images``, ``readers``, the three means and ``per_class``; None for a split whose images no two
        readers share.
    """
    image_ids = sorted(groups)
    rows = rows[rows["image_id"].isin(groups)]
    studies = [study for study in _reader_studies(rows, labels, image_ids, fusion) if len(study.images)]
    place = {image_id: number for number, image_id in enumerate(image_ids)}
    group_of = pd.factorize(np.array([groups[image_id] for image_id in image_ids], dtype=object))[0]
    ceilings: dict[str, Any] = {}
    for name, members in splits.items():
        chosen = np.array(sorted(place[image_id] for image_id in members if image_id in place), dtype=np.int64)
        ceilings[name] = _ceiling_of_split(studies, labels, chosen, group_of, resamples, seed)
    return ceilings


@dataclass(frozen=True)
class _ReaderStudy:
    """One reader against the others.

    Attributes:
        reader: who.
        images: (I,) places of the images that this reader and another read.
        drawn_on: (D,) the places of those on which anybody drew a box; matches count images in it.
        voc: matches of each class at IoU 0.4.
        coco: matches of each class at COCO's ten IoUs.
    """

    reader: str
    images: NDArray[np.int64]
    drawn_on: NDArray[np.int64]
    voc: tuple[ClassMatches, ...]
    coco: tuple[CocoMatches, ...]


def _reader_studies(
    rows: pd.DataFrame, labels: Sequence[str], image_ids: Sequence[str], fusion: Mapping[str, Any]
) -> list[_ReaderStudy]:
    readings = rows[["image_id", "reader"]].drop_duplicates()
    shared = readings[readings.groupby("image_id")["reader"].transform("size") > 1]
    studies = []
    for reader, own in shared.groupby("reader", sort=True):
        reading = rows[rows["image_id"].isin(own["image_id"])]
        mine = reading["reader"] == reader
        truth = fuse_readers(without_regions(reading[~mine]), **fusion)
        if is_region(reading).any():
            truth = with_regions(truth, reading[is_region(reading)])
        boxes = without_regions(reading[mine])
        studies.append(_study(str(reader), boxes, truth, labels, image_ids, own["image_id"]))
    return studies


def _study(
    reader: str,
    own: pd.DataFrame,
    consensus: pd.DataFrame,
    labels: Sequence[str],
    image_ids: Sequence[str],
    images: pd.Series,
) -> _ReaderStudy:
    places = pd.Index(image_ids)
    drawn, truth_rows = own[own["class_name"].isin(labels)], consensus[consensus["class_name"].isin(labels)]
    boxes = truth_rows[~is_region(truth_rows)]
    drawn_on = np.unique(places.get_indexer(pd.Index([*drawn["image_id"], *boxes["image_id"]])))
    truth_rows = truth_rows[np.isin(places.get_indexer(pd.Index(truth_rows["image_id"])), drawn_on)]

    def columns(frame: pd.DataFrame) -> dict[str, Any]:
        return {
            "image_index": np.searchsorted(drawn_on, places.get_indexer(pd.Index(frame["image_id"]))),
            "category_index": pd.Index(labels).get_indexer(pd.Index(frame["class_name"])),
            "boxes_xywh": xyxy_to_xywh(frame[XYXY_COLUMNS].to_numpy(np.float64)),
        }

    truth = TruthTable(
        image_ids=np.arange(len(drawn_on)),
        category_ids=np.arange(len(labels)),
        names=tuple(labels),
        areas=area(truth_rows[XYXY_COLUMNS]),
        crowd=is_region(truth_rows).to_numpy(),
        **columns(truth_rows),
    )
    found = DetectionTable(scores=np.ones(len(drawn)), **columns(drawn))
    pairs = overlapping_pairs(truth, found)
    return _ReaderStudy(
        reader=reader,
        images=np.sort(places.get_indexer(pd.Index(images))),
        drawn_on=drawn_on,
        voc=match_tables(truth, found, pairs, iou_threshold=COMPETITION_IOU),
        coco=match_coco(truth, found, pairs),
    )


def _ceiling_of_split(
    studies: Sequence[_ReaderStudy],
    labels: Sequence[str],
    chosen: NDArray[np.int64],
    group_of: NDArray[np.int64],
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    images = {study.reader: int(np.isin(study.images, chosen).sum()) for study in studies}
    own = [study for study in studies if images[study.reader]]
    if not own:
        return None
    importance = np.array([np.isin(study.drawn_on, chosen).sum() for study in own], dtype=np.float64)

    def statistics(weights: NDArray[np.number]) -> Values:
        everywhere = np.zeros((len(weights), len(group_of)))
        everywhere[:, chosen] = weights
        return _values(own, labels, importance, everywhere)

    groups = np.unique(group_of[chosen], return_inverse=True)[1].reshape(-1)
    values = statistics(np.ones((1, len(chosen))))
    samples = bootstrap(statistics, groups, resamples=resamples, seed=seed, at_once=RESAMPLES_AT_ONCE)
    n_groups = int(groups.max()) + 1

    def measure(name: str) -> dict[str, float | None]:
        value = None if np.isnan(values[name][0]) else float(values[name][0])
        return percentile_interval(value, samples[name], groups=n_groups).to_json()

    return {
        "images": len(np.unique(np.concatenate([study.images[np.isin(study.images, chosen)] for study in own]))),
        "readers": {
            study.reader: {
                "images": images[study.reader],
                "images_with_boxes": int(weight),
                **{mean: measure(f"{study.reader}/{mean}") for mean in MEANS},
            }
            for study, weight in zip(own, importance, strict=True)
        },
        **{mean: measure(mean) for mean in MEANS},
        "per_class": [
            {"name": name, "voc_ap_40": measure(f"{label}/voc_ap_40"), "ap_50": measure(f"{label}/ap_50")}
            for label, name in enumerate(labels)
        ],
    }


def _values(
    studies: Sequence[_ReaderStudy],
    labels: Sequence[str],
    importance: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> Values:
    """Return (R,) values by name, for (R, images) weights of all images; NaN where undefined."""
    # (readers, classes, 11, R): VOC's at 0.4, then COCO's at ten IoUs.
    precision = np.stack([_average_precisions(study, weights[:, study.drawn_on]) for study in studies])
    values: Values = {}
    means = {"voc_mean_ap_40": precision[:, :, 0], "mean_ap_50": precision[:, :, 1]}
    # All ten IoUs of a class are defined, or none.
    means["mean_ap"] = precision[:, :, 1:].mean(axis=2)
    for name, per_class in means.items():
        per_reader = np.stack([mean_defined(classes) for classes in per_class])
        values |= {f"{study.reader}/{name}": own for study, own in zip(studies, per_reader, strict=True)}
        values[name] = _weighted_mean(per_reader, importance)
    for label in range(len(labels)):
        for name, column in (("voc_ap_40", 0), ("ap_50", 1)):
            values[f"{label}/{name}"] = _weighted_mean(precision[:, label, column], importance)
    return values


def _average_precisions(study: _ReaderStudy, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (classes, 11, R)."""
    result = np.full((len(study.voc), 1 + len(IOU_THRESHOLDS), len(weights)), np.nan)
    for label, (voc, coco) in enumerate(zip(study.voc, study.coco, strict=True)):
        if not voc.boxes:
            continue
        result[label, 0] = average_precision(voc, weights)
        for place, kept in enumerate(~coco.ignored, start=1):
            own = _as_one_operating_point(coco, coco.hits[place - 1], kept)
            result[label, place] = average_precision(own, weights)
    return result


def _as_one_operating_point(coco: CocoMatches, hits: NDArray[np.bool_], kept: NDArray[np.bool_]) -> ClassMatches:
    """Return COCO's matches at one IoU in the form that leaves equal scores without a rank, as COCO's own does not.

    Args:
        coco: the matches of a class.
        hits: (N,) whether each detection hits at this IoU.
        kept: (N,) False for detections in regions to ignore.
    """
    hits = hits[kept]
    nothing = np.full(len(hits), -1)
    return ClassMatches(
        name=coco.name,
        scores=np.ones(len(hits)),
        hits=hits,
        duplicates=np.zeros(len(hits), dtype=bool),
        image_index=coco.image_index[kept],
        detection_index=nothing,
        annotation_index=nothing,
        positives=coco.positives,
    )


def _weighted_mean(values: NDArray[np.float64], importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of (readers, R) values over the readers where they are defined; NaN where none is."""
    weights = np.where(np.isnan(values), 0, importance[:, None])
    total = weights.sum(axis=0)
    summed = (np.nan_to_num(values) * weights).sum(axis=0)
    return np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
