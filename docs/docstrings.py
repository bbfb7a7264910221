# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Docstrings on the site: examples become blocks of code, and Sphinx's roles become code."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r'(?:^[ \t]*>>> .*\n?(?:^[ \t]*(?!>>>)\S.*\n?)*)+', re.MULTILINE)
_ROLE = re.compile(r':(?:class|func|meth|mod|data|attr|exc):`~?([\w.]+)`')


def readable(text: str) -> str:
    """The Markdown of a docstring.

    Args:
        text: The docstring, without its indentation.
    """
    text = _ROLE.sub(lambda match: f'`{match[1].split(".")[-1]}`', text)
    return _EXAMPLE.sub(lambda m: f'```pycon\n{m[0].rstrip()}\n```\n', text)


class Docstrings(griffe.Extension):
    """Passes every docstring through :func:`readable`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object that has been read."""
        if obj.docstring:
            obj.docstring.value = readable(obj.docstring.value)
