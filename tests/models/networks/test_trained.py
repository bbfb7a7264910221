# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from torchgeo_mapsr import Classes, InputError, Legend, SegmentationTask
from torchgeo_mapsr.models.networks.trained import Trained


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
    one = Trained.load([tmp_path / '0.ckpt'])
    expected = [task.log_probabilities({'image': image}).exp() for task in tasks]
    torch.testing.assert_close(one.ensemble(image), expected[0])
    both = Trained.load([tmp_path / '0.ckpt', tmp_path / '1.ckpt'], (1, 3))
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
    trained = Trained.load([tmp_path / 'task.ckpt'])
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
    content['hyper_parameters']['backbone'] = 'resnet34'
    torch.save(content, tmp_path / 'h.ckpt')
    for names, message in (
        (['none'], 'does not exist'),
        (['a', 'b'], r'b\.ckpt and .*a\.ckpt have different classes or bands'),
        (['a', 'c'], 'have different classes or bands'),
        (['d'], 'is not read|cannot be read'),
        (['e'], 'is no checkpoint of a segmentation task'),
        (['f'], 'is not read'),
        (['g'], 'cannot be read'),
        (['h'], 'does not fit its own hyperparameters'),
    ):
        with pytest.raises(InputError, match=message) as error:
            Trained.load([tmp_path / f'{name}.ckpt' for name in names])
        assert '\n' not in str(error.value), names
