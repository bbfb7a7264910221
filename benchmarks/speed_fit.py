# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What a fit costs: calls of the backbone, and solving."""

from pathlib import Path
from typing import Any

import torch

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.models.head.fit import fit_classifier
from torchgeo_mapsr.models.head.probe import class_weights, fit_probe
from torchgeo_mapsr.models.head.samples import CellSamples, PixelSamples

from .measure import Forwards, now
from .speed_scenes import made, run

VIT_TINY = 'timm:vit_tiny_patch16_224?weights=random'
STRENGTH = 1e-3


def measure(
    folder: Path, cells: int = 50_000, dimensions: int = 384, pixels: int = 100_000
) -> dict[str, Any]:
    """Solve a fit of made samples, and count a run's calls of the backbone.

    Args:
        folder: Where the scene and the map are put.
        cells: LR cells.
        dimensions: Features.
        pixels: Pixels that prompts and scales are found from.
    """
    of_cells, of_pixels = samples(cells, dimensions, pixels)
    target = Legend.load('land-cover-4')
    scale, mean = torch.std_mean(of_pixels.features, 0)
    standard = (of_cells.features - mean) / scale
    weight = class_weights(of_cells.label, len(target), 0.5)
    start = now()
    fit_probe(standard, of_cells.label, len(target), STRENGTH, weight)
    probe = now() - start
    start = now()
    fit_classifier(of_cells, of_pixels, target)
    return {
        'cells': cells,
        'dimensions': dimensions,
        'pixels': pixels,
        'probe_seconds': round(probe, 3),
        'everything_seconds': round(now() - start, 3),
        'calls': calls(folder),
    }


def calls(folder: Path, size: int = 768, chips: int = 3) -> dict[str, Any]:
    """Count the calls of the backbone in a whole run, and in one with a saved fit."""
    scene = made(folder, size)
    fit = folder / 'calls.safetensors'
    with Forwards() as both:
        report = run(
            scene, folder, backbone=VIT_TINY, max_chips=chips, save_model=fit
        ).report
    with Forwards() as mapping:
        run(scene, folder, model=fit)
    return {
        'fit_and_map': len(both.seconds),
        'map': len(mapping.seconds),
        'chips_of_the_fit': report['fit']['chips'],
    }


def samples(
    cells: int, dimensions: int, pixels: int, classes: int = 4, noise: float = 0.15
) -> tuple[CellSamples, PixelSamples]:
    """Cells that mix a class with something else, of which some labels are wrong.

    Features are correlated and of different scales, as those of networks are.
    """
    torch.manual_seed(0)
    centres = 0.15 * torch.randn(classes, dimensions)
    mixing = torch.randn(dimensions, dimensions) / dimensions**0.5
    scale = 3 * torch.rand(dimensions)
    label = torch.randint(classes, (cells,))
    share = 0.3 + 0.7 * torch.rand(cells, 1)
    features = centres[label] * share + 0.35 * torch.randn(cells, dimensions) @ mixing
    wrong = torch.rand(cells) < noise
    side = int(cells**0.5) + 1
    index = torch.arange(cells)
    of_cells = CellSamples(
        features * scale + 1,
        torch.where(wrong, torch.randint(classes, (cells,)), label),
        torch.ones(cells, dtype=torch.float64),
        torch.stack([torch.zeros_like(index), index // side, index % side], 1),
    )
    own = torch.randint(classes, (pixels,))
    values = centres[own] + torch.randn(pixels, dimensions) @ mixing
    return of_cells, PixelSamples(values * scale + 1, own)
