# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import Trainer
from torch import Tensor

from torchgeo_mapsr import (
    InputError,
    JointStatistics,
    LabelSuperResolutionTask,
    PairDataModule,
    make_scene,
)
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.models.networks.trained import Trained

ARGUMENTS: dict[str, Any] = {'bands': 4, 'legend': 'nlcd', 'lr': 3e-3}


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), seed=1, size=(192, 192))


@pytest.fixture(scope='module')
def data(scene: Scene) -> PairDataModule:
    paths = str(scene.imagery), str(scene.labels), str(scene.truth)
    return PairDataModule(*paths, batch_size=3, patch_size=64)


@pytest.fixture(scope='module')
def batch(data: PairDataModule) -> dict[str, Any]:
    data.setup('validate')
    return next(iter(data.val_dataloader()))


def trainer(folder: Path, **arguments: Any) -> Trainer:
    quiet = {'logger': False, 'enable_progress_bar': False, 'accelerator': 'cpu'}
    return Trainer(default_root_dir=folder, **{**quiet, **arguments})


def without_log(task: Any) -> dict[str, float]:
    """Let a step be called without a trainer; what it logs."""
    logged: dict[str, float] = {}
    task.log = lambda name, value, **_: logged.update({name: float(value.detach())})
    return logged


def literal(task: LabelSuperResolutionTask, batch: dict[str, Any]) -> float:
    """Equations 4 and 7, cell by cell and class by class."""
    table = task.statistics
    p = task(batch['image']).double().softmax(1)
    total = weight = 0.0
    for b in range(len(p)):
        codes = batch['lr_label'][b].flatten().tolist()
        whole = batch['lr_pixels'][b].flatten().tolist()
        for i, code in enumerate(codes):
            inside = (batch['mask_region'][b] == i + 1) & (batch['mask_valid'][b] > 0)
            n, row = int(inside.sum()), int(table.source.index(code))
            if not n or row < 0:
                continue
            share = min(n / whole[i], 1)
            mu = p[b][:, inside].mean(1)
            sigma2 = (p[b] * (1 - p[b]))[:, inside].sum(1) / n**2 + 1e-6
            eta, rho = (torch.from_numpy(t[row]) for t in (table.mean, table.std))
            loss = (mu - eta) ** 2 / (sigma2 + rho.clamp(min=0.01) ** 2)
            loss = (loss + torch.log(2 * np.pi * sigma2)) / 2
            total, weight = total + share * float(loss.sum()), weight + share
    return total / weight


