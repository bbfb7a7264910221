# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A map is sampled, its points are labelled, and the areas come out right."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine

from torchgeo_mapsr.main import main

SHAPE = (400, 300)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A map with mistakes, and the truth."""
    rng = np.random.default_rng(0)
    truth = rng.choice([1, 2, 3, 4], SHAPE, p=[0.1, 0.5, 0.3, 0.1])
    mapped = np.where(rng.random(SHAPE) < 0.8, truth, rng.integers(1, 5, SHAPE))
    path = tmp_path / 'map.tif'
    profile = {'driver': 'GTiff', 'dtype': 'uint8', 'count': 1, 'nodata': 0}
    affine = Affine(10, 0, 5e5, 0, -10, 4e6)
    with rasterio.open(
        path,
        'w',
        height=SHAPE[0],
        width=SHAPE[1],
        transform=affine,
        crs='EPSG:26917',
        **profile,
    ) as dataset:
        dataset.write(mapped.astype(np.uint8), 1)
    return path, truth


def label(
    points: Path, truth: np.ndarray, output: Path, limit: int | None = None
) -> None:
    table = geopandas.read_file(points, layer='points')
    col = ((table.geometry.x - 5e5) // 10).to_numpy(int)
    row = ((4e6 - table.geometry.y) // 10).to_numpy(int)
    table['reference'] = truth[row, col]
    if limit is not None:
        table.loc[limit:, 'reference'] = None
    table.to_file(output, layer='points', driver='GPKG')


def test_sample_and_area(
    pair: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, truth = pair
    points, labelled = tmp_path / 'points.gpkg', tmp_path / 'labelled.gpkg'
    plan, figures = tmp_path / 'plan.json', tmp_path / 'area.json'
    arguments = [str(path), '--output', str(points), '--json', str(plan)]
    assert main(['sample', *arguments, '--standard-error', '0.01']) == 0
    drawn = json.loads(plan.read_text())['points']
    # 0.8 · 0.2 / (0.01² + 0.8 · 0.2 / 120 000) is 1578.9
    assert drawn == 1579
    assert drawn == len(geopandas.read_file(points, layer='points'))
    label(points, truth, labelled)
    arguments = [str(path), '--points', str(labelled), '--json', str(figures)]
    assert main(['area', *arguments]) == 0
    assert 'Overall accuracy' in capsys.readouterr().out
    result = json.loads(figures.read_text())
    assert result['hectares'] == pytest.approx(truth.size / 100)
    with rasterio.open(path) as dataset:
        mapped = dataset.read(1)
    accuracy = result['overall_accuracy']
    assert abs(accuracy['value'] - (mapped == truth).mean()) < 0.03
    assert accuracy['standard_error'] == pytest.approx(0.0086, rel=0.1)
    for item in result['classes']:
        area = item['area_hectares']
        off = area['value'] - (truth == item['code']).sum() / 100
        assert abs(off) < 4 * area['standard_error']
    # counting pixels is off by much more
    water = result['classes'][0]
    assert water['mapped_hectares'] - (truth == 1).sum() / 100 > 20


@pytest.mark.parametrize('strata', [['tile'], ['class', 'tile']])
def test_strata_other_than_classes(
    pair: tuple[Path, np.ndarray], tmp_path: Path, strata: list[str]
) -> None:
    path, truth = pair
    points, labelled = tmp_path / 'points.gpkg', tmp_path / 'labelled.gpkg'
    arguments = [str(path), '--output', str(points), '--size', '400']
    assert main(['sample', *arguments, '--strata', *strata]) == 0
    label(points, truth, labelled)
    figures = tmp_path / 'area.json'
    arguments = [str(path), '--points', str(labelled), '--json', str(figures)]
    assert main(['area', *arguments]) == 0
    result = json.loads(figures.read_text())
    assert len(result['strata']) == (1 if strata == ['tile'] else 4)
    forest = result['classes'][1]['area_hectares']
    off = forest['value'] - (truth == 2).sum() / 100
    assert abs(off) < 4 * forest['standard_error']


def test_one_line_errors(
    pair: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, truth = pair
    points, few = tmp_path / 'points.gpkg', tmp_path / 'few.gpkg'
    sample = ['sample', str(path), '--output', str(points)]
    assert main([*sample, '--size', '200']) == 0
    label(points, truth, few, limit=1)
    area = ['area', str(path), '--points']
    capsys.readouterr()
    for arguments, message in (
        ([*sample, '--size', '200'], 'exists; name another'),
        (['sample', str(path), '--output', 'a.shp'], 'no GeoPackage'),
        (
            ['sample', str(path), '--output', str(tmp_path / 'no/a.gpkg')],
            'not a folder',
        ),
        ([*sample, '--overwrite', '--expected', 'swamp=1'], "no class 'swamp'"),
        ([*sample, '--overwrite', '--strata', 'confidence'], '_confidence.tif is not'),
        ([*sample, '--overwrite', '--strata', 'lr'], '--labels'),
        ([*sample, '--overwrite', '--standard-error', '2'], 'between 0 and 1'),
        ([*area, str(points)], 'no point has a reference class'),
        ([*area, str(few)], 'at least 2'),
        ([*area, str(few), '--reference', 'x'], "no column 'x'"),
        ([*area, str(few), '--json', str(few)], 'is an input'),
        ([*area, str(tmp_path / 'none.gpkg')], 'cannot be read'),
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error
        assert error.count('\n') == 1
