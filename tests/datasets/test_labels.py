# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.features import sieve
from rasterio.transform import Affine
from scipy import ndimage

from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.label_check import check_codes
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.legend import Legend, LegendClass
from torchgeo_mapsr.datasets.pair import LRHRPair
from torchgeo_mapsr.datasets.plot import per_pixel
from torchgeo_mapsr.datasets.sources import label_rasters
from torchgeo_mapsr.errors import InputError, InputWarning

from .conftest import HR, UTM, Write

ALBERS = Affine(30, 0, 1339185, 0, -30, 1736145)


def codes(*shape: int, dtype: str = 'uint8') -> NDArray[np.generic]:
    return np.random.default_rng(0).integers(1, 90, shape).astype(dtype)


def everything(raster: LabelRaster) -> NDArray[np.int64]:
    height, width = raster.geobox.shape
    return raster.read(slice(0, height), slice(0, width))


@pytest.mark.parametrize('dtype', ['uint8', 'int16', 'uint16', 'int32', 'float32'])
def test_codes_are_raw(write: Write, dtype: str) -> None:
    values = codes(8, 9, dtype=dtype)
    path = write('a.tif', values, ALBERS, 'EPSG:5070')
    (raster,) = LabelRaster.open(path)
    assert raster.paths == (path,)
    assert raster.geobox == GeoBox((8, 9), ALBERS, 'EPSG:5070')
    assert everything(raster).dtype == np.int64
    np.testing.assert_array_equal(everything(raster), values)


def test_outside_is_minus_one(write: Write) -> None:
    values = codes(8, 9)
    (raster,) = LabelRaster.open(write('a.tif', values))
    padded = np.pad(values.astype(int), 20, constant_values=-1)
    for top, left, height, width in [(-3, -2, 20, 20), (5, 5, 9, 9), (-15, 0, 9, 9)]:
        np.testing.assert_array_equal(
            raster.read(slice(top, top + height), slice(left, left + width)),
            padded[top + 20 : top + 20 + height, left + 20 : left + 20 + width],
        )


def test_nodata_and_masks(write: Write) -> None:
    values = codes(8, 9)
    expected = np.where(values == values[3, 3], -1, values.astype(int))
    (raster,) = LabelRaster.open(write('a.tif', values, nodata=values[3, 3]))
    np.testing.assert_array_equal(everything(raster), expected)

    mask = np.random.default_rng(1).random((8, 9)) < 0.5
    masked = np.where(mask, values.astype(int), -1)
    (raster,) = LabelRaster.open(write('b.tif', values, mask=mask))
    np.testing.assert_array_equal(everything(raster), masked)

    two = np.stack([values, mask * np.uint8(255)])
    interp = [ColorInterp.gray, ColorInterp.alpha]
    (raster,) = LabelRaster.open(write('c.tif', two, colorinterp=interp))
    np.testing.assert_array_equal(everything(raster), masked)

    floats = np.where(mask, values, np.nan).astype('float32')
    (raster,) = LabelRaster.open(write('d.tif', floats))
    np.testing.assert_array_equal(everything(raster), masked)


def test_files_on_one_grid_are_one_raster(write: Write) -> None:
    values = codes(20, 30)
    paths = [
        write('r.tif', values[:, 18:], ALBERS * Affine.translation(18, 0), 'EPSG:5070'),
        write('other.tif', values, ALBERS * Affine.translation(0.5, 99), 'EPSG:5070'),
        write('l.tif', values[:, :20], ALBERS, 'EPSG:5070'),
        write('utm.tif', values),
    ]
    rasters = LabelRaster.open(paths)
    assert [r.paths for r in rasters] == [
        (paths[0], paths[2]),
        (paths[1],),
        (paths[3],),
    ]
    assert rasters[0].geobox == GeoBox((20, 30), ALBERS, 'EPSG:5070')
    np.testing.assert_array_equal(everything(rasters[0]), values)
    prints = {r.fingerprint() for r in rasters}
    assert len(prints) == 3
    assert prints == {r.fingerprint() for r in LabelRaster.open(paths)}


def test_first_file_with_data_wins(write: Write) -> None:
    first, second = codes(6, 6), np.full((6, 6), 99, 'uint8')
    first[:3] = 0
    (raster,) = LabelRaster.open(
        [write('a.tif', first, nodata=0), write('b.tif', second)]
    )
    np.testing.assert_array_equal(everything(raster), np.where(first == 0, 99, first))


