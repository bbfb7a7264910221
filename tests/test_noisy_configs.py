# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The configurations of docs/noisy.md run as they stand, with small networks."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.data.openearthmap import data
from tests.data.openearthmap_sar import data as sar_data
from torchgeo_mapsr.datasets.scene.scene import make_scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.models.networks.segmentation import Network, SegmentationNetwork
from torchgeo_mapsr.models.networks.trained import load_networks

CONFIGS = Path(__file__).parents[1] / 'docs' / 'configs'

# The smallest of each family.
SMALL = {
    'segformer_mit': 'mit_b0',
    'upernet_swinv2': 'tu-swinv2_tiny_window8_256',
    'upernet_convnextv2': 'tu-convnextv2_atto',
}
QUICK = ['--trainer.accelerator', 'cpu', '--trainer.enable_progress_bar', 'false']
QUICK += ['--trainer.max_steps', '1', '--trainer.logger', 'false']
QUICK += ['--trainer.limit_val_batches', '1', '--trainer.num_sanity_val_steps', '0']


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and configurations, as the page has them."""
    data.make(tmp_path / 'OpenEarthMap_wo_xBD', 64)
    sar_data.make(tmp_path / 'OpenEarthMap-SAR', 64)
    for config in CONFIGS.glob('*.yaml'):
        shutil.copy(config, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['torchgeo-mapsr'])
    return tmp_path


def chips(*parts: str) -> list[str]:
    args: list[str] = []
    for part in parts:
        for option in ('batch_size=2', 'patch_size=64', 'num_workers=0'):
            args.append(f'--data.{part}{option}')
    return args


def test_both_stages(here: Path) -> None:
    args = [
        'fit',
        '--config',
        'self_training.yaml',
        *QUICK,
        '--model.network.backbone',
        'mit_b0',
    ]
    assert main([*args, *chips('source.', 'target.')]) == 0
    (first,) = here.rglob('*.ckpt')
    teacher = first.rename(here / 'stage-1.ckpt')

    args = [
        'fit',
        '--config',
        'pseudo_label.yaml',
        '--config',
        'upernet_convnextv2.yaml',
    ]
    args += [
        *QUICK,
        '--model.network.backbone',
        SMALL['upernet_convnextv2'],
        *chips(''),
    ]
    args += ['--model.teachers', '[stage-1.ckpt]', '--data.paired', 'true']
    assert main(args) == 0
    (second,) = here.rglob('checkpoints/*.ckpt')
    both = [load_networks([path]) for path in (teacher, second)]
    assert [trained.bands for trained in both] == [3, 1]
    made = [trained.provenance['checkpoints'][0]['model'] for trained in both]
    assert made == ['segformer', 'upernet']


@pytest.mark.parametrize('name', SMALL)
def test_networks(name: str) -> None:
    content = yaml.safe_load((CONFIGS / f'{name}.yaml').read_text())
    chosen = content['model']['init_args']['network']
    small = SMALL[name]
    # of one family with what the configuration names
    assert small.split('_')[0] == chosen['backbone'].split('_')[0]
    torch.manual_seed(0)
    network = SegmentationNetwork(
        Network(chosen['model'], small, in_channels=1), 8
    ).eval()
    image = 255 * torch.rand(1, 1, 60, 70)
    with torch.no_grad():
        logits = network(image)
        assert logits.shape == (1, 8, 60, 70)
        # the picture matters, and not its size alone
        assert (network(255 - image) - logits).abs().max() > 1e-3


def test_page(here: Path) -> None:
    """The example of the page, as it stands."""
    scene = make_scene(here, seed=0, size=(128, 128))
    scene.labels.rename(here / 'nlcd.tif')
    scene.truth.rename(here / 'truth.tif')
    page = (CONFIGS.parent / 'noisy.md').read_text()
    blocks = re.findall(r'^```python\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    assert 'SelfTrainingTask' in blocks[0]
    exec(compile(blocks[0], 'noisy.md', 'exec'), {})  # noqa: S102
    trained = load_networks(['stage-1.ckpt'])
    assert trained.target.name == 'land-cover-4'
