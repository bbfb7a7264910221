# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.warp import transform, transform_bounds

from torchgeo_mapsr.datasets import stac
from torchgeo_mapsr.datasets.geo.aoi import AreaOfInterest
from torchgeo_mapsr.datasets.geo.assets import etag, forget
from torchgeo_mapsr.datasets.geo.degrees import narrowest_bounds, outline
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.stac import SHORTHANDS, Search, is_search, resolve
from torchgeo_mapsr.errors import InputError

from .catalogue import Catalogue, served

UTM = 'EPSG:26917'


def write(
    path: Path,
    values: np.ndarray,
    left: float = 5e5,
    resolution: float = 10,
    nodata: float | None = 0,
) -> tuple[float, float, float, float]:
    """Write a tile; returns its box in degrees."""
    count, height, width = values.shape
    transform = Affine(resolution, 0, left, 0, -resolution, 4.2e6)
    with rasterio.open(
        path,
        'w',
        driver='COG' if values.dtype == np.uint8 else 'GTiff',
        count=count,
        height=height,
        width=width,
        dtype=values.dtype,
        crs=UTM,
        transform=transform,
        nodata=nodata,
    ) as dataset:
        dataset.write(values)
        box: tuple[float, float, float, float] = transform_bounds(
            UTM, 'EPSG:4326', *dataset.bounds
        )
    return box


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalogue]:
    """Two tiles side by side, the left one of two years."""
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    forget()
    catalogue = Catalogue(tmp_path)
    rng = np.random.default_rng(0)
    with served(catalogue):
        for name, left, when in (
            ('old', 5e5, '2019-07-01T00:00:00Z'),
            ('left', 5e5, '2021-07-01T00:00:00Z'),
            ('right', 501000, '2021-06-01T00:00:00Z'),
        ):
            values = rng.integers(1, 255, (3, 100, 100), np.uint8)
            box = write(tmp_path / f'{name}.tif', values, left)
            catalogue.add(name, box, when, {'image': f'{name}.tif'})
        yield catalogue


AREA = AreaOfInterest.from_bbox((500200, 4199200, 501800, 4199900), UTM)


def search(catalogue: Catalogue, options: str = '') -> str:
    return f'stac:{catalogue.url}?collections=imagery{options}'


def test_the_newest_item_of_each_place(catalogue: Catalogue) -> None:
    files, legend = resolve(search(catalogue), AREA, None, catalogue.folder)
    assert [f.rpartition('/')[2] for f in files] == ['left#image', 'right#image']
    assert legend is None
    files, _ = resolve(search(catalogue), AREA, '2019', catalogue.folder)
    assert [f.rpartition('/')[2] for f in files] == ['old#image']


def test_readers_take_the_names(catalogue: Catalogue) -> None:
    """The pixels of the mosaic against those of the files."""
    files, _ = resolve(search(catalogue), AREA, '2021', catalogue.folder)
    imagery = Imagery(files)
    image, valid = imagery.read(imagery.geobox)
    want = np.concatenate(
        [
            rasterio.open(catalogue.folder / f'{n}.tif').read()
            for n in ('left', 'right')
        ],
        axis=2,
    )
    np.testing.assert_array_equal(image, want)
    assert valid.all()


def test_only_windows_are_read(catalogue: Catalogue) -> None:
    """Of a file of some megabytes, a corner."""
    values = np.random.default_rng(1).integers(1, 255, (3, 2000, 2000), np.uint8)
    box = write(catalogue.folder / 'big.tif', values, resolution=1)
    catalogue.add('big', box, '2022-01-01T00:00:00Z', {'image': 'big.tif'})
    files, _ = resolve(search(catalogue), AREA, '2022', catalogue.folder)
    imagery = Imagery(files)
    before = sum(size for _, size in catalogue.requests)
    image, _ = imagery.read(imagery.geobox[:50, :50])
    np.testing.assert_array_equal(image, values[:, :50, :50])
    sent = sum(size for _, size in catalogue.requests) - before
    assert 0 < sent < 0.5 * (catalogue.folder / 'big.tif').stat().st_size


