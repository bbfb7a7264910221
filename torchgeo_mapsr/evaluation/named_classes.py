# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Classes that people name, in options and in columns: by name or by code."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..datasets.legends.legend import Legend
from ..errors import InputError


def class_index(name: str, legend: Legend, option: str) -> int:
    """Find a class by its name or code.

    Args:
        name: The name, without regard to case, or the code.
        legend: The classes.
        option: Name of the option and what it was given, for the error.

    Returns:
        Its index.

    Raises:
        InputError: If the legend has no such class.
    """
    index = legend.find(name)
    if index is None:
        names = ', '.join(legend.class_names)
        raise InputError(
            f'{option}: the legend {legend.name!r} has no class {name!r}; it has {names}.'
        )
    return index


def class_of(values: Sequence[object], legend: Legend, where: str) -> NDArray[np.int64]:
    """Class indices of a column of codes or names.

    Args:
        values: Codes, names (without regard to case), or nothing.
        legend: The classes.
        where: The column, for the error.

    Returns:
        Class index of each, (n,); -1 where there is nothing.

    Raises:
        InputError: If a value is neither.
    """
    # Weights of classes are read without it.
    import pandas

    result = np.full(len(values), -1, np.int64)
    for i, value in enumerate(values):
        text = '' if pandas.isna(value) else str(value).strip()
        if not text:
            continue
        index = legend.find(text)
        if index is None:  # a column of numbers has codes as 11.0
            index = legend.find(text.removesuffix('.0'))
        if index is None:
            names = ', '.join(f'{c.code} {c.name}' for c in legend.classes)
            raise InputError(
                f'{where} has {value!r}, which the legend {legend.name!r} does not have '
                f'({names}); put it right, or give the legend with --legend.'
            )
        result[i] = index
    return result


def parse_named(
    values: Iterable[str], legend: Legend, option: str
) -> Mapping[int, float]:
    """Read numbers for classes: ``impervious=2``, ``4=2`` or ``'open water=0.5'``.

    Args:
        values: What was given on the command line.
        legend: The classes; names are compared without regard to case.
        option: Name of the option, for the error.

    Returns:
        Numbers by class index.

    Raises:
        InputError: If one is not NAME=NUMBER, no class of the legend, or given twice.
    """
    result: dict[int, float] = {}
    for value in values:
        name, separator, number = value.rpartition('=')
        try:
            amount = float(number)
        except ValueError:
            separator = ''
        if not separator:
            raise InputError(f'{option} {value} is not CLASS=NUMBER, like forest=2.')
        index = class_index(name, legend, f'{option} {value}')
        if index in result:
            raise InputError(
                f'{option} {value}: {legend.class_names[index]} has a number already; '
                'give one.'
            )
        result[index] = amount
    return result
