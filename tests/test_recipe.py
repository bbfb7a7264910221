# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The conda recipe asks for what the package asks for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Packages that have another name there.
NAMES = {'torch': 'pytorch', 'matplotlib': 'matplotlib-base'}


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
