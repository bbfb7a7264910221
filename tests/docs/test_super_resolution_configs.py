# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Configurations of label super-resolution and its baselines run for a step."""

import shutil
from pathlib import Path

import pytest

from torchgeo_mapsr.datasets import make_scene
from torchgeo_mapsr.main import main

CONFIGS = Path(__file__).parents[2] / 'docs' / 'configs'

QUIET = ['--trainer.accelerator', 'cpu', '--trainer.enable_progress_bar', 'false']
QUIET += ['--trainer.enable_model_summary', 'false']


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the configurations name; codes 1 to 4 mean the same in chesapeake-7."""
    folder = tmp_path_factory.mktemp('configs')
    scene = make_scene(folder, seed=0, size=(96, 128))
    shutil.copy(scene.labels, folder / 'nlcd.tif')
    shutil.copy(scene.truth, folder / 'here_lc.tif')
    for name in ('here', 'there'):
        shutil.copy(scene.imagery, folder / f'{name}.tif')
    return folder


@pytest.mark.parametrize('name', ['sr', 'hr_sr', 'soft_naive', 'em'])
@pytest.mark.usefixtures('here')
def test_config(name: str) -> None:
    args = ['fit', '--config', str(CONFIGS / f'{name}.yaml')]
    args += ['--trainer.fast_dev_run', 'true', *QUIET]
    args += ['--data.patch_size', '64', '--data.batch_size', '2', '--data.length', '2']
    assert main(args) == 0


@pytest.mark.usefixtures('here')
def test_statistics_without_a_class_are_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path('few.yaml').write_text(
        'source: nlcd\ntarget: land-cover-4\nclasses: {11: {shares: {1: [0.8, 1]}}}'
    )
    args = ['fit', '--config', str(CONFIGS / 'sr.yaml'), '--data.length', '2']
    args += [
        '--model.supervision.statistics',
        'few.yaml',
        '--trainer.fast_dev_run',
        'true',
    ]
    args += ['--data.patch_size', '64', *QUIET]
    assert main(args) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("torchgeo-mapsr: statistics 'few' lack LR class 21 (")
