# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window
from rich.console import Console
from rio_cogeo import cog_validate
from scipy.ndimage import gaussian_filter

from torchgeo_mapsr.datasets.geo.raster import open_rasters
from torchgeo_mapsr.datasets.geo.region import region_map
from torchgeo_mapsr.datasets.legends.crosswalk import Crosswalk
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.evaluation.accuracy import compare
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import MapResult, map_region
from torchgeo_mapsr.models.model import LandCoverModel

from .conftest import changed


def codes(path: str | Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def split(scene: Scene, folder: Path) -> list[str]:
    """The scene's imagery as two files that overlap by 40 columns."""
    folder.mkdir()
    paths = []
    for name, start, stop in (('left', 0, 170), ('right', 130, 290)):
        with rasterio.open(scene.imagery) as dataset:
            window = Window(start, 0, stop - start, dataset.height)
            profile = dataset.profile | {
                'width': stop - start,
                'transform': dataset.window_transform(window),
            }
            values = dataset.read(window=window)
        paths.append(str(folder / f'{name}.tif'))
        with rasterio.open(paths[-1], 'w', **profile) as dataset:
            dataset.write(values)
    return paths


def test_map_of_a_scene(
    scene: Scene, job: MapJob, mapped: Path, tmp_path: Path
) -> None:
    result = map_region(changed(job, scores=True))
    assert {path.name for path in tmp_path.iterdir()} == {
        'cover.tif',
        'cover.tif.aux.xml',
        'cover.qml',
        'cover.sld',
        'cover_confidence.tif',
        'cover_confidence.qml',
        'cover_confidence.sld',
        'cover_scores.tif',
        'cover.png',
        'cover.json',
    }
    with rasterio.open(scene.imagery) as imagery, rasterio.open(job.output) as cover:
        assert cover.transform == imagery.transform
        assert cover.crs == imagery.crs
        assert cover.shape == imagery.shape
        assert cover.dtypes == ('uint8',)
        values = cover.read(1)
    assert set(np.unique(values)) <= {1, 2, 3, 4}
    assert cog_validate(job.output, quiet=True)[0]
    with rasterio.open(tmp_path / 'cover_scores.tif') as dataset:
        scores = dataset.read()
    np.testing.assert_array_equal(
        codes(tmp_path / 'cover_confidence.tif'), scores.max(0)
    )
    best = np.take_along_axis(scores, values[None].astype(int) - 1, 0)[0]
    np.testing.assert_array_equal(best, scores.max(0))

    same = Crosswalk.load(scene.target, scene.target)
    coarse = Crosswalk.load(scene.legend, scene.target)
    assert (
        compare(job.output, scene.truth, same, same).accuracy
        > compare(scene.labels, scene.truth, coarse, same).accuracy
    )

    # the same run does the same twice
    for name in ('cover', 'cover_confidence', 'cover_scores'):
        again = (mapped / f'{name}.tif').read_bytes()
        assert (tmp_path / f'{name}.tif').read_bytes() == again

    report = json.loads((tmp_path / 'cover.json').read_text())
    assert report == result.report
    (cover_report,) = report['maps']
    counts = {c['code']: c['pixels'] for c in cover_report['classes']}
    assert counts == {code: int((values == code).sum()) for code in (1, 2, 3, 4)}
    assert cover_report['hectares'] == pytest.approx(330 * 290 / 1e4)
    assert report['fit']['labels']['cells_used'] > 50
    assert report['fit']['labels']['crosswalk'] == 'definitions'
    assert report['settings']['seed'] == report['fit']['seed'] == 0
    assert {'torchgeo', 'torch'} <= set(report['versions'])
    assert {'read', 'backbone', 'probe', 'match', 'blend', 'write'} <= set(
        report['timings']
    )


def test_tiles_leave_no_trace(job: MapJob, mapped: Path, tmp_path: Path) -> None:
    """Any tile size gives the same bits."""
    first = mapped / 'cover.tif'
    again = changed(job, output=tmp_path / 'b.tif', tile_size=2048, scores=True)
    second = map_region(again).maps[0]
    np.testing.assert_array_equal(codes(first), codes(second))
    for name in ('confidence', 'scores'):
        with (
            rasterio.open(mapped / f'cover_{name}.tif') as one,
            rasterio.open(tmp_path / f'b_{name}.tif') as two,
        ):
            np.testing.assert_array_equal(one.read(), two.read())


def test_chips_leave_no_seams(job: MapJob, mapped: Path) -> None:
    """Scores change no more where a chip ends than elsewhere."""
    from torchgeo_mapsr.datasets.geo.plan import Plan, default_overlap
    from torchgeo_mapsr.datasets.imagery import Imagery
    from torchgeo_mapsr.models.backbones.create import create_backbone

    halo = create_backbone(job.backbone.spec, 4).halo
    plan = Plan(
        Imagery(job.imagery).geobox,
        job.chips.size,
        job.chips.tile_size,
        default_overlap(job.chips.size, halo),
        halo,
        4,
    )
    with rasterio.open(mapped / 'cover_scores.tif') as dataset:
        scores = dataset.read().astype(float)
    for axis, chips in zip((1, 2), plan.axes, strict=True):
        assert len(chips.starts) > 2
        change = np.abs(np.diff(scores, axis=axis)).mean(axis=tuple({0, 1, 2} - {axis}))
        edges = {*chips.starts[1:], *(chips.starts[:-1] + chips.size)}
        edges |= {e - chips.halo for e in chips.starts[:-1] + chips.size}
        edges |= {e + chips.halo for e in chips.starts[1:]}
        at = np.array(sorted(edges)) - 1
        away = np.delete(change, at)
        assert abs(change[at].mean() - away.mean()) < 3 * away.std() / len(at) ** 0.5


def test_folder_and_mosaic(
    scene: Scene, job: MapJob, mapped: Path, tmp_path: Path
) -> None:
    paths = split(scene, tmp_path / 'in')
    several = changed(job, imagery=tuple(paths), output=f'{tmp_path}/maps/')
    result = map_region(several)
    assert [path.name for path in result.maps] == ['left.tif', 'right.tif']
    assert result.report_path == tmp_path / 'maps' / 'report.json'
    assert len(result.report['maps']) == 2
    for path, given in zip(result.maps, paths, strict=True):
        with rasterio.open(path) as one, rasterio.open(given) as two:
            assert (one.transform, one.shape) == (two.transform, two.shape)
    mosaic = map_region(changed(several, output=tmp_path / 'mosaic.tif')).maps[0]
    with rasterio.open(mosaic) as one, rasterio.open(scene.imagery) as two:
        assert (one.transform, one.shape) == (two.transform, two.shape)
    whole = codes(mapped / 'cover.tif')
    # the same pixels in one file or two: the mosaic is the map of the whole
    np.testing.assert_array_equal(codes(mosaic), whole)
    # each file alone was fitted on both: they agree where they overlap
    left, right = (codes(path) for path in result.maps)
    assert (left[:, 130:] == right[:, :40]).mean() > 0.9
    assert (left == whole[:, :170]).mean() > 0.9


@pytest.mark.filterwarnings('ignore:.* look resampled')
def test_saved_fit_maps_without_labels(
    scene: Scene, job: MapJob, tmp_path: Path
) -> None:
    paths = split(scene, tmp_path / 'in')
    fit = tmp_path / 'fit.safetensors'
    map_region(changed(job, imagery=(paths[0],), save_model=fit, prior=0.0))
    assert fit.stat().st_size < 500_000
    assert LandCoverModel.load(fit).provenance['backbone']['spec'].startswith('rcf')
    reuse = changed(
        job, imagery=(paths[0],), labels=(), legend=None, backbone='rcf', model=fit
    )
    with pytest.raises(InputError, match=r'was fitted on the backbone.*--backbone'):
        map_region(changed(reuse, backbone='identity', output=tmp_path / 'x.tif'))
    again = map_region(changed(reuse, output=tmp_path / 'again.tif'))
    np.testing.assert_array_equal(codes(again.maps[0]), codes(job.output))
    assert again.report['maps'][0]['lr_cells'] == 0
    other = map_region(
        changed(reuse, imagery=(paths[1],), output=tmp_path / 'other.tif')
    ).maps[0]
    same = Crosswalk.load(scene.target, scene.target)
    assert compare(other, scene.truth, same, same).accuracy > 0.6
    with pytest.raises(
        InputError, match='has 3 bands but the imagery of the fit has 4'
    ):
        map_region(changed(reuse, bands=(1, 2, 3), output=tmp_path / 'b.tif'))
    with pytest.raises(InputError, match='--target land-cover-4'):
        map_region(changed(reuse, target='worldcover', output=tmp_path / 'b.tif'))
    labelled = changed(reuse, labels=(str(scene.truth),), legend='land-cover-4')
    with pytest.raises(InputError, match="codes of 'nlcd', and these labels are of 'l"):
        map_region(changed(labelled, prior=1.0, output=tmp_path / 'b.tif'))


def test_labels_over_a_part(
    scene: Scene, job: MapJob, mapped: Path, tmp_path: Path
) -> None:
    with rasterio.open(scene.labels) as dataset:
        profile, values = dataset.profile, dataset.read()
    values[:, :, values.shape[2] // 2 :] = profile['nodata'] = 0
    half = tmp_path / 'half.tif'
    with rasterio.open(half, 'w', **profile) as dataset:
        dataset.write(values)
    result = map_region(changed(job, labels=(str(half),)))
    assert (codes(result.maps[0]) > 0).all()
    whole = json.loads((mapped / 'cover.json').read_text())
    used = [r['fit']['labels']['cells_used'] for r in (result.report, whole)]
    assert 0 < used[0] < used[1]


def test_no_data_and_unknown_codes(scene: Scene, job: MapJob, tmp_path: Path) -> None:
    with rasterio.open(scene.imagery) as dataset:
        profile, values = dataset.profile | {'nodata': 0}, dataset.read()
    values = np.maximum(values, 1)
    values[:, :150, :200] = 0
    holes = tmp_path / 'holes.tif'
    with rasterio.open(holes, 'w', **profile) as dataset:
        dataset.write(values)
    with rasterio.open(scene.labels) as dataset:
        profile, values = dataset.profile, dataset.read()
    values[:, -4:] = 7  # no code of NLCD
    odd = tmp_path / 'odd.tif'
    with rasterio.open(odd, 'w', **profile) as dataset:
        dataset.write(values)
    result = map_region(changed(job, imagery=(str(holes),), labels=(str(odd),)))
    cover = codes(job.output)
    assert (cover[:150, :200] == 0).all()
    assert (cover[150:] > 0).all()
    assert (cover[:, 200:] > 0).all()
    assert (codes(tmp_path / 'cover_confidence.tif') == 255).sum() == 150 * 200
    assert result.report['maps'][0]['nodata_pixels'] == 150 * 200
    labels = result.report['fit']['labels']
    assert list(labels['unknown_codes']) == ['7']
    assert labels['unknown_codes']['7'] > 10
    assert labels['cells_used'] < labels['cells'] - labels['unknown_codes']['7']


def test_published_form_and_fixed_prior(job: MapJob) -> None:
    result: MapResult = map_region(
        changed(job, score='cosine', prior=0.5, prompts=2, centre=True)
    )
    assert result.report['fit']['score'] == 'cosine'
    assert result.report['fit']['prior_weight'] == 0.5
    assert len(np.unique(codes(job.output))) > 1


def test_noisy_and_rare_labels(job: MapJob) -> None:
    result = map_region(changed(job, noise='sce', class_weight='log'))
    options = result.report['fit']['options']
    assert (options['noise'], options['class_weight']) == ('sce', 'log')
    assert len(np.unique(codes(job.output))) > 1


@pytest.mark.parametrize(
    'settings',
    [
        {'upsampler': 'bilateral'},
        {'propagate': 'superpixels'},
        {'propagate': 'tokens', 'precision': 'bf16'},
    ],
    ids=lambda settings: '-'.join(settings.values()),
)
def test_refinements(
    scene: Scene, job: MapJob, mapped: Path, settings: dict[str, str]
) -> None:
    """They change the map, and do not spoil it."""
    plain = mapped / 'cover.tif'
    refined = map_region(changed(job, **settings))
    same = Crosswalk.load(scene.target, scene.target)
    assert (codes(plain) != codes(refined.maps[0])).any()
    before, after = (
        compare(path, scene.truth, same, same).accuracy
        for path in (plain, refined.maps[0])
    )
    assert after > before - 0.05
    assert ('propagate' in refined.report['timings']) == ('propagate' in settings)


def relabelled(scene: Scene, path: Path, codes: NDArray[np.uint8]) -> str:
    """A file of other labels on the same grid."""
    with rasterio.open(scene.labels) as file:
        profile = file.profile
    with rasterio.open(path, 'w', **profile) as file:
        file.write(codes, 1)
    return str(path)


@pytest.mark.parametrize('kind', ['cut', 'few', 'none'])
def test_no_class_is_missing_without_a_word(
    scene: Scene, job: MapJob, tmp_path: Path, kind: str
) -> None:
    """A class of cells of which less than half is seen, one of two cells, and one without any."""
    with rasterio.open(scene.labels) as file:
        labels = file.read(1)
    coarse = Crosswalk.load('nlcd', 'land-cover-4', 'scenes')
    classes = np.where(coarse.index(labels) < 0, 0, coarse.index(labels) + 1)
    classes = np.where(classes == 1, 3, classes).astype(np.uint8)
    if kind == 'cut':
        (image,), (raster,) = (
            open_rasters([path]) for path in (scene.imagery, scene.labels)
        )
        seen = region_map(image.geobox, raster.geobox)
        share = np.zeros(classes.shape)
        share[seen.rows, seen.cols] = seen.share.reshape(seen.window[2:])
        classes[(share > 0) & (share < 0.45)] = 1
    elif kind == 'few':
        classes[4, 4:6] = 1
    path = relabelled(scene, tmp_path / 'classes.tif', classes)
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    again = changed(job, labels=(path,), legend='land-cover-4', prior=0.0)
    result = map_region(again, console)
    notes = [n for n in result.report['notes'] if n.startswith('Water')]
    wanted = {
        'cut': r'Water is not mapped: of none of its \d+ cells was half or more seen',
        'few': r'Water has 2 cells',
        'none': r'Water is not mapped: no label that the fit has seen stands for it',
    }
    assert any(re.match(wanted[kind], note) for note in notes)
    mapped = {c['name']: c['pixels'] for c in result.report['maps'][0]['classes']}
    if not mapped['Water']:
        assert any(
            'not mapped' in note or 'on no pixel of the map' in note for note in notes
        )
    else:
        assert kind == 'few'
    # The same is said on the terminal.
    told = ' '.join(screen.getvalue().split())
    assert all(f'Note: {" ".join(note.split())}' in told for note in notes)


def hyperspectral(folder: Path, size: int = 160, bands: int = 40) -> tuple[Path, Path]:
    """A scene of four smooth spectra that vary along three others, and its labels."""
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(4, size, size))
    truth = gaussian_filter(fields, (0, 8, 8), mode='wrap').argmax(0)
    spectra = gaussian_filter(rng.normal(size=(7, bands)), (0, bands / 12))
    spectra /= spectra.std()
    varying = gaussian_filter(rng.normal(size=(3, size, size)), (0, 2, 2))
    values = spectra[:4][truth].transpose(2, 0, 1)
    values = values + np.tensordot(spectra[4:].T, varying / varying.std(), 1)
    values = 3000 + 300 * values + 200 * rng.normal(size=values.shape)
    cell = 10
    cells = truth.reshape(size // cell, cell, size // cell, cell)
    votes = np.stack([(cells == c).sum((1, 3)) for c in range(4)]).argmax(0) + 1
    paths = folder / 'imagery.tif', folder / 'labels.tif', folder / 'truth.tif'
    for path, layers, side in (
        (paths[0], values.astype(np.int16), 1),
        (paths[1], votes[None].astype(np.uint8), cell),
        (paths[2], truth[None].astype(np.uint8) + 1, 1),
    ):
        with rasterio.open(
            path,
            'w',
            driver='GTiff',
            count=len(layers),
            height=layers.shape[1],
            width=layers.shape[2],
            dtype=layers.dtype,
            crs='EPSG:32633',
            transform=Affine(side, 0, 5e5, 0, -side, 5e6),
        ) as file:
            file.write(layers)
    return paths[0], paths[2]


def test_many_bands_map_as_well_when_they_are_reduced(
    job: MapJob, tmp_path: Path
) -> None:
    """Sixteen components of forty bands against all of them."""
    imagery, truth = hyperspectral(tmp_path)
    same = Crosswalk.load('land-cover-4', 'land-cover-4')
    maps, accuracy, sizes = [], [], []
    for name, components in (('reduced', 16), ('all', 40)):
        fit = tmp_path / f'{name}.safetensors'
        result = map_region(
            changed(
                job,
                imagery=(str(imagery),),
                labels=(str(tmp_path / 'labels.tif'),),
                legend='land-cover-4',
                output=tmp_path / f'{name}.tif',
                backbone=f'rcf?filters=8&colours=32&strides=1,4&components={components}',
                save_model=fit,
            )
        )
        maps.append(codes(result.maps[0]))
        accuracy.append(compare(result.maps[0], truth, same, same).accuracy)
        sizes.append(result.report['fit']['backbone']['channels'])
        # A fit that is kept has its components.
        again = changed(
            job,
            imagery=(str(imagery),),
            labels=(str(tmp_path / 'labels.tif'),),
            legend='land-cover-4',
            backbone='rcf',
            model=fit,
            output=tmp_path / f'{name}-again.tif',
        )
        np.testing.assert_array_equal(codes(map_region(again).maps[0]), maps[-1])
    assert sizes == [3 * 16 + 2 * 16 + 32, 3 * 40 + 2 * 16 + 32]
    assert accuracy[0] > 0.8
    assert accuracy[0] > accuracy[1] - 0.01
    assert (maps[0] == maps[1]).mean() > 0.9
