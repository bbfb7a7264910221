# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import os
from collections.abc import Iterable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer
from rasterio.enums import ColorInterp
from rasterio.features import shapes
from scipy.ndimage import gaussian_filter, zoom

from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.class_maps import NO_PERCENT
from torchgeo_mapsr.mapping.cog import Layer, write_cog
from torchgeo_mapsr.mapping.polygons import polygonise
from torchgeo_mapsr.mapping.trace import ClassPolygon, polygons

from ..forked import run_forked

LEGEND = Legend.load('land-cover-4')
UTM = Affine(0.6, 0, 6e5, 0, -0.6, 3.3e6)


def landscape(height: int, width: int, sigma: float, seed: int = 0) -> np.ndarray:
    """Codes 1 to 4, patches of some pixels, and a lake of no data."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(4, height, width)).astype(np.float32)
    if sigma:
        noise = np.stack([gaussian_filter(band, sigma) for band in noise])
    codes = (noise.argmax(0) + 1).astype(np.uint8)
    codes[height // 3 : height // 2, width // 4 : width // 2] = 0
    return codes


def by_tiles(
    codes: np.ndarray, tile: int, crs: str = 'EPSG:26914'
) -> list[ClassPolygon]:
    box = GeoBox(codes.shape, UTM, crs)
    return list(polygons(lambda rows, cols: codes[rows, cols], box, 0, None, tile))


def at_once(codes: np.ndarray) -> list[tuple[int, shapely.Polygon]]:
    """GDAL's polygons of the whole raster."""
    found = shapes(codes.astype(np.int32), mask=codes > 0, connectivity=4)
    return [(int(code), shapely.geometry.shape(outline)) for outline, code in found]


def normal(found: Iterable[tuple[int, shapely.Geometry]]) -> list[tuple[int, bytes]]:
    """Codes and outlines, to the last vertex, in an order of their own."""
    return sorted((code, shapely.to_wkb(shapely.normalize(g))) for code, g in found)


@pytest.mark.parametrize('tile', [7, 16, 33, 200])
@pytest.mark.parametrize('sigma', [0, 1, 4])
def test_tiles_give_the_polygons_of_the_whole_raster(sigma: float, tile: int) -> None:
    codes = landscape(90, 110, sigma)
    found = by_tiles(codes, tile)
    assert normal((p.code, p.geometry) for p in found) == normal(at_once(codes))
    assert sum(p.pixels for p in found) == (codes > 0).sum()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1)
)
def test_any_small_raster(height: int, width: int, tile: int, seed: int) -> None:
    """Holes, spirals and corners that touch: two classes on few pixels have them all."""
    codes = np.random.default_rng(seed).integers(0, 3, (height, width), np.uint8)
    found = by_tiles(codes, tile)
    assert normal((p.code, p.geometry) for p in found) == normal(at_once(codes))


def test_a_scene_of_4096_pixels() -> None:
    """Patches of all sizes, among them one as large as the scene."""
    rng = np.random.default_rng(1)
    coarse = zoom(rng.normal(size=(4, 64, 64)).astype(np.float32), (1, 64, 64), order=1)
    codes = (coarse.argmax(0) + 1).astype(np.uint8)
    codes[rng.random(codes.shape, np.float32) < 0.001] = 4
    found = by_tiles(codes, 256)
    assert normal((p.code, p.geometry) for p in found) == normal(at_once(codes))


