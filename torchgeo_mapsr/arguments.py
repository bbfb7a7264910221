# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Whether arguments are what they may be: a word, a number in a range, a path here, a key once."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from math import inf
from operator import index
from os import PathLike, fspath
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml

from .errors import InputError

T = TypeVar('T')

#: As the lower end of a range: all numbers above zero.
POSITIVE = sys.float_info.min

#: Lower and upper end of a range; both belong to it.
Range = tuple[float, float]


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Make sure that an argument is one of some words.

    Args:
        name: What the user calls it.
        value: Its value.
        choices: What it may be.

    Raises:
        InputError: If it is something else.

    >>> check_choice('reduction', 'mean', ('mean', 'sum'))
    """
    choices = tuple(choices)
    if value not in choices:
        listed = ', '.join(str(choice) for choice in choices)
        raise InputError(f'{name} must be one of {listed}, not {value!r}.')


def check_range(
    name: str, value: Any, low: float = -inf, high: float = inf, whole: bool = False
) -> None:
    """Make sure that an argument is a finite number in a range.

    Args:
        name: What the user calls it.
        value: Its value; None where there is none.
        low: Least number, or :data:`POSITIVE`.
        high: Largest number.
        whole: Whether it counts something, and has to be an integer.

    Raises:
        InputError: If it is something else. NaN is in no range.

    >>> check_range('share', 0.5, 0, 1)
    """
    if value is None:
        return
    least = '0' if low == POSITIVE else f'{low:g}'
    if whole:
        try:
            index(value)
        except TypeError:
            raise InputError(f'{name} must be an integer, not {value!r}.') from None
    try:
        if low <= value <= high and abs(value) != inf:
            return
    except TypeError:
        raise InputError(f'{name} must be a number, not {value!r}.') from None
    if high < inf:
        first = (
            f'above {least} and at most' if low == POSITIVE else f'between {least} and'
        )
        raise InputError(f'{name} must be {first} {high:g}, not {value!r}.')
    if low > -inf:
        more = 'above 0' if low == POSITIVE else f'{least} or more'
        raise InputError(f'{name} must be {more}, not {value!r}.')
    raise InputError(f'{name} must be a finite number, not {value!r}.')


def check_numbers(name: str, values: Any, low: float = -inf, high: float = inf) -> None:
    """Make sure that an argument is a list of finite numbers in a range.

    Args:
        name: What the user calls it.
        values: Its value; None where there is none.
        low: Least number, or :data:`POSITIVE`.
        high: Largest number.

    Raises:
        InputError: If it is something else.

    >>> check_numbers('shares', [0.5, 0.2], 0, 1)
    """
    values = plain(values)
    if values is None:
        return
    if not isinstance(values, list | tuple) or None in values:
        raise InputError(f'{name} must be a list of numbers, not {values!r}.')
    for value in values:
        check_range(name, value, low, high)


# Addresses (pathlib leaves one slash of two; one letter is a drive of Windows), and names
# of GDAL's file systems.
_ADDRESS = re.compile(
    r'[a-z][a-z0-9+.-]+:[/\\]|[/\\]vsi[a-z0-9_]+[/\\?]', re.IGNORECASE
)


def check_local(path: str | PathLike[str]) -> None:
    """Make sure that what is to be written has a path on this machine.

    Args:
        path: A file or a folder.

    Raises:
        InputError: If it is an address. As a path it would be a folder called ``s3:``.

    >>> check_local('maps/landcover.tif')
    """
    if _ADDRESS.match(fspath(path)):
        raise InputError(
            f'{fspath(path)} is an address; files are written on this machine alone: '
            'name a path here, and copy the file afterwards.'
        )


def check_arguments(
    function: Callable[..., Any],
    values: Mapping[str, Any],
    ranges: Mapping[str, Range] | None = None,
) -> None:
    """Make sure that arguments of a function are what its signature says.

    Args:
        function: Its arguments that are annotated as ``Literal`` are words.
        values: Values of arguments, by their names.
        ranges: Range of each argument that is a number; those that are annotated as
            ``int`` are integers.

    Raises:
        InputError: If one is something else.
    """
    parameters = inspect.signature(function).parameters
    kinds = {name: item.annotation for name, item in parameters.items()}
    for name, kind in kinds.items():
        if name in values and get_origin(kind) is Literal:
            check_choice(name, values[name], get_args(kind))
    for name, (low, high) in (ranges or {}).items():
        if name in values:
            whole = kinds.get(name) in (int, int | None)
            check_range(name, values[name], low, high, whole)


def plain(value: Any) -> Any:
    """A value in Python's own types, which a checkpoint and JSON can hold.

    Args:
        value: Anything: numbers and arrays of NumPy and torch become numbers and lists,
            paths become text, in lists and mappings too. The rest stays as it is.

    >>> from pathlib import Path
    >>> plain({'file': Path('a.yaml'), 'bands': (1, 2)})
    {'file': 'a.yaml', 'bands': (1, 2)}
    """
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if hasattr(value, 'tolist'):
        return value.tolist()
    return fspath(value) if isinstance(value, PathLike) else value


def unique_keys(pairs: Iterable[tuple[Any, Any]], where: str = '') -> dict[Any, Any]:
    """A mapping of pairs out of a file: a key that is there twice is a mistake.

    Args:
        pairs: Keys and values.
        where: Where they stand, for the message.

    Raises:
        InputError: If a key is there twice. YAML and JSON would take the last.

    >>> unique_keys([('a', 1), ('b', 2)])
    {'a': 1, 'b': 2}
    """
    content: dict[Any, Any] = {}
    for key, value in pairs:
        if key in content:
            raise InputError(
                f'{" ".join(str(key).split())[:60]}: is there twice{where}.'
            )
        content[key] = value
    return content


class UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader of YAML that takes no key twice; see :func:`unique_keys`."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Make a mapping."""
        if isinstance(node, yaml.MappingNode):
            keys = [k.value for k, _ in node.value if isinstance(k, yaml.ScalarNode)]
            where = f' (line {node.start_mark.line + 1})'
            unique_keys([(key, None) for key in keys if key != '<<'], where)
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content


def construct(kind: type[T], value: T | Mapping[str, Any], name: str) -> T:
    """Take an object, or make it of its arguments, as a checkpoint has them.

    Args:
        kind: A dataclass.
        value: An object of it, or its arguments by their names.
        name: What the user calls it.

    Returns:
        The object.

    Raises:
        InputError: If it is something else, or an argument is none of the class's.
    """
    if isinstance(value, kind):
        return value
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise InputError(
            f'{name} must be {kind.__name__}(…), or its arguments by their names, '
            f'not {value!r}.'
        )
    unknown = [key for key in value if key not in known]
    if unknown:
        raise InputError(
            f'{name} has no {", ".join(map(str, unknown))}; it has {", ".join(known)}.'
        )
    return kind(**value)
