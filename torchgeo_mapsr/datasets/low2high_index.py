# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Which chips of the Chesapeake tiles Low2High is made of."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_local, check_range
from ..atomic import PART, replacing, write_text
from ..errors import InputError
from .chesapeake import ChesapeakePairs
from .geo.grid import pixel_offset
from .geo.names import PathLike
from .labels import LabelRaster
from .legends.crosswalk import Crosswalk
from .pair import LRHRPair

#: Splits and their shares of each state's chips, in percent (Workman et al. 2023, 3.1).
SPLITS = {'train': 75, 'val': 10, 'held-out': 10, 'test': 5}

#: Files of an index: the chips, and what it was made with.
CHIPS, SETTINGS = 'chips.csv', 'low2high.json'

# A chip with more pixels than this share without a class has no full label map.
_MISSING = 0.01

Progress = Callable[[Sequence[LRHRPair]], Iterable[LRHRPair]]


@dataclass(frozen=True)
class Low2HighChip:
    """One chip.

    Args:
        state: Where it lies, such as ``md``.
        tile: Name of its tile.
        row: First row in the tile's pixels.
        col: First column.
        split: What it is for.
    """

    state: str
    tile: str
    row: int
    col: int
    split: str = ''


def build_index(
    root: PathLike,
    output: PathLike,
    size: int = 512,
    layer: str = 'naip-new',
    crosswalk: str | None = None,
    seed: int = 0,
    progress: Progress = iter,
) -> dict[str, int]:
    """Choose the chips, and write ``chips.csv`` and ``low2high.json``.

    Workman et al. 2023, section 3.1: chips of *size* that do not overlap, brought to
    four classes, without those that have fewer than three classes or one class on more
    than 75 % of the pixels, in the HR or in the LR labels. The paper's table of classes
    is in a supplement; here it is the crosswalks of this package. Chips that lack labels
    on more than 1 % are left out too. What is drawn for a split depends on the chip's
    name and the seed alone.

    What is found of a tile is kept at once: the same call again goes on from there.

    Args:
        root: Folder of the CVPR 2019 tiles.
        output: Folder to write to.
        size: Height and width of a chip, in pixels.
        layer: Imagery of the tiles, ``naip-new`` or ``naip-old``.
        crosswalk: Name or file of the crosswalk from NLCD to the four classes.
        seed: Seed of the splits.
        progress: Takes the tiles and hands them out one by one.

    Returns:
        Number of chips by split.

    Raises:
        InputError: There are no tiles, a tile has no HR labels, the folder has an index
            that was made with other settings or tiles, or no chip is left.
    """
    check_range('size', size, 1, whole=True)
    check_local(output)
    folder = Path(output)
    if (Path(root) / 'naip').is_dir():
        raise InputError(
            f'{root}: holds folders of rasters; Low2High is made of the CVPR 2019 tiles '
            '(https://lila.science/datasets/chesapeakelandcover)'
        )
    data = ChesapeakePairs(root, crosswalk=crosswalk, layer=layer)
    settings = {
        'size': size,
        'layer': layer,
        'crosswalks': [data.crosswalk.name, data.truth_crosswalk.name],
        'seed': seed,
        'tiles': sorted(tile_name(pair.imagery.paths[0]) for pair in data.pairs),
    }
    _claim(folder, settings)
    chips: list[Low2HighChip] = []
    for pair in progress(data.pairs):
        chips += _of_tile(pair, folder, size, data.crosswalk, data.truth_crosswalk)
    if not chips:
        raise InputError(
            f'{root}: no chip of {size} × {size} pixels has three classes and none on '
            'more than 75 %'
        )
    divided = list(divide(chips, seed))
    if not (folder / CHIPS).exists():
        rows = [[f.name for f in fields(Low2HighChip)], *map(astuple, divided)]
        with replacing(folder / CHIPS) as part, part.open('w', newline='') as file:
            csv.writer(file, lineterminator='\n').writerows(rows)
    return {name: sum(chip.split == name for chip in divided) for name in SPLITS}


def read_index(folder: Path) -> tuple[dict[str, Any], list[Low2HighChip]]:
    """Read an index.

    Args:
        folder: Where it is.

    Returns:
        What it was made with, and its chips.

    Raises:
        InputError: There is none, or it is not finished.
    """
    try:
        settings = _settings(folder / SETTINGS)
        settings |= {'size': int(settings['size']), 'layer': str(settings['layer'])}
        with (folder / CHIPS).open(newline='') as file:
            chips = [
                Low2HighChip(
                    line['state'],
                    line['tile'],
                    int(line['row']),
                    int(line['col']),
                    line['split'],
                )
                for line in csv.DictReader(file)
            ]
    except FileNotFoundError as error:
        raise InputError(
            f'{folder}: has no finished index ({Path(error.filename).name}); make one '
            f'with torchgeo-mapsr low2high ROOT --output {folder}'
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f'{folder}: is no index of Low2High ({error})') from error
    return settings, chips


