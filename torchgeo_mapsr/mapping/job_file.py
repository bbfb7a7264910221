# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Jobs in files: YAML or JSON with the fields of a job, and reports of runs.

The keys are those of :class:`~torchgeo_mapsr.mapping.config.MapJob`, nested as its
dataclasses are. Everything is checked here, where it enters, so that an error can name
the file and the key.
"""

import datetime
import difflib
import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from ..arguments import UniqueKeyLoader, unique_keys
from ..errors import InputError

#: Bytes of a job file at most; a report of ten thousand maps has twelve million.
MAX_BYTES = 64_000_000

# Values that the command line writes for "as the fit says".
_AUTO = ('scoring.score', 'scoring.prior')


@dataclass(frozen=True)
class Schema:
    """What a job may have.

    Args:
        job: The dataclass of a job.
        stages: Its fields that are dataclasses.
        names: Names of the command line, and where their values are in the job.
        check: Makes sure that a value at a path, of a name, is in its range.
    """

    job: Any
    stages: Mapping[str, Any]
    names: Mapping[str, str]
    check: Callable[[str, Any, str], None]


def read_job(path: str | Path, schema: Schema) -> dict[str, Any]:
    """Read the settings of a job.

    Args:
        path: A YAML or JSON file with the fields of
            :class:`~torchgeo_mapsr.mapping.config.MapJob`; or the report of a run, whose
            ``settings`` are taken.
        schema: What a job may have.

    Returns:
        Values by where they are in the job, such as ``chips.size``.

    Raises:
        InputError: If the file cannot be read, or a key or a value is none of a job's.
            The line names the file and the key.
    """
    content = _content(path)
    if not isinstance(content, dict):
        raise InputError(
            f'{path}: should hold "key: value" pairs, such as labels: FILE.'
        )
    prefix = ''
    if 'settings' in content and 'imagery' not in content:
        content, prefix = content['settings'], 'settings.'
        if not isinstance(content, dict):
            raise InputError(f'{path}: settings: should hold "key: value" pairs.')
    hints = get_type_hints(schema.job)
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = f'{path}: {prefix}{_shown(key)}'
        if key not in hints:
            raise InputError(f'{name}: there is no such key{_hint(key, "", schema)}')
        if key in schema.stages and not (key == 'backbone' and isinstance(value, str)):
            values |= _stage(key, value, name, schema)
        elif key == 'backbone':
            values['backbone.spec'] = value
        else:
            values[key] = _checked(key, value, hints[key], name, schema)
    return values


def _stage(stage: str, content: Any, name: str, schema: Schema) -> dict[str, Any]:
    """Values of one of the nested groups."""
    if not isinstance(content, dict):
        names = ', '.join(item.name for item in fields(schema.stages[stage]))
        raise InputError(f'{name}: should hold "key: value" pairs of {names}.')
    hints = get_type_hints(schema.stages[stage])
    values = {}
    for key, value in content.items():
        inner = f'{name}.{_shown(key)}'
        if key not in hints:
            raise InputError(
                f'{inner}: there is no such key{_hint(key, stage, schema)}'
            )
        path = f'{stage}.{key}'
        values[path] = _checked(path, value, hints[key], inner, schema)
    return values


def _checked(path: str, value: Any, hint: Any, name: str, schema: Schema) -> Any:
    """A value of the type that its field has, in its range."""
    if path in _AUTO and value == 'auto':
        return None
    if path == 'date':
        value = _date(value)
    converted = _converted(value, hint, name)
    schema.check(path, converted, name)
    return converted


def _converted(value: Any, hint: Any, name: str) -> Any:
    """A value as a type has it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    kind = kinds[0]
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(
            _converted(
                item, get_args(kind)[0], f'{name}[{i}]' if items is value else name
            )
            for i, item in enumerate(items)
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and number and _is_whole(value):
        return int(value)
    if kind is float and (number or isinstance(value, str)):
        try:
            return float(value)  # YAML takes 1e-5 for text
        except (ValueError, OverflowError):
            pass
    if kind in (str, Path) and isinstance(value, str):
        return kind(value)
    raise InputError(f'{name}: must be {_WORDS[kind]}, not {_shown(value)}.')


_WORDS = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number',
    str: 'text (in quotes if YAML takes it for something else)',
    Path: 'a path',
}


def _is_whole(value: float) -> bool:
    """Whether a number is an integer, as 448.0 is."""
    return isinstance(value, int) or value.is_integer()


def _date(value: Any) -> Any:
    """What YAML takes for a number or a date, as it was written."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value.isoformat() if isinstance(value, datetime.date) else value


def _hint(key: Any, stage: str, schema: Schema) -> str:
    """What a key was meant to be, if that can be guessed."""
    paths = dict(schema.names)
    for kind, options in schema.stages.items():
        paths |= {item.name: f'{kind}.{item.name}' for item in fields(options)}
    paths |= {item.name: item.name for item in fields(schema.job)}
    if not isinstance(key, str):
        return '.'
    word = key.replace('-', '_')
    within = [item.name for item in fields(schema.stages[stage])] if stage else []
    near = difflib.get_close_matches(word, within, 1)
    if near:
        return f'; did you mean {stage}.{near[0]}?'
    near = [word] if word in paths else difflib.get_close_matches(word, paths, 1)
    return f'; did you mean {paths[near[0]]}?' if near else '.'


def _shown(value: Any) -> str:
    """A short form of anything: aliases of YAML may stand for gigabytes."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    return ' '.join(text.split())[:60] or repr(value)


def _content(path: str | Path) -> Any:
    """What a file holds.

    Raises:
        InputError: If it is neither YAML nor JSON.
    """
    try:
        with open(path, 'rb') as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise InputError(f'{path}: is too large for a job file.')
        text = raw.decode('utf-8-sig')
        if str(path).lower().endswith('.json'):
            return json.loads(text, object_pairs_hook=unique_keys)
        return yaml.load(text, Loader=UniqueKeyLoader)
    except InputError as error:
        # the file's name stands first, once
        message = str(error)
        raise InputError(
            message if message.startswith(str(path)) else f'{path}: {message}'
        ) from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}).') from None
    except RecursionError:
        raise InputError(
            f'{path}: is nested too deeply; a job has two levels.'
        ) from None
    except (ValueError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise InputError(f'{path}: is neither YAML nor JSON ({reason}).') from None