def test_names_and_fingerprints_survive_another_token(catalogue: Catalogue) -> None:
    one, _ = resolve(search(catalogue), AREA, '2021', catalogue.folder)
    before = Imagery(one).fingerprint()
    catalogue.token = 'second'
    forget()
    two, _ = resolve(search(catalogue), AREA, '2021', catalogue.folder)
    assert two == one
    assert Imagery(two).fingerprint() == before
    assert not any('sig' in name for name in one)
    # another file at the same place is other work
    write(catalogue.folder / 'left.tif', np.full((3, 100, 100), 9, np.uint8))
    assert Imagery(two).fingerprint() != before


def test_a_signature_that_runs_out_is_renewed(catalogue: Catalogue) -> None:
    """In the middle of reading, with a handle open and GDAL's caches cold."""
    values = np.random.default_rng(2).integers(1, 255, (3, 1500, 1500), np.uint8)
    box = write(catalogue.folder / 'wide.tif', values, resolution=1)
    catalogue.add('wide', box, '2023-01-01T00:00:00Z', {'image': 'wide.tif'})
    files, _ = resolve(search(catalogue), AREA, '2023', catalogue.folder)
    imagery = Imagery(files)
    imagery.read(imagery.geobox[:20, :20])
    catalogue.token = 'second'
    image, _ = imagery.read(imagery.geobox[800:900, 1300:1400])
    np.testing.assert_array_equal(image, values[:, 800:900, 1300:1400])


def test_clouds(catalogue: Catalogue) -> None:
    box = tuple(catalogue.items['left']['bbox'])
    catalogue.add(
        'cloudy',
        box,
        '2022-07-01T00:00:00Z',
        {'image': 'old.tif'},
        **{'eo:cloud_cover': 80},
    )
    for options, first in (('', 'cloudy#image'), ('&cloud=30', 'left#image')):
        files, _ = resolve(search(catalogue, options), AREA, None, catalogue.folder)
        assert files[0].endswith(first)


def test_clouds_that_are_not_known(tmp_path: Path) -> None:
    """Null is no number: such an item passes, as one that says nothing does."""
    box = write(tmp_path / 'map.tif', np.ones((1, 100, 100), np.uint8))
    when = '2021-05-01T00:00:00Z'
    text = static(
        tmp_path,
        item('clear', box, when, MAP, **{'eo:cloud_cover': 3}),
        item('cloudy', box, when, MAP, **{'eo:cloud_cover': 30}),
        item('null', box, when, MAP, **{'eo:cloud_cover': None}),
        item('silent', box, when, MAP),
    )
    files, _ = resolve(f'{text}?cloud=20', AREA, None, tmp_path, stack=True)
    assert names(files) == ['clear', 'null', 'silent']


def test_a_limit_counts_items_that_pass(catalogue: Catalogue) -> None:
    box = tuple(catalogue.items['left']['bbox'])
    for month, cloud in ((8, 90), (7, 80), (6, 5), (5, 4), (4, 3)):
        when = f'2022-0{month}-01T00:00:00Z'
        values = {'eo:cloud_cover': cloud}
        catalogue.add(f'm{month}', box, when, {'image': 'old.tif'}, 'c', **values)
    for limit, want in ((1, ['m6']), (2, ['m6', 'm5']), (9, ['m6', 'm5', 'm4'])):
        text = f'stac:{catalogue.url}?collections=c&cloud=20&limit={limit}'
        files, _ = resolve(text, AREA, '2022', catalogue.folder, stack=True)
        assert names(files) == want


def resolve_far(folder: Path, made: pystac.Item) -> bool:
    """Whether a search at Greenwich finds an item."""
    area = AreaOfInterest.from_bbox((0, -16.8, 1, -16.2))
    try:
        resolve(static(folder / 'far', made.clone()), area, None, folder)
    except InputError:
        return False
    return True


FIJI = {
    'one box that goes on': shapely.box(179.5, -16.8, 180.5, -16.2),
    'from the other side': shapely.box(-180.5, -16.8, -179.5, -16.2),
    'cut (RFC 7946)': shapely.MultiPolygon(
        [shapely.box(179.5, -16.8, 180, -16.2), shapely.box(-180, -16.8, -179.5, -16.2)]
    ),
}


