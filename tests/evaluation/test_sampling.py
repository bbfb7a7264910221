# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import sqlite3
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Geod

from torchgeo_mapsr.datasets.geo.names import distinct_names
from torchgeo_mapsr.datasets.labels import LabelRaster, first_code
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.class_maps import (
    ClassMaps,
    common_legend,
    map_legend,
    without_layers,
)
from torchgeo_mapsr.evaluation.estimation import allocate
from torchgeo_mapsr.evaluation.named_classes import class_of, parse_named
from torchgeo_mapsr.evaluation.points import read_sample
from torchgeo_mapsr.evaluation.reliability import map_reliability
from torchgeo_mapsr.evaluation.sampling import (
    Strata,
    StrataSizes,
    draw_sample,
    write_sample,
)

LEGEND = Legend.load('land-cover-4')


def write(
    path: Path,
    codes: np.ndarray,
    affine: Affine,
    crs: str = 'EPSG:26917',
    nodata: int | None = 0,
) -> Path:
    profile = {'driver': 'GTiff', 'dtype': 'uint8', 'count': 1, 'nodata': nodata}
    height, width = codes.shape
    with rasterio.open(
        path, 'w', height=height, width=width, transform=affine, crs=crs, **profile
    ) as dataset:
        dataset.write(codes.astype(np.uint8), 1)
    return path


@pytest.fixture
def codes() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.choice([0, 1, 2, 4], (150, 130), p=[0.1, 0.05, 0.6, 0.25])


def grid(x: float = 5e5) -> Affine:
    return Affine(2, 0, x, 0, -2, 4e6)


def test_sizes_are_those_of_the_raster(codes: np.ndarray, tmp_path: Path) -> None:
    maps = ClassMaps([write(tmp_path / 'a.tif', codes, grid())], LEGEND)
    sizes = Strata(maps).measure()
    assert sizes.names == ('Water', 'Forest', 'Impervious')
    expected = [(codes == code).sum() for code in (1, 2, 4)]
    np.testing.assert_array_equal(sizes.pixels, expected)
    np.testing.assert_allclose(sizes.hectares, sizes.pixels * 4 / 1e4)
    np.testing.assert_allclose(maps.areas()[[0, 1, 3]] / 1e4, sizes.hectares)


def test_overlapping_maps_are_counted_once(codes: np.ndarray, tmp_path: Path) -> None:
    """Two windows of one raster that share 50 columns."""
    one = write(tmp_path / 'a.tif', codes[:, :90], grid())
    two = write(tmp_path / 'b.tif', codes[:, 40:], grid(5e5 + 80))
    pair = ClassMaps([one, two], LEGEND)
    whole = ClassMaps([write(tmp_path / 'c.tif', codes, grid())], LEGEND)
    np.testing.assert_allclose(pair.areas(), whole.areas())


