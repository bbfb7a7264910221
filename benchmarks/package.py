# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The one module that imports the package: what benchmarks use of it.

Whoever renames something in the package has this file to change, and no other one of
this folder.
"""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from torch import Tensor

import torchgeo_mapsr as mapsr
from torchgeo_mapsr.datasets import RecoveredLabels, region_map
from torchgeo_mapsr.datasets.geo.grid import starts
from torchgeo_mapsr.datasets.geo.plan import Axis, Plan, Tile, default_overlap
from torchgeo_mapsr.datasets.legends.statistics import class_counts
from torchgeo_mapsr.datasets.patches import select_patches
from torchgeo_mapsr.datasets.scene.scene import ORIGIN, Scene
from torchgeo_mapsr.evaluation.accuracy import compare
from torchgeo_mapsr.evaluation.confusion import Confusion
from torchgeo_mapsr.evaluation.reliability import Reliability, map_reliability
from torchgeo_mapsr.main import main as command
from torchgeo_mapsr.mapping.progress import Stopwatch
from torchgeo_mapsr.mapping.tile_files import TileFiles
from torchgeo_mapsr.mapping.tiles import ModelScores, TileItem
from torchgeo_mapsr.models.backbones.backbone import Backbone
from torchgeo_mapsr.models.backbones.rcf import RCF
from torchgeo_mapsr.models.devices import chips_at_once, device_of
from torchgeo_mapsr.models.features import extract
from torchgeo_mapsr.models.head.cells import CellTable
from torchgeo_mapsr.models.head.fit import fit_head
from torchgeo_mapsr.models.head.probe import class_weights, fit_probe
from torchgeo_mapsr.models.head.prompts import CosinePrompts
from torchgeo_mapsr.models.networks.ensemble import Ensemble
from torchgeo_mapsr.models.propagation.propagation import Propagation
from torchgeo_mapsr.models.tokens.tokens import Tokens
from torchgeo_mapsr.process import frugal, prefetch, torch_threads
from torchgeo_mapsr.versions import versions

TARGET = 'land-cover-4'

# Of the fit: the default, that of 0.1.0, and the published form, which has no prior.
DEFAULT: dict[str, Any] = {}
VERSION_0_1_0: dict[str, Any] = {'recipe': 'classes'}
COSINE: dict[str, Any] = {'score': 'cosine'}

# Constants that a leave-one-set-out row chooses among: settings of a map from a fit that
# exists. All of them are scored on every set.
CANDIDATES: dict[str, dict[str, Any]] = {
    f'{score}, prior {prior:g}': {'score': score, 'prior': prior}
    for score in ('probe', 'lda', 'fusion')
    for prior in (0.0, 0.1, 0.2, 0.5)
}

Indices = NDArray[np.int64]


def first_tiles(count: int, output: str, **values: Any) -> None:
    """Fit, and map so many tiles or all; what was made is thrown away."""
    made: list[Tile] = []
    save = TileFiles.save

    def stop(self: TileFiles, image: int, tile: Tile, **arrays: Any) -> None:
        save(self, image, tile, **arrays)
        made.append(tile)
        if len(made) == count:
            raise KeyboardInterrupt

    TileFiles.save = stop  # type: ignore[method-assign]
    try:
        with contextlib.suppress(KeyboardInterrupt):
            run_job(output=output, **values)
    finally:
        TileFiles.save = save  # type: ignore[method-assign]
        shutil.rmtree(f'{output}.parts', ignore_errors=True)


def open_files(folder: str) -> None:
    """Open imagery as a job does, tell it from other imagery, and read a chip."""
    imagery = mapsr.Imagery(folder)
    imagery.fingerprint()
    assert not imagery.changed()
    imagery.read(imagery.geobox[:448, :448])


def run_job(
    imagery: Sequence[str | Path],
    labels: Sequence[str | Path],
    legend: str | None,
    output: str | Path,
    **settings: Any,
) -> dict[str, Any]:
    """Map a region as the command does, with its options by name; the report."""
    job = mapsr.MapJob.from_flags(
        imagery=tuple(map(str, imagery)),
        labels=tuple(map(str, labels)),
        legend=legend,
        output=output,
        overwrite=True,
        **settings,
    )
    return mapsr.map_region(job).report


def run_command(*args: object) -> tuple[int, str, str]:
    """Run the command line here: exit code, what it printed, and standard error."""
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
    """Class index of the label under each pixel of a raster, (H, W); -1 if none."""
    return crosswalk.index(read_codes(path, like))


def read_codes(path: str | Path, like: str | Path) -> Indices:
    """Code of the label under the centre of each pixel of a raster, (H, W)."""
    return mapsr.LabelRaster.open(path)[0].at(mapsr.Imagery(str(like)).geobox)


def read_map(path: str | Path) -> Indices:
    """Class index of each pixel of a map, (H, W); -1 where it has no data."""
    with rasterio.open(path) as file:
        return mapsr.Legend.load(TARGET).index(file.read(1).astype(np.int64))


def majority_of_cells(
    labels: str | Path, imagery: str | Path, truth: Indices, classes: int
) -> Indices:
    """The commonest class of the truth in each LR cell, at its pixels; -1 outside."""
    grid = mapsr.LabelRaster.open(labels)[0].geobox
    cells = region_map(mapsr.Imagery(str(imagery)).geobox, grid)
    counts = class_counts(cells.mask_region, truth, len(cells.share), classes)
    return np.append(counts.argmax(1), -1)[cells.mask_region - 1]


def cosine_prompts(fit: mapsr.LandCoverModel) -> Tensor:
    """One prompt a class, (C, D); NaN for a class without one."""
    assert fit.head.cosine is not None
    return fit.head.cosine.prompts[:, 0]


def plan_of(imagery: str | Path, chip: int, halo: int, stride: int = 1) -> Plan:
    """Chips and tiles of a raster, by the command's defaults."""
    grid = mapsr.Imagery(str(imagery)).geobox
    return Plan(grid, chip, 2048, default_overlap(chip, halo), halo, stride)


