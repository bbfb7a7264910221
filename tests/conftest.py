# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def shared() -> Path:
    """Real scenes, weights and protocols: a folder beside the repository."""
    folder = Path(__file__).parents[2] / 'shared'
    if not folder.is_dir():
        pytest.skip(f'{folder} is not there')
    return folder
