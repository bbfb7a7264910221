# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from benchmarks import training
from benchmarks.regions import Region
from benchmarks.store import Record, Release
from benchmarks.table import seed_rows
from benchmarks.training import ELSEWHERE, ROWS, Place, Training, find_places
from torchgeo_mapsr.datasets import LabelRaster, make_scene
from torchgeo_mapsr.datasets.imagery import Imagery


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The made scene, by the names that scenes have."""
    folder = tmp_path_factory.mktemp('place')
    (place,) = find_places(folder, folder / 'work', ['made'], side=150)
    return place


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, 'CROP', 64)
    monkeypatch.setattr(training, 'BATCH', 2)
    # half precision is a multiple slower on processors without it
    monkeypatch.setattr(training, 'PRECISION', '32-true')


def test_our_rows_make_maps(place: Place, tmp_path: Path) -> None:
    for name in ('copy', 'oracle', 'low', 'pre', 'high'):
        found = training.measure(Training(place, 0, 1, tmp_path), name)
        assert 0 <= 150 * 150 - np.sum(found['confusion']) < 100
        assert 0 <= found['miou'] <= found['f1'] <= 1
    assert (tmp_path / 'encoders' / 'made' / 'scene-0.safetensors').exists()


def test_oracle_is_the_best_label_of_each_cell(place: Place, tmp_path: Path) -> None:
    trial = Training(place, 0, 1, tmp_path)
    figures = [training.measure(trial, name)['accuracy'] for name in ('copy', 'oracle')]
    assert figures[0] < figures[1] < 1
    (found,), (truth,) = ROWS['oracle'][1](trial), place.region.truth
    assert (found >= 0).all()
    # a cell that lies inside has one class, and none covers more of it
    block = found[60:62, 70:72]
    assert len(np.unique(block)) <= 4
    agreement = [(found == truth).mean(), *((truth == c).mean() for c in range(4))]
    assert agreement[0] == max(agreement)


def test_windows_cover_a_map(place: Place, tmp_path: Path) -> None:
    """A network that looks at single pixels gives the same whatever the windows."""
    trial = Training(place, 0, 1, tmp_path)

    def brightest(image: torch.Tensor) -> torch.Tensor:
        return image

    (whole,) = trial.predict(brightest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, '_WINDOW', 40)
        patch.setattr(training, '_MARGIN', 7)
        (parts,) = trial.predict(brightest)
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(whole, place.region.images[0].argmax(0))


def test_exemplars_are_of_elsewhere(shared: Path, tmp_path: Path) -> None:
    places = list(find_places(shared / 'data', tmp_path, ['openearthmap']))
    for place in places:
        with (
            rasterio.open(place.region.imagery[0]) as image,
            rasterio.open(place.exemplars[0]) as shown,
        ):
            assert image.width == 3 * shown.width
            assert image.bounds.right == pytest.approx(shown.bounds.left)
    (place,) = find_places(shared / 'data', tmp_path, ['chesapeake_wv'])
    assert len(place.region.scenes) == 6
    used = {str(scene / 'hr.tif') for scene in place.region.scenes}
    assert not used & set(place.exemplars)


@pytest.fixture(scope='module')
def trial(tmp_path_factory: pytest.TempPathFactory) -> Training:
    folder: Path = tmp_path_factory.mktemp('made')
    make_scene(folder, seed=0, size=(160, 160))
    make_scene(folder / 'labelled', seed=1, size=(140, 140), origin=ELSEWHERE)
    region = Region('made', 'clean', (folder,), 'nlcd', 'land-cover-4')
    place = Place('made/scene', region, (), (folder / 'labelled',))
    return Training(place, 0, 1, folder / 'work')


@pytest.mark.parametrize('name', ['soft', 'sr', 'hr_sr'])
def test_row_trains_and_is_scored(name: str, trial: Training) -> None:
    found = training.measure(trial, name)
    assert np.sum(found['confusion']) == 160 * 160
    assert 0 < np.sum(found['developed']) < 160 * 160


def test_developed_is_where_nlcd_says_so(trial: Training) -> None:
    region = trial.place.region
    (labels,) = LabelRaster.open(region.label_files[0])
    codes = labels.at(Imagery([str(region.imagery[0])]).geobox)
    there = (codes >= 21) & (codes <= 24)
    found = region.score_developed([np.zeros((160, 160), np.int64)])
    assert found is not None
    expected = np.bincount(region.truth[0][there], minlength=4)
    np.testing.assert_array_equal(found[:, 0], expected)
    assert found.sum() == there.sum()


def test_rows_are_those_of_the_papers() -> None:
    rows = ['copy', 'low', 'oracle', 'agg', 'app', 'pre', 'soft', 'em', 'sr', 'hr_sr']
    assert {*rows, 'high'} <= set(ROWS)
    assert list(ROWS)[-1] == 'high'


def test_claims_are_checked() -> None:
    where = {'commit': 'abc', 'date': '', 'machine': '', 'clock': 'cpu'}
    where |= {'versions': {'torch': '2', 'torchgeo': '0'}}  # type: ignore[dict-item]
    records = [
        Record(
            {'set': 'made', 'scene': 's', 'row': row, 'seed': seed, 'steps': 5},
            {f: base + 0.01 * seed for f in training.FIGURES} | {'seconds': 1},
            where,
        )
        for row, base in (('low', 0.5), ('app', 0.6), ('agg', 0.5))
        for seed in range(3)
    ]
    release = Release.of(seed_rows(records, training.FIGURES))
    checks = training.checks(release)
    assert [text.split(': ')[0] for text in checks] == ['- yes', '- level']
    assert any(
        t.startswith('- yes: Agg + App above Low') and '+0.100' in t for t in checks
    )
    assert any(
        t.startswith('- level: Low (hard naive) above Agg, made') for t in checks
    )
    assert '5 steps of 4 crops of' in training.markdown(release) or training.BATCH != 4
