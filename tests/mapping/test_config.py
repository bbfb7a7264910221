# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import argparse
import json
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchgeo_mapsr.datasets import Legend
from torchgeo_mapsr.datasets.legends import catalog
from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.main import main
from torchgeo_mapsr.mapping.config import FLAGS, MapJob, value_at
from torchgeo_mapsr.mapping.options import ChipOptions, PostprocessOptions
from torchgeo_mapsr.models.head.options import FitOptions
from torchgeo_mapsr.verbs.map import add_options, job_of

from .conftest import changed

JOB = MapJob(imagery='a.tif', labels='lr.tif', legend='nlcd', output='o.tif')

#: What is set where a fit is called from Python, and has no flag.
WITHOUT_FLAG = {
    'fit.score',
    'fit.prior',
    'fit.seed',
    'fit.l2',
    'fit.prior_sigma',
    'fit.max_pixels',
    'fit.calibration_chips',
}


def parse(*args: str) -> MapJob:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return job_of(parser.parse_args(args))


def test_defaults_of_the_command_line_are_those_of_the_job() -> None:
    args = ['a.tif', '--labels', 'lr.tif', '--legend', 'nlcd', '--output', 'o.tif']
    assert parse(*args) == JOB


@pytest.mark.parametrize(
    ('args', 'path', 'value'),
    [
        (['--bands', '4', '3', '2'], 'bands', (4, 3, 2)),
        (['--nodata', '-9999'], 'nodata', -9999.0),
        (['--no-confidence'], 'confidence', False),
        (['--scores'], 'scores', True),
        (['--prior', '0.5'], 'scoring.prior', 0.5),
        (['--prior', 'auto'], 'scoring.prior', None),
        (['--save-model', 'm.safetensors'], 'save_model', Path('m.safetensors')),
        (['--chip-size', '224'], 'chips.size', 224),
        (['--confidence-quantile', '.5'], 'fit.confidence_quantile', 0.5),
        (['--backbone', 'timm:x?layers=0+rcf'], 'backbone.spec', 'timm:x?layers=0+rcf'),
        (['--class-balance', '1'], 'fit.balance', 1.0),
        (['--max-chips', '9'], 'fit.max_chips', 9),
        (['--score', 'auto'], 'scoring.score', None),
        (['--workers', '2', '--executor', 'dask'], 'compute.workers', 2),
    ],
)
def test_options_reach_the_job(args: list[str], path: str, value: Any) -> None:
    given = ['a.tif', 'b.tif', '--output', 'o.tif', '--labels', 'l', '--legend', 'nlcd']
    given += args
    job = parse(*given)
    assert value_at(job, path) == value
    assert job.imagery == ('a.tif', 'b.tif')


def test_every_field_is_in_the_help() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    text = parser.format_help()
    for flag in FLAGS:
        assert flag.help
        assert flag.name == 'imagery' or flag.option in text
    paths = set()
    for item in fields(MapJob):
        stage = getattr(JOB, item.name)
        inner = fields(stage) if is_dataclass(stage) else ()
        paths |= {f'{item.name}.{field.name}' for field in inner} or {item.name}
    assert {flag.path for flag in FLAGS} == paths - WITHOUT_FLAG
    assert paths > WITHOUT_FLAG


def test_nested_and_flat_jobs_are_the_same() -> None:
    nested = MapJob(
        imagery='a.tif',
        labels='lr.tif',
        legend='nlcd',
        output='o.tif',
        backbone='identity',
        fit=FitOptions(balance=1.0),
        chips=ChipOptions(size=224),
    )
    flat = changed(JOB, backbone='identity', class_balance=1.0, chip_size=224)
    assert nested == flat
    with pytest.raises(TypeError, match='no such option: chip'):
        changed(JOB, chip=224)


