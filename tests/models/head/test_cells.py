# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine

from torchgeo_mapsr import MapJob, make_scene, map_region
from torchgeo_mapsr.datasets.chip import Chip, read_chip
from torchgeo_mapsr.datasets.geo.plan import Plan
from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labelled_chips import LabelledChips
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.backbones.identity import Identity
from torchgeo_mapsr.models.head import cells as module
from torchgeo_mapsr.models.head.cells import Cells, CellTable, take

SHAPE = (300, 410)


def write(path: Path, values: np.ndarray, grid: GeoBox, nodata: float) -> Path:
    profile = {
        'driver': 'GTiff',
        'dtype': values.dtype,
        'count': len(values),
        'height': grid.height,
        'width': grid.width,
        'crs': str(grid.crs),
        'transform': grid.affine,
        'nodata': nodata,
    }
    with rasterio.open(path, 'w', **profile) as dataset:
        dataset.write(values)
    return path


@pytest.fixture(scope='module')
def imagery(tmp_path_factory: pytest.TempPathFactory) -> Imagery:
    path = tmp_path_factory.mktemp('imagery') / 'imagery.tif'
    values = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    values[:, :20, :90] = -9999
    grid = GeoBox(SHAPE, Affine(1, 0, 3.7e5, 0, -1, 4.3e6), 'EPSG:26918')
    return Imagery(write(path, values, grid, -9999))


@pytest.fixture(scope='module')
def labels(tmp_path_factory: pytest.TempPathFactory) -> LabelRaster:
    """NLCD on a rotated grid that covers the left three quarters."""
    path = tmp_path_factory.mktemp('labels') / 'lr.tif'
    x, y = Transformer.from_crs(26918, 5070, always_xy=True).transform(3.7e5, 4.3e6)
    grid = GeoBox((16, 12), Affine(30, 0, x - 70, 0, -30, y + 90), 'EPSG:5070')
    codes = np.random.default_rng(1).choice([11, 41, 82, 0], (1, 16, 12))
    return LabelRaster.open(write(path, codes.astype('uint8'), grid, 0))[0]


def chips(
    imagery: Imagery, labels: list[LabelRaster], partition: bool = True
) -> list[Chip]:
    """The chips of a fit, each with its pixels in a partition if that is wanted."""
    plan = Plan(imagery.geobox, 96, 512, overlap=24, halo=6, align=4)
    return [
        read_chip(
            imagery, plan.crop(index), labels, plan.own(index) if partition else None
        )
        for _, index in LabelledChips([plan], [labels], 0)
    ]


def look(chips: list[Chip], pixels: int = 10**6, seed: int = 0) -> list[Cells]:
    backbone = Identity(2)
    return [Cells.of(backbone(c.image[None]), c, pixels, seed) for c in chips]


def dense(imagery: Imagery, labels: LabelRaster) -> dict[tuple[int, int], tuple]:
    """Code, mean, pixels and share of every labelled cell, from the whole raster."""
    image, valid = imagery.read(imagery.geobox)
    region = region_map(imagery.geobox, labels.geobox)
    codes = labels.read(region.rows, region.cols).ravel()
    cells = {}
    for cell, code in enumerate(codes):
        inside = region.mask_region == cell + 1
        usable = inside & valid
        if code < 0 or not usable.any():
            continue
        row, col = divmod(cell, region.window[3])
        share = region.share[cell] * usable.sum() / inside.sum()
        place = row + region.window[0], col + region.window[1]
        cells[place] = code, image[:, usable].mean(1), usable, share
    return cells


def same(first: CellTable, second: CellTable) -> None:
    for name in ('features', 'code', 'share', 'place', 'pixels', 'owner'):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.side == second.side


