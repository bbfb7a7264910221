# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Find change between two dates."""

import argparse
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import (
    check_json,
    check_output,
    finite,
    json_option,
    legend_option,
    output_path,
    overwrite_option,
    terminal,
    working,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..datasets.geo.raster import RasterFile
    from ..evaluation.transitions import Transitions

DESCRIPTION = (
    'Calibrate the first signal to the second by least squares, which takes out what '
    'differs everywhere alike, and report windows whose mean absolute difference is '
    'above a threshold (Malkin et al. 2019, appendix D). Two class maps give a matrix '
    'of areas from class to class, too.'
)

EXAMPLES = """examples:
  torchgeo-mapsr change map_2013.tif map_2019.tif --output change.tif
  torchgeo-mapsr change a.tif b.tif --output change.tif --polygons change.gpkg
  torchgeo-mapsr change naip_2013.tif naip_2019.tif --output change.tif --bands 1 2 3
  torchgeo-mapsr change a.tif b.tif --output change.tif --window 60 --threshold 0.1

Two maps made with `map --scores` are compared by their scores (NAME_scores.tif), which see
what two class maps hide; without scores, by their classes. Maps serve better than imagery
(Malkin et al. 2019): seasons and sensors change what land looks like, not what it is.
"""

# Values of a raster that looks like a class map, at most: NLCD has 20, one band of a
# photograph a hundred.
_FEW_CODES = 24


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        'before',
        metavar='BEFORE',
        help='raster of the first date: a file, or a folder or .zip of its tiles',
    )
    parser.add_argument(
        'after', metavar='AFTER', help='raster of the second date; its grid is used'
    )
    parser.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='FILE',
        help='difference by window, a cloud-optimised .tif',
    )
    parser.add_argument(
        '--polygons', type=Path, metavar='FILE', help='changed windows, a .gpkg'
    )
    parser.add_argument(
        '--matrix',
        type=Path,
        metavar='FILE',
        help='hectares from class to class, a .csv',
    )
    overwrite_option(parser)
    parser.add_argument(
        '--signal',
        choices=['auto', 'scores', 'classes', 'imagery'],
        default='auto',
        help='what is compared; auto: scores if both maps have them, classes if both '
        'are class maps, else imagery (default)',
    )
    legend_option(parser, 'legend of two class maps (default: what they say)')
    parser.add_argument(
        '--bands', nargs='+', type=int, metavar='N', help='bands of imagery, from 1'
    )
    parser.add_argument(
        '--window',
        type=finite,
        default=240.0,
        metavar='METRES',
        help='height and width of a window (default: %(default)g)',
    )
    parser.add_argument(
        '--threshold',
        type=finite,
        metavar='VALUE',
        help='mean absolute difference from which on a window has changed, in the '
        'units of the signal (default: the median of the windows plus six robust '
        'standard deviations)',
    )
    json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from ..evaluation.change import detect_change
    from ..evaluation.class_maps import layer_path, map_legend, without_layers
    from ..evaluation.signal_pair import SignalPair
    from ..evaluation.transitions import transitions
    from ..geopackage import write_geopackage
    from ..mapping.style import drop_sidecars

    before, after = (
        without_layers([path]) or [path] for path in (options.before, options.after)
    )
    signal, is_map = _signal(options, [*before, *after])
    inputs: list[Any] = [options.before, options.after, *before, *after]
    inputs += filter(None, [options.legend])
    scores = [
        [layer_path(path, 'scores') for path in paths] for paths in (before, after)
    ]
    if signal == 'scores':
        inputs += [*scores[0], *scores[1]]
    for path, suffix in (
        (options.output, '.tif'),
        (options.polygons, '.gpkg'),
        (options.matrix, '.csv'),
    ):
        if path is not None:
            if path.suffix != suffix:
                raise InputError(f'{path} is not a {suffix} file.')
            check_output(path, inputs, options.overwrite)
            inputs.append(path)
    check_json(options, inputs)
    if options.window <= 0:
        raise InputError('--window is above 0, in metres.')
    if options.threshold is not None and options.threshold < 0:
        raise InputError('--threshold is a difference: 0 or more.')
    if options.matrix is not None and not is_map:
        raise InputError('--matrix needs two class maps; give their --legend.')
    legend = map_legend(after[0], options.legend) if is_map else None
    if signal == 'scores':
        files = SignalPair(scores[0], scores[1], scores=True)
    elif signal == 'classes':
        files = SignalPair(before, after, legend=legend)
    else:
        files = SignalPair(before, after, bands=options.bands)
    console = terminal()
    with working(console, 'Comparing'):
        result = detect_change(files, options.window, options.threshold)
        polygons = result.polygons()
        table = transitions(before, after, legend) if legend is not None else None
    with ExitStack() as stack:

        def scratch(path: Path) -> Path:
            others = [name for name in inputs if name is not path]
            return stack.enter_context(output_path(path, others, options.overwrite))

        result.save(scratch(options.output))
        if options.overwrite:
            drop_sidecars(options.output)
        if options.polygons is not None:
            write_geopackage(polygons, scratch(options.polygons), 'change')
        if options.matrix is not None and table is not None:
            table.save_csv(scratch(options.matrix))
    if table is not None:
        _show(console, table)
    windows = int(result.changed.sum())
    largest = float(result.thresholds.max())
    higher = f' to {largest:.4g}, by class' if largest > result.threshold else ''
    console.print(
        f'{windows} of {int((result.difference == result.difference).sum())} windows '
        f'of {result.window:.4g} m have changed ({result.hectares:,.2f} ha, '
        f'{len(polygons)} places); threshold {result.threshold:.4g}{higher} on {signal}.'
    )
    console.print(f'Change: {options.output}')
    content = {
        'signal': signal,
        'window_metres': round(result.window, 3),
        'threshold': result.threshold,
        'largest_threshold': largest,
        'windows_changed': windows,
        'hectares_changed': round(result.hectares, 4),
        'places': len(polygons),
        'transitions': None if table is None else table.to_dict(),
    }
    write_json(options, content, inputs)
    return 0


