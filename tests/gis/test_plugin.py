# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The plugin in qgis_process, and how it runs the command without QGIS."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import geopandas
import pytest

from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.main import main

from .conftest import QGIS_ENVIRONMENT

PLUGIN = Path(__file__).parents[2] / 'qgis_plugin'
BACKBONE = 'rcf?filters=6&colours=24&strides=1,4'


def load(path: Path) -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


command = load(PLUGIN / 'torchgeo_mapsr_qgis' / 'command.py')


def script(path: Path, text: str) -> str:
    """A program in the place of the command."""
    path.write_text(f'#!{sys.executable}\n{textwrap.dedent(text)}')
    path.chmod(0o755)
    return str(path)


def test_progress_and_other_lines(tmp_path: Path) -> None:
    fake = script(
        tmp_path / 'fake',
        """
        import sys
        print('Map: a.tif')
        for i in range(5):
            print('{"stage": "Map", "done": %d, "total": 4}' % i, file=sys.stderr)
        print('a note', file=sys.stderr)
        print(sys.argv[1:])
        """,
    )
    steps, lines = [], []
    command.run(fake, ['map', 'a b'], lambda *step: steps.append(step), lines.append)
    assert steps == [('Map', 0), ('Map', 25), ('Map', 50), ('Map', 75), ('Map', 100)]
    assert sorted(lines) == ['Map: a.tif', "['map', 'a b']", 'a note']


def test_an_error_is_the_line_that_the_command_prints(tmp_path: Path) -> None:
    fake = script(
        tmp_path / 'fake',
        """
        import sys
        print('torchgeo-mapsr: a.tif: has no bands', file=sys.stderr)
        sys.exit(2)
        """,
    )
    with pytest.raises(command.CommandError, match=r'^a\.tif: has no bands$'):
        command.run(fake, [])
    with pytest.raises(command.CommandError, match='name the command in Settings'):
        command.run(str(tmp_path / 'none'), [])


@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
def test_cancel_is_ctrl_c(tmp_path: Path) -> None:
    """The command has the chance to keep what it has finished."""
    fake = script(
        tmp_path / 'fake',
        f"""
        import time, sys
        try:
            print('ready', flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            open({str(tmp_path / 'kept')!r}, 'w').close()
            sys.exit(130)
        """,
    )
    lines: list[str] = []
    start = time.monotonic()
    with pytest.raises(command.Canceled):
        command.run(fake, [], log=lines.append, canceled=lambda: bool(lines))
    assert time.monotonic() - start < 30
    assert (tmp_path / 'kept').exists()


def test_qgis_own_python_does_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PYTHONHOME', '/usr/lib/qgis')
    monkeypatch.setenv('PROJ_LIB', '/usr/share/qgis')
    assert not {'PYTHONHOME', 'PROJ_LIB'} & set(command.environment())


def test_understands_what_help_says(tmp_path: Path) -> None:
    fake = script(tmp_path / 'fake', "print('usage: --progress json')")
    assert command.understands(fake, 'map', '--progress')
    assert not command.understands(fake, 'map', '--aoi')


def test_package(tmp_path: Path) -> None:
    package = load(PLUGIN / 'package.py').package
    names = package(tmp_path / 'one.zip')
    package(tmp_path / 'two.zip')
    assert (tmp_path / 'one.zip').read_bytes() == (tmp_path / 'two.zip').read_bytes()
    assert {name.split('/')[0] for name in names} == {'torchgeo_mapsr_qgis'}
    assert 'torchgeo_mapsr_qgis/metadata.txt' in names
    assert 'torchgeo_mapsr_qgis/LICENSE' in names


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp('scene'), seed=3, size=(200, 220))