@pytest.mark.parametrize('shape', FIJI.values(), ids=FIJI)
def test_both_sides_of_180_degrees(
    catalogue: Catalogue, shape: shapely.Geometry
) -> None:
    """From an API and from disk; what lies the long way round is not asked for."""
    area = AreaOfInterest(shape, CRS('EPSG:4326'))
    boxes = {
        'west': (179.0, -17.0, 180.0, -16.0),
        'east': (-180.0, -17.0, -179.0, -16.0),
        'beyond': (180.2, -17.0, 181.2, -16.0),
        'far': (-60.0, -17.0, -59.0, -16.0),
    }
    when = '2021-05-01T00:00:00Z'
    for name, box in boxes.items():
        if name != 'beyond':  # the server compares numbers
            catalogue.add(name, box, when, {'image': 'a.tif'}, 'fiji')
    text = f'stac:{catalogue.url}?collections=fiji'
    files, _ = resolve(text, area, None, catalogue.folder)
    assert names(files) == ['east', 'west']
    made = [item(name, box, when, MAP) for name, box in boxes.items()]
    # not cut, and far from the area the short way round
    uncut = item('uncut', (-178.0, -17.0, 178.0, -16.0), when, MAP)
    uncut.bbox = [178.0, -17.0, -178.0, -16.0]
    assert not resolve_far(catalogue.folder, uncut)
    uncut.bbox = None
    assert resolve_far(catalogue.folder, uncut)
    files, _ = resolve(static(catalogue.folder, *made), area, None, catalogue.folder)
    assert names(files) == ['beyond', 'east', 'west']


def test_median_of_dates(catalogue: Catalogue) -> None:
    """Bands that are files of their own; clouds are bright, and no data is left out."""
    rng = np.random.default_rng(3)
    stacks = {}
    for band in ('red', 'green'):
        dates = rng.integers(200, 3000, (5, 100, 100)).astype(np.uint16)
        dates[0, :50] = 9000
        dates[1, 20:30] = 0
        dates[:, 90:, 90:] = 0
        stacks[band] = dates
    for i in range(5):
        assets = {}
        for band, dates in stacks.items():
            # from 2022 on Sentinel-2 adds 1000 to what is not no data
            stored = np.where(dates[i] > 0, dates[i] + 1000 * (i >= 3), 0)
            box = write(
                catalogue.folder / f'{band}{i}.tif', stored[None].astype(np.uint16)
            )
            assets[band] = f'{band}{i}.tif'
        catalogue.add(
            f'date{i}',
            box,
            f'2021-0{i + 1}-01T00:00:00Z',
            assets,
            'bands',
            **{
                's2:processing_baseline': '04.00' if i >= 3 else '03.01',
                'proj:epsg': 26917,
                'proj:shape': [100, 100],
                'proj:transform': [10, 0, 5e5, 0, -10, 4.2e6],
            },
        )
    text = f'stac:{catalogue.url}?collections=bands&assets=red,green&datetime=2021'
    area = AreaOfInterest.from_bbox((500000, 4199000, 501000, 4200000), UTM)
    files, _ = resolve(text, area, None, catalogue.folder / 'work')
    (path,) = files
    with rasterio.open(path) as dataset:
        found = dataset.read()
        assert dataset.crs.to_epsg() == 26917
        assert dataset.descriptions == ('red', 'green')
        row, col = dataset.index(500005, 4199995)
        found = found[:, row : row + 100, col : col + 100]
    for values, dates in zip(found, stacks.values(), strict=True):
        masked = np.ma.masked_equal(dates, 0)
        want = np.ma.median(masked, axis=0).filled(0)
        np.testing.assert_allclose(values, want, atol=0.5)
    # the same items: not made again
    before = Path(path).stat().st_mtime_ns
    again, _ = resolve(text, area, None, catalogue.folder / 'work')
    assert again == files
    assert Path(path).stat().st_mtime_ns == before


def static(folder: Path, *items: pystac.Item) -> str:
    """A catalogue of items on disk; returns its search."""
    made = pystac.Catalog('made', 'made')
    made.add_items(items)
    made.normalize_and_save(str(folder / 'made'), pystac.CatalogType.SELF_CONTAINED)
    return f'stac:{folder}/made/catalog.json'


def item(
    name: str,
    box: tuple[float, float, float, float],
    when: str | tuple[str, str],
    assets: dict[str, str],
    **properties: Any,
) -> pystac.Item:
    """An item of a time or of an interval, its footprint a box in degrees."""
    if isinstance(when, tuple):
        start, end = when
        properties = {**properties, 'start_datetime': start, 'end_datetime': end}
    made = pystac.Item(
        name,
        shapely.geometry.mapping(shapely.box(*box)),
        list(box),
        None if isinstance(when, tuple) else datetime.fromisoformat(when),
        properties,
    )
    for key, href in assets.items():
        made.add_asset(key, pystac.Asset(href, roles=['data']))
    return made


