# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from torchgeo_mapsr.datasets.geo.aoi import AreaOfInterest
from torchgeo_mapsr.errors import InputError

UTM = GeoBox((300, 400), Affine(5, 0, 5.35e5, 0, -5, 4.17e6), 'EPSG:26917')

#: A field with a yard in it, a second field, and a sliver that no pixel's centre is in.
FIELDS = shapely.MultiPolygon(
    [
        shapely.Polygon(
            [
                (535105.13, 4169900.31),
                (535901.77, 4169700.19),
                (535700.41, 4169103.73),
                (535200.97, 4169000.59),
            ],
            [
                [
                    (535400, 4169500),
                    (535500, 4169500),
                    (535500, 4169400),
                    (535400, 4169400),
                ]
            ],
        ),
        shapely.box(536200, 4168700, 536600, 4168900),
        shapely.box(536800.1, 4168700, 536801.9, 4168900),
    ]
)


def frame(crs: str = 'EPSG:26917') -> geopandas.GeoDataFrame:
    fields = geopandas.GeoDataFrame(
        {'crop': ['a', 'b', 'c']}, geometry=list(FIELDS.geoms), crs='EPSG:26917'
    )
    return fields if crs == 'EPSG:26917' else fields.to_crs(crs)


def inside(geometry: shapely.Geometry, geobox: GeoBox) -> np.ndarray:
    """Every pixel's centre, by shapely."""
    rows, cols = np.indices(geobox.shape) + 0.5
    return shapely.contains_xy(geometry, *(geobox.affine * (cols, rows)))


@pytest.mark.parametrize('name', ['f.gpkg', 'f.geojson', 'f.parquet', 'f.shp', 'f.fgb'])
def test_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    fields = frame('EPSG:4326' if name == 'f.geojson' else 'EPSG:26917')
    fields.to_parquet(path) if name == 'f.parquet' else fields.to_file(path)
    on_grid = AreaOfInterest.open(path).on(UTM)
    mask = on_grid.mask(UTM)
    want = inside(FIELDS, UTM)
    # GeoJSON's degrees have seven decimals (a centimetre)
    assert (mask != want).sum() <= (3 if name == 'f.geojson' else 0)
    assert on_grid.mask(on_grid.geobox).sum() == mask.sum()


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:5070', 'EPSG:3857', 'EPSG:26918'])
def test_any_crs(tmp_path: Path, crs: str) -> None:
    """As pyproj places each pixel's centre in the polygons' CRS."""
    path = tmp_path / 'f.gpkg'
    fields = frame(crs)
    fields.to_file(path)
    area = AreaOfInterest.open(path)
    rows, cols = np.indices(UTM.shape) + 0.5
    place = Transformer.from_crs('EPSG:26917', crs, always_xy=True).transform(
        *(UTM.affine * (cols, rows))
    )
    want = shapely.contains_xy(fields.union_all(), *place)
    assert want.sum() > 10_000
    assert (area.on(UTM).mask(UTM) != want).sum() <= 2
    assert area.hectares == pytest.approx(FIELDS.area / 1e4, rel=1e-3)


def test_windows_agree_with_the_grid() -> None:
    """Edges along centres of pixels, where rounding could choose: one answer each."""
    edges = shapely.box(535102.5, 4169997.5 - 700, 535102.5 + 1000, 4169997.5)
    area = AreaOfInterest(edges, UTM.crs).on(UTM)
    whole = area.mask(UTM)
    tiles = np.zeros_like(whole)
    for top in range(0, 300, 70):
        for left in range(0, 400, 90):
            rows, cols = (
                slice(top, min(top + 70, 300)),
                slice(left, min(left + 90, 400)),
            )
            part = UTM[rows, cols]
            tiles[rows, cols] = area.mask(part)
            assert area.touches(part) or not area.mask(part).any()
    np.testing.assert_array_equal(tiles, whole)
    beyond = area.mask(UTM.pad(20))
    np.testing.assert_array_equal(beyond[20:-20, 20:-20], whole)
    assert beyond.sum() == whole.sum()
    assert not area.touches(UTM[:40, 350:])


