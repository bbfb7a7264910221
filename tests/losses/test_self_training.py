# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor

from torchgeo_mapsr.losses import (
    SelfTrainingLoss,
    agreement,
    pseudo_labels,
    weighted_cross_entropy,
)

B, C, H, W = 3, 4, 5, 6


def literal(logits: Tensor, label: Tensor, weight: list[float]) -> tuple[float, int]:
    """Equation 6 as it is printed, and the number of labelled pixels."""
    p = softmax(logits.double().numpy(), axis=1)
    total, pixels = 0.0, 0
    for i in range(len(p)):
        for row in range(H):
            for col in range(W):
                if label[i, row, col] < 0:
                    continue
                pixels += 1
                for c in range(C):
                    y = float(label[i, row, col] == c)
                    total -= weight[i] * y * math.log(p[i, c, row, col])
    return total, pixels


def made(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, C, H, W, generator=g)
    return logits, torch.randint(-1, C, (B, H, W), generator=g)


def test_cross_entropy_is_the_equation() -> None:
    logits, label = made()
    weight = [0.25, 0.0, 0.9]
    total, pixels = literal(logits, label, weight)
    found = weighted_cross_entropy(logits, label, torch.tensor(weight))
    assert found.item() == pytest.approx(total / pixels, rel=1e-5)
    found = weighted_cross_entropy(logits, label, torch.tensor(weight), 'sum')
    assert found.item() == pytest.approx(total, rel=1e-5)
    total, pixels = literal(logits, label, [1.0] * B)
    found = weighted_cross_entropy(logits, label)
    assert found.item() == pytest.approx(total / pixels, rel=1e-5)


def test_weight_of_pixels() -> None:
    logits, label = made()
    weight = torch.rand(B, 1, 1)
    torch.testing.assert_close(
        weighted_cross_entropy(logits, label, weight.expand(B, H, W)),
        weighted_cross_entropy(logits, label, weight[:, 0, 0]),
    )


def test_trust_is_not_normalised_away() -> None:
    logits, label = made()
    half = weighted_cross_entropy(logits, label, torch.full((B,), 0.5))
    torch.testing.assert_close(half, weighted_cross_entropy(logits, label) / 2)


def test_class_weights() -> None:
    logits, label = made()
    classes = torch.tensor([1.0, 0.0, 3.0, 0.5])
    expected = torch.nn.functional.cross_entropy(
        logits, label, classes, ignore_index=-1
    )
    found = weighted_cross_entropy(logits, label, class_weights=classes)
    torch.testing.assert_close(found, expected)
    half = torch.full((B,), 0.5)
    both = SelfTrainingLoss(class_weights=classes)(logits, label, logits, label, half)
    torch.testing.assert_close(torch.stack(both), torch.stack([expected, expected / 2]))
    # the precisions '64-true' and 'bf16-true' convert either
    for one, other in ((logits.double(), classes), (logits, classes.double())):
        found = weighted_cross_entropy(one, label, class_weights=other)
        torch.testing.assert_close(found, expected.to(one), rtol=1e-6, atol=1e-6)


def test_total_is_the_sum_of_both_terms() -> None:
    logits, label = made()
    target, pseudo = made(1)
    weight = torch.tensor([0.1, 0.5, 1.0])
    for reduction in ('mean', 'sum'):
        found = SelfTrainingLoss(reduction)(logits, label, target, pseudo, weight)  # type: ignore[arg-type]
        parts = (
            literal(logits, label, [1] * B),
            literal(target, pseudo, weight.tolist()),
        )
        for value, (total, pixels) in zip(found, parts, strict=True):
            expected = total / pixels if reduction == 'mean' else total
            assert value.item() == pytest.approx(expected, rel=1e-5)


def test_pseudo_labels_are_equations_5_and_7() -> None:
    logits, _ = made()
    logits[0] *= 3
    valid = torch.rand(B, H, W) > 0.3
    p = softmax(logits.double().numpy(), axis=1)
    for known in (None, valid):
        label, weight = pseudo_labels(logits, 0.7, known)
        for i in range(B):
            sure = pixels = 0
            for row in range(H):
                for col in range(W):
                    if known is not None and not known[i, row, col]:
                        assert label[i, row, col] == -1
                        continue
                    pixels += 1
                    sure += p[i, :, row, col].max() >= 0.7
                    assert label[i, row, col] == p[i, :, row, col].argmax()
            assert weight[i].item() == pytest.approx(sure / pixels)
    assert len(set(weight.tolist())) > 1


def test_threshold_itself_is_sure() -> None:
    """Equation 7 has ≥; two classes of equal logits have 0.5 exactly."""
    _, weight = pseudo_labels(torch.zeros(1, 2, 3, 3), 0.5)
    assert weight.item() == 1
    _, weight = pseudo_labels(torch.zeros(1, 2, 3, 3), 0.5000001)
    assert weight.item() == 0


def test_default_threshold() -> None:
    logits = torch.tensor([0.0, math.log(0.969 / 0.031)]).view(1, 2, 1, 1)
    assert pseudo_labels(logits)[1].item() == 1
    logits = torch.tensor([0.0, math.log(0.967 / 0.033)]).view(1, 2, 1, 1)
    assert pseudo_labels(logits)[1].item() == 0


def test_no_gradient_reaches_the_teacher() -> None:
    logits = made()[0].requires_grad_()
    label, weight = pseudo_labels(logits)
    assert not label.requires_grad
    assert not weight.requires_grad


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_no_labelled_pixel(dtype: torch.dtype) -> None:
    logits = torch.full((2, C, 3, 3), 40.0, dtype=dtype, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((2, 3, 3), -1), torch.ones(2))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
    _, weight = pseudo_labels(logits, valid=torch.zeros(2, 3, 3))
    assert weight.tolist() == [0, 0]


def test_a_single_class() -> None:
    logits = made()[0].requires_grad_()
    loss = weighted_cross_entropy(logits, torch.ones(B, H, W, dtype=torch.long))
    loss.backward()
    assert loss.isfinite()
    only = weighted_cross_entropy(made()[0][:, :1], torch.zeros(B, H, W).long())
    assert only.item() == 0


def test_half_precision() -> None:
    logits, label = made()
    half = (20 * logits).bfloat16()
    found = weighted_cross_entropy(half, label, torch.ones(B, dtype=torch.bfloat16))
    torch.testing.assert_close(
        found, weighted_cross_entropy(half.double(), label).float()
    )
    assert pseudo_labels(half)[1].dtype == torch.float32
    assert (pseudo_labels(half)[0] == half.argmax(1)).all()


def test_agreement_is_unanimity() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 2, (3, 2, 9, 9), generator=g)
    found = agreement(*labels)
    for place in np.ndindex(2, 9, 9):
        opinions = {int(label[place]) for label in labels} - {-1}
        expected = opinions.pop() if len(opinions) == 1 else -1
        assert found[place] == expected
    assert (agreement(labels[0]) == labels[0]).all()
