# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Chesapeake land cover: NAIP, NLCD and 1 m land cover."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from odc.geo.geobox import GeoBox
from torchgeo.datasets import ChesapeakeCVPR

from .._compat import Sample
from ..errors import InputError
from .errors import DatasetNotFoundError
from .geo.names import PathLike, rasters_in
from .labels import LabelRaster
from .legends.crosswalk import Crosswalk
from .legends.legend import Legend
from .mosaic import LRHRPairs
from .pair import LRHRPair
from .query import ChipQuery
from .recovered import RecoveredLabels


class ChesapeakePairs(LRHRPairs):
    """NAIP imagery with NLCD as LR labels and Chesapeake land cover as HR labels.

    Two layouts are known by what is in *root*:

    * the `CVPR 2019 Chesapeake Land Cover
      <https://lila.science/datasets/chesapeakelandcover>`_ tiles, as torchgeo's
      ``ChesapeakeCVPR`` has them:
      ``{state}_1m_{year}_extended-debuffered-{split}_tiles/{tile}_{layer}.tif``.
      Their NLCD layer is not NLCD as it was made: it was warped, nearest neighbour,
      from 30 m Albers cells to the 1 m NAIP grid. With *native_cells* it is put back
      into the cells (:class:`~torchgeo_mapsr.datasets.RecoveredLabels`); without, each
      pixel is an LR cell of its own
    * folders ``naip``, ``nlcd`` and (optional) ``lc`` with rasters, each in its own CRS
      and grid

    ``lr_label`` holds raw NLCD codes, which *crosswalk* takes to *target*; ``mask``
    holds codes of *target*, -1 where there is no label. The target's four classes are
    those that papers on this data set use:

    1. water
    2. forest
    3. field
    4. impervious

    If you use these tiles in your research, please cite:

    * https://doi.org/10.1109/cvpr.2019.01301

    Args:
        root: Folder of one of the layouts.
        splits: Of the tiles, as ``{state}-{train,val,test}``; default: all that are
            there. The second layout has none.
        target: Legend of ``mask``.
        crosswalk: Name or file of the crosswalk from NLCD to *target*.
        layer: Imagery of the tiles, ``naip-new`` or ``naip-old``.
        native_cells: Recover the cells of the tiles' NLCD layer.
        transforms: Takes a sample and returns it transformed.
        download: Let torchgeo download the tiles (22 GB) if they are not in *root*.

    Raises:
        InputError: There are no such data in *root*, or files that cannot be used.
    """

    pairs: tuple[LRHRPair, ...]

    def __init__(
        self,
        root: PathLike = 'data',
        splits: Sequence[str] | None = None,
        target: str = 'land-cover-4',
        crosswalk: str | None = None,
        layer: str = 'naip-new',
        native_cells: bool = True,
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
    ) -> None:
        legend, truth = Legend.load('nlcd'), Legend.load('chesapeake-7')
        self.target = Legend.load(target)
        self.crosswalk = Crosswalk.load(legend, self.target, crosswalk)
        self.truth_crosswalk = Crosswalk.load(truth, self.target)
        self._target_codes = torch.tensor([-1, *self.target.codes.tolist()])
        folder = Path(root)
        if download:
            ChesapeakeCVPR(root, splits or ['de-train'], download=True)
        if (folder / 'naip').is_dir():
            if splits is not None:
                raise InputError(f'{folder}: holds folders of rasters, which no splits')
            pairs = _rasters(folder)
        else:
            pairs = _tiles(folder, splits, layer, native_cells)
        super().__init__(pairs, transforms)
        self.legend, self.truth_legend = legend, self.target

    def sample(self, query: ChipQuery | GeoBox) -> Sample:
        """Read a chip, with ``mask`` in the target's classes, not transformed.

        Args:
            query: Pixels of a pair's imagery, or beyond it.
        """
        sample = super().sample(query)
        if 'mask' in sample:
            index = torch.from_numpy(self.truth_crosswalk.index(sample['mask']))
            sample['mask'] = self._target_codes[index + 1]
        return sample


def _rasters(root: Path) -> Iterator[LRHRPair]:
    """Pairs of folders of rasters."""
    if not (root / 'nlcd').is_dir():
        raise DatasetNotFoundError(f"{root}: has a folder 'naip' but none 'nlcd'")
    labels = LabelRaster.open(root / 'nlcd')
    truth = LabelRaster.open(root / 'lc') if (root / 'lc').is_dir() else None
    for path in rasters_in(root / 'naip'):
        yield LRHRPair(path, labels, truth)


def _tiles(
    root: Path, splits: Sequence[str] | None, layer: str, native_cells: bool
) -> Iterator[LRHRPair]:
    """Pairs of tiles in ChesapeakeCVPR's layout."""
    names = ChesapeakeCVPR.splits
    for split in splits or ():
        if split not in names:
            raise InputError(f"no split '{split}'; splits are {', '.join(names)}")
    any_tile = False
    for name in splits or names:
        state, split = name.split('-')
        folders = root.glob(f'{state}_1m_*_extended-debuffered-{split}_tiles')
        paths = [
            p for f in sorted(folders) for p in sorted(f.glob(f'[!.]*_{layer}.tif'))
        ]
        if splits is not None and not paths:
            raise DatasetNotFoundError(
                _absent(root, f"tiles of '{name}' with layer '{layer}'")
            )
        for path in paths:
            any_tile = True
            stem = os.fspath(path).removesuffix(f'{layer}.tif')
            nlcd, lc = f'{stem}nlcd.tif', f'{stem}lc.tif'
            labels = (
                (RecoveredLabels(nlcd),) if native_cells else LabelRaster.open(nlcd)
            )
            yield LRHRPair(path, labels, lc if os.path.exists(lc) else None)
    if not any_tile:
        raise DatasetNotFoundError(
            _absent(root, 'Chesapeake tiles or folders naip and nlcd')
        )


def _absent(root: Path, what: str) -> str:
    return (
        f'{root}: has no {what}; give the folder that holds them, or download=True, or '
        'download https://lila.science/datasets/chesapeakelandcover and unpack it there'
    )
