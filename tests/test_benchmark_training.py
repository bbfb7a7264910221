# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rich.console import Console

from benchmarks import training, training_rows, training_table
from benchmarks.training_places import Place, find_places
from benchmarks.training_rows import ROWS, Trial
from torchgeo_mapsr.datasets.scene.scene import Scene

QUIET = Console(quiet=True)


@pytest.fixture
def place(made_scene: Scene, tmp_path: Path) -> Place:
    """The made scene, by the names that scenes have."""
    (place,) = find_places(tmp_path, tmp_path / 'work', ['made'], side=150)
    return place


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_rows, 'CROP', 64)
    monkeypatch.setattr(training_rows, 'BATCH', 2)


def test_our_rows_make_maps(place: Place, tmp_path: Path) -> None:
    for name in ('copy', 'oracle', 'low', 'pre', 'high'):
        found = training.measure(Trial(place, 0, 1, tmp_path), name)
        assert np.sum(found['confusion']) + found['unmapped'] == 150 * 150
        assert 0 <= found['miou'] <= found['f1'] <= 1
        assert found['steps'] == int(ROWS[name].trained)
    assert (tmp_path / 'encoders' / 'made' / 'scene-0.safetensors').exists()


def test_oracle_is_the_best_label_of_each_cell(place: Place, tmp_path: Path) -> None:
    trial = Trial(place, 0, 1, tmp_path)
    figures = [training.measure(trial, name)['accuracy'] for name in ('copy', 'oracle')]
    assert figures[0] < figures[1] < 1
    (found,), (truth,) = ROWS['oracle'].make(trial), place.region.truth
    assert (found >= 0).all()
    # a cell that lies inside has one class, and none covers more of it
    block = found[60:62, 70:72]
    assert len(np.unique(block)) <= 4
    agreement = [(found == truth).mean(), *((truth == c).mean() for c in range(4))]
    assert agreement[0] == max(agreement)


def test_windows_cover_a_map(place: Place, tmp_path: Path) -> None:
    """A network that looks at single pixels gives the same whatever the windows."""
    trial = Trial(place, 0, 1, tmp_path)

    def brightest(image: torch.Tensor) -> torch.Tensor:
        return image

    (whole,) = trial.predict(brightest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_rows, '_WINDOW', 40)
        patch.setattr(training_rows, '_MARGIN', 7)
        (parts,) = trial.predict(brightest)
    np.testing.assert_array_equal(whole, parts)
    image = place.region.images[0]
    np.testing.assert_array_equal(whole, image.read(image.geobox)[0].argmax(0))


def test_goes_on_where_it_stopped(place: Place, tmp_path: Path) -> None:
    output = tmp_path / 'results' / 'training.json'
    rows = ['copy', 'low']
    options: Any = {'rows': rows, 'steps': 1, 'seeds': [0, 1]}
    first = training.run([place], output, QUIET, tmp_path, **options)
    keys = ['made/scene/copy/0', 'made/scene/low/0', 'made/scene/low/1']
    assert list(first['runs']) == keys
    first['runs'][keys[1]]['miou'] = 0.125
    output.write_text(json.dumps(first))
    again = training.run([place], output, QUIET, tmp_path, **options)
    assert again['runs'][keys[1]]['miou'] == 0.125
    late = training.run(
        [place], output, QUIET, tmp_path, seconds=-1, **options | {'rows': ['agg']}
    )
    assert list(late['runs']) == keys


def test_exemplars_are_of_elsewhere(shared: Path, tmp_path: Path) -> None:
    places = list(find_places(shared / 'data', tmp_path, ['openearthmap']))
    for place in places:
        with (
            rasterio.open(place.region.imagery_paths[0]) as image,
            rasterio.open(place.exemplars[0]) as shown,
        ):
            assert image.width == 3 * shown.width
            assert image.bounds.right == pytest.approx(shown.bounds.left)
    (place,) = find_places(shared / 'data', tmp_path, ['chesapeake_wv'])
    assert len(place.region.scenes) == 6
    used = {str(scene / 'hr.tif') for scene in place.region.scenes}
    assert not used & set(place.exemplars)


def made_results() -> dict[str, Any]:
    """Two places, one of which lacks a seed of a row."""

    def run(value: float) -> dict[str, Any]:
        figures = {'miou': value, 'accuracy': value + 0.1, 'f1': value + 0.2}
        return figures | {'steps': 5, 'seconds': 60.0, 'commit': 'abc'}

    runs = {
        f'openearthmap/{scene}/{row}/{seed}': run(base + 0.01 * seed + shift)
        for row, base in (('low', 0.5), ('app', 0.6), ('copy', 0.3))
        for scene, shift in (('a', 0.0), ('b', 0.1))
        for seed in range(1 if row == 'copy' else 3)
    }
    del runs['openearthmap/b/app/2']
    about = {'date': '2026-01-01', 'machine': 'a machine'}
    about |= {'versions': {'python': '3', 'torch': '2', 'torchgeo': '0'}}  # type: ignore[dict-item]
    return {'about': about, 'settings': {'crop': 64, 'batch': 2}, 'runs': runs}


def test_table() -> None:
    results = made_results()
    assert training_table.values(results, 'openearthmap', 'low', 'miou') == (
        pytest.approx([0.55, 0.56, 0.57])
    )
    lines = {line[0]: line[1:] for line in training_table.cells(results)}
    assert lines[''] == [f'openearthmap {f}' for f in ('mIoU', 'accuracy', 'F1')]
    assert lines['Low (hard naive)'][0] == '0.560 ± 0.010'
    # means of two places, of the seeds that both have
    assert lines['Agg + App'][1] == '0.755 ± 0.007 (2)'
    assert lines['LR copy (the paper’s Oracle)'] == ['0.350', '0.450', '0.550']
    checks = training_table.checks(results)
    assert any(
        text.startswith('yes: Agg + App above Low') and '+0.095' in text
        for text in checks
    )
    page = f'a\n{training_table.BEGIN}\nold\n{training_table.END}\nb\n'
    filled = training_table.fill(page, results)
    assert 'old' not in filled
    assert filled.endswith('\nb\n')
    assert training_table.fill(filled, results) == filled
    assert '5 steps of 2 crops of 64² pixels' in filled


def test_page_agrees_with_results() -> None:
    page = training_table.README.read_text()
    if training.RESULTS.exists():
        results = json.loads(training.RESULTS.read_text())
        assert training_table.fill(page, results) == page
