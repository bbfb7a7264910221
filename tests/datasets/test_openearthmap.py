# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import pickle
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rasterio
import torch
import torchgeo.datasets

from tests.data.openearthmap import data
from tests.data.openearthmap_sar import data as sar_data
from torchgeo_mapsr.datasets import OpenEarthMap, OpenEarthMapSAR
from torchgeo_mapsr.datasets.images import ChipFiles, ImageChips
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError


@pytest.fixture(scope='module')
def optical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('oem')
    data.make(folder)
    return folder


@pytest.fixture(scope='module')
def sar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('oem_sar')
    sar_data.make(folder)
    return folder


class TestOpenEarthMap:
    @pytest.mark.parametrize('split', ['train', 'val', 'test'])
    def test_splits(self, optical: Path, split: str) -> None:
        dataset = OpenEarthMap(optical, split)  # type: ignore[arg-type]
        there = [name for name in data.SPLITS[split] if name != data.ABSENT]
        assert [dataset[i]['filename'] for i in range(len(dataset))] == there
        assert len(dataset) == len(there)

    def test_sample(self, optical: Path) -> None:
        sample = OpenEarthMap(optical)[2]
        region = optical / 'coxsbazar'
        with rasterio.open(region / 'images' / 'coxsbazar_7.tif') as file:
            np.testing.assert_array_equal(sample['image'].numpy(), file.read())
        with rasterio.open(region / 'labels' / 'coxsbazar_7.tif') as file:
            codes = file.read(1).astype(int)
        assert sample['image'].dtype == torch.float32
        assert sample['mask'].dtype == torch.int64
        expected = np.where(codes == 0, -1, codes)
        assert (codes == 0).any()
        np.testing.assert_array_equal(sample['mask'].numpy(), expected)
        assert (sample['mask_valid'] == 1).all()

    def test_images_that_are_listed_and_not_there(self, optical: Path) -> None:
        assert OpenEarthMap(optical).missing == (data.ABSENT,)
        assert OpenEarthMap(optical, 'val').missing == ()

    def test_test_has_no_labels(self, optical: Path) -> None:
        assert 'mask' not in OpenEarthMap(optical, 'test')[0]

    def test_transforms(self, optical: Path) -> None:
        dataset = OpenEarthMap(optical, transforms=lambda s: s | {'image': -s['image']})
        assert (dataset[0]['image'] <= 0).all()

    def test_legend_names_the_classes(self, optical: Path) -> None:
        legend = OpenEarthMap(optical).legend
        assert [item.name for item in legend.classes][4:6] == ['Tree', 'Water']

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r'train\.txt: is not there'):
            OpenEarthMap(tmp_path)
        (tmp_path / 'train.txt').write_text('aachen_1.tif\n')
        with pytest.raises(InputError, match='none of the 1 images'):
            OpenEarthMap(tmp_path)

    def test_plot(self, optical: Path) -> None:
        dataset = OpenEarthMap(optical)
        sample = dataset[0]
        figure = dataset.plot(sample | {'prediction': sample['mask']}, suptitle='one')
        assert [axis.get_title() for axis in figure.axes] == [
            'Image',
            'Labels',
            'Prediction',
        ]
        # colours of the legend, and white where there is no label
        painted = np.asarray(figure.axes[1].images[0].get_array())
        tree = sample['mask'].numpy() == 5
        assert (painted[tree] == dataset.legend.colors[4]).all()
        assert (painted[sample['mask'].numpy() < 0] == 255).all()
        plt.close(figure)
        figure = dataset.plot(OpenEarthMap(optical, 'test')[0], show_titles=False)
        assert len(figure.axes) == 1
        plt.close(figure)

    def test_files_of_different_sizes(self, tmp_path: Path) -> None:
        data.make(tmp_path)
        data.write(tmp_path / 'aachen/labels/aachen_1.tif', np.ones((9, 9), 'uint8'))
        with pytest.raises(InputError, match='mask is of another size'):
            OpenEarthMap(tmp_path)[0]

    def test_unreadable_file(self, tmp_path: Path) -> None:
        data.make(tmp_path)
        (tmp_path / 'aachen/images/aachen_1.tif').write_text('no picture')
        with pytest.raises(InputError, match=r'aachen_1\.tif: cannot be read'):
            OpenEarthMap(tmp_path)[0]


