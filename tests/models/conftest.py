"""What the tests of the operators share."""

import pytest
import torch

import cxr_mmdet  # noqa: F401  (before the test modules import mmcv)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    ]
)
def device(request):
    """Where the tensors lie."""
    return request.param
