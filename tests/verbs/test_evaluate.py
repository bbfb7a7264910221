# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.evaluation.consistency import WARNING
from torchgeo_mapsr.main import main


@pytest.fixture
def maps(made_scene: Scene, tmp_path: Path) -> list[Path]:
    """Two maps with their layers, as `map … --output maps/` leaves them."""
    rng = np.random.default_rng(0)
    with rasterio.open(made_scene.truth) as dataset:
        codes, profile = dataset.read(1), dataset.profile
    paths = []
    for name in ('a', 'b'):
        right = rng.random(codes.shape) < 0.8
        other = (codes + rng.integers(1, 4, codes.shape) - 1) % 4 + 1
        path = tmp_path / f'{name}.tif'
        with rasterio.open(path, 'w', **profile) as dataset:
            dataset.write(np.where(right, codes, other).astype(np.uint8), 1)
        percent = np.full((1, *codes.shape), 97, np.uint8)
        for layer, bands in (('confidence', 1), ('scores', 4)):
            settings = {**profile, 'nodata': 255, 'count': bands}
            with rasterio.open(
                tmp_path / f'{name}_{layer}.tif', 'w', **settings
            ) as out:
                out.write(percent.repeat(bands, 0))
        paths.append(path)
    return paths


def test_a_glob_of_a_folder_of_maps(
    maps: list[Path],
    made_scene: Scene,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = sorted(str(path) for path in tmp_path.glob('*.tif'))
    assert len(files) == 6
    truth, labels = str(made_scene.truth), str(made_scene.labels)
    out = tmp_path / 'accuracy.json'
    pictures = [str(tmp_path / name) for name in ('m.png', 'm.csv', 'r.png')]
    arguments = ['evaluate', *files, '--truth', truth, truth, '--json', str(out)]
    arguments += ['--labels', labels, '--labels-legend', made_scene.legend]
    arguments += ['--lr-group', 'developed=21,22,23,24', '--matrix', *pictures[:2]]
    arguments += ['--reliability', pictures[2]]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert 'kappa' in shown
    assert 'boundary IoU' in shown
    for title in ('By class', 'By lr', 'By tile', 'Pixels by true class'):
        assert title in shown
    for figure in ('FWIoU', 'F1', 'recall', 'mIoU', 'accuracy'):
        assert shown.count(figure) >= 2
    result = json.loads(out.read_text())
    assert result['maps'] == [str(path) for path in maps]
    assert result['accuracy'] == pytest.approx(0.8, abs=0.01)
    assert set(result['groups']) == {'lr', 'lr: developed', 'tile'}
    tiles = result['groups']['tile']
    assert sum(t['pixels'] for t in tiles.values()) == result['pixels']
    developed = result['groups']['lr: developed']['developed']['pixels']
    parts = [p for n, p in result['groups']['lr'].items() if n.startswith('Developed')]
    assert developed == sum(part['pixels'] for part in parts) > 0
    assert result['reliability']['ece'] == pytest.approx(0.17, abs=0.01)
    for path in pictures:
        assert Path(path).stat().st_size > 100
    # nothing is written over
    before = out.read_bytes()
    capsys.readouterr()
    assert main(arguments) == 2
    assert 'exists; name another file, or give --overwrite' in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*arguments, '--overwrite']) == 0


