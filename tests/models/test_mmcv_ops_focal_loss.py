"""Focal losses against torchvision's, the definition, and numerical differentiation."""

import mmcv._ext
import pytest
import torch
import torchvision
from mmcv.ops import SigmoidFocalLoss, SoftmaxFocalLoss, sigmoid_focal_loss, softmax_focal_loss
from torch.nn import functional

CLASSES = 4


def logits_and_target(rows=30, seed=0, background=True):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, CLASSES + background, (rows,), generator=generator)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.75), (0.5, 0.9)])
def test_sigmoid_loss_equals_torchvision(gamma, alpha, device):
    logits, target = logits_and_target()
    logits = logits.to(device).requires_grad_()
    one_hot = functional.one_hot(target.to(device), CLASSES + 1)[:, :CLASSES].double()
    expected = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha=alpha, gamma=gamma)
    loss = sigmoid_focal_loss(logits, target.to(device), gamma, alpha, None, "none")
    torch.testing.assert_close(loss, expected)
    upstream = torch.rand_like(loss)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits, upstream)[0], torch.autograd.grad(expected, logits, upstream)[0]
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_sigmoid_gradient(reduction, weighted, device):
    logits, target = logits_and_target(rows=7)
    weight = torch.tensor([0.5, 1, 2, 3], dtype=torch.float64, device=device) if weighted else None
    module = SigmoidFocalLoss(2.0, 0.25, weight, reduction)
    target = target.to(device)
    assert torch.autograd.gradcheck(lambda x: module(x, target), logits.to(device).requires_grad_())


def test_sigmoid_class_weight_is_the_rows():
    logits, target = logits_and_target()
    weight = torch.tensor([0.5, 1, 2, 3], dtype=torch.float64)
    plain = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    weighted = sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, "none")
    factor = torch.cat([weight, torch.ones(1)])[target]  # background has no class, hence no class weight
    torch.testing.assert_close(weighted, plain * factor[:, None])
    assert (target == CLASSES).any()


@pytest.mark.parametrize("background", [-1, CLASSES, 100])
def test_sigmoid_background_is_all_negative(background):
    logits, _ = logits_and_target()
    loss = sigmoid_focal_loss(logits, torch.full((30,), background), 2.0, 0.25, None, "none")
    probability = logits.sigmoid()
    torch.testing.assert_close(loss, -0.75 * probability**2 * (1 - probability).log())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sigmoid_survives_extreme_logits(dtype, device):
    logits = torch.tensor([[-100.0, 100.0], [100.0, -100.0]], dtype=dtype, device=device).requires_grad_()
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 0], device=device), 2.0, 0.25, None, "none")
    assert loss.dtype == dtype
    # A confident miss costs alpha * |x|, a confident false alarm (1 - alpha) * |x|; both have slope 1.
    assert loss.tolist() == [[0.25 * 100, 0.75 * 100], [0, 0]]
    loss.sum().backward()
    assert logits.grad.tolist() == [[-0.25, 0.75], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sigmoid_half_precision_is_exact_to_rounding(dtype, device):
    logits, target = logits_and_target()
    logits = logits.to(device, dtype)
    expected = sigmoid_focal_loss(logits.double(), target.to(device), 2.0, 0.25, None, "none").to(dtype)
    loss = sigmoid_focal_loss(logits, target.to(device), 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("shape", [(0, CLASSES), (3, 0)])
def test_sigmoid_of_nothing(shape, device):
    logits = torch.zeros(shape, device=device, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.zeros(shape[0], dtype=torch.long, device=device), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.shape == shape


def test_sigmoid_leaves_its_inputs_alone():
    logits, target = logits_and_target()
    before = logits.clone()
    for name in ("forward", "backward"):
        function = getattr(mmcv._ext, f"sigmoid_focal_loss_{name}")
        function(logits, target, logits.new_empty(0), torch.zeros_like(logits), gamma=2.0, alpha=0.25)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 1.0), (0.5, 0.75)])
def test_softmax_loss_equals_definition(gamma, alpha, weighted, device):
    logits, target = (tensor.to(device) for tensor in logits_and_target(background=False))
    weight = torch.tensor([0.5, 1, 2, 3], dtype=torch.float64, device=device) if weighted else None
    cross_entropy = functional.cross_entropy(logits, target, reduction="none")
    factor = weight[target] if weighted else 1
    expected = alpha * (1 - (-cross_entropy).exp()) ** gamma * cross_entropy * factor
    torch.testing.assert_close(softmax_focal_loss(logits, target, gamma, alpha, weight, "none"), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])  # with "none", mmcv's wrapper cannot multiply the gradient
@pytest.mark.parametrize("gamma", [2.0, 1.0, 0.5, 0.0])
def test_softmax_gradient(gamma, reduction, device):
    logits, target = logits_and_target(rows=7, background=False)
    weight = torch.tensor([0.5, 1, 2, 3], dtype=torch.float64, device=device)
    module = SoftmaxFocalLoss(gamma, 0.25, weight, reduction)
    target = target.to(device)
    assert torch.autograd.gradcheck(lambda x: module(x, target), logits.to(device).requires_grad_())


@pytest.mark.parametrize("gamma", [2.0, 0.5, 0.0])
def test_softmax_of_a_certain_answer(gamma):
    logits = torch.tensor([[200.0, 0, 0, 0], [200.0, 0, 0, 0]], requires_grad=True)
    loss = softmax_focal_loss(logits, torch.tensor([0, -1]), gamma, 0.25, None, "sum")
    loss.backward()
    assert loss.item() == 0  # right in the first row, and the second has no class
    assert torch.equal(logits.grad, torch.zeros(2, 4))


def test_softmax_of_nothing():
    logits = torch.zeros(0, CLASSES, requires_grad=True)
    softmax_focal_loss(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum").backward()
    assert logits.grad.shape == (0, CLASSES)
