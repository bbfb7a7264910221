# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer

from torchgeo_mapsr import __version__
from torchgeo_mapsr.datamodules import PairDataModule
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.legends.statistics import JointStatistics
from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.evaluation.accuracy import compare
from torchgeo_mapsr.main import main
from torchgeo_mapsr.tasks import MapSRTask


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    return [
        make_scene(tmp_path_factory.mktemp('scene'), seed=seed, size=(150, 200))
        for seed in (0, 1)
    ]


def test_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'torchgeo_mapsr', '--version'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == __version__


def test_what_the_terminal_has_no_character_for() -> None:
    """It was a traceback; this help has a quotation mark, and names may have any letter."""
    done = subprocess.run(
        [sys.executable, '-m', 'torchgeo_mapsr', 'map', '--help'],
        env=os.environ | {'PYTHONIOENCODING': 'ascii'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert r'labels\u2019 classes' in done.stdout


# While libraries take themselves down, and while they are imported.
AT_EXIT = 'import atexit\natexit.register(interrupt)\n'
AT_IMPORT = """
class Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        if name == 'torchgeo_mapsr.verbs.map':
            interrupt()
sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize(
    ('before', 'code', 'line'),
    [(AT_EXIT, 0, ''), (AT_IMPORT, 130, '\ntorchgeo-mapsr: Stopped.\n')],
)
def test_ctrl_c_before_and_after_the_work(before: str, code: int, line: str) -> None:
    script = (
        'import os, signal, sys\n'
        'def interrupt():\n'
        '    os.kill(os.getpid(), signal.SIGINT)\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        f'{before}'
        'from torchgeo_mapsr.main import command\n'
        "sys.argv = ['torchgeo-mapsr', 'map', '--help']\n"
        'command()\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, line)


@pytest.mark.parametrize(
    'args',
    [
        [],
        ['mpa'],
        ['map', 'a.tif'],
        ['map', 'a.tif', '--output', 'o.tif', '--seed', 'x'],
        ['map', 'a.tif', '--output', 'o.tif', '--labels', 'l.tif'],
        ['map', 'none.tif', '--output', 'o.tif', '--labels', 'l', '--legend', 'nlcd'],
        ['evaluate', 'none.tif', '--truth', 'none.tif'],
        ['evaluate', 'none.tif', '--truth', 'none.tif', '--legend', 'nlcb'],
        ['evaluate', 'a.tif', 'b.tif', '--truth', 'none.tif'],
        ['statistics', 'a.tif', '--truth', 'b.tif', '--legend', 'nlcd'],
    ],
)
def test_mistakes_are_one_line_and_code_2(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(args)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.err.count('\n') == 1
    assert captured.err.startswith('torchgeo-mapsr')
    assert captured.out == ''


def test_evaluate_pools_files(
    scenes: list[Scene], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The LR labels as the map: looked up at the truth's pixels."""
    args = ['evaluate', *(str(s.labels) for s in scenes)]
    args += ['--truth', *(str(s.truth) for s in scenes)]
    args += ['--legend', 'nlcd', '--target', 'land-cover-4']
    args += ['--truth-legend', 'land-cover-4', '--json', str(tmp_path / 'e.json')]
    assert main(args) == 0
    nlcd = Crosswalk.load('nlcd', 'land-cover-4')
    same = Crosswalk.load('land-cover-4', 'land-cover-4')
    one, two = (compare(s.labels, s.truth, nlcd, same) for s in scenes)
    content = json.loads((tmp_path / 'e.json').read_text())
    assert content['confusion'] == (one + two).matrix.tolist()
    assert content['miou'] == pytest.approx((one + two).miou, abs=1e-6)
    assert f'{100 * (one + two).miou:.1f}' in capsys.readouterr().out


def test_statistics_are_measured_and_written(
    scenes: list[Scene], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'here.yaml'
    args = ['statistics', *(str(s.labels) for s in scenes), '--legend', 'nlcd']
    args += ['--truth', *(str(s.truth) for s in scenes), '--output', str(output)]
    figures = tmp_path / 'here.json'
    assert main([*args, '--json', str(figures)]) == 0
    found = JointStatistics.load(output)
    content = json.loads(figures.read_text())
    assert (
        content['classes']['41']['mean'] == found.mean[found.source.index(41)].tolist()
    )
    assert found.name == 'here'
    np.testing.assert_allclose(found.mean[found.frequency > 0].sum(axis=1), 1)
    out = capsys.readouterr().out
    for i, item in enumerate(found.source.classes):
        assert (f'│   {item.code} │' in out) == (found.frequency[i] > 0)
        if found.frequency[i] > 0:
            water = f'{100 * found.mean[i, 0]:.0f} ± {100 * found.std[i, 0]:.0f}'
            assert water in out
    wrong = [*args[:-1], str(tmp_path / 'none' / 'here.yaml')]
    assert main(wrong) == 2
    output.write_text('mine')
    assert main(args) == 2
    assert output.read_text() == 'mine'
    assert main([*args, '--overwrite']) == 0


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores what torchgeo 0.8.1 sets for the whole process."""
    for name in ('GDAL_DISABLE_READDIR_ON_OPEN', 'AWS_NO_SIGN_REQUEST'):
        monkeypatch.setenv(name, os.environ.get(name, ''))
    for name in ('GDAL_MAX_RAW_BLOCK_CACHE_SIZE', 'GDAL_SWATH_SIZE'):
        monkeypatch.setenv(name, os.environ.get(name, '200000000'))


@pytest.mark.usefixtures('variables')
def test_lightning_verbs_are_torchgeos(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['torchgeo-mapsr', 'fit', '--help'])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert '--trainer' in capsys.readouterr().out


@pytest.mark.usefixtures('variables')
@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        # a constructor within another's arguments
        (['--model.fit.prompts', '0'], 'prompts must be between 1 and 1000, not 0.'),
        (['--model.lr', '-1'], 'lr must be 0 or more, not -1.0.'),
        (['--data.batch_size', '0'], 'batch_size must be 1 or more, not 0.'),
        (['--ckpt_path', 'none.ckpt'], 'Checkpoint file not found: none.ckpt'),
        (
            ['--ckpt_path=lr.tif'],
            (
                'Checkpoint lr.tif holds more than tensors and plain values, which may be '
                'harmful, or is damaged; it is not read'
            ),
        ),
    ],
)
def test_mistakes_of_lightning_verbs_are_one_line(
    wrong: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    scene = make_scene(tmp_path, size=(64, 64))
    args = ['fit', '--model', 'MapSRTask', '--data', 'PairDataModule']
    args += ['--data.imagery', str(scene.imagery), '--data.labels', str(scene.labels)]
    args += ['--trainer.logger', 'false', '--trainer.max_epochs', '1', *wrong]
    # as a shell would give them
    monkeypatch.setattr(sys, 'argv', ['torchgeo-mapsr', *args])
    assert main() == 2
    error = capsys.readouterr().err
    assert error.endswith(f'torchgeo-mapsr: {message}\n')
    assert "LightningCLI's args" not in error


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / 'demo'
    figures = tmp_path / 'figures.json'
    assert main(['demo', str(folder), '--json', str(figures)]) == 0
    out = capsys.readouterr().out
    assert f'Map: {folder / "landcover.tif"}' in out.replace('\n', '')
    coarse, cover = next(
        (float(cell) for cell in line.split('│')[2:4])
        for line in out.splitlines()
        if 'mIoU' in line
    )
    assert cover > coarse + 5
    content = json.loads(figures.read_text())
    assert 100 * content['map']['miou'] == pytest.approx(cover, abs=0.06)
    assert 100 * content['coarse labels']['miou'] == pytest.approx(coarse, abs=0.06)
    assert main(['demo', str(folder)]) == 2
    assert '--overwrite' in capsys.readouterr().err
    report = folder / 'landcover.json'
    assert main(['demo', str(folder), '--overwrite', '--json', str(report)]) == 2
    assert 'landcover.json is an input' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (None, 'cannot be read'),
        (b'', 'key: value'),
        (b'no raster', 'key: value'),
        (b'\0\0', 'is no YAML'),
        (b'II*\0\xff\xfe', 'is no YAML'),
        (b'model: {', 'is no YAML'),
        (b'[' * 1500, 'is no YAML'),
    ],
)
@pytest.mark.parametrize('option', ['--config', '-c', '--config='])
def test_configuration_that_is_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    reason: str,
    option: str,
) -> None:
    path = tmp_path / 'config.yaml'
    if content is not None:
        path.write_bytes(content)
    args = [f'{option}{path}'] if option.endswith('=') else [option, str(path)]
    assert main(['fit', *args]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f'torchgeo-mapsr: {path}: ')
    assert reason in message
    assert message.count('\n') == 1


@pytest.mark.parametrize('option', ['--model', '--weights', '--output'])
def test_names_that_no_file_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    loop = tmp_path / 'loop.tif'
    loop.symlink_to(loop)
    for name in ('a\0b', str(loop)):
        args = ['map', str(tmp_path / 'a.tif'), '--output', str(tmp_path / 'b.tif')]
        args += ['--labels', 'lr.tif', '--legend', 'nlcd', option, name]
        assert main(args) == 2
        assert capsys.readouterr().err.count('\n') == 1


def test_no_option_is_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """What begins like --offline was taken, and forbade nothing."""
    arguments = ['export', 'a.tif', '--polygons', 'a.gpkg', '--offlin']
    with pytest.raises(SystemExit, match='2'):
        main(arguments)
    assert '--offlin' in capsys.readouterr().err


@pytest.mark.usefixtures('variables')
def test_a_checkpoint_does_not_decide_the_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning puts those that it keeps over the command line's, without a word."""
    monkeypatch.chdir(tmp_path)
    scene = make_scene(tmp_path, size=(128, 128))
    data = PairDataModule(*map(str, (scene.imagery, scene.labels)), patch_size=128)
    trainer = Trainer(max_epochs=1, logger=False, enable_progress_bar=False)
    trainer.fit(MapSRTask('identity', fit={'l2': 1e-3}), data)
    trainer.save_checkpoint('fit.ckpt')  # as Python writes it
    args = ['test', '--model', 'MapSRTask', '--data', 'PairDataModule']
    args += ['--data.imagery', str(scene.imagery), '--data.labels', str(scene.labels)]
    args += ['--data.patch_size', '128', '--trainer.logger', 'false']
    args += ['--model.backbone', 'identity', '--ckpt_path', 'fit.ckpt']
    for more, code in (([], 0), (['--model.propagate', 'nonsense'], 2)):
        monkeypatch.setattr(sys, 'argv', ['torchgeo-mapsr', *args, *more])
        assert main() == code
    error = capsys.readouterr().err
    assert 'nonsense' in error.splitlines()[-1]
    args[args.index('MapSRTask')] = 'SegmentationTask'
    del args[args.index('--model.backbone') :][:2]
    wrong = [a for a in args if a not in ('--model.backbone', 'identity')]
    monkeypatch.setattr(sys, 'argv', ['torchgeo-mapsr', *wrong])
    assert main() == 2
    assert 'its weights do not fit' in capsys.readouterr().err
