# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where networks are trained: scenes with coarse labels, and HR labels of elsewhere."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from torchgeo_mapsr.datasets import make_scene
from torchgeo_mapsr.datasets.scene.scene import ORIGIN

from .regions import SETS, TARGET, Region

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
    """Make or find all places.

    * ``made``: a made scene with the label noise of NLCD; exemplars are those of a
      landscape of another seed
    * ``openearthmap``: three quarters of each scene; exemplars are the last quarter's
      HR labels
    * ``chesapeake_wv``: six patches with NLCD itself; exemplars are two more patches'

    Args:
        data: Folder of sets of scenes; sets that are not there are left out.
        work: Folder for files that are made.
        sets: Sets to look for; all if None.
        side: Rows and columns of the made scene.
    """
    for name in sets or TRAINING_SETS:
        if name == 'made':
            yield _made(work / f'made-{side}', side)
        folders = sorted(path.parent for path in (data / name).glob('*/imagery.tif'))
        if name == 'openearthmap':
            for folder in folders:
                yield _split(folder, work / name / folder.name)
        if name == 'chesapeake_wv' and folders:
            fitted, shown = folders[:-EXEMPLAR_PATCHES], folders[-EXEMPLAR_PATCHES:]
            region = Region(name, 'clean', tuple(fitted), *SETS[name])
            exemplars = tuple(str(folder / 'hr.tif') for folder in shown)
            yield Place(f'{name}/all', region, exemplars, tuple(shown))


def _made(folder: Path, side: int) -> Place:
    if not (folder / 'exemplars' / 'hr.tif').exists():
        make_scene(folder, seed=11, size=(side, side))
        make_scene(folder / 'exemplars', seed=12, size=(side // 2, side // 2))
    if not (folder / 'labelled' / 'hr.tif').exists():
        # not where the scene is: labels are found by their coordinates
        half = (side // 2, side // 2)
        make_scene(folder / 'labelled', seed=12, size=half, origin=ELSEWHERE)
    region = Region('made', 'clean', (folder,), 'nlcd', TARGET)
    exemplars = (str(folder / 'exemplars' / 'hr.tif'),)
    return Place('made/scene', region, exemplars, (folder / 'labelled',))


def _split(source: Path, folder: Path) -> Place:
    """The left three quarters of a scene to train on, the right one to show."""
    shown = folder / 'exemplars'
    if not (shown / 'lr.tif').exists():
        for part, start, stop in ((folder, 0, 0.75), (shown, 0.75, 1)):
            part.mkdir(parents=True, exist_ok=True)
            for name in ('imagery', 'hr'):
                _cut(source / f'{name}.tif', part / f'{name}.tif', start, stop)
            shutil.copy(source / 'lr.tif', part / 'lr.tif')
    region = Region('openearthmap', 'clean', (folder,), *SETS['openearthmap'])
    name = f'openearthmap/{folder.name}'
    return Place(name, region, (str(shown / 'hr.tif'),), (shown,))


def _cut(source: Path, path: Path, start: float, stop: float) -> None:
    """Columns of a raster, from one share of its width to another."""
    with rasterio.open(source) as file:
        left, right = (round(share * file.width) for share in (start, stop))
        window = Window(left, 0, right - left, file.height)
        profile = file.profile | {
            'width': right - left,
            'transform': file.window_transform(window),
        }
        with rasterio.open(path, 'w', **profile) as part:
            part.write(np.asarray(file.read(window=window)))