@pytest.mark.parametrize(
    ('crs', 'affine'),
    [
        ('EPSG:26914', Affine(30, 0, 2e5, 0, -30, 4e6)),
        ('EPSG:3857', Affine(30, 0, 1e6, 0, -30, 8e6)),
        ('EPSG:5070', Affine(21, 20, 1.6e6, 20, -21, 1.9e6)),
        ('EPSG:4326', Affine(3e-4, 0, 10, 0, -3e-4, 60)),
        ('EPSG:2264', Affine(98, 0, 1.5e6, 0, -98, 6e5)),  # feet
    ],
)
def test_areas_are_those_on_the_ellipsoid(crs: str, affine: Affine) -> None:
    codes = landscape(200, 230, 6)
    box = GeoBox(codes.shape, affine, crs)
    found = list(polygons(lambda rows, cols: codes[rows, cols], box, 0, None, 64))
    geod = Geod(ellps='GRS80' if crs not in ('EPSG:3857', 'EPSG:4326') else 'WGS84')
    assert box.crs is not None
    degrees = Transformer.from_crs(
        box.crs.proj, box.crs.proj.geodetic_crs, always_xy=True
    )

    def place(points: np.ndarray) -> np.ndarray:
        return np.stack(degrees.transform(*(affine * points.T)), axis=1)

    for polygon in found:
        outline = shapely.transform(shapely.segmentize(polygon.geometry, 1), place)
        exact = abs(geod.geometry_area_perimeter(shapely.orient_polygons(outline))[0])
        assert polygon.area == pytest.approx(exact, rel=2e-5)
    assert not np.isnan([p.area for p in found]).any()


def test_areas_at_the_edge_of_a_crs() -> None:
    """In an equal-area CRS every pixel has the same, up to where the world ends."""
    sphere = '+proj=moll +R=6371007 +type=crs'
    affine = Affine(2000, 0, -1.802e7, 0, -2000, 2e6)
    box = GeoBox((300, 310), affine, sphere)
    degrees = Transformer.from_crs(sphere, '+proj=longlat +R=6371007', always_xy=True)
    centres = np.meshgrid(np.arange(310) + 0.5, np.arange(300) + 0.5)
    there = np.isfinite(degrees.transform(*(affine * np.stack(centres)))).all(0)
    assert 0.2 < there.mean() < 0.8
    codes = np.where(there, 1 + np.indices(there.shape)[0] // 20 % 2, 0)
    found = {
        tile: list(polygons(lambda rows, cols: codes[rows, cols], box, 0, None, tile))
        for tile in (64, 100, 1024)
    }
    areas = {
        tile: sorted((p.pixels, p.area) for p in parts) for tile, parts in found.items()
    }
    for pixels, area in areas[1024]:
        assert area == pytest.approx(pixels * 4e6, rel=1e-3)
    np.testing.assert_allclose(areas[64], areas[1024])
    np.testing.assert_allclose(areas[100], areas[1024])
    # what is said to lie beyond has no area that is known
    (beyond,) = polygons(lambda rows, cols: (~there)[rows, cols] + 0, box, 0, None)
    assert np.isnan(beyond.area)


def test_polygons_of_an_area_that_is_not_known_are_kept(tmp_path: Path) -> None:
    affine = Affine(2000, 0, -1.802e7, 0, -2000, 2e6)
    box = GeoBox((300, 310), affine, 'ESRI:54009')
    assert box.crs is not None
    path, codes = tmp_path / 'map.tif', np.full(box.shape, 2, np.uint8)
    codes[150:160, 280:290] = 3
    codes[200, 280] = 4
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        width=310,
        height=300,
        count=1,
        dtype='uint8',
        nodata=0,
        crs=box.crs.to_wkt(),
        transform=box.affine,
    ) as file:
        file.write(codes, 1)
    output = tmp_path / 'map.gpkg'
    # less than ten pixels: one is left out, and what reaches beyond the world is not
    assert polygonise(path, output, LEGEND, min_area=4e7) == 2
    frame = geopandas.read_file(output, layer='map').set_index('class')
    assert np.isnan(frame.hectares[2])
    assert frame.hectares[3] == pytest.approx(100 * 400, rel=0.01)


def write_map(
    folder: Path, codes: np.ndarray, confidence: np.ndarray
) -> tuple[Path, Path]:
    box = GeoBox(codes.shape, UTM, 'EPSG:26914')
    plan = Plan(box, 448, 512, overlap=64)
    paths = folder / 'map.tif', folder / 'map_confidence.tif'
    layers = Layer.classes(LEGEND, 0), Layer.confidence()
    for path, layer, values in zip(paths, layers, (codes, confidence), strict=True):
        write_cog(path, box, layer, plan.tiles(), lambda t, v=values: v[t.rows, t.cols])
    return paths


