# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Imagery in archives and Zarr stores, and files without a grid: the same pixels as GDAL's."""

import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr
from pyproj import Transformer
from rasterio import warp
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from torchgeo_mapsr import Imagery, LRHRPair
from torchgeo_mapsr.atomic import part_of
from torchgeo_mapsr.datasets.geo.raster import open_rasters
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.errors import InputError, InputWarning

GRID = GeoBox.from_bbox((360000, 4348000, 360080, 4348060), 'EPSG:26918', resolution=1)
Tif = Callable[..., Path]


def values_of(bands: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(1, 255, (bands, 60, 80), dtype=np.uint8)


@pytest.fixture
def tif(tmp_path: Path) -> Tif:
    def write(
        name: str, values: NDArray[Any], bare: bool = False, **profile: Any
    ) -> Path:
        path = tmp_path / name
        place = {} if bare else {'crs': str(GRID.crs), 'transform': GRID.affine}
        options: dict[str, Any] = {
            'driver': 'GTiff',
            'count': len(values),
            'height': 60,
            'width': 80,
            'dtype': values.dtype,
            **place,
            **profile,
        }
        with rasterio.open(path, 'w', **options) as file:
            file.write(values)
        return path

    return write


def same(one: Imagery, other: Imagery) -> None:
    """Both have the same grid, pixels and validity."""
    assert one.geobox == other.geobox
    for first, second in zip(one.read(one.geobox), other.read(one.geobox), strict=True):
        np.testing.assert_array_equal(first, second)


def test_hidden_files_of_a_folder_are_no_rasters(tif: Tif, tmp_path: Path) -> None:
    """What macOS, notebooks and unfinished writes leave, in a folder itself hidden."""
    folder = tmp_path / '.data' / 'x'
    folder.mkdir(parents=True)
    path = shutil.copy2(tif('a.tif', values_of(3)), folder / 'a.tif')
    (folder / '.ipynb_checkpoints').mkdir()
    for name in ('._a.tif', '.ipynb_checkpoints/a-checkpoint.tif', part_of(path).name):
        (folder / name).write_text('no raster')
    imagery = Imagery(folder)
    assert imagery.files == (str(path),)
    same(imagery, Imagery(path))


class TestArchive:
    def test_one_file(self, tif: Tif, tmp_path: Path) -> None:
        path = tif('a.tif', values_of(3), nodata=7)
        archive = tmp_path / 'A b.ZIP'
        with zipfile.ZipFile(archive, 'w') as file:
            file.writestr('readme.txt', 'words')
            file.writestr('__MACOSX/._a.tif', 'no raster')
            file.writestr('deep/er/._a.tif', 'no raster')
            file.write(path, 'deep/er/a.tif')
        imagery = Imagery(archive)
        same(imagery, Imagery(path))
        same(pickle.loads(pickle.dumps(imagery)), Imagery(path))
        # the archive is an input: never written over, and noticed when it changes
        assert imagery.files == (str(archive),)
        assert not imagery.changed()
        before = imagery.fingerprint()
        (tmp_path / 'moved').mkdir()
        moved = shutil.copy2(archive, tmp_path / 'moved' / archive.name)
        assert Imagery(moved).fingerprint() == before
        with zipfile.ZipFile(archive, 'a') as file:
            file.writestr('more.txt', 'words')
        assert imagery.changed()
        assert Imagery(archive).fingerprint() != before

    def test_members_are_a_mosaic(self, tif: Tif, tmp_path: Path) -> None:
        east = GRID.affine * Affine.translation(80, 0)
        paths = [
            tif('a.tif', values_of(1)),
            tif('b.tif', values_of(1, 1), transform=east),
        ]
        archive = tmp_path / 'both.zip'
        with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as file:
            for path in reversed(paths):
                file.write(path, path.name)
        same(Imagery(archive), Imagery(paths))
        fingerprints = {Imagery(m.path).fingerprint() for m in open_rasters(archive)}
        assert len(fingerprints) == 2
        (labels,) = LabelRaster.open(archive)
        assert labels.geobox.shape == (60, 160)

    @pytest.mark.parametrize(
        ('members', 'message'),
        [
            ({'a.txt': b'words'}, 'the archive holds no rasters'),
            ({'a.tif': b'words'}, 'cannot be read as a raster'),
            (None, 'cannot be read as a ZIP archive'),
        ],
    )
    def test_mistakes(
        self, members: dict[str, bytes] | None, message: str, tmp_path: Path
    ) -> None:
        archive = tmp_path / 'a.zip'
        archive.write_bytes(b'no archive')
        if members is not None:
            with zipfile.ZipFile(archive, 'w') as file:
                for name, content in members.items():
                    file.writestr(name, content)
        with pytest.raises(InputError, match=message):
            Imagery(archive)


@pytest.mark.filterwarnings('ignore::UserWarning')
class TestZarr:
    @pytest.mark.parametrize('version', [2, 3])
    def test_same_as_the_file(self, version: int, tif: Tif, tmp_path: Path) -> None:
        values = values_of(3)
        values[:, :9, :9] = 0
        store = tmp_path / 'scene.zarr'
        array = wrap_xr(values, GRID, nodata=0, dims=('band', 'y', 'x'), axis=1)
        array.attrs['_FillValue'] = 0
        array.attrs.pop('nodata', None)
        array.to_dataset(name='image').to_zarr(store, zarr_format=version)
        imagery = Imagery(store)
        expected = Imagery(tif('a.tif', values, nodata=0))
        same(imagery, expected)
        same(Imagery(f'{store}:image', bands=(3, 1)), Imagery(expected.paths, (3, 1)))
        same(pickle.loads(pickle.dumps(imagery)), expected)
        window = imagery.geobox[5:33, 7:71]
        np.testing.assert_array_equal(imagery.read(window)[0], values[:, 5:33, 7:71])
        assert not imagery.changed()
        before = imagery.fingerprint()
        moved = shutil.copytree(store, tmp_path / 'elsewhere' / 'scene.zarr')
        assert Imagery(moved).fingerprint() == before
        chunk = max(
            (path for path in store.rglob('*') if path.is_file()),
            key=lambda path: path.stat().st_size,
        )
        os.utime(chunk, (0, 2**33))
        assert imagery.changed()
        assert Imagery(store).fingerprint() != before

    def test_a_band_a_variable_and_packed_values(
        self, tif: Tif, tmp_path: Path
    ) -> None:
        """As odc-stac loads them: dates, and reflectance times 10 000."""
        values = values_of(2).astype(np.int16)
        store = tmp_path / 'scene.zarr'
        names = ('nir', 'red')
        dataset = None
        for name, band in zip(names, values, strict=True):
            array = wrap_xr(band, GRID).expand_dims('time', 0)
            array.attrs |= {'scale_factor': 1e-4, 'add_offset': -0.1, '_FillValue': 5}
            array.attrs.pop('nodata', None)
            dataset = array.to_dataset(name=name) if dataset is None else dataset
            dataset[name] = array
        assert dataset is not None
        dataset.to_zarr(store)
        imagery = Imagery(store)
        assert imagery.band_names == names
        path = tif('a.tif', values, nodata=5)
        with rasterio.open(path, 'r+') as file:
            file.scales, file.offsets = (1e-4, 1e-4), (-0.1, -0.1)
        same(imagery, Imagery(path))
        same(Imagery(f'{store}:red'), Imagery(path, bands=[2]))
        same(Imagery(f'{store}:red,nir'), Imagery(path, bands=[2, 1]))
        with pytest.raises(InputError, match='no variable blue; there are nir, red'):
            Imagery(f'{store}:blue')

    def test_labels(self, tif: Tif, tmp_path: Path) -> None:
        codes = values_of(1)
        store = tmp_path / 'nlcd.zarr'
        wrap_xr(codes[0], GRID, nodata=7).to_dataset(name='nlcd').to_zarr(store)
        (labels,) = LabelRaster.open(store)
        (expected,) = LabelRaster.open(tif('nlcd.tif', codes, nodata=7))
        assert labels.geobox == expected.geobox
        whole = slice(0, 60), slice(-2, 80)
        np.testing.assert_array_equal(labels.read(*whole), expected.read(*whole))

    def test_a_date_of_a_cube(self, tif: Tif, tmp_path: Path) -> None:
        """(time, band, y, x), and variables of (time, y, x) as odc-stac loads them."""
        dates = np.array(['2021-07-03T10:30', '2021-07-14', '2022-07-01'], 'M8[ns]')
        values = np.stack([values_of(2) + i for i in range(3)]).astype(np.uint8)
        cube = xarray.concat(
            [wrap_xr(v, GRID, dims=('band', 'y', 'x'), axis=1) for v in values],
            xarray.DataArray(dates, dims='time', name='time'),
        )
        store = tmp_path / 'cube.zarr'
        cube.to_dataset(name='image').to_zarr(store)
        july = Imagery(tif('july.tif', values[1]))
        for name in (f'{store}:image@2021-07-14', f'{store}:@2021-07-14'):
            same(Imagery(name), july)
        first = Imagery(f'{store}:@2021-07-03T10')
        same(first, Imagery(tif('first.tif', values[0])))
        assert first.fingerprint() != Imagery(f'{store}:@2022').fingerprint()
        both = Imagery([f'{store}:@2021-07-14', f'{store}:@2022'], stack=True)
        stacked = tif('stacked.tif', values[1:].reshape(-1, *values.shape[2:]))
        same(both, Imagery(stacked))
        for name, message in {
            f'{store}': 'name one date, as in .*cube.zarr:image@2021-07-14',
            f'{store}:@2021-07': '2 of its dates begin with 2021-07: 2021-07-03T10:30:00, ',
            f'{store}:@1999': 'none of its dates begin with 1999',
        }.items():
            with pytest.raises(InputError, match=message):
                Imagery(name)
        flat = tmp_path / 'flat.zarr'
        parts = {n: cube.isel(band=i, drop=True) for i, n in enumerate(('a', 'b'))}
        xarray.Dataset(parts).to_zarr(flat)
        same(Imagery(f'{flat}:@2021-07-14'), july)
        same(Imagery(f'{flat}:b@2021-07-14'), Imagery(tmp_path / 'july.tif', bands=[2]))

    @pytest.mark.parametrize('name', ['cube.zarr', 'cube'])
    def test_a_time_of_a_cube(self, tmp_path: Path, name: str) -> None:
        """Of passes that minutes and seconds tell apart; also without a suffix."""
        times = ['2021-07-14T10:30:00', '2021-07-14T10:30:40', '2021-07-14T10:31:00']
        cube = xarray.concat(
            [wrap_xr(np.full(GRID.shape, i, np.uint8), GRID) for i in range(3)],
            xarray.DataArray(np.array(times, 'M8[ns]'), dims='time', name='time'),
        )
        store = tmp_path / name
        cube.to_dataset(name='image').to_zarr(store)
        dates = '10:30:00', '10:30:4', '10:31'
        for i, date in enumerate(dates):
            for variable in ('image', ''):
                imagery = Imagery(f'{store}:{variable}@2021-07-14T{date}')
                values, _ = imagery.read(imagery.geobox)
                assert (values == i).all()
        with pytest.raises(InputError, match=r'2 of its dates .*:00, .*:40'):
            Imagery(f'{store}:image@2021-07-14T10:30')

    def test_pixels_of_a_third(self, tmp_path: Path) -> None:
        """Coordinates are rounded; the grid is that of the transform all the same."""
        affine = Affine(1 / 3, 0, 360000.1, 0, -1 / 3, 4348000.7)
        grid = GeoBox((300, 700), affine, 'EPSG:26918')
        array = wrap_xr(np.ones((300, 700), np.uint8), grid)
        array.to_dataset(name='a').to_zarr(tmp_path / 'a.zarr')
        assert Imagery(tmp_path / 'a.zarr').geobox == grid

    def test_mistakes(self, tmp_path: Path) -> None:
        image = wrap_xr(values_of(2), GRID, dims=('band', 'y', 'x'), axis=1)
        flat = wrap_xr(values_of(1)[0], GRID)
        both = image.to_dataset(name='image')
        both['mask'] = flat
        bare = flat.drop_vars('spatial_ref')
        for axis in ('y', 'x'):
            bare[axis] = bare[axis].values
        dates = flat.expand_dims('time', 0).isel(time=[0, 0])
        cases = {
            'several variables .image, mask.*scene.zarr:image': both,
            'has 2 of band, 2 of time|has 2 of time, 2 of band': (
                image.expand_dims('time', 0).isel(time=[0, 0]).to_dataset(name='a')
            ),
            'no coordinate reference system': bare.to_dataset(name='a'),
            'has no variable with dimensions y and x': both[['image']].isel(x=0, y=0),
        }
        for message, dataset in cases.items():
            store = tmp_path / 'scene.zarr'
            shutil.rmtree(store, ignore_errors=True)
            for variable in dataset.variables.values():
                variable.encoding.clear()
            dataset.to_zarr(store)
            with pytest.raises(InputError, match=message):
                Imagery(store)
        # dates alone are bands
        shutil.rmtree(store)
        dates.to_dataset(name='a').to_zarr(store)
        assert Imagery(store).bands == 2
        (store / 'zarr.json').unlink(missing_ok=True)
        (store / '.zmetadata').unlink(missing_ok=True)
        (store / '.zgroup').unlink(missing_ok=True)
        with pytest.raises(InputError, match='cannot be read as a Zarr store'):
            Imagery(store)
        with pytest.raises(InputError, match='cannot be read as a Zarr store'):
            Imagery(tmp_path / 'none.zarr')

    def test_damaged_chunk(self, tmp_path: Path) -> None:
        store = tmp_path / 'a.zarr'
        wrap_xr(values_of(1)[0], GRID).to_dataset(name='a').to_zarr(store)
        chunks = [
            path
            for path in (store / 'a').rglob('*')
            if path.is_file() and path.suffix != '.json' and path.name[0] != '.'
        ]
        for chunk in chunks:
            chunk.write_bytes(b'damaged')
        with pytest.raises(InputError, match='truncated or damaged'):
            Imagery(store)


# turned by twenty degrees, so that corners of the grid are outside
TURNED = (
    Affine.translation(360000, 4348000) * Affine.rotation(-20) * Affine.scale(2, -2)
)


def placed_by_points(path: Path) -> None:
    points = [
        GroundControlPoint(row, col, *(TURNED * (col, row)))
        for row in (0, 30, 60)
        for col in (0, 40, 80)
    ]
    with rasterio.open(path, 'r+') as file:
        file.gcps = points, rasterio.crs.CRS.from_epsg(26918)


def placed_by_a_camera(path: Path) -> None:
    """One that looks straight down: a hundredth of a degree a side."""
    model = RPC(
        height_off=0,
        height_scale=500,
        lat_off=39.28,
        lat_scale=0.005,
        long_off=-76.6,
        long_scale=0.005,
        line_off=30,
        line_scale=30,
        samp_off=40,
        samp_scale=40,
        line_num_coeff=[0, 0.1, -1, *[0] * 17],
        line_den_coeff=[1, *[0] * 19],
        samp_num_coeff=[0, 1, *[0] * 18],
        samp_den_coeff=[1, *[0] * 19],
        err_bias=0,
        err_rand=0,
    )
    with rasterio.open(path, 'r+') as file:
        file.rpcs = model


@pytest.mark.skipif(shutil.which('gdalwarp') is None, reason='gdalwarp is not there')
@pytest.mark.filterwarnings('ignore::torchgeo_mapsr.errors.InputWarning')
@pytest.mark.parametrize('place', [placed_by_points, placed_by_a_camera])
class TestWithoutGrid:
    @pytest.mark.parametrize('nodata', [None, 9])
    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
    def test_as_gdalwarp(
        self,
        place: Callable[[Path], None],
        nodata: int | None,
        dtype: Any,
        tif: Tif,
        tmp_path: Path,
    ) -> None:
        values = values_of(3).astype(dtype)
        values[values == 9] = 10
        values[:, 20:40, 30:50] = 9
        path = tif('raw.tif', values, bare=True, nodata=nodata)
        place(path)
        warped = tmp_path / 'warped.tif'
        # with a band of transparency: gdalwarp changes values that happen to be no-data
        options = ['-q', '-r', 'bilinear', '-et', '0', '-dstalpha']
        subprocess.run(['gdalwarp', *options, path, warped], check=True)
        imagery = Imagery(path)
        assert imagery.bands == 3
        with rasterio.open(warped) as file:
            assert imagery.geobox == GeoBox.from_rio(file)
            expected = file.read([1, 2, 3])
            inside = file.read(4) > 0
        image, valid = imagery.read(imagery.geobox)
        np.testing.assert_array_equal(valid, inside)
        assert 0.3 < valid.mean() < 0.95
        np.testing.assert_allclose(image[:, valid], expected[:, valid], rtol=1e-5)
        # windows are crops of the whole, across GDAL's blocks too
        window = imagery.geobox[11:52, 17:60]
        part, _ = imagery.read(window)
        np.testing.assert_array_equal(part, image[:, 11:52, 17:60])

    def test_labels_are_not_mixed(
        self, place: Callable[[Path], None], tif: Tif
    ) -> None:
        path = tif('raw.tif', values_of(1), bare=True)
        place(path)
        with pytest.raises(InputError, match=r'only imagery may be.*-r near'):
            LabelRaster.open(path)

    def test_palette_is_not_mixed(
        self, place: Callable[[Path], None], tif: Tif
    ) -> None:
        path = tif('raw.tif', values_of(1) % 2, bare=True, photometric='palette')
        with rasterio.open(path, 'r+') as file:
            file.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 0, 255, 255)})
            file.colorinterp = [ColorInterp.palette]
        place(path)
        imagery = Imagery(path)
        image, valid = imagery.read(imagery.geobox)
        colors = {tuple(color) for color in image[:, valid].T.tolist()}
        assert colors == {(255, 0, 0), (0, 0, 255)}


