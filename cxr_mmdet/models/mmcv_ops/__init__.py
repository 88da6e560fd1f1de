"""mmcv's compiled operators (``mmcv._ext``) on torchvision and torch, for mmcv installed without them.

Each operator keeps the calling convention of mmcv's C++ binding (``mmcv/ops/csrc/pytorch/pybind.cpp``): tensors by
position, numbers by mmcv's keyword, results written into tensors the caller allocated. Half and bfloat16 tensors are
computed in float32, as torchvision's own autocast rules do. ``im2col_step``, a tiling hint, is accepted and ignored.

Provided is what mmdet's detectors call: NMS, soft-NMS, NMS grouping, box overlaps, RoIAlign, RoIPool, focal losses,
deformable convolutions, deformable attention, masked convolution and CARAFE. Any other operator raises
:class:`OperatorNotProvidedError` when it is called, not when ``mmcv.ops`` is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NoReturn

from cxr_mmdet.errors import CxrError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_ROOMS = ("attention", "boxes", "build_info", "carafe", "deform_conv", "focal_loss", "masked_conv", "roi")


class OperatorNotProvidedError(CxrError, NotImplementedError):
    """A compiled operator of mmcv that has no counterpart here was called."""


def operator_backend() -> str:
    """Return who answers for mmcv's operators: ``mmcv (compiled)``, ``torchvision (cxr_mmdet)`` or ``none``.

    Imports mmcv and its operators, which takes seconds when torch is not loaded yet.
    """
    try:
        extension = importlib.import_module("mmcv._ext")
    except (ImportError, OSError, RuntimeError):  # the latter two: torchvision was built for another torch
        return "none"
    spec = extension.__spec__
    return "torchvision (cxr_mmdet)" if spec is not None and spec.origin == __name__ else "mmcv (compiled)"


def provide_operators(module: ModuleType) -> None:
    """Fill ``module``, an empty ``mmcv._ext``, with the operators.

    Raises:
        ImportError: torch or torchvision is missing.
    """
    for room in _ROOMS:
        source = importlib.import_module(f"{__name__}.{room}")
        for name in source.__all__:
            setattr(module, name, getattr(source, name))
    module.__getattr__ = _absent_operator  # type: ignore[method-assign]


def _absent_operator(name: str) -> Callable[..., NoReturn]:
    # mmcv asserts hasattr for every operator on import; Python itself probes for underscored names.
    if name.startswith("_"):
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")

    def absent(*args: object, **options: object) -> NoReturn:
        raise OperatorNotProvidedError(
            f"mmcv's operator '{name}' was called, but mmcv is installed without compiled operators and cxr_mmdet "
            "provides only those that mmdet's detectors need; choose a model without it, or install an mmcv "
            "that was compiled for this torch."
        )

    return absent
