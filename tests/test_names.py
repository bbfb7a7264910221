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
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = torchgeo_mapsr.Nothing


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(str(torchgeo_mapsr.__file__)).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = [
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(typed) == sorted(torchgeo_mapsr.__all__)
