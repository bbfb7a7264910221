# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which files are bands of one image: several dates of one place, say."""

import os
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .geo.grid import Box, same_place
from .geo.raster import RasterFile


def stacked(
    files: Sequence[RasterFile], boxes: Sequence[Box]
) -> tuple[tuple[int, ...], ...]:
    """Number the files of each place, and put those of one number into one image.

    Args:
        files: Several files.
        boxes: What each covers, in pixels of one grid.

    Returns:
        The files of each image, by their places in *files*; as many in each.

    Raises:
        InputError: It is one file, places have different numbers of files, or the files
            have neither a footprint nor a pixel in common.
    """
    if len(files) == 1:
        raise InputError(
            f'{files[0].path}: is one file, and a stack needs several of one place; give '
            'them all, or leave out --stack'
        )
    first = {j: i for i, j in same_place(boxes)}
    places: dict[int, list[int]] = {}
    for i in range(len(files)):
        places.setdefault(first.get(i, i), []).append(i)
    counts = {len(place) for place in places.values()}
    if counts == {1}:  # of one place, but not of one footprint
        edges = np.array(boxes)
        if (edges[:, :2].max(axis=0) >= edges[:, 2:].min(axis=0)).any():
            raise InputError(
                f'{files[0].path}: the files of the stack have no common pixel; leave out '
                '--stack for a mosaic'
            )
        return tuple((i,) for i in range(len(files)))
    if len(counts) > 1:
        fewest = min(places.values(), key=len)
        raise InputError(
            f'{files[fewest[0]].path}: has {len(fewest)} files of its footprint where '
            f'others have {max(counts)}; a stack needs as many for each'
        )
    matched = _matched([[*place] for place in places.values()], files)
    return tuple(zip(*matched, strict=True))


def _matched(
    places: Sequence[list[int]], files: Sequence[RasterFile]
) -> Sequence[list[int]]:
    """Bring the files of each place of a stack into the order of the first place's.

    Words of the path that one file of each place has say which belong together: ``may``
    and ``july``, or a year. Where they say nothing, or contradict one another, the order
    in which the files were given counts.
    """
    words = {i: _words(files[i].path) for place in places for i in place}
    owners: list[dict[str, int]] = []
    for place in places:
        counts = Counter(word for i in place for word in words[i])
        owners.append({w: i for i in place for w in words[i] if counts[w] == 1})
    shared = set.intersection(*(set(owner) for owner in owners))
    result = [places[0]]
    for place, owner in zip(places[1:], owners[1:], strict=True):
        pairs = {(owners[0][word], owner[word]) for word in shared}
        partner = dict(pairs)
        if len(partner) < len(pairs) or len(set(partner.values())) < len(pairs):
            return places
        rest = iter([i for i in place if i not in partner.values()])
        result.append([partner[i] if i in partner else next(rest) for i in places[0]])
    return result


def _words(path: str) -> set[str]:
    """Words and numbers of a path; of a date its year and month too."""
    words = set(re.findall(r'[^\W\d_]+|\d+', os.path.splitext(path)[0].lower()))
    dates = [word for word in words if len(word) == 8 and word.isdigit()]
    return words | {date[:n] for date in dates for n in (4, 6)}