def test_bad_input(write: Write) -> None:
    with pytest.raises(InputError, match='3 bands; labels are one band'):
        LabelRaster.open(write('rgb.tif', codes(3, 5, 5)))
    (raster,) = LabelRaster.open(write('f.tif', np.full((5, 5), 0.5, 'float32')))
    with pytest.raises(InputError, match='fractions'):
        everything(raster)
    files = [
        LabelRaster.open(write(f'{i}.tif', codes(5, 5), HR * Affine.rotation(i)))[0]
        for i in range(2)
    ]
    with pytest.raises(InputError, match='not on the grid of'):
        LabelRaster([f for r in files for f in r._files])


def test_at_is_nearest_neighbour(write: Write) -> None:
    values = codes(40, 40, dtype='uint16')
    transform = ALBERS * Affine.translation(-10, -10)
    path = write('a.tif', values, transform, 'EPSG:5070')
    (raster,) = LabelRaster.open(path)
    grid = GeoBox((448, 448), HR, UTM)
    expected = np.zeros((448, 448), 'uint16')
    with rasterio.open(path) as source:
        rasterio.warp.reproject(
            rasterio.band(source, 1),
            expected,
            dst_transform=HR,
            dst_crs=UTM,
            resampling=rasterio.warp.Resampling.nearest,
            init_dest_nodata=False,
        )
    found = raster.at(grid)
    # GDAL's transform is an approximation to an eighth of a pixel
    assert np.mean(found != expected) < 0.01
    # on its own grid it is a plain read
    np.testing.assert_array_equal(raster.at(raster.geobox), values)
    beyond = raster.at(raster.geobox.pad(3))
    np.testing.assert_array_equal(beyond[3:-3, 3:-3], values)
    assert (beyond[:3] == -1).all()


CHESAPEAKE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 4}
OPENEARTHMAP = {1: 3, 2: 3, 7: 3, 3: 4, 4: 4, 8: 4, 5: 2, 6: 1}


class TestRealScenes:
    """The figures for copying the LR labels, as data/README.md gives them."""

    def confusion(
        self, folder: Path, labels: str, truth_classes: dict[int, int]
    ) -> NDArray[np.int64]:
        grid = Imagery(folder / 'imagery.tif').geobox
        (lr,) = LabelRaster.open(folder / labels)
        (hr,) = LabelRaster.open(folder / 'hr.tif')
        target = Legend.load('land-cover-4')
        chesapeake = 'chesapeake' in str(folder)
        walk = Crosswalk.load('nlcd' if chesapeake else target, target)
        table = np.zeros(256, int)
        table[list(truth_classes)] = list(truth_classes.values())
        truth, copy = table[hr.at(grid)] - 1, walk.index(lr.at(grid))
        known = (truth >= 0) & (copy >= 0)
        pairs = truth[known] * 4 + copy[known]
        return np.bincount(pairs, minlength=16).reshape(4, 4)

    def miou(self, confusion: NDArray[np.int64]) -> float:
        union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
        present = confusion.sum(1) > 0
        return float(np.mean(np.diag(confusion)[present] / union[present]))

    @pytest.mark.parametrize(
        ('scene', 'labels', 'expected'),
        [
            ('austin_29', 'lr.tif', 0.624),
            ('austin_29', 'lr_noisy.tif', 0.458),
            ('wielkopolskie_9', 'lr.tif', 0.583),
            ('wielkopolskie_9', 'lr_noisy.tif', 0.333),
        ],
    )
    def test_openearthmap(
        self, shared: Path, scene: str, labels: str, expected: float
    ) -> None:
        folder = shared / 'data/openearthmap' / scene
        confusion = self.confusion(folder, labels, OPENEARTHMAP)
        assert round(self.miou(confusion), 3) == expected

    def test_chesapeake(self, shared: Path) -> None:
        folders = sorted((shared / 'data/chesapeake_wv').iterdir())
        pooled = [self.confusion(f, 'lr.tif', CHESAPEAKE) for f in folders]
        assert len(pooled) == 8
        assert self.miou(np.sum(pooled, axis=0)) == pytest.approx(0.400, abs=0.001)


