# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Crosswalks: from the codes of one legend to the classes of another."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError
from . import catalog
from .legend import Legend, code_of


@dataclass(frozen=True)
class Crosswalk:
    """What each class of one legend is called in another.

    A class that the crosswalk leaves out, and a code that the source legend does not
    have, are ignored: their index is -1, and :meth:`unknown` counts the latter.

    Args:
        name: Name of the crosswalk.
        source: Legend to come from.
        target: Legend to go to.
        mapping: Code of *target* by code of *source*.
        reference: Who published it, or what it follows.

    Raises:
        InputError: If a code is not in its legend.
    """

    name: str
    source: Legend
    target: Legend
    mapping: Mapping[int, int]
    reference: str = ''

    def __post_init__(self) -> None:
        object.__setattr__(self, 'mapping', dict(sorted(self.mapping.items())))
        for legend, codes in (
            (self.source, self.mapping.keys()),
            (self.target, self.mapping.values()),
        ):
            strange = sorted(set(codes) - set(legend.codes.tolist()))
            if strange:
                raise InputError(
                    f"crosswalk '{self.name}': code {strange[0]} is not in the legend "
                    f"'{legend.name}'"
                )

    @classmethod
    def names(cls, source: str, target: str) -> tuple[str, ...]:
        """Names of the crosswalks that ship between two legends.

        Args:
            source: Name of the legend to come from.
            target: Name of the legend to go to.

        Returns:
            Names, sorted.
        """
        start = f'{source}.{target}.'
        return tuple(
            name.removeprefix(start)
            for name in catalog.names('crosswalks')
            if name.startswith(start)
        )

    @classmethod
    def load(
        cls,
        source: Legend | str | Path,
        target: Legend | str | Path,
        name: str | Path | None = None,
    ) -> 'Crosswalk':
        """Load a crosswalk between two legends.

        Args:
            source: Legend to come from, or its name or path.
            target: Legend to go to, or its name or path.
            name: One of :meth:`names`, or the path of a .yaml or .json file with a
                'mapping' of codes to codes; by default the identity where the legends
                are equal, or else the one that its file marks as default.

        Returns:
            The crosswalk.

        Raises:
            InputError: If there is none of that name; the message lists what there is.
        """
        source, target = Legend.load(source), Legend.load(target)
        if name is None and source == target:
            mapping = {code: code for code in source.codes.tolist()}
            return cls('identity', source, target, mapping, 'the legends are equal')
        if name is not None and Path(name).suffix.lower() in catalog.SUFFIXES:
            content = catalog.read('crosswalks', name)
            return cls._parse(content, source, target, str(name))

        for shipped in cls.names(source.name, target.name):
            content = catalog.read(
                'crosswalks', f'{source.name}.{target.name}.{shipped}'
            )
            if shipped == name or (name is None and content.get('default', False)):
                return cls._parse(content, source, target, shipped)
        raise InputError(cls._missing(source.name, target.name, name))

    @classmethod
    def _parse(
        cls, content: Mapping[str, Any], source: Legend, target: Legend, where: str
    ) -> 'Crosswalk':
        # a file may name its legends; then it is for those and no others
        for key, legend in (('source', source), ('target', target)):
            if content.get(key, legend.name) != legend.name:
                raise InputError(
                    f"{where}: its {key} is the legend '{content[key]}', "
                    f"not '{legend.name}'"
                )
        try:
            mapping = {
                code_of(old): code_of(new) for old, new in content['mapping'].items()
            }
        except (KeyError, AttributeError, ValueError) as error:
            raise InputError(
                f"{where}: a crosswalk is a 'mapping' of '{source.name}' codes to "
                f"'{target.name}' codes; check {error}"
            ) from error
        name = str(content.get('name') or Path(where).stem)
        reference = ' '.join(str(content.get('reference', where)).split())
        return cls(name, source, target, mapping, reference)

    @classmethod
    def _missing(cls, source: str, target: str, name: str | Path | None) -> str:
        between = cls.names(source, target)
        if between:
            there = f'there are {", ".join(between)}'
        else:
            pairs = {tuple(n.split('.')[:2]) for n in catalog.names('crosswalks')}
            there = 'there are ' + ', '.join(f'{a} to {b}' for a, b in sorted(pairs))
        which = f"crosswalk '{name}'" if name else 'crosswalk'
        return (
            f"no {which} from legend '{source}' to '{target}': {there}; "
            'or give the path of a .yaml or .json file'
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a crosswalk file: plain numbers and strings."""
        return {
            'name': self.name,
            'source': self.source.name,
            'target': self.target.name,
            'reference': self.reference,
            'mapping': dict(self.mapping),
        }

    @cached_property
    def _table(self) -> NDArray[np.int64]:
        # one entry more than classes: index -1 finds the last, which is -1
        codes = [self.mapping.get(code, -1) for code in self.source.codes.tolist()]
        return self.target.index([*codes, -1])

    def index(self, codes: ArrayLike) -> NDArray[np.int64]:
        """Indices of the target classes of source codes.

        Args:
            codes: Values of a raster, of any shape.

        Returns:
            Target class index, -1 where it is ignored; of the same shape.
        """
        return self._table[self.source.index(codes)]

    def unknown(self, codes: ArrayLike) -> dict[int, int]:
        """Count codes that the source legend does not have.

        Args:
            codes: Values of a raster, of any shape; -1 is no data, as is the legend's
                own code for it.

        Returns:
            Number of pixels by unknown code.
        """
        values = np.asarray(codes)
        strange = values[self.source.index(values) < 0]
        found, counts = np.unique(strange, return_counts=True)
        return {
            int(code): int(count)
            for code, count in zip(found, counts, strict=True)
            if code not in (-1, self.source.nodata)
        }