def _signal(options: argparse.Namespace, paths: list[str]) -> tuple[str, bool]:
    """What is compared, and whether both rasters are class maps."""
    from ..datasets.geo.opened import open_raster
    from ..datasets.geo.raster import open_rasters
    from ..evaluation.class_maps import common_legend, layer_path

    files = open_rasters(paths, imagery=True)
    one_band = all(file.count - (file.alpha is not None) == 1 for file in files)
    named: list[str] = []
    others: list[str] = []
    for path in paths:
        with open_raster(path) as dataset:
            (named if 'LEGEND' in dataset.tags() else others).append(path)
    if options.legend is None and options.signal != 'imagery':
        if named and others:
            raise InputError(
                f'{named[0]} is a class map, and {others[0]} does not say that it is '
                'one; give the --legend of both, or --signal imagery.'
            )
        if named:
            common_legend(paths)
    is_map = one_band and (not others or options.legend is not None)
    undecided = options.signal == 'auto' and not options.bands
    if one_band and undecided and not is_map and _hold_codes(files):
        raise InputError(
            f'{paths[0]} and {paths[-1]} hold few whole numbers, as class maps do, and do '
            'not say of which classes; give their --legend, or --signal imagery.'
        )
    if options.signal == 'classes' and one_band:
        is_map = True
    scored = all(layer_path(path, 'scores').exists() for path in paths)
    signal = options.signal
    if signal == 'auto':
        signal = 'imagery' if not is_map else 'scores' if scored else 'classes'
    if signal == 'scores' and not scored:
        raise InputError(
            '--signal scores needs NAME_scores.tif beside both maps (map --scores).'
        )
    if signal == 'classes' and not is_map:
        raise InputError('--signal classes needs two class maps of one band.')
    if options.bands and signal != 'imagery':
        raise InputError('--bands are for imagery; give --signal imagery.')
    return signal, is_map


def _hold_codes(files: 'Sequence[RasterFile]') -> bool:
    """Whether rasters of one band, of which some are looked at, look like class maps."""
    from ..datasets.labels import LabelRaster

    with suppress(InputError):  # fractions, losses or a scale
        return all(
            any(file.palettes)
            or len(LabelRaster([file]).count_codes()[0]) <= _FEW_CODES
            for file in (*files[:4], *files[-4:])
        )
    return False


def _show(console: Any, transitions: 'Transitions') -> None:
    from ..evaluation.report import result_table

    names = transitions.legend.class_names
    rows = [
        (name, *(f'{value:,.2f}' for value in row))
        for name, row in zip(names, transitions.hectares, strict=True)
    ]
    title = 'Hectares from class (row) to class (column)'
    console.print(result_table(title, ('before', *names), rows))
