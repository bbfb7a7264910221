# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import softmax

from torchgeo_mapsr.evaluation.calibration import (
    Calibration,
    Reliability,
    fit_shift,
    fit_temperature,
    held_out_cells,
)


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


def test_temperature_is_softmax_of_scaled_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 5, 6)).astype(np.float32)
    p = softmax(logits, 0)
    result = Calibration(2.5).apply(p)
    np.testing.assert_allclose(result, softmax(logits / 2.5, 0), rtol=1e-3)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result.argmax(0), p.argmax(0))
    np.testing.assert_allclose(Calibration().apply(p), p, rtol=1e-4, atol=2e-6)


def test_overconfident_scores_are_calibrated_without_their_truth() -> None:
    """Logits times 3; the labels of held-out cells are as noisy as pixels within cells."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4, 40_000))
    true = np.array([rng.choice(4, p=p) for p in softmax(logits, 0).T])
    sure = softmax(3 * logits, 0)
    calibration = fit_temperature(sure, sure[:, :9000].argmax(0), true[:9000])
    right = sure.argmax(0) == true
    before = Reliability.of(sure.max(0), right).ece
    after = Reliability.of(calibration.apply(sure).max(0), right).ece
    assert before > 0.15
    assert after < 0.01
    assert calibration.temperature == pytest.approx(3, rel=0.05)
    assert 'a fit had not seen' in calibration.description
    assert calibration.to_dict()['shift'] is None


def test_nothing_held_out_changes_nothing() -> None:
    p = np.array([[0.8], [0.2]])
    calibration = fit_temperature(p, np.array([-1]), np.array([0]))
    assert calibration.temperature == 1
    assert calibration.description.startswith('not calibrated')


@pytest.mark.parametrize('agreement', [0.0, 1.0])
def test_extremes_stay_finite(agreement: float) -> None:
    p = np.tile([[0.9], [0.1]], 50)
    labels = np.full(50, 0 if agreement else 1)
    result = fit_temperature(p, np.zeros(50, int), labels).apply(p)
    assert np.isfinite(result).all()
    assert (result[0] > 0.5).all()


def test_shift_gives_the_expected_shares() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([4, 2, 1], 3000).T
    expected = np.array([0.2, 0.3, 0.5])
    factors = fit_shift(p, expected)
    shifted = Calibration(shift=factors).apply(p)
    np.testing.assert_allclose(shifted.mean(1), expected, atol=1e-3)
    np.testing.assert_allclose(np.log(factors).sum(), 0, atol=1e-9)


def test_cells_are_held_out_in_blocks() -> None:
    held = held_out_cells((90, 70), block=4, share=0.3, seed=1)
    assert held.shape == (90, 70)
    assert 0.2 < held.mean() < 0.4
    for row, col in np.ndindex(22, 17):
        block = held[4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
        assert block.all() == block.any()
    labels, _ = ndimage.label(held)
    assert np.bincount(labels.ravel())[1:].min() >= 8
    assert (held == held_out_cells((90, 70), share=0.3, seed=1)).all()
    assert (held != held_out_cells((90, 70), share=0.3, seed=2)).any()
