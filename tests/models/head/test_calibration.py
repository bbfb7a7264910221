# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import softmax

from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.evaluation.reliability import Reliability
from torchgeo_mapsr.models.head import calibration as calibration_of_heads
from torchgeo_mapsr.models.head.calibration import (
    Calibration,
    CalibrationSample,
    evidence_at,
    fit_temperature,
)
from torchgeo_mapsr.models.head.cells import CellTable
from torchgeo_mapsr.models.head.fit import fit_head
from torchgeo_mapsr.models.head.options import FitOptions
from torchgeo_mapsr.models.head.prior import LabelPrior, evidence

LEGEND = Legend.load('land-cover-4')
WALK = Crosswalk.load(LEGEND, LEGEND)


def test_temperature_is_softmax_of_scaled_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, 5, 6)).astype(np.float32)
    p = torch.from_numpy(softmax(logits, 0))
    result = Calibration(2.5).apply(p)
    np.testing.assert_allclose(result, softmax(logits / 2.5, 0), rtol=1e-3)
    assert result.dtype == torch.float32
    assert torch.equal(result.argmax(0), p.argmax(0))
    assert torch.equal(Calibration().apply(p), p)


def test_overconfident_scores_are_calibrated_without_their_truth() -> None:
    """Logits times 3; labels of held-out cells are as noisy as pixels within cells."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4, 40_000))
    true = np.array([rng.choice(4, p=p) for p in softmax(logits, 0).T])
    sure = torch.from_numpy(softmax(3 * logits, 0))
    agreement = float((sure[:, :9000].argmax(0).numpy() == true[:9000]).mean())
    calibration = fit_temperature(sure, agreement, 9000)
    right = sure.argmax(0).numpy() == true
    before = Reliability.of(sure.amax(0).numpy(), right).ece
    after = Reliability.of(calibration.apply(sure).amax(0).numpy(), right).ece
    assert before > 0.15
    assert after < 0.01
    assert calibration.temperature == pytest.approx(3, rel=0.05)
    assert 'a fit had not seen' in calibration.description


@pytest.mark.parametrize('downward', [0.0, 0.25, 1.0])
def test_a_part_of_the_way_down_and_all_of_it_up(downward: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (3, 5000))
    p = torch.from_numpy(softmax(logits, 0))
    before = float(p.amax(0).mean())
    for share, part in ((before - 0.2, downward), (before + 0.1, 1.0)):
        calibration = fit_temperature(p, share, 900, downward=downward)
        after = float(calibration.apply(p).amax(0).mean())
        assert after == pytest.approx(before + part * (share - before), abs=1e-3)


@pytest.mark.parametrize(('agreement', 'ceiling'), [(0.5, 1.0), (0.4, 0.8), (0.9, 0.6)])
def test_some_pixels_disagree_with_their_cell_rightly(
    agreement: float, ceiling: float
) -> None:
    """A quarter of what disagrees is right; more than all that agree is nothing."""
    p = torch.from_numpy(softmax(np.random.default_rng(0).normal(0, 2, (3, 5000)), 0))
    calibration = fit_temperature(p, agreement, 900, ceiling, rightly=0.25)
    wanted = {0.5: 0.5 + 0.25 * 0.5, 0.4: 0.5 + 0.25 * 0.5, 0.9: 0.999}[agreement]
    after = float(calibration.apply(p).amax(0).mean())
    # .9 / .6 is more than any temperature gives: the coldest is taken.
    coldest = float(Calibration(0.2).apply(p).amax(0).mean())
    assert after == pytest.approx(min(wanted, coldest), abs=1e-3)


def test_nothing_held_out_changes_nothing() -> None:
    p = torch.tensor([[0.8], [0.2]])
    calibration = fit_temperature(p, 1.0, 0)
    assert calibration.is_identity
    assert calibration.description.startswith('not calibrated')


@pytest.mark.parametrize('agreement', [0.0, 1.0])
def test_extremes_stay_finite(agreement: float) -> None:
    p = torch.tensor([[0.9], [0.1]]).expand(2, 50)
    result = fit_temperature(p, agreement, 50).apply(p)
    assert result.isfinite().all()
    assert (result[0] > 0.5).all()


def table_of(side: int, pixels: int = 5, wrong: float = 0.0) -> CellTable:
    """A square of cells of four classes in patches, whose features show them."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(4, side, side)), (0, 2, 2))
    true = torch.from_numpy(smooth.argmax(0).ravel())
    label = torch.where(
        torch.from_numpy(rng.random(len(true))) < wrong,
        torch.from_numpy(rng.integers(0, 4, len(true))),
        true,
    )
    centre = torch.from_numpy(rng.normal(size=(4, 6)).astype(np.float32))
    owner = torch.arange(len(true)).repeat_interleave(pixels)
    noise = rng.normal(0, 0.9, (len(owner), 6)).astype(np.float32)
    features = centre[true[owner]] + torch.from_numpy(noise)
    rows, cols = np.divmod(np.arange(len(true)), side)
    place = torch.from_numpy(np.stack([np.zeros_like(rows), rows, cols], 1))
    return CellTable(
        features.view(-1, pixels, 6).mean(1),
        torch.from_numpy(LEGEND.codes.copy())[label],
        torch.ones(len(true), dtype=torch.float64),
        place,
        features,
        owner,
    )


