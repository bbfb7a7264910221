# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from torchgeo_mapsr.models.head.probe import (
    ABSENT,
    FOLDS,
    MAX_HELD_OUT,
    STRENGTHS,
    WORSE,
    CellSpace,
    HeldOut,
    LinearProbe,
    choose_strength,
    class_weights,
    fit_probe,
    folds_of,
)


def blobs(
    n: int = 300, d: int = 8, classes: int = 3, spread: float = 2.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Classes of uneven size around random centres."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.arange(1.0, classes + 1)
    label = torch.multinomial(share, n, replacement=True, generator=generator)
    centres = torch.randn(classes, d, generator=generator)
    noise = torch.randn(n, d, generator=generator) * spread
    return centres[label] + noise, label


def held_out(
    x: Tensor,
    y: Tensor,
    block: Tensor,
    classes: int,
    balance: float,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = FOLDS,
) -> HeldOut:
    return choose_strength(
        CellSpace.of(x),
        y,
        classes,
        folds_of(block, seed, folds),
        class_weights(y, classes, balance),
        strengths,
        seed,
    )


def penalised_loss(
    probe: LinearProbe, x: Tensor, y: Tensor, w: Tensor, strength: float
) -> Tensor:
    """The objective as its docstring has it."""
    log_p = (x @ probe.weight.T + probe.bias).log_softmax(1)
    fidelity = -(w * log_p[torch.arange(len(y)), y]).sum()
    return fidelity + strength * x.shape[1] / 2 * probe.weight.square().sum()


@pytest.mark.parametrize('balance', [0.0, 0.5, 1.0])
def test_equals_scikit_learn(balance: float) -> None:
    """Its loss is C Σ wᵢ lossᵢ + |W|²/2, so that C = 1 / (λ D) with weights of sum 1."""
    x, y = blobs()
    w = class_weights(y, 3, balance)
    for strength in (1e-4, 1e-2):
        ours = fit_probe(x.double(), y, 3, strength, w)
        theirs = LogisticRegression(
            C=1 / (strength * x.shape[1]), tol=1e-10, max_iter=5000
        )
        theirs.fit(x.double().numpy(), y.numpy(), sample_weight=w.numpy())
        np.testing.assert_allclose(ours.weight, theirs.coef_, atol=1e-4)
        # An intercept common to all classes changes nothing.
        intercept = theirs.intercept_ - theirs.intercept_.mean()
        np.testing.assert_allclose(ours.bias - ours.bias.mean(), intercept, atol=1e-4)


@pytest.mark.parametrize(('n', 'd'), [(200, 6), (40, 90)])
def test_gradient_is_zero_at_the_solution(n: int, d: int) -> None:
    x, y = blobs(n, d)
    x, w = x.double(), class_weights(y, 3, 0.5)
    probe = fit_probe(x, y, 3, 1e-3, w)
    weight = probe.weight.clone().requires_grad_()
    bias = probe.bias.clone().requires_grad_()
    penalised_loss(LinearProbe(weight, bias), x, y, w, 1e-3).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.abs().max() < 1e-6
    assert bias.grad.abs().max() < 1e-6


def test_no_perturbation_is_better() -> None:
    x, y = blobs(150, 5)
    x, w = x.double(), class_weights(y, 3, 0.5)
    probe = fit_probe(x, y, 3, 1e-2, w)
    best = penalised_loss(probe, x, y, w, 1e-2)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-2, 1e-1, 1):
        for _ in range(20):
            other = LinearProbe(
                probe.weight + size * torch.randn(3, 5, generator=generator),
                probe.bias + size * torch.randn(3, generator=generator),
            )
            assert penalised_loss(other, x, y, w, 1e-2) > best


@pytest.mark.parametrize(('n', 'd'), [(300, 40), (60, 90)])
def test_coefficients_are_those_of_the_converged_solution(n: int, d: int) -> None:
    """Within 1e-4 of scikit-learn's, at any strength."""
    x, y = blobs(n, d, classes=4)
    w = class_weights(y, 4, 0.5)
    for l2 in STRENGTHS[::2]:
        ours = fit_probe(x, y, 4, l2, w)
        theirs = LogisticRegression(C=1 / (l2 * d), tol=1e-12, max_iter=50_000)
        theirs.fit(x.double().numpy(), y.numpy(), sample_weight=w.numpy())
        np.testing.assert_allclose(ours.weight, theirs.coef_, atol=1e-4)


