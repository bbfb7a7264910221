# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np

from torchgeo_mapsr.evaluation.reliability import Reliability


def test_ece_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(5000)
    right = rng.random(5000) < confidence**2
    result = Reliability.of(confidence, right, 10)
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & (confidence < low + 0.1)
        expected += inside.mean() * abs(
            right[inside].mean() - confidence[inside].mean()
        )
    np.testing.assert_allclose(result.ece, expected)
    halves = Reliability.of(confidence[:99], right[:99]) + Reliability.of(
        confidence[99:], right[99:]
    )
    np.testing.assert_allclose(halves.ece, expected)
    assert Reliability.of(np.zeros(0), np.zeros(0)).to_dict()['ece'] is None


def test_diagram(tmp_path: Path) -> None:
    result = Reliability.of(np.array([0.2, 0.9]), np.array([0, 1]))
    result.save_png(tmp_path / 'r.png', 'truth')
    assert (tmp_path / 'r.png').read_bytes()[:4] == b'\x89PNG'