def divide(chips: Iterable[Low2HighChip], seed: int) -> Iterator[Low2HighChip]:
    """Divide each state's chips among the splits.

    Args:
        chips: The chips.
        seed: Which of the ways to divide them.

    Yields:
        The chips of a state in an order of their own, with their split.
    """
    edges = np.cumsum([0, *SPLITS.values()]) / sum(SPLITS.values())
    by_state = sorted(chips, key=lambda chip: (chip.state, _draw(chip, seed)))
    for _, group in groupby(by_state, key=lambda chip: chip.state):
        state = list(group)
        bounds = np.rint(edges * len(state)).astype(int)
        for name, start, stop in zip(SPLITS, bounds, bounds[1:], strict=False):
            for chip in state[start:stop]:
                yield Low2HighChip(chip.state, chip.tile, chip.row, chip.col, name)


def tile_name(path: PathLike) -> str:
    """Name of a tile: the split's folder of the CVPR data, and the quarter-quad.

    Args:
        path: Its imagery.
    """
    folder, name = Path(path).parts[-2:]
    return f'{folder}/{name.rsplit("_", 1)[0]}'


def _draw(chip: Low2HighChip, seed: int) -> bytes:
    name = f'{seed}/{chip.tile}/{chip.row}/{chip.col}'
    return hashlib.sha256(name.encode()).digest()


def _settings(path: Path) -> dict[str, Any]:
    """Read what an index was made with.

    Raises:
        ValueError: It is no JSON.
        TypeError: It is something else.
    """
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise TypeError('it holds no settings')
    return content


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new index, or see that they are those of an older one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if path.exists():
        try:
            claim = _settings(path)
        except (ValueError, TypeError) as error:
            raise InputError(
                f'{path}: is no index of Low2High ({error}); take it away'
            ) from error
        other = [key for key in settings if claim.get(key) != settings[key]]
        if other:
            raise InputError(
                f'{folder}: has an index made with other {", ".join(other)}; name '
                'another folder, or take it away'
            )
        return
    if not all(PART.match(path.name) for path in folder.iterdir()):
        raise InputError(f'{folder}: is not empty; name another folder')
    write_text(path, json.dumps(settings, indent=1) + '\n')


def _of_tile(
    pair: LRHRPair, folder: Path, size: int, coarse: Crosswalk, fine: Crosswalk
) -> list[Low2HighChip]:
    """The chips of a tile, from the file of an earlier run if there is one."""
    tile = tile_name(pair.imagery.paths[0])
    path = folder / 'tiles' / f'{tile.replace("/", ".")}.json'
    if not path.exists():
        if not pair.truth:
            raise InputError(
                f'{pair.imagery.paths[0]}: has no HR labels beside it (…_lc.tif); get them, or '
                'take the tile away'
            )
        # the NLCD layer as it is: each pixel has the label of the cell that holds it
        (labels,) = LabelRaster.open(pair.labels[0].paths)
        sources = ((labels, coarse), (pair.truth[0], fine))
        for raster, _ in sources:
            if pixel_offset(raster.geobox, pair.tiles[0]) != (0, 0):
                raise InputError(
                    f'{raster.paths[0]}: is not on the grid of its imagery; the tiles '
                    'of the CVPR 2019 data are'
                )
        places = list(_diverse(sources, pair.tiles[0].shape.yx, size))
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(places))
    state = tile.split('_')[0]
    try:
        places = [(int(row), int(col)) for row, col in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise InputError(f'{path}: is damaged ({error}); take it away') from error
    return [Low2HighChip(state, tile, row, col) for row, col in places]


def _diverse(
    sources: Sequence[tuple[LabelRaster, Crosswalk]], shape: tuple[int, int], size: int
) -> Iterator[tuple[int, int]]:
    """First row and column of the chips that are diverse in all label sources."""
    columns = shape[1] // size
    for row in range(0, shape[0] - size + 1, size):
        good = np.ones(columns, dtype=bool)
        for raster, crosswalk in sources:
            codes = raster.read(slice(row, row + size), slice(0, columns * size))
            good &= _is_diverse(crosswalk, codes.reshape(size, columns, size))
        yield from ((row, size * int(column)) for column in np.flatnonzero(good))


def _is_diverse(crosswalk: Crosswalk, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether chips have three classes, and none that covers too much, (n,).

    Args:
        crosswalk: To the classes.
        codes: Of chips side by side, (size, n, size).
    """
    classes = len(crosswalk.target)
    index = crosswalk.index(codes)
    counts = np.stack([(index == c).sum(axis=(0, 2)) for c in range(classes)])
    total, pixels = counts.sum(axis=0), codes.shape[0] * codes.shape[2]
    return (
        (total >= (1 - _MISSING) * pixels)
        & ((counts > 0).sum(axis=0) >= 3)
        & (counts.max(axis=0) <= 0.75 * total)
    )
