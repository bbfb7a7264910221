# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Make small files in the two layouts of Chesapeake data."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject
from scipy.ndimage import gaussian_filter

SIZE = 192

# split's folder, tile, CRS and upper left corner: two UTM zones, as in the real data
TILES = {
    'wv-val': (
        'wv_1m_2014_extended-debuffered-val_tiles/m_3708035_ne_17_1',
        'EPSG:26917',
        (535094.25, 4170780.5),
    ),
    'de-train': (
        'de_1m_2013_extended-debuffered-train_tiles/m_3807515_sw_18_1',
        'EPSG:26918',
        (455310.0, 4250040.0),
    ),
}

# what torchgeo's ChesapeakeCVPR looks for before it believes that all is there
STATES = {'de': 2013, 'md': 2013, 'ny': 2013, 'pa': 2013, 'va': 2014, 'wv': 2014}
PRIOR = 'prior_from_cooccurrences_101_31_no_osm_no_buildings'
LAYERS = ('naip-new', 'naip-old', 'landsat-leaf-on', 'landsat-leaf-off', 'buildings')

NLCD = np.array([11, 41, 82, 23], 'uint8')
NAIP = np.array([[60, 80, 110, 20], [50, 90, 60, 160], [140, 160, 110, 190],
                 [170, 165, 160, 120]])  # fmt: skip


def write(
    path: Path, values: NDArray[np.generic], transform: Affine, crs: str, **profile: int
) -> None:
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        count=values.shape[0],
        height=values.shape[1],
        width=values.shape[2],
        dtype=values.dtype,
        crs=crs,
        transform=transform,
        compress='deflate',
        **profile,  # type: ignore[arg-type]
    ) as file:
        file.write(values)


def place(
    crs: str, corner: tuple[float, float], size: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], Affine]:
    """NAIP, land cover, and NLCD in its native grid around a tile."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(4, size, size)), (0, 20, 20))
    kind = fields.argmax(axis=0)
    naip = NAIP[kind].transpose(2, 0, 1) + rng.normal(0, 8, (4, size, size))
    cover = np.array([1, 2, 3, 5], 'uint8')[kind]
    cover[:3] = 15

    to_albers = Transformer.from_crs(crs, 'EPSG:5070', always_xy=True)
    x, y = to_albers.transform(corner[0] + size / 2, corner[1] - size / 2)
    cells = size // 30 * 2
    left = -2493045 + 30 * (round((x + 2493045) / 30) - cells // 2)
    top = 3310005 - 30 * (round((3310005 - y) / 30) - cells // 2)
    native = Affine(30, 0, left, 0, -30, top)
    col, row = np.meshgrid(np.arange(cells) + 0.5, np.arange(cells) + 0.5)
    back = Transformer.from_crs('EPSG:5070', crs, always_xy=True)
    x, y = back.transform(left + 30 * col, top - 30 * row)
    i = np.clip((corner[1] - np.asarray(y)).astype(int), 0, size - 1)
    j = np.clip((np.asarray(x) - corner[0]).astype(int), 0, size - 1)
    return naip.clip(1, 255).astype('uint8'), cover, NLCD[kind[i, j]], native


def make_tiles(root: Path, size: int = SIZE, complete: bool = False) -> None:
    """Make tiles in the layout of torchgeo's ChesapeakeCVPR.

    Args:
        root: folder to make them in
        size: height and width of a tile
        complete: also make what torchgeo checks for and nobody reads
    """
    features = []
    for seed, (split, (stem, crs, corner)) in enumerate(TILES.items()):
        naip, cover, nlcd, native = place(crs, corner, size, seed)
        grid = Affine(1, 0, corner[0], 0, -1, corner[1])
        warped = np.zeros((size, size), 'uint8')
        reproject(
            nlcd,
            warped,
            src_transform=native,
            src_crs='EPSG:5070',
            dst_transform=grid,
            dst_crs=crs,
            resampling=Resampling.nearest,
        )
        write(root / f'{stem}_naip-new.tif', naip, grid, crs)
        write(root / f'{stem}_lc.tif', cover, grid, crs, nodata=15)
        write(root / f'{stem}_nlcd.tif', warped, grid, crs, nodata=0)
        write(root / f'native/{split}.tif', nlcd, native, 'EPSG:5070', nodata=0)
        names = {layer: f'{stem}_{layer}.tif' for layer in (*LAYERS, 'lc', 'nlcd')}
        to_web = Transformer.from_crs(crs, 'EPSG:3857', always_xy=True)
        ring = [
            to_web.transform(corner[0] + dx * size, corner[1] - dy * size)
            for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))
        ]
        geometry = {'type': 'Polygon', 'coordinates': [ring]}
        properties = {'split': split, **names}
        features.append(
            {'type': 'Feature', 'properties': properties, 'geometry': geometry}
        )
    web = {'type': 'name', 'properties': {'name': 'urn:ogc:def:crs:EPSG::3857'}}
    index = {'type': 'FeatureCollection', 'crs': web, 'features': features}
    (root / 'spatial_index.geojson').write_text(json.dumps(index))
    if complete:
        for state, year in STATES.items():
            for split in ('train', 'val', 'test'):
                folder = f'{state}_1m_{year}_extended-debuffered-{split}_tiles'
                (root / folder).mkdir(exist_ok=True)
                (root / folder / '.keep').touch()
        for layer in (*LAYERS, PRIOR):
            (root / f'{TILES["wv-val"][0]}_{layer}.tif').touch()


def make_rasters(root: Path, size: int = SIZE, truth: bool = True) -> None:
    """Make folders of rasters, each in its own grid.

    Args:
        root: folder to make them in
        size: height and width of the imagery
        truth: also make HR labels
    """
    for seed, (split, (_, crs, corner)) in enumerate(TILES.items()):
        naip, cover, nlcd, native = place(crs, corner, size, seed)
        grid = Affine(1, 0, corner[0], 0, -1, corner[1])
        write(root / f'naip/{split}.tif', naip, grid, crs)
        write(root / f'nlcd/{split}.tif', nlcd, native, 'EPSG:5070', nodata=0)
        if truth:
            write(root / f'lc/{split}.tif', cover, grid, crs, nodata=15)


def make_archives(root: Path, size: int = SIZE) -> dict[str, Path]:
    """Make the archives that torchgeo's ChesapeakeCVPR downloads."""
    tree = root / 'tree'
    make_tiles(tree, size, complete=True)
    prior = root / 'prior'
    (prior / TILES['wv-val'][0]).parent.mkdir(parents=True)
    (prior / f'{TILES["wv-val"][0]}_{PRIOR}.tif').touch()
    names = {
        'base': 'cvpr_chesapeake_landcover',
        'prior_extension': 'cvpr_chesapeake_landcover_prior_extension',
    }
    return {
        key: Path(shutil.make_archive(str(root / name), 'zip', folder))
        for (key, name), folder in zip(names.items(), (tree, prior), strict=True)
    }


if __name__ == '__main__':
    target = Path(sys.argv[1] if len(sys.argv) > 1 else '.')
    make_tiles(target / 'tiles')
    make_rasters(target / 'rasters')
