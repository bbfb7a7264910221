# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from torchgeo_mapsr.datasets.legends import catalog
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.legends.statistics import JointStatistics
from torchgeo_mapsr.errors import InputError

# Fields, open land and green places: all of levels 13 to 33 but forests, and bogs.
FIELDS_OF_CORINE = [
    131,
    132,
    133,
    141,
    142,
    211,
    212,
    213,
    221,
    222,
    223,
    231,
    241,
    242,
]
FIELDS_OF_CORINE += [243, 244, 321, 322, 323, 324, 331, 332, 333, 334, 411, 412, 421]

SHIPPED = [tuple(name.split('.')) for name in catalog.names('crosswalks')]


@pytest.mark.parametrize(('source', 'target', 'name'), SHIPPED)
def test_shipped_crosswalks_load(source: str, target: str, name: str) -> None:
    crosswalk = Crosswalk.load(source, target, name)
    assert (crosswalk.name, crosswalk.source.name) == (name, source)
    assert crosswalk.target == Legend.load(target)
    assert crosswalk.reference


@pytest.mark.parametrize(
    ('source', 'target'), sorted({(source, target) for source, target, _ in SHIPPED})
)
def test_each_pair_has_exactly_one_default(source: str, target: str) -> None:
    defaults = [
        name
        for name in Crosswalk.names(source, target)
        if catalog.read('crosswalks', f'{source}.{target}.{name}').get('default')
    ]
    assert [Crosswalk.load(source, target).name] == defaults


@pytest.mark.parametrize('source', Legend.names())
def test_every_legend_reaches_all_four_classes(source: str) -> None:
    crosswalk = Crosswalk.load(source, 'land-cover-4')
    index = crosswalk.index(crosswalk.source.codes)
    assert set(index.tolist()) - {-1} == {0, 1, 2, 3}
    # nothing is left out but ice
    left_out = np.array(crosswalk.source.class_names)[index < 0]
    assert all('now' in name for name in left_out)


# ../shared/protocols/README.md and ../shared/data/README.md
@pytest.mark.parametrize(
    ('source', 'name', 'groups'),
    [
        (
            'nlcd',
            'scenes',
            {
                1: [11],
                2: [41, 42, 43, 52, 90],
                3: [21, 31, 71, 81, 82, 95],
                4: [22, 23, 24],
            },
        ),
        (
            'nlcd',
            'ddtm',
            {
                1: [11],
                2: [41, 42, 43, 90],
                3: [31, 52, 71, 81, 82, 95],
                4: [21, 22, 23, 24],
            },
        ),
        (
            'nlcd',
            'dfc2021',
            {
                1: [11],
                2: [41, 42, 43, 52, 90, 95],
                3: [21, 71, 81, 82],
                4: [22, 23, 24, 31],
            },
        ),
        ('chesapeake-7', None, {1: [1], 2: [2], 3: [3], 4: [4, 5, 6]}),
        ('openearthmap', None, {1: [6], 2: [5], 3: [1, 2, 7], 4: [3, 4, 8]}),
        ('openearthmap', 'definitions', {1: [6], 2: [5], 3: [1, 2, 7], 4: [3, 4, 8]}),
        (
            # Level 1: what is built, fields and open land, water; of level 2, forests.
            'corine',
            'definitions',
            {
                1: [422, 423, 511, 512, 521, 522, 523],
                2: [311, 312, 313],
                3: FIELDS_OF_CORINE,
                4: [111, 112, 121, 122, 123, 124],
            },
        ),
    ],
)
def test_published_crosswalks(
    source: str, name: str | None, groups: dict[int, list[int]]
) -> None:
    crosswalk = Crosswalk.load(source, 'land-cover-4', name)
    for code, group in groups.items():
        found = crosswalk.target.codes[crosswalk.index(group)]
        np.testing.assert_array_equal(found, code)
    assert crosswalk.index(12) == -1 or source != 'nlcd'


def test_default_for_nlcd_is_the_largest_share_in_malkins_table() -> None:
    statistics = JointStatistics.load('malkin2019')
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4')
    measured = statistics.frequency > 0
    np.testing.assert_array_equal(
        crosswalk.index(statistics.source.codes[measured]),
        statistics.mean[measured].argmax(axis=1),
    )


