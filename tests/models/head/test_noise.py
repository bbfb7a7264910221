# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math

import pytest
import torch
from scipy import sparse
from torch import Tensor

from tests.models.head.test_fit import SAME, Blobs
from torchgeo_mapsr.losses import SymmetricCrossEntropy
from torchgeo_mapsr.models.head.fit import FitOptions, fit_head
from torchgeo_mapsr.models.head.neighbours import neighbour_weights
from torchgeo_mapsr.models.head.noise import REVERSE, denoise, label_trust
from torchgeo_mapsr.models.head.probe import CellSpace, class_weights, folds_of


@pytest.fixture(scope='module')
def noisy() -> Blobs:
    return Blobs(side=18, wrong=0.4, apart=0.8)


def space_of(blobs: Blobs) -> CellSpace:
    scale, mean = torch.std_mean(blobs.table.pixels, 0)
    return CellSpace.of((blobs.table.features - mean) / scale)


def held_out(blobs: Blobs) -> Tensor:
    weight = class_weights(blobs.label, 4, 0.5)
    folds = folds_of(blobs.table.block, 0)
    return (
        space_of(blobs).hold_out(blobs.label, 4, folds, weight, (1e-2,)).log_probability
    )


def draws_of(blobs: Blobs, *seeds: int) -> Tensor:
    return torch.stack([folds_of(blobs.table.block, seed) for seed in seeds])


def trust_of(blobs: Blobs, noise: str) -> Tensor:
    return label_trust(held_out(blobs), blobs.label, 4, noise)


@pytest.mark.parametrize('noise', ['sce', 'small-loss'])
def test_wrong_labels_are_trusted_less_and_classes_as_before(
    noisy: Blobs, noise: str
) -> None:
    trust, label = trust_of(noisy, noise), noisy.label
    right = torch.from_numpy(noisy.truth).mode(1).values == label
    assert 0.6 < right.double().mean() < 0.8
    assert trust[~right].mean() < (0.75 if noise == 'sce' else 0.35) * trust.mean()
    for c in range(4):
        assert trust[label == c].mean().item() == pytest.approx(1)


def test_trust_is_what_is_said_of_it(noisy: Blobs) -> None:
    y = noisy.label
    said = held_out(noisy)
    p = said.exp()[torch.arange(len(y)), y].double()
    sce, small = trust_of(noisy, 'sce'), trust_of(noisy, 'small-loss')
    for c in range(4):
        own = y == c
        expected = 1 + REVERSE * p[own]
        torch.testing.assert_close(sce[own], expected / expected.mean())
        agree = (said[own].argmax(1) == c).double().mean().item()
        count = math.ceil(max(agree, 0.5) * int(own.sum()))
        kept = small[own] > 0
        assert kept.sum() == count
        assert p[own][kept].min() >= p[own][~kept].max()


def test_weights_are_the_gradient_of_symmetric_cross_entropy() -> None:
    """Of CE + RCE by the logits: (1 + A p) times that of CE."""
    logits = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    p = logits.softmax(1).gather(1, label[:, None])[:, 0]
    both = SymmetricCrossEntropy(epsilon=1e-4, reduction='sum')
    images = logits.T[None, :, None]
    (found,) = torch.autograd.grad(both(images, label[None, None]), logits)
    ce = torch.nn.functional.cross_entropy(logits, label, reduction='none')
    weight = (1 + REVERSE * p).detach()
    (expected,) = torch.autograd.grad((weight * ce).sum(), logits)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_log_weights_are_equation_3() -> None:
    label = torch.tensor([0] * 90 + [1] * 9 + [2])
    weight = class_weights(label, 4, 0.5, 'log')
    raw = {c: 1 / math.log(1 + n / 100) for c, n in ((0, 90), (1, 9), (2, 1))}
    total = sum(raw[int(c)] for c in label)
    for i in (0, 95, 99):
        assert weight[i].item() == pytest.approx(raw[int(label[i])] / total)


@pytest.mark.parametrize('noise', ['sce', 'small-loss', 'denoise'])
def test_noisy_labels_do_less_harm(noisy: Blobs, noise: str) -> None:
    if noise == 'denoise':  # neighbours are alike, as on maps
        noisy = Blobs(side=18, wrong=0.4, apart=0.8, patch=6)

    def accuracy(how: str) -> float:
        options = FitOptions(score='probe', prior=0.0, noise=how, l2=1e-4)
        return noisy.accuracy(fit_head(noisy.table, SAME, options))

    assert accuracy(noise) > accuracy('none') + 0.005


def test_belief_is_nearer_to_the_truth_than_the_labels() -> None:
    blobs = Blobs(side=18, wrong=0.3, apart=2, patch=6)
    truth = torch.from_numpy(blobs.truth).mode(1).values
    cleaned = denoise(
        space_of(blobs),
        blobs.label,
        4,
        folds_of(blobs.table.block, 0),
        neighbour_weights(blobs.table.place, 1.0, 2),
        1e-2,
        0.5,
    )
    torch.testing.assert_close(cleaned.belief.sum(1), torch.ones(324).double())
    before = (blobs.label == truth).double().mean()
    after = (cleaned.belief.argmax(1) == truth).double().mean()
    assert before < 0.85
    assert after > before + 0.05
    assert 0 < cleaned.rate < 0.4
    assert cleaned.trust == min(1, 10 * cleaned.rate)


