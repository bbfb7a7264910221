# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.networks.ensemble import Ensemble


def networks(n: int, classes: int = 4) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Conv2d(3, classes, 1) for _ in range(n)]


@pytest.mark.parametrize('weights', [None, (1.0, 2.0, 5.0), (0.0, 0.0, 3.0)])
def test_is_the_weighted_mean_of_probabilities(
    weights: tuple[float, ...] | None,
) -> None:
    parts = networks(3)
    image = torch.randn(2, 3, 5, 7)
    with torch.no_grad():
        found = Ensemble(parts, weights)(image).numpy()
        each = np.stack([softmax(part(image).numpy(), axis=1) for part in parts])
    expected = np.average(each, axis=0, weights=weights)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_probabilities_are_averaged_and_not_logits() -> None:
    """One network that is very sure does not outvote two that are sure enough."""

    class Says(nn.Module):
        def __init__(self, *logits: float) -> None:
            super().__init__()
            self.logits = torch.tensor(logits).view(1, -1, 1, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(image), -1, *image.shape[2:])

    ensemble = Ensemble([Says(90.0, 0.0), Says(0.0, 3.0), Says(0.0, 3.0)])
    assert (ensemble(torch.zeros(1, 1, 2, 2)).argmax(1) == 1).all()


def test_half_precision() -> None:
    image = torch.randn(2, 3, 4, 4)
    ensemble = Ensemble(networks(2))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found = ensemble(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ensemble(image), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ('parts', 'weights', 'message'),
    [
        (0, None, 'at least one'),
        (2, (1.0,), '1 weights for 2 networks'),
        (2, (1.0, -1.0), '0 or more'),
        (2, (0.0, 0.0), 'not all 0'),
        (2, (float('nan'), 1.0), '0 or more'),
    ],
)
def test_mistakes(parts: int, weights: tuple[float, ...] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ensemble(networks(parts), weights)


def test_networks_of_different_classes() -> None:
    ensemble = Ensemble([*networks(1), *networks(1, classes=5)])
    with pytest.raises(InputError, match='not 4 and 5'):
        ensemble(torch.zeros(1, 3, 2, 2))
