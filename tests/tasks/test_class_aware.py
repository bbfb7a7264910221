# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.data.openearthmap.data import chip
from torchgeo_mapsr import ClassAwareTask, Classes, InputError, Network
from torchgeo_mapsr.models.networks.trained import load_networks

ARGUMENTS: dict[str, Any] = {
    'network': Network(backbone='tu-test_resnet', in_channels=3),
    'classes': Classes('openearthmap', 'openearthmap'),
    'supervision': 'hr',
}


def batch(seed: int, n: int = 2, size: int = 32) -> dict[str, Tensor]:
    chips = [chip(seed * 100 + i, size, 9) for i in range(n)]
    mask = torch.stack([torch.from_numpy(codes).long() for _, codes in chips])
    return {
        'image': torch.stack([torch.from_numpy(image).float() for image, _ in chips]),
        'mask': torch.where(mask == 0, -1, mask),
        'mask_valid': torch.ones_like(mask),
    }


def pair(seed: int, size: int = 32) -> dict[str, Any]:
    target = batch(50 + seed, size=size)
    del target['mask']
    target['mask_valid'][:, :4] = 0
    return {'source': batch(seed, size=size), 'target': target}


def make(logged: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    torch.manual_seed(0)
    task = ClassAwareTask(**{**ARGUMENTS, **more})
    task.model.eval()  # no batch statistics; the prior goes on
    monkeypatch.setattr(task, 'log_dict', lambda values, **_: logged.update(values))
    return task


def test_loss_is_equation_7(monkeypatch: pytest.MonkeyPatch) -> None:
    """From what the network says of labelled and of unlabelled images."""
    logged: dict[str, Any] = {}
    options = {'contrast': 0.3, 'momentum': 0.4, 'shares': [1] * 8}
    task = make(logged, monkeypatch, sampling='likelihood', **options)
    given = pair(1)
    loss = task.training_step(given, 0)

    source, target = given['source'], given['target']
    label = torch.where(source['mask'] > 0, source['mask'] - 1, -1)
    images = torch.cat([source['image'], target['image']])
    p = task(images).softmax(1)
    valid = torch.ones(4, 32, 32, dtype=torch.bool)
    valid[2:, :4] = False
    mean = p.movedim(1, -1)[valid].mean(0)
    prior = 0.4 / 8 + 0.6 * mean
    torch.testing.assert_close(task.prior.share, prior)
    known = label >= 0
    y = label[known]
    log_p = p[:2].movedim(1, -1)[known].log()[torch.arange(len(y)), y]
    each = (log_p - prior[y].log()) / (1 + prior[y]).log()
    torch.testing.assert_close(logged['train_cross_entropy'], -each.mean())

    pseudo = torch.where(valid[2:], p[2:].argmax(1), -1)
    features = task.model.features(images)
    contrast = task.contrast(features, p, torch.cat([label, pseudo]))
    assert contrast > 0
    torch.testing.assert_close(logged['train_contrast'], contrast)
    torch.testing.assert_close(loss, -each.mean() + 0.3 * contrast)


def test_labels_of_the_target_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = []
    for labels in (False, True):
        task = make({}, monkeypatch)
        given = pair(1)
        if labels:
            given['target']['mask'] = torch.randint(0, 9, (2, 32, 32))
        losses.append(task.training_step(given, 0))
    assert losses[0] == losses[1]


def test_unlabelled_images_get_gradients_by_prior_and_contrast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reaches(**more: Any) -> bool:
        task = make({}, monkeypatch, **more)
        given = pair(1)
        image = given['target']['image'].requires_grad_()
        task.training_step(given, 0).backward()
        return bool(image.grad.abs().sum() > 0)

    assert reaches(balance=False, contrast=0.1)
    assert reaches(contrast=0.0, sampling='likelihood')
    assert not reaches(contrast=0.0, sampling='none')
    assert not reaches(balance=False, contrast=0.0)


def test_a_class_of_weight_0_has_no_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by labels nor by pseudo-labels."""
    weights = [0.0] + [1.0] * 7
    task = make({}, monkeypatch, balance=False, class_weights=weights)
    seen = []
    task.contrast.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    task.model.network.segmentation_head[0].bias.data[0] = 100
    given = pair(1)
    task.training_step(given, 0)
    label = given['source']['mask'] - 1
    assert (label == 0).any()
    assert torch.equal(seen[0][:2], torch.where(label > 0, label, -1))
    # of which the network would say nothing else
    assert (seen[0][2:] == -1).all()


def test_supervised_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything of the paper it is the parent's cross entropy."""
    logged: dict[str, Any] = {}
    given = batch(3)
    task = make(logged, monkeypatch, balance=False, contrast=0.0)
    label = torch.where(given['mask'] > 0, given['mask'] - 1, -1)
    expected = F.cross_entropy(task(given['image']), label, ignore_index=-1)
    torch.testing.assert_close(task.training_step(given, 0), expected)
    task = make(logged, monkeypatch)
    assert task.training_step(given, 0).isfinite()


def test_decoders_that_end_coarser(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sides that are no multiple of the stride."""
    task = make(
        {},
        monkeypatch,
        network=Network('segformer', 'mit_b0', in_channels=3),
        contrast=0.1,
    )
    given = pair(1, 40)
    loss = task.training_step(given, 0)
    loss.backward()
    assert loss.isfinite()
    assert task.model.features(given['source']['image']).shape[-1] == 16


def test_no_label_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make({}, monkeypatch)
    given = pair(1)
    given['source']['mask'][:] = -1
    loss = task.training_step(given, 0)
    loss.backward()
    assert loss.isfinite()


def test_contrast_within_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 7: what there is of each image alone, if it has a pair."""
    logged: dict[str, Any] = {}
    task = make(logged, monkeypatch, cross_image=False, contrast=0.1)
    task.training_step(given := batch(1, n=1), 0)
    alone = logged['train_contrast'].clone()
    twice = {key: torch.cat([value] * 2) for key, value in given.items()}
    task.training_step(twice, 0)
    torch.testing.assert_close(logged['train_contrast'], alone)
    across = make(logged, monkeypatch, contrast=0.1)
    across.training_step(twice, 0)
    assert (logged['train_contrast'] - alone).abs() > 1e-3


def test_data_without_labels_are_refused() -> None:
    """At the end of the first epoch; pseudo-labels are none."""
    without = pair(1)
    without['source']['mask'][:] = -1
    run = Trainer(
        accelerator='cpu', max_epochs=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader([without], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="an HR label of a class of 'openearthmap'"):
        run.fit(ClassAwareTask(**ARGUMENTS), loader)
    assert run.current_epoch == 0


def test_training_checkpoint_and_map(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = ClassAwareTask(**ARGUMENTS)
    loader = DataLoader([pair(i) for i in range(4)], batch_size=None)  # type: ignore[arg-type]
    run = Trainer(
        accelerator='cpu', max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    run.fit(task, loader)
    assert task.prior.momentum == 0.75
    run.save_checkpoint(tmp_path / 'a.ckpt')
    again = ClassAwareTask.load_from_checkpoint(tmp_path / 'a.ckpt')
    assert torch.equal(again.prior.share, task.prior.share)
    assert again.prior.started
    image = batch(9)['image']
    with torch.no_grad():
        expected = task.model.eval()(image).softmax(1)
        found = load_networks([tmp_path / 'a.ckpt']).ensemble(image)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ({'class_weights': [1.0] * 8}, 'balance=False'),
        ({'shares': [1.0]}, '8 numbers'),
        ({'momentum': 2.0}, 'between 0 and 1'),
        ({'balance': False, 'sampling': 'detached'}, 'sampling has no effect'),
        ({'balance': False, 'momentum': 0.5}, 'momentum has no effect'),
        ({'balance': False, 'shares': [1.0] * 8}, 'shares has no effect'),
        ({'balance': False, 'weighting': False}, 'weighting has no effect'),
        ({'balance': False, 'least_share': 0.1}, 'least_share has no effect'),
        ({'contrast': 0.0, 'temperature': 0.1}, 'temperature has no effect'),
        ({'contrast': 0.0, 'cross_image': False}, 'with contrast=0: leave it out'),
    ],
)
def test_mistakes(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassAwareTask(**{**ARGUMENTS, **more})


def test_images_of_two_sizes() -> None:
    task = ClassAwareTask(**ARGUMENTS)
    with pytest.raises(InputError, match='patch_size'):
        task.training_step({'source': batch(1), 'target': batch(2, size=64)}, 0)