class TestLegend:
    def test_class_that_is_the_no_data_value(self, write: Write) -> None:
        codes = np.full((20, 20), 1, 'uint8')
        codes[:2] = 0
        labels = LabelRaster.open(write('a.tif', codes, nodata=0))
        legend = Legend.load('dynamic-world')
        with pytest.warns(
            InputWarning, match=r'a\.tif: 40 of 400 cells hold 0, .*Water'
        ):
            check_codes(labels, legend)
        classes = (LegendClass(1, 'a', (0, 0, 0)), LegendClass(2, 'b', (9, 9, 9)))
        check_codes(labels, Legend('two', classes))

    def test_negative_numbers_are_no_codes(self, write: Write) -> None:
        """Above half of the cells, and still of the legend."""
        values = np.full((20, 20), -9999, 'int16')
        values[:8] = 41
        labels = LabelRaster.open(write('a.tif', values))
        with pytest.warns(
            InputWarning, match=r'240 of 400 cells hold .* such as -9999'
        ):
            check_codes(labels, Legend.load('nlcd'))

    def test_other_legend_is_named(self, write: Write) -> None:
        codes = np.random.default_rng(0).choice([11, 21, 41, 82, 95], (20, 20))
        labels = LabelRaster.open(write('a.tif', codes.astype('uint8')))
        check_codes(labels, Legend.load('nlcd'))
        expected = int((codes == 95).sum())
        match = rf"a\.tif: only {expected} of 400 .*'worldcover'.*'nlcd.*' has them"
        with pytest.raises(InputError, match=match):
            check_codes(labels, Legend.load('worldcover'))

    def test_codes_of_no_legend(self, write: Write) -> None:
        labels = LabelRaster.open(write('a.tif', np.full((9, 9), 201, 'uint8')))
        with pytest.raises(InputError, match='codes are 201: give the legend'):
            check_codes(labels, Legend.load('nlcd'))

    def test_only_where_the_imagery_is(self, write: Write) -> None:
        codes = np.full((40, 40), 201, 'uint8')
        codes[:10, :10] = 41
        (labels,) = LabelRaster.open(write('a.tif', codes))
        check_codes([labels], Legend.load('nlcd'), [labels.geobox[:10, :10]])

    def test_a_copy_in_small_cells(self, write: Write) -> None:
        """Cells of 10 m, turned by 20 degrees: labels that one warps to the imagery."""
        cells = np.random.default_rng(0).choice([11, 41, 81], (60, 60)).astype('uint8')
        turned = HR * Affine.translation(-200, 0) * Affine.rotation(20)
        grid = GeoBox((300, 300), HR, UTM)
        copy = np.zeros(grid.shape, 'uint8')
        rasterio.warp.reproject(
            cells,
            copy,
            src_transform=turned * Affine.scale(10),
            src_crs=UTM,
            dst_transform=HR,
            dst_crs=UTM,
        )
        legend = Legend.load('nlcd')
        own = write('own.tif', cells, turned * Affine.scale(10))
        # labels that are as fine as the imagery
        copies = LabelRaster.open(write('copy.tif', copy))
        noisy = np.where(np.random.default_rng(1).random(copy.shape) < 0.01, 21, copy)
        fine = LabelRaster.open(write('fine.tif', noisy))
        with warnings.catch_warnings():
            warnings.simplefilter('error', InputWarning)
            check_codes(LabelRaster.open(own), legend, [grid])
            check_codes(fine, legend, [grid])
        with pytest.warns(
            InputWarning, match=r'copy\.tif: its cells .* look resampled'
        ):
            check_codes(copies, legend, [grid])
        with pytest.warns(InputWarning, match='whole blocks of 100 cells'):
            check_codes(copies, legend, [grid.zoom_out(0.4)])

    @pytest.mark.parametrize('degrees', [0, 12.7])
    def test_a_copy_in_cells_that_are_finer(self, write: Write, degrees: float) -> None:
        """Cells of 30 m in cells of 10 m under pixels of 1 m: as of NLCD in UTM."""
        cells = np.random.default_rng(0).choice(
            [11, 41, 81], (60, 60), p=[0.1, 0.2, 0.7]
        )
        turned = HR * Affine.rotation(degrees) * Affine.scale(30)
        copy = np.zeros((120, 120), 'uint8')
        rasterio.warp.reproject(
            cells.astype('uint8'),
            copy,
            src_transform=turned,
            src_crs=UTM,
            dst_transform=(
                fine := HR * Affine.translation(300, 300) * Affine.scale(10)
            ),
            dst_crs=UTM,
        )
        grid, legend = GeoBox((1200, 1200), HR, UTM), Legend.load('nlcd')
        grid = grid.translate_pix(300, 300)
        copies = LabelRaster.open(write('copy.tif', copy, fine))
        with pytest.warns(InputWarning, match='whole blocks of 9 cells: they'):
            check_codes(copies, legend, [grid])
        own = LabelRaster.open(write('own.tif', cells.astype('uint8'), turned))
        # a map that was cleaned of small patches, but in its own cells
        smooth = ndimage.gaussian_filter(np.random.default_rng(1).random((300, 300)), 2)
        clean = sieve((smooth > smooth.mean()).astype('uint8') * 30 + 11, 9)
        cleaned = LabelRaster.open(write('clean.tif', clean, HR * Affine.scale(10)))
        with warnings.catch_warnings():
            warnings.simplefilter('error', InputWarning)
            check_codes(own, legend, [grid])
            check_codes(cleaned, legend, [grid])

    def test_many_cells_are_sampled(self, write: Write) -> None:
        (labels,) = LabelRaster.open(write('a.tif', np.full((3000, 9000), 41, 'uint8')))
        present, absent = labels.count_codes()
        assert 0 < present[41] < 3000 * 9000
        assert not absent


