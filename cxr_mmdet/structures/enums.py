"""Choices and defaults that the command line and the library share; light enough to import for ``--help``."""

from __future__ import annotations

from enum import Enum

DEFAULT_SCORE_THRESHOLD = 0.3
"""Lowest score of a finding that overlays, the page, the node and reports show unless another is given."""

DEFAULT_STREAMS = 2
"""Radiographs that the node and predictions of many have in the network at once."""


class ReaderFusion(str, Enum):
    """Rule by which the boxes of several readers of a radiograph become one set."""

    WBF = "wbf"
    NMS = "nms"
    VOTE = "vote"
    NONE = "none"
    READERS = "readers"


class DetectionFusion(str, Enum):
    """Rule by which the detections of several models or views become one set.

    The fused box is the mean of its boxes, weighted by score and model weight. ``wbf`` (weighted boxes fusion) scores
    it by the weighted mean score times the share of the models that contribute; ``p_sum`` by the sum of the weighted
    scores divided by the sum of the models' weights. Several detections of one model count separately; a score is at
    most 1.
    """

    WBF = "wbf"
    P_SUM = "p_sum"


class HitCriterion(str, Enum):
    """Rule by which a detection hits a ground truth box of its class."""

    IOU = "iou"
    """The intersection over union is above a threshold."""
    CENTRE = "centre"
    """The detection's centre lies in the ground truth box or on its border."""


class PhantomReaders(str, Enum):
    """Habits of the readers of synthetic radiographs."""

    PLAIN = "plain"
    VINBIGDATA = "vinbigdata"


class Against(str, Enum):
    """Truth that detections are scored against besides the ground truth file."""

    READERS = "readers"


class SubmissionFormat(str, Enum):
    """Competition whose file is written."""

    VINBIGDATA = "vinbigdata"
    RSNA = "rsna"
    SIIM_COVID = "siim-covid"


class ExportFormat(str, Enum):
    """Format of the network in a model bundle, which decides the runtime that predicts with it."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH = "torch"


class SplitMethod(str, Enum):
    """Rule that divides the radiographs into a training and a validation split."""

    AUTO = "auto"
    """As the source ships it, else by chance."""
    GIVEN = "given"
    RANDOM = "random"
    STRATIFIED = "stratified"
    LIST = "list"
    READERS = "readers"


class SplitName(str, Enum):
    """Split of a prepared folder."""

    VAL = "val"
    TRAIN = "train"