@pytest.fixture(scope='module')
def rasters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    codes = landscape(260, 310, 3)
    confidence = np.random.default_rng(2).integers(0, 101, codes.shape, np.uint8)
    confidence[codes == 0] = NO_PERCENT
    return write_map(tmp_path_factory.mktemp('map'), codes, confidence)


@pytest.mark.parametrize('suffix', ['.gpkg', '.fgb', '.parquet'])
def test_files(tmp_path: Path, rasters: tuple[Path, Path], suffix: str) -> None:
    """The columns against the pixels under each polygon."""
    path = tmp_path / f'cover{suffix}'
    count = polygonise(rasters[0], path, LEGEND, rasters[1], tile=100)
    if suffix == '.parquet':
        frame = geopandas.read_parquet(path)
    else:
        frame = geopandas.read_file(path, layer='cover')
    assert len(frame) == count
    assert frame.crs.to_epsg() == 26914
    assert [c for c in frame.columns if c != 'geometry'] == [
        'class',
        'name',
        'hectares',
        'confidence',
    ]
    with rasterio.open(rasters[0]) as dataset, rasterio.open(rasters[1]) as sure:
        codes, confidence = dataset.read(1), sure.read(1)
    assert normal(zip(frame['class'], frame.geometry, strict=True)) == normal(
        (code, shapely.transform(g, lambda p: np.stack(UTM * p.T, axis=1)))
        for code, g in at_once(codes)
    )
    for row in frame.itertuples():
        inside = rasterio.features.geometry_mask(
            [row.geometry], codes.shape, UTM, invert=True
        )
        assert (codes[inside] == row[1]).all()
        assert row.name == LEGEND.classes[row[1] - 1].name
        assert row.confidence == pytest.approx(confidence[inside].mean())
        # a UTM zone's scale is within a thousandth
        assert row.hectares == pytest.approx(inside.sum() * 0.36e-4, rel=2e-3)
    assert list(tmp_path.iterdir()) == [path]


def test_small_polygons_are_left_out(
    tmp_path: Path, rasters: tuple[Path, Path]
) -> None:
    every, large = tmp_path / 'all.gpkg', tmp_path / 'large.gpkg'
    polygonise(rasters[0], every, LEGEND)
    polygonise(rasters[0], large, LEGEND, min_area=20)
    wide = geopandas.read_file(every, layer='all')
    wide = wide[wide.hectares >= 20e-4]
    kept = geopandas.read_file(large, layer='large')
    assert 0 < len(kept) < len(geopandas.read_file(every, layer='all'))
    assert sorted(kept.hectares) == sorted(wide.hectares)
    assert 'confidence' not in kept


def test_the_same_bytes_twice(tmp_path: Path, rasters: tuple[Path, Path]) -> None:
    for suffix in ('.gpkg', '.fgb', '.parquet'):
        paths = [tmp_path / name / f'cover{suffix}' for name in ('one', 'two')]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            polygonise(rasters[0], path, LEGEND, rasters[1])
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_mistakes_are_one_line(tmp_path: Path, rasters: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match=r'\.gpkg, \.fgb, \.parquet'):
        polygonise(rasters[0], tmp_path / 'cover.shp', LEGEND)
    other = write_map(
        tmp_path, np.ones((30, 40), np.uint8), np.ones((30, 40), np.uint8)
    )
    with pytest.raises(InputError, match='is not on the grid of'):
        polygonise(rasters[0], tmp_path / 'cover.gpkg', LEGEND, other[1])
    assert not (tmp_path / 'cover.gpkg').exists()


