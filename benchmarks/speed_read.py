# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""How fast chips are read, with the labels around them, for a backbone that waits."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from torchgeo_mapsr.datasets.geo.plan import Plan, default_overlap
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.mapping.extractor import Extractor
from torchgeo_mapsr.mapping.inputs import Inputs
from torchgeo_mapsr.mapping.model import Model
from torchgeo_mapsr.mapping.prefetch import prefetch, torch_threads
from torchgeo_mapsr.mapping.timing import Stopwatch
from torchgeo_mapsr.models.backbones.identity import Identity
from torchgeo_mapsr.models.head.head import Classifier

from .measure import alone, now, ratio
from .speed_scenes import fitted, made

# As for ViT-S/14: two tokens.
HALO = 28
SPEC = 'rcf?filters=4&colours=8&strides=1,4'

# Processes side by side, and threads in each.
WAYS = (1, 1), (1, 2), (2, 1)

# How often all chips are read, so that processes start at about the same time.
AGAIN = 4


def measure(
    folder: Path, size: int = 4096, chip: int = 448, rounds: int = 3
) -> dict[str, Any]:
    """Read all chips of a made scene, and do nothing with them.

    Where a GPU does the rest, this is what its process needs a core for, and no chip is
    mapped faster. Ways take turns; the median counts.

    Args:
        folder: Where scenes are.
        size: Side of the scene in metres and pixels.
        chip: Side of a chip.
        rounds: How often each way is measured.
    """
    scene = made(folder, size)
    fit = fitted(made(folder, min(size, 1024)), folder, SPEC)
    kept = fit.with_name('read.safetensors')
    fit.rename(kept)
    chips: dict[tuple[int, int], list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for (processes, threads), found in chips.items():
            args = str(scene.imagery), str(scene.labels), str(kept), chip, threads
            with ThreadPoolExecutor(processes) as pool:
                running = [
                    pool.submit(alone, 'speed_read.read', *args)
                    for _ in range(processes)
                ]
                found.append(sum(done.result()['rate'] for done in running))
    # Each adds a square to the map, without what it shares with its neighbours.
    own = (chip - default_overlap(chip, HALO)) ** 2 / 1e6
    rows = []
    for (processes, threads), found in chips.items():
        rate = sorted(found)[rounds // 2]
        rows.append(
            {
                'processes': processes,
                'threads': threads,
                'chips_a_second': ratio(rate, 1),
                'km2_a_second': ratio(rate * own, 1),
            }
        )
    return {'size': size, 'chip': chip, 'rows': rows}


def read(
    imagery: str, labels: str, fit: str, chip: int, threads: int
) -> dict[str, Any]:
    """Chips that one process reads a second; called alone."""
    images = Imagery([imagery])
    classifier = Classifier.load(fit)
    crosswalk = Crosswalk.load('nlcd', classifier.target)
    inputs = Inputs((images,), LabelRaster.open([labels]), classifier.target, crosswalk)
    extractor = Extractor(Identity(images.bands), torch.device('cpu'))
    model = Model(extractor, classifier, inputs, Stopwatch())
    plan = Plan(images.geobox, chip, 2048, default_overlap(chip, HALO), HALO)
    function = model.reader(images, plan)
    chips = list(plan.lattice()) * AGAIN
    function(chips[0])
    with torch_threads(1):
        start = now()
        for _ in prefetch(function, chips, 2 * threads, threads, each=1):
            pass
        return {'rate': len(chips) / (now() - start)}
