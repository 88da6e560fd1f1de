"""Requirements of an abnormality gate on its training data: both kinds of study, and their shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_mmdet.datasets.draw_plan import UNDECIDED_KEY
from cxr_mmdet.datasets.minority import COPY_KEY
from cxr_mmdet.errors import ConfigError, DatasetError
from cxr_mmdet.models.gated_detectors import gate_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    from torch import nn


def prepare_gate(model: nn.Module, dataset: Any, normal_share: Fraction | None = None) -> None:
    """Let a model's gate start at the share of abnormal studies in its training data; nothing without a gate.

    Args:
        model: about to be trained, wrapped or not.
        dataset: of training; any that has ``get_data_info``, or wraps one that has.
        normal_share: the share of normal studies among those drawn; None: as many as there are.

    Raises:
        DatasetError: all studies are abnormal, or all are normal.
        ConfigError: no normal study is drawn.
    """
    gate = gate_of(model)
    if gate is None:
        return
    if normal_share == 0:
        raise ConfigError(
            "sampler: normal_share is 0, so that no normal study is drawn for the abnormality gate to learn from; give "
            "another share, or the switch boxes_from_abnormal in place of abnormal_only."
        )
    normal, abnormal = count_studies(dataset)
    if not normal or not abnormal:
        if abnormal:
            holds, other, remedy = "every training image holds a finding", "normal", "without --drop-normals"
            if any(entry.get(UNDECIDED_KEY, False) for entry in _entries(dataset)):
                holds += " or was not looked through for all classes"
                remedy = "with normal studies that were looked through for all"
        else:
            holds, other, remedy = "no training image holds a finding", "abnormal", "with the labels that occur in them"
        raise DatasetError(
            f"{_source(dataset)}: {holds}, so that the abnormality gate cannot learn what {other} ones look like; "
            f"prepare the data {remedy}, or choose the recipe without a gate."
        )
    gate.prior = abnormal / (normal + abnormal)


def count_studies(dataset: Any) -> tuple[int, int]:
    """Return the numbers of normal and of abnormal entries, without those that a gate does not learn from.

    Those are virtual copies, and images of which nobody knows whether they are normal.
    """
    counts = [0, 0]
    for entry in _entries(dataset):
        if not entry.get(COPY_KEY, False) and not entry.get(UNDECIDED_KEY, False):
            counts[bool(entry["instances"])] += 1
    return counts[0], counts[1]


def _entries(dataset: Any) -> Iterator[dict[str, Any]]:
    while not hasattr(dataset, "get_data_info"):
        dataset = dataset.dataset
    for index in range(len(dataset)):
        yield dataset.get_data_info(index)


def _source(dataset: Any) -> str:
    """Return the annotation file of a dataset, however wrapped."""
    while not hasattr(dataset, "ann_file") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return str(getattr(dataset, "ann_file", "training data"))
