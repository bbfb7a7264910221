# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Crosswalks: from the codes of one legend to the classes of another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError
from . import catalog
from .legend import Legend, code_of
from .statistics import JointStatistics


@dataclass(frozen=True)
class Crosswalk:
    """What each class of one legend is in another: a row-stochastic matrix.

    Row k of :meth:`matrix` has the shares of the target classes in what code k stands
    for. Of a hard crosswalk these are 0 and 1. Of a soft one they come from the classes'
    definitions (NLCD's low intensity is 20 to 49 % impervious, and no more), or from
    statistics that were measured elsewhere.

    A class that the crosswalk leaves out, and a code that the source legend does not
    have, are ignored: their index is -1, and :meth:`unknown` counts the latter.

    Args:
        name: Name of the crosswalk.
        source: Legend to come from.
        target: Legend to go to.
        mapping: Code of *target* by code of *source*: what a code is called where it
            can be one class only.
        reference: Who published it, or what it follows.
        composition: Shares of the target classes by code of *source*, in the order of
            the target's codes. A code without one is what *mapping* says. Rows are
            scaled to sum one.

    Raises:
        InputError: If a code is not in its legend, or shares are none.

    >>> crosswalk = Crosswalk.load('nlcd', 'land-cover-4', 'definitions')
    >>> crosswalk.target.class_names
    ('Water', 'Forest', 'Field', 'Impervious')
    >>> crosswalk.matrix([24, 11]).round(2).tolist()
    [[0.0, 0.03, 0.07, 0.9], [0.95, 0.02, 0.02, 0.01]]
    """

    name: str
    source: Legend
    target: Legend
    mapping: Mapping[int, int]
    reference: str = ''
    composition: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the codes and the shares."""
        mapping = {int(code): int(self.mapping[code]) for code in sorted(self.mapping)}
        object.__setattr__(self, 'mapping', mapping)
        for legend, codes in (
            (self.source, self.mapping.keys()),
            (self.target, self.mapping.values()),
            (self.source, self.composition.keys()),
        ):
            absent = sorted(set(codes) - set(legend.codes.tolist()))
            if absent:
                raise InputError(
                    f"crosswalk '{self.name}': code {absent[0]} is not in the legend "
                    f"'{legend.name}'"
                )
        rows = {}
        for code, shares in sorted(self.composition.items()):
            row = np.asarray(shares, np.float64)
            if (
                row.shape != (len(self.target),)
                or not np.isfinite(row).all()
                or row.min() < 0
                or not 0.9 <= row.sum() <= 1.1
            ):
                raise InputError(
                    f"crosswalk '{self.name}': the shares of code {code} must be "
                    f'{len(self.target)} numbers of 0 to 1 that sum to 1'
                )
            rows[int(code)] = tuple((row / row.sum()).tolist())
        object.__setattr__(self, 'composition', rows)

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
        name: 'Crosswalk | str | Path | None' = None,
    ) -> 'Crosswalk':
        """Load a crosswalk between two legends.

        Args:
            source: Legend to come from, or its name or path.
            target: Legend to go to, or its name or path.
            name: One of :meth:`names`, or the path of a .yaml or .json file with a
                'mapping' of codes to codes or a 'composition' of codes to shares; the
                name or the path of statistics between these legends; by default the
                identity where the legends are equal, or else the one that its file
                marks as default; or a crosswalk (returned as it is).

        Returns:
            The crosswalk.

        Raises:
            InputError: If there is none of that name; the message lists what there is.
        """
        source, target = Legend.load(source), Legend.load(target)
        if isinstance(name, Crosswalk):
            if (name.source.words, name.target.words) != (source.words, target.words):
                raise InputError(
                    f"crosswalk '{name.name}' is from '{name.source.name}' to "
                    f"'{name.target.name}', not from '{source.name}' to '{target.name}'"
                )
            return name
        if name is None and source.words == target.words:
            mapping = {code: code for code in source.codes.tolist()}
            return cls('identity', source, target, mapping, 'the legends are equal')
        if name is not None and Path(name).suffix.lower() in catalog.SUFFIXES:
            content = catalog.read('crosswalks', name)
            if 'classes' in content and 'mapping' not in content:
                return cls.from_statistics(JointStatistics.load(name), source, target)
            return cls._parse(content, source, target, str(name))

        for shipped in cls._shipped(source, target):
            content = catalog.read(
                'crosswalks', f'{source.name}.{target.name}.{shipped}'
            )
            if shipped == name or (name is None and content.get('default', False)):
                return cls._parse(content, source, target, shipped)
        if name is not None and str(name) in JointStatistics.names():
            return cls.from_statistics(JointStatistics.load(name), source, target)
        raise InputError(cls._missing(source, target, name))

    @classmethod
    def _shipped(cls, source: Legend, target: Legend) -> tuple[str, ...]:
        """Names of those that ship between two legends, which are the shipped ones.

        A legend of the user's may be called like one that ships and have other classes.
        """
        both = source.is_shipped and target.is_shipped
        return cls.names(source.name, target.name) if both else ()

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
            composition = {
                code_of(code): tuple(map(float, shares))
                for code, shares in content.get('composition', {}).items()
            }
            mapping = {
                code_of(old): code_of(new)
                for old, new in content.get('mapping', {}).items()
            }
            if not mapping and not composition:
                raise KeyError('mapping')
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: a crosswalk is a 'mapping' of '{source.name}' codes to "
                f"'{target.name}' codes, or a 'composition' of codes to shares; check "
                f'{error}'
            ) from error
        for code, shares in composition.items():
            # What covers most of it is what it is called where it can be one class only.
            if len(shares) == len(target):
                most = int(target.codes[int(np.argmax(shares))])
                mapping.setdefault(code, most)
        name = str(content.get('name') or Path(where).stem)
        reference = ' '.join(str(content.get('reference', where)).split())
        return cls(name, source, target, mapping, reference, composition)

    @classmethod
    def from_statistics(
        cls,
        statistics: JointStatistics,
        source: Legend | None = None,
        target: Legend | None = None,
    ) -> 'Crosswalk':
        """A soft crosswalk that was measured where there are HR labels.

        Args:
            statistics: Mean shares of the target classes by source class.
            source: Legend that the statistics must come from.
            target: Legend that they must go to.

        Returns:
            The crosswalk; a code without statistics is ignored.

        Raises:
            InputError: If the statistics are between other legends.
        """
        for key, legend, other in (
            ('source', source, statistics.source),
            ('target', target, statistics.target),
        ):
            if legend is not None and legend.words != other.words:
                raise InputError(
                    f"statistics '{statistics.name}': their {key} is the legend "
                    f"'{other.name}', not '{legend.name}'"
                )
        rows = statistics.proportions(statistics.source.codes)
        composition = {
            int(code): tuple(row.tolist())
            for code, row in zip(statistics.source.codes, rows, strict=True)
            if np.isfinite(row).all()
        }
        codes = statistics.target.codes
        mapping = {
            code: int(codes[int(np.argmax(row))]) for code, row in composition.items()
        }
        return cls(
            statistics.name,
            statistics.source,
            statistics.target,
            mapping,
            statistics.reference,
            composition,
        )

    @classmethod
    def _missing(cls, source: Legend, target: Legend, name: str | Path | None) -> str:
        between = cls._shipped(source, target)
        if between:
            options = f'there are {", ".join(between)}'
        else:
            pairs = {tuple(n.split('.')[:2]) for n in catalog.names('crosswalks')}
            options = 'there are ' + ', '.join(f'{a} to {b}' for a, b in sorted(pairs))
        for legend in (source, target):
            if legend.name in legend.names() and not legend.is_shipped:
                options = (
                    f"this '{legend.name}' has other classes than the legend that ships "
                    'under this name, whose crosswalks are not for it'
                )
        which = f"crosswalk '{name}'" if name else 'crosswalk'
        return (
            f"no {which} from legend '{source.name}' to '{target.name}': {options}; "
            'or give the path of a .yaml or .json file'
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of a crosswalk file: plain numbers and strings."""
        content = {
            'name': self.name,
            'source': self.source.name,
            'target': self.target.name,
            'reference': self.reference,
            'mapping': dict(self.mapping),
        }
        if self.composition:
            rows = {code: list(shares) for code, shares in self.composition.items()}
            content['composition'] = rows
        return content

    @property
    def is_hard(self) -> bool:
        """Whether every code stands for one class alone."""
        return all(max(shares) == 1 for shares in self.composition.values())

    def matrix(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Shares of the target classes in what source codes stand for.

        Args:
            codes: Codes, (K,).

        Returns:
            (K, C), rows of sum one; a row of zeros for a code that is ignored.
        """
        rows = np.zeros((len(np.atleast_1d(codes)), len(self.target)))
        for row, code in zip(rows, np.atleast_1d(codes).tolist(), strict=True):
            index = int(self.index(code))
            if code in self.composition:
                row[:] = self.composition[code]
            elif index >= 0:
                row[index] = 1
        return rows

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
        unmatched = values[self.source.index(values) < 0]
        distinct, counts = np.unique(unmatched, return_counts=True)
        return {
            int(code): int(count)
            for code, count in zip(distinct, counts, strict=True)
            if code not in (-1, self.source.nodata)
        }
