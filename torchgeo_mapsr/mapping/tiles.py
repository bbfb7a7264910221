# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The map pass: tiles of maps are made by a sweep over their chips, and kept as files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from ..datasets.chip import Chip, read_chip
from ..datasets.geo.plan import ChipIndex, Plan, Tile, Tiles
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster
from ..datasets.legends.legend import Legend
from ..errors import InputError
from ..models.chip_model import ChipModel
from ..models.devices import chips_at_once
from ..models.head.calibration import Calibration
from ..models.model_file import ModelFile
from ..models.networks.files import NetworkFiles
from .cog import map_codes
from .progress import Stopwatch
from .sweep import BlendedTile, ScoredChip, sweep
from .tile_files import TileFiles


class ChipScores(Protocol):
    """Where the probabilities of chips come from. It may be sent to other processes."""

    @property
    def threads(self) -> int:
        """Chips that are best scored at once."""

    @property
    def calibration(self) -> Calibration:
        """What makes confidences of blended probabilities."""

    def read(self, item: 'TileItem', chip: ChipIndex, watch: Stopwatch) -> Any:
        """Read what :meth:`score` needs, in another thread."""

    def score(self, content: Any, watch: Stopwatch) -> ScoredChip:
        """Class probabilities of the pixels of a chip's core."""


@dataclass(frozen=True)
class ModelScores:
    """Chips that a model scores.

    Args:
        source: The model, or its file: what is sent to other processes.
        labels: LR labels, which act as a prior.
    """

    source: ChipModel | ModelFile | NetworkFiles
    labels: tuple[LabelRaster, ...] = ()

    @property
    def model(self) -> ChipModel:
        """The model, opened once in this process."""
        if isinstance(self.source, ModelFile | NetworkFiles):
            return self.source.open()
        return self.source

    @property
    def threads(self) -> int:
        """Chips that are best scored at once."""
        return chips_at_once(self.model.device)

    @property
    def calibration(self) -> Calibration:
        """What makes confidences of blended probabilities."""
        return self.model.calibration

    def read(self, item: 'TileItem', chip: ChipIndex, watch: Stopwatch) -> Chip:
        """Read a chip; see :class:`ChipScores`."""
        labels = self.labels if self.model.uses_labels else ()
        with watch('read'):
            crop, core = item.plan.crop(chip), item.plan.core(chip)
            return read_chip(item.imagery, crop, labels, core=core, number=item.image)

    def score(self, content: Chip, watch: Stopwatch) -> ScoredChip:
        """Score a chip; see :class:`ChipScores`."""
        assert content.core is not None
        valid = content.valid[content.core].numpy()
        if not content.valid.any():
            return ScoredChip(None, valid)
        return ScoredChip(self.model.probabilities(content, watch), valid)


@dataclass(frozen=True)
class TileItem:
    """A tile to be made, with all that is needed to make it.

    Args:
        image: Number of the map.
        imagery: Its raster.
        plan: The raster's plan.
        tile: The tile.
    """

    image: int
    imagery: Imagery
    plan: Plan
    tile: Tile


@dataclass(frozen=True)
class MapTiles:
    """Tiles of one map.

    Args:
        image: Number of the map.
        imagery: Its raster.
        tiles: The tiles, with the raster's plan.
    """

    image: int
    imagery: Imagery
    tiles: Tiles


class TileItems(Sequence[TileItem]):
    """Tiles of several maps, one map after another; each is made when it is asked for.

    Args:
        maps: Tiles of each map.
    """

    def __init__(self, maps: Sequence[MapTiles]) -> None:
        self.maps = [part for part in maps if len(part.tiles)]

    def __len__(self) -> int:
        return sum(len(part.tiles) for part in self.maps)

    @overload
    def __getitem__(self, index: int) -> TileItem: ...
    @overload
    def __getitem__(self, index: slice) -> 'TileItems': ...
    def __getitem__(self, index: int | slice) -> 'TileItem | TileItems':
        if isinstance(index, slice):
            return self._slice(range(len(self))[index])
        index = range(len(self))[index]
        for part in self.maps:
            if index < len(part.tiles):
                tile = part.tiles[index]
                return TileItem(part.image, part.imagery, part.tiles.plan, tile)
            index -= len(part.tiles)
        raise IndexError(index)

    def _slice(self, numbers: range) -> 'TileItems':
        """Those with some ascending numbers."""
        maps, offset = [], 0
        for part in self.maps:
            end = offset + len(part.tiles)
            # Which of the numbers are tiles of this map.
            first, stop = (
                max(-(-(edge - numbers.start) // numbers.step), 0)
                for edge in (offset, end)
            )
            local = numbers[first:stop]
            if len(local):
                cut = slice(local[0] - offset, local[-1] + 1 - offset, numbers.step)
                maps.append(replace(part, tiles=part.tiles[cut]))
            offset = end
        return TileItems(maps)

    @property
    def chip_count(self) -> int:
        """How many chips are scored if the tiles are made in a row."""
        return sum(part.tiles.chip_count for part in self.maps)


@dataclass(frozen=True)
class MapPass:
    """Makes tiles and keeps them as files; a tile that is there already is left.

    Args:
        scores: Where the probabilities of chips come from.
        target: Legend of the map.
        files: Where tiles are kept.
        confidence: Whether the probability of the mapped class is kept.
        every: Whether the probability of every class is.
        watch: Counts the time.
        weights: Weight of each class when the best is taken; no weights by default.
    """

    scores: ChipScores
    target: Legend
    files: TileFiles
    confidence: bool
    every: bool
    watch: Stopwatch
    weights: tuple[float, ...] = ()

    def __call__(self, items: TileItems, tick: Callable[[], None]) -> Iterator[None]:
        """Yield when a tile is kept."""
        if not self.files.folder.is_dir():
            raise InputError(
                f'A worker does not see the folder {self.files.folder}; workers need '
                'the file system of the process that started the run.'
            )

        def score(content: Any) -> ScoredChip:
            scored = self.scores.score(content, self.watch)
            tick()
            return scored

        for part in items.maps:
            plan, image, first = part.tiles.plan, part.image, TileItems([part])[0]
            # Another try of this group may have made some.
            tiles = part.tiles.without(self.files.finished(image, part.tiles))

            def read(chip: ChipIndex, first: TileItem = first) -> Any:
                return self.scores.read(first, chip, self.watch)

            made = sweep(
                plan,
                tiles,
                len(self.target),
                read,
                score,
                self.scores.threads,
                self.every,
                self.watch,
                self.scores.calibration,
                self.weights,
            )
            for tile, blended in made:
                with self.watch('write'):
                    self.files.save(image, tile, **self._arrays(blended))
                yield
            for _ in range(len(part.tiles) - len(tiles)):
                yield

    def _arrays(self, tile: BlendedTile) -> Mapping[str, NDArray[np.uint8]]:
        """What is kept of a tile."""
        codes = map_codes(self.target)
        classes = np.empty_like(tile.classes)
        # Line by line: numpy turns all indices that it is given into 64 bits.
        for line, index in zip(classes, tile.classes, strict=True):
            codes.take(index, out=line, mode='clip')
        arrays = {'classes': classes}
        if self.confidence:
            arrays['confidence'] = tile.confidence
        if tile.scores is not None:
            arrays['scores'] = tile.scores
        return arrays
