"""Is the radiograph abnormal at all: scores of whole images, their ROC curve and "No finding" as a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.evaluation.counting import as_weights
from cxr_mmdet.evaluation.matching import ClassMatches
from cxr_mmdet.evaluation.tables import first_of_runs
from cxr_mmdet.labels import NO_FINDING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cxr_mmdet.evaluation.counting import Weights
    from cxr_mmdet.evaluation.tables import DetectionTable, TruthTable


@dataclass(frozen=True)
class ImageScores:
    """Each image's probability of being abnormal, and whether it is.

    Attributes:
        p_abnormal: (images,), 0…1.
        abnormal: (images,) bool: the ground truth holds a box.
        unknown: (images,) bool: it holds crowd regions alone, so that the image counts as neither; None: no such image.
    """

    p_abnormal: NDArray[np.float64]
    abnormal: NDArray[np.bool_]
    unknown: NDArray[np.bool_] | None = None

    @property
    def known(self) -> NDArray[np.bool_]:
        """(images,) bool: the image is abnormal or normal."""
        return np.ones(len(self.abnormal), bool) if self.unknown is None else ~self.unknown


def score_images(
    truth: TruthTable, found: DetectionTable, p_abnormal: NDArray[np.float64] | None = None
) -> ImageScores:
    """Return the images' scores.

    Args:
        truth: the ground truth; an image with a box of any of its classes is abnormal, one with crowd regions
            alone neither abnormal nor normal.
        found: the detections.
        p_abnormal: (images,) from a classifier; without it the highest score of any detection, 0 without detections.
    """
    images = len(truth.image_ids)
    if p_abnormal is None:
        p_abnormal = np.zeros(images)
        np.maximum.at(p_abnormal, found.image_index, found.scores)
    abnormal, region = np.zeros(images, bool), np.zeros(images, bool)
    abnormal[truth.image_index[~truth.crowd]] = True
    region[truth.image_index[truth.crowd]] = True
    return ImageScores(p_abnormal=p_abnormal, abnormal=abnormal, unknown=region & ~abnormal)


def no_finding_matches(images: ImageScores) -> ClassMatches:
    """Return the competition's class 14: each image gets one box of fixed place, right where nothing is annotated.

    Its score is 1 - p_abnormal. A submission says ``14 <score> 0 0 1 1``, as the ground truth of normal images does.
    """
    scores = 1 - images.p_abnormal
    order = np.argsort(-scores, kind="stable")
    order = order[images.known[order]]
    normal = ~images.abnormal & images.known
    return ClassMatches(
        name=NO_FINDING,
        scores=scores[order],
        hits=normal[order],
        duplicates=np.zeros(len(order), bool),
        image_index=order,
        detection_index=np.full(len(order), -1),
        annotation_index=np.full(len(order), -1),
        positives=normal.astype(np.int64),
    )


def roc_auc(images: ImageScores, weights: Weights | None = None) -> NDArray[np.float64]:
    """Return (R,) the probability that an abnormal image scores above a normal one, ties counting half.

    This is the Mann-Whitney statistic, equal to the area under the ROC curve (Hanley and McNeil, Radiology 143, 1982).

    Args:
        images: the images' scores.
        weights: how often each image counts, (images,) or (R, images); once each by default.

    Returns:
        NaN where there is no abnormal or no normal image.
    """
    abnormal, normal = _counts_by_score(images, as_weights(weights, len(images.abnormal)))
    below = np.cumsum(normal[::-1], axis=0)[::-1] - normal
    wins = (abnormal * (below + normal / 2)).sum(axis=0)
    pairs = abnormal.sum(axis=0) * normal.sum(axis=0)
    return np.divide(wins, pairs, out=np.full_like(wins, np.nan), where=pairs > 0)


def roc_curve(images: ImageScores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false positive and true positive rates from (0, 0) to (1, 1); both empty where a kind of image lacks."""
    abnormal, normal = _counts_by_score(images, as_weights(None, len(images.abnormal)))
    if not abnormal.sum() or not normal.sum():
        return np.zeros(0), np.zeros(0)
    rates = [np.concatenate([[0], np.cumsum(counts[:, 0]) / counts.sum()]) for counts in (normal, abnormal)]
    return rates[0], rates[1]


def _counts_by_score(images: ImageScores, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (distinct scores, R) weighted abnormal and normal images, the highest score first."""
    order = np.argsort(-images.p_abnormal, kind="stable")
    per_image = weights.T[order].astype(np.float64) * images.known[order, None]
    starts = first_of_runs(images.p_abnormal[order])
    abnormal = images.abnormal[order, None]
    if not len(starts):
        return per_image, per_image
    return (
        np.add.reduceat(per_image * abnormal, starts, axis=0),
        np.add.reduceat(per_image * ~abnormal, starts, axis=0),
    )
