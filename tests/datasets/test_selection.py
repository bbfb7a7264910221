# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine

from torchgeo_mapsr.datasets.patches import minority_classes, select_patches
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.main import main


def table(seed: int = 0, n: int = 400) -> pandas.DataFrame:
    """Shares of four classes; 3 and 4 are rare."""
    rng = np.random.default_rng(seed)
    rare = 0.02 * rng.random((n, 2)) * (rng.random((n, 2)) < 0.4)
    rest = (1 - rare.sum(1)) * 0.5
    values = np.column_stack([rest, rest, rare])
    return pandas.DataFrame(values, [f'p{i}' for i in range(n)], [1, 2, 3, 4])


def test_rule() -> None:
    """All of P_m ≥ 1 %, half of 0 < P_m < 1 %, none of P_m = 0."""
    shares = table()
    p_m = shares[3] + shares[4]
    chosen = select_patches(shares, [3, 4])
    above, below = p_m.index[p_m >= 0.01], p_m.index[(p_m > 0) & (p_m < 0.01)]
    assert set(above) == set(chosen.index[~chosen['drawn']])
    drawn = set(chosen.index[chosen['drawn']])
    assert drawn < set(below)
    assert len(drawn) == round(len(below) / 2)
    pandas.testing.assert_series_equal(
        chosen['minority'], p_m.loc[chosen.index], check_names=False
    )


def test_of_one_class_and_other_limits() -> None:
    shares = table()
    chosen = select_patches(shares, [4, 4, 9], threshold=0.005, fraction=0)
    assert set(chosen.index) == set(shares.index[shares[4] >= 0.005])
    everything = select_patches(shares, [4], threshold=0.005, fraction=1)
    assert set(everything.index) == set(shares.index[shares[4] > 0])


def test_as_many_as_reach_the_threshold() -> None:
    """The paper's 25,000 and another 25,000."""
    shares = table()
    p_m = shares[3] + shares[4]
    chosen = select_patches(shares, [3, 4], threshold=0.015, fraction=None)
    assert chosen['drawn'].sum() == (p_m >= 0.015).sum()
    few = select_patches(shares, [3, 4], threshold=1e-4, fraction=None)
    assert few['drawn'].sum() == ((p_m > 0) & (p_m < 1e-4)).sum()


@given(st.permutations(range(60)), st.integers(0, 3))
def test_order_does_not_matter(order: list[int], seed: int) -> None:
    shares = table(1, 60)
    columns = [shares.columns[i] for i in np.argsort(order[:4])]
    mixed = shares.iloc[order][columns]
    pandas.testing.assert_frame_equal(
        select_patches(mixed, [4, 3], seed=seed),
        select_patches(shares, [3, 4], seed=seed),
    )


def test_seeds_differ_and_draw_evenly() -> None:
    shares = table()
    p_m = shares[3] + shares[4]
    below = p_m.index[(p_m > 0) & (p_m < 0.01)]
    counts = pandas.Series(0, below)
    for seed in range(200):
        chosen = select_patches(shares, [3, 4], seed=seed)
        counts[chosen.index[chosen['drawn']]] += 1
    # of 200 draws of a half: 100 ± 7; five deviations
    assert counts.between(65, 135).all()
    assert counts.nunique() > 10


def test_minority_classes(tmp_path: Path) -> None:
    """Of two rasters together; no-data counts nowhere."""
    counts = {0: 500, 1: 600, 2: 385, 4: 10, 5: 4, 6: 1}
    values = np.repeat(list(counts), list(counts.values())).astype(np.uint8)
    paths = []
    for i, half in enumerate((values[:700], values[700:])):
        paths.append(tmp_path / f'{i}.tif')
        with rasterio.open(
            paths[-1], 'w', driver='GTiff', count=1, dtype='uint8', nodata=0,
            height=4, width=half.size // 4, crs='EPSG:32618',
            transform=Affine(1, 0, 5e5 + 1000 * i, 0, -1, 4e6),
        ) as file:  # fmt: skip
            file.write(half.reshape(1, 4, -1))
    assert minority_classes(paths) == (6, 5)
    assert minority_classes(paths, 0.02) == (6, 5, 4)
    with pytest.raises(InputError, match=r'no class has less than 0\.01 % of'):
        minority_classes(paths, 0.0001)
    options = f'select {paths[0]} {paths[1]} --labels {paths[0]} {paths[1]}'.split()
    output = tmp_path / 'patches.gpkg'
    assert main([*options, '--patch-size', '4', '--output', str(output)]) == 0
    chosen = geopandas.read_file(output)
    rare = chosen['share_5'] + chosen['share_6']
    np.testing.assert_allclose(chosen['minority'], rare)
    assert (rare > 0).all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'minority': [7]}, r'no patch has a minority class \(7\).*classes 1, 2, 3, 4'),
        ({'threshold': 0}, 'threshold'),
        ({'fraction': 2}, 'fraction'),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_patches(table(), **{'minority': [3], **options})  # type: ignore[arg-type]


def test_patches_of_one_name() -> None:
    with pytest.raises(InputError, match='p0 occurs twice'):
        select_patches(pandas.concat([table(), table()]), [3])
