# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from torch import Tensor

from torchgeo_mapsr.losses import (
    IntervalConstraintLoss,
    LabelCounts,
    block_regions,
    label_counts,
)

MEAN = torch.tensor([[0.5, 0.5], [0.8, 0.2]], dtype=torch.float64)
RADIUS = torch.tensor([[0.1, 0.1], [0.1, 0.2]], dtype=torch.float64)


def one(*shares: float, label: int = 0) -> float:
    mean = torch.tensor([[shares]], dtype=torch.float64)
    counts = LabelCounts(mean, mean * 0, torch.ones(1, 1))
    return IntervalConstraintLoss(MEAN, RADIUS)(counts, torch.tensor([[label]])).item()


def test_distance_to_the_interval() -> None:
    assert one(0.55, 0.45) == 0
    assert one(0.4, 0.6) == pytest.approx(0, abs=1e-12)
    # 0.2 below one, 0.2 above the other
    assert one(0.2, 0.8) == pytest.approx((0.2**2 + 0.2**2) ** 0.5)
    assert one(0.8, 0.2) == pytest.approx((0.2**2 + 0.2**2) ** 0.5)
    # the radius is that of the class: 0.7 .. 0.9 and 0.0 .. 0.4
    assert one(0.5, 0.5, label=1) == pytest.approx((0.2**2 + 0.1**2) ** 0.5)
    assert one(1.0, 0.0, label=1) == pytest.approx(0.1)


def test_a_radius_of_zero_is_the_l2_criterion() -> None:
    mean = torch.rand(1, 3, 2).double()
    counts = LabelCounts(mean, mean * 0, torch.ones(1, 3))
    label = torch.tensor([[0, 1, 1]])
    found = IntervalConstraintLoss(MEAN, RADIUS * 0)(counts, label)
    torch.testing.assert_close(
        found, (mean - MEAN[label]).square().sum(-1).sqrt().mean()
    )


def test_mean_over_cells_by_weight() -> None:
    mean = torch.tensor(
        [[[0.2, 0.8], [0.5, 0.5], [0.9, 0.1], [0.0, 0.0]]], dtype=torch.float64
    )
    pixels = torch.tensor([[9.0, 9.0, 9.0, 0.0]])
    label, weight = torch.tensor([[0, 1, -1, 0]]), torch.tensor([[1.0, 3.0, 1.0, 1.0]])
    found = IntervalConstraintLoss(MEAN, RADIUS)(
        LabelCounts(mean, mean * 0, pixels), label, weight
    )
    assert found.item() == pytest.approx(
        (one(0.2, 0.8) + 3 * one(0.5, 0.5, label=1)) / 4
    )


def test_gradient() -> None:
    loss = IntervalConstraintLoss(MEAN, RADIUS)
    region = block_regions(4, 4, 2, 2)[None]
    label = torch.tensor([[0, 1, -1, 1]])

    def total(logits: Tensor) -> Tensor:
        return loss(label_counts(logits.softmax(1), region, 4), label)

    torch.manual_seed(0)
    logits = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert total(logits) > 0.1
    assert torch.autograd.gradcheck(total, logits)


@pytest.mark.parametrize('row', [0.5, torch.nan])
def test_no_penalty_and_no_nan_where_bounds_hold(row: float) -> None:
    """A norm at zero, and cells without a label where the first row says nothing."""
    loss = IntervalConstraintLoss(
        torch.tensor([[row, row], [0.5, 0.5]]), torch.tensor([[row, row], [0.1, 0.1]])
    )
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    counts = label_counts(logits.softmax(1), torch.tensor([[[1, 2]]]), 3)
    total = loss(counts, torch.tensor([[1, -1, 1]]))
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
