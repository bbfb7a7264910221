# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine
from scipy.ndimage import convolve, map_coordinates
from torch import Tensor

from torchgeo_mapsr.datasets.chip import Chip, read_chip
from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.models.head.options import MAX_SIGMA
from torchgeo_mapsr.models.head.prior import LabelPrior, evidence

# UTM near the Chesapeake, where Albers is turned by 12.7°.
HR, LR = 'EPSG:26918', 'EPSG:5070'
CLASSES = 4
SHAPE = (400, 420)
FREQUENCY = torch.tensor([0.1, 0.4, 0.3, 0.2])


def prior(weight: float = 1.0, sigma: float = 0.5) -> LabelPrior:
    """Of codes that are classes."""
    codes = torch.arange(1, CLASSES + 1)
    return LabelPrior(codes, torch.eye(CLASSES), FREQUENCY, weight, sigma)


def kernel(sigma: float) -> NDArray[np.float64]:
    """The Gaussian out to three deviations, from its formula."""
    reach = math.ceil(3 * sigma)
    at = np.arange(-reach, reach + 1)
    line = np.exp(-(at**2) / (2 * sigma**2))
    line /= line.sum()
    return np.outer(line, line)


def write(path: Path, values: NDArray[Any], affine: Affine, crs: str) -> Path:
    count, height, width = values.shape
    with rasterio.open(
        path, 'w', driver='GTiff', dtype='uint8', count=count, height=height,
        width=width, crs=crs, transform=affine, nodata=0,
    ) as file:  # fmt: skip
        file.write(values.astype('uint8'))
    return path


@pytest.fixture(scope='module')
def imagery(tmp_path_factory: pytest.TempPathFactory) -> Imagery:
    values = np.random.default_rng(0).integers(1, 255, (1, *SHAPE))
    path = tmp_path_factory.mktemp('imagery') / 'imagery.tif'
    affine = Affine(2, 0, 325000, 0, -2, 4210000)
    return Imagery(write(path, values, affine, HR))


def some_codes(shape: tuple[int, int], seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, CLASSES + 1, shape)
    codes[rng.random(shape) < 0.2] = 0
    return codes


def albers(
    grid: GeoBox, margin: int, cell: float = 30
) -> tuple[Affine, tuple[int, int]]:
    """Affine and shape of whole cells that cover a grid and a margin."""
    rows, cols = [0, 0, grid.height, grid.height], [0, grid.width, 0, grid.width]
    x, y = rasterio.transform.xy(grid.affine, rows, cols)
    x, y = Transformer.from_crs(HR, LR, always_xy=True).transform(x, y)
    left, top = math.floor(min(x) / cell) - margin, math.ceil(max(y) / cell) + margin
    right = math.ceil(max(x) / cell) + margin
    bottom = math.floor(min(y) / cell) - margin
    affine = Affine(cell, 0, left * cell, 0, -cell, top * cell)
    return affine, (top - bottom, right - left)


def exact(
    grid: GeoBox, codes: NDArray[np.int64], affine: Affine, crs: str, sigma: float
) -> NDArray[np.float64]:
    """Evidence from the whole raster, smoothed by scipy, at exact places."""
    rows, cols = np.mgrid[: grid.height, : grid.width] + 0.5
    x, y = grid.affine * (cols, rows)
    x, y = Transformer.from_crs(HR, crs, always_xy=True).transform(x, y)
    col, row = ~affine * (np.asarray(x), np.asarray(y))
    hot = [codes == code for code in range(1, CLASSES + 1)] + [codes > 0]
    *shares, support = (
        map_coordinates(
            convolve(np.pad(h.astype(float), 5), kernel(sigma), mode='constant'),
            [row - 0.5 + 5, col - 0.5 + 5],
            order=1,
            mode='constant',
        )
        for h in hot
    )
    pi = np.maximum(FREQUENCY.numpy(), 0.05)[:, None, None]
    log = np.log(np.stack(shares) / np.maximum(support, 1e-6) + 1e-3)
    found = support * (log - 0.5 * np.log(pi))
    r, c = np.floor([row, col]).astype(int) + 5
    label = np.pad(codes, 5)[
        np.clip(r, 0, codes.shape[0] + 9), np.clip(c, 0, codes.shape[1] + 9)
    ]
    return np.where(label > 0, found, 0)


