# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage
from shapely.geometry import LineString

from torchgeo_mapsr.datasets.geo.areas import Sides, pixel_sides
from torchgeo_mapsr.mapping.mapping_unit import MappingUnit


def sieve(
    index: np.ndarray,
    areas: np.ndarray,
    minimum: float,
    size: int,
    sides: Sides | None = None,
) -> np.ndarray:
    def read(rows: slice, cols: slice) -> np.ndarray:
        return index[rows, cols]

    unit = MappingUnit.scan(
        read, index.shape, by_row(areas), minimum, size, sides=sides
    )
    result = np.full(index.shape, -9)
    # any order
    windows = windows_of(index.shape, size)
    for number in np.random.default_rng(0).permutation(len(windows)):
        rows, cols = windows[number]
        result[rows, cols] = unit.apply(rows, cols, index[rows, cols])
    return result


def by_row(areas: np.ndarray) -> Callable[[slice, slice], np.ndarray]:
    return lambda rows, cols: np.repeat(areas[rows, None], cols.stop - cols.start, 1)


def windows_of(shape: tuple[int, int], size: int) -> list[tuple[slice, slice]]:
    return [
        (slice(row, min(row + size, shape[0])), slice(col, min(col + size, shape[1])))
        for row in range(0, shape[0], size)
        for col in range(0, shape[1], size)
    ]


def reference(
    index: np.ndarray,
    areas: np.ndarray,
    minimum: float,
    length: Callable[[int, int, int, int], float] = lambda *corners: 1,
) -> np.ndarray:
    """The same rule pixel by pixel, on the whole raster, in plain Python."""
    patch, count = np.zeros(index.shape, int), 0
    for c in np.unique(index[index >= 0]):
        labels, n = ndimage.label(index == c)
        patch[labels > 0] = labels[labels > 0] + count
        count += n
    size = np.bincount(patch.ravel(), np.repeat(areas, index.shape[1]))
    kind = {int(p): int(c) for p, c in zip(patch.ravel(), index.ravel(), strict=True)}
    border: dict[int, Counter[Any]] = {p: Counter() for p in range(1, count + 1)}
    height, width = index.shape
    for i in range(height):
        for j in range(width):
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < height and m < width:
                    a, b = int(patch[i, j]), int(patch[k, m])
                    if a != b and a and b:
                        edge = length(k, m, i + 1, j + 1)
                        border[a][b] += edge
                        border[b][a] += edge
    settled = {p for p in range(1, count + 1) if size[p] >= minimum - 1e-6}
    while True:
        new = {}
        for p in set(range(1, count + 1)) - settled:
            votes: Counter[Any] = Counter()
            for q, edge in border[p].items():
                if q in settled:
                    votes[kind[q]] += edge
            if votes:
                new[p] = min(votes, key=lambda c: (-votes[c], c))
        if not new:
            break
        kind |= new
        settled |= set(new)
    table = np.array([-1, *(kind[p] for p in range(1, count + 1))])
    return table[patch]


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_tiles_give_what_the_whole_raster_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(61, 83)), 1.2 + seed / 2)
    index = np.digitize(smooth, np.quantile(smooth, [0.3, 0.5, 0.8]))
    index = np.where(
        rng.random(index.shape) < 0.06, rng.integers(0, 4, index.shape), index
    )
    index[rng.random(index.shape) < 0.04] = -1
    index[:, 40:43] = -1
    areas = 1 + np.linspace(0, 0.5, 61)  # as in degrees
    expected = reference(index, areas, 14)
    for size in (7, 16, 30, 200):
        result = sieve(index, areas, 14, size)
        np.testing.assert_array_equal(result, expected)
    assert (expected != index).mean() > 0.03
    np.testing.assert_array_equal(expected < 0, index < 0)