class Qgis:
    """qgis_process with the packaged plugin, in a profile of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        load(PLUGIN / 'package.py').package(folder / 'plugin.zip')
        plugins = folder / 'plugins'
        with ZipFile(folder / 'plugin.zip') as archive:
            archive.extractall(plugins)
        root = Path(__file__).parents[2]
        run = script(
            folder / 'command',
            f"""
            import os, sys
            os.environ['PYTHONPATH'] = {str(root)!r}
            os.execv({sys.executable!r}, [{sys.executable!r}, '-m', 'torchgeo_mapsr', *sys.argv[1:]])
            """,
        )
        self.program = program
        self.environment = {
            **QGIS_ENVIRONMENT,
            'HOME': str(folder),
            'XDG_DATA_HOME': str(folder / 'data'),
            'XDG_CONFIG_HOME': str(folder / 'config'),
            'QGIS_PLUGINPATH': str(plugins),
            'TORCHGEO_MAPSR_COMMAND': run,
        }
        self('plugins', 'enable', 'torchgeo_mapsr_qgis')

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )

    def run(
        self, algorithm: str, **parameters: object
    ) -> subprocess.CompletedProcess[str]:
        values = [f'{name}={value}' for name, value in parameters.items()]
        return self('--json', 'run', f'torchgeo_mapsr:{algorithm}', '--', *values)


@pytest.fixture(scope='module')
def qgis(tmp_path_factory: pytest.TempPathFactory) -> Qgis:
    # Debian's qgis_process is a script that wants a display.
    program = shutil.which('qgis_process.bin') or shutil.which('qgis_process')
    if program is None:
        pytest.skip('QGIS is not installed')
    return Qgis(program, tmp_path_factory.mktemp('qgis'))


def test_qgis_lists_the_algorithms(qgis: Qgis) -> None:
    done = qgis('--json', 'list')
    listed = json.loads(done.stdout)['providers']['torchgeo_mapsr']['algorithms']
    names = {name.partition(':')[2] for name in listed}
    assert names == {'map', 'export', 'evaluate', 'sample', 'area', 'change', 'select'}


def test_qgis_makes_the_map_of_the_command(
    qgis: Qgis, scene: Scene, tmp_path: Path
) -> None:
    """Same bytes; then polygons of it, and the one line of an error."""
    done = qgis.run(
        'map',
        IMAGERY=scene.imagery,
        LABELS=scene.labels,
        LEGEND=scene.legend,
        BACKBONE=BACKBONE,
        OPTIONS='--chip-size 128',
        OUTPUT=tmp_path / 'qgis.tif',
    )
    assert done.returncode == 0, done.stderr + done.stdout
    results = json.loads(done.stdout[done.stdout.index('{') :])['results']
    assert results['OUTPUT'] == str(tmp_path / 'qgis.tif')
    args = ['map', str(scene.imagery), '--labels', str(scene.labels)]
    args += ['--legend', scene.legend, '--backbone', BACKBONE, '--chip-size', '128']
    assert main([*args, '--output', str(tmp_path / 'here.tif'), '--quiet']) == 0
    for name in ('{}.tif', '{}_confidence.tif'):
        one, two = (tmp_path / name.format(stem) for stem in ('qgis', 'here'))
        assert one.read_bytes() == two.read_bytes()
    assert Path(results['CONFIDENCE']).exists()

    done = qgis.run(
        'export', MAP=tmp_path / 'qgis.tif', MIN_AREA=50, OUTPUT=tmp_path / 'p.gpkg'
    )
    assert done.returncode == 0, done.stderr + done.stdout
    frame = geopandas.read_file(tmp_path / 'p.gpkg', layer='p')
    assert (frame.hectares >= 50e-4).all()
    assert len(frame) > 1

    again = qgis.run(
        'map',
        IMAGERY=scene.imagery,
        LABELS=scene.labels,
        LEGEND='nlcdd',
        OUTPUT=tmp_path / 'other.tif',
    )
    assert again.returncode != 0
    assert 'nlcdd' in again.stdout + again.stderr
    assert 'Traceback' not in again.stdout + again.stderr


def test_qgis_evaluates(qgis: Qgis, scene: Scene, tmp_path: Path) -> None:
    done = qgis.run(
        'evaluate',
        MAPS=scene.truth,
        TRUTH=scene.truth,
        LEGEND='land-cover-4',
        OUTPUT=tmp_path / 'figures.json',
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads((tmp_path / 'figures.json').read_text())['miou'] == 1


def test_no_torch_in_the_plugin() -> None:
    for path in (PLUGIN / 'torchgeo_mapsr_qgis').glob('*.py'):
        text = path.read_text()
        assert 'import torch' not in text
        assert 'from torchgeo' not in text
    assert os.access(PLUGIN / 'package.py', os.R_OK)
