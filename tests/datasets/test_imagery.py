# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, Resampling
from rasterio.shutil import copy as copy_raster
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from scipy.ndimage import gaussian_filter
from torch.utils.data import DataLoader, Dataset

from torchgeo_mapsr.datasets.geo import opened
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.errors import InputError, InputWarning

from .conftest import HR, UTM, Write


def noise(*shape: int, dtype: str = 'uint8', low: int = 1) -> NDArray[np.generic]:
    rng = np.random.default_rng(0)
    return rng.integers(low, 250, shape).astype(dtype)


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int16', 'float32', 'float64'])
@pytest.mark.parametrize('count', [1, 3, 8])
def test_values_are_raw(write: Write, dtype: str, count: int) -> None:
    values = noise(count, 30, 40, dtype=dtype)
    imagery = Imagery(write('a.tif', values))
    assert imagery.bands == count
    assert imagery.dtype == np.dtype(dtype)
    assert imagery.geobox == GeoBox((30, 40), HR, UTM)
    image, valid = imagery.read(imagery.geobox)
    assert image.dtype == np.float32
    assert valid.dtype == bool
    np.testing.assert_array_equal(image, values)
    assert valid.all()


def test_embeddings_of_many_bands(write: Write) -> None:
    values = np.random.default_rng(0).normal(size=(64, 8, 9)).astype('float32')
    image, _ = (imagery := Imagery(write('a.tif', values))).read(imagery.geobox)
    np.testing.assert_array_equal(image, values)


def test_bands_by_choice(write: Write) -> None:
    values = noise(4, 10, 10)
    imagery = Imagery(write('a.tif', values), bands=[4, 1, 2])
    image, _ = imagery.read(imagery.geobox)
    np.testing.assert_array_equal(image, values[[3, 0, 1]])
    with pytest.raises(InputError, match='no band 5; its bands are 1 to 4'):
        Imagery(write('a.tif', values), bands=[5])


@pytest.mark.parametrize(
    ('top', 'left', 'height', 'width'),
    [
        (2, 3, 5, 6),
        (-4, -5, 60, 70),
        (-20, 0, 10, 10),
        (25, 35, 30, 30),
        (99, 99, 5, 5),
    ],
)
def test_windows_reach_beyond(
    write: Write, top: int, left: int, height: int, width: int
) -> None:
    values = noise(2, 30, 40)
    imagery = Imagery(write('a.tif', values))
    padded = np.pad(values, ((0, 0), (100, 200), (100, 200)))
    rows, cols = (
        slice(top + 100, top + 100 + height),
        slice(left + 100, left + 100 + width),
    )
    moved = imagery.geobox.translate_pix(left, top)
    image, valid = imagery.read(GeoBox((height, width), moved.affine, moved.crs))
    np.testing.assert_array_equal(image, padded[:, rows, cols])
    np.testing.assert_array_equal(valid, padded[0, rows, cols] > 0)


def test_other_pixels_are_refused(write: Write) -> None:
    imagery = Imagery(write('a.tif', noise(1, 30, 30)))
    for grid in (
        imagery.geobox.zoom_out(2),
        imagery.geobox.translate_pix(0.3, 0),
        GeoBox((30, 30), HR, 'EPSG:26918'),
    ):
        with pytest.raises(ValueError, match='not a crop'):
            imagery.read(grid)


