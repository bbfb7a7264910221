# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What is learned from and what is mapped: a noisy source, and a target without labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.scene.scene import make_scene

TARGET = 'land-cover-4'
WATER = 0

# Made scenes: side in metres, pixels of source and target in metres, side of the cells
# that have one label, side of the patches that water is made rare among in pixels, and
# how rare; and share of the cells whose label is wrong.
SIDE, FINE, COARSE, CELL, PATCH = 960, 1.0, 2.5, 10.0, 96
RARE = 1 / 100
NOISE = 0.2

# Landscapes of the seeds. Waters differ, from clear to muddy, also within a landscape:
# in these, source and target have water of one colour. A class that looks otherwise in
# the target could not be found by anyone, and all rows had 0 there.
LANDSCAPES = (1, 2, 11)

# Real scenes, with the noisy coarse labels that they come with: the western half of each
# is the source, the eastern half the target, shrunk by so much.
REAL = {'deepglobe': 2, 'sentinel2_korea': 1}
SETS = ('made', *REAL)

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Domain:
    """Images of one kind.

    Args:
        images: Values as they are stored, (C, H, W) float32 each.
        truth: Class index of each image's pixels, -1 if none; for scoring.
        labels: What is known of them: coarse and noisy, -1 if none.
    """

    images: tuple[Tensor, ...]
    truth: tuple[Labels, ...]
    labels: tuple[Labels, ...]

    def shares(self) -> NDArray[np.float64]:
        """Share of each class in the truth."""
        known = np.concatenate([t[t >= 0] for t in self.truth])
        return np.bincount(known, minlength=4) / max(len(known), 1)


@dataclass(frozen=True, eq=False)
class Problem:
    """A source to learn from and a target to map.

    Args:
        set: Name of the set.
        source: Its noisy labels train.
        target: Its images train without labels, and are mapped.
    """

    set: str
    source: Domain
    target: Domain

    @property
    def minority(self) -> int:
        """The class of the target that is rarest, in the source or in the target."""
        target = self.target.shares()
        rarest = np.minimum(self.source.shares(), target)
        there = np.flatnonzero(target > 0)
        return int(there[rarest[there].argmin()])


def find_problem(name: str, seed: int, data: Path, work: Path) -> Problem:
    """Make or read the problem of a set.

    Args:
        name: One of SETS.
        seed: Which landscape; real scenes are the same for all seeds.
        data: Folder of the real scenes.
        work: Folder for made scenes.
    """
    if name == 'made':
        return made(seed, work, SIDE)
    halves = [
        _halves(scene.parent, REAL[name])
        for scene in sorted((data / name).glob('*/imagery.tif'))
    ]
    source, target = zip(*halves, strict=True)
    return Problem(name, _join(source), _join(target))


def made(seed: int, work: Path, side: int) -> Problem:
    """Made scenes with a resolution gap, noisy labels and a rare class.

    Source and target lie side by side in one landscape. Of the source's patches with
    water only so many are kept that it has one pixel in 100.

    Args:
        seed: Which of the landscapes, and of the labels' errors.
        work: Folder for the files.
        side: Side of the scenes in metres.
    """
    parts = []
    landscape = LANDSCAPES[seed % len(LANDSCAPES)]
    for resolution in (FINE, COARSE):
        size = int(side / resolution)
        scene = make_scene(
            work / f'landscape-{landscape}-{side}-{resolution:g}',
            seed=landscape,
            size=(size, 2 * size),
            resolution=resolution,
            labels=TARGET,
            cell=CELL,
        )
        parts.append(_read(scene.imagery, scene.labels, scene.truth))
    west, _ = _split(parts[0])
    _, east = _split(parts[1])
    return Problem('made', _noisy(_with_rare_water(_patches(west)), seed), east)


