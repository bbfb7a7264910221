# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Rasters of a million pixels a side, and folders of many files: counted, not timed."""

import os
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from torchgeo_mapsr.datasets import LRHRPair, base
from torchgeo_mapsr.datasets.base import ChipQuery
from torchgeo_mapsr.datasets.geo.grid import box_in
from torchgeo_mapsr.datasets.imagery import Imagery, _Counts
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region
from torchgeo_mapsr.mapping.tile_files import TileFiles

from .conftest import changed

SIDE = 10**6


def write_vrt(path: Path, scene: Scene) -> Path:
    """A raster of 10⁶ × 10⁶ pixels with a scene in its first corner, no data elsewhere."""
    with rasterio.open(scene.imagery) as file:
        bands, (height, width) = file.count, file.shape
        grid = ', '.join(map(repr, file.transform.to_gdal()))
        crs = file.crs.to_wkt()
    corner = f'xOff="0" yOff="0" xSize="{width}" ySize="{height}"'
    content = '\n'.join(
        f"""<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>0</NoDataValue>
        <ComplexSource><SourceFilename>{scene.imagery}</SourceFilename>
        <SourceBand>{band}</SourceBand><SrcRect {corner}/><DstRect {corner}/>
        </ComplexSource></VRTRasterBand>"""
        for band in range(1, bands + 1)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>{crs}</SRS>'
        f'<GeoTransform>{grid}</GeoTransform>{content}</VRTDataset>'
    )
    return path


@pytest.fixture
def traced() -> Iterator[None]:
    """Count memory of Python and numpy."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures('traced')
def test_the_corner_of_a_huge_raster(
    scene: Scene, job: MapJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fits, and maps tile after tile, in the memory of a few; 3.8 million tiles wait."""
    made: list[str] = []
    save = TileFiles.save

    def stop_after_three(
        self: TileFiles, image: int, tile: object, **arrays: object
    ) -> None:
        save(self, image, tile, **arrays)
        made.append(f'{tile}')
        if len(made) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TileFiles, 'save', stop_after_three)
    huge = changed(
        job, imagery=(str(write_vrt(tmp_path / 'huge.vrt', scene)),), tile_size=512
    )
    with pytest.raises(KeyboardInterrupt):
        map_region(huge)
    assert len(list(Path(f'{job.output}.parts').glob('fit_*'))) == 1
    # Of each axis some 20 bytes a pixel while it is planned: of 10⁸ chips a list
    # alone would be 800 MB.
    assert tracemalloc.get_traced_memory()[1] < 200e6


def test_a_box_of_a_huge_raster_is_mapped_as_that_of_a_small_one(
    scene: Scene, job: MapJob, tmp_path: Path
) -> None:
    with rasterio.open(scene.imagery) as file:
        west, south, east, north = transform_bounds(file.crs, 'EPSG:4326', *file.bounds)
    inner = 0.15 * (east - west), 0.15 * (north - south)
    box = west + inner[0], south + inner[1], east - inner[0], north - inner[1]
    maps = []
    for name in (str(scene.imagery), str(write_vrt(tmp_path / 'huge.vrt', scene))):
        part = changed(
            job,
            imagery=(name,),
            bbox=box,
            nodata=0,
            output=tmp_path / f'{Path(name).stem}.tif',
            backbone='rcf?filters=2&colours=4&strides=1,4',
        )
        with rasterio.open(map_region(part).maps[0]) as file:
            maps.append(file.read(1))
    small, large = maps
    assert (small > 0).mean() > 0.9
    np.testing.assert_array_equal(small, large)


