# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported, here or in a subprocess: workers side by side (pytest -n)
# have a core each, and threads that wait for one another take that of others.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')

# A shell starts what it puts into the background deaf to Ctrl-C, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch
from hypothesis import settings
from rasterio._env import del_gdal_config

from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene

from .pretend import pretended

#: Files that take longest on one core (half a minute and more), longest first: one that
#: is handed out last keeps a worker busy when the others have nothing left.
LONGEST = (
    'test_one_way.py',
    'gis/test_plugin.py',
    'mapping/test_real_scenes.py',
    'mapping/test_dask.py',
    'mapping/test_run.py',
    'mapping/test_gpu.py',
    'test_speed.py',
    'test_benchmark_training.py',
    'docs/test_notebooks.py',
    'mapping/test_interrupted.py',
    'docs/test_examples.py',
    'test_library.py',
    'tasks/test_segmentation.py',
    'models/test_export.py',
    'tasks/test_self_training.py',
    'tasks/test_adversarial.py',
    'tasks/test_mapsr.py',
    'test_benchmark_noisy.py',
    'models/networks/test_trained.py',
    'tasks/test_em.py',
    'mapping/test_postprocess.py',
    'tasks/test_supervision.py',
    'models/head/test_fit.py',
    'mapping/test_polygons.py',
)

# No test fails for its time: another program may have the machine.
settings.register_profile('untimed', deadline=None)
settings.load_profile('untimed')


def pytest_configure(config: pytest.Config) -> None:
    # xdist hands out the files with most tests first, which are not the longest.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


#: The environment that tests begin with.
BEFORE = {name: text for name, text in os.environ.items() if name.startswith('GDAL_')}


def take_back_gdal() -> None:
    """Undo GDAL's settings that a test, or a fixture of a module, has left.

    torchgeo's command line puts GDAL_DISABLE_READDIR_ON_OPEN and others into the
    environment: GDAL then finds no side-car files, in whatever test comes next.
    (rasterio's Env makes what it finds there GDAL's own setting when it ends.)
    """
    changed = {name for name in os.environ if name.startswith('GDAL_')}
    # That one is GDAL's own still where a test has put the environment right itself.
    for name in (changed | {'GDAL_DISABLE_READDIR_ON_OPEN'}) - set(BEFORE):
        os.environ.pop(name, None)
        del_gdal_config(name)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Take back what a test leaves in the environment."""
    take_back_gdal()
    before = dict(os.environ)
    yield
    take_back_gdal()
    os.environ.clear()
    os.environ.update(before)


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


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a module's ``folder``, as torchgeo's own command."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['torchgeo'])
    return folder


@pytest.fixture
def gpu() -> Iterator[Counter[str] | None]:
    """A GPU: that of the machine, or a pretended one with what it counts."""
    if torch.cuda.is_available():
        yield None
        return
    with pretended() as log:
        yield log
