# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Rasters of a million pixels a side: memory is counted, not timed."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds

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
