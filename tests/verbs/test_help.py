# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import subprocess
import sys

import pytest

from torchgeo_mapsr.main import main
from torchgeo_mapsr.verbs import VERBS


@pytest.mark.parametrize('verb', VERBS)
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, '--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert 'examples:' in text
    assert f'torchgeo-mapsr {verb} ' in text
    # Footprints and an index are never written over.
    assert ('--overwrite' in text) == (verb not in ('select', 'low2high'))
    # The report of a map is its figures.
    assert ('--json' in text) == (verb != 'map')
    for line in text.split('examples:')[1].splitlines():
        assert len(line) <= 92


def test_help_is_fast() -> None:
    """Neither torch nor rasterio is imported for it."""
    script = (
        'import sys\n'
        'from torchgeo_mapsr.main import main\n'
        f'for verb in {tuple(VERBS)}:\n'
        '    try:\n'
        "        main([verb, '--help'])\n"
        '    except SystemExit:\n'
        '        pass\n'
        "sys.exit(3 * bool({'torch', 'rasterio', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
