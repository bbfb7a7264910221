# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""What is done to a map when it is scored: confidence, class weights, mapping unit."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from skimage.measure import label

from torchgeo_mapsr.datasets.geo.areas import PixelAreas
from torchgeo_mapsr.datasets.legends.legend import Legend
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.reweighting import class_weights
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.mapping_unit import MappingUnit
from torchgeo_mapsr.mapping.options import PostprocessOptions
from torchgeo_mapsr.mapping.run import MapResult, map_region
from torchgeo_mapsr.mapping.tile_files import TileFiles
from torchgeo_mapsr.models.model import LandCoverModel

from .conftest import arguments, changed


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read().astype(int)


@pytest.fixture
def model(mapped: Path) -> tuple[Path, MapResult]:
    """A fit, and the map with scores that it was made for."""
    path = mapped / 'cover.json'
    report = json.loads(path.read_text())
    return mapped / 'fit.safetensors', MapResult((mapped / 'cover.tif',), report, path)


def test_no_class_depends_on_calibration(
    model: tuple[Path, MapResult], job: MapJob
) -> None:
    fit, plain = model
    raw = map_region(changed(job, model=fit, calibrate=False, scores=True))
    again = map_region(changed(job, model=fit, output=job.output.parent / 'again.tif'))
    (one,), (two,), (three,) = plain.maps, raw.maps, again.maps
    np.testing.assert_array_equal(read(one), read(two))
    confidence = [
        read(path.with_name(f'{path.stem}_confidence.tif'))
        for path in (one, two, three)
    ]
    np.testing.assert_array_equal(confidence[0], confidence[2])
    # Temperature scaling of the percentages, up to their rounding.
    calibration = LandCoverModel.load(fit).calibration
    assert abs(math.log(calibration.temperature)) > 0.05
    scores = read(two.with_name(f'{two.stem}_scores.tif'))
    valid = confidence[1][0] != 255
    p = scores[:, valid] / 100
    p = np.maximum(p, 1e-6) ** (1 / calibration.temperature)
    expected = 100 * p.max(0) / p.sum(0)
    apart = np.abs(confidence[0][0][valid] - expected)
    sure = scores.min(0)[valid] > 3
    assert sure.sum() > 100
    assert apart[sure].max() < 4
    change = confidence[0][0][valid].mean() - confidence[1][0][valid].mean()
    assert abs(change) > 1
    assert (change > 0) == (calibration.temperature < 1)
    reports = [result.report['fit']['calibration'] for result in (plain, raw)]
    assert 'a fit had not seen' in reports[0]['description']
    assert reports[1]['description'] == 'not calibrated: switched off'


def test_weights_do_what_postprocess_does(
    model: tuple[Path, MapResult], job: MapJob, tmp_path: Path
) -> None:
    fit, plain = model
    expected = tmp_path / 'expected.tif'
    weights = ['Impervious=2', '2=0.7']
    args = ['postprocess', str(plain.maps[0]), '--output', str(expected)]
    assert main([*args, '--reweight', *weights]) == 0
    assert (read(expected) != read(plain.maps[0])).mean() > 0.005
    for tile_size in (100, 2048):
        output = tmp_path / f'{tile_size}.tif'
        flags = {'model': fit, 'output': output, 'tile_size': tile_size}
        result = map_region(changed(job, reweight=weights, scores=True, **flags))
        np.testing.assert_array_equal(read(output), read(expected))
        scores = read(output.with_name(f'{tile_size}_scores.tif'))
        before = read(plain.maps[0].with_name('cover_scores.tif'))
        np.testing.assert_array_equal(scores, before)
        classes = read(output)
        taken = np.take_along_axis(scores, np.maximum(classes - 1, 0), 0)
        confidence = read(output.with_name(f'{tile_size}_confidence.tif'))
        inside = classes != 0
        np.testing.assert_array_equal(confidence[inside], taken[inside])
        settings = result.report['settings']['postprocess']
        assert settings['reweight'] == weights


def test_minimum_area_is_that_of_the_whole_map(
    model: tuple[Path, MapResult], job: MapJob, tmp_path: Path
) -> None:
    fit, plain = model
    minimum = 60.0
    with rasterio.open(plain.maps[0]) as dataset:
        from odc.geo.geobox import GeoBox

        grid = GeoBox.from_rio(dataset)
    whole = read(plain.maps[0])[0] - 1
    unit = MappingUnit.scan(
        lambda rows, cols: whole[rows, cols], whole.shape, PixelAreas(grid), minimum
    )
    expected = unit.apply(*map(slice, (0, 0), whole.shape), whole)
    assert (expected != whole).mean() > 0.005
    scores = read(plain.maps[0].with_name('cover_scores.tif'))
    for tile_size in (100, 2048):
        output = tmp_path / f'{tile_size}.tif'
        flags = {'model': fit, 'output': output, 'tile_size': tile_size}
        map_region(changed(job, min_area=minimum, **flags))
        result = read(output)[0] - 1
        np.testing.assert_array_equal(result, expected)
        assert not output.with_name(f'{tile_size}_scores.tif').exists()
        confidence = read(output.with_name(f'{tile_size}_confidence.tif'))[0]
        taken = np.take_along_axis(scores, np.maximum(result, 0)[None], 0)[0]
        np.testing.assert_array_equal(confidence[result >= 0], taken[result >= 0])
    patches = label(expected + 1, background=0, connectivity=1)
    sizes = np.bincount(patches.ravel())[1:] * PixelAreas(grid).middle
    assert sizes.min() >= minimum * 0.999


def test_interrupted_it_goes_on(
    job: MapJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {'reweight': ('Impervious=2',), 'min_area': 40.0, 'html': True}
    job = changed(job, **flags)
    other = tmp_path / 'other' / 'cover.tif'
    other.parent.mkdir()
    map_region(changed(job, output=other))
    made = []
    save = TileFiles.save

    def count(self: TileFiles, *args: object, **arrays: object) -> None:
        if len(made) == 3:
            raise KeyboardInterrupt
        save(self, *args, **arrays)  # type: ignore[arg-type]
        made.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(TileFiles, 'save', count)
        with pytest.raises(KeyboardInterrupt):
            map_region(job)

    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    # Cut off again when all but the page is there.
    with monkeypatch.context() as patch:
        patch.setattr('torchgeo_mapsr.mapping.run.build_page', stop)
        with pytest.raises(KeyboardInterrupt):
            map_region(job)
    output = Path(job.output)
    assert output.exists()
    assert not output.with_suffix('.html').exists()
    map_region(job)
    for name in ('cover.tif', 'cover_confidence.tif'):
        assert (output.parent / name).read_bytes() == (other.parent / name).read_bytes()
    assert not Path(f'{output}.parts').exists()
    page = output.with_suffix('.html').read_text()
    data = page.partition('id="data">')[2].partition('</script>')[0]
    assert json.loads(data)[0][0]['weights'] == [1.0, 1.0, 1.0, 2.0]


def test_a_page_is_not_written_over(
    job: MapJob, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(job.output).with_suffix('.html')
    page.write_text('mine')
    assert main([*arguments(job), '--html']) == 2
    assert 'cover.html exists' in capsys.readouterr().err
    assert page.read_text() == 'mine'


def test_a_mapping_of_weights_will_do() -> None:
    options = PostprocessOptions(reweight={'impervious': 2})  # type: ignore[arg-type]
    assert options.reweight == ('impervious=2',)
    weights = [f'{code}=0' for code in range(1, 5)]
    with pytest.raises(InputError, match='above 0'):
        class_weights(weights, Legend.load('land-cover-4'))
