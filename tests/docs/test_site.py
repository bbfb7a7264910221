# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The site's reference has every public name; its new pages run as they stand."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import torchgeo_mapsr

DOCS = Path(__file__).parents[2] / 'docs'


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f'{name}.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_a_place_in_the_reference() -> None:
    pytest.importorskip('mkdocs')
    text = '\n'.join(load('site').pages().values())
    for name in torchgeo_mapsr.__all__:
        assert f'::: torchgeo_mapsr.{name}\n' in text, name


def test_further_names_exist() -> None:
    pytest.importorskip('mkdocs')
    for names in load('site').FURTHER.values():
        for name in names:
            module, _, attribute = name.rpartition('.')
            assert hasattr(
                importlib.import_module(f'torchgeo_mapsr.{module}'), attribute
            )


def test_every_page_is_in_the_navigation() -> None:
    text = (DOCS.parent / 'mkdocs.yml').read_text()
    config = yaml.safe_load(text)

    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        entries = entry.values() if isinstance(entry, dict) else entry
        return [page for item in entries for page in pages(item)]  # type: ignore[attr-defined]

    listed = set(pages(config['nav']))
    there = {path.name for path in DOCS.glob('*.md')}
    assert there <= listed
    assert {page for page in listed if page.endswith('.ipynb')} == {
        f'notebooks/{path.name}' for path in (DOCS / 'notebooks').glob('*.ipynb')
    }


def test_examples_of_docstrings_become_code() -> None:
    pytest.importorskip('griffe')
    text = 'Text of :class:`~a.b.C`.\n\n>>> x = 1\n>>> x\n[1, 2]\n\nMore.\n'
    found = load('docstrings').readable(text)
    assert found == (
        'Text of `C`.\n\n```pycon\n>>> x = 1\n>>> x\n[1, 2]\n```\n\nMore.\n'
    )


@pytest.mark.parametrize('page', ['aoi', 'area', 'extend', 'jobs'])
def test_page(page: str) -> None:
    blocks = re.findall(
        r'^```python\n(.*?)^```$',
        (DOCS / f'{page}.md').read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert blocks
    for block in blocks:
        exec(compile(block, page, 'exec'), {})  # noqa: S102


def test_files_that_pages_name_exist() -> None:
    root = DOCS.parent
    pages = [*DOCS.glob('*.md'), root / 'README.md', root / 'CONTRIBUTING.md']
    for page in pages:
        for path in re.findall(r'`([\w/]+\.py)`', page.read_text()):
            places = (root / path, root / 'torchgeo_mapsr' / path)
            assert any(place.exists() for place in places), (page.name, path)
