"""What hangs on mmengine's Runner: metrics, hooks, curves, and the way from a config to a run."""

from cxr_mmdet.engine.hooks import BestSoFarHook, CurvesHook, IterationSeedHook, ProgressHook
from cxr_mmdet.engine.metrics import CxrMetric
from cxr_mmdet.engine.pretrained import PretrainedReportHook

__all__ = [
    "BestSoFarHook",
    "CurvesHook",
    "CxrMetric",
    "IterationSeedHook",
    "PretrainedReportHook",
    "ProgressHook",
]
