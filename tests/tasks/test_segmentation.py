# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer

from torchgeo_mapsr import (
    Classes,
    InputError,
    PairDataModule,
    SegmentationTask,
    make_scene,
)
from torchgeo_mapsr.datasets.plot import per_pixel
from torchgeo_mapsr.datasets.scene.scene import Scene

ARGUMENTS = {
    'in_channels': 4,
    'classes': Classes(truth_legend='land-cover-4'),
    'lr': 3e-3,
    'scheduler': 'cosine',
}


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), seed=1, size=(192, 192))


@pytest.fixture(scope='module')
def data(scene: Scene) -> PairDataModule:
    return PairDataModule(
        str(scene.imagery),
        str(scene.labels),
        str(scene.truth),
        batch_size=3,
        patch_size=64,
        augment=True,
    )


def trainer(folder: Path, **arguments: object) -> Trainer:
    quiet = {'logger': False, 'enable_progress_bar': False, 'accelerator': 'cpu'}
    return Trainer(default_root_dir=folder, **{**quiet, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize('supervision', ['lr', 'hr'])
def test_learns_the_labels_it_is_given(
    supervision: str, data: PairDataModule, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = SegmentationTask(**ARGUMENTS, supervision=supervision)  # type: ignore[arg-type]
    run = trainer(tmp_path, max_epochs=8, enable_checkpointing=False)
    before = run.validate(task, data, verbose=False)[0]
    run.fit(task, data)
    after = run.validate(task, data, verbose=False)[0]
    assert after['val_loss'] < 0.9 * before['val_loss']
    if supervision == 'hr':
        assert after['val_OverallAccuracy'] > max(before['val_OverallAccuracy'], 0.5)
    assert {'val_mIoU', 'val_F1', 'val_AverageAccuracy', 'val_LRAgreement'} <= set(
        after
    )


def test_lr_label_is_that_of_the_cell_under_each_pixel(data: PairDataModule) -> None:
    data.setup('validate')
    batch = next(iter(data.val_dataloader()))
    task = SegmentationTask(**ARGUMENTS)  # type: ignore[arg-type]
    codes = per_pixel(batch['lr_label'][0], batch['mask_region'][0])
    expected = torch.from_numpy(task.crosswalk.index(codes))
    found = task.pixel_index(batch)[0]
    valid = batch['mask_valid'][0] > 0
    assert torch.equal(found[valid], expected[valid])
    assert (found[~valid] == -1).all()


def test_cross_entropy_is_torchs_and_zero_without_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, requires_grad=True)
    index = torch.randint(-1, 4, (2, 5, 6), generator=generator)
    weights = (1.0, 2.0, 0.5, 4.0)
    task = SegmentationTask(**ARGUMENTS, class_weights=weights)  # type: ignore[arg-type]
    expected = F.cross_entropy(logits, index, torch.tensor(weights), ignore_index=-1)
    torch.testing.assert_close(task.pixel_loss(logits, index), expected)
    nothing = task.pixel_loss(logits, torch.full_like(index, -1))
    assert nothing == 0
    nothing.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_checkpoint_is_whole(data: PairDataModule, tmp_path: Path) -> None:
    task = SegmentationTask(**ARGUMENTS)  # type: ignore[arg-type]
    run = trainer(tmp_path, fast_dev_run=1)
    run.fit(task, data)
    run.save_checkpoint(tmp_path / 'task.ckpt')
    loaded = SegmentationTask.load_from_checkpoint(
        tmp_path / 'task.ckpt', map_location='cpu'
    ).eval()
    image = torch.rand(1, 4, 40, 50) * 255
    torch.testing.assert_close(loaded(image), task.eval()(image))


def test_mistakes() -> None:
    with pytest.raises(InputError, match='class_weights has 2 values for 4 classes'):
        SegmentationTask(**ARGUMENTS, class_weights=(1.0, 2.0))  # type: ignore[arg-type]
    task = SegmentationTask(**ARGUMENTS, supervision='hr')  # type: ignore[arg-type]
    with pytest.raises(InputError, match='no mask'):
        task.truth_index({'image': torch.zeros(1, 4, 8, 8)})
