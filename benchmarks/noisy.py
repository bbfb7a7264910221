# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Accuracy on a target without labels, from a source with coarse and noisy ones.

Rows of Liu et al. 2025: self-training, and a second stage on pseudo-labels; and of Dong et
al. 2023: class-aware selection, balance and contrast, whose supervised baseline weighs
classes, so that it finds the minority at all, and so do all rows.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import rasterio
import torch
from lightning.pytorch.utilities import CombinedLoader
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .frozen_noise import FIGURES
from .networks import Crops, train
from .package import TARGET, Ensemble, mapsr, read_labels, select_patches, starts
from .scores import confusion_matrix, figures_of
from .store import Release, Row
from .table import Table, Trial, seed_grid, seed_rows, source_of_seeds, unique

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
class Piece:
    """An image, or a part of one.

    Args:
        image: Values as they are stored, (C, H, W) float32.
        truth: Class index of each pixel, (H, W), -1 if none; for scoring.
        labels: What is known of them: coarse and noisy, -1 if none.
    """

    image: Tensor
    truth: Labels
    labels: Labels

    def cut(self, *box: slice) -> 'Piece':
        """Its pixels in rows and columns."""
        return Piece(self.image[:, *box], self.truth[box], self.labels[box])

    def halves(self) -> tuple['Piece', 'Piece']:
        """West and east."""
        middle, rows = self.truth.shape[1] // 2, slice(None)
        return self.cut(rows, slice(middle)), self.cut(rows, slice(middle, None))


Domain = list[Piece]


def shares(labels: Iterable[Labels]) -> NDArray[np.float64]:
    """Share of each class in labels."""
    labelled = np.concatenate([label[label >= 0] for label in labels])
    return np.bincount(labelled, minlength=4) / max(len(labelled), 1)


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
        source, target = (
            shares(p.truth for p in domain) for domain in (self.source, self.target)
        )
        present = np.flatnonzero(target > 0)
        return int(present[np.minimum(source, target)[present].argmin()])


def find_problem(
    name: str, seed: int, data: Path, work: Path, side: int = SIDE
) -> Problem:
    """Make or read the problem of a set; real scenes are the same for all seeds."""
    if name == 'made':
        return made(seed, work, side)
    source, target = [], []
    for folder in sorted(path.parent for path in (data / name).glob('*/imagery.tif')):
        files = (folder / f'{file}.tif' for file in ('imagery', 'lr_noisy', 'hr'))
        west, east = _read(*files).halves()
        source.append(west)
        target.append(_shrunk(east, REAL[name]))
    return Problem(name, source, target)


def made(seed: int, work: Path, side: int) -> Problem:
    """Made scenes with a resolution gap, noisy labels and a rare class.

    Source and target lie side by side in one landscape. Of the source's patches with
    water only so many are kept that it has one pixel in 100.
    """
    scenes = []
    landscape = LANDSCAPES[seed % len(LANDSCAPES)]
    for resolution in (FINE, COARSE):
        size = int(side / resolution)
        scene = mapsr.make_scene(
            work / f'landscape-{landscape}-{side}-{resolution:g}',
            seed=landscape,
            size=(size, 2 * size),
            resolution=resolution,
            labels=TARGET,
            cell=CELL,
        )
        scenes.append(_read(scene.imagery, scene.labels, scene.truth))
    west, east = scenes[0].halves()[0], scenes[1].halves()[1]
    rows, cols = (range(0, n - PATCH + 1, PATCH) for n in west.truth.shape)
    boxes = product(*([slice(i, i + PATCH) for i in axis] for axis in (rows, cols)))
    patches = [west.cut(*box) for box in boxes]
    return Problem('made', _noisy(_with_rare_water(patches), seed), [east])


def _with_rare_water(domain: Domain) -> Domain:
    """Dry patches, and few wet ones: water as rare as RARE, or as near as these allow.

    Few patches with much of it, and not many with a sliver: coarse labels, which tell
    of the class that covers most of a cell, would hardly have any.
    """
    water = np.array([(piece.truth == WATER).mean() for piece in domain])
    chosen = np.flatnonzero(water < RARE / 10).tolist()
    wet = [i for i in range(len(water)) if i not in set(chosen)]
    while wet:
        missing = RARE * (len(chosen) + 1) - water[chosen].sum()
        best = min(wet, key=lambda i: abs(water[i] - missing))
        if abs(water[best] - missing) >= abs(missing):
            break
        wet.remove(best)
        chosen.append(best)
    return [domain[i] for i in sorted(chosen)]


