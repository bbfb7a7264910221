# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pickle
from typing import Any

import pytest

from torchgeo_mapsr.mapping.executor import Groups
from torchgeo_mapsr.mapping.tiles import MapTiles, TileItems

from .test_sweep import plan


@pytest.mark.parametrize('size', [1, 3, 4, 100])
def test_tiles_of_several_maps_are_cut_into_groups(size: int) -> None:
    imagery: Any = None
    maps = [
        MapTiles(n, imagery, plan(tile).tiles()) for n, tile in enumerate((100, 300))
    ]
    items = TileItems([maps[0], MapTiles(7, imagery, maps[0].tiles[:0]), maps[1]])
    listed = list(items)
    assert [item.image for item in listed] == [0] * len(maps[0].tiles) + [1] * len(
        maps[1].tiles
    )
    groups = Groups(items, size)
    assert [list(group) for group in groups] == [
        listed[i : i + size] for i in range(0, len(listed), size)
    ]
    for part in (slice(2, 9), slice(1, None, 2), slice(3, None, 5), slice(9, 9)):
        assert list(items[part]) == listed[part]
    assert items[-1] == listed[-1]
    assert list(pickle.loads(pickle.dumps(items[1:5]))) == listed[1:5]