def test_the_crop_holds_every_pixel_and_no_empty_edge() -> None:
    area = AreaOfInterest(FIELDS.geoms[0], UTM.crs).on(UTM)
    mask = area.mask(area.geobox)
    assert mask.sum() == area.mask(UTM).sum()
    # the hull of the polygon may be a pixel wider than its pixels at a sharp corner
    assert mask[1:-1].any(1).all()
    assert mask[:, 1:-1].any(0).all()
    assert mask[:2].any()
    assert mask[-2:].any()


def test_bbox() -> None:
    to_degrees = Transformer.from_crs('EPSG:26917', 'EPSG:4326', always_xy=True)
    west, south = to_degrees.transform(535200, 4168700)
    east, north = to_degrees.transform(536000, 4169500)
    degrees = AreaOfInterest.from_bbox((west, south, east, north))
    metres = AreaOfInterest.from_bbox((535200, 4168700, 536000, 4169500), 'EPSG:26917')
    assert metres.on(UTM).geobox.shape == (160, 160)
    # a parallel is not a line of the grid: the corner is within some pixels of it
    assert abs(degrees.on(UTM).geobox.shape[0] - 160) <= 3
    np.testing.assert_allclose(degrees.bounds, (west, south, east, north))
    assert degrees.hectares == pytest.approx(64, rel=0.01)


def test_an_area_as_large_as_the_world() -> None:
    """It has no outline in a UTM zone, and every pixel lies in it."""
    area = AreaOfInterest.from_bbox((-180, -90, 180, 90))
    on_grid = area.on(UTM)
    assert on_grid.geobox == UTM
    assert on_grid.mask(UTM).all()


@pytest.mark.parametrize('origin', [-77, 283])
@pytest.mark.parametrize(
    ('area_crs', 'turn'),
    [
        ('EPSG:4326', 0),
        ('EPSG:4326', 360),
        ('EPSG:4269', 0),
        ('EPSG:4269', 360),
        ('EPSG:32618', 0),
    ],
)
def test_whole_turns(origin: int, area_crs: str, turn: int) -> None:
    """Longitudes from 0° to 360° are those from −180° to 180°."""
    grid = GeoBox((90, 90), Affine(1e-3, 0, origin, 0, -1e-3, 39), 'EPSG:4326')
    plain = GeoBox((90, 90), Affine(1e-3, 0, -77, 0, -1e-3, 39), 'EPSG:4326')
    corners = [-76.98, 38.95, -76.95, 38.97]
    to_area = Transformer.from_crs('EPSG:4326', area_crs, always_xy=True)
    west, south = to_area.transform(*corners[:2])
    east, north = to_area.transform(*corners[2:])
    area = AreaOfInterest.from_bbox((west + turn, south, east + turn, north), area_crs)
    expected = AreaOfInterest.from_bbox((west, south, east, north), area_crs).on(plain)
    found = area.on(grid)
    assert found.geobox.shape == expected.geobox.shape
    np.testing.assert_array_equal(found.mask(grid), expected.mask(plain))
    assert 500 < found.mask(grid).sum() < 700


