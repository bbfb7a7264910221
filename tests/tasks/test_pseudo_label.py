# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from torchgeo_mapsr import (
    Classes,
    InputError,
    Network,
    PseudoLabelTask,
    SegmentationTask,
)
from torchgeo_mapsr.losses import LovaszLoss, SymmetricCrossEntropy
from torchgeo_mapsr.models.networks.trained import load_networks

SMALL: dict[str, Any] = {'network': Network('segformer', 'mit_b0', in_channels=1)}


def batch(seed: int = 0, size: int = 32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        'image': 255 * torch.rand(2, 1, size, size, generator=g),
        'image_optical': 255 * torch.rand(2, 3, size, size, generator=g),
        'mask': torch.randint(-1, 9, (2, size, size), generator=g),
        'mask_valid': (torch.rand(2, size, size, generator=g) > 0.1).long(),
    }


def loader() -> Any:
    return DataLoader([batch(0), batch(1)], batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, **arguments: Any) -> Trainer:
    quiet = {'logger': False, 'enable_progress_bar': False, 'accelerator': 'cpu'}
    return Trainer(
        default_root_dir=folder,
        max_epochs=1,
        enable_model_summary=False,
        **{**quiet, **arguments},
    )


@pytest.fixture(scope='module')
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Checkpoints of two networks for optical images."""
    paths = []
    torch.manual_seed(0)
    task = SegmentationTask(
        'segformer',
        'mit_b0',
        in_channels=3,
        classes=Classes('openearthmap', 'openearthmap'),
    )
    for _ in range(2):
        # the second is like the first in much, so that they often agree
        with torch.no_grad():
            for parameter in task.model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        path = tmp_path_factory.mktemp('teacher') / 'teacher.ckpt'
        torch.save(_checkpoint(task), path)
        paths.append(str(path))
    return paths


def _checkpoint(task: SegmentationTask) -> dict[str, Any]:
    content: dict[str, Any] = {
        'hyper_parameters': dict(task.hparams),
        'state_dict': task.state_dict(),
    }
    task.on_save_checkpoint(content)
    return content


def says(paths: list[str], batch: dict[str, Tensor]) -> list[Tensor]:
    """What each network says of the optical image: probabilities."""
    found = []
    for path in paths:
        ensemble = load_networks([path]).ensemble
        with torch.no_grad():
            found.append(ensemble(batch['image_optical']))
    return found


@pytest.mark.parametrize('weighted', [False, True])
def test_loss_is_equation_11_with_lovasz(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tuple(range(1, 9)) if weighted else None
    task = PseudoLabelTask(
        **SMALL, epsilon=1e-3, sce_weight=0.6, lovasz_weight=0.3, class_weights=weights
    ).eval()
    logged: dict[str, Any] = {}
    monkeypatch.setattr(task, 'log_dict', lambda values, **_: logged.update(values))
    one = batch()
    loss = task.training_step(one, 0)
    known = (one['mask_valid'] > 0) & (one['mask'] > 0)
    label = torch.where(known, one['mask'] - 1, -1)
    logits = task(one['image'])
    each = torch.tensor(weights or [1.0] * 8)[label.clamp(min=0)]
    summed = SymmetricCrossEntropy(1e-3, 1, 0.6, reduction='sum')(logits, label, each)
    symmetric = summed / each[known].sum()
    lovasz = LovaszLoss()(logits, label)
    torch.testing.assert_close(logged['train_symmetric_loss'], symmetric)
    torch.testing.assert_close(logged['train_lovasz_loss'], lovasz)
    torch.testing.assert_close(loss, symmetric + 0.3 * lovasz)
    torch.testing.assert_close(logged['train_selected'], known.float().mean())


def test_a_class_of_weight_0_has_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their pixels are as others that have none, in both losses."""
    one = batch()
    without = one | {'mask': torch.where(one['mask'] == 3, 0, one['mask'])}
    losses = []
    for weights, labels in ((None, without), ([1, 1, 0] + [1] * 5, one)):
        torch.manual_seed(0)
        task = PseudoLabelTask(**SMALL, class_weights=weights).eval()
        monkeypatch.setattr(task, 'log_dict', lambda *_, **__: None)
        losses.append(task.training_step(labels, 0))
        gradient = torch.autograd.grad(losses[-1], task.model.parameters())
        losses.append(torch.cat([part.flatten() for part in gradient]))
    torch.testing.assert_close(losses[:2], losses[2:])