def _noisy(domain: Domain, seed: int) -> Domain:
    """Draw some labels anew, from all there are: in blocks of a cell's size."""
    rng = np.random.default_rng(seed)
    labelled = np.concatenate([piece.labels[piece.labels >= 0] for piece in domain])
    side = int(CELL / FINE)
    block = np.ones((side, side), dtype=np.int64)

    def spoil(label: Labels) -> Labels:
        blocks = tuple(-(-n // side) for n in label.shape)
        drawn = np.kron(rng.choice(labelled, blocks), block)
        wrong = np.kron(rng.random(blocks) < NOISE, block) > 0
        inside = tuple(slice(n) for n in label.shape)
        return np.where(wrong[inside] & (label >= 0), drawn[inside], label)

    return [replace(piece, labels=spoil(piece.labels)) for piece in domain]


def _shrunk(piece: Piece, shrink: int) -> Piece:
    """The same in larger pixels, whose labels are those beside the centre of each."""
    small = torch.nn.functional.avg_pool2d(piece.image, shrink)
    every = slice(shrink // 2, None, shrink)
    inside = (slice(small.shape[1]), slice(small.shape[2]))
    truth, labels = (v[every, every][inside] for v in (piece.truth, piece.labels))
    return Piece(small, truth, labels)


def _read(imagery: Path, labels: Path, truth: Path) -> Piece:
    """Red, green and blue, HR labels and coarse labels under each pixel."""
    with rasterio.open(imagery) as file:
        values = file.read((1, 2, 3)).astype(np.float32)
    walk = mapsr.Crosswalk.load(TARGET, TARGET)
    index = [read_labels(path, imagery, walk) for path in (truth, labels)]
    return Piece(torch.from_numpy(values), *index)


# For every training. The paper's are tens of thousands of steps on four GPUs. What is
# rare takes longer to learn.
STEPS = {'made': 300, 'deepglobe': 150, 'sentinel2_korea': 150}
BATCH, CROP, LEARNING_RATE = 4, 64, 2e-3
MODEL, BACKBONE = 'unet', 'tu-resnet10t'


@dataclass(frozen=True, eq=False)
class Setting:
    """One problem, one seed, and the networks that were trained for it so far.

    Args:
        problem: Source and target.
        seed: Seed of weights, crops and everything else that is drawn.
        work: Folder where networks are kept, so that rows can build on others.
        steps: Steps of each training.
    """

    problem: Problem
    seed: int
    work: Path
    steps: int
    _made: dict[str, nn.Module] = field(default_factory=dict)

    def network(self, row: str) -> nn.Module:
        """The network of a row: trained now, or before."""
        if row not in self._made:
            name = f'{self.problem.set}-{self.seed}-{self.steps}-{row}.pt'
            path = self.work / 'networks' / name
            if path.exists():
                network = torch.load(path, weights_only=False)
            else:
                torch.manual_seed(self.seed)
                network = ROWS[row][1](self).eval()
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(network, path)
            self._made[row] = network
        return self._made[row]

    @property
    def arguments(self) -> Row:
        """What all tasks are given."""
        return {
            'network': mapsr.Network(
                MODEL, BACKBONE, in_channels=len(self.problem.source[0].image)
            ),
            'classes': mapsr.Classes(TARGET, TARGET),
            'supervision': 'hr',  # the labels of the crops, which are coarse and noisy
            'lr': LEARNING_RATE,
        }

    def source(self) -> Crops:
        """Labelled crops of the source."""
        domain = self.problem.source
        return self.crops(domain, [piece.labels for piece in domain], self.seed)

    def target(self, labels: Sequence[Labels] | None = None) -> Crops:
        """Crops of the target, without labels or with pseudo-labels."""
        return self.crops(self.problem.target, labels, self.seed + 1000)

    def crops(
        self, domain: Domain, labels: Sequence[Labels] | None, seed: int
    ) -> Crops:
        """Crops of a domain with labels as codes, which are index + 1."""
        codes = None
        if labels is not None:
            codes = [torch.from_numpy(np.where(v >= 0, v + 1, -1)) for v in labels]
        images = [piece.image for piece in domain]
        return Crops(images, codes, seed, self.steps, BATCH, CROP)

    def train(self, task: Any, data: Any) -> nn.Module:
        """Train a task, one pass over batches: crops, or a loader; its network."""
        if isinstance(data, Dataset):
            data = DataLoader(data, batch_size=None)
        train(task, data)
        return task.model

    @torch.inference_mode()
    def maps(self, network: nn.Module) -> list[Labels]:
        """Class index of each pixel of the target's images, as a network says."""
        network.eval()
        images = [piece.image for piece in self.problem.target]
        return [network(image[None])[0].argmax(0).numpy() for image in images]


# The paper's α of 0.999 looks back over a thousand steps, of tens of thousands.
EMA_DECAY = 0.97


def pairs(source: Crops, target: Crops) -> CombinedLoader:
    """Batches of source and target."""
    parts = {'source': source, 'target': target}
    loaders = {name: DataLoader(p, batch_size=None) for name, p in parts.items()}
    return CombinedLoader(loaders, 'min_size')


def first_stage(setting: Setting, **options: Any) -> nn.Module:
    """Train on source and target."""
    task = mapsr.SelfTrainingTask(**setting.arguments, ema_decay=EMA_DECAY, **options)
    return setting.train(task, pairs(setting.source(), setting.target()))


def second_stage(setting: Setting, **options: Any) -> nn.Module:
    """Train a new network on what the first stage says of the target."""
    labels = tuple(setting.maps(setting.network('self')))
    task = mapsr.PseudoLabelTask(**setting.arguments, **options)
    return setting.train(task, setting.target(labels))


def ensemble(setting: Setting) -> nn.Module:
    """Average three networks."""
    return Ensemble([setting.network(row) for row in ('self', 'sce', 'lovasz')])


def selected(setting: Setting, *, minority: bool = True) -> tuple[Domain, list[Labels]]:
    """Patches of the target, and what the network of the row “supervised” says of them."""
    target = setting.problem.target
    maps = setting.maps(setting.network('supervised'))
    boxes, counts = [], []
    for number, classes in enumerate(maps):
        for corner in product(*(starts(n, CROP, CROP) for n in classes.shape)):
            box = tuple(slice(first, first + CROP) for first in corner)
            boxes.append((number, box))
            counts.append(shares([classes[box]]))
    try:
        table = select_patches(
            pandas.DataFrame(counts), [setting.problem.minority], seed=setting.seed
        )
        chosen = table.index.to_numpy()
    except mapsr.InputError:  # the network finds none
        chosen = np.arange(len(boxes))
    if not minority:
        rng = np.random.default_rng(setting.seed)
        chosen = rng.permutation(len(boxes))[: len(chosen)]
    taken = [boxes[i] for i in chosen]
    patches = [target[n].cut(*box) for n, box in taken]
    return patches, [maps[n][box] for n, box in taken]


class Together(Dataset[dict[str, Tensor]]):
    """Batches of two sources of crops, one under the other."""

    def __init__(self, *parts: Crops) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        first, second = (part[index] for part in self.parts)
        return {key: torch.cat([first[key], second[key]]) for key in first}


def class_aware_task(setting: Setting, **options: Any) -> mapsr.ClassAwareTask:
    """The task of Dong et al., with the shares of the source's labels."""
    frequency = shares(piece.labels for piece in setting.problem.source).tolist()
    return mapsr.ClassAwareTask(**setting.arguments, shares=frequency, **options)


def supervised(setting: Setting) -> nn.Module:
    """Train on labels of the source."""
    return setting.train(class_aware_task(setting, contrast=0.0), setting.source())


def pseudo_labelled(setting: Setting) -> nn.Module:
    """Train on labels of the source and on pseudo-labels of selected patches."""
    crops = setting.crops(*selected(setting), setting.seed + 1000)
    both = Together(setting.source(), crops)
    return setting.train(class_aware_task(setting, contrast=0.0), both)


def class_aware(
    setting: Setting, *, minority: bool = True, **options: Any
) -> nn.Module:
    """Train on the source and on patches without labels."""
    patches, _ = selected(setting, minority=minority)
    crops = setting.crops(patches, None, setting.seed + 1000)
    task = class_aware_task(setting, **options)
    return setting.train(task, pairs(setting.source(), crops))


#: Title of each row, and what makes its network: from images to scores (B, C, H, W).
ROWS: dict[str, tuple[str, Callable[[Setting], nn.Module]]] = {
    'source': ('source only', partial(first_stage, target_weight=0, alignment=None)),
    'raa': ('+ resolution alignment', partial(first_stage, target_weight=0)),
    'self': ('+ self-training', first_stage),
    'pseudo': (
        'second stage on its pseudo-labels: cross entropy',
        partial(second_stage, sce_weight=0, lovasz_weight=0),
    ),
    'sce': ('+ symmetric cross entropy', partial(second_stage, lovasz_weight=0)),
    'lovasz': ('+ Lovász', second_stage),
    'ensemble': ('ensemble of the rows + self-training, + SCE, + Lovász', ensemble),
    'supervised': ('supervised, classes weighed by W (eq. 3)', supervised),
    'selection': ('+ pseudo-labels of selected patches', pseudo_labelled),
    'cbce': (
        'supervised, W from the prior of source and selected patches (eq. 4)',
        partial(class_aware, contrast=0.0),
    ),
    'contrast': ('+ class centre contrast (eq. 6): the default', class_aware),
    'random': (
        'the default, with random patches',
        partial(class_aware, minority=False),
    ),
    'likelihood': (
        'the default, with s(x, y) (eq. 2) as a likelihood',
        partial(class_aware, sampling='likelihood'),
    ),
    'detached': (
        'the default, with s(x, y) as a number, cut at 0',
        partial(class_aware, sampling='detached'),
    ),
}


def score(problem: Problem, maps: Sequence[Labels]) -> Row:
    """Compare maps of the target with the truth.

    The minority is that of the problem, which is rare in the source too.
    """
    parts = zip(problem.target, maps, strict=True)
    total = np.sum([confusion_matrix(p.truth, m, 4) for p, m in parts], 0)
    figures = figures_of(total)
    figures['minority_iou'] = figures['iou'][problem.minority] or 0.0
    rounded = {name: round(figures[name], 5) for name in FIGURES}
    return rounded | {'confusion': total.tolist()}


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A row on a set with a seed each."""
    work, side = options.work / 'noisy', 240 if options.tiny else SIDE

    @cache  # made when a row asks for it, and for all rows
    def setting(name: str, seed: int, steps: int) -> Setting:
        problem = find_problem(name, seed, options.data, work, side)
        return Setting(problem, seed, work, steps)

    def measure(row: str, *which: Any) -> Row:
        of_set = setting(*which)
        return score(of_set.problem, of_set.maps(of_set.network(row)))

    names = ['made'] if options.tiny else options.sets
    names = [n for n in names if n == 'made' or (options.data / n).is_dir()]
    for name, seed, row in product(names, options.seeds, options.rows):
        steps = 1 if options.tiny else options.steps or STEPS[name]
        key = {'set': name, 'seed': seed, 'row': row, 'steps': steps}
        yield key, partial(measure, row, name, seed, steps)


def markdown(release: Release) -> str:
    """The table, and where the figures come from."""
    steps = unique(f'{row["steps"]} for {row["set"]}' for row in release.rows)
    source = (
        f'Every training: {MODEL} {BACKBONE}, random start, steps of {BATCH} crops of '
        f'{CROP}² pixels: {", ".join(steps)}.'
    )
    table = seed_grid(release, ROWS, FIGURES)
    return f'{table}\n\n{source} {source_of_seeds(release)}'


TABLE = Table(
    'noisy',
    'networks from noisy and scarce labels, on a target without any',
    trials,
    partial(seed_rows, figures=FIGURES),
    markdown,
    sets=SETS,
    rows=tuple(ROWS),
    seeds=(0, 1, 2),
    arguments={'steps': 0},
)