def _patches(whole: Domain) -> Domain:
    (image,), (truth,), (labels,) = whole.images, whole.truth, whole.labels
    rows, cols = (range(0, n - PATCH + 1, PATCH) for n in truth.shape)
    boxes = [(slice(i, i + PATCH), slice(j, j + PATCH)) for i in rows for j in cols]
    return Domain(
        tuple(image[:, *box] for box in boxes),
        tuple(truth[box] for box in boxes),
        tuple(labels[box] for box in boxes),
    )


def _with_rare_water(domain: Domain) -> Domain:
    """Dry patches, and few wet ones: water as rare as RARE, or as near as these allow.

    Few patches with much of it, and not many with a sliver: coarse labels, which tell
    of the class that covers most of a cell, would hardly have any.
    """
    water = np.array([(truth == WATER).mean() for truth in domain.truth])
    chosen = np.flatnonzero(water < RARE / 10).tolist()
    wet = [i for i in range(len(water)) if i not in set(chosen)]
    while wet:
        missing = RARE * (len(chosen) + 1) - water[chosen].sum()
        best = min(wet, key=lambda i: abs(water[i] - missing))
        if abs(water[best] - missing) >= abs(missing):
            break
        wet.remove(best)
        chosen.append(best)
    chosen.sort()
    return _join(
        Domain((domain.images[i],), (domain.truth[i],), (domain.labels[i],))
        for i in chosen
    )


def _noisy(domain: Domain, seed: int) -> Domain:
    """Draw some labels anew, from all there are: in blocks of a cell's size."""
    rng = np.random.default_rng(seed)
    known = np.concatenate([label[label >= 0] for label in domain.labels])
    side = int(CELL / FINE)
    block = np.ones((side, side), dtype=np.int64)

    def spoil(label: Labels) -> Labels:
        blocks = tuple(-(-n // side) for n in label.shape)
        drawn = np.kron(rng.choice(known, blocks), block)
        wrong = np.kron(rng.random(blocks) < NOISE, block) > 0
        inside = tuple(slice(n) for n in label.shape)
        return np.where(wrong[inside] & (label >= 0), drawn[inside], label)

    labels = tuple(spoil(label) for label in domain.labels)
    return Domain(domain.images, domain.truth, labels)


def _halves(scene: Path, shrink: int) -> tuple[Domain, Domain]:
    """West and east of a scene; the east in larger pixels."""
    whole = _read(scene / 'imagery.tif', scene / 'lr_noisy.tif', scene / 'hr.tif')
    source, target = _split(whole)
    (image,), (truth,), (labels,) = target.images, target.truth, target.labels
    small = torch.nn.functional.avg_pool2d(image, shrink)
    inside = (slice(small.shape[1]), slice(small.shape[2]))
    # the pixel beside the centre of each large one
    every = slice(shrink // 2, None, shrink)
    truth, labels = (v[every, every][inside] for v in (truth, labels))
    return source, Domain((small,), (truth,), (labels,))


def _split(whole: Domain) -> tuple[Domain, Domain]:
    """West and east of a scene."""
    (image,), (truth,), (labels,) = whole.images, whole.truth, whole.labels
    middle = image.shape[2] // 2
    west, east = (
        Domain((image[half],), (truth[half],), (labels[half],))
        for half in ((..., slice(middle)), (..., slice(middle, None)))
    )
    return west, east


def _read(imagery: Path, labels: Path, truth: Path) -> Domain:
    """Red, green and blue, HR labels and coarse labels under each pixel."""
    image = Imagery(imagery)
    values, _ = image.read(image.geobox)
    crosswalk = Crosswalk.load(TARGET, TARGET)
    codes = [LabelRaster.open(path)[0].at(image.geobox) for path in (truth, labels)]
    index = [crosswalk.index(c) for c in codes]
    return Domain((torch.from_numpy(values[:3]),), (index[0],), (index[1],))


def _join(domains: Iterator[Domain] | Sequence[Domain]) -> Domain:
    found = list(domains)
    return Domain(
        tuple(image for d in found for image in d.images),
        tuple(truth for d in found for truth in d.truth),
        tuple(labels for d in found for labels in d.labels),
    )
