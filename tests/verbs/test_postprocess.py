# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping import postprocess


@pytest.fixture
def scored(made_scene: Scene, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A map with scores in percent beside it."""
    rng = np.random.default_rng(0)
    with rasterio.open(made_scene.truth) as dataset:
        codes, profile = dataset.read(1), dataset.profile
    scores = np.stack([(codes == c) + rng.random(codes.shape) for c in range(1, 5)])
    scores = ndimage.gaussian_filter(scores, (0, 1, 1))
    scores = (100 * scores / scores.sum(0)).round().astype(np.uint8)
    path = tmp_path / 'map.tif'
    with rasterio.open(path, 'w', **profile) as dataset:
        dataset.write((scores.argmax(0) + 1).astype(np.uint8), 1)
    settings = {**profile, 'nodata': 255, 'count': 4}
    with rasterio.open(tmp_path / 'map_scores.tif', 'w', **settings) as dataset:
        dataset.write(scores)
    return path, scores


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1).astype(int)


def test_reweight(scored: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, scores = scored
    output, figures = tmp_path / 'out.tif', tmp_path / 'out.json'
    arguments = ['postprocess', str(path), '--output', str(output)]
    weights = ['--reweight', 'Impervious=1.5', '2=0.7']
    assert main([*arguments, *weights, '--json', str(figures)]) == 0
    weighted = scores * np.array([1, 0.7, 1, 1.5])[:, None, None]
    top = weighted.max(0)
    result = read(output)
    taken = np.take_along_axis(weighted, result[None] - 1, 0)[0]
    np.testing.assert_array_equal(taken, top)
    assert (result != read(path)).mean() > 0.02
    content = json.loads(figures.read_text())
    assert content['weights']['Forest'] == 0.7
    with rasterio.open(output) as dataset:
        assert dataset.tags()['LEGEND'] == 'land-cover-4'
        pixel = abs(dataset.transform.determinant) / 1e4
    np.testing.assert_allclose(
        [c['hectares'] for c in content['classes']],
        [(result == c).sum() * pixel for c in range(1, 5)],
        atol=1e-4,
    )
    assert content['changed_hectares'] == pytest.approx(
        (result != read(path)).sum() * pixel, abs=1e-4
    )


def test_minimum_area_does_not_depend_on_tiles(
    scored: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = scored
    results = []
    for tile in (2048, 512, 96):
        monkeypatch.setattr(postprocess, '_TILE', tile)
        output = tmp_path / f'{tile}.tif'
        arguments = ['postprocess', str(path), '--output', str(output)]
        assert main([*arguments, '--min-area', '30']) == 0
        results.append(read(output))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    with rasterio.open(path) as dataset:
        pixels = 30 / abs(dataset.transform.determinant)
    for code in range(1, 5):
        labels, _ = ndimage.label(results[0] == code)
        assert np.bincount(labels.ravel())[1:].min() >= pixels
    left = sorted(p.name for p in tmp_path.iterdir() if p.name.startswith('.'))
    assert not left


def test_interrupted_it_goes_on(
    scored: tuple[Path, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, _ = scored
    arguments = ['postprocess', str(path), '--min-area', '30', '--output']
    whole, output = tmp_path / 'whole.tif', tmp_path / 'out.tif'
    assert main([*arguments, str(whole)]) == 0
    write = postprocess.write_cog

    def full(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(postprocess, 'write_cog', full)
    assert main([*arguments, str(output)]) == 130
    assert not output.exists()
    monkeypatch.setattr(postprocess, 'write_cog', write)
    capsys.readouterr()
    assert main([*arguments, str(output)]) == 0
    assert 'Going on' in capsys.readouterr().out
    assert output.read_bytes() == whole.read_bytes()


def test_one_line_errors(
    scored: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = scored
    base = ['postprocess', str(path), '--output']
    output = str(tmp_path / 'o.tif')
    (tmp_path / 'map_scores.tif').rename(tmp_path / 'other.tif')
    for arguments, message in (
        ([*base, output], 'Nothing to do'),
        ([*base, str(path), '--min-area', '9'], 'is an input'),
        ([*base, output, '--min-area', '-1'], 'above 0'),
        ([*base, output, '--reweight', 'swamp=2'], "no class 'swamp'"),
        ([*base, output, '--reweight', 'water=-2'], '0 or more'),
        ([*base, output, '--reweight', 'water=2'], 'make the map with --scores'),
        (
            [*base, output, '--reweight', 'water=2', '--scores', str(path)],
            'not of this',
        ),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count('\n') == 1


@pytest.mark.parametrize(
    ('weights', 'area', 'message'),
    [
        ((1, 2), None, '2 numbers for the 4 classes'),
        ((1, 2, float('nan'), 1), None, '0 or more, not nan'),
        (np.zeros(4), None, 'above 0'),
        ((), -5, 'min_area must be above 0'),
        ((), float('nan'), 'min_area must be above 0'),
    ],
)
def test_python_checks_what_the_verb_does(
    scored: tuple[Path, np.ndarray],
    weights: tuple[float, ...],
    area: float | None,
    message: str,
) -> None:
    legend = Legend.load('land-cover-4')
    with pytest.raises(InputError, match=message):
        postprocess.Postprocessing.of([scored[0]], legend, weights, area)
    work = postprocess.Postprocessing.of([scored[0]], legend, min_area=30)
    with pytest.raises(InputError, match='none are given'):
        replace(work, weights=(1, 2, 1, 1))


def test_a_folder_with_a_map_and_its_layers(
    scored: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, _ = scored
    folder = tmp_path / 'maps'
    folder.mkdir()
    results = []
    for given in (path, folder):
        output = tmp_path / f'{given.stem}_out.tif'
        command = ['postprocess', str(given), '--reweight', 'Impervious=1.5']
        assert main([*command, '--min-area', '30', '--output', str(output)]) == 0
        results.append(read(output))
        if given == path:
            for file in (path, tmp_path / 'map_scores.tif'):
                file.rename(folder / file.name)
    np.testing.assert_array_equal(*results)


def test_from_python(scored: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = scored
    legend = Legend.load('land-cover-4')
    work = postprocess.Postprocessing.of([path], legend, (1, 2, 1, 1), min_area=30)
    ticks: list[None] = []
    one, other = tmp_path / 'one.tif', tmp_path / 'other.tif'
    change = work.write(one, tick=lambda: ticks.append(None))
    assert len(ticks) == work.steps
    assert change.before.sum() == pytest.approx(change.after.sum())
    assert change.changed > 0
    with pytest.raises(FileExistsError):
        work.write(one)
    command = ['postprocess', str(path), '--reweight', 'forest=2', '--min-area', '30']
    assert main([*command, '--output', str(other)]) == 0
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize('dtype', ['float32', 'uint16'])
def test_scores_of_another_type(
    scored: tuple[Path, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dtype: str,
) -> None:
    path, scores = scored
    other = tmp_path / 'other.tif'
    with rasterio.open(tmp_path / 'map_scores.tif') as dataset:
        profile = {**dataset.profile, 'dtype': dtype}
    with rasterio.open(other, 'w', **profile) as out:
        out.write(scores.astype(dtype))
    arguments = ['--reweight', 'water=2', '--scores', str(other)]
    output = tmp_path / 'o.tif'
    assert main(['postprocess', str(path), *arguments, '--output', str(output)]) == 2
    error = capsys.readouterr().err
    assert f'holds {dtype}, and scores are' in error
    assert error.count('\n') == 1


def test_edges_of_a_patch_in_degrees(tmp_path: Path) -> None:
    """At 70° N pixels are 38 m wide and 112 m high: two of these are the longer edge."""
    codes = np.full((40, 40), 1, np.uint8)
    codes[18:20] = 2  # a band of forest
    codes[18:20, 18:21] = (
        4  # 3 × 38 m along water, twice; 2 × 112 m along forest, twice
    )
    path, output = tmp_path / 'map.tif', tmp_path / 'out.tif'
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        width=40,
        height=40,
        count=1,
        dtype='uint8',
        nodata=0,
        crs='EPSG:4326',
        transform=rasterio.Affine(0.001, 0, 20, 0, -0.001, 70),
    ) as file:
        file.write(codes, 1)
    arguments = ['postprocess', str(path), '--output', str(output)]
    assert main([*arguments, '--min-area', '100000']) == 0
    codes[18:20] = 2
    np.testing.assert_array_equal(read(output), codes)
