# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest

from torchgeo_mapsr.datasets.legends.statistics import JointStatistics, described_shares
from torchgeo_mapsr.errors import InputError


@pytest.mark.parametrize(
    ('bounds', 'classes'),
    [
        ({3: (0.5, 0.8), 0: (0.0, 0.0)}, 4),
        ({0: (0.75, 1.0)}, 4),
        ({0: (0.1, 0.3), 1: (0.2, 0.5)}, 3),
        ({}, 3),
    ],
)
def test_moments_are_those_of_drawn_cells(
    bounds: dict[int, tuple[float, float]], classes: int
) -> None:
    rng = np.random.default_rng(0)
    shares = np.zeros((200_000, classes))
    for index, (low, high) in bounds.items():
        shares[:, index] = rng.uniform(low, high, len(shares))
    rest = [i for i in range(classes) if i not in bounds]
    left = 1 - shares.sum(axis=1, keepdims=True)
    shares[:, rest] = left * rng.dirichlet(np.ones(len(rest)), len(shares))
    mean, std = described_shares(bounds, classes)
    np.testing.assert_allclose(mean, shares.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(std, shares.std(axis=0), atol=2e-3)


def test_example_of_appendix_f() -> None:
    mean, std = described_shares({0: (0.75, 1.0)}, 2)
    assert mean.tolist() == [0.875, 0.125]
    np.testing.assert_allclose(std, 0.25 / np.sqrt(12))


def test_shipped_descriptions_agree_with_the_measured_table() -> None:
    """Within a deviation or so, and closely where descriptions are narrow."""
    described = JointStatistics.load('nlcd-descriptions')
    table = JointStatistics.load('malkin2019')
    known = table.frequency > 0
    np.testing.assert_array_equal(described.frequency > 0, known)
    np.testing.assert_allclose(described.frequency[known], 1 / 15)
    np.testing.assert_allclose(described.mean[known].sum(axis=1), 1)
    developed = table.source.index([21, 22, 23, 24])
    np.testing.assert_allclose(
        described.mean[developed], table.mean[developed], atol=0.06
    )
    # what a class is mostly made of is the same
    np.testing.assert_array_equal(
        described.mean[known].argmax(axis=1)[table.mean[known].max(axis=1) > 0.6],
        table.mean[known].argmax(axis=1)[table.mean[known].max(axis=1) > 0.6],
    )


@pytest.mark.parametrize(
    ('bounds', 'classes', 'message'),
    [
        ({0: (0.5, 0.4)}, 2, 'between two bounds'),
        ({0: (-0.1, 0.4)}, 2, 'between two bounds'),
        ({0: (0.7, 0.9), 1: (0.5, 0.6)}, 3, 'add up to 1.35'),
        ({0: (0.2, 0.4), 1: (0.2, 0.4)}, 2, 'add up to 0.60'),
    ],
)
def test_bounds_that_cannot_be(
    bounds: dict[int, tuple[float, float]], classes: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        described_shares(bounds, classes)


@pytest.mark.parametrize('shares', ['{7: [0, 1]}', '{1: 0.5}', '{1: [0, 1, 2]}', '3'])
def test_mistakes_in_a_file(shares: str, tmp_path: Path) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text(
        f'source: nlcd\ntarget: land-cover-4\nclasses: {{11: {{shares: {shares}}}}}'
    )
    with pytest.raises(InputError, match="'shares' of HR code: bounds"):
        JointStatistics.load(path)
