"""Prepared folders as mmdet datasets, and the transforms that are ours."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):  # mmdet prints on stdout that it goes without OneDL
    import mmdet.datasets  # noqa: F401

from cxr_mmdet.datasets.augmentation import (
    RandomAcquisition,
    RandomClahe,
    RandomExposure,
    RandomMirror,
    RandomPositioning,
)
from cxr_mmdet.datasets.cxr_dataset import CxrDataset
from cxr_mmdet.datasets.loading import LoadRadiograph
from cxr_mmdet.datasets.minority import MinorityAugmentedDataset
from cxr_mmdet.datasets.phantoms import WithPhantoms
from cxr_mmdet.datasets.sampler import SeededInfiniteSampler
from cxr_mmdet.datasets.transforms import (
    GreyToThreeChannels,
    LoadGreyImage,
    MinorityFlipRot90,
    PackRadiograph,
    PadToSquare,
)
from cxr_mmdet.datasets.votes import LoadVotedAnnotations

__all__ = [
    "CxrDataset",
    "GreyToThreeChannels",
    "LoadGreyImage",
    "LoadRadiograph",
    "LoadVotedAnnotations",
    "MinorityAugmentedDataset",
    "MinorityFlipRot90",
    "PackRadiograph",
    "PadToSquare",
    "RandomAcquisition",
    "RandomClahe",
    "RandomExposure",
    "RandomMirror",
    "RandomPositioning",
    "SeededInfiniteSampler",
    "WithPhantoms",
]
