# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Memory and time against the size of the raster."""

from pathlib import Path
from typing import Any

import numpy as np

from torchgeo_mapsr.memory import frugal

from .measure import Peak, alone, ratio
from .speed_scenes import fitted, made, run

# The default backbone would need half an hour for 64 km² on two cores; memory is that
# of chips and tiles, and everything after the backbone is the same.
SPEC = 'rcf?filters=8&colours=16&strides=1,4'


def measure(
    folder: Path, sizes: tuple[int, ...] = (1024, 4096, 8192), spec: str = SPEC
) -> dict[str, Any]:
    """Map made scenes with one fit, each in a process of its own.

    Args:
        folder: Where scenes and maps are put.
        sizes: Sides of the scenes in metres and pixels.
        spec: Spec of the backbone.
    """
    for size in sizes:
        made(folder, size)
    fit = fitted(made(folder, sizes[0]), folder, spec)
    runs = {str(size): alone('speed_flat.mapped', str(folder), size, str(fit))
            for size in sizes}  # fmt: skip
    peaks = [run['peak_mib'] for run in runs.values()]
    areas = [np.log(size**2) for size in sizes]
    times = [np.log(run['seconds']) for run in runs.values()]
    return {
        'backbone': spec,
        'runs': runs,
        'memory_range': ratio(max(peaks) - min(peaks), min(peaks)),
        'exponent': round(float(np.polyfit(areas, times, 1)[0]), 3),
        'exponent_of_largest': round(
            float((times[-1] - times[-2]) / (areas[-1] - areas[-2])), 3
        ),
    }


def mapped(folder: str, size: int, fit: str) -> dict[str, Any]:
    """One run, as the command does it; called alone."""
    frugal()  # as main does
    with Peak() as peak:
        done = run(made(Path(folder), size), Path(folder), model=Path(fit))
    files = {'map': 'map.tif', 'confidence': 'map_confidence.tif'}
    sizes = {name: (Path(folder) / file).stat().st_size for name, file in files.items()}
    return {**peak.to_dict(), 'timings': done.report['timings'], 'bytes': sizes}
