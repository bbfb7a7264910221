# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The package asks for what it imports, and the conda recipe for the same."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Packages that have another name there.
NAMES = {'torch': 'pytorch', 'matplotlib': 'matplotlib-base'}


def test_what_is_imported_is_declared() -> None:
    """And not only installed because another package asks for it."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies']
    declared = {
        re.split(r'[^\w-]', requirement)[0].lower().replace('-', '_')
        for group in (
            project['dependencies'],
            *map(extras.get, ('dask', 'stac', 'zarr')),
        )
        for requirement in group
    }
    imported: set[str] = set()
    for path in (ROOT / 'torchgeo_mapsr').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split('.')[0])
    packages = packages_distributions()
    for module in imported - sys.stdlib_module_names:
        names = {
            name.lower().replace('-', '_') for name in packages.get(module, [module])
        }
        assert names & declared, module


def test_recipe_has_every_dependency() -> None:
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    recipe = (ROOT / 'conda.recipe' / 'recipe.yaml').read_text()
    run = recipe.split('  run:')[1].split('tests:')[0]
    listed = {tuple(line.split(maxsplit=1)) for line in re.findall(r'- (.+)', run)}
    for requirement in project['dependencies']:
        match = re.fullmatch(r'([\w-]+)(.*)', requirement)
        assert match is not None
        name, version = match.groups()
        assert (NAMES.get(name, name), version) in listed