def test_a_head_is_calibrated_by_what_it_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labels are right here: confidence of pixels becomes the share that is right."""
    # Pixels of these cells are all what their cell is.
    monkeypatch.setattr(calibration_of_heads, '_RIGHTLY', 0.0)
    table = table_of(30)
    head = fit_head(table, WALK)
    sample = CalibrationSample.of(table, WALK, head, FitOptions())
    assert sample is not None
    right = WALK.index(table.code[table.owner].numpy())
    for score, scorer in head.by_score().items():
        p = scorer.classify(table.pixels).T
        before = Reliability.of(p.amax(0).numpy(), p.argmax(0).numpy() == right)
        calibration = sample.calibration(score, 0.0)
        after = calibration.apply(p)
        result = Reliability.of(after.amax(0).numpy(), p.argmax(0).numpy() == right)
        assert result.ece < max(0.5 * before.ece, 0.03), score
        assert torch.equal(after.argmax(0), p.argmax(0))
    # A greater weight of the labels makes a map surer, and the target stays.
    more = sample.calibration('fusion', 3.0).temperature
    assert more > sample.calibration('fusion', 0.0).temperature
    assert 'not calibrated' in sample.calibration('cosine', 0.0).description


def test_labels_that_are_wrong_here_and_there_do_not_make_it_unsure() -> None:
    table, truth = table_of(40, wrong=0.4), table_of(40)
    options = FitOptions(noise='denoise')
    head = fit_head(table, WALK, options)
    sample = CalibrationSample.of(table, WALK, head, options)
    assert sample is not None
    assert sample.agreement['fusion'] < 0.75
    calibration = sample.calibration('fusion', 0.0)
    p = head.classify(truth.pixels).T
    right = p.argmax(0).numpy() == WALK.index(truth.code[truth.owner].numpy())
    naive = fit_temperature(p, sample.agreement['fusion'], sample.pixels)
    errors = [
        Reliability.of(c.apply(p).amax(0).numpy(), right).ece
        for c in (calibration, naive)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_the_sample_comes_back_from_its_state() -> None:
    table = table_of(12)
    head = fit_head(table, WALK, FitOptions(score='cosine'))
    sample = CalibrationSample.of(table, WALK, head, FitOptions(score='cosine'))
    assert sample is not None
    again = CalibrationSample.from_state(*sample.state())
    for score in ('fusion', 'cosine'):
        one, two = (s.calibration(score, 0.4) for s in (sample, again))
        assert one.to_dict() == two.to_dict()
        assert one.temperature != 1


def test_too_few_cells_are_not_held_out() -> None:
    table = table_of(3)
    head = fit_head(table, WALK)
    assert CalibrationSample.of(table, WALK, head, FitOptions()) is None


def test_a_subset_keeps_the_pixels_of_its_cells() -> None:
    table = table_of(6, pixels=3)
    keep = table.place[:, 1] > 2
    part = table.subset(keep, 1000)
    assert torch.equal(part.code, table.code[keep])
    assert torch.equal(part.pixels, table.pixels[keep[table.owner]])
    assert torch.equal(
        part.code[part.owner], table.code[table.owner][keep[table.owner]]
    )
    assert len(table.subset(keep, 7).pixels) == 7


def test_evidence_of_cells_is_that_of_a_smoothed_grid() -> None:
    """Against scipy's Gaussian and bilinear interpolation of the whole grid."""
    table = table_of(20)
    identity = torch.eye(4)
    frequency = torch.tensor([0.1, 0.2, 0.3, 0.4])
    prior = LabelPrior(
        torch.from_numpy(LEGEND.codes.copy()), identity, frequency, 1.0, 0.7
    )
    inside = (table.place[:, 1:] >= 5) & (table.place[:, 1:] < 15)
    owner = inside.all(1).nonzero()[:, 0]
    result = evidence_at(table, owner, prior, torch.Generator().manual_seed(3))
    shift = torch.rand(
        len(owner), 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    at = (table.place[owner, 1:] + shift - 0.5).T.numpy()
    hard = np.eye(4)[WALK.index(table.code.numpy())].T.reshape(4, 20, 20)
    smooth = gaussian_filter(hard, (0, 0.7, 0.7), radius=(0, 3, 3))
    shares = [map_coordinates(band, at, order=1) for band in smooth]
    expected = evidence(
        torch.from_numpy(np.stack(shares)).float(), torch.ones(len(owner)), frequency
    )
    np.testing.assert_allclose(result, expected.T, atol=1e-4)
    # Of a table with gaps, those who are not there are left out of the means.
    sparse = table.subset(torch.arange(400) % 3 > 0, 10_000)
    some = torch.arange(len(sparse.code))
    result = evidence_at(sparse, some, prior, torch.Generator())
    assert result.isfinite().all()
    unlabelled = replace(prior, codes=prior.codes[:2], composition=identity[:2])
    result = evidence_at(table, owner, unlabelled, torch.Generator())
    bare = ~torch.isin(table.code[owner], unlabelled.codes)
    assert (result[bare] == 0).all()
    assert (result[~bare] != 0).any()
