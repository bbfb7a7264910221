# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize('name', ['datasets.pair', 'datasets.mosaic', 'samplers.chips'])
def test_examples(name: str) -> None:
    result = doctest.testmod(import_module(f'torchgeo_mapsr.{name}'))
    assert result.attempted > 3
    assert result.failed == 0
