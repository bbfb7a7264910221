# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Patches of predicted maps that have minority classes."""

from collections.abc import Sequence
from pathlib import Path

from geopandas import GeoDataFrame

from ..datasets.patches import (
    check_footprints,
    class_shares,
    minority_classes,
    select_patches,
    write_footprints,
)
from ..errors import InputError
from .class_maps import common_legend, without_layers
from .named_classes import class_index


def select_footprints(
    maps: Sequence[str],
    minority: Sequence[int | str] | None,
    output: Path,
    patch_size: int = 256,
    threshold: float = 0.01,
    fraction: float | None = 0.5,
    seed: int = 0,
    legend: str | None = None,
    labels: Sequence[str] = (),
) -> GeoDataFrame:
    """Select patches of class maps and write their footprints.

    Args:
        maps: Class maps of unlabelled imagery, each in its own grid and CRS; their
            confidence and scores are left out.
        minority: The minority classes: codes, or names of the maps' legend. None: see
            *labels*.
        output: The footprint file; nothing is written over.
        patch_size: Height and width of a patch, in pixels of its map.
        threshold: See :func:`~torchgeo_mapsr.datasets.patches.select_patches`, as the
            next two.
        fraction: Of the patches below the threshold, how many are drawn.
        seed: Seed of the draw.
        legend: Legend of the maps (default: what they say, or land-cover-4).
        labels: Labelled rasters, whose rare classes are the minority, see
            :func:`~torchgeo_mapsr.datasets.patches.minority_classes`.

    Returns:
        The selected patches: what the file holds.

    Raises:
        InputError: If a map cannot be used, no patch has a minority class, or the file
            cannot be written.
    """
    if patch_size < 1:
        raise InputError('--patch-size must be at least 1.')
    check_footprints(output)
    files = without_layers(maps)
    if not files:
        raise InputError('There is no class map among the files; name one.')
    patches = class_shares(files, patch_size)
    codes = [column for column in patches.columns if isinstance(column, int)]
    if minority is None:
        rare = list(minority_classes(labels))
    else:
        rare = _codes(maps, minority, legend)
    chosen = select_patches(patches[codes], rare, threshold, fraction, seed)
    selected = patches.loc[chosen.index]
    selected = selected.rename(columns={code: f'share_{code}' for code in codes})
    selected.insert(4, 'minority', chosen['minority'])
    selected.insert(5, 'drawn', chosen['drawn'])
    write_footprints(selected, output)
    selected.attrs['candidates'] = len(patches)
    return selected


def _codes(
    maps: Sequence[str], minority: Sequence[int | str], legend: str | None
) -> list[int]:
    """Codes of classes; only names need a legend."""
    names = [str(name) for name in minority]
    if all(name.isdecimal() for name in names):
        return [int(name) for name in names]
    classes = common_legend(maps, legend)
    indices = [class_index(name, classes, f'--minority {name}') for name in names]
    codes: list[int] = classes.codes[indices].tolist()
    return codes
