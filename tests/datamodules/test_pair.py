# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchgeo.datamodules import BaseDataModule

from tests.data.chesapeake_pairs import data
from torchgeo_mapsr.datamodules import ChesapeakePairsDataModule, PairDataModule
from torchgeo_mapsr.datasets.plot import per_pixel
from torchgeo_mapsr.errors import InputError


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('chesapeake')
    data.make_tiles(folder / 'tiles')
    data.make_rasters(folder / 'rasters')
    return folder


@pytest.fixture
def paths(root: Path) -> dict[str, str]:
    folder = root / 'rasters'
    return {
        'imagery': str(folder / 'naip'),
        'labels': str(folder / 'nlcd'),
        'truth': str(folder / 'lc'),
    }


class Watch(LightningModule):
    """Keeps the batches that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: dict[str, list[dict[str, Any]]] = {}

    def keep(self, stage: str, batch: dict[str, Any]) -> Tensor:
        self.batches.setdefault(stage, []).append(batch)
        return self.weight * 0

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        return self.keep('train', batch)

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        self.keep('val', batch)

    def test_step(self, batch: dict[str, Any], index: int) -> None:
        self.keep('test', batch)

    def predict_step(self, batch: dict[str, Any], index: int) -> Tensor:
        return self.keep('predict', batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(folder: Path) -> Trainer:
    return Trainer(
        accelerator='cpu',
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def test_all_stages(paths: dict[str, str], tmp_path: Path) -> None:
    module = PairDataModule(**paths, batch_size=3, patch_size=96)  # type: ignore[arg-type]
    watch, run = Watch(), trainer(tmp_path)
    run.fit(watch, datamodule=module)
    run.test(watch, datamodule=module, verbose=False)
    run.predict(watch, datamodule=module, return_predictions=False)
    # 2 × 2 chips of 96 in each of two tiles of 192; a batch of 2 is left over
    assert [len(b['image']) for b in watch.batches['train']] == [3, 3, 2]
    for stage in ('val', 'test', 'predict'):
        batches = watch.batches[stage]
        assert sum(len(b['image']) for b in batches) >= 8
        for batch in batches:
            # raw values, and the georeference of each chip
            assert batch['image'].max() > 100
            assert len(batch['bounds']) == len(batch['image'])
            assert ('crs' in batch) != ('transform' in batch)


def test_augmented_chips_are_exact(paths: dict[str, str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = PairDataModule(**paths, batch_size=8, patch_size=96, augment=True)  # type: ignore[arg-type]
    watch = Watch()
    trainer(tmp_path).fit(watch, datamodule=module)
    (train,), (val,) = watch.batches['train'], watch.batches['val'][-1:]
    changed = 0
    for i in range(8):
        image, label = (
            val['image'][i],
            per_pixel(val['lr_label'][i], val['mask_region'][i]),
        )
        turned = torch.from_numpy(label)
        options = [
            torch.rot90(flipped, k, (-2, -1))
            for flipped in (image, image.flip(-1))
            for k in range(4)
        ]
        labels = [
            torch.rot90(flipped, k, (-2, -1))
            for flipped in (turned, turned.flip(-1))
            for k in range(4)
        ]
        (match,) = [
            k
            for k, o in enumerate(options)
            if torch.allclose(o, train['image'][i], atol=0.01)
        ]
        changed += match != 0
        found = per_pixel(train['lr_label'][i], train['mask_region'][i])
        torch.testing.assert_close(torch.from_numpy(found), labels[match])
    assert changed > 3


def test_random_chips(paths: dict[str, str], tmp_path: Path) -> None:
    module = PairDataModule(
        paths['imagery'],
        paths['labels'],
        bands=[1],
        batch_size=4,
        patch_size=64,
        length=10,
    )
    watch = Watch()
    trainer(tmp_path).fit(watch, datamodule=module)
    assert [len(b['image']) for b in watch.batches['train']] == [4, 4, 2]
    assert watch.batches['train'][0]['image'].shape[1] == 1
    assert 'mask' not in watch.batches['train'][0]


def test_worker_processes(paths: dict[str, str]) -> None:
    module = PairDataModule(**paths, patch_size=96, num_workers=1)  # type: ignore[arg-type]
    module.setup('fit')
    plain = PairDataModule(**paths, patch_size=96)  # type: ignore[arg-type]
    plain.setup('fit')
    for a, b in zip(module.train_dataloader(), plain.train_dataloader(), strict=True):
        torch.testing.assert_close(a['image'], b['image'])
        torch.testing.assert_close(a['mask_region'], b['mask_region'])


@pytest.mark.parametrize('kind', ['PairDataModule', 'ChesapeakePairsDataModule'])
def test_from_a_config(paths: dict[str, str], root: Path, kind: str) -> None:
    """As ``torchgeo fit --config`` reads it."""
    arguments = paths if kind == 'PairDataModule' else {'root': str(root / 'rasters')}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BaseDataModule, 'data')
    options = {**arguments, 'batch_size': 2, 'patch_size': 96}
    name = f'torchgeo_mapsr.datamodules.{kind}'
    config = parser.parse_object({'data': {'class_path': name, 'init_args': options}})
    module = parser.instantiate_classes(config).data
    module.setup('fit')
    (batch, *_) = module.train_dataloader()
    assert batch['image'].shape == (2, 4, 96, 96)


class TestChesapeake:
    def test_splits(self, root: Path, tmp_path: Path) -> None:
        module = ChesapeakePairsDataModule(
            str(root / 'tiles'), ['de-train'], ['wv-val'], ['wv-val'], patch_size=192
        )
        watch, run = Watch(), trainer(tmp_path)
        run.fit(watch, datamodule=module)
        run.test(watch, datamodule=module, verbose=False)
        run.predict(watch, datamodule=module, return_predictions=False)
        counts = {stage: len(batches) for stage, batches in watch.batches.items()}
        assert counts == {'train': 1, 'val': 2, 'test': 1, 'predict': 1}
        train, test = watch.batches['train'][0], watch.batches['test'][0]
        assert not torch.equal(train['image'], test['image'])
        assert set(test['mask'].unique().tolist()) <= {-1, 1, 2, 3, 4}
        figure = module.plot({k: v[0] for k, v in watch.batches['val'][0].items()})
        assert figure is not None
        assert len(figure.axes) == 3

    def test_folders_of_rasters(self, root: Path) -> None:
        module = ChesapeakePairsDataModule(str(root / 'rasters'), patch_size=96)
        module.prepare_data()
        module.setup('fit')
        assert len(module.train_dataloader()) == 8

    def test_missing_data_say_so(self, tmp_path: Path) -> None:
        module = ChesapeakePairsDataModule(str(tmp_path))
        with pytest.raises(InputError, match='download=True'):
            module.setup('fit')
