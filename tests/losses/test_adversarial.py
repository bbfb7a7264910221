# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_mapsr.losses import discriminator_hinge, generator_hinge, sargmax


def test_is_argmax_where_one_class_leads() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 9, 7, generator=generator)
    top = logits.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 0.02
    assert clear.float().mean() > 0.9
    found = sargmax(logits)
    assert found.shape == (2, 1, 9, 7)
    torch.testing.assert_close(found[:, 0][clear], logits.argmax(1)[clear] + 1.0)


def test_is_the_sum_of_equation_3() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 1e-3 * torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64)
    raised = (1000 * logits).exp()
    expected = sum((c + 1) * raised[:, c] for c in range(4)) / raised.sum(1)
    torch.testing.assert_close(sargmax(logits)[:, 0].double(), expected)
    assert torch.equal(sargmax(torch.zeros(1, 3, 2, 2)), torch.full((1, 1, 2, 2), 2.0))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """1000 · 80 and 1000 · 6e4 are more than it can hold."""
    logits = torch.tensor([80.0, 79.0, -6e4, 80.0], dtype=dtype).view(1, 4, 1, 1)
    logits.requires_grad_()
    for autocast in (False, True):
        with torch.autocast('cpu', dtype, enabled=autocast):
            found = sargmax(logits)
        assert found.dtype == torch.float32
        assert found.item() == 2.5
        (gradient,) = torch.autograd.grad(found, logits)
        # τ p (c − s), of the two that share the lead
        expected = [1000 * 0.5 * (1 - 2.5), 0, 0, 1000 * 0.5 * (4 - 2.5)]
        assert gradient.flatten().tolist() == pytest.approx(expected, rel=0.01)


def test_gradient() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 4, 2, 2, generator=generator, dtype=torch.float64)
    for temperature in (1.0, 1e3):
        x = (logits / temperature).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda v: sargmax(v, temperature),  # noqa: B023
            x,
            eps=1e-6 / temperature,
        )
        (gradient,) = torch.autograd.grad(sargmax(x, temperature).sum(), x)
        p = logits.softmax(1)
        number = torch.arange(1.0, 5).view(1, 4, 1, 1)
        mean = (p * number).sum(1, keepdim=True)
        torch.testing.assert_close(gradient, temperature * p * (number - mean))


def test_hinges() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.25])
    expected = (0 + 0.5 + 2) / 3 + (0 + 1.25) / 2
    assert float(discriminator_hinge(real, fake)) == pytest.approx(expected)
    assert float(generator_hinge(fake)) == pytest.approx(2.75 / 2)
