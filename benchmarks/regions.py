# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The real scenes: what is fitted together, and how a map of it is scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.evaluation.accuracy import Confusion, confusion

TARGET = 'land-cover-4'

# Legends of the coarse and of the HR labels. Scenes of a set are fitted one by one,
# but for the eight patches of one quarter-quad.
SETS = {
    'openearthmap': (TARGET, 'openearthmap'),
    'chesapeake_wv': ('nlcd', 'chesapeake-7'),
    'deepglobe': (TARGET, TARGET),
    'sentinel2_korea': (TARGET, TARGET),
}
TOGETHER = ('chesapeake_wv',)

# Open space, low, medium and high intensity.
DEVELOPED = (21, 22, 23, 24)

LABELS = {'clean': 'lr.tif', 'noisy': 'lr_noisy.tif'}


@dataclass(frozen=True)
class Region:
    """Scenes that are fitted together.

    Args:
        set: Name of the set that they belong to.
        labels: Which coarse labels: clean or noisy.
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
    def key(self) -> str:
        """What the results call it."""
        name = self.scenes[0].name if len(self.scenes) == 1 else 'all'
        return f'{self.set}/{name}/{self.labels}'

    @property
    def imagery_paths(self) -> tuple[str, ...]:
        """Imagery of each scene."""
        return tuple(str(scene / 'imagery.tif') for scene in self.scenes)

    @property
    def label_paths(self) -> tuple[str, ...]:
        """Coarse labels of each scene."""
        return tuple(str(scene / LABELS[self.labels]) for scene in self.scenes)

    @cached_property
    def images(self) -> tuple[Imagery, ...]:
        """Imagery of each scene, opened."""
        return tuple(Imagery([path]) for path in self.imagery_paths)

    @cached_property
    def crosswalk(self) -> Crosswalk:
        """From the coarse labels' legend to the four classes."""
        return Crosswalk.load(self.legend, TARGET)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.crosswalk.target)

    @cached_property
    def coarse(self) -> list[NDArray[np.int64]]:
        """Coarse label under each pixel's centre, as a class index; -1 if none."""
        return [
            self.crosswalk.index(LabelRaster.open(path)[0].at(image.geobox))
            for path, image in zip(self.label_paths, self.images, strict=True)
        ]

    @cached_property
    def truth(self) -> list[NDArray[np.int64]]:
        """HR class index of each pixel; -1 if none. For scoring only."""
        crosswalk = Crosswalk.load(self.truth_legend, TARGET)
        return [
            crosswalk.index(LabelRaster.open(scene / 'hr.tif')[0].at(image.geobox))
            for scene, image in zip(self.scenes, self.images, strict=True)
        ]

    @cached_property
    def developed(self) -> list[NDArray[np.bool_]] | None:
        """Pixels under one of NLCD's four developed classes; None of other labels."""
        if self.legend != 'nlcd':
            return None
        return [
            np.isin(LabelRaster.open(path)[0].at(image.geobox), DEVELOPED)
            for path, image in zip(self.label_paths, self.images, strict=True)
        ]

    def score_developed(self, maps: Sequence[NDArray[np.int64]]) -> Confusion | None:
        """Compare maps with the HR labels where NLCD says developed, as Malkin et al.

        Args:
            maps: Class index of each scene's pixels.

        Returns:
            Counts of all scenes; None of labels that are not NLCD.
        """
        if self.developed is None:
            return None
        parts = [
            confusion(np.where(there, truth, -1), found, self.crosswalk.target)
            for there, truth, found in zip(
                self.developed, self.truth, maps, strict=True
            )
        ]
        return sum(parts[1:], parts[0])

    def score(self, maps: Sequence[NDArray[np.int64]]) -> dict[str, Confusion]:
        """Compare maps with the HR labels.

        Args:
            maps: Class index of each scene's pixels.

        Returns:
            Counts of each scene, by its name.
        """
        target = self.crosswalk.target
        return {
            scene.name: confusion(truth, found, target)
            for scene, truth, found in zip(self.scenes, self.truth, maps, strict=True)
        }


def find_regions(data: Path, sets: Sequence[str] | None = None) -> Iterator[Region]:
    """All regions under a folder of sets of scenes.

    Args:
        data: The folder; sets that are not in it are left out.
        sets: Sets to look for; all if None.
    """
    for name in sets or SETS:
        folders = sorted(path.parent for path in (data / name).glob('*/imagery.tif'))
        groups = [tuple(folders)] if name in TOGETHER else [(f,) for f in folders]
        for labels, file in LABELS.items():
            for group in groups:
                if group and all((scene / file).is_file() for scene in group):
                    yield Region(name, labels, group, *SETS[name])
