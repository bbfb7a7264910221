# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio import Affine
from scipy.ndimage import convolve, map_coordinates
from torch import Tensor
from torchgeo_mapsr.models.head.samples import CellSamples

from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.models.head.prior import (
    NEIGHBOUR_SHARE,
    PIXELS,
    RAREST,
    SIGMAS,
    TRUST,
    choose_prior,
    choose_weight,
    evidence,
    label_shares,
    neighbour_shares,
)

# UTM near the Chesapeake, where Albers is turned by 12.7°.
HR, LR = 'EPSG:26918', 'EPSG:5070'
CLASSES = 4
CROSSWALK = Crosswalk.load('land-cover-4', 'land-cover-4')


def kernel(sigma: float = 0.5) -> NDArray[np.float64]:
    """The Gaussian out to three deviations, from its formula."""
    reach = {0.5: 2, 1.0: 3}[sigma]
    at = np.arange(-reach, reach + 1)
    line = np.exp(-(at**2) / (2 * sigma**2))
    line /= line.sum()
    return np.outer(line, line)


def raster(
    folder: Path,
    codes: NDArray[np.integer],
    transform: Affine,
    crs: str = LR,
    name: str = 'lr',
) -> LabelRaster:
    path = folder / f'{name}.tif'
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        dtype='uint8',
        count=1,
        height=codes.shape[0],
        width=codes.shape[1],
        crs=crs,
        transform=transform,
        nodata=0,
    ) as file:
        file.write(codes.astype(np.uint8), 1)
    return LabelRaster.open([path])[0]


def chip(
    height: int = 150, width: int = 180, row: int = 0, col: int = 0, pixel: float = 2
) -> GeoBox:
    place = Affine(pixel, 0, 325000 + col * pixel, 0, -pixel, 4210000 - row * pixel)
    return GeoBox((height, width), place, HR)


def albers_window(grid: GeoBox, margin: int = 4, cell: float = 30) -> tuple:
    """Affine and shape of whole cells that cover a chip and a margin."""
    x, y = rasterio.transform.xy(
        grid.affine, [0, 0, grid.height, grid.height], [0, grid.width, 0, grid.width]
    )
    x, y = Transformer.from_crs(HR, LR, always_xy=True).transform(x, y)
    left, top = math.floor(min(x) / cell) - margin, math.ceil(max(y) / cell) + margin
    right, bottom = (
        math.ceil(max(x) / cell) + margin,
        math.floor(min(y) / cell) - margin,
    )
    affine = Affine(cell, 0, left * cell, 0, -cell, top * cell)
    return affine, (top - bottom, right - left)


def some_codes(shape: tuple[int, int], seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, CLASSES + 1, shape)
    codes[rng.random(shape) < 0.2] = 0
    return codes


def dense_shares(
    grid: GeoBox,
    codes: NDArray[np.int64],
    transform: Affine,
    crs: str = LR,
    sigma: float = 0.5,
) -> NDArray[np.float64]:
    """Smoothed one-hot labels, and labels at all, at the exact centres of pixels."""
    rows, cols = np.mgrid[: grid.height, : grid.width] + 0.5
    x, y = grid.affine * (cols, rows)
    x, y = Transformer.from_crs(HR, crs, always_xy=True).transform(x, y)
    col, row = ~transform * (np.asarray(x), np.asarray(y))
    hot = [codes == code for code in range(1, CLASSES + 1)] + [codes > 0]
    return np.stack(
        [
            map_coordinates(
                convolve(np.pad(h.astype(float), 4), kernel(sigma), mode='constant'),
                [row - 0.5 + 4, col - 0.5 + 4],
                order=1,
                mode='constant',
            )
            for h in hot
        ]
    )


