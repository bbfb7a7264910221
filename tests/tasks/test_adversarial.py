# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from torchgeo_mapsr import Classes, Network
from torchgeo_mapsr.datamodules import PairDataModule
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.losses import (
    RegionCrossEntropy,
    discriminator_hinge,
    generator_hinge,
)
from torchgeo_mapsr.models.networks.trained import load_networks
from torchgeo_mapsr.seeds import seed_at, seeded
from torchgeo_mapsr.tasks import AdversarialTask

from ..forked import run_forked

Batch = dict[str, Any]


@pytest.fixture(scope='module')
def batch(made_scene: Scene) -> Batch:
    paths = [str(p) for p in (made_scene.imagery, made_scene.labels, made_scene.truth)]
    data = PairDataModule(*paths, batch_size=2, patch_size=64, stride=200)
    data.setup('predict')
    first: Batch = next(iter(data.predict_dataloader()))
    return first


def loader(*batches: Batch) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)


def trainer(**options: Any) -> Trainer:
    quiet = {'enable_progress_bar': False, 'enable_model_summary': False}
    quiet |= {'logger': False, 'enable_checkpointing': False}
    return Trainer(accelerator='cpu', **{'max_epochs': 1} | quiet | options)


def adversarial(scene: Scene, **options: Any) -> AdversarialTask:
    seed_everything(0, verbose=False)
    network = Network(backbone='tu-test_resnet')
    return AdversarialTask(str(scene.truth), network, **options)


