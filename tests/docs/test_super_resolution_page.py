# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The examples of docs/super_resolution.md run as they stand."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from torchgeo_mapsr.datasets import JointStatistics, make_scene
from torchgeo_mapsr.main import main

PAGE = Path(__file__).parents[2] / 'docs' / 'super_resolution.md'


def block(language: str) -> str:
    (found,) = re.findall(
        rf'^```{language}\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return str(found)


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = make_scene(tmp_path, seed=0, size=(100, 130))
    scene.labels.rename('nlcd.tif')
    scene.truth.rename('lc.tif')
    exec(compile(block('python'), PAGE.name, 'exec'), {})  # noqa: S102
    assert Path('sr.ckpt').stat().st_size > 1_000_000

    Path('both.yaml').write_text(block('yaml'))
    table = JointStatistics.load('both.yaml')
    low, medium = table.source.index([22, 23])
    shipped = JointStatistics.load('malkin2019')
    np.testing.assert_array_equal(table.mean[low], shipped.mean[low])
    described = JointStatistics.load('nlcd-descriptions')
    np.testing.assert_allclose(table.std[medium], described.std[medium])
    assert yaml.safe_load(block('yaml'))['classes'].keys() == {22, 23}

    command = re.search(r'^ {4}torchgeo-mapsr (.*)$', PAGE.read_text(), re.MULTILINE)
    assert command is not None
    assert main(shlex.split(command[1])) == 0
    assert JointStatistics.load('here.yaml').target == shipped.target
