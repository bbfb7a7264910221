# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import ast
from pathlib import Path

import pytest

import torchgeo_mapsr


def test_every_name_is_there() -> None:
    for name in torchgeo_mapsr.__all__:
        assert getattr(torchgeo_mapsr, name).__name__ == name
        assert name in dir(torchgeo_mapsr)
    with pytest.raises(AttributeError, match='No torchgeo_mapsr attribute Nothing'):
        _ = torchgeo_mapsr.Nothing


def test_type_checkers_see_the_same_names() -> None:
    stub = Path(str(torchgeo_mapsr.__file__)).with_suffix('.pyi')
    names = {
        alias.name: alias.asname
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    # Only what is imported as itself is public to them.
    assert names == {name: name for name in torchgeo_mapsr.__all__}
