# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The examples of docs/training.md run as they stand."""

import re
from pathlib import Path

import pytest
import yaml

from torchgeo_mapsr.datasets import make_scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.models.networks.trained import load_networks

PAGE = Path(__file__).parents[2] / 'docs' / 'training.md'


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['torchgeo-mapsr'])
    scene = make_scene(tmp_path, seed=0, size=(100, 130))
    scene.labels.rename('nlcd.tif')
    blocks = {
        language: re.findall(
            rf'^```{language}\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL
        )
        for language in ('python', 'yaml')
    }
    (program,) = blocks['python']
    exec(compile(program, PAGE.name, 'exec'), {})  # noqa: S102
    assert load_networks(['unet.ckpt']).target.name == 'land-cover-4'

    regions, adversarial = map(yaml.safe_load, blocks['yaml'])
    scene.truth.rename('labels_of_another_county.tif')
    adversarial['model']['init_args']['exemplar_legend'] = 'land-cover-4'
    data = {
        'class_path': 'torchgeo_mapsr.PairDataModule',
        'init_args': {
            'imagery': 'imagery.tif',
            'labels': 'nlcd.tif',
            'patch_size': 64,
            'length': 1,
        },
    }
    for config in (regions, adversarial):
        Path('page.yaml').write_text(yaml.safe_dump(config | {'data': data}))
        args = ['fit', '--config', 'page.yaml', '--trainer.fast_dev_run', 'true']
        assert main([*args, '--trainer.accelerator', 'cpu']) == 0
