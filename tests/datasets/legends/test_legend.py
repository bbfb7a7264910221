# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torchgeo.datasets import NLCD, ChesapeakeCVPR

from torchgeo_mapsr.datasets.legends.legend import Legend, LegendClass
from torchgeo_mapsr.errors import InputError


@pytest.mark.parametrize('name', Legend.names())
def test_shipped_legends_load_and_survive_a_round_trip(
    name: str, tmp_path: Path
) -> None:
    legend = Legend.load(name)
    assert legend.name == name
    assert legend.source
    assert legend.codes.tolist() == sorted(set(legend.codes.tolist()))
    assert legend.colors.shape == (len(legend), 3)
    assert len(set(legend.class_names)) == len(legend)

    path = tmp_path / 'legend.json'
    path.write_text(json.dumps(legend.to_dict()))
    assert Legend.load(path) == legend
    path = tmp_path / 'legend.yaml'
    path.write_text(yaml.safe_dump(legend.to_dict()))
    assert Legend.load(str(path)) == legend
    assert Legend.load(legend) is legend


def test_names_of_the_issue_ship() -> None:
    assert set(Legend.names()) == {
        'nlcd',
        'chesapeake-7',
        'worldcover',
        'corine',
        'corine-grid',
        'openearthmap',
        'dynamic-world',
        'five-billion-pixels',
        'io-lulc',
        'land-cover-4',
    }


@pytest.mark.parametrize(
    ('name', 'cmap'), [('nlcd', NLCD.cmap), ('chesapeake-7', ChesapeakeCVPR.lc_cmap)]
)
def test_codes_and_colors_are_those_of_torchgeo(name: str, cmap: Any) -> None:
    # a dictionary in 0.8, a colormap of matplotlib with every code below 256 in 0.10
    theirs = cmap if isinstance(cmap, dict) else dict(enumerate(255 * cmap.colors))
    for item in Legend.load(name).classes:
        if item.code not in (51, 72, 73, 74):  # Alaska's four are not in torchgeo
            np.testing.assert_allclose(theirs[item.code][:3], item.color)


def test_both_numberings_of_corine_have_the_same_classes() -> None:
    """The GeoTIFFs number the 44 classes in the order of their codes."""
    codes, grid = Legend.load('corine'), Legend.load('corine-grid')
    assert codes.class_names == grid.class_names
    np.testing.assert_array_equal(codes.colors, grid.colors)
    np.testing.assert_array_equal(grid.codes, np.arange(1, 45))
    # Five groups of level 1, of 11, 11, 12, 5 and 5 classes.
    assert np.bincount(codes.codes // 100).tolist() == [0, 11, 11, 12, 5, 5]


def test_water_of_dynamic_world_is_zero_and_no_data_is_not() -> None:
    legend = Legend.load('dynamic-world')
    assert legend.nodata is None
    assert legend.class_names[int(legend.index(0))] == 'Water'


@given(
    st.sets(st.integers(0, 300), min_size=1)
    | st.sets(st.integers(0, 2**31), min_size=1),
    st.lists(st.integers(-5, 310) | st.integers(-5, 2**31)),
)
def test_index_is_the_place_of_the_code(codes: set[int], others: list[int]) -> None:
    classes = tuple(LegendClass(code, str(code), (0, 0, 0)) for code in codes)
    legend = Legend('made', classes)
    values = np.array([*codes, *others], dtype=np.int64)
    place = {code: i for i, code in enumerate(sorted(codes))}
    expected = [place.get(value, -1) for value in values.tolist()]
    np.testing.assert_array_equal(legend.index(values), expected)


@pytest.mark.parametrize('dtype', ['uint8', 'int16', 'int64', 'float32'])
def test_index_keeps_shape_and_takes_any_dtype(dtype: str) -> None:
    codes = np.array([[11, 95, 0], [12, 13, 120]], dtype=dtype)
    index = Legend.load('nlcd').index(codes)
    np.testing.assert_array_equal(index, [[0, 19, -1], [1, -1, -1]])
    assert index.dtype == np.int64


def test_index_of_values_that_are_no_codes() -> None:
    codes = np.array([11.5, np.nan, -np.inf, np.inf])
    np.testing.assert_array_equal(Legend.load('nlcd').index(codes), [-1, -1, -1, -1])


def test_shared_arrays_cannot_be_written() -> None:
    legend = Legend.load('land-cover-4')
    with pytest.raises(ValueError, match='read-only'):
        legend.codes[0] = 7


def test_own_legend_in_any_order_without_colors(tmp_path: Path) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text("classes: [{code: 7, name: b}, {code: '3', name: a}]")
    legend = Legend.load(path)
    assert legend.name == 'mine'
    assert legend.codes.tolist() == [3, 7]
    assert legend.class_names == ('a', 'b')
    assert not np.array_equal(legend.colors[0], legend.colors[1])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('classes: [{code: 1, name: a}, {code: 1, name: b}]', 'code 1 occurs twice'),
        (
            'classes: [{code: 1, name: a}, {code: 2, name: a}]',
            "1 and 2 are both called 'a'",
        ),
        ('classes: [{code: -1, name: a}]', 'code -1 is negative'),
        ('nodata: 1\nclasses: [{code: 1, name: a}]', 'a class and no data'),
        ('classes: []', 'no classes'),
        ('classes: [{code: 1, name: No}]', 'put its name in quotes'),
        ('classes: [{name: a}]', "check 'code'"),
        ('classes: [{code: 1.5, name: a}]', '1.5'),
        ('classes: [{code: true, name: a}]', 'True'),
        ('classes: [1, 2]', "'code', 'name' and 'color'"),
        ('name: mine', "check 'classes'"),
        ("classes: [{code: 1, name: a, color: '#12345'}]", 'mine.yaml'),
        ('classes: [{code: 1, name: a, color: [0, 0, 256]}]', '0 to 255'),
        ('[1, 2]', 'top level'),
        ('{', 'neither YAML nor JSON'),
    ],
)
def test_mistakes_in_a_file_are_named_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(InputError, match='mine') as error:
        Legend.load(path)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(InputError, match=r'chesapeake-7, .*, nlcd, .*\.yaml'):
        Legend.load('nlcd2')


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'gone\.yaml: cannot be read'):
        Legend.load(tmp_path / 'gone.yaml')


def test_names_that_differ_by_case_alone() -> None:
    """Options and columns name classes without regard to it."""
    classes = [{'code': 1, 'name': 'water'}, {'code': 2, 'name': 'Water'}]
    with pytest.raises(InputError, match='both called'):
        Legend.load({'name': 'a', 'classes': classes})


def test_codes_are_plain_integers() -> None:
    legend = Legend('a', (LegendClass(np.int64(3), 'x', (0, 0, 0)),))  # type: ignore[arg-type]
    assert json.loads(json.dumps(legend.to_dict()))['classes'][0]['code'] == 3
    with pytest.raises(InputError, match='must be an integer'):
        LegendClass(1.5, 'x', (0, 0, 0))  # type: ignore[arg-type]
