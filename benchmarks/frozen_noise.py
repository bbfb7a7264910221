# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What options for noisy and rare labels do in the fit on a frozen backbone.

On the scenes with ``lr_noisy.tif``: features once, then a fit for each option and seed
(of folds and of the drawn pixels that prompts are made from). HR labels score maps and
choose nothing. Figures are kept after each map.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from torchgeo_mapsr.mapping.collect import gather, labelled_places
from torchgeo_mapsr.mapping.executor import Here
from torchgeo_mapsr.mapping.fitting import look
from torchgeo_mapsr.mapping.passes import FitPass, Sight
from torchgeo_mapsr.mapping.timing import Stopwatch
from torchgeo_mapsr.models.head.fit import FitOptions, fit_classifier

from .origin import ROOT, about, commit
from .ours import Ours
from .regions import Region, find_regions

RESULTS = Path(__file__).parent / 'results' / 'frozen_noise.json'
SEEDS = (0, 1, 2)

#: Options of the fit, by the row's name.
ROWS: dict[str, dict[str, Any]] = {
    'default': {},
    'sce': {'noise': 'sce'},
    'small-loss': {'noise': 'small-loss'},
    'log': {'class_weight': 'log'},
    'log+sce': {'class_weight': 'log', 'noise': 'sce'},
}


def samples_of(ours: Ours) -> Any:
    """Cells and pixels that the fit of a region looks at."""
    model, region = ours._model, ours.region
    places = labelled_places(ours.plans, model.inputs.labels, 0)
    work = FitPass(
        model.extractor,
        model.inputs.labels,
        -(-100_000 // min(len(places), 64)),
        0,
        Stopwatch(),
    )
    sights = [Sight(region.images[p.image], ours.plans[p.image], p) for p in places]
    pieces = look(Here(), work, sights, 64, lambda: None)
    return gather(pieces, region.crosswalk)


def measure(
    region: Region, seeds: Sequence[int], console: Console
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fit with every option and seed, map and score.

    Args:
        region: Scenes and noisy labels.
        seeds: Seeds of the fits.
        console: Says what is found.

    Yields:
        Row and seed, and figures as JSON types.
    """
    ours = Ours(region)
    samples = samples_of(ours)
    for seed in seeds:
        for row, options in ROWS.items():
            fitted = fit_classifier(
                samples.cells,
                samples.pixels,
                region.crosswalk.target,
                FitOptions(seed=seed, **options),
            )
            parts = list(region.score(ours.maps(fitted)).values())
            total = sum(parts[1:], parts[0])
            there, matrix = total.present, total.matrix
            recall = np.diag(matrix)[there] / matrix.sum(1)[there]
            truth = np.where(there, matrix.sum(1), np.inf)
            found = {
                'miou': round(float(total.miou), 5),
                'accuracy': round(float(recall.mean()), 5),
                'minority_iou': round(float(total.iou[truth.argmin()]), 5),
                'commit': commit(),
            }
            console.print(region.key, row, seed, found)
            yield f'{row}/{seed}', found


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', type=Path, default=ROOT.parent / 'shared' / 'data')
    parser.add_argument('--output', type=Path, default=RESULTS)
    parser.add_argument('--sets', nargs='+')
    parser.add_argument('--seeds', nargs='+', type=int, default=SEEDS)
    o = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    for region in find_regions(o.data, o.sets):
        kept = json.loads(o.output.read_text()) if o.output.exists() else {}
        done = kept.get('regions', {}).get(region.key, {})
        missing = [s for s in o.seeds if any(f'{row}/{s}' not in done for row in ROWS)]
        if region.labels != 'noisy' or not missing:
            continue
        for key, found in measure(region, missing, console):
            kept.setdefault('regions', {}).setdefault(region.key, {})[key] = found
            kept['about'] = about()
            part = o.output.with_suffix('.part')
            part.write_text(json.dumps(kept, indent=1) + '\n')
            part.replace(o.output)


if __name__ == '__main__':
    main()
