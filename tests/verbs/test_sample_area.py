# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""A map is sampled, its points are labelled, and the areas come out right."""

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely
from affine import Affine

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.evaluation.class_maps import ClassMaps
from torchgeo_mapsr.evaluation.named_classes import class_of
from torchgeo_mapsr.main import main

SHAPE = (400, 300)


def make_pair(folder: Path) -> tuple[Path, np.ndarray]:
    """A map with mistakes, and the truth."""
    rng = np.random.default_rng(0)
    truth = rng.choice([1, 2, 3, 4], SHAPE, p=[0.1, 0.5, 0.3, 0.1])
    mapped = np.where(rng.random(SHAPE) < 0.8, truth, rng.integers(1, 5, SHAPE))
    path = folder / 'map.tif'
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


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, np.ndarray]:
    return make_pair(tmp_path)


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


@pytest.fixture(scope='module')
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A map, and 200 points of it with their true classes; not to be written to."""
    folder = tmp_path_factory.mktemp('surveyed')
    (path, truth), labelled = make_pair(folder), folder / 'labelled.gpkg'
    points = folder / 'points.gpkg'
    assert main(['sample', str(path), '--output', str(points), '--size', '200']) == 0
    label(points, truth, labelled)
    return path, labelled


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
    assert result['points_in_one_place'] == 0
    # points that are there twice
    rows = geopandas.read_file(labelled)
    rows = pandas.concat([rows, rows[:3], rows[:1]])
    rows.to_file(labelled, layer='points', driver='GPKG')
    assert main(['area', *arguments, '--overwrite']) == 0
    assert '4 points lie where others do' in capsys.readouterr().out
    assert json.loads(figures.read_text())['points_in_one_place'] == 4


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
        ([*sample, '--overwrite', '--labels', str(path)], 'has no effect without'),
        ([*sample, '--overwrite', '--standard-error', '2'], 'between 0 and 1'),
        ([*sample, '--size', '99', '--standard-error', '0.1'], 'no effect with --size'),
        ([*sample, '--size', '99', '--expected', '0.5'], 'no effect with --size'),
        ([*sample, '--size', '99', '--labels-legend', 'nlcd'], 'without --labels'),
        ([*sample, '--overwrite', '--expected', '.6', '.9'], 'one share of all'),
        (
            [*sample, '--overwrite', '--expected', 'forest=.5', '2=.9'],
            'Forest has a number already',
        ),
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


def test_a_legend_is_not_written_over(
    pair: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    legend = tmp_path / 'own.json'
    content = json.dumps(Legend.load('land-cover-4').to_dict())
    legend.write_text(content)
    arguments = [str(pair[0]), '--output', str(tmp_path / 'p.gpkg'), '--size', '200']
    arguments += ['--legend', str(legend), '--json', str(legend), '--overwrite']
    assert main(['sample', *arguments]) == 2
    assert 'is an input' in capsys.readouterr().err
    assert legend.read_text() == content


Frame = geopandas.GeoDataFrame


def first(table: Frame, geometry: object) -> Frame:
    """The table with another geometry in its first row."""
    return table.set_geometry([geometry, *table.geometry[1:]])


def multipoints(table: Frame) -> Frame:
    return table.set_geometry([shapely.MultiPoint([p]) for p in table.geometry])


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('a.gpkg', multipoints),
        ('a.geojson', lambda table: table.to_crs(4326)),
        ('a.parquet', lambda table: table.to_crs(4326)),
        ('a.gpkg', lambda table: table.assign(reference=table.reference.astype(float))),
        ('a.gpkg', lambda table: table.assign(reference=' ' + table.reference + ' ')),
    ],
)
def test_points_as_programs_write_them(
    surveyed: tuple[Path, Path],
    tmp_path: Path,
    name: str,
    change: Callable[[Frame], Frame],
) -> None:
    path, labelled = surveyed
    table = geopandas.read_file(labelled, layer='points')
    table['reference'] = table['reference'].astype(str)
    table = change(table)
    other = tmp_path / name
    table.to_parquet(other) if name.endswith('parquet') else table.to_file(other)
    figures = []
    for file in (labelled, other):
        output = tmp_path / f'{file.name}.json'
        arguments = [str(path), '--points', str(file), '--json', str(output)]
        assert main(['area', *arguments]) == 0
        figures.append(json.loads(output.read_text()))
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t: first(t, None), 'row 1 has no point'),
        (lambda t: first(t, shapely.Point()), 'row 1 has no point'),
        (lambda t: t.set_geometry(t.buffer(1)), 'holds Polygon'),
        (lambda t: first(multipoints(t), shapely.MultiPoint([(5e5, 4e6), (5e5, 3e6)])),
         'several points'),
        (lambda t: t.set_crs(None, allow_override=True), 'ogr2ogr -a_srs'),
        (lambda t: pandas.DataFrame(t.drop(columns='geometry')), 'no geometries'),
        (lambda t: t.assign(stratum=[None, *t.stratum[1:]]), 'row 1 has no stratum'),
        (lambda t: t.assign(stratum_hectares=-1.0), 'no area'),
        (lambda t: t.assign(stratum_hectares=np.inf), 'no area'),
        (lambda t: t.assign(stratum_hectares=0.0), 'are 0'),
        (lambda t: t.assign(stratum_pixels=np.inf), 'no number of pixels'),
        (lambda t: t.assign(stratum_pixels=900.5), 'no number of pixels'),
        (lambda t: t.assign(stratum_pixels=range(900, 900 + len(t))), 'two numbers'),
        (lambda t: t.assign(stratum_hectares='much'), 'no area'),
        (lambda t: t.assign(stratum_hectares=range(1, len(t) + 1)), 'two areas'),
        (lambda t: t.assign(stratum_pixels=[None, *t.stratum_pixels[1:]]), 'pixels'),
        (lambda t: t.assign(stratum_pixels=3), 'points and 3 pixels'),
        (lambda t: t.iloc[:0], 'no point has a reference class'),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings('ignore:.crs. was not provided')
def test_points_that_cannot_be_used(
    surveyed: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Frame], pandas.DataFrame],
    message: str,
) -> None:
    path, labelled = surveyed
    table = change(geopandas.read_file(labelled, layer='points'))
    if isinstance(table, Frame):
        damaged = tmp_path / 'damaged.gpkg'
        table.to_file(damaged)
    else:
        damaged = tmp_path / 'damaged.csv'
        table.to_csv(damaged)
    capsys.readouterr()
    assert main(['area', str(path), '--points', str(damaged)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(damaged) in error
    assert error.count('\n') == 1


def test_more_points_than_asked_for_are_explained(
    pair: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = tmp_path / 'points.gpkg'
    assert main(['sample', str(pair[0]), '--output', str(points), '--size', '60']) == 0
    assert '200 points, not 60: each stratum has 50' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('size', 'width', 'code', 'told'),
    [(50, 2, 0, 'no more than 6 points'), (400, 1, 2, 'more than half of its area')],
)
def test_pixels_that_are_large_for_their_stratum(
    size: int,
    width: int,
    code: int,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One row of coarse pixels, and a hectare of fine ones."""
    paths = []
    for name, pixel, shape in (('coarse', size, (1, width)), ('fine', 1, (100, 100))):
        paths.append(str(tmp_path / f'{name}.tif'))
        affine = Affine(pixel, 0, 5e5 + 1e4 * pixel, 0, -pixel, 4e6)
        profile = {'driver': 'GTiff', 'dtype': 'uint8', 'count': 1, 'nodata': 0}
        profile |= {'height': shape[0], 'width': shape[1], 'transform': affine}
        with rasterio.open(paths[-1], 'w', crs='EPSG:26917', **profile) as dataset:
            dataset.write(np.ones((1, *shape), np.uint8))
    points = tmp_path / 'points.gpkg'
    arguments = ['sample', *paths, '--output', str(points), '--size', '90']
    assert main(arguments) == code
    output = capsys.readouterr()
    assert told in ' '.join((output.out + output.err).split())
    assert points.exists() == (code == 0)
    assert main([*arguments, '--overwrite', '--strata', 'tile', '--minimum', '2']) == 0


