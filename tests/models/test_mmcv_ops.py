"""The stand-in for ``mmcv._ext`` as a module: what it offers, what it refuses, what mmcv thinks of it."""

import importlib.util
import pkgutil
import re
import sys
from types import ModuleType

import mmcv._ext
import mmcv.ops
import pytest
import torch
import torchvision
from mmcv.utils.ext_loader import load_ext
from mmengine.utils.dl_utils import mmcv_full_available

from cxr_mmdet.errors import CxrError
from cxr_mmdet.models import mmcv_ops
from cxr_mmdet.models.mmcv_ops import OperatorNotProvidedError, operator_backend, provide_operators

PROVIDED = {
    "bbox_overlaps",
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
}


def test_offers_these_operators():
    module = ModuleType("mmcv._ext")
    plain = set(vars(module))
    provide_operators(module)
    assert set(vars(module)) - plain - {"__getattr__"} == PROVIDED


def test_mmcv_finds_every_operator_it_asks_for():
    extension = load_ext("_ext", ["nms", "nms_rotated", "an_operator_of_next_year"])
    assert extension is mmcv._ext


def test_absent_operator_raises_by_name_when_called():
    boxes = torch.rand(3, 5)
    with pytest.raises(OperatorNotProvidedError, match="'box_iou_rotated'"):
        mmcv.ops.box_iou_rotated(boxes, boxes)
    with pytest.raises(OperatorNotProvidedError, match="'nms_rotated'") as caught:
        mmcv.ops.nms_rotated(boxes, torch.rand(3), 0.5)
    assert isinstance(caught.value, CxrError)
    assert isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize("name", ["__path__", "__file__", "__wrapped__", "_private"])
def test_pythons_own_probes_find_nothing(name):
    assert not hasattr(mmcv._ext, name)
    with pytest.raises(AttributeError, match=re.escape(f"module 'mmcv._ext' has no attribute '{name}'")):
        getattr(mmcv._ext, name)


def test_looks_like_an_ordinary_module():
    assert sys.modules["mmcv._ext"] is mmcv._ext
    assert mmcv._ext.__name__ == "mmcv._ext"
    assert mmcv._ext.__spec__.origin == mmcv_ops.__name__
    assert mmcv._ext.__package__ == "mmcv"


def test_checks_for_operators_say_yes():
    assert importlib.util.find_spec("mmcv._ext") is not None
    assert mmcv_full_available()


@pytest.mark.skipif(not hasattr(pkgutil, "find_loader"), reason="Python 3.14 has no pkgutil.find_loader")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mmcvs_own_check_says_yes():
    from mmcv.utils.ext_loader import check_ops_exist

    assert check_ops_exist()
    assert pkgutil.find_loader("mmcv._ext_of_another_name") is None


def test_backend_is_named():
    assert operator_backend() == "torchvision (cxr_mmdet)"


def test_environment_report_is_honest():
    assert mmcv.ops.get_compiler_version() == f"none (cxr_mmdet on torchvision {torchvision.__version__})"
    assert mmcv.ops.get_compiling_cuda_version() == (torch.version.cuda or "not available")
