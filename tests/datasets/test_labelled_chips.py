# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import tracemalloc
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from torchgeo_mapsr.datasets import labelled_chips
from torchgeo_mapsr.datasets.geo.grid import project
from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.labelled_chips import LabelledChips, golden_order
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.errors import InputError


def labels_on(
    folder: Path, grid: GeoBox, codes: np.ndarray | None = None
) -> LabelRaster:
    folder.mkdir(exist_ok=True)
    path = folder / f'labels{len(list(folder.iterdir()))}.tif'
    with rasterio.open(
        path, 'w', driver='GTiff', dtype='uint8', count=1, height=grid.height,
        width=grid.width, crs=str(grid.crs), transform=grid.affine, nodata=0,
    ) as file:  # fmt: skip
        file.write(np.ones(grid.shape, 'uint8') if codes is None else codes, 1)
    return LabelRaster.open(path)[0]


def utm(shape: tuple[int, int], cell: float = 1, x: float = 0, y: float = 0) -> GeoBox:
    """A grid whose corner is so many metres east and south."""
    return GeoBox(shape, Affine(cell, 0, 3.7e5 + x, 0, -cell, 4.3e6 - y), 'EPSG:26918')


def test_order_is_spread_and_seeded(tmp_path: Path) -> None:
    plan = Plan(utm((3000, 3000)), 96, 512, overlap=24)
    over = labels_on(tmp_path, utm((16, 12), 30, 900, 1200))
    chips = list(LabelledChips([plan], [[over]], 0))
    assert chips == list(LabelledChips([plan], [[over]], 0))
    other = list(LabelledChips([plan], [[over]], 1))
    assert chips != other
    assert set(chips) == set(other)
    # Only chips whose own pixels lie over the labels: 480 m × 360 m of 3 km × 3 km.
    row, col = np.floor(region_map(plan.geobox, over.geobox).coordinates)
    inside = (row >= 0) & (row < 16) & (col >= 0) & (col < 12)
    expected = {chip for chip in plan.lattice() if inside[plan.own(chip)].any()}
    assert {chip for _, chip in chips} == expected
    assert 15 < len(chips) < 100
    rows = np.array([chip.row for _, chip in chips])
    middle = np.median(rows)
    for count in (6, 12):
        part = rows[:count]
        assert 0.2 < (part > middle).mean() + (part == middle).mean() / 2 < 0.8


@pytest.mark.parametrize('start', [0.0, 0.31, 0.77, 0.999])
def test_golden_order_is_that_of_sorted_multiples(start: float) -> None:
    """The three-gap theorem against sorting."""
    ratio = (5**0.5 - 1) / 2
    for count in (*range(1, 100), 1000, 4181, 6766, 50_000):
        expected = np.argsort((start + ratio * np.arange(count)) % 1)
        assert list(golden_order(count, start)) == expected.tolist()


@pytest.mark.parametrize('crs', ['EPSG:32618', 'EPSG:5070'])
def test_outlines_find_what_looking_at_each_chip_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crs: str
) -> None:
    """Labels that are rotated against the lattice, and small rectangles of it."""
    monkeypatch.setattr(labelled_chips, '_LOOKED_AT', 3)
    plan = Plan(utm((5000, 6500)), 128, 256, 24, 4, 8)
    over = utm((2700, 3100), 1, 700, 900).to_crs(crs, resolution=30)
    assert over.shape != (2700, 3100)
    rasters = [labels_on(tmp_path, over), labels_on(tmp_path / 'b', utm((400, 90)))]
    chips = LabelledChips([plan], [rasters], 0)
    places = np.array([(c.row, c.col) for c in plan.lattice()])
    expected = np.logical_or.reduce(
        [labelled_chips._over(plan, *places.T, raster) for raster in rasters]
    )
    assert 100 < expected.sum() < len(expected) / 2
    assert len(chips) == len(list(chips)) == expected.sum()
    assert {(c.row, c.col) for _, c in chips} == {
        *map(tuple, places[expected].tolist())
    }
    assert all(
        ((0, chip) in chips) == here
        for chip, here in zip(plan.lattice(), expected, strict=True)
    )


def test_a_raster_of_a_million_pixels_a_side_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels in one corner: what is projected and kept is counted, not timed."""
    points = []

    def count(grid: GeoBox, reference: GeoBox, row: np.ndarray, col: np.ndarray) -> Any:
        points.append(row.size)
        return project(grid, reference, row, col)

    monkeypatch.setattr(labelled_chips, 'project', count)
    over = labels_on(tmp_path, utm((100, 100), 30, 600_000, 600_000))
    tracemalloc.start()
    plan = Plan(utm((10**6, 10**6)), 448, 2048, 44, 8, 16)
    assert len(plan.lattice()) > 6_000_000
    assert len(plan.tiles()) == 489**2
    chips = LabelledChips([plan], [[over]], 0)
    near = [chip for _, chip in chips]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(points) < 100_000
    # of each axis: a weight of 4 bytes a pixel, and 20 while they are computed
    assert peak < 150e6
    rows, cols = (
        {
            i
            for i, (start, stop) in enumerate(pairwise(axis.edges.tolist()))
            if stop > 600_000 and start < 603_000
        }
        for axis in plan.axes
    )
    assert {(c.row, c.col) for c in near} == {(r, c) for r in rows for c in cols}
    assert len(near) == len(chips) < 100


def test_blocks_of_chips_for_large_cells(tmp_path: Path) -> None:
    """The first chips together hold whole cells, where no single one does."""
    plan = Plan(utm((2000, 2000)), 96, 512, overlap=24)
    over = labels_on(tmp_path, utm((10, 10), 200))
    chips = [chip for _, chip in LabelledChips([plan], [[over]], 0)]
    assert set(chips) == set(plan.lattice())
    cells = region_map(plan.geobox, over.geobox).mask_region
    assert not any(
        np.bincount(cells[plan.own(chip)].ravel()).max() == 200**2 for chip in chips
    )
    covered = np.zeros(cells.shape, bool)
    for chip in chips[:81]:  # blocks of nine by nine
        covered[plan.own(chip)] = True
    whole = np.bincount(cells[covered], minlength=101)[1:] == 200**2
    assert whole.sum() >= 4
    # One block after another, and those spread as chips are.
    blocks = [block for block, _ in groupby((c.row // 9, c.col // 9) for c in chips)]
    assert len(blocks) == len(set(blocks)) == 16
    assert blocks != sorted(blocks)


def test_small_cells_have_blocks_of_one_chip(tmp_path: Path) -> None:
    plan = Plan(utm((600, 600)), 224, 512, overlap=40)
    over = labels_on(tmp_path, utm((20, 20), 30))
    chips = [chip for _, chip in LabelledChips([plan], [[over]], 0)]
    steps = [abs(a.row - b.row) + abs(a.col - b.col) for a, b in pairwise(chips)]
    assert np.mean(steps) > 1.5


def test_no_overlap(tmp_path: Path) -> None:
    plan = Plan(utm((300, 410)), 96, 512, overlap=24)
    grid = GeoBox((5, 5), Affine(30, 0, 5e6, 0, -30, 4e6), 'EPSG:5070')
    with pytest.raises(InputError, match='do not overlap'):
        LabelledChips([plan], [[labels_on(tmp_path, grid)]], 0)
