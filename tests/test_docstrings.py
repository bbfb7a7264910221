# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Every example in a docstring runs, and says what it says."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import torchgeo_mapsr

PACKAGE = Path(torchgeo_mapsr.__file__).parent
MODULES = sorted(
    '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts)
    for path in PACKAGE.rglob('*.py')
    if '>>>' in path.read_text(encoding='utf-8')
)


# Made scenes are small: their fits have something to say of classes of a few cells.
@pytest.mark.filterwarnings('ignore::torchgeo_mapsr.errors.InputWarning')
@pytest.mark.parametrize('name', MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(import_module(name))
    assert result.attempted
    assert result.failed == 0