@given(st.lists(st.integers(-3, 300)))
def test_index_and_unknown_against_a_loop(codes: list[int]) -> None:
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4')
    index, unknown = [], {}
    for code in codes:
        index.append(crosswalk.mapping.get(code, 0) - 1)
        if code not in (-1, 0) and code not in crosswalk.source.codes:
            unknown[code] = unknown.get(code, 0) + 1
    values = np.array(codes, dtype=np.int64)
    np.testing.assert_array_equal(crosswalk.index(values), index)
    assert crosswalk.unknown(values) == unknown


def test_a_class_that_is_left_out_is_ignored_and_not_unknown() -> None:
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4')
    codes = np.array([[12, 11], [13, 255]])
    np.testing.assert_array_equal(crosswalk.index(codes), [[-1, 0], [-1, -1]])
    assert crosswalk.unknown(codes) == {13: 1, 255: 1}


@pytest.mark.parametrize('name', Legend.names())
def test_equal_legends_need_no_crosswalk(name: str) -> None:
    crosswalk = Crosswalk.load(name, name)
    codes = crosswalk.source.codes
    np.testing.assert_array_equal(crosswalk.index(codes), np.arange(len(codes)))
    assert crosswalk.name == 'identity'


def test_legends_that_differ_in_colours_alone_are_equal() -> None:
    legend = Legend.load('land-cover-4')
    content = legend.to_dict() | {'name': 'own'}
    for item in content['classes']:
        item['color'] = [1, 2, 3]
    own = Legend.load(content)
    assert own != legend
    assert Crosswalk.load(own, legend).name == 'identity'
    content['classes'][0]['name'] = 'Snow'
    with pytest.raises(InputError):
        Crosswalk.load(Legend.load(content), legend)


def test_round_trip_through_a_file(tmp_path: Path) -> None:
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4', 'dfc2021')
    path = tmp_path / 'dfc.json'
    # JSON turns the codes into strings
    path.write_text(json.dumps(crosswalk.to_dict()))
    assert Crosswalk.load('nlcd', 'land-cover-4', path) == crosswalk


def test_own_legend_and_crosswalk(tmp_path: Path) -> None:
    legend = tmp_path / 'mine.yaml'
    legend.write_text('classes: [{code: 5, name: lake}, {code: 6, name: other}]')
    with pytest.raises(InputError, match=r"from legend 'mine' to 'land-cover-4'"):
        Crosswalk.load(legend, 'land-cover-4')
    path = tmp_path / 'walk.yaml'
    path.write_text('mapping: {5: 1}')
    crosswalk = Crosswalk.load(legend, 'land-cover-4', path)
    np.testing.assert_array_equal(crosswalk.index([5, 6, 7]), [0, -1, -1])
    assert crosswalk.name == 'walk'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('mapping: {13: 1}', "code 13 is not in the legend 'nlcd'"),
        ('mapping: {11: 9}', "code 9 is not in the legend 'land-cover-4'"),
        ('mapping: {11: water}', 'water'),
        ('mapping:\n  11: 1\n  41: 2\n  11: 3', 'walk.yaml: 11: is there twice'),
        ('mapping: [11]', "a 'mapping' of 'nlcd' codes"),
        ('name: nothing', "check 'mapping'"),
        ('source: worldcover\nmapping: {10: 2}', "'worldcover', not 'nlcd'"),
    ],
)
def test_mistakes_in_a_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'walk.yaml'
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Crosswalk.load('nlcd', 'land-cover-4', path)
    assert message in str(error.value)


def test_missing_names_list_what_there_is() -> None:
    with pytest.raises(
        InputError, match=r"'malkin'.* there are ddtm, definitions, dfc2021, scenes"
    ):
        Crosswalk.load('nlcd', 'land-cover-4', 'malkin')
    with pytest.raises(InputError, match=r'there are .*nlcd to land-cover-4'):
        Crosswalk.load('land-cover-4', 'nlcd')


