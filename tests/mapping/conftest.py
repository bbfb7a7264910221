# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest

from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.mapping.config import FLAGS, MapJob, value_at
from torchgeo_mapsr.mapping.run import map_region

#: Small, but of two strides, so that halo, alignment and blending matter.
BACKBONE = 'rcf?filters=6&colours=24&strides=1,4'


@pytest.fixture(scope='session')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), seed=3, size=(330, 290))


def job_of(scene: Scene, output: Path, **flags: Any) -> MapJob:
    """A job of seconds, with several chips and tiles."""
    return MapJob.from_flags(
        imagery=(str(scene.imagery),),
        labels=(str(scene.labels),),
        legend=scene.legend,
        output=output,
        backbone=BACKBONE,
        chip_size=128,
        tile_size=100,
        device='cpu',
        **flags,
    )


@pytest.fixture(scope='session')
def mapped(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what that job makes, with scores and fit; not to be written to."""
    folder = tmp_path_factory.mktemp('mapped')
    fit = folder / 'fit.safetensors'
    map_region(job_of(scene, folder / 'cover.tif', save_model=fit, scores=True))
    return folder


@pytest.fixture
def job(scene: Scene, tmp_path: Path) -> MapJob:
    """A job of seconds, with several chips and tiles."""
    return job_of(scene, tmp_path / 'cover.tif')


def flags_of(job: MapJob) -> dict[str, Any]:
    """Value of every flag of a job."""
    return {flag.name: value_at(job, flag.path) for flag in FLAGS}


def changed(job: MapJob, **flags: Any) -> MapJob:
    """The same job with other values of some flags."""
    return MapJob.from_flags(**(flags_of(job) | flags))


def arguments(job: MapJob, **flags: Any) -> list[str]:
    """The command line of a job."""
    job = changed(job, **flags)
    args = ['map', *job.imagery, '--output', str(job.output)]
    if job.labels:
        args += ['--labels', *job.labels, '--legend', str(job.legend)]
    for flag in FLAGS:
        if flag.name in ('backbone', 'chip_size', 'tile_size', 'device', 'model'):
            value = value_at(job, flag.path)
            args += [] if value is None else [flag.option, str(value)]
    return args