class TestOpenEarthMapSAR:
    def test_sar(self, sar: Path) -> None:
        dataset = OpenEarthMapSAR(sar)
        assert len(dataset) == sar_data.COUNT['train']
        sample = dataset[1]
        assert sample['filename'] == 'TrainArea_002.tif'
        assert sample['image'].shape == (1, data.SIZE, data.SIZE)
        assert 'image_optical' not in sample
        with rasterio.open(sar / 'train/sar_images/TrainArea_002.tif') as file:
            np.testing.assert_array_equal(sample['image'].numpy(), file.read())

    def test_hidden_files_are_no_images(self, sar: Path, tmp_path: Path) -> None:
        root = shutil.copytree(sar, tmp_path / 'copy')
        for path in list(root.rglob('*.tif')):
            path.with_name(f'._{path.name}').write_text('no raster')
        assert len(OpenEarthMapSAR(root)) == sar_data.COUNT['train']

    def test_pairs(self, sar: Path) -> None:
        sample = OpenEarthMapSAR(sar, paired=True)[0]
        other = OpenEarthMapSAR(sar, modality='optical')[0]
        assert (sample['image_optical'] == other['image']).all()
        assert (sample['mask'] == other['mask']).all()
        assert other['image'].shape[0] == 3

    @pytest.mark.parametrize('split', ['val', 'test'])
    def test_evaluation_has_sar_only(self, sar: Path, split: str) -> None:
        dataset = OpenEarthMapSAR(sar, split, paired=True)  # type: ignore[arg-type]
        sample = dataset[0]
        assert len(dataset) == sar_data.COUNT[split]
        assert 'image_optical' not in sample
        assert 'mask' in sample
        with pytest.raises(InputError, match='rgb_images'):
            OpenEarthMapSAR(sar, split, modality='optical')  # type: ignore[arg-type]

    def test_other_labels(self, sar: Path) -> None:
        """Better pseudo-labels beside those that were published."""
        published = OpenEarthMapSAR(sar)[0]['mask']
        codes = np.where(published < 0, 0, published).astype('uint8')
        for name in ('TrainArea_001.tif', 'TrainArea_002.tif'):
            data.write(sar / 'train' / 'ours' / name, 9 - codes)
        ours = OpenEarthMapSAR(sar, labels='ours')
        assert (ours[0]['mask'] == 9 - torch.from_numpy(codes.astype(int))).all()
        assert (ours[2]['mask'] == -1).all()  # a batch has the same keys

    def test_plot_shows_both_images(self, sar: Path) -> None:
        dataset = OpenEarthMapSAR(sar, paired=True)
        figure = dataset.plot(dataset[0])
        titles = [axis.get_title() for axis in figure.axes]
        assert titles == ['Image', 'Optical image', 'Labels']
        plt.close(figure)


def test_torchgeos_error(tmp_path: Path) -> None:
    """The one line is an error of torchgeo's too, and survives a worker process."""
    with pytest.raises(torchgeo.datasets.DatasetNotFoundError) as error:
        OpenEarthMap(tmp_path)
    assert isinstance(error.value, InputError)
    assert str(error.value).startswith(f'{tmp_path / "train.txt"}: is not there')
    again = pickle.loads(pickle.dumps(error.value))
    assert (type(again), str(again)) == (type(error.value), str(error.value))


@pytest.mark.parametrize('nodata', [-3.4028234663852886e38, float('nan'), None])
def test_pixels_without_data_are_0(tmp_path: Path, nodata: float | None) -> None:
    """A file's no-data value, and NaN, are no values of the image."""
    values = np.random.default_rng(0).uniform(1, 9, (3, 8, 8)).astype('float32')
    values[:, :2] = np.nan if nodata is None else nodata
    path = tmp_path / 'a.tif'
    with rasterio.open(
        path, 'w', driver='GTiff', width=8, height=8, count=3, dtype='float32',
        nodata=nodata, crs='EPSG:32654', transform=rasterio.Affine(1, 0, 0, 0, -1, 8),
    ) as file:  # fmt: skip
        file.write(values)
    sample = ImageChips([ChipFiles(path)], Legend.load('land-cover-4'))[0]
    valid = sample['mask_valid'].numpy() == 1
    np.testing.assert_array_equal(valid, np.arange(8)[:, None].repeat(8, 1) >= 2)
    np.testing.assert_array_equal(sample['image'], np.where(valid, values, 0))