def test_loss_is_the_papers_over_all_cells(batch: dict[str, Any]) -> None:
    torch.manual_seed(0)
    task = LabelSuperResolutionTask(**ARGUMENTS).eval()
    logged = without_log(task)
    with torch.no_grad():
        loss = task.training_step(batch, 0)
        expected = literal(task, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert logged['train_loss'] == logged['train_sr_loss'] == loss.item()
    assert 'train_hr_loss' not in logged


def test_joint_training_is_a_weighted_sum(batch: dict[str, Any]) -> None:
    half = batch | {'mask': batch['mask'].clone()}
    half['mask'][:, :, 20:] = -1
    torch.manual_seed(0)
    task = LabelSuperResolutionTask(**ARGUMENTS, sr_weight=0.5, hr_weight=3.0).eval()
    logged = without_log(task)
    with torch.no_grad():
        loss = task.training_step(half, 0).item()
        logits = task(half['image'])
        index = torch.from_numpy(task.truth.index(half['mask']))
        pixels = F.cross_entropy(logits, index, ignore_index=-1).item()
        expected = 0.5 * literal(task, half) + 3 * pixels
    assert loss == pytest.approx(expected, rel=1e-4)
    assert logged['train_hr_loss'] == pytest.approx(pixels, rel=1e-5)
    # without an HR label in the batch only the statistics are left
    half['mask'][:] = -1
    with torch.no_grad():
        loss = task.training_step(half, 0).item()
        assert loss == pytest.approx(0.5 * literal(task, half), rel=1e-4)
    with pytest.raises(InputError, match='give the dataset its truth'):
        task.training_step({k: v for k, v in half.items() if k != 'mask'}, 0)


def test_options_reach_the_loss() -> None:
    task = LabelSuperResolutionTask(
        **ARGUMENTS, criterion='kl_printed', variance_weight=0.25
    )
    assert (task.criterion.criterion, task.criterion.variance_weight) == (
        'kl_printed',
        0.25,
    )
    described = LabelSuperResolutionTask(**ARGUMENTS, statistics='nlcd-descriptions')
    row = int(described.statistics.source.index(24))
    assert described.criterion.mean[row, 3].item() == pytest.approx(0.9)


def test_learns_and_maps(data: PairDataModule, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = LabelSuperResolutionTask(**ARGUMENTS)
    run = trainer(tmp_path, max_epochs=6)
    before = run.validate(task, data, verbose=False)[0]
    run.fit(task, data)
    after = run.validate(task, data, verbose=False)[0]
    assert after['val_OverallAccuracy'] > max(before['val_OverallAccuracy'], 0.4)
    # a checkpoint maps like those of other tasks
    run.save_checkpoint(tmp_path / 'task.ckpt')
    found = Trained.load([tmp_path / 'task.ckpt'])
    image = torch.rand(1, 4, 64, 64) * 255
    with torch.no_grad():
        expected = task.eval()(image).softmax(1)
        torch.testing.assert_close(found.ensemble(image), expected)
    again = LabelSuperResolutionTask.load_from_checkpoint(
        tmp_path / 'task.ckpt', map_location='cpu'
    )
    torch.testing.assert_close(again.eval()(image).softmax(1), expected)


def lacking(folder: Path, *codes: int) -> str:
    """The shipped table without some classes."""
    table = JointStatistics.load('malkin2019')
    table.save(folder / 'table.yaml')
    content = yaml.safe_load((folder / 'table.yaml').read_text())
    for code in codes:
        del content['classes'][code]
    (folder / 'table.yaml').write_text(yaml.safe_dump(content))
    return str(folder / 'table.yaml')


def test_class_without_statistics_is_refused_at_the_start(
    data: PairDataModule, batch: dict[str, Any], tmp_path: Path
) -> None:
    codes = batch['lr_label'][batch['lr_pixels'] > 0]
    common = int(codes[codes > 0].mode().values)
    path = lacking(tmp_path, common)
    task = LabelSuperResolutionTask(**ARGUMENTS, statistics=path)
    steps: list[int] = []
    original = task.training_step
    task.training_step = lambda *a: steps.append(1) or original(*a)  # type: ignore
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    with pytest.raises(InputError, match=rf'lack LR class {common} \('):
        run.fit(task, data)
    assert not steps
    # another dataset cannot be looked through: the batch that shows it is refused
    with pytest.raises(InputError, match=rf'lack LR class {common} \('):
        original(batch, 0)
    # cells that no pixel lies in do not matter
    hidden = batch | {'mask_region': torch.zeros_like(batch['mask_region'])}
    without_log(task)
    assert original(hidden, 0) == 0


def test_data_without_labels_are_refused(
    scene: Scene, tmp_path: Path, made_scene: Scene
) -> None:
    paths = str(scene.imagery), str(scene.labels), str(scene.truth)
    data = PairDataModule(*paths, batch_size=9, patch_size=64)
    quick = {'max_epochs': 1, 'num_sanity_val_steps': 0, 'limit_val_batches': 0}
    # codes 1 to 4 are no NLCD classes, and NLCD's are none of the four
    wrong = PairDataModule(
        str(scene.imagery), str(scene.truth), batch_size=9, patch_size=64
    )
    with pytest.raises(InputError, match='an LR label of a known class'):
        trainer(tmp_path, **quick).fit(LabelSuperResolutionTask(**ARGUMENTS), wrong)
    task = LabelSuperResolutionTask(
        **ARGUMENTS, hr_weight=1.0, truth_legend='openearthmap'
    )
    task.truth = type(task.truth)('none', task.truth.source, task.truth.target, {})
    with pytest.raises(InputError, match='an HR label of a known class'):
        trainer(tmp_path, **quick).fit(task, data)


def test_mistakes() -> None:
    with pytest.raises(InputError, match="of the legend 'nlcd', and this task has"):
        LabelSuperResolutionTask(legend='worldcover')
    with pytest.raises(InputError, match="of the target 'land-cover-4'"):
        LabelSuperResolutionTask(target='worldcover')
    with pytest.raises(InputError, match="there is no 'malkin'"):
        LabelSuperResolutionTask(statistics='malkin')
    with pytest.raises(InputError, match='not both 0'):
        LabelSuperResolutionTask(sr_weight=0.0)
    with pytest.raises(InputError, match='0 or more'):
        LabelSuperResolutionTask(hr_weight=-1.0)


def test_gradient_of_unlabelled_cells_is_zero(batch: dict[str, Any]) -> None:
    """Another process may have labels: every parameter has a gradient."""
    task = LabelSuperResolutionTask(**ARGUMENTS)
    without_log(task)
    nothing = batch | {'lr_label': torch.full_like(batch['lr_label'], -1)}
    loss: Tensor = task.training_step(nothing, 0)
    loss.backward()
    assert loss == 0
    for parameter in task.network.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
