# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from torchgeo_mapsr.datasets import patches as module
from torchgeo_mapsr.datasets.patches import (
    class_shares,
    minority_classes,
    read_footprints,
    write_footprints,
)
from torchgeo_mapsr.errors import InputError

from .conftest import HR, UTM, Write

RNG = np.random.default_rng(0)
CODES = RNG.choice(np.array([0, 1, 2, 5], 'uint8'), (70, 100), p=[0.2, 0.5, 0.29, 0.01])


@pytest.fixture
def classes(write: Write) -> str:
    return write('map.tif', CODES, nodata=0)


def test_shares_are_those_of_rasterio(classes: str) -> None:
    table = class_shares(classes, 32)
    # 32 + 32 + 6 rows, the last patch moved back; 100 columns likewise
    assert sorted(set(table['row'])) == [0, 32, 38]
    assert sorted(set(table['col'])) == [0, 32, 64, 68]
    assert len(table) == 12
    assert table.index.is_unique
    with rasterio.open(classes) as source:
        for _, patch in table.iterrows():
            window = Window(patch['col'], patch['row'], 32, 32)
            values = source.read(1, window=window)
            for code in (1, 2, 5):
                assert patch[code] == pytest.approx((values == code).mean())
            bounds = rasterio.windows.bounds(window, source.transform)
            np.testing.assert_allclose(patch.geometry.bounds, bounds)
    assert table.crs == UTM
    assert 0 not in table.columns


def test_a_map_smaller_than_a_patch(classes: str) -> None:
    (patch,) = class_shares(classes, 128).itertuples()
    assert patch.geometry.area == 128**2


def test_maps_of_two_zones_and_one_grid(write: Write) -> None:
    far = HR @ Affine.translation(5000, 0)
    west = Affine(1, 0, 300_000, 0, -1, 4170780)
    paths = [
        write('a.tif', CODES, nodata=0),
        write('far.tif', CODES, far, nodata=0),
        write('zone.tif', CODES, west, 'EPSG:26918', nodata=0),
    ]
    table = class_shares(paths, 64)
    # nothing of the five kilometres between the first two, which are on one grid
    assert table['map'].tolist() == [p for p in paths for _ in range(4)]
    alone = class_shares(paths[::-1], 64)
    assert set(alone.index) == set(table.index)
    in_own = table.to_crs('EPSG:26918').geometry.iloc[-4]
    np.testing.assert_allclose(
        in_own.centroid.coords[0], (300_032, 4170780 - 32), atol=1e-3
    )


def test_memory_does_not_grow_with_the_map(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('big.tif', np.ones((64, 4096), 'uint8'), tiled=True)
    read = []
    original = module.LabelRaster.read

    def watch(self: object, rows: slice, cols: slice) -> object:
        read.append((rows.stop - rows.start) * (cols.stop - cols.start))
        return original(self, rows, cols)  # type: ignore[arg-type]

    monkeypatch.setattr(module.LabelRaster, 'read', watch)
    assert len(class_shares(path, 64)) == 64
    assert set(read) == {64 * 64}


def test_geopackage_round_trip(classes: str, tmp_path: Path) -> None:
    table = class_shares(classes, 32)
    path = tmp_path / 'p.gpkg'
    write_footprints(table, path)
    again = read_footprints(path).set_index('name')
    assert list(again.index) == list(table.index)
    assert again.crs == table.crs
    assert again.geometry.geom_equals_exact(table.geometry, 1e-6).all()
    np.testing.assert_allclose(again['5'], table[5])
    before = path.read_bytes()
    with pytest.raises(InputError, match='exists'):
        write_footprints(table, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.suffix == '.gpkg'] == ['p.gpkg']


def test_geoparquet(classes: str, tmp_path: Path) -> None:
    table, path = class_shares(classes, 32), tmp_path / 'p.parquet'
    write_footprints(table, path)
    found = read_footprints(path)
    write_footprints(table, tmp_path / 'p.gpkg')
    same = read_footprints(tmp_path / 'p.gpkg')
    assert found.crs == same.crs
    assert found.geometry.geom_equals_exact(same.geometry, 1e-6).all()
    assert list(found.columns) == list(same.columns)
    assert (found.drop(columns='geometry') == same.drop(columns='geometry')).all(None)


@pytest.mark.parametrize(
    ('name', 'message'),
    [('p.shp', 'neither'), ('none/p.gpkg', 'not a folder'), ('map.tif', 'neither')],
)
def test_where_nothing_can_be_written(
    classes: str, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_footprints(class_shares(classes, 32), tmp_path / name)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / 'text.gpkg').write_text('no')
    with pytest.raises(InputError, match='cannot be read'):
        read_footprints(tmp_path / 'text.gpkg')
    with pytest.raises(InputError, match='cannot be read'):
        read_footprints(tmp_path / 'none.parquet')
    empty = geopandas.GeoDataFrame({'a': []}, geometry=[], crs=UTM)
    empty.to_file(tmp_path / 'empty.gpkg')
    with pytest.raises(InputError, match='no footprints'):
        read_footprints(tmp_path / 'empty.gpkg')


def test_files_count_by_their_size(write: Write) -> None:
    """Of a large file some blocks are looked at, and each stands for several."""
    large = np.ones((512, 129 * 512), 'uint8')
    small = np.full((512, 512), 2, 'uint8')
    paths = [write('large.tif', large, compress='deflate'), write('small.tif', small)]
    assert minority_classes(paths, 1.01 / 130) == (2,)
    with pytest.raises(InputError, match='no class has less'):
        minority_classes(paths, 0.99 / 130)