def test_nothing_is_left_of_a_failure(
    tmp_path: Path, rasters: tuple[Path, Path]
) -> None:
    """A map that ends too early: one error, and no file."""
    broken = tmp_path / 'broken.tif'
    with rasterio.open(rasters[0]) as dataset:
        profile = {
            **dataset.profile,
            'compress': None,
            'blockysize': 16,
            'tiled': False,
        }
        profile.pop('blockxsize')
        with rasterio.open(broken, 'w', **profile) as copy:
            copy.write(dataset.read())
    data = broken.read_bytes()
    for suffix in ('.gpkg', '.parquet'):
        broken.write_bytes(data[: len(data) // 2])
        with pytest.raises((InputError, OSError)) as error:
            polygonise(broken, tmp_path / f'cover{suffix}', LEGEND, tile=64)
        assert 'broken.tif' in str(error.value)
        assert list(tmp_path.iterdir()) == [broken]


_MEMORY = """
import sys, resource
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from torchgeo_mapsr.mapping.trace import polygons
rng = np.random.default_rng(0)
block = rng.integers(1, 5, (64, 64), np.uint8).repeat(4, 0).repeat(4, 1)
def read(rows, cols):
    # another part of the block each time, so that patches go on across the seams
    return block[rows.start % 256 :, cols.start % 256 :][:256, :256]
box = GeoBox((int(sys.argv[1]), 512), Affine(1, 0, 6e5, 0, -1, 3e6), 'EPSG:26914')
count = sum(1 for _ in polygons(read, box, 0, None, 256))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_raster() -> None:
    figures = []
    for height in (512, 4096):
        done = run_forked(_MEMORY, height)
        assert done.returncode == 0, done.stderr
        figures.append([int(word) for word in done.stdout.split()])
    (few, before), (many, after) = figures
    assert many > 6 * few
    # measured: 2 MB apart; eight times the polygons take 60 MB where they are kept
    assert after - before < 20_000


def hectares(path: Path) -> float:
    return float(geopandas.read_file(path, layer=path.stem).hectares.sum())


@pytest.mark.filterwarnings('error:invalid value')
@pytest.mark.parametrize('how', ['mask', 'nan', 'untagged', 'negative', 'alpha'])
def test_no_data_of_every_kind(tmp_path: Path, how: str) -> None:
    """Half of a map has none, as rasterio's own mask says where it can."""
    codes = landscape(40, 60, 2).astype(np.float32)
    codes[codes == 0] = 1
    valid = np.arange(60) < 30
    empty = {'nan': np.nan, 'untagged': np.nan, 'negative': -9999}.get(how, 3)
    codes[:, ~valid] = empty
    profile = {
        'driver': 'GTiff',
        'height': 40,
        'width': 60,
        'dtype': 'uint8' if how in ('mask', 'alpha') else 'float32',
        'crs': 'EPSG:26914',
        'transform': UTM,
        'count': 2 if how == 'alpha' else 1,
        'nodata': empty if how in ('nan', 'negative') else None,
        'photometric': 'minisblack',
    }
    path, output = tmp_path / 'map.tif', tmp_path / 'out.gpkg'
    shown = np.broadcast_to(np.where(valid, 255, 0), codes.shape).astype(np.uint8)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, 'w', **profile) as out,
    ):
        out.write(codes.astype(profile['dtype']), 1)
        if how == 'mask':
            out.write_mask(shown)
        if how == 'alpha':
            out.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
            out.write(shown, 2)
    if how != 'untagged':
        with rasterio.open(path) as dataset:
            np.testing.assert_array_equal(dataset.dataset_mask() > 0, shown > 0)
    polygonise(path, output, LEGEND, tile=16)
    assert hectares(output) == pytest.approx(valid.sum() * 40 * 0.36e-4, rel=2e-3)
    frame = geopandas.read_file(output, layer='out')
    assert frame.total_bounds[2] == pytest.approx(UTM.c + 30 * 0.6)


def test_confidence_that_is_masked(tmp_path: Path) -> None:
    """Pixels without a value are in no mean, whatever says so."""
    codes = np.full((20, 30), 2, np.uint8)
    percent = np.where(np.arange(30) < 10, 90, 40) * np.ones((20, 1))
    path, _ = write_map(tmp_path, codes, np.zeros_like(codes))
    for nodata, dtype in ((40, 'uint8'), (np.nan, 'float32')):
        sure = tmp_path / f'{dtype}.tif'
        with rasterio.open(path) as dataset:
            profile = {**dataset.profile, 'dtype': dtype, 'nodata': nodata}
        with rasterio.open(sure, 'w', **profile) as out:
            out.write(np.where(percent == 40, nodata, percent).astype(dtype), 1)
        output = tmp_path / f'{dtype}.fgb'
        polygonise(path, output, LEGEND, sure)
        assert geopandas.read_file(output).confidence.tolist() == [90]


