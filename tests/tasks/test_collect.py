# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch

from torchgeo_mapsr._compat import Sample
from torchgeo_mapsr.datasets import Crosswalk, Legend, LRHRPair, collate_pairs
from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.models.tokens.tokens import Tokens
from torchgeo_mapsr.tasks.cells import BatchCells
from torchgeo_mapsr.tasks.collect import Collected, Collector

CROSSWALK = Crosswalk.load('nlcd', 'land-cover-4')


@pytest.fixture(scope='module')
def samples(made_scene: Scene) -> list[Sample]:
    """Two chips that overlap, with windows of different sizes."""
    pair = LRHRPair(made_scene.imagery, made_scene.labels)
    box = pair.imagery.geobox
    return [pair.sample(box[:128, :128]), pair.sample(box[75:203, 73:201])]


def tokens_of(batch: Sample) -> Tokens:
    """The bands themselves."""
    size = batch['image'].shape[-2:]
    return Tokens((batch['image'],), (1,), (size[0], size[1]))


def collect(collector: Collector, batch: Sample) -> None:
    cells, tokens = BatchCells.of(batch, CROSSWALK), tokens_of(batch)
    collector.add(batch, cells, cells.features(tokens), tokens)


def test_cells_are_those_of_the_samples(samples: list[Sample]) -> None:
    """Cell by cell, in plain numpy; without places, every chip has its own cells."""
    collector = Collector(pixels=500, seed=0)
    batch = collate_pairs(samples)
    del batch['lr_place']
    collect(collector, batch)
    found = collector.collected()
    wanted = []
    for chip, sample in enumerate(samples):
        image, region = sample['image'].numpy(), sample['mask_region'].numpy()
        width = sample['lr_label'].shape[1]
        for i, code in enumerate(sample['lr_label'].flatten().tolist()):
            inside = region == i + 1
            if inside.any():
                share = inside.sum() / sample['lr_pixels'].flatten()[i].item()
                place = (chip, i // width, i % width)
                label = int(CROSSWALK.index(np.array(code)))
                wanted.append((place, label, share, image[:, inside].mean(1)))
    assert len(found.cells) == len(wanted)
    rows = {tuple(p): n for n, p in enumerate(found.cells.place.tolist())}
    for place, label, share, mean in wanted:
        n = rows[place]
        assert found.cells.label[n] == label
        assert found.cells.share[n] == pytest.approx(share, rel=1e-5)
        np.testing.assert_allclose(found.cells.features[n], mean, rtol=1e-4)
    assert found.codes.total() == len(wanted)


def test_pixels_have_the_labels_of_their_cells(samples: list[Sample]) -> None:
    collector = Collector(pixels=300, seed=0)
    # where a pixel is, is what its features say
    place = torch.arange(2 * 128 * 128).view(2, 1, 128, 128).double()
    batch = collate_pairs(samples) | {'image': place}
    collect(collector, batch)
    pixels = collector.collected().pixels
    assert len(pixels) == 300
    flat = pixels.features[:, 0].long()
    assert len(flat.unique()) == 300
    region = batch['mask_region'].flatten()[flat]
    image = flat // 128**2
    codes = batch['lr_label'].flatten(1)[image, region - 1]
    np.testing.assert_array_equal(pixels.label, CROSSWALK.index(codes.numpy()))


def test_invalid_pixels_do_not_count(samples: list[Sample]) -> None:
    sample = samples[0] | {'mask_valid': samples[0]['mask_valid'].clone()}
    sample['mask_valid'][:, :64] = 0
    cells = BatchCells.of(collate_pairs([sample]), CROSSWALK)
    whole = BatchCells.of(collate_pairs(samples[:1]), CROSSWALK)
    assert 0 < cells.usable.sum() < whole.usable.sum()
    collector = Collector(pixels=10**6, seed=0)
    image = sample['image'].clone()
    image[:, :, :64] = torch.nan
    collect(collector, collate_pairs([sample | {'image': image}]))
    found = collector.collected()
    assert found.cells.features.isfinite().all()
    assert found.pixels.features.isfinite().all()


def test_masks_with_a_channel(samples: list[Sample]) -> None:
    """As augmentations may leave them."""
    batch = collate_pairs(samples)
    masks = ('mask_region', 'mask_valid')
    other = batch | {key: batch[key][:, None].float() for key in masks}
    a, b = (BatchCells.of(x, CROSSWALK) for x in (batch, other))
    assert torch.equal(a.region, b.region)
    assert torch.equal(a.share, b.share)


def test_known_places_count_once(samples: list[Sample]) -> None:
    """The fullest view of a cell is kept, whichever chip it is in."""
    windows = [(2**40, 3, 5), (2**40, 4, 6)]
    collector = Collector(pixels=10, seed=0)
    for sample, window in zip(samples, windows, strict=True):
        batch = collate_pairs([sample]) | {'lr_place': torch.tensor([window])}
        collect(collector, batch)
    found = collector.collected().cells
    best: dict[tuple[int, ...], float] = {}
    for sample, window in zip(samples, windows, strict=True):
        cells = BatchCells.of(collate_pairs([sample]), CROSSWALK)
        for row, col in (cells.share[0] > 0).nonzero().tolist():
            place = (0, window[1] + row, window[2] + col)
            best[place] = max(best.get(place, 0), cells.share[0, row, col].item())
    places = [tuple(place) for place in found.place.tolist()]
    assert sorted(places) == sorted(best)
    assert [best[place] for place in places] == found.share.tolist()


@pytest.mark.parametrize('together', [True, False])
def test_overlapping_chips_count_each_cell_once(
    made_scene: Scene, together: bool
) -> None:
    """Also if each comes from a dataset of its own."""
    pairs = [LRHRPair(made_scene.imagery, made_scene.labels) for _ in range(2)]
    box = pairs[0].imagery.geobox
    chips = [box[:128, :128], box[30:158, 40:168], box[75:203, 73:201]]
    samples = [pairs[i % 2].sample(chip) for i, chip in enumerate(chips)]
    collector = Collector(pixels=10, seed=0)
    batches = [samples] if together else [[sample] for sample in samples]
    for batch in batches:
        collect(collector, collate_pairs(batch))
    found = collector.collected().cells
    found = found[torch.from_numpy(np.lexsort(found.place.numpy().T[::-1]))]
    # the labels' own cells under the union of the chips
    union = region_map(box[:203, :201], pairs[0].labels[0].geobox)
    seen = np.zeros((203, 201), bool)
    for chip in ((0, 128, 0, 128), (30, 158, 40, 168), (75, 203, 73, 201)):
        seen[chip[0] : chip[1], chip[2] : chip[3]] = True
    cells = np.unique(union.mask_region[seen & (union.mask_region > 0)]) - 1
    row, col = np.divmod(cells, union.window[3])
    places = np.stack([row + union.window[0], col + union.window[1]], 1)
    np.testing.assert_array_equal(found.place[:, 1:], places)
    assert len(found.place[:, 0].unique()) == 1
    codes = pairs[0].labels[0].read(slice(0, 100), slice(0, 100))
    inside = (places >= 0).all(1)
    label = CROSSWALK.index(codes[places[inside][:, 0], places[inside][:, 1]])
    np.testing.assert_array_equal(found.label[torch.from_numpy(inside)], label)


def test_same_seed_same_pixels(samples: list[Sample]) -> None:
    def drawn(seed: int) -> Collected:
        collector = Collector(pixels=50, seed=seed)
        collect(collector, collate_pairs(samples))
        return collector.collected()

    assert torch.equal(drawn(1).pixels.features, drawn(1).pixels.features)
    assert not torch.equal(drawn(1).pixels.features, drawn(2).pixels.features)


def test_unknown_codes_are_counted(samples: list[Sample]) -> None:
    codes = samples[0]['lr_label'].clone()
    codes[2, 2:4] = 7
    collector = Collector(pixels=10, seed=0)
    collect(collector, collate_pairs([samples[0] | {'lr_label': codes}]))
    assert collector.collected().unknown(CROSSWALK) == {7: 2}


def test_nothing_to_fit_says_so(samples: list[Sample]) -> None:
    with pytest.raises(InputError, match='No batch'):
        Collector(pixels=10, seed=0).collected()
    batch = collate_pairs(samples)
    del batch['mask_region'], batch['lr_pixels']
    with pytest.raises(InputError, match='mask_region, lr_pixels'):
        BatchCells.of(batch, Crosswalk.load(Legend.load('nlcd'), 'land-cover-4'))
