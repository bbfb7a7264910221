# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor

from torchgeo_mapsr.losses import SymmetricCrossEntropy

B, C, H, W = 2, 5, 4, 6
EPSILON = 1e-3


def literal(logits: Tensor, label: Tensor, epsilon: float) -> tuple[float, float, int]:
    """Equations 10 and 9 as they are printed, and the number of pixels that count."""
    p = softmax(logits.double().numpy(), axis=1)
    ce = sce = 0.0
    pixels = 0
    for i in range(B):
        for row in range(H):
            for col in range(W):
                if label[i, row, col] < 0:
                    continue
                pixels += 1
                for c in range(C):
                    y = float(label[i, row, col] == c)
                    ce -= y * math.log(p[i, c, row, col])
                    sce -= p[i, c, row, col] * math.log(y + epsilon)
    return ce, sce, pixels


def made() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(B, C, H, W, generator=g)
    return logits, torch.randint(-1, C, (B, H, W), generator=g)


@pytest.mark.parametrize('epsilon', [1e-7, EPSILON, 0.3])
@pytest.mark.parametrize('weights', [(1, 1), (1, 0), (0, 1), (0.4, 2)])
def test_is_the_equation(epsilon: float, weights: tuple[float, float]) -> None:
    logits, label = made()
    ce, sce, pixels = literal(logits, label, epsilon)
    total = weights[0] * ce + weights[1] * sce
    loss = SymmetricCrossEntropy(epsilon, *weights, reduction='sum')(logits, label)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    loss = SymmetricCrossEntropy(epsilon, *weights)(logits, label)
    assert loss.item() == pytest.approx(total / pixels, rel=1e-5)


def test_gradient() -> None:
    logits, label = made()
    loss = SymmetricCrossEntropy(EPSILON)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, label), logits.double().requires_grad_()
    )


def test_surely_wrong_labels_do_not_pull_without_bound() -> None:
    """Equation 9 is bounded by −log ε, and flat where the label is surely wrong."""
    for sure in (5.0, 20.0, 80.0):
        logits = torch.tensor([[sure, 0.0]], requires_grad=True)
        wrong = torch.tensor([1])
        reverse = SymmetricCrossEntropy(EPSILON, ce_weight=0)(logits, wrong)
        assert reverse.item() <= -math.log(EPSILON) + 1e-5
        reverse.backward()
        assert logits.grad is not None
        p = 1 / (1 + math.exp(sure))
        slope = p * (1 - p) * math.log((1 + EPSILON) / EPSILON)
        expected = pytest.approx(slope, rel=1e-4, abs=1e-6)
        assert logits.grad[0, 0].item() == expected


def test_weight_of_classes() -> None:
    """As in PyTorch's cross entropy, which is equation 10, and whatever their sum."""
    logits, label = made()
    for weights in ([1.0, 2, 3, 4, 5], [0.0, 1, 0, 2, 0], [10.0] * C, [1e-9] * C):
        weight = torch.tensor(weights)
        expected = F.cross_entropy(logits, label, weight, ignore_index=-1)
        loss = SymmetricCrossEntropy(sce_weight=0, class_weights=weight)
        torch.testing.assert_close(loss(logits, label), expected)
    # both ways: what pixels of one weight would be is their mean
    plain = SymmetricCrossEntropy(EPSILON)(logits, label)
    loss = SymmetricCrossEntropy(EPSILON, class_weights=torch.full((C,), 7.0))
    torch.testing.assert_close(loss(logits, label), plain)


def test_weight_of_pixels() -> None:
    logits, label = made()
    loss = SymmetricCrossEntropy(EPSILON, reduction='sum')
    keep = torch.rand(B, H, W) > 0.5
    found = loss(logits, label, keep.float())
    torch.testing.assert_close(found, loss(logits, torch.where(keep, label, -1)))


def test_ignore_index() -> None:
    logits, label = made()
    other = torch.where(label < 0, 255, label)
    found = SymmetricCrossEntropy(ignore_index=255)(logits, other)
    torch.testing.assert_close(found, SymmetricCrossEntropy()(logits, label))


def test_half_precision() -> None:
    logits, label = made()
    half = (30 * logits).bfloat16().requires_grad_()
    loss = SymmetricCrossEntropy()(half, label)
    assert loss.dtype == torch.float32
    exact = SymmetricCrossEntropy()(half.detach().double(), label)
    torch.testing.assert_close(loss.detach(), exact.float())
    loss.backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()
    # float16 has no 1e-7 beside 1, nor 1e5
    with torch.autocast('cpu', torch.bfloat16):
        inside = SymmetricCrossEntropy(1e-7)(logits, label)
    torch.testing.assert_close(inside, SymmetricCrossEntropy(1e-7)(logits, label))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_no_pixel_counts(dtype: torch.dtype) -> None:
    logits = torch.full((1, C, 2, 2), -90.0, dtype=dtype, requires_grad=True)
    loss = SymmetricCrossEntropy()(logits, torch.full((1, 2, 2), -1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_a_single_class() -> None:
    """One class is always right: only the ε inside of the logarithm is left."""
    loss = SymmetricCrossEntropy(EPSILON)(
        torch.randn(1, 1, 2, 2), torch.zeros(1, 2, 2).long()
    )
    assert loss.item() == pytest.approx(-math.log1p(EPSILON), rel=1e-4)
    logits, _ = made()
    assert SymmetricCrossEntropy()(logits, torch.full((B, H, W), 2)).isfinite()


@pytest.mark.parametrize('epsilon', [0.0, 1.0, -1e-4])
def test_mistakes(epsilon: float) -> None:
    with pytest.raises(ValueError, match='epsilon'):
        SymmetricCrossEntropy(epsilon)
