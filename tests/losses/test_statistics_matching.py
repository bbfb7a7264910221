# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from torchgeo_mapsr.datasets import JointStatistics
from torchgeo_mapsr.losses import (
    LabelCounts,
    StatisticsMatchingLoss,
    block_regions,
    label_counts,
)

MEAN = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], dtype=torch.float64)
STD = torch.tensor([[0.05, 0.1, 0.2], [0.3, 0.15, 0.08]], dtype=torch.float64)

CRITERIA = 'compromise', 'kl_printed', 'kl'


def counts_of(mean: list[float], std: list[float]) -> LabelCounts:
    mu, sigma = (torch.tensor([[v]], dtype=torch.float64) for v in (mean, std))
    return LabelCounts(mu, sigma**2, torch.full((1, 1), 900.0).double())


def loss_of(
    criterion: Any, counts: LabelCounts, label: int = 0, **options: Any
) -> float:
    loss = StatisticsMatchingLoss(MEAN, STD, criterion, least_variance=0, **options)
    return loss(counts, torch.tensor([[label]])).item()


@pytest.mark.parametrize('label', [0, 1])
def test_compromise_is_what_an_optimiser_finds(label: int) -> None:
    """Equation 5: no closed form, only the two densities and their best c."""
    mu, sigma = [0.3, 0.2, 0.5], [0.02, 0.05, 0.01]
    expected = 0.0
    for k in range(3):
        eta, rho = MEAN[label, k].item(), STD[label, k].item()

        def joint(c: float, k: int = k, eta: float = eta, rho: float = rho) -> float:
            return norm.logpdf(c, mu[k], sigma[k]) + norm.logpdf(c, eta, rho)

        best = minimize_scalar(
            lambda c: -joint(c),
            bounds=(-1, 2),
            method='bounded',
            options={'xatol': 1e-10},
        )
        # equation 6
        c = (rho**2 * mu[k] + sigma[k] ** 2 * eta) / (sigma[k] ** 2 + rho**2)
        assert best.x == pytest.approx(c, abs=1e-6)
        # the paper's constant: what p_coarse adds whatever the network says
        expected += best.fun - 0.5 * math.log(2 * math.pi * rho**2)
    assert loss_of('compromise', counts_of(mu, sigma), label) == pytest.approx(expected)


def test_kl_is_the_divergence_of_two_gaussians() -> None:
    counts = counts_of([0.3, 0.2, 0.5], [0.02, 0.05, 0.01])
    net = Normal(counts.mean[0, 0], counts.variance[0, 0].sqrt())
    expected = kl_divergence(net, Normal(MEAN[0], STD[0])).sum()
    assert loss_of('kl', counts) == pytest.approx(expected.item())


def test_kl_as_printed() -> None:
    """Footnote 3, number by number."""
    mu, sigma = (0.3, 0.2, 0.5), (0.02, 0.05, 0.01)
    expected = (
        0.5 * (0.2 / 0.05) ** 2
        + 0.5 * (0.0 / 0.1) ** 2
        + 0.5 * (0.2 / 0.2) ** 2
        + 0.5 * sum(math.log(2 * math.pi * s**2) for s in sigma)
    )
    assert loss_of('kl_printed', counts_of([*mu], [*sigma])) == pytest.approx(expected)


def test_criteria_meet_where_cells_are_large() -> None:
    """Footnote 3: σ is small beside ρ then, and eq. 7 close to what it prints."""
    counts = counts_of([0.3, 0.2, 0.5], [1e-4, 1e-4, 1e-4])
    assert loss_of('compromise', counts) == pytest.approx(
        loss_of('kl_printed', counts), rel=1e-4
    )


@pytest.mark.parametrize('criterion', CRITERIA)
def test_gradient_against_the_closed_form(criterion: Any) -> None:
    mu = torch.tensor([[[0.3, 0.2, 0.5]]]).double().requires_grad_()
    variance = torch.tensor([[[4e-4, 25e-4, 1e-4]]]).double().requires_grad_()
    loss = StatisticsMatchingLoss(MEAN, STD, criterion, least_variance=0)
    counts = LabelCounts(mu, variance, torch.ones(1, 1).double())
    loss(counts, torch.tensor([[1]])).backward()
    eta, rho2 = MEAN[1], STD[1] ** 2
    m, s2 = mu.detach()[0, 0], variance.detach()[0, 0]
    by_mean, by_variance = {
        'compromise': (
            (m - eta) / (s2 + rho2),
            -((m - eta) ** 2) / (2 * (s2 + rho2) ** 2) + 1 / (2 * s2),
        ),
        'kl_printed': ((m - eta) / rho2, 1 / (2 * s2)),
        'kl': ((m - eta) / rho2, 1 / (2 * rho2) - 1 / (2 * s2)),
    }[criterion]
    assert mu.grad is not None
    assert variance.grad is not None
    torch.testing.assert_close(mu.grad[0, 0], by_mean)
    torch.testing.assert_close(variance.grad[0, 0], by_variance)