class TestValidity:
    def read(self, path: str, **options: float) -> tuple[NDArray, NDArray]:
        imagery = Imagery(path, **options)  # type: ignore[arg-type]
        return imagery.read(imagery.geobox)

    def test_integer_nodata_in_all_bands(self, write: Write) -> None:
        values = noise(3, 20, 20)
        values[:, :5] = 0
        values[0, 10] = 0  # a dark pixel, not a missing one
        image, valid = self.read(write('a.tif', values, nodata=0))
        np.testing.assert_array_equal(valid, np.arange(20)[:, None] >= np.full(20, 5))
        np.testing.assert_array_equal(image, values)

    @pytest.mark.parametrize('nodata', [-9999.0, 0.1, -3.4028234663852886e38])
    def test_float_nodata_in_any_band(self, write: Write, nodata: float) -> None:
        values = noise(3, 20, 20, dtype='float32')
        values[1, :5] = nodata
        image, valid = self.read(write('a.tif', values, nodata=nodata))
        assert not valid[:5].any()
        assert valid[5:].all()
        assert not image[:, :5].any()

    @pytest.mark.parametrize('nodata', [None, np.nan, -1.0])
    def test_nan_and_infinity(self, write: Write, nodata: float | None) -> None:
        values = noise(3, 20, 20, dtype='float32')
        values[1, 0], values[2, 1] = np.nan, np.inf
        image, valid = self.read(write('a.tif', values, nodata=nodata))
        assert not valid[:2].any()
        assert valid[2:].all()
        assert np.isfinite(image).all()

    def test_nodata_by_choice(self, write: Write) -> None:
        values = noise(3, 20, 20, low=9)
        values[:, 3] = 7
        _, valid = self.read(write('a.tif', values, nodata=200), nodata=7)
        np.testing.assert_array_equal(~valid, (values == 7).all(axis=0))

    def test_internal_mask(self, write: Write) -> None:
        values = noise(3, 20, 20)
        mask = np.random.default_rng(1).random((20, 20)) < 0.5
        image, valid = self.read(write('a.tif', values, mask=mask))
        np.testing.assert_array_equal(valid, mask)
        np.testing.assert_array_equal(image, values * mask)

    def test_alpha(self, write: Write) -> None:
        values = noise(4, 300, 300)
        values[3] = 255
        values[3, :, 120:] = 0
        interp = [
            ColorInterp.red,
            ColorInterp.green,
            ColorInterp.blue,
            ColorInterp.alpha,
        ]
        path = write('a.tif', values, colorinterp=interp)
        imagery = Imagery(path)
        assert imagery.bands == 3
        image, valid = imagery.read(imagery.geobox)
        np.testing.assert_array_equal(valid, values[3] > 0)
        np.testing.assert_array_equal(image, values[:3] * valid)

    def test_near_infrared_that_is_called_alpha(self, write: Write) -> None:
        values = noise(4, 300, 300)
        values[3, :100] = 0  # the empty border of a tile
        interp = [
            ColorInterp.red,
            ColorInterp.green,
            ColorInterp.blue,
            ColorInterp.alpha,
        ]
        path = write('a.tif', values, colorinterp=interp)
        image, valid = self.read(path)
        np.testing.assert_array_equal(image, values)
        assert valid.all()

    def test_alpha_that_is_blended_is_told(self, write: Write) -> None:
        values = noise(4, 200, 200)
        values[3] = np.clip(np.arange(200) * 6 - 300, 0, 255)
        interp = [ColorInterp.undefined] * 3 + [ColorInterp.alpha]
        path = write('a.tif', values, colorinterp=interp)
        with pytest.warns(InputWarning, match='many values, .* of them the largest'):
            assert Imagery(path).bands == 4

    def test_alpha_that_is_named_is_a_band(self, write: Write) -> None:
        values = noise(2, 20, 20)
        values[1] = 255
        interp = [ColorInterp.gray, ColorInterp.alpha]
        path = write('a.tif', values, colorinterp=interp)
        imagery = Imagery(path, bands=[1, 2])
        np.testing.assert_array_equal(imagery.read(imagery.geobox)[0], values)

    def test_only_alpha(self, write: Write) -> None:
        path = write(
            'a.tif', np.full((5, 5), 255, 'uint8'), colorinterp=[ColorInterp.alpha]
        )
        with pytest.raises(InputError, match='no band besides alpha'):
            Imagery(path)