def test_soft_weights_of_hard_labels_are_class_weights() -> None:
    label = torch.tensor([0, 0, 0, 2, 1, 1])
    hard = torch.nn.functional.one_hot(label, 4).double()
    for kind in ('power', 'log'):
        torch.testing.assert_close(
            class_weights(hard, 4, 0.5, kind), class_weights(label, 4, 0.5, kind)
        )


@pytest.mark.parametrize('kind', ['power', 'log'])
def test_weights_of_the_classes_are_kept_by_denoising(kind: str) -> None:
    """The fit is one to the mended labels with weights by equation 3, or a power."""
    blobs = Blobs(side=18, wrong=0.2, apart=2, patch=6, classes=(0, 0, 0, 1, 2, 3))
    options = FitOptions(noise='denoise', class_weight=kind, l2=1e-2)
    made = fit_head(blobs.table, SAME, options)
    space = space_of(blobs)
    draws = draws_of(blobs, 0, 1000, 2000)
    near = neighbour_weights(blobs.table.place, 1.0, 2)
    y = denoise(space, blobs.label, 4, draws, near, 1e-2, 0.5, kind=kind).belief
    share = y.sum(0) / len(y)
    factor = 1 / (1 + share).log() if kind == 'log' else y.sum(0) ** -0.5
    weight = y @ factor
    expected = space.fit(y, 4, 1e-2, weight / weight.sum())
    scale, mean = torch.std_mean(blobs.table.pixels, 0)
    got = made.probe.unscale(-mean / scale, 1 / scale)
    torch.testing.assert_close(got.weight.double(), expected.weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize('kind', ['power', 'log'])
def test_denoising_takes_the_balance_of_classes_out_again(kind: str) -> None:
    """Features that say nothing: what is left is the frequency of the classes."""
    generator = torch.Generator().manual_seed(0)
    n = 900
    label = (torch.rand(n, generator=generator) < 0.1).long()
    space = CellSpace.of(torch.randn(n, 2, generator=generator) * 1e-3)
    alone = sparse.csr_array((n, n))
    fold = torch.arange(n) % 5
    cleaned = denoise(space, label, 2, fold, alone, 1.0, 0.5, kind=kind)
    # By the frequency a rare label is far likelier wrong than a frequent one.
    wrong = 1 - cleaned.belief.gather(1, label[:, None])[:, 0]
    assert wrong[label == 1].mean() > 3 * wrong[label == 0].mean()
    share = float(cleaned.belief[:, 1].mean())
    assert share == pytest.approx(float(label.double().mean()), abs=0.06)


def test_no_class_vanishes() -> None:
    """Half of a label's cells at least are believed, however rare it is."""
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(30)
    place = torch.nn.functional.pad(torch.cartesian_prod(side, side), (1, 0))
    truth = (place[:, 2] >= 15).long()
    features = torch.randn(900, 2, generator=generator)
    features[:, 0] += 4.0 * truth
    wrong = torch.rand(900, generator=generator) < 0.2
    label = torch.where(wrong, 1 - truth, truth)
    # A rare one says nothing that the others do not: it would be taken away.
    label[::129] = 2
    fold = torch.arange(900) % 5
    near = neighbour_weights(place, 1.0, 2)
    cleaned = denoise(CellSpace.of(features), label, 3, fold, near, 1e-3, 0.5)
    kept = [float(cleaned.belief[label == c, c].mean()) for c in range(3)]
    assert cleaned.trust == 1
    assert kept[2] == pytest.approx(0.5, abs=1e-6)
    assert min(kept[:2]) > 0.7
    torch.testing.assert_close(cleaned.belief.sum(1), torch.ones(900).double())


def test_one_block_has_nothing_to_hold_out() -> None:
    blobs = Blobs(side=3)
    plain = fit_head(blobs.table, SAME)
    fitted = fit_head(blobs.table, SAME, FitOptions(noise='sce'))
    assert torch.equal(fitted.probe.weight, plain.probe.weight)


def test_draws_of_the_blocks_are_averaged(noisy: Blobs) -> None:
    """Two denoisings of three draws each are nearer than two of one draw each."""
    space, label, place = space_of(noisy), noisy.label, noisy.table.place
    around = neighbour_weights(place, 1.0, 2)

    def belief(*seeds: int) -> Tensor:
        draws = draws_of(noisy, *seeds)
        return denoise(space, label, 4, draws, around, 1e-3, 0.5).belief

    alone = belief(0), belief(1)
    together = belief(0, 2, 4), belief(1, 3, 5)
    one, three = ((a - b).square().mean() for a, b in (alone, together))
    assert 0 < three < 0.6 * one
    # One draw thrice is one draw.
    torch.testing.assert_close(belief(0, 0, 0), alone[0], atol=5e-3, rtol=0)
