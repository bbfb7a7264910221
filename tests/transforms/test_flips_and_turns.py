# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import torch

from torchgeo_mapsr.transforms.flips_and_turns import flips_and_turns


def test_eight_ways_alike() -> None:
    """Of numpy's making: four turns of a square and of its mirror image."""
    torch.manual_seed(0)
    square = torch.arange(9).view(3, 3)
    ways = [
        torch.rot90(form, turns)
        for form in (square, square.fliplr())
        for turns in range(4)
    ]
    batch = {
        'image': square.expand(800, 1, 3, 3).float(),
        'mask': square.expand(800, 3, 3).clone(),
    }
    turned = flips_and_turns()(batch)
    assert torch.equal(turned['image'][:, 0].round().long(), turned['mask'])
    counts = [(turned['mask'] == way).all(-1).all(-1).sum() for way in ways]
    assert sum(counts) == 800
    assert min(counts) > 60
