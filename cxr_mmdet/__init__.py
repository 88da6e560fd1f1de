"""Chest X-ray abnormality detection on the MMDetection API.

The names in ``__all__`` are the public Python interface, described in docs/python.md. They are imported when they are
first used, so that ``import cxr_mmdet`` stays cheap:

    >>> from cxr_mmdet import Predictor
    >>> predictor = Predictor.load("work_dirs/retina_lungs")  # a run, a checkpoint or an exported bundle
    >>> findings = predictor.predict("chest.dicom")
    >>> [(finding.class_name, finding.score, finding.box_xyxy) for finding in findings]

Importing this package makes ``mmcv.ops`` importable where mmcv came without its compiled operators: it puts a finder
for the one module ``mmcv._ext`` behind Python's own finders, so that a real ``mmcv._ext`` wins. Neither torch nor mmcv
is imported before somebody asks for that module.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from cxr_mmdet.dicom.radiograph import Radiograph, read_radiograph
    from cxr_mmdet.errors import CxrError
    from cxr_mmdet.evaluation.evaluate import EvaluationResult, evaluate
    from cxr_mmdet.inference.predictor import Augmentation, Predictor, make_views
    from cxr_mmdet.structures.detections import Detections, Findings
    from cxr_mmdet.structures.radiograph_files import RadiographFile, find_radiographs

__version__ = "0.5.1"

__all__ = [
    "Augmentation",
    "CxrError",
    "Detections",
    "EvaluationResult",
    "Findings",
    "Predictor",
    "Radiograph",
    "RadiographFile",
    "__version__",
    "evaluate",
    "find_radiographs",
    "make_views",
    "read_radiograph",
]

_HOMES = {
    "Augmentation": "cxr_mmdet.inference.predictor",
    "CxrError": "cxr_mmdet.errors",
    "Detections": "cxr_mmdet.structures.detections",
    "EvaluationResult": "cxr_mmdet.evaluation.evaluate",
    "Findings": "cxr_mmdet.structures.detections",
    "Predictor": "cxr_mmdet.inference.predictor",
    "Radiograph": "cxr_mmdet.dicom.radiograph",
    "RadiographFile": "cxr_mmdet.structures.radiograph_files",
    "evaluate": "cxr_mmdet.evaluation.evaluate",
    "find_radiographs": "cxr_mmdet.structures.radiograph_files",
    "make_views": "cxr_mmdet.inference.predictor",
    "read_radiograph": "cxr_mmdet.dicom.radiograph",
}
"""The module that defines each public name."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, also those that were not used yet."""
    return sorted({*globals(), *__all__})


class _MmcvExtFinder:
    """Finder and loader of ``mmcv._ext``; the operators stand in :mod:`cxr_mmdet.models.mmcv_ops`."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != "mmcv._ext":
            return None
        # Deriving from importlib.abc.Loader would import importlib.resources and much else with every start.
        return ModuleSpec(fullname, self, origin="cxr_mmdet.models.mmcv_ops")  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module object to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        from cxr_mmdet.models.mmcv_ops import provide_operators

        provide_operators(module)


def _warn_if_too_late() -> None:
    # mmdet's maintained distribution swallows the ImportError of mmcv.ops and binds stubs that fail when called.
    if "mmcv._ext" not in sys.modules and not sys.modules.keys().isdisjoint({"mmdet.models", "mmdet.structures"}):
        warnings.warn(
            "mmdet was imported before cxr_mmdet and found no operators of mmcv; import cxr_mmdet first.",
            RuntimeWarning,
            stacklevel=3,
        )


sys.meta_path.append(_MmcvExtFinder())
_warn_if_too_late()
