# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The configurations of Low2High run, with torchgeo's own command."""

import shutil
from pathlib import Path

import pytest
from torchgeo.main import main as torchgeo_main

from tests.data.chesapeake_pairs.data import TILES, make_tiles
from torchgeo_mapsr.main import main
from torchgeo_mapsr.tasks import MaskedAutoencoderTask

CONFIGS = Path(__file__).parents[1] / 'docs' / 'configs'
NAMES = ('oracle', 'low', 'high', 'agg', 'app', 'pretrain', 'pre')

# One step on small chips; the values that the files have are for a GPU.
QUICK = ['--trainer.fast_dev_run', 'true', '--trainer.accelerator', 'cpu']
QUICK += ['--trainer.enable_progress_bar', 'false', '--data.batch_size', '2']
QUICK += ['--data.patch_size', '64', '--data.num_workers', '0']
SMALL = ['size=64', 'dim=16', 'depth=1', 'heads=2']
SMALL += ['decoder_dim=16', 'decoder_depth=1', 'decoder_heads=2']


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('low2high')
    make_tiles(folder / 'chesapeake', size=384)
    options = ['--output', str(folder / 'low2high'), '--size', '64']
    assert main(['low2high', str(folder / 'chesapeake'), *options]) == 0
    (folder / 'exemplars').mkdir()
    stem, *_ = TILES['wv-val']
    shutil.copy(folder / f'chesapeake/{stem}_lc.tif', folder / 'exemplars')
    MaskedAutoencoderTask(
        size=64, dim=16, depth=1, heads=2, decoder_dim=16, decoder_heads=2
    ).save_encoder(folder / 'encoder.safetensors')
    return folder


def test_there_is_one_for_each_row() -> None:
    files = {path.stem for path in CONFIGS.glob('low2high_*.yaml')}
    assert files == {f'low2high_{name}' for name in NAMES}


@pytest.mark.usefixtures('here')
@pytest.mark.parametrize('name', NAMES)
def test_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb = 'test' if name == 'oracle' else 'fit'
    more: list[str] = []
    if name == 'pretrain':
        for option in SMALL:
            key, value = option.split('=')
            more += [f'--model.{key}', value]
    config = str(CONFIGS / f'low2high_{name}.yaml')
    torchgeo_main([verb, '--config', config, *QUICK, *more])
    if name == 'oracle':
        assert 'test_F1' in capsys.readouterr().out
