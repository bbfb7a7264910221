# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from torchgeo_mapsr.datasets.geo.plan import Axis, Plan, default_overlap
from torchgeo_mapsr.errors import InputError


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    halo = draw(st.integers(0, 12))
    overlap = draw(st.integers(2 * halo + (halo > 0), 2 * halo + 30))
    align = draw(st.integers(1, 16))
    chip = draw(st.integers(overlap + align, overlap + 100))
    return Axis(draw(st.integers(1, 900)), chip, overlap, halo, align)


@given(axes())
@settings(deadline=None)
def test_axis_is_a_partition_of_unity(axis: Axis) -> None:
    end = int(axis.starts[-1]) + axis.size
    total = np.zeros(end)
    owned = np.zeros(axis.length, int)
    for index in range(len(axis.starts)):
        total[axis.span(index)] += axis.weights[index]
        owned[axis.own(index)] += 1
        assert axis.span(index).start <= axis.own(index).start
        assert axis.own(index).stop <= axis.span(index).stop
    np.testing.assert_allclose(total, 1, atol=1e-6)
    np.testing.assert_array_equal(owned, 1)
    assert axis.starts[0] == 0
    # The last reaches the raster's edge, and beyond it by less than a stride.
    assert axis.length <= end < axis.length + axis.align
    stride = axis.align
    assert axis.weights.shape == (
        len(axis.starts),
        min(axis.chip, -(-axis.length // stride) * stride),
    )
    most = (axis.chip - axis.overlap) // axis.align * axis.align
    assert (np.diff(axis.starts) <= most).all()
    # One chip fewer could not reach from edge to edge.
    assert len(axis.starts) < 2 or most * (len(axis.starts) - 2) < axis.starts[-1]
    assert (axis.starts % stride == 0).all()


@given(axes())
@settings(deadline=None)
def test_core_is_every_pixel_of_the_raster_with_weight(axis: Axis) -> None:
    for index, weights in enumerate(axis.weights):
        pixels = np.arange(axis.size) + axis.starts[index]
        inside = np.flatnonzero((weights > 0) & (pixels < axis.length))
        core = axis.core(index)
        assert np.arange(core.start, core.stop).tolist() == inside.tolist()


@given(axes())
@settings(deadline=None)
def test_halo_has_no_weight_except_at_the_edge(axis: Axis) -> None:
    if axis.halo:
        assert (axis.weights[1:, : axis.halo] == 0).all()
        assert (axis.weights[:-1, -axis.halo :] == 0).all()
    assert axis.weights[0, 0] == 1
    assert axis.weights[-1, -1] == 1


@given(axes(), st.integers(0, 899), st.integers(1, 100))
@settings(deadline=None)
def test_touching_is_exactly_the_chips_with_weight(
    axis: Axis, start: int, size: int
) -> None:
    span = slice(start % axis.length, min(start % axis.length + size, axis.length))
    expected = []
    for index in range(len(axis.starts)):
        dense = np.zeros(axis.length + axis.align)
        dense[axis.span(index)] = axis.weights[index]
        if (dense[span] > 0).any():
            expected.append(index)
    assert axis.touching(span).tolist() == expected


def test_ramp_is_smooth() -> None:
    axis = Axis(1000, 256, 64, 8)
    assert np.abs(np.diff(axis.weights, axis=1)).max() < 2 / (64 - 2 * 8)


def plan(shape: tuple[int, int], tile: int, chip: int = 96) -> Plan:
    geobox = GeoBox(shape, Affine(1, 0, 5e5, 0, -1, 4e6), 'EPSG:26917')
    return Plan(geobox, chip, tile, overlap=24, halo=6)


@pytest.mark.parametrize('shape', [(1, 1), (64, 300), (255, 257), (512, 96)])
@pytest.mark.parametrize('tile', [64, 100, 1024])
def test_tiles_partition_the_raster(shape: tuple[int, int], tile: int) -> None:
    count = np.zeros(shape, int)
    previous = None
    for part in plan(shape, tile).tiles():
        count[part.rows, part.cols] += 1
        assert count[part.rows, part.cols].shape == part.shape
        if previous is not None:
            assert abs(part.row - previous.row) + abs(part.col - previous.col) == 1
        previous = part
    assert (count == 1).all()


def blend(values: np.ndarray, plan: Plan) -> np.ndarray:
    """Blend chip values (rows, cols, h, w) tile by tile, as the map pass does."""
    result = np.full(plan.geobox.shape, np.nan, np.float32)
    for tile in plan.tiles():
        canvas = np.zeros(plan.geobox.shape, np.float32)
        for chip in plan.chips(tile):
            wy, wx = plan.weights(chip)
            window = plan.window(chip)
            canvas[window] += values[chip.row, chip.col] * wy[:, None] * wx
        result[tile.rows, tile.cols] = canvas[tile.rows, tile.cols]
    return result


def test_tile_size_does_not_change_the_result() -> None:
    shape = (300, 257)
    whole = plan(shape, 1024)
    rows, cols = whole.axes
    values = np.random.default_rng(0).normal(
        size=(len(rows.starts), len(cols.starts), rows.size, cols.size)
    )
    expected = blend(values, whole)
    assert np.isfinite(expected).all()
    for tile in [64, 100, 130]:
        np.testing.assert_array_equal(blend(values, plan(shape, tile)), expected)
    constant = blend(np.ones_like(values), whole)
    np.testing.assert_allclose(constant, 1, atol=1e-6)


def test_crop_is_georeferenced() -> None:
    part = plan((300, 257), 128)
    for chip in part.lattice():
        rows, cols = part.window(chip)
        crop = part.crop(chip)
        assert crop.shape == (96, 96)
        assert crop.affine == Affine(1, 0, 5e5 + cols.start, 0, -1, 4e6 - rows.start)


def test_own_windows_partition_the_raster() -> None:
    part = plan((300, 257), 128)
    count = np.zeros((300, 257), int)
    for chip in part.lattice():
        count[part.own(chip)] += 1
    assert (count == 1).all()


def test_chip_too_small_for_the_halo() -> None:
    with pytest.raises(InputError, match='--chip-size'):
        Axis(1000, 64, 16, 8)
    with pytest.raises(InputError, match='--chip-size'):
        Axis(1000, 64, 64, 8)
    Axis(60, 64, 64, 8)  # one chip: there is nothing to blend
    Axis(1000, 64, 0)  # chips that lack no context need share nothing
    with pytest.raises(
        InputError, match=r'chips of 64 pixels need 17 to 63; .*--overlap'
    ):
        Axis(1000, 64, 16, 8)
    Axis(1000, 64, 17, 8)
    Axis(1000, 64, 63, 8)


@pytest.mark.parametrize('overlap', [1, 112, 120, 600])
def test_the_chip_size_that_is_asked_for_is_enough(overlap: int) -> None:
    with pytest.raises(InputError, match=r'Chips of 64 pixels are too small') as error:
        Axis(1000, 64, overlap, 56, 16)
    least = int(str(error.value).split('--chip-size of ')[1].split()[0])
    Axis(1000, least, max(overlap, 113), 56, 16)
    with pytest.raises(InputError):
        Axis(1000, least - 1, max(overlap, 113), 56, 16)
    assert default_overlap(448, 16) > 2 * 16