MAP = {'map': '../../map.tif'}


def names(files: Sequence[str]) -> list[str]:
    """Names of items among names of files."""
    return [Path(name.partition('#')[0]).stem for name in files]


PLACE = AreaOfInterest.from_bbox((500000, 4199000, 501000, 4200000), UTM)


def composed(text: str, area: AreaOfInterest, folder: Path) -> tuple[Any, Any]:
    """The composite of a search on the pixels of :func:`write`, and its file."""
    (path,), _ = resolve(text, area, None, folder / 'work')
    dataset = rasterio.open(path)
    row, col = dataset.index(500005, 4199995)
    return dataset.read()[:, row : row + 100, col : col + 100], dataset


@pytest.mark.parametrize(
    ('dtype', 'nodata', 'low', 'high', 'stored', 'absent'),
    [
        ('float32', -32768.0, 0.2, 5, 'float32', np.nan),
        ('float32', None, -1, 1, 'float32', np.nan),
        ('int16', -9999, -500, 500, 'int16', -9999),
        ('int16', 0, -500, 500, 'int16', 0),
        ('uint8', 255, 0, 254, 'uint8', 255),
        # 0 is a value, and none is left for no data
        ('uint8', None, 0, 255, 'float32', np.nan),
    ],
)
def test_a_median_keeps_type_and_values(
    tmp_path: Path,
    dtype: str,
    nodata: float | None,
    low: float,
    high: float,
    stored: str,
    absent: float,
) -> None:
    """Of three dates against numpy's, where each or all have no data."""
    rng = np.random.default_rng(4)
    items, bands = [], []
    for i in range(3):
        dates = rng.uniform(low, high, (2, 100, 100)).astype(dtype)
        if nodata is not None:
            dates[dates == nodata] = np.array(high, dtype)
            dates[:, 10 * i : 10 * i + 5] = nodata
            dates[:, 90:] = nodata
        for key, values in zip(('a', 'b'), dates, strict=True):
            box = write(tmp_path / f'{key}{i}.tif', values[None], nodata=nodata)
        assets = {key: str(tmp_path / f'{key}{i}.tif') for key in ('a', 'b')}
        items.append(item(f'i{i}', box, f'2021-0{i + 1}-01T00:00:00Z', assets))
        bands.append(np.where(dates == nodata, np.nan, dates.astype(float)))
    text = static(tmp_path, *items) + '?assets=a,b'
    found, file = composed(text, PLACE, tmp_path)
    assert file.dtypes == (stored, stored)
    np.testing.assert_equal(file.nodata, absent)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)
        want = np.nanmedian(bands, axis=0)
    np.testing.assert_array_equal(np.isnan(want), file_absent(found, absent))
    valid = ~np.isnan(want)
    # whole numbers are rounded; the one that means no data gives way by one
    atol = 1e-6 if dtype == 'float32' else 1.5 if nodata == 0 else 0.5
    np.testing.assert_allclose(found[valid], want[valid], atol=atol)


def file_absent(values: Any, nodata: float) -> Any:
    return np.isnan(values) if np.isnan(nodata) else values == nodata


def ground(path: Path, crs: str, affine: Affine) -> None:
    """Write what is a smooth function of the place, 80 x 120 pixels."""
    rows, cols = np.mgrid[:80, :120] + 0.5
    lon, lat = transform(crs, 'EPSG:4326', *map(np.ravel, affine * (cols, rows)))
    values = (np.mod(lon, 360) - 179) * 1e3 + np.array(lat) * 100
    profile = {'crs': crs, 'transform': affine, 'nodata': np.nan, 'dtype': 'float32'}
    size = {'count': 1, 'height': 80, 'width': 120}
    with rasterio.open(path, 'w', driver='GTiff', **size, **profile) as dataset:
        dataset.write(values.reshape(1, 80, 120).astype(np.float32))


POLE = shapely.Point(0, 0).buffer(4e5)


