# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The real scenes: what is fitted together, and how maps of it are scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from .package import TARGET, mapsr, read_codes, read_labels, read_map, run_job
from .scores import Matrix, confusion_matrix
from .store import ROOT

SHARED = ROOT.parent / 'shared'

# Legends of the coarse and of the HR labels.
SETS = {
    'openearthmap': (TARGET, 'openearthmap'),
    'chesapeake_wv': ('nlcd', 'chesapeake-7'),
    'deepglobe': (TARGET, TARGET),
    'sentinel2_korea': (TARGET, TARGET),
}

# The patches of one quarter-quad are fitted together, scenes of other sets one by one.
TOGETHER = ('chesapeake_wv',)

# Patches whose HR labels call leafless forest low vegetation (56 % of all field pixels
# of the set): they are fitted and mapped, and not scored.
UNSOUND = ('-3', '-7')

# Files of coarse labels; in chesapeake_wv they are NLCD itself.
LABELS = {'clean': 'lr.tif', 'noisy': 'lr_noisy.tif', 'nlcd': 'lr_nlcd.tif'}
REAL, BOUND = 'real', 'hr'
_FILES = {**LABELS, REAL: LABELS['clean'], BOUND: 'hr.tif'}

# Open space, low, medium and high intensity.
DEVELOPED = (21, 22, 23, 24)

Maps = list[Matrix]


@dataclass(frozen=True)
class Region:
    """Scenes that are fitted together.

    Args:
        set: Name of the set that they belong to.
        labels: Which labels: clean, noisy, nlcd or real, or hr for a bound.
        scenes: Folder of each, with ``imagery.tif``, the labels and ``hr.tif``.
        legend: Legend of the coarse labels.
        truth_legend: Legend of ``hr.tif``.
    """

    set: str
    labels: str
    scenes: tuple[Path, ...]
    legend: str
    truth_legend: str

    @property
    def name(self) -> str:
        """Of its scene, or ``all``."""
        return self.scenes[0].name if len(self.scenes) == 1 else 'all'

    @property
    def imagery(self) -> tuple[Path, ...]:
        """Imagery of each scene."""
        return tuple(scene / 'imagery.tif' for scene in self.scenes)

    @property
    def label_files(self) -> tuple[Path, ...]:
        """Coarse labels of each scene."""
        return tuple(scene / _FILES[self.labels] for scene in self.scenes)

    @cached_property
    def images(self) -> tuple[NDArray[np.float32], ...]:
        """Bands of each scene, (C, H, W)."""
        files = map(rasterio.open, self.imagery)
        return tuple(file.read().astype(np.float32) for file in files)

    @cached_property
    def crosswalk(self) -> mapsr.Crosswalk:
        """From the coarse labels' legend to the four classes."""
        return mapsr.Crosswalk.load(self.legend, TARGET)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.crosswalk.target)

    @cached_property
    def coarse(self) -> Maps:
        """Class index of the coarse label under each pixel's centre; -1 if none."""
        pairs = zip(self.label_files, self.imagery, strict=True)
        return [read_labels(path, like, self.crosswalk) for path, like in pairs]

    @cached_property
    def truth(self) -> Maps:
        """HR class index of each pixel; -1 if none. For scoring only."""
        walk = mapsr.Crosswalk.load(self.truth_legend, TARGET)
        pairs = zip(self.scenes, self.imagery, strict=True)
        return [read_labels(scene / 'hr.tif', like, walk) for scene, like in pairs]

    def parts(self, cut: int, work: Path) -> Iterator['Region']:
        """Its scenes one by one, each cut into areas with a fit of their own.

        Args:
            cut: Areas along a side.
            work: Folder for the areas; the labels are links, a fit reads its own.

        Yields:
            A region for each area, called by scene, row and column.
        """
        for scene, (row, col) in product(self.scenes, np.ndindex(cut, cut)):
            folder = work / self.set / f'{scene.name}-{row}-{col}'
            folder.mkdir(parents=True, exist_ok=True)
            for name in ('imagery.tif', 'hr.tif'):
                if not (folder / name).exists():
                    _crop(scene / name, folder / name, cut, row, col)
            link = folder / _FILES[self.labels]
            link.unlink(missing_ok=True)
            link.symlink_to((scene / link.name).absolute())
            yield replace(self, scenes=(folder,))

    def score(self, maps: Sequence[Matrix]) -> dict[str, Matrix]:
        """Confusion matrices of maps and HR labels, by the names of sound scenes."""
        parts = zip(self.scenes, self.truth, maps, strict=True)
        return {
            scene.name: confusion_matrix(truth, predicted, self.classes)
            for scene, truth, predicted in parts
            if self.set not in TOGETHER or not scene.name.endswith(UNSOUND)
        }

    def score_developed(self, maps: Sequence[Matrix]) -> Matrix | None:
        """The matrix of pixels that NLCD calls developed, as Malkin et al. compare.

        Returns:
            Of all scenes; None of labels that are not NLCD.
        """
        if self.legend != 'nlcd':
            return None
        total = np.zeros((self.classes, self.classes), np.int64)
        parts = zip(self.label_files, self.imagery, self.truth, maps, strict=True)
        for path, like, truth, predicted in parts:
            inside = np.isin(read_codes(path, like), DEVELOPED)
            truth = np.where(inside, truth, -1)
            total += confusion_matrix(truth, predicted, self.classes)
        return total

    def links(self, work: Path) -> list[Path]:
        """Links to the imagery by the scenes' names, which maps of a folder have then."""
        links = []
        for scene in self.scenes:
            link = work / 'imagery' / f'{scene.name}.tif'
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to((scene / 'imagery.tif').absolute())
            links.append(link)
        return links

    def map(self, work: Path, **settings: object) -> Maps:
        """Map the scenes as the command does."""
        links, folder = self.links(work), work / 'maps'
        run_job(links, self.label_files, self.legend, f'{folder}/', **settings)
        return [read_map(folder / link.name) for link in links]