def test_cells_are_whole_whatever_the_chips(
    imagery: Imagery, labels: LabelRaster
) -> None:
    table = Cells.concat(look(chips(imagery, [labels]))).table()
    expected = dense(imagery, labels)
    assert len(table) == len(expected) > 60
    for i, (number, row, col) in enumerate(table.place.tolist()):
        code, mean, _, share = expected[row, col]
        assert number == 0
        assert table.code[i] == code
        np.testing.assert_allclose(table.features[i], mean, atol=1e-5)
        # Of cells that the imagery's edge cuts the share is that of their area.
        assert float(table.share[i]) == pytest.approx(share, rel=0.02)
    whole = sum(share == 1 for *_, share in expected.values())
    enough = sum(share >= 0.5 for *_, share in expected.values())
    assert table.seen.sum() == enough > whole > 30
    pixels = [
        int(usable.sum()) for _, _, usable, share in expected.values() if share == 1
    ]
    assert table.side**2 == pytest.approx(sorted(pixels)[(whole - 1) // 2])
    assert table.subset(table.seen, 10).side == table.side
    assert table.count() == {
        code: sum(e[0] == code for e in expected.values()) for code in (11, 41, 82)
    }
    # every pixel of a labelled cell once, with its cell
    image, _ = imagery.read(imagery.geobox)
    for code in (11, 41, 82):
        inside = np.logical_or.reduce(
            [use for own, _, use, _ in expected.values() if own == code]
        )
        drawn = table.pixels[table.code[table.owner] == code, 0].sort().values
        np.testing.assert_allclose(drawn, np.sort(image[0, inside]), atol=1e-6)


def test_sum_does_not_depend_on_its_order(
    imagery: Imagery, labels: LabelRaster
) -> None:
    """Bit by bit; nor on how parts were put together, or sent to another process."""
    parts = look(chips(imagery, [labels]), pixels=50)
    expected = Cells.concat(parts).table()
    order = np.random.default_rng(0).permutation(len(parts))
    same(Cells.concat([parts[i] for i in order]).table(), expected)
    half = len(parts) // 2
    left, right = Cells.concat(parts[half:]), Cells.concat(parts[:half])
    same((left + right).table(), expected)
    sent = pickle.loads(pickle.dumps(right))
    same((sent + left).table(), expected)
    # A chip that two processes were given counts once.
    same((left + right + parts[3]).table(), expected)
    assert len(left + right) == sum(map(len, parts))


def test_merging_holds_pixels_once(imagery: Imagery, labels: LabelRaster) -> None:
    """The same table as of the sum, in any order and with repeats; and no copies."""
    parts = look(chips(imagery, [labels]))
    expected = Cells.concat(parts).table()
    again = [*parts[::-1], parts[0]]
    merged = Cells.merge(again)
    assert again == []
    same(merged.table(), expected)
    assert merged.table().pixels.data_ptr() == merged.pixels.data_ptr()
    one = Cells.merge([parts[0]])
    assert one.pixels.data_ptr() == parts[0].pixels.data_ptr()
    with pytest.raises(InputError, match='No chip'):
        Cells.merge([])


def test_split_is_the_way_back(imagery: Imagery, labels: LabelRaster) -> None:
    parts = look(chips(imagery, [labels]), pixels=50)
    parts = sorted(parts, key=lambda part: part.chips.tolist())
    for one, again in zip(parts, Cells.concat(parts).split(), strict=True):
        for name in vars(one):
            assert torch.equal(getattr(one, name), getattr(again, name)), name


def test_of_other_chips_only_whole_cells_count(
    imagery: Imagery, labels: LabelRaster
) -> None:
    """Chips that overlap would count a cell's pixels twice."""
    some = chips(imagery, [labels], partition=False)
    expected = dense(imagery, labels)
    for chip, part in zip(some, look(some), strict=True):
        region = torch.where(chip.valid, chip.region, 0)
        count = torch.bincount(region.flatten(), minlength=len(chip.code) + 1)[1:]
        shown = {
            tuple(place[1:])
            for place, n in zip(chip.place.tolist(), count.tolist(), strict=True)
            if tuple(place[1:]) in expected
            and n == expected[tuple(place[1:])][2].sum()
            and expected[tuple(place[1:])][3] == 1
        }
        assert {tuple(p[1:]) for p in part.place.tolist()} == shown
    table = Cells.concat(look(some)).table()
    assert (table.share == 1).all()
    for i, (_, row, col) in enumerate(table.place.tolist()):
        np.testing.assert_allclose(table.features[i], expected[row, col][1], atol=1e-5)


def test_pixels_are_limited_and_seeded(imagery: Imagery, labels: LabelRaster) -> None:
    some = chips(imagery, [labels])
    table = Cells.concat(look(some, pixels=20)).table()
    assert 200 < len(table.pixels) <= 20 * len(some)
    same(table, Cells.concat(look(some[::-1], pixels=20)).table())
    other = Cells.concat(look(some, pixels=20, seed=1)).table()
    assert not torch.equal(table.pixels, other.pixels)
    assert torch.equal(table.features, other.features)


def test_pixels_lie_in_their_cells(imagery: Imagery, labels: LabelRaster) -> None:
    """Where a pixel is, is what its features say; each is drawn once."""
    chip = chips(imagery, [labels])[0]
    where = torch.arange(chip.region.numel()).view(1, *chip.region.shape)
    located = replace(chip, image=where.expand(2, -1, -1).double())
    (part,) = look([located], pixels=300)
    drawn = part.pixels[:, 0].long()
    assert len(drawn.unique()) == len(drawn) == 300
    cell = chip.region.flatten()[drawn] - 1
    assert torch.equal(part.place[part.owner], chip.place[cell])
    assert torch.equal(part.code[part.owner], chip.code[cell])


def test_invalid_pixels_do_not_count(imagery: Imagery, labels: LabelRaster) -> None:
    chip = chips(imagery, [labels])[0]
    image, valid = chip.image.clone(), chip.valid.clone()
    image[:, :40], valid[:40] = 1e9, False
    (part,) = look([replace(chip, image=image, valid=valid)])
    (whole,) = look([chip])
    assert 0 < part.count.sum() < whole.count.sum()
    assert (part.sums / part.count[:, None]).abs().max() < 10
    assert part.pixels.abs().max() < 10


def test_first_label_raster_counts(
    imagery: Imagery, labels: LabelRaster, tmp_path: Path
) -> None:
    """And the next fills what it leaves open."""
    grid = GeoBox((40, 50), Affine(10, 0, 3.7e5, 0, -10, 4.3e6), 'EPSG:26918')
    path = write(tmp_path / 'other.tif', np.full((1, 40, 50), 22, np.uint8), grid, 0)
    second = LabelRaster.open(path)[0]
    alone = Cells.concat(look(chips(imagery, [labels]))).table()
    both = Cells.concat(look(chips(imagery, [labels, second]))).table()
    filled = both.code == 22
    assert torch.equal(both.place[~filled, 1:], alone.place[:, 1:])
    torch.testing.assert_close(both.features[~filled], alone.features)
    assert len(both.place[filled, 0].unique()) == 1
    # Every pixel with data has a label now, and is counted once.
    _, valid = imagery.read(imagery.geobox)
    assert len(both.pixels) == valid.sum()


def test_cells_larger_than_chips_are_put_together(
    imagery: Imagery, tmp_path: Path
) -> None:
    grid = GeoBox((2, 3), Affine(130, 0, 3.7e5 + 5, 0, -130, 4.3e6 - 25), 'EPSG:26918')
    codes = np.array([[[11, 41, 82], [82, 11, 41]]], np.uint8)
    (raster,) = LabelRaster.open(write(tmp_path / 'big.tif', codes, grid, 0))
    table = Cells.concat(look(chips(imagery, [raster]))).table()
    assert table.code.tolist() == codes.ravel().tolist()
    assert (table.share == 1).all()
    image, _ = imagery.read(imagery.geobox)
    for i, (row, col) in enumerate(np.ndindex(2, 3)):
        window = image[:, 25 + 130 * row :, 5 + 130 * col :][:, :130, :130]
        np.testing.assert_allclose(table.features[i], window.mean((1, 2)), atol=1e-5)


def test_blocks_are_of_neighbouring_cells(
    imagery: Imagery, labels: LabelRaster
) -> None:
    table = Cells.concat(look(chips(imagery, [labels]))).table()
    corner = [(row // 3, col // 3) for _, row, col in table.place.tolist()]
    numbers = table.block.tolist()
    assert len(set(zip(corner, numbers, strict=True))) == len(set(corner))
    assert len(set(numbers)) == len(set(corner)) > 5


def test_first_chips_with_labels_are_taken(
    imagery: Imagery, labels: LabelRaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = look(chips(imagery, [labels]), pixels=10)
    chip = chips(imagery, [labels])[0]
    empty = replace(chip, valid=torch.zeros_like(chip.valid), key=(0, 7, 7))
    (nothing,) = look([empty])
    assert len(nothing) == 0
    assert take([nothing, *parts], 3) == parts[:3]
    assert take([parts[0], parts[0], *parts], 2) == parts[:2]
    monkeypatch.setattr(module, 'MAX_CELLS', len(parts[0]) + 1)
    assert take(parts, 50) == parts[:2]


def test_nothing_to_fit_says_so() -> None:
    with pytest.raises(InputError, match='nothing to fit'):
        Cells.concat([])


def test_many_cells_of_a_chip_are_drawn_in_whole_blocks(
    imagery: Imagery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells of two pixels: each chip gives some blocks of them, from all over it."""
    grid = GeoBox((150, 205), Affine(2, 0, 3.7e5, 0, -2, 4.3e6), 'EPSG:26918')
    codes = np.random.default_rng(1).choice([11, 41, 82], (1, 150, 205))
    labels = LabelRaster.open(write(tmp_path / 'lr.tif', codes.astype('u1'), grid, 0))
    chip = max(chips(imagery, list(labels)), key=lambda c: len(c.code))
    every = look([chip])[0]
    monkeypatch.setattr(module, 'CHIP_CELLS', 300)
    some, again, other = (look([chip], seed=seed)[0] for seed in (0, 0, 1))
    assert 300 - 9 < len(some) <= 300 < len(every) / 3
    assert torch.equal(some.place, again.place)
    assert not torch.equal(some.place, other.place)

    def by_block(cells: Cells) -> dict[tuple[int, int], set[tuple[int, int]]]:
        blocks: dict[tuple[int, int], set[tuple[int, int]]] = {}
        for row, col in cells.place[:, 1:].tolist():
            blocks.setdefault((row // 3, col // 3), set()).add((row, col))
        return blocks

    whole, drawn = by_block(every), by_block(some)
    assert all(whole[key] == members for key, members in drawn.items())
    index = {tuple(p): i for i, p in enumerate(every.place.tolist())}
    same_cells = [index[tuple(p)] for p in some.place.tolist()]
    assert torch.equal(some.sums, every.sums[same_cells])
    assert torch.equal(some.code, every.code[same_cells])
    middle = every.place[:, 1:].double().mean(0)
    quarters = torch.unique(some.place[:, 1:] > middle, dim=0, return_counts=True)[1]
    assert len(quarters) == 4
    assert quarters.min() > 300 / 8
    # Pixels are drawn from these cells alone.
    assert len(some.pixels) == int(some.count.sum())


def test_labels_as_fine_as_the_imagery_are_seen_on_every_chip(tmp_path: Path) -> None:
    make_scene(tmp_path, seed=0, size=(448, 448))
    job = MapJob.from_flags(
        imagery=str(tmp_path / 'imagery.tif'),
        labels=str(tmp_path / 'hr.tif'),
        legend='land-cover-4',
        output=tmp_path / 'map.tif',
        backbone='rcf?filters=6&colours=24&strides=1,4',
        chip_size=224,
    )
    fit = map_region(job).report['fit']
    assert fit['chips'] == 9
    assert fit['labels']['cells_used'] > 0.9 * 9 * module.CHIP_CELLS
    assert fit['labels']['cells_used'] <= 9 * module.CHIP_CELLS