@pytest.mark.parametrize(
    ('epsg', 'corner', 'pixel'),
    [
        (4326, (20, 70), 0.001),  # 38 m × 112 m
        (6933, (1.93e6, 6.6e6), 100),  # equal-area: 61 m × 164 m
        (32633, (5e5, 5e6), 10),  # squares
    ],
)
def test_edges_are_as_long_as_they_are_on_the_ground(
    epsg: int, corner: tuple[float, float], pixel: float
) -> None:
    affine = Affine(pixel, 0, corner[0], 0, -pixel, corner[1])
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.normal(size=(50, 40)), 1.2)
    index = np.digitize(smooth, np.quantile(smooth, [0.25, 0.5, 0.75]))
    grid = GeoBox((50, 40), affine, f'EPSG:{epsg}')
    degrees = Transformer.from_crs(epsg, 4326, always_xy=True)
    lon, lat = degrees.transform(*(affine * (20, 25)))
    local = f'+proj=aeqd +lon_0={lon} +lat_0={lat} +ellps=WGS84'
    to_local = Transformer.from_crs(epsg, local, always_xy=True)

    def length(i: int, j: int, k: int, m: int) -> float:
        ends = [affine * place for place in ((j, i), (m, k))]
        line = LineString(to_local.transform(x, y) for x, y in ends)
        # Sides that are alike tie; of squares all are.
        return 1.0 if epsg == 32633 else round(line.length, 4)

    areas = np.ones(50)
    expected = reference(index, areas, 9, length)
    for size in (9, 16, 64):
        result = sieve(index, areas, 9, size, pixel_sides(grid))
        np.testing.assert_array_equal(result, expected)
    squares = reference(index, areas, 9)
    assert (expected != squares).any() == (epsg != 32633)


def test_no_patch_is_smaller_than_the_unit() -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(120, 90)), 1.5)
    index = np.digitize(smooth, [-0.1, 0, 0.1])
    result = sieve(index, np.ones(120), 20, 33)
    for c in range(4):
        labels, n = ndimage.label(result == c)
        assert n == 0 or np.bincount(labels.ravel())[1:].min() >= 20


def test_a_snake_through_many_tiles_is_one_patch() -> None:
    """90 pixels, no more than 8 in any tile: it stays at 90, and goes at 91."""
    index = np.zeros((90, 30), int)
    index[:, 12] = 1
    ones = np.ones(90)
    assert (sieve(index, ones, 90, 8) == index).all()
    assert (sieve(index, ones, 91, 8) == 0).all()


def test_islands_in_no_data_stay() -> None:
    index = np.full((9, 9), -1)
    index[4, 4] = 2
    assert (sieve(index, np.ones(9), 5, 4) == index).all()


def test_interrupted_work_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 3, (40, 40))
    unit = MappingUnit.scan(
        lambda r, c: index[r, c], (40, 40), by_row(np.ones(40)), 9, 16
    )
    unit.save(tmp_path / 'unit.safetensors')
    again = MappingUnit.load(tmp_path / 'unit.safetensors')
    for rows, cols in windows_of(index.shape, 16):
        np.testing.assert_array_equal(
            again.apply(rows, cols, index[rows, cols]),
            unit.apply(rows, cols, index[rows, cols]),
        )
    first, moved = slice(0, 16), slice(1, 17)
    with pytest.raises(ValueError, match='not what was scanned'):
        again.apply(first, first, np.zeros((16, 16), int))
    with pytest.raises(ValueError, match='not what was scanned'):
        again.apply(moved, first, index[moved, first])


@pytest.mark.parametrize('pixel', [1e-6, 1.44e-4, 0.36, 900.0])
def test_pixels_of_any_size(pixel: float) -> None:
    """Square metres of a pixel of a drone, an aeroplane and a satellite."""
    index = np.zeros((30, 30), int)
    index[4:7, 4:7] = 1  # nine pixels
    index[12:16, 4:7] = 2  # twelve
    index[20:24, 4:8] = 3  # sixteen
    areas = np.full(30, pixel)
    expected = np.where(index == 1, 0, index)
    np.testing.assert_array_equal(sieve(index, areas, 12 * pixel, 8), expected)
