# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import hashlib
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import rasterio
import torch
from matplotlib import pyplot as plt
from torchgeo.datasets import ChesapeakeCVPR

from tests.data.chesapeake_pairs import data
from torchgeo_mapsr.datasets.chesapeake import ChesapeakePairs
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.plot import per_pixel
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import ChipSampler


@pytest.fixture(scope='module')
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('tiles')
    data.make_tiles(root)
    return root


@pytest.fixture(scope='module')
def rasters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('rasters')
    data.make_rasters(root)
    return root


class TestTiles:
    def test_all_splits(self, tiles: Path) -> None:
        dataset = ChesapeakePairs(tiles)
        assert len(dataset) == 2
        assert all(path.endswith('_naip-new.tif') for path in dataset.paths)

    def test_one_split(self, tiles: Path) -> None:
        dataset = ChesapeakePairs(tiles, ['wv-val'])
        assert len(dataset) == 1
        assert dataset.crs.to_epsg() == 26917

    def test_values(self, tiles: Path) -> None:
        dataset = ChesapeakePairs(tiles, ['wv-val'])
        sample = dataset[next(iter(ChipSampler(dataset, data.SIZE)))]
        stem = tiles / data.TILES['wv-val'][0]
        with rasterio.open(f'{stem}_naip-new.tif') as file:
            np.testing.assert_array_equal(sample['image'], file.read())
        with rasterio.open(f'{stem}_lc.tif') as file:
            cover = file.read(1)
        table = np.full(16, -1)
        table[[1, 2, 3, 4, 5, 6]] = [1, 2, 3, 4, 4, 4]
        np.testing.assert_array_equal(sample['mask'], table[cover])
        with rasterio.open(f'{stem}_nlcd.tif') as file:
            warped = file.read(1).astype(int)
        parents = per_pixel(sample['lr_label'], sample['mask_region'])
        np.testing.assert_array_equal(parents, np.where(warped == 0, -1, warped))

    def test_cells_are_the_native_ones(self, tiles: Path) -> None:
        dataset = ChesapeakePairs(tiles, ['de-train'])
        sample = dataset[next(iter(ChipSampler(dataset, data.SIZE)))]
        # about 6.4 × 6.4 cells of 30 m, in a rotated window
        assert 49 <= sample['mask_region'].unique().numel() <= 121
        (native,) = LabelRaster.open(tiles / 'native/de-train.tif')
        parents = per_pixel(sample['lr_label'], sample['mask_region'])
        expected = native.at(dataset.tiles[0])
        known = (parents >= 0) & (expected >= 0)
        assert known.mean() > 0.95
        assert np.mean(parents[known] == expected[known]) > 0.999

    def test_as_a_raster_in_its_pixels(self, tiles: Path) -> None:
        dataset = ChesapeakePairs(tiles, ['de-train'], native_cells=False)
        sample = dataset[next(iter(ChipSampler(dataset, 64)))]
        assert sample['mask_region'].unique().numel() == 64 * 64
        assert (sample['mask_region'].diff(dim=1) == 1).all()
        width = sample['lr_label'].shape[1]
        assert (sample['mask_region'].diff(dim=0) == width).all()

    def test_other_imagery_and_crosswalk(self, tiles: Path, tmp_path: Path) -> None:
        dataset = ChesapeakePairs(tiles, crosswalk='dfc2021')
        assert dataset.crosswalk == Crosswalk.load('nlcd', 'land-cover-4', 'dfc2021')
        copy = tmp_path / 'copy'
        shutil.copytree(tiles, copy)
        for path in copy.rglob('*_naip-new.tif'):
            path.rename(str(path).replace('new', 'old'))
        assert len(ChesapeakePairs(copy, layer='naip-old')) == 2

    def test_without_truth(self, tiles: Path, tmp_path: Path) -> None:
        shutil.copytree(tiles, tmp_path / 'copy')
        for path in (tmp_path / 'copy').rglob('*_lc.tif'):
            path.unlink()
        dataset = ChesapeakePairs(tmp_path / 'copy')
        assert 'mask' not in dataset[next(iter(ChipSampler(dataset, 64)))]

    def test_bad_split(self, tiles: Path) -> None:
        with pytest.raises(InputError, match="no split 'md-all'; splits are de-train"):
            ChesapeakePairs(tiles, ['md-all'])
        with pytest.raises(InputError, match="no tiles of 'md-test'"):
            ChesapeakePairs(tiles, ['md-test'])

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r'download https://lila\.science'):
            ChesapeakePairs(tmp_path)