@pytest.mark.parametrize('proj', [True, False])
@pytest.mark.parametrize(
    ('tiles', 'shape', 'crs'),
    [
        ([('EPSG:4326', 5e-3, 179.6, -17.05), ('EPSG:4326', 5e-3, -180, -17.05)],
         shapely.box(179.8, -17.4, 180.3, -17.1),
         'EPSG:4326'),
        ([('EPSG:32760', 500, 770000, 8.12e6), ('EPSG:32701', 500, 170000, 8.12e6)],
         shapely.box(800000, 8.085e6, 850000, 8.1e6), 'EPSG:32760'),
        # two tiles side by side, and a pole
        ([('EPSG:32617', 100, 5e5, 4.2e6), ('EPSG:32617', 100, 512000, 4.2e6)],
         shapely.box(505000, 4193000, 520000, 4199000), UTM),
        ([('EPSG:3413', 10000, -6e5, 4e5)], POLE, 'EPSG:3413'),
    ],
)  # fmt: skip
def test_a_composite_is_of_the_whole_area(
    tmp_path: Path,
    tiles: Sequence[tuple[str, float, float, float]],
    shape: shapely.Geometry,
    crs: str,
    proj: bool,
) -> None:
    """Across 180°, round a pole, and beyond the newest item, said to be where or not."""
    items = []
    for i, (own, pixel, left, top) in enumerate(tiles):
        affine = Affine(pixel, 0, left, 0, -pixel, top)
        ground(tmp_path / f'{i}.tif', own, affine)
        said = {'proj:epsg': int(own[5:]), 'proj:shape': [80, 120]}
        said |= {'proj:transform': list(affine[:6])}
        box = narrowest_bounds(outline(GeoBox((80, 120), affine, own)))
        assets = {key: str(tmp_path / f'{i}.tif') for key in 'ab'}
        items.append(
            item(f'i{i}', box, f'2021-0{9 - i}-01', assets, **(said if proj else {}))
        )
    area = AreaOfInterest(shape, CRS(crs))
    (path,), _ = resolve(
        static(tmp_path, *items) + '?assets=a,b', area, None, tmp_path / 'work'
    )
    imagery = Imagery(path)
    image, valid = imagery.read(imagery.geobox)
    inside = area.on(imagery.geobox).mask(imagery.geobox)
    rows, cols = np.indices(valid.shape) + 0.5
    x, y = imagery.geobox.pix2wld(cols[inside], rows[inside])
    lon, lat = transform(str(imagery.geobox.crs), 'EPSG:4326', x, y)
    want = (np.mod(lon, 360) - 179) * 1e3 + np.array(lat) * 100
    assert inside.sum() * abs(imagery.geobox.affine.determinant) == pytest.approx(
        shape.area, rel=0.02
    )
    assert valid[inside].all()
    if crs != 'EPSG:3413':  # longitudes jump there
        np.testing.assert_allclose(image[0][inside], want, atol=1.5)


def test_a_median_keeps_scales_or_says_that_it_cannot(tmp_path: Path) -> None:
    """What bands are multiplied by, and what one median cannot hold."""
    values = np.arange(1, 10001, dtype=np.uint16).reshape(1, 100, 100)
    items = []
    for i in range(2):
        for key in 'ab':
            box = write(tmp_path / f'{key}{i}.tif', values)
            with rasterio.open(tmp_path / f'{key}{i}.tif', 'r+') as dataset:
                dataset.scales, dataset.offsets = [1e-4], [-0.1]
        assets = {key: str(tmp_path / f'{key}{i}.tif') for key in 'ab'}
        items.append(item(f'i{i}', box, f'2021-0{i + 1}-01T00:00:00Z', assets))
    text = static(tmp_path, *items) + '?assets=a,b'
    _, file = composed(text, PLACE, tmp_path)
    assert (file.scales, file.offsets) == ((1e-4, 1e-4), (-0.1, -0.1))
    with rasterio.open(tmp_path / 'a1.tif', 'r+') as dataset:
        dataset.scales = [1e-3]
    with pytest.raises(InputError, match='a has another scale or offset'):
        resolve(text, PLACE, None, tmp_path / 'work')
    write(tmp_path / 'a1.tif', np.concatenate([values] * 3))
    with pytest.raises(InputError, match='has 3 bands'):
        resolve(text, PLACE, None, tmp_path / 'work')
    write(tmp_path / 'a1.tif', values.astype(np.complex64))
    with pytest.raises(InputError, match='numbers of complex64'):
        resolve(text, PLACE, None, tmp_path / 'work')


