# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

from torchgeo_mapsr.datasets import LRHRPair, LRHRPairs
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.samplers import FitSampler
from torchgeo_mapsr.samplers.lattice import LatticeSampler


def test_chips_of_a_fit_are_those_of_the_map(made_scene: Scene) -> None:
    """And their own pixels are every pixel once."""
    pair = LRHRPair(made_scene.imagery, made_scene.labels)
    mapped = list(LatticeSampler(pair, 128, halo=8, align=4))
    fitted = list(FitSampler(pair, 128, halo=8, align=4))
    assert len(FitSampler(pair, 128, halo=8, align=4)) == len(fitted)
    assert {(q.raster, q.chip) for q in fitted} == {(q.raster, q.chip) for q in mapped}
    grids = {(q.raster, q.chip): q.geobox for q in mapped}
    count = np.zeros(pair.imagery.geobox.shape, int)
    for query in fitted:
        assert grids[query.raster, query.chip] == query.geobox
        assert query.core is None
        count[query.own] += 1
    assert (count == 1).all()
    # 0 is a number of pixels, and not the default
    height, width = pair.imagery.geobox.shape
    side_by_side = -(-height // 128) * -(-width // 128)
    assert len(LatticeSampler(pair, 128, overlap=0)) == side_by_side
    chips = [pair.read(query) for query in fitted]
    pixels = sum(int((chip.region > 0).sum()) for chip in chips)
    assert pixels == count.size
    assert len({chip.key for chip in chips}) == len(chips)


def test_several_rasters_have_chips_of_their_own(
    made_scene: Scene, tmp_path: Path
) -> None:
    with rasterio.open(made_scene.imagery) as file:
        profile, values = file.profile, file.read()
    paths = []
    for name, cols in (('west', slice(0, 200)), ('east', slice(170, 448))):
        paths.append(str(tmp_path / f'{name}.tif'))
        transform = profile['transform'] * Affine.translation(cols.start, 0)
        width = cols.stop - cols.start
        with rasterio.open(
            paths[-1], 'w', **(profile | {'transform': transform, 'width': width})
        ) as file:
            file.write(values[:, :, cols])
    pairs = LRHRPairs.from_files(paths, str(made_scene.labels))
    queries = list(FitSampler(pairs, 128, halo=8, align=4, seed=3))
    assert {query.raster for query in queries} == {0, 1}
    chips = [pairs[query] for query in queries]
    keys = {tuple(sample['chip'].tolist()) for sample in chips}
    assert len(keys) == len(queries)
    for query, sample in zip(queries, chips, strict=True):
        assert sample['chip'][0] == query.raster
        assert sample['chip'][3] == 1