def test_draw_is_a_simple_random_sample_of_each_stratum(
    codes: np.ndarray, tmp_path: Path
) -> None:
    maps = ClassMaps([write(tmp_path / 'a.tif', codes, grid())], LEGEND)
    strata = Strata(maps)
    sizes = strata.measure()
    points = allocate(200, sizes.weights, 50, sizes.pixels.tolist())
    sample = draw_sample(strata, sizes, points, seed=3)
    assert len(sample) == points.sum()
    col = ((sample.geometry.x - 5e5) // 2).to_numpy(int)
    row = ((4e6 - sample.geometry.y) // 2).to_numpy(int)
    assert len({*zip(row, col, strict=True)}) == len(sample)  # without replacement
    here = LEGEND.index(codes[row, col])
    names = np.array(LEGEND.class_names)[here]
    assert (names == sample['stratum']).all()
    for name, count, pixels in zip(sizes.names, points, sizes.pixels, strict=True):
        drawn = sample[sample['stratum'] == name]
        assert len(drawn) == count
        np.testing.assert_allclose(drawn['inclusion_probability'], count / pixels)
    again = draw_sample(strata, sizes, points, seed=3)
    assert again.geometry.equals(sample.geometry)
    other = draw_sample(strata, sizes, points, seed=4)
    assert not other.geometry.equals(sample.geometry)


def test_every_pixel_is_as_likely(tmp_path: Path) -> None:
    """χ² of 300 draws of 10 of 60 pixels."""
    codes = np.full((6, 10), 2)
    maps = ClassMaps([write(tmp_path / 'a.tif', codes, grid())], LEGEND)
    strata = Strata(maps)
    sizes = strata.measure()
    hits = np.zeros(60)
    for seed in range(300):
        sample = draw_sample(strata, sizes, np.array([10]), seed)
        col = ((sample.geometry.x - 5e5) // 2).to_numpy(int)
        row = ((4e6 - sample.geometry.y) // 2).to_numpy(int)
        np.add.at(hits, row * 10 + col, 1)
    # without replacement the sum is (1 − 10/60) of a χ² with 59 degrees of freedom
    assert ((hits - 50) ** 2 / 50).sum() / (1 - 10 / 60) < 98


def test_degrees_are_sampled_by_ground_not_by_pixels(tmp_path: Path) -> None:
    """From 0 to 80° north: half of the ground lies south of 29.5°, not of 40°."""
    codes = np.full((160, 40), 2)
    affine = Affine(0.5, 0, 0, 0, -0.5, 80)
    path = write(tmp_path / 'a.tif', codes, affine, 'EPSG:4326')
    maps = ClassMaps([path], LEGEND)
    strata = Strata(maps)
    sizes = strata.measure()
    band = [(0, 0), (20, 0), (20, 80), (0, 80)]
    dense = [
        (x, y)
        for (x0, y0), (x1, y1) in zip(band, [*band[1:], band[0]], strict=True)
        for x, y in zip(
            np.linspace(x0, x1, 400)[:-1], np.linspace(y0, y1, 400)[:-1], strict=True
        )
    ]
    lon, lat = np.transpose(dense)
    expected = abs(Geod(ellps='WGS84').polygon_area_perimeter(lon, lat)[0])
    np.testing.assert_allclose(sizes.hectares.sum() * 1e4, expected, rtol=1e-3)
    sample = draw_sample(strata, sizes, np.array([600]), 0)
    south = (sample.geometry.y < 29.5).mean()
    assert abs(south - 0.5) < 0.07


def half_and_half(folder: Path) -> ClassMaps:
    """A hectare of 100 pixels of 10 m, and one of 10 000 of 1 m."""
    coarse = write(
        folder / 'coarse.tif', np.full((10, 10), 1), Affine(10, 0, 5e5, 0, -10, 4e6)
    )
    fine = write(
        folder / 'fine.tif', np.full((100, 100), 1), Affine(1, 0, 501_000, 0, -1, 4e6)
    )
    return ClassMaps([coarse, fine], LEGEND)


def test_pixels_of_several_sizes_are_drawn_by_their_area(tmp_path: Path) -> None:
    """Half of the ground is coarse; of 150 points 40 % lay there, and not 50."""
    strata = Strata(half_and_half(tmp_path))
    sizes = strata.measure()
    assert sizes.most.tolist() == [200]
    on_coarse, chances = [], []
    for seed in range(80):
        sample = draw_sample(strata, sizes, np.array([150]), seed)
        inside = (sample.geometry.x < 500_500).to_numpy()
        on_coarse.append(inside.mean())
        chances.append(sample['inclusion_probability'][inside].iloc[0])
    np.testing.assert_allclose(chances, 150 * 0.01 / 2)
    error = np.std(on_coarse) / 80**0.5
    assert abs(np.mean(on_coarse) - 0.5) < 4 * error < 0.02


def test_no_more_points_than_the_largest_pixel_allows(tmp_path: Path) -> None:
    strata = Strata(half_and_half(tmp_path))
    sizes = strata.measure()
    points = allocate(5000, sizes.weights, 50, sizes.most.tolist())
    sample = draw_sample(strata, sizes, points)
    inside = sample.geometry.x < 500_500
    assert inside.sum() == len(sample) - inside.sum() == 100
    # all pixels where they are alike, whatever a grid of degrees does to them
    alike = write(
        tmp_path / 'a.tif', np.full((5, 5), 1), Affine(1e-3, 0, 9, 0, -1e-3, 50),
        'EPSG:4326',
    )  # fmt: skip
    strata = Strata(ClassMaps([alike], LEGEND))
    sizes = strata.measure()
    assert sizes.most.tolist() == [25]
    sample = draw_sample(strata, sizes, sizes.most)
    assert len(set(sample.geometry)) == 25
    np.testing.assert_allclose(sample['inclusion_probability'], 1, rtol=1e-3)


def test_crossed_strata(codes: np.ndarray, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    percent = np.where(codes > 0, rng.integers(30, 101, codes.shape), 255)
    path = write(tmp_path / 'a.tif', codes, grid())
    write(tmp_path / 'a_confidence.tif', percent, grid(), nodata=255)
    lr = write(
        tmp_path / 'lr.tif',
        np.array([[41, 11]]),
        Affine(130, 0, 5e5, 0, -300, 4e6),
        nodata=None,
    )
    maps = ClassMaps([path], LEGEND)
    layers = ('class', 'confidence', 'lr', 'tile')
    strata = Strata(maps, layers, LabelRaster.open(lr), Legend.load('nlcd'))
    sizes = strata.measure()
    assert sizes.pixels.sum() == (codes > 0).sum()
    left = np.arange(130) < 65
    for name, pixels in zip(sizes.names, sizes.pixels, strict=True):
        kind, band, coarse, tile = name.split(' | ')
        low, high = (int(n) for n in band.removesuffix(' %').split(' to '))
        inside = (percent >= low) & ((percent < high) | (high == 100))
        inside &= codes == LEGEND.codes[LEGEND.class_names.index(kind)]
        inside &= left if coarse == 'Evergreen forest' or 'orest' in coarse else ~left
        assert tile == 'a'
        assert pixels == inside[codes != 300].sum()


def test_geopackage_is_ready_for_qgis(codes: np.ndarray, tmp_path: Path) -> None:
    maps = ClassMaps([write(tmp_path / 'a.tif', codes, grid())], LEGEND)
    strata = Strata(maps)
    sizes = strata.measure()
    path = tmp_path / 'points.gpkg'
    write_sample(draw_sample(strata, sizes, np.array([5, 5, 5])), path, LEGEND)
    table = geopandas.read_file(path, layer='points')
    assert table.crs == 'EPSG:26917'
    assert table['reference'].isna().all()
    assert len(read_sample(path)) == 15
    with sqlite3.connect(path) as database:
        assert database.execute('PRAGMA integrity_check').fetchone() == ('ok',)
        ((style,),) = database.execute(
            "SELECT styleQML FROM layer_styles WHERE useAsDefault AND f_table_name = 'points'"
        )
        domain = database.execute(
            'SELECT value FROM gpkg_data_columns JOIN gpkg_data_column_constraints '
            "USING (constraint_name) WHERE column_name = 'reference'"
        ).fetchall()
    root = ElementTree.fromstring(style)
    form = root.find('fieldConfiguration/field[@name="reference"]/editWidget')
    assert form is not None
    assert form.get('type') == 'ValueMap'
    values = [option.get('value') for option in form.iter('Option')]
    assert [value for value in values if value] == list(LEGEND.class_names)
    assert sorted(value for (value,) in domain) == sorted(LEGEND.class_names)


def test_layers_are_left_out_of_a_glob(tmp_path: Path) -> None:
    names = ['a.tif', 'a_confidence.tif', 'a_scores.tif', 'alone_scores.tif']
    paths = [tmp_path / name for name in names]
    assert without_layers(paths) == [str(paths[0]), str(paths[3])]
    paths[0].touch()
    assert without_layers(paths[1:]) == [str(paths[3])]


def test_legend_of_a_map(codes: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / 'a.tif', codes, grid())
    assert map_legend(path).name == 'land-cover-4'
    assert map_legend(path, 'nlcd').name == 'nlcd'
    with rasterio.open(path, 'r+') as dataset:
        dataset.update_tags(LEGEND='worldcover')
    assert map_legend(path).name == 'worldcover'
    with pytest.raises(InputError, match=r'codes .* not in the legend'):
        ClassMaps([path], map_legend(path)).areas()
    others = [write(tmp_path / f'{name}.tif', codes, grid()) for name in 'bc']
    assert common_legend(others).name == 'land-cover-4'
    assert common_legend([*others, path], 'nlcd').name == 'nlcd'
    with pytest.raises(InputError, match=r"different legends \('land-.*, 'worldcover'"):
        common_legend([*others, path])


def test_names_and_codes(tmp_path: Path) -> None:
    values = ['Water', 'forest ', 4, 3.0, '', None, np.nan]
    np.testing.assert_array_equal(
        class_of(values, LEGEND, 'x'), [0, 1, 3, 2, -1, -1, -1]
    )
    with pytest.raises(InputError, match=r"x has 'swamp'.*1 Water"):
        class_of(['swamp'], LEGEND, 'x')
    assert parse_named(['Impervious=2', '1=.5'], LEGEND, '-o') == {3: 2, 0: 0.5}
    for text in ('forest', 'forest=x', 'swamp=2'):
        with pytest.raises(InputError, match=r'^-o'):
            parse_named([text], LEGEND, '-o')


def test_files_of_one_name_are_strata_of_their_own(
    codes: np.ndarray, tmp_path: Path
) -> None:
    paths = []
    for number, part in enumerate((codes[:, :90], codes[:, 90:])):
        folder = tmp_path / f's{number}'
        folder.mkdir()
        x = 5e5 + 180 * number
        paths.append(write(folder / 'a.tif', part, grid(x)))
    maps = ClassMaps(paths, LEGEND)
    sizes = Strata(maps, ('tile',)).measure()
    assert sizes.names == ('s0/a', 's1/a')
    expected = [(part > 0).sum() for part in (codes[:, :90], codes[:, 90:])]
    np.testing.assert_array_equal(sizes.pixels, expected)
    # what is given twice is there once
    assert Strata(ClassMaps([paths[0]] * 2, LEGEND), ('tile',)).measure().pixels == [
        expected[0]
    ]
    one = np.ones(2)
    with pytest.raises(InputError, match="2 strata would be called 'a'"):
        StrataSizes(np.arange(2), ('a', 'a'), one, one.astype(int), one)


def test_names_tell_maps_apart() -> None:
    assert distinct_names(['x/a.tif', 'x/b.tif']) == ['a', 'b']
    assert distinct_names(['x/y/a.tif', 'z/y/a.tif']) == ['x/y/a', 'z/y/a']
    assert distinct_names(['a.tif', 'a.img']) == ['a.tif', 'a.img']
    assert distinct_names(['/x/a.tif', '/x/a.img']) == ['a.tif', 'a.img']
    assert distinct_names(['a.tif', 'a.tif']) == ['1', '2']
    assert distinct_names([]) == []


def test_places_in_a_layer(codes: np.ndarray, tmp_path: Path) -> None:
    """By number, whatever is in the names."""
    rows = [{'code': i, 'name': f'a | {i}', 'color': '#000000'} for i in range(1, 5)]
    legend = Legend.load({'name': 'odd', 'classes': rows})
    maps = ClassMaps([write(tmp_path / 'a.tif', codes, grid())], legend)
    strata = Strata(maps, ('tile', 'class'))
    sizes = strata.measure()
    places = strata.places('class', sizes.numbers)
    assert sizes.names == tuple(f'a | {legend.class_names[i]}' for i in places)
    np.testing.assert_array_equal(places, [0, 1, 3])
    np.testing.assert_array_equal(strata.places('tile', sizes.numbers), [0, 0, 0])


def test_folders_and_archives_of_maps(codes: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / 'maps'
    folder.mkdir()
    for name, nodata in (('a', 0), ('a_confidence', 255), ('b', 0)):
        write(folder / f'{name}.tif', codes, grid(), nodata=nodata)
    with rasterio.open(folder / 'a.tif', 'r+') as dataset:
        dataset.update_tags(LEGEND='worldcover')
    with rasterio.open(folder / 'b.tif', 'r+') as dataset:
        dataset.update_tags(LEGEND='worldcover')
    archive = tmp_path / 'maps.zip'
    with ZipFile(archive, 'w') as file:
        for path in sorted(folder.iterdir()):
            file.write(path, path.name)
    for given in (folder, archive):
        assert common_legend([given]).name == 'worldcover'
        assert map_legend(given).name == 'worldcover'
        maps = ClassMaps([given], LEGEND)
        assert [Path(path).name for path in maps.paths] == ['a.tif', 'b.tif']
        assert maps.areas()[1] == (codes == 2).sum() * 4


def test_layers_of_addresses_are_left_out() -> None:
    names = ['https://a.org/m.tif', 'https://a.org/m_confidence.tif']
    assert without_layers(names) == names[:1]


def test_a_map_that_says_nothing_of_its_classes(
    codes: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / 'a.tif', codes, grid())
    with pytest.raises(InputError, match='--legend'):
        map_legend(path, default=None)
    with rasterio.open(path, 'r+') as dataset:
        dataset.update_tags(LEGEND='mine', CLASSES='{"7": "Moor"}')
    found = map_legend(path, default=None)  # without a table of colours
    assert (found.name, found.class_names, found.codes.tolist()) == (
        'mine',
        ('Moor',),
        [7],
    )
    with rasterio.open(path, 'r+') as dataset:
        dataset.update_tags(CLASSES='Moor')
    with pytest.raises(InputError, match='tag CLASSES'):
        map_legend(path)


def test_the_first_raster_with_a_code_counts(tmp_path: Path) -> None:
    """Also a code that no legend has; beside the raster, and as numpy has it."""
    rng = np.random.default_rng(0)
    one = rng.choice([0, 2, 99], (20, 30))
    two = rng.choice([0, 1, 4], (20, 30))
    rasters = [
        *LabelRaster.open(write(tmp_path / 'a.tif', one, grid())),
        *LabelRaster.open(write(tmp_path / 'b.tif', two, grid())),
    ]
    first = np.where(one > 0, one, np.where(two > 0, two, -1))
    box = rasters[0].geobox
    np.testing.assert_array_equal(first_code(rasters, box), first)
    np.testing.assert_array_equal(first_code([], box), np.full((20, 30), -1))
    # everything that is compared with labels takes this rule
    path = write(tmp_path / 'm.tif', np.full((20, 30), 2), grid())
    percent = write(tmp_path / 'p.tif', np.full((20, 30), 80), grid(), nodata=255)
    crosswalk = Crosswalk.load(LEGEND, LEGEND)
    found = map_reliability(path, percent, rasters, crosswalk, crosswalk)
    assert found.pixels.sum() == np.isin(first, LEGEND.codes).sum()
    assert found.right.sum() == (first == 2).sum()
