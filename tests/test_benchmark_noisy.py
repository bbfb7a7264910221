# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import warnings
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import jaccard_score, recall_score

from benchmarks import frozen_noise
from benchmarks.noisy import __main__ as noisy
from benchmarks.noisy import class_aware, sets, table, training
from benchmarks.noisy.rows import ROWS, TITLES


def test_page_and_file_agree() -> None:
    results, fits = (
        json.loads(path.read_text()) for path in (table.RESULTS, table.FROZEN)
    )
    page = table.README.read_text()
    assert table.fill(page, results, fits) == page


def test_every_row_has_a_title() -> None:
    assert list(ROWS) == list(TITLES)


def test_made_problem(tmp_path: Path) -> None:
    problem = sets.made(0, tmp_path, 480)
    shares = problem.source.shares()
    assert problem.minority == sets.WATER
    assert 0 < shares[sets.WATER] < 3 * sets.RARE
    assert problem.target.shares()[sets.WATER] > 10 * sets.RARE
    wrong, known = 0, 0
    for label, truth in zip(problem.source.labels, problem.source.truth, strict=True):
        wrong += int((label != truth).sum())
        known += label.size
    # noise, and what is inside of a cell and not its most frequent class
    assert sets.NOISE / 2 < wrong / known < 2 * sets.NOISE
    (image,) = problem.target.images
    assert image.shape[1] == int(480 / sets.COARSE)


def test_crops_are_pixels_with_their_labels(tmp_path: Path) -> None:
    problem = sets.made(0, tmp_path, 240)
    # an image that says what its label is
    labels = problem.source.labels
    told = tuple(
        training.torch.from_numpy(label)[None].float().expand(3, -1, -1)
        for label in labels
    )
    domain = sets.Domain(told, problem.source.truth, labels)
    crops = training.Crops(domain, labels, 0, 3)
    for step in range(3):
        batch = crops[step]
        known = batch['mask'] > 0
        assert known.any()
        assert (batch['image'][:, 0][known] == batch['mask'][known] - 1).all()


def test_runs_keeps_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, 'SIDE', 240)
    output, work = tmp_path / 'noisy.json', tmp_path / 'work'

    def run(*rows: str) -> str:
        said = StringIO()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            console = Console(file=said)
            noisy.run(output, tmp_path, work, console, ('made',), rows, (0,), steps=2)
        return said.getvalue()

    said = run('source', 'ensemble')
    assert said.count('mIoU') == 2
    # what the ensemble is made of was trained, and is not measured yet
    found = noisy.read(output)['found']['made']['0']
    assert list(found) == ['source', 'ensemble']
    kept = {path.stem.split('-')[-1] for path in work.rglob('*.pt')}
    assert kept == {'source', 'self', 'sce', 'lovasz', 'ensemble'}
    assert run('source') == ''
    assert 'self' in run('self')
    assert list(noisy.read(output)['found']['made']['0']) == [
        'source',
        'self',
        'ensemble',
    ]
    text = table.markdown(noisy.read(output))
    assert f'{found["source"]["miou"]:.3f} (1)' in text
    page = f'before\n{table.BEGIN}\nold\n{table.END}\nafter'
    fits = json.loads(table.FROZEN.read_text())
    filled = table.fill(page, noisy.read(output), fits)
    assert text in filled
    assert table.frozen(fits) in filled


def test_figures(tmp_path: Path) -> None:
    problem = sets.made(0, tmp_path, 240)
    (truth,) = problem.target.truth
    guess = np.random.default_rng(0).integers(0, 4, truth.shape)
    guess[::2] = truth[::2]
    found = noisy.score(problem, [guess])
    known = truth >= 0
    y, x = truth[known], guess[known]
    there = np.unique(y)
    iou = jaccard_score(y, x, labels=there, average=None)
    assert found['miou'] == pytest.approx(iou.mean(), abs=1e-4)
    assert found['accuracy'] == pytest.approx(
        recall_score(y, x, labels=there, average='macro'), abs=1e-4
    )
    assert found['minority_iou'] == pytest.approx(
        iou[there.tolist().index(found['minority'])], abs=1e-4
    )


def test_frozen_rows() -> None:
    figures = {'accuracy': 0.5, 'minority_iou': 0.1, 'commit': 'abc'}
    regions = {
        f'a/{scene}/noisy': {
            f'{row}/{seed}': {'miou': scene + seed / 10, **figures}
            for row in table.FROZEN_TITLES
            for seed in range(3)
        }
        for scene in (0, 1)
    }
    text = table.frozen({'regions': regions, 'about': {'date': '', 'machine': ''}})
    assert '| the default | 0.600 ± 0.100 | 0.500 ± 0.000 | 0.100 ± 0.000 |' in text
    assert set(table.FROZEN_TITLES) == set(frozen_noise.ROWS)


def test_spread() -> None:
    rows = [{'source': {'miou': value}} for value in (0.2, 0.3, 0.7)]
    results = {'found': {'made': {str(i): row for i, row in enumerate(rows)}}}
    expected = f'{0.4:.3f} ± {np.std([0.2, 0.3, 0.7], ddof=1):.3f}'
    assert table.figure(results, 'made', 'source', 'miou') == expected
    assert table.figure(results, 'made', 'self', 'miou') == '–'


def test_class_aware_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches that the source's network gives water, and a step of each row on them."""
    problem = sets.made(0, tmp_path, 480)
    setting = training.Setting(problem, 0, tmp_path, 1, ROWS)
    maps = [np.zeros_like(truth) + 1 for truth in problem.target.truth]
    maps[0][:20, 70:80] = sets.WATER
    monkeypatch.setattr(training.Setting, 'maps', lambda self, network: maps)
    patches, labels = class_aware.selected(setting)
    assert len(patches.images) == len(labels) == 1
    assert torch.equal(patches.images[0], problem.target.images[0][:, :64, 64:128])
    assert (labels[0] == maps[0][:64, 64:128]).all()
    others, _ = class_aware.selected(setting, minority=False)
    assert len(others.images) == 1
    for row in ('selection', 'contrast'):
        network = setting.network(row)
        assert network(patches.images[0][None]).shape == (1, 4, 64, 64)