def test_real_labels_hold_no_unknown_code(shared: Path) -> None:
    lr = Crosswalk.load('nlcd', 'land-cover-4')
    hr = Crosswalk.load('chesapeake-7', 'land-cover-4')
    found = set()
    for folder in sorted((shared / 'data' / 'chesapeake_wv').iterdir()):
        for crosswalk, name in ((lr, 'lr.tif'), (hr, 'hr.tif')):
            with rasterio.open(folder / name) as file:
                codes = file.read(1)
            assert crosswalk.unknown(codes) == {}
            found |= set(crosswalk.index(codes).ravel().tolist())
    # the patches have no water
    assert found - {-1} == {1, 2, 3}


@pytest.mark.parametrize(
    ('source', 'name'),
    [
        ('nlcd', 'definitions'),
        ('nlcd', 'malkin2019'),
        ('nlcd', 'nlcd-descriptions'),
        ('worldcover', 'definitions'),
        ('dynamic-world', 'definitions'),
        ('corine', 'definitions'),
        ('corine-grid', 'definitions'),
        ('openearthmap', 'definitions'),
    ],
)
def test_soft_crosswalks_are_row_stochastic(source: str, name: str) -> None:
    crosswalk = Crosswalk.load(source, 'land-cover-4', name)
    assert not crosswalk.is_hard
    matrix = crosswalk.matrix(crosswalk.source.codes)
    used = crosswalk.index(crosswalk.source.codes) >= 0
    np.testing.assert_allclose(matrix.sum(1), used)
    assert matrix.min() >= 0


def test_matrix_of_a_hard_crosswalk_is_its_mapping() -> None:
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4', 'scenes')
    assert crosswalk.is_hard
    codes = crosswalk.source.codes
    index = crosswalk.index(codes)
    expected = np.eye(5)[index][:, :4]  # -1 finds the last row: nothing
    np.testing.assert_array_equal(crosswalk.matrix(codes), expected)
    assert not crosswalk.matrix([7, -1]).any()


def test_definitions_lie_within_the_bounds_of_nlcd() -> None:
    """Impervious shares by which NLCD defines its developed classes."""
    matrix = Crosswalk.load('nlcd', 'land-cover-4').matrix([21, 22, 23, 24])
    for share, (low, high) in zip(
        matrix[:, 3], [(0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1)], strict=True
    ):
        assert low <= share <= high


def test_definitions_lie_within_the_bounds_of_corine() -> None:
    """Kosztra et al. 2019: sealed shares of 111 and 112, crowns of forests, others."""
    crosswalk = Crosswalk.load('corine', 'land-cover-4')
    water, forest, field, sealed = 0, 1, 2, 3
    for code, target, low, high in (
        (111, sealed, 0.8, 1),
        (112, sealed, 0.3, 0.8),
        (121, sealed, 0.5, 1),
        (242, sealed, 0, 0.3),
        (311, forest, 0.3, 1),
        (312, forest, 0.3, 1),
        (313, forest, 0.3, 1),
        (321, field, 0.5, 1),
        (331, forest, 0, 0.1),
        (333, forest, 0, 0.5),
        (512, water, 0.5, 1),
    ):
        assert low <= crosswalk.matrix([code])[0, target] <= high, code
    # Every code but ice has a row of its own, the same by either number.
    codes = crosswalk.source.codes
    rows = crosswalk.matrix(codes)
    np.testing.assert_allclose(rows.sum(1), codes != 335)
    grid = Crosswalk.load('corine-grid', 'land-cover-4')
    np.testing.assert_array_equal(grid.matrix(grid.source.codes), rows)
    np.testing.assert_array_equal(grid.index(grid.source.codes), crosswalk.index(codes))


@pytest.mark.parametrize('shares', [[0.5, 0.5], [0, 0, 0, 0], [1.5, -0.5, 0, 0]])
def test_shares_that_are_none(shares: list[float]) -> None:
    nlcd, target = Legend.load('nlcd'), Legend.load('land-cover-4')
    with pytest.raises(InputError, match='shares of code 22'):
        Crosswalk('x', nlcd, target, {}, composition={22: tuple(shares)})