def test_no_file_stays_open(tmp_path: Path, rasters: tuple[Path, Path]) -> None:
    """The map may get another name at once, also where open files keep theirs."""
    files = Path('/proc/self/fd')
    if not files.exists():
        pytest.skip('needs /proc')
    copies = [tmp_path / path.name for path in rasters]
    for path, copy in zip(rasters, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    polygonise(copies[0], tmp_path / 'cover.gpkg', LEGEND, copies[1])
    opened = {os.path.realpath(link) for link in files.iterdir()}
    assert not opened & {str(path.resolve()) for path in copies}


@pytest.mark.parametrize(
    ('crs', 'affine'),
    [
        ('EPSG:32760', Affine(5, 0, 818982, 0, -5, 8095975)),
        ('EPSG:4326', Affine(5e-5, 0, 179.999, 0, -5e-5, -17)),
        ('EPSG:4326', Affine(5e-5, 0, 262, 0, -5e-5, 30)),
    ],
)
def test_web_tiles_across_the_antimeridian(
    tmp_path: Path, crs: str, affine: Affine
) -> None:
    """What GDAL reads back lies where the pixels do, and is as large."""
    codes = landscape(60, 80, 4)
    path, tiles = tmp_path / 'map.tif', tmp_path / 'web.pmtiles'
    profile = {'driver': 'GTiff', 'count': 1, 'dtype': 'uint8', 'nodata': 0}
    with rasterio.open(
        path, 'w', height=60, width=80, crs=crs, transform=affine, **profile
    ) as out:
        out.write(codes, 1)
    count = polygonise(path, tiles, LEGEND)
    frame = geopandas.read_file(tiles).to_crs(4326)
    assert count == len(at_once(codes))
    assert set(frame['class']) == set(np.unique(codes[codes > 0]))
    row, col = np.nonzero(codes)
    to_degrees = Transformer.from_crs(crs, 'EPSG:4326', always_xy=True)
    lon, lat = to_degrees.transform(*(affine * (col + 0.5, row + 0.5)))
    lon = (np.asarray(lon) + 180) % 360 - 180
    assert frame.total_bounds[1] == pytest.approx(lat.min(), abs=1e-3)
    assert frame.total_bounds[3] == pytest.approx(lat.max(), abs=1e-3)
    for code, group in frame.groupby('class'):
        here = codes[row, col] == code
        inside = shapely.contains_xy(group.union_all(), lon, lat)
        # tiles round outlines to parts of a pixel
        assert (inside == here).mean() > 0.97
    if lon.min() < -179:
        assert not ((frame.bounds.minx < 0) & (frame.bounds.maxx > 0)).any()


def test_web_tiles_that_cannot_be(tmp_path: Path, rasters: tuple[Path, Path]) -> None:
    tiles, others = tmp_path / 'web.pmtiles', tmp_path / 'web.gpkg'
    with pytest.raises(InputError, match='no polygon to write'):
        polygonise(rasters[0], tiles, LEGEND, min_area=1e9)
    assert polygonise(rasters[0], others, LEGEND, min_area=1e9) == 0
    pole = tmp_path / 'pole.tif'
    with rasterio.open(rasters[0]) as dataset:
        profile = dataset.profile | {'crs': 'EPSG:3031'}
        profile['transform'] = Affine(1, 0, -155, 0, -1, 130)
        with rasterio.open(pole, 'w', **profile) as out:
            out.write(dataset.read())
    with pytest.raises(InputError, match='do not reach the poles'):
        polygonise(pole, tiles, LEGEND)
    # beyond the poles of a cylinder, beside an oval Earth, further than once round; a pole
    # that is not in the middle
    for crs, affine in (
        ('EPSG:6933', Affine(1e5, 0, -173e5, 0, -1e5, 74e5)),
        ('ESRI:54009', Affine(18e4, 0, -18e6, 0, -18e4, 9e6)),
        ('EPSG:4326', Affine(1.8, 0, -180.9, 0, -1.8, 80)),
        ('EPSG:3413', Affine(1e4, 0, -5e5, 0, -1e4, 1e6)),
    ):
        profile = {'driver': 'GTiff', 'count': 1, 'dtype': 'uint8', 'crs': crs}
        size = {'height': 150, 'width': 300, 'transform': affine}
        with rasterio.open(pole, 'w', **profile, **size) as out:
            out.write(np.ones((150, 300), np.uint8), 1)
        with pytest.raises(InputError, match=r'poles|beyond the Earth'):
            polygonise(pole, tiles, LEGEND)
    assert not tiles.exists()


@pytest.mark.parametrize('suffix', ['.gpkg', '.parquet'])
def test_units_are_kept(tmp_path: Path, suffix: str) -> None:
    """Of WKT 2 GDAL takes UTM in kilometres for UTM."""
    path, map_path = tmp_path / f'a{suffix}', tmp_path / 'map.tif'
    profile = {'driver': 'GTiff', 'count': 1, 'dtype': 'uint8', 'height': 9, 'width': 9}
    profile['crs'] = '+proj=utm +zone=18 +datum=WGS84 +units=km'
    affine = Affine(0.01, 0, 500, 0, -0.01, 4000)
    with rasterio.open(map_path, 'w', transform=affine, **profile) as dataset:
        dataset.write(np.ones((1, 9, 9), np.uint8))
    assert polygonise(map_path, path, LEGEND)
    read = geopandas.read_parquet if suffix == '.parquet' else geopandas.read_file
    found = read(path)
    assert found.crs.axis_info[0].unit_conversion_factor == 1000
    assert found.to_crs(32618).total_bounds == pytest.approx(
        [500_000, 3_999_910, 500_090, 4_000_000], abs=1e-3
    )
    with pytest.raises(InputError, match=r'as EPSG:32618, which counts in another'):
        polygonise(map_path, tmp_path / 'a.fgb', LEGEND)
    assert not (tmp_path / 'a.fgb').exists()


def test_web_tiles_of_the_whole_earth_about_the_pacific(tmp_path: Path) -> None:
    """Both edges of the map are one meridian."""
    path, tiles = tmp_path / 'map.tif', tmp_path / 'web.pmtiles'
    side = 2 * np.pi * 6378137
    affine = Affine(side / 64, 0, -side / 2, 0, -side / 64, side / 2)
    profile = {'driver': 'GTiff', 'count': 1, 'dtype': 'uint8', 'crs': 'EPSG:3832'}
    codes = np.ones((64, 64), np.uint8)
    codes[:, :32] = 2
    with rasterio.open(
        path, 'w', height=64, width=64, transform=affine, **profile
    ) as out:
        out.write(codes, 1)
    polygonise(path, tiles, LEGEND)
    frame = geopandas.read_file(tiles).to_crs(4326).dissolve('class')
    lon = np.arange(-174.0, 180, 10)
    for code in (1, 2):
        # the left half is from -30 to 150 degrees
        inside = shapely.contains_xy(frame.geometry[code], lon, np.zeros(len(lon)))
        np.testing.assert_array_equal(
            inside, ((lon > -30) & (lon < 150)) == (code == 2)
        )


@pytest.mark.parametrize(
    'name',
    [
        'layer_styles',
        'Layer_Styles',
        'sqlite_a',
        'ogr_empty_table',
        'gpkg_a',
        '%a',
        '-a',
    ],
)
def test_names_of_layers_that_are_taken(
    tmp_path: Path, rasters: tuple[Path, Path], name: str
) -> None:
    path = tmp_path / f'{name}.gpkg'
    count = polygonise(rasters[0], path, LEGEND)
    assert len(geopandas.read_file(path, layer=f'polygons_{name}')) == count
    styles = geopandas.read_file(path, layer='layer_styles')
    assert styles['f_table_name'].tolist() == [f'polygons_{name}']
