# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Rows of label super-resolution in the benchmark of trained networks."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.regions import Region
from benchmarks.training import measure
from benchmarks.training_places import ELSEWHERE, Place
from benchmarks.training_rows import ROWS, Trial
from torchgeo_mapsr.datasets import LabelRaster, make_scene


@pytest.fixture(scope='module')
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    folder: Path = tmp_path_factory.mktemp('made')
    make_scene(folder, seed=0, size=(160, 160))
    make_scene(folder / 'labelled', seed=1, size=(140, 140), origin=ELSEWHERE)
    region = Region('made', 'clean', (folder,), 'nlcd', 'land-cover-4')
    place = Place('made/scene', region, (), (folder / 'labelled',))
    return Trial(place, 0, 1, folder / 'work')


@pytest.mark.parametrize('name', ['soft', 'sr', 'hr_sr'])
def test_row_trains_and_is_scored(name: str, trial: Trial) -> None:
    found = measure(trial, name)
    assert np.sum(found['confusion']) == 160 * 160
    assert 0 < np.sum(found['developed']) < 160 * 160


def test_developed_is_where_nlcd_says_so(trial: Trial) -> None:
    region = trial.place.region
    (labels,) = LabelRaster.open(region.label_paths[0])
    codes = labels.at(region.images[0].geobox)
    there = (codes >= 21) & (codes <= 24)
    found = region.score_developed([np.zeros((160, 160), np.int64)])
    assert found is not None
    expected = np.bincount(region.truth[0][there], minlength=4)
    np.testing.assert_array_equal(found.matrix[:, 0], expected)
    assert found.matrix.sum() == there.sum()


def test_rows_are_those_of_the_issue() -> None:
    rows = ['copy', 'low', 'oracle', 'agg', 'app', 'pre', 'soft', 'em', 'sr', 'hr_sr']
    assert {*rows, 'high'} <= set(ROWS)
