# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The examples of docs/library.md and docs/configs run as they stand."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from torchgeo.main import main as torchgeo_main

from tests.data.chesapeake_pairs import data
from torchgeo_mapsr.datasets import make_scene
from torchgeo_mapsr.main import main
from torchgeo_mapsr.tasks import MapSRTask

DOCS = Path(__file__).parents[1] / 'docs'
QUICK = ['--model.backbone', 'rcf?filters=8&colours=32&strides=1,2,4']
QUICK += ['--trainer.accelerator', 'cpu', '--trainer.enable_progress_bar', 'false']


def blocks(language: str) -> list[str]:
    text = (DOCS / 'library.md').read_text()
    return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('library')
    scene = make_scene(folder, seed=0, size=(260, 300))
    scene.labels.rename(folder / 'nlcd.tif')
    scene.truth.rename(folder / 'truth.tif')
    for config in (DOCS / 'configs').glob('*.yaml'):
        shutil.copy(config, folder)
    return folder


@pytest.fixture
def lightly(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller default backbone: what is tried here is the code around it."""
    defaults = list(MapSRTask.__init__.__defaults__ or ())
    assert defaults[0] == 'rcf'
    defaults[0] = QUICK[1]
    monkeypatch.setattr(MapSRTask.__init__, '__defaults__', tuple(defaults))


@pytest.mark.usefixtures('lightly')
def test_python(here: Path) -> None:
    """All blocks, in the order of the page."""
    examples = blocks('python')
    assert len(examples) == 6
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, 'library.md', 'exec'), names)  # noqa: S102
    assert (here / 'fit.safetensors').stat().st_size < 1_000_000
    assert (here / 'chip.png').stat().st_size > 10_000
    classes = names['classes']
    assert isinstance(classes, torch.Tensor)
    rows, cols = names['chip'].core
    assert classes.shape == (rows.stop - rows.start, cols.stop - cols.start)
    assert len(classes.unique()) > 1


def test_shell(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of the page, with torchgeo's own entry point."""
    (shell,) = blocks('shell')
    shutil.rmtree('lightning_logs', ignore_errors=True)
    for line in shell.splitlines():
        program, *args = shlex.split(line)
        assert program == 'torchgeo'
        torchgeo_main(args + QUICK)
    found = re.search(r'test_OverallAccuracy\W+([\d.]+)', capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) > 0.6


def test_own_verbs(here: Path, tmp_path: Path) -> None:
    """Classes by their names alone; predict from a checkpoint."""
    args = ['--model', 'MapSRTask', '--data', 'PairDataModule', *QUICK]
    args += ['--data.imagery', 'imagery.tif', '--data.labels', 'nlcd.tif']
    args += ['--data.patch_size', '224', '--trainer.default_root_dir', str(tmp_path)]
    assert main(['fit', '--trainer.max_epochs', '1', *args]) == 0
    (checkpoint,) = tmp_path.rglob('*.ckpt')
    end = ['--ckpt_path', str(checkpoint), '--return_predictions', 'false']
    assert main(['predict', *args, *end]) == 0
    assert main(['validate', *args, *end[:2]]) == 0


@pytest.mark.parametrize('layout', ['tiles', 'rasters'])
def test_chesapeake(here: Path, tmp_path: Path, layout: str) -> None:
    getattr(data, f'make_{layout}')(tmp_path)
    args = ['--config', 'chesapeake.yaml', '--data.root', str(tmp_path), *QUICK]
    args += ['--data.patch_size', '128', '--data.length', '6']
    args += ['--trainer.logger', 'false', '--trainer.enable_checkpointing', 'false']
    for split, name in (('train', 'de-train'), ('val', 'wv-val'), ('test', 'wv-val')):
        given = f'[{name}]' if layout == 'tiles' else 'null'
        args += [f'--data.{split}_splits', given]
    assert main(['fit', *args]) == 0


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--model.legend', 'nlcb'], "there is no 'nlcb'"),
        (['--data.imagery', 'none.tif'], 'none.tif: cannot be read'),
        (['--model.bands', '3'], 'give the task bands=4'),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert main(['fit', '--config', 'pairs.yaml', *QUICK, *args]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('torchgeo-mapsr: ')
    assert message in last
