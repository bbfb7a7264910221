# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""YAML files that ship with the package under a name, and the user's own by path."""

from pathlib import Path
from typing import Any

import yaml

from ...arguments import UniqueKeyLoader
from ...errors import InputError

SHIPPED = Path(__file__).parent / 'data'
SUFFIXES = ('.yaml', '.yml', '.json')


def names(kind: str) -> tuple[str, ...]:
    """What ships of a kind.

    Args:
        kind: Folder of the package data: 'legends', 'crosswalks' or 'statistics'.

    Returns:
        Names, sorted.
    """
    return tuple(sorted(path.stem for path in (SHIPPED / kind).glob('*.yaml')))


def read(kind: str, name: str | Path) -> dict[str, Any]:
    """Read one file.

    Args:
        kind: Folder of the package data: 'legends', 'crosswalks' or 'statistics'.
        name: One of :func:`names`, or the path of a .yaml or .json file.

    Returns:
        Its content.

    Raises:
        InputError: If there is no such name or file, or it is not a mapping,
            or has a key twice.
    """
    is_file = Path(name).suffix.lower() in SUFFIXES
    if not is_file and str(name) not in names(kind):
        raise InputError(
            f"{kind}: there is no '{name}'; choose one of {', '.join(names(kind))}, "
            'or give the path of a .yaml or .json file'
        )
    path = Path(name) if is_file else SHIPPED / kind / f'{name}.yaml'
    try:
        # JSON is YAML as well
        content = yaml.load(path.read_text(encoding='utf-8'), UniqueKeyLoader)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror})') from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{path}: is neither YAML nor JSON ({reason})') from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: should hold 'key: value' pairs at its top level")
    return content
