# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import numpy as np
import pytest
import torch
import torchgeo.samplers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from torch.utils.data import DataLoader
from torchgeo.datasets import RasterDataset, RGBBandsMissingError, stack_samples

from torchgeo_mapsr.datasets.collate import collate_pairs
from torchgeo_mapsr.datasets.imagery import Imagery
from torchgeo_mapsr.datasets.labels import LabelRaster
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.pair import LRHRPair
from torchgeo_mapsr.datasets.plot import paint, per_pixel
from torchgeo_mapsr.datasets.query import ChipQuery
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.samplers import ChipSampler

from .conftest import HR, UTM, Write

NLCD = Affine(30, 0, 1339185 - 90, 0, -30, 1736145 + 90)
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(1, 255, (3, 300, 260)).astype('uint8')
LABELS = RNG.choice(np.array([11, 21, 41, 82], 'uint8'), (24, 24))
TRUTH = RNG.integers(1, 7, (300, 260)).astype('uint8')

SAMPLERS = ['RandomGeoSampler', 'GridGeoSampler']
if hasattr(torchgeo.samplers, 'RandomPatchSampler'):
    SAMPLERS += ['RandomPatchSampler', 'GriddedPatchSampler']


@pytest.fixture
def files(write: Write) -> dict[str, str]:
    return {
        'imagery': write('imagery.tif', IMAGE),
        'labels': write('lr.tif', LABELS, NLCD, 'EPSG:5070'),
        'truth': write('hr.tif', TRUTH, nodata=6),
    }


@pytest.fixture
def pair(files: dict[str, str]) -> LRHRPair:
    return LRHRPair(**files)  # type: ignore[arg-type]


def parents(pair: LRHRPair, sample: dict[str, Any]) -> NDArray[np.int64]:
    return per_pixel(sample['lr_label'], sample['mask_region'])


class TestSample:
    def test_keys_and_types(self, pair: LRHRPair) -> None:
        sample = pair.sample(ChipQuery(0, pair.imagery.geobox[10:74, 20:100]))
        kinds = {k: (v.dtype, tuple(v.shape)) for k, v in sample.items() if k in (
            'image', 'mask', 'mask_region', 'mask_valid', 'lr_label', 'lr_pixels',
            'lr_place', 'chip', 'mask_coordinates')}  # fmt: skip
        cells = tuple(sample['lr_label'].shape)
        assert kinds == {
            'image': (torch.float32, (3, 64, 80)),
            'mask': (torch.int64, (64, 80)),
            'mask_region': (torch.int64, (64, 80)),
            'mask_valid': (torch.int64, (64, 80)),
            'lr_label': (torch.int64, cells),
            'lr_pixels': (torch.float32, cells),
            'lr_place': (torch.int64, (3,)),
            'chip': (torch.int64, (4,)),
            'mask_coordinates': (torch.float32, (2, 64, 80)),
        }
        assert set(sample) - set(kinds) in ({'bounds', 'crs'}, {'bounds', 'transform'})

    def test_values(self, pair: LRHRPair) -> None:
        grid = pair.imagery.geobox[10:74, 20:100]
        sample = pair.sample(ChipQuery(0, grid))
        np.testing.assert_array_equal(sample['image'], IMAGE[:, 10:74, 20:100])
        truth = TRUTH[10:74, 20:100].astype(int)
        np.testing.assert_array_equal(sample['mask'], np.where(truth == 6, -1, truth))
        np.testing.assert_array_equal(parents(pair, sample), pair.labels[0].at(grid))
        assert sample['mask_valid'].all()

    def test_beyond_the_imagery(self, pair: LRHRPair) -> None:
        sample = pair.sample(ChipQuery(0, pair.imagery.geobox.pad(5)))
        inside = np.zeros((310, 270), int)
        inside[5:-5, 5:-5] = 1
        np.testing.assert_array_equal(sample['mask_valid'], inside)
        mirrored = np.pad(IMAGE, ((0, 0), (5, 5), (5, 5)), mode='reflect')
        np.testing.assert_array_equal(sample['image'], mirrored)
        assert (sample['image'] > 0).all()
        assert (sample['mask'][inside == 0] == -1).all()

    def test_lr_pixels_survive_a_crop(self, pair: LRHRPair) -> None:
        sample = pair.sample(ChipQuery(0, pair.imagery.geobox))
        cells = sample['lr_label'].numel()
        for part in (sample['mask_region'], sample['mask_region'][40:100, 30:200]):
            visible = torch.bincount(part.flatten(), minlength=cells + 1)[1:]
            share = visible / sample['lr_pixels'].flatten().clamp(min=1)
            assert (share <= 1 + 1e-6).all()
            assert (share == 1).any()
            assert ((share > 0) & (share < 0.9)).any()
        # 30 × 30 m cells of 1 m pixels
        whole = sample['lr_pixels'][sample['lr_pixels'] > 0]
        assert ((whole > 880) & (whole < 920)).all()

    def test_partly_labelled(self, write: Write, files: dict[str, str]) -> None:
        part = write('part.tif', LABELS[:, :9], NLCD, 'EPSG:5070')
        sample = (pair := LRHRPair(files['imagery'], part)).sample(
            ChipQuery(0, pair.imagery.geobox)
        )
        labelled = parents(pair, sample) >= 0
        assert 0.1 < labelled.mean() < 0.9
        assert sample['mask_region'].min() > 0

    def test_the_first_labels_count(self, write: Write, files: dict[str, str]) -> None:
        west = write('w.tif', LABELS[:, :9], NLCD, 'EPSG:5070')
        east = write(
            'e.tif', np.full((60, 60), 7, 'uint8'), HR * Affine(10, 0, 50.5, 0, 10, 0)
        )
        pair = LRHRPair(files['imagery'], [west, east], truth=[files['truth'], west])
        assert len(pair.labels) == 2
        grid = pair.imagery.geobox
        for chip in (grid, grid[:, 150:], grid[:, :80]):
            first, second = (raster.at(chip) for raster in pair.labels)
            sample = pair.sample(chip)
            np.testing.assert_array_equal(
                parents(pair, sample), np.where(first >= 0, first, second)
            )
        chips = [pair[query] for query in ChipSampler(pair, 64)]
        batch = collate_pairs(chips)
        assert batch['lr_label'].ndim == 4
        for i, chip in enumerate(chips):
            np.testing.assert_array_equal(
                per_pixel(batch['lr_label'][i], batch['mask_region'][i]),
                parents(pair, chip),
            )
        # truth is filled from the second raster where the first has none
        mask = pair.sample(ChipQuery(0, grid[:, :80]))['mask'].numpy()
        second = pair.truth[1].at(grid[:, :80])
        np.testing.assert_array_equal(
            mask[TRUTH[:, :80] == 6], second[TRUTH[:, :80] == 6]
        )


