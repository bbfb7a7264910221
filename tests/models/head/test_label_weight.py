# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchgeo_mapsr.models.head.fit import fit_head
from torchgeo_mapsr.models.head.label_weight import (
    PIXELS,
    TRUST,
    choose_prior,
    choose_weight,
    error_ratio,
    label_weight,
)
from torchgeo_mapsr.models.head.probe import HeldOut

from .tables import SAME, Blobs


def test_errors_of_imagery_and_of_neighbours() -> None:
    """The dense form, with all pairs of cells; codes 0 and 3 are of one class."""
    generator = torch.Generator().manual_seed(0)
    place = F.pad(torch.cartesian_prod(torch.arange(9), torch.arange(9)), (1, 0))
    label = (torch.rand(81, generator=generator) < 0.3).long() + place[:, 1] // 4
    index = torch.randperm(81, generator=generator)[:70].sort().values
    logits = torch.randn(70, 4, generator=generator) + 2 * F.one_hot(label[index], 4)
    held = HeldOut(index, logits.log_softmax(1), 1e-3, 0.0, {}, torch.zeros(0))
    composition = torch.tensor([[0.7, 0.2, 0.1], [0, 1, 0], [0.1, 0, 0.9], [1, 0, 0]])

    offset = (place[index][:, None] - place[index][None])[..., 1:]
    near = torch.exp(-offset.square().sum(2) / 2) * (offset.abs().amax(2) <= 2)
    near.fill_diagonal_(0)
    votes = near @ F.one_hot(label[index], 4).float()
    truth = torch.tensor([0, 1, 2, 0])[label[index]]
    imagery, neighbours = (
        float(((p @ composition).argmax(1) != truth).float().mean())
        for p in (logits.softmax(1), votes)
    )
    assert 0.1 < imagery < neighbours
    arguments = held, label, place, composition.double()
    ratio = error_ratio(*arguments)
    assert ratio == pytest.approx(imagery / neighbours, rel=1e-5)
    expected = (imagery - 0.1) / (neighbours - 0.1)
    assert error_ratio(*arguments, 0.1) == pytest.approx(expected, rel=1e-5)
    # Alone, a cell has no neighbour.
    assert error_ratio(held, label, 10 * place, composition.double()) == 1


def test_weight_of_the_labels() -> None:
    """It is less where the imagery knows cells better than their neighbours do."""
    weights = [label_weight(True, None, r) for r in (0.1, 0.75, 1, 1.5, 3)]
    assert weights == pytest.approx([0.15, 0.15, 0.2, 0.45, 1.2])
    weights = [label_weight(False, 0.0, r) for r in (0.1, 0.95, 1, 3)]
    assert weights == pytest.approx([0.5, 1.2 * 0.95**4, 1.2, 1.8])
    # Right ones weigh more at least than those of which one in eight or more is wrong.
    weights = [label_weight(False, rate, 0.1) for rate in (0.05, 0.125, 0.2)]
    assert weights == pytest.approx([0.5 * 0.6, 0.15, 0.15])
    assert label_weight(False, 0.05, 1) == pytest.approx(0.72)
    for rate in (0.2, None):
        weights = [label_weight(False, rate, r) for r in (0.1, 1, 1.2, 3)]
        assert weights == pytest.approx([0.15, 0.25, 0.25 * 1.2**4, 1.8])
    # Cells of a few pixels hold little beside what they are labelled as.
    sides = 30, 25, 12.5, 5, 1
    weights = [label_weight(True, None, 0.1, side) for side in sides]
    assert weights == pytest.approx([0.15, 0.15, 0.3, 0.75, 1.2])
    assert label_weight(False, 0.0, 1, 5) == 1.2


@pytest.mark.parametrize(('patch', 'apart'), [(1, 1.2), (8, 0.3)])
def test_weight_of_the_labels_of_a_fit(patch: int, apart: float) -> None:
    """Labels that are alike over patches are known from their neighbours."""
    blobs = Blobs(side=16, apart=apart, patch=patch, seed=2)
    made = fit_head(blobs.table, SAME)
    fit = made.provenance['fit']
    expected = label_weight(False, fit['label_errors'], fit['error_ratio'])
    assert made.prior.weight == pytest.approx(expected, abs=5e-3)
    assert (fit['error_ratio'] < 1) == (patch == 1)


def grid(side: int) -> Tensor:
    rows, cols = np.divmod(np.arange(side * side), side)
    return torch.from_numpy(np.stack([0 * rows, rows, cols], 1))


def halves(side: int = 40) -> Tensor:
    """Labels of two classes: the halves of a scene."""
    return (grid(side)[:, 2] >= side // 2).long()


def lots(side: int = 40) -> Tensor:
    """Labels that are drawn by lot."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 2, side * side))


def chosen(label: Tensor, knowledge: float) -> float:
    """The weight, where imagery says so much of each cell's label."""
    generator = torch.Generator().manual_seed(0)
    n = len(label)
    logits = torch.randn(n, 2, generator=generator)
    logits[torch.arange(n), label] += knowledge
    frequency = torch.bincount(label, minlength=2) / n
    weight, _ = choose_prior(
        logits.log_softmax(1),
        label,
        grid(math.isqrt(n)),
        torch.arange(n),
        frequency,
        torch.full((n,), 1 / n).double(),
    )
    return weight


def test_weight_grows_with_what_labels_know() -> None:
    # Useless imagery, and neighbours that are nearly always right: all that is allowed.
    assert chosen(halves(), 0.0) == pytest.approx(TRUST * 4 * PIXELS)
    # Useful imagery, and neighbours that say nothing.
    assert chosen(lots(), 3.0) < 0.1
    # Imagery that is right, and neighbours that are as well: no more than the cut.
    assert chosen(halves(), 8.0) <= TRUST * PIXELS


def test_weight_without_neighbours_is_zero() -> None:
    label = halves(4)
    log_p = torch.zeros(16, 2).log_softmax(1)
    weight, loss = choose_weight(
        log_p,
        torch.zeros(2, 16),
        torch.zeros(16),
        label,
        torch.tensor([0.5, 0.5]),
        torch.full((16,), 1 / 16).double(),
    )
    assert (weight, loss) == (0, pytest.approx(math.log(2)))
