# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from torchgeo_mapsr import Classes, InputError, Legend, SegmentationTask
from torchgeo_mapsr.models.networks.trained import load_networks


def checkpoint(path: Path, seed: int = 0, **arguments: object) -> SegmentationTask:
    """Save a task that nothing has trained."""
    torch.manual_seed(seed)
    task = SegmentationTask(**arguments)  # type: ignore[arg-type]
    trainer = Trainer(
        logger=False, enable_checkpointing=False, accelerator='cpu', barebones=True
    )
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return task.eval()


@pytest.fixture
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 4, 50, 40), generator=generator).float()


def test_predicts_as_the_task_does(tmp_path: Path, image: torch.Tensor) -> None:
    tasks = [checkpoint(tmp_path / f'{seed}.ckpt', seed) for seed in (0, 1)]
    one = load_networks([tmp_path / '0.ckpt'])
    expected = [task.log_probabilities({'image': image}).exp() for task in tasks]
    torch.testing.assert_close(one.ensemble(image), expected[0])
    both = load_networks([tmp_path / '0.ckpt', tmp_path / '1.ckpt'], (1, 3))
    torch.testing.assert_close(
        both.ensemble(image), 0.25 * expected[0] + 0.75 * expected[1]
    )
    assert both.bands == 4
    assert both.target == Legend.load('land-cover-4')
    assert both.provenance['shares'] == [0.25, 0.75]
    assert not any(p.requires_grad for p in both.ensemble.parameters())


def test_needs_no_other_file(tmp_path: Path, image: torch.Tensor) -> None:
    """Encoder weights and a legend that were given as files may be gone."""
    legend = {'name': 'two', 'classes': [{'code': c, 'name': str(c)} for c in (3, 8)]}
    (tmp_path / 'two.yaml').write_text(yaml.safe_dump(legend))
    donor = SegmentationTask()
    torch.save(donor.model.encoder.state_dict(), tmp_path / 'encoder.pth')
    task = checkpoint(
        tmp_path / 'task.ckpt',
        weights=str(tmp_path / 'encoder.pth'),
        classes=Classes(str(tmp_path / 'two.yaml'), str(tmp_path / 'two.yaml')),
    )
    (tmp_path / 'encoder.pth').unlink()
    (tmp_path / 'two.yaml').unlink()
    trained = load_networks([tmp_path / 'task.ckpt'])
    assert trained.target.codes.tolist() == [3, 8]
    torch.testing.assert_close(trained.ensemble(image), task(image).softmax(1))


class Harmful:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Path, ('harm',)


def test_mistakes(tmp_path: Path) -> None:
    checkpoint(tmp_path / 'a.ckpt')
    checkpoint(tmp_path / 'b.ckpt', in_channels=3)
    checkpoint(tmp_path / 'c.ckpt', classes=Classes('chesapeake-7', 'chesapeake-7'))
    (tmp_path / 'd.ckpt').write_bytes(b'no checkpoint')
    torch.save({'state_dict': {}}, tmp_path / 'e.ckpt')
    torch.save({'state_dict': Harmful()}, tmp_path / 'f.ckpt')
    whole = (tmp_path / 'a.ckpt').read_bytes()
    (tmp_path / 'g.ckpt').write_bytes(whole[: len(whole) // 2])
    content = torch.load(tmp_path / 'a.ckpt', weights_only=True)
    content['torchgeo-mapsr']['network']['backbone'] = 'resnet34'
    torch.save(content, tmp_path / 'h.ckpt')
    del content['torchgeo-mapsr']['digest']
    torch.save(content, tmp_path / 'i.ckpt')
    for names, message in (
        (['none'], 'does not exist'),
        (['a', 'b'], r'b\.ckpt and .*a\.ckpt have different classes or bands'),
        (['a', 'c'], 'have different classes or bands'),
        (['d'], 'is not read|cannot be read'),
        (['e'], 'is no checkpoint of a segmentation task'),
        (['f'], 'is not read'),
        (['g'], 'cannot be read'),
        (['h'], 'is damaged'),
        (['i'], 'does not fit its own hyperparameters'),
    ):
        with pytest.raises(InputError, match=message) as error:
            load_networks([tmp_path / f'{name}.ckpt' for name in names])
        assert '\n' not in str(error.value), names


def test_damage_is_noticed(tmp_path: Path) -> None:
    """A changed bit anywhere: the weights are as they were, or the file is refused."""
    path, damaged = tmp_path / 'a.ckpt', tmp_path / 'damaged.ckpt'
    checkpoint(path, backbone='tu-mobilenetv3_small_050')
    content = path.read_bytes()
    expected = load_networks([path]).ensemble.state_dict()
    generator = torch.Generator().manual_seed(0)
    size = len(content)
    # most of a file is weights; its pickled part and its directory are at both ends
    places = torch.randint(size, (12,), generator=generator).tolist()
    places += torch.randint(20_000, (12,), generator=generator).tolist()
    places += (size - 1 - torch.randint(20_000, (12,), generator=generator)).tolist()
    messages = []
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        damaged.write_bytes(changed)
        try:
            state = load_networks([damaged]).ensemble.state_dict()
        except InputError as error:
            messages.append(str(error))
            continue
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert len(messages) >= 10
    assert all('damaged.ckpt' in line and '\n' not in line for line in messages)
    for share in (0, 0.3, 0.9, 0.999):
        damaged.write_bytes(content[: int(share * size)])
        with pytest.raises(InputError, match=r'cannot be read|is not read'):
            load_networks([damaged])


def test_changed_weights_are_refused_by_the_task_too(tmp_path: Path) -> None:
    checkpoint(tmp_path / 'a.ckpt')
    content = torch.load(tmp_path / 'a.ckpt', weights_only=True)
    content['state_dict']['model.network.encoder.conv1.weight'][0, 0, 0, 0] += 1e-6
    torch.save(content, tmp_path / 'b.ckpt')
    for load in (lambda p: load_networks([p]), SegmentationTask.load_from_checkpoint):
        with pytest.raises(InputError, match='the checkpoint is damaged'):
            load(tmp_path / 'b.ckpt')


def test_earlier_checkpoints_are_read(tmp_path: Path, image: torch.Tensor) -> None:
    """Whose network had another name, and which have no digest."""
    task = checkpoint(tmp_path / 'a.ckpt')
    content = torch.load(tmp_path / 'a.ckpt', weights_only=True)
    about = content['torchgeo-mapsr']
    content['torchgeo-mapsr'] = {k: about[k] for k in ('task', 'target')}
    hparams = content['hyper_parameters']
    hparams['bands'] = hparams.pop('in_channels')
    content['state_dict'] = {
        f'network.{name.removeprefix("model.")}': value
        for name, value in content['state_dict'].items()
    }
    torch.save(content, tmp_path / 'earlier.ckpt')
    found = load_networks([tmp_path / 'earlier.ckpt']).ensemble(image)
    torch.testing.assert_close(found, task(image).softmax(1))
