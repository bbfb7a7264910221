# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from torchgeo_mapsr.datasets import LRHRPair
from torchgeo_mapsr.datasets.chip import MARGIN, Chip, read_chip
from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.geo.region import lr_coordinates, region_map
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.scene.scene import Scene


@pytest.fixture(scope='module')
def imagery(made_scene: Scene) -> Imagery:
    return Imagery(made_scene.imagery)


@pytest.fixture(scope='module')
def labels(made_scene: Scene) -> LabelRaster:
    return LabelRaster.open(made_scene.labels)[0]


def write(path: Path, codes: np.ndarray, grid: GeoBox) -> LabelRaster:
    profile: dict[str, Any] = {
        'driver': 'GTiff',
        'dtype': 'uint8',
        'count': 1,
        'height': grid.height,
        'width': grid.width,
        'crs': str(grid.crs),
        'transform': grid.affine,
        'nodata': 0,
    }
    with rasterio.open(path, 'w', **profile) as file:
        file.write(codes.astype('uint8'), 1)
    return LabelRaster.open(path)[0]


def plan(imagery: Imagery, size: int = 96) -> Plan:
    return Plan(imagery.geobox, size, 512, overlap=24, halo=6, align=4)


@pytest.mark.parametrize('size', [64, 96, 128])
def test_pieces_add_up_to_whole_cells(
    imagery: Imagery, labels: LabelRaster, size: int
) -> None:
    """What chips say a whole cell has is what their pieces of it add up to."""
    whole = region_map(imagery.geobox, labels.geobox)
    count = np.bincount(whole.mask_region.ravel(), minlength=whole.share.size + 1)[1:]
    expected = dict(
        zip(
            np.ndindex(*whole.window[2:]),
            zip(count, whole.share, strict=True),
            strict=True,
        )
    )
    pieces: dict[tuple[int, int], int] = {}
    claimed: dict[tuple[int, int], set[float]] = {}
    part = plan(imagery, size)
    for index in part.lattice():
        chip = read_chip(imagery, part.crop(index), [labels], part.own(index))
        assert chip.partition
        found = torch.bincount(chip.region.flatten(), minlength=len(chip.code) + 1)[1:]
        for (number, row, col), pixels, total in zip(
            chip.place.tolist(), found.tolist(), chip.cell_pixels.tolist(), strict=True
        ):
            assert number == labels.number
            if pixels:
                cell = row - whole.window[0], col - whole.window[1]
                pieces[cell] = pieces.get(cell, 0) + pixels
                claimed.setdefault(cell, set()).add(total)
    assert sum(pieces.values()) == imagery.geobox.height * imagery.geobox.width
    inside = 0
    for cell, (pixels, share) in expected.items():
        if not pixels:
            continue
        assert pieces[cell] == pixels
        if share == 1:
            assert claimed[cell] == {float(pixels)}
            inside += 1
        else:  # cut by the imagery's edge: by its area
            for total in claimed[cell]:
                assert total == pytest.approx(pixels / share, rel=0.02)
    assert inside > 100


def test_windows_of_one_size_have_one_shape(
    imagery: Imagery, labels: LabelRaster
) -> None:
    """Wherever a chip lies, also beyond imagery and labels, with a margin."""
    shapes = set()
    rng = np.random.default_rng(0)
    corners = rng.integers((-60, -60), (380, 440), (40, 2)).tolist()
    for top, left in corners:
        chip = read_chip(
            imagery, imagery.geobox.translate_pix(left, top)[:80, :80], [labels]
        )
        (window,) = chip.windows
        shapes.add(window.code.shape)
        held = np.unravel_index(
            torch.unique(chip.region).numpy() - 1, window.code.shape
        )
        for cells, length in zip(held, window.code.shape, strict=True):
            assert cells.min() >= MARGIN
            assert cells.max() < length - MARGIN
        _, row, col = window.corner.tolist()
        h, w = window.code.shape
        codes = labels.read(slice(row, row + h), slice(col, col + w))
        np.testing.assert_array_equal(window.code, codes)
    assert len(shapes) == 1


def test_coordinates_are_those_of_the_projection(
    imagery: Imagery, labels: LabelRaster
) -> None:
    grid = imagery.geobox[37:165, 11:111]
    (window,) = read_chip(imagery, grid, [labels]).windows
    exact = lr_coordinates(grid, labels.geobox)
    corner = window.corner[1:].numpy()[:, None, None]
    np.testing.assert_allclose(window.coordinates, exact - corner, atol=1e-5)
    chip = read_chip(imagery, grid, [labels])
    row, col = np.floor(window.coordinates.numpy()).astype(int)
    np.testing.assert_array_equal(chip.region, row * window.code.shape[1] + col + 1)


