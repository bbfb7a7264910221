# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Legends: what the codes of a land-cover map stand for."""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...arguments import check_range
from ...errors import InputError
from . import catalog

# Codes below this are looked up in a table.
_TABLE = 1 << 16


@dataclass(frozen=True)
class LegendClass:
    """One class of a map.

    Args:
        code: Value in the raster, 0 or more.
        name: Name for people.
        color: Red, green and blue, 0 to 255.
    """

    code: int
    name: str
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Keep the code as a plain integer, which JSON can hold."""
        check_range('the code of a class', self.code, whole=True)
        object.__setattr__(self, 'code', int(self.code))


@dataclass(frozen=True)
class Legend:
    """The classes of a land-cover map, in the order of their codes.

    A class has a *code* (its value in the raster) and an *index* (its place here, 0 to
    L - 1, which is what models count in); -1 is the index of everything else.

    Args:
        name: Name of the legend.
        classes: Its classes.
        nodata: Code of pixels without a label, or None.
        source: Where the legend comes from.

    Raises:
        InputError: If a code is negative, occurs twice or is the no-data code, or if two
            classes have one name.
    """

    name: str
    classes: tuple[LegendClass, ...]
    nodata: int | None = None
    source: str = ''

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.classes, key=lambda item: item.code))
        object.__setattr__(self, 'classes', ordered)
        codes = [item.code for item in ordered]
        if not codes:
            raise InputError(f"legend '{self.name}' has no classes")
        if codes[0] < 0:
            raise InputError(f"legend '{self.name}': code {codes[0]} is negative")
        twice = sorted({code for code in codes if codes.count(code) > 1})
        if twice:
            raise InputError(f"legend '{self.name}': code {twice[0]} occurs twice")
        if self.nodata in codes:
            raise InputError(
                f"legend '{self.name}': code {self.nodata} is a class and no data"
            )
        first: dict[str, int] = {}
        for item in ordered:
            # Where classes are named, in options and columns, case does not matter.
            code = first.setdefault(item.name.casefold(), item.code)
            if code != item.code:
                raise InputError(
                    f"legend '{self.name}': codes {code} and {item.code} are both called "
                    f"'{item.name}'; reports tell classes apart by their names"
                )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the legends that ship."""
        return catalog.names('legends')

    @classmethod
    def load(cls, legend: 'Legend | Mapping[str, Any] | str | Path') -> 'Legend':
        """Load a legend.

        Args:
            legend: One of :meth:`names`, the path of a .yaml or .json file, the content
                of such a file, or a legend (returned as it is).

        Returns:
            The legend.

        Raises:
            InputError: If there is no such legend, or a field of it is missing or wrong.
        """
        if isinstance(legend, Legend):
            return legend
        if isinstance(legend, str | Path):
            content: Mapping[str, Any] = catalog.read('legends', legend)
            where = str(legend)
        else:
            content, where = legend, 'legend'
        try:
            rows = content['classes']
            classes = tuple(
                LegendClass(
                    code_of(row['code']),
                    _name(row['name']),
                    _color(row['color']) if 'color' in row else _hue(i),
                )
                for i, row in enumerate(rows)
            )
            nodata = content.get('nodata')
            return cls(
                str(content.get('name') or Path(where).stem),
                classes,
                None if nodata is None else code_of(nodata),
                ' '.join(str(content.get('source', '')).split()),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{where}: a legend is 'name', 'nodata' and a list 'classes' of "
                f"'code', 'name' and 'color'; check {error}"
            ) from error
        except ValueError as error:
            raise InputError(f'{where}: {error}') from error

    def to_dict(self) -> dict[str, Any]:
        """The content of a legend file: plain numbers and strings."""
        return {
            'name': self.name,
            'source': self.source,
            'nodata': self.nodata,
            'classes': [
                {'code': item.code, 'name': item.name, 'color': list(item.color)}
                for item in self.classes
            ],
        }

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def is_shipped(self) -> bool:
        """Whether it is the legend that ships under its name, colours aside."""
        if self.name not in self.names():
            return False
        return self.load(self.name).words == self.words

    @property
    def words(self) -> dict[int, str]:
        """Names by code."""
        return {item.code: item.name for item in self.classes}

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """Codes by class index, ascending, of shape (L,)."""
        return _frozen(np.array([item.code for item in self.classes], dtype=np.int64))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index."""
        return tuple(item.name for item in self.classes)

    @cached_property
    def colors(self) -> NDArray[np.uint8]:
        """Red, green and blue by class index, of shape (L, 3)."""
        return _frozen(np.array([item.color for item in self.classes], dtype=np.uint8))

    @cached_property
    def _table(self) -> NDArray[np.int64] | None:
        """Class index of 0, 1, …, and at last of all others; of small codes only."""
        if not len(self) or self.codes[-1] >= _TABLE:
            return None
        table = np.full(max(int(self.codes[-1]) + 1, 256) + 1, -1)
        table[self.codes] = np.arange(len(self))
        return _frozen(table)

    @cached_property
    def _by_word(self) -> dict[str, int]:
        """Class index by name, without regard to case, and by code as text."""
        names = {item.name.casefold(): i for i, item in enumerate(self.classes)}
        return names | {str(item.code): i for i, item in enumerate(self.classes)}

    def find(self, word: str) -> int | None:
        """Index of the class that a person means.

        Args:
            word: Its code, or its name without regard to case; a name that is the code
                of another class means that class.

        Returns:
            The index; None if there is no such class.
        """
        return self._by_word.get(word.strip().casefold())

    def index(self, codes: ArrayLike) -> NDArray[np.int64]:
        """Class indices of codes.

        Args:
            codes: Values of a raster, of any shape and dtype.

        Returns:
            Class index, -1 where a value is no code of the legend; of the same shape.
        """
        values = np.asarray(codes)
        table = self._table
        # A search takes ten times as long: 53 ms, 5 ms for 1088 x 1088 codes of NLCD.
        if table is not None and values.dtype == np.uint8:
            return table[values]
        if table is not None and values.dtype == np.int64:
            return table[np.clip(values, -1, len(table) - 1)]
        place = np.minimum(np.searchsorted(self.codes, values), len(self) - 1)
        return np.where(self.codes[place] == values, place, -1).astype(np.int64)


def code_of(value: Any) -> int:
    """A code out of a file: a whole number, or one in quotes as JSON keys are.

    Args:
        value: What the file says.

    Returns:
        The code.

    Raises:
        ValueError: If it is anything else, 1.5 and true included.
    """
    return int(str(value))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    # a cached array is shared by everyone who holds the legend
    array.flags.writeable = False
    return array


def _name(value: Any) -> str:
    """The name of a class; YAML takes yes and no without quotes for true and false."""
    if isinstance(value, bool):
        raise InputError(
            f'a class is called {"yes" if value else "no"}, on, off, true or false: put '
            'its name in quotes'
        )
    return str(value)


def _color(value: Any) -> tuple[int, int, int]:
    """Read '#rrggbb' or a list of three numbers."""
    if isinstance(value, str):
        channels = tuple(bytes.fromhex(value.removeprefix('#')))
    else:
        channels = tuple(int(channel) for channel in value)
    if len(channels) != 3 or not all(0 <= channel <= 255 for channel in channels):
        raise ValueError(f"color {value!r} is not '#rrggbb' or three of 0 to 255")
    return channels


def _hue(i: int) -> tuple[int, int, int]:
    """A colour for the i-th class of a legend that names none.

    Steps of the golden ratio keep neighbours apart however many classes there are.
    """
    r, g, b = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.55, 0.85)
    return round(255 * r), round(255 * g), round(255 * b)