class TestSources:
    def test_paths_objects_and_torchgeo(self, files: dict[str, str]) -> None:
        class Naip(RasterDataset):
            filename_glob = 'imagery.tif'

        class Lr(RasterDataset):
            filename_glob = 'lr.tif'
            is_image = False

        folder = str(Path(files['imagery']).parent)
        labels = LabelRaster.open(files['labels'])
        pairs = [
            LRHRPair(files['imagery'], files['labels']),
            LRHRPair([Path(files['imagery'])], [files['labels']]),
            LRHRPair(Imagery(files['imagery']), labels[0]),
            LRHRPair(Imagery(files['imagery']), labels),
            LRHRPair(Naip(folder), Lr(folder)),
        ]
        first = pairs[0].sample(ChipQuery(0, pairs[0].imagery.geobox))
        for pair in pairs[1:]:
            sample = pair.sample(ChipQuery(0, pair.imagery.geobox))
            for key in ('image', 'mask_region', 'lr_label', 'mask_valid', 'lr_pixels'):
                torch.testing.assert_close(sample[key], first[key])

    def test_bands_of_a_torchgeo_dataset(self, files: dict[str, str]) -> None:
        class Naip(RasterDataset):
            filename_glob = 'imagery.tif'
            all_bands = ('R', 'G', 'B')

        naip = Naip(str(Path(files['imagery']).parent), bands=['B', 'R'])
        pair = LRHRPair(naip, files['labels'])
        image = pair.sample(ChipQuery(0, pair.imagery.geobox))['image']
        np.testing.assert_array_equal(image, IMAGE[[2, 0]])
        pair = LRHRPair(files['imagery'], files['labels'], bands=[2])
        np.testing.assert_array_equal(
            pair.sample(ChipQuery(0, pair.imagery.geobox))['image'], IMAGE[1:2]
        )

    def test_separate_files_are_refused(self, files: dict[str, str]) -> None:
        class Separate(RasterDataset):
            filename_glob = 'imagery.tif'
            separate_files = True

        dataset = Separate(str(Path(files['imagery']).parent))
        with pytest.raises(InputError, match='a file of its own'):
            LRHRPair(dataset, files['labels'])

    def test_bands_belong_to_imagery(self, files: dict[str, str]) -> None:
        with pytest.raises(InputError, match='to Imagery, not to the pair'):
            LRHRPair(Imagery(files['imagery']), files['labels'], bands=[1])

    def test_no_overlap(self, write: Write, files: dict[str, str]) -> None:
        away = write('away.tif', LABELS, NLCD * Affine.translation(500, 0), 'EPSG:5070')
        with pytest.raises(InputError, match=r'away\.tif: does not overlap'):
            LRHRPair(files['imagery'], away)
        ortho = write(
            'ortho.tif',
            LABELS,
            Affine(1e5, 0, -5e5, 0, -1e5, 5e5),
            '+proj=ortho +lon_0=100',
        )
        with pytest.raises(InputError, match=r'ortho\.tif: does not overlap'):
            LRHRPair(files['imagery'], ortho)

    def test_labels_finer_than_imagery(
        self, write: Write, files: dict[str, str]
    ) -> None:
        coarse = write('coarse.tif', IMAGE[:, ::30, ::30], HR * Affine.scale(60))
        with pytest.raises(InputError, match='smaller pixels'):
            LRHRPair(coarse, files['labels'])

    @pytest.mark.parametrize(
        'transform', [HR * Affine.rotation(10), Affine(1, 0, HR.c, 0, 1, HR.f - 300)]
    )
    def test_only_north_up(
        self, write: Write, files: dict[str, str], transform: Affine
    ) -> None:
        with pytest.raises(InputError, match='not north-up'):
            LRHRPair(write('r.tif', IMAGE, transform), files['labels'])


