# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Networks trained from coarse labels, beside what they are compared with.

HR labels of a scene score its maps, and train nothing but the row that is called a
bound; exemplars are HR labels of elsewhere.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import rasterio
import torch
import yaml
from rasterio.windows import Window
from torch import Tensor

from .networks import train
from .package import ORIGIN, TARGET, majority_of_cells, mapsr
from .regions import REAL, SETS, Maps, Region
from .scores import figures_of, seed_test
from .store import Release, Row
from .table import Table, Trial, seed_grid, seed_rows, source_of_seeds, unique

STEPS = 120

#: Sets of places in the order of the table. The figure of a set is the mean over its
#: places.
TRAINING_SETS = ('made', 'openearthmap', 'chesapeake_wv')

# Chesapeake patches whose HR labels are the exemplars; the others are trained on.
EXEMPLAR_PATCHES = 2

# Side of the made scene, in pixels of 1 m: 4 km².
MADE = 2000

# Upper left corner of the made scene whose HR labels and imagery are known.
ELSEWHERE = (ORIGIN[0], ORIGIN[1] + 10_000)


@dataclass(frozen=True)
class Place:
    """What networks are trained on and scored by.

    Args:
        name: Of the set, and of the scene.
        region: Imagery, coarse labels, and the HR labels that score.
        exemplars: HR labels of another place, in the truth's legend.
        labelled: Folders of scenes with HR labels of another place, with imagery.
    """

    name: str
    region: Region
    exemplars: tuple[str, ...]
    labelled: tuple[Path, ...] = ()


def find_places(
    data: Path, work: Path, sets: Sequence[str] | None = None, side: int = MADE
) -> Iterator[Place]:
    """Make or find all places; sets that are not there are left out.

    * ``made``: a made scene with the label noise of NLCD; exemplars are those of a
      landscape of another seed
    * ``openearthmap``: three quarters of each scene; exemplars are the last quarter's
      HR labels
    * ``chesapeake_wv``: six patches with NLCD itself; exemplars are two more patches'
    """
    for name in sets or TRAINING_SETS:
        folders = sorted(path.parent for path in (data / name).glob('*/imagery.tif'))
        if name == 'made':
            yield _made(work / f'made-{side}', side)
        elif name == 'openearthmap':
            for folder in folders:
                yield _split(folder, work / name / folder.name)
        elif folders:
            fitted, shown = folders[:-EXEMPLAR_PATCHES], folders[-EXEMPLAR_PATCHES:]
            region = Region(name, REAL, tuple(fitted), *SETS[name])
            yield _place(f'{name}/all', region, shown, shown)


def _place(
    name: str, region: Region, shown: Sequence[Path], labelled: Sequence[Path]
) -> Place:
    exemplars = tuple(str(folder / 'hr.tif') for folder in shown)
    return Place(name, region, exemplars, tuple(labelled))


def _made(folder: Path, side: int) -> Place:
    shown, labelled, half = folder / 'exemplars', folder / 'labelled', side // 2
    if not (labelled / 'hr.tif').exists():
        mapsr.make_scene(folder, seed=11, size=(side, side))
        mapsr.make_scene(shown, seed=12, size=(half, half))
        # not where the scene is: labels are found by their coordinates
        mapsr.make_scene(labelled, seed=12, size=(half, half), origin=ELSEWHERE)
    region = Region('made', 'clean', (folder,), 'nlcd', TARGET)
    return _place('made/scene', region, [shown], [labelled])


def _split(source: Path, folder: Path) -> Place:
    """The left three quarters of a scene to train on, the right one to show."""
    shown = folder / 'exemplars'
    if not (shown / 'lr.tif').exists():
        for part, start, stop in ((folder, 0, 0.75), (shown, 0.75, 1)):
            part.mkdir(parents=True, exist_ok=True)
            for name in ('imagery.tif', 'hr.tif'):
                _cut(source / name, part / name, start, stop)
            shutil.copy(source / 'lr.tif', part / 'lr.tif')
    region = Region('openearthmap', 'clean', (folder,), *SETS['openearthmap'])
    return _place(f'openearthmap/{folder.name}', region, [shown], [shown])


def _cut(source: Path, path: Path, start: float, stop: float) -> None:
    """Columns of a raster, from one share of its width to another."""
    with rasterio.open(source) as file:
        left, right = (round(share * file.width) for share in (start, stop))
        window = Window(left, 0, right - left, file.height)
        place = {'width': right - left, 'transform': file.window_transform(window)}
        with rasterio.open(path, 'w', **file.profile | place) as part:
            part.write(np.asarray(file.read(window=window)))


CROP, BATCH = 128, 4

# Halves the time on processors that have it, and half precision is tried on the way.
PRECISION = 'bf16-mixed'

