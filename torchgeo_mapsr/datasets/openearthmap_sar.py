# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""OpenEarthMap-SAR: pairs of optical and SAR images with pseudo-labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .._compat import Sample
from ..arguments import check_arguments
from .errors import DatasetNotFoundError
from .geo.names import PathLike
from .images import ChipFiles, ImageChips
from .legends.legend import Legend

Modality = Literal['sar', 'optical']

FOLDERS = {'sar': 'sar_images', 'optical': 'rgb_images'}


class OpenEarthMapSAR(ImageChips):
    """OpenEarthMap-SAR dataset, of the IEEE GRSS data fusion contest 2025, track 1.

    `OpenEarthMap-SAR <https://arxiv.org/abs/2501.10891>`_ has 5033 pairs of optical and
    SAR images (Umbra, one polarisation) of 35 regions in Japan, France and the USA,
    1024 × 1024 pixels at 0.15 to 0.5 m. The 4333 pairs for training have pseudo-labels:
    what networks trained on OpenEarthMap say of the optical image. 210 images for
    validation and 490 for test have manual labels, and were published for the contest
    without their optical images.

    Layout, as the archives ``dfc25_track1_*.zip`` of
    https://zenodo.org/records/14950559 unpack into *root*:

    .. code-block:: text

       train/rgb_images/TrainArea_{i}.tif   red, green, blue, uint8
       train/sar_images/TrainArea_{i}.tif   amplitude, uint8
       train/labels/TrainArea_{i}.tif       codes, uint8: pseudo-labels
       val/sar_images/ValArea_{i}.tif       and val/labels, from an archive of their own
       test/sar_images/TestArea_{i}.tif     and test/labels, likewise

    Classes are those of :class:`~torchgeo_mapsr.datasets.OpenEarthMap`.

    If you use this dataset in your research, please cite:

    * https://doi.org/10.1109/MGRS.2025.3599512

    Args:
        root: Folder of the data.
        split: ``train``, ``val`` or ``test``.
        modality: Which image is ``image``.
        paired: Also give the optical image of a SAR image, as ``image_optical``, where
            there is one.
        labels: Folder of the labels, beside the images: better pseudo-labels than those
            published can be put there.
        transforms: Takes a sample and returns it transformed.

    Raises:
        DatasetNotFoundError: There are no such data in *root*.
        InputError: *split* or *modality* is something else.
    """

    def __init__(
        self,
        root: PathLike = 'data',
        split: Literal['train', 'val', 'test'] = 'train',
        modality: Modality = 'sar',
        paired: bool = False,
        labels: str = 'labels',
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        check_arguments(type(self).__init__, {'split': split, 'modality': modality})
        folder = Path(root) / split
        images = folder / FOLDERS[modality]
        paths = sorted(images.glob('[!.]*.tif'))
        if not paths:
            raise DatasetNotFoundError(
                f'{images}: has no .tif files; give the folder of OpenEarthMap-SAR that '
                'has train, val and test (https://zenodo.org/records/14950559)'
            )
        optical = folder / FOLDERS['optical'] if paired and modality == 'sar' else None
        self.root, self.split = Path(root), split
        self.all_bands: tuple[str, ...] = ('amplitude',)
        self.rgb_bands: tuple[str, ...] = ()
        if modality == 'optical':
            self.all_bands = self.rgb_bands = ('R', 'G', 'B')
        super().__init__(
            [
                ChipFiles(
                    path,
                    _beside(folder / labels, path.name),
                    _beside(optical, path.name) if optical else None,
                )
                for path in paths
            ],
            Legend.load('openearthmap'),
            transforms,
        )


def _beside(folder: Path, name: str) -> Path | None:
    path = folder / name
    return path if path.is_file() else None
