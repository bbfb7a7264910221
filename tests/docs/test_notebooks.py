# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The notebooks of the documentation run as they stand."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / 'docs' / 'notebooks').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    outputs = [cell.get('outputs', []) for cell in notebook.cells]
    assert any(outputs), 'a notebook is committed with its outputs'
    assert 'Traceback' not in path.read_text()
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={'metadata': {'path': str(tmp_path)}}
    )
    client.execute()
