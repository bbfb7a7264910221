# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What files call their bands, and whether two mean the same by them."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..errors import InputError, InputWarning

# Colour interpretations that say nothing of a band; alpha may be near infrared.
_NO_COLORS = {'', 'undefined', 'gray', 'alpha'}

# Other words for a band.
_SYNONYMS = {'r': 'red', 'g': 'green', 'b': 'blue', 'n': 'nir', 'near infrared': 'nir'}

# Dates in descriptions, which are no part of a band's name.
_DATE = re.compile(r'(?<!\d)(19|20)\d\d([-_./]?\d\d){0,2}(?!\d)')


@dataclass(frozen=True)
class BandDescriptions:
    """What files say of the bands that are read; an empty word where they say nothing.

    Args:
        texts: Description of each band.
        colors: Colour interpretation of each band.

    Example:
        >>> rgb = BandDescriptions(('red', 'green', 'blue'))
        >>> rgb.places_in(BandDescriptions(('Blue', 'Green', 'Red', 'NIR')))
        (3, 2, 1)
        >>> rgb.places_in(BandDescriptions(('', '', ''))) is None
        True
    """

    texts: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of the images of a stack, one after the other."""
        texts = tuple(text for part in parts for text in part.texts)
        return cls(texts, tuple(color for part in parts for color in part.colors))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {'texts': list(self.texts), 'colors': list(self.colors)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The way back from :meth:`to_dict`.

        Args:
            fields: That, or nothing.
        """
        return cls(**{name: tuple(words) for name, words in fields.items()})

    def _beside(self, other: Self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that both have: descriptions, or else colours; empty if neither."""
        for ours, theirs, name in (
            (self.texts, other.texts, _name_of_text),
            (self.colors, other.colors, _name_of_color),
        ):
            names = tuple(map(name, ours)), tuple(map(name, theirs))
            if any(names[0]) and any(names[1]) and _kinds(names[0]) == _kinds(names[1]):
                return names
        return (), ()

    def places_in(self, other: Self) -> tuple[int, ...] | None:
        """Where these bands stand in others, if that is another order.

        Args:
            other: What other files say.

        Returns:
            The place of each band, from 1; none if some have no place there. None if the
            order is the same, or nothing says so.
        """
        ours, theirs = map(_numbered, self._beside(other))
        common = [name for name in ours if name[0] and name in theirs]
        if common == [name for name in theirs if name in common]:
            return None
        if not set(ours) <= set(theirs) or ('', 1) in theirs:
            return ()
        return tuple(theirs.index(name) + 1 for name in ours)

    def check(
        self, other: Self, path: str, reference: str, indexes: Sequence[int] = ()
    ) -> None:
        """Make sure that bands are those of a reference, as far as both say.

        Args:
            other: What is said of the reference's bands.
            path: What these bands are of, for the message.
            reference: What the reference is.
            indexes: Where these bands stand in their file, from 0, if a choice of bands
                can bring them into the reference's order.

        Raises:
            InputError: They are in another order.

        Warns:
            InputWarning: They have other names.
        """
        ours, theirs = self._beside(other)
        places = other.places_in(self)
        names, others = (
            ', '.join(name or '?' for name in words) for words in (ours, theirs)
        )
        if places is not None:
            advice = 'bring them into one order (gdal_translate -b)'
            if places and indexes:
                numbers = ' '.join(str(indexes[place - 1] + 1) for place in places)
                advice = f'give --bands {numbers} (bands)'
            raise InputError(
                f'{path} has its bands in the order {names} but {reference} in the order '
                f'{others}; {advice}'
            )
        if any(a and b and a != b for a, b in zip(ours, theirs, strict=False)):
            warnings.warn(
                f'{path} calls its bands {names} and {reference} {others}: if they are '
                'not the same, choose those that are (--bands), or the map is wrong',
                InputWarning,
                stacklevel=3,
            )


#: Nothing is said of any band.
UNNAMED = BandDescriptions()


def _name_of_text(text: str) -> str:
    """A description without what differs between files of one sensor.

    Dates, case, blanks and zeros before a number: ``B04 2021-07-01`` and ``b4`` are one.
    """
    words = re.findall(r'[^\W_]+', _DATE.sub(' ', text).lower())
    name = re.sub(r'(?<!\d)0+(?=\d)', '', ' '.join(words))
    return _SYNONYMS.get(name, name)


def _name_of_color(color: str) -> str:
    return '' if color in _NO_COLORS else color


def _kinds(names: Sequence[str]) -> set[bool]:
    """Whether names are numbers: ``Band 1`` and ``B04`` say nothing of ``red``."""
    return {bool(re.fullmatch(r'(b|band)? ?\d+a?', name)) for name in names if name}


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Names, with how often each was there before: a stack has them several times."""
    before: Counter[str] = Counter()
    result = []
    for name in names:
        result.append((name, before[name]))
        before[name] += 1
    return result
