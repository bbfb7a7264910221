# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Weigh the classes of a map anew, and dissolve patches below a mapping unit."""

import argparse
from pathlib import Path

from ..arguments import POSITIVE, check_range
from ..errors import InputError
from .console import (
    check_json,
    check_output,
    finite,
    json_option,
    legend_option,
    overwrite_option,
    terminal,
    write_json,
)

DESCRIPTION = (
    'Make a map of a map: multiply the scores of classes by weights and take the best '
    'class anew (Malkin et al. 2019, appendix E), then give patches below a minimum '
    'mapping unit to the class that they share the longest edge with. The result does '
    'not depend on tiles. Interrupted, the same command goes on where it stopped.'
)

EXAMPLES = """examples:
  torchgeo-mapsr postprocess map.tif --reweight impervious=2 --output more.tif
  torchgeo-mapsr postprocess map.tif --min-area 500 --output generalised.tif
  torchgeo-mapsr postprocess map.tif --reweight water=0.5 forest=1.2 \\
      --min-area 500 --output both.tif

--reweight needs the scores that `map --scores` leaves beside a map (NAME_scores.tif). The
page that `report` makes has a slider for each class: try weights there, and give them here.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument('map', metavar='MAP', help='class map')
    parser.add_argument(
        '--output', type=Path, required=True, metavar='FILE', help='map to write'
    )
    overwrite_option(parser)
    parser.add_argument(
        '--reweight',
        nargs='+',
        default=[],
        metavar='CLASS=WEIGHT',
        help='weight of a class’s scores, by its name or code; 1 where not given',
    )
    parser.add_argument(
        '--scores',
        type=Path,
        metavar='FILE',
        help='scores of the map in percent (default: NAME_scores.tif beside it)',
    )
    parser.add_argument(
        '--min-area',
        type=finite,
        metavar='M2',
        help='smallest patch that stays, in square metres on the ground',
    )
    legend_option(
        parser, 'legend of the map (default: what the map says, or land-cover-4)'
    )
    json_option(parser)
    parser.set_defaults(resumes=True)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from rich.progress import Progress

    from ..evaluation.class_maps import common_legend, layer_path, without_layers
    from ..evaluation.report import result_table
    from ..evaluation.reweighting import class_weights
    from ..mapping.postprocess import Postprocessing

    if not options.reweight and options.min_area is None:
        raise InputError('Nothing to do; give --reweight, --min-area or both.')
    check_range('--min-area', options.min_area, POSITIVE)
    if options.output.suffix.lower() not in {'.tif', '.tiff'}:
        raise InputError(f'--output {options.output} is not a .tif file.')
    maps = without_layers([options.map]) or [options.map]
    # Of a folder of tiles of one grid there is one map, and its scores are named.
    whole = maps[0] if len(maps) == 1 else options.map
    scores = options.scores or layer_path(whole, 'scores')
    inputs = [*maps, scores, options.output]
    check_output(options.output, inputs[:-1], options.overwrite)
    check_json(options, inputs)
    legend = common_legend(maps, options.legend)
    weights = class_weights(options.reweight, legend)
    if options.reweight and not weights:
        weights = (1.0,) * len(legend)
    work = Postprocessing.of(maps, legend, weights, options.min_area, scores)
    console = terminal()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        if options.min_area is not None and work.patches_file(options.output).exists():
            console.print('Going on with patches that were found before.')
        task = progress.add_task('Post-processing', total=work.steps)
        change = work.write(
            options.output, options.overwrite, lambda: progress.advance(task)
        )
    rows = [
        (name, f'{before:,.2f}', f'{after:,.2f}')
        for name, before, after in zip(
            legend.class_names, change.before, change.after, strict=True
        )
    ]
    columns = 'class', 'before', 'after'
    console.print(result_table('Land cover, hectares', columns, rows))
    console.print(f'{change.changed:,.2f} ha have another class.')
    console.print(f'Map: {options.output}')
    content = {
        'map': str(options.output),
        'weights': dict(zip(legend.class_names, work.weights, strict=True)),
        'min_area_square_metres': options.min_area,
        'changed_hectares': round(change.changed, 4),
        'classes': [
            {
                'code': item.code,
                'name': item.name,
                'hectares_before': round(float(before), 4),
                'hectares': round(float(after), 4),
            }
            for item, before, after in zip(
                legend.classes, change.before, change.after, strict=True
            )
        ],
    }
    write_json(options, content, inputs)
    return 0
