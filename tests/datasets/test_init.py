# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import subprocess
import sys

import pytest

from torchgeo_mapsr import datasets


def test_every_name_is_there() -> None:
    for name in datasets.__all__:
        assert getattr(datasets, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = datasets.Nothing


def test_rasters_and_legends_do_not_wait_for_torch() -> None:
    code = (
        'import sys; from torchgeo_mapsr.datasets import Imagery, Legend, region_map; '
        "print(sorted({'torch', 'torchgeo', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == '[]'