def test_camera_without_terrain_is_warned_of(tif: Tif) -> None:
    path = tif('raw.tif', values_of(1), bare=True)
    placed_by_a_camera(path)
    with pytest.warns(InputWarning, match='RPC.*in hills'):
        Imagery(path)


def test_dataset_reads_what_the_map_reads(tif: Tif, tmp_path: Path) -> None:
    """One home of opening: a pair of a file that points place."""
    path = tif('raw.tif', values_of(3), bare=True)
    placed_by_points(path)
    labels = tif('labels.tif', values_of(1), transform=TURNED_LABELS)
    pair = LRHRPair(path, labels)
    sample = pair[:]
    imagery = Imagery(path)
    image, valid = imagery.read(imagery.geobox)
    np.testing.assert_array_equal(sample['image'].numpy()[:, valid], image[:, valid])
    assert pair.all_bands == ('1', '2', '3')
    assert pair.rgb_bands == ('1', '2', '3')


TURNED_LABELS = Affine(30, 0, 359000, 0, -30, 4349000)


class TestNamesOfStacks:
    def test_named_by_file(self, tif: Tif, tmp_path: Path) -> None:
        paths = [tif(f'{name}.tif', values_of(3)) for name in ('may', 'july')]
        imagery = Imagery(paths, bands=(3, 1), stack=True)
        assert imagery.band_names == ('may:3', 'may:1', 'july:3', 'july:1')
        assert imagery.images == ((str(paths[0]),), (str(paths[1]),))
        (tmp_path / '2020').mkdir()
        (tmp_path / '2021').mkdir()
        moved = [
            path.rename(tmp_path / year / 'naip.tif')
            for path, year in zip(paths, ('2020', '2021'), strict=True)
        ]
        names = Imagery(moved, stack=True).band_names
        assert names[::3] == ('2020/naip:1', '2021/naip:1')

    def test_pair_of_a_stack(self, tif: Tif) -> None:
        may, july = values_of(3), values_of(2, 1)
        paths = [tif('may.tif', may), tif('july.tif', july)]
        labels = tif('labels.tif', values_of(1), transform=TURNED_LABELS)
        pair = LRHRPair(paths, labels, stack=True)
        assert len(pair.index) == 1
        assert pair.bands[2:4] == ('may:3', 'july:1')
        assert pair.rgb_bands == ('may:1', 'may:2', 'may:3')
        expected = np.concatenate([may, july])
        np.testing.assert_array_equal(pair[:]['image'].numpy(), expected)

    def test_mistakes(self, tif: Tif) -> None:
        one = tif('a.tif', values_of(1))
        with pytest.raises(InputError, match='is one file, and a stack needs several'):
            Imagery(one, stack=True)
        far = tif(
            'b.tif', values_of(1), transform=GRID.affine * Affine.translation(80, 0)
        )
        with pytest.raises(InputError, match='no common pixel'):
            Imagery([one, far], stack=True)