@pytest.mark.parametrize('sigma', SIGMAS)
def test_shares_equal_dense_interpolation_between_rotated_grids(
    tmp_path: Path, sigma: float
) -> None:
    grid = chip()
    transform, shape = albers_window(grid)
    codes = some_codes(shape)
    labels = raster(tmp_path, codes, transform)
    shares, support = label_shares(grid, [labels], CROSSWALK, sigma)
    assert shares.shape == (CLASSES, 150, 180)
    assert shares.dtype == support.dtype == torch.float32
    expected = dense_shares(grid, codes, transform, sigma=sigma)
    # Coordinates are good to a millimetre in 30 m.
    np.testing.assert_allclose(shares, expected[:-1], atol=1e-4)
    np.testing.assert_allclose(support, expected[-1], atol=1e-4)
    torch.testing.assert_close(shares.sum(0), support, atol=1e-6, rtol=0)
    assert support.min() >= 0
    assert support.max() <= 1 + 1e-6


def test_overlapping_chips_agree(tmp_path: Path) -> None:
    whole = chip(400, 420)
    transform, shape = albers_window(whole, margin=-2)
    labels = raster(tmp_path, some_codes(shape, 1), transform)
    a = label_shares(chip(224, 224), [labels], CROSSWALK)
    b = label_shares(chip(224, 224, 101, 77), [labels], CROSSWALK)
    for x, y in zip(a, b, strict=True):
        # Places differ by what the control grid of either interpolates away.
        torch.testing.assert_close(
            x[..., 101:, 77:], y[..., : 224 - 101, : 224 - 77], atol=1e-4, rtol=0
        )
    assert a[1].max() > 0.9


@pytest.mark.parametrize('size', range(30, 46))
def test_chip_of_any_size_sees_all_labels_that_count(tmp_path: Path, size: int) -> None:
    """Wherever its border lies in a cell of 15 pixels: on one grid, exactly."""
    codes = some_codes((12, 12), 5)
    transform = Affine(30, 0, 324990, 0, -30, 4210100)
    labels = raster(tmp_path, codes, transform, HR)
    grid = chip(size, size, 40 + size, 50)
    shares, support = label_shares(grid, [labels], CROSSWALK)
    expected = dense_shares(grid, codes, transform, HR)
    np.testing.assert_allclose(shares, expected[:-1], atol=1e-6)
    np.testing.assert_allclose(support, expected[-1], atol=1e-6)


def test_no_support_far_from_labels(tmp_path: Path) -> None:
    """Labels that cover a part: it fades over two cells, and then there is none."""
    grid = chip(200, 200)
    transform = Affine(30, 0, 325000, 0, -30, 4210000)
    labels = raster(tmp_path, np.full((7, 8), 3), transform, HR)
    shares, support = label_shares(grid, [labels], CROSSWALK)
    # The labels cover 105 x 120 pixels; 2 + ½ cells beyond nothing is left.
    reach = math.ceil(2.5 * 15)
    assert (support[reach : 105 - reach, reach : 120 - reach] > 0.999).all()
    assert not support[105 + reach :].any()
    assert not support[:, 120 + reach :].any()
    assert 0 < support[100, 119] < 1
    assert not shares[[0, 1, 3]].any()
    torch.testing.assert_close(shares[2], support)

    for other in (chip(50, 50, 5000, 0), chip(50, 50, 0, -5000)):
        shares, support = label_shares(other, [labels], CROSSWALK)
        assert not support.any()
        assert not shares.any()
    for nothing in ([], [raster(tmp_path, np.zeros((9, 9)), transform, HR, 'empty')]):
        shares, support = label_shares(grid, nothing, CROSSWALK)
        assert shares.shape == (CLASSES, 200, 200)
        assert not support.any()


def test_codes_without_a_target_class_are_no_labels(tmp_path: Path) -> None:
    """NLCD 11 is water; 12 (ice) has no class here and 99 is not in the legend."""
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4')
    assert crosswalk.index([11, 12, 99]).tolist() == [0, -1, -1]
    codes = np.array([[11, 11, 11], [11, 12, 11], [11, 99, 11], [11, 11, 11]])
    transform = Affine(30, 0, 325000, 0, -30, 4210000)
    labels = raster(tmp_path, codes, transform, HR)
    grid = GeoBox((4, 3), transform, HR)
    _, support = label_shares(grid, [labels], crosswalk)
    expected = convolve((codes == 11).astype(float), kernel(), mode='constant')
    np.testing.assert_allclose(support, expected, atol=1e-6)


