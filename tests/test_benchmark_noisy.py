# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, recall_score

from benchmarks import noisy


def test_made_problem(tmp_path: Path) -> None:
    problem = noisy.made(0, tmp_path, 480)
    assert problem.minority == noisy.WATER
    water = noisy.shares(piece.truth for piece in problem.source)[noisy.WATER]
    assert 0 < water < 3 * noisy.RARE
    (target,) = problem.target
    assert noisy.shares([target.truth])[noisy.WATER] > 10 * noisy.RARE
    wrong = sum(int((p.labels != p.truth).sum()) for p in problem.source)
    total = sum(piece.labels.size for piece in problem.source)
    # noise, and what is inside of a cell and not its most frequent class
    assert noisy.NOISE / 2 < wrong / total < 2 * noisy.NOISE
    assert target.image.shape[1] == int(480 / noisy.COARSE)


def test_crops_are_pixels_with_their_labels(tmp_path: Path) -> None:
    problem = noisy.made(0, tmp_path, 240)
    # an image that says what its label is
    labels = [piece.labels for piece in problem.source]
    domain = [
        replace(p, image=torch.from_numpy(p.labels)[None].float().expand(3, -1, -1))
        for p in problem.source
    ]
    setting = noisy.Setting(problem, 0, tmp_path, 3)
    crops = setting.crops(domain, labels, 0)
    assert len(crops) == 3
    for batch in crops:
        labelled = batch['mask'] > 0
        assert labelled.any()
        assert (batch['image'][:, 0][labelled] == batch['mask'][labelled] - 1).all()


def test_rows_build_on_others(tmp_path: Path) -> None:
    options = Namespace(
        work=tmp_path,
        data=tmp_path,
        tiny=True,
        seeds=[0],
        rows=['source', 'ensemble'],
        steps=0,
    )
    found = {key['row']: run() for key, run in noisy.trials(options)}
    assert set(found) == {'source', 'ensemble'}
    # what the ensemble is made of was trained, and is kept
    kept = {path.stem.split('-')[-1] for path in tmp_path.rglob('*.pt')}
    assert kept == {'source', 'self', 'sce', 'lovasz', 'ensemble'}


def test_figures(tmp_path: Path) -> None:
    problem = noisy.made(0, tmp_path, 240)
    truth = problem.target[0].truth
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
    setting = noisy.Setting(problem, 0, tmp_path, 1)
    maps = [np.ones_like(piece.truth) for piece in problem.target]
    maps[0][:20, 70:80] = noisy.WATER
    monkeypatch.setattr(noisy.Setting, 'maps', lambda self, network: maps)
    patches, labels = noisy.selected(setting)
    assert len(patches) == len(labels) == 1
    assert torch.equal(patches[0].image, problem.target[0].image[:, :64, 64:128])
    assert (labels[0] == maps[0][:64, 64:128]).all()
    others, _ = noisy.selected(setting, minority=False)
    assert len(others) == 1
    for row in ('selection', 'contrast'):
        network = setting.network(row)
        assert network(patches[0].image[None]).shape == (1, 4, 64, 64)