def test_soft_targets_are_a_cell_for_each_class() -> None:
    """Scikit-learn knows no shares: the cell several times, weighed by them."""
    x, _ = blobs(80, 6)
    generator = torch.Generator().manual_seed(3)
    shares = torch.rand(80, 3, generator=generator) ** 3
    shares = shares / shares.sum(1, keepdim=True)
    ours = fit_probe(x, shares, 3, 1e-3)
    theirs = LogisticRegression(C=1 / (1e-3 * 6), tol=1e-12, max_iter=50_000)
    theirs.fit(
        x.double().repeat(3, 1).numpy(),
        np.repeat(np.arange(3), 80),
        sample_weight=shares.T.flatten().numpy() / 80,
    )
    np.testing.assert_allclose(ours.weight, theirs.coef_, atol=1e-4)


def test_search_in_the_span_finds_the_direct_solution() -> None:
    """With more features than cells. Zero cells, of no weight, make it direct."""
    x, y = blobs(30, 50)
    w = class_weights(y, 3, 0.5)
    short = fit_probe(x.double(), y, 3, 1e-2, w)
    padding = torch.zeros(40, 50)
    direct = fit_probe(
        torch.cat([x, padding]).double(),
        torch.cat([y, torch.zeros(40, dtype=torch.int64)]),
        3,
        1e-2,
        torch.cat([w, torch.zeros(40)]),
    )
    torch.testing.assert_close(short.weight, direct.weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(short.bias, direct.bias, atol=1e-3, rtol=0)


@pytest.mark.parametrize(('cells', 'features'), [(12, 40), (40, 12)])
def test_span(cells: int, features: int) -> None:
    data = blobs(cells, features)[0].double()
    space = CellSpace.of(data)
    x, basis = space.x[:, :-1], space.basis
    assert x.shape == (cells, min(cells, features))
    assert (space.x[:, -1] == 1).all()
    torch.testing.assert_close(x @ basis, data)
    eye = torch.eye(len(basis), dtype=torch.float64)
    torch.testing.assert_close(basis @ basis.T, eye)
    # Principal axes: coordinates along different ones are orthogonal.
    gram = x.T @ x
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()))


