# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest

from torchgeo_mapsr.datasets.scene import Scene, make_scene


@pytest.fixture(scope='session')
def shared() -> Path:
    """Real scenes, weights and protocols: a folder beside the repository."""
    folder = Path(__file__).parents[2] / 'shared'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    return folder


@pytest.fixture(scope='session')
def made_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A made scene of 384 × 448 pixels with NLCD labels; not to be written to."""
    return make_scene(tmp_path_factory.mktemp('scene'), seed=0, size=(384, 448))