@pytest.mark.parametrize('weights', [None, (1.0, 4.0)])
def test_teachers_label_the_other_image(
    teachers: list[str], weights: tuple[float, ...] | None
) -> None:
    task = PseudoLabelTask(**SMALL, teachers=teachers, teacher_weights=weights)
    task.on_fit_start()
    one = batch()
    first, second = says(teachers, one)
    a, b = weights or (1.0, 1.0)
    expected = (a * first + b * second).argmax(1)
    assert (first.argmax(1) != second.argmax(1)).any()
    expected = torch.where(one['mask_valid'] > 0, expected, -1)
    assert torch.equal(task.pseudo_index(one), expected)


@pytest.mark.parametrize('precision', ['64-true', 'bf16-true', 'bf16-mixed'])
def test_teachers_in_other_precisions(
    teachers: list[str], precision: Any, tmp_path: Path
) -> None:
    task = PseudoLabelTask(**SMALL, teachers=teachers)
    run = trainer(tmp_path, precision=precision, fast_dev_run=1)
    run.fit(task, loader())
    assert float(run.callback_metrics['train_selected']) > 0.5


@pytest.mark.parametrize('labelled', [False, True])
def test_agreement(teachers: list[str], labelled: bool) -> None:
    task = PseudoLabelTask(**SMALL, teachers=teachers, selection='agreement')
    task.on_fit_start()
    one = batch()
    first, second = (p.argmax(1) for p in says(teachers, one))
    same = (first == second) & (one['mask_valid'] > 0)
    if labelled:
        # no opinion where there is no label
        same &= (one['mask'] - 1 == first) | (one['mask'] <= 0)
    else:
        del one['mask']
    expected = torch.where(same, first, -1)
    assert torch.equal(task.pseudo_index(one), expected)
    assert 0 < (expected >= 0).float().mean() < 1


def test_teachers_are_not_in_the_checkpoint(
    teachers: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = PseudoLabelTask(**SMALL, teachers=teachers)
    run = trainer(tmp_path)
    run.fit(task, loader())
    (path,) = tmp_path.rglob('*.ckpt')
    content = torch.load(path, weights_only=True)
    assert {name.split('.')[0] for name in content['state_dict']} == {'model'}
    again = PseudoLabelTask.load_from_checkpoint(path)
    image = batch()['image']
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(image), task.eval()(image))
        expected = again(image).softmax(1)
        torch.testing.assert_close(load_networks([path]).ensemble(image), expected)


def test_mistakes(teachers: list[str]) -> None:
    task = PseudoLabelTask(**SMALL, teachers=teachers)
    task.on_fit_start()
    one = batch()
    del one['image_optical']
    with pytest.raises(InputError, match='paired=True'):
        task.pseudo_index(one)
    other = PseudoLabelTask(**SMALL, teachers=teachers, classes=Classes('openearthmap'))
    with pytest.raises(InputError, match='target=openearthmap'):
        other.on_fit_start()
    with pytest.raises(InputError, match='does not exist'):
        PseudoLabelTask(**SMALL, teachers=['none.ckpt']).on_fit_start()
    # all labels would train
    with pytest.raises(InputError, match='selection has no effect with teachers=None'):
        PseudoLabelTask(**SMALL, selection='agreement')
    with pytest.raises(InputError, match='teacher_weights has no effect with teachers'):
        PseudoLabelTask(**SMALL, teacher_weights=[1.0, 2.0])
    with pytest.raises(
        InputError, match='teacher_weights has no effect with selection'
    ):
        PseudoLabelTask(
            **SMALL, teachers=teachers, teacher_weights=[1, 2], selection='agreement'
        )


def test_data_without_labels_are_refused(teachers: list[str], tmp_path: Path) -> None:
    """At the end of the first epoch, wherever labels should have come from."""
    one = batch()
    without = one | {'mask': torch.full_like(one['mask'], -1)}
    dark = one | {'mask_valid': torch.zeros_like(one['mask_valid'])}
    agreeing = {'teachers': teachers, 'selection': 'agreement'}
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({}, without, "an HR label of a class of 'openearthmap'"),
        ({'teachers': teachers}, dark, 'chips has a pseudo-label'),
        (agreeing, dark, 'chips has a pseudo-label'),
    ]
    for options, chips, message in cases:
        loader = DataLoader([chips], batch_size=None)
        with pytest.raises(InputError, match=message):
            trainer(tmp_path).fit(PseudoLabelTask(**SMALL, **options), loader)
    # teachers need no labels
    run = trainer(tmp_path, enable_checkpointing=False)
    loader = DataLoader([without], batch_size=None)  # type: ignore[arg-type]
    run.fit(PseudoLabelTask(**SMALL, **agreeing), loader)
