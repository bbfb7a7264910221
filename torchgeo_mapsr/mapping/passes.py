# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What the fit pass does with a chip and the map pass with a tile, wherever it runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.geo.plan import Chip, Plan, Tile
from ..datasets.imagery import Imagery
from ..datasets.labels import LabelRaster
from ..datasets.legends.legend import Legend
from ..errors import InputError
from .cog import map_nodata
from .collect import LabelledChip, Piece, Place, read_labelled
from .extractor import Extractor
from .prefetch import prefetch
from .sweep import BlendedTile, ScoredChip, schedule, sweep
from .tile_files import TileFiles
from .timing import Stopwatch


@dataclass(frozen=True)
class Sight:
    """A chip to look at, with all that is needed to read it.

    Args:
        imagery: Its raster.
        plan: The raster's plan.
        place: Number of the raster, and the chip.
    """

    imagery: Imagery
    plan: Plan
    place: Place


@dataclass(frozen=True)
class FitPass:
    """Looks at chips: features of the LR cells under each.

    Args:
        extractor: The backbone.
        labels: LR labels.
        pixels: Pixels to draw from a chip, at most.
        seed: Seed of the draws.
        watch: Counts the time.
    """

    extractor: Extractor
    labels: tuple[LabelRaster, ...]
    pixels: int
    seed: int
    watch: Stopwatch

    def __call__(
        self, items: Iterable[Sight], tick: Callable[[], None]
    ) -> Iterator[Piece | None]:
        """Yield what each chip says; None if no label lies in it."""
        items = list(items)
        for sight, chip in zip(items, prefetch(self._read, items), strict=True):
            if not len(chip.codes):
                yield None
                continue
            with self.watch('backbone'):
                tokens = self.extractor(chip.image)
            place = sight.place
            seed = self.seed, place.image, place.chip.row, place.chip.col
            with self.watch('probe'):
                piece = Piece.of(chip, tokens, self.pixels, seed)
            tick()
            yield piece

    def _read(self, sight: Sight) -> LabelledChip:
        with self.watch('read'):
            chip = sight.place.chip
            return read_labelled(sight.imagery, sight.plan, chip, self.labels)


@dataclass(frozen=True)
class Draft:
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


def chips_of(drafts: Iterable[Draft]) -> int:
    """How many chips are scored for tiles that are made in a row."""
    count = 0
    for _, group in groupby(drafts, lambda draft: draft.image):
        some = list(group)
        count += sum(1 for _ in schedule(some[0].plan, [draft.tile for draft in some]))
    return count


class Scorer(Protocol):
    """What scores chips. It may be sent to other processes."""

    @property
    def watch(self) -> Stopwatch:
        """Counts the time."""

    @property
    def threads(self) -> int:
        """Chips that are best scored at once."""

    def reader(self, imagery: Imagery, plan: Plan) -> Callable[[Chip], Any]:
        """A function that reads what :meth:`score` needs, in another thread."""

    def score(self, chip: Any) -> ScoredChip:
        """Class probabilities of the pixels of a chip's core."""


@dataclass(frozen=True)
class MapPass:
    """Makes tiles and keeps them as files; a tile that is there already is left.

    Args:
        scorer: What scores chips.
        target: Legend of the map.
        files: Where tiles are kept.
        confidence: Whether the probability of the mapped class is kept.
        scores: Whether the probability of every class is.
    """

    scorer: Scorer
    target: Legend
    files: TileFiles
    confidence: bool
    scores: bool

    @property
    def watch(self) -> Stopwatch:
        """Counts the time."""
        return self.scorer.watch

    def __call__(
        self, items: Iterable[Draft], tick: Callable[[], None]
    ) -> Iterator[None]:
        """Yield when a tile is kept."""
        if not self.files.folder.is_dir():
            raise InputError(
                f'A worker does not see the folder {self.files.folder}; workers need '
                'the file system of the process that started the run.'
            )

        def score(chip: Any) -> ScoredChip:
            scored = self.scorer.score(chip)
            tick()
            return scored

        for image, drafts in groupby(items, lambda draft: draft.image):
            some = list(drafts)
            imagery, plan = some[0].imagery, some[0].plan
            tiles = [d.tile for d in some if not self.files.has(image, d.tile)]
            read = self.scorer.reader(imagery, plan)
            made = sweep(
                plan,
                tiles,
                len(self.target),
                read,
                score,
                self.scorer.threads,
                self.scores,
                self.watch,
            )
            for tile, result in made:
                with self.watch('write'):
                    self.files.save(image, tile, **self._arrays(result))
                yield
            for _ in range(len(some) - len(tiles)):
                yield

    def _arrays(self, result: BlendedTile) -> Mapping[str, NDArray[np.uint8]]:
        """What is kept of a tile."""
        codes = np.full(256, map_nodata(self.target), np.uint8)
        codes[: len(self.target)] = self.target.codes
        classes = np.empty_like(result.classes)
        # Line by line: numpy turns all indices that it is given into 64 bits.
        for line, index in zip(classes, result.classes, strict=True):
            codes.take(index, out=line, mode='clip')
        arrays = {'classes': classes}
        if self.confidence:
            arrays['confidence'] = result.confidence
        if result.scores is not None:
            arrays['scores'] = result.scores
        return arrays