def _crop(source: Path, target: Path, cut: int, row: int, col: int) -> None:
    """Write one of the cut × cut parts of a raster."""
    with rasterio.open(source) as file:
        height, width = (size // cut for size in file.shape)
        window = Window(col * width, row * height, width, height)
        profile = {
            'driver': 'GTiff',
            'height': height,
            'width': width,
            'count': file.count,
            'dtype': file.dtypes[0],
            'crs': file.crs,
            'transform': file.window_transform(window),
            'nodata': file.nodata,
        }
        with rasterio.open(target, 'w', **profile) as part:
            part.write(file.read(window=window))


def find_regions(data: Path, sets: Sequence[str] | None = None) -> Iterator[Region]:
    """All regions under a folder of sets of scenes."""
    for name in sets or SETS:
        folders = sorted(path.parent for path in (data / name).glob('*/imagery.tif'))
        groups = [tuple(folders)] if name in TOGETHER else [(f,) for f in folders]
        legend, truth = SETS[name]
        for labels, file in LABELS.items():
            kind = REAL if name in TOGETHER else labels
            for group in groups:
                if group and all((scene / file).is_file() for scene in group):
                    codes = 'nlcd' if labels == 'nlcd' else legend
                    yield Region(name, kind, group, codes, truth)


def tiny_data(folder: Path, size: int = 160) -> Path:
    """Made scenes by the names of real ones, for a run of seconds.

    The four classes have the same codes in Chesapeake's legend; OpenEarthMap's are
    others, and its truth is not made.
    """
    make = partial(mapsr.make_scene, size=(size, size))
    kinds: dict[str, dict[str, Any]] = {
        'lr_nlcd.tif': {},
        'lr_noisy.tif': {'labels': TARGET, 'noise': 0.3},
        'lr.tif': {'labels': TARGET, 'noise': 0.0},
    }
    for name, seed in (('deepglobe', 1), ('sentinel2_korea', 1)):
        place = folder / name / 'made'
        if not (place / 'hr.tif').exists():
            for file, options in kinds.items():
                make(place, seed=seed, **options)
                (place / 'lr.tif').rename(place / file)
    for seed in (2, 3):
        place = folder / 'chesapeake_wv' / f'made-{seed}'
        if not (place / 'hr.tif').exists():
            make(place, seed=seed)
    return folder
