# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_mapsr.transforms.flips_and_turns import FlipsAndTurns


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
    turned = FlipsAndTurns()(batch)
    assert torch.equal(turned['image'][:, 0].long(), turned['mask'])
    counts = [(turned['mask'] == way).all(-1).all(-1).sum() for way in ways]
    assert sum(counts) == 800
    assert min(counts) > 60


@pytest.mark.parametrize(
    'kind', [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8]
)
def test_all_maps_stay_together(kind: torch.dtype) -> None:
    """Whatever Trainer(precision=…) makes of them: each pixel is numbered in all."""
    torch.manual_seed(0)
    size = 300
    number = torch.arange(size**2).view(size, size).expand(8, size, size)
    digits = torch.stack([number // 256**k % 256 for k in range(3)], 1)
    batch = {
        'image': digits.to(kind),
        'image_optical': digits[:, :1].to(kind),
        'mask': number,
        'mask_region': number[:, None],
        'lr_label': torch.arange(12).view(1, 3, 4).expand(8, 3, 4),
        'bounds': 'as it was',
    }
    turned = FlipsAndTurns()(batch)
    for key in ('mask', 'mask_region'):
        found = turned[key].reshape(8, size, size)
        for k in range(3):
            digit = found // 256**k % 256
            assert torch.equal(turned['image'][:, k].long(), digit)
        assert torch.equal(turned['image_optical'][:, 0].long(), found % 256)
        # nothing is lost or doubled
        assert torch.equal(found.flatten(1).sort(1).values, number.flatten(1))
        assert len({one.numpy().tobytes() for one in found}) > 1
    assert turned['lr_label'] is batch['lr_label']
    assert turned['bounds'] == 'as it was'


def test_pixels_without_data_do_not_spread() -> None:
    torch.manual_seed(0)
    image = torch.ones(8, 1, 32, 32)
    image[:, :, 10, 12] = torch.nan
    assert (
        FlipsAndTurns()({'image': image})['image'].isnan().sum((1, 2, 3)) == 1
    ).all()


def test_oblongs_keep_their_shape() -> None:
    torch.manual_seed(0)
    oblong = torch.arange(6).view(2, 3)
    turned = FlipsAndTurns()({'image': oblong.expand(64, 1, 2, 3)})['image']
    ways = [oblong, oblong.flip(0), oblong.flip(1), oblong.flip(0, 1)]
    counts = [(turned[:, 0] == way).all(-1).all(-1).sum() for way in ways]
    assert sum(counts) == 64
    assert min(counts) > 0
