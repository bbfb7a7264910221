# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The one module that imports the package: what benchmarks use of it.

Whoever renames something in the package has this file to change, and no other one of
this folder.
"""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchgeo_mapsr.mapping.extractor import Extractor, chips_at_once, device_of
from torchgeo_mapsr.mapping.model import Model
from torchgeo_mapsr.mapping.prefetch import prefetch, torch_threads
from torchgeo_mapsr.models.head.samples import CellSamples, PixelSamples

import torchgeo_mapsr as mapsr
from torchgeo_mapsr.datasets import RecoveredLabels, region_map
from torchgeo_mapsr.datasets.geo.grid import starts
from torchgeo_mapsr.datasets.geo.plan import Axis, Plan, default_overlap
from torchgeo_mapsr.datasets.legends.statistics import class_counts
from torchgeo_mapsr.datasets.patches import select_patches
from torchgeo_mapsr.datasets.scene.scene import ORIGIN, Scene
from torchgeo_mapsr.evaluation.accuracy import Confusion, compare
from torchgeo_mapsr.main import main as command
from torchgeo_mapsr.mapping.inputs import Inputs
from torchgeo_mapsr.mapping.timing import Stopwatch
from torchgeo_mapsr.memory import frugal
from torchgeo_mapsr.models.backbones.backbone import Backbone
from torchgeo_mapsr.models.backbones.identity import Identity
from torchgeo_mapsr.models.backbones.rcf import RCF
from torchgeo_mapsr.models.head.fit import fit_classifier
from torchgeo_mapsr.models.head.probe import class_weights, fit_probe
from torchgeo_mapsr.models.head.prompts import CosinePrompts
from torchgeo_mapsr.models.networks.ensemble import Ensemble
from torchgeo_mapsr.models.propagation.propagation import Propagation
from torchgeo_mapsr.models.tokens.tokens import Tokens
from torchgeo_mapsr.versions import versions

TARGET = 'land-cover-4'

# The default of the package, and how to get that of 0.1.0 once it is another one.
DEFAULT: dict[str, Any] = {}
VERSION_0_1_0: dict[str, Any] = {}

# Constants that a leave-one-set-out row chooses among: settings of a map from a fit that
# exists. All of them are scored on every set.
CANDIDATES: dict[str, dict[str, Any]] = {
    f'{score}, prior {prior:g}': {'score': score, 'prior': prior}
    for score in ('probe', 'lda', 'fusion')
    for prior in (0.0, 0.1, 0.2, 0.5)
}

Indices = NDArray[np.int64]


def run_job(
    imagery: Sequence[str | Path],
    labels: Sequence[str | Path],
    legend: str | None,
    output: str | Path,
    **settings: Any,
) -> dict[str, Any]:
    """Map a region as the command does.

    Args:
        imagery: Files of imagery.
        labels: Coarse labels; may be empty with ``model``.
        legend: Their legend.
        output: The map, or a folder that ends with a slash.
        **settings: Settings of the job, by the names of the command's options.

    Returns:
        The report.
    """
    return mapsr.map_region(
        mapsr.MapJob(
            imagery=tuple(map(str, imagery)),
            labels=tuple(map(str, labels)),
            legend=legend,
            output=output,
            overwrite=True,
            **settings,
        )
    ).report


def stage_seconds(report: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Seconds of some stages of a run, on the wall."""
    return {name: report['timings'].get(name, 0.0) for name in names}


def fit_chips(report: dict[str, Any]) -> int:
    """Chips that the fit of a run looked at."""
    return int(report['fit']['chips'])


def run_command(*args: object) -> tuple[int, str, str]:
    """Run the command line in this process.

    Args:
        *args: Its arguments.

    Returns:
        Exit code, what it printed, and what it said on standard error.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 2
    return code, out.getvalue(), err.getvalue()


def read_labels(
    path: str | Path, like: str | Path, crosswalk: mapsr.Crosswalk
) -> Indices:
    """Class index of the label under each pixel's centre.

    Args:
        path: Labels in any grid.
        like: Raster whose pixels are meant.
        crosswalk: From the labels' codes to the classes.

    Returns:
        (H, W); -1 if there is none.
    """
    return crosswalk.index(read_codes(path, like))


def read_codes(path: str | Path, like: str | Path) -> Indices:
    """Code of the label under each pixel's centre, (H, W)."""
    return mapsr.LabelRaster.open(path)[0].at(mapsr.Imagery([str(like)]).geobox)


