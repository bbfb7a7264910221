# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Jobs in files: the same map, and one line for every mistake."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import MapJob
from torchgeo_mapsr.mapping.run import map_region

from .conftest import arguments, changed

START = 'imagery: a.tif\nlabels: lr.tif\nlegend: nlcd\noutput: o.tif\n'


def read(text: str, folder: Path, name: str = 'job.yaml', **flags: object) -> MapJob:
    path = folder / name
    path.write_text(text)
    return MapJob.from_file(path, **flags)


def test_fields_are_those_of_the_job(job: MapJob, tmp_path: Path) -> None:
    job = changed(
        job,
        bands=(3, 2, 1),
        nodata=float('inf'),
        prior=0.25,
        class_balance=1.0,
        bbox=(-76.7, 39.2, -76.6, 39.3),
        confidence=False,
        output=str(tmp_path / 'cover.tif'),
    )
    text = yaml.safe_dump(json.loads(json.dumps(job.to_dict(), allow_nan=False)))
    assert read(text, tmp_path) == job
    # JSON too, as a report has it, and YAML without the defaults
    assert read(json.dumps({'settings': job.to_dict()}), tmp_path, 'r.json') == job
    least = read(START, tmp_path)
    assert least == MapJob(
        imagery='a.tif', labels='lr.tif', legend='nlcd', output='o.tif'
    )


def test_flags_replace_what_the_file_says(tmp_path: Path) -> None:
    text = (
        START + 'aoi: field.gpkg\noverwrite: true\nchips: {size: 256, tile_size: 512}\n'
    )
    job = read(text, tmp_path, chip_size=224, imagery=['b.tif'], overwrite=False)
    assert (job.chips.size, job.chips.tile_size) == (224, 512)
    assert job.imagery == ('b.tif',)
    assert not job.overwrite
    # an area of the command line stands for that of the file, of either kind
    box = (-76.7, 39.2, -76.6, 39.3)
    assert read(text, tmp_path, bbox=box).aoi is None


@pytest.mark.parametrize(
    ('text', 'path', 'value'),
    [
        ('fit: {l2: 1e-5}', 'fit.l2', 1e-5),  # text in YAML 1.1
        ('date: 2021', 'date', '2021'),
        ('date: 2021-05-30', 'date', '2021-05-30'),
        ('date: 2021-05', 'date', '2021-05'),
        ('bands: 4', 'bands', (4,)),
        ('backbone: identity', 'backbone.spec', 'identity'),
        ('scoring: {prior: auto, score: auto}', 'scoring.prior', None),
        ('chips: &c {size: 128.0}', 'chips.size', 128),
    ],
)
def test_values_as_people_write_them(
    text: str, path: str, value: object, tmp_path: Path
) -> None:
    job = read(START + text, tmp_path)
    found = job
    for name in path.split('.'):
        found = getattr(found, name)
    assert found == value


def test_no_data_value_may_be_nan(tmp_path: Path) -> None:
    value = read(START + 'nodata: .nan', tmp_path).nodata
    assert value is not None
    assert math.isnan(value)


