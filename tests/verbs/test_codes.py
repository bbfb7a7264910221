# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Codes that a legend does not have, or that a map cannot hold, are never dropped."""

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from affine import Affine

from torchgeo_mapsr.evaluation.class_maps import map_legend, without_layers
from torchgeo_mapsr.main import main


def write(path: Path, codes: np.ndarray, **tags: str) -> str:
    profile = {'driver': 'GTiff', 'count': 1, 'dtype': 'int16', 'crs': 'EPSG:26914'}
    profile |= {'nodata': 0, 'transform': Affine(10, 0, 6e5, 0, -10, 3.3e6)}
    height, width = codes.shape
    with rasterio.open(path, 'w', height=height, width=width, **profile) as out:
        out.write(codes.astype(np.int16), 1)
        out.update_tags(**tags)
    return str(path)


@pytest.mark.parametrize(
    'verb',
    [
        ['postprocess', 'MAP', '--min-area', '100', '--output', 'o.tif'],
        ['change', 'MAP', 'MAP', '--signal', 'classes', '--output', 'o.tif'],
        ['export', 'MAP', '--legend', 'land-cover-4', '--polygons', 'o.gpkg'],
        ['evaluate', 'MAP', '--labels', 'MAP', '--labels-legend', 'land-cover-4'],
    ],
)
def test_codes_that_are_not_in_the_legend(
    verb: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    codes = np.tile([[1, 2], [3, 7]], (20, 20))
    path = write(tmp_path / 'map.tif', codes)
    assert main([path if word == 'MAP' else word for word in verb]) == 2
    error = capsys.readouterr().err
    assert '[7] that are not in the legend' in error
    assert error.count('\n') == 1
    assert not list(tmp_path.glob('o.*'))


def test_codes_above_255(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / 'map.tif', np.full((20, 20), 311))
    output = tmp_path / 'o.tif'
    arguments = ['--legend', 'corine', '--min-area', '100', '--output', str(output)]
    assert main(['postprocess', path, *arguments]) == 2
    assert 'codes above 255' in capsys.readouterr().err
    assert not output.exists()


def test_a_legend_with_the_name_of_one_that_ships(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes, names = np.ones((20, 20)), '{"1": "Built", "2": "Woods"}'
    own = write(tmp_path / 'a.tif', codes, LEGEND='land-cover-4', CLASSES=names)
    part = '{"1": "Water", "2": "Forest"}'
    shipped = write(tmp_path / 'b.tif', codes, LEGEND='land-cover-4', CLASSES=part)
    assert map_legend(own).class_names == ('Built', 'Woods')
    assert len(map_legend(shipped)) == 4
    # its crosswalks are not for it, either
    legend = tmp_path / 'land-cover-4.yaml'
    legend.write_text('classes:\n- {code: 1, name: Built}\n- {code: 2, name: Woods}\n')
    arguments = ['--imagery', own, '--labels', own, '--legend', 'nlcd']
    arguments += ['--target', str(legend), '--output', str(tmp_path / 'o.tif')]
    assert main(['map', *arguments]) == 2
    error = capsys.readouterr().err
    assert 'has other classes than the legend that ships' in error
    assert error.count('\n') == 1


def test_names_with_brackets_are_no_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = np.tile([[1, 2], [3, 3]], (20, 20))
    names = '{"1": "Crops [irrigated]", "2": "Crops [rainfed]", "3": "Wood [/shrub]"}'
    path = write(tmp_path / 'map [new].tif', codes, CLASSES=names)
    output = tmp_path / 'polygons [new].gpkg'
    assert main(['evaluate', path, '--truth', path]) == 0
    assert main(['export', path, '--polygons', str(output)]) == 0
    printed = capsys.readouterr().out
    for text in ('[irrigated]', '[rainfed]', '[/shrub]', 'polygons [new].gpkg'):
        assert text in printed


def test_layers_of_a_tiff(tmp_path: Path) -> None:
    """They are .tif, whatever the map's suffix."""
    for name in ('a.tiff', 'a_confidence.tif', 'a_scores.tif', 'b_scores.tif'):
        write(tmp_path / name, np.ones((8, 8)))
    found = [Path(name).name for name in without_layers([tmp_path])]
    assert found == ['a.tiff', 'b_scores.tif']


def test_a_legend_of_256_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no code left for no data."""
    legend = tmp_path / 'all.yaml'
    rows = [f'- {{code: {n}, name: c{n}}}' for n in range(256)]
    legend.write_text('\n'.join(['classes:', *rows]))
    path = write(tmp_path / 'map.tif', np.ones((20, 20)))
    output = tmp_path / 'o.tif'
    arguments = ['--legend', str(legend), '--min-area', '100', '--output', str(output)]
    assert main(['postprocess', path, *arguments]) == 2
    assert 'has 256 classes' in capsys.readouterr().err


def test_a_layer_that_begins_like_a_geopackage_s_own(tmp_path: Path) -> None:
    path = write(tmp_path / 'map.tif', np.ones((20, 20)), LEGEND='land-cover-4')
    output = tmp_path / 'gpkg_x.gpkg'
    assert main(['export', path, '--polygons', str(output)]) == 0
    assert pyogrio.list_layers(output)[0][0] == 'polygons_gpkg_x'


def test_layers_alone_are_no_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('a.tif', 'a_confidence.tif'):
        path = write(tmp_path / name, np.ones((20, 20)))
    output = str(tmp_path / 'o.gpkg')
    assert main(['select', path, '--minority', '1', '--output', output]) == 2
    assert 'There is no class map' in capsys.readouterr().err