def chip_reader(
    imagery: str, labels: str, fit: str, chip: int, halo: int
) -> tuple[Callable[[Any], Any], list[Any]]:
    """What reads a chip and the labels around it for a map, and all chips."""
    plan = plan_of(imagery, chip, halo)
    scores = ModelScores(
        mapsr.LandCoverModel.load(fit), mapsr.LabelRaster.open([labels])
    )
    item = TileItem(0, mapsr.Imagery(imagery), plan, next(iter(plan.tiles())))
    watch = Stopwatch()
    return lambda index: scores.read(item, index, watch), list(plan.lattice())


def made_cells(
    cells: int, dimensions: int, pixels: int, noise: float = 0.15
) -> CellTable:
    """Cells that mix a class with something else, of which some labels are wrong.

    Features are correlated and of different scales, as those of networks are.
    """
    torch.manual_seed(0)
    codes = torch.tensor(mapsr.Legend.load(TARGET).codes)
    centres = 0.15 * torch.randn(len(codes), dimensions)
    mixing = torch.randn(dimensions, dimensions) / dimensions**0.5
    scale = 3 * torch.rand(dimensions)
    label, owner = torch.randint(len(codes), (cells,)), torch.randint(cells, (pixels,))
    share = 0.3 + 0.7 * torch.rand(cells, 1)
    features = centres[label] * share + 0.35 * torch.randn(cells, dimensions) @ mixing
    values = centres[label[owner]] + torch.randn(pixels, dimensions) @ mixing
    wrong = torch.rand(cells) < noise
    label = torch.where(wrong, torch.randint(len(codes), (cells,)), label)
    index, side = torch.arange(cells), int(cells**0.5) + 1
    return CellTable(
        features * scale + 1,
        codes[label],
        torch.ones(cells, dtype=torch.float64),
        torch.stack([torch.zeros_like(index), index // side, index % side], 1),
        values * scale + 1,
        owner,
    )


def solve_probe(table: CellTable, strength: float = 1e-3) -> None:
    """Fit the probe alone, at one strength."""
    legend = mapsr.Legend.load(TARGET)
    label = torch.from_numpy(legend.index(table.code.numpy()))
    scale, mean = torch.std_mean(table.pixels, 0)
    weight = class_weights(label, len(legend), 0.5)
    features = (table.features - mean) / scale
    fit_probe(features, label, len(legend), strength, weight)


def solve_fit(table: CellTable) -> None:
    """Fit everything that follows the chips of a fit."""
    fit_head(table, mapsr.Crosswalk.load(TARGET, TARGET))


def read_intervals(path: Path) -> dict[str, tuple[float, float]]:
    """Intervals of what ``area --json`` has estimated, by figure and class."""
    content = json.loads(path.read_text())
    figures = {'overall accuracy': content['overall_accuracy']}
    for row in content['classes']:
        figures |= {
            f'area, {row["name"]}': row['area_hectares'],
            f'user’s accuracy, {row["name"]}': row['users_accuracy'],
            f'producer’s accuracy, {row["name"]}': row['producers_accuracy'],
        }
    return {name: tuple(figure['interval']) for name, figure in figures.items()}
