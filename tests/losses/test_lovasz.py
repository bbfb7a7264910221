# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from torchgeo_mapsr.losses import LovaszLoss

C = 3


def jaccard_loss(wrong: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """1 − IoU of a class whose map is wrong at these pixels."""
    guess = truth ^ wrong
    union = (truth | guess).sum()
    return 1 - (truth & guess).sum() / union if union else 0.0


def literal(logits: Tensor, label: Tensor) -> float:
    """Lovász extension by its definition: level sets of the errors, one by one."""
    p = np.moveaxis(softmax(logits.double().numpy(), axis=1), 1, -1)
    counts = label.numpy() >= 0
    p, y = p[counts], label.numpy()[counts]
    values = []
    for c in sorted(set(y.tolist())):
        truth = y == c
        errors = np.abs(truth - p[:, c])
        levels = [*sorted(set(errors.tolist()), reverse=True), 0.0]
        values.append(
            sum(
                (high - low) * jaccard_loss(errors >= high, truth)
                for high, low in pairwise(levels)
            )
        )
    return float(np.mean(values))


def made() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, C, 4, 5, generator=g)
    return logits, torch.randint(-1, C, (2, 4, 5), generator=g)


def test_is_the_lovasz_extension() -> None:
    logits, label = made()
    assert LovaszLoss()(logits, label).item() == pytest.approx(literal(logits, label))


def test_per_image() -> None:
    logits, label = made()
    expected = np.mean([literal(logits[i : i + 1], label[i : i + 1]) for i in (0, 1)])
    found = LovaszLoss(per_image=True)(logits, label)
    assert found.item() == pytest.approx(expected)


def test_images_without_a_label_do_not_count() -> None:
    logits, label = made()
    more = torch.cat([logits, torch.randn(1, C, 4, 5)])
    none = torch.cat([label, torch.full((1, 4, 5), -1)])
    for per_image in (False, True):
        loss = LovaszLoss(per_image)
        torch.testing.assert_close(loss(more, none), loss(logits, label))


def test_hard_maps_give_one_minus_iou() -> None:
    truth = torch.tensor([[[0, 0, 0, 1, 1, 2]]])
    guess = torch.tensor([[[0, 0, 1, 1, 1, 0]]])
    logits = 200.0 * torch.nn.functional.one_hot(guess, C).movedim(-1, 1)
    expected = 1 - (2 / 4 + 2 / 3 + 0) / 3
    assert LovaszLoss()(logits, truth).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('autocast', [False, True])
def test_half_precision(autocast: bool) -> None:
    logits, label = made()
    half = logits.bfloat16().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        loss = LovaszLoss()(half, label)
    torch.testing.assert_close(
        loss.detach(), LovaszLoss()(half.detach().float(), label)
    )
    loss.backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()


@pytest.mark.parametrize('per_image', [False, True])
def test_no_pixel_counts(per_image: bool) -> None:
    logits = torch.randn(2, C, 3, 3, requires_grad=True)
    loss = LovaszLoss(per_image)(logits, torch.full((2, 3, 3), -1))
    assert loss.shape == ()
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_a_single_class() -> None:
    logits, _ = made()
    label = torch.ones(2, 4, 5, dtype=torch.long)
    assert LovaszLoss()(logits, label).item() == pytest.approx(literal(logits, label))
