# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Data modules in several processes, and as copies."""

import copy
import json
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch import distributed
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader

from tests.data.chesapeake_pairs import data
from torchgeo_mapsr import datamodules
from torchgeo_mapsr.datamodules import PairDataModule
from torchgeo_mapsr.errors import InputError

from ..forked import METHOD


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('pairs')
    data.make_rasters(path)
    return path


def module_of(folder: Path, **options: Any) -> PairDataModule:
    options = {'patch_size': 96, 'batch_size': 2} | options
    return PairDataModule(
        str(folder / 'naip'), str(folder / 'nlcd'), str(folder / 'lc'), **options
    )


def sums(loader: Any) -> list[float]:
    """A number for each chip that a loader gives, by which to know it again."""
    return [float(image.sum()) for batch in loader for image in batch['image']]


def read_share(rank: int, folder: Path) -> None:
    """Read the chips of one of two processes."""
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder / "group"}',
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=100),
    )
    module = module_of(folder)
    module.setup('fit')
    # What Lightning makes of a sampler under DDP.
    sampler = DistributedSamplerWrapper(
        module.train_sampler, num_replicas=2, rank=rank, shuffle=False
    )
    loader = DataLoader(
        module.train_dataset,
        batch_size=2,
        sampler=sampler,
        collate_fn=module.collate_fn,
    )
    shares: list[Any] = [None, None]
    distributed.all_gather_object(shares, sums(loader))
    if rank == 0:
        (folder / 'shares.json').write_text(json.dumps(shares))
    distributed.destroy_process_group()


def test_two_processes_share_the_chips(folder: Path) -> None:
    module = module_of(folder)
    module.setup('fit')
    expected = sums(module.train_dataloader())
    assert len(expected) == len(set(expected)) == 8
    start_processes(read_share, (folder,), nprocs=2, start_method=METHOD)
    first, second = json.loads((folder / 'shares.json').read_text())
    assert sorted(first + second) == sorted(expected)
    assert not set(first) & set(second)


def test_a_worker_that_is_spawned(folder: Path) -> None:
    module = module_of(folder)
    module.setup('fit')
    loader = DataLoader(
        module.train_dataset,
        batch_size=2,
        sampler=module.train_sampler,
        num_workers=1,
        multiprocessing_context='spawn',
        collate_fn=module.collate_fn,
    )
    assert sums(loader) == sums(module.train_dataloader())


NAMES = [name for name in datamodules.__all__ if name != 'ChipDataModule']


@pytest.mark.parametrize('name', sorted({*NAMES} - {'ImageChipsDataModule'}))
def test_copies(folder: Path, name: str) -> None:
    """Every data module can be pickled and copied, as Trainers and sweeps do."""
    options: dict[str, Any] = {}
    if name == 'PairDataModule':
        options = {'imagery': str(folder / 'naip'), 'labels': str(folder / 'nlcd')}
    elif name == 'FineLabelDataModule':
        options = {'imagery': str(folder / 'naip'), 'labels': str(folder / 'lc')}
        options['legend'] = options['target'] = 'land-cover-4'
    elif name == 'UnlabelledDataModule':
        options = {'imagery': str(folder / 'naip')}
    elif name == 'SourceTargetDataModule':
        options = {'source': module_of(folder), 'target': module_of(folder)}
    module = getattr(datamodules, name)(**options)
    again = pickle.loads(pickle.dumps(module))
    assert type(again) is type(module)
    assert type(copy.deepcopy(module)) is type(module)
    if options and name != 'SourceTargetDataModule':
        module.setup('fit')
        for copied in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            assert sums(copied.val_dataloader()) == sums(module.val_dataloader())


def test_validation_is_of_other_pixels(folder: Path) -> None:
    module = module_of(folder, val_split=0.3, seed=1)
    module.setup('fit')
    module.setup('predict')
    train, val = module.train_dataset, module.val_dataset
    shares = []
    for one, other, whole in zip(
        train.index.geometry,
        val.index.geometry,
        module.predict_dataset.index.geometry,
        strict=True,
    ):
        assert one.intersection(other).area < 1e-6 * whole.area
        assert (one.area + other.area) / whole.area == pytest.approx(1, rel=1e-6)
        shares.append(other.area / whole.area)
    assert shares == pytest.approx([0.3, 0.3], abs=0.02)
    again = module_of(folder, val_split=0.3, seed=1)
    again.setup('validate')
    assert sums(again.val_dataloader()) == sums(module.val_dataloader())
    assert len(sums(module.predict_dataloader())) == 8


def test_region_of_interest(folder: Path) -> None:
    whole = module_of(folder)
    whole.setup('fit')
    box = whole.train_dataset.tiles[0].boundingbox
    roi = [box.left, box.bottom, box.left + 96, box.bottom + 96]
    # Bottom is the lower y, whatever the axis is called.
    roi[1] = min(box.bottom, box.top)
    roi[3] = roi[1] + 96
    part = module_of(folder, roi=roi)
    part.setup('fit')
    assert len(part.train_sampler) == 1
    (batch,) = part.train_dataloader()
    assert batch['image'].shape[-2:] == (96, 96)
    assert batch['mask_valid'].sum() > 0.9 * 96**2
    with pytest.raises(InputError, match='does not meet the imagery'):
        module_of(folder, roi=[0, 0, 1, 1]).setup('fit')
    for wrong in ({'roi': [1, 2]}, {'val_split': 1.0}):
        with pytest.raises(InputError):
            module_of(folder, **wrong)
    assert torch.equal(batch['image'], next(iter(part.val_dataloader()))['image'])
