# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import torch

from torchgeo_mapsr.transforms import RandomChip


def sample(height: int, width: int) -> dict[str, object]:
    place = torch.arange(height * width).view(height, width)
    return {
        'image': place[None].float(),
        'image_optical': place.expand(3, -1, -1).float(),
        'mask': place,
        'mask_valid': torch.ones(height, width, dtype=torch.long),
        'mask_region': place + 1,
        'lr_label': torch.zeros(2, 2),
        'filename': 'a.tif',
    }


def test_cuts_all_maps_at_one_place() -> None:
    torch.manual_seed(0)
    corners = set()
    for _ in range(200):
        chip = RandomChip(8)(sample(10, 9))
        assert chip['image'].shape == (1, 8, 8)
        assert (chip['image'][0] == chip['mask']).all()
        assert (chip['image_optical'][2] == chip['mask']).all()
        assert (chip['mask_region'] == chip['mask'] + 1).all()
        assert chip['lr_label'].shape == (2, 2)
        assert chip['filename'] == 'a.tif'
        corners.add(int(chip['mask'][0, 0]))
    # every place there is: 3 rows and 2 columns
    assert corners == {9 * row + col for row in range(3) for col in range(2)}


def test_pads_what_is_too_small() -> None:
    chip = RandomChip(8)(sample(5, 9))
    assert chip['mask'].shape == (8, 8)
    assert (chip['mask'][5:] == -1).all()
    for key in ('image', 'image_optical', 'mask_valid', 'mask_region'):
        assert (chip[key][..., 5:, :] == 0).all()
    assert (chip['mask'][:5] >= 0).all()