# Side and margin of the windows that are predicted, in pixels.
_WINDOW, _MARGIN = 512, 32


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        place: Where.
        seed: Of the initialisation and of the crops.
        steps: Batches that are trained on.
        work: Folder for files that are made.
    """

    place: Place
    seed: int
    steps: int
    work: Path

    @property
    def options(self) -> dict[str, Any]:
        """What all segmentation tasks of the table are made with."""
        region = self.place.region
        return {
            'network': mapsr.Network(in_channels=len(region.images[0])),
            'classes': mapsr.Classes(
                region.legend, TARGET, truth_legend=region.truth_legend
            ),
        }

    def segmentation(self, supervision: Any) -> mapsr.SegmentationTask:
        """A segmentation task of the table, with some labels."""
        return mapsr.SegmentationTask(
            'unet',
            'resnet18',
            in_channels=self.options['network'].in_channels,
            classes=self.options['classes'],
            supervision=supervision,
            scheduler='cosine',
        )

    def train(
        self,
        task: Any,
        batch: int = BATCH,
        epochs: int = 1,
        labelled: Sequence[Path] = (),
        balance: float = 0.0,
    ) -> None:
        """Train a task on random crops, flipped and turned.

        Where there are other scenes with HR labels (*labelled*), those of the place
        itself are kept from the task.
        """
        region = self.place.region
        data = mapsr.PairDataModule(
            [*map(str, region.imagery), *(str(f / 'imagery.tif') for f in labelled)],
            [*map(str, region.label_files), *(str(f / 'lr.tif') for f in labelled)],
            [str(scene / 'hr.tif') for scene in labelled or region.scenes],
            batch_size=batch,
            patch_size=CROP,
            length=self.steps * batch // epochs,
            augment=True,
            balance=balance,
        )
        train(task, data, max_epochs=epochs, precision=PRECISION, limit_val_batches=0)

    def fit(self, make: Callable[[], Any], **options: Any) -> Maps:
        """Make a task, train it and map the scenes with its network.

        Returns:
            Class index of each scene's pixels.
        """
        lightning.seed_everything(self.seed, verbose=False)
        task = make()
        self.train(task, **options)
        return self.predict(task.model)

    def predict(self, network: Callable[[Tensor], Tensor]) -> Maps:
        """Map the scenes, window by window with a margin."""
        if isinstance(network, torch.nn.Module):
            network.eval()
        maps = []
        for image in self.place.region.images:
            values = torch.from_numpy(image)
            height, width = values.shape[1:]
            classes = np.zeros((height, width), np.int64)
            corners = product(*(range(0, n, _WINDOW) for n in (height, width)))
            for top, left in corners:
                a, b = max(top - _MARGIN, 0), max(left - _MARGIN, 0)
                end = top + _WINDOW + _MARGIN, left + _WINDOW + _MARGIN
                with torch.inference_mode(), torch.autocast('cpu'):
                    part = network(values[None, :, a : end[0], b : end[1]])[0]
                part = part[:, top - a :, left - b :][:, :_WINDOW, :_WINDOW]
                index = part.float().argmax(0).numpy()
                h, w = index.shape
                classes[top : top + h, left : left + w] = index
            maps.append(classes)
        return maps


def _oracle(trial: Training) -> Maps:
    region = trial.place.region
    parts = zip(region.label_files, region.imagery, region.truth, strict=True)
    return [majority_of_cells(*part, region.classes) for part in parts]


def _segmented(supervision: Any) -> Callable[[Training], Maps]:
    """A segmentation network with some labels."""
    return lambda trial: trial.fit(lambda: trial.segmentation(supervision))


def _adversarial(trial: Training, **network: Any) -> Maps:
    place, options = trial.place, trial.options
    task = partial(
        mapsr.AdversarialTask,
        **options | {'network': replace(options['network'], **network)},
        exemplars=place.exemplars,
        exemplar_legend=place.region.truth_legend,
    )
    return trial.fit(task)


def _pretrained(trial: Training) -> Maps:
    path = trial.work / 'encoders' / f'{trial.place.name}-{trial.seed}.safetensors'
    lightning.seed_everything(trial.seed, verbose=False)
    pretraining = mapsr.MaskedAutoencoderTask(
        in_channels=trial.options['network'].in_channels,
        size=CROP,
        dim=128,
        depth=4,
        heads=4,
        decoder_dim=64,
        decoder_depth=1,
        decoder_heads=4,
        lr=1e-3,
        output=str(path),
    )
    trial.train(pretraining, 2 * BATCH)
    return _adversarial(trial, weights=str(path))


# Of the HR labels' cross entropy beside the statistics loss.
HR_WEIGHT = 1.0

# Chips of the paper's own method are drawn inversely to the frequency of their coarse
# classes; by its square root here, since some classes have a handful of cells.
BALANCE = 0.5


def _statistics(trial: Training) -> str:
    """Malkin's table for NLCD; of majority labels, what a majority is."""
    if trial.place.region.legend == 'nlcd':
        return 'malkin2019'
    codes = mapsr.Legend.load(TARGET).codes.tolist()
    path = trial.work / 'majority.yaml'
    shares = {code: {'shares': {code: [0.4, 1.0]}} for code in codes}
    content = {'source': TARGET, 'target': TARGET, 'classes': shares}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return str(path)


def _soft(trial: Training) -> Maps:
    supervision = mapsr.ExpectedShares(_statistics(trial))
    return trial.fit(lambda: trial.segmentation(supervision))


