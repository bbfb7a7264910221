# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from torchgeo_mapsr.datasets.geo.plan import ChipIndex, Plan
from torchgeo_mapsr.evaluation.class_maps import NO_PERCENT
from torchgeo_mapsr.mapping.sweep import (
    NO_CLASS,
    BlendedTile,
    ScoredChip,
    schedule,
    sweep,
)

#: No multiples of a stride: the last chips reach beyond them.
SHAPE = (330, 290)


def plan(tile: int) -> Plan:
    geobox = GeoBox(SHAPE, Affine(1, 0, 5e5, 0, -1, 4e6), 'EPSG:26917')
    return Plan(geobox, 96, tile, overlap=24, halo=6, align=4)


def scorer(
    plan: Plan, valid: np.ndarray, log: list[ChipIndex] | None = None
) -> tuple[Callable[[ChipIndex], ChipIndex], Callable[[ChipIndex], ScoredChip]]:
    """A model whose answer depends on the chip, as a backbone's does."""

    def score(chip: ChipIndex) -> ScoredChip:
        if log is not None:
            log.append(chip)
        inside, core = valid[plan.window(chip)], plan.core(chip)
        if not inside.any():
            return ScoredChip(None, inside[core])
        rng = torch.Generator().manual_seed(chip.row * 100 + chip.col)
        logits = torch.randn(3, *plan.crop(chip).shape, generator=rng)
        return ScoredChip(logits.softmax(0)[:, *core], inside[core])

    return (lambda chip: chip), score


def run(tile: int, valid: np.ndarray) -> BlendedTile:
    """All tiles put together."""
    part = plan(tile)
    classes = np.full(SHAPE, 99, np.uint8)
    confidence = np.zeros(SHAPE, np.uint8)
    scores = np.zeros((3, *SHAPE), np.uint8)
    tiles = list(part.tiles())
    for done, result in sweep(part, tiles, 3, *scorer(part, valid), every=True):
        assert result.scores is not None
        classes[done.rows, done.cols] = result.classes
        confidence[done.rows, done.cols] = result.confidence
        scores[:, done.rows, done.cols] = result.scores
    return BlendedTile(classes, confidence, scores)


@pytest.fixture
def valid() -> np.ndarray:
    mask = np.ones(SHAPE, bool)
    mask[:150, :160] = False  # larger than a chip and than a tile
    mask[300, 100] = False
    return mask


def test_blend_is_the_weighted_mean_of_all_chips(valid: np.ndarray) -> None:
    part = plan(128)
    beyond = [axis.starts[-1] + axis.size for axis in part.axes]
    assert beyond == [332, 292]
    total = np.zeros((3, *beyond))
    weight = np.zeros(beyond)
    read, score = scorer(part, valid)
    for chip in part.lattice():
        scored = score(read(chip))
        if scored.probabilities is None:
            continue
        share = np.multiply.outer(*part.weights(chip))
        window, core = part.window(chip), part.core(chip)
        assert (share[core] > 0).all()
        inside = share[: SHAPE[0] - window[0].start, : SHAPE[1] - window[1].start]
        assert share[core].sum() == pytest.approx(inside.sum())
        whole = np.zeros((3, *share.shape))
        whole[:, *core] = scored.probabilities.numpy()
        total[:, *window] += whole * share
        weight[window] += share
    total, weight = total[:, : SHAPE[0], : SHAPE[1]], weight[: SHAPE[0], : SHAPE[1]]
    expected = total / np.where(valid, weight, 1)
    result = run(128, valid)
    np.testing.assert_array_equal(
        result.classes, np.where(valid, expected.argmax(0), NO_CLASS)
    )
    percent = 100 * expected.max(0)
    assert np.abs(result.confidence - percent)[valid].max() <= 0.5 + 1e-3
    assert (result.confidence[~valid] == NO_PERCENT).all()
    assert (result.scores[:, ~valid] == NO_PERCENT).all()
    np.testing.assert_array_equal(result.confidence[valid], result.scores.max(0)[valid])


@pytest.mark.parametrize('tile', [50, 128, 200])
def test_any_tile_size_gives_the_same_bits(valid: np.ndarray, tile: int) -> None:
    expected, result = run(1024, valid), run(tile, valid)
    np.testing.assert_array_equal(result.classes, expected.classes)
    np.testing.assert_array_equal(result.scores, expected.scores)


def test_resumed_tiles_are_the_same(valid: np.ndarray) -> None:
    """Tiles do not depend on which others were made before."""
    part = plan(100)
    tiles = list(part.tiles())
    given = 3, *scorer(part, valid)
    complete = {str(t): r for t, r in sweep(part, tiles, *given, every=True)}
    for tile, result in sweep(part, tiles[2::3], *given, every=True):
        np.testing.assert_array_equal(result.scores, complete[str(tile)].scores)


def test_schedule_is_what_is_scored(valid: np.ndarray) -> None:
    part = plan(100)
    tiles = list(part.tiles())
    log: list[ChipIndex] = []
    for _ in sweep(part, tiles, 3, *scorer(part, valid, log)):
        pass
    assert log == list(schedule(part, tiles))
    assert set(log) == set(part.lattice())
    alone = sum(len(part.chips(tile)) for tile in tiles)
    assert len(log) < alone  # neighbours hand chips on


def test_tiles_are_a_sequence() -> None:
    tiles = plan(100).tiles()
    listed = list(tiles)
    assert len(listed) == len(tiles)
    assert len({(tile.row, tile.col) for tile in listed}) == len(tiles)
    for before, tile in pairwise(listed):  # each has an edge in common with the next
        assert abs(before.row - tile.row) + abs(before.col - tile.col) == 1
    for part in (slice(3, 7), slice(None, None, 3), slice(1, -1), slice(50, 2)):
        assert list(tiles[part]) == listed[part]
    assert tiles[-1] == listed[-1]
    with pytest.raises(IndexError):
        _ = tiles[len(listed)]
    some = {(tile.row, tile.col) for tile in listed[2:9:2]}
    left = [tile for tile in listed if (tile.row, tile.col) not in some]
    assert list(tiles.without(some)) == left
    assert list(tiles.without(some)[1:4]) == left[1:4]


@pytest.mark.parametrize('step', [1, 2, 3])
@pytest.mark.parametrize('tile', [64, 100, 300])
def test_chips_are_counted_as_they_are_scored(tile: int, step: int) -> None:
    part = plan(tile)
    for tiles in (part.tiles()[::step], part.tiles().without([(0, 0)])):
        assert tiles.chip_count == len(list(schedule(part, list(tiles))))


def test_errors_of_the_reader_arrive() -> None:
    part = plan(100)

    def read(chip: ChipIndex) -> ChipIndex:
        raise OSError('truncated')

    with pytest.raises(OSError, match='truncated'):
        next(sweep(part, list(part.tiles()), 3, read, scorer(part, np.ones(SHAPE))[1]))


def test_nothing_left_to_do() -> None:
    part = plan(100)
    assert list(sweep(part, [], 3, *scorer(part, np.ones(SHAPE)))) == []


def test_chips_at_once_make_the_same_tiles(valid: np.ndarray) -> None:
    part = plan(128)
    tiles = list(part.tiles())
    one, three = (
        list(sweep(part, tiles, 3, *scorer(part, valid), n, every=True)) for n in (1, 3)
    )
    for (tile, a), (same, b) in zip(one, three, strict=True):
        assert tile == same
        assert np.array_equal(a.classes, b.classes)
        assert np.array_equal(a.scores, b.scores)
