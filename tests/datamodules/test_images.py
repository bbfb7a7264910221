# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from tests.data.openearthmap import data
from tests.data.openearthmap_sar import data as sar_data
from torchgeo_mapsr.datamodules import (
    OpenEarthMapDataModule,
    OpenEarthMapSARDataModule,
    SourceTargetDataModule,
)
from torchgeo_mapsr.datasets.images import ChipFiles, ImageChips
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError


class Recorder(LightningModule):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Any]] = {'train': [], 'val': [], 'test': []}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen['train'].append(batch)
        return self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen['val'].append(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.seen['test'].append(batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch['filename']

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('chips')
    data.make(folder / 'oem')
    sar_data.make(folder / 'sar')
    return folder


def trainer() -> Trainer:
    return Trainer(
        accelerator='cpu',
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def test_openearthmap(root: Path) -> None:
    module = OpenEarthMapDataModule(str(root / 'oem'), batch_size=2, patch_size=32)
    task = Recorder()
    run = trainer()
    run.fit(task, module)
    run.test(task, module, verbose=False)
    first, last = task.seen['train']
    assert first['image'].shape == (2, 3, 32, 32)
    assert first['mask'].shape == (2, 32, 32)
    assert first['mask'].dtype == torch.int64
    # values as they are stored, also after augmentation, and the incomplete batch
    assert first['image'].max() > 100
    assert len(last['image']) == 1
    # whole images
    (val,) = task.seen['val']
    assert val['image'].shape == (1, 3, data.SIZE + 8, data.SIZE + 8)
    (test,) = task.seen['test']
    assert 'mask' not in test
    assert run.predict(task, module) == [['aachen_5.tif']]


def test_sar(root: Path) -> None:
    module = OpenEarthMapSARDataModule(
        str(root / 'sar'), paired=True, batch_size=4, patch_size=40, labels='absent'
    )
    task = Recorder()
    trainer().fit(task, module)
    (train,) = task.seen['train']
    assert train['image'].shape == (4, 1, 40, 40)
    assert train['image_optical'].shape == (4, 3, 40, 40)
    assert 'mask' not in train
    # manual labels, whatever the training labels are
    assert all('mask' in batch for batch in task.seen['val'])
    assert len(task.seen['val']) == sar_data.COUNT['val']


def test_augmentation_turns_images_and_labels_alike(root: Path) -> None:
    """Pixels have the colours of their classes, also after turns."""
    module = OpenEarthMapDataModule(str(root / 'oem'), batch_size=3, patch_size=64)
    task = Recorder()
    trainer().fit(task, module)
    (train,) = task.seen['train']
    colours = torch.from_numpy(data.COLOURS).float()
    known = train['mask'] > 0
    expected = colours[train['mask'].clamp(min=0)].movedim(-1, 1)
    error = (train['image'] - expected).abs().mean(1)[known]
    assert error.mean() < 10


@pytest.mark.parametrize(('mode', 'steps'), [('max_size_cycle', 3), ('min_size', 2)])
def test_source_and_target(root: Path, mode: Any, steps: int) -> None:
    source = OpenEarthMapDataModule(str(root / 'oem'), batch_size=1, patch_size=32)
    target = OpenEarthMapSARDataModule(
        str(root / 'sar'), modality='optical', batch_size=2, patch_size=32
    )
    task = Recorder()
    trainer().fit(task, SourceTargetDataModule(source, target, mode))
    # optical images are there for training alone
    names = [batch['filename'][0] for batch in task.seen['val']]
    assert names == [f'TrainArea_{i + 1:03}.tif' for i in range(4)]
    assert len(task.seen['train']) == steps
    batch = task.seen['train'][0]
    assert set(batch) == {'source', 'target'}
    assert len(batch['source']['image']) == 1
    assert len(batch['target']['image']) == 2
    assert batch['target']['filename'][0].startswith('TrainArea')


def test_evaluation_is_the_target_s(root: Path) -> None:
    source = OpenEarthMapDataModule(str(root / 'oem'), batch_size=1, patch_size=32)
    target = OpenEarthMapSARDataModule(str(root / 'sar'), batch_size=2, patch_size=32)
    module = SourceTargetDataModule(source, target)
    task = Recorder()
    run = trainer()
    run.fit(task, module)
    run.test(task, module, verbose=False)
    assert len(task.seen['val']) == sar_data.COUNT['val']
    assert len(task.seen['test']) == sar_data.COUNT['test']
    assert run.predict(task, module) == [['TestArea_001.tif']]


def test_each_augments_its_own(root: Path) -> None:
    source = OpenEarthMapDataModule(str(root / 'oem'), batch_size=2, patch_size=32)
    target = OpenEarthMapDataModule(str(root / 'oem'), batch_size=2, patch_size=32)
    source.train_aug = lambda batch: batch | {'image': 0 * batch['image']}
    target.train_aug = lambda batch: batch | {'image': 0 * batch['image'] + 7}
    task = Recorder()
    trainer().fit(task, SourceTargetDataModule(source, target))
    for batch in task.seen['train']:
        assert (batch['source']['image'] == 0).all()
        assert (batch['target']['image'] == 7).all()


def test_chips_without_labels_beside_others(tmp_path: Path) -> None:
    """A batch has the same keys for all."""
    paths = [tmp_path / f'{name}.tif' for name in 'abm']
    for path in paths:
        with rasterio.open(
            path, 'w', driver='GTiff', count=1, dtype='uint8', height=8, width=8
        ) as out:
            out.write(np.full((1, 8, 8), 2, np.uint8))
    legend = Legend.load('land-cover-4')
    chips = [ChipFiles(paths[0]), ChipFiles(paths[1], paths[2])]
    batch = next(iter(DataLoader(ImageChips(chips, legend), batch_size=2)))
    assert (batch['mask'][0] == -1).all()
    assert (batch['mask'][1] == 2).all()
    assert 'mask' not in ImageChips(chips[:1], legend)[0]
    # bands of several types
    with rasterio.open(
        tmp_path / 'rgb.tif',
        'w',
        driver='GTiff',
        count=3,
        dtype='uint8',
        height=8,
        width=8,
    ) as out:
        out.write(np.arange(192, dtype=np.uint8).reshape(3, 8, 8))
    mixed = tmp_path / 'mixed.vrt'
    rasterio.shutil.copy(tmp_path / 'rgb.tif', mixed, driver='VRT')
    mixed.write_text(mixed.read_text().replace('"Byte" band="2"', '"Int16" band="2"'))
    image = ImageChips([ChipFiles(mixed)], legend)[0]['image']
    np.testing.assert_array_equal(image, np.arange(192).reshape(3, 8, 8))
    with pytest.raises(InputError, match='has no optical image'):
        ImageChips([chips[0], ChipFiles(paths[1], optical=paths[2])], legend)
