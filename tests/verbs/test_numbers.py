# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Numbers that are none are refused by every verb before there is work."""

import pytest

from torchgeo_mapsr.main import main

FLAGS = [
    ('change a.tif b.tif --output c.tif', '--window', 'nan inf x'),
    ('change a.tif b.tif --output c.tif', '--threshold', 'nan -inf'),
    ('evaluate a.tif --truth b.tif', '--boundary', 'nan inf'),
    ('export a.tif --polygons a.gpkg', '--min-area', 'nan inf'),
    ('postprocess a.tif --output b.tif', '--min-area', 'nan inf 1e999'),
    ('select a.tif --minority 1 --output p.gpkg', '--fraction', 'nan inf half'),
    ('select a.tif --minority 1 --output p.gpkg', '--seed', '-1 1.5'),
    ('sample a.tif --output p.gpkg', '--seed', f'-1 {2**63}'),
    ('low2high tiles --output chips', '--seed', '-1'),
    ('demo', '--seed', '-1'),
]


@pytest.mark.parametrize(
    ('command', 'flag', 'value'),
    [(command, flag, v) for command, flag, values in FLAGS for v in values.split()],
)
def test_refused(
    command: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), f'{flag}={value}'])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f'argument {flag}: {value!r} is not a' in error
    assert error.count('\n') == 1
