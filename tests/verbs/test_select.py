# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from torchgeo_mapsr.datasets.patches import read_footprints
from torchgeo_mapsr.main import main


@pytest.fixture
def maps(tmp_path: Path) -> list[str]:
    """Two maps of 2 × 3 patches of 50 pixels: classes 1, 2 and, in some, 4."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(2):
        codes = rng.choice([1, 2], (100, 150)).astype('uint8')
        codes[:50, :50] = 4
        codes[0:2, 60:65] = 4  # 10 of 2500 pixels
        codes[60:61, 0:5] = 4
        codes[99, 149] = 4
        transform = rasterio.Affine(10, 0, 5e5 + 1e5 * i, 0, -10, 4e6)
        paths.append(str(tmp_path / f'map{i}.tif'))
        with rasterio.open(
            paths[-1], 'w', driver='GTiff', height=100, width=150, count=1,
            dtype='uint8', crs='EPSG:32617', transform=transform, nodata=0,
        ) as file:  # fmt: skip
            file.write(codes, 1)
    return paths


def run(maps: list[str], output: Path, *more: str) -> int:
    options = ['--output', str(output), '--patch-size', '50', *more]
    return main(['select', *maps, *options])


def test_selection(
    maps: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'out.gpkg'
    figures = tmp_path / 'out.json'
    assert run(maps, output, '--minority', '4', '--json', str(figures)) == 0
    content = json.loads(figures.read_text())
    assert content == {'patches': 12, 'selected': 5, 'drawn': 3}
    assert capsys.readouterr().out.startswith(
        '5 of 12 patches: 2 have 1.00% of minority classes or more, 3 are drawn'
    )
    found = read_footprints(output)
    assert found['drawn'].sum() == 3
    whole = found[~found['drawn'].astype(bool)]
    assert whole['minority'].tolist() == [1, 1]
    assert set(whole['map']) == set(maps)
    np.testing.assert_allclose(found['share_4'], found['minority'])
    assert {'row', 'col', 'size', 'share_1', 'share_2'} < set(found.columns)

    for name, more in {'again': (), 'all': ('--fraction', '1'), 'equal': (
        '--fraction', 'equal'), 'none': ('--fraction', '0')}.items():  # fmt: skip
        other = tmp_path / f'{name}.gpkg'
        assert run(maps[::-1], other, '--minority', '4', *more) == 0
        count = {'again': 5, 'all': 8, 'equal': 4, 'none': 2}[name]
        assert len(read_footprints(other)) == count
    named = 'impervious', '--legend', 'land-cover-4'
    assert run(maps, tmp_path / 'named.gpkg', '--minority', *named) == 0
    assert len(read_footprints(tmp_path / 'named.gpkg')) == 5
    again = read_footprints(tmp_path / 'again.gpkg')
    assert again['name'].tolist() == found['name'].tolist()


@pytest.mark.parametrize(
    ('more', 'word'),
    [
        (['--minority', '9'], 'minority class'),
        (['--minority', '4', '--threshold', '2'], 'threshold'),
        (['--minority', '4', '--patch-size', '0'], '--patch-size'),
        (['--minority', 'sea'], "'land-cover-4' has no class 'sea'"),
        (
            ['--minority', 'x', '--legend', 'land-cover-4'],
            "has no class 'x'; it has Water",
        ),
        (['--minority', '4', '--fraction', 'some'], '--fraction'),
    ],
)
def test_mistakes_are_one_line(
    maps: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    word: str,
) -> None:
    try:
        code = run(maps, tmp_path / 'out.gpkg', *more)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count('\n') == 1
    assert word in captured.err
    assert not (tmp_path / 'out.gpkg').exists()


def test_nothing_is_written_over(
    maps: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'mine.gpkg'
    output.write_text('mine')
    assert run(maps, output, '--minority', '4') == 2
    assert output.read_text() == 'mine'
    assert 'exists' in capsys.readouterr().err
    more = ['--minority', '4', '--json', str(output)]
    assert run(maps, tmp_path / 'other.gpkg', *more) == 2
    # there is no --overwrite to be named
    assert 'exists; name another file.\n' in capsys.readouterr().err


def test_layers_beside_the_maps_are_left_out(maps: list[str], tmp_path: Path) -> None:
    """What `map --output maps/` leaves, and `select maps/*.tif` then reads."""
    for path in list(maps):
        for layer in ('confidence', 'scores'):
            beside = path.replace('.tif', f'_{layer}.tif')
            shutil.copy(path, beside)
            maps.append(beside)
    output = tmp_path / 'patches.gpkg'
    assert run(sorted(maps), output, '--minority', '4') == 0
    assert {Path(name).name for name in read_footprints(output)['map']} == {
        'map0.tif',
        'map1.tif',
    }


def test_patch_larger_than_a_map(maps: list[str], tmp_path: Path) -> None:
    output = tmp_path / 'out.gpkg'
    # An array of its size would take 75 GB.
    more = '--minority', '4', '--patch-size', '100000', '--threshold', '1e-9'
    assert run(maps, output, *more) == 0
    found = read_footprints(output)
    assert len(found) == 2
    # Its shares are of the whole patch, so that a class can be as rare as it is.
    np.testing.assert_allclose(found['share_4'], 2516 / 100000**2)
