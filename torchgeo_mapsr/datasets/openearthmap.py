# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""OpenEarthMap: aerial and satellite images with HR labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .._compat import Sample
from ..arguments import check_arguments
from .errors import DatasetNotFoundError
from .geo.names import PathLike
from .images import ChipFiles, ImageChips
from .legends.legend import Legend


class OpenEarthMap(ImageChips):
    """OpenEarthMap dataset.

    `OpenEarthMap <https://open-earth-map.org>`_ has 5000 aerial and satellite images of
    97 regions in 44 countries, at 0.25 to 0.5 m, with manual labels of 8 classes. Of the
    images 3000 are for training, 500 for validation and 1500 for test; labels of the
    test images are not published.

    Layout, as ``OpenEarthMap.zip`` of https://zenodo.org/records/7223446 unpacks (the
    folder ``OpenEarthMap_wo_xBD`` is *root*):

    .. code-block:: text

       train.txt  val.txt  test.txt      names of image files, one a line
       {region}/images/{region}_{i}.tif  red, green, blue, uint8
       {region}/labels/{region}_{i}.tif  codes, uint8

    The lists also name images of xBD, which are not in the archive and have to be
    fetched from https://xview2.org. Images of the lists that are not there are left out;
    :attr:`missing` has their names.

    Classes (0 is no label, which becomes -1):

    1. Bareland
    2. Rangeland
    3. Developed space
    4. Road
    5. Tree
    6. Water
    7. Agriculture land
    8. Building

    If you use this dataset in your research, please cite:

    * https://doi.org/10.1109/WACV56688.2023.00619

    Args:
        root: Folder of the data.
        split: ``train``, ``val`` or ``test``.
        transforms: Takes a sample and returns it transformed.

    Raises:
        InputError: *split* is something else.
        DatasetNotFoundError: There are no such data in *root*.
    """

    all_bands = ('R', 'G', 'B')
    rgb_bands = ('R', 'G', 'B')

    def __init__(
        self,
        root: PathLike = 'data',
        split: Literal['train', 'val', 'test'] = 'train',
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        check_arguments(type(self).__init__, {'split': split})
        folder = Path(root)
        listed = folder / f'{split}.txt'
        if not listed.is_file():
            raise DatasetNotFoundError(
                f'{listed}: is not there; give the folder of OpenEarthMap that has '
                'train.txt, val.txt and test.txt (https://zenodo.org/records/7223446)'
            )
        paths = {path.name: path for path in folder.glob('*/images/*.tif')}
        names = listed.read_text().split()
        images = [paths[name] for name in names if name in paths]
        #: images of the list that are not there
        self.missing = tuple(name for name in names if name not in paths)
        if not images:
            raise DatasetNotFoundError(
                f'{folder}: has none of the {len(names)} images of {listed}'
            )
        self.root, self.split = folder, split
        super().__init__(
            [ChipFiles(path, _label(path)) for path in images],
            Legend.load('openearthmap'),
            transforms,
        )


def _label(image: Path) -> Path | None:
    label = image.parents[1] / 'labels' / image.name
    return label if label.is_file() else None