def test_first_raster_counts_and_the_next_fills_what_it_leaves_open(
    tmp_path: Path,
) -> None:
    transform = Affine(30, 0, 325000, 0, -30, 4210000)
    first = raster(tmp_path, np.full((8, 4), 1), transform, HR, 'first')
    moved = Affine(30, 0, 325007, 0, -30, 4210011)
    second = raster(tmp_path, np.full((8, 9), 2), moved, HR, 'second')
    grid = chip(120, 120)
    shares, support = label_shares(grid, [first, second], CROSSWALK)
    alone, fading = label_shares(grid, [first], CROSSWALK)
    behind, there = label_shares(grid, [second], CROSSWALK)
    torch.testing.assert_close(shares[0], alone[0])
    torch.testing.assert_close(shares[1], (1 - fading) * behind[1])
    torch.testing.assert_close(support, fading + (1 - fading) * there)
    # Across the edge of the first there is neither a hole nor a step.
    inside = support[30:90, 20:110]
    assert inside.min() > 0.7
    assert inside.diff(dim=1).abs().max() < 0.1
    assert shares[1, 60, 30] < 0.01
    assert shares[0, 60, 30] > 0.99
    assert shares[1, 60, 110] > 0.99


def test_made_scene_and_its_labels_share_a_place(made_scene) -> None:  # noqa: ANN001
    """Where labels are sure, they mostly are the class that the truth has there."""
    with rasterio.open(made_scene.truth) as file:
        truth = file.read(1).astype(int) - 1
        grid = GeoBox(file.shape, file.transform, str(file.crs))
    crosswalk = Crosswalk.load('nlcd', 'land-cover-4')
    labels = LabelRaster.open([made_scene.labels])
    shares, support = label_shares(grid, labels, crosswalk)
    assert support[100:-100, 100:-100].min() > 0.9

    def agreement(shares: Tensor) -> float:
        sure = shares.numpy().max(0) > 0.8
        return float((shares.numpy().argmax(0) == truth)[sure].mean())

    here = agreement(shares)
    # Mirrored, they do not fit.
    assert here > agreement(shares.flip(1)) + 0.1
    assert here > agreement(shares.flip(2)) + 0.1


def test_evidence_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4) / 3, 50).T
    t = rng.random(50)
    t[:5] = 0
    p[:, 5] = [1, 0, 0, 0]
    frequency = np.array([0.6, 0.3, 0.1, 0.0])
    said = evidence(*(torch.from_numpy(a) for a in (p * t, t, frequency)))
    pi = np.maximum(frequency, RAREST)[:, None]
    expected = t * (np.log(p + 0.001) - np.log(pi) / 2)
    np.testing.assert_allclose(said, expected, atol=1e-9)
    assert not said[:, :5].any()
    # Any shape behind the classes.
    shape = (torch.from_numpy((p * t).reshape(4, 5, 10)), torch.from_numpy(t))
    again = evidence(shape[0], shape[1].view(5, 10), torch.from_numpy(frequency))
    torch.testing.assert_close(again.flatten(1), said)
    # A label adds most to its own class, the more the rarer it is.
    own = torch.eye(4)
    added = evidence(own, torch.ones(4), torch.from_numpy(frequency))
    assert (added.argmax(0) == torch.arange(4)).all()
    assert added[2, 2] > added[1, 1] > added[0, 0]