@pytest.mark.parametrize('origin', [179.95, -180.05])
def test_across_the_antimeridian(origin: float) -> None:
    """Two halves, as GeoJSON wants it, and one polygon in metres, are the same."""
    grid = GeoBox((100, 100), Affine(1e-3, 0, origin, 0, -1e-3, -17), 'EPSG:4326')
    halves = shapely.union(
        shapely.box(179.97, -17.08, 180, -17.02),
        shapely.box(-180, -17.08, -179.98, -17.02),
    )
    area = AreaOfInterest(halves, CRS('EPSG:4326'))
    row, col = np.mgrid[:100, :100]
    inside = (row >= 20) & (row < 80) & (col >= 20) & (col < 70)
    np.testing.assert_array_equal(area.on(grid).mask(grid), inside)
    metres = Transformer.from_crs('EPSG:4326', 'EPSG:32601', always_xy=True)
    corners = [(179.97, -17.08), (-179.98, -17.08), (-179.98, -17.02), (179.97, -17.02)]
    outline = shapely.Polygon([metres.transform(*corner) for corner in corners])
    found = AreaOfInterest(outline, CRS('EPSG:32601')).on(grid).mask(grid)
    # the parallels are no straight lines
    assert (found != inside).sum() < 100


def test_layers(tmp_path: Path) -> None:
    path = tmp_path / 'f.gpkg'
    frame().iloc[:1].to_file(path, layer='first')
    frame().iloc[1:].to_file(path, layer='rest')
    with pytest.raises(InputError, match=r'several layers \(first, rest\)'):
        AreaOfInterest.open(path)
    first = AreaOfInterest.open(f'{path}:first')
    assert first.geometry.area == pytest.approx(FIELDS.geoms[0].area)
    with pytest.raises(InputError, match='third'):
        AreaOfInterest.open(f'{path}:third')


def test_fingerprint_is_of_the_polygons(tmp_path: Path) -> None:
    one, two = tmp_path / 'one.gpkg', tmp_path / 'two.fgb'
    frame().to_file(one)
    frame().iloc[::-1].drop(columns='crop').to_file(two)
    prints = {AreaOfInterest.open(path).fingerprint() for path in (one, two)}
    assert len(prints) == 1
    assert AreaOfInterest(FIELDS.geoms[1], UTM.crs).fingerprint() not in prints


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='no such file'):
        AreaOfInterest.open(tmp_path / 'none.gpkg')
    points = tmp_path / 'points.geojson'
    geopandas.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=4326).to_file(points)
    with pytest.raises(InputError, match='polygons'):
        AreaOfInterest.open(points)
    text = tmp_path / 'text.gpkg'
    text.write_text('no')
    with pytest.raises(InputError, match='cannot be read'):
        AreaOfInterest.open(text)
    ring = tmp_path / 'open.geojson'
    corners = [[0, 0], [1, 0], [1, 1]]
    ring.write_text(json.dumps({'type': 'Polygon', 'coordinates': [corners]}))
    with pytest.raises(InputError, match='cannot be read'):
        AreaOfInterest.open(ring)
    bare = tmp_path / 'bare.shp'
    frame().set_crs(None, allow_override=True).to_file(bare)
    with pytest.raises(InputError, match='no coordinate reference system'):
        AreaOfInterest.open(bare)
    with pytest.raises(InputError, match='west, south, east and north'):
        AreaOfInterest.from_bbox((1, 2, 0, 3))
    with pytest.raises(InputError, match=r'across 180°: 179 -1 181 1\)'):
        AreaOfInterest.from_bbox((179, -1, -179, 1))
    with pytest.raises(InputError, match='is not a coordinate reference system'):
        AreaOfInterest.from_bbox((1, 2, 3, 4), 'EPSG:32617+5703')
    with pytest.raises(InputError, match='not in degrees'):
        AreaOfInterest.from_bbox((535200, 4168700, 536000, 4169500))
    with pytest.raises(InputError, match='outside the imagery'):
        AreaOfInterest.from_bbox((10, 50, 11, 51)).on(UTM)
    moon = CRS('+proj=longlat +R=1737400 +no_defs')
    with pytest.raises(InputError, match='nothing can be projected from'):
        AreaOfInterest(shapely.box(-80.6, 37.6, -80.5, 37.7), moon).on(UTM)