def test_points_beside_other_layers(
    pair: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, truth = pair
    points, labelled = tmp_path / 'points.gpkg', tmp_path / 'labelled.gpkg'
    assert main(['sample', str(path), '--output', str(points), '--size', '200']) == 0
    outline = geopandas.GeoDataFrame(
        geometry=[shapely.box(5e5, 4e6, 6e5, 5e6)], crs=26917
    )
    outline.to_file(labelled, layer='outline')
    label(points, truth, labelled)
    assert main(['area', str(path), '--points', str(labelled)]) == 0


def test_files_of_one_name_are_strata_of_their_own(
    pair: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    """The areas of two tiles of one name add up to those of the whole."""
    path, truth = pair
    tiles = []
    with rasterio.open(path) as dataset:
        mapped, profile = dataset.read(1), dataset.profile
    for name, cols in (('west', slice(0, 150)), ('east', slice(150, 300))):
        tile = tmp_path / name / 'landcover.tif'
        tile.parent.mkdir()
        place = profile['transform'] * Affine.translation(cols.start, 0)
        with rasterio.open(
            tile, 'w', **{**profile, 'width': 150, 'transform': place}
        ) as out:
            out.write(mapped[:, cols], 1)
        tiles.append(str(tile))
    points, labelled = tmp_path / 'points.gpkg', tmp_path / 'labelled.gpkg'
    plan, figures = tmp_path / 'plan.json', tmp_path / 'area.json'
    arguments = ['--strata', 'tile', '--size', '200', '--json', str(plan)]
    assert main(['sample', *tiles, '--output', str(points), *arguments]) == 0
    rows = geopandas.read_file(points, layer='points').groupby('stratum')
    assert sorted(rows.groups) == ['east/landcover', 'west/landcover']
    assert rows.stratum_hectares.nunique().tolist() == [1, 1]
    label(points, truth, labelled)
    # folders of maps as well as the files
    folders = [str(Path(tile).parent) for tile in tiles]
    arguments = ['--points', str(labelled), '--json', str(figures)]
    assert main(['area', *folders, *arguments]) == 0
    content = json.loads(figures.read_text())
    assert content['hectares'] == pytest.approx(truth.size / 100)
    areas = [item['area_hectares']['value'] for item in content['classes']]
    assert sum(areas) == pytest.approx(truth.size / 100)


def test_a_stratum_without_points_is_told(
    pair: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, truth = pair
    points, labelled = tmp_path / 'points.gpkg', tmp_path / 'labelled.gpkg'
    assert main(['sample', str(path), '--output', str(points), '--size', '200']) == 0
    label(points, truth, labelled)
    figures = tmp_path / 'area.json'
    area = ['area', str(path), '--json', str(figures), '--overwrite', '--points']
    capsys.readouterr()
    assert main([*area, str(labelled)]) == 0
    assert 'Note' not in capsys.readouterr().out
    table = geopandas.read_file(labelled, layer='points')
    table[table.stratum != 'Water'].to_file(labelled, layer='points')
    assert main([*area, str(labelled)]) == 0
    shown = capsys.readouterr().out
    with rasterio.open(path) as dataset:
        water = (dataset.read(1) == 1).sum() / 100
    whole = truth.size / 100
    assert f'have {whole - water:,.2f} ha and the maps {whole:,.2f} ha' in shown
    content = json.loads(figures.read_text())
    assert content['hectares'] == pytest.approx(whole - water)
    assert content['mapped_hectares'] == pytest.approx(whole)
    # rounded areas are those of the maps, and larger ones are not
    for factor, note in ((1.00001, False), (1.5, True)):
        other = table.assign(stratum_hectares=table.stratum_hectares * factor)
        other.to_file(labelled, layer='points')
        assert main([*area, str(labelled)]) == 0
        assert ('maps that were sampled?' in capsys.readouterr().out) == note


def test_expected_accuracy_is_of_the_class_of_the_map(
    pair: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    """Cochran's n where coarse classes and classes have the same or odd names."""
    path, _ = pair
    names = ['Water', 'Forest | Water', 'Field', 'Forest']
    classes = [{'code': i, 'name': name} for i, name in enumerate(names, 1)]
    legend = tmp_path / 'legend.json'
    legend.write_text(json.dumps({'name': 'odd', 'classes': classes}))
    with rasterio.open(path) as dataset:
        mapped, profile = dataset.read(1), dataset.profile
    coarse = np.ones_like(mapped)
    coarse[200:] = 4
    labels = tmp_path / 'lr.tif'
    with rasterio.open(labels, 'w', **profile) as out:
        out.write(coarse, 1)
    arguments = ['sample', str(path), '--legend', str(legend), '--minimum', '2']
    arguments += ['--labels', str(labels), '--labels-legend', str(legend)]
    arguments += ['--strata', 'class', 'lr', '--standard-error', '0.02', '--expected']
    for name, code in (('Water', 1), ('Forest | Water', 2)):
        plan = tmp_path / f'{code}.json'
        output = ['--output', str(tmp_path / f'{code}.gpkg'), '--json', str(plan)]
        assert main([*arguments, '0.9', f'{name}=0.5', *output]) == 0
        expected = np.where(mapped == code, 0.5, 0.9)
        variance = expected * (1 - expected)
        n = np.sqrt(variance).mean() ** 2
        n /= 0.02**2 + variance.mean() / mapped.size
        assert json.loads(plan.read_text())['points'] == np.ceil(n)


def test_names_that_pyogrio_takes_for_addresses(
    pair: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = pair
    output = tmp_path / 'a;b.gpkg'
    before = set(tmp_path.iterdir())
    assert main(['sample', str(path), '--output', str(output), '--size', '200']) == 2
    error = capsys.readouterr().err
    assert 'has a ; or !' in error
    assert error.count('\n') == 1
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize('origin', [0, 180])
def test_points_of_another_meridian(origin: int, tmp_path: Path) -> None:
    """Longitudes count from -180 in points, and from 0 or across 180 in the map."""
    path = tmp_path / 'map.tif'
    profile = {'driver': 'GTiff', 'count': 1, 'dtype': 'uint8', 'crs': 'EPSG:4326'}
    place = Affine(0.01, 0, 179.7, 0, -0.01, 10)
    codes = np.tile([[1], [2]], (30, 60)).astype(np.uint8)
    with rasterio.open(
        path, 'w', height=60, width=60, transform=place, **profile
    ) as out:
        out.write(codes, 1)
    lon = np.linspace(179.705, 180.295, 60)
    lat = 9.995 - 0.01 * np.arange(60)
    maps = ClassMaps([path], Legend.load('land-cover-4'))
    x = lon if origin == 0 else (lon + 180) % 360 - 180
    found = maps.at_points(x, lat, 'EPSG:4326')
    np.testing.assert_array_equal(found, np.tile([0, 1], 30))


def test_a_layer_of_points_is_named(
    surveyed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, labelled = surveyed
    table, both = geopandas.read_file(labelled, layer='points'), tmp_path / 'two.gpkg'
    table.to_file(both, layer='survey_2013')
    table.assign(reference=1).to_file(both, layer='survey_2019')
    capsys.readouterr()
    assert main(['area', str(path), '--points', str(both)]) == 2
    error = capsys.readouterr().err
    assert f'name one, as {both}:survey_2013' in error
    assert error.count('\n') == 1
    found = []
    for number, given in enumerate((labelled, f'{both}:survey_2013')):
        figures = tmp_path / f'{number}.json'
        arguments = ['--points', str(given), '--json', str(figures)]
        assert main(['area', str(path), *arguments]) == 0
        found.append(json.loads(figures.read_text())['classes'])
    assert found[0] == found[1]
    assert main(['area', str(path), '--points', str(both), '--confidence', '1']) == 2


def test_names_that_end_like_numbers() -> None:
    legend = Legend.load(
        {'classes': [{'code': n, 'name': f'Level {n}.0'} for n in (1, 2)]}
    )
    values = ['Level 1.0', 'level 2.0', '2.0', 1.0, 2, None]
    assert class_of(values, legend, 'x').tolist() == [0, 1, 1, 0, 1, -1]