MISTAKES = [
    ('chip_size: 9', 'chip_size: there is no such key; did you mean chips.size?'),
    ('chips: {sise: 9}', 'chips.sise: there is no such key; did you mean chips.size?'),
    ('chips: {seed: 9}', 'chips.seed: there is no such key'),
    ('7: 9', '7: there is no such key'),
    ('null: 9', 'None: there is no such key'),
    ('chips: 9', 'chips: should hold'),
    ('chips: {size: 0}', 'chips.size must be at least 1'),
    ('chips: {size: -448}', 'chips.size must be at least 1'),
    ('chips: {size: 448.5}', 'chips.size: must be a whole number, not 448.5'),
    ('chips: {size: .nan}', 'chips.size: must be a whole number, not nan'),
    ('chips: {size: .inf}', 'chips.size: must be a whole number, not inf'),
    ('chips: {size: "448"}', 'chips.size: must be a whole number, not 448'),
    ('chips: {size: true}', 'chips.size: must be a whole number, not True'),
    ('chips: {size: [448]}', 'chips.size: must be a whole number'),
    ('chips: {size: 1' + 400 * '0' + '}', 'chips.size must be at most'),
    ('chips: {size: null}', 'chips.size: must be a whole number, not None'),
    ('scoring: {prior: .nan}', 'scoring.prior must be a number, not nan'),
    ('scoring: {prior: -1}', 'scoring.prior must be at least 0'),
    ('scoring: {prior: 1' + 400 * '0' + '}', 'scoring.prior: must be a number'),
    ('scoring: {score: best}', 'scoring.score must be one of auto, fusion'),
    ('fit: {balance: .inf}', 'fit.balance must be between 0 and 2'),
    ('fit: {recipe: cake}', 'fit.recipe must be one of codes, classes'),
    ('fit: {seed: 3}', 'fit.seed has no effect'),
    ('fit: {max_pixels: 3}', 'fit.max_pixels must be between 100'),
    ('postprocess: {min_area: -.inf}', 'min_area must be a number'),
    ('bands: [0]', 'bands must be at least 1'),
    ('bands: [1, two]', 'bands[1]: must be a whole number'),
    ('bbox: [.nan, 1, 2, 3]', 'bbox must be a number'),
    ('overwrite: 1', 'overwrite: must be true or false'),
    ('legend: no', 'legend: must be text'),
    ('imagery: [[a.tif]]', 'imagery[0]: must be text'),
    ('imagery: {a: b}', 'imagery: must be text'),
    ('model: 3', 'model: must be a path'),
    ('seed: 1\nseed: 2', 'seed: is there twice (line 1)'),
    ('seed: !!python/object:os.system x', 'neither YAML nor JSON'),
    ('seed: [1', 'neither YAML nor JSON'),
    ('\tseed: 1', 'neither YAML nor JSON'),
    ('seed: ' + 5000 * '1', 'neither YAML nor JSON'),
    ('fit: ' + 3000 * '[', 'nested too deeply'),
    ('fit: ' + 3000 * '{a: ' + 3000 * '}', 'nested too deeply'),
    ('fit: {l2: {l2: {l2: 1}}}', 'fit.l2: must be a number'),
]


@pytest.mark.parametrize(('text', 'message'), MISTAKES)
def test_mistake_is_one_line_with_the_key(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'job.yaml'
    start = START.replace('imagery: a.tif\n', '') if 'imagery' in text else START
    start = start.replace('legend: nlcd\n', '') if 'legend' in text else start
    path.write_text(start.replace('imagery', 'imagery') + text)
    args = ['map', '--config', str(path)]
    if text.startswith('seed: 1\n'):
        path.write_text(text + '\n' + START)
    assert main(args) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count('\n') == 1
    assert len(captured.err) < 500 + len(str(path))
    if 'no effect' not in message:
        assert f'{path}: ' in captured.err
    assert [p.name for p in tmp_path.iterdir()] == ['job.yaml']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'key: value'),
        (b'- 1\n- 2', 'key: value'),
        (b'\xff\xfe\x00', 'neither YAML nor JSON'),
        (b'settings: 3', 'settings: should hold'),
        (b'settings: {chips: {size: 0}}', 'settings.chips.size must be at least 1'),
        (b'output: o.tif', 'Give at least one file of imagery'),
        (b'imagery: a.tif\nlabels: b.tif\nlegend: nlcd', '--output'),
    ],
)
def test_files_that_are_no_job(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'job.yml'
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        MapJob.from_file(path)
    for missing in (tmp_path, tmp_path / 'none.yaml'):
        with pytest.raises(InputError, match='cannot be read'):
            MapJob.from_file(missing)


def test_aliases_do_not_grow(tmp_path: Path) -> None:
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
    lines += [f'a{i}: &a{i} [{", ".join(9 * [f"*a{i - 1}"])}]' for i in range(1, 12)]
    with pytest.raises(InputError, match='a0: there is no such key'):
        read('\n'.join(lines), tmp_path)
    bomb = '\n'.join(lines).replace('a0:', 'labels:', 1)
    with pytest.raises(InputError) as caught:
        read(f'{bomb}\nimagery: *a11\noutput: o.tif', tmp_path)
    assert len(str(caught.value)) < 300


def test_json_keys_are_there_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='seed: is there twice'):
        read('{"imagery": "a.tif", "seed": 1, "seed": 2}', tmp_path, 'job.json')
    with pytest.raises(InputError, match='nested too deeply'):
        read('{"fit": ' + 100_000 * '[' + 100_000 * ']' + '}', tmp_path, 'job.json')