def test_a_spike_is_no_area(tmp_path: Path) -> None:
    """A repaired polygon may hold a line, which is not drawn."""
    grid = GeoBox((100, 120), Affine(1, 0, 5e5, 0, -1, 4e6), 'EPSG:32618')
    spike = shapely.Polygon([(10, 90), (10, 10), (80, 10), (80, 50.5), (110, 50.5),
                             (80, 50.5), (80, 90)])  # fmt: skip
    assert not spike.is_valid
    shape = shapely.transform(spike, lambda p: p * (1, 1) + (5e5, 4e6 - 100))
    path = tmp_path / 'spike.gpkg'
    geopandas.GeoDataFrame(geometry=[shape], crs=32618).to_file(path)
    on = AreaOfInterest.open(path).on(grid)
    assert on.mask(grid).sum() == 70 * 80
    assert on.geobox.shape == (80, 70)


def test_parts_of_a_multipolygon_that_overlap(tmp_path: Path) -> None:
    """The ground of both is theirs, as that of two polygons is."""
    parts = [shapely.box(500000, 4e6, 500040, 4000040)]
    parts += [shapely.box(500020, 4000020, 500060, 4000060)]
    path = tmp_path / 'a.gpkg'
    geopandas.GeoDataFrame(
        geometry=[shapely.MultiPolygon(parts)], crs='EPSG:26917'
    ).to_file(path)
    area = AreaOfInterest.open(path).geometry.area
    assert area == pytest.approx(shapely.union_all(parts).area) == 2800


def around(lon: float, lat: float, crs: str, half: float) -> shapely.Geometry:
    """A square in metres about a place."""
    x, y = Transformer.from_crs('EPSG:4326', crs, always_xy=True).transform(lon, lat)
    return shapely.box(x - half, y - half, x + half, y + half)


CAP = shapely.Point(0, 0).buffer(2e6, 64)
WORLD = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), 'EPSG:4326')
MERCATOR = GeoBox((400, 400), Affine(1e5, 0, -2e7, 0, -1e5, 2e7), 'EPSG:3857')
POLAR = GeoBox((120, 120), Affine(5e4, 0, -3e6, 0, -5e4, 3e6), 'EPSG:3031')


@pytest.mark.parametrize(
    ('geometry', 'crs', 'grid'),
    [
        (CAP, 'EPSG:3031', WORLD),
        (CAP, 'EPSG:3413', WORLD[:60, 180:270]),
        (CAP, 'EPSG:3413', MERCATOR),
        (CAP, 'EPSG:3031', WORLD[:60]),
        (shapely.box(-1e6, -2.9e6, 1e6, -1.5e6), 'EPSG:3031', WORLD),
        (around(180, -17, 'EPSG:3460', 5e5), 'EPSG:3460', WORLD),
        (around(180, -17, 'EPSG:3460', 5e5), 'EPSG:3460', MERCATOR),
        (
            around(180, -17, 'EPSG:3460', 5e5),
            'EPSG:3460',
            GeoBox(
                (54, 128), Affine(27e4, 0, -17367530, 0, -27e4, 7314540), 'EPSG:6933'
            ),
        ),
        (shapely.box(-180, -90, 180, 90), 'EPSG:4326', POLAR),
        (shapely.box(0, -90, 360, -75), 'EPSG:4326', POLAR),
        (shapely.box(100, -90, 200, -65), 'EPSG:4326', POLAR),
    ],
)
def test_across_180_and_round_poles(
    geometry: shapely.Geometry, crs: str, grid: GeoBox
) -> None:
    """Each pixel's centre is looked up among the polygons, in their own CRS."""
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    transformer = Transformer.from_crs(str(grid.crs), crs, always_xy=True)
    x, y = transformer.transform(*grid.pix2wld(col, row))
    turns = (-360, 0, 360) if crs == 'EPSG:4326' else (0,)
    inside = np.any([shapely.contains_xy(geometry, x + n, y) for n in turns], axis=0)
    area = AreaOfInterest(geometry, CRS(crs))
    if not inside.any():
        with pytest.raises(InputError, match='lies outside'):
            area.on(grid)
        return
    on_grid = area.on(grid)
    np.testing.assert_array_equal(on_grid.mask(grid), inside)
    assert on_grid.mask(on_grid.geobox).sum() == inside.sum()
    for left in range(0, grid.width, 50):
        for top in range(0, grid.height, 50):
            window = grid[top : top + 50, left : left + 50]
            part = inside[top : top + 50, left : left + 50]
            found = on_grid.mask(window)[: part.shape[0], : part.shape[1]]
            np.testing.assert_array_equal(found, part)
            assert on_grid.touches(window) or not part.any()