def read_map(path: str | Path) -> Indices:
    """Class index of each pixel of a map, (H, W); -1 where it has no data."""
    with rasterio.open(path) as file:
        return mapsr.Legend.load(TARGET).index(file.read(1).astype(np.int64))


def majority_of_cells(
    labels: str | Path, imagery: str | Path, truth: Indices, classes: int
) -> Indices:
    """The commonest HR class of each LR cell, at its pixels.

    Args:
        labels: Coarse labels, whose grid it is.
        imagery: Raster whose pixels are meant.
        truth: Their class index, -1 if none, (H, W).
        classes: Number of classes.

    Returns:
        (H, W); -1 outside.
    """
    grid = mapsr.LabelRaster.open(labels)[0].geobox
    cells = region_map(mapsr.Imagery([str(imagery)]).geobox, grid)
    counts = class_counts(cells.mask_region, truth, len(cells.share), classes)
    return np.append(counts.argmax(1), -1)[cells.mask_region - 1]


def rcf_of_fit(fit: Path, bands: int, spec: str) -> RCF:
    """The embedded backbone as a saved fit has calibrated it."""
    backbone = mapsr.create_backbone(spec, bands)
    assert isinstance(backbone, RCF)
    backbone.load_calibration(dict(mapsr.Classifier.load(fit).calibration))
    return backbone


def cosine_prompts(fit: Path) -> Tensor:
    """One prompt a class of a saved fit, (C, D); NaN for a class without one."""
    prompts = mapsr.Classifier.load(fit).cosine
    assert prompts is not None
    return prompts.prompts[:, 0]


def count_chips(imagery: Path, chip: int, halo: int, stride: int) -> int:
    """Chips of the map pass of a raster."""
    plan = Plan(
        mapsr.Imagery([str(imagery)]).geobox,
        chip,
        2048,
        default_overlap(chip, halo),
        halo,
        stride,
    )
    return len(list(plan.lattice()))


def chip_reader(
    imagery: str, labels: str, fit: str, chip: int, halo: int
) -> tuple[Callable[[Any], Any], list[Any]]:
    """What reads a chip of imagery and the labels around it, and all chips.

    Args:
        imagery: Imagery.
        labels: NLCD.
        fit: A saved fit.
        chip: Side of a chip.
        halo: Pixels at its border that lack context.
    """
    images = mapsr.Imagery([imagery])
    classifier = mapsr.Classifier.load(fit)
    crosswalk = mapsr.Crosswalk.load('nlcd', classifier.target)
    inputs = Inputs(
        (images,), mapsr.LabelRaster.open([labels]), classifier.target, crosswalk
    )
    extractor = Extractor(Identity(images.bands), torch.device('cpu'))
    model = Model(extractor, classifier, inputs, Stopwatch())
    plan = Plan(images.geobox, chip, 2048, default_overlap(chip, halo), halo)
    return model.reader(images, plan), list(plan.lattice())


def made_samples(
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
    cell_samples = CellSamples(
        features * scale + 1,
        torch.where(wrong, torch.randint(classes, (cells,)), label),
        torch.ones(cells, dtype=torch.float64),
        torch.stack([torch.zeros_like(index), index // side, index % side], 1),
    )
    pixel_label = torch.randint(classes, (pixels,))
    values = centres[pixel_label] + torch.randn(pixels, dimensions) @ mixing
    return cell_samples, PixelSamples(values * scale + 1, pixel_label)


def solve_probe(cells: CellSamples, pixels: PixelSamples, strength: float) -> None:
    """Fit the probe alone, at one strength."""
    classes = len(mapsr.Legend.load(TARGET))
    scale, mean = torch.std_mean(pixels.features, 0)
    weight = class_weights(cells.label, classes, 0.5)
    features = (cells.features - mean) / scale
    fit_probe(features, cells.label, classes, strength, weight)


def solve_fit(cells: CellSamples, pixels: PixelSamples) -> None:
    """Fit everything that follows the chips of a fit."""
    fit_classifier(cells, pixels, mapsr.Legend.load(TARGET))


def read_areas(text: str) -> list[dict[str, Any]]:
    """Areas of the verb ``area``: a row a class with its interval, from its JSON."""
    content = json.loads(text)
    return list(content['areas'] if 'areas' in content else content['classes'])
