# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The four steps of docs/configs/class_aware.yaml, with small images and networks."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from lightning.pytorch import Trainer

from torchgeo_mapsr import SourceTargetDataModule, UnlabelledDataModule
from torchgeo_mapsr.datasets.patches import read_footprints
from torchgeo_mapsr.main import main

CONFIGS = Path(__file__).parents[1] / 'docs' / 'configs'

QUICK = ['--trainer.accelerator', 'cpu', '--trainer.enable_progress_bar', 'false']
QUICK += ['--trainer.max_steps', '1', '--trainer.logger', 'false']
QUICK += ['--trainer.num_sanity_val_steps', '0', '--model.network.backbone', 'resnet18']


def write(path: Path, values: np.ndarray, pixel: float, left: float = 4e5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, 'w', driver='GTiff', count=len(values), height=values.shape[1],
        width=values.shape[2], dtype=values.dtype, crs='EPSG:32650',
        transform=rasterio.Affine(pixel, 0, left, 0, -pixel, 4e6),
    ) as file:  # fmt: skip
        file.write(values)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for i, split in enumerate(('train', 'val', 'test')):
        image = rng.integers(1, 4000, (13, 64, 64), 'uint16')
        write(tmp_path / f'labelled/{split}/a.tif', image, 10, 4e5 + 640 * i)
    labels = rng.integers(1, 25, (1, 160, 480), 'uint8')
    write(tmp_path / 'labels/l.tif', labels, 4)
    image = rng.integers(1, 4000, (13, 64, 96), 'uint16')
    write(tmp_path / 'unlabelled/u.tif', image, 10, 5e5)
    for config in CONFIGS.glob('class_aware*.yaml'):
        shutil.copy(config, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['torchgeo-mapsr'])
    return tmp_path


def chips(*parts: str) -> list[str]:
    args: list[str] = []
    for part in parts:
        args += [f'--data.{part}batch_size=2', f'--data.{part}patch_size=32']
        if part != 'target.':
            args.append(f'--data.{part}length=2')
    return args


def test_four_steps(here: Path) -> None:
    both = ['--config', 'class_aware.yaml', '--config', 'class_aware_baseline.yaml']
    assert main(['fit', *both, *QUICK, *chips('')]) == 0
    (found,) = here.rglob('*.ckpt')
    baseline = found.rename(here / 'baseline.ckpt')
    mapped = ['map', 'unlabelled/u.tif', '--checkpoint', str(baseline)]
    mapped += ['--target', 'five-billion-pixels']
    assert main([*mapped, '--output', 'maps/', '--quiet']) == 0

    every = [str(code) for code in range(1, 25)]
    selected = ['select', 'maps/u.tif', '--minority', *every, '--patch-size', '32']
    assert main([*selected, '--output', 'patches.gpkg']) == 0
    assert len(read_footprints('patches.gpkg')) == 6

    args = ['fit', '--config', 'class_aware.yaml', *QUICK]
    assert main([*args, *chips('source.', 'target.')]) == 0
    assert len(list(here.rglob('checkpoints/*.ckpt'))) == 1

    # the patches are what is sampled
    data = UnlabelledDataModule('unlabelled', 'patches.gpkg', patch_size=32, length=9)
    data.setup('fit')
    batches = list(data.train_dataloader())
    assert len(batches) == 9
    assert batches[0]['image'].shape == (1, 13, 32, 32)
    assert set(batches[0]) & {'mask', 'lr_label'} == set()


def test_validation_may_be_the_sources(here: Path) -> None:
    source = UnlabelledDataModule('labelled/val', patch_size=32)
    target = UnlabelledDataModule('unlabelled', patch_size=16)
    for evaluate, size in (('source', 32), ('target', 16)):
        data = SourceTargetDataModule(source, target, evaluate=evaluate)  # type: ignore[arg-type]
        data.trainer = Trainer(accelerator='cpu', logger=False)
        data.setup('validate')
        batch = next(iter(data.val_dataloader()))
        assert batch['image'].shape[-1] == size
