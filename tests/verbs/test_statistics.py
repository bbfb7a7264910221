# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest

from torchgeo_mapsr.datasets import measured
from torchgeo_mapsr.datasets.legends.statistics import JointStatistics
from torchgeo_mapsr.datasets.scene.scene import Scene
from torchgeo_mapsr.main import main


def test_inputs_are_never_written_over(
    made_scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = [tmp_path / 'labels.tif', tmp_path / 'truth.tif']
    for path, source in zip(copies, (made_scene.labels, made_scene.truth), strict=True):
        path.write_bytes(Path(source).read_bytes())
    command = ['statistics', str(copies[0]), '--truth', str(copies[1])]
    command += ['--legend', made_scene.legend, '--overwrite', '--output']
    before = [path.read_bytes() for path in copies]
    for path in copies:
        assert main([*command, str(path)]) == 2
        assert 'is an input' in capsys.readouterr().err
    assert [path.read_bytes() for path in copies] == before


def test_the_output_is_looked_at_first_and_written_whole(
    made_scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ['statistics', str(made_scene.labels), '--truth', str(made_scene.truth)]
    command += ['--legend', made_scene.legend, '--output']

    def unwanted(*_: object) -> None:
        raise AssertionError('measured before the output was looked at')

    with monkeypatch.context() as patch:
        patch.setattr(measured, 'measure_statistics', unwanted)
        assert main([*command, str(tmp_path / 'none' / 'here.yaml')]) == 2
    assert 'is not a folder' in capsys.readouterr().err
    output = tmp_path / 'here.yaml'
    output.write_text('before')

    def full(self: JointStatistics, path: Path) -> None:
        Path(path).write_text('half')
        raise OSError(28, 'full')

    with monkeypatch.context() as patch:
        patch.setattr(JointStatistics, 'save', full)
        assert main([*command, str(output), '--overwrite']) == 2
    assert [path.name for path in tmp_path.iterdir()] == ['here.yaml']
    assert output.read_text() == 'before'
    assert main([*command, str(output), '--overwrite']) == 0
    assert JointStatistics.load(output).name == 'here'


@pytest.mark.parametrize('name', ['here.txt', 'here.json', 'here'])
def test_statistics_are_yaml(
    made_scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """What is called otherwise could not be read again."""
    command = ['statistics', str(made_scene.labels), '--truth', str(made_scene.truth)]
    command += ['--legend', made_scene.legend, '--output', str(tmp_path / name)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert 'name it NAME.yaml' in error
    assert error.count('\n') == 1
    assert not list(tmp_path.iterdir())
