# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import torch

from torchgeo_mapsr.datasets import LRHRPair, make_scene
from torchgeo_mapsr.datasets.geo.grid import crop
from torchgeo_mapsr.datasets.query import ChipQuery
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


def test_pads_each_mask_with_what_it_means() -> None:
    chip = RandomChip(8)(
        sample(5, 9)
        | {
            'mask_share': torch.full((4, 5, 9), 0.25),
            'mask_coordinates': torch.rand(2, 5, 9),
            'mask_weight': torch.ones(5, 9),
        }
    )
    share = chip['mask_share'].sum(0)
    assert (share[:5] == 1).all()
    assert (share[5:] == 0).all()
    assert chip['mask_coordinates'][:, 5:].isnan().all()
    assert chip['mask_coordinates'][:, :5].isfinite().all()
    assert (chip['mask_weight'][5:] == -1).all()


def test_says_where_it_lies() -> None:
    torch.manual_seed(0)
    for _ in range(50):
        whole = sample(10, 9) | {'chip': torch.tensor([3, -2, 100, 1])}
        chip = RandomChip(8)(whole)
        top, left = divmod(int(chip['mask'][0, 0]), 9)
        assert chip['chip'].tolist() == [3, top - 2, left + 100, 0]
        assert whole['chip'].tolist() == [3, -2, 100, 1]
    # Nothing is cut off: pieces of cells go on to add up to cells.
    small = sample(5, 8) | {'chip': torch.tensor([3, -2, 100, 1])}
    assert RandomChip(8)(small)['chip'].tolist() == [3, -2, 100, 1]


def test_crops_of_a_pair_are_chips_of_its_imagery(tmp_path: Path) -> None:
    """A fit, which counts chips of one place once, sees all of them."""
    torch.manual_seed(0)
    scene = make_scene(tmp_path, size=(96, 128))
    pair = LRHRPair(scene.imagery, scene.labels)
    crops = LRHRPair(scene.imagery, scene.labels, transforms=RandomChip(40))
    places = set()
    for _ in range(5):
        chip = crops[:]
        _, top, left, _ = chip['chip'].tolist()
        grid = crop(pair.imagery.geobox, (top, left, top + 40, left + 40))
        expected = pair[ChipQuery(0, grid)]
        torch.testing.assert_close(chip['image'], expected['image'])
        assert torch.equal(chip['chip'], expected['chip'])
        places.add((top, left))
    assert len(places) == 5