def scattered(seed: int = 0) -> CellSamples:
    """Cells of three rasters with gaps, in no order; some unlabelled, some cut."""
    rng = np.random.default_rng(seed)
    place = np.array(
        [
            (raster, row + offset, col - 3 * offset)
            for raster, offset in ((0, 0), (1, -7), (4, 1000))
            for row in range(9)
            for col in range(11)
            if rng.random() < 0.8
        ]
    )
    rng.shuffle(place)
    n = len(place)
    return CellSamples(
        torch.zeros(n, 1),
        torch.from_numpy(rng.integers(-1, 3, n)),
        torch.from_numpy(rng.choice([0.1, NEIGHBOUR_SHARE, 0.7, 1.0], n)),
        torch.from_numpy(place),
    )


@pytest.mark.parametrize('sigma', SIGMAS)
def test_neighbours_equal_a_dense_convolution(sigma: float) -> None:
    cells = scattered()
    shares, support = neighbour_shares(cells, 3, sigma)
    around = kernel(sigma)
    around[len(around) // 2, len(around) // 2] = 0
    around /= around.sum()
    low = cells.place[:, 1:].min(0).values
    high = cells.place[:, 1:].max(0).values
    for number in (0, 1, 4):
        own = cells.place[:, 0] == number
        rows, cols = (cells.place[own, 1:] - low).T.numpy()
        known = (cells.label[own] >= 0) & (cells.share[own] >= NEIGHBOUR_SHARE)
        for c in range(3):
            full = np.zeros((high - low + 1).tolist())
            hit = (known & (cells.label[own] == c)).numpy()
            full[rows[hit], cols[hit]] = 1
            expected = convolve(full, around, mode='constant')[rows, cols]
            np.testing.assert_allclose(shares[c, own], expected, atol=1e-6)
    torch.testing.assert_close(shares.sum(0), support)
    assert support.max() <= 1 + 1e-6


def test_neighbours_are_symmetric_and_do_not_know_the_cell() -> None:
    cells = scattered(1)
    shares, support = neighbour_shares(cells, 3)
    other = CellSamples(
        cells.features,
        torch.where(cells.place[:, 1] % 2 == 0, (cells.label + 1) % 3, cells.label),
        cells.share,
        cells.place,
    )
    # A single label that changes does not change what is said of its own cell.
    for i in (0, 17, 60):
        label = cells.label.clone()
        label[i] = 2 - label[i].clamp(min=0)
        changed = CellSamples(cells.features, label, cells.share, cells.place)
        again, there = neighbour_shares(changed, 3)
        torch.testing.assert_close(again[:, i], shares[:, i])
        torch.testing.assert_close(there[i], support[i])
    # The order of the cells is of no matter.
    order = torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))
    mixed, _ = neighbour_shares(other[order], 3)
    straight, _ = neighbour_shares(other, 3)
    torch.testing.assert_close(mixed, straight[:, order])