@pytest.mark.parametrize('sigma', [0.5, MAX_SIGMA])
def test_same_as_from_the_whole_raster(
    imagery: Imagery, tmp_path: Path, sigma: float
) -> None:
    """Between rotated grids, wherever a chip lies and whatever its size."""
    affine, shape = albers(imagery.geobox, margin=-2)
    codes = some_codes(shape)
    raster = LabelRaster.open(write(tmp_path / 'lr.tif', codes[None], affine, LR))
    expected = exact(imagery.geobox, codes, affine, LR, sigma)
    assert (expected == 0).all(0).any()  # beyond the labels
    boxes = [(0, 0, 400, 420), (0, 0, 64, 64), (37, 290, 165, 418), (101, 77, 118, 210)]
    for top, left, bottom, right in boxes:
        chip = read_chip(imagery, imagery.geobox[top:bottom, left:right], raster)
        found = prior(sigma=sigma).evidence(chip)
        assert found is not None
        assert found.dtype == torch.float32
        difference = np.abs(found - expected[:, top:bottom, left:right]).numpy()
        # Coordinates are good to a millimetre in 30 m.
        assert np.quantile(difference, 0.999) < 2e-3
        # Pixels on a cell's very edge may fall to its neighbour.
        assert (difference.max(0) > 0.05).mean() < 1e-3