def test_files_inside_of_others_count(tif: Tif, tmp_path: Path) -> None:
    """A VRT of VRTs, a member of an archive and a variable change with their files."""
    values = values_of(1)
    source = tif('a.tif', values)
    inner, outer = tmp_path / 'in.vrt', tmp_path / 'out.vrt'
    for target, of in ((inner, source), (outer, inner)):
        subprocess.run(['gdalbuildvrt', '-q', target, of], check=True)
    archive = tmp_path / 'a.zip'
    with zipfile.ZipFile(archive, 'w') as file:
        file.write(source, 'in/a.tif')
    variable = tmp_path / 'a.nc'
    command = ['gdal_translate', '-q', '-of', 'netCDF', source, variable]
    subprocess.run(command, check=True)
    for name, holds in (
        (outer, source),
        (f'/vsizip/{archive}/in/a.tif', archive),
        (f'zip://{archive}!/in/a.tif', archive),
        (f'NETCDF:"{variable}":Band1', variable),
        (f'GTIFF_DIR:1:{source}', source),
    ):
        (file,) = open_rasters([name])
        assert str(holds) in file.files
        before = file.fingerprint()
        assert not file.changed()
        status = os.stat(holds)
        os.utime(holds, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
        assert file.changed()
        assert open_rasters([name])[0].fingerprint() != before


@pytest.mark.parametrize(
    ('content', 'same'),
    [
        (None, True),
        ('<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>', False),
        ('<PAMRasterBand band="1"><Scale>2</Scale></PAMRasterBand>', False),
        ('<PAMRasterBand band="1"><Offset>2</Offset></PAMRasterBand>', False),
        ('<PAMRasterBand band="2"><Description>b</Description></PAMRasterBand>', False),
        ('<PAMRasterBand band="2"><ColorInterp>Alpha</ColorInterp></PAMRasterBand>',
         False),
        ('<SRS>EPSG:32618</SRS>', False),
        ('<GeoTransform>360000, 2, 0, 4348000, 0, -2</GeoTransform>', False),
        ('<Metadata><MDI key="NODATA_VALUES">1 2</MDI></Metadata>', False),
    ],
)  # fmt: skip
def test_statistics_beside_a_file_are_no_part_of_it(
    tif: Tif, tmp_path: Path, content: str | None, same: bool
) -> None:
    """Whatever else GDAL's side-car may say of the pixels is."""
    path = tmp_path / 'bare.tif'
    tif('a.tif', values_of(2))
    with rasterio.open(tmp_path / 'a.tif') as source:
        values, affine, crs = source.read(), source.transform, source.crs
    with rasterio.open(
        path, 'w', driver='GTiff', count=2, height=values.shape[1],
        width=values.shape[2], dtype=values.dtype,
    ) as file:  # fmt: skip
        file.write(values)
    side = tmp_path / 'bare.tif.aux.xml'
    numbers = ', '.join(map(str, affine.to_gdal()))
    base = {'<SRS': f'<SRS>{crs.to_wkt()}</SRS>',
            '<GeoTransform': f'<GeoTransform>{numbers}</GeoTransform>'}  # fmt: skip

    def write(more: str) -> None:
        texts = [text for key, text in base.items() if not more.startswith(key)]
        side.write_text(f'<PAMDataset>{"".join(texts)}{more}</PAMDataset>')

    write('')
    imagery = Imagery(path)
    before = imagery.fingerprint()
    if content is None:
        with rasterio.open(path) as dataset:
            dataset.statistics(1)
        assert 'STATISTICS' in side.read_text()
        assert not imagery.changed()
    else:
        write(content)
    assert (Imagery(path).fingerprint() == before) == same


@pytest.mark.parametrize(
    ('crs', 'code'),
    [
        ('+proj=utm +zone=18 +datum=WGS84', 32618),
        ('+proj=utm +zone=18 +ellps=intl +towgs84=-87,-98,-121', None),
        ('+proj=utm +zone=31 +ellps=intl', None),
    ],
)
def test_places_are_those_of_gdal(tif: Tif, crs: str, code: int | None) -> None:
    """A CRS that only looks like that of an EPSG code keeps its own datum."""
    zone = 18 if 'zone=18' in crs else 31
    point = 430000.0, 4600000.0
    place = {'crs': crs, 'transform': Affine(1, 0, point[0], 0, -1, point[1])}
    path = tif('a.tif', values_of(1), **place)
    (file,) = open_rasters([path])
    assert file.geobox.crs is not None
    name = str(file.geobox.crs)
    assert name == f'EPSG:{code}' if code else not name.startswith('EPSG')
    with rasterio.open(path) as dataset:
        expected = warp.transform(dataset.crs, 'EPSG:4326', *([v] for v in point))
    to_degrees = Transformer.from_crs(file.geobox.crs.proj, 'EPSG:4326', always_xy=True)
    found = to_degrees.transform(*point)
    np.testing.assert_allclose(found, np.ravel(expected), atol=1e-8)
    assert abs(found[0] - (6 * zone - 183)) < 3


def test_masks_in_archives_where_gdal_looks_for_none(
    tif: Tif, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchgeo's command tells GDAL to list no folder."""
    path = tif('a.tif', values_of(1))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, 'r+') as file:
        file.write_mask(np.arange(80) >= np.full((60, 1), 40))
    assert (tmp_path / 'a.tif.msk').exists()
    archive = tmp_path / 'a.zip'
    with zipfile.ZipFile(archive, 'w') as zipped:
        for name in ('a.tif', 'a.tif.msk'):
            zipped.write(tmp_path / name, name)
    monkeypatch.setenv('GDAL_DISABLE_READDIR_ON_OPEN', 'EMPTY_DIR')
    for name in (path, archive):
        imagery = Imagery(name)
        assert imagery.read(imagery.geobox)[1].mean() == 0.5


def test_points_that_place_nothing(tmp_path: Path) -> None:
    path = tmp_path / 'one.tif'
    profile = {'driver': 'GTiff', 'count': 1, 'height': 9, 'width': 9, 'dtype': 'uint8'}
    with rasterio.open(path, 'w', **profile) as file:
        point = GroundControlPoint(0, 0, 360000, 4348000)
        file.gcps = [point], rasterio.crs.CRS.from_epsg(26918)
    with pytest.raises(InputError, match=r'one\.tif: cannot be read as a raster'):
        Imagery(path)