@pytest.mark.parametrize(
    ('top', 'left', 'height', 'width'),
    [(-7, 20, 64, 64), (350, 420, 64, 64), (-3, -90, 400, 700), (-1, 0, 2, 3)],
)
def test_imagery_goes_on_as_its_mirror_image(
    imagery: Imagery, top: int, left: int, height: int, width: int
) -> None:
    """As numpy's padding by reflection of what the chip sees of it."""
    grid = imagery.geobox.translate_pix(left, top)
    grid = GeoBox((height, width), grid.affine, grid.crs)
    chip = read_chip(imagery, grid)
    rows, cols = (
        slice(max(first, 0), min(first + size, length))
        for first, size, length in zip(
            (top, left), (height, width), imagery.geobox.shape, strict=True
        )
    )
    inside, _ = imagery.read(imagery.geobox[rows, cols])
    padding = [
        (part.start - first, first + size - part.stop)
        for part, first, size in zip(
            (rows, cols), (top, left), (height, width), strict=True
        )
    ]
    expected = np.pad(inside, [(0, 0), *padding], mode='reflect')
    np.testing.assert_array_equal(chip.image, expected)
    beyond = np.pad(np.ones(inside.shape[1:], bool), padding)
    np.testing.assert_array_equal(chip.valid, beyond)


def test_several_rasters(imagery: Imagery, labels: LabelRaster, tmp_path: Path) -> None:
    """The first that has a label counts, the next fills; one elsewhere says nothing."""
    affine = imagery.geobox.affine
    grid = GeoBox((9, 11), affine * Affine.scale(41), imagery.geobox.crs)
    codes = np.random.default_rng(2).choice([0, 11, 42], (9, 11))
    first = write(tmp_path / 'first.tif', codes, grid)
    away = GeoBox((5, 5), Affine(30, 0, 2e6, 0, -30, 2.5e6), 'EPSG:5070')
    far = write(tmp_path / 'far.tif', np.full((5, 5), 41), away)
    for rasters in ([first, labels, far], [far, labels, first]):
        chip = read_chip(imagery, imagery.geobox[20:220, 30:230], rasters)
        found = torch.cat([torch.tensor([-1]), chip.code])[chip.region]
        expected = np.full((200, 200), -1)
        for raster in rasters:
            at = raster.at(imagery.geobox)[20:220, 30:230]
            expected = np.where(expected < 0, at, expected)
        np.testing.assert_array_equal(found, expected)
        assert (expected >= 0).any()
        inside = chip.region > 0
        np.testing.assert_array_equal(chip.labelled[inside], expected[inside] >= 0)
        owner = chip.place[:, 0][chip.region[inside] - 1]
        assert far.number not in owner.tolist()
        numbers = [int(window.corner[0]) for window in chip.windows]
        assert (
            numbers[:2] == [raster.number for raster in rasters[:2]]
            or far in rasters[:2]
        )


def test_labels_of_the_core_alone(imagery: Imagery, labels: LabelRaster) -> None:
    grid = imagery.geobox[50:178, 60:188]
    core = slice(14, 100), slice(0, 111)
    chip = read_chip(imagery, grid, [labels], core=core)
    every = read_chip(imagery, grid, [labels])
    inside = torch.zeros(128, 128, dtype=torch.bool)
    inside[core] = True
    assert not chip.region[~inside].any()
    assert (chip.labelled == every.labelled)[inside].all()
    codes = [torch.cat([torch.tensor([-1]), c.code])[c.region] for c in (chip, every)]
    assert torch.equal(codes[0][core], codes[1][core])
    torch.testing.assert_close(chip.image, every.image, rtol=0, atol=0)


@pytest.mark.parametrize('rasters', [0, 1, 2])
def test_way_to_a_sample_and_back(
    imagery: Imagery, labels: LabelRaster, tmp_path: Path, rasters: int
) -> None:
    grid = GeoBox((9, 11), imagery.geobox.affine * Affine.scale(41), labels.geobox.crs)
    grid = GeoBox(grid.shape, grid.affine, imagery.geobox.crs)
    other = write(tmp_path / 'other.tif', np.full((9, 11), 11), grid)
    index = next(iter(plan(imagery).lattice()))
    own = plan(imagery).own(index) if rasters else None
    grid = plan(imagery).crop(index)
    chip = read_chip(imagery, grid, [labels, other][:rasters], own, number=5)
    batch = {name: value[None] for name, value in chip.sample().items()}
    # As augmentations may leave masks: with a channel, and of another type.
    for name in ('mask_valid', 'mask_region'):
        if name in batch:
            batch[name] = batch[name][:, None].float()
    again = Chip.of(batch, 0)
    assert (again.key, again.partition, again.core) == (chip.key, own is not None, None)
    assert chip.key == (5, 0, 0)
    names = ['image', 'valid', 'region', 'code']
    for name in [*names, 'place', 'cell_pixels'] if rasters else names:
        torch.testing.assert_close(getattr(again, name), getattr(chip, name))
    assert len(again.windows) == rasters


def test_a_batch_without_its_place_has_a_number_of_its_own(made_scene: Scene) -> None:
    pair = LRHRPair(made_scene.imagery, made_scene.labels)
    bounds = pair.bounds
    sample = pair[
        bounds[0].start : bounds[0].start + 90, bounds[1].stop - 90 : bounds[1].stop
    ]
    batch = {n: v[None] for n, v in sample.items() if isinstance(v, torch.Tensor)}
    for name in ('chip', 'lr_place', 'lr_pixels', 'mask_coordinates'):
        del batch[name]
    chip = Chip.of(batch, 0, 17)
    assert chip.key == (-1, 0, 17)
    assert not chip.partition
    assert chip.cell_pixels.isinf().all()  # no cell is whole
    # Its cells are no other chip's.
    places = [Chip.of(batch, 0, number).place for number in (0, 1, 17)]
    every = torch.cat(places)
    assert len(every.unique(dim=0)) == len(every)
