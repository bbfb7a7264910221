# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Accuracy on a target without labels, from a source with coarse and noisy ones.

Rows of Liu et al. 2025: self-training, and a second stage on pseudo-labels; and of Dong et
al. 2023: class-aware selection, balance and contrast, whose supervised baseline weighs
classes, so that it finds the minority at all, and so do all rows.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
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
        labelled = np.concatenate([t[t >= 0] for t in self.truth])
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
        target = self.target.shares()
        rarest = np.minimum(self.source.shares(), target)
        there = np.flatnonzero(target > 0)
        return int(there[rarest[there].argmin()])


def find_problem(
    name: str, seed: int, data: Path, work: Path, side: int = SIDE
) -> Problem:
    """Make or read the problem of a set.

    Args:
        name: One of SETS.
        seed: Which landscape; real scenes are the same for all seeds.
        data: Folder of the real scenes.
        work: Folder for made scenes.
        side: Side of made scenes in metres.
    """
    if name == 'made':
        return made(seed, work, side)
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
        scene = mapsr.make_scene(
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


def _patches(scene: Domain) -> Domain:
    (image,), (truth,), (labels,) = scene.images, scene.truth, scene.labels
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
    labelled = np.concatenate([label[label >= 0] for label in domain.labels])
    side = int(CELL / FINE)
    block = np.ones((side, side), dtype=np.int64)

    def spoil(label: Labels) -> Labels:
        blocks = tuple(-(-n // side) for n in label.shape)
        drawn = np.kron(rng.choice(labelled, blocks), block)
        wrong = np.kron(rng.random(blocks) < NOISE, block) > 0
        inside = tuple(slice(n) for n in label.shape)
        return np.where(wrong[inside] & (label >= 0), drawn[inside], label)

    labels = tuple(spoil(label) for label in domain.labels)
    return Domain(domain.images, domain.truth, labels)


def _halves(scene: Path, shrink: int) -> tuple[Domain, Domain]:
    """West and east of a scene; the east in larger pixels."""
    domain = _read(scene / 'imagery.tif', scene / 'lr_noisy.tif', scene / 'hr.tif')
    source, target = _split(domain)
    (image,), (truth,), (labels,) = target.images, target.truth, target.labels
    small = torch.nn.functional.avg_pool2d(image, shrink)
    inside = (slice(small.shape[1]), slice(small.shape[2]))
    # the pixel beside the centre of each large one
    every = slice(shrink // 2, None, shrink)
    truth, labels = (v[every, every][inside] for v in (truth, labels))
    return source, Domain((small,), (truth,), (labels,))


def _split(scene: Domain) -> tuple[Domain, Domain]:
    """West and east of a scene."""
    (image,), (truth,), (labels,) = scene.images, scene.truth, scene.labels
    middle = image.shape[2] // 2
    west, east = (
        Domain((image[half],), (truth[half],), (labels[half],))
        for half in ((..., slice(middle)), (..., slice(middle, None)))
    )
    return west, east


def _read(imagery: Path, labels: Path, truth: Path) -> Domain:
    """Red, green and blue, HR labels and coarse labels under each pixel."""
    with rasterio.open(imagery) as file:
        values = file.read((1, 2, 3)).astype(np.float32)
    crosswalk = mapsr.Crosswalk.load(TARGET, TARGET)
    index = [read_labels(path, imagery, crosswalk) for path in (truth, labels)]
    return Domain((torch.from_numpy(values),), (index[0],), (index[1],))


def _join(domains: Iterator[Domain] | Sequence[Domain]) -> Domain:
    parts = list(domains)
    return Domain(
        tuple(image for d in parts for image in d.images),
        tuple(truth for d in parts for truth in d.truth),
        tuple(labels for d in parts for labels in d.labels),
    )


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
        makers: What trains the network of a row, by the row's name.
    """

    problem: Problem
    seed: int
    work: Path
    steps: int
    makers: dict[str, Callable[['Setting'], nn.Module]]
    _made: dict[str, nn.Module] = field(default_factory=dict)

    def network(self, row: str) -> nn.Module:
        """The network of a row: trained now, or before.

        Args:
            row: Name of the row.
        """
        if row not in self._made:
            name = f'{self.problem.set}-{self.seed}-{self.steps}-{row}.pt'
            path = self.work / 'networks' / name
            if path.exists():
                network = torch.load(path, weights_only=False)
            else:
                torch.manual_seed(self.seed)
                network = self.makers[row](self).eval()
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(network, path)
            self._made[row] = network
        return self._made[row]

    @property
    def arguments(self) -> Row:
        """What all tasks are given."""
        return {
            'network': mapsr.Network(
                MODEL, BACKBONE, in_channels=len(self.problem.source.images[0])
            ),
            'classes': mapsr.Classes(TARGET, TARGET),
            'supervision': 'hr',  # the labels of the crops, which are coarse and noisy
            'lr': LEARNING_RATE,
        }

    def source(self) -> Crops:
        """Labelled crops of the source."""
        domain = self.problem.source
        return self.crops(domain, domain.labels, self.seed)

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
        return Crops(domain.images, codes, seed, self.steps, BATCH, CROP)

    def train(self, task: Any, data: Any) -> nn.Module:
        """Train a task, one pass over batches: crops, or a loader; its network."""
        if isinstance(data, Dataset):
            data = DataLoader(data, batch_size=None)
        train(task, data)
        return task.model

    @torch.inference_mode()
    def maps(self, network: nn.Module) -> list[Labels]:
        """Map the target.

        Args:
            network: From images to scores.

        Returns:
            Class index of each image's pixels.
        """
        network.eval()
        images = self.problem.target.images
        return [network(image[None])[0].argmax(0).numpy() for image in images]


# The paper's α of 0.999 looks back over a thousand steps, of tens of thousands.
EMA_DECAY = 0.97


def first_stage(setting: Setting, **options: Any) -> nn.Module:
    """Train on source and target."""
    task = mapsr.SelfTrainingTask(**setting.arguments, ema_decay=EMA_DECAY, **options)
    parts = {'source': setting.source(), 'target': setting.target()}
    loaders = {k: DataLoader(part, batch_size=None) for k, part in parts.items()}
    return setting.train(task, CombinedLoader(loaders, 'min_size'))


def second_stage(setting: Setting, **options: Any) -> nn.Module:
    """Train a new network on what the first stage says of the target."""
    labels = tuple(setting.maps(setting.network('self')))
    task = mapsr.PseudoLabelTask(**setting.arguments, **options)
    return setting.train(task, setting.target(labels))


def ensemble(setting: Setting) -> nn.Module:
    """Average three networks."""
    return Ensemble([setting.network(row) for row in ('self', 'sce', 'lovasz')])


def selected(setting: Setting, *, minority: bool = True) -> tuple[Domain, list[Labels]]:
    """Patches of the target, and what the network of the row “supervised” says of them.

    Args:
        setting: Where.
        minority: Select those with the minority class; as many at random otherwise.
    """
    target = setting.problem.target
    maps = setting.maps(setting.network('supervised'))
    boxes, counts = [], []
    for number, classes in enumerate(maps):
        for top in starts(classes.shape[0], CROP, CROP):
            for left in starts(classes.shape[1], CROP, CROP):
                box = (slice(top, top + CROP), slice(left, left + CROP))
                boxes.append((number, box))
                count = np.bincount(classes[box].ravel(), minlength=4)
                counts.append(count / count.sum())
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
    patches = Domain(
        tuple(target.images[n][:, *box] for n, box in taken),
        tuple(target.truth[n][box] for n, box in taken),
        tuple(target.labels[n][box] for n, box in taken),
    )
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


def shares(setting: Setting) -> list[float]:
    """Share of each class in the labels of the source."""
    labels = setting.problem.source.labels
    labelled = np.concatenate([label[label >= 0] for label in labels])
    return (np.bincount(labelled, minlength=4) / len(labelled)).tolist()


def supervised(setting: Setting) -> nn.Module:
    """Train on labels of the source."""
    task = mapsr.ClassAwareTask(
        **setting.arguments, shares=shares(setting), contrast=0.0
    )
    return setting.train(task, setting.source())


def pseudo_labelled(setting: Setting) -> nn.Module:
    """Train on labels of the source and on pseudo-labels of selected patches."""
    patches, labels = selected(setting)
    crops = setting.crops(patches, labels, setting.seed + 1000)
    task = mapsr.ClassAwareTask(
        **setting.arguments, shares=shares(setting), contrast=0.0
    )
    return setting.train(task, Together(setting.source(), crops))


def class_aware(
    setting: Setting, *, minority: bool = True, **options: Any
) -> nn.Module:
    """Train on the source and on patches without labels."""
    patches, _ = selected(setting, minority=minority)
    crops = setting.crops(patches, None, setting.seed + 1000)
    task = mapsr.ClassAwareTask(**setting.arguments, shares=shares(setting), **options)
    parts = {'source': setting.source(), 'target': crops}
    loaders = {k: DataLoader(part, batch_size=None) for k, part in parts.items()}
    return setting.train(task, CombinedLoader(loaders, 'min_size'))


#: What makes the network of a row. It gives scores (B, C, H, W) of images.
ROWS: dict[str, Callable[[Setting], nn.Module]] = {
    'source': partial(first_stage, target_weight=0, alignment=None),
    'raa': partial(first_stage, target_weight=0),
    'self': first_stage,
    'pseudo': partial(second_stage, sce_weight=0, lovasz_weight=0),
    'sce': partial(second_stage, lovasz_weight=0),
    'lovasz': second_stage,
    'ensemble': ensemble,
    'supervised': supervised,
    'selection': pseudo_labelled,
    'cbce': partial(class_aware, contrast=0.0),
    'contrast': class_aware,
    'random': partial(class_aware, minority=False),
    'likelihood': partial(class_aware, sampling='likelihood'),
    'detached': partial(class_aware, sampling='detached'),
}
TITLES = {
    'source': 'source only',
    'raa': '+ resolution alignment',
    'self': '+ self-training',
    'pseudo': 'second stage on its pseudo-labels: cross entropy',
    'sce': '+ symmetric cross entropy',
    'lovasz': '+ Lovász',
    'ensemble': 'ensemble of the rows + self-training, + SCE, + Lovász',
    'supervised': 'supervised, classes weighed by W (eq. 3)',
    'selection': '+ pseudo-labels of selected patches',
    'cbce': 'supervised, W from the prior of source and selected patches (eq. 4)',
    'contrast': '+ class centre contrast (eq. 6): the default',
    'random': 'the default, with random patches',
    'likelihood': 'the default, with s(x, y) (eq. 2) as a likelihood',
    'detached': 'the default, with s(x, y) as a number, cut at 0',
}


def score(problem: Problem, maps: Sequence[Labels]) -> Row:
    """Compare maps of the target with the truth.

    The minority is that of the problem, which is rare in the source too.
    """
    parts = zip(problem.target.truth, maps, strict=True)
    total = np.sum([confusion_matrix(*part, 4) for part in parts], 0)
    figures = figures_of(total)
    minority = figures['iou'][problem.minority] or 0.0
    return {
        'miou': round(figures['miou'], 5),
        'recall': round(figures['recall'], 5),
        'minority_iou': round(minority, 5),
        'confusion': total.tolist(),
    }


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A row on a set with a seed each."""
    work, side = options.work / 'noisy', 240 if options.tiny else SIDE
    for name in ['made'] if options.tiny else options.sets:
        if name != 'made' and not (options.data / name).is_dir():
            continue
        steps = 1 if options.tiny else options.steps or STEPS[name]
        for seed in options.seeds:

            @cache
            def setting(
                name: str = name, seed: int = seed, steps: int = steps
            ) -> Setting:
                problem = find_problem(name, seed, options.data, work, side)
                return Setting(problem, seed, work, steps, ROWS)

            for row in options.rows:
                key = {'set': name, 'seed': seed, 'row': row, 'steps': steps}
                yield key, partial(_measure, setting, row)


def _measure(setting: Callable[[], Setting], row: str) -> Row:
    made = setting()
    return score(made.problem, made.maps(made.network(row)))


def markdown(release: Release) -> str:
    """The table, and where the figures come from."""
    steps = unique(f'{row["steps"]} for {row["set"]}' for row in release.rows)
    trained = (
        f'Every training: {MODEL} {BACKBONE}, random start, steps of {BATCH} crops of'
    )
    source = f'{trained} {CROP}² pixels: {", ".join(steps)}.'
    table = seed_grid(release, TITLES, FIGURES)
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