class TestQuery:
    def test_snaps_to_pixels(self, pair: LRHRPair) -> None:
        left, top = HR.c, HR.f
        for dx in (-0.4, 0, 0.3):
            sample = pair[
                left + 10 + dx : left + 74 + dx, top - 80 + dx : top - 20 + dx
            ]
            np.testing.assert_array_equal(sample['image'], IMAGE[:, 20:80, 10:74])

    def test_whole_range(self, pair: LRHRPair) -> None:
        np.testing.assert_array_equal(pair[:]['image'], IMAGE)
        assert len(pair) == 1
        assert pair.res == (1, 1)

    def test_outside(self, pair: LRHRPair) -> None:
        with pytest.raises(IndexError, match='not found in bounds'):
            pair[0:100, 0:100]

    def test_other_resolution(self, pair: LRHRPair) -> None:
        with pytest.raises(InputError, match='their own pixels'):
            pair[HR.c : HR.c + 50 : 2]

    def test_transforms(self, files: dict[str, str]) -> None:
        def double(sample: dict[str, Any]) -> dict[str, Any]:
            return sample | {'image': sample['image'] * 2}

        pair = LRHRPair(files['imagery'], files['labels'], transforms=double)
        np.testing.assert_array_equal(pair[:]['image'], IMAGE * 2.0)

    @pytest.mark.parametrize('name', SAMPLERS)
    def test_torchgeo_samplers(self, pair: LRHRPair, name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)
            sampler = getattr(torchgeo.samplers, name)
            options = {'length': 7} if 'Random' in name else {'stride': 50}
            queries = list(sampler(pair, size=64, **options))
        assert len(queries) >= 7
        for query in queries:
            sample = pair[query]
            assert sample['image'].shape == (3, 64, 64)
            grid = pair.snap(*query[:2])
            # the sampler's box is the chip to the last bit that a sum can lose
            box = grid.boundingbox
            expected = (query[0].start, query[1].start, query[0].stop, query[1].stop)
            assert box.bbox == pytest.approx(expected, abs=1e-6)
            np.testing.assert_array_equal(
                parents(pair, sample), pair.labels[0].at(grid)
            )
            left, top = round(box.left - HR.c), round(HR.f - box.top)
            if left >= 0 and top >= 0:
                chip = IMAGE[:, top : top + 64, left : left + 64]
                np.testing.assert_array_equal(
                    sample['image'][:, : chip.shape[1], : chip.shape[2]], chip
                )

    def test_georeference_is_torchgeos(
        self, pair: LRHRPair, files: dict[str, str]
    ) -> None:
        """The same query to torchgeo's own dataset gives the same keys."""

        class Naip(RasterDataset):
            filename_glob = 'imagery.tif'

        naip = Naip(str(Path(files['imagery']).parent))
        query = slice(HR.c, HR.c + 64), slice(HR.f - 64, HR.f)
        ours, theirs = pair[query], naip[query]
        for key in set(theirs) - {'image'}:
            if isinstance(theirs[key], torch.Tensor):
                torch.testing.assert_close(ours[key], theirs[key])
            elif key == 'crs':
                assert ours[key] == theirs[key]
        assert set(theirs) <= set(ours)

    def test_loader_and_worker_processes(self, pair: LRHRPair) -> None:
        class Every(torch.utils.data.Sampler[Any]):
            def __iter__(self) -> Iterator[Any]:
                for i in range(0, 200, 50):
                    yield slice(HR.c + i, HR.c + i + 60), slice(HR.f - 60, HR.f)

            def __len__(self) -> int:
                return 4

        loader = DataLoader(
            pair, batch_size=2, sampler=Every(), num_workers=1, collate_fn=collate_pairs
        )
        columns = [batch['image'] for batch in loader]
        for i, image in enumerate(torch.cat(columns)):
            np.testing.assert_array_equal(image, IMAGE[:, :60, i * 50 : i * 50 + 60])