@pytest.mark.usefixtures('traced')
def test_blocks_without_data_are_counted_in_little_memory() -> None:
    """A page of 4096² pixels has 16 384 blocks; where all are counted, none is kept."""
    counts = _Counts((SIDE, SIDE))
    window = np.ones((4096, 4096), np.uint8)
    before = tracemalloc.get_traced_memory()[0]
    for col in (0, 0, 1, 2):  # what is read twice is counted once
        counts.add(window, (0, col * 4096))
    assert counts.by_name() == {'outside the files': 3 * 4096**2}
    assert tracemalloc.get_traced_memory()[0] - before < 3 * 700


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty tiles side by side, one of them with a mask of its own."""
    folder = tmp_path / 'tiles'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        place = Affine(1, 0, 5e5 + 32 * number, 0, -1, 4e6)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK='NO'), rasterio.open(
            folder / f'{number:02}.tif', 'w', driver='GTiff', width=32, height=32, count=3,
            dtype='uint8', crs='EPSG:32618', transform=place,
        ) as file:  # fmt: skip
            file.write(rng.integers(1, 250, (3, 32, 32), np.uint8))
            if number == 7:
                right = np.full((32, 32), 255, np.uint8)
                right[:, :16] = 0
                file.write_mask(right)
    return folder


def test_each_file_is_asked_for_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    stat = os.stat

    def count(path: object, *args: object, **kwargs: object) -> os.stat_result:
        asked[os.path.basename(str(path))] += 1
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, 'stat', count)
    imagery = Imagery(folder)
    assert len(imagery.paths) == 60
    # Once whether it is a folder or a file of this machine, and once for size and time;
    # rasterio asks once whether a name is one.
    assert max(asked[Path(path).name] for path in imagery.paths) <= 4


def test_side_car_files_are_found_without_a_list_of_the_folder(folder: Path) -> None:
    """A mask, statistics and a world file; GDAL is not to list the folder."""
    assert (folder / '07.tif.msk').exists()
    imagery = Imagery(folder)
    _, valid = imagery.read(imagery.geobox)
    assert np.count_nonzero(~valid) == 32 * 16
    assert any(name.endswith('07.tif.msk') for name in imagery.files)


def test_codes_of_a_huge_label_raster_are_counted_in_blocks(
    tmp_path: Path, traced: None
) -> None:
    """A sparse file of 10⁶ × 10⁵ cells."""
    path = tmp_path / 'labels.tif'
    with rasterio.open(
        path, 'w', driver='GTiff', width=10**6, height=10**5, count=1, dtype='uint8',
        crs='EPSG:5070', transform=Affine(30, 0, -2.3e6, 0, -30, 3.2e6), tiled=True,
        blockxsize=4096, blockysize=4096, sparse_ok=True, bigtiff='yes', compress='deflate',
    ) as file:  # fmt: skip
        file.write(np.full((512, 512), 41, np.uint8), 1, window=((0, 512), (0, 512)))
    (raster,) = LabelRaster.open(path)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    codes, _ = raster.count_codes()
    assert codes[41] == 512**2
    assert codes.total() <= 64 * 512**2
    # Of its 383 000 blocks, a list would be 40 MB.
    assert tracemalloc.get_traced_memory()[1] - before < 15e6


def test_a_chip_of_a_dataset_looks_at_the_files_near_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr(
        base, 'box_in', lambda *grids: looked.append(0) or box_in(*grids)
    )
    labels = folder.parent / 'labels.tif'
    with rasterio.open(
        labels, 'w', driver='GTiff', width=70, height=4, count=1, dtype='uint8',
        crs='EPSG:32618', transform=Affine(30, 0, 5e5, 0, -30, 4e6 + 30),
    ) as file:  # fmt: skip
        file.write(np.full((4, 70), 41, np.uint8), 1)
    dataset = LRHRPair(folder, labels)
    imagery = dataset.imagery
    query = ChipQuery(0, imagery.geobox[:32, 400:464])
    sample = dataset[query]
    assert len(looked) < 6
    image, valid = imagery.read(query.geobox)
    np.testing.assert_array_equal(sample['image'], image)
    np.testing.assert_array_equal(sample['mask_valid'] > 0, valid)
    # beyond the files, nothing
    far = dataset[ChipQuery(0, imagery.geobox[:32, :32].translate_pix(-500, 0))]
    assert not far['mask_valid'].any()