@pytest.mark.parametrize('criterion', CRITERIA)
def test_gradcheck_from_logits(criterion: Any) -> None:
    loss = StatisticsMatchingLoss(MEAN, STD, criterion)
    region = block_regions(4, 6, 2, 2)[None].repeat(2, 1, 1)
    region[0, 0] = 0
    label = torch.tensor([[0, 1, -1, 1], [1, 0, 0, -1]])
    weight = torch.rand(2, 4).double()

    def total(logits: Tensor) -> Tensor:
        return loss(label_counts(logits.softmax(1), region, 4), label, weight)

    logits = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total, logits)


def test_log_variance_term_rewards_sure_pixels() -> None:
    """Two predictions of the same shares: half the pixels each, or all of them half."""
    table = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.2, 0.2]])
    region = torch.ones(1, 2, 10, dtype=torch.long)
    unsure = torch.full((1, 2, 2, 10), 0.5)
    sure = torch.zeros(1, 2, 2, 10)
    sure[:, 0, 0] = sure[:, 1, 1] = 0.99
    sure[:, 1, 0] = sure[:, 0, 1] = 0.01
    label = torch.zeros(1, 1, dtype=torch.long)

    def gain(*criterion: Any) -> float:
        loss = StatisticsMatchingLoss(*table, *criterion)
        of = [loss(label_counts(p, region, 1), label).item() for p in (unsure, sure)]
        return of[0] - of[1]

    assert gain('compromise') > 2
    assert gain('kl_printed') > 2
    # without the term nothing tells them apart; the true divergence prefers the unsure
    assert abs(gain('compromise', 0.0)) < 0.01
    assert gain('kl') < -1


def test_mean_over_cells_by_weight() -> None:
    counts = LabelCounts(
        torch.tensor([[[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0, 0, 0]]]),
        torch.full((1, 4, 3), 1e-3),
        torch.tensor([[900.0, 450.0, 900.0, 0.0]]),
    )
    loss = StatisticsMatchingLoss(MEAN.float(), STD.float())

    def one(cell: int, label: int) -> float:
        alone = LabelCounts(*(t[:, cell : cell + 1] for t in counts))
        return loss(alone, torch.tensor([[label]])).item()

    # the third cell has no label, the fourth no pixel
    label = torch.tensor([[0, 1, -1, 1]])
    plain = loss(counts, label).item()
    assert plain == pytest.approx((one(0, 0) + one(1, 1)) / 2)
    weight = torch.tensor([[1.0, 0.5, 1.0, 1.0]])
    assert loss(counts, label, weight).item() == pytest.approx(
        (one(0, 0) + 0.5 * one(1, 1)) / 1.5
    )


@pytest.mark.parametrize('criterion', CRITERIA)
@pytest.mark.parametrize('first_row', [0.3, math.nan])
def test_batch_without_a_usable_cell(criterion: Any, first_row: float) -> None:
    """Zero, and a gradient of zeros: other processes may have cells."""
    loss = StatisticsMatchingLoss(
        torch.tensor([[first_row] * 3]), torch.tensor([[first_row] * 3]), criterion
    )
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    region = torch.tensor([[[1, 1], [1, 0]]])
    counts = label_counts(logits.softmax(1), region, 2)
    total = loss(counts, torch.tensor([[-1, 0]]))
    assert total.item() == 0 or math.isnan(first_row)
    usable = loss(counts, torch.tensor([[-1, -1]]))
    usable.backward()
    assert usable.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize('criterion', CRITERIA)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_extremes_stay_finite(criterion: Any, dtype: torch.dtype) -> None:
    """Predictions of exactly 0 and 1, one pixel, and a table that says ± 0."""
    loss = StatisticsMatchingLoss(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), criterion
    )
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0, 0] = torch.tensor([200.0, -200.0, 0.0, 11.0])
    logits = logits.to(dtype).requires_grad_()
    region = torch.tensor([[[1, 2, 3, 4]]])
    counts = label_counts(logits.float().softmax(1), region, 5)
    total = loss(counts, torch.zeros(1, 5, dtype=torch.long))
    total.backward()
    assert total.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert total.dtype == torch.float32


def test_shipped_table_learns_its_own_mixture() -> None:
    """Free logits of one developed cell go to its expected shares, and become sure."""
    table = JointStatistics.load('malkin2019')
    row = int(table.source.index(22))
    loss = StatisticsMatchingLoss(
        torch.from_numpy(table.mean).float(), torch.from_numpy(table.std).float()
    )
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 30, 30, requires_grad=True)
    region = torch.ones(1, 30, 30, dtype=torch.long)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        counts = label_counts(logits.softmax(1), region, 1)
        loss(counts, torch.tensor([[row]])).backward()
        optimiser.step()
    expected = torch.from_numpy(table.proportions([22])[0]).float()
    torch.testing.assert_close(counts.mean[0, 0], expected, atol=0.06, rtol=0)
    assert logits.softmax(1).amax(1).mean() > 0.97


def test_unknown_criterion() -> None:
    with pytest.raises(ValueError, match='kl_printed'):
        StatisticsMatchingLoss(MEAN, STD, 'l2')  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='least_std must be above 0'):
        StatisticsMatchingLoss(MEAN, STD, least_std=0)
    assert repr(StatisticsMatchingLoss(MEAN, STD)) == (
        "StatisticsMatchingLoss(criterion='compromise', variance_weight=1.0)"
    )