def field(rough: bool, side: int = 40, seed: int = 0) -> CellSamples:
    """Labels of two classes: in halves of the scene, or drawn by lot."""
    rng = np.random.default_rng(seed)
    rows, cols = np.divmod(np.arange(side * side), side)
    label = rng.integers(0, 2, side * side) if rough else (cols >= side // 2) * 1
    n = side * side
    return CellSamples(
        torch.zeros(n, 1),
        torch.from_numpy(label),
        torch.ones(n),
        torch.from_numpy(np.stack([0 * rows, rows, cols], 1)),
    )


def chosen(cells: CellSamples, knowledge: float, seed: int = 0) -> float:
    """The weight, where imagery says so much of each cell's label."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(cells), 2, generator=generator)
    logits[torch.arange(len(cells)), cells.label] += knowledge
    shares, support = neighbour_shares(cells, 2)
    frequency = torch.bincount(cells.label, minlength=2) / len(cells)
    weight, _ = choose_weight(
        logits.log_softmax(1), shares, support, cells.label, frequency, 0.5
    )
    return weight


def test_weight_grows_with_what_labels_know() -> None:
    # Useless imagery, and neighbours that are nearly always right: all that is allowed.
    assert chosen(field(rough=False), 0.0) == pytest.approx(TRUST * 4 * PIXELS)
    # Useful imagery, and neighbours that say nothing.
    assert chosen(field(rough=True), 3.0) < 0.1
    # Nobody knows anything.
    assert chosen(field(rough=True), 0.0) < 0.2
    # Imagery that is right, and neighbours that are as well: no more than the cut.
    assert chosen(field(rough=False), 8.0) <= TRUST * PIXELS


def test_weight_is_the_best_of_a_literal_search() -> None:
    """Without the two rules: imagery errs less than neighbours, and below TRUST."""
    cells = field(rough=True, side=20)
    rng = np.random.default_rng(3)
    # Neighbours agree somewhat.
    smooth = convolve(rng.normal(size=(20, 20)), np.ones((3, 3)) / 5, mode='reflect')
    label = torch.from_numpy((smooth.ravel() > 0).astype(int))
    cells = CellSamples(cells.features, label, cells.share, cells.place)
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(400, 2, generator=generator)
    log_p[torch.arange(400), label] += 4.0
    log_p = log_p.log_softmax(1)
    shares, support = neighbour_shares(cells, 2)
    frequency = torch.bincount(label, minlength=2) / 400
    found, lost = choose_weight(log_p, shares, support, label, frequency, 0)
    added = evidence(shares, support, frequency).T
    best, least = 0.0, math.inf
    for strength in [0.0, *(2 ** (k / 2) for k in range(-6, 7))]:
        for sharpness in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4):
            p = (sharpness * (log_p + strength * added)).softmax(1)
            loss = -float(p[torch.arange(400), label].double().log().mean())
            if loss < least - 1e-9:
                best, least = strength, loss
    assert 0 < best <= TRUST
    errors = [float((s.argmax(1) != label).double().mean()) for s in (log_p, shares.T)]
    assert errors[0] < errors[1]
    assert found == pytest.approx(best * PIXELS)
    assert lost == pytest.approx(least)


def test_weight_without_neighbours_is_zero() -> None:
    cells = field(rough=False, side=4)
    log_p = torch.zeros(16, 2).log_softmax(1)
    nothing = torch.zeros(2, 16), torch.zeros(16)
    frequency = torch.tensor([0.5, 0.5])
    found, lost = choose_weight(log_p, *nothing, cells.label, frequency, 0.5)
    assert (found, lost) == (0, pytest.approx(math.log(2)))


def noisy(label: Tensor, share: float) -> Tensor:
    """Labels of two classes of which some are drawn anew."""
    rng = np.random.default_rng(5)
    wrong = torch.from_numpy(rng.random(len(label)) < share)
    return torch.where(wrong, torch.from_numpy(rng.integers(0, 2, len(label))), label)


def stripes(width: int, noise: float, side: int = 40) -> CellSamples:
    cells = field(rough=False, side=side)
    label = cells.place[:, 2] // width % 2
    return CellSamples(cells.features, noisy(label, noise), cells.share, cells.place)


@pytest.mark.parametrize(
    ('width', 'noise', 'sigma'),
    [(20, 0.6, 1.0), (2, 0.0, 0.5)],
    ids=['large areas, noisy labels', 'small areas, right labels'],
)
def test_smoothing_is_what_predicts_cells_best(
    width: int, noise: float, sigma: float
) -> None:
    cells = stripes(width, noise)
    log_p = torch.zeros(len(cells), 2).log_softmax(1)
    frequency, own = torch.tensor([0.5, 0.5]), torch.arange(len(cells))
    weight, found = choose_prior(log_p, cells, own, frequency, 0.5)
    assert found == sigma
    shares, support = neighbour_shares(cells, 2, sigma)
    wanted, _ = choose_weight(log_p, shares, support, cells.label, frequency, 0.5)
    assert weight == wanted > 0
    # half of the cells can be asked as well: the others stay neighbours
    half = choose_prior(log_p[::2], cells, own[::2], frequency, 0.5)
    assert half[1] == sigma