def test_key_of_the_work_is_what_decides_the_map() -> None:
    key = JOB.to_dict(results_only=True)
    assert json.loads(json.dumps(key)) == key
    for same in (
        changed(JOB, output='p.tif'),
        changed(JOB, overwrite=True),
        changed(JOB, device='cpu', quiet=True),
    ):
        assert same.to_dict(results_only=True) == key
        assert same.to_dict() != JOB.to_dict()
    for other in (
        changed(JOB, seed=1),
        changed(JOB, backbone='identity'),
        changed(JOB, bands=(1, 2)),
        changed(JOB, scores=True),
        changed(JOB, legend='worldcover'),
    ):
        assert other.to_dict(results_only=True) != key


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'imagery': ()}, 'imagery'),
        ({'labels': ()}, '--labels.*--model'),
        ({'legend': None}, '--legend'),
        ({'score': 'best'}, '--score must be one of auto, fusion'),
        ({'chip_size': 0}, '--chip-size'),
        ({'confidence_quantile': 1.0}, '--confidence-quantile must be below 1'),
        ({'class_balance': 3.0}, '--class-balance must be between 0 and 2'),
        ({'class_balance': 1.0, 'class_weight': 'log'}, 'leave one of them out'),
        ({'centre': True}, '--centre.* has no effect on the score fusion'),
        ({'model': 'f', 'noise': 'sce'}, '--noise has no effect on a fit that is kept'),
        ({'model': 'f', 'labels': ()}, '--legend has no effect without --labels'),
        ({'model': 'f', 'max_chips': 3}, '--max-chips has no effect on a fit'),
    ],
)
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(JOB, **settings)


def test_seed_of_a_job_is_one() -> None:
    with pytest.raises(InputError, match=r'fit\.seed has no effect in a job'):
        replace(JOB, fit=FitOptions(seed=5))
    with pytest.raises(InputError, match=r'fit.score is scoring.score in a job'):
        replace(JOB, fit=FitOptions(score='lda'))
    with pytest.raises(InputError, match='--prior'):
        changed(JOB, prior=500.0)
    with pytest.raises(InputError, match='--seed'):
        changed(JOB, seed=2**32)
    assert replace(JOB, fit=FitOptions(seed=5), seed=5).seed == 5


def test_help_names_all_that_ships(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COLUMNS', '2000')
    with pytest.raises(SystemExit):
        main(['map', '--help'])
    words = set(re.findall(r'[\w-]+', capsys.readouterr().out))
    assert {*catalog.names('legends')} <= words
    shipped = [name.split('.') for name in catalog.names('crosswalks')]
    assert {name for _, target, name in shipped if target == 'land-cover-4'} <= words


def test_paths_hold_in_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('a.tif', 'w.pth'):
        (tmp_path / name).touch()
    spec = 'timm:a?weights=w.pth+timm:b?weights=random'
    job = changed(JOB, imagery=('a.tif', '/vsicurl/b.tif'), backbone=spec).located()
    assert job.imagery == (str(tmp_path / 'a.tif'), '/vsicurl/b.tif')
    (tmp_path / 'c.zarr').mkdir()
    for name in ('c.zarr:image', 'c.zarr:image@2021-07-14T10:30:40'):
        assert changed(JOB, imagery=name).located().imagery == (f'{tmp_path}/{name}',)
    assert job.backbone.spec == f'timm:a?weights={tmp_path}/w.pth+timm:b?weights=random'


def test_weights_keep_their_digits() -> None:
    options = PostprocessOptions(reweight={'Water': 1.23456789, 'Field': 2})  # type: ignore[arg-type]
    assert options.reweight == ('Water=1.23456789', 'Field=2')


@pytest.mark.parametrize(
    'settings',
    [
        {'scoring': {'propagate': 'superpixls'}},
        {'scoring': {'upsampler': 'nearest'}},
        {'chips': {'size': 64.5}},
        {'chips': {'size': '64'}},
        {'imagery': None},
        {'output': None},
        {'legend': Legend.load('nlcd')},
        {'backbone': {'spec': torch.nn.Identity()}},
    ],
)
def test_wrong_words_and_numbers_are_told_before_any_work(
    settings: dict[str, Any],
) -> None:
    given = {'imagery': 'a.tif', 'labels': 'b.tif', 'legend': 'nlcd', 'output': 'c.tif'}
    with pytest.raises(InputError):
        MapJob(**{**given, **settings})


def test_numbers_of_numpy_are_plain_in_a_fit() -> None:
    options = FitOptions(
        seed=np.int64(3), l2=np.float32(0.5), prior=np.float64(0.1), prompts=np.int64(2)
    )
    assert json.loads(json.dumps(options.to_dict()))['l2'] == 0.5
    with pytest.raises(InputError, match='centre'):
        FitOptions(centre='false')  # type: ignore[arg-type]