class TestRasters:
    def test_same_sample_as_the_tiles(self, tiles: Path, rasters: Path) -> None:
        one, two = ChesapeakePairs(tiles), ChesapeakePairs(rasters)
        assert len(one) == len(two) == 2
        queries = zip(ChipSampler(one, 100), ChipSampler(two, 100), strict=True)
        for a, b in queries:
            first, second = one[a], two[b]
            torch.testing.assert_close(first['image'], second['image'])
            torch.testing.assert_close(first['mask'], second['mask'])
            torch.testing.assert_close(first['mask_region'], second['mask_region'])
            same = first['lr_label'] == second['lr_label']
            # the tiles' layer has no label for cells that have no pixel in it
            assert same[first['lr_label'] >= 0].all()

    def test_bad_folders(self, rasters: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match='which no splits'):
            ChesapeakePairs(rasters, ['wv-val'])
        (tmp_path / 'naip').mkdir()
        with pytest.raises(InputError, match="none 'nlcd'"):
            ChesapeakePairs(tmp_path)
        data.make_rasters(tmp_path, truth=False)
        assert len(ChesapeakePairs(tmp_path)) == 2
        shutil.rmtree(tmp_path / 'naip')
        (tmp_path / 'naip').mkdir()
        with pytest.raises(InputError, match='no imagery'):
            ChesapeakePairs(tmp_path)


@pytest.mark.parametrize('layout', ['tiles', 'rasters'])
def test_hidden_files_are_no_rasters(
    layout: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What macOS puts beside every file of a foreign disk."""
    given = request.getfixturevalue(layout)
    root = shutil.copytree(given, tmp_path / 'copy')
    for path in list(root.rglob('*.tif')):
        path.with_name(f'._{path.name}').write_text('no raster')
    found = [Path(path).relative_to(root) for path in ChesapeakePairs(root).paths]
    expected = [Path(path).relative_to(given) for path in ChesapeakePairs(given).paths]
    assert found == expected


def test_plot(tiles: Path) -> None:
    dataset = ChesapeakePairs(tiles)
    sample = dataset[next(iter(ChipSampler(dataset, 100)))]
    sample['prediction'] = sample['mask']
    figure = dataset.plot(sample, suptitle='Chesapeake')
    pictures = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    legend, target = dataset.legend, dataset.target
    assert legend is not None
    codes = per_pixel(sample['lr_label'], sample['mask_region'])
    np.testing.assert_array_equal(
        pictures[1][codes >= 0], legend.colors[legend.index(codes[codes >= 0])]
    )
    mask = sample['mask'].numpy()
    np.testing.assert_array_equal(
        pictures[2][mask > 0], target.colors[target.index(mask[mask > 0])]
    )
    assert (pictures[2][mask < 0] == 255).all()
    plt.close(figure)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """The archives, on this machine."""
    folder = tmp_path / 'server'
    archives = data.make_archives(folder)
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{http.server_port}', archives
        http.shutdown()


def test_torchgeo_downloads(
    server: tuple[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With download=True torchgeo fetches and unpacks the tiles."""
    url, archives = server
    urls = {key: f'{url}/{path.name}' for key, path in archives.items()}
    sums = {
        key: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for key, path in archives.items()
    }
    monkeypatch.setattr(ChesapeakeCVPR, 'urls', urls)
    monkeypatch.setattr(ChesapeakeCVPR, 'md5s', sums)
    dataset = ChesapeakePairs(tmp_path / 'data', ['wv-val'], download=True)
    assert len(dataset) == 1
    # the tiles are what torchgeo's own dataset takes them for
    theirs = ChesapeakeCVPR(tmp_path / 'data', ['wv-val'], ['naip-new', 'nlcd', 'lc'])
    assert len(theirs) == 1