class TestOperands:
    def test_grid_cannot_be_changed(
        self, pair: LRHRPair, files: dict[str, str]
    ) -> None:
        pair.crs, pair.res = pair.crs, 1.0
        with pytest.raises(InputError, match='keep the CRS'):
            pair.crs = LabelRaster.open(files['labels'])[0].geobox.crs.proj
        with pytest.raises(InputError, match='keep the pixels'):
            pair.res = 2.0
        assert pair.crs.to_epsg() == 26917
        assert pair.res == (1, 1)

    def test_nothing_is_mutated_or_printed(
        self, files: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Naip(RasterDataset):
            filename_glob = 'imagery.tif'

        class Lr(RasterDataset):
            filename_glob = 'lr.tif'
            is_image = False

        folder = str(Path(files['imagery']).parent)
        naip, lr = Naip(folder), Lr(folder)
        before = naip.crs, naip.res, lr.crs, lr.res, lr.index.copy()
        pair = LRHRPair(naip, lr)
        assert pair[:]['lr_label'].numel() > 50
        assert before[:4] == (naip.crs, naip.res, lr.crs, lr.res)
        assert before[4].equals(lr.index)
        assert capsys.readouterr() == ('', '')

    def test_pickle(self, pair: LRHRPair) -> None:
        again = pickle.loads(pickle.dumps(pair))
        torch.testing.assert_close(again[:]['mask_region'], pair[:]['mask_region'])


AUGMENTATIONS = {
    'horizontal': lambda size: K.RandomHorizontalFlip(p=0.5),
    'vertical': lambda size: K.RandomVerticalFlip(p=0.5),
    'rot90': lambda size: K.RandomRotation90((0, 3), p=0.8),
    'crop': lambda size: K.RandomCrop((size, size)),
    'centre': lambda size: K.CenterCrop(size),
}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    names=st.lists(st.sampled_from(sorted(AUGMENTATIONS)), min_size=1, max_size=4),
    top=st.integers(-20, 200),
    left=st.integers(-20, 180),
    seed=st.integers(0, 2**31),
)
def test_augmentations_are_exact(
    pair: LRHRPair, names: list[str], top: int, left: int, seed: int
) -> None:
    """Every pixel keeps its LR label: augmenting the pointers or the labels is one."""
    size, steps = 64, []
    for name in names:
        size -= 12 if name in ('crop', 'centre') else 0
        steps.append(AUGMENTATIONS[name](size))
    grid = pair.imagery.geobox
    samples = []
    for shift in (0, 37):
        corner = grid.translate_pix(left + shift, top)
        sample = pair.sample(ChipQuery(0, GeoBox((64, 64), corner.affine, corner.crs)))
        # the oracle: the label of each pixel, augmented as a picture
        sample['mask_parent'] = torch.from_numpy(parents(pair, sample))
        samples.append(sample)
    batch = collate_pairs(samples)
    before = batch['lr_label'].clone(), batch['lr_pixels'].clone()

    torch.manual_seed(seed)
    augment = K.AugmentationSequential(*steps, data_keys=None, keepdim=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        after = augment(batch)

    assert after['mask_region'].shape == (2, size, size)
    for i in range(2):
        np.testing.assert_array_equal(
            per_pixel(after['lr_label'][i], after['mask_region'][i]),
            after['mask_parent'][i],
        )
        # Places turn with the pixels: each still lies in its cell.
        cell = after['mask_region'][i] - 1
        width = after['lr_label'].shape[-1]
        middle = torch.stack([cell // width, cell % width]) + 0.5
        assert (after['mask_coordinates'][i] - middle).abs().max() < 0.5 + 1e-4
    torch.testing.assert_close(after['lr_label'], before[0])
    torch.testing.assert_close(after['lr_pixels'], before[1])


class TestPlot:
    def test_panels(self, pair: LRHRPair, files: dict[str, str]) -> None:
        sample = pair.sample(ChipQuery(0, pair.imagery.geobox.pad(3)))
        sample['prediction'] = sample['mask']
        figure = pair.plot(sample, suptitle='A place')
        titles = [axis.get_title() for axis in figure.axes]
        assert titles == ['Image', 'LR labels', 'HR labels', 'Prediction']
        assert figure.get_suptitle() == 'A place'
        plt.close(figure)

        labelled = LRHRPair(
            files['imagery'], files['labels'], legend=Legend.load('nlcd')
        )
        sample = labelled[:]
        figure = labelled.plot(sample, show_titles=False)
        assert [axis.get_title() for axis in figure.axes] == ['', '']
        shown = figure.axes[1].images[0].get_array()
        nlcd = Legend.load('nlcd')
        codes = parents(labelled, sample)
        np.testing.assert_array_equal(shown, nlcd.colors[nlcd.index(codes)])
        plt.close(figure)

    def test_half_precision(self, pair: LRHRPair) -> None:
        """NumPy has no bfloat16; whole numbers up to 256 lose nothing in it."""
        sample = pair[:]
        figure = pair.plot(sample)
        half = pair.plot({**sample, 'image': sample['image'].bfloat16()})
        one, other = (f.axes[0].images[0].get_array() for f in (figure, half))
        np.testing.assert_allclose(one, other, atol=0.02)
        plt.close('all')

    def test_batch(self, pair: LRHRPair) -> None:
        with pytest.raises(InputError, match=r'batch of 2.*unbind_samples'):
            pair.plot(collate_pairs([pair[:], pair[:]]))

    def test_colours_by_name(self, write: Write, files: dict[str, str]) -> None:
        """Blue first: the panel is in the order that the file names."""
        names = ColorInterp.blue, ColorInterp.green, ColorInterp.red
        path = write('bgr.tif', IMAGE, colorinterp=names)
        pair = LRHRPair(path, files['labels'], truth_legend=Legend.load('land-cover-4'))
        assert pair.all_bands == pair.bands == ('1', '2', '3')
        assert pair.rgb_bands == ('3', '2', '1')
        assert pair.classes == ('Water', 'Forest', 'Field', 'Impervious')
        figure = pair.plot(pair[:])
        shown = np.asarray(figure.axes[0].images[0].get_array())
        low, high = np.percentile(IMAGE[2], (2, 98))
        red = np.clip((IMAGE[2].astype(float) - low) / (high - low), 0, 1)
        np.testing.assert_allclose(shown[: red.shape[0], : red.shape[1], 0], red)
        plt.close(figure)
        part = LRHRPair(path, files['labels'], bands=[3, 1])
        assert part.bands == ('3', '1')
        with pytest.raises(RGBBandsMissingError) as error:
            part.plot(part[:])
        assert isinstance(error.value, InputError)
        assert 'has no band 2' in str(error.value)
        part.rgb_bands = ('1', '3', '3')
        plt.close(part.plot(part[:]))

    def test_nothing_known(self, pair: LRHRPair) -> None:
        corner = pair.imagery.geobox.translate_pix(-500, -500)
        sample = pair.sample(ChipQuery(0, GeoBox((32, 32), corner.affine, corner.crs)))
        figure = pair.plot(sample)
        for axis in figure.axes:
            assert (
                np.asarray(axis.images[0].get_array())
                == axis.images[0].get_array().max()
            ).all()
        plt.close(figure)

    def test_codes_without_a_legend_differ(self) -> None:
        colors = paint(np.array([[-1, 11, 21, 41, 42, 82]]), None)[0]
        assert len({tuple(color) for color in colors}) == 6
        assert tuple(colors[0]) == (255, 255, 255)


def test_torchgeo_can_stack_samples_of_one_size(pair: LRHRPair) -> None:
    samples = [pair[query] for query in ChipSampler(pair, 64, stride=37)]
    ours, theirs = collate_pairs(samples), stack_samples(samples)
    for key, value in ours.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(theirs[key], value, equal_nan=True)
    assert (pair.imagery.geobox.crs == UTM) is True