class TestAppearance:
    def test_index_map_is_that_of_sums(self, batch: Batch, made_scene: Scene) -> None:
        """Scores of sums times the pixels of a cell are those of means."""
        mean, summed = (adversarial(made_scene, reduction=r) for r in ('mean', 'sum'))
        cells = mean.cells(batch)
        logits = 1e-3 * torch.randn(2, 4, 64, 64)
        pixels = batch['lr_pixels'][batch['lr_pixels'] > 0].mean()
        assert 800 < pixels < 1000
        one = mean.index_map(logits * pixels, batch, cells)
        torch.testing.assert_close(one, summed.index_map(logits, batch, cells))
        p = (1000 * logits).softmax(1)
        expected = sum((c + 1) * p[:, c] for c in range(4))
        torch.testing.assert_close(one[:, 0], expected, rtol=1e-3, atol=1e-3)
        hidden = batch | {'mask_valid': torch.zeros(2, 64, 64, dtype=torch.long)}
        assert not mean.index_map(logits, hidden, mean.cells(hidden)).any()
        # a batch of chips without a cell
        bare = batch | {'lr_pixels': torch.zeros_like(batch['lr_pixels'])}
        assert mean.index_map(logits, bare, mean.cells(bare)).isfinite().all()

    def test_both_players_step(self, batch: Batch, made_scene: Scene) -> None:
        """By the gradients of equation 2, each by itself."""
        task = adversarial(made_scene, adversarial_weight=0.3)
        other = adversarial(made_scene, adversarial_weight=0.3)
        other.load_state_dict(task.state_dict())
        run = trainer()
        run.fit(task, loader(batch))
        assert run.global_step == 2

        cells = other.cells(batch)
        logits = other(batch['image'])
        made = other.index_map(logits, batch, cells)
        with seeded(seed_at('step', 0, 0, 0)):
            real = other._draw(made) * cells.valid[:, None]
        assert set(real.unique().tolist()) <= {1, 2, 3, 4}
        judged = generator_hinge(other.discriminator.judge(made))
        scores = other.discriminator(real), other.discriminator(made.detach())
        labels = RegionCrossEntropy()(
            logits, cells.region, cells.label, cells.share, cells.valid
        )
        own = list(other.model.parameters())
        wanted = torch.autograd.grad(labels + 0.3 * judged, own, retain_graph=True)
        for parameter, gradient in zip(task.model.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        own = list(other.discriminator.parameters())
        wanted = torch.autograd.grad(discriminator_hinge(*scores), own)
        for parameter, gradient in zip(
            task.discriminator.parameters(), wanted, strict=True
        ):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        moved = zip(task.parameters(), other.parameters(), strict=True)
        assert all(not torch.equal(a, b) for a, b in moved if a.grad.abs().max() > 0)

    def test_game_is_logged(self, batch: Batch, made_scene: Scene) -> None:
        task = adversarial(made_scene)
        run = trainer()
        run.fit(task, loader(batch, batch))
        logged = {k: float(v) for k, v in run.callback_metrics.items()}
        assert 0 < logged['train_discriminator'] < 4
        assert 0 <= logged['train_discriminator_accuracy'] <= 1
        assert np.isfinite(logged['train_generator'])
        assert 0 <= logged['train_class_entropy'] <= 1
        assert 0 < logged['train_exemplar_entropy'] < 1

    def test_entropy_shows_a_collapse(self, made_scene: Scene) -> None:
        task = adversarial(made_scene)
        assert float(task._entropy(torch.full((8, 8), 2))) == 0
        even = torch.tensor([0, 0, 1, 2, 3, 4])
        assert float(task._entropy(even)) == pytest.approx(1)
        assert float(task._entropy(even[:4])) == pytest.approx(0.5)

    def test_learning_rates_fall_over_the_batches(
        self, batch: Batch, made_scene: Scene
    ) -> None:
        for options in ({'max_epochs': 1}, {'max_steps': 6, 'max_epochs': -1}):
            task = adversarial(made_scene)
            run = trainer(**options)
            run.fit(task, loader(batch, batch, batch))
            assert run.global_step == 6
            for optimizer in run.optimizers:
                assert optimizer.param_groups[0]['lr'] == pytest.approx(0, abs=1e-9)

    def test_half_precision(self, batch: Batch, made_scene: Scene) -> None:
        found = []
        for precision in ('32-true', 'bf16-mixed', 'bf16-true', '64-true'):
            task = adversarial(made_scene)
            run = trainer(precision=precision)
            run.fit(task, loader(batch))
            found.append({k: float(v) for k, v in run.callback_metrics.items()})
            assert all(p.isfinite().all() for p in task.parameters())
        assert found[0]['train_loss'] == pytest.approx(found[1]['train_loss'], rel=0.05)

    def test_goes_on_as_if_it_had_not_stopped(
        self, batch: Batch, made_scene: Scene, tmp_path: Path
    ) -> None:
        every = ModelCheckpoint(tmp_path, '{epoch}', save_top_k=-1, every_n_epochs=1)
        kept = {'enable_checkpointing': True, 'callbacks': [every]}
        whole = adversarial(made_scene, adversarial_weight=1.0)
        trainer(max_epochs=3, **kept).fit(whole, loader(batch))
        task = adversarial(made_scene, adversarial_weight=1.0)
        first = tmp_path / 'epoch=0.ckpt'
        trainer(max_epochs=3).fit(task, loader(batch), ckpt_path=first)
        for one, other in zip(whole.parameters(), task.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_checkpoint_is_a_network(
        self, batch: Batch, made_scene: Scene, tmp_path: Path
    ) -> None:
        """Without the discriminator, and without the exemplars' files."""
        task = adversarial(made_scene)
        run = trainer(enable_checkpointing=True, default_root_dir=tmp_path)
        run.fit(task, loader(batch))
        path = run.checkpoint_callback.best_model_path  # type: ignore[union-attr]
        trained = load_networks([path])
        expected = task.eval()(batch['image']).softmax(1)
        torch.testing.assert_close(trained.ensemble(batch['image']), expected)


TWO_PROCESSES = """
import sys
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torchgeo_mapsr import Network, PairDataModule
from torchgeo_mapsr.tasks import AdversarialTask

class Task(AdversarialTask):
    def _draw(self, index_map):
        self.drawn = super()._draw(index_map)
        return self.drawn

class Same(Callback):
    def on_train_end(self, trainer, task):
        mine = [p.detach().double().sum().item() for p in task.parameters()]
        mine.append(task.drawn.sum().item())
        everyone = [None, None]
        torch.distributed.all_gather_object(everyone, mine)
        assert everyone[0][:-1] == everyone[1][:-1]
        assert everyone[0][-1] != everyone[1][-1]

*paths, exemplars = sys.argv[1:]
seed_everything(0)
task = Task(exemplars, Network(backbone='tu-test_resnet'))
trainer = Trainer(
    accelerator='cpu', devices=2, strategy='ddp_fork', max_epochs=1, logger=False,
    enable_checkpointing=False, num_sanity_val_steps=0, callbacks=[Same()],
    limit_val_batches=1,
)
trainer.fit(task, PairDataModule(*paths, patch_size=64, length=4))
"""


def test_two_processes_stay_the_same(made_scene: Scene) -> None:
    """With plain data parallelism, which wants a gradient of every parameter."""
    paths = [made_scene.imagery, made_scene.labels, made_scene.truth, made_scene.truth]
    done = run_forked(TWO_PROCESSES, *paths)
    assert done.returncode == 0, done.stderr[-2000:]


class TestMistakes:
    def test_exemplars_of_other_classes(
        self, batch: Batch, made_scene: Scene, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="no crosswalk from legend 'nlcd' to"):
            AdversarialTask(
                'x.tif',
                classes=Classes('openearthmap', 'openearthmap'),
                exemplar_legend='nlcd',
            )
        task = AdversarialTask(str(made_scene.labels))
        with pytest.raises(InputError, match="is no class of 'land-cover-4'"):
            trainer().fit(task, loader(batch))
        with rasterio.open(made_scene.truth) as file:
            codes, profile = file.read(), file.profile
        with rasterio.open(tmp_path / 'dry.tif', 'w', **profile) as file:
            file.write(np.where(codes == 1, 3, codes))
        task = AdversarialTask(str(tmp_path / 'dry.tif'))
        with pytest.warns(UserWarning, match='No exemplar shows Water'):
            trainer().fit(task, loader(batch))

    def test_chips_that_are_too_small(self, batch: Batch, made_scene: Scene) -> None:
        keys = ('image', 'mask_region', 'mask_valid')
        small = batch | {key: batch[key][..., :12, :12] for key in keys}
        with pytest.raises(InputError, match='16 × 16 pixels or more'):
            trainer().fit(adversarial(made_scene), loader(small))
