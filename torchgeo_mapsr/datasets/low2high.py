# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Low2High: chips of the Chesapeake tiles for learning from coarse labels."""

from collections.abc import Callable
from pathlib import Path

from .._compat import Sample
from ..errors import InputError
from .base import ChipDataset
from .chesapeake import ChesapeakePairs
from .errors import DatasetNotFoundError
from .geo.grid import crop
from .geo.names import PathLike
from .low2high_index import CHIPS, SPLITS, read_index, tile_name


class Low2High(ChesapeakePairs):
    """Chips of Chesapeake tiles: NAIP, NLCD in its own cells, and 1 m land cover.

    The chips are those of an index that ``torchgeo-mapsr low2high ROOT --output DIR``
    makes: of 512 × 512 pixels, none on top of another, with three classes or more and
    no class on more than three quarters, in four splits of each state's chips:

    * ``train`` (75 %)
    * ``val`` (10 %)
    * ``held-out`` (10 %)
    * ``test`` (5 %)

    Nothing is copied: pixels are read from the tiles. Labels are brought to the four
    classes of the paper, water, forest, field and impervious.

    If you use these chips in your research, please cite:

    * https://arxiv.org/abs/2211.15790 (Low2High)
    * https://doi.org/10.1109/cvpr.2019.01301 (the tiles)

    Args:
        root: Folder of the CVPR 2019 tiles, as
            :class:`~torchgeo_mapsr.datasets.ChesapeakePairs` takes it.
        index: Folder of the index, the ``--output`` of the command.
        split: *train*, *val*, *held-out* or *test*; all chips by default.
        states: Such as ``('md', 'va')``; all by default.
        target: Legend of ``mask``.
        crosswalk: Name or file of the crosswalk from NLCD to *target*.
        native_cells: Recover the cells of the tiles' NLCD layer.
        transforms: Takes a sample and returns it transformed.

    Raises:
        InputError: There is no index, it names a tile that is not in *root*, or nothing
            is left of it.
    """

    def __init__(
        self,
        root: PathLike = 'data',
        index: PathLike = 'low2high',
        split: str | None = None,
        states: tuple[str, ...] | None = None,
        target: str = 'land-cover-4',
        crosswalk: str | None = None,
        native_cells: bool = True,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if split is not None and split not in SPLITS:
            raise InputError(f"no split '{split}'; splits are {', '.join(SPLITS)}")
        settings, chips = read_index(Path(index))
        chosen = [
            chip
            for chip in chips
            if split in (None, chip.split) and (states is None or chip.state in states)
        ]
        if not chosen:
            listed = ', '.join(sorted({chip.state for chip in chips}))
            raise InputError(
                f'{Path(index) / CHIPS}: no chip of split {split} in states {states}; '
                f'states are {listed}'
            )
        super().__init__(
            root,
            target=target,
            crosswalk=crosswalk,
            layer=settings['layer'],
            native_cells=native_cells,
            transforms=transforms,
        )
        pairs = {tile_name(pair.imagery.paths[0]): pair for pair in self.pairs}
        absent = next((c.tile for c in chosen if c.tile not in pairs), None)
        if absent is not None:
            raise DatasetNotFoundError(
                f'{root}: has no tile {absent}, which {index} names; give the folder '
                'of tiles that the index was made of'
            )
        size = int(settings['size'])
        numbers = {pair: number for number, pair in enumerate(self.pairs)}
        owners = [pairs[chip.tile] for chip in chosen]
        # One tile of a dataset is what a chip is sampled in: here a chip, not a tile.
        ChipDataset.__init__(
            self,
            [
                crop(
                    pair.imagery.footprints[0],
                    (c.row, c.col, c.row + size, c.col + size),
                )
                for pair, c in zip(owners, chosen, strict=True)
            ],
            [pair.imagery.paths[0] for pair in owners],
            transforms,
            self.legend,
            self.truth_legend,
            [numbers[pair] for pair in owners],
        )

    @property
    def is_whole(self) -> bool:
        """Never: its chips are parts of the tiles, those of one split are a few."""
        return False