def test_report_is_replayed(job: MapJob, tmp_path: Path) -> None:
    """Settings of a report give the same map, byte by byte."""
    extra = ['--prior', '0.3', '--seed', '5', '--bands', '2', '1', '3', '--scores']
    assert main([*arguments(job), *extra, '--quiet']) == 0
    report = tmp_path / 'cover.json'
    other = tmp_path / 'again' / 'cover.tif'
    other.parent.mkdir()
    again = ['map', '--config', str(report), '--output', str(other)]
    assert main(again) == 0
    for name in ('cover.tif', 'cover_confidence.tif', 'cover_scores.tif'):
        assert (other.parent / name).read_bytes() == (tmp_path / name).read_bytes()
    settings = json.loads((other.parent / 'cover.json').read_text())['settings']
    before = json.loads(report.read_text())['settings']
    assert settings | {'output': None, 'quiet': None} == before | {
        'output': None,
        'quiet': None,
    }
    # the YAML that a person would write
    short = {
        'imagery': list(job.imagery),
        'labels': list(job.labels),
        'legend': job.legend,
        'output': str(tmp_path / 'short' / 'cover.tif'),
        'bands': [2, 1, 3],
        'scores': True,
        'seed': 5,
        'backbone': job.backbone.spec,
        'scoring': {'prior': 0.3},
        'chips': {'size': job.chips.size, 'tile_size': job.chips.tile_size},
        'compute': {'device': 'cpu'},
    }
    map_region(read(yaml.safe_dump(short), tmp_path))
    for name in ('cover.tif', 'cover_scores.tif'):
        bytes_of_first = (tmp_path / name).read_bytes()
        assert (tmp_path / 'short' / name).read_bytes() == bytes_of_first


def test_job_file_is_not_written_over(
    job: MapJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of the map would have the job's name."""
    path = tmp_path / 'cover.json'
    path.write_text(json.dumps(job.to_dict()))
    before = path.read_bytes()
    assert main(['map', '--config', str(path), '--overwrite']) == 2
    assert 'is an input and would be overwritten' in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['cover.json']


def test_example_of_the_page_is_a_job(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / 'docs' / 'jobs.md').read_text()
    (text,) = re.findall(r'```yaml\n(.*?)```', page, re.DOTALL)
    job = read(text, tmp_path)
    assert job.imagery == ('a.tif', 'b.tif')
    assert (job.fit.l2, job.scoring.prior, job.bands) == (1e-4, 0.5, (1, 2, 3))
    # what the page says of mistakes is what is said
    for line in re.findall(r'torchgeo-mapsr: job.yaml: (.*)', page):
        key, value = {
            'chip_size': ('chip_size', '1'),
            'scoring.prior': ('scoring', '{prior: .nan}'),
        }[line.split(':')[0].split(' ')[0]]
        with pytest.raises(InputError) as caught:
            read(f'{START}{key}: {value}', tmp_path)
        assert str(caught.value).endswith(f'job.yaml: {line}')