class TestMosaic:
    def test_aligned_files_are_one_raster(self, write: Write) -> None:
        values = noise(3, 60, 90)
        right = write('r.tif', values[:, 20:, 50:], HR * Affine.translation(50, 20))
        left = write('l.tif', values[:, :40, :60])
        imagery = Imagery([right, left])
        assert imagery.paths == (right, left)
        image, valid = imagery.read(imagery.geobox)
        assert imagery.geobox == GeoBox((60, 90), HR, UTM)
        assert [f.shape.yx for f in imagery.footprints] == [(40, 40), (40, 60)]
        expected = np.zeros((60, 90), bool)
        expected[20:, 50:] = expected[:40, :60] = True
        np.testing.assert_array_equal(valid, expected)
        np.testing.assert_array_equal(image, values * expected)

    def test_first_file_with_data_wins(self, write: Write) -> None:
        first, second = noise(1, 20, 20), np.full((1, 20, 20), 255, 'uint8')
        first[0, 5:10] = 0
        paths = [write('a.tif', first, nodata=0), write('b.tif', second)]
        image, valid = (imagery := Imagery(paths)).read(imagery.geobox)
        np.testing.assert_array_equal(image, np.where(first == 0, 255, first))
        assert valid.all()

    @pytest.mark.filterwarnings('ignore::torchgeo_mapsr.errors.InputWarning')
    @pytest.mark.parametrize('res', [0.6, 1.0, 2.0])
    def test_other_grids_are_warped_to_the_first(
        self, write: Write, res: float
    ) -> None:
        rng = np.random.default_rng(0)
        smooth = gaussian_filter(rng.normal(size=(2, 200, 200)), (0, 6, 6))
        smooth = (smooth / smooth.std()).astype('float32')
        whole = write('whole.tif', smooth)
        with (
            rasterio.open(whole) as source,
            WarpedVRT(source, crs='EPSG:26918', resampling=Resampling.cubic) as plain,
            WarpedVRT(
                source,
                crs='EPSG:26918',
                resampling=Resampling.cubic,
                transform=plain.transform * Affine.scale(res),
                width=int(plain.width / res),
                height=int(plain.height / res),
                nodata=np.nan,
            ) as warped,
        ):
            other = write(
                'b.tif', warped.read(), warped.transform, 'EPSG:26918', nodata=np.nan
            )
        imagery = Imagery([write('a.tif', smooth[:, :, :80]), other])
        assert imagery.geobox.affine.a == 1
        assert imagery.geobox.crs == UTM
        crop = GeoBox((180, 180), HR * Affine.translation(10, 10), UTM)
        image, valid = imagery.read(crop)
        assert valid.mean() > 0.99
        error = np.abs(image - smooth[:, 10:190, 10:190])[:, valid]
        assert error.max() < 0.12  # of a standard deviation; unwarped it is above 1

    def test_warped_windows_have_no_seams(self, write: Write) -> None:
        values = noise(2, 150, 150, dtype='float32')
        grid = Affine(0.7, 0, HR.c + 60, 0.1, -0.7, HR.f)
        mask = np.random.default_rng(0).random((150, 150)) < 0.9
        imagery = Imagery(
            [write('a.tif', noise(2, 60, 60)), write('b.tif', values, grid, mask=mask)]
        )
        image, valid = imagery.read(imagery.geobox)
        assert 0.5 < valid.mean() < 0.95
        for rows in (slice(0, 50), slice(50, 110)):
            for cols in (slice(0, 70), slice(70, 160)):
                part, known = imagery.read(imagery.geobox[rows, cols])
                np.testing.assert_array_equal(known, valid[rows, cols])
                np.testing.assert_allclose(part, image[:, rows, cols], atol=1e-3)

    def test_window_beside_a_warped_file(self, write: Write) -> None:
        # its bounding box in the grid is larger than the file, which is turned by 45°
        turned = HR * Affine.translation(100, 0) * Affine.rotation(45)
        paths = [
            write('a.tif', noise(1, 5, 5)),
            write('b.tif', noise(1, 80, 80), turned),
        ]
        imagery = Imagery(paths)
        image, valid = imagery.read(imagery.geobox)
        assert 0.2 < valid.mean() < 0.6
        height, width = imagery.geobox.shape
        part, known = imagery.read(imagery.geobox[height - 9 :, width - 9 :])
        assert not known.any()
        assert not part.any()
        np.testing.assert_array_equal(image[:, -9:, -9:], part)

    def test_invalid_pixels_do_not_bleed(self, write: Write) -> None:
        values = np.full((1, 50, 50), 100, 'int16')
        values[0, 20:30, 20:30] = -32768
        other = write('b.tif', values, HR * Affine.translation(0.5, 0.5), nodata=-32768)
        imagery = Imagery([write('a.tif', np.full((1, 2, 2), 100, 'int16')), other])
        image, valid = imagery.read(imagery.geobox)
        assert not valid[22:29, 22:29].any()
        np.testing.assert_allclose(image[0][valid], 100)

    def test_band_counts_differ(self, write: Write) -> None:
        right = HR * Affine.translation(5, 0)
        paths = [write('a.tif', noise(3, 5, 5)), write('b.tif', noise(4, 5, 5), right)]
        with pytest.raises(InputError, match=r'b\.tif has 4 bands but .*a\.tif has 3'):
            Imagery(paths)
        assert Imagery(paths, bands=[1, 2, 3]).bands == 3

    def test_folder_and_vrt(self, write: Write, tmp_path: Path) -> None:
        values = noise(2, 40, 40)
        path = write('tiles/b/left.TIF', values[:, :, :25])
        write('tiles/a.tif', values[:, :, 25:], HR * Affine.translation(25, 0))
        imagery = Imagery(tmp_path / 'tiles')
        assert len(imagery.paths) == 2
        np.testing.assert_array_equal(imagery.read(imagery.geobox)[0], values)
        copy_raster(path, tmp_path / 'left.vrt', driver='VRT')
        imagery = Imagery(tmp_path / 'left.vrt')
        np.testing.assert_array_equal(
            imagery.read(imagery.geobox)[0], values[:, :, :25]
        )
        (tmp_path / 'none').mkdir()
        with pytest.raises(InputError, match='holds no rasters'):
            Imagery(tmp_path / 'none')