def _em(trial: Training) -> Maps:
    task = partial(
        mapsr.ExpectationMaximizationTask,
        **trial.options,
        supervision=mapsr.MatchedStatistics(_statistics(trial)),
        warmup_epochs=6,
        round_epochs=2,
    )
    return trial.fit(task, epochs=10)


def _matched(
    trial: Training, balance: float = BALANCE, labelled: bool = False, **options: Any
) -> Maps:
    supervision = mapsr.MatchedStatistics(_statistics(trial), **options)
    return trial.fit(
        lambda: trial.segmentation(supervision),
        balance=balance,
        labelled=trial.place.labelled if labelled else (),
    )


#: Rows by name, in the order of the table: their title, and what makes the maps.
ROWS: dict[str, tuple[str, Callable[[Training], Maps]]] = {
    'copy': ('LR copy (the paper’s Oracle)', lambda trial: trial.place.region.coarse),
    'oracle': ('Oracle: majority of the HR labels in each cell', _oracle),
    'low': ('Low (hard naive)', _segmented('lr')),
    'agg': ('Agg', _segmented(mapsr.RegionLabels())),
    'app': ('Agg + App', _adversarial),
    'pre': ('Agg + App + Pre', _pretrained),
    'soft': ('Soft naive', _soft),
    'em': ('EM with superpixels', _em),
    'sr_area': ('SR, with chips by area', partial(_matched, balance=0.0)),
    'sr': ('SR', _matched),
    'sr_l2': ('SR without the log-variance term', partial(_matched, variance_weight=0)),
    'hr_sr': (
        'HR + SR (HR labels of the other place)',
        partial(_matched, labelled=True, hr_weight=HR_WEIGHT),
    ),
    'high': (
        'High (bound: trained with HR labels of the same scenes)',
        _segmented('hr'),
    ),
}

# Rows that know no seed.
SEEDLESS = 'copy', 'oracle'

FIGURES = {'miou': 'mIoU', 'accuracy': 'accuracy', 'f1': 'F1'}

# What the papers found: the first row is above the second.
CLAIMS = (
    ('app', 'low'),
    ('pre', 'app'),
    ('low', 'agg'),
    ('sr', 'low'),
    ('high', 'low'),
)


def trials(options: argparse.Namespace) -> Iterator[Trial]:
    """A row at a place with a seed each; what knows no seed has the first."""
    steps, side = (1, 160) if options.tiny else (options.steps, options.side)
    sets = ['made'] if options.tiny else options.sets
    work = options.work / 'training'
    places = list(find_places(options.data, work, sets, side))
    for seed, place, name in product(options.seeds, places, options.rows):
        if name in SEEDLESS and seed != options.seeds[0]:
            continue
        kind, scene = place.name.split('/')
        key = {'set': kind, 'scene': scene, 'row': name, 'seed': seed}
        key['steps'] = 0 if name in SEEDLESS else steps
        yield key, partial(measure, Training(place, seed, steps, work), name)


def measure(trial: Training, name: str) -> Row:
    """Train, map and score."""
    maps = ROWS[name][1](trial)
    total = sum(trial.place.region.score(maps).values())
    figures = figures_of(total)
    developed = trial.place.region.score_developed(maps)
    return {
        **{figure: round(figures[figure], 5) for figure in FIGURES},
        'confusion': np.asarray(total).tolist(),
        'developed': None if developed is None else developed.tolist(),
    }


def checks(release: Release) -> list[str]:
    """What the papers found, and whether it was found here."""
    lines = {(row['set'], row['row']): row['miou'] for row in release.rows}
    sentences = []
    for above, below in CLAIMS:
        for name in TRAINING_SETS:
            a, b = (lines.get((name, row), []) for row in (above, below))
            if not a or not b:
                continue
            gain = float(np.mean(a) - np.mean(b))
            verdict, by = 'a single seed', ''
            if min(len(a), len(b)) > 1:
                found, p = seed_test(a, b)
                verdict = {'above': 'yes', 'below': '**no**', 'level': 'level'}[found]
                by = f' (p {p:.2g})'
            sentences.append(
                f'- {verdict}: {ROWS[above][0]} above {ROWS[below][0]}, {name}: '
                f'{gain:+.3f} mIoU{by}'
            )
    return sentences


def markdown(release: Release) -> str:
    """Table and checks, and where the figures come from."""
    steps = ' or '.join(
        map(str, unique(r['steps'] for r in release.rows if r['steps']))
    )
    trained = f'Each network was trained for {steps} steps of {BATCH} crops of {CROP}².'
    table = seed_grid(release, ROWS, FIGURES)
    source = f'{trained} {source_of_seeds(release)}'
    asked = 'What the papers found, here (Welch’s test over the seeds, two-sided, 5 %):'
    return '\n\n'.join([table, asked, '\n'.join(checks(release)), source])


TABLE = Table(
    'training',
    'networks trained from coarse labels',
    trials,
    partial(seed_rows, figures=FIGURES),
    markdown,
    sets=TRAINING_SETS,
    rows=tuple(ROWS),
    seeds=(0, 1, 2),
    arguments={'steps': STEPS, 'side': MADE},
)
