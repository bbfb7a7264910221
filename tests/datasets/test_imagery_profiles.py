# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What is valid and what it is worth, for profiles of any kind, against GDAL's reading."""

import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as copy_raster
from rasterio.transform import Affine

from torchgeo_mapsr.datasets.geo.raster import RasterFile
from torchgeo_mapsr.datasets.geo.round_earth import bring_together
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.errors import InputError, InputWarning

from .conftest import HR, UTM, Write

RGB = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
RGBA = [*RGB, ColorInterp.alpha]
PLACES = {
    'EPSG:26917': HR,
    'EPSG:3857': Affine(1.5, 0, -8.5e6, 0, -1.5, 4.6e6),
    'EPSG:4326': Affine(1e-5, 0, -76.5, 0, -1e-5, 38.2),
    'EPSG:5070': Affine(30, 0, 1.7e6, 0, -30, 1.9e6),
}
DTYPES = 'uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'float64'
TURNS = {
    'north-up': Affine.identity(),
    'south-up': Affine.scale(1, -1),
    'mirrored': Affine.scale(-1, 1),
    'rotated': Affine.rotation(20),
}


@dataclass(frozen=True)
class Profile:
    """A raster of some kind."""

    dtype: str
    count: int
    extra: str  # '', 'alpha' or 'palette'
    opaque: float
    nodata: float | None
    mask: str  # '', 'internal' or 'external'
    scale: float
    offset: float
    crs: str
    turn: str
    seed: int

    def write(self, path: Path) -> None:
        rng = np.random.default_rng(self.seed)
        shape = self.count, 40, 50
        largest = 120 if self.dtype == 'int8' else 200
        values = rng.integers(1, largest, shape).astype(self.dtype)
        if self.nodata is not None:
            values[:, :, :7] = self.nodata
            values[rng.random(shape) < 0.05] = self.nodata
        elif values.dtype.kind == 'f':
            values[rng.random(shape) < 0.02] = np.nan
        colors = [ColorInterp.gray, *[ColorInterp.undefined] * (self.count - 1)]
        if self.extra == 'alpha':
            alpha = np.full((1, 40, 50), self.opaque, self.dtype)
            alpha[:, 20:, 30:] = 0
            values = np.concatenate([values, alpha])
            colors.append(ColorInterp.alpha)
        place = PLACES[self.crs] * TURNS[self.turn]
        inside = self.mask == 'internal'
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
            rasterio.open(
                path,
                'w',
                driver='GTiff',
                count=len(values),
                height=40,
                width=50,
                dtype=self.dtype,
                crs=self.crs,
                transform=place,
                nodata=self.nodata,
            ) as target,
        ):
            target.colorinterp = colors
            if self.extra == 'palette':
                table = rng.integers(0, 256, (256, 3)).tolist()
                target.write_colormap(1, {i: (*c, 255) for i, c in enumerate(table)})
            target.write(values)
            target.scales = [self.scale] * len(values)
            target.offsets = [self.offset] * len(values)
            if self.mask:
                target.write_mask(rng.random((40, 50)) < 0.8)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    dtype = draw(st.sampled_from(DTYPES))
    extra = draw(st.sampled_from(['', 'alpha', 'palette' if dtype == 'uint8' else '']))
    opaque = {'uint8': 255.0, 'int8': 127.0, 'float32': 1.0, 'float64': 255.0}.get(
        dtype, 2047.0
    )
    small = dtype in ('uint8', 'int8')
    lowest = [-128.0 if small else -9999.0] if dtype[0] != 'u' else []
    usual = [0.0, 120.0 if dtype == 'int8' else 200.0]
    undefined = [float('nan')] if dtype[0] == 'f' else []
    return Profile(
        dtype,
        1 if extra == 'palette' else draw(st.integers(1, 4)),
        extra,
        draw(st.sampled_from([opaque, 1.0])),
        draw(st.sampled_from([None, *usual, *lowest, *undefined])),
        draw(st.sampled_from(['', 'internal', 'external'])),
        1.0 if extra == 'palette' else draw(st.sampled_from([1.0, 1e-4, 2.0])),
        0.0 if extra == 'palette' else draw(st.sampled_from([0.0, -0.1])),
        draw(st.sampled_from(sorted(PLACES))),
        draw(st.sampled_from(sorted(TURNS))),
        draw(st.integers(0, 99)),
    )


