# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import os
from pathlib import Path
from zipfile import ZipFile

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine

from torchgeo_mapsr.main import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A float map whose empty half is NaN, with its classes in its tags."""
    path = tmp_path / 'map.tif'
    codes = np.full((20, 30), 2, np.float32)
    codes[:, 15:] = np.nan
    profile = {'driver': 'GTiff', 'count': 1, 'dtype': 'float32', 'nodata': np.nan}
    profile |= {'crs': 'EPSG:26914', 'transform': Affine(10, 0, 6e5, 0, -10, 3.3e6)}
    with rasterio.open(path, 'w', height=20, width=30, **profile) as out:
        out.write(codes, 1)
        out.update_tags(LEGEND='land-cover-4', CLASSES='{"2": "Forest"}')
    return path


def hectares(path: Path) -> float:
    return float(geopandas.read_file(path, layer=path.stem).hectares.sum())


def test_a_float_map_and_its_archive(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / 'map.zip'
    with ZipFile(archive, 'w') as file:
        file.write(path, 'map.tif')
    output = tmp_path / 'out.gpkg'
    inner = f'/vsizip/{archive}/map.tif'
    for given in (path, archive, inner, os.path.relpath(path)):
        command = ['export', str(given), '--polygons', str(output), '--overwrite']
        assert main(command) == 0
        assert hectares(output) == pytest.approx(300 * 0.01, rel=2e-3)


def test_what_cannot_be_written_beside(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, both = tmp_path / 'map.zip', tmp_path / 'both.zip'
    with ZipFile(archive, 'w') as file:
        file.write(path, 'map.tif')
    with ZipFile(both, 'w') as file:
        file.write(path, 'a.tif')
        file.write(path, 'b.tif')
    for given, option, message in (
        (archive, '--style', 'is no file on this machine'),
        (archive, '--stac-item', 'is no file on this machine'),
        (both, '--style', 'holds 2 maps; name one'),
    ):
        assert main(['export', str(given), option]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


@pytest.mark.parametrize(
    'address',
    ['https://example.invalid/a.tif', '/vsicurl/https://example.invalid/a.tif'],
)
def test_addresses_stay_as_they_are(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv('TORCHGEO_MAPSR_OFFLINE', '1')
    assert main(['export', address, '--polygons', str(tmp_path / 'a.gpkg')]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{address} needs the network, which is forbidden' in line


def test_a_map_without_a_legend(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / 'plain.tif'
    with (
        rasterio.open(path) as dataset,
        rasterio.open(plain, 'w', **dataset.profile) as out,
    ):
        out.write(dataset.read())
    assert main(['export', str(plain), '--style']) == 2
    assert 'name its legend with --legend' in capsys.readouterr().err
    assert main(['export', str(plain), '--style', '--legend', 'land-cover-4']) == 0
    assert plain.with_suffix('.qml').exists()
