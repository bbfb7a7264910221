# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make a scene, map it and evaluate the map."""

import argparse
from pathlib import Path

from ..errors import InputError
from ..mapping.config import MapJob
from .console import (
    check_json,
    json_option,
    overwrite_option,
    seed_option,
    show_accuracy,
    terminal,
    write_json,
)

DESCRIPTION = (
    'Make a small scene with imagery, coarse labels and truth, map it and compare the '
    'map with the truth.'
)

EXAMPLES = """examples:
  torchgeo-mapsr demo
  torchgeo-mapsr demo somewhere --seed 3 --json accuracy.json

Then look at somewhere/landcover.png, and drag somewhere/landcover.tif into QGIS.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        'folder',
        nargs='?',
        type=Path,
        default=Path('torchgeo-mapsr-demo'),
        help='where to put everything (default: %(default)s)',
    )
    seed_option(parser)
    overwrite_option(parser, 'an older demo')
    json_option(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from ..datasets.legends.crosswalk import Crosswalk
    from ..datasets.scene.scene import make_scene
    from ..evaluation.accuracy import compare
    from ..mapping.run import map_region

    folder: Path = options.folder
    if folder.exists() and any(folder.iterdir()) and not options.overwrite:
        raise InputError(
            f'{folder} is not empty; name another folder, or give --overwrite.'
        )
    outputs = [folder / f'landcover{suffix}' for suffix in ('.tif', '.json', '.png')]
    check_json(options, outputs)
    console = terminal()
    console.print(f'Making a scene in {folder} …')
    scene = make_scene(folder, seed=options.seed)
    job = MapJob(
        imagery=(str(scene.imagery),),
        labels=(str(scene.labels),),
        legend=scene.legend,
        output=outputs[0],
        overwrite=options.overwrite,
        seed=options.seed,
    )
    map_region(job, console)
    same = Crosswalk.load(job.target, scene.target)
    coarse = Crosswalk.load(scene.legend, scene.target)
    results = {
        'coarse labels': compare(scene.labels, scene.truth, coarse, same),
        'map': compare(job.output, scene.truth, same, same),
    }
    show_accuracy(console, results)
    write_json(options, {k: v.to_dict() for k, v in results.items()}, outputs)
    return 0
