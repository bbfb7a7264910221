# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The fields of a mapping job as options of a command line."""

import argparse
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from .config import MapJob, flag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of :class:`MapJob`; imagery is positional.

    Args:
        parser: The parser to add them to.
    """
    groups: dict[str, Any] = {}
    hints = get_type_hints(MapJob)
    for item in fields(MapJob):
        about = item.metadata
        if about['group'] not in groups:
            groups[about['group']] = parser.add_argument_group(about['group'])
        group, text = groups[about['group']], about['help'].replace('%', '%%')
        if hints[item.name] is bool:
            action = argparse.BooleanOptionalAction if item.default else 'store_true'
            group.add_argument(
                flag(item.name), action=action, default=item.default, help=text
            )
            continue
        kind, several = _kind(hints[item.name])
        required = item.default is MISSING
        if not required and item.default not in (None, ()):
            text = f'{text} (default: {item.default})'
        options: dict[str, Any] = {
            'type': kind,
            'nargs': '+' if several else None,
            'help': text,
            'metavar': about['metavar'],
            'choices': about['choices'],
        }
        if item.name == 'imagery':
            group.add_argument(item.name, **options)
        else:
            options['default'] = None if required else item.default
            group.add_argument(flag(item.name), required=required, **options)


def job_of(options: argparse.Namespace) -> MapJob:
    """The job that parsed options describe.

    Args:
        options: What a parser with :func:`add_arguments` has parsed.

    Raises:
        InputError: If they contradict one another.
    """
    values = {item.name: getattr(options, item.name) for item in fields(MapJob)}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return MapJob(**values)


def _kind(hint: Any) -> tuple[Any, bool]:
    """How an argument is converted, and whether there may be several."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if kinds == [float]:
        return _number, False
    return _kind(kinds[0]) if kinds else (hint, False)


def _number(text: str) -> float | None:
    """A number, or None for auto."""
    return None if text == 'auto' else float(text)