def test_vsi_paths(write: Write) -> None:
    values = noise(2, 20, 20)
    with (
        open(write('a.tif', values), 'rb') as file,
        rasterio.MemoryFile(file.read()) as m,
    ):
        imagery = Imagery(m.name)
        np.testing.assert_array_equal(imagery.read(imagery.geobox)[0], values)
        assert len(imagery.fingerprint()) == 64


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where the files are served, by a process of its own: GDAL opens with the GIL."""
    command = [sys.executable, '-u', '-m', 'http.server', '0', '--bind', '127.0.0.1']
    with subprocess.Popen(
        [*command, '--directory', str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split(' port ')[1].split()[0]
        yield f'http://127.0.0.1:{port}'
        server.terminate()


def test_urls(write: Write, url: str) -> None:
    values = noise(2, 20, 20)
    write('a.tif', values)
    imagery = Imagery(f'{url}/a.tif')
    np.testing.assert_array_equal(imagery.read(imagery.geobox)[0], values)
    assert imagery.fingerprint() == Imagery(f'{url}/a.tif').fingerprint()
    with pytest.raises(InputError, match=r'absent\.tif: cannot be read'):
        Imagery(f'{url}/absent.tif')


@pytest.mark.parametrize(
    'transform',
    [HR * Affine.rotation(30), Affine(1, 0, HR.c, 0, 1, HR.f)],
    ids=['rotated', 'south-up'],
)
def test_any_affine_grid(write: Write, transform: Affine) -> None:
    values = noise(2, 30, 40)
    paths = [
        write('a.tif', values[:, :, :20], transform),
        write('b.tif', values[:, :, 20:], transform * Affine.translation(20, 0)),
    ]
    imagery = Imagery(paths)
    np.testing.assert_array_equal(imagery.read(imagery.geobox)[0], values)


class TestBadInput:
    def message(self, path: object) -> str:
        with pytest.raises(InputError) as error:
            Imagery(path)  # type: ignore[arg-type]
        assert '\n' not in str(error.value)
        return str(error.value)

    def test_nothing(self) -> None:
        assert self.message([]) == 'no raster files were given'

    def test_absent(self, tmp_path: Path) -> None:
        assert 'cannot be read as a raster' in self.message(tmp_path / 'absent.tif')

    def test_text(self, tmp_path: Path) -> None:
        (tmp_path / 'a.tif').write_text('a,b\n1,2\n')
        assert 'cannot be read as a raster' in self.message(tmp_path / 'a.tif')

    def test_without_crs(self, write: Write) -> None:
        path = write('a.tif', noise(1, 5, 5), crs=None)
        assert 'no coordinate reference system' in self.message(path)

    def test_without_georeference(self, write: Write) -> None:
        path = write('a.tif', noise(1, 5, 5), transform=None)
        assert 'no georeference' in self.message(path)

    def test_complex(self, write: Write) -> None:
        path = write('a.tif', np.zeros((1, 5, 5), 'complex64'))
        assert 'complex' in self.message(path)

    def test_without_bands(self, tmp_path: Path) -> None:
        path = tmp_path / 'a.gpkg'
        options = {'width': 5, 'height': 5, 'count': 1, 'dtype': 'uint8', 'crs': UTM}
        for name in ('one', 'two'):
            table = {'RASTER_TABLE': name, 'APPEND_SUBDATASET': path.exists()}
            with rasterio.open(
                path, 'w', driver='GPKG', transform=HR, **options, **table
            ) as file:
                file.write(noise(1, 5, 5))
        assert 'no bands; name one of its subdatasets' in self.message(path)

    def test_no_common_grid(self, write: Write) -> None:
        behind = Affine(0.1, 0, 100, 0, -0.1, 5)
        globe = Affine(1e4, 0, -5e4, 0, -1e4, 5e4)
        paths = [
            write('a.tif', noise(1, 9, 9), globe, '+proj=ortho +lon_0=-80'),
            write('b.tif', noise(1, 9, 9), behind, 'EPSG:4326'),
        ]
        assert 'no common grid' in self.message(paths)

    @pytest.mark.parametrize('tiled', [False, True])
    def test_truncated(self, write: Write, tiled: bool) -> None:
        size = {'tiled': True, 'blockxsize': 64, 'blockysize': 64} if tiled else {}
        path = write('a.tif', noise(3, 200, 200), compress='deflate', **size)
        with open(path, 'r+b') as file:
            file.truncate(os.path.getsize(path) * 2 // 3)
        assert 'truncated' in self.message(path) or 'cannot be read' in self.message(
            path
        )

    def test_damaged_inside(self, write: Write) -> None:
        path = write('a.tif', noise(1, 500, 500), compress='deflate', blockysize=10)
        with open(path, 'r+b') as file:
            file.seek(os.path.getsize(path) // 2)
            file.write(b'\0' * 5000)
        imagery = Imagery(path)
        with pytest.raises(InputError, match=r'a\.tif: cannot be read at rows 0-500'):
            imagery.read(imagery.geobox)


class TestHandles:
    def test_pickle(self, write: Write) -> None:
        values = noise(2, 20, 20)
        imagery = Imagery(write('a.tif', values))
        imagery.read(imagery.geobox)
        again = pickle.loads(pickle.dumps(imagery))
        assert again.geobox == imagery.geobox
        np.testing.assert_array_equal(again.read(again.geobox)[0], values)

    def test_threads(self, write: Write) -> None:
        values = noise(1, 400, 400, dtype='uint16')
        path = write('a.tif', values, compress='deflate', blockysize=4)
        imagery = Imagery(path)
        grid = imagery.geobox
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(
                lambda i: imagery.read(grid[i : i + 8, :])[0], range(0, 400, 8)
            )
            np.testing.assert_array_equal(np.concatenate(list(parts), axis=1), values)

    def test_forked_workers(self, write: Write) -> None:
        values = noise(1, 64, 64)
        imagery = Imagery(write('a.tif', values, compress='deflate', blockysize=1))
        imagery.read(imagery.geobox)

        class Rows(Dataset[NDArray[np.float32]]):
            def __len__(self) -> int:
                return 64

            def __getitem__(self, i: int) -> NDArray[np.float32]:
                return imagery.read(imagery.geobox[i : i + 1, :])[0]

        loader = DataLoader(
            Rows(), batch_size=None, num_workers=2, multiprocessing_context='fork'
        )
        np.testing.assert_array_equal(np.concatenate(list(loader), axis=1), values)

    def test_few_files_stay_open(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opened, 'OPEN_FILES', 3)
        monkeypatch.setattr(opened, '_local', threading.local())
        values = noise(1, 10, 80)
        paths = [
            write(
                f'{i}.tif',
                values[:, :, i * 10 : i * 10 + 10],
                HR * Affine.translation(i * 10, 0),
            )
            for i in range(8)
        ]
        imagery = Imagery(paths)
        for _ in range(2):
            np.testing.assert_array_equal(imagery.read(imagery.geobox)[0], values)
        assert len(opened._local.handles) <= 3

    def test_a_file_that_changed_is_opened_anew(self, write: Write) -> None:
        for value in (1, 2):
            path = write('a.tif', np.full((1, 5, 5), value, 'uint8'))
            os.utime(path, ns=(value, value))
            imagery = Imagery(path)
            assert (imagery.read(imagery.geobox)[0] == value).all()


def test_bands_of_several_types(write: Write, tmp_path: Path) -> None:
    """A virtual raster may have them; rasterio reads those of one type together."""
    values = noise(2, 5, 6)
    write('bytes.tif', values[0])
    write('floats.tif', values[1] + np.float32(0.5))
    with rasterio.open(tmp_path / 'bytes.tif') as dataset:
        corner = ', '.join(map(str, dataset.transform.to_gdal()))
        crs = dataset.crs.to_string()
    bands = ''.join(
        f'<VRTRasterBand dataType="{kind}" band="{band}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{name}.tif</SourceFilename>'
        '<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'
        for band, (kind, name) in enumerate(
            [('Byte', 'bytes'), ('Float32', 'floats')], 1
        )
    )
    (tmp_path / 'both.vrt').write_text(
        f'<VRTDataset rasterXSize="6" rasterYSize="5"><SRS>{crs}</SRS>'
        f'<GeoTransform>{corner}</GeoTransform>{bands}</VRTDataset>'
    )
    image = Imagery(tmp_path / 'both.vrt')
    found, valid = image.read(image.geobox)
    np.testing.assert_array_equal(found, values + np.array([0, 0.5])[:, None, None])
    assert valid.all()


@pytest.mark.parametrize('number', [-9999, 256, 3.5, np.inf])
def test_no_data_that_no_pixel_can_have(write: Write, number: float) -> None:
    path = write('a.tif', noise(3, 5, 5))
    with pytest.raises(InputError, match='numbers are uint8, and none is'):
        Imagery(path, nodata=number)
    assert Imagery(path, nodata=255).bands == 3
    declared = write('b.tif', np.zeros((3, 5, 5), np.uint8), nodata=0)
    image = Imagery(declared, nodata=np.nan)  # none of its values is no data
    assert image.read(image.geobox)[1].all()


class TestFingerprint:
    def test_same(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write('a.tif', noise(3, 5, 5))
        assert Imagery(path).fingerprint() == Imagery(path).fingerprint()
        monkeypatch.chdir(Path(path).parent)
        assert Imagery('a.tif').fingerprint() == Imagery(path).fingerprint()

    def test_changes_with_file_and_choices(self, write: Write) -> None:
        path = write('a.tif', noise(3, 5, 5))
        seen = {
            Imagery(path).fingerprint(),
            Imagery(path, bands=[1, 2]).fingerprint(),
            Imagery(path, nodata=3).fingerprint(),
            Imagery(write('b.tif', noise(3, 5, 5))).fingerprint(),
        }
        os.utime(path, ns=(1, 1))
        seen.add(Imagery(path).fingerprint())
        write('a.tif', noise(3, 5, 5) + np.uint8(1))
        os.utime(path, ns=(1, 1))
        seen.add(Imagery(path).fingerprint())
        assert len(seen) == 6

    def test_changes_with_what_a_vrt_shows(self, write: Write, tmp_path: Path) -> None:
        path = write('a.tif', noise(3, 5, 5))
        copy_raster(path, tmp_path / 'a.vrt', driver='VRT')
        before = Imagery(tmp_path / 'a.vrt').fingerprint()
        os.utime(path, ns=(1, 1))
        assert Imagery(tmp_path / 'a.vrt').fingerprint() != before


def test_real_naip_keeps_its_near_infrared(shared: Path) -> None:
    folder = shared / 'data/chesapeake_wv/m_3708020_sw_17_1-0'
    imagery = Imagery(folder / 'imagery.tif')
    assert imagery.bands == 4
    with rasterio.open(folder / 'imagery.tif') as source:
        assert source.colorinterp[3] == ColorInterp.alpha
        image, valid = imagery.read(imagery.geobox)
        np.testing.assert_array_equal(image, source.read())
    assert valid.all()
