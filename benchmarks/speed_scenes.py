# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Made scenes and whole runs of the command, as they are timed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchgeo_mapsr.datasets.scene.scene import Scene, make_scene
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region

from .measure import now

# ViT-S/14 of DINOv2 without its weights, which no time depends on.
VIT = 'timm:vit_small_patch14_dinov2?weights=random'
VIT_L = 'timm:vit_large_patch14_dinov2?weights=random'


@dataclass(frozen=True)
class Run:
    """A run of the command.

    Args:
        seconds: How long it took.
        start: When it began.
        report: Its report.
    """

    seconds: float
    start: float
    report: dict[str, Any]


def made(folder: Path, size: int) -> Scene:
    """A made scene of size x size metres and pixels, made once.

    Args:
        folder: Where scenes are kept.
        size: Its side.
    """
    place = folder / str(size)
    scene = Scene(place / 'imagery.tif', place / 'lr.tif', place / 'hr.tif', 'nlcd')
    if not place.exists():
        part = folder / f'{size}.part'
        make_scene(part, seed=3, size=(size, size))
        part.rename(place)
    return scene


def run(scene: Scene, folder: Path, **settings: Any) -> Run:
    """Map a scene.

    Args:
        scene: The scene.
        folder: Where the map goes.
        **settings: Of the job.
    """
    job = MapJob.from_flags(
        imagery=(str(scene.imagery),),
        labels=(str(scene.labels),),
        legend=scene.legend,
        output=folder / 'map.tif',
        overwrite=True,
        **settings,
    )
    start = now()
    report = map_region(job).report
    return Run(now() - start, start, report)


def fitted(scene: Scene, folder: Path, spec: str, chips: int = 8, **more: Any) -> Path:
    """A fit on some chips of a scene, kept as a file.

    Args:
        scene: The scene.
        folder: Where it is kept.
        spec: Spec of the backbone.
        chips: Chips to look at.
        **more: Further settings.
    """
    path = folder / 'fit.safetensors'
    run(scene, folder, backbone=spec, max_chips=chips, save_model=path, **more)
    return path


def stages(report: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Seconds of some stages of a run, on the wall."""
    return {name: report['timings'].get(name, 0.0) for name in names}
