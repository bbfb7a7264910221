# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, recall_score

from benchmarks import frozen_noise, noisy
from benchmarks.noisy import ROWS, TITLES


def test_every_row_has_a_title() -> None:
    assert list(ROWS) == list(TITLES)
    assert list(frozen_noise.ROWS) == list(frozen_noise.TITLES)


def test_made_problem(tmp_path: Path) -> None:
    problem = noisy.made(0, tmp_path, 480)
    shares = problem.source.shares()
    assert problem.minority == noisy.WATER
    assert 0 < shares[noisy.WATER] < 3 * noisy.RARE
    assert problem.target.shares()[noisy.WATER] > 10 * noisy.RARE
    wrong, known = 0, 0
    for label, truth in zip(problem.source.labels, problem.source.truth, strict=True):
        wrong += int((label != truth).sum())
        known += label.size
    # noise, and what is inside of a cell and not its most frequent class
    assert noisy.NOISE / 2 < wrong / known < 2 * noisy.NOISE
    (image,) = problem.target.images
    assert image.shape[1] == int(480 / noisy.COARSE)


def test_crops_are_pixels_with_their_labels(tmp_path: Path) -> None:
    problem = noisy.made(0, tmp_path, 240)
    # an image that says what its label is
    labels = problem.source.labels
    images = tuple(
        torch.from_numpy(label)[None].float().expand(3, -1, -1) for label in labels
    )
    domain = noisy.Domain(images, problem.source.truth, labels)
    setting = noisy.Setting(problem, 0, tmp_path, 3, ROWS)
    crops = setting.crops(domain, labels, 0)
    assert len(crops) == 3
    for batch in crops:
        labelled = batch['mask'] > 0
        assert labelled.any()
        assert (batch['image'][:, 0][labelled] == batch['mask'][labelled] - 1).all()


def test_rows_build_on_others(tmp_path: Path) -> None:
    options = Namespace(
        work=tmp_path, tiny=True, seeds=[0], rows=['source', 'ensemble'], steps=0
    )
    found = {key['row']: run() for key, run in noisy.trials(options)}
    assert set(found) == {'source', 'ensemble'}
    # what the ensemble is made of was trained, and is kept
    kept = {path.stem.split('-')[-1] for path in tmp_path.rglob('*.pt')}
    assert kept == {'source', 'self', 'sce', 'lovasz', 'ensemble'}


def test_figures(tmp_path: Path) -> None:
    problem = noisy.made(0, tmp_path, 240)
    (truth,) = problem.target.truth
    guess = np.random.default_rng(0).integers(0, 4, truth.shape)
    guess[::2] = truth[::2]
    found = noisy.score(problem, [guess])
    known = truth >= 0
    y, x = truth[known], guess[known]
    there = np.unique(y)
    iou = jaccard_score(y, x, labels=there, average=None)
    assert found['miou'] == pytest.approx(iou.mean(), abs=1e-4)
    assert found['recall'] == pytest.approx(
        recall_score(y, x, labels=there, average='macro'), abs=1e-4
    )
    assert found['minority_iou'] == pytest.approx(
        iou[there.tolist().index(problem.minority)], abs=1e-4
    )


def test_class_aware_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches that the source's network gives water, and a step of each row on them."""
    problem = noisy.made(0, tmp_path, 480)
    setting = noisy.Setting(problem, 0, tmp_path, 1, ROWS)
    maps = [np.zeros_like(truth) + 1 for truth in problem.target.truth]
    maps[0][:20, 70:80] = noisy.WATER
    monkeypatch.setattr(noisy.Setting, 'maps', lambda self, network: maps)
    patches, labels = noisy.selected(setting)
    assert len(patches.images) == len(labels) == 1
    assert torch.equal(patches.images[0], problem.target.images[0][:, :64, 64:128])
    assert (labels[0] == maps[0][:64, 64:128]).all()
    others, _ = noisy.selected(setting, minority=False)
    assert len(others.images) == 1
    for row in ('selection', 'contrast'):
        network = setting.network(row)
        assert network(patches.images[0][None]).shape == (1, 4, 64, 64)
