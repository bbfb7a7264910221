# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Imports run downward only, so that a file can be read without those above it."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import torchgeo_mapsr

PACKAGE = Path(str(torchgeo_mapsr.__file__)).parent

#: What a map by the embedded backbone does not need; together these take longer to
#: import than torch.
HEAVY = {
    'geopandas',
    'kornia',
    'lightning',
    'segmentation_models_pytorch',
    'timm',
    'torchgeo',
    'torchmetrics',
    'torchvision',
}

FOLDERS = sorted(path.parent.name for path in PACKAGE.glob('*/__init__.py'))

#: From the top to the bottom; names of one line may import each other.
LAYERS = [
    {'__main__'},
    {'main'},
    {'verbs'},
    {'tasks'},
    {'datamodules'},
    {'mapping'},
    {'evaluation'},
    {'samplers'},
    {'losses', 'transforms', 'models'},
    {'datasets'},
    {
        '_compat',
        'arguments',
        'atomic',
        'errors',
        'geopackage',
        'offline',
        'process',
        'seeds',
        'versions',
    },
]

#: Within datasets: what is in none of these lines is above them all.
DATASETS = [
    {'chip'},
    {'imagery', 'labels'},
    {'bands', 'layer', 'removed', 'stack', 'transparency'},
    {'legends'},
    {'geo'},
]


def modules() -> Iterator[tuple[str, ...]]:
    """Every module but the package's own ``__init__``, which hands all names on."""
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(PACKAGE).with_suffix('').parts
        if parts != ('__init__',):
            yield parts


def imports(module: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Modules of the package that a module imports, also within functions."""
    path = PACKAGE.joinpath(*module).with_suffix('.py')
    tree = ast.parse(path.read_text())
    folder = module[:-1]
    for node in ast.walk(tree):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.ImportFrom):
            names = [tuple(node.module.split('.')) if node.module else ()]
            if node.level:
                base = folder[: len(folder) - node.level + 1]
                names = [(*base, *names[0])]
            elif names[0][:1] != ('torchgeo_mapsr',):
                continue
            else:
                names = [names[0][1:]]
            # ``from . import x`` names modules.
            if not PACKAGE.joinpath(*names[0]).with_suffix('.py').exists():
                inner = [(*names[0], alias.name) for alias in node.names]
                names = [
                    name
                    if PACKAGE.joinpath(*name).with_suffix('.py').exists()
                    else names[0]
                    for name in inner
                ]
        elif isinstance(node, ast.Import):
            names = [
                tuple(alias.name.split('.'))[1:]
                for alias in node.names
                if alias.name.startswith('torchgeo_mapsr.')
            ]
        yield from (name for name in names if name)


def rank(layers: list[set[str]], name: str) -> int:
    return next((i for i, layer in enumerate(layers) if name in layer), -1)


def upward(module: tuple[str, ...], imported: tuple[str, ...]) -> bool:
    """Whether an import is of something above."""
    if module[0] != imported[0]:
        return rank(LAYERS, imported[0]) < rank(LAYERS, module[0])
    if module[0] != 'datasets' or module[-1] == '__init__' or len(imported) < 2:
        return False
    return rank(DATASETS, imported[1]) < rank(DATASETS, module[1])


def test_every_folder_has_its_layer() -> None:
    for module in modules():
        assert rank(LAYERS, module[0]) >= 0, module


def test_imports_run_downward() -> None:
    above = {
        ('.'.join(module), name[0])
        for module in modules()
        for name in imports(module)
        if upward(module, name)
    }
    assert not above


@pytest.mark.parametrize('folder', FOLDERS)
def test_no_cycles(folder: str) -> None:
    graph = {}
    for module in modules():
        if module[0] == folder and module[-1] != '__init__':
            graph[module] = {name for name in imports(module) if name[0] == folder}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(' > '.join('.'.join(name) for name in error.args[1]))


def test_a_map_imports_what_it_needs(tmp_path: Path) -> None:
    torchgeo_mapsr.make_scene(tmp_path, seed=0, size=(192, 192))
    flags = '--backbone rcf?filters=6&colours=24&strides=1,4 --quiet --labels lr.tif'
    line = f'map imagery.tif --legend nlcd --output map.tif {flags}'
    code = (
        'import json, sys\n'
        'from torchgeo_mapsr.main import main\n'
        f'code = main({line.split()!r})\n'
        'print(json.dumps([code, sorted(name for name in sys.modules)]))'
    )
    call = [sys.executable, '-c', code]
    done = subprocess.run(
        call, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    returned, loaded = json.loads(done.stdout.splitlines()[-1])
    assert returned == 0
    assert (tmp_path / 'map.tif').exists()
    assert not HEAVY & set(loaded)
