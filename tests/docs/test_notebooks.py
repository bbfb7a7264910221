# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The notebooks of the documentation run as they stand."""

from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest
from jupyter_client.manager import KernelManager

NOTEBOOKS = sorted((Path(__file__).parents[2] / 'docs' / 'notebooks').glob('*.ipynb'))


@pytest.fixture(scope='module')
def kernel() -> Iterator[KernelManager]:
    """One for all, emptied between them: each would import torch anew."""
    manager = KernelManager()
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, kernel: KernelManager, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    outputs = [cell.get('outputs', []) for cell in notebook.cells]
    assert any(outputs), 'a notebook is committed with its outputs'
    assert 'Traceback' not in path.read_text()
    # The last notebook's folder is gone, and %reset asks where it is.
    fresh = nbformat.v4.new_code_cell(
        f'import os\nos.chdir({str(tmp_path)!r})\n%reset -f'
    )
    notebook.cells.insert(0, fresh)
    nbclient.NotebookClient(notebook, timeout=300, km=kernel).execute()