def test_strength_means_the_same_for_any_number_of_features() -> None:
    """The same features k times over, penalised alike, say the same of a cell."""
    x, y = blobs(200, 4)
    one = fit_probe(x.double(), y, 3, 1e-2)
    # k copies share a weight equally: |W|² is 1/k of what one copy would need.
    many = fit_probe(x.double().repeat(1, 9), y, 3, 1e-2)
    torch.testing.assert_close(
        many(x.double().repeat(1, 9)), one(x.double()), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize('strength', [1e-5, 1e-2])
def test_absent_class_is_never_predicted(strength: float) -> None:
    x, y = blobs(classes=3)
    y = y * 2  # classes 1 and 3 have no cell
    probe = fit_probe(x, y, 5, strength)
    assert (probe.bias[[1, 3]] == ABSENT).all()
    assert (probe.bias[[0, 2, 4]] > ABSENT).all()
    far = x * 100
    assert set(probe(far).argmax(1).tolist()) <= {0, 2, 4}
    # And it takes nothing from the others.
    other = fit_probe(x, y // 2, 3, strength)
    torch.testing.assert_close(
        probe(x).softmax(1)[:, ::2], other(x).softmax(1), atol=5e-3, rtol=0
    )


def test_unscale() -> None:
    x, y = blobs()
    mean, scale = torch.randn(8) * 10, torch.rand(8) + 0.1
    probe = fit_probe((x - mean) / scale, y, 3, 1e-3)
    torch.testing.assert_close(
        probe.unscale(mean, scale)(x), probe((x - mean) / scale), atol=1e-3, rtol=1e-4
    )
    again = probe.unscale(mean, scale).unscale(-mean / scale, 1 / scale)
    torch.testing.assert_close(again.weight, probe.weight)
    torch.testing.assert_close(again.bias, probe.bias, atol=1e-3, rtol=1e-4)


def test_call_takes_any_leading_shape() -> None:
    probe = LinearProbe(torch.randn(3, 4), torch.randn(3))
    x = torch.randn(2, 5, 4)
    expected = torch.stack([probe.weight @ v + probe.bias for v in x.flatten(0, 1)])
    torch.testing.assert_close(probe(x), expected.view(2, 5, 3))


def test_class_weights() -> None:
    label = torch.tensor([0, 0, 0, 0, 2])
    torch.testing.assert_close(
        class_weights(label, 3, 0), torch.full((5,), 0.2).double()
    )
    torch.testing.assert_close(class_weights(label, 3, 1).tolist(), [0.125] * 4 + [0.5])
    # 4^-½ = ½ each, and 1.
    torch.testing.assert_close(
        class_weights(label, 3, 0.5).tolist(), [0.5 / 3] * 4 + [1 / 3]
    )


def cells(
    noise: float, side: int = 24, d: int = 12, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A grid of cells of two classes in 3 x 3 blocks; some labels are wrong."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (side * side,), generator=generator)
    x = torch.randn(side * side, d, generator=generator)
    x[:, 0] += 3.0 * label
    wrong = torch.rand(side * side, generator=generator) < noise
    row, col = (
        torch.arange(side).repeat_interleave(side),
        torch.arange(side).repeat(side),
    )
    block = row // 3 * side + col // 3
    return x, torch.where(wrong, 1 - label, label), block


def test_whole_blocks_are_held_out() -> None:
    """What is said of a block does not depend on any label in it."""
    x, y, block = cells(0.1, side=12)
    before = held_out(x, y, block, 2, 0, seed=0, strengths=(1e-3,))
    assert before.index.tolist() == list(range(len(x)))
    together = 0
    for b in block.unique():
        own = block == b
        after = held_out(
            x, torch.where(own, 1 - y, y), block, 2, 0, seed=0, strengths=(1e-3,)
        )
        same = (after.log_probability == before.log_probability).all(1)
        assert same[own].all()
        # It is the same for blocks that are held out together with it, and no others.
        for other in block.unique():
            assert same[block == other].all() or not same[block == other].any()
        together += len(block[same].unique())
    # 16 blocks in five folds of 4, 3, 3, 3 and 3.
    assert together == 4 * 4 + 4 * 3 * 3


def test_strength_is_the_best_of_a_literal_loop() -> None:
    x, y, block = cells(0.3, side=12, d=30)
    held = held_out(x, y, block, 2, 0.5, seed=5, folds=3)
    # The folds: blocks in random order, dealt out in turn.
    names = block.unique()
    generator = torch.Generator().manual_seed(5)
    dealt = torch.randperm(len(names), generator=generator) % 3
    fold = torch.tensor([int(dealt[names.tolist().index(int(b))]) for b in block])
    weight = class_weights(y, 2, 0.5)
    # It goes from strong to weak, and ends when one is clearly worse or two in a row are.
    every = sorted(STRENGTHS, reverse=True)
    tried = sorted(held.losses, reverse=True)
    assert tried == every[: len(tried)]
    for n in range(1, len(tried) + 1):
        losses = [held.losses[strength] for strength in tried[:n]]
        least = min(losses)
        ends = losses[-1] > (1 + WORSE) * least or min(losses[-2:]) > least
        assert ends == (n == len(tried) < len(every))
    totals = {}
    for strength in every:
        total = 0.0
        for k in range(3):
            seen = fold != k
            share = weight[seen] / weight[seen].sum()
            probe = fit_probe(x[seen], y[seen], 2, strength, share)
            for i in (~seen).nonzero()[:, 0].tolist():
                log_p = probe(x[i]).log_softmax(0)
                total -= float(weight[i] * log_p[y[i]])
                if strength == held.l2:
                    torch.testing.assert_close(
                        held.log_probability[i], log_p, atol=5e-2, rtol=1e-2
                    )
        totals[strength] = total
        if strength in tried:
            assert held.losses[strength] == pytest.approx(total, abs=5e-3)
    # What was not tried would not have been chosen.
    assert held.l2 == min(totals, key=lambda s: totals[s])
    assert held.loss == pytest.approx(held.losses[held.l2], abs=1e-6)
    # There is a choice: neither end of the list is best.
    assert STRENGTHS[0] < held.l2


def test_noise_asks_for_more_strength() -> None:
    chosen = [
        held_out(*cells(noise, side=15, d=40), 2, 0.5, seed=0).l2
        for noise in (0.0, 0.2, 0.45)
    ]
    assert chosen[0] <= chosen[1] <= chosen[2]
    assert chosen[0] < chosen[2]


def test_neighbours_in_one_block_do_not_vouch_for_each_other() -> None:
    """Labels that only the block explains cannot be learned: chance is the best."""
    generator = torch.Generator().manual_seed(0)
    block = torch.arange(100).repeat_interleave(9)
    x = torch.randn(100, 60, generator=generator)[block]
    y = torch.randint(2, (100,), generator=generator)[block]
    x = x + 0.01 * torch.randn(900, 60, generator=generator)
    held = held_out(x, y, block, 2, 0.5, seed=0)
    assert held.l2 == STRENGTHS[-1]
    assert held.loss > 0.95 * math.log(2)
    # With cells held out one by one, the same features seem to tell.
    alone = held_out(x, y, torch.arange(900), 2, 0.5, seed=0)
    assert alone.loss < 0.9 * math.log(2)


def test_held_out_is_deterministic() -> None:
    x, y, block = cells(0.2, side=12)
    a, b = (held_out(x, y, block, 2, 0.5, seed=3) for _ in range(2))
    assert torch.equal(a.log_probability, b.log_probability)
    assert a.losses == b.losses
    other = held_out(x, y, block, 2, 0.5, seed=4)
    assert not torch.equal(a.log_probability, other.log_probability)


def test_many_cells_are_thinned_out() -> None:
    generator = torch.Generator().manual_seed(0)
    n = MAX_HELD_OUT + 500
    y = torch.randint(2, (n,), generator=generator)
    x = torch.randn(n, 2, generator=generator) + y[:, None]
    held = held_out(x, y, torch.arange(n) // 9, 2, 0.5, seed=0, strengths=(1e-2,))
    assert len(held.index) == MAX_HELD_OUT
    assert len(held.index.unique()) == MAX_HELD_OUT
    # What is said belongs to the cells that are named.
    right = held.log_probability.argmax(1) == y[held.index]
    assert right.double().mean() > 0.7


def test_class_that_one_block_has_costs_a_bounded_sum() -> None:
    x, y, block = cells(0.0, side=9)
    y = torch.where(block == block[0], 2, y)
    held = held_out(x, y, block, 3, 0.5, seed=0)
    assert held.log_probability.isfinite().all()
    assert held.log_probability.min() > -100
    assert math.isfinite(held.loss)


def test_two_blocks_are_two_folds() -> None:
    x, y, _ = cells(0.0, side=6)
    held = held_out(x, y, (torch.arange(36) >= 18).long(), 2, 0.5, seed=0)
    assert (held.log_probability.exp().sum(1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize(('n', 'd'), [(400, 40), (60, 90)])
def test_where_the_search_begins_does_not_matter(n: int, d: int) -> None:
    """From the folds' probes, at another strength, or from nothing."""
    x, y = blobs(n, d, classes=4)
    w = class_weights(y, 4, 0.5)
    space = CellSpace.of(x)
    fold = torch.arange(n) % FOLDS
    for l2 in (1e-5, 1e-3, 3e-2):
        held = space.hold_out(y, 4, fold, w, (1e-2,))
        warm = space.fit(y, 4, l2, w, start=held.theta)
        theirs = LogisticRegression(C=1 / (l2 * d), tol=1e-12, max_iter=50_000)
        theirs.fit(x.double().numpy(), y.numpy(), sample_weight=w.numpy())
        np.testing.assert_allclose(warm.weight, theirs.coef_, atol=1e-4)
        cold = space.fit(y, 4, l2, w)
        np.testing.assert_allclose(warm.weight, cold.weight, atol=1e-4)


def test_single_precision_ends_where_it_has_no_more_digits() -> None:
    """Nearly no penalty: the steps are bounded, and the solution is the same."""
    x, y = blobs(300, 3, spread=4.0)
    ours = fit_probe(x, y, 3, 1e-7)
    theirs = LogisticRegression(C=1 / (1e-7 * 3 * 300), tol=1e-12, max_iter=50_000)
    theirs.fit(x.double().numpy(), y.numpy())
    np.testing.assert_allclose(ours.weight, theirs.coef_, atol=1e-3)


def test_held_out_probes_of_some_cells_say_something_of_all() -> None:
    x, y, block = cells(0.2, side=24)
    space, w = CellSpace.of(x), class_weights(y, 2, 0.5)
    fold = folds_of(block, 0)
    whole = space.hold_out(y, 2, fold, w, (1e-2,))
    some = space.hold_out(y, 2, fold, w, (1e-2,), limit=300)
    assert some.log_probability.shape == whole.log_probability.shape
    # Literally: of the 300 cells, those of other folds.
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(x), generator=generator)[:300]
    for k in range(FOLDS):
        used = chosen[fold[chosen] != k]
        probe = fit_probe(x[used], y[used], 2, 1e-2, w[used] / w[used].sum())
        out = fold == k
        torch.testing.assert_close(
            some.log_probability[out], probe(x[out]).log_softmax(1), atol=5e-2, rtol=0
        )
    right = [h.log_probability.argmax(1) == y for h in (whole, some)]
    assert right[1].double().mean() > right[0].double().mean() - 0.02
