# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How often 95 % intervals of `sample` and `area` cover the truth.

    python -m benchmarks.intervals

draws 1000 samples of a made map whose truth is known, in strata of the map's classes and in
strata that are not (classes by confidence), and writes the shares to
benchmarks/results/intervals.json.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from scipy import ndimage

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.evaluation.class_maps import ClassMaps
from torchgeo_mapsr.evaluation.estimation import StratifiedSample, allocate
from torchgeo_mapsr.evaluation.sampling import Strata, draw_sample

SAMPLES, POINTS, SHAPE = 1000, 400, (160, 170)
RESULT = Path(__file__).parent / 'results' / 'intervals.json'


def make(folder: Path) -> tuple[Path, np.ndarray]:
    """A map of four classes with mistakes at edges, its confidence, and the truth."""
    rng = np.random.default_rng(7)
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 9)
    truth = np.digitize(smooth, np.quantile(smooth, [0.08, 0.5, 0.9]))
    off = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2)
    mapped = np.digitize(
        smooth + 0.25 * off * smooth.std() / off.std(),
        np.quantile(smooth, [0.1, 0.47, 0.92]),
    )
    mapped = np.where(rng.random(SHAPE) < 0.04, rng.integers(0, 4, SHAPE), mapped)
    percent = np.where(mapped == truth, 80, 66) + rng.normal(0, 12, SHAPE)
    percent = percent.clip(30, 100)
    profile = {
        'driver': 'GTiff',
        'dtype': 'uint8',
        'count': 1,
        'height': SHAPE[0],
        'width': SHAPE[1],
        'crs': 'EPSG:5070',
        'transform': Affine(10, 0, 1.6e6, 0, -10, 1.9e6),
    }
    for name, values in (('map', mapped + 1), ('map_confidence', percent)):
        with rasterio.open(folder / f'{name}.tif', 'w', **profile) as dataset:
            dataset.write(values.astype(np.uint8), 1)
    return folder / 'map.tif', truth


def coverage(
    path: Path, truth: np.ndarray, layers: tuple[str, ...]
) -> dict[str, float]:
    """Share of the intervals that hold the true value, by figure."""
    legend = Legend.load('land-cover-4')
    maps = ClassMaps([path], legend)
    strata = Strata(maps, layers)
    sizes = strata.measure()
    points = allocate(POINTS, sizes.weights, 50, sizes.pixels.tolist())
    with rasterio.open(path) as dataset:
        mapped = dataset.read(1).astype(int) - 1
    right = mapped == truth
    names = legend.class_names
    true = {'overall accuracy': right.mean()}
    for k, name in enumerate(names):
        true[f'area {name}'] = (truth == k).sum() / 100
        true[f"user's {name}"] = right[mapped == k].mean()
        true[f"producer's {name}"] = right[truth == k].mean()
    hits = dict.fromkeys(true, 0)
    for seed in range(SAMPLES):
        table = draw_sample(strata, sizes, points, seed)
        col = ((table.geometry.x - 1.6e6) // 10).to_numpy(int)
        row = ((1.9e6 - table.geometry.y) // 10).to_numpy(int)
        stratum = np.array([sizes.names.index(name) for name in table['stratum']])
        sample = StratifiedSample(
            stratum, mapped[row, col], truth[row, col], sizes.hectares, 4, sizes.pixels
        )
        figures = {'overall accuracy': sample.overall_accuracy}
        for k, name in enumerate(names):
            figures[f'area {name}'] = sample.areas[k]
            figures[f"user's {name}"] = sample.users_accuracy[k]
            figures[f"producer's {name}"] = sample.producers_accuracy[k]
        for name, figure in figures.items():
            low, high = figure.interval
            hits[name] += low <= true[name] <= high
    return {name: round(count / SAMPLES, 3) for name, count in hits.items()}


def main() -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory() as folder:
        path, truth = make(Path(folder))
        result = {
            ' by '.join(layers): coverage(path, truth, layers)
            for layers in (('class',), ('class', 'confidence'))
        }
    content = {'samples': SAMPLES, 'points': POINTS, 'coverage': result}
    RESULT.write_text(json.dumps(content, indent=1) + '\n')
    print(json.dumps(content, indent=1))


if __name__ == '__main__':
    main()
