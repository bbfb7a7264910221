# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from tests.data.openearthmap.data import chip, make
from torchgeo_mapsr import Classes, InputError, Network, SelfTrainingTask
from torchgeo_mapsr.models.networks.trained import load_networks

from ..forked import run_forked

ARGUMENTS: dict[str, Any] = {
    'network': Network('segformer', 'mit_b0', in_channels=3),
    'classes': Classes('openearthmap', 'openearthmap'),
    'supervision': 'hr',
    'lr': 1e-3,
}


def batch(seed: int, n: int = 2, size: int = 32, classes: int = 9) -> dict[str, Tensor]:
    chips = [chip(seed * 100 + i, size, classes) for i in range(n)]
    mask = torch.stack([torch.from_numpy(codes).long() for _, codes in chips])
    return {
        'image': torch.stack([torch.from_numpy(image).float() for image, _ in chips]),
        'mask': torch.where(mask == 0, -1, mask),
        'mask_valid': torch.ones_like(mask),
    }


def pairs(steps: int, classes: int = 9) -> DataLoader[Any]:
    """Pairs of batches; the target is darker, and has no labels."""
    found = []
    for step in range(steps):
        target = batch(50 + step, classes=classes)
        del target['mask']
        source = batch(step, classes=classes)
        found.append({'source': source, 'target': _dark(target)})
    return DataLoader(found, batch_size=None)  # type: ignore[arg-type]


def _dark(part: dict[str, Tensor]) -> dict[str, Tensor]:
    return part | {'image': 0.6 * part['image']}


def trainer(folder: Path, **arguments: Any) -> Trainer:
    quiet = {'logger': False, 'enable_progress_bar': False, 'accelerator': 'cpu'}
    quiet |= {'enable_model_summary': False, 'enable_checkpointing': False}
    return Trainer(default_root_dir=folder, **{**quiet, **arguments})


def weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize('mix', [False, True])
def test_loss_is_equations_3_to_8(mix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step, computed once more by hand from what the networks say."""
    torch.manual_seed(0)
    task = SelfTrainingTask(**ARGUMENTS, mix=mix, target_weight=0.7, alignment=None)
    task.eval()  # no dropout, and no batch statistics
    logged: dict[str, Any] = {}
    monkeypatch.setattr(task, 'log_dict', lambda values, **_: logged.update(values))
    source, target = batch(1), _dark(batch(2))
    target['mask_valid'][:, :4] = 0
    says = task.teacher(target['image']).softmax(1)
    confidence, valid = says.amax(1), target['mask_valid'] > 0
    threshold = confidence[0].quantile(0.6).item()
    task.hparams['threshold'] = threshold
    state = torch.get_rng_state()
    loss = task.training_step({'source': source, 'target': target}, 0)

    label = torch.where(source['mask'] > 0, source['mask'] - 1, -1)
    sure = [
        (confidence[i][valid[i]] >= threshold).float().mean().item() for i in range(2)
    ]
    assert 0 < sure[0] < 1
    pseudo = torch.where(valid, says.argmax(1), -1)
    weight = torch.tensor(sure)[:, None, None].expand(2, 32, 32)
    image = target['image']
    if mix:
        # what the mixture took from the source is known by its pixels
        torch.set_rng_state(state)
        paste = _pasted(task, source, target)
        assert 0 < paste.float().mean() < 1
        image = torch.where(paste[:, None], source['image'], image)
        pseudo = torch.where(paste, label, pseudo)
        weight = torch.where(paste, 1.0, weight)
    on_source = F.cross_entropy(task(source['image']), label, ignore_index=-1)
    each = F.cross_entropy(task(image), pseudo, ignore_index=-1, reduction='none')
    on_target = (weight * each).sum() / (pseudo >= 0).sum()
    torch.testing.assert_close(logged['train_source_loss'], on_source)
    torch.testing.assert_close(logged['train_target_loss'], on_target)
    torch.testing.assert_close(loss, on_source + 0.7 * on_target)
    assert logged['train_trust'].item() == pytest.approx(sum(sure) / 2)


def _pasted(
    task: SelfTrainingTask, source: dict[str, Tensor], target: dict[str, Tensor]
) -> Tensor:
    """Repeat the step, and see where its mixture has the source's pixels."""
    seen: list[Tensor] = []
    handle = task.model.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    task.training_step({'source': source, 'target': target}, 0)
    handle.remove()
    return (seen[-1] == source['image']).all(1)


def test_source_images_are_aligned_and_the_target_s_are_not() -> None:
    torch.manual_seed(0)
    arguments = ARGUMENTS | {'alignment': (0.2, 0.3), 'alignment_p': 1.0}
    task = SelfTrainingTask(**arguments, mix=False)
    task.log_dict = lambda *_, **__: None  # type: ignore[assignment]
    seen: list[Tensor] = []
    task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    source, target = batch(1), batch(2)
    task.training_step({'source': source, 'target': target}, 0)
    rough, before = (
        image.diff(dim=-1).abs().mean() for image in (seen[0], source['image'])
    )
    assert rough < 0.5 * before
    assert torch.equal(seen[1], target['image'])


def test_pixels_without_data_do_not_darken_their_neighbours() -> None:
    torch.manual_seed(0)
    arguments = ARGUMENTS | {'alignment': (0.2, 0.6), 'alignment_p': 1.0}
    task = SelfTrainingTask(**arguments, target_weight=0.0)
    task.log = lambda *_, **__: None  # type: ignore[assignment]
    seen: list[Tensor] = []
    task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    source = batch(1)
    source['mask_valid'][..., 13:] = 0
    valid = source['mask_valid'][:, None] > 0
    source['image'] = torch.where(valid, 100.0, 0).expand(-1, 3, -1, -1)
    task.training_step({'source': source, 'target': {}}, 0)
    torch.testing.assert_close(seen[0], source['image'])


def test_without_weight_the_source_alone_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = SelfTrainingTask(**ARGUMENTS, target_weight=0, alignment=None).eval()
    monkeypatch.setattr(task, 'log', lambda *_, **__: None)
    monkeypatch.setattr(task, 'teacher', None)
    source = batch(1)
    loss = task.training_step({'source': source, 'target': {}}, 0)
    label = torch.where(source['mask'] > 0, source['mask'] - 1, -1)
    expected = F.cross_entropy(task(source['image']), label, ignore_index=-1)
    torch.testing.assert_close(loss, expected)


def test_teacher_follows_steps_and_not_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = SelfTrainingTask(**ARGUMENTS, ema_decay=0.9, ema_warmup=False)
    start = weights(task.model).clone()
    assert torch.equal(weights(task.teacher), start)
    trainer(tmp_path, max_epochs=1, accumulate_grad_batches=4).fit(task, pairs(4))
    moved = weights(task.model) - start
    assert moved.abs().max() > 0
    torch.testing.assert_close(
        weights(task.teacher), start + 0.1 * moved, atol=1e-6, rtol=0
    )


def test_checkpoint_has_both_and_training_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = SelfTrainingTask(**ARGUMENTS, ema_decay=0.8)
    # of the last steps of epochs, before the task is told that their batches have ended
    every = ModelCheckpoint(tmp_path, '{step}', save_top_k=-1, every_n_train_steps=3)
    kept = {'enable_checkpointing': True, 'callbacks': [every]}
    trainer(tmp_path, max_epochs=2, **kept).fit(task, pairs(3))
    path = tmp_path / 'step=6.ckpt'
    again = SelfTrainingTask.load_from_checkpoint(path)
    assert torch.equal(weights(again.teacher), weights(task.teacher))
    assert torch.equal(weights(again.model), weights(task.model))
    assert not torch.equal(weights(again.teacher), weights(again.model))
    assert again.teacher.n_averaged == 6

    # with the mixtures, resolutions and dropout that it would have drawn
    torch.manual_seed(0)
    other, first = (
        SelfTrainingTask(**ARGUMENTS, ema_decay=0.8),
        tmp_path / 'step=3.ckpt',
    )
    trainer(tmp_path, max_epochs=2).fit(other, pairs(3), ckpt_path=first)
    assert other.teacher.n_averaged == 6
    assert torch.equal(weights(other), weights(task))

    # the student is what maps are made with
    image = batch(7)['image']
    with torch.no_grad():
        expected = task.eval()(image).softmax(1)
        torch.testing.assert_close(load_networks([path]).ensemble(image), expected)


def test_learns_the_source_and_validates_on_the_target(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = ARGUMENTS | {'network': Network(in_channels=3), 'lr': 3e-3}
    task = SelfTrainingTask(**arguments)
    validation = DataLoader(
        [_dark(batch(90, classes=4))],  # type: ignore[arg-type]
        batch_size=None,
    )
    run = trainer(tmp_path, max_epochs=5, num_sanity_val_steps=0)
    before = run.validate(task, validation, verbose=False)[0]
    run.fit(task, pairs(4, classes=4), validation)
    after = run.validate(task, validation, verbose=False)[0]
    assert after['val_OverallAccuracy'] > before['val_OverallAccuracy'] + 0.1
    assert not task.teacher.training


@pytest.mark.parametrize('target_weight', [0.0, 1.0])
def test_sums_are_as_printed(
    target_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    options = {'alignment': None, 'target_weight': target_weight}
    task = SelfTrainingTask(**ARGUMENTS, **options, reduction='sum').eval()
    logged: dict[str, Any] = {}
    monkeypatch.setattr(task, 'log_dict', lambda values, **_: logged.update(values))
    monkeypatch.setattr(
        task, 'log', lambda name, value, **_: logged.update({name: value})
    )
    source, target = batch(1), batch(2)
    task.training_step({'source': source, 'target': target}, 0)
    label = torch.where(source['mask'] > 0, source['mask'] - 1, -1)
    expected = F.cross_entropy(
        task(source['image']), label, ignore_index=-1, reduction='sum'
    )
    name = 'train_source_loss' if target_weight else 'train_loss'
    torch.testing.assert_close(logged[name], expected)


def test_data_without_labels_are_refused(tmp_path: Path) -> None:
    """At the end of the first epoch: the teacher would teach itself."""
    loader = pairs(2)
    for both in loader.dataset:  # type: ignore[attr-defined]
        both['source']['mask'][:] = -1
    with pytest.raises(InputError, match="an HR label of a class of 'openearthmap'"):
        trainer(tmp_path, max_epochs=2).fit(SelfTrainingTask(**ARGUMENTS), loader)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'mix': False, 'mix_share': 0.9}, 'mix_share has no effect with mix=False'),
        ({'alignment': None, 'alignment_p': 0.9}, 'alignment_p has no effect with'),
        ({'reduction': 'average'}, 'reduction must be one of mean, sum'),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SelfTrainingTask(**ARGUMENTS, **options)


def test_a_batch_of_one_domain_is_refused() -> None:
    task = SelfTrainingTask(**ARGUMENTS)
    with pytest.raises(InputError, match='SourceTargetDataModule'):
        task.training_step(batch(0), 0)


TWO_PROCESSES = """
import sys
import torch
from lightning.pytorch import Callback, Trainer
from torchgeo_mapsr import Classes, Network, OpenEarthMapDataModule
from torchgeo_mapsr import SelfTrainingTask
from torchgeo_mapsr import SourceTargetDataModule

class Same(Callback):
    def on_train_end(self, trainer, task):
        for part in (task.model, task.teacher):
            sums = torch.stack([p.detach().double().sum() for p in part.parameters()])
            both = trainer.strategy.all_gather(sums)
            assert torch.equal(both[0], both[1]), 'processes differ'
        assert not torch.equal(*(
            next(iter(part.parameters())) for part in (task.model, task.teacher)
        ))
        # epochs of two source batches, one for each process
        assert task.teacher.n_averaged == trainer.global_step == 2
        seen = trainer.strategy.all_gather(task.seen)
        assert not torch.equal(seen[0], seen[1]), 'processes see the same chips'

class Task(SelfTrainingTask):
    def training_step(self, batch, batch_idx):
        self.seen = batch['source']['image'].sum()
        return super().training_step(batch, batch_idx)

root, arguments = sys.argv[1], eval(sys.argv[2])
torch.manual_seed(0)
parts = [OpenEarthMapDataModule(root, 1, 32) for _ in range(2)]
trainer = Trainer(
    accelerator='cpu', devices=2, strategy='ddp_fork', max_epochs=1, logger=False,
    enable_checkpointing=False, num_sanity_val_steps=0, callbacks=[Same()],
    enable_progress_bar=False,
)
trainer.fit(Task(**arguments), SourceTargetDataModule(*parts))
"""


def test_two_processes(tmp_path: Path) -> None:
    """They see other chips, and have one student and one teacher."""
    make(tmp_path)
    small = Network(backbone='tu-test_resnet', in_channels=3)
    done = run_forked(TWO_PROCESSES, tmp_path, repr(ARGUMENTS | {'network': small}))
    assert done.returncode == 0, done.stderr[-2000:]


def test_precisions_in_which_the_teacher_stands_still(tmp_path: Path) -> None:
    task = SelfTrainingTask(**ARGUMENTS)
    with pytest.raises(InputError, match='moving averages'):
        trainer(tmp_path, precision='bf16-true').fit(task, pairs(1))
