# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from torchgeo_mapsr import (
    ExpectationMaximizationTask,
    InputError,
    Network,
    PairDataModule,
)
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.models.propagation.superpixels import superpixels

from ..forked import run_forked

SMALL = Network(backbone='tu-test_resnet')


@pytest.fixture(scope='module')
def data(made_scene: Scene) -> PairDataModule:
    paths = str(made_scene.imagery), str(made_scene.labels)
    return PairDataModule(*paths, batch_size=2, patch_size=64, length=4)


class Rounds(Callback):
    """Which epochs begin with a new copy, and what the loss of each was."""

    def __init__(self) -> None:
        self.renewed: list[bool] = []
        self.matched: list[bool] = []
        self._old: torch.Tensor | None = None

    def on_train_batch_start(self, trainer: Any, task: Any, batch: Any, i: int) -> None:
        if i == 0:
            trainer.callback_metrics.pop('train_sr_loss', None)

    def on_train_batch_end(
        self, trainer: Any, task: Any, outputs: Any, batch: Any, i: int
    ) -> None:
        if i == 0:
            now = next(task.teacher.parameters()).clone()
            self.renewed.append(
                self._old is not None and not torch.equal(now, self._old)
            )
            self._old = now

    def on_train_epoch_end(self, trainer: Any, task: Any) -> None:
        self.matched.append('train_sr_loss' in trainer.callback_metrics)


def test_rounds(data: PairDataModule, tmp_path: Path) -> None:
    rounds = Rounds()
    every = ModelCheckpoint(tmp_path, '{step}', save_top_k=-1, every_n_train_steps=4)

    def fit(first: Path | None = None) -> ExpectationMaximizationTask:
        torch.manual_seed(0)
        task = ExpectationMaximizationTask(
            SMALL, warmup_epochs=2, round_epochs=2, lr=1e-3
        )
        run = Trainer(
            accelerator='cpu',
            max_epochs=5,
            logger=False,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            callbacks=[ModelCheckpoint(tmp_path / 'other')]
            if first
            else [every, rounds],
        )
        run.fit(task, data, ckpt_path=first)
        return task

    task = fit()
    assert rounds.renewed == [False, False, True, False, True]
    # from the last step of the warm-up, after which Lightning announces no epoch
    other = fit(tmp_path / 'step=4.ckpt')
    for one, two in zip(task.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    # the first M-step is that of super-resolution, the others are not
    assert rounds.matched[0]
    assert all(p.grad is None for p in task.teacher.parameters())
    assert not any(m.training for m in task.teacher.modules())


def test_labels_are_those_of_superpixel_means(data: PairDataModule) -> None:
    torch.manual_seed(0)
    data.setup('validate')
    batch = next(iter(data.val_dataloader()))
    batch['mask_valid'][0, :9] = 0
    batch['image'][0, 1, 20:22, 30] = torch.nan
    task = ExpectationMaximizationTask(SMALL, spacing=6.0)
    # a copy that differs from the network that is trained
    torch.nn.init.normal_(next(task.model.parameters()))
    labels = task.expected_labels(batch)
    with torch.autocast('cpu', torch.bfloat16):
        half = task.expected_labels(batch)
    assert (half == labels).float().mean() > 0.9
    with torch.no_grad():
        p = task.teacher.eval()(batch['image']).softmax(1)
    assert labels.shape == batch['mask_valid'].shape
    for b in range(2):
        valid = (batch['mask_valid'][b] > 0) & batch['image'][b].isfinite().all(0)
        assert (labels[b][~valid] == -1).all()
        segments = superpixels(batch['image'][b], 6.0, 0.2, valid)
        for i in range(1, int(segments.max()) + 1):
            inside = segments == i
            assert labels[b][inside].unique().tolist() == [
                int(p[b][:, inside].mean(1).argmax())
            ]


def test_round_is_a_cross_entropy_with_them(data: PairDataModule) -> None:
    data.setup('validate')
    batch = next(iter(data.val_dataloader()))
    # an LR class without statistics does not matter any more
    batch['lr_label'][:] = 12
    task = ExpectationMaximizationTask(SMALL, warmup_epochs=1).eval()
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    with pytest.raises(InputError, match='lack LR class 12'):
        task.training_step(batch, 0)
    type(task).current_epoch = property(lambda self: 1)  # type: ignore[assignment]
    try:
        loss = task.training_step(batch, 0)
    finally:
        del type(task).current_epoch
    expected = F.cross_entropy(
        task(batch['image']), task.expected_labels(batch), ignore_index=-1
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize('precision', ['64-true', 'bf16-true'])
def test_true_precisions(precision: Any, data: PairDataModule, tmp_path: Path) -> None:
    task = ExpectationMaximizationTask(SMALL, warmup_epochs=1)
    run = Trainer(
        accelerator='cpu',
        precision=precision,
        max_epochs=2,
        limit_train_batches=1,
        limit_val_batches=0,
        logger=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    run.fit(task, data)
    assert run.callback_metrics['train_loss'].isfinite()


def test_mistakes() -> None:
    with pytest.raises(InputError, match='warmup_epochs must be 1 or more'):
        ExpectationMaximizationTask(warmup_epochs=0)


def test_weights_of_classes_are_those_of_the_rounds() -> None:
    """The warm-up by statistics has no use for them; a weight of 0 is no label."""
    weights = [0.0, 1.0, 2.0, 0.5]
    task = ExpectationMaximizationTask(SMALL, class_weights=weights)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 8, 8, generator=generator)
    index = torch.randint(0, 4, (1, 8, 8), generator=generator)
    expected = F.cross_entropy(logits, index, torch.tensor(weights))
    torch.testing.assert_close(task.pixel_loss(logits, index), expected)
    assert task.pixel_loss(logits, torch.zeros_like(index)) == 0


TWO_PROCESSES = """
import sys
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torchgeo_mapsr import ExpectationMaximizationTask, Network, PairDataModule

class Same(Callback):
    images = ()

    def on_train_batch_start(self, trainer, task, batch, index):
        self.images += (batch['image'].double().sum().item(),)

    def on_train_end(self, trainer, task):
        mine = [p.double().sum().item() for p in task.parameters()]
        everyone = [None, None]
        torch.distributed.all_gather_object(everyone, (mine, self.images))
        assert everyone[0][0] == everyone[1][0], 'networks differ'
        assert len(self.images) == 4
        assert not set(everyone[0][1]) & set(everyone[1][1]), 'chips are shared'

seed_everything(0)
network = Network(backbone='tu-test_resnet')
task = ExpectationMaximizationTask(network, warmup_epochs=1, round_epochs=1)
data = PairDataModule(*sys.argv[1:], patch_size=64, length=4, balance=1.0)
Trainer(
    accelerator='cpu', devices=2, strategy='ddp_fork', max_epochs=2, logger=False,
    enable_checkpointing=False, num_sanity_val_steps=0, limit_val_batches=0,
    callbacks=[Same()],
).fit(task, data)
"""


def test_two_processes(made_scene: Scene) -> None:
    """Both losses, and balanced chips, with plain data parallelism."""
    done = run_forked(TWO_PROCESSES, made_scene.imagery, made_scene.labels)
    assert done.returncode == 0, done.stderr[-2000:]
