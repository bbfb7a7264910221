# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Weigh the classes of a map anew, and dissolve patches below a mapping unit."""

import argparse
from pathlib import Path
from typing import Any

from ..atomic import replacing
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

_TILE = 2048


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
    import hashlib
    import json

    import numpy as np

    from ..datasets.geo.areas import PixelAreas, pixel_sides
    from ..datasets.geo.grid import blocks_of
    from ..datasets.geo.plan import Tile
    from ..datasets.geo.raster import open_rasters
    from ..datasets.labels import LabelRaster
    from ..evaluation.class_maps import (
        common_legend,
        known_index,
        layer_path,
        without_layers,
    )
    from ..evaluation.mapping_unit import MappingUnit
    from ..evaluation.reweighting import class_weights, reweighted
    from ..mapping.cog import Layer, map_codes, map_nodata, write_cog
    from ..mapping.style import drop_sidecars, sidecar_of

    if not options.reweight and options.min_area is None:
        raise InputError('Nothing to do; give --reweight, --min-area or both.')
    if options.min_area is not None and not options.min_area > 0:
        raise InputError('--min-area is an area above 0, in square metres.')
    if options.output.suffix.lower() not in {'.tif', '.tiff'}:
        raise InputError(f'--output {options.output} is not a .tif file.')
    maps = without_layers([options.map]) or [options.map]
    # Of a folder of tiles of one grid there is one map, and its scores are named.
    whole = maps[0] if len(maps) == 1 else options.map
    scores_path = options.scores or layer_path(whole, 'scores')
    inputs = [*maps, scores_path, options.output]
    check_output(options.output, inputs[:-1], options.overwrite)
    check_json(options, inputs)
    legend = common_legend(maps, options.legend)
    codes = map_codes(legend)
    weights = np.array(class_weights(options.reweight, legend) or [1.0] * len(legend))
    raster = LabelRaster(open_rasters(maps))
    grid = raster.geobox
    scores = None
    if options.reweight:
        if not Path(scores_path).exists():
            raise InputError(
                f'{scores_path} is not there; make the map with --scores, or name them '
                'with --scores.'
            )
        (scores,) = open_rasters([scores_path])
        if scores.geobox != grid or scores.count != len(legend):
            raise InputError(
                f'{scores_path} is not of this map: it needs its grid and a band for '
                f'each of the {len(legend)} classes.'
            )
        if {*scores.dtypes} != {'uint8'}:
            raise InputError(
                f'{scores_path} holds {scores.dtypes[0]}, and scores are percent of '
                'uint8, as map --scores writes them.'
            )

    def read(rows: slice, cols: slice) -> Any:
        index = known_index(raster.read(rows, cols), legend, maps[0])
        if scores is not None:
            bands = list(range(1, len(legend) + 1))
            values = scores.read(bands, rows, cols)
            index = reweighted(values.astype(np.uint8), index, weights)
        return index

    areas = PixelAreas(grid)
    console = terminal()
    tiles = [
        Tile(r.start // _TILE, c.start // _TILE, r, c)
        for r, c in blocks_of(grid, _TILE)
    ]
    unit = None
    saved = options.output
    with _progress(console, len(tiles) * (2 + (options.min_area is not None))) as tick:
        if options.min_area is not None:
            digest = raster.fingerprint(), scores and scores.fingerprint()
            settings = [
                digest,
                weights.tolist(),
                options.min_area,
                legend.codes.tolist(),
                _TILE,
            ]
            key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
            saved = options.output.with_name(
                f'.{options.output.stem}.{key}.safetensors'
            )
            if saved.exists():
                unit = MappingUnit.load(saved)
                console.print('Going on with patches that were found before.')
            else:
                unit = MappingUnit.scan(
                    read,
                    (grid.height, grid.width),
                    areas,
                    options.min_area,
                    _TILE,
                    tick,
                    pixel_sides(grid),
                )
                unit.save(saved)
        nodata = map_nodata(legend)

        def load(tile: Tile) -> Any:
            index = read(tile.rows, tile.cols)
            if unit is not None:
                index = unit.apply(tile.rows, tile.cols, index)
            tick()
            return codes[index]

        with (
            output_path(options.output, inputs[:-1], options.overwrite) as part,
            replacing(sidecar_of(options.output)) as side,
        ):
            write_cog(part, grid, Layer.classes(legend, nodata), tiles, load)
            sidecar_of(part).replace(side)
            if options.overwrite:
                drop_sidecars(options.output)
    if options.min_area is not None:
        saved.unlink(missing_ok=True)
    before, after, changed = _compare(
        legend, raster, LabelRaster(open_rasters([options.output])), areas
    )
    _show(console, legend.class_names, before, after, changed)
    console.print(f'Map: {options.output}')
    content = {
        'map': str(options.output),
        'weights': dict(zip(legend.class_names, weights.tolist(), strict=True)),
        'min_area_square_metres': options.min_area,
        'changed_hectares': round(changed, 4),
        'classes': [
            {
                'code': item.code,
                'name': item.name,
                'hectares_before': round(float(before[i]), 4),
                'hectares': round(float(after[i]), 4),
            }
            for i, item in enumerate(legend.classes)
        ],
    }
    write_json(options, content, inputs)
    return 0


def _compare(legend: Any, old: Any, new: Any, areas: Any) -> tuple[Any, Any, float]:
    """Hectares of each class before and after, and of pixels that have changed."""
    import numpy as np

    from ..datasets.geo.grid import blocks_of

    hectares, changed = np.zeros((2, len(legend))), 0.0
    for rows, cols in blocks_of(old.geobox, _TILE):
        pair = [legend.index(raster.read(rows, cols)) for raster in (old, new)]
        weight = areas(rows, cols) / 1e4
        for total, index in zip(hectares, pair, strict=True):
            valid = index >= 0
            total += np.bincount(index[valid], weight[valid], len(legend))
        changed += float(weight[pair[0] != pair[1]].sum())
    return hectares[0], hectares[1], changed


def _show(console: Any, names: Any, before: Any, after: Any, changed: float) -> None:
    from ..evaluation.report import result_table

    rows = [
        (name, f'{old:,.2f}', f'{new:,.2f}')
        for name, old, new in zip(names, before, after, strict=True)
    ]
    columns = 'class', 'before', 'after'
    console.print(result_table('Land cover, hectares', columns, rows))
    console.print(f'{changed:,.2f} ha have another class.')


def _progress(console: Any, total: int) -> Any:
    """A bar on a terminal; gives a function that steps it."""
    from contextlib import contextmanager

    from rich.progress import Progress

    @contextmanager
    def bar() -> Any:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task('Post-processing', total=total)
            yield lambda: progress.advance(task)

    return bar()
