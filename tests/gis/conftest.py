# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Layers = Callable[..., list[dict[str, Any]]]

# As a desktop without a display. The interpreter of this test must not leak into QGIS's,
# which looks for its modules beside the first python3 of PATH: an activated virtual
# environment makes it find none ("No module named 'qgis'") and crash.
QGIS_ENVIRONMENT = {
    **{
        key: value
        for key, value in os.environ.items()
        if not key.startswith(('PYTHON', 'VIRTUAL_ENV'))
    },
    'PATH': os.defpath if sys.platform == 'win32' else '/usr/bin:/bin',
    'QT_QPA_PLATFORM': 'offscreen',
}


@pytest.fixture(scope='session')
def qgis_python() -> str:
    """The Python that has QGIS's modules."""
    for name in ('/usr/bin/python3', shutil.which('python3')):
        if name and Path(name).exists():
            done = subprocess.run(
                [name, '-c', 'import qgis.core'],
                capture_output=True,
                env=QGIS_ENVIRONMENT,
                check=False,
            )
            if done.returncode == 0:
                return name
    pytest.skip('QGIS is not installed')


@pytest.fixture
def qgis_layers(qgis_python: str) -> Layers:
    """Load files in QGIS, and say what legend each has there."""

    def load(*paths: Path, picture: Path | None = None) -> list[dict[str, Any]]:
        script = Path(__file__).with_name('qgis_layers.py')
        done = subprocess.run(
            [qgis_python, str(script), str(picture or ''), *map(str, paths)],
            capture_output=True,
            text=True,
            env=QGIS_ENVIRONMENT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        layers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return layers

    return load
