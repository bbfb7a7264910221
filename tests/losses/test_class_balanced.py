# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import io
import math

import pytest
import torch
from torch import Tensor

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.losses import (
    ClassBalancedCrossEntropy,
    ClassPrior,
    class_weight,
    sample_weight,
)


def batch(seed: int = 0, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with some missing, and a prior; in double precision."""
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, classes, 6, 7, generator=g, dtype=torch.float64)
    label = torch.randint(-1, classes, (3, 6, 7), generator=g)
    prior = torch.rand(classes, generator=g).double() ** 3 + 1e-3
    return logits, label, prior / prior.sum()


def literal(
    logits: Tensor, label: Tensor, prior: Tensor, cut: bool, sample: bool, by: bool
) -> float:
    """Eq. 5 with eq. 2 and 3, pixel by pixel."""
    total, n = 0.0, 0
    for k in range(logits.shape[1]):
        r_k = prior[k].item()
        w_k = 1 / math.log(1 + r_k) if by else 1.0
        for b, i, j in (label == k).nonzero().tolist():
            e = [math.exp(v) for v in logits[b, :, i, j].tolist()]
            log_p = math.log(e[k] / sum(e))
            s = (log_p - math.log(r_k)) / log_p if sample else 1.0
            total += w_k * (max(s, 0.0) if cut else s) * log_p
            n += 1
    return -total / n


@pytest.mark.parametrize('weighting', [True, False])
@pytest.mark.parametrize('sampling', ['likelihood', 'detached', 'none'])
def test_equals_the_equation(sampling: str, weighting: bool) -> None:
    for seed in range(3):
        logits, label, prior = batch(seed)
        loss = ClassBalancedCrossEntropy(sampling, weighting)  # type: ignore[arg-type]
        found = loss(logits, label, prior).item()
        slow = literal(
            logits, label, prior, sampling == 'detached', sampling != 'none', weighting
        )
        assert found == pytest.approx(slow, rel=2e-6)


def test_sample_weight_is_that_of_equation_2() -> None:
    p = torch.tensor([0.01, 0.2, 0.3, 0.9]).double().log()
    prior = torch.tensor(0.2).double().log()
    torch.testing.assert_close(sample_weight(p, prior), (p - prior) / p)
    # as sure as of any pixel: no weight. Less sure: above. Surer: below
    assert sample_weight(p, prior)[1] == 0
    assert (sample_weight(p, prior) > 0).tolist() == [True, False, False, False]


def test_sample_weight_is_finite_where_the_network_is_certain() -> None:
    log_p = torch.zeros(1, requires_grad=True)
    s = sample_weight(log_p, torch.tensor([-3.0]))
    assert s.isfinite().all()
    (s * log_p).backward()
    assert log_p.grad is not None
    assert log_p.grad.isfinite().all()


def test_class_weight_is_that_of_equation_3() -> None:
    share = torch.tensor([0.9, 0.1, 1e-3, 0.0])
    expected = [1 / math.log(1 + r) for r in (0.9, 0.1, 1e-3, 1e-4)]
    torch.testing.assert_close(class_weight(share), torch.tensor(expected))


def test_gradient_of_likelihood_goes_through_both_terms() -> None:
    """d/dz of -mean W (log p - log P(y)), by finite differences."""
    _, label, prior = batch(classes=3)
    logits = torch.randn(3, 3, 6, 7).requires_grad_()
    own = ClassPrior(3, 0.0, prior[:3].tolist())
    loss = ClassBalancedCrossEntropy('likelihood', weighting=False)
    label = label.clamp(max=2)

    def value(z: Tensor) -> Tensor:
        return loss(z, label, own(z.softmax(1)))

    value(logits).backward()
    assert logits.grad is not None
    # μ = 0: the prior is this batch's mean, so that the whole is a function of z
    # all pixels a little more of the first class: what the prior is about
    step = torch.zeros_like(logits)
    step[:, 0] = 1
    with torch.no_grad():
        up, down = value(logits + 1e-2 * step), value(logits - 1e-2 * step)
    slope = ((up - down) / 2e-2).item()
    assert (logits.grad * step).sum().item() == pytest.approx(slope, rel=2e-2)
    plain = torch.autograd.grad(loss(logits, label, prior[:3]), logits)[0]
    assert (plain * step).sum().item() != pytest.approx(slope, rel=0.2)


def test_detached_weights_unlearn_nothing() -> None:
    """Pixels of which the network is surer than the prior have no gradient."""
    logits, label, prior = batch()
    logits = logits.float().requires_grad_()
    ClassBalancedCrossEntropy('detached')(logits, label, prior).backward()
    log_p = logits.log_softmax(1).gather(1, label.clamp(min=0)[:, None])[:, 0]
    sure = log_p > prior.log()[label.clamp(min=0)]
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1) > 0
    assert torch.equal(moved, ~sure & (label >= 0))
    own = logits.grad.gather(1, label.clamp(min=0)[:, None])[:, 0]
    assert (own[moved] < 0).all()


@pytest.mark.parametrize('sampling', ['likelihood', 'detached', 'none'])
def test_batches_without_pixels_and_of_one_class(sampling: str) -> None:
    loss = ClassBalancedCrossEntropy(sampling)  # type: ignore[arg-type]
    prior = torch.tensor([1.0, 0.0, 0.0])
    logits = torch.full((2, 3, 4, 4), 200.0).requires_grad_()
    nothing = loss(logits, torch.full((2, 4, 4), -1), prior)
    nothing.backward()
    assert nothing == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    for label in (0, 2):
        sharp = torch.tensor([80.0, 0.0, -80.0])[:, None, None].expand(2, 3, 4, 4)
        sharp = sharp.clone().requires_grad_()
        one = loss(sharp, torch.full((2, 4, 4), label), prior)
        one.backward()
        assert one.isfinite()
        assert sharp.grad is not None
        assert sharp.grad.isfinite().all()


def test_half_precision_is_as_good() -> None:
    logits, label, prior = batch()
    half = logits.bfloat16().requires_grad_()
    exact = half.detach().float().requires_grad_()
    loss = ClassBalancedCrossEntropy()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = loss(half, label, prior)
    assert found.dtype == torch.float32
    expected = loss(exact, label, prior)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(half.grad, exact.grad.bfloat16())  # type: ignore[union-attr]


class TestPrior:
    def test_steps_are_those_of_equation_4(self) -> None:
        g = torch.Generator().manual_seed(0)
        shares = [0.7, 0.2, 0.1]
        prior = ClassPrior(3, 0.6, shares)
        for _ in range(4):
            p = torch.randn(2, 3, 5, 4, generator=g).softmax(1)
            found = prior(p)
            for k in range(3):
                pixels = [v for image in p for v in image[k].flatten().tolist()]
                shares[k] = 0.6 * shares[k] + 0.4 * sum(pixels) / len(pixels)
            torch.testing.assert_close(found, torch.tensor(shares))
            torch.testing.assert_close(prior.share, torch.tensor(shares))

    def test_only_valid_pixels_count_and_only_in_training(self) -> None:
        prior = ClassPrior(2, 0.0, [0.5, 0.5])
        p = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).T[None, :, :, None]
        valid = torch.tensor([[[True], [False]]])
        torch.testing.assert_close(prior(p, valid), torch.tensor([0.9, 0.1]))
        torch.testing.assert_close(prior(p, valid & False), torch.tensor([0.9, 0.1]))
        prior.eval()
        torch.testing.assert_close(prior(p), torch.tensor([0.9, 0.1]))

    def test_gradient_is_that_of_the_batch(self) -> None:
        p = torch.full((2, 2, 3, 1), 0.5, requires_grad=True)
        ClassPrior(2, 0.9, [0.9, 0.1])(p)[1].backward()
        assert p.grad is not None
        torch.testing.assert_close(p.grad[:, 1], torch.full((2, 3, 1), 1 / 6))
        assert not p.grad[:, 0].any()

    def test_starts_from_labels_once(self) -> None:
        prior = ClassPrior(3, 0.5)
        prior.start(torch.full((1, 2, 2), -1))
        torch.testing.assert_close(prior.share, torch.full((3,), 1 / 3))
        prior.start(torch.tensor([[[0, 0], [2, -1]]]))
        torch.testing.assert_close(prior.share, torch.tensor([2 / 3, 0, 1 / 3]))
        prior.start(torch.tensor([[[1, 1], [1, 1]]]))
        torch.testing.assert_close(prior.share, torch.tensor([2 / 3, 0, 1 / 3]))
        given = ClassPrior(3, 0.5, [1, 1, 2])
        given.start(torch.tensor([[[0]]]))
        torch.testing.assert_close(given.share, torch.tensor([0.25, 0.25, 0.5]))

    def test_survives_a_checkpoint(self) -> None:
        prior = ClassPrior(3, 0.5)
        prior.start(torch.tensor([0, 1, 1, 2]))
        prior(torch.rand(1, 3, 4, 4).softmax(1))
        file = io.BytesIO()
        torch.save(prior.state_dict(), file)
        file.seek(0)
        again = ClassPrior(3, 0.5)
        again.load_state_dict(torch.load(file, weights_only=True))
        again.start(torch.tensor([0]))
        assert torch.equal(again.share, prior.share)

    @pytest.mark.parametrize(
        ('momentum', 'shares'),
        [(1.5, None), (0.5, [0.5, 0.5]), (0.5, [-1, 1, 1]), (0.5, [0, 0, 0])],
    )
    def test_mistakes(self, momentum: float, shares: list[float] | None) -> None:
        with pytest.raises(InputError):
            ClassPrior(3, momentum, shares)