def test_value_that_is_no_code(write: Write) -> None:
    values = np.ones((9, 9), 'float32')
    values[0] = -3.4e38
    (labels,) = LabelRaster.open(write('a.tif', values))
    with pytest.raises(InputError, match='declare it as no data'):
        labels.read(slice(0, 9), slice(0, 9))


def test_codes_have_no_scale(write: Write) -> None:
    path = write('a.tif', np.full((4, 4), 4, 'uint8'))
    LabelRaster.open(path)
    for scale, offset in ((10.0, 0.0), (1.0, 1.0)):
        with rasterio.open(path, 'r+') as dataset:
            dataset.scales, dataset.offsets = [scale], [offset]
        with pytest.raises(InputError, match=r'a\.tif: is tagged with a scale or'):
            LabelRaster.open(path)


def test_labels_on_both_sides_of_the_antimeridian(write: Write) -> None:
    codes = np.random.default_rng(0).integers(1, 9, (32, 64)).astype('uint8')
    step = 180 / 2**20
    paths = [
        write(
            'e.tif',
            codes[:, :32],
            Affine(step, 0, 180 - 32 * step, 0, -step, -17),
            'EPSG:4326',
        ),
        write(
            'w.tif', codes[:, 32:], Affine(step, 0, -180, 0, -step, -17), 'EPSG:4326'
        ),
    ]
    (labels,) = LabelRaster.open(paths)
    assert labels.geobox.shape == (32, 64)
    np.testing.assert_array_equal(labels.at(labels.geobox), codes)


@pytest.mark.parametrize(('dtype', 'full'), [('uint16', 255), ('uint8', 1)])
def test_alpha_of_any_opaque_value(write: Write, dtype: str, full: int) -> None:
    values = np.full((2, 9, 9), full, dtype)
    values[0], values[1, :3] = 41, 0
    path = write('a.tif', values, colorinterp=[ColorInterp.gray, ColorInterp.alpha])
    (labels,) = LabelRaster.open(path)
    expected = np.where(values[1] > 0, 41, -1)
    np.testing.assert_array_equal(labels.read(slice(0, 9), slice(0, 9)), expected)


def test_lossy_compression_is_refused(tmp_path: Path) -> None:
    """JPEG turns 41 into 40 and 43: other classes, without a word."""
    path = tmp_path / 'labels.tif'
    codes = np.random.default_rng(0).choice([11, 41, 81], (64, 64)).astype(np.uint8)
    with rasterio.open(
        path, 'w', driver='GTiff', width=64, height=64, count=1, dtype='uint8',
        crs='EPSG:5070', transform=Affine(30, 0, 1.6e6, 0, -30, 1.9e6), compress='jpeg',
    ) as file:  # fmt: skip
        file.write(codes, 1)
    with rasterio.open(path) as file:
        assert set(np.unique(file.read(1))) - {11, 41, 81}
    with pytest.raises(
        InputError, match=r'labels\.tif: is compressed with losses \(JPEG'
    ):
        LabelRaster.open(path)


