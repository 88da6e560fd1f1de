"""Extensions of mmengine's Runner: metrics, hooks, curves, and the way from a config to a run."""

from cxr_mmdet.engine.hooks import (
    BestSoFarHook,
    ChannelsLastHook,
    CompileHook,
    CurvesHook,
    IterationSeedHook,
    ProgressHook,
)
from cxr_mmdet.engine.metrics import CxrMetric
from cxr_mmdet.engine.precision import CpuAmpOptimWrapper
from cxr_mmdet.engine.pretrained import PretrainedReportHook
from cxr_mmdet.engine.resuming import ResumeHook
from cxr_mmdet.engine.stopping import MissedValidationHook, NonFiniteHook, StopEarlyHook
from cxr_mmdet.engine.throughput import ThroughputHook, ThroughputLogProcessor

__all__ = [
    "BestSoFarHook",
    "ChannelsLastHook",
    "CompileHook",
    "CpuAmpOptimWrapper",
    "CurvesHook",
    "CxrMetric",
    "IterationSeedHook",
    "MissedValidationHook",
    "NonFiniteHook",
    "PretrainedReportHook",
    "ProgressHook",
    "ResumeHook",
    "StopEarlyHook",
    "ThroughputHook",
    "ThroughputLogProcessor",
]
