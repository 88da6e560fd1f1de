"""Chest X-ray abnormality detection on the MMDetection API.

Importing this package makes ``mmcv.ops`` importable where mmcv came without its compiled operators: it puts a finder
for the one module ``mmcv._ext`` behind Python's own finders, so that a real ``mmcv._ext`` wins. Neither torch nor mmcv
is imported before somebody asks for that module.
"""

from __future__ import annotations

import sys
import warnings
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__version__ = "0.1.0"


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