def test_inputs_are_never_written_over(
    maps: list[Path],
    made_scene: Scene,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ['evaluate', str(maps[0]), '--truth', str(made_scene.truth)]
    before = maps[0].read_bytes()
    json_path = ['--json', str(maps[0]), '--overwrite']
    for extra, message in (
        (json_path, 'is an input'),
        (['--matrix', 'm.pdf'], 'neither a .csv nor a .png'),
        (['--boundary', '0.1'], 'less than a pixel'),
        (['--lr-group', 'x=1'], 'needs --labels'),
        (['--labels', 'l.tif'], 'needs its legend'),
    ):
        assert main([*arguments, *extra]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count('\n') == 1
    assert maps[0].read_bytes() == before
    assert main(['evaluate', str(maps[0])]) == 2
    assert 'Give --truth, or --labels' in capsys.readouterr().err


def test_without_truth(
    maps: list[Path],
    made_scene: Scene,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / 'lr.json'
    arguments = [
        '--labels',
        str(made_scene.labels),
        '--labels-legend',
        made_scene.legend,
    ]
    assert main(['evaluate', str(maps[0]), *arguments, '--json', str(out)]) == 0
    assert WARNING in capsys.readouterr().out
    result = json.loads(out.read_text())['lr']
    assert result['warning'] == WARNING
    assert result['statistics'] == 'malkin2019'
    for row in result['lr_classes']:
        assert sum(row['shares']) == pytest.approx(1, abs=1e-3)
        assert all(
            r >= abs(m) - 1e-3 for m, r in zip(row['mean_z'], row['rms_z'], strict=True)
        )


def test_folders_of_maps_of_one_name(
    maps: list[Path], made_scene: Scene, tmp_path: Path
) -> None:
    """The figures are those of the files, and each tile is told by its folder."""
    files = []
    for name, path in zip('xy', maps, strict=True):
        for file in tmp_path.glob(f'{path.stem}*.tif'):
            moved = tmp_path / 'maps' / name / file.name.replace(path.stem, 'land', 1)
            moved.parent.mkdir(parents=True, exist_ok=True)
            file.rename(moved)
        files.append(str(moved.with_name('land.tif')))
    truth = tmp_path / 'truth'
    truth.mkdir()
    for name in 'xy':
        (truth / f'{name}.tif').write_bytes(Path(made_scene.truth).read_bytes())
    one = str(made_scene.truth)
    results = []
    for given, other in ((files, [one, one]), ([str(tmp_path / 'maps')], [str(truth)])):
        output = tmp_path / f'{len(given)}.json'
        command = ['evaluate', *given, '--truth', *other, '--json', str(output)]
        assert main(command) == 0
        results.append(json.loads(output.read_text()))
    assert results[0] == results[1]
    tiles = results[0]['groups']['tile']
    assert list(tiles) == ['x/land', 'y/land']
    for path, tile in zip(files, tiles.values(), strict=True):
        with rasterio.open(path) as dataset, rasterio.open(one) as right:
            same = (dataset.read() == right.read()).mean()
        assert tile['accuracy'] == pytest.approx(same, abs=1e-4)
    # one folder is the truth of one map still
    (truth / 'y.tif').unlink()
    assert main(['evaluate', files[0], '--truth', str(truth)]) == 0


def test_truth_and_strata_of_several_grids(
    made_scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Strata may be; truth is one raster a map."""
    with rasterio.open(made_scene.truth) as dataset:
        values, profile = dataset.read(1), dataset.profile
        height, width = dataset.shape
    half, folder = height // 2, tmp_path / 'two'
    folder.mkdir()
    for name, rows, shift in (('a', slice(0, half), 0), ('b', slice(half, None), 0.3)):
        part = np.full_like(values[rows], 1 if name == 'a' else 2)
        place = profile['transform'] * Affine.translation(shift, rows.start)
        own = {**profile, 'height': len(part), 'transform': place}
        with rasterio.open(folder / f'{name}.tif', 'w', **own) as out:
            out.write(part, 1)
    truth, figures = str(made_scene.truth), tmp_path / 'f.json'
    arguments = ['evaluate', truth, '--truth', truth, '--json', str(figures)]
    assert main([*arguments, '--strata', str(folder)]) == 0
    groups = json.loads(figures.read_text())['groups']['stratum']
    pixels = [groups[code]['pixels'] for code in ('1', '2')]
    assert pixels[0] == half * width
    assert abs(pixels[1] - (height - half) * width) <= height
    capsys.readouterr()
    assert main(['evaluate', truth, '--truth', str(folder)]) == 2
    error = capsys.readouterr().err
    assert 'is not on the grid of' in error
    assert error.count('\n') == 1


@pytest.mark.parametrize(
    ('given', 'option'),
    [
        ('--labels', ['--matrix', 'x.csv']),
        ('--labels', ['--target', 'nlcd']),
        ('--labels', ['--boundary', '5']),
        ('--labels', ['--strata', 's.tif']),
        ('--truth', ['--statistics', 'malkin2019']),
        ('--truth', ['--labels-legend', 'nlcd']),
    ],
)
def test_options_without_an_effect(
    made_scene: Scene, given: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(made_scene.truth)
    legend = ['--labels-legend', 'land-cover-4'] if given == '--labels' else []
    assert main(['evaluate', path, given, path, *legend, *option]) == 2
    assert f'{option[0]} has no effect without' in capsys.readouterr().err


def test_a_boundary_wider_than_the_map(made_scene: Scene, tmp_path: Path) -> None:
    """Nothing is further off than the other end: it takes no more memory."""
    path, found = str(made_scene.truth), []
    for width in ('2000', '1e9'):
        figures = tmp_path / f'{width}.json'
        arguments = ['--truth', path, '--boundary', width, '--json', str(figures)]
        assert main(['evaluate', path, *arguments]) == 0
        found.append(json.loads(figures.read_text())['boundary_iou'])
    assert found == [1.0, 1.0]


def write(path: Path, codes: np.ndarray, pixel: float, x: float = 5e5) -> str:
    height, width = codes.shape
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        width=width,
        height=height,
        count=1,
        dtype='uint8',
        nodata=0,
        crs='EPSG:32633',
        transform=Affine(pixel, 0, x, 0, -pixel, 5e6),
    ) as file:
        file.write(codes.astype(np.uint8), 1)
    return str(path)


def test_pixels_of_several_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are pooled as they are, which is said; boundaries are as wide in all."""
    fine = write(tmp_path / 'f.tif', np.full((200, 200), 2), 1)
    coarse = write(tmp_path / 'c.tif', np.full((20, 20), 2), 10, 6e5)
    wrong = write(tmp_path / 'w.tif', np.full((20, 20), 1), 10, 6e5)
    figures = tmp_path / 'figures.json'
    options = ['--json', str(figures), '--overwrite']
    assert main(['evaluate', fine, coarse, '--truth', fine, wrong, *options]) == 0
    content = json.loads(figures.read_text())
    assert content['boundary_width_metres'] == 20
    assert content['accuracy'] == pytest.approx(40000 / 40400, abs=1e-6)
    (note,) = content['notes']
    assert f'1 m ({fine}) to 10 m ({coarse})' in note
    assert '100 times as much' in note
    assert f'Note: {note}' in capsys.readouterr().out
    tiles = content['groups']['tile']
    assert [tiles[name]['accuracy'] for name in 'fc'] == [1, 0]
    # one size, and the finer of two that are compared with one another
    assert main(['evaluate', coarse, '--truth', wrong, *options]) == 0
    assert json.loads(figures.read_text())['notes'] == []
    assert main(['evaluate', fine, '--truth', fine, *options]) == 0
    assert json.loads(figures.read_text())['boundary_width_metres'] == 2


def test_strata_of_a_country(tmp_path: Path) -> None:
    """They are read where the maps are: all of these codes would take 8 TB."""
    path = write(tmp_path / 'map.tif', np.full((60, 60), 2), 1)
    strata, size = tmp_path / 'strata.tif', 1 << 20
    with rasterio.open(
        strata,
        'w',
        driver='GTiff',
        width=size,
        height=size,
        count=1,
        dtype='uint8',
        nodata=0,
        crs='EPSG:32633',
        transform=Affine(1, 0, 5e5 - 600_000, 0, -1, 5e6 + 300_000),
        tiled=True,
        blockxsize=8192,
        blockysize=8192,
        sparse_ok=True,
        compress='deflate',
    ) as file:
        for code, row in ((7, 0), (3, 20)):
            window = rasterio.windows.Window(600_000, 300_000 + row, 60, 20)
            file.write(np.full((1, 20, 60), code, np.uint8), window=window)
    figures = tmp_path / 'figures.json'
    arguments = ['--truth', path, '--strata', str(strata), '--json', str(figures)]
    assert main(['evaluate', path, *arguments]) == 0
    groups = json.loads(figures.read_text())['groups']['stratum']
    assert {code: part['pixels'] for code, part in groups.items()} == {
        '3': 1200,
        '7': 1200,
    }


def test_groups_of_one_name(
    made_scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(made_scene.truth)
    arguments = ['--truth', path, '--labels', path, '--labels-legend', 'land-cover-4']
    assert main(['evaluate', path, *arguments, '--lr-group', 'a=1', 'a=2']) == 2
    assert "there is a group 'a' already" in capsys.readouterr().err


@pytest.mark.parametrize(
    'outputs',
    [
        ['--matrix', 'x.png', '--reliability', 'x.png'],
        ['--matrix', 'x.csv', 'x.csv'],
        ['--matrix', 'x.csv', '--json', 'x.csv'],
        ['--json', 's.tif', '--strata', 's.tif'],
    ],
)
@pytest.mark.parametrize('overwrite', [[], ['--overwrite']])
def test_two_files_of_one_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outputs: list[str],
    overwrite: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path('map.tif'), np.full((20, 20), 2), 1)
    write(Path('s.tif'), np.full((20, 20), 2), 1)
    before = Path('s.tif').read_bytes()
    arguments = ['evaluate', 'map.tif', '--truth', 'map.tif', *outputs, *overwrite]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert 'is an input or another output' in error
    assert error.count('\n') == 1
    assert {path.name for path in tmp_path.iterdir()} == {'map.tif', 's.tif'}
    assert Path('s.tif').read_bytes() == before


def test_maps_whose_legends_differ_in_colours_alone(tmp_path: Path) -> None:
    """QGIS may have written another table; other names are another legend."""
    paths = []
    for name, color, words in (
        ('a', (0, 0, 255), {'1': 'Ice', '2': 'Rock'}),
        ('b', (0, 9, 99), {'1': 'Ice', '2': 'Rock'}),
        ('c', (0, 0, 255), {'1': 'Ice', '2': 'Snow'}),
    ):
        codes = np.random.default_rng(0).integers(1, 3, (30, 30))
        paths.append(write(tmp_path / f'{name}.tif', codes, 1))
        with rasterio.open(paths[-1], 'r+') as file:
            file.write_colormap(1, {1: color, 2: (9, 9, 9)})
            file.update_tags(LEGEND='own', CLASSES=json.dumps(words))
    one, two, three = paths
    assert main(['evaluate', one, two, '--truth', one, two]) == 0
    assert main(['evaluate', one, three, '--truth', one, three]) == 2