def test_static_catalogues(catalogue: Catalogue) -> None:
    """A file of a catalogue on disk, no server asked."""
    static = pystac.Catalog('static', 'made')
    for name in ('old', 'left', 'right'):
        content = json.loads(json.dumps(catalogue.items[name]))
        for asset in content['assets'].values():
            asset['href'] = str(catalogue.folder / asset['href'])
        content['links'] = []
        static.add_item(pystac.Item.from_dict(content))
    static.normalize_and_save(
        str(catalogue.folder / 'static'), pystac.CatalogType.SELF_CONTAINED
    )
    before = catalogue.requests
    text = f'stac:{catalogue.folder}/static/catalog.json?datetime=2021'
    files, _ = resolve(text, AREA, None, catalogue.folder)
    assert len(files) == 2
    assert Imagery(files).geobox.shape == (100, 200)
    assert Imagery(files).fingerprint()
    assert catalogue.requests == before


def test_items_of_an_interval(tmp_path: Path) -> None:
    """Those that overlap the time asked for, and of annual maps those of the year."""
    box = write(tmp_path / 'map.tif', np.ones((1, 100, 100), np.uint8))
    years = [
        item(f'y{y}', box, (f'{y}-01-01T00:00:00Z', f'{y + 1}-01-01T00:00:00Z'), MAP)
        for y in (2019, 2020, 2021, 2022)
    ]
    text = static(tmp_path, *years)
    for date, stack, want in (
        ('2021', False, ['y2021']),
        ('2021', True, ['y2021']),
        ('2021-06', True, ['y2021']),
        ('2020-06/2021-03', True, ['y2021', 'y2020']),
        ('../2020', True, ['y2020', 'y2019']),
        # nothing else: it ends at that instant
        ('2023', True, ['y2022']),
    ):
        files, _ = resolve(text, AREA, date, tmp_path, stack)
        assert names(files) == want, date
    with pytest.raises(InputError, match='no item'):
        resolve(text, AREA, '2024', tmp_path)


def test_a_collection_or_an_item_of_a_static_catalogue(catalogue: Catalogue) -> None:
    """By its file, or by its address."""
    folder = catalogue.folder
    (folder / 'left.tif').rename(folder / 'c.tif')
    box = tuple(catalogue.items['left']['bbox'])
    extent = pystac.Extent(
        pystac.SpatialExtent([list(box)]), pystac.TemporalExtent([[None, None]])
    )
    made = pystac.Collection('maps', 'made', extent)
    place = {'image': '../../c.tif'}
    made.add_item(item('one', box, '2021-05-01T00:00:00Z', place))
    made.normalize_and_save(str(folder / 'c'), pystac.CatalogType.SELF_CONTAINED)
    for root in (folder, f'{catalogue.url}/static'):
        for path in ('c/collection.json', 'c/one/one.json'):
            files, _ = resolve(f'stac:{root}/{path}', AREA, '2021', folder)
            assert names(files) == ['one']
            assert Imagery(files).bands == 3
            with pytest.raises(InputError, match='no item'):
                resolve(f'stac:{root}/{path}', AREA, '2020', folder)
    made.links = [pystac.Link('items', f'{catalogue.url}/maps/items')]
    made.set_root(pystac.Catalog('api', 'api', href=catalogue.url))
    made.save_object(dest_href=str(folder / 'c' / 'collection.json'))
    with pytest.raises(InputError, match=f'stac:{catalogue.url}.collections=maps'):
        resolve(f'stac:{folder}/c/collection.json', AREA, '2021', folder)


