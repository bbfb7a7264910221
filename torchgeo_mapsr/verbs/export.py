# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Give a map that exists to a GIS: polygons, styles, a STAC item."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ..atomic import write_text
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

DESCRIPTION = 'Polygons, styles and a STAC item of a class map that exists.'

EXAMPLES = """examples:
  torchgeo-mapsr export landcover.tif --polygons landcover_polygons.gpkg --min-area 100
  torchgeo-mapsr export landcover.tif --polygons web.pmtiles
  torchgeo-mapsr export landcover.tif --style --stac-item --json written.json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument('map', metavar='MAP', help='class map, a file or an address')
    parser.add_argument(
        '--polygons',
        type=Path,
        metavar='FILE',
        help='write polygons: .gpkg, .fgb, .parquet or .pmtiles',
    )
    parser.add_argument(
        '--min-area',
        type=finite,
        default=0.0,
        metavar='M2',
        help='leave out polygons below so many square metres (default: none)',
    )
    parser.add_argument(
        '--confidence',
        metavar='FILE',
        help='confidence of the map (default: NAME_confidence.tif, if it is there)',
    )
    parser.add_argument(
        '--style',
        action='store_true',
        help='write NAME.qml and NAME.sld, of the confidence too',
    )
    parser.add_argument(
        '--stac-item', action='store_true', help='write NAME.stac.json, a STAC item'
    )
    legend_option(parser, 'legend of the map (default: what the map says)')
    overwrite_option(parser)
    json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from ..evaluation.class_maps import layer_path, map_legend, without_layers
    from ..mapping.polygons import format_of, polygonise
    from ..mapping.stac_item import stac_item
    from ..mapping.style import style_paths, write_class_styles, write_confidence_styles

    if not (options.polygons or options.style or options.stac_item):
        raise InputError(
            'Say what to write: --polygons FILE, --style or --stac-item, or several.'
        )
    # Addresses stay text: pathlib takes a slash from https://.
    name, *others = without_layers([options.map]) or [options.map]
    if others:
        raise InputError(
            f'{options.map} holds {len(others) + 1} maps; name one, like {name}.'
        )
    legend = map_legend(name, options.legend, None)
    path, here = Path(name), os.path.isfile(name)
    if (options.style or options.stac_item) and not here:
        raise InputError(
            f'{name} is no file on this machine, and --style and --stac-item write beside '
            'the map: copy it first, or give only --polygons.'
        )
    confidence: str | None = options.confidence
    if confidence is None and here and layer_path(name, 'confidence').exists():
        confidence = str(layer_path(name, 'confidence'))
    item_path = path.with_suffix('.stac.json')
    outputs: list[Path] = []
    if options.polygons:
        format_of(options.polygons)
        outputs.append(options.polygons)
    if options.style:
        outputs += style_paths(path)
        outputs += style_paths(Path(confidence)) if confidence else ()
    outputs += [item_path] * options.stac_item
    inputs: list[object] = [name, *filter(None, [confidence])]
    for output in outputs:
        check_output(output, inputs, options.overwrite)
    inputs += outputs
    check_json(options, inputs)
    console = terminal()
    figures: dict[str, Any] = {'map': name, 'files': list(map(str, outputs))}
    extra = {}
    if options.polygons:
        count = polygonise(name, options.polygons, legend, confidence, options.min_area)
        extra['polygons'] = options.polygons
        figures['polygons'] = count
        console.print(f'{options.polygons}: {count} polygons')
    if options.style:
        write_class_styles(path, legend)
        if confidence:
            write_confidence_styles(Path(confidence))
    if options.stac_item:
        item = stac_item(path, legend, extra=extra)
        write_text(item_path, json.dumps(item, indent=1) + '\n')
    for output in outputs:
        if output != options.polygons:
            console.print(str(output))
    write_json(options, figures, inputs)
    return 0
