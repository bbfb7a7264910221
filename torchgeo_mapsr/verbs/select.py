# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Select patches of predicted maps that have minority classes."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .console import (
    check_json,
    finite,
    json_option,
    legend_option,
    seed_option,
    terminal,
    write_json,
)

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_SIZE = 256

DESCRIPTION = (
    'Select unlabelled patches by the share of minority classes in their predicted '
    'maps, and write their footprints for the training. The confidence and scores that '
    'lie beside a map are left out.'
)

EXAMPLES = """examples:
  torchgeo-mapsr select maps/*.tif --minority 4 --output patches.gpkg
  torchgeo-mapsr select maps/*.tif --labels source/*.tif --output patches.gpkg
  torchgeo-mapsr select maps/*.tif --minority 14 16 24 --output patches.gpkg \\
      --patch-size 512 --threshold 0.02 --fraction equal --json patches.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        'maps', nargs='+', metavar='MAP', help='class maps of unlabelled imagery'
    )
    rare = parser.add_mutually_exclusive_group(required=True)
    rare.add_argument(
        '--minority',
        nargs='+',
        metavar='CLASS',
        help='minority classes, by name or code',
    )
    rare.add_argument(
        '--labels',
        nargs='+',
        metavar='FILE',
        help='labels of the source, in the classes of the maps: those below one percent '
        'of them are the minority',
    )
    legend_option(
        parser,
        'legend of the maps, for names of classes (default: what the maps say, or '
        'land-cover-4)',
    )
    parser.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='FILE',
        help='footprints of the selected patches, .gpkg or .parquet',
    )
    parser.add_argument(
        '--patch-size',
        type=int,
        default=_SIZE,
        metavar='PIXELS',
        help='height and width of a patch, in pixels of the maps (default: %(default)s)',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        default=0.01,
        metavar='SHARE',
        help='share of minority classes from which on every patch is selected '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--fraction',
        type=_fraction,
        default=0.5,
        metavar='SHARE',
        help='of the patches below it that have a minority class, how many are drawn; '
        'equal: as many as reach it (default: %(default)s)',
    )
    seed_option(parser)
    json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    inputs = [*options.maps, options.output]
    check_json(options, inputs)
    others = {'run', 'json'}
    settings = {
        name: value for name, value in vars(options).items() if name not in others
    }
    chosen = select(**settings)
    below = int(chosen['drawn'].sum())
    terminal().print(
        f'{len(chosen)} of {chosen.attrs["candidates"]} patches: '
        f'{len(chosen) - below} have {options.threshold:.2%} of minority classes or '
        f'more, {below} are drawn from those that have less. {options.output}'
    )
    figures = {'patches': chosen.attrs['candidates'], 'selected': len(chosen)}
    write_json(options, {**figures, 'drawn': below}, inputs)
    return 0


def select(
    maps: Sequence[str],
    minority: Sequence[int | str] | None,
    output: Path,
    patch_size: int = _SIZE,
    threshold: float = 0.01,
    fraction: float | None = 0.5,
    seed: int = 0,
    legend: str | None = None,
    labels: Sequence[str] = (),
) -> 'GeoDataFrame':
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
    from ..datasets.patches import (
        check_footprints,
        class_shares,
        minority_classes,
        select_patches,
        write_footprints,
    )
    from ..evaluation.class_maps import without_layers

    if patch_size < 1:
        raise InputError('--patch-size must be at least 1.')
    check_footprints(output)
    found = without_layers(maps)
    if not found:
        raise InputError('There is no class map among the files; name one.')
    patches = class_shares(found, patch_size)
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
    from ..evaluation.class_maps import class_index, common_legend

    given = [str(name) for name in minority]
    if all(name.isdecimal() for name in given):
        return [int(name) for name in given]
    classes = common_legend(maps, legend)
    found = [class_index(name, classes, f'--minority {name}') for name in given]
    codes: list[int] = classes.codes[found].tolist()
    return codes


def _fraction(text: str) -> float | None:
    """A number, or None for equal."""
    return None if text == 'equal' else finite(text)
