# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import subprocess
import sys
from pathlib import Path

import pytest
import rasterio
from rasterio.windows import Window

from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.mapping.config import MapJob

from .conftest import changed, flags_of

resource = pytest.importorskip('resource')


def repeat(scene: Scene, path: Path, times: int) -> str:
    """The scene's imagery, side by side and one below the other."""
    with rasterio.open(scene.imagery) as dataset:
        values, profile = dataset.read(), dataset.profile
    height, width = values.shape[1:]
    profile |= {
        'height': times * height,
        'width': times * width,
        'tiled': True,
        'blockxsize': 256,
        'blockysize': 256,
    }
    with rasterio.open(path, 'w', **profile) as dataset:
        for row in range(times):
            for col in range(times):
                window = Window(col * width, row * height, width, height)
                dataset.write(values, window=window)
    return str(path)


def test_memory_does_not_grow_with_the_raster(
    scene: Scene, job: MapJob, tmp_path: Path
) -> None:
    """Four times the pixels (3.4 million): values and scores would be 110 MB."""
    jobs = [
        changed(
            job,
            imagery=(repeat(scene, tmp_path / f'{times}.tif', times),),
            output=str(tmp_path / f'map{times}.tif'),
            backbone='rcf?filters=2&colours=4&strides=1,4',
            chip_size=160,
            tile_size=256,
        )
        for times in (3, 6)
    ]
    script = f"""
import resource
from torchgeo_mapsr.process import frugal
frugal()
from torchgeo_mapsr.mapping.run import map_region
from torchgeo_mapsr.mapping.config import MapJob
for flags in {[flags_of(job) for job in jobs]!r}:
    map_region(MapJob.from_flags(**flags))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    # Not forked: memory that a fork shares counts from when it is touched.
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    small, large = (int(line) * 1024 for line in done.stdout.split())
    assert large - small < 60e6