@pytest.mark.parametrize(
    ('geometry', 'crs', 'hectares'),
    [
        (CAP, 'EPSG:3031', None),
        (CAP.difference(shapely.Point(0, 0).buffer(1e6)), 'EPSG:3413', None),
        (shapely.box(-1e6, 0, 1e6, 1e6), 'EPSG:3413', None),  # the pole on its edge
        (shapely.Point(0, 0).buffer(9e6, 64), 'EPSG:3571', 25444345733),
        (around(180, -17, 'EPSG:3460', 5e5), 'EPSG:3460', None),
        (shapely.box(780000, 8.09e6, 860000, 8.1e6), 'EPSG:32760', 79861),
        (shapely.box(19.9e6, -2e6, 20.2e6, -1.9e6), 'EPSG:3857', None),
        (shapely.box(-20.2e6, -2e6, -19.9e6, -1.9e6), 'EPSG:3857', None),
        (shapely.box(179, -17, 181, -16), 'EPSG:4314', None),
        (shapely.box(-180, -90, 180, 90), 'EPSG:4326', 51006562172),
    ],
)
def test_degrees_across_180_and_round_poles(
    geometry: shapely.Geometry, crs: str, hectares: float | None
) -> None:
    """Places on the sphere are looked up in both, by the polygons' own CRS."""
    area = AreaOfInterest(geometry, CRS(crs))
    rng = np.random.default_rng(0)
    lon, lat = (
        rng.uniform(-180, 180, 20000),
        np.degrees(np.arcsin(rng.uniform(-1, 1, 20000))),
    )
    west, south, east, north = area.bounds
    near = rng.uniform((west, south), (east, north), (5000, 2))
    lon = np.append(lon, (near[:, 0] + 180) % 360 - 180)
    lat = np.append(lat, near[:, 1])
    x, y = Transformer.from_crs('EPSG:4326', crs, always_xy=True).transform(lon, lat)
    turn = {'EPSG:3857': 2 * np.pi * 6378137, 'EPSG:4314': 360}.get(crs, 0)
    inside = np.any(
        [shapely.contains_xy(geometry, x + n * turn, y) for n in (-1, 0, 1)], axis=0
    )
    found = shapely.contains_xy(area.geometry_in_degrees, lon, lat)
    assert inside.sum() > 500
    assert (found != inside).mean() < 1e-3
    held = (lat >= south) & (lat <= north)
    held &= (lon - west) % 360 <= east - west
    assert (held | ~inside).all()
    # no wider than what lies in it
    assert np.ptp((lon[inside] - west) % 360) > 0.9 * (east - west)
    assert area.geometry_in_degrees.is_valid
    assert hectares is None or area.hectares == pytest.approx(hectares, rel=1e-5)


def test_bounds_of_both_sides_of_180() -> None:
    halves = shapely.union(
        shapely.box(179, -17, 180, -16), shapely.box(-180, -17, -178, -16)
    )
    for shape in (
        halves,
        shapely.box(179, -17, 182, -16),
        shapely.box(-181, -17, -178, -16),
    ):
        area = AreaOfInterest(shape, CRS('EPSG:4326'))
        assert area.bounds == (179, -17, 182, -16)
        assert area.geometry_in_degrees.equals(halves)
