# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which unlabelled patches are worth learning from: those with minority classes."""

import hashlib
from collections.abc import Sequence

import pandas

from ..errors import InputError

#: Share of the minority classes from which on every patch is selected.
THRESHOLD = 0.01

#: Classes are minorities below this share of the labelled data.
MINORITY = 0.01


def select_patches(
    shares: pandas.DataFrame,
    minority: Sequence[int],
    threshold: float = THRESHOLD,
    fraction: float | None = 0.5,
    seed: int = 0,
) -> pandas.DataFrame:
    """Select patches by their predicted share of minority classes.

    Dong et al. 2023, §3.2: with P_m, the share of all minority classes in a patch, all
    patches of P_m ≥ 1 % are selected, and some of those of 0 < P_m < 1 %, at random.

    What is drawn depends on the seed and on the patches' names, not on their order: the
    patches whose name has the least digest are drawn.

    Args:
        shares: Share of each class (columns: codes) in each patch (rows: names), 0..1.
        minority: Codes of the minority classes.
        threshold: P_m from which on every patch is selected.
        fraction: How many of the others that have a minority class are drawn, 0..1.
            None: as many as reach the threshold, as in the paper, if there are so many.
        seed: Seed of the draw.

    Returns:
        ``minority``, the P_m of each selected patch, and ``drawn``, whether it is below
        the threshold; sorted by name.

    Raises:
        InputError: Two patches have one name, a number is out of its range, or no patch
            has a minority class.
    """
    if not 0 < threshold <= 1:
        raise InputError(
            f'the threshold must be above 0 and at most 1, not {threshold}'
        )
    if fraction is not None and not 0 <= fraction <= 1:
        raise InputError(f'the fraction must be from 0 to 1, not {fraction}')
    twice = shares.index[shares.index.duplicated()]
    if len(twice):
        raise InputError(f'the patch {twice[0]} occurs twice; give each map once')
    present = [code for code in dict.fromkeys(minority) if code in shares.columns]
    p_m = shares[present].sum(axis=1).sort_index()
    if not (p_m > 0).any():
        found = ', '.join(str(code) for code in sorted(shares.columns))
        raise InputError(
            f'no patch has a minority class ({", ".join(map(str, minority))}); '
            f'the maps have the classes {found}'
        )
    above = p_m.index[p_m >= threshold]
    below = p_m.index[(p_m > 0) & (p_m < threshold)]
    count = len(above) if fraction is None else round(fraction * len(below))
    drawn = sorted(below, key=lambda name: (_digest(name, seed), name))[:count]
    chosen = p_m.index.isin(above) | p_m.index.isin(drawn)
    selected = p_m[chosen]
    return pandas.DataFrame({'minority': selected, 'drawn': selected < threshold})


def minority_classes(shares: pandas.Series, limit: float = MINORITY) -> tuple[int, ...]:
    """Classes that have less than a share of the labelled data, rarest first.

    The paper's rule is 1 %: such classes reached an accuracy below 30 % there.

    Args:
        shares: Share of each class (index: codes) in the labelled data.
        limit: Share below which a class that occurs is a minority.

    Returns:
        Their codes.
    """
    rare = shares[(shares > 0) & (shares < limit)].sort_values(kind='stable')
    return tuple(int(code) for code in rare.index)


def _digest(name: object, seed: int) -> bytes:
    """A number that looks random, and is the same on every machine."""
    return hashlib.blake2b(f'{seed}/{name}'.encode(), digest_size=16).digest()