@pytest.mark.parametrize('size', range(30, 46, 3))
def test_chip_of_any_size_sees_all_labels_that_count(
    imagery: Imagery, tmp_path: Path, size: int
) -> None:
    """Wherever its border lies in a cell of 15 pixels: on one grid, exactly."""
    codes = some_codes((12, 12), 5)
    affine = Affine(30, 0, 324990, 0, -30, 4210100)
    raster = LabelRaster.open(write(tmp_path / 'lr.tif', codes[None], affine, HR))
    grid = imagery.geobox[40 + size : 40 + 2 * size, 50 : 50 + size]
    found = prior().evidence(read_chip(imagery, grid, raster))
    expected = exact(grid, codes, affine, HR, 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_core_alone(imagery: Imagery, tmp_path: Path) -> None:
    affine, shape = albers(imagery.geobox, margin=4)
    codes = some_codes(shape)
    raster = LabelRaster.open(write(tmp_path / 'lr.tif', codes[None], affine, LR))
    plan = Plan(imagery.geobox, 128, 512, overlap=40, halo=14, align=4)
    whole = prior().evidence(read_chip(imagery, imagery.geobox, raster))
    for index in plan.lattice():
        core, grid = plan.core(index), plan.crop(index)
        found = prior().evidence(read_chip(imagery, grid, raster, core=core))
        rows, cols = (
            slice(window.start + part.start, window.start + part.stop)
            for window, part in zip(plan.window(index), core, strict=True)
        )
        difference = (found - whole[:, rows, cols]).abs()
        assert difference.quantile(0.999) < 2e-3
        assert (difference.amax(0) > 0.05).float().mean() < 1e-3


@pytest.mark.parametrize('turns', [1, 2, 3])
def test_turns_with_the_chip(imagery: Imagery, tmp_path: Path, turns: int) -> None:
    """As augmentations turn all masks of a sample, and nothing else."""
    affine, shape = albers(imagery.geobox, margin=4)
    path = write(tmp_path / 'lr.tif', some_codes(shape)[None], affine, LR)
    sample = read_chip(
        imagery, imagery.geobox[:200, :260], LabelRaster.open(path)
    ).sample()

    def turn(values: Tensor) -> Tensor:
        return torch.rot90(values, turns, (-2, -1)).flip(-1)

    turned = {
        name: turn(value) if name == 'image' or name.startswith('mask') else value
        for name, value in sample.items()
    }
    plain, other = (
        prior().evidence(Chip.of({k: v[None] for k, v in s.items()}, 0))
        for s in (sample, turned)
    )
    torch.testing.assert_close(other, turn(plain), atol=1e-6, rtol=0)


def test_several_rasters(imagery: Imagery, tmp_path: Path) -> None:
    """Each pixel hears the raster that labels it."""
    affine, shape = albers(imagery.geobox, margin=2)
    first = some_codes(shape, 1)
    one = LabelRaster.open(write(tmp_path / 'a.tif', first[None], affine, LR))
    coarse = Affine(44, 0, 324900, 0, -44, 4210100)
    second = some_codes((24, 26), 2)
    two = LabelRaster.open(write(tmp_path / 'b.tif', second[None], coarse, HR))
    grid = imagery.geobox[30:230, 40:300]
    found = prior().evidence(read_chip(imagery, grid, [*one, *two]))
    evidences = (
        exact(grid, first, affine, LR, 0.5),
        exact(grid, second, coarse, HR, 0.5),
    )
    labelled = one[0].at(grid) >= 0
    expected = np.where(labelled, *evidences)
    assert 0.1 < labelled.mean() < 0.9
    difference = np.abs(found - expected).numpy()
    assert np.quantile(difference, 0.995) < 2e-3
    assert (difference.max(0) > 0.05).mean() < 5e-3


def test_no_label_says_nothing(imagery: Imagery, tmp_path: Path) -> None:
    affine = Affine(30, 0, 325000, 0, -30, 4210000)
    codes = np.full((1, 7, 8), 3)
    raster = LabelRaster.open(write(tmp_path / 'lr.tif', codes, affine, HR))
    chip = read_chip(imagery, imagery.geobox[:200, :200], raster)
    found = prior().evidence(chip)
    # The labels cover 105 x 120 pixels.
    assert found[:, :105, :120].argmax(0).eq(2).all()
    assert not found[:, 105:].any()
    assert not found[:, :, 120:].any()
    assert prior(weight=0).evidence(chip) is None
    bare = read_chip(imagery, imagery.geobox[200:300, 200:300], raster)
    assert prior().evidence(bare) is None
    assert prior().evidence(read_chip(imagery, imagery.geobox[:50, :50])) is None
    # Codes that the fit has not seen are no labels.
    other = replace(prior(), codes=torch.tensor([1, 2, 4, 9]), composition=torch.eye(4))
    assert not other.evidence(chip).any()


def test_code_says_what_its_cells_hold(imagery: Imagery, tmp_path: Path) -> None:
    affine = Affine(30, 0, 324900, 0, -30, 4210100)
    codes = np.full((1, 30, 34), 22)
    raster = LabelRaster.open(write(tmp_path / 'lr.tif', codes, affine, HR))
    held = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    of_code = LabelPrior(torch.tensor([22]), held, FREQUENCY, 1.0)
    found = of_code.evidence(read_chip(imagery, imagery.geobox[50:90, 50:90], raster))
    expected = (held[0] + 1e-3).log() - 0.5 * FREQUENCY.clamp(min=0.05).log()
    torch.testing.assert_close(
        found, expected[:, None, None].expand(-1, 40, 40), atol=1e-5, rtol=0
    )


def test_evidence_is_zero_without_support() -> None:
    shares = torch.tensor([[0.0, 0.3, 1.0], [0.0, 0.2, 0.0]])
    support = shares.sum(0)
    frequency = torch.tensor([0.98, 0.02])
    found = evidence(shares, support, frequency)
    assert not found[:, 0].any()
    expected = support * (
        (shares / support.clamp(min=1e-6) + 1e-3).log()
        - 0.5 * torch.tensor([0.98, 0.05]).log()[:, None]
    )
    torch.testing.assert_close(found, expected)
