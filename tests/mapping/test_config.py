# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from torchgeo_mapsr.mapping.arguments import add_arguments, job_of

from torchgeo_mapsr.errors import InputError
from torchgeo_mapsr.mapping.config import MapJob, flag

JOB = MapJob.from_flags(
    imagery=('a.tif',), labels=('lr.tif',), legend='nlcd', output='o.tif'
)


def parse(*args: str) -> MapJob:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return job_of(parser.parse_args(args))


def test_defaults_of_the_command_line_are_those_of_the_job() -> None:
    args = ['a.tif', '--labels', 'lr.tif', '--legend', 'nlcd', '--output', 'o.tif']
    assert parse(*args) == JOB


@pytest.mark.parametrize(
    ('args', 'name', 'value'),
    [
        (['--bands', '4', '3', '2'], 'bands', (4, 3, 2)),
        (['--nodata', '-9999'], 'nodata', -9999.0),
        (['--no-confidence'], 'confidence', False),
        (['--scores'], 'scores', True),
        (['--prior', '0.5'], 'prior', 0.5),
        (['--prior', 'auto'], 'prior', None),
        (['--save-model', 'm.safetensors'], 'save_model', Path('m.safetensors')),
        (['--chip-size', '224'], 'chip_size', 224),
        (['--confidence-quantile', '.5'], 'confidence_quantile', 0.5),
        (['--backbone', 'timm:x?layers=0+rcf'], 'backbone', 'timm:x?layers=0+rcf'),
    ],
)
def test_options_reach_the_job(args: list[str], name: str, value: Any) -> None:
    given = ['a.tif', 'b.tif', '--output', 'o.tif', '--model', 'fit', *args]
    job = parse(*given)
    assert getattr(job, name) == value
    assert job.imagery == ('a.tif', 'b.tif')


def test_every_field_is_in_the_help() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = parser.format_help()
    for item in fields(MapJob):
        assert item.metadata['help']
        assert item.name == 'imagery' or flag(item.name) in text


def test_key_of_the_work_is_what_decides_the_map() -> None:
    key = JOB.to_dict(results_only=True)
    assert json.loads(json.dumps(key)) == key
    for same in (
        replace(JOB, output='p.tif'),
        replace(JOB, overwrite=True),
        replace(JOB, device='cpu', quiet=True),
    ):
        assert same.to_dict(results_only=True) == key
        assert same.to_dict() != JOB.to_dict()
    for other in (
        replace(JOB, seed=1),
        replace(JOB, backbone='identity'),
        replace(JOB, bands=(1, 2)),
        replace(JOB, scores=True),
        replace(JOB, legend='worldcover'),
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
        ({'confidence_quantile': 1.0}, '--confidence-quantile'),
    ],
)
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(JOB, **settings)


def test_paths_hold_in_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('a.tif', 'w.pth'):
        (tmp_path / name).touch()
    spec = 'timm:a?weights=w.pth+timm:b?weights=random'
    job = replace(JOB, imagery=('a.tif', '/vsicurl/b.tif'), backbone=spec).located()
    assert job.imagery == (str(tmp_path / 'a.tif'), '/vsicurl/b.tif')
    assert job.backbone == f'timm:a?weights={tmp_path}/w.pth+timm:b?weights=random'
