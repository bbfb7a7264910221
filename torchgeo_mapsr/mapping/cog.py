# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Cloud-optimised GeoTIFFs, put together tile by tile.

A class map is one uint8 band with its colour table in the file: that opens in its
colours everywhere. TIFF has no place for a colour table beside a second band nor for
category names, so confidence and scores are files of their own, and the names stand
in a ``.aux.xml`` beside the map, with a raster attribute table (GDAL reads it), and once
more in a tag.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from ..atomic import part_of
from ..datasets.geo.plan import Tile
from ..datasets.legends.legend import Legend
from ..errors import InputError, incomplete
from ..evaluation.class_maps import NO_PERCENT
from .style import sidecar_of, sidecar_xml

_BLOCK = 512


@dataclass(frozen=True)
class Layer:
    """What one output file holds.

    Args:
        bands: Name of each band.
        nodata: The value of pixels without data.
        colors: (red, green, blue) by value; makes the file a palette image.
        categories: Name by value.
        tags: Further metadata.
    """

    bands: Sequence[str]
    nodata: int
    colors: dict[int, tuple[int, int, int]] | None = None
    categories: dict[int, str] | None = None
    tags: dict[str, str] | None = None

    @classmethod
    def classes(cls, legend: Legend, nodata: int) -> 'Layer':
        """The class map of a legend."""
        names = legend.words
        return cls(
            bands=[f'land cover ({legend.name})'],
            nodata=nodata,
            colors={c.code: c.color for c in legend.classes},
            categories={nodata: 'no data', **names},
            tags={'LEGEND': legend.name, 'CLASSES': json.dumps(names)},
        )

    @classmethod
    def confidence(cls) -> 'Layer':
        """Probability of the mapped class in percent."""
        return cls(bands=['confidence (%)'], nodata=NO_PERCENT)

    @classmethod
    def scores(cls, legend: Legend) -> 'Layer':
        """Probability of every class in percent."""
        return cls([f'{c.name} (%)' for c in legend.classes], nodata=NO_PERCENT)


def map_nodata(legend: Legend) -> int:
    """The code of pixels without data: the legend's, or the highest that is free."""
    if legend.nodata is not None and 0 <= legend.nodata <= 255:
        return legend.nodata
    used = set(legend.codes.tolist())
    return next(code for code in (0, *range(255, 0, -1)) if code not in used)


def map_codes(legend: Legend) -> NDArray[np.uint8]:
    """The code of each class index in a map, (256,); that of no data from -1 and 255.

    Args:
        legend: The map's classes, 255 at most.

    Raises:
        InputError: A code is above 255, which a byte cannot hold.
    """
    if legend.codes.max() > 255 or len(legend) > 255:
        many = 'codes above 255' if legend.codes.max() > 255 else '256 classes'
        raise InputError(
            f"The legend '{legend.name}' has {many}, which the map (uint8) "
            'cannot hold beside no data; give another --target, or renumber the map '
            '(gdal_calc).'
        )
    codes = np.full(256, map_nodata(legend), np.uint8)
    codes[: len(legend)] = legend.codes
    return codes


def write_cog(
    path: Path,
    geobox: GeoBox,
    layer: Layer,
    tiles: Sequence[Tile],
    load: Callable[[Tile], NDArray[np.uint8]],
) -> None:
    """Put a cloud-optimised GeoTIFF together from tiles, and read it back.

    Memory is that of one tile. GDAL reports some failed writes (a full disk, when it
    flushes on closing) in its log only; therefore every tile is compared with what
    the file then holds.

    Args:
        path: File to write; `path` + ``.aux.xml`` is written too if there are
            category names.
        geobox: Grid of the file.
        layer: What it holds.
        tiles: A partition of the grid; iterated twice.
        load: Gives the values of a tile, (bands, h, w) or (h, w) uint8.

    Raises:
        OSError: If the file could not be written completely.
    """
    flat = part_of(path)
    height, width = geobox.shape
    profile = {
        'driver': 'GTiff',
        'dtype': 'uint8',
        'count': len(layer.bands),
        'height': height,
        'width': width,
        'crs': str(geobox.crs.to_wkt()) if geobox.crs else None,
        'transform': geobox.affine,
        'nodata': layer.nodata,
        'tiled': True,
        'blockxsize': _BLOCK,
        'blockysize': _BLOCK,
        'compress': 'deflate',
        'zlevel': 1,
        'bigtiff': 'if_safer',
        # four uint8 bands are red, green, blue and alpha unless one says otherwise
        'photometric': 'minisblack',
    }
    shape = (len(layer.bands), -1)
    try:
        with rasterio.Env(GDAL_CACHEMAX=16 * 2**20):
            with rasterio.open(flat, 'w', **profile) as dataset:
                _describe(dataset, layer)
                for tile in tiles:
                    values = load(tile).reshape(*shape, tile.shape[1])
                    dataset.write(values, window=_window(tile))
            rasterio.shutil.copy(
                flat,
                path,
                driver='COG',
                compress='deflate',
                # GDAL's default, 6, makes files 1 to 5 % smaller, and takes half as long again
                level=5,
                blocksize=_BLOCK,
                overviews='ignore_existing',
                # the mode of a class map; percentages average sensibly
                overview_resampling='mode' if layer.colors else 'average',
                bigtiff='if_safer',
            )
            with rasterio.open(path) as dataset:
                for tile in tiles:
                    values = load(tile).reshape(*shape, tile.shape[1])
                    if not np.array_equal(dataset.read(window=_window(tile)), values):
                        raise incomplete(path)
    except (RasterioError, CPLE_BaseError, SystemError) as error:
        # the last of what GDAL gives no reason for
        raise incomplete(path) from error
    finally:
        flat.unlink(missing_ok=True)
    if layer.categories is not None:
        # By hand: GDAL copies a sidecar only where it is allowed to look for one.
        text = sidecar_xml(layer.categories, layer.colors)
        sidecar_of(path).write_text(text, encoding='utf-8')


def _window(tile: Tile) -> Window:
    return Window.from_slices(tile.rows, tile.cols)


def _describe(dataset: rasterio.io.DatasetWriter, layer: Layer) -> None:
    """Set what a TIFF can say about its bands."""
    for band, name in enumerate(layer.bands, 1):
        dataset.set_band_description(band, name)
    if layer.tags:
        dataset.update_tags(**layer.tags)
    if layer.colors:
        opaque = {code: (*color, 255) for code, color in layer.colors.items()}
        dataset.write_colormap(1, {layer.nodata: (0, 0, 0, 0), **opaque})