def test_files_by_an_address(tmp_path: Path) -> None:
    """file:// is a path, and of cloud storage the item says what is new."""
    folder = tmp_path / 'a b'
    folder.mkdir()
    values = np.arange(1, 10001, dtype=np.uint16).reshape(1, 100, 100)
    box = write(folder / 'map.tif', values)
    when = '2021-05-01T00:00:00Z'
    href = {'map': (folder / 'map.tif').as_uri()}
    files, _ = resolve(static(folder, item('f', box, when, href)), AREA, None, folder)
    imagery = Imagery(files)
    np.testing.assert_array_equal(imagery.read(imagery.geobox)[0], values)
    made = item('two', box, when, {**href, 'again': href['map']})
    found, _ = composed(static(folder, made) + '?assets=map,again', PLACE, folder)
    np.testing.assert_array_equal(found, np.concatenate([values, values]))
    before = imagery.fingerprint()
    write(folder / 'map.tif', values[..., ::-1])
    assert Imagery(files).fingerprint() != before
    (folder / 'map.tif').unlink()
    with pytest.raises(InputError, match='#map: cannot be reached'):
        etag(files[0])
    tags = []
    for updated in ('2021-06-01T00:00:00Z', '2021-07-01T00:00:00Z'):
        forget()
        made = item('s', box, when, {'map': 's3://bucket/map.tif'}, updated=updated)
        files, _ = resolve(static(tmp_path, made), AREA, None, tmp_path)
        tags.append(etag(files[0]))
    made.assets['map'].extra_fields['file:checksum'] = '1220ab'
    forget()
    files, _ = resolve(static(tmp_path, made), AREA, None, tmp_path)
    tags.append(etag(files[0]))
    assert len(set(tags)) == 3


@pytest.mark.parametrize(
    ('date', 'interval'),
    [
        ('2021', '2021-01-01T00:00:00Z/2021-12-31T23:59:59Z'),
        ('2024-02', '2024-02-01T00:00:00Z/2024-02-29T23:59:59Z'),
        ('2021-05-30', '2021-05-30T00:00:00Z/2021-05-30T23:59:59Z'),
        ('2021-05/2021-09', '2021-05-01T00:00:00Z/2021-09-30T23:59:59Z'),
        ('2021/..', '2021-01-01T00:00:00Z/..'),
        ('2021-05-30T12:00:00+02:00', '2021-05-30T10:00:00Z/2021-05-30T10:00:00Z'),
    ],
)
def test_dates(date: str, interval: str) -> None:
    assert Search.parse('naip', date).datetime == interval


def test_options_are_documented() -> None:
    """Each has a row in the table and stands in the docstring."""
    page = Path(__file__).parents[2] / 'docs' / 'aoi.md'
    for option in stac._OPTIONS:
        assert f'| `{option}` |' in page.read_text()
        assert f'{option}=' in str(Search.parse.__doc__)


def test_shorthands() -> None:
    assert is_search('naip')
    assert is_search('stac:https://example.org?collections=a')
    assert not is_search('naip.tif')
    search = Search.parse('sentinel-2-l2a?cloud=5&assets=B04', '2021')
    assert search.cloud == 5
    assert search.assets == ('B04',)
    assert SHORTHANDS['worldcover'].legend == 'worldcover'


@pytest.mark.parametrize(
    ('text', 'date', 'message'),
    [
        ('naip', None, '--date'),
        ('naip', '21', 'is no date'),
        ('naip', '2021-13', 'is no date'),
        ('naip', '2021-00', 'is no date'),
        ('naip', '2021-05-00', 'is no date'),
        ('naip?clouds=5', '2021', 'there are collections'),
        ('naip?cloud=few', '2021', "cannot be 'few'"),
        ('naip?cloud=nan', '2021', "cannot be 'nan'"),
        ('naip?limit=0', '2021', "limit cannot be '0'"),
        ('stac:https://example.org', '2021', 'name a collection'),
    ],
)
def test_mistakes_are_one_line(text: str, date: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Search.parse(text, date)


def test_what_is_not_there_is_one_line(catalogue: Catalogue) -> None:
    with pytest.raises(InputError, match='has no item of imagery of 2030'):
        resolve(search(catalogue), AREA, '2030', catalogue.folder)
    far = AreaOfInterest.from_bbox((10, 50, 11, 51))
    with pytest.raises(InputError, match='in the area'):
        resolve(search(catalogue), far, None, catalogue.folder)
    with pytest.raises(InputError, match='there are image'):
        resolve(search(catalogue, '&assets=nir'), AREA, None, catalogue.folder)
    with pytest.raises(InputError, match='cannot be reached'):
        resolve('stac:http://127.0.0.1:9?collections=a', AREA, None, catalogue.folder)
    (catalogue.folder / 'left.tif').unlink()
    files, _ = resolve(search(catalogue), AREA, None, catalogue.folder)
    with pytest.raises(InputError, match='left#image') as error:
        Imagery(files)
    assert 'sig' not in str(error.value)