class TestListsOfLabels:
    """Paths and rasters that are open already."""

    def test_in_their_order(self, write: Write) -> None:
        albers = Affine(30, 0, 1339185, 0, -30, 1736145)
        grids = (HR, HR, HR * Affine.translation(0.4, 0), albers)
        paths = [
            write(f'{i}.tif', np.full((9, 9), i + 1, 'uint8'), grid)
            for i, grid in enumerate(grids)
        ]
        first, second, third, fourth = paths
        raster = LabelRaster.open(third)[0]
        for sources, expected in (
            ([raster, fourth], [(third,), (fourth,)]),
            ([fourth, raster], [(fourth,), (third,)]),
            # paths that follow one another are a mosaic where they are on one grid
            ([first, second, raster, fourth], [(first, second), (third,), (fourth,)]),
            ([first, raster, second], [(first,), (third,), (second,)]),
            ([raster], [(third,)]),
            (iter([raster, first]), [(third,), (first,)]),
        ):
            found = label_rasters(sources)  # type: ignore[arg-type]
            assert [labels.paths for labels in found] == expected
        with pytest.raises(InputError, match='no raster files'):
            label_rasters([])

    def test_first_file_wins_across_grids(self, write: Write) -> None:
        """Files of two grids in turn, one over the other: the first named counts."""
        image = write('i.tif', np.ones((3, 60, 60), 'uint8'))
        coarse, shifted = HR * Affine.scale(10), HR * Affine(10, 0, 5, 0, 10, 5)
        rng = np.random.default_rng(0)
        layers: list[NDArray[np.uint8]] = []
        paths: list[str] = []
        centre = np.arange(60) + 0.5
        for i, grid in enumerate((coarse, shifted, coarse, shifted, coarse)):
            codes = np.where(rng.random((6, 6)) < 0.5, i + 1, 0).astype('uint8')
            paths.append(write(f'{i}.tif', codes, grid, nodata=0))
            place = np.floor((centre - (5 if grid == shifted else 0)) / 10).astype(int)
            padded = np.pad(codes, ((1, 0), (1, 0)))
            layers.append(padded[np.ix_(place + 1, place + 1)])
        for order in (
            [0, 1, 2, 3, 4],
            [1, 2, 0, 4, 3],
            [0, 2, 1, 3, 4],
            [4, 3, 2, 1, 0],
        ):
            expected = np.zeros((60, 60), int)
            for i in reversed(order):
                expected = np.where(layers[i] > 0, layers[i].astype(int), expected)
            sample = LRHRPair(image, [paths[i] for i in order])[:]
            found = per_pixel(sample['lr_label'], sample['mask_region'])
            np.testing.assert_array_equal(np.maximum(found, 0), expected)

    def test_tiles_in_turn_are_two_mosaics(self, write: Write) -> None:
        """Where none lies over another the order does not matter: a raster a grid."""
        grids = (HR, UTM), (ALBERS * Affine.translation(999, 0), 'EPSG:5070')
        tiles = [
            write(
                f'{col}{crs[5:]}.tif',
                codes(9, 9),
                grid * Affine.translation(9 * col, 0),
                crs,
            )
            for col in range(3)
            for grid, crs in grids
        ]
        assert [raster.paths for raster in LabelRaster.open(tiles)] == [
            tuple(tiles[::2]),
            tuple(tiles[1::2]),
        ]

    def test_both_count(self, write: Write) -> None:
        """The raster's labels first, those of the path where it has none."""
        image = write('i.tif', np.ones((3, 60, 60), 'uint8'))
        coarse = HR * Affine.scale(10)
        first = np.full((6, 6), 11, 'uint8')
        first[:, 3:] = 0
        (raster,) = LabelRaster.open(write('1.tif', first, coarse, nodata=0))
        second = write(
            '2.tif', np.full((9, 9), 41, 'uint8'), coarse * Affine.translation(-1, -0.5)
        )
        sample = LRHRPair(image, [raster, second])[:]
        found = per_pixel(sample['lr_label'], sample['mask_region'])
        assert (found[:, :30] == 11).all()
        assert (found[:, 30:] == 41).all()


def test_a_no_data_tag_with_fewer_digits(write: Write) -> None:
    """As GDAL's tools write the lowest float."""
    values = np.full((8, 9), 3, np.float32)
    values[:4] = np.finfo(np.float32).min
    path = write('a.tif', values, ALBERS, 'EPSG:5070', nodata=-3.40282e38)
    (raster,) = LabelRaster.open(path)
    assert (everything(raster)[:4] == -1).all()
    assert (everything(raster)[4:] == 3).all()