def read_by_gdal(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values and validity as GDAL tells them, band by band."""
    with rasterio.open(path) as source:
        bands = [
            i for i, c in enumerate(source.colorinterp, 1) if c != ColorInterp.alpha
        ]
        valid = np.ones(source.shape, bool)
        if len(bands) < source.count:
            valid &= source.read(source.count) > 0
        if 'per_dataset' in str(source.mask_flag_enums[0]) and 'alpha' not in str(
            source.mask_flag_enums[0]
        ):
            valid &= source.read_masks(1) > 0
        raw = source.read(bands)
        lacking = np.zeros(raw.shape, bool)
        for i, band in enumerate(bands):
            nodata = source.nodatavals[band - 1]
            if nodata is not None:
                lacking[i] = np.ma.masked_equal(raw[i], nodata).mask
            if raw.dtype.kind == 'f':
                lacking[i] |= np.ma.masked_invalid(raw[i]).mask
        any_band = raw.dtype.kind == 'f' or (source.nodatavals[0] or 0) < 0
        valid &= ~(lacking.any(0) if any_band else lacking.all(0))
        if source.colorinterp[0] == ColorInterp.palette:
            table = source.colormap(1)
            raw = np.stack(
                [np.vectorize(lambda v, i=i: table[v][i])(raw[0]) for i in range(3)]
            )
        worth = raw.astype(np.float64)
        for i in range(len(worth)):
            scale, offset = (
                (1.0, 0.0)
                if len(worth) > len(bands)
                else (source.scales[bands[i] - 1], source.offsets[bands[i] - 1])
            )
            worth[i] = worth[i] * scale + offset
    return worth.astype(np.float32), valid


@settings(max_examples=120, deadline=None)
@given(profiles(), st.data())
def test_any_profile_is_read_as_gdal_reads_it(
    profile: Profile, data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'a.tif'
        profile.write(path)
        expected, known = read_by_gdal(path)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', InputWarning)
            imagery = Imagery(path)
        assert imagery.bands == len(expected)
        image, valid = imagery.read(imagery.geobox)
        np.testing.assert_array_equal(valid, known)
        np.testing.assert_array_equal(image[:, valid], expected[:, valid])
        assert not image[:, ~valid].any()
        assert sum(imagery.sources_of_nodata().values()) == np.count_nonzero(~known)
        top, left = data.draw(st.integers(-5, 39)), data.draw(st.integers(-5, 49))
        rows, cols = slice(max(top, 0), top + 20), slice(max(left, 0), left + 20)
        moved = imagery.geobox.translate_pix(left, top)
        part, some = imagery.read(GeoBox((20, 20), moved.affine, moved.crs))
        inner = slice(max(-top, 0), 40 - top), slice(max(-left, 0), 50 - left)
        np.testing.assert_array_equal(some[inner], valid[rows, cols])
        np.testing.assert_array_equal(part[:, *inner], image[:, rows, cols])
        # pixels that were read twice are counted once
        assert sum(imagery.sources_of_nodata().values()) == np.count_nonzero(~known)


def noise(*shape: int, dtype: str = 'uint8') -> NDArray[np.generic]:
    return np.random.default_rng(0).integers(1, 250, shape).astype(dtype)


def share(imagery: Imagery) -> float:
    return float(imagery.read(imagery.geobox)[1].mean())


class TestAlpha:
    @pytest.mark.parametrize(
        ('dtype', 'full'),
        [
            ('uint8', 255),
            ('uint16', 65535),
            ('uint16', 255),
            ('uint16', 2047),
            ('int16', 255),
            ('uint8', 1),
            ('float32', 255),
            ('float32', 1),
        ],
    )
    @pytest.mark.parametrize('bands', [None, [1, 2, 3], [2]])
    def test_of_any_type_whatever_bands_are_read(
        self, write: Write, dtype: str, full: int, bands: list[int] | None
    ) -> None:
        values = noise(4, 256, 256, dtype=dtype)
        values[3] = full
        values[:, :64] = 0
        imagery = Imagery(write('a.tif', values, colorinterp=RGBA), bands)
        assert imagery.bands == len(bands or [1, 2, 3])
        assert share(imagery) == 0.75
        assert imagery.sources_of_nodata() == {'alpha': 64 * 256}

    @pytest.mark.parametrize('kind', ['0 and 1', '0 to 3', 'all 0'])
    def test_near_infrared_over_water_is_data(self, write: Write, kind: str) -> None:
        values = noise(4, 256, 256)
        rng = np.random.default_rng(1)
        values[3] = rng.integers(
            0, {'0 and 1': 2, '0 to 3': 4, 'all 0': 1}[kind], (256, 256)
        )
        path = write('a.tif', values, colorinterp=RGBA)
        if kind == 'all 0':
            with pytest.warns(InputWarning, match=r'a\.tif: band 4 is called alpha'):
                imagery = Imagery(path)
        else:
            imagery = Imagery(path)
        assert imagery.bands == 4
        assert share(imagery) == 1

    def test_tiles_over_water_follow_those_over_land(self, write: Write) -> None:
        land, water = noise(4, 64, 64), noise(4, 64, 64)
        water[3] = 0
        paths = [
            write('a.tif', water, colorinterp=RGBA),
            write('b.tif', land, HR * Affine.translation(64, 0), colorinterp=RGBA),
        ]
        imagery = Imagery(paths)
        assert imagery.bands == 4
        assert share(imagery) == 1

    def test_guess_is_told(self, write: Write) -> None:
        values = noise(4, 256, 256)
        values[3] = 100
        values[3, :64] = 0  # over bands that are not blank there
        with pytest.warns(InputWarning, match=r'a\.tif: band 4 is called alpha'):
            imagery = Imagery(write('a.tif', values, colorinterp=RGBA))
        assert share(imagery) == 0.75

    def test_mask_beside_alpha(self, write: Write) -> None:
        values = noise(4, 64, 64)
        values[3], values[3, :16] = 255, 0
        mask = np.ones((64, 64), bool)
        mask[:, :16] = False
        imagery = Imagery(write('a.tif', values, colorinterp=RGBA, mask=mask))
        np.testing.assert_array_equal(
            imagery.read(imagery.geobox)[1], mask & (values[3] > 0)
        )
        assert imagery.sources_of_nodata() == {'alpha': 1024, 'mask': 768}


class TestNoData:
    def test_of_some_bands(self, write: Write, tmp_path: Path) -> None:
        """A VRT may declare it for one band alone."""
        values = noise(2, 20, 20)
        values[0, :5] = 0
        write('a.tif', values)
        place = ', '.join(map(str, HR.to_gdal()))
        bands = ''.join(
            f'<VRTRasterBand dataType="Byte" band="{i}">{nodata}<SimpleSource>'
            f'<SourceFilename relativeToVRT="1">a.tif</SourceFilename>'
            f'<SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>'
            for i, nodata in ((1, '<NoDataValue>0</NoDataValue>'), (2, ''))
        )
        (tmp_path / 'a.vrt').write_text(
            f'<VRTDataset rasterXSize="20" rasterYSize="20"><SRS>{UTM}</SRS>'
            f'<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>'
        )
        assert share(Imagery(tmp_path / 'a.vrt')) == 0.75

    def test_negative_one_of_a_band(self, write: Write) -> None:
        values = noise(2, 20, 20, dtype='int16')
        values[0, :5] = -9999
        assert share(Imagery(write('a.tif', values, nodata=-9999))) == 0.75

    def test_beyond_float32(self, write: Write) -> None:
        values = noise(1, 20, 20, dtype='float64')
        values[0, :5] = 1e300
        imagery = Imagery(write('a.tif', values))
        assert share(imagery) == 0.75
        assert np.isfinite(imagery.read(imagery.geobox)[0]).all()

    @pytest.mark.parametrize(
        ('dtype', 'digit'), [('int64', -9), ('int64', 9), ('uint64', 1)]
    )
    def test_ends_of_64_bits(self, write: Write, dtype: str, digit: int) -> None:
        """GDAL reads their first digit."""
        end = np.iinfo(dtype).min if digit < 0 else np.iinfo(dtype).max
        values = np.arange(100, 4196, dtype=dtype).reshape(1, 64, 64)
        values[:, :, :16] = end
        path = write('a.tif', values, nodata=float(digit))
        with pytest.warns(InputWarning, match='first digit of the end'):
            imagery = Imagery(path, nodata=float(end))
        image, valid = imagery.read(imagery.geobox)
        np.testing.assert_array_equal(valid, values[0] != end)
        np.testing.assert_array_equal(image[:, valid], values[:, valid])

    @pytest.mark.parametrize('nodata', [0, 255])
    @pytest.mark.parametrize('quality', [50, 75, 90])
    def test_jpeg_collar(self, write: Write, nodata: int, quality: int) -> None:
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:256, :256]
        values = (
            120 + 60 * np.sin(x / 9) * np.cos(y / 7) + rng.normal(0, 12, (3, 256, 256))
        )
        values = values.clip(40, 215).astype('uint8')
        inside = (y >= 61) & (x >= 53)
        values[:, ~inside] = nodata
        path = write(
            'a.tif',
            values,
            nodata=nodata,
            compress='jpeg',
            photometric='ycbcr',
            tiled=True,
            blockxsize=128,
            blockysize=128,
            JPEG_QUALITY=quality,
        )
        imagery = Imagery(path)
        valid = imagery.read(imagery.geobox)[1]
        assert (valid != inside).mean() < 1e-3
        assert imagery.sources_of_nodata()['rim of a lossy collar'] > 500
        for rows in (slice(0, 70), slice(70, 256)):
            for cols in (slice(0, 60), slice(60, 256)):
                part = imagery.read(imagery.geobox[rows, cols])[1]
                np.testing.assert_array_equal(part, valid[rows, cols])

    @pytest.mark.parametrize('nodata', [0, -1, -9999, 7])
    @pytest.mark.parametrize(
        ('dtype', 'error'), [('float32', 5e-4), ('float32', 0.01), ('int16', 3)]
    )
    def test_lerc_says_how_far_it_is_off(
        self, write: Write, dtype: str, error: float, nodata: int
    ) -> None:
        """Only what its largest error may have moved is a rim, in units of the values."""
        rng = np.random.default_rng(0)
        scale = 1 if dtype == 'float32' else 1000
        values = rng.uniform(0.05 * scale, scale, (3, 96, 96)).astype(dtype)
        inside = np.ones((96, 96), bool)
        inside[:, :30] = inside[50:73, 45:80] = False
        values[:, ~inside] = nodata
        path = write('a.tif', values, nodata=nodata, compress='lerc', MAX_Z_ERROR=error)
        imagery = Imagery(path)
        read, valid = imagery.read(imagery.geobox)
        np.testing.assert_array_equal(valid, inside)
        assert np.abs(read[:, valid] - values[:, valid]).max() <= error * 1.001

    def test_lerc_of_whole_numbers(self, write: Write) -> None:
        """Below one its largest error is none: labels may be compressed so."""
        codes = np.random.default_rng(0).integers(1, 99, (40, 40)).astype('uint8')
        path = write('a.tif', codes, compress='lerc', MAX_Z_ERROR=0.9)
        (labels,) = LabelRaster.open(path)
        np.testing.assert_array_equal(labels.at(labels.geobox), codes)
        path = write('b.tif', codes, compress='lerc', MAX_Z_ERROR=1)
        with pytest.raises(InputError, match='compressed with losses'):
            LabelRaster.open(path)

    def test_nothing_valid_is_the_imagerys_fault(self, write: Write) -> None:
        values = noise(3, 20, 20, dtype='float32')
        values[1] = np.nan
        imagery = Imagery(write('a.tif', values))
        imagery.check_data()  # nothing was read yet
        imagery.read(imagery.geobox)
        with pytest.raises(
            InputError, match=r'a\.tif: no pixel .* band 2 holds no number'
        ):
            imagery.check_data()


@pytest.mark.parametrize('collar', [0, 255])
@pytest.mark.parametrize('lossy', [False, True])
def test_collar_that_nothing_declares_is_told(
    write: Write, collar: int, lossy: bool
) -> None:
    """A collar that no file calls one: a warning, and --nodata trims it with its rim."""
    values = np.random.default_rng(0).integers(30, 220, (3, 256, 256), np.uint8)
    values = np.repeat(np.repeat(values[:, ::8, ::8], 8, 1), 8, 2)  # JPEG keeps it
    values[:, :61] = values[:, :, :53] = collar
    options: dict[str, object] = {'photometric': 'rgb'}
    if lossy:
        options = {'photometric': 'ycbcr', 'compress': 'jpeg', 'JPEG_QUALITY': 75}
        options |= {'tiled': True, 'blockxsize': 128, 'blockysize': 128}
    path = write('collar.tif', values, **options)
    with pytest.warns(InputWarning, match=rf'collar\.tif: .* give --nodata {collar} '):
        imagery = Imagery(path)
    assert imagery.read(imagery.geobox)[1].all()
    trimmed = Imagery(path, nodata=collar)
    valid = trimmed.read(trimmed.geobox)[1]
    inside = np.zeros((256, 256), bool)
    inside[61:, 53:] = True
    assert not valid[:57].any()
    assert not valid[:, :49].any()
    assert np.mean(valid == inside) > 0.98


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'int16'])
@pytest.mark.parametrize('fill', [-9999, 1e20, -3.4028234663852886e38])
def test_fill_values_that_nothing_declares(
    write: Write, dtype: str, fill: float
) -> None:
    """Those that no computation survives have no data; others are told."""
    if dtype == 'int16' and fill != -9999:
        return
    values = np.random.default_rng(0).integers(30, 220, (3, 256, 256)).astype(dtype)
    values[:, :, :50] = fill
    path = write('fill.tif', values)
    if fill == -9999:
        with pytest.warns(InputWarning, match=r'fill\.tif: .* give --nodata -9999 '):
            Imagery(path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter('error', InputWarning)
        imagery = Imagery(path)
    image, valid = imagery.read(imagery.geobox)
    np.testing.assert_array_equal(valid, np.arange(256) >= np.full((256, 1), 50))
    np.testing.assert_array_equal(image, np.where(valid, values, 0))


@pytest.mark.parametrize(
    'kind', ['dark corner', 'black all over', 'grey corner', 'mask']
)
def test_corners_that_are_no_collar(write: Write, kind: str) -> None:
    values = np.random.default_rng(0).integers(30, 220, (3, 256, 256), np.uint8)
    options: dict[str, object] = {'photometric': 'rgb'}
    match kind:
        case 'dark corner':
            values[:, :60, :60] //= 110  # 0 and 1: water
        case 'black all over':
            values[:] = 0
        case 'grey corner':
            values[:, :60, :60] = 128
        case 'mask':
            values[:, :60, :60] = 0
            options['nodata'] = 0
    path = write('corner.tif', values, **options)
    with warnings.catch_warnings():
        warnings.simplefilter('error', InputWarning)
        Imagery(path)


def test_palette_is_read_as_its_colours(write: Write) -> None:
    index = noise(1, 20, 20) % 3
    path = write('a.tif', index, nodata=2)
    colors = {0: (9, 8, 7, 255), 1: (100, 0, 50, 255), 2: (0, 0, 0, 255)}
    with rasterio.open(path, 'r+') as target:
        target.write_colormap(1, colors)
        target.colorinterp = [ColorInterp.palette]
    imagery = Imagery(path)
    assert (imagery.bands, imagery.dtype) == (3, np.dtype('uint8'))
    image, valid = imagery.read(imagery.geobox)
    np.testing.assert_array_equal(valid, index[0] != 2)
    expected = np.array([colors[i] for i in index[0].ravel()])[:, :3].T.reshape(
        3, 20, 20
    )
    np.testing.assert_array_equal(image, expected)


class TestMosaicUnits:
    def pair(
        self, write: Write, right: NDArray[np.generic], **tags: list[float]
    ) -> list[str]:
        left = noise(2, 80, 80, dtype='uint16') * 20
        paths = [
            write('l.tif', left),
            write('r.tif', right, HR * Affine.translation(80, 0)),
        ]
        for name, values in tags.items():
            for path, value in zip(paths, values, strict=True):
                with rasterio.open(path, 'r+') as target:
                    setattr(target, name, [value] * 2)
        return paths

    def test_tags_bring_them_together(self, write: Write) -> None:
        right = noise(2, 80, 80, dtype='uint16') * 20 + 1000
        paths = self.pair(write, right, scales=[1e-4, 1e-4], offsets=[0.0, -0.1])
        imagery = Imagery(paths)
        assert imagery.dtype == np.float32
        image, _ = imagery.read(imagery.geobox)
        np.testing.assert_allclose(image[:, :, 80:], image[:, :, :80], atol=1e-6)

    @pytest.mark.parametrize('dtype', ['uint8', 'float32', 'uint16'])
    def test_other_units_are_refused_by_name(self, write: Write, dtype: str) -> None:
        factor = {'uint8': 1, 'float32': 1e-4, 'uint16': 2}[dtype]
        right = noise(2, 80, 80, dtype=dtype) * np.array(factor, dtype)
        paths = self.pair(write, right)
        if dtype == 'uint16':  # the same type, and levels that may be so
            assert Imagery(paths).bands == 2
            return
        with pytest.raises(InputError, match=r'r\.tif: its values .*l\.tif'):
            Imagery(paths)

    def test_broken_tags(self, write: Write) -> None:
        with pytest.raises(InputError, match=r'l\.tif: band 1 is tagged with scale 0'):
            Imagery(
                self.pair(write, noise(2, 80, 80, dtype='uint16'), scales=[0.0, 1.0])
            )

    def test_order_of_colours(self, write: Write) -> None:
        values = noise(3, 20, 20)
        paths = [
            write('a.tif', values, colorinterp=RGB),
            write(
                'b.tif', values, HR * Affine.translation(20, 0), colorinterp=RGB[::-1]
            ),
        ]
        with pytest.raises(InputError, match=r'b\.tif has its bands in the order blue'):
            Imagery(paths)
        for path, names in zip(
            paths, (('B2', 'B3', 'B4'), ('B04', 'B03', 'B02')), strict=True
        ):
            with rasterio.open(path, 'r+') as file:
                file.colorinterp = RGB
                file.descriptions = names
        with pytest.raises(InputError, match=r'b\.tif has its bands in the order b4'):
            Imagery(paths)


class TestMosaicPlaces:
    def test_two_dates(self, write: Write) -> None:
        one, two = noise(3, 80, 80), noise(3, 80, 80)[::-1]
        paths = [write('may.tif', one), write('july.tif', two)]
        with pytest.raises(InputError, match=r'july\.tif: has the footprint of .*may'):
            Imagery(paths)
        imagery = Imagery(paths, stack=True)
        assert imagery.bands == 6
        image, valid = imagery.read(imagery.geobox)
        np.testing.assert_array_equal(image, np.concatenate([one, two]))
        assert valid.all()

    def test_stack_of_mosaics(self, write: Write) -> None:
        may, july = noise(1, 40, 80), noise(1, 40, 80)[:, ::-1]
        july[0, :3] = 0
        paths = [
            write(f'{name}{i}.tif', values[:, :, i * 40 : i * 40 + 40], place, nodata=0)
            for i, place in enumerate((HR, HR * Affine.translation(40, 0)))
            for name, values in (('may', may), ('july', july))
        ]
        imagery = Imagery(paths, stack=True)
        image, valid = imagery.read(imagery.geobox)
        np.testing.assert_array_equal(valid, july[0] != 0)
        np.testing.assert_array_equal(image, np.concatenate([may, july]) * valid)
        with pytest.raises(InputError, match='needs as many'):
            Imagery(paths[:3], stack=True)

    @pytest.mark.parametrize(
        'names',
        [
            ('may_a', 'july_a', 'may_b', 'july_b'),
            ('2021/a', '2024/a', '2021/b', '2024/b'),
            ('m_39_18_20180714', 'm_39_18_20210801', 'm_40_18_20180802', 'm_40_18_20211101'),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize('order', [(0, 1, 3, 2), (0, 3, 1, 2), (3, 0, 1, 2)])
    def test_a_stack_goes_by_names(
        self, write: Write, names: tuple[str, ...], order: tuple[int, ...]
    ) -> None:
        """Dates of two places belong together, in whatever order they are given."""
        may, july = noise(1, 40, 80), noise(1, 40, 80)[:, ::-1]
        parts = (may[:, :, :40], july[:, :, :40], may[:, :, 40:], july[:, :, 40:])
        places = (
            HR,
            HR,
            HR * Affine.translation(40, 0),
            HR * Affine.translation(40, 0),
        )
        paths = [
            write(f'{name}.tif', part, place)
            for name, part, place in zip(names, parts, places, strict=True)
        ]
        imagery = Imagery([paths[i] for i in order], stack=True)
        dates = (may, july) if order[0] in (0, 2) else (july, may)
        image = imagery.read(imagery.geobox)[0]
        np.testing.assert_array_equal(image, np.concatenate(dates))

    def test_a_stack_goes_by_order(self, write: Write) -> None:
        """Where names say nothing, or one thing and another."""
        values = noise(4, 40, 40)
        for names in ('1_w', '2_x', '3_y', '4_z'), ('x_1', 'y_2', 'x_2', 'y_1'):
            paths = [
                write(f'{name}.tif', values[i], HR * Affine.translation(i // 2 * 40, 0))
                for i, name in enumerate(names)
            ]
            imagery = Imagery(paths, stack=True)
            assert imagery.images == ((paths[0], paths[2]), (paths[1], paths[3]))

    def test_files_that_fill_one_another(self, write: Write) -> None:
        one, two = noise(1, 80, 80), noise(1, 80, 80)
        one[:, :40], two[:, 40:] = 0, 0
        imagery = Imagery(
            [write('a.tif', one, nodata=0), write('b.tif', two, nodata=0)]
        )
        assert share(imagery) == 1

    def test_wrong_origin(self, write: Write) -> None:
        paths = [
            write('a.tif', noise(1, 64, 64)),
            write('b.tif', noise(1, 64, 64), HR * Affine.translation(64, 0)),
            write('odd.tif', noise(1, 64, 64), Affine(1, 0, 0, 0, -1, 1)),
        ]
        with pytest.raises(InputError, match=r'odd\.tif: lies so far .* Tpx'):
            Imagery(paths)

    @pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:3857'])
    @pytest.mark.parametrize('wrapped', [False, True])
    def test_both_sides_of_the_antimeridian(
        self, write: Write, crs: str, wrapped: bool
    ) -> None:
        half = 180.0 if crs == 'EPSG:4326' else 20037508.342789244
        step, north = half / 2**24, -half / 10
        values = noise(1, 32, 64)
        west = half if wrapped else -half
        paths = [
            write(
                'e.tif',
                values[:, :, :32],
                Affine(step, 0, half - 32 * step, 0, -step, north),
                crs,
            ),
            write(
                'w.tif', values[:, :, 32:], Affine(step, 0, west, 0, -step, north), crs
            ),
        ]
        for order in (paths, paths[::-1]):
            imagery = Imagery(order)
            assert imagery.geobox.shape == (32, 64)
            np.testing.assert_array_equal(imagery.read(imagery.geobox)[0], values)

    def test_grids_elsewhere_stay(self) -> None:
        grids = [
            GeoBox((9, 9), Affine(10, 0, left, 0, -10, 40), 'EPSG:4326')
            for left in (-90, 0, 80)
        ]
        assert bring_together(grids) == grids


class TestLines:
    def line(self, path: object) -> str:
        with pytest.raises(InputError) as error:
            Imagery(path)  # type: ignore[arg-type]
        assert '\n' not in str(error.value)
        return str(error.value)

    def test_points_instead_of_a_grid(self, write: Write) -> None:
        path = write('a.tif', noise(1, 9, 9), transform=None, crs=None)
        points = [
            GroundControlPoint(r, c, *(HR * (c, r))) for r in (0, 9) for c in (0, 9)
        ]
        with rasterio.open(path, 'r+') as target:
            target.gcps = points, UTM
        with pytest.raises(InputError, match='ground control points') as error:
            LabelRaster.open(path)
        assert '\n' not in str(error.value)

    def test_crs_of_a_drawing(self, write: Write) -> None:
        crs = rasterio.crs.CRS.from_wkt('LOCAL_CS["Lambert-93",UNIT["metre",1]]')
        path = write('a.tif', noise(1, 9, 9), crs=crs)
        assert 'not tied to the Earth' in self.line(path)

    def test_crs_of_another_planet(self, write: Write) -> None:
        moon = '+proj=longlat +R=1737400 +no_defs'
        place = Affine(1e-3, 0, -76, 0, -1e-3, 38)
        paths = [
            write('a.tif', noise(1, 9, 9)),
            write('b.tif', noise(1, 9, 9), place, moon),
        ]
        assert self.line(paths)

    def test_missing_source(self, write: Write, tmp_path: Path) -> None:
        copy_raster(write('a.tif', noise(1, 9, 9)), tmp_path / 'a.vrt', driver='VRT')
        imagery = Imagery(tmp_path / 'a.vrt')
        assert set(imagery.files) == {str(tmp_path / n) for n in ('a.tif', 'a.vrt')}
        (tmp_path / 'a.tif').rename(tmp_path / 'b.tif')
        assert imagery.changed() == (str(tmp_path / 'a.vrt'),)
        assert 'its source' in self.line(tmp_path / 'a.vrt')

    @pytest.mark.parametrize('name', ['a\0.tif', 'a\udcff.tif', '', b'\xff.tif'])
    def test_odd_names(self, name: object) -> None:
        self.line(name)

    def test_link_to_itself(self, tmp_path: Path) -> None:
        (tmp_path / 'a.tif').symlink_to(tmp_path / 'a.tif')
        assert 'cannot be read' in self.line(tmp_path / 'a.tif')
        assert 'cannot be read' in self.line(tmp_path)

    def test_too_many_bands(self, write: Write) -> None:
        path = write('a.tif', noise(1100, 4, 4))
        assert 'at most 1024' in self.line(path)
        assert Imagery(path, bands=range(1, 65)).bands == 64

    def test_data_of_another_proj(self, write: Write) -> None:
        path = write('a.tif', noise(1, 9, 9))
        script = f'from torchgeo_mapsr import Imagery; Imagery({path!r})'
        run = subprocess.run(
            [sys.executable, '-c', script],
            check=False,
            env={**os.environ, 'PROJ_LIB': '/nonexistent'},
            capture_output=True,
            text=True,
        )
        assert 'PROJ_LIB is /nonexistent' in run.stderr


def test_changed(write: Write) -> None:
    path = write('a.tif', noise(1, 9, 9))
    imagery = pickle.loads(pickle.dumps(Imagery(path)))
    assert imagery.changed() == ()
    os.utime(path, ns=(1, 1))
    assert imagery.changed() == (path,)
    assert RasterFile.open(path).changed() is False


def test_renamed_folder_is_the_same_work(write: Write, tmp_path: Path) -> None:
    before = Imagery(write('one/a.tif', noise(1, 9, 9))).fingerprint()
    (tmp_path / 'one').rename(tmp_path / 'two')
    assert Imagery(tmp_path / 'two' / 'a.tif').fingerprint() == before


def test_size_is_told(write: Write) -> None:
    imagery = Imagery(write('a.tif', noise(1, 20, 50)))
    assert (
        str(imagery) == '1 file, 20 x 50 pixels (1000 px), 100 % of them in the files'
    )
