# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Whether a band that is called alpha holds transparency, or near infrared."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputWarning
from .geo.grid import sample_windows
from .geo.raster import RasterFile

# Largest share of opaque values that a band of transparency may have below full.
FEATHERED = 0.05


def transparency(
    files: Sequence[RasterFile], named: Sequence[int]
) -> list[tuple[tuple[int, float], ...]]:
    """Bands of each file that hold transparency, and above which value each is opaque.

    The question is put to a few files, until one is sure; the others follow it.

    Args:
        files: The files.
        named: Bands that are read because somebody has named them.

    Warns:
        InputWarning: No file was sure of a band that was not named.
    """
    tagged = [
        tuple(i for i, c in enumerate(file.colors, 1) if c == 'alpha') for file in files
    ]
    answers: dict[int, tuple[_Alpha, ...]] = {}
    for kind in dict.fromkeys(tagged):
        members = [i for i, bands in enumerate(tagged) if bands == kind]
        if not kind:
            continue
        step = max(1, len(members) // 8)
        for i in members[::step]:
            answers[i] = tuple(_alpha(files[i], band) for band in kind)
        for place, band in enumerate(kind):
            declared = [(answers[i][place], files[i]) for i in members if i in answers]
            sure = [alpha for alpha, _ in declared if alpha.sure]
            # near infrared looks like transparency here and there, never the reverse
            common = next((a for a in sure if not a.transparent), None)
            common = common or (sure[0] if sure else declared[0][0])
            if not sure and band not in named:
                what = 'transparency' if common.transparent else 'an image band'
                warnings.warn(
                    f'{declared[0][1].path}: band {band} is called alpha and was taken for '
                    f'{what} ({common.reason}); if that is wrong, name the bands to read '
                    'with bands, or tag it right (gdal_edit -colorinterp_N)',
                    InputWarning,
                    stacklevel=3,
                )
            for i in members:
                before = answers.get(i, ())
                if len(before) <= place:
                    answers[i] = (*before, common)
                elif not before[place].sure:
                    changed = replace(before[place], transparent=common.transparent)
                    answers[i] = (*before[:place], changed, *before[place + 1 :])
    return [
        tuple(
            (band, alpha.full / 2 if files[i].compression else 0.0)
            for band, alpha in zip(tagged[i], answers.get(i, ()), strict=True)
            if alpha.transparent
        )
        for i in range(len(files))
    ]


@dataclass(frozen=True)
class _Alpha:
    """What a band that is called alpha looks like.

    Args:
        transparent: Whether it holds transparency.
        sure: Whether that is beyond doubt.
        full: Its opaque value.
        reason: What was seen, for a warning.
    """

    transparent: bool
    sure: bool
    full: float
    reason: str


def _alpha(file: RasterFile, band: int) -> _Alpha:
    """Judge a band that is called alpha by 3 × 3 samples."""
    others = [i for i in range(1, file.count + 1) if i != band][:4]
    windows = list(sample_windows(file.geobox))
    samples = [file.read([band], *window)[0] for window in windows]
    values = np.concatenate([sample.ravel() for sample in samples])
    values = np.nan_to_num(values.astype(np.float64), nan=0)
    opaque = values[values != 0]
    if not others:
        return _Alpha(
            True, True, float(opaque.max(initial=1)), 'there is no other band'
        )
    if opaque.size == 0:
        blank = _blank_share(file, others, windows, samples)
        return _Alpha(blank > 0.95, False, 1.0, 'it is 0 all over the samples')
    full = float(opaque.max())
    close = 0.1 * full if file.compression else 0.0
    between = float(np.mean(opaque < full - close))
    if opaque.min() < 0 or between > FEATHERED:
        # the seams of a mosaic may be blended, and near infrared is seldom at its end
        reason = f'it has many values, {1 - between:.0%} of them the largest'
        return _Alpha(False, opaque.min() < 0 or between > 0.5, full, reason)
    if opaque.size == values.size and np.all(opaque == full):
        plain = full in _OPAQUE or full == largest_value(file.dtypes[band - 1])
        return _Alpha(True, plain, full, f'it is {full:g} all over the samples')
    if full == largest_value(file.dtypes[band - 1]) or (full in _OPAQUE and full > 1):
        return _Alpha(True, True, full, 'its values are 0 and full')
    # Water in near infrared is 0 and 1 as well: then the other bands are not blank where
    # it is 0, and the two values do not lie in large pieces.
    blank = _blank_share(file, others, windows, samples)
    edges = [(s[1:] != s[:-1]).mean() for s in samples if len(s) > 1]
    pieces = float(np.mean(edges)) < 0.1 if edges else False
    sure = blank > 0.95
    reason = f'its values are 0 and {full:g}'
    return _Alpha(sure or pieces, sure or not pieces, full, reason)


# Opaque values of 1, 8, 10 to 16 and 32 bits.
_OPAQUE = frozenset({1.0, *(2.0**bits - 1 for bits in (8, *range(10, 17), 31, 32))})


def largest_value(dtype: str) -> float:
    """The largest value of a data type; 1 for floats.

    Args:
        dtype: Its name.
    """
    kind = np.dtype(dtype)
    return 1.0 if kind.kind == 'f' else float(np.iinfo(kind).max)


def _blank_share(
    file: RasterFile,
    bands: Sequence[int],
    windows: Sequence[tuple[slice, slice]],
    samples: Sequence[NDArray[Any]],
) -> float:
    """Share of the transparent pixels whose other bands hold one and the same value."""
    blank = total = 0
    common: NDArray[Any] | None = None
    for window, sample in zip(windows, samples, strict=True):
        transparent = sample == 0
        if not transparent.any():
            continue
        values = file.read(bands, *window)[:, transparent]
        common = values[:, :1] if common is None else common
        blank += int((values == common).all(axis=0).sum())
        total += int(transparent.sum())
    return blank / total if total else 0.0
