# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Disks that become full while a library writes, which reports that in its own ways."""

import json
import sys
from pathlib import Path

import pytest

from torchgeo_mapsr.datasets.scene.scene import Scene

from ..forked import run_forked

# A limit on the size of files fails writes as a full disk does; what is said of it goes into
# memory, where there is none.
SCRIPT = """
import json, resource, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from torchgeo_mapsr.main import main
folder, commands = json.loads(sys.argv[1])
for command in commands:
    output = Path(command[-1])
    size = 1000 if main(command) else output.stat().st_size
    for path in Path(folder).iterdir():
        path.unlink()
    for limit in (1000, size // 2, size - 1):
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            code = main(command)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        files = sorted(path.name for path in Path(folder).iterdir())
        print('limit', code, files, said.getvalue().count('torchgeo-mapsr: '))
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='no limits there')
def test_nothing_half_written_has_a_name(made_scene: Scene, tmp_path: Path) -> None:
    truth, other = str(made_scene.truth), str(tmp_path / 'c.tif')
    commands = [
        ['export', '--min-area', '30', '--polygons', 'out.gpkg'],
        ['export', '--min-area', '30', '--polygons', 'out.fgb'],
        ['sample', '--size', '200', '--output', 'out.gpkg'],
        ['select', '--minority', '4', '--patch-size', '32', '--output', 'out.gpkg'],
        ['change', truth, '--output', 'out.tif'],
        ['change', truth, '--output', other, '--polygons', 'out.gpkg'],
    ]
    legend = ['--legend', 'land-cover-4']
    commands = [
        [verb, truth, *options, *legend, option, str(tmp_path / name)]
        for verb, *options, option, name in commands
    ]
    done = run_forked(SCRIPT, json.dumps([str(tmp_path), commands]))
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith('limit')]
    assert found == ['limit 2 [] 1'] * 3 * len(commands), done.stderr
